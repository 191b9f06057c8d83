# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_scnet.client import response
from airflow_provider_scnet.client.error_codes import CODES, ErrorKind
from airflow_provider_scnet.client.errors import (
    ScnetApiError,
    ScnetAuthError,
    ScnetError,
    ScnetResponseError,
)
from airflow_provider_scnet.client.job_counts import REPORTED_NAMES, STATES, JobCounts

CHINESE = ("运行", "排队", "保留", "挂起", "其他")


def body(*numbers: object, names: tuple[str, ...] = CHINESE, code: object = "0") -> dict:
    entries = [{"name": name, "y": y} for name, y in zip(names, numbers, strict=False)]
    return {"code": code, "msg": "success", "data": entries}


def test_the_body_of_the_specification_is_read():
    counts = JobCounts.from_response(body(1, 0, 0, 0, 0))
    assert counts == JobCounts(running=1, queued=0, held=0, suspended=0, other=0)
    assert counts.total == 1
    assert counts.as_dict() == {"running": 1, "queued": 0, "held": 0, "suspended": 0, "other": 0, "total": 1}


def test_the_keys_of_the_web_page_are_read_in_place_of_the_chinese_names():
    names = tuple(name for name in REPORTED_NAMES if name.startswith("jobview"))
    assert JobCounts.from_response(body(1, 2, 3, 4, 5, names=names)) == JobCounts(1, 2, 3, 4, 5)


def test_the_integer_zero_is_accepted_as_the_code_of_success():
    assert JobCounts.from_response(body(1, 2, 3, 4, 5, code=0)).running == 1


@pytest.mark.parametrize("code", [False, 0.0, None, "", "00", " 0", [], "200", -1])
def test_no_other_code_is_success(code):
    with pytest.raises(ScnetError):
        JobCounts.from_response(body(1, 2, 3, 4, 5, code=code))


@pytest.mark.parametrize("code", CODES)
def test_every_documented_code_is_an_error_of_its_kind_even_with_good_data(code):
    with pytest.raises(ScnetApiError) as caught:
        JobCounts.from_response({**body(0, 0, 0, 0, 0, code=code), "msg": "no"})
    assert caught.value.code == code
    assert caught.value.msg == "no"
    assert caught.value.kind is CODES[code][1]
    assert isinstance(caught.value, ScnetAuthError) == (code in ("10008", "911406"))


def test_an_unlisted_code_is_unclear():
    with pytest.raises(ScnetApiError) as caught:
        JobCounts.from_response(body(code="424242"))
    assert caught.value.kind is ErrorKind.UNCLEAR


@pytest.mark.parametrize(
    "data", [None, "", "text", {}, 1, [1], [None], [{}], [{"y": 1}], [{"name": 1, "y": 1}], [[]]]
)
def test_data_that_is_no_list_of_states_cannot_be_read(data):
    with pytest.raises(ScnetResponseError):
        JobCounts.from_response({"code": "0", "msg": "success", "data": data})


@pytest.mark.parametrize("answer", [None, [], "x", 1, b"", {}, {"data": []}])
def test_what_is_no_object_with_a_code_cannot_be_read(answer):
    with pytest.raises(ScnetResponseError):
        JobCounts.from_response(answer)


@pytest.mark.parametrize("number", [-1, 1.5, 1.0, None, True, False, "abc", "3", "", 10**9 + 1, 10**30, [1], {}])
def test_what_is_no_whole_number_of_jobs_is_never_a_count(number):
    counts = JobCounts.from_response(body(1, number, 0, 0, 0))
    assert counts.queued is None
    assert counts.total is None
    with pytest.raises(ScnetResponseError, match="'queued' is not reported as a whole number"):
        counts.require({"queued"})
    counts.require({"running", "held"})


def test_a_state_that_is_missing_is_unknown_and_not_zero():
    counts = JobCounts.from_response(body(1, names=("运行",)))
    assert counts.queued is None
    with pytest.raises(ScnetResponseError, match="'queued' is missing"):
        counts.require({"queued"})


def test_an_empty_list_reports_no_state():
    counts = JobCounts.from_response({"code": "0", "data": []})
    assert counts == JobCounts()


@pytest.mark.parametrize("second", ["排队", "jobview_status_queue"])
def test_a_state_given_twice_is_unknown_whatever_the_spelling(second):
    counts = JobCounts.from_response(body(0, 0, 0, names=("运行", "排队", second)))
    assert counts.queued is None
    with pytest.raises(ScnetResponseError, match="'queued' is reported twice"):
        counts.require({"queued"})


def test_a_name_nobody_knows_counts_as_other():
    counts = JobCounts.from_response(body(1, 2, 3, 4, 5, 7, names=(*CHINESE, "等待")))
    assert counts.other == 12
    assert counts.total == 22
    assert counts.unknown == ("等待",)


@pytest.mark.parametrize(
    "entries",
    [
        [{"name": "等待", "y": None}],
        [{"name": "等待", "y": 1}, {"name": "等待", "y": 1}],
    ],
)
def test_a_name_nobody_knows_that_cannot_be_read_makes_other_unknown(entries):
    answer = body(1, 2, 3, 4, 5)
    answer["data"] += entries
    counts = JobCounts.from_response(answer)
    assert counts.other is None
    assert counts.running == 1


def test_a_name_nobody_knows_does_not_stand_in_for_a_missing_other():
    counts = JobCounts.from_response(body(1, 7, names=("运行", "等待")))
    assert counts.other is None


def test_total_requires_all_five_states():
    counts = JobCounts.from_response(body(1, 2, names=("运行", "排队")))
    with pytest.raises(ScnetResponseError, match="'held' is missing, 'suspended' is missing, 'other' is missing"):
        counts.require({"total"})


def test_added_jobs_leave_unknown_states_unknown():
    assert JobCounts(running=1).plus(queued=3, running=2) == JobCounts(running=3)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"  ",
        b"<html></html>",
        b"{",
        b'{"code":"0","data":[]} trailing',
        b'{"code":"0"}{"code":"0"}',
        b"\xff\xfe",
        b"[" * 100_000 + b"]" * 100_000,
        b'{"code":"0","data":[{"name":"\xe6\x8e\x92\xe9\x98\x9f","y":' + b"9" * 5000 + b"}]}",
        b'{"code":"10001","code":"0","data":[]}',
        b'{"code":"0","data":[{"name":"x","y":9,"y":0}]}',
    ],
)
def test_what_is_no_single_json_document_cannot_be_read(raw):
    with pytest.raises(ScnetResponseError):
        response.Answer(200, raw).parse()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
ENTRIES = st.lists(
    st.fixed_dictionaries(
        {"name": st.sampled_from(sorted(REPORTED_NAMES)) | st.text(), "y": JSON | st.integers(0, 9)}
    )
)


@given(
    JSON
    | st.fixed_dictionaries(
        {"code": st.sampled_from(["0", 0, "10001"]) | JSON, "msg": JSON, "data": JSON | ENTRIES}
    )
)
def test_any_answer_is_read_or_refused_with_a_documented_error(answer):
    try:
        counts = JobCounts.from_response(answer)
    except ScnetError as error:
        assert len(str(error)) < 1000  # noqa: PT017
        return
    for state in STATES:
        number = getattr(counts, state)
        assert number is None or number >= 0
    json.dumps(counts.as_dict())


@given(st.binary() | st.text().map(str.encode))
def test_any_bytes_are_parsed_or_refused_with_a_documented_error(raw):
    with contextlib.suppress(ScnetResponseError):
        response.Answer(200, raw).parse()

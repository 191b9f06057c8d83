# SPDX-License-Identifier: Apache-2.0
"""Whatever comes over the wire: through the sensor, in the triggerer and on a worker alike, it never opens a gate."""

from __future__ import annotations

import json
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException

from airflow_provider_scnet.client.error_codes import CODES, ErrorKind
from airflow_provider_scnet.hooks import polled_connection
from airflow_provider_scnet.testing import Fault, ScnetSimulator

from gates import MODES, gate

GOOD = [{"name": name, "y": 0} for name in ("运行", "排队", "保留", "挂起", "其他")]


def data(*entries: Any) -> Fault:
    return Fault.api("0", "success", list(entries))


def state(y: Any, name: str = "排队") -> dict[str, Any]:
    return {"name": name, "y": y}


WAITED_OUT = {
    "time-out": Fault(delay=30),
    "drip": Fault(drip=0.05, drip_headers=True),
    "connection dropped before the answer": Fault(drop="before"),
    "connection dropped after the headers": Fault(drop="headers"),
    "connection dropped half-way": Fault(drop="body"),
    "408": Fault(status=408, body=""),
    "425": Fault(status=425, body=""),
    "429 with Retry-After": Fault(status=429, body="", headers={"Retry-After": "1"}),
    "500": Fault(status=500, body="oops"),
    "500 with good counts": Fault(status=500),
    "502 with an HTML page": Fault.html(502, "<html><h1>Bad Gateway</h1></html>"),
    "503": Fault(status=503, body=""),
    **{
        f"code {code}": Fault.api(code, "busy", GOOD)
        for code, (_, kind) in CODES.items()
        if kind is ErrorKind.TRANSIENT
    },
}

UNCLEAR = {
    "400 of Spring": Fault(
        status=400, body={"timestamp": "x", "status": 400, "error": "Bad Request", "path": "/"}
    ),
    "404": Fault.api("404", "Not Found", status=404),
    "405": Fault.api("405", "Method Not Allowed", status=405),
    "203": Fault(status=203),
    "204": Fault(status=204, body=b""),
    "empty body": Fault(body=b""),
    "HTML": Fault.html(200, "<html>log in</html>"),
    "no object": Fault(body=[GOOD]),
    "no code": Fault(body={"msg": "success", "data": GOOD}),
    "an unlisted code": Fault.api("123456", "?", GOOD),
    "data null": Fault.api("0", "success", None),
    "data text": Fault.api("0", "success", "token is valid"),
    "data an object": Fault.api("0", "success", {"排队": 0}),
    "data an empty list": data(),
    "state missing": data(state(0, "运行")),
    "state repeated": data(state(0), state(0)),
    "state in both spellings": data(state(0), state(0, "jobview_status_queue")),
    "negative": data(state(-1)),
    "1.5": data(state(1.5)),
    "null": data(state(None)),
    "true": data(state(True)),
    "text": data(state("abc")),
    "10 to the 30": data(state(10**30)),
    "5,000 digits": Fault(
        body=b'{"code":"0","data":[{"name":"\xe6\x8e\x92\xe9\x98\x9f","y":' + b"1" * 5000 + b"}]}"
    ),
    "5 MiB": Fault(body=json.dumps({"code": "0", "data": GOOD}) + " " * 5 * 2**20),
    "a gzip bomb": Fault.gzip_bomb(100 * 2**20),
    "deep nesting": Fault(body=b"[" * 50_000 + b"]" * 50_000),
    "invalid UTF-8": Fault(body=b'{"code":"0","msg":"\xff","data":[]}'),
    "trailing junk": Fault(body=json.dumps({"code": "0", "data": GOOD}) + "junk"),
    "a count given twice": Fault(body='{"code":"0","data":[{"name":"排队","y":9,"y":0}]}'),
}

CREDENTIALS = {
    "401": Fault(status=401, body=""),
    "403": Fault(status=403, body="forbidden"),
    "403 with good counts": Fault(status=403),
    **{f"code {c}": Fault.api(c, "auth_fail", GOOD) for c, (_, n) in CODES.items() if n is ErrorKind.CREDENTIALS},
}

PERMANENT = {
    "a redirect": Fault.redirect("http://127.0.0.1:9/"),
    **{f"code {c}": Fault.api(c, "no", GOOD) for c, (_, n) in CODES.items() if n is ErrorKind.PERMANENT},
}


@pytest.fixture(params=MODES)
def run(request: pytest.FixtureRequest):
    return MODES[request.param]


@pytest.mark.parametrize("fault", WAITED_OUT.values(), ids=WAITED_OUT)
def test_what_heals_is_waited_out(scnet: ScnetSimulator, connect, run, fault: Fault):
    is_slow = bool(fault.delay or fault.drip)
    connect(timeout=0.3 if is_slow else 10)
    scnet.order(fault, times=2)
    record = run(gate())
    assert record["counts"]["queued"] == 0
    # On a busy machine even the good answer may take longer than such a short time-out.
    assert len(scnet.requests) == 3 or (is_slow and len(scnet.requests) > 3)


def test_a_refused_connection_is_waited_out(scnet: ScnetSimulator, run, monkeypatch: pytest.MonkeyPatch):
    scnet.stop()
    refused = []
    poll = polled_connection.poll

    def poll_and_start_again_after_three(*asked: Any) -> Any:
        seen = poll(*asked)
        refused.append(seen.error)
        if len(refused) == 3:
            scnet.start()
        return seen

    monkeypatch.setattr(polled_connection, "poll", poll_and_start_again_after_three)
    assert run(gate())["counts"]["queued"] == 0
    assert [bool(error) for error in refused] == [True, True, True, False]


@pytest.mark.parametrize("fault", UNCLEAR.values(), ids=UNCLEAR)
def test_what_is_unclear_fails_the_first_look(scnet: ScnetSimulator, run, fault: Fault):
    scnet.order(fault, times=None)
    with pytest.raises(AirflowException) as caught:
        run(gate())
    assert not isinstance(caught.value, AirflowFailException)
    assert "scnet_default" in str(caught.value)
    assert len(scnet.requests) == 1


@pytest.mark.parametrize("fault", UNCLEAR.values(), ids=UNCLEAR)
def test_what_is_unclear_is_waited_out_once_there_was_a_good_answer(scnet: ScnetSimulator, run, fault: Fault):
    scnet.order(data(state(9)))
    scnet.order(fault, times=2)
    assert run(gate())["counts"]["queued"] == 0
    assert len(scnet.requests) == 4


@pytest.mark.parametrize("earlier", [False, True], ids=["first look", "after a good answer"])
@pytest.mark.parametrize("fault", CREDENTIALS.values(), ids=CREDENTIALS)
def test_a_token_that_is_not_accepted_fails_the_try(scnet: ScnetSimulator, run, fault: Fault, earlier: bool):
    if earlier:
        scnet.order(data(state(9)))
    scnet.order(fault, times=None)
    with pytest.raises(AirflowException, match="paste a fresh token") as caught:
        run(gate())
    assert not isinstance(caught.value, AirflowFailException)


@pytest.mark.parametrize("earlier", [False, True], ids=["first look", "after a good answer"])
@pytest.mark.parametrize("fault", PERMANENT.values(), ids=PERMANENT)
def test_what_no_waiting_heals_fails_for_good(scnet: ScnetSimulator, run, fault: Fault, earlier: bool):
    if earlier:
        scnet.order(data(state(9)))
    scnet.order(fault, times=None)
    with pytest.raises(AirflowFailException):
        run(gate())
    assert len(scnet.requests) == 1 + earlier


def test_the_integer_zero_is_success(scnet: ScnetSimulator, run):
    scnet.order(Fault.api(0, "success", GOOD))
    assert run(gate())["counts"]["queued"] == 0


def test_a_token_that_is_echoed_is_in_no_message(scnet: ScnetSimulator, run, said, capfd):
    token = scnet.token("alice")
    scnet.order(Fault.api("10001", f"bad {token}\nnext line"))
    scnet.order(data(state(9), state(1, f"state {token}"), state(1, "其他")))
    scnet.order(Fault.api("10004", f"bad {token}\nnext line"))
    with pytest.raises(AirflowFailException) as caught:
        run(gate())
    assert "unknown state 'state ***'" in said.text
    assert "bad ***\\nnext line" in str(caught.value)
    assert token not in str(caught.value)
    assert token not in said.text
    assert token not in "".join(capfd.readouterr())


def test_zeros_for_another_user_than_the_tokens_own_keep_it_shut(scnet: ScnetSimulator, run, connect):
    scnet.add_user("bob")
    sensor = gate(user_name="bob", fail_when="total == 0", timeout=60)
    zeros = data(*GOOD)
    scnet.order(zeros, times=2)
    scnet.order(data(state(0), *(state(1, n) for n in ("运行", "保留", "挂起", "其他"))))
    record = run(sensor)
    assert record["counts"]["total"] == 4
    assert len(scnet.requests) == 3


def test_zeros_for_another_user_open_it_where_the_connection_allows(scnet: ScnetSimulator, run, connect):
    connect(allow_foreign_user=True)
    assert run(gate(user_name="nobody"))["user_name"] == "nobody"


def test_a_connection_that_lacks_something_fails_for_good(scnet: ScnetSimulator, run, monkeypatch):
    conn = scnet.connection()
    monkeypatch.setenv("AIRFLOW_CONN_SCNET_DEFAULT", json.dumps({**conn, "password": ""}))
    with pytest.raises(AirflowFailException, match="no token"):
        run(gate())
    assert scnet.requests == []


def test_a_connection_that_is_not_there_fails_the_try(scnet: ScnetSimulator, run):
    with pytest.raises(AirflowException, match="not defined") as caught:
        run(gate(scnet_conn_id="nowhere"))
    assert not isinstance(caught.value, AirflowFailException)


def test_fail_when_is_judged_first_and_on_reported_counts(scnet: ScnetSimulator, run):
    scnet.set_counts("alice", held=1)
    with pytest.raises(AirflowFailException, match=r"fail_when held > 0 holds \(held 1\)"):
        run(gate(fail_when="held > 0"))


def test_a_state_that_only_fail_when_mentions_has_to_be_reported_too(scnet: ScnetSimulator, run):
    scnet.order(data(state(0)), times=None)
    with pytest.raises(AirflowException, match="'held' is missing"):
        run(gate(fail_when="held > 0"))


def test_the_record_says_what_it_opened_on(scnet: ScnetSimulator, run):
    scnet.set_counts("alice", running=3, queued=2)
    record = run(gate("queued < 5"))
    observed_at = record.pop("observed_at")
    assert record == {
        "condition": "queued < 5",
        "user_name": "alice",
        "scnet_conn_id": "scnet_default",
        "counts": {"running": 3, "queued": 2, "held": 0, "suspended": 0, "other": 0, "total": 5},
        "claimed": 0,
    }
    assert observed_at.endswith("+00:00")

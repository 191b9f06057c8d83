# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from airflow_provider_scnet.client.redaction import listed, redacted
from airflow_provider_scnet.client.unexpected_error import _places as places
from airflow_provider_scnet.client.unexpected_error import unexpected


def test_what_a_server_says_is_shown_on_one_line_short_and_without_the_token():
    token = "tok-" + "x" * 300
    assert redacted(f"a\nb\tc {token} d\x1b[31m", token) == "a\\nb\\tc *** d\\x1b[31m"
    assert len(redacted("y" * 1000)) == 200
    assert redacted("排队 ok") == "排队 ok"
    assert "eyJ" not in redacted("your eyJhbGciOiJIUzI1NiJ9.eyJjb21wdXRlVXNlciI6ImEifQ.abc-_ is bad")


def test_what_a_server_says_is_shown_in_no_time_however_long_it_is():
    assert len(redacted("eyJ" * 400_000)) == 200
    assert len(redacted("eyJaaaaa." * 100_000)) <= 200


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KeyError("run"), "unexpected KeyError: 'run'"),
        (ZeroDivisionError(), "unexpected ZeroDivisionError"),
        (ValueError("no\nnumber: TOKEN"), "unexpected ValueError: no\\nnumber: ***"),
    ],
)
def test_an_error_that_nobody_expected_names_its_type_and_what_it_said_without_secrets(error, said):
    assert unexpected(error, "TOKEN") == said


def test_the_place_of_an_error_is_told_without_what_it_knew():
    def ask(token):
        raise KeyError(token)

    with pytest.raises(KeyError) as caught:
        ask("TOKEN")
    inner, outer = places(caught.value).split(", called from ")
    assert inner == f"{__file__}:{ask.__code__.co_firstlineno + 1} in ask"
    assert outer.startswith(f"{__file__}:")
    assert outer.endswith(" in test_the_place_of_an_error_is_told_without_what_it_knew")
    assert places(KeyError("never raised")) == ""


def test_of_a_deep_error_the_innermost_places_are_told():
    def deep(calls):
        return deep(calls - 1) if calls else 1 / 0

    with pytest.raises(ZeroDivisionError) as caught:
        deep(50)
    assert places(caught.value).count(" in deep") == 3


@pytest.mark.parametrize(
    ("names", "total", "text"),
    [("", None, ""), ("ab", None, "a, b"), ("abc", None, "a, b and 1 more"), ("ab", 7, "a, b and 5 more")],
)
def test_a_list_names_the_first_and_tells_how_many_more_there_are(names, total, text):
    assert listed(names, 2, total) == text

# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import ast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_scnet.client.errors import ScnetResponseError
from airflow_provider_scnet.client.job_counts import JobCounts
from airflow_provider_scnet.gate.condition import NAMES, Condition, ConditionError


def counts(running=0, queued=0, held=0, suspended=0, other=0) -> JobCounts:
    return JobCounts(running, queued, held, suspended, other)


@pytest.mark.parametrize(
    ("text", "seen", "holds"),
    [
        ("queued < 5", counts(queued=4), True),
        ("queued < 5", counts(queued=5), False),
        ("queued <= 5", counts(queued=5), True),
        ("queued > 5", counts(queued=6), True),
        ("queued >= 5", counts(queued=4), False),
        ("queued == 0", counts(), True),
        ("queued != 0", counts(), False),
        ("0 < queued <= 3", counts(queued=3), True),
        ("0 < queued <= 3", counts(), False),
        ("queued < 5 and running + queued < 20", counts(running=15, queued=4), True),
        ("queued < 5 and running + queued < 20", counts(running=16, queued=4), False),
        ("queued < 5 or running == 0", counts(queued=9), True),
        ("not queued > 5", counts(queued=5), True),
        ("not (queued > 5 or held > 0)", counts(held=1), False),
        ("total < 10", counts(1, 2, 3, 2, 1), True),
        ("2 * running - queued >= 0", counts(running=2, queued=4), True),
        ("queued < 2 * running", counts(running=1, queued=2), False),
        ("  queued\n  < 5", counts(queued=1), True),
        ("(queued < 5)", counts(queued=1), True),
    ],
)
def test_it_holds_as_it_reads(text, seen, holds):
    assert Condition(text).holds(seen) is holds


@pytest.mark.parametrize(
    ("text", "place", "meant"),
    [
        ("pending < 5", 1, "did you mean 'queued'"),
        ("queud < 5", 1, "did you mean 'queued'"),
        ("queued < 5 and runing < 3", 16, "did you mean 'running'"),
        ("xyz < 5", 1, "unknown state 'xyz'"),
        ("queued", 1, "no comparison"),
        ("not queued", 5, "no comparison"),
        ("queued < 5 and running", 16, "no comparison"),
        ("(queued < 5) + 1 < 3", 2, "only whole numbers"),
        ("queued < (1 < 2)", 11, "only whole numbers"),
        ("1 < 2", None, "no state"),
        ("", None, "empty"),
        ("  \n", None, "empty"),
        ("queued < 1.5", 11, "whole numbers"),
        ("queued < 1,000", 11, "1000"),
        ("queued / 2 < 5", 8, r"\+ - \*"),
        ("queued ** 2 < 5", 1, "only whole numbers"),
        ("queued << 2 < 5", 1, "only whole numbers"),
        ("queued < -1", 10, "never negative"),
        ("queued = 5", 8, "'=='"),
        ("queued <> 5", 8, "cannot be read"),
        ("queued < 5 AND running < 3", 12, "'and' in small letters"),
        ("Not queued < 5", 1, "'not' in small letters"),
        ("queued =< 5", 8, "'=='"),
        ("queued\n  < pending", 10, "did you mean 'queued'"),
        ("queued < 5 && running < 3", 12, "write 'and'"),
        ("queued < 5 | running < 3", 12, "write 'or'"),
        ("!queued < 5", 1, "write 'not'"),
        ("queued < 5 # comment", 12, "comments"),
        ("queued < '5'", 10, "without quotes"),
        ("queued ＜ 5", 8, "full-width"),
        ("queued < ５", 10, "full-width"),
        ("（queued < 5）", 1, "full-width"),
        ("ｑueued < 5", 1, "full-width"),
        ("排队 < 5", 1, "did you mean 'queued'"),
        ("queued < 5。", 11, "not allowed"),
        ("queued is 5", 1, "compare with"),
        ("queued in running", 1, "compare with"),
        ("queued < True", 10, "only whole numbers"),
        ("queued if running else held", 1, "only whole numbers"),
        ("f(queued) < 5", 1, "only whole numbers"),
        ("queued.real < 5", 7, "not allowed"),
        ("queued[0] < 5", 7, "not allowed"),
        ("lambda: queued < 5", 7, "not allowed"),
        ("(queued < 5", 1, "parentheses"),
        ("queued < 10000000000", 10, "above"),
        ("queued < 0x10", 10, "digits"),
        ("queued < 1_0", 10, "digits"),
        ("  queued < 0b1", 10, "digits"),
        ("queued < 5 and", 14, "cannot"),
        ("queued < " + "9" * 900, 10, "above"),
        ("queued < " + "9" * 2000, None, "longer"),
        ("queued < 5 \x00", 12, "not allowed"),
        ("not " * 100 + "queued < 1", None, "nested"),
        (" + ".join(["queued"] * 100) + " < 1", None, "nested"),
        ("(" * 400 + "queued" + ")" * 400 + " < 1", None, "."),
        ("queued := 5", 8, "."),
        ("*queued < 5", 1, "."),
        ("queued < 5;", 11, "."),
        ("__import__ < 5", 1, "unknown state"),
    ],
)
def test_what_is_no_condition_is_refused_with_the_place_and_what_was_meant(text, place, meant):
    with pytest.raises(ConditionError, match=meant) as caught:
        Condition(text)
    if place:
        assert caught.value.place == place
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize("value", [None, 5, True, ["queued < 5"], b"queued < 5"])
def test_what_is_no_text_is_refused(value):
    with pytest.raises(ConditionError, match="is no text"):
        Condition(value)


def test_it_tells_the_names_it_mentions():
    assert Condition("queued < 5 and total - held < 3").states == {"queued", "total", "held"}


def test_a_mentioned_state_that_was_not_reported_is_an_error_and_not_zero():
    with pytest.raises(ScnetResponseError, match="queued"):
        Condition("queued < 5").holds(JobCounts(running=1))
    with pytest.raises(ScnetResponseError, match="other"):
        Condition("total < 5").holds(JobCounts(1, 1, 1, 1))
    assert Condition("running < 5").holds(JobCounts(running=1))


def test_it_explains_which_clause_fails_with_the_numbers_in_it():
    condition = Condition("queued < 5 and running + queued < 20")
    assert condition.explain(counts(running=3, queued=7)) == "needs queued < 5 (queued 7)"
    assert condition.explain(counts(running=18, queued=7)) == (
        "needs queued < 5 (queued 7) and running + queued < 20 (running 18, queued 7)"
    )
    assert condition.explain(counts(3, 4)) == "queued < 5 and running + queued < 20 holds (queued 4, running 3)"
    assert Condition("queued < 2 or held == 0").explain(counts(queued=2, held=1)) == (
        "needs queued < 2 or held == 0 (queued 2, held 1)"
    )
    assert Condition("not queued > 2").explain(counts(queued=3)) == "needs not queued > 2 (queued 3)"


@pytest.mark.parametrize(
    ("text", "jobs", "possible"),
    [
        ("queued < 5", 4, True),
        ("queued < 5", 5, False),
        ("total < 5 and held == 0", 5, False),
        ("queued + running < 20", 19, True),
        ("queued + running < 20", 20, False),
        ("running < 1", 1, False),
        ("held == 0", 1000, True),
        ("queued != 3", 3, True),
        ("queued > 3", 100, True),
        ("queued < 5 or running > 100", 9, True),
        ("queued == 0", 0, True),
        ("queued == 0", 2, False),
        ("0 <= queued < 3", 4, False),
        ("queued * 2 < running or total == 0", 5, True),
        ("queued - running > 5 or total == 0", 4, True),
        ("running > 4 * queued or queued == 0 and running == 0", 3, True),
        ("total == 0 or running > queued + 10", 8, True),
        (" or ".join(f"queued * running + held == {n}" for n in range(1, 25)) + " or total == 0", 3, True),
    ],
)
def test_it_tells_whether_jobs_of_ones_own_leave_it_any_chance(text, jobs, possible):
    assert Condition(text).leaves_room_for(jobs) is possible


def test_conditions_are_equal_by_their_text():
    assert Condition("queued < 5") == Condition("queued < 5")
    assert len({Condition("queued < 5"), Condition("queued < 5"), Condition("held < 5")}) == 2
    assert repr(Condition("queued < 5")) == "Condition('queued < 5')"


NUMBER = st.recursive(
    st.sampled_from(NAMES) | st.integers(0, 10**9).map(str),
    lambda inner: st.tuples(inner, st.sampled_from([" + ", " - ", " * "]), inner).map(lambda p: f"({''.join(p)})"),
    max_leaves=6,
)
COMPARISON = st.tuples(NUMBER, st.sampled_from([" < ", " <= ", " > ", " >= ", " == ", " != "]), NUMBER).map(
    "".join
)
TRUTH = st.recursive(
    COMPARISON,
    lambda inner: (
        st.tuples(inner, st.sampled_from([" and ", " or "]), inner).map(lambda p: f"({''.join(p)})")
        | inner.map(lambda truth: f"(not {truth})")
    ),
    max_leaves=5,
)
COUNTS = st.builds(JobCounts, *[st.integers(0, 10**9)] * 5)


@given(TRUTH, COUNTS)
def test_every_text_of_the_grammar_means_what_python_says_it_means(text, seen):
    try:
        condition = Condition(text)
    except ConditionError as error:
        assert "no state" in str(error) or "longer" in str(error)  # noqa: PT017
        return
    expected = eval(compile(ast.parse(text, mode="eval"), "", "eval"), {}, seen.as_dict())
    assert condition.holds(seen) is expected
    assert (condition.unmet(seen) == "") is expected
    assert condition.explain(seen).startswith("needs ") is not expected


@given(st.text() | st.text(alphabet="queuedrning<>=!+-*() andortAND0123456789\n", max_size=60))
def test_any_text_is_a_condition_or_refused(text):
    try:
        Condition(text)
    except ConditionError as error:
        assert len(str(error)) < 1000  # noqa: PT017


@given(TRUTH, COUNTS, st.integers(0, 100))
def test_added_jobs_only_ever_close(text, seen, jobs):
    try:
        condition = Condition(text)
    except ConditionError:
        return
    if condition.room_on(seen, jobs):
        assert condition.holds(seen)

# SPDX-License-Identifier: Apache-2.0
"""The decision itself, and what it says."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_scnet.client.errors import ErrorKind, ScnetConnectionError, ScnetError
from airflow_provider_scnet.client.job_counts import JobCounts
from airflow_provider_scnet.client.observation import Observation
from airflow_provider_scnet.event_loop import clock
from airflow_provider_scnet.gate import decision
from airflow_provider_scnet.gate.claimed import NOTHING, Claimed
from airflow_provider_scnet.gate.condition import ConditionError
from airflow_provider_scnet.gate.decision import Decision, Verdict
from airflow_provider_scnet.gate.evaluator import GateEvaluator
from airflow_provider_scnet.gate.gate import Gate, number_of_jobs
from airflow_provider_scnet.gate.reporter import REPEAT_AFTER

log = logging.getLogger("gate")


def decide(gate: Gate, seen: JobCounts, claimed: Claimed = NOTHING) -> Decision:
    return decision.decide(gate, Observation(counts=seen), claimed)


def counts(running=0, queued=0, held=0, suspended=0, other=0) -> JobCounts:
    return JobCounts(running, queued, held, suspended, other)


def test_it_opens_when_its_condition_holds():
    assert decide(Gate.of("queued < 5"), counts(queued=4)).verdict is Verdict.OPEN
    assert decide(Gate.of("queued < 5"), counts(queued=5)).verdict is Verdict.WAIT


@pytest.mark.parametrize(
    ("claimed", "submits", "queued", "verdict"),
    [
        (0, 1, 4, Verdict.OPEN),
        (1, 1, 3, Verdict.OPEN),
        (1, 1, 4, Verdict.WAIT),
        (0, 3, 2, Verdict.OPEN),
        (0, 3, 3, Verdict.WAIT),
        (1, 3, 2, Verdict.WAIT),
        (4, 0, 0, Verdict.OPEN),
        (5, 0, 0, Verdict.WAIT),
    ],
)
def test_room_for_three_lets_three_pass(claimed, submits, queued, verdict):
    assert (
        decide(Gate.of("queued < 5", submits=submits), counts(queued=queued), Claimed(claimed)).verdict is verdict
    )


@pytest.mark.parametrize("condition", ["running < 5", "total < 5", "running + queued < 5", "2 * queued < 9"])
def test_claims_close_a_gate_whatever_state_its_condition_names(condition):
    gate = Gate.of(condition)
    assert decide(gate, counts(), Claimed(4)).verdict is Verdict.OPEN
    assert decide(gate, counts(), Claimed(5)).verdict is Verdict.WAIT


def test_claims_never_open_a_gate_that_waits_for_more_jobs():
    assert decide(Gate.of("running > 3"), counts(), Claimed(10)).verdict is Verdict.WAIT


@given(
    st.sampled_from(
        ["queued < 5", "running > 3", "queued == 2", "running != queued", "not total > 9", "held < queued"]
    ),
    st.builds(counts, *[st.integers(0, 12)] * 5),
    st.integers(0, 9),
    st.integers(0, 2),
)
def test_more_claims_only_ever_close(condition, seen, claimed, submits):
    gate = Gate.of(condition, submits=submits)
    if decide(gate, seen, Claimed(claimed)).verdict is Verdict.OPEN:
        assert decide(gate, seen).verdict is Verdict.OPEN


def test_a_gate_that_could_never_open_is_refused():
    with pytest.raises(ConditionError, match="could never hold with the 6 jobs"):
        Gate.of("queued < 5", submits=6).checked()
    assert Gate.of("queued < 5", submits=5).checked().submits == 5


@pytest.mark.parametrize("submits", [-1, 1.5, True, None, "", "x", "-1", "1.5", "1e3", 10**10, "99999999999", [1]])
def test_a_number_of_jobs_is_read_strictly(submits):
    with pytest.raises(ValueError, match="submits is no number of jobs"):
        number_of_jobs(submits)


@pytest.mark.parametrize(("submits", "jobs"), [(0, 0), (3, 3), ("3", 3), (" 12 ", 12)])
def test_a_number_of_jobs_may_be_rendered_text(submits, jobs):
    assert number_of_jobs(submits) == jobs


def test_it_says_why_it_waits():
    gate = Gate.of("queued < 5")
    assert str(decide(gate, counts(12, 7))) == "running 12, queued 7: waiting, needs queued < 5"
    assert (
        str(decide(gate, counts(12, 7), Claimed(2)))
        == "running 12, queued 7 (+2 claimed): waiting, needs queued < 5"
    )
    assert str(decide(gate, counts(12, 4, held=1), Claimed(2, end=clock.now() + 94.9))) == (
        "running 12, queued 4 (+2 claimed), held 1: waiting, needs queued < 5; "
        "only claims of gates that passed keep it shut, for 95 s at most"
    )
    assert str(decide(Gate.of("queued < 5", submits=3), counts(queued=3))) == (
        "running 0, queued 3: waiting, needs queued < 5 with room for 3"
    )
    assert str(decide(Gate.of("total < 5"), counts(3, 3))) == (
        "running 3, queued 3, total 6: waiting, needs total < 5"
    )
    assert str(decide(gate, counts(3, 1))) == "running 3, queued 1: passes, queued < 5"


def look(counts_seen: JobCounts | None = None, error: ScnetError | None = None, **more) -> Observation:
    return Observation(counts=counts_seen, error=error, account=("https://h", "alice"), **more)


def test_it_speaks_when_what_it_sees_changes_and_every_ten_minutes(caplog: pytest.LogCaptureFixture):
    evaluator = GateEvaluator(Gate.of("queued < 5"), log)

    def sees(at: float, counts_seen: JobCounts | None, claimed: Claimed = NOTHING, **more: Any) -> None:
        seen = look(counts_seen, at=at, **more)
        evaluator.say(seen, evaluator.take(decision.decide(evaluator.gate, seen, claimed)))

    with caplog.at_level("INFO"):
        for at in range(0, int(REPEAT_AFTER), 60):
            sees(at, counts(queued=7), Claimed(0, end=at))
        assert len(caplog.messages) == 1
        sees(REPEAT_AFTER, counts(queued=7))
        assert len(caplog.messages) == 2
        sees(REPEAT_AFTER, counts(queued=8))
        assert len(caplog.messages) == 3
        sees(REPEAT_AFTER, counts(queued=8), Claimed(1))
        assert caplog.messages[-1] == "running 0, queued 8 (+1 claimed): waiting, needs queued < 5"
        sees(REPEAT_AFTER, None, error=ScnetConnectionError("no answer"))
        assert caplog.messages[-1] == "waiting: no answer"
        sees(REPEAT_AFTER, counts(queued=4))
        assert caplog.messages[-1] == "running 0, queued 4: passes, queued < 5"


def test_the_seconds_that_claims_have_left_are_said_but_are_no_news(caplog: pytest.LogCaptureFixture):
    evaluator = GateEvaluator(Gate.of("queued < 5"), log)
    with caplog.at_level("INFO"):
        for left in (100, 40):
            seen = look(counts(queued=4))
            claimed = Claimed(1, end=clock.now() + left)
            evaluator.say(seen, evaluator.take(decision.decide(evaluator.gate, seen, claimed)))
    assert len(caplog.messages) == 1
    assert "for 100 s at most" in caplog.text


def test_a_note_is_said_once(caplog: pytest.LogCaptureFixture):
    evaluator = GateEvaluator(Gate.of("queued < 5"), log)
    for _ in range(3):
        evaluator.judge(look(counts(queued=7), notes=("unknown state '等待'",)))
    assert caplog.text.count("等待") == 1


def test_a_doubt_keeps_it_shut_and_is_said():
    evaluator = GateEvaluator(Gate.of("queued < 5", "total == 0"), log)
    decided = evaluator.judge(look(counts(), doubt="the token is bob's"))
    assert decided.verdict is Verdict.WAIT
    assert str(decided) == "waiting: the token is bob's"


@pytest.mark.parametrize(
    ("kind", "first", "later"),
    [
        (ErrorKind.TRANSIENT, Verdict.WAIT, Verdict.WAIT),
        (ErrorKind.UNCLEAR, Verdict.RETRY, Verdict.WAIT),
        (ErrorKind.CREDENTIALS, Verdict.RETRY, Verdict.RETRY),
        (ErrorKind.PERMANENT, Verdict.FAIL, Verdict.FAIL),
    ],
)
def test_patience_depends_on_the_kind_of_the_error(kind, first, later):
    error = ScnetError("x", kind=kind)
    evaluator = GateEvaluator(Gate.of("queued < 5"), log)
    assert evaluator.judge(look(error=error)).verdict is first
    evaluator.judge(look(counts(queued=9)))
    assert evaluator.judge(look(error=error)).verdict is later


def test_a_transient_error_is_no_good_answer():
    evaluator = GateEvaluator(Gate.of("queued < 5"), log)
    evaluator.judge(look(error=ScnetError("x", kind=ErrorKind.TRANSIENT)))
    assert evaluator.judge(look(error=ScnetError("x"))).verdict is Verdict.RETRY


def test_a_missing_state_is_named_with_the_place():
    decided = GateEvaluator(Gate.of("queued < 5"), log).judge(look(JobCounts(running=1), where="connection 'c'"))
    assert decided.verdict is Verdict.RETRY
    assert str(decided) == "connection 'c': in the cluster's answer 'queued' is missing"

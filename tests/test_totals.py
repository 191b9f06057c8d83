# SPDX-License-Identifier: Apache-2.0
"""What is claimed on an account, for each gate that asks, and how it is said."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Collection

from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_scnet.claims.submission import (
    GateId,
    Phase,
    Scope,
    Submission,
    SubmissionTasks,
    Terms,
)
from airflow_provider_scnet.claims.totals import Totals, claim_of, plus
from airflow_provider_scnet.gate.claimed import NOTHING, Claimed

ACCOUNT = ("https://h", "alice")


def submission(
    index: int = 0,
    phase: Phase = Phase.PENDING,
    jobs: int = 1,
    run: str = "run",
    task: str = "gate",
    gates: Collection[str] = (),
    after_past_runs: bool = False,
) -> Submission:
    tasks = SubmissionTasks({"submit": True}, {}, frozenset(gates), after_past_runs)
    terms = Terms(jobs, 180.0, 60.0, tasks, frozenset({ACCOUNT}))
    return Submission(GateId("dag", run, task, index), terms, since=0.0, is_ours=True, phase=phase)


steps = st.lists(
    st.tuples(
        st.integers(0, 9),
        st.sampled_from(["gate", "other"]),
        st.sampled_from(["run 1", "run 2"]),
        st.integers(0, 3),
        st.sampled_from([Phase.PENDING, Phase.WAITS_UPSTREAM, Phase.NOT_SCHEDULED, Phase.FINISHED]),
        st.sampled_from(list(Scope)),
    ),
    max_size=30,
)


@given(
    steps,
    st.sampled_from(["gate", "other"]),
    st.sampled_from(["run 1", "run 2"]),
    st.integers(0, 9),
    st.sampled_from([(), ("gate",)]),
    st.booleans(),
)
def test_each_gate_counts_what_all_count_and_what_is_its_own_tasks_alone(
    found, task, run, index, gates, after_past_runs
):
    asks, totals, expected = GateId("dag", run, task, index), Totals(1.0), 0
    for map_index, gate_task, gate_run, jobs, phase, scope in found:
        each = submission(map_index, phase, jobs, gate_run, gate_task, gates, after_past_runs)
        totals.add(each, scope)
        # Asked in between, it remembers sums.
        totals.claimed(asks)
        is_own = each.gate.task == asks.task
        needs_it = task in gates if run == gate_run else after_past_runs and is_own and run < gate_run
        is_free = needs_it and phase in (Phase.WAITS_UPSTREAM, Phase.NOT_SCHEDULED)
        if (scope is Scope.EVERYBODY and not is_free) or (scope is Scope.OWN_TASK and is_own and not needs_it):
            expected += jobs
    assert totals.claimed(asks).jobs == expected
    everybody = sum(jobs for *_, jobs, _, scope in found if scope is Scope.EVERYBODY)
    assert totals.claimed(None).jobs == everybody


def test_it_says_which_submissions_are_awaited():
    def said(*submissions: Submission) -> str:
        claimed = NOTHING
        for each in submissions:
            claimed = plus(claimed, claim_of(each))
        return str(claimed)

    waits = [submission(index) for index in (0, 3, 4, 5, 9)]
    ended = submission(7, Phase.FINISHED)
    in_run = "(DAG 'dag', run 'run')"
    assert str(Claimed(2)) == "+2 claimed"
    assert said(waits[0]) == f"+1 claimed: submit[0] {in_run} has not ended"
    assert said(*waits[:2]) == f"+2 claimed: submit[0], submit[3] {in_run} have not ended"
    assert said(*waits) == f"+5 claimed: submit[0], submit[3] {in_run} and 3 more have not ended"
    assert said(waits[0], submission(-1, run="another")) == (
        f"+2 claimed: submit[0] {in_run} and submit (DAG 'dag', run 'another') have not ended"
    )
    assert said(ended) == "+1 claimed: 1 ended, perhaps not counted yet"
    assert said(waits[0], ended, ended) == (
        f"+3 claimed: submit[0] {in_run} has not ended; 2 ended, perhaps not counted yet"
    )


def test_nobody_knows_when_a_claim_ends_that_waits_for_a_submission():
    async def seconds_left() -> float | None:
        return claim_of(submission()).seconds_left

    assert asyncio.run(seconds_left()) is None
    assert claim_of(submission()).end == math.inf
    assert claim_of(submission(phase=Phase.FINISHED)).end == 60.0
    assert Claimed(1, end=0.0).seconds_left == 0.0

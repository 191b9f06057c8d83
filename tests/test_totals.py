# SPDX-License-Identifier: Apache-2.0
"""What is claimed on an account, for each gate that asks, and how it is said."""

from __future__ import annotations

import math
from collections.abc import Collection

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_scnet.claims.claim import Claim
from airflow_provider_scnet.claims.claim_terms import GateId, SubmissionTasks, Terms
from airflow_provider_scnet.claims.expiry import Phase, Scope
from airflow_provider_scnet.claims.totals import Totals
from airflow_provider_scnet.client.job_counts import JobCounts
from airflow_provider_scnet.client.observation import Observation
from airflow_provider_scnet.gate.claimed import Awaited, Claimed
from airflow_provider_scnet.gate.decision import decide
from airflow_provider_scnet.gate.gate import Gate

from ledger_world import World, gate, now, opened, scenario


def claim(
    index: int = 0,
    phase: Phase = Phase.PENDING,
    jobs: int = 1,
    run: str = "run",
    task: str = "gate",
    gates: Collection[str] = (),
    after_past_runs: bool = False,
    queue_name: str | None = None,
) -> Claim:
    tasks = SubmissionTasks({"submit": True}, {}, tuple(gates), after_past_runs)
    terms = Terms(jobs, 180.0, 60.0, queue_name, tasks)
    return Claim(f"x-{index}", GateId("dag", run, task, index), terms, 0.0, 0.0, 0.0, phase=phase)


QUEUES = st.sampled_from([None, "comp", "debug"])
steps = st.lists(
    st.tuples(
        st.integers(0, 9),
        st.sampled_from(["gate", "other"]),
        st.sampled_from(["run 1", "run 2"]),
        st.integers(0, 3),
        st.sampled_from([Phase.PENDING, Phase.WAITS_UPSTREAM, Phase.NOT_SCHEDULED, Phase.ENDED]),
        st.sampled_from(list(Scope)),
        QUEUES,
    ),
    max_size=30,
)


@given(
    steps,
    st.sampled_from(["gate", "other"]),
    st.sampled_from(["run 1", "run 2"]),
    st.integers(0, 9),
    st.sampled_from([(), ("gate",), ("gate", "other")]),
    st.booleans(),
    QUEUES,
)
def test_each_gate_counts_what_all_count_and_what_is_its_own_tasks_alone(
    found, task, run, index, gates, after_past_runs, queue_name
):
    asks, totals, expected, everybody = GateId("dag", run, task, index), Totals([], 1.0, queue_name), 0, 0
    for map_index, gate_task, gate_run, jobs, phase, scope, queue in found:
        each = claim(map_index, phase, jobs, gate_run, gate_task, gates, after_past_runs, queue)
        totals.add(each, scope)
        # Asked in between, it remembers sums.
        totals.claimed(asks)
        if queue_name is not None and queue not in (None, queue_name):
            continue
        is_own = gate_task == task
        needs_it = (task in gates and run == gate_run) or (after_past_runs and is_own)
        is_free = needs_it and phase is Phase.WAITS_UPSTREAM
        if not is_free and (scope is Scope.EVERYBODY or (scope is Scope.OWN_TASK and is_own)):
            expected += jobs
        everybody += jobs if scope is Scope.EVERYBODY else 0
    assert totals.claimed(asks).jobs == expected
    assert totals.claimed(None).jobs == everybody


@given(steps, st.floats(0, 700), QUEUES)
def test_what_claims_come_to_on_an_observation_goes_by_when_each_ends(found, at, queue_name):
    claims = [
        claim(index, phase, jobs, run, task, queue_name=queue) for index, task, run, jobs, phase, _, queue in found
    ]
    totals = Totals(claims, at, queue_name)
    added = Totals([], at, queue_name)
    for each in claims:
        added.add(each, each.scope(at))
    for asks in (None, gate(0), gate(0, task="other"), gate(0, task="third")):
        assert totals.claimed(asks) == added.claimed(asks)


def test_gates_that_count_the_same_get_the_same_object_until_something_is_added():
    totals = Totals([claim(), claim(1, Phase.WAITS_UPSTREAM, gates=["gate"])], 1.0)
    first, other = totals.claimed(gate(1)), totals.claimed(gate(1, run="another"))
    assert first is totals.claimed(gate(2))
    assert other is totals.claimed(gate(3, run="a third"))
    assert (first.jobs, other.jobs) == (1, 2)
    totals.add(claim(5))
    assert totals.claimed(gate(1)).jobs == 2


def test_it_says_which_submissions_are_awaited():
    def said(*claims: Claim) -> str:
        return str(Totals(claims, 1.0).claimed())

    waits = [claim(index) for index in (0, 3, 4, 5, 9)]
    ended = claim(7, Phase.ENDED)
    in_run = "(DAG 'dag', run 'run')"
    assert str(Claimed(2)) == "+2 claimed"
    assert said(waits[0]) == f"+1 claimed: submit[0] {in_run} has not ended"
    assert said(*waits[:2]) == f"+2 claimed: submit[0], submit[3] {in_run} have not ended"
    assert said(*waits) == f"+5 claimed: submit[0], submit[3] {in_run} and 3 more have not ended"
    assert said(waits[0], claim(-1, run="another")) == (
        f"+2 claimed: submit[0] {in_run} and submit (DAG 'dag', run 'another') have not ended"
    )
    assert said(ended) == "+1 claimed: 1 ended, perhaps not counted yet"
    assert said(waits[0], ended, ended) == (
        f"+3 claimed: submit[0] {in_run} has not ended; 2 ended, perhaps not counted yet"
    )


def test_what_a_gate_is_exempt_from_is_not_said_to_be_awaited():
    totals = Totals([claim(3), claim(0, Phase.WAITS_UPSTREAM, gates=["gate"])], 1.0)
    assert totals.claimed(gate(5)).awaited == (Awaited("submit[3]", "dag", "run"),)
    assert totals.claimed(gate(5)).unended == 1
    assert totals.claimed(gate(5, run="another")).unended == 2


def test_what_claims_no_jobs_is_not_mentioned():
    assert str(Totals([claim(jobs=0)], 1.0).claimed()) == "+0 claimed"


def test_nobody_knows_when_a_claim_ends_that_waits_for_a_submission():
    assert Totals([claim()], 1.0).claimed().seconds_left is None
    assert Totals([claim(), claim(phase=Phase.ENDED)], 1.0).claimed().seconds_left is None
    # By the machine's clock all of them have.
    assert Totals([claim(phase=Phase.ENDED)], 1.0).claimed().seconds_left == 0.0


@scenario
async def test_where_all_have_ended_or_run_a_gate_says_for_how_long_they_keep_it_shut_at_most(world: World):
    await opened(world, "running")
    await world.poll()
    claimed = world.ledger.totals(now()).claimed()
    decision = decide(Gate.of("queued < 1"), Observation(counts=JobCounts(queued=0, running=3)), claimed)
    assert str(decision).endswith("only claims of gates that passed keep it shut, for 180 s at most")


def test_claims_end_with_the_last_of_them():
    ends = [each.ends() for each in (claim(phase=Phase.ENDED), claim(phase=Phase.STARTED))]
    assert ends == [60.0, 180.0]
    assert math.inf not in ends


@pytest.mark.parametrize(("queue_name", "jobs"), [(None, 6), ("comp", 3), ("debug", 5), ("another", 2)])
def test_gates_of_a_queue_count_its_claims_and_those_of_which_the_queue_is_not_known(queue_name, jobs):
    claims = [claim(jobs=1, queue_name="comp"), claim(jobs=3, queue_name="debug"), claim(jobs=2)]
    assert Totals(claims, 1.0, queue_name).claimed(gate(5)).jobs == jobs

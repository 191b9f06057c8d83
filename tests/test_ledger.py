# SPDX-License-Identifier: Apache-2.0
"""Claims follow Airflow's states of the tasks that submit; each row of the contract, with time that passes at once."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest

from airflow_provider_scnet.claims import ledger as ledger_module
from airflow_provider_scnet.claims.ledger import FOLLOW_EVERY
from airflow_provider_scnet.claims.submission import LONGEST_PHASE, OWN_TASK_TTLS
from airflow_provider_scnet.event_loop import pacing

from ledger_world import ACCOUNT, COUNTED_AFTER, TTL, WITNESS, World, gate, now, opened, scenario

# The table of the contract


@pytest.mark.parametrize(
    ("state", "own_for"),
    [
        ("scheduled", OWN_TASK_TTLS * TTL),
        ("queued", OWN_TASK_TTLS * TTL),
        ("up_for_retry", OWN_TASK_TTLS * TTL),
        ("up_for_reschedule", OWN_TASK_TTLS * TTL),
        ("restarting", OWN_TASK_TTLS * TTL),
        (None, LONGEST_PHASE),
    ],
)
def test_a_submission_that_does_not_start_claims_from_all_for_its_ttl_then_from_its_own_task_and_then_from_nobody(
    state, own_for
):
    @scenario
    async def run(world: World) -> None:
        await opened(world)
        world.airflow.set(gate(0), "success", submit=state)
        assert await world.after(0, WITNESS) == 1
        since = now()
        for seconds in range(30, int(TTL), 30):
            await asyncio.sleep(since + seconds - now())
            assert (await world.poll(gate=WITNESS)).jobs == 1
            assert world.notes() == ""
        await asyncio.sleep(since + TTL - now())
        assert await world.after(0, WITNESS) == 0
        assert "submit[0] of DAG 'dag', run 'run' does not start" in world.notes()
        # Gates of its own task. In which order they come to their turns, nobody can tell.
        assert (await world.poll(gate=gate(1))).jobs == 1
        assert (await world.poll(gate=gate(1, run="an earlier run"))).jobs == 1
        world.airflow.set(gate(1, run="scheduled__z"), "deferred", submit=None)
        assert (await world.poll(gate=gate(1, run="scheduled__z"))).jobs == 1
        await asyncio.sleep(since + own_for - 60 - now())
        assert (await world.poll(gate=gate(1))).jobs == 1
        assert await world.after(120, gate(1)) == 0

    run()


@scenario
async def test_a_claim_holds_while_submissions_of_its_gates_task_go_on_to_start(world: World):
    """A pool of one slot may take minutes a job."""
    world.wait(WITNESS, submitted_by={"another": True})
    waiting = [world.wait(gate(index)) for index in range(5)]
    await world.poll()
    for index, each in enumerate(waiting):
        world.let_through(each)
        world.airflow.set(gate(index), "success", submit="scheduled")
    for index in range(5):
        for _ in range(2):
            assert await world.after(TTL / 2 - 1, WITNESS) >= 5 - index
        world.airflow.set(gate(index), "success", submit="running")
        await world.poll()
        world.airflow.set(gate(index), "success", submit="success")


@scenario
async def test_a_claim_that_weighed_no_longer_weighs_again_when_its_submission_goes_on(world: World):
    await opened(world)
    world.airflow.set(gate(0), "success", submit=None)
    assert await world.after(0, WITNESS) == 1
    assert await world.after(3 * 86_400, WITNESS) == 0
    world.airflow.set(gate(0), "success", submit="scheduled")
    assert await world.after(0, WITNESS) == 1
    world.airflow.set(gate(0), "success", submit="running")
    assert await world.after(TTL - 1, WITNESS) == 1


@scenario
async def test_a_gate_upstream_of_a_submission_never_waits_for_it(world: World):
    """``prepare >> gate1 >> relax; gate2 >> static; relax >> static``: gate2 opens first."""
    gate1 = world.wait(gate(-1, task="gate1"), submitted_by={"relax": False})
    gate2 = world.wait(
        gate(-1, task="gate2"),
        submitted_by={"static": False},
        upstream={"gate2": False, "relax": False},
        gates=frozenset({"gate1", "gate2"}),
    )
    world.airflow.set(gate(-1, task="gate1"), "deferred", relax=None, static=None)
    await world.poll()
    world.let_through(gate2)
    world.airflow.set(gate(-1, task="gate2"), "success")
    assert await world.after(0, WITNESS) == 1
    assert await world.after(0, gate1.gate) == 0
    # It waits for something upstream, and so shuts its own task for no more than minutes.
    assert await world.after(TTL, gate(-1, task="gate2", run="scheduled__z")) == 1
    assert "a task upstream of it has not ended" in world.notes()
    assert await world.after(OWN_TASK_TTLS * TTL, gate(-1, task="gate2", run="scheduled__z")) == 0
    # When relax has ended, static is what everybody waits for again.
    world.airflow.set(gate(-1, task="gate1"), "success", relax="skipped", static="scheduled")
    assert await world.after(0, WITNESS) == 1


@scenario
async def test_a_gate_upstream_of_another_gates_submission_does_not_wait_for_it_as_one_of_its_task(world: World):
    """``gate.expand(...) >> submit``: one gate opens, and the others find no room for long."""
    await opened(world, submitted_by={"submit": False}, upstream={"gate": False}, gates=frozenset({"gate"}))
    world.airflow.set(gate(1), "deferred")
    world.airflow.set(gate(-1), None, submit=None)
    del world.airflow.found["dag", "run", "gate", -1]
    assert await world.after(0, WITNESS) == 1
    assert await world.after(0, gate(1)) == 0
    assert await world.after(TTL, gate(1)) == 0
    assert (await world.poll(gate=gate(1, run="another"))).jobs == 1


@scenario
async def test_a_gate_of_an_earlier_run_does_not_wait_for_submissions_that_wait_for_its_own(world: World):
    """``depends_on_past``: the gate of the later run opens first."""
    await opened(world, after_past_runs=True)
    world.airflow.set(gate(0), "success", submit=None)
    assert await world.after(0, gate(0, run="an earlier run")) == 0
    assert await world.after(TTL, gate(0, run="an earlier run")) == 0
    assert await world.after(TTL, gate(1)) == 1
    assert await world.after(TTL, gate(0, run="run of a later day")) == 1


@scenario
async def test_what_did_not_start_before_its_run_ended_claims_nothing(world: World):
    await opened(world)
    world.airflow.set(gate(0), "success", submit=None)
    assert await world.after(0, WITNESS) == 1
    world.airflow.ended_runs = {"run"}
    assert await world.after(0, WITNESS) == 0
    assert await world.after(60, gate(5)) == 0


@scenario
async def test_what_runs_when_somebody_marks_its_run_as_ended_may_have_submitted(world: World):
    other = world.wait(gate(1))
    await opened(world)
    world.let_through(other)
    world.airflow.set(gate(0), "success", submit="running")
    world.airflow.set(gate(1), "success", submit=None)
    world.airflow.ended_runs = {"run"}
    assert await world.after(10, WITNESS) == 1
    world.airflow.set(gate(0), "success", submit="failed")
    assert await world.after(10, WITNESS) == 1
    assert await world.after(COUNTED_AFTER, WITNESS) == 0


@pytest.mark.parametrize("state", ["running", "deferred", "a state of a later Airflow"])
def test_once_its_submission_runs_a_claim_holds_for_its_ttl(state):
    @scenario
    async def run(world: World) -> None:
        await opened(world)
        assert await world.after(60) == 1
        world.airflow.set(gate(0), "success", submit=state)
        assert await world.after(0) == 1
        assert await world.after(TTL - 6) == 1
        assert await world.after(12) == 0
        # What has expired does not come back with the end of the task: its job was counted long ago.
        world.airflow.set(gate(0), "success", submit="success")
        assert await world.after(10) == 0

    run()


@pytest.mark.parametrize("state", ["success", "failed"])
def test_a_claim_counts_on_looks_made_before_the_cluster_counts_what_was_submitted(state):
    @scenario
    async def run(world: World) -> None:
        await opened(world)
        world.airflow.set(gate(0), "success", submit="running")
        assert await world.after(20) == 1
        world.airflow.set(gate(0), "success", submit=state)
        seen_at = now()
        assert await world.after(1) == 1
        assert await world.after(COUNTED_AFTER - 1) == 1
        assert await world.after(FOLLOW_EVERY + 1) == 0
        assert now() - seen_at <= COUNTED_AFTER + FOLLOW_EVERY + 2

    run()


@pytest.mark.parametrize("state", ["skipped", "upstream_failed", "removed"])
def test_a_claim_is_dropped_at_once_where_there_will_be_no_submission(state):
    @scenario
    async def run(world: World) -> None:
        await opened(world)
        assert await world.after(60) == 1
        world.airflow.set(gate(0), "success", submit=state)
        assert await world.after(0) == 0

    run()


@pytest.mark.parametrize("state", ["skipped", "upstream_failed", "removed"])
def test_it_is_dropped_from_the_observation_too_after_which_airflow_said_so(state):
    @scenario
    async def run(world: World) -> None:
        world.airflow.takes = 0.2
        world.wait(gate(5))
        world.airflow.set(gate(2), "deferred", submit=None)
        await world.poll()
        # In another triggerer.
        world.airflow.set(gate(2), "success")
        assert await world.after(10) == 1
        world.airflow.set(gate(2), "success", submit=state)
        assert await world.after(10) == 0

    run()


@scenario
async def test_the_end_of_a_submission_whose_claim_expired_long_ago_brings_no_claim_back(world: World):
    await opened(world)
    world.airflow.set(gate(0), "success", submit="running")
    assert await world.after(20) == 1
    at = now()
    assert await world.after(TTL + 10) == 0
    world.airflow.takes = 0.2
    world.airflow.set(gate(0), "success", submit="success")
    assert await world.after(60) == 0
    # It is one still on an observation that may not show its jobs.
    assert world.ledger.claimed(ACCOUNT, at).jobs == 1


@scenario
async def test_what_ended_before_anybody_asked_claims_nothing(world: World):
    world.airflow.takes = 0.2
    for number in range(5):
        world.airflow.set(gate(0, run=f"run {number}"), "success", submit="success")
    world.wait(gate(0))
    assert await world.after(0) == 0


@scenario
async def test_what_may_not_be_counted_in_an_observation_weighs_on_it_however_late_a_gate_decides_on_it(
    world: World,
):
    waiting = world.wait(gate())
    world.wait(gate(run="other"))
    await world.poll()
    world.let_through(waiting)
    world.airflow.set(waiting.gate, "success", submit="success")
    await world.poll()
    at = now()
    await asyncio.sleep(COUNTED_AFTER + 1)
    # A gate that arrives between two polls decides on the last observation.
    newcomer = world.wait(gate(run="later"))
    await world.ledger.refresh(ACCOUNT, at)
    assert world.ledger.claimed(ACCOUNT, at, newcomer.gate).jobs == 1
    assert await world.after(0) == 0


@scenario
async def test_it_weighs_on_it_too_where_the_account_was_polled_through_another_connection_since(world: World):
    waiting = world.wait(gate())
    world.wait(gate(run="other"))
    await world.poll()
    world.let_through(waiting)
    world.airflow.set(waiting.gate, "success", submit="success")
    await asyncio.sleep(1)
    at = now()
    await world.ledger.refresh(ACCOUNT, at, "polled every hour")
    await asyncio.sleep(COUNTED_AFTER + 1)
    await world.ledger.refresh(ACCOUNT, now(), "polled every minute")
    newcomer = world.wait(gate(1, run="other"))
    await world.ledger.refresh(ACCOUNT, at, "polled every hour")
    assert world.ledger.claimed(ACCOUNT, at, newcomer.gate).jobs == 1


@scenario
async def test_a_claim_is_dropped_with_its_run(world: World):
    world.wait(gate(0, run="other"))
    await opened(world)
    assert await world.after(60) == 1
    world.airflow.found = {key: state for key, state in world.airflow.found.items() if key[1] != "run"}
    assert await world.after(0) == 0


@scenario
async def test_where_no_task_stands_behind_the_gate_a_claim_expires_by_time(world: World):
    await opened(world, submitted_by={})
    assert await world.after(TTL - 1) == 1
    assert await world.after(2) == 0


@scenario
async def test_a_claim_of_which_nothing_is_heard_expires(world: World):
    await opened(world)
    assert await world.after(600, gate(1)) == 1
    world.airflow.error = RuntimeError("API_SERVER_ERROR")
    assert await world.after(TTL - 10, gate(1)) == 1
    assert "RuntimeError: API_SERVER_ERROR" in world.notes()
    assert await world.after(20, gate(1)) == 0
    world.airflow.error = None
    assert await world.after(1, gate(1)) == 1
    assert "RuntimeError" not in world.notes()


@pytest.mark.parametrize("silent", ["first", "last"])
def test_that_airflow_says_nothing_of_a_dag_is_told_although_it_speaks_of_another_and_only_to_whom_it_matters(
    silent,
):
    @scenario
    async def run(world: World) -> None:
        states = world.airflow.states

        async def some_states(dag_id: str, *asked: Any) -> Any:
            if dag_id == silent:
                raise RuntimeError("API_SERVER_ERROR")
            return await states(dag_id, *asked)

        world.airflow.states = some_states
        for dag in ("first", "last"):
            world.wait(gate(dag=dag))
        world.wait(gate(dag="unrelated"), account=("https://h", "bob"))
        await world.poll()
        assert "RuntimeError: API_SERVER_ERROR" in world.notes()
        assert not world.ledger.notes(("https://h", "bob"))

    run()


@scenario
async def test_all_tasks_that_submit_have_to_have_ended(world: World):
    world.airflow.set(gate(0), "deferred", a=None, b=None, c=None)
    await opened(world, submitted_by={"a": True, "b": True, "c": True})
    for a, b, c, claimed in [
        ("success", None, "success", 1),
        ("success", "running", "success", 1),
        ("success", "success", "skipped", 1),
    ]:
        world.airflow.set(gate(0), "success", a=a, b=b, c=c)
        assert await world.after(30) == claimed
    assert await world.after(COUNTED_AFTER) == 0


@scenario
async def test_a_submission_that_is_retried_or_cleared_is_awaited_again(world: World):
    world.wait(gate(98))
    await opened(world)
    for state, claimed in [("running", 1), ("up_for_retry", 1), ("running", 1), ("success", 1), (None, 1)]:
        world.airflow.set(gate(0), "success", submit=state)
        assert await world.after(30) == claimed


@scenario
async def test_a_submission_that_polls_for_its_job_in_reschedule_mode_claims_for_its_ttl(world: World):
    await opened(world)
    for _ in range(4):
        for state in ("running", "up_for_reschedule"):
            world.airflow.set(gate(0), "success", submit=state)
            await world.after(TTL / 6)
    assert await world.after(0) == 0


# Which instances are meant


@scenario
async def test_the_instance_with_the_gates_own_map_index_is_meant_in_a_group(world: World):
    await opened(world)
    world.airflow.set(gate(0), "success", submit="skipped")
    world.airflow.set(gate(1), "deferred", submit="running")
    assert await world.after(0) == 0


@scenario
async def test_all_instances_are_meant_elsewhere(world: World):
    world.airflow.set(gate(0), "deferred", submit=None)
    await opened(world, submitted_by={"submit": False})
    world.airflow.found |= {("dag", "run", "submit", index): "skipped" for index in range(9)}
    world.airflow.found["dag", "run", "submit", 99] = None
    assert await world.after(60) == 1
    world.airflow.found["dag", "run", "submit", 99] = "skipped"
    assert await world.after(0) == 0


@scenario
async def test_a_mapped_task_that_is_not_expanded_yet_has_not_started(world: World):
    await opened(world)
    del world.airflow.found["dag", "run", "submit", 0]
    world.airflow.found["dag", "run", "submit", -1] = None
    assert await world.after(60) == 1


# The gate's own way to its end


@scenario
async def test_a_gate_that_ends_on_a_worker_claims_all_the_way(world: World):
    await opened(world)
    for state in ("deferred", "scheduled", "queued", "queued", "running"):
        world.airflow.set(gate(0), state)
        assert await world.after(40) == 1
    world.airflow.set(gate(0), "success", submit="skipped")
    assert await world.after(0) == 0


@scenario
async def test_a_gate_whose_event_got_lost_claims_for_its_ttl(world: World):
    await opened(world)
    world.airflow.set(gate(0), "deferred")
    assert await world.after(TTL - 1) == 1
    assert await world.after(2) == 0


@scenario
async def test_a_gate_that_was_marked_failed_after_it_passed_claims_what_the_tasks_behind_it_do(world: World):
    await opened(world)
    world.airflow.set(gate(0), "failed", submit=None)
    assert await world.after(1) == 1
    world.airflow.set(gate(0), "failed", submit="upstream_failed")
    assert await world.after(0) == 0


@scenario
async def test_a_gate_that_is_cleared_and_passes_again_claims_again(world: World):
    first = await opened(world)
    world.airflow.set(gate(0), "success", submit="running")
    assert await world.after(10) == 1
    # Cleared with all behind it: what was submitted before may not be counted yet.
    world.airflow.set(gate(0), "deferred", submit=None)
    again = world.wait(first.gate)
    assert await world.after(COUNTED_AFTER - 1) == 1
    assert await world.after(2) == 0
    world.let_through(again)
    world.airflow.set(gate(0), "success", submit=None)
    assert await world.after(60) == 1


@scenario
async def test_what_was_submitted_before_a_gate_was_cleared_and_passed_again_may_not_be_counted_yet(world: World):
    first = await opened(world)
    world.airflow.set(gate(0), "success", submit="success")
    assert await world.after(10) == 1
    world.airflow.set(gate(0), "deferred", submit=None)
    again = world.wait(first.gate)
    assert await world.after(1) == 1
    world.let_through(again)
    world.airflow.set(gate(0), "success", submit="running")
    assert await world.after(1) == 2
    assert await world.after(COUNTED_AFTER) == 1


@scenario
async def test_an_answer_that_was_asked_for_before_a_gate_passed_takes_no_claim_away(world: World):
    """Such an answer still calls it deferred, as it does a gate that was cleared and waits anew."""
    world.wait(gate(0, run="another"))
    waiting = world.wait(gate(0))
    await world.poll()
    late = world.airflow.late = asyncio.Event()
    looking = asyncio.ensure_future(world.poll())
    await asyncio.sleep(1)
    world.let_through(waiting)
    world.airflow.set(gate(0), "success", submit=None)
    await asyncio.sleep(2 * FOLLOW_EVERY)
    late.set()
    assert (await looking).jobs == 1
    assert await world.after(60) == 1


@scenario
async def test_a_gate_that_was_cleared_and_waits_in_another_triggerer_no_longer_claims(world: World):
    await opened(world)
    world.airflow.set(gate(0), "success", submit="running")
    assert await world.after(10) == 1
    world.airflow.set(gate(0), "deferred", submit=None)
    assert await world.after(0) == 1
    assert await world.after(COUNTED_AFTER + 1) == 0


@scenario
async def test_gates_that_stand_before_one_submission_do_not_wait_for_each_other(world: World):
    """``gate.expand() >> submit.expand()``: no submission starts before the last gate has opened."""
    both = {"submitted_by": {"submit": False}, "upstream": {"gate": False}, "gates": frozenset({"gate"})}
    world.wait(WITNESS, submitted_by={"another": True})
    waiting = world.wait(gate(0), **both)
    world.wait(gate(1), **both)
    await world.poll()
    world.let_through(waiting)
    world.airflow.set(gate(0), "success")
    assert await world.after(1, gate(1)) == 0
    assert await world.after(1, WITNESS) == 1


# What is asked


@scenario
async def test_one_question_a_dag_and_look_names_all_that_is_known_of_it(world: World):
    for run in range(200):
        world.wait(gate(0, run=f"run {run}"))
    world.wait(gate(0, task="second"), submitted_by={"other": True})
    world.wait(gate(0, dag="another"))
    await world.poll()
    assert sorted((dag, runs) for dag, runs, _ in world.airflow.questions) == [("another", None), ("dag", None)]
    world.airflow.questions.clear()
    await world.poll()
    assert sorted(dag for dag, _, _ in world.airflow.questions) == ["another", "dag"]
    (_, runs, tasks) = next(question for question in world.airflow.questions if question[0] == "dag")
    assert runs == {"run", *(f"run {run}" for run in range(200))}
    assert tasks == {"gate", "submit", "second", "other"}


@scenario
async def test_an_answer_that_was_asked_for_earlier_changes_nothing_that_a_younger_one_said(world: World):
    await opened(world)
    world.airflow.set(gate(0), "success", submit="skipped")
    late = world.airflow.late = asyncio.Event()
    slow = asyncio.ensure_future(world.poll())
    await asyncio.sleep(1)
    # It was cleared meanwhile, which the question about what is urgent hears first.
    world.airflow.set(gate(0), "success", submit="queued")
    await asyncio.sleep(2 * FOLLOW_EVERY)
    late.set()
    await slow
    assert world.ledger.claimed(ACCOUNT, now()).jobs == 1


@scenario
async def test_the_task_that_follows_submissions_is_started_again_where_it_was_ended_from_outside(world: World):
    await opened(world)
    world.airflow.set(gate(0), "success", submit="running")
    world.ledger._following._task.cancel()
    await asyncio.sleep(2.5 * FOLLOW_EVERY)
    assert world.notes() == "the task that follows submissions was ended from outside, and was started again"
    assert world.notes() == ""
    before = len(world.airflow.questions)
    await asyncio.sleep(2 * FOLLOW_EVERY)
    assert len(world.airflow.questions) > before


@scenario
async def test_what_was_heard_after_a_look_was_made_is_not_asked_again_for_gates_that_arrive(world: World):
    world.wait(gate(0))
    at = now()
    await world.ledger.refresh(ACCOUNT, at)
    world.wait(gate(1))
    await world.ledger.refresh(ACCOUNT, at)
    assert len(world.airflow.questions) == 1
    world.wait(gate(1, run="another"))
    await world.ledger.refresh(ACCOUNT, at)
    assert len(world.airflow.questions) == 2


@scenario
async def test_while_a_claim_waits_for_the_end_of_a_submission_it_is_asked_after_every_five_seconds(world: World):
    await opened(world)
    world.airflow.set(gate(0), "success", submit="running")
    before = len(world.airflow.questions)
    await asyncio.sleep(60)
    assert len(world.airflow.questions) - before in (60 / FOLLOW_EVERY - 1, 60 / FOLLOW_EVERY)
    world.airflow.set(gate(0), "success", submit="success")
    await asyncio.sleep(FOLLOW_EVERY)
    before = len(world.airflow.questions)
    await asyncio.sleep(60)
    assert len(world.airflow.questions) == before


@scenario
async def test_where_answers_take_long_they_are_asked_for_less_often(world: World):
    await opened(world, ttl=1e6)
    for takes, pause in ((0.2, 20.0), (9.0, 60.0)):
        world.airflow.takes = takes
        await asyncio.sleep(120)
        before, since = len(world.airflow.questions), now()
        await asyncio.sleep(600)
        asked = len(world.airflow.questions) - before
        assert abs(asked - (now() - since) / (pause + takes)) <= 1


@scenario
async def test_nothing_is_asked_while_no_gate_waits(world: World):
    waiting = world.wait(gate(0))
    await world.poll()
    world.let_through(waiting)
    before = len(world.airflow.questions)
    await asyncio.sleep(600)
    assert len(world.airflow.questions) == before
    # And the claim is still known when somebody waits again, in another run.
    world.airflow.set(gate(0), "success", submit="queued")
    world.wait(gate(0, run="another"))
    assert await world.after(0) == 1


@scenario
async def test_a_question_is_never_cancelled_and_met_again_at_the_next_look(world: World):
    world.wait(gate(0))
    world.airflow.answers.clear()
    looking = asyncio.ensure_future(world.poll())
    await asyncio.sleep(1)
    looking.cancel()
    await asyncio.gather(looking, return_exceptions=True)
    assert (await asyncio.wait_for(world.poll(), 3600)).jobs == 0
    assert "no answer within 30 s" in world.notes()
    assert len(world.airflow.questions) == 1
    world.airflow.answers.set()
    await world.poll()
    assert world.notes() == ""
    assert world.airflow.cancelled == 0


@scenario
async def test_a_question_that_is_never_answered_does_not_end_the_asking(world: World):
    world.wait(gate(0))
    world.airflow.answers.clear()
    await world.poll()
    await world.poll()
    world.airflow.answers = asyncio.Event()
    world.airflow.answers.set()
    await world.poll()
    assert world.notes() == ""
    assert len(world.airflow.questions) == 2


def test_polls_of_other_accounts_while_a_long_answer_is_applied_do_not_spoil_it(monkeypatch):
    monkeypatch.setattr(pacing, "LONGEST_SLICE", 0.0)

    @scenario
    async def run(world: World) -> None:
        for number, index in itertools.product(range(20), range(20)):
            world.airflow.set(gate(index, run=f"run {number}"), "success", submit="skipped")
        world.wait(gate())
        asking = asyncio.ensure_future(world.ledger.refresh(ACCOUNT, now()))
        while not asking.done():
            await world.ledger.refresh(("https://h", "bob"), now())
            await asyncio.sleep(0)
        assert world.notes() == ""
        assert world.ledger._books["dag"].runs.keys() == {"run"}

    run()


@scenario
async def test_runs_of_which_nothing_is_heard_any_more_are_forgotten(world: World):
    for number in range(50):
        waiting = world.wait(gate(0, run=f"run {number}"))
        await world.poll()
        world.let_through(waiting)
        world.airflow.set(gate(0, run=f"run {number}"), "success", submit="success")
        assert await world.after(60) <= 2
    world.wait(gate(0, run="last"))
    await world.after(2 * ledger_module.FORGET_AFTER)
    await world.poll()
    assert len(world.ledger._books["dag"].runs) == 1


@scenario
async def test_gates_elsewhere_are_forgotten_with_their_dag(world: World):
    world.airflow.set(gate(2), "deferred", submit=None)
    waiting = world.wait(gate(5))
    await world.poll()
    waiting.leave.close()
    world.wait(gate(dag="another"))
    await world.after(ledger_module.FORGET_AFTER)
    await world.after(1)
    assert "dag" not in world.ledger._books
    assert world.ledger._peers.known(("dag", "gate")) == 0

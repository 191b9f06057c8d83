# SPDX-License-Identifier: Apache-2.0
"""Claims follow Airflow's states of the tasks that submit; each row of the contract, with time that passes at once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from airflow_provider_scnet.gate.claims import Claimed, Claims
from airflow_provider_scnet.gate.submission import GateId
from airflow_provider_scnet.gate.submissions import FOLLOW_EVERY, Submissions
from airflow_provider_scnet.gate.waiting import Waiting

from airflow_provider_scnet.gate import submissions as submissions_module
from benchmarks import virtual_time

ACCOUNT = ("https://h", "alice")
TTL = 180.0
COUNTED_AFTER = 60.0


class Airflow:
    """Airflow's states of tasks, and the questions about them."""

    def __init__(self) -> None:
        self.states: dict[tuple[str, str, str, int], str | None] = {}
        self.questions: list[tuple[str, set[str], set[str]]] = []
        self.error: Exception | None = None
        self.answers = asyncio.Event()
        self.answers.set()
        self.cancelled = 0
        self.takes = 0.0
        #: The next answer is what is true when it is asked for, and comes when this is set.
        self.late: asyncio.Event | None = None

    def set(self, gate: GateId, state: str | None, **submitters: str | None) -> None:
        """Set the state of a gate, and of the instances of submitters with its map index."""
        self.states[gate.dag_id, gate.run_id, gate.task_id, gate.map_index] = state
        for task_id, submitter in submitters.items():
            self.states[gate.dag_id, gate.run_id, task_id, gate.map_index] = submitter

    async def __call__(self, dag_id: str, run_ids: Any, task_ids: Any) -> Any:
        self.questions.append((dag_id, set(run_ids), set(task_ids)))
        if late := self.late:
            self.late, found = None, self._found(dag_id, run_ids, task_ids)
            await late.wait()
            return found
        try:
            await self.answers.wait()
            await asyncio.sleep(self.takes)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error:
            raise self.error
        return self._found(dag_id, run_ids, task_ids)

    def _found(self, dag_id: str, run_ids: Any, task_ids: Any) -> dict[str, dict[str, dict[int, str | None]]]:
        found: dict[str, dict[str, dict[int, str | None]]] = {}
        for (dag, run, task, index), state in self.states.items():
            if dag == dag_id and run in run_ids and task in task_ids:
                found.setdefault(run, {}).setdefault(task, {})[index] = state
        return found


class World:
    """One triggerer's knowledge, and the Airflow that it asks."""

    def __init__(self) -> None:
        self.airflow = Airflow()
        self.claims: dict[tuple[str, str], Claims] = {}
        self.submissions = Submissions(self.airflow, lambda account: self.claims.setdefault(account, Claims()))
        self._places = contextlib.ExitStack()

    def wait(self, gate: GateId, **given: Any) -> Waiting:
        """Let a gate wait from now on."""
        waiting = Waiting(
            gate, **{"jobs": 1, "ttl": TTL, "submitted_by": {"submit": True}, "account": ACCOUNT, **given}
        )
        waiting.counted_after = COUNTED_AFTER
        waiting.leave = self._places.enter_context(contextlib.ExitStack())
        waiting.leave.enter_context(self.submissions.kept(waiting))
        if (gate.dag_id, gate.run_id, gate.task_id, gate.map_index) not in self.airflow.states:
            self.airflow.set(gate, "deferred", submit=None)
        return waiting

    def let_pass(self, waiting: Waiting) -> None:
        self.submissions.passes(waiting)
        waiting.leave.close()

    async def look(self, account: Any = ACCOUNT) -> Claimed:
        """Make a look, learn what there is to learn, and return what weighs on it."""
        # No two looks are made in the same moment.
        await asyncio.sleep(0.01)
        at = now()
        await self.submissions.hear(account, at)
        return self.claims.setdefault(account, Claims()).weigh(at)

    async def after(self, seconds: float) -> int:
        await asyncio.sleep(seconds)
        return (await self.look()).jobs


def now() -> float:
    return asyncio.get_running_loop().time()


def gate(map_index: int = 0, run: str = "run", task: str = "gate", dag: str = "dag") -> GateId:
    return GateId(dag, run, task, map_index)


Scenario = Callable[[World], Coroutine[Any, Any, None]]


def scenario(test: Scenario) -> Callable[[], None]:
    """Run a test on a loop of virtual time, with a gate that waits all the while so that Airflow is asked."""

    def run() -> None:
        async def whole() -> None:
            await test(World())

        virtual_time.run(whole())

    run.__name__ = test.__name__
    run.__doc__ = test.__doc__
    return run


async def passed(world: World, **given: Any) -> Waiting:
    """Let one gate wait and another pass, and Airflow know of it."""
    world.wait(gate(99), submitted_by={"another": True})
    waiting = world.wait(gate(0), **given)
    await world.look()
    world.let_pass(waiting)
    world.airflow.set(gate(0), "success")
    return waiting


# The table of the contract


@pytest.mark.parametrize("state", [None, "scheduled", "queued", "up_for_retry", "up_for_reschedule", "restarting"])
def test_a_claim_holds_however_long_its_submission_has_not_started(state):
    @scenario
    async def run(world: World) -> None:
        await passed(world)
        world.airflow.set(gate(0), "success", submit=state)
        for _ in range(100):
            assert await world.after(60) == 1

    run()


@pytest.mark.parametrize("state", ["running", "deferred", "a state of a later Airflow"])
def test_once_its_submission_runs_a_claim_holds_for_its_ttl(state):
    @scenario
    async def run(world: World) -> None:
        await passed(world)
        assert await world.after(600) == 1
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
        await passed(world)
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
        await passed(world)
        assert await world.after(60) == 1
        world.airflow.set(gate(0), "success", submit=state)
        assert await world.after(0) == 0

    run()


@scenario
async def test_a_claim_is_dropped_with_its_run(world: World):
    world.wait(gate(0, run="other"))
    await passed(world)
    assert await world.after(60) == 1
    world.airflow.states = {key: state for key, state in world.airflow.states.items() if key[1] != "run"}
    assert await world.after(0) == 0


@scenario
async def test_where_no_task_stands_behind_the_gate_a_claim_expires_by_time(world: World):
    await passed(world, submitted_by={})
    assert await world.after(TTL - 1) == 1
    assert await world.after(2) == 0


@scenario
async def test_a_claim_of_which_nothing_is_heard_expires(world: World):
    await passed(world)
    assert await world.after(600) == 1
    world.airflow.error = RuntimeError("API_SERVER_ERROR")
    assert await world.after(TTL - 10) == 1
    assert "RuntimeError: API_SERVER_ERROR" in world.submissions.trouble
    assert await world.after(20) == 0
    world.airflow.error = None
    assert await world.after(1) == 1
    assert world.submissions.trouble == ""


@scenario
async def test_all_tasks_that_submit_have_to_have_ended(world: World):
    world.airflow.set(gate(0), "deferred", a=None, b=None, c=None)
    await passed(world, submitted_by={"a": True, "b": True, "c": True})
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
    await passed(world)
    for state, claimed in [("running", 1), ("up_for_retry", 1), ("running", 1), ("success", 1), (None, 1)]:
        world.airflow.set(gate(0), "success", submit=state)
        assert await world.after(30) == claimed
    assert await world.after(6000) == 1


# Which instances are meant


@scenario
async def test_the_instance_with_the_gates_own_map_index_is_meant_in_a_group(world: World):
    await passed(world)
    world.airflow.set(gate(0), "success", submit="skipped")
    world.airflow.set(gate(1), "deferred", submit="running")
    assert await world.after(0) == 0


@scenario
async def test_all_instances_are_meant_elsewhere(world: World):
    world.airflow.set(gate(0), "deferred", submit=None)
    await passed(world, submitted_by={"submit": False})
    world.airflow.states |= {("dag", "run", "submit", index): "skipped" for index in range(9)}
    world.airflow.states["dag", "run", "submit", 99] = None
    assert await world.after(600) == 1
    world.airflow.states["dag", "run", "submit", 99] = "skipped"
    assert await world.after(0) == 0


@scenario
async def test_a_mapped_task_that_is_not_expanded_yet_has_not_started(world: World):
    await passed(world)
    del world.airflow.states["dag", "run", "submit", 0]
    world.airflow.states["dag", "run", "submit", -1] = None
    assert await world.after(600) == 1


# The gate's own way to its end


@scenario
async def test_a_gate_that_ends_on_a_worker_claims_all_the_way(world: World):
    await passed(world)
    for state in ("deferred", "scheduled", "queued", "queued", "running"):
        world.airflow.set(gate(0), state)
        assert await world.after(120) == 1
    world.airflow.set(gate(0), "success", submit="skipped")
    assert await world.after(0) == 0


@scenario
async def test_a_gate_whose_event_got_lost_claims_for_its_ttl(world: World):
    await passed(world)
    world.airflow.set(gate(0), "deferred")
    assert await world.after(TTL - 1) == 1
    assert await world.after(2) == 0


@scenario
async def test_a_gate_that_was_marked_failed_after_it_passed_claims_what_the_tasks_behind_it_do(world: World):
    await passed(world)
    world.airflow.set(gate(0), "failed", submit=None)
    assert await world.after(1) == 1
    world.airflow.set(gate(0), "failed", submit="upstream_failed")
    assert await world.after(0) == 0


@scenario
async def test_a_gate_that_is_cleared_and_passes_again_claims_again(world: World):
    first = await passed(world)
    world.airflow.set(gate(0), "success", submit="running")
    assert await world.after(10) == 1
    # Cleared with all behind it: what was submitted before may not be counted yet.
    world.airflow.set(gate(0), "deferred", submit=None)
    again = world.wait(first.gate)
    assert await world.after(COUNTED_AFTER - 1) == 1
    assert await world.after(2) == 0
    world.let_pass(again)
    world.airflow.set(gate(0), "success", submit=None)
    assert await world.after(600) == 1


@scenario
async def test_what_was_submitted_before_a_gate_was_cleared_and_passed_again_may_not_be_counted_yet(world: World):
    first = await passed(world)
    world.airflow.set(gate(0), "success", submit="success")
    assert await world.after(10) == 1
    world.airflow.set(gate(0), "deferred", submit=None)
    again = world.wait(first.gate)
    assert await world.after(1) == 1
    world.let_pass(again)
    world.airflow.set(gate(0), "success", submit="running")
    assert await world.after(1) == 2
    assert await world.after(COUNTED_AFTER) == 1


@scenario
async def test_an_answer_that_was_asked_for_before_a_gate_passed_takes_no_claim_away(world: World):
    """Such an answer still calls it deferred, as it does a gate that was cleared and waits anew."""
    world.wait(gate(0, run="another"))
    waiting = world.wait(gate(0))
    await world.look()
    late = world.airflow.late = asyncio.Event()
    looking = asyncio.ensure_future(world.look())
    await asyncio.sleep(1)
    world.let_pass(waiting)
    world.airflow.set(gate(0), "success", submit=None)
    await asyncio.sleep(2 * FOLLOW_EVERY)
    late.set()
    assert (await looking).jobs == 1
    assert await world.after(600) == 1


@scenario
async def test_a_gate_that_was_cleared_and_waits_in_another_triggerer_no_longer_claims(world: World):
    await passed(world)
    world.airflow.set(gate(0), "success", submit="running")
    assert await world.after(10) == 1
    world.airflow.set(gate(0), "deferred", submit=None)
    assert await world.after(0) == 1
    assert await world.after(COUNTED_AFTER + 1) == 0


@scenario
async def test_gates_that_stand_before_one_submission_do_not_wait_for_each_other_for_ever(world: World):
    """``gate.expand() >> submit.expand()``: no submission starts before the last gate has passed."""
    both = {"submitted_by": {"submit": False}}
    waiting = world.wait(gate(0), **both)
    world.wait(gate(1), **both)
    await world.look()
    world.let_pass(waiting)
    world.airflow.set(gate(0), "success")
    assert await world.after(TTL - 1) == 1
    assert await world.after(2) == 0


@scenario
async def test_gates_of_different_accounts_before_one_submission_hold_their_claims(world: World):
    both = {"submitted_by": {"submit": False}}
    waiting = world.wait(gate(0), **both)
    world.wait(gate(1), account=("https://h", "bob"), **both)
    await world.look()
    world.let_pass(waiting)
    world.airflow.set(gate(0), "success")
    assert await world.after(600) == 1


# The claims of others


def elsewhere(state: str | None = None, **given: Any) -> Scenario:
    async def run(world: World) -> None:
        world.airflow.set(gate(7), "success", submit=state)
        world.wait(gate(0), **given)

    return run


@pytest.mark.parametrize(("state", "claimed"), [(None, 1), ("queued", 1), ("running", 1), ("skipped", 0)])
def test_a_gate_of_the_same_run_that_passed_before_a_restart_is_a_claim_until_its_submission_has_ended(
    state, claimed
):
    @scenario
    async def run(world: World) -> None:
        await elsewhere(state)(world)
        assert await world.after(0) == claimed
        assert await world.after(60) == claimed
        assert world.submissions.hold(next(iter(world.submissions.waiting._by_dag["dag"])), now()) == ""
        world.airflow.set(gate(7), "success", submit="success")
        assert await world.after(0) == claimed
        assert await world.after(COUNTED_AFTER + 1) == 0

    run()


@scenario
async def test_a_submission_that_had_ended_when_its_run_was_met_is_no_claim_but_the_run_waits(world: World):
    world.airflow.set(gate(7), "success", submit="success")
    waiting, other = world.wait(gate(0)), world.wait(gate(0, run="other"))
    assert await world.after(0) == 0
    met = now()
    assert "has submitted before" in world.submissions.hold(waiting, met)
    assert "has submitted before" in world.submissions.hold(waiting, met + COUNTED_AFTER - 1)
    assert world.submissions.hold(waiting, met + COUNTED_AFTER) == ""
    assert world.submissions.hold(other, met) == ""
    # Met once, it is known from then on.
    assert await world.after(600) == 0
    assert world.submissions.hold(waiting, now()) == ""


@scenario
async def test_a_gate_that_passes_elsewhere_meanwhile_claims_and_is_noticed(world: World):
    world.wait(gate(0))
    assert await world.after(0) == 0
    assert world.submissions.seen_elsewhere == 0.0
    world.airflow.set(gate(7), "success", submit=None)
    assert await world.after(60) == 1
    assert world.submissions.seen_elsewhere == now()
    # Passed and submitted between two looks: counted until the cluster does.
    world.airflow.set(gate(8), "success", submit="success")
    assert await world.after(60) == 2
    assert await world.after(COUNTED_AFTER + 1) == 1


@scenario
async def test_claims_of_others_are_followed_when_the_last_gate_of_their_run_has_left(world: World):
    world.wait(gate(0, run="other"))
    waiting = world.wait(gate(0))
    world.airflow.set(gate(7), "success", submit=None)
    assert await world.after(0) == 1
    waiting.leave.close()
    assert await world.after(2 * TTL) == 1
    world.airflow.set(gate(7), "success", submit="skipped")
    assert await world.after(0) == 0


@scenario
async def test_what_passes_here_is_not_taken_for_another_triggerers(world: World):
    await passed(world)
    await world.after(60)
    assert world.submissions.seen_elsewhere == 0.0


@scenario
async def test_claims_of_others_count_as_the_waiting_gates_of_their_task_have_them(world: World):
    bob = ("https://h", "bob")
    world.airflow.set(gate(7), "success", submit=None)
    world.wait(gate(0), jobs=2)
    world.wait(gate(1), jobs=5, account=bob)
    await world.look()
    # Nobody knows which of both it asked about: it counts for each, and with the largest number.
    assert (await world.look()).jobs == 5
    assert (await world.look(bob)).jobs == 5


@scenario
async def test_a_gate_that_only_watches_neither_claims_nor_asks_nor_is_held(world: World):
    world.airflow.set(gate(7), "success", submit="success")
    waiting = world.wait(gate(0), jobs=0)
    assert await world.after(0) == 0
    assert world.airflow.questions == []
    assert world.submissions.hold(waiting, now()) == ""


@scenario
async def test_until_airflow_has_answered_once_a_gate_stays_shut_but_not_for_ever(world: World):
    world.airflow.error = RuntimeError("API_SERVER_ERROR")
    waiting = world.wait(gate(0))
    assert await world.after(0) == 0
    assert "has not said yet" in world.submissions.hold(waiting, now())
    assert await world.after(TTL) == 0
    assert world.submissions.hold(waiting, now()) == ""


# What is asked


@scenario
async def test_one_question_a_dag_and_look_names_all_that_is_known_of_it(world: World):
    for run in range(200):
        world.wait(gate(0, run=f"run {run}"))
    world.wait(gate(0, task="second"), submitted_by={"other": True})
    world.wait(gate(0, dag="another"))
    await world.look()
    assert sorted(dag for dag, _, _ in world.airflow.questions) == ["another", "dag"]
    (_, runs, tasks) = next(question for question in world.airflow.questions if question[0] == "dag")
    assert runs == {"run", *(f"run {run}" for run in range(200))}
    assert tasks == {"gate", "submit", "second", "other"}


@scenario
async def test_what_was_heard_after_a_look_was_made_is_not_asked_again_for_gates_that_arrive(world: World):
    world.wait(gate(0))
    at = now()
    await world.submissions.hear(ACCOUNT, at)
    world.wait(gate(1))
    await world.submissions.hear(ACCOUNT, at)
    assert len(world.airflow.questions) == 1
    world.wait(gate(1, run="another"))
    await world.submissions.hear(ACCOUNT, at)
    assert len(world.airflow.questions) == 2


@scenario
async def test_while_a_claim_waits_for_the_end_of_a_submission_it_is_asked_after_every_five_seconds(world: World):
    await passed(world)
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
    await passed(world)
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
    await world.look()
    world.let_pass(waiting)
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
    looking = asyncio.ensure_future(world.look())
    await asyncio.sleep(1)
    looking.cancel()
    await asyncio.gather(looking, return_exceptions=True)
    assert (await asyncio.wait_for(world.look(), 3600)).jobs == 0
    assert "no answer within 30 s" in world.submissions.trouble
    assert len(world.airflow.questions) == 1
    world.airflow.answers.set()
    await world.look()
    assert world.submissions.trouble == ""
    assert world.airflow.cancelled == 0


@scenario
async def test_a_question_that_is_never_answered_does_not_end_the_asking(world: World):
    world.wait(gate(0))
    world.airflow.answers.clear()
    await world.look()
    await world.look()
    world.airflow.answers = asyncio.Event()
    world.airflow.answers.set()
    await world.look()
    assert world.submissions.trouble == ""
    assert len(world.airflow.questions) == 2


@scenario
async def test_runs_of_which_nothing_is_heard_any_more_are_forgotten(world: World):
    for number in range(50):
        waiting = world.wait(gate(0, run=f"run {number}"))
        await world.look()
        world.let_pass(waiting)
        world.airflow.set(gate(0, run=f"run {number}"), "success", submit="success")
        assert await world.after(60) <= 2
    world.wait(gate(0, run="last"))
    await world.after(2 * submissions_module.FORGET_AFTER)
    await world.look()
    assert len(world.submissions._runs["dag"]) == 1


# Gates of the same task that wait in other triggerers


async def asked_while(world: World, happens: Callable[[], Any]) -> None:
    """Let something happen between a question and its answer."""
    await asyncio.sleep(1.0)
    world.airflow.answers.clear()
    hearing = asyncio.ensure_future(world.submissions.hear(ACCOUNT, now()))
    await asyncio.sleep(0.1)
    happens()
    world.airflow.answers.set()
    await hearing


def may_pass(world: World, waiting: Waiting, room: int, look_at: float | None = None) -> bool:
    return not world.submissions.turn(waiting, look_at or now(), lambda others: others < room)


@scenario
async def test_a_gate_waits_for_those_that_come_first_and_wait_elsewhere(world: World):
    ours = world.wait(gate(5))
    for index in (2, 7):
        world.airflow.set(gate(index), "deferred", submit=None)
    await world.look()
    assert not may_pass(world, ours, room=1)
    assert may_pass(world, ours, room=2, look_at=now() + 1)


@scenario
async def test_gates_that_arrive_while_airflow_answers_hide_none_of_those_elsewhere(world: World):
    ours = world.wait(gate(5))
    world.airflow.set(gate(2), "deferred", submit=None)
    await asked_while(world, lambda: world.wait(gate(9)))
    assert not may_pass(world, ours, room=1)


@scenario
async def test_what_has_just_passed_here_is_no_gate_that_waits_elsewhere(world: World):
    ours, first = world.wait(gate(5)), world.wait(gate(2))
    await world.look()
    world.let_pass(first)
    # Airflow has not heard of it yet.
    await world.look()
    assert may_pass(world, ours, room=1)


@scenario
async def test_a_gate_that_passed_elsewhere_and_ends_on_a_worker_claims_already(world: World):
    world.wait(gate(5))
    world.airflow.set(gate(2), "deferred", submit=None)
    assert (await world.look()).jobs == 0
    for state in ("scheduled", "queued", "running"):
        world.airflow.set(gate(2), state, submit=None)
        assert (await world.look()).jobs == 1
    world.airflow.set(gate(2), "success", submit="running")
    assert (await world.look()).jobs == 1
    world.airflow.set(gate(2), "success", submit="success")
    assert (await world.look()).jobs == 1
    assert await world.after(COUNTED_AFTER + 1) == 0


@scenario
async def test_a_gate_that_failed_elsewhere_claims_nothing(world: World):
    world.wait(gate(5))
    world.airflow.set(gate(2), "deferred", submit=None)
    await world.look()
    world.airflow.set(gate(2), "running", submit=None)
    assert (await world.look()).jobs == 1
    world.airflow.set(gate(2), "failed", submit="upstream_failed")
    assert (await world.look()).jobs == 0


@scenario
async def test_a_gate_that_is_held_here_takes_nobodys_turn(world: World):
    ours = world.wait(gate(5, run="run 2"))
    held = world.wait(gate(1, run="run 1"))
    world.airflow.set(gate(8, run="run 2"), "deferred", submit=None)
    world.airflow.set(gate(0, run="run 1"), "success", submit="success")
    await world.look()
    at = now()
    assert world.submissions.hold(held, at)
    assert may_pass(world, ours, room=1, look_at=at)

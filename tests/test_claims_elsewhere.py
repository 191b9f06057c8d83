# SPDX-License-Identifier: Apache-2.0
"""What a triggerer learns of gates, claims and submissions in other triggerers, and in runs of which no gate waits here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from airflow_provider_scnet.claims import ledger as ledger_module
from airflow_provider_scnet.claims.waiting import WaitingGate

from ledger_world import ACCOUNT, COUNTED_AFTER, TTL, WITNESS, Scenario, World, gate, now, opened, scenario

# The claims of others


def elsewhere(state: str | None = None, **given: Any) -> Scenario:
    async def run(world: World) -> None:
        world.airflow.set(gate(7), "success", submit=state)
        world.first = world.wait(gate(0), **given)

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
        assert world.held(world.first) == ""
        if claimed:
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
    assert "has submitted before" in world.held(waiting, met)
    assert "has submitted before" in world.held(waiting, met + COUNTED_AFTER - 1)
    assert world.held(waiting, met + COUNTED_AFTER) == ""
    assert world.held(other, met) == ""
    # Met once, it is known from then on.
    assert await world.after(600) == 0
    assert world.held(waiting, now()) == ""


@scenario
async def test_a_gate_that_passes_elsewhere_meanwhile_claims_and_is_noticed(world: World):
    world.wait(gate(0))
    assert await world.after(0) == 0
    assert not world.ledger.opened_elsewhere_since(ACCOUNT, 0.0)
    world.airflow.set(gate(7), "success", submit=None)
    assert await world.after(60) == 1
    assert world.ledger.opened_elsewhere_since(ACCOUNT, now() - 0.1)
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
    assert await world.after(60) == 1
    world.airflow.set(gate(7), "success", submit="skipped")
    assert await world.after(0) == 0


@scenario
async def test_what_passes_here_is_not_taken_for_another_triggerers(world: World):
    await opened(world)
    await world.after(60)
    assert not world.ledger.opened_elsewhere_since(ACCOUNT, 0.0)


@scenario
async def test_claims_of_others_count_as_the_waiting_gates_of_their_task_have_them(world: World):
    bob = ("https://h", "bob")
    world.airflow.set(gate(7), "success", submit=None)
    world.wait(gate(0), jobs=2)
    world.wait(gate(1), jobs=5, account=bob)
    await world.poll()
    # Nobody knows which of both it asked about: it counts for each, and with the largest number.
    assert (await world.poll()).jobs == 5
    assert (await world.poll(bob)).jobs == 5


@scenario
async def test_a_gate_that_only_watches_neither_claims_nor_asks_nor_is_held(world: World):
    world.airflow.set(gate(7), "success", submit="success")
    waiting = world.wait(gate(0), jobs=0)
    assert await world.after(0) == 0
    assert world.airflow.questions == []
    assert world.held(waiting, now()) == ""


@scenario
async def test_until_airflow_has_answered_once_a_gate_stays_shut_but_not_for_ever(world: World):
    world.airflow.error = RuntimeError("API_SERVER_ERROR")
    waiting = world.wait(gate(0))
    assert await world.after(0) == 0
    assert "has not said yet" in world.held(waiting, now())
    assert await world.after(TTL) == 0
    assert world.held(waiting, now()) == ""


@scenario
async def test_a_claim_is_dropped_with_its_run_where_all_runs_are_listed(world: World):
    world.wait(gate(-1, run="scheduled__2"))
    waiting = world.wait(gate(-1, run="scheduled__1"))
    await world.poll()
    world.let_through(waiting)
    world.airflow.set(gate(-1, run="scheduled__1"), "success", submit="queued")
    assert await world.after(10) == 1
    for task in ("gate", "submit"):
        del world.airflow.found["dag", "scheduled__1", task, -1]
    assert await world.after(10) == 0


# Runs of which no gate waits here


@scenario
async def test_claims_of_runs_of_which_no_gate_waits_here_count_as_those_of_others(world: World):
    world.wait(gate(-1, run="scheduled__3"))
    world.airflow.set(gate(-1, run="scheduled__1"), "success", submit="running")
    world.airflow.set(gate(-1, run="scheduled__0"), "success", submit="success")
    assert await world.after(0) == 1
    # One that came and went between two polls.
    world.airflow.set(gate(-1, run="scheduled__4"), "success", submit="success")
    assert await world.after(30) == 2
    # One that comes later, and waits in another triggerer.
    world.airflow.set(gate(-1, run="scheduled__2"), "deferred", submit=None)
    assert await world.after(30) == 2
    waiting = world.wait(gate(-1, run="scheduled__5"))
    await world.poll()
    assert not may_open(world, waiting, room=2)
    world.airflow.set(gate(-1, run="scheduled__2"), "success", submit="scheduled")
    world.airflow.set(gate(-1, run="scheduled__1"), "success", submit="success")
    assert await world.after(30) == 2
    world.airflow.set(gate(-1, run="scheduled__2"), "success", submit="skipped")
    assert await world.after(COUNTED_AFTER + 5) == 0


@scenario
async def test_a_run_of_long_ago_that_is_cleared_and_waits_elsewhere_is_seen_again(world: World):
    ours = world.wait(gate(-1, run="scheduled__2"))
    world.airflow.set(gate(-1, run="scheduled__1"), "success", submit="success")
    await world.poll()
    assert may_open(world, ours, room=1)
    world.airflow.set(gate(-1, run="scheduled__1"), "deferred", submit=None)
    await world.after(10)
    assert not may_open(world, ours, room=1, at=now() + 1)
    world.airflow.set(gate(-1, run="scheduled__1"), "success", submit="running")
    assert await world.after(10) == 1


@scenario
async def test_runs_that_are_over_are_not_asked_about_again(world: World):
    for number in range(100):
        world.airflow.set(gate(-1, run=f"scheduled__{number}"), "success", submit="success")
    world.wait(gate(-1))
    await world.poll()
    world.airflow.questions.clear()
    await world.after(60)
    assert [runs for _, runs, _ in world.airflow.questions] == [{"run"}]


@scenario
async def test_after_a_restart_gates_wait_until_what_ended_before_is_counted(world: World):
    world.airflow.set(gate(-1, run="scheduled__1"), "success", submit="success")
    moved = world.wait(gate(-1, run="scheduled__2"), waited=40.0)
    await world.poll()
    assert "may not be counted yet" in world.held(moved)
    assert world.held(moved, now() + COUNTED_AFTER) == ""


@scenario
async def test_a_new_gate_of_a_dag_with_a_history_does_not_wait_for_what_ended_long_ago(world: World):
    world.airflow.set(gate(-1, run="scheduled__1"), "success", submit="success")
    waiting = world.wait(gate(-1, run="scheduled__2"))
    await world.poll()
    assert world.held(waiting) == ""


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no DAG have so few runs that they can be listed."""
    monkeypatch.setattr(ledger_module, "MOST_LISTED", 0)


def test_where_there_are_too_many_runs_to_list_their_submissions_are_counted(many):
    @scenario
    async def run(world: World) -> None:
        world.wait(gate(-1, run="scheduled__1"))
        for number in range(3):
            world.airflow.set(gate(-1, run=f"another {number}"), "success", submit="scheduled")
        assert await world.after(0) == 3
        assert None not in [runs for _, runs, _ in world.airflow.questions]
        # One has started, one has ended, one has come and gone since.
        world.airflow.set(gate(-1, run="another 0"), "success", submit="running")
        world.airflow.set(gate(-1, run="another 1"), "success", submit="success")
        world.airflow.set(gate(-1, run="another 3"), "success", submit="success")
        assert await world.after(10) == 4
        assert await world.after(COUNTED_AFTER) == 2
        # What opens here is not counted twice.
        waiting = world.wait(gate(-1, run="scheduled__2"))
        await world.poll()
        world.let_through(waiting)
        world.airflow.set(gate(-1, run="scheduled__2"), "success", submit="scheduled")
        assert await world.after(10) == 3

    run()


def test_where_there_are_too_many_runs_to_list_their_gates_get_their_share_of_the_room(many):
    @scenario
    async def run(world: World) -> None:
        ours = [world.wait(gate(-1, run=f"scheduled__{number}")) for number in range(10)]
        for number in range(30):
            world.airflow.set(gate(-1, run=f"another {number}"), "deferred", submit=None)
        await world.poll()
        found = []
        for number in range(200):
            at = now() + number
            found.append(sum(may_open(world, each, room=6, at=at) for each in ours))
        # A quarter of the gates: one or two of six places, one and a half on average.
        assert set(found) == {1, 2}
        assert 1.3 < sum(found) / len(found) < 1.7

    run()


# Gates of the same task that wait in other triggerers


async def asked_while(world: World, happens: Callable[[], Any]) -> None:
    """Let something happen between a question and its answer."""
    await asyncio.sleep(1.0)
    world.airflow.answers.clear()
    hearing = asyncio.ensure_future(world.ledger.refresh(ACCOUNT, now()))
    await asyncio.sleep(0.1)
    happens()
    world.airflow.answers.set()
    await hearing


def may_open(world: World, waiting: WaitingGate, room: int, at: float | None = None) -> bool:
    return not world.ledger.reason_to_wait(waiting, now() if at is None else at, lambda others: others < room)


@scenario
async def test_a_gate_waits_for_those_that_come_first_and_wait_elsewhere(world: World):
    ours = world.wait(gate(5))
    for index in (2, 7):
        world.airflow.set(gate(index), "deferred", submit=None)
    await world.poll()
    assert not may_open(world, ours, room=1)
    assert may_open(world, ours, room=2, at=now() + 1)


@scenario
async def test_gates_that_arrive_while_airflow_answers_hide_none_of_those_elsewhere(world: World):
    ours = world.wait(gate(5))
    world.airflow.set(gate(2), "deferred", submit=None)
    await asked_while(world, lambda: world.wait(gate(9)))
    assert not may_open(world, ours, room=1)


@scenario
async def test_what_has_just_passed_here_is_no_gate_that_waits_elsewhere(world: World):
    ours, first = world.wait(gate(5)), world.wait(gate(2))
    await world.poll()
    world.let_through(first)
    # Airflow has not heard of it yet.
    await world.poll()
    assert may_open(world, ours, room=1)


@scenario
async def test_a_gate_that_passed_elsewhere_and_ends_on_a_worker_claims_already(world: World):
    world.wait(gate(5))
    world.airflow.set(gate(2), "deferred", submit=None)
    assert (await world.poll()).jobs == 0
    for state in ("scheduled", "queued", "running"):
        world.airflow.set(gate(2), state, submit=None)
        assert (await world.poll()).jobs == 1
    world.airflow.set(gate(2), "success", submit="running")
    assert (await world.poll()).jobs == 1
    world.airflow.set(gate(2), "success", submit="success")
    assert (await world.poll()).jobs == 1
    assert await world.after(COUNTED_AFTER + 1) == 0


@scenario
async def test_a_gate_that_failed_here_and_ends_on_a_worker_claims_nothing(world: World):
    world.wait(WITNESS, submitted_by={"another": True})
    waiting = world.wait(gate(), submitted_by={})
    await world.poll()
    waiting.leave.close()
    # Its event is under way, and Airflow still calls it deferred.
    assert await world.after(1) == 0
    world.airflow.set(waiting.gate, "scheduled")
    assert await world.after(1) == 0
    world.airflow.set(waiting.gate, "failed")
    assert await world.after(1) == 0


@scenario
async def test_a_gate_that_airflow_gives_to_another_triggerer_keeps_its_place_before_those_here(world: World):
    second = world.wait(gate(1))
    first = WaitingGate(gate(0), jobs=1, ttl=TTL, account=ACCOUNT, tasks=second.tasks)
    world.airflow.set(first.gate, "deferred", submit=None)
    holding = world.hold(first)
    await world.poll()
    assert may_open(world, second, room=1)
    # The gate is still deferred, and waits elsewhere.
    holding.cancel()
    await world.poll()
    assert not may_open(world, second, room=1)
    # Until it opens there, and ends on a worker: then it claims.
    world.airflow.set(first.gate, "scheduled", submit=None)
    assert (await world.poll()).jobs == 1
    assert may_open(world, second, room=1)


@scenario
async def test_a_gate_that_failed_elsewhere_claims_nothing(world: World):
    world.wait(gate(5))
    world.airflow.set(gate(2), "deferred", submit=None)
    await world.poll()
    world.airflow.set(gate(2), "running", submit=None)
    assert (await world.poll()).jobs == 1
    world.airflow.set(gate(2), "failed", submit="upstream_failed")
    assert (await world.poll()).jobs == 0


@scenario
async def test_a_gate_that_is_held_here_takes_nobodys_turn(world: World):
    ours = world.wait(gate(5, run="run 2"))
    held = world.wait(gate(1, run="run 1"))
    world.airflow.set(gate(8, run="run 2"), "deferred", submit=None)
    world.airflow.set(gate(0, run="run 1"), "success", submit="success")
    await world.poll()
    at = now()
    assert world.held(held, at)
    assert may_open(world, ours, room=1, at=at)


# Gates that come, go and move


@scenario
async def test_a_gate_that_set_one_of_its_clusters_aside_keeps_its_place_when_it_moves(world: World):
    second = world.wait(gate(1))
    await world.poll()
    other = WaitingGate(gate(0), jobs=1, ttl=TTL, account=ACCOUNT, tasks=second.tasks)
    aside = WaitingGate(gate(0), jobs=1, ttl=TTL, account=("https://h2", "alice"), tasks=second.tasks)
    world.airflow.set(gate(0), "deferred", submit=None)

    holding = world.hold(other)
    await world.poll()
    with world.ledger.kept(aside):
        pass
    holding.cancel()
    await world.poll()
    assert not may_open(world, second, room=1)


@scenario
async def test_a_gate_that_was_marked_by_hand_and_still_waits_here_hides_none_elsewhere(world: World):
    ours, marked = world.wait(gate(5)), world.wait(gate(6))
    world.airflow.set(gate(2), "deferred", submit=None)
    await world.poll()
    assert not may_open(world, ours, room=1)
    # Its trigger is cancelled a moment later.
    world.airflow.set(marked.gate, "failed", submit="upstream_failed")
    await world.poll()
    assert not may_open(world, ours, room=1)


@scenario
async def test_a_gate_that_opened_elsewhere_claims_although_it_still_waits_here(world: World):
    """A triggerer that was silent for long: its gates were given to another one, and it has not heard of that."""
    world.wait(gate(5))
    world.wait(gate(6))
    await world.poll()
    world.airflow.set(gate(6), "success", submit="queued")
    assert (await world.poll(gate=gate(5))).jobs == 1


@scenario
async def test_a_gate_that_failed_here_and_is_tried_again_elsewhere_has_its_place(world: World):
    ours, failed = world.wait(gate(5)), world.wait(gate(2))
    await world.poll()
    failed.leave.close()
    world.airflow.set(gate(2), "up_for_retry", submit=None)
    await world.after(5)
    world.airflow.set(gate(2), "deferred", submit=None)
    await world.after(5)
    assert not may_open(world, ours, room=1)


@scenario
async def test_a_gate_that_opened_here_was_cleared_unseen_and_waits_elsewhere_has_its_place(world: World):
    first = world.wait(gate(2))
    await world.poll()
    world.let_through(first)
    # Nobody waits here, so nobody asks.
    await asyncio.sleep(1200)
    world.airflow.set(gate(2), "deferred", submit=None)
    ours = world.wait(gate(5))
    for _ in range(2):
        assert await world.after(60, gate(5)) == 0
    assert not may_open(world, ours, room=1)


@scenario
async def test_a_gate_elsewhere_that_failed_on_its_worker_and_waits_again_claims_nothing(world: World):
    world.wait(gate(5))
    world.wait(WITNESS, submitted_by={"another": True})
    world.airflow.set(gate(2), "deferred", submit=None)
    await world.poll()
    for state in ("running", "up_for_retry", "running", "deferred"):
        world.airflow.set(gate(2), state, submit=None)
        await world.after(60)
    # Submissions behind other gates of the task go on to start, which would keep a claim of one that waits alive.
    for number in range(20):
        world.airflow.set(gate(10 + number), "success", submit="running")
        await world.after(60)
        world.airflow.set(gate(10 + number), "success", submit="skipped")
        assert (await world.poll(gate=WITNESS)).jobs == 0


@scenario
async def test_a_gate_elsewhere_that_was_cleared_and_waits_again_claims_nothing(world: World):
    world.wait(gate(5))
    world.airflow.set(gate(2), "deferred", submit=None)
    await world.poll()
    world.airflow.set(gate(2), "queued", submit=None)
    await world.after(30)
    world.airflow.set(gate(2), "deferred", submit=None)
    await world.after(1)
    assert await world.after(COUNTED_AFTER + 1, gate(5)) == 0


@pytest.mark.parametrize("submit", [{"submit": "success"}, {}])
def test_a_gate_that_was_cleared_and_opens_again_elsewhere_claims_again(submit):
    @scenario
    async def run(world: World) -> None:
        ours = world.wait(gate(5), submitted_by=dict.fromkeys(submit, True))
        world.airflow.set(gate(2), "deferred", **dict.fromkeys(submit))
        await world.poll()
        world.airflow.set(gate(2), "success", **submit)
        assert await world.after(10) == 1
        world.airflow.set(gate(2), "deferred", **dict.fromkeys(submit))
        await world.after(10)
        assert await world.after(2 * TTL) == 0
        assert not may_open(world, ours, room=1)
        # It opens and submits between two polls.
        world.airflow.set(gate(2), "success", **submit)
        assert await world.after(60) == 1
        assert await world.after(TTL + 1) == 0

    run()


@scenario
async def test_a_gate_that_was_cleared_and_ends_on_a_worker_elsewhere_claims_again(world: World):
    world.wait(gate(5))
    world.airflow.set(gate(2), "success", submit="success")
    await world.poll()
    world.airflow.set(gate(2), "deferred", submit=None)
    assert await world.after(600) == 0
    world.airflow.set(gate(2), "queued", submit=None)
    assert await world.after(60) == 1


@scenario
async def test_a_submission_whose_upstream_somebody_mends_claims_when_it_has_run(world: World):
    world.wait(gate(5))
    world.airflow.set(gate(2), "deferred", submit=None)
    await world.poll()
    world.airflow.set(gate(2), "success", submit="upstream_failed")
    assert await world.after(60) == 0
    # What failed is cleared; the submission runs between two polls.
    world.airflow.set(gate(2), "success", submit="success")
    assert await world.after(60) == 1


@scenario
async def test_a_gate_that_arrives_on_an_older_observation_counts_what_opened_elsewhere_since(world: World):
    first = world.wait(gate(0))
    await asyncio.sleep(1)
    at = now()
    await world.ledger.refresh(ACCOUNT, at)
    world.let_through(first)
    world.airflow.set(gate(0), "success", submit="queued")
    await asyncio.sleep(30)
    world.airflow.set(gate(7), "success", submit="queued")
    newcomer = world.wait(gate(1))
    # Of 30 s ago, and young enough.
    await world.ledger.refresh(ACCOUNT, at)
    assert world.ledger.claimed(ACCOUNT, at, newcomer.gate).jobs == 2


@scenario
async def test_gates_that_come_while_others_let_gates_through_wait_until_what_ended_before_is_counted(
    world: World,
):
    # A moment ago, for all that anybody knows here.
    world.airflow.set(gate(-1, run="scheduled__1"), "success", submit="success")
    world.airflow.set(gate(-1, run="scheduled__2"), "success", submit="running")
    waiting = world.wait(gate(-1, run="scheduled__3"))
    await world.poll()
    assert "may not be counted yet" in world.held(waiting)
    await asyncio.sleep(COUNTED_AFTER)
    await world.poll()
    assert world.held(waiting) == ""


def test_claims_of_gates_that_end_on_a_worker_hide_none_of_those_that_are_only_counted(many):
    @scenario
    async def run(world: World) -> None:
        for number in range(3):
            world.airflow.set(gate(-1, run=f"another {number}"), "success", submit="scheduled")
        for number in range(9):
            world.airflow.set(gate(-1, run=f"old {number}"), "success", submit="skipped")
        world.wait(gate(-1, run="scheduled__9"))
        ours = [world.wait(gate(-1, run=f"scheduled__{number}")) for number in range(2)]
        assert await world.after(0) == 3
        for each in ours:
            world.let_through(each)
            world.airflow.set(each.gate, "queued", submit=None)
        assert await world.after(10) == 5
        assert await world.after(COUNTED_AFTER + 10) == 5

    run()


def test_what_is_added_up_while_submissions_are_counted_is_not_kept(many):
    @scenario
    async def run(world: World) -> None:
        world.wait(gate(-1, run="scheduled__1"))
        for number in range(5):
            world.airflow.set(gate(-1, run=f"old {number}"), "success", submit="skipped")
        await world.poll()
        count, at = world.airflow.count, now() + 0.01

        async def slow(*given: Any) -> int:
            number = await count(*given)
            await asyncio.sleep(0.1)
            # A gate that names the account differently.
            world.ledger.claimed(ACCOUNT, at)
            return number

        world.airflow.count = slow
        world.airflow.set(gate(-1, run="another"), "success", submit="queued")
        await asyncio.sleep(0.02)
        await world.ledger.refresh(ACCOUNT, at)
        assert world.ledger.claimed(ACCOUNT, at).jobs == 1

    run()


def test_after_a_restart_gates_wait_also_where_runs_are_only_counted(many):
    @scenario
    async def run(world: World) -> None:
        world.airflow.set(gate(-1, run="scheduled__1"), "success", submit="success")
        waiting = world.wait(gate(-1, run="scheduled__2"), waited=40.0)
        await world.poll()
        assert "may not be counted yet" in world.held(waiting)

    run()

# SPDX-License-Identifier: Apache-2.0
"""What a process learns of claims that others have made, and what becomes of its own when others write."""

from __future__ import annotations

import asyncio

import pytest

from ledger_world import COUNTED_AFTER, TTL, WITNESS, World, gate, now, opened, scenario

# The claims of others


@pytest.mark.parametrize(
    ("state", "counted"), [(None, 1), ("queued", 1), ("running", 1), ("success", 1), ("skipped", 0)]
)
def test_what_opened_elsewhere_is_a_claim_until_its_submission_has_ended(state, counted):
    @scenario
    async def run(world: World) -> None:
        await opened(world)
        other = World(world.airflow)
        world.airflow.set(gate(0), "success", submit=state)
        assert await other.jobs(WITNESS) == counted
        assert await other.after(COUNTED_AFTER - 1, WITNESS) == counted
        world.airflow.set(gate(0), "success", submit="success")
        if counted and state != "success":
            assert await other.jobs() == 1
            assert await other.after(COUNTED_AFTER - 1) == 1
        if counted:
            assert await other.after(2) == 0

    run()


@scenario
async def test_of_several_processes_each_counts_what_all_have_opened(world: World):
    worlds = [world, *(World(world.airflow) for _ in range(3))]
    for index, each in enumerate(worlds):
        await each.open(gate(index), jobs=index + 1)
    for each in worlds:
        assert await each.jobs(WITNESS) == 1 + 2 + 3 + 4
    # None of them is told what the others ask Airflow: each follows all claims.
    for index in range(4):
        world.airflow.set(gate(index), "success", submit="skipped" if index else "running")
    for each in worlds:
        assert await each.jobs(WITNESS) == 1


@scenario
async def test_a_process_decides_on_what_was_written_until_its_turn(world: World):
    """Its poll has seen nothing of a gate that another opened since."""
    other = World(world.airflow)
    assert await other.jobs() == 0
    await world.open(gate(0))
    counted = []

    def admit():
        counted.append(other.ledger.totals(now()).claimed(gate(1)).jobs)
        return ()

    await other.ledger.decide(admit)
    assert counted == [1]


@scenario
async def test_claims_of_others_count_by_queues(world: World):
    await world.open(gate(0), queue_name="comp", jobs=2)
    await world.open(gate(1), queue_name="debug", jobs=3)
    await world.open(gate(2), jobs=5)
    for each in (world, World(world.airflow)):
        assert (await each.poll(gate(7), "comp")).jobs == 7
        assert (await each.poll(gate(7), "debug")).jobs == 8
        assert (await each.poll(gate(7), "another")).jobs == 5
        assert (await each.poll(gate(7))).jobs == 10


@scenario
async def test_claims_of_others_exempt_the_gates_upstream_and_those_that_the_run_before_waits_for(world: World):
    await opened(world, upstream={"relax": False}, gates=["gate", "first"])
    world.airflow.found["dag", "run", "relax", -1] = "running"
    await world.open(gate(0, dag="daily"), after_past_runs=True)
    world.airflow.set(gate(0, dag="daily"), "success", submit=None)
    other = World(world.airflow)
    assert await other.jobs(WITNESS) == 2
    assert await other.jobs(gate(0, task="first")) == 1
    assert await other.jobs(gate(0, dag="daily", run="another")) == 1
    assert await other.jobs(gate(0, task="first", run="another")) == 2


@scenario
async def test_a_claim_has_no_more_time_elsewhere_than_where_it_was_made(world: World):
    await opened(world, "queued")
    await world.poll()
    # So that its phase is written.
    await world.open(gate(0, dag="another"), submit={}, ttl=1000)
    await world.sleep(TTL - 10)
    other = World(world.airflow)
    assert await other.jobs(WITNESS) == 2
    assert await other.after(10, WITNESS) == 1
    assert await other.jobs(gate(1)) == 2
    assert "does not start" in other.notes()


@scenario
async def test_a_claim_written_by_a_clock_that_is_ahead_lasts_from_now_on_and_no_longer(world: World):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("airflow_provider_scnet.event_loop.clock.wall", lambda: now() + 300)
        await world.open(gate(0), submit={})
    other = World(world.airflow)
    assert await other.jobs() == 1
    assert await other.after(TTL - 1) == 1
    assert await other.after(2) == 0


@scenario
async def test_a_start_that_was_written_by_a_clock_that_is_ahead_was_no_later_than_now(world: World):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("airflow_provider_scnet.event_loop.clock.wall", lambda: now() + 3600)
        await world.open(gate(0), gate(1))
        world.airflow.set(gate(0), "success", submit="running")
        world.airflow.set(gate(1), "success", submit="queued")
        await world.poll()
        await world.open(gate(0, dag="another"), submit={})
    other = World(world.airflow)
    assert await other.jobs(WITNESS) == 3
    assert await other.after(TTL + 2, WITNESS) == 0


@scenario
async def test_a_process_that_comes_back_counts_what_ended_meanwhile_for_as_long_as_the_cluster_may_take(
    world: World,
):
    await opened(world, "running")
    await world.poll()
    await world.open(gate(1))
    # The process ends here. What it let through ends a moment before another one comes.
    world.airflow.set(gate(0), "success", submit="success")
    world.airflow.set(gate(1), "success", submit="success")
    await asyncio.sleep(100)
    restarted = World(world.airflow)
    assert await restarted.jobs() == 2
    assert await restarted.after(COUNTED_AFTER - 1) == 2
    assert await restarted.after(2) == 0


@scenario
async def test_a_process_that_comes_back_does_not_count_what_had_expired_before(world: World):
    await opened(world, "running")
    await world.poll()
    await world.open(gate(1))
    await asyncio.sleep(TTL + 10)
    world.airflow.set(gate(0), "success", submit="success")
    world.airflow.set(gate(1), "success", submit="skipped")
    assert await World(world.airflow).jobs() == 0


@scenario
async def test_a_process_that_comes_back_does_not_count_what_is_written_as_ended_for_longer(world: World):
    await opened(world, "success")
    await world.poll()
    await world.ledger.settle()
    assert [row[3] for row in world.airflow.rows] == ["ended"]
    await world.sleep(COUNTED_AFTER / 2)
    restarted = World(world.airflow)
    assert await restarted.jobs() == 1
    assert await restarted.after(COUNTED_AFTER / 2) == 0


@scenario
async def test_a_gate_that_waits_again_after_a_restart_drops_its_claim_there_too(world: World):
    await world.open(gate(0), gate(1), gate(2))
    world.airflow.set(gate(2), "success", submit="running")
    await world.sleep(15)
    restarted = World(world.airflow)
    # Killed before Airflow took the event; and another that passed, was cleared and deferred anew.
    restarted.wait(gate(0), waited=60)
    restarted.wait(gate(1), waited=1)
    assert await restarted.jobs() == 2
    assert await restarted.after(COUNTED_AFTER) == 1


@scenario
async def test_a_gate_that_two_triggerers_run_for_a_moment_keeps_the_claim_of_the_one_that_opened_it(world: World):
    """Both took it over from one that was killed. Airflow takes the event of the one, and ends the other's wait."""
    other = World(world.airflow)
    await world.open(gate(0), gate(1))
    await world.sleep(1)
    for index in (0, 1):
        other.wait(gate(index), waited=60)
    assert await other.jobs(WITNESS) == 2
    world.airflow.set(gate(0), "success", submit="running")
    del other.waiting[gate(0)]
    assert await other.after(5, WITNESS) == 2
    # Of what Airflow has not heard by then nothing comes.
    assert await other.after(5, WITNESS) == 1


# Claims of one's own that are not as they were left


@scenario
async def test_a_claim_of_ones_own_that_somebody_deleted_counts_all_the_same_and_is_written_again(world: World):
    await opened(world, "running")
    del world.airflow.variables[world.airflow.claims_key]
    # Airflow says of a Variable that it is not there also where its database is away for a moment.
    assert await world.jobs() == 1
    assert "a Variable that was written is not found" in world.notes()
    assert await world.jobs() == 1
    assert world.ledger.has_to_write
    await world.ledger.decide(tuple)
    assert len(world.airflow.rows) == 1
    assert not world.ledger.has_to_write
    assert await World(world.airflow).jobs() == 1


SPOILT = {
    "no JSON": lambda airflow: airflow.variables.update({airflow.claims_key: "{"}),
    "no object": lambda airflow: airflow.variables.update({airflow.claims_key: "[1]"}),
    "no gates": lambda airflow: airflow.edit(lambda found: found.pop("gates")),
    "no claims": lambda airflow: airflow.edit(lambda found: found["gates"][0].pop("claims")),
    "a shorter row": lambda airflow: airflow.edit(lambda found: found["gates"][0]["claims"][0].pop()),
    "negative jobs": lambda airflow: airflow.edit(lambda found: found["gates"][0]["terms"].update(jobs=-5)),
    "no terms": lambda airflow: airflow.edit(lambda found: found["gates"][0].pop("terms")),
    "another phase": lambda airflow: airflow.edit(
        lambda found: found["gates"][0]["claims"][0].__setitem__(3, "no such phase")
    ),
}


@pytest.mark.parametrize("spoil", SPOILT.values(), ids=SPOILT)
def test_a_claim_of_ones_own_that_somebody_spoilt_counts_all_the_same_and_is_written_again(spoil):
    @scenario
    async def run(world: World) -> None:
        await opened(world, "running")
        as_it_was = world.airflow.written
        spoil(world.airflow)
        assert await world.jobs() == 1
        assert world.ledger.has_to_write
        await world.ledger.decide(tuple)
        # But for its phase, it is as it was.
        as_it_was["gates"][0]["claims"][0][3:] = world.airflow.rows[0][3:]
        assert world.airflow.written["gates"][0]["claims"] == as_it_was["gates"][0]["claims"]
        assert world.airflow.written["gates"][0]["terms"] == as_it_was["gates"][0]["terms"]
        assert await World(world.airflow).jobs() == 1

    run()


@scenario
async def test_claims_of_others_that_somebody_deleted_come_back_when_these_write_again(world: World):
    await opened(world, "running")
    other = World(world.airflow)
    assert await other.jobs() == 1
    world.airflow.variables[world.airflow.claims_key] = ""
    assert await other.jobs() == 0
    await world.poll()
    await world.ledger.decide(tuple)
    assert await other.jobs() == 1


@scenario
async def test_what_others_took_back_is_gone(world: World):
    (claim,) = await world.open(gate(0))
    other = World(world.airflow)
    assert await other.jobs() == 1
    # The gate did not open after all.
    world.ledger.withdraw(claim)
    assert await world.jobs() == 0
    assert world.ledger.has_to_write
    assert await other.jobs() == 1
    await world.ledger.decide(tuple)
    assert world.airflow.rows == []
    assert not world.ledger.has_to_write
    assert await other.jobs() == 0
    # Nor does a process that knew of it write it again.
    await other.open(gate(1))
    assert len(world.airflow.rows) == 1
    assert await world.jobs() == 1


@scenario
async def test_a_claim_that_was_taken_back_does_not_come_back_with_a_late_message(world: World):
    (claim,) = await world.open(gate(0))
    written = world.airflow.variables[world.airflow.claims_key]
    world.ledger.withdraw(claim)
    await world.ledger.decide(tuple)
    world.airflow.variables[world.airflow.claims_key] = written
    assert await world.jobs() == 0
    assert world.ledger.has_to_write
    await world.ledger.decide(tuple)
    assert await World(world.airflow).jobs() == 0


# How long claims stay written


@scenario
async def test_a_claim_that_has_ended_stays_written_for_ten_minutes_longer_than_it_counts(world: World):
    """Who decides on an observation that is as old as that still finds it."""
    await opened(world, "success")
    other = World(world.airflow)
    await other.poll()
    await world.poll()
    await world.ledger.settle()
    at = now()
    await other.sleep(COUNTED_AFTER + 600 - 10)
    await other.open(gate(0, dag="another"), submit={})
    assert [row[3] for row in world.airflow.rows] == ["ended", "opening"]
    assert World(world.airflow).is_empty
    # Who has never heard of it finds it on an observation of that time.
    third = World(world.airflow)
    await third.ledger.refresh(at, {})
    assert third.ledger.totals(at).claimed(gate(1)).jobs == 2
    await other.sleep(20)
    await other.open(gate(1, dag="another"), submit={})
    assert [row[3] for row in world.airflow.rows] == ["opening", "opening"]


@scenario
async def test_how_submissions_ended_is_written_down_once_none_is_awaited(world: World):
    await opened(world, "running")
    await world.poll()
    assert world.ledger.is_unsettled
    before = len(world.airflow.messages)
    await world.ledger.settle()
    # Not before, and without asking for a turn.
    assert len(world.airflow.messages) == before
    world.airflow.set(gate(0), "success", submit="success")
    await world.poll()
    assert world.ledger.is_unsettled
    await world.ledger.settle()
    assert [row[3] for row in world.airflow.rows] == ["ended"]
    assert not world.ledger.is_unsettled
    before = len(world.airflow.messages)
    await world.ledger.settle()
    assert len(world.airflow.messages) == before


@scenario
async def test_that_it_cannot_be_written_down_how_submissions_ended_is_worth_one_try(world: World):
    await opened(world, "success")
    await world.poll()
    world.airflow.failures["written"] = RuntimeError("API_SERVER_ERROR")
    await world.ledger.settle()
    assert not world.ledger.is_unsettled
    world.airflow.failures.clear()
    # It is made good when something opens.
    await world.sleep(61)
    await world.open(gate(1))
    assert [row[3] for row in world.airflow.rows] == ["ended", "opening"]

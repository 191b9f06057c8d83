# SPDX-License-Identifier: Apache-2.0
"""Claims as they are written down: read back as they were, for people to read, and harmless whoever edits them."""

from __future__ import annotations

import copy
import json
import math
import random
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_provider_scnet.claims import record
from airflow_provider_scnet.claims.expiry import Phase
from airflow_provider_scnet.claims.ledger import NotDecidedError
from benchmarks import virtual_time

from ledger_world import COUNTED_AFTER, TTL, WITNESS, World, gate, opened, scenario

#: What somebody may write by hand in the place of anything.
SPOILT: list[Any] = [None, True, 0, -1, 1.5, math.nan, math.inf, -math.inf, 1e300, 10**400, "", "x", "1", [], [[]]]
SPOILT += [[None], [["x"]], {}, {"x": None}, {"x": {"x": []}}, "\ud800", "NaN"]


def places(found: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """All places in what is written."""
    keys = found.keys() if isinstance(found, dict) else range(len(found)) if isinstance(found, list) else ()
    return [path, *(place for key in keys for place in places(found[key], (*path, key)))]


def put(found: Any, path: tuple[Any, ...], value: Any) -> Any:
    """What is written, with something else in one place."""
    if not path:
        return value
    found = copy.deepcopy(found)
    inner = found
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return found


async def written_by_all(world: World) -> None:
    """Let claims in all sorts of phases, with all sorts of terms, be written."""
    await opened(world, "running", upstream={"relax": False}, gates=["gate", "first"], after_past_runs=True)
    await world.open(gate(1), upstream={"relax": False}, gates=["gate", "first"], after_past_runs=True)
    world.airflow.set(gate(1), "success", submit=None)
    await world.open(gate(2), submit={"submit": False}, queue_name="comp", jobs=3)
    world.airflow.set(gate(2), "success", submit="queued")
    await world.poll()
    await world.open(gate(-1, dag="other"), submit={})


@scenario
async def test_what_is_written_is_json_that_a_person_can_read(world: World):
    await opened(world, "running", jobs=2)
    await world.poll()
    await world.open(gate(-1, run="scheduled__1"), queue_name="comp")
    found = world.airflow.written
    assert found["format"] == record.FORMAT
    (first, second) = found["gates"]
    assert (first["dag"], first["task"]) == (second["dag"], second["task"]) == ("dag", "gate")
    assert first["terms"]["jobs"] == 2
    assert first["terms"]["ttl"] == TTL
    assert first["terms"]["counted_after"] == COUNTED_AFTER
    assert first["terms"]["tasks"]["submit"] == {"submit": True}
    assert second["terms"]["queue_name"] == "comp"
    ((_, run_id, map_index, phase, *_),) = first["claims"]
    assert (run_id, map_index, phase) == ("run", 0, "started")
    assert second["claims"][0][1:4] == ["scheduled__1", -1, "opening"]


@scenario
async def test_claims_of_one_task_with_the_same_terms_are_written_under_one_heading(world: World):
    await world.open(*map(gate, range(100)))
    assert [len(group["claims"]) for group in world.airflow.written["gates"]] == [100]
    assert len({row[0] for row in world.airflow.rows}) == 100


@scenario
async def test_what_is_written_is_read_back_as_it_was(world: World):
    await written_by_all(world)
    other = World(world.airflow)
    asks = [
        (who, queue)
        for who in (None, WITNESS, gate(5), gate(5, run="another"), gate(task="first"), gate(dag="other"))
        for queue in (None, "comp", "debug")
    ]
    for seconds in (0, 30, TTL - 32, 2, TTL, TTL):
        await world.sleep(seconds)
        for who, queue in asks:
            assert (await other.poll(who, queue)).jobs == (await world.poll(who, queue)).jobs


@scenario
async def test_what_a_process_that_has_read_it_writes_is_the_same(world: World):
    await written_by_all(world)
    before = {row[0]: row for row in world.airflow.rows}
    terms = [group["terms"] for group in world.airflow.written["gates"]]
    other = World(world.airflow)
    await other.open(gate(7, dag="another"))
    after = {row[0]: row for row in world.airflow.rows}
    for id_, row in before.items():
        assert after[id_][:-1] == row[:-1]
        assert after[id_][-1] == pytest.approx(row[-1], abs=0.002)
    assert [group["terms"] for group in world.airflow.written["gates"]][:-1] == terms


@scenario
async def test_neither_variable_holds_a_user_a_token_or_the_name_of_one_in_its_key(world: World):
    await opened(world, "running")
    for key, text in world.airflow.variables.items():
        assert key.startswith(("scnet_claims_", "scnet_turn_"))
        assert not any(part in key for part in ("alice", "https", "/", "@"))
        assert "alice" not in text
        assert "https" not in text
        description = world.airflow.descriptions[key]
        assert "SCnet, user alice at https://h" in description
        assert "May be deleted when no gate waits" in description
    claims, turn = sorted(world.airflow.descriptions.items())
    assert claims[1].startswith("What gates have claimed")
    assert turn[1].startswith("Whose turn it is to decide")
    assert claims[0].removeprefix("scnet_claims_") == turn[0].removeprefix("scnet_turn_")


@scenario
async def test_gates_that_airflow_does_not_know_are_not_written_down(world: World):
    """As in ``dag.test()``: no other process could ask what became of them."""
    claim = world.ledger.claim(None, (await opened(world)).terms)
    world.ledger.keep([claim])
    assert not world.ledger.has_to_write
    await world.open(gate(1))
    assert len(world.airflow.rows) == 2
    assert await world.jobs() == 3
    # It counts for its time alone, and what others write takes it from nobody.
    await World(world.airflow).open(gate(2))
    assert await world.jobs() == 4
    world.airflow.found.clear()
    assert await world.after(TTL - 10) == 1
    assert await world.after(10) == 0


# Edited by hand


@pytest.mark.parametrize(
    "text", ["", " ", "{", "[]", "[1, 2]", "1", "null", "NaN", '"x"', "{}", "[" * 50_000, '{"a":' * 50_000, "\x00"]
)
def test_text_that_is_no_claims_is_nothing(text):
    @scenario
    async def run(world: World) -> None:
        await world.open(gate(0))
        world.airflow.variables[world.airflow.claims_key] = text
        other = World(world.airflow)
        assert await other.jobs() == 0
        assert other.notes() == ""
        await other.open(gate(1))
        assert await world.jobs() == 2
        assert len(world.airflow.rows) == 1

    run()


def _example() -> tuple[dict[str, Any], dict[Any, Any]]:
    found: list[Any] = []

    @scenario
    async def run(world: World) -> None:
        await written_by_all(world)
        found.extend((world.airflow.written, world.airflow.found))

    run()
    written, states = found
    return written, states


EXAMPLE, STATES = _example()
PLACES = places(EXAMPLE)


async def edited(found: Any) -> World:
    """A process with one claim of its own, where this is written."""
    world = World()
    await world.open(gate(40, dag="mine"), submit={})
    world.airflow.found |= STATES
    world.airflow.variables[world.airflow.claims_key] = json.dumps(found)
    return world


@given(st.lists(st.tuples(st.sampled_from(PLACES), st.sampled_from(SPOILT)), min_size=1, max_size=3))
@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
def test_whatever_somebody_writes_in_the_place_of_whatever_stops_nobody(edits):
    found: Any = EXAMPLE
    for path, value in edits:
        try:
            found = put(found, path, value)
        except (KeyError, IndexError, TypeError):
            continue  # an earlier edit has taken that place away

    async def run() -> None:
        world = await edited(found)
        if isinstance(found, dict) and "format" in found and found["format"] != record.FORMAT:
            return
        for each in (world, World(world.airflow)):
            asks = [None, WITNESS, gate(5), gate(5, run="another"), gate(0, task="first"), gate(dag="other")]
            for who in asks:
                for queue in (None, "comp"):
                    claimed = await each.poll(who, queue)
                    assert claimed.jobs >= 0
                    assert str(claimed)
            each.notes()
            await each.open(gate(41 + len(world.airflow.messages), dag="mine"), submit={})
            await each.after(3 * TTL)
            await each.open(gate(40 + len(world.airflow.messages), dag="mine"), submit={})
            json.loads(world.airflow.variables[world.airflow.claims_key])
            # Nothing of it is for ever.
            await each.after(2 * 86_400)
            assert (await each.poll()).jobs == 0

    virtual_time.run(run())


#: Of one claim that waits for a task upstream, and so uses all that is written.
ITS_PLACES = [place for place in PLACES if place[:2] == ("gates", 1) and place[2:4] != ("claims", 0)]


@pytest.mark.parametrize("place", ITS_PLACES, ids=lambda place: "/".join(map(str, place)))
def test_nothing_that_somebody_writes_in_one_place_stops_anybody(place):
    async def run() -> None:
        for value in SPOILT:
            world = await edited(put(EXAMPLE, place, value))
            other = World(world.airflow)
            for who in (WITNESS, gate(5), gate(0, task="first")):
                assert (await other.poll(who, "comp")).jobs >= 0
            await other.open(gate(41, dag="mine"), submit={})

    virtual_time.run(run())


@pytest.mark.parametrize("place", PLACES[1:], ids=lambda place: "/".join(map(str, place)))
def test_whatever_somebody_takes_away_stops_nobody(place):
    async def run() -> None:
        found = copy.deepcopy(EXAMPLE)
        inner: Any = found
        for key in place[:-1]:
            inner = inner[key]
        del inner[place[-1]]
        world = await edited(found)
        for each in (world, World(world.airflow)):
            for who in (WITNESS, gate(5), gate(0, task="first")):
                await each.poll(who)
            each.notes()
            await each.open(gate(41, dag="mine"), submit={})

    virtual_time.run(run())


@pytest.mark.parametrize("number", [0, 2, 99, -1, None, "1", "x", [1], {"x": 1}])
def test_a_format_that_is_not_known_opens_nothing_and_the_log_says_so(number):
    @scenario
    async def run(world: World) -> None:
        await world.open(gate(0))
        world.airflow.edit(lambda found: found.update(format=number))
        as_it_was = world.airflow.variables[world.airflow.claims_key]
        for each in (world, World(world.airflow)):
            await each.poll()
            assert "written by another version of this provider" in each.notes()
            assert "let all triggerers have one version" in each.notes()
            with pytest.raises(NotDecidedError, match="another version of this provider"):
                await each.open(gate(1))
        assert world.airflow.variables[world.airflow.claims_key] == as_it_was
        # What is one's own counts on.
        assert await world.jobs() == 1
        world.airflow.edit(lambda found: found.update(format=record.FORMAT))
        await world.poll()
        assert world.notes() == ""
        await world.open(gate(1))
        assert await world.jobs() == 2

    run()


# Many


def test_ten_thousand_claims_are_read_and_written():
    async def run() -> None:
        chance, world = random.Random(1), World()
        gates = [
            gate(index, run=f"scheduled__2026-01-{number:02}T00:00:00+00:00")
            for number in range(10)
            for index in range(1000)
        ]
        await world.open(*gates)
        for each in gates:
            world.airflow.set(each, "success", submit=chance.choice(["queued", None, "scheduled"]))
        await world.poll()
        world.airflow.set(gate(0, dag="another"), "success", submit="queued")
        await world.open(gate(0, dag="another"))
        text = world.airflow.variables[world.airflow.claims_key]
        assert 500_000 < len(text) < 2_000_000
        assert len(world.airflow.rows) == 10_001
        other = World(world.airflow)
        assert await other.jobs(WITNESS) == 10_001
        (claim,) = await other.open(gate(1, dag="another"))
        assert len(world.airflow.rows) == 10_002
        other.ledger.withdraw(claim)
        await other.ledger.decide(tuple)
        assert len(world.airflow.rows) == 10_001
        assert {row[3] for row in world.airflow.rows} <= {each.value for each in Phase}

    virtual_time.run(run())

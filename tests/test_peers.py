# SPDX-License-Identifier: Apache-2.0
"""Gates of one task in several triggerers: who comes first, and for how long the others wait."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from unittest import mock

import pytest

from airflow_provider_scnet.claims import peers as module
from airflow_provider_scnet.claims.peers import Peers
from airflow_provider_scnet.claims.submission import GateId
from airflow_provider_scnet.claims.waiting import WaitingGate
from benchmarks import simulation
from benchmarks.simulation import Setting

ACCOUNT = ("https://h", "alice")
GATES = GateId("dag", "run", "gate")
#: As the benchmark's on a real engine: room for five in the queue, four slots, looks every 8 s.
SMALL = Setting(triggerers=1, submissions=60, interval=8.0, limit=5, slots=4, run_for=15.0)


#: One run with a mapped group, runs with a group each, runs of one gate.
SHAPES = (1, 6, 60)


@pytest.mark.parametrize("runs", SHAPES)
@pytest.mark.parametrize("triggerers", [1, 2, 3, 5])
def test_triggerers_that_share_nothing_but_airflow_give_out_each_room_once(triggerers: int, runs: int):
    for seed in range(4):
        outcome = simulation.play(dataclasses.replace(SMALL, triggerers=triggerers, runs=runs), seed)
        assert (outcome.submitted, outcome.over_admitted) == (60, 0)
        assert outcome.highest <= 5
        # Of the time of virtual slots: nothing of it depends on the machine.
        assert outcome.idle < 15


@pytest.mark.parametrize("several", [{"queues": 2}, {"clusters": 2}, {"queues": 2, "clusters": 2}])
@pytest.mark.parametrize("triggerers", [1, 2, 3])
def test_room_in_each_of_several_queues_and_clusters_is_given_out_once(triggerers: int, several: dict[str, int]):
    for seed, runs in ((0, 1), (1, 60), (2, 6)):
        outcome = simulation.play(dataclasses.replace(SMALL, triggerers=triggerers, runs=runs, **several), seed)
        assert outcome.submitted == 60
        assert outcome.over_admitted == 0
        assert outcome.highest <= 5


@pytest.mark.parametrize("runs", SHAPES)
@pytest.mark.parametrize("triggerers", [1, 2, 3])
def test_room_is_given_out_once_too_where_gates_come_one_after_another(triggerers: int, runs: int):
    # Many of them decide on an observation that was made before they came.
    given = {"triggerers": triggerers, "runs": runs, "spread": 200.0}
    for seed in range(2):
        outcome = simulation.play(dataclasses.replace(SMALL, **given), seed)
        assert (outcome.submitted, outcome.over_admitted) == (60, 0)


def test_without_an_order_they_give_out_the_same_room_twice():
    """What the simulation is hard on."""
    with mock.patch.object(Peers, "may_open", return_value=True):
        outcomes = [simulation.play(dataclasses.replace(SMALL, triggerers=2), seed) for seed in range(8)]
    assert max(outcome.over_admitted for outcome in outcomes) >= 5


def test_gates_of_a_triggerer_that_has_died_hold_up_nobody_for_long():
    outcome = simulation.play(dataclasses.replace(SMALL, triggerers=2, dead=1))
    alone = simulation.play(dataclasses.replace(SMALL, submissions=30))
    assert outcome.submitted == alone.submitted == 30
    assert outcome.took < alone.took + (module.PATIENCE + 1) * SMALL.interval


@pytest.mark.parametrize(("triggerers", "dead"), [(4, 1), (4, 2)])
def test_where_some_have_died_the_others_give_out_each_room_once(triggerers: int, dead: int):
    for seed in range(4):
        outcome = simulation.play(dataclasses.replace(SMALL, triggerers=triggerers, dead=dead), seed)
        assert outcome.submitted == 60 * (triggerers - dead) // triggerers
        assert outcome.over_admitted <= 1


def world(*here: int, asks: str = "queued < 5") -> tuple[Peers, dict[int, WaitingGate]]:
    """Let gates wait here, by map index."""
    waiting = {index: WaitingGate(GATES.at(index), 1, 180.0, asks=asks, account=ACCOUNT) for index in here}
    return Peers(), waiting


def passing(peers: Peers, waiting: dict[int, WaitingGate], room: int, at: float = 1.0) -> list[int]:
    """Return which of the gates that wait here may open on an observation."""

    def competing() -> Iterator[GateId]:
        return (each.gate for each in waiting.values())

    found = []
    for index, each in waiting.items():
        if peers.may_open(each, at, competing, lambda others: others < room):
            # Asked again, as a gate is that was woken, it is told the same.
            assert peers.may_open(each, at, competing, lambda others: others < room)
            found.append(index)
    return found


def test_as_many_pass_in_all_triggerers_as_there_is_room_for_whatever_the_order_of_their_arrival():
    for room in range(11):
        first, ours = world(4, 2, 0, 7, 9)
        second, theirs = world(8, 1, 3, 6, 5)
        first.note(GATES, list(theirs))
        second.note(GATES, list(ours))
        assert sorted(passing(first, ours, room) + passing(second, theirs, room)) == list(range(room))


def test_where_nobody_waits_elsewhere_there_are_no_turns():
    peers, ours = world(3, 1)
    assert passing(peers, ours, room=1) == [3, 1]
    peers.note(GATES, [0])
    assert passing(peers, ours, room=1) == []
    peers.note(GATES, [])
    assert passing(peers, ours, room=1) == [3, 1]


def test_gates_that_ask_something_else_or_are_of_another_task_do_not_compete():
    peers, ours = world(2)
    peers.note(dataclasses.replace(GATES, task_id="other"), [0])
    assert passing(peers, ours, room=1) == [2]
    peers.note(GATES, [5])
    assert passing(peers, ours, room=1, at=2.0) == [2]


def test_a_gate_that_arrives_on_a_look_that_was_parted_already_waits_for_the_next():
    peers, ours = world(4)
    peers.note(GATES, [5])
    assert passing(peers, ours, room=2) == [4]
    newcomer = dataclasses.replace(ours[4], gate=GATES.at(1))
    assert passing(peers, {1: newcomer}, room=2) == []
    assert passing(peers, {1: newcomer}, room=2, at=2.0) == [1]


def test_the_dates_of_runs_say_who_comes_first_and_not_what_started_them():
    ours = dataclasses.replace(GATES, run_id="scheduled__2026-01-01T00:00:00+00:00")
    theirs = dataclasses.replace(GATES, run_id="backfill__2026-03-01T00:00:00+00:00")
    peers = Peers()
    peers.note(theirs, range(30))
    assert passing(peers, {-1: WaitingGate(ours, 1, 180.0, account=ACCOUNT)}, room=1) == [-1]


def test_nothing_is_left_to_gates_of_a_run_that_is_over():
    peers, ours = world(4)
    earlier = dataclasses.replace(GATES, run_id="an earlier run")
    peers.note(earlier, range(40))
    peers.forget_run("dag", "an earlier run")
    peers.note(GATES, [5])
    assert passing(peers, ours, room=1) == [4]
    assert peers.note(earlier, []) == ()


def test_room_that_nobody_takes_is_left_for_a_few_polls_and_again_once_somebody_does():
    peers, ours = world(8, 9)
    peers.note(GATES, range(4))
    polls = iter(range(100))
    found = [passing(peers, ours, room=2, at=next(polls)) for _ in range(module.PATIENCE + 2)]
    assert found == [*([[]] * module.PATIENCE), [8, 9], [8, 9]]
    # One of them opens; so some are alive, and the next ones are left room again. The other one is passed over.
    peers.note(GATES, range(1, 4))
    assert [passing(peers, ours, room=2, at=next(polls)) for _ in range(3)] == [[], [8, 9], [8, 9]]


def test_whoever_does_not_pass_is_passed_over_while_the_others_are_not():
    peers, ours = world(50)
    left, found = list(range(20)), []
    for look in range(60):
        peers.note(GATES, left)
        found.append(passing(peers, ours, room=1, at=float(look)))
        # Every second one elsewhere passes when it is its turn; the others ask something else.
        left = [place for place in left if place % 2 == 0 or place > look]
    assert [50] in found


def test_somebody_here_passes_once_in_a_while_however_many_come_first():
    peers, ours = world(10_000)
    found = []
    for look in range(4 * module.LONGEST_PATIENCE):
        # At each look others, who pass all of them.
        peers.note(GATES, range(10 * look, 10 * look + 10))
        found.append(passing(peers, ours, room=5, at=float(look)))
    assert found.count([10_000]) == 3


def test_what_stood_at_no_look_for_long_is_forgotten():
    peers, ours = world(1)
    peers.note(GATES, [0])
    passing(peers, ours, room=1, at=5.0)
    peers.forget(4.0)
    assert peers._lines
    peers.forget(5.0)
    assert not peers._lines

# SPDX-License-Identifier: Apache-2.0
"""Gates of one task in several triggerers: who comes first, and for how long the others wait."""

from __future__ import annotations

import dataclasses
from unittest import mock

import pytest

from airflow_provider_scnet.gate import rivals as module
from airflow_provider_scnet.gate.passage import Passage
from airflow_provider_scnet.gate.rivals import Rivals
from airflow_provider_scnet.gate.submission import GateId
from airflow_provider_scnet.gate.waiting import Waiting, WaitingGates
from benchmarks import simulation
from benchmarks.simulation import Setting

ACCOUNT = ("https://h", "alice")
GATES = GateId("dag", "run", "gate")
#: As the benchmark's on a real engine: room for five in the queue, four slots, looks every 8 s.
SMALL = Setting(triggerers=1, submissions=60, interval=8.0, limit=5, slots=4, run_for=15.0)


@pytest.mark.parametrize("triggerers", [1, 2, 3, 5])
def test_triggerers_that_share_nothing_but_airflow_give_out_each_room_once(triggerers: int):
    for seed in range(8):
        outcome = simulation.play(dataclasses.replace(SMALL, triggerers=triggerers), seed)
        assert (outcome.submitted, outcome.over_admitted) == (60, 0)
        assert outcome.highest <= 5
        # Of the time of virtual slots: nothing of it depends on the machine.
        assert outcome.idle < 15


def test_without_turns_they_give_out_the_same_room_twice():
    """What the simulation is hard on."""
    with mock.patch.object(Passage, "_turn", return_value=""):
        outcomes = [simulation.play(dataclasses.replace(SMALL, triggerers=2), seed) for seed in range(8)]
    assert max(outcome.over_admitted for outcome in outcomes) >= 5


def test_gates_of_a_triggerer_that_has_died_hold_up_nobody_for_long():
    outcome = simulation.play(dataclasses.replace(SMALL, triggerers=2, dead=1))
    alone = simulation.play(dataclasses.replace(SMALL, submissions=30))
    assert outcome.submitted == alone.submitted == 30
    assert outcome.took < alone.took + (module.PATIENCE + 2) * SMALL.interval


def world(*here: int, asks: str = "queued < 5") -> tuple[Rivals, dict[int, Waiting]]:
    """Let gates wait here, by map index."""
    gates = WaitingGates()
    waiting = {
        index: Waiting(GATES.at(index), 1, 180.0, {"submit": True}, asks=asks, account=ACCOUNT) for index in here
    }
    for each in waiting.values():
        gates.add(each)
    return Rivals(gates), waiting


def passing(
    rivals: Rivals, waiting: dict[int, Waiting], room: int, look_at: float = 1.0, claimed: int = 0
) -> list[int]:
    """Return which of the gates that wait here may pass on a look."""
    found = []
    for index, each in waiting.items():
        queue = rivals.queue(each, look_at, claimed)
        if queue is None or queue.is_turn_of(each.gate, each.jobs, lambda jobs: jobs < room):
            found.append(index)
    return found


def test_as_many_pass_in_all_triggerers_as_there_is_room_for_whatever_the_order_of_their_arrival():
    first, ours = world(4, 2, 0, 7, 9)
    second, theirs = world(8, 1, 3, 6, 5)
    first.note(GATES, list(theirs))
    second.note(GATES, list(ours))
    for room in range(11):
        look_at = float(room)
        passed = passing(first, ours, room, look_at) + passing(second, theirs, room, look_at)
        assert sorted(passed) == list(range(room))


def test_what_is_claimed_already_is_no_room():
    rivals, ours = world(0, 2, 4)
    rivals.note(GATES, [1, 3])
    assert passing(rivals, ours, room=5, claimed=2) == [0, 2]


def test_several_jobs_a_gate_take_the_room_of_several():
    rivals, ours = world(0, 2, 4)
    rivals.note(GATES, [1, 3])
    for each in ours.values():
        each.jobs = 3
    assert passing(rivals, ours, room=7) == [0, 2]


def test_where_nobody_waits_elsewhere_there_are_no_turns():
    rivals, ours = world(3, 1)
    assert rivals.queue(ours[3], 1.0, 0) is None
    rivals.note(GATES, [0])
    assert rivals.queue(ours[3], 1.0, 0) is not None
    rivals.note(GATES, [])
    assert rivals.queue(ours[3], 1.0, 0) is None


def test_gates_that_ask_something_else_or_of_another_task_do_not_compete():
    rivals, ours = world(0, 1, 2)
    ours[0].asks = "queued < 1"
    rivals.note(dataclasses.replace(GATES, task_id="other"), [0])
    assert rivals.queue(ours[2], 1.0, 0) is None
    rivals.note(GATES, [5])
    assert passing(rivals, {2: ours[2]}, room=2) == [2]


def test_whoever_was_left_room_and_did_not_take_it_is_left_none_until_one_of_them_passes():
    rivals, ours = world(5, 6)
    rivals.note(GATES, [0])
    for look in range(module.PATIENCE):
        assert [rivals.leave(each.gate, look) for each in ours.values()] == [module.AFTER_OTHERS] * 2
    assert rivals.leave(GATES.at(5), module.PATIENCE) == ""
    assert rivals.queue(ours[6], module.PATIENCE, 0) is None
    rivals.passed_elsewhere(GATES.at(0))
    assert rivals.queue(ours[6], module.PATIENCE, 0) is not None


def test_where_others_pass_and_nobody_does_here_one_does_once_in_a_while():
    rivals, ours = world(5, 6)
    rivals.note(GATES, [0, 1])
    for _ in range(2):
        for look in range(module.LONG_PATIENCE):
            assert [rivals.leave(each.gate, look) for each in ours.values()] == [module.AFTER_OTHERS] * 2
            rivals.passed_elsewhere(GATES.at(0))
        # The next one in line does not follow at once.
        assert [rivals.leave(each.gate, -1.0) for each in ours.values()] == ["", module.AFTER_OTHERS]
    for look in range(2 * module.LONG_PATIENCE):
        assert rivals.leave(GATES.at(5), look) == module.AFTER_OTHERS
        rivals.passed_elsewhere(GATES.at(0))
        rivals.passed_here(GATES.at(6))


def test_tasks_none_of_whose_gates_waits_here_are_forgotten():
    gates = WaitingGates()
    rivals = Rivals(gates)
    waiting = Waiting(GATES, 1, 180.0, {}, account=ACCOUNT)
    gates.add(waiting)
    rivals.note(GATES, [1])
    rivals.queue(waiting, 1.0, 0)
    rivals.forget()
    assert rivals._others
    gates.remove(waiting)
    rivals.forget()
    assert not rivals._others
    assert not rivals._queues

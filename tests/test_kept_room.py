# SPDX-License-Identifier: Apache-2.0
"""Gates with several jobs do not starve, and do not hold up others for ever either."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from airflow_provider_scnet.claims import kept_room
from airflow_provider_scnet.claims.kept_room import MOST_OVERTAKEN, KeptRoom
from airflow_provider_scnet.claims.submission import Account, GateId
from airflow_provider_scnet.claims.waiting import WaitingGate
from airflow_provider_scnet.client.job_counts import JobCounts
from airflow_provider_scnet.gate.claimed import Claimed
from airflow_provider_scnet.gate.decision import Verdict, decide
from airflow_provider_scnet.gate.gate import Gate
from benchmarks import alone
from benchmarks.simulation import Overtaken, Setting, overtake

ACCOUNT = ("https://h", "alice")
POLLS = range(1, 2_000)


def waiting(since: float, jobs: int = 1, account: Account = ACCOUNT, priority: int = 0) -> WaitingGate:
    gate = GateId("dag", "run", "big" if jobs > 1 else "small")
    return WaitingGate(gate, jobs=jobs, ttl=180.0, account=account, since=since, priority=priority)


def held_at(room: KeptRoom, big: WaitingGate, small: WaitingGate, polls: Any = POLLS) -> list[int]:
    """Let one be short and another have room at each poll, and return those at which the other waited."""
    held = []
    for at in polls:
        room.note_short(big, at)
        if room.reason_to_wait(small, at):
            held.append(at)
    return held


class TestOneAmongOthers:
    """One gate with five jobs, and 120 with one job that come one after another."""

    def play(self, **given: Any) -> Overtaken:
        setting = Setting(1, submissions=120, limit=5, slots=4, interval=10.0, **given)
        return overtake(setting, jobs=5, every=8.0)

    def test_it_opens_soon_and_no_slot_is_idle_for_it(self):
        found = self.play(run_for=40.0)
        assert found.after is not None
        assert found.by <= 2 * MOST_OVERTAKEN
        assert found.over_admitted == 0
        assert found.idle < 1

    def test_it_would_never_open_if_no_room_were_kept(self, monkeypatch):
        monkeypatch.setattr(kept_room, "MOST_OVERTAKEN", 10**9)
        assert self.play(run_for=40.0).by == 120

    def test_it_opens_too_where_its_room_takes_longer_to_come_than_room_is_kept_at_first(self):
        found = self.play(run_for=400.0)
        assert found.after is not None
        assert found.over_admitted == 0

    def test_both_logs_say_so(self, caplog, monkeypatch):
        monkeypatch.setattr(alone._NOWHERE, "propagate", True)
        with caplog.at_level(logging.INFO, alone.__name__):
            self.play(run_for=40.0)
        said = (
            "room is kept for the 5 jobs of gate (DAG 'dag', run 'scheduled__00000'), which later gates overtook "
            "at 10 polls: they wait until it opens, for as many polls at most"
        )
        assert caplog.messages.count(said) > 1
        assert any(
            message.endswith("waiting, room is kept for gate (DAG 'dag', run 'scheduled__00000')")
            for message in caplog.messages
        )


def test_others_wait_for_it_at_no_more_than_half_of_the_polls():
    held = held_at(KeptRoom(), waiting(1, jobs=5), waiting(2))
    assert held[0] == MOST_OVERTAKEN + 1
    assert all(sum(each <= at for each in held) <= at / 2 for at in POLLS)
    # The sixth time for 32 times as long as the first time.
    assert set(range(941, 1_261)) <= set(held)


def test_who_came_first_or_is_more_urgent_or_submits_nothing_or_asks_about_another_queue_does_not_wait_for_it():
    room, big = KeptRoom(), waiting(1, jobs=5, account=(*ACCOUNT, "comp"))
    assert held_at(room, big, waiting(2, account=(*ACCOUNT, "comp")), range(1, 13))
    at = 12
    for other in (
        waiting(0, account=(*ACCOUNT, "comp")),
        waiting(2, account=(*ACCOUNT, "comp"), priority=1),
        waiting(2, account=(*ACCOUNT, "debug")),
        waiting(2, account=("https://h", "bob")),
        big,
    ):
        assert room.reason_to_wait(other, at) == ""
    # Jobs of which only the account is known may be in that queue.
    assert room.reason_to_wait(waiting(2), at) == "room is kept for big (DAG 'dag', run 'run')"
    assert [note.key for note in room.notes(ACCOUNT)] == ["kept room ('https://h', 'alice', 'comp')"]
    assert room.notes(("https://h", "bob")) == []


def test_room_is_kept_for_one_at_a_time_the_first():
    room, first, second, small = KeptRoom(), waiting(1, jobs=5), waiting(2, jobs=4), waiting(3)
    for at in range(1, MOST_OVERTAKEN + 2):
        room.note_short(second, at)
        room.note_short(first, at)
        reason = room.reason_to_wait(small, at)
    assert reason == "room is kept for big (DAG 'dag', run 'run')"
    assert [note for note in room.notes(ACCOUNT) if "the 5 jobs" in note]
    assert room.reason_to_wait(second, at)
    room.forget(first)
    assert room.reason_to_wait(small, at) == room.reason_to_wait(second, at) == ""


def test_one_that_leaves_holds_up_nobody():
    room, big, small = KeptRoom(), waiting(1, jobs=5), waiting(2)
    assert held_at(room, big, small, range(1, MOST_OVERTAKEN + 3))
    room.forget(small)
    assert room.reason_to_wait(waiting(3), MOST_OVERTAKEN + 3)
    room.forget(big)
    assert room.reason_to_wait(small, MOST_OVERTAKEN + 3) == ""


def test_the_next_one_is_overtaken_no_oftener_and_no_less_often_than_the_last_one_was_at_first():
    for polls in (MOST_OVERTAKEN - 1, 2 * MOST_OVERTAKEN):
        room, big, small = KeptRoom(), waiting(1, jobs=5), waiting(3)
        held_at(room, big, small, range(polls))
        # The first opens, although no room is kept for it now.
        assert room.reason_to_wait(big, polls) == ""
        room.forget(big)
        held = held_at(room, waiting(2, jobs=5), small, range(100, 200))
        assert held[0] == 100 + MOST_OVERTAKEN


def test_one_that_leaves_after_its_connection_has_come_to_lead_elsewhere_holds_up_nobody():
    room, big, small = KeptRoom(), waiting(1, jobs=5), waiting(2)
    assert held_at(room, big, small, range(MOST_OVERTAKEN + 1))
    big.account = ("https://h", "bob")
    room.forget(big)
    assert room.reason_to_wait(small, MOST_OVERTAKEN + 1) == ""


def test_an_older_observation_is_no_further_poll():
    room, big, small = KeptRoom(), waiting(1, jobs=5), waiting(2)
    polls = range(2 * MOST_OVERTAKEN)
    held_at(room, big, small, polls[: MOST_OVERTAKEN + 1])
    for at in polls[MOST_OVERTAKEN + 1 :]:
        assert room.reason_to_wait(small, at)
        assert room.reason_to_wait(small, at - 0.5)


def test_a_poll_at_which_several_overtake_counts_once():
    room, big = KeptRoom(), waiting(1, jobs=5)
    for at in range(1, MOST_OVERTAKEN + 1):
        room.note_short(big, at)
        assert not any(room.reason_to_wait(waiting(2), at) for _ in range(20))
    room.note_short(big, at + 1)
    assert room.reason_to_wait(waiting(2), at + 1)


@pytest.mark.parametrize(
    ("condition", "submits", "queued", "claimed", "is_short"),
    [
        ("queued < 5", 5, 3, 0, True),
        ("queued < 5", 5, 0, 0, False),
        ("queued < 5", 5, 5, 0, False),
        ("queued < 5", 1, 4, 1, False),
        ("queued < 5", 5, 3, 1, True),
        ("queued < 5", 5, 3, 2, False),
        ("running + queued < 9", 4, 7, 0, True),
    ],
)
def test_a_gate_is_short_where_there_is_room_for_fewer_jobs_than_its_own(
    condition: str, submits: int, queued: int, claimed: int, is_short: bool
):
    decision = decide(Gate.of(condition, None, submits), JobCounts(queued=queued, running=0), Claimed(claimed))
    assert decision.is_short is is_short
    assert decision.verdict is (Verdict.OPEN if queued == 0 else Verdict.WAIT)

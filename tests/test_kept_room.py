# SPDX-License-Identifier: Apache-2.0
"""Gates with several jobs do not starve, and do not hold up others for ever either."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import pytest

from airflow_provider_scnet.client.job_counts import JobCounts
from airflow_provider_scnet.client.observation import Observation
from airflow_provider_scnet.gate.claimed import Claimed
from airflow_provider_scnet.gate.decision import Verdict, decide
from airflow_provider_scnet.gate.gate import Gate
from airflow_provider_scnet.polling import kept_room
from airflow_provider_scnet.polling.kept_room import MOST_OVERTAKEN, KeptRoom
from airflow_provider_scnet.polling.waiting import WaitingGate
from benchmarks import alone, virtual_time
from benchmarks.simulation import Overtaken, Setting, overtake

from ledger_world import gate

LOG = logging.getLogger(__name__)


def on_a_loop(test: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    """Run a test where gates can wait."""

    def run() -> None:
        async def whole() -> None:
            await test()

        virtual_time.run(whole())

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


def waiting(
    task: str = "small", submits: int = 1, queue_name: str | None = None, priority: int = 1
) -> WaitingGate:
    """A gate that comes after all that have come before."""
    asks = Gate.of("queued < 5", None, submits, queue_name)
    return WaitingGate(asks, LOG, ["x"], id=gate(-1, task=task), priority=priority)


def big(**given: Any) -> WaitingGate:
    return waiting("big", 5, **given)


class Account:
    """
    Polls of an account: one gate that is short, and another that has room for its job at each poll, or would.

    :param short: the gates that are short at each poll
    """

    def __init__(self, *short: WaitingGate) -> None:
        self.room = KeptRoom()
        self.short = list(short)
        self.all = list(short)

    def poll(self, lacks: int = 1, other: WaitingGate | None = None) -> bool:
        """Make a poll, and return whether the other gate was held."""
        other = other or waiting()
        held = bool(self.room.reason_to_wait(other))
        opened = [] if held else [other]
        self.room.learn([(each, lacks) for each in self.short], opened, [*self.all, *self.short, other])
        return held

    def polls(self, lacks: Iterable[int]) -> list[bool]:
        return [self.poll(each) for each in lacks]


class TestOneAmongOthers:
    """One gate with five jobs, and 120 with one job that come one after another."""

    def play(self, every: float = 8.0, **given: Any) -> Overtaken:
        setting = Setting(1, submissions=120, limit=5, slots=4, interval=10.0, **given)
        return overtake(setting, jobs=5, every=every)

    def test_it_opens_soon_and_hardly_a_slot_is_idle_for_it(self):
        found = self.play(run_for=40.0)
        assert found.after is not None
        assert found.by <= 2 * MOST_OVERTAKEN
        assert found.over_admitted == 0
        assert found.idle < 2

    def test_it_would_never_open_if_no_room_were_kept(self, monkeypatch):
        monkeypatch.setattr(kept_room, "MOST_OVERTAKEN", 10**9)
        assert self.play(run_for=40.0).by == 120

    @pytest.mark.parametrize("every", [8.0, 40.0])
    def test_it_opens_too_where_a_job_ends_at_every_third_poll_however_fast_others_come(self, every: float):
        found = self.play(every, run_for=120.0)
        assert found.after is not None
        assert found.over_admitted == 0

    def test_both_logs_say_so(self, caplog, monkeypatch):
        monkeypatch.setattr(alone._NOWHERE, "propagate", True)
        with caplog.at_level(logging.INFO, alone.__name__):
            self.play(run_for=40.0)
        said = (
            "room is kept for the 5 jobs of gate (DAG 'dag', run 'scheduled__00000'), which gates behind it overtook "
            "at 10 polls: they wait while what it lacks becomes less, and for 10 polls without"
        )
        assert caplog.messages.count(said) > 1
        assert any(
            message.endswith("waiting, room is kept for gate (DAG 'dag', run 'scheduled__00000')")
            for message in caplog.messages
        )


@on_a_loop
async def test_room_is_kept_once_a_gate_was_overtaken_at_ten_polls():
    account = Account(big())
    assert account.polls([3] * MOST_OVERTAKEN) == [False] * MOST_OVERTAKEN
    assert account.poll(3)
    assert MOST_OVERTAKEN == 10


@on_a_loop
async def test_a_poll_at_which_nobody_overtakes_it_does_not_count():
    account = Account(big())
    for _ in range(5 * MOST_OVERTAKEN):
        account.room.learn([(account.short[0], 3)], [], account.short)
    assert account.polls([3] * MOST_OVERTAKEN) == [False] * MOST_OVERTAKEN


@on_a_loop
async def test_a_poll_at_which_several_overtake_it_counts_once():
    first = big()
    room, others = KeptRoom(), [waiting() for _ in range(20)]
    for _ in range(MOST_OVERTAKEN):
        assert not any(map(room.reason_to_wait, others))
        room.learn([(first, 3)], others, [first, *others])
    assert all(map(room.reason_to_wait, others))


@on_a_loop
async def test_room_is_kept_while_what_it_lacks_becomes_less_and_for_ten_polls_without():
    account = Account(big())
    account.polls([100] * MOST_OVERTAKEN)
    # It becomes less once in a while, at the last moment each time.
    shrinks = [lacks for step in range(90, 0, -30) for lacks in [step + 1] * (MOST_OVERTAKEN - 1) + [step]]
    assert all(account.polls([*shrinks[MOST_OVERTAKEN - 1 :]]))
    least = shrinks[-1]
    # That it becomes more and less again is no progress.
    assert account.polls([least + 5, least] * 5) == [True] * MOST_OVERTAKEN
    assert not account.poll(least)


@on_a_loop
async def test_where_that_was_in_vain_it_has_to_be_overtaken_twice_as_often_each_time():
    account = Account(big())
    held = account.polls([3] * 1000)
    at = 0
    for times in (10, 20, 40, 80, 160, 320):
        # At the first of them the job of the gate that overtook it last has gone.
        assert held[at : at + times + 11] == [False] * times + [True] * 11
        at += times + 11


@on_a_loop
async def test_where_it_is_short_no_longer_room_is_kept_no_longer_than_for_one_that_does_not_come_on():
    first = big()
    account = Account(first)
    account.polls([3] * MOST_OVERTAKEN)
    account.short = []
    assert account.polls([3] * MOST_OVERTAKEN) == [True] * MOST_OVERTAKEN
    assert not account.poll()


@on_a_loop
async def test_who_is_before_it_or_asks_about_another_queue_does_not_wait_for_it():
    earlier = waiting(queue_name="comp")
    account = Account(big(queue_name="comp"))
    account.polls([3] * MOST_OVERTAKEN)
    reason = account.room.reason_to_wait
    assert reason(waiting(queue_name="comp")) == "room is kept for big (DAG 'dag', run 'run')"
    for other in (
        earlier,
        waiting(queue_name="comp", priority=2),
        waiting(queue_name="debug"),
        account.short[0],
    ):
        assert reason(other) == ""
    # Jobs of which only the account is known may be in that queue; it comes first who came first.
    assert reason(waiting())
    assert reason(waiting(queue_name="comp", priority=0))


@on_a_loop
async def test_who_is_more_urgent_or_takes_no_room_of_it_does_not_overtake_it():
    first = big(queue_name="comp")
    room = KeptRoom()
    for _ in range(5 * MOST_OVERTAKEN):
        opened = [waiting(queue_name="comp", priority=2), waiting(queue_name="debug")]
        room.learn([(first, 3)], opened, [first, *opened])
    assert room.reason_to_wait(waiting(queue_name="comp")) == ""


@on_a_loop
async def test_room_is_kept_for_one_at_a_time_the_first_in_order():
    first, second = big(), waiting("another", 4)
    account = Account(first, second)
    account.polls([3] * MOST_OVERTAKEN)
    assert account.room.reason_to_wait(second) == "room is kept for big (DAG 'dag', run 'run')"
    assert len(account.room.notes()) == 1
    assert "the 5 jobs of big" in account.room.notes()[0]


@on_a_loop
async def test_one_that_waits_no_longer_holds_up_nobody():
    first, second = big(), waiting("another", 4)
    account = Account(first, second)
    account.polls([3] * (MOST_OVERTAKEN + 2))
    first.end(None)
    account.short = [second]
    # At the first poll after that it is noticed.
    account.poll()
    assert account.room.notes() == []
    assert account.room.reason_to_wait(waiting()) == ""
    # The next one was overtaken as often meanwhile, or is soon.
    assert account.polls([3] * 30).index(True) <= MOST_OVERTAKEN


@on_a_loop
async def test_the_next_one_has_not_to_wait_for_longer_because_room_for_the_last_one_was_kept_in_vain():
    first, second = big(), waiting("another", 4)
    account = Account(first)
    account.polls([3] * 200)
    first.end(None)
    account.short = [second]
    held = account.polls([3] * 30)
    assert held.index(True) <= MOST_OVERTAKEN + 1


@on_a_loop
async def test_two_that_are_short_by_turns_do_not_starve():
    first, second = big(), waiting("another", 4)
    account, held = Account(), []
    for poll in range(10 * MOST_OVERTAKEN):
        account.short = [(first, second)[poll % 2]]
        held.append(account.poll(3))
    assert any(held)


@pytest.mark.parametrize("others", [1, 3])
def test_gates_that_can_never_open_shut_the_others_for_no_more_than_ten_polls_in_a_row(others: int):
    """Two jobs of somebody else stay, and it asks for room for five."""

    @on_a_loop
    async def run() -> None:
        never = [waiting(f"big{number}", 5) for number in range(others)]
        assert decide(never[0].asks, Observation(counts=JobCounts(queued=2, running=0))).lacks == 2
        account = Account(*never)
        held = account.polls([2] * 5000)
        in_a_row = longest = 0
        for each in held:
            in_a_row = in_a_row + 1 if each else 0
            longest = max(longest, in_a_row)
        assert longest == MOST_OVERTAKEN + 1
        assert sum(held) < 5000 / 50

    run()


@pytest.mark.parametrize(
    ("condition", "submits", "queued", "claimed", "lacks"),
    [
        ("queued < 5", 5, 3, 0, 3),
        ("queued < 5", 5, 0, 0, 0),
        ("queued < 5", 5, 5, 0, 0),
        ("queued < 5", 1, 4, 1, 0),
        ("queued < 5", 5, 3, 1, 4),
        ("queued < 5", 5, 1, 0, 1),
        ("queued < 5", 5, 3, 2, 0),
        ("running + queued < 9", 4, 7, 0, 2),
    ],
)
def test_a_gate_is_short_where_there_is_room_for_fewer_jobs_than_its_own(
    condition: str, submits: int, queued: int, claimed: int, lacks: int
):
    seen = Observation(counts=JobCounts(queued=queued, running=0))
    decision = decide(Gate.of(condition, None, submits), seen, Claimed(claimed))
    assert decision.lacks == lacks
    assert decision.verdict is (Verdict.OPEN if queued == 0 else Verdict.WAIT)

# SPDX-License-Identifier: Apache-2.0
"""One connection and user, watched for all gates that name them, and the place of each gate there."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import dataclasses
import enum
import functools
import random
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from airflow_provider_scnet.client.errors import ScnetError
from airflow_provider_scnet.client.observation import Observation
from airflow_provider_scnet.gate import clock
from airflow_provider_scnet.gate.decision import Gate, Judge
from airflow_provider_scnet.gate.figures import Figures, Whom
from airflow_provider_scnet.gate.submission import Account
from airflow_provider_scnet.gate.submissions import Submissions
from airflow_provider_scnet.gate.turns import MOST_WOKEN, Turns
from airflow_provider_scnet.gate.waiting import Waiting

#: Seconds between two looks at the least, whatever interval a gate asks for.
SHORTEST_INTERVAL = 0.1
#: Seconds after which a watch that was ended from outside is started again. Not at once: a loop that ends cancels
#: all that is on it, and has ended by then.
RESTART_AFTER = 1.0


class Heed(enum.Enum):
    """What a look is to a gate."""

    NONE = "nothing new"
    SOME = "something to say, or to end by"
    ALL = "room that it may claim, before anybody behind it sees the look"


class Looker(Protocol):
    """Looks for a watch, and knows what all watches share."""

    turns: Turns
    figures: Figures
    submissions: Submissions

    async def look(
        self, scnet_conn_id: str, user_name: str | None, max_age: float, newcomers: bool = False
    ) -> Observation:
        """Return a look that is young enough."""

    def tell_of_gates(self, scnet_conn_id: str, account: Account, look_at: float, passed: int) -> None:
        """Tell in figures what gates made of a look."""


class Watch:
    """
    One connection and user, watched for every gate of this event loop that names them.

    A task of the watch's own looks when the last look has grown too old for one of the gates, and shows what it
    saw to all of them, in the order of their arrival. It outlives any single gate and ends with the last one.
    Gates that reach the same account by another name share its requests and its claims, but have an order of their
    own.

    :param looker: who looks
    :param scnet_conn_id: the connection's id
    :param user_name: the cluster user as the gates name it; None: the connection's own
    """

    def __init__(self, looker: Looker, scnet_conn_id: str, user_name: str | None) -> None:
        self._looker = looker
        self._name = (scnet_conn_id, user_name)
        self._seats: dict[Seat, None] = {}
        self._newcomers: set[Seat] = set()
        self._intervals: Counter[float] = Counter()
        self._judges: weakref.WeakValueDictionary[Gate, Judge] = weakref.WeakValueDictionary()
        self._news = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None
        self._note = ""
        self._drift = 0.0
        self._passed = 0
        self.last: Observation | None = None
        #: The account that it is about, as far as that was known at any look.
        self.account: Account | None = None
        #: How many gates wait; whoever else looks is none.
        self.gates = 0

    def judge(self, gate: Gate) -> Judge:
        """
        Return who decides for all gates that ask the same here.

        :param gate: what they ask
        """
        return self._judges.setdefault(gate, Judge(gate))

    @contextlib.contextmanager
    def seat(
        self,
        interval: float,
        wait_for: float | None = None,
        waiting: Waiting | None = None,
        is_gate: bool = True,
        heeds: Callable[[Observation], Heed] | None = None,
    ) -> Iterator[Seat]:
        """
        Take a place behind all gates that are here already.

        :param interval: seconds after which a look is too old for this gate
        :param wait_for: seconds after which the gate's time is up; None: never
        :param waiting: the gate, as Airflow knows it; None where Airflow does not
        :param is_gate: whether it counts as a gate that waits
        :param heeds: tells what a look is to it; default: each is something
        """
        seat = Seat(self, self._looker.turns, waiting, heeds)
        interval = max(interval, SHORTEST_INTERVAL)
        timer = None
        if wait_for is not None:
            timer = asyncio.get_running_loop().call_later(max(wait_for, 0.0), seat.time_is_up)
        self._seats[seat] = None
        self._newcomers.add(seat)
        self._intervals[interval] += 1
        self.gates += is_gate
        try:
            with self._looker.submissions.kept(waiting) if waiting else contextlib.nullcontext():
                yield seat
        finally:
            seat.has_left = True
            del self._seats[seat]
            self._newcomers.discard(seat)
            self._intervals[interval] -= 1
            if not self._intervals[interval]:
                del self._intervals[interval]
            self.gates -= is_gate
            self._passed += seat.has_passed
            self._news.set()
            if timer:
                timer.cancel()

    def wake(self) -> None:
        """Make sure that somebody looks, and heeds a gate that has just begun to wait."""
        self._news.set()
        if self._looking is None or self._looking.done():
            # An empty context: the task must not log in the name of the gate that happened to start it.
            self._looking = contextvars.Context().run(asyncio.ensure_future, self._keep_looking())
            self._looking.add_done_callback(self._ended)

    def _ended(self, looking: asyncio.Task[None]) -> None:
        how = ""
        if looking.cancelled():
            how = "was ended from outside"
        elif error := looking.exception():
            how = f"has failed ({type(error).__name__})"
        # By itself it ends with the last gate; whoever comes then has another one started.
        if how and self._seats:
            self._note = f"what looks for all gates of this connection {how}, and was started again"
            looking.get_loop().call_later(RESTART_AFTER, self._start_again)

    def _start_again(self) -> None:
        if not all(seat.is_leaving for seat in self._seats):
            self.wake()

    def is_idle(self, since: float) -> bool:
        """
        Tell whether nobody watches, and nobody has for a while.

        :param since: the while's beginning, by :mod:`.clock`
        """
        return not self._seats and (self.last is None or self.last.at <= since)

    async def _keep_looking(self) -> None:
        while self._seats:
            self._news.clear()
            interval = min(self._intervals)
            delay = self._due(interval) - clock.now()
            if delay > 0:
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._news.wait(), delay)
                continue
            # Who comes while Airflow is asked has its turn right after.
            look, seats = await self._look(interval), list(self._seats)
            self._drift = await self._hear(look, seats, interval)
            notes = filter(None, (self._note, self._looker.submissions.trouble))
            self.last = dataclasses.replace(look, notes=(*look.notes, *notes))
            self.account = look.account or self.account
            self._note = ""
            self._newcomers.difference_update(seats)
            self._looker.turns.put(functools.partial(seat.show, self.last) for seat in seats)
            # Those that end by this look must be gone with their own turns, and not all at once with this list.
            del seats
            # The gates judge before the next look, even where this one took longer than an interval.
            await self._looker.turns.done()
            self._tell()
        self._tell()

    def _tell(self) -> None:
        if self.last and self.account:
            passed, self._passed = self._passed, 0
            self._looker.tell_of_gates(self._name[0], self.account, self.last.at, passed)

    def _due(self, interval: float) -> float:
        # For a gate that has just arrived the connection is read at once; whether it comes to a request is another
        # matter.
        if self.last is None or self._newcomers:
            return 0.0
        return self.last.at + max(interval, self.last.pause) + self._drift

    async def _hear(self, look: Observation, seats: list[Seat], interval: float) -> float:
        """
        Learn what became of the submissions that matter to a look.

        :return: seconds by which the next look is put off
        """
        if look.account is None:
            return 0.0
        submissions = self._looker.submissions
        for seat in seats:
            if seat.waiting and not seat.has_left:
                submissions.waiting.ask_about(seat.waiting, look.account, look.counted_after)
        await submissions.hear(look.account, look.at)
        if submissions.seen_elsewhere <= (self.last or look).at:
            return 0.0
        # Another triggerer admits, too. Two that look in the same second can both give out the same room; let them
        # not stay in step.
        return random.uniform(0.0, interval / 4)  # noqa: S311

    async def _look(self, interval: float) -> Observation:
        try:
            return await self._looker.look(*self._name, interval, bool(self._newcomers))
        except Exception as error:  # whatever it is, it must not end the waiting of everybody
            look = Observation(error=ScnetError(f"unexpected {type(error).__name__} while looking at SCnet"))
            self._looker.figures.looked(Whom(*self._name), look)
            return look


class Seat:
    """
    The place of one gate among those that share a watch.

    :param watch: the watch
    :param turns: when it is woken
    :param waiting: the gate, as Airflow knows it; None where Airflow does not
    :param heeds: tells what a look is to it; None: each is something
    """

    def __init__(
        self,
        watch: Watch,
        turns: Turns,
        waiting: Waiting | None = None,
        heeds: Callable[[Observation], Heed] | None = None,
    ) -> None:
        self.waiting = waiting
        #: Set by a gate that passes.
        self.has_passed = False
        self.has_left = False
        self._watch = watch
        self._turns = turns
        self._heeds = heeds
        self._shown_at: float | None = None
        self._time_is_up = False
        self._next: _Next | None = None

    @property
    def is_leaving(self) -> bool:
        """Whether the gate is being cancelled, as all are when their loop ends."""
        return self._next is not None and self._next.is_leaving

    async def next_look(self) -> Observation | None:
        """
        Wait for a look that this gate has not seen, and that matters to it.

        The gates of a watch get it in the order of their arrival. What the caller does with it before its next
        ``await`` is atomic among all gates of the event loop.

        :return: the look, or None when the gate's time is up
        """
        if self._time_is_up:
            return None
        self._next = _Next(self._turns)
        self._watch.wake()
        return await self._next

    def show(self, look: Observation) -> int:
        """
        Give the gate what was seen, if it is anything to it: a step among :class:`.Turns`.

        :param look: the look
        """
        if self.has_left or self._shown_at == look.at:
            return 0
        self._shown_at = look.at
        try:
            heed = self._heeds(look) if self._heeds else Heed.SOME
        except Exception:  # the gate meets it again, and ends by it as anybody does by a mistake of their own
            heed = Heed.SOME
        if heed is Heed.NONE or not self._resolve(look):
            return 0
        return MOST_WOKEN if heed is Heed.ALL else 1

    def time_is_up(self) -> None:
        """End the wait; from now on the gate gets no look."""
        self._time_is_up = True
        self._turns.put([functools.partial(self._resolve, None)])

    def _resolve(self, look: Observation | None) -> bool:
        return self._next is not None and self._next.resolve(look)


class _Next(asyncio.Future["Observation | None"]):
    """
    What a gate waits for. Where thousands of gates are cancelled at once, they end a few at a turn.

    :param turns: when it is cancelled
    """

    def __init__(self, turns: Turns) -> None:
        super().__init__()
        self._turns = turns
        #: Whether it will be.
        self.is_leaving = False

    def cancel(self, msg: Any = None) -> bool:
        """Be cancelled soon. Whoever cancels the gate's task is told that this will be, and relies on it."""
        if self.done():
            return False
        if not self.is_leaving:
            self.is_leaving = True
            self._turns.put([functools.partial(super().cancel, msg)])
        return True

    def resolve(self, look: Observation | None) -> bool:
        """
        Let the gate go on.

        :param look: what it gets
        :return: whether that woke it
        """
        if self.done() or self.is_leaving:
            return False
        self.set_result(look)
        return True

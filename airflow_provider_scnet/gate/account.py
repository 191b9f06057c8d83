# SPDX-License-Identifier: Apache-2.0
"""What one triggerer knows of its accounts: the last look at each, and who waits."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import dataclasses
import random
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, ClassVar, Protocol

from airflow_provider_scnet.client.errors import ScnetConnectionError, ScnetError
from airflow_provider_scnet.client.look import Look
from airflow_provider_scnet.client.target import Target
from airflow_provider_scnet.gate import clock
from airflow_provider_scnet.gate.asking import Asking
from airflow_provider_scnet.gate.claims import Claim, Claims
from airflow_provider_scnet.gate.figures import Figures, Sink, Whom
from airflow_provider_scnet.gate.submission import Waiting
from airflow_provider_scnet.gate.submissions import FORGET_AFTER, Ask, Submissions

#: Seconds between two looks at the least, whatever interval a gate asks for.
SHORTEST_INTERVAL = 0.1
#: Seconds that Airflow may take to hand a connection out.
LONGEST_READ = 30.0
#: Seconds after which a gate that has just arrived no longer trusts a failure that would fail it: somebody may
#: have mended the account, and cleared the gate.
MENDED_AFTER = 5.0
#: Seconds after which a watch that was ended from outside is started again. Not at once: a loop that ends cancels
#: all that is on it, and has ended by then.
RESTART_AFTER = 1.0


class Source(Protocol):
    """How one asks SCnet through a connection."""

    def aresolve(self, user_name: str | None = None) -> Coroutine[Any, Any, Target]:
        """Read the connection."""

    async def acomplete(self, target: Target) -> Target:
        """Obtain what the connection leaves to SCnet's platform."""

    async def alook(self, target: Target) -> Look:
        """Look once; an error is part of what is seen."""


class Accounts:
    """
    What one event loop, and so one triggerer, knows of all accounts that its gates watch.

    However many gates watch an account through a connection, one request an interval is made for all of them,
    and room is given out once. Another triggerer looks and admits for itself; what passed there shows in Airflow's
    states of its tasks.

    :param source: returns how one asks SCnet through a connection, by the connection's id
    :param ask: how one asks Airflow about tasks
    :param sink: where figures go; None: nowhere
    """

    # Tasks and locks of asyncio belong to one loop: a second asyncio.run must not meet those of the first.
    _by_loop: ClassVar[dict[asyncio.AbstractEventLoop, Accounts]] = {}

    def __init__(self, source: Callable[[str], Source], ask: Ask, sink: Sink | None = None) -> None:
        self._source = source
        #: What is told of looks and gates.
        self.figures = Figures(sink)
        #: What becomes of the submissions behind gates that passed.
        self.submissions = Submissions(ask, self.claims)
        self._readings: dict[tuple[str, str | None], Asking[Target]] = {}
        self._watches: dict[tuple[str, str | None], Watch] = {}
        self._shared: dict[tuple[str, ...], _SharedLook] = {}
        self._claims: dict[tuple[str, str], Claims] = {}

    @classmethod
    def here(cls, source: Callable[[str], Source], ask: Ask, sink: Sink | None = None) -> Accounts:
        """
        Return the accounts of the running event loop.

        :param source: returns how one asks SCnet through a connection, by the connection's id
        :param ask: how one asks Airflow about tasks
        :param sink: where figures go; None: nowhere
        """
        loop = asyncio.get_running_loop()
        if loop not in cls._by_loop:
            cls._by_loop = {known: accounts for known, accounts in cls._by_loop.items() if not known.is_closed()}
            cls._by_loop[loop] = cls(source, ask, sink)
        return cls._by_loop[loop]

    def watch(self, scnet_conn_id: str, user_name: str | None) -> Watch:
        """
        Return the watch that all gates with this connection and user name share.

        :param scnet_conn_id: the connection's id
        :param user_name: the cluster user as the gate names it; None: the connection's own
        """
        self._forget()
        return self._watches.setdefault((scnet_conn_id, user_name), Watch(self, scnet_conn_id, user_name))

    def claims(self, account: tuple[str, str]) -> Claims:
        """
        Return the claims on an account, whatever the connections to it are called.

        :param account: the resolved (endpoint, user)
        """
        return self._claims.setdefault(account, Claims())

    def admit(self, look: Look, jobs: int, ttl: float, waiting: Waiting | None = None) -> None:
        """
        Claim room for a gate that passes.

        :param look: what it passes on
        :param jobs: how many jobs will be submitted
        :param ttl: seconds for which they are counted at most, where nobody can tell what becomes of the
            submission
        :param waiting: the gate, as Airflow knows it; None where Airflow does not
        """
        if waiting:
            self.submissions.passes(waiting)
        elif look.account:
            self.claims(look.account).put(object(), Claim(jobs, clock.now() + ttl))

    async def look(
        self, scnet_conn_id: str, user_name: str | None, max_age: float, newcomers: bool = False
    ) -> Look:
        """
        Return a look that is young enough: another gate's, or a new one. The connection is read anew each time.

        :param scnet_conn_id: the connection's id
        :param user_name: the cluster user as the gate names it; None: the connection's own
        :param max_age: seconds
        :param newcomers: whether gates are among those who ask that have not seen any look yet
        """
        source = self._source(scnet_conn_id)
        try:
            target = await self._read(source, scnet_conn_id, user_name)
            # First, because only the region may know the account's endpoint and user.
            target = await source.acomplete(target)
        except ScnetError as error:
            look = Look(error=error)
            self.figures.looked(Whom(scnet_conn_id, user_name), look)
            return look
        # Gates that name the same user in different ways (or not at all) meet here.
        shared = self._shared.setdefault((scnet_conn_id, *target.account), _SharedLook())
        async with shared.lock:
            # Another token deserves another look: the last answer may have been about the old one.
            if shared.look is None or shared.target != target or shared.is_too_old(max_age, newcomers):
                began = clock.now()
                shared.look = await source.alook(target)
                shared.target = target
                self.figures.looked(Whom(scnet_conn_id, target.account[1]), shared.look, clock.now() - began)
                self.claims(target.account).forget(self._oldest_look(target.account))
            return shared.look

    def tell_of_gates(self, scnet_conn_id: str, account: tuple[str, str], look_at: float, passed: int) -> None:
        """
        Tell in figures what gates made of a look.

        :param scnet_conn_id: the connection's id
        :param account: the account that the gates ask about
        :param look_at: when the look was made, by :mod:`.clock`
        :param passed: how many gates have passed since this was told last
        """
        waiting = sum(
            watch.gates
            for (conn_id, _), watch in self._watches.items()
            if conn_id == scnet_conn_id and watch.account == account
        )
        # Where nobody waits nobody looks: what is told last stands until somebody comes.
        claimed = self.claims(account).weigh(look_at).jobs if waiting else 0
        self.figures.judged(Whom(scnet_conn_id, account[1]), waiting, passed, claimed)

    def _oldest_look(self, account: tuple[str, str]) -> float:
        """Return when the oldest look at an account was made that a gate may still be judged on."""
        return min(
            shared.look.at for (_, *key), shared in self._shared.items() if shared.look and tuple(key) == account
        )

    async def _read(self, source: Source, scnet_conn_id: str, user_name: str | None) -> Target:
        """
        Read the connection, for as long as it is worth waiting for.

        A reading that takes longer is never cancelled: to give up what Airflow's supervisor is about to answer
        ends the whole triggerer of some versions. It is met again at the next look, and then left alone.
        """
        name = (scnet_conn_id, user_name)
        reading = self._readings.get(name)
        if reading is None or reading.is_over:
            reading = self._readings[name] = Asking(source.aresolve(user_name), LONGEST_READ)
        try:
            return await reading.answer()
        except TimeoutError:
            raise _unread(scnet_conn_id) from None

    def _forget(self) -> None:
        now = clock.now()
        self._watches = {k: watch for k, watch in self._watches.items() if not watch.forgettable(now)}
        self._shared = {
            k: shared
            for k, shared in self._shared.items()
            if shared.lock.locked() or (shared.look and now - shared.look.at < FORGET_AFTER)
        }
        for claims in self._claims.values():
            claims.forget(now - FORGET_AFTER)
        self._claims = {account: claims for account, claims in self._claims.items() if claims}


class _SharedLook:
    """The last look at one account through one connection; one request at a time."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.target: Target | None = None
        self.look: Look | None = None

    def is_too_old(self, max_age: float, newcomers: bool) -> bool:
        if self.look is None:
            return True
        if newcomers and self.look.fails_gates:
            max_age = min(max_age, MENDED_AFTER)
        return clock.now() - self.look.at >= max(max_age, self.look.pause)


def _unread(scnet_conn_id: str) -> ScnetError:
    error = ScnetConnectionError(f"Airflow did not hand it out within {LONGEST_READ:.0f} s")
    error.where = f"connection '{scnet_conn_id}'"
    return error


class Watch:
    """
    One connection and user, watched for every gate of this event loop that names them.

    A task of the watch's own looks when the last look has grown too old for one of the gates, and hands what it
    saw to all of them, in the order of their arrival. It outlives any single gate and ends with the last one.
    Gates that reach the same account by another name share its requests and its claims, but have an order of their
    own.
    """

    def __init__(self, accounts: Accounts, scnet_conn_id: str, user_name: str | None) -> None:
        self._accounts = accounts
        self._name = (scnet_conn_id, user_name)
        self._seats: dict[Seat, None] = {}
        self._news = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None
        self._note = ""
        self._drift = 0.0
        self._passed = 0
        self.last: Look | None = None
        #: The account that it is about, as far as that was known at any look.
        self.account: tuple[str, str] | None = None

    @property
    def gates(self) -> int:
        """How many gates wait; whoever else looks is none."""
        return sum(seat.is_gate for seat in self._seats)

    @contextlib.contextmanager
    def seat(
        self,
        interval: float,
        wait_for: float | None = None,
        waiting: Waiting | None = None,
        is_gate: bool = True,
    ) -> Iterator[Seat]:
        """
        Take a place behind all gates that are here already.

        :param interval: seconds after which a look is too old for this gate
        :param wait_for: seconds after which the gate's time is up; None: never
        :param waiting: the gate, as Airflow knows it; None where Airflow does not
        :param is_gate: whether it counts as a gate that waits
        """
        seat = Seat(self, max(interval, SHORTEST_INTERVAL), waiting, is_gate)
        timer = None
        if wait_for is not None:
            timer = asyncio.get_running_loop().call_later(max(wait_for, 0.0), seat.time_is_up)
        self._seats[seat] = None
        try:
            with self._accounts.submissions.kept(waiting) if waiting else contextlib.nullcontext():
                yield seat
        finally:
            del self._seats[seat]
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
        if self._seats:
            # By itself it ends with the last gate, so somebody cancelled it.
            self._note = "what looks for all gates of this connection was ended from outside, and started again"
            looking.get_loop().call_later(RESTART_AFTER, self._start_again)

    def _start_again(self) -> None:
        if self._seats:
            self.wake()

    def forgettable(self, now: float) -> bool:
        """
        Tell whether nobody has watched for long.

        :param now: the time, by :mod:`.clock`
        """
        return not self._seats and (self.last is None or now - self.last.at >= FORGET_AFTER)

    async def _keep_looking(self) -> None:
        while self._seats:
            self._news.clear()
            interval = min(seat.interval for seat in self._seats)
            delay = self._due(interval) - clock.now()
            if delay > 0:
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._news.wait(), delay)
                continue
            # Who comes while Airflow is asked has its turn right after.
            look, seats = await self._look(interval), list(self._seats)
            self._drift = await self._hear(look, seats, interval)
            notes = filter(None, (self._note, self._accounts.submissions.trouble))
            self.last = dataclasses.replace(look, notes=(*look.notes, *notes))
            self.account = look.account or self.account
            self._note = ""
            for seat in seats:
                if seat.seen is None or seat.seen.at != look.at:
                    seat.hand(self.last)
            # The gates judge before the next look, even where this one took longer than an interval.
            await asyncio.sleep(0)
            self._tell()
        self._tell()

    def _tell(self) -> None:
        if self.last and self.account:
            passed, self._passed = self._passed, 0
            self._accounts.tell_of_gates(self._name[0], self.account, self.last.at, passed)

    def _due(self, interval: float) -> float:
        # For a gate that has just arrived the connection is read at once; whether it comes to a request is another
        # matter.
        if self.last is None or self._has_newcomers():
            return 0.0
        return self.last.at + max(interval, self.last.pause) + self._drift

    def _has_newcomers(self) -> bool:
        return any(seat.seen is None for seat in self._seats)

    async def _hear(self, look: Look, seats: list[Seat], interval: float) -> float:
        """
        Learn what became of the submissions that matter to a look.

        :return: seconds by which the next look is put off
        """
        if look.account is None:
            return 0.0
        for seat in seats:
            if seat.waiting:
                seat.waiting.account, seat.waiting.counted_after = look.account, look.counted_after
        submissions = self._accounts.submissions
        await submissions.hear(look.account, look.at)
        if submissions.seen_elsewhere <= (self.last or look).at:
            return 0.0
        # Another triggerer admits, too. Two that look in the same second can both give out the same room; let them
        # not stay in step.
        return random.uniform(0.0, interval / 4)  # noqa: S311

    async def _look(self, interval: float) -> Look:
        try:
            return await self._accounts.look(*self._name, interval, self._has_newcomers())
        except Exception as error:  # whatever it is, it must not end the waiting of everybody
            look = Look(error=ScnetError(f"unexpected {type(error).__name__} while looking at SCnet"))
            self._accounts.figures.looked(Whom(*self._name), look)
            return look


class Seat:
    """The place of one gate among those that share a watch."""

    def __init__(
        self, watch: Watch, interval: float, waiting: Waiting | None = None, is_gate: bool = True
    ) -> None:
        self.interval = interval
        self.waiting = waiting
        self.is_gate = is_gate
        #: Set by a gate that passes.
        self.has_passed = False
        self.seen: Look | None = None
        self._watch = watch
        self._time_is_up = False
        self._next: asyncio.Future[Look | None] | None = None

    async def next_look(self) -> Look | None:
        """
        Wait for a look that this gate has not seen.

        The gates of a watch get it in the order of their arrival. What the caller does with it before its next
        ``await`` is atomic among all gates of the event loop.

        :return: the look, or None when the gate's time is up
        """
        if self._time_is_up:
            return None
        self._next = asyncio.get_running_loop().create_future()
        self._watch.wake()
        return await self._next

    def hand(self, look: Look) -> None:
        """
        Give the gate what was seen.

        :param look: the look
        """
        self.seen = look
        self._resolve(look)

    def time_is_up(self) -> None:
        """End the wait; from now on the gate gets no look."""
        self._time_is_up = True
        self._resolve(None)

    def _resolve(self, look: Look | None) -> None:
        if self._next and not self._next.done():
            self._next.set_result(look)

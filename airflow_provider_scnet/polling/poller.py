# SPDX-License-Identifier: Apache-2.0
"""One connection and user, polled for all gates that name them."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import random
import weakref
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from typing import Protocol

from airflow_provider_scnet.claims.ledger import Ledger
from airflow_provider_scnet.claims.submission import Account
from airflow_provider_scnet.claims.waiting import WaitingGate
from airflow_provider_scnet.client.errors import ScnetError
from airflow_provider_scnet.client.observation import Observation
from airflow_provider_scnet.client.unexpected import unexpected
from airflow_provider_scnet.event_loop import clock
from airflow_provider_scnet.event_loop.background import BackgroundTask
from airflow_provider_scnet.event_loop.pacing import Pacer
from airflow_provider_scnet.gate.decision import SharedDecisions
from airflow_provider_scnet.gate.gate import Gate
from airflow_provider_scnet.gate.note import Note
from airflow_provider_scnet.polling.metrics import Metrics, Whom
from airflow_provider_scnet.polling.waiter import Waiter, Wake

#: Seconds between two polls at the least, whatever interval a gate asks for.
SHORTEST_INTERVAL = 0.1


class Observer(Protocol):
    """Observes accounts for all pollers, and holds what they share."""

    pacer: Pacer
    metrics: Metrics
    ledger: Ledger

    async def observe(
        self,
        scnet_conn_id: str,
        user_name: str | None,
        max_age: float,
        newcomers: bool = False,
        queues: Collection[str] = (),
    ) -> Observation:
        """Return an observation that is young enough."""

    def report_gates(self, scnet_conn_id: str, account: Account, at: float, opened: int) -> None:
        """Send metrics of what gates made of an observation."""


def _show(waiters: list[Waiter], observation: Observation) -> Iterator[Callable[[], int]]:
    """Yield the steps that show an observation. Each lets go of its waiter, so that not all are freed at once."""
    waiters.reverse()
    while waiters:
        yield functools.partial(waiters.pop().show, observation)


class Poller:
    """
    One connection and user, polled for every gate of this event loop that names them.

    A background task polls when the last observation has grown too old for one of the gates, and shows what it
    saw to all of them: the urgent first, then in the order of their arrival. It outlives any single gate and ends
    with the last one. Gates that reach the same account by another name share its requests and its claims, but
    have an order of their own.

    :param observer: who makes the requests
    :param scnet_conn_id: the connection's id
    :param user_name: the cluster user as the gates name it; None: the connection's own
    """

    def __init__(self, observer: Observer, scnet_conn_id: str, user_name: str | None) -> None:
        self._observer = observer
        self._name = (scnet_conn_id, user_name)
        self._waiters: dict[Waiter, None] = {}
        self._newcomers: set[Waiter] = set()
        self._intervals: Counter[float] = Counter()
        #: How many ask about which queue.
        self.queues: Counter[str] = Counter()
        self._decisions: weakref.WeakValueDictionary[Gate, SharedDecisions] = weakref.WeakValueDictionary()
        self._changed = asyncio.Event()
        self._polling = BackgroundTask(
            self._keep_polling, lambda: not all(waiter.is_leaving for waiter in self._waiters), unexpected
        )
        self._delay = 0.0
        self._opened = 0
        self.last: Observation | None = None
        #: The account that it is about, as far as that was known at any poll.
        self.account: Account | None = None
        #: How many gates wait, watchers not among them.
        self.gates = 0

    def decisions(self, gate: Gate) -> SharedDecisions:
        """
        Return the decisions that all gates share that ask the same here.

        :param gate: what they ask
        """
        return self._decisions.setdefault(gate, SharedDecisions(gate))

    @contextlib.contextmanager
    def waiter(
        self,
        interval: float,
        wait_for: float | None = None,
        waiting: WaitingGate | None = None,
        wake_for: Callable[[Observation], Wake] | None = None,
        queue_name: str | None = None,
    ) -> Iterator[Waiter]:
        """
        Wait behind all gates that are here already.

        :param interval: seconds after which an observation is too old for this gate
        :param wait_for: seconds after which the gate's time is up; None: never
        :param waiting: the gate; None for a watcher, which claims nothing and does not count as a gate
        :param wake_for: tells what an observation is to it; default: each is news
        :param queue_name: the queue that it asks about; None: all of them together
        """
        waiter = Waiter(self._start, self._observer.pacer, waiting, wake_for, queue_name)
        interval = max(interval, SHORTEST_INTERVAL)
        timer = None
        if wait_for is not None:
            timer = asyncio.get_running_loop().call_later(max(wait_for, 0.0), waiter.time_is_up)
        self._waiters[waiter] = None
        self._newcomers.add(waiter)
        self._intervals[interval] += 1
        if queue_name is not None:
            self.queues[queue_name] += 1
        self.gates += waiting is not None
        try:
            with self._observer.ledger.kept(waiting) if waiting else contextlib.nullcontext():
                yield waiter
        finally:
            waiter.has_left = True
            del self._waiters[waiter]
            self._newcomers.discard(waiter)
            # So that nothing is left of what nobody asks for.
            self._intervals -= Counter([interval])
            if queue_name is not None:
                self.queues -= Counter([queue_name])
            self.gates -= waiting is not None
            self._opened += waiter.has_opened
            self._changed.set()
            if timer:
                timer.cancel()

    def is_idle(self, since: float) -> bool:
        """
        Tell whether nobody waits, and nobody has for a while.

        :param since: the while's beginning, by the event loop's clock
        """
        return not self._waiters and (self.last is None or self.last.at <= since)

    def _start(self) -> None:
        self._changed.set()
        self._polling.start()

    async def _keep_polling(self) -> None:
        while self._waiters:
            self._changed.clear()
            interval = min(self._intervals)
            wait = self._due(interval) - clock.now()
            if wait > 0:
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), wait)
                continue
            observation = await self._poll(interval)
            # Who comes while Airflow is asked, or asks about a queue that nobody asked about before, has its turn
            # right after.
            waiters = sorted(
                (each for each in self._waiters if observation.has(each.queue_name)),
                key=lambda each: -each.waiting.priority if each.waiting else 0,
            )
            self._delay = await self._refresh_claims(observation, waiters, interval)
            self.last = dataclasses.replace(
                observation, notes=(*observation.notes, *self._notes(observation.account))
            )
            self.account = observation.account or self.account
            self._newcomers.difference_update(waiters)
            self._observer.pacer.put(_show(waiters, self.last))
            del waiters
            # The gates decide before the next poll, even where this one took longer than an interval.
            await self._observer.pacer.join()
            self._report()
        self._report()

    def _notes(self, account: Account | None) -> Iterator[Note]:
        if how := self._polling.take_failure():
            yield Note(f"the task that polls for all gates of this connection {how}, and was started again")
        if account:
            yield from self._observer.ledger.notes(account)

    def _report(self) -> None:
        if self.last and self.account:
            opened, self._opened = self._opened, 0
            self._observer.report_gates(self._name[0], self.account, self.last.at, opened)

    def _due(self, interval: float) -> float:
        # For a gate that has just arrived the connection is read at once; whether it comes to a request is another
        # matter.
        if self.last is None or self._newcomers:
            return 0.0
        return self.last.at + max(interval, self.last.pause) + self._delay

    async def _refresh_claims(self, observation: Observation, waiters: list[Waiter], interval: float) -> float:
        """
        Ask Airflow what became of the submissions that matter to an observation.

        :return: seconds by which the next poll is put off
        """
        if observation.account is None:
            return 0.0
        ledger = self._observer.ledger
        for waiter in waiters:
            if waiter.waiting and not waiter.has_left:
                account = observation.of(waiter.queue_name).account or observation.account
                ledger.waiting.ask_about(waiter.waiting, account, observation.counted_after)
        await ledger.refresh(observation.account, observation.at, self._name[0])
        if not ledger.opened_elsewhere_since(observation.account, (self.last or observation).at):
            return 0.0
        # Another triggerer lets gates through as well. Two that poll in the same second can both give out the same
        # room; let them not stay in step.
        return random.uniform(0.0, interval / 4)  # noqa: S311

    async def _poll(self, interval: float) -> Observation:
        try:
            return await self._observer.observe(*self._name, interval, bool(self._newcomers), set(self.queues))
        except Exception as error:  # whatever it is, it must not end the waiting of everybody
            observation = Observation(error=ScnetError(f"{unexpected(error)} while polling SCnet"))
            self._observer.metrics.polled(Whom(*self._name), observation)
            return observation

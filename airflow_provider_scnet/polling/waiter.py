# SPDX-License-Identifier: Apache-2.0
"""One gate, or watcher, among those that share a poller."""

from __future__ import annotations

import asyncio
import enum
import functools
from collections.abc import Callable, Sequence
from typing import Any

from airflow_provider_scnet.claims.waiting import WaitingGate
from airflow_provider_scnet.client.observation import Observation
from airflow_provider_scnet.event_loop.pacing import MOST_WOKEN, Pacer


class Wake(enum.Enum):
    """What a waiter is woken for."""

    NOTHING = "nothing new"
    NEWS = "something to say, or to end by"
    ROOM = "room that it may claim, before anybody behind it sees the observation"


class Waiter:
    """
    The place of one gate among those that share a poller.

    :param start_polling: makes sure that somebody polls
    :param pacer: when it is woken
    :param waiting: the gate; None for a watcher, which claims nothing
    :param wake_for: tells what an observation is to it; None: each is news
    :param queue_name: the queue that it asks about; None: all of them together
    """

    def __init__(
        self,
        start_polling: Callable[[], None],
        pacer: Pacer,
        waiting: WaitingGate | None = None,
        wake_for: Callable[[Observation], Wake] | None = None,
        queue_name: str | None = None,
    ) -> None:
        self.waiting = waiting
        self.queue_name = queue_name
        #: Set by a gate that opens.
        self.has_opened = False
        self.has_left = False
        self._start_polling = start_polling
        self._pacer = pacer
        self._wake_for = wake_for
        self._shown_at: float | None = None
        self._unseen: Observation | None = None
        self._time_is_up = False
        self._next: _Next | None = None

    @property
    def is_leaving(self) -> bool:
        """Whether the gate is being cancelled, as all are when their loop ends."""
        return self._next is not None and self._next.is_leaving

    async def next_observation(self) -> Observation | None:
        """
        Wait for an observation that this gate has not seen, and that matters to it.

        What the caller does with it before its next ``await`` is atomic among all gates of the event loop.

        :return: the observation, or None when the gate's time is up
        """
        found = await first_observation([self])
        return found[1] if found else None

    def show(self, observation: Observation) -> int:
        """
        Give the gate an observation, if it is anything to it: a step of the :class:`.Pacer`.

        :param observation: the observation, which says something of its queue
        """
        if self.has_left or self._shown_at == observation.at:
            return 0
        self._shown_at = observation.at
        observation = observation.of(self.queue_name)
        try:
            wake = self._wake_for(observation) if self._wake_for else Wake.NEWS
        except Exception:  # the gate meets it again, and ends by it
            wake = Wake.NEWS
        if wake is Wake.NOTHING or self._next is None or self._next.is_leaving:
            return 0
        self._unseen = observation
        is_woken = self._next.wake()
        return MOST_WOKEN if wake is Wake.ROOM else is_woken

    def time_is_up(self) -> None:
        """End the wait; from now on the gate gets no observation."""
        self._time_is_up = True
        self._pacer.put(lambda: self._next is not None and self._next.wake())


async def first_observation(waiters: Sequence[Waiter]) -> tuple[Waiter, Observation] | None:
    """
    Wait for an observation that one of a gate's waiters has not seen, and that matters to it.

    What the caller does with it before its next ``await`` is atomic among all gates of the event loop.

    :param waiters: the gate's waiters; where several have an observation, the first of them is meant
    :return: the waiter and the observation, or None when the gate's time is up
    """
    if any(waiter._time_is_up for waiter in waiters):
        return None
    if not any(waiter._unseen for waiter in waiters):
        wake = _Next(waiters[0]._pacer)
        for waiter in waiters:
            waiter._next = wake
            waiter._start_polling()
        await wake
        for waiter in waiters:
            waiter._next = None
    for waiter in waiters:
        observation, waiter._unseen = waiter._unseen, None
        if observation:
            return waiter, observation
    return None


class _Next(asyncio.Future[None]):
    """
    Wakes a gate. Where thousands of gates are cancelled at once, they end a few at a time.

    :param pacer: when it is cancelled
    """

    def __init__(self, pacer: Pacer) -> None:
        super().__init__()
        self._pacer = pacer
        #: Whether it will be.
        self.is_leaving = False

    def cancel(self, msg: Any = None) -> bool:
        """Be cancelled soon. Whoever cancels the gate's task is told that this will be, and relies on it."""
        if not self.done() and not self.is_leaving:
            self.is_leaving = True
            self._pacer.put(functools.partial(super().cancel, msg))
        return not self.done()

    def wake(self) -> bool:
        """Let the gate go on; return whether that woke it."""
        if self.done() or self.is_leaving:
            return False
        self.set_result(None)
        return True

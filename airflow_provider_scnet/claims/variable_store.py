# SPDX-License-Identifier: Apache-2.0
"""Airflow's Variables as one process uses them: one message after another, none cancelled, failures remembered."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Protocol

from airflow_provider_scnet.client.unexpected_error import unexpected
from airflow_provider_scnet.event_loop import clock
from airflow_provider_scnet.event_loop.shielded_call import ShieldedCall

#: Seconds for which nothing is read, or written, after that failed: Airflow's own retries hold up the triggerer.
PAUSE_AFTER_FAILURE = 60.0
#: Seconds of failures after which Variables are given up until they work again.
GIVEN_UP_AFTER = 300.0


class Variables(Protocol):
    """How to use Airflow's Variables."""

    async def get_variable(self, key: str) -> str | None:
        """Return a Variable's value; None where there is none."""

    async def set_variable(self, key: str, value: str, description: str) -> None:
        """Write a Variable."""


class NotDecidedError(Exception):
    """Nothing may open now; its text says why."""


class StoreError(NotDecidedError):
    """A Variable could not be read or written, or it is not known whether it was."""


class Store:
    """
    Airflow's Variables, for one account.

    :param variables: how to use them
    :param messages: held while a message is under way, for whichever account: Airflow answers one after another
    """

    def __init__(self, variables: Variables, messages: asyncio.Lock) -> None:
        self._variables = variables
        self._messages = messages
        self._is_alone = False
        self._last: ShieldedCall[Any] | None = None
        # What failed last, of reading and of writing: until when it is not tried again, and why.
        self._paused: dict[str, tuple[float, str]] = {}
        # The keys of Variables that are there.
        self._known: set[str] = set()
        # When a message failed first since one succeeded.
        self._failing_since = math.inf

    @property
    def is_given_up(self) -> bool:
        """Whether no Variable could be used for so long that gates go on without."""
        return clock.now() - self._failing_since >= GIVEN_UP_AFTER

    @contextlib.asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Let no messages of other accounts come between those that are sent meanwhile."""
        async with self._messages:
            self._is_alone = True
            try:
                yield
            finally:
                self._is_alone = False

    async def get(self, key: str) -> str | None:
        """
        Read a Variable; None where there is none.

        :raises StoreError: where Airflow does not say
        """
        value: str | None = await self._send("read", lambda: self._variables.get_variable(key))
        if value is None and key in self._known:
            # Airflow says so as well where its database was away for a moment: it is gone when it says so again.
            self._known.discard(key)
            raise StoreError("a Variable that was written is not found")
        if value is not None:
            self._known.add(key)
        return value

    async def set(self, key: str, value: str, description: str) -> None:
        """
        Write a Variable.

        :raises StoreError: where it is not known to be written
        """
        await self._send("written", lambda: self._variables.set_variable(key, value, description))
        self._known.add(key)

    async def _send(self, done: str, message: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        until, why = self._paused.get(done, (-math.inf, ""))
        if clock.now() < until:
            raise StoreError(why)
        try:
            async with contextlib.nullcontext() if self._is_alone else self._messages:
                while self._last and not self._last.is_over:
                    await self._last.finished()
                self._last = ShieldedCall(message())
                answer = await self._last.result()
        except Exception as error:
            now = clock.now()
            self._failing_since = min(self._failing_since, now)
            why = f"Airflow's Variables cannot be {done} ({unexpected(error)})"
            self._paused[done] = now + PAUSE_AFTER_FAILURE, why
            raise StoreError(why) from None
        self._failing_since = math.inf
        return answer

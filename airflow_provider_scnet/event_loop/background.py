# SPDX-License-Identifier: Apache-2.0
"""A task in the background that acts whenever it is time, and survives being cancelled from outside."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import Callable, Coroutine
from typing import Any

from airflow_provider_scnet.event_loop import clock

#: Seconds after which a task that was cancelled from outside, or failed, is started again. Not at once: a loop
#: that shuts down cancels all tasks, and has ended by then.
RESTART_AFTER = 1.0


class BackgroundTask:
    """
    A task that acts whenever it is time, for nobody in particular, and ends when nobody needs it any longer.

    :param act: does what is due, and returns when to act again; None: not before it is started again
    :param on_error: says how it failed, for people
    """

    def __init__(
        self, act: Callable[[], Coroutine[Any, Any, float | None]], on_error: Callable[[BaseException], str]
    ) -> None:
        self._act = act
        self._on_error = on_error
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._failure = ""

    def wake(self) -> None:
        """Let it see at once what is due, if it runs: that may have changed."""
        self._woken.set()

    def start(self) -> None:
        """Make sure that it runs, and sees at once what is due."""
        self.wake()
        if self._task is None or self._task.done():
            # An empty context: neither it nor its end is logged in the name of the gate that happened to start it.
            context = contextvars.Context()
            self._task = context.run(asyncio.ensure_future, self._run())
            self._task.add_done_callback(self._end, context=context)

    def take_failure(self) -> str:
        """Return how it ended last where that was not by itself, and is not reported yet; else nothing."""
        how, self._failure = self._failure, ""
        return how

    async def _run(self) -> None:
        self._woken.clear()
        while (due := await self._act()) is not None:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._woken.wait(), due - clock.now())
            self._woken.clear()

    def _end(self, task: asyncio.Task[None]) -> None:
        how = "was ended from outside" if task.cancelled() else ""
        if not how and (error := task.exception()):
            how = f"failed ({self._on_error(error)})"
        if how:
            self._failure = how
            task.get_loop().call_later(RESTART_AFTER, self.start)

# SPDX-License-Identifier: Apache-2.0
"""A task in the background that survives being cancelled from outside."""

from __future__ import annotations

import asyncio
import contextvars
from collections.abc import Callable, Coroutine
from typing import Any

#: Seconds after which a task that was cancelled from outside, or failed, is started again. Not at once: a loop
#: that shuts down cancels all tasks, and has ended by then.
RESTART_AFTER = 1.0


class BackgroundTask:
    """
    A task that runs while it is needed, for nobody in particular.

    :param run: the task; it returns when it is not needed any longer
    :param is_needed: whether it is started again where it was cancelled or failed
    :param on_error: says how it failed, for people
    """

    def __init__(
        self,
        run: Callable[[], Coroutine[Any, Any, None]],
        is_needed: Callable[[], bool],
        on_error: Callable[[BaseException], str],
    ) -> None:
        self._run = run
        self._is_needed = is_needed
        self._on_error = on_error
        self._task: asyncio.Task[None] | None = None
        self._failure = ""

    def start(self) -> None:
        """Make sure that it runs, if it is needed."""
        if self._is_needed() and (self._task is None or self._task.done()):
            # An empty context: neither it nor its end is logged in the name of the gate that happened to start it.
            context = contextvars.Context()
            self._task = context.run(asyncio.ensure_future, self._run())
            self._task.add_done_callback(self._end, context=context)

    def take_failure(self) -> str:
        """Return how it ended last where that was not by itself, and is not reported yet; else nothing."""
        how, self._failure = self._failure, ""
        return how

    def _end(self, task: asyncio.Task[None]) -> None:
        how = "was ended from outside" if task.cancelled() else ""
        if not how and (error := task.exception()):
            how = f"failed ({self._on_error(error)})"
        if how and self._is_needed():
            self._failure = how
            task.get_loop().call_later(RESTART_AFTER, self.start)

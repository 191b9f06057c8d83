# SPDX-License-Identifier: Apache-2.0
"""Lines for a log, written in a thread: the event loop never waits until a log has taken one."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

#: Where lines are written: one thread for all, so that they keep their order.
executor: Executor = ThreadPoolExecutor(1, thread_name_prefix="scnet-log")


class ThreadedLog:
    """
    A log whose lines are written in a thread, in their order and in the context of who wrote them.

    From Airflow 3.0 on, a triggerer's lines go to its supervisor, which reads none while it hands many triggers
    over, and these are taken on the event loop. Where the loop waits until a line is read, both wait for ever.

    :param log: where lines go in the end
    """

    def __init__(self, log: Any) -> None:
        self._log = log
        self._last: Future[Any] | None = None

    def info(self, message: str, /, *args: Any) -> None:
        """Log what an operator may want to know."""
        self._write(self._log.info, message, *args)

    def warning(self, message: str, /, *args: Any) -> None:
        """Log what an operator should know."""
        self._write(self._log.warning, message, *args)

    def error(self, message: str, /, *args: Any) -> None:
        """Log what somebody has to mend."""
        self._write(self._log.error, message, *args)

    async def flush(self) -> None:
        """Wait until all lines have been written; one that cannot be is lost, and ends nothing."""
        if self._last and not self._last.done():
            with contextlib.suppress(Exception):
                await asyncio.wrap_future(self._last)

    def _write(self, write: Callable[..., Any], *line: Any) -> None:
        self._last = executor.submit(contextvars.copy_context().run, write, *line)

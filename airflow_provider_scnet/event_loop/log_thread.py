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
#: Seconds for which a gate that ends waits for its last lines.
LONGEST_FLUSH = 5.0


class ThreadedLog:
    """
    A log whose lines are written in a thread, in their order and in the context in which it was made.

    From Airflow 3.0 on, a triggerer's lines go to its supervisor, which reads none while it hands many triggers
    over, and these are taken on the event loop. Where the loop itself waits until a line is read, both wait for
    ever.

    :param log: where lines go in the end
    """

    def __init__(self, log: Any) -> None:
        self._log = log
        # By it Airflow knows whose lines they are, whoever has something to say of the gate.
        self._context = contextvars.copy_context()
        self._last: Future[None] | None = None

    def info(self, message: str, /, *args: Any) -> None:
        """Log what an operator may want to know."""
        self._put(self._log.info, message, *args)

    def warning(self, message: str, /, *args: Any) -> None:
        """Log what an operator should know."""
        self._put(self._log.warning, message, *args)

    def error(self, message: str, /, *args: Any) -> None:
        """Log what somebody has to mend."""
        self._put(self._log.error, message, *args)

    async def flush(self) -> None:
        """Wait until all lines have been written, for a few seconds; what takes longer is written all the same."""
        if self._last and not self._last.done():
            # Not cancelled with its caller, and no error where it takes too long.
            await asyncio.wait([asyncio.wrap_future(self._last)], timeout=LONGEST_FLUSH)

    def _put(self, write: Callable[..., Any], *line: Any) -> None:
        self._last = executor.submit(self._context.run, _write, write, *line)


def _write(write: Callable[..., Any], *line: Any) -> None:
    # A line that cannot be written is lost: it must not end what it is about.
    with contextlib.suppress(Exception):
        write(*line)

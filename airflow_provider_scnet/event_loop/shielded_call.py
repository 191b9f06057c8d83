# SPDX-License-Identifier: Apache-2.0
"""A call to Airflow that is never cancelled, however long it takes."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, ClassVar, Generic, TypeVar

from airflow_provider_scnet.event_loop import clock

T = TypeVar("T")

#: Seconds that Airflow may take to answer. Before the first answer of a triggerer's life its supervisor builds a
#: server of its own: eight seconds of a processor, and so a minute where many processes share it.
LONGEST_ANSWER = 90.0


class ShieldedCall(Generic[T]):
    """
    One call to Airflow, which is never cancelled.

    Cancelling what Airflow's supervisor is about to answer ends the whole triggerer of some versions. So a caller
    that has waited for too long leaves the call alone, may find it again, and makes another one only when that has
    been in vain as well.

    :param call: what is awaited
    :param timeout: seconds for which a caller waits; default: :data:`LONGEST_ANSWER`
    """

    # A call that nobody waits for any longer must not be collected before its end.
    _all: ClassVar[set[asyncio.Task[Any]]] = set()

    def __init__(self, call: Coroutine[Any, Any, T], timeout: float | None = None) -> None:
        self.started_at = clock.now()
        self._timeout = LONGEST_ANSWER if timeout is None else timeout
        self._task = asyncio.ensure_future(call)
        self._all.add(self._task)
        self._task.add_done_callback(self._end)

    async def result(self) -> T:
        """
        Wait for the result.

        :raises TimeoutError: where it takes too long
        """
        await self.finished()
        return self._task.result()

    async def finished(self) -> None:
        """
        Wait for its end, whatever that is.

        :raises TimeoutError: where it takes too long
        """
        await asyncio.wait([self._task], timeout=self._timeout)
        if not self._task.done():
            raise TimeoutError(f"no answer within {self._timeout:g} s")

    @property
    def is_over(self) -> bool:
        """Whether it has ended, or callers have waited for it twice in vain."""
        return self._task.done() or clock.now() - self.started_at >= 2 * self._timeout

    @classmethod
    async def all_finished(cls) -> None:
        """Wait for all calls of the running loop; each may take :data:`LONGEST_ANSWER`."""
        loop = asyncio.get_running_loop()
        if calls := [task for task in cls._all if task.get_loop() is loop]:
            await asyncio.wait(calls, timeout=LONGEST_ANSWER)

    @classmethod
    def _end(cls, task: asyncio.Task[Any]) -> None:
        cls._all.discard(task)
        # Nobody may be left to retrieve its error.
        _ = task.cancelled() or task.exception()

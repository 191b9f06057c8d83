# SPDX-License-Identifier: Apache-2.0
"""What is asked of Airflow while others wait for the answer."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, ClassVar, Generic, TypeVar

from airflow_provider_scnet.gate import clock

T = TypeVar("T")


class Asking(Generic[T]):
    """
    One question to Airflow, which is never cancelled.

    To give up what Airflow's supervisor is about to answer ends the whole triggerer of some versions. So
    whoever waits for too long leaves the question alone, may meet it again, and asks anew only when that was in
    vain as well.

    :param question: what will be awaited
    :param patience: seconds that the answer is worth waiting for
    """

    # What nobody waits for any longer must not be collected before its end.
    _all: ClassVar[set[asyncio.Task[Any]]] = set()

    def __init__(self, question: Coroutine[Any, Any, T], patience: float) -> None:
        self.since = clock.now()
        self._patience = patience
        self._task = asyncio.ensure_future(question)
        self._all.add(self._task)
        self._task.add_done_callback(self._end)

    async def answer(self) -> T:
        """
        Wait for the answer.

        :raises TimeoutError: where it takes too long
        """
        await asyncio.wait([self._task], timeout=self._patience)
        if not self._task.done():
            raise TimeoutError(f"no answer within {self._patience:g} s")
        return self._task.result()

    @property
    def is_over(self) -> bool:
        """Whether there is an answer, or it has been waited for twice, in vain."""
        return self._task.done() or clock.now() - self.since >= 2 * self._patience

    @classmethod
    def _end(cls, task: asyncio.Task[Any]) -> None:
        cls._all.discard(task)
        # An error that nobody asks for any longer is no news.
        _ = task.cancelled() or task.exception()

# SPDX-License-Identifier: Apache-2.0
"""Work for many gates, a few milliseconds at a time, so that nobody else on the event loop is held up."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections import deque
from collections.abc import Callable, Iterator

#: Seconds for which one slice of work may last.
LONGEST_SLICE = 0.003
#: How many gates one slice may wake: each of them logs, or ends, before the next slice.
MOST_WOKEN = 20

#: One small step. It returns how many gates it woke (more than one: the slice ends there), and raises nothing.
Step = Callable[[], int]


class Pacer:
    """Runs steps one after another, in slices of a few milliseconds."""

    def __init__(self) -> None:
        # Kept, because whoever cancels everything on a loop does so while it does not run.
        self._loop = asyncio.get_running_loop()
        self._jobs: deque[Step | Iterator[Step]] = deque()
        self._is_scheduled = False

    def put(self, job: Step | Iterator[Step]) -> None:
        """
        Run this after all earlier ones.

        :param job: a step, or steps, each of which is taken when it is its turn
        """
        self._jobs.append(job)
        if not self._is_scheduled:
            self._is_scheduled = True
            self._schedule()

    async def join(self) -> None:
        """Wait until all earlier steps have run, and those that they woke have had a turn."""
        end = self._loop.create_future()

        def tell() -> int:
            if not end.done():
                end.set_result(None)
            return 0

        self.put(tell)
        await end

    def _schedule(self) -> None:
        # An empty context: no step runs, or logs, in the name of the gate that happened to put the first one.
        self._loop.call_soon(self._run_slice, context=contextvars.Context())

    def _run_slice(self) -> None:
        end, woken = time.perf_counter() + LONGEST_SLICE, 0
        try:
            while self._jobs and woken < MOST_WOKEN and time.perf_counter() < end:
                job = self._jobs[0]
                if callable(job):
                    self._jobs.popleft()
                    woken += job()
                elif step := next(job, None):
                    woken += step()
                else:
                    self._jobs.popleft()
        finally:
            if self._jobs:
                self._schedule()
            else:
                self._is_scheduled = False


class Breather:
    """Interrupts one long piece of work in a coroutine every few milliseconds."""

    def __init__(self) -> None:
        self._end = time.perf_counter() + LONGEST_SLICE

    @property
    def is_due(self) -> bool:
        """Whether the others on the loop have waited for long enough."""
        return time.perf_counter() >= self._end

    async def take(self) -> None:
        """Let the others on the loop run."""
        await asyncio.sleep(0)
        self._end = time.perf_counter() + LONGEST_SLICE

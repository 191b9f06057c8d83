# SPDX-License-Identifier: Apache-2.0
"""What has to be done for many gates, a few milliseconds at a time."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections import deque
from collections.abc import Callable, Iterable

#: Seconds after which a turn ends. The others on the loop, and what this turn woke, are next.
LONGEST_TURN = 0.003
#: How many gates a turn wakes at the most: each says what it sees, or ends, before the next turn.
MOST_WOKEN = 20

#: Does a little, and tells how many gates that woke; more than one where the rest of the turn is theirs. It raises
#: nothing.
Step = Callable[[], int]


class Turns:
    """
    Does one step after another, for a few milliseconds at each turn of the running event loop.

    All gates of a triggerer may have something to do at once, and are not alone on its loop.
    """

    def __init__(self) -> None:
        # Whoever ends all that is on a loop does so while it does not run.
        self._loop = asyncio.get_running_loop()
        self._steps: deque[Step] = deque()
        self._is_under_way = False

    def put(self, steps: Iterable[Step]) -> None:
        """
        Do these after all that were put before.

        :param steps: the steps
        """
        self._steps.extend(steps)
        if self._steps and not self._is_under_way:
            self._is_under_way = True
            self._go_on()

    async def done(self) -> None:
        """Wait until all is done that was put before, and who was woken by it has had a turn."""
        end = self._loop.create_future()

        def tell() -> int:
            if not end.done():
                end.set_result(None)
            return 0

        self.put([tell])
        await end

    def _go_on(self) -> None:
        # An empty context: nothing here is done in the name of the gate that happened to put the first step.
        self._loop.call_soon(self._take, context=contextvars.Context())

    def _take(self) -> None:
        end, woken = time.perf_counter() + LONGEST_TURN, 0
        try:
            while self._steps and woken < MOST_WOKEN and time.perf_counter() < end:
                woken += self._steps.popleft()()
        finally:
            if self._steps:
                self._go_on()
            else:
                self._is_under_way = False


class Pauses:
    """Lets others on the loop have their turns while one piece of work takes long."""

    def __init__(self) -> None:
        self._end = time.perf_counter() + LONGEST_TURN

    @property
    def are_due(self) -> bool:
        """Whether it is time for one."""
        return time.perf_counter() >= self._end

    async def take(self) -> None:
        """Let the others have theirs."""
        await asyncio.sleep(0)
        self._end = time.perf_counter() + LONGEST_TURN

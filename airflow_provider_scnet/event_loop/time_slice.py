# SPDX-License-Identifier: Apache-2.0
"""Long work in slices of time, so that nobody else on the event loop is held up."""

from __future__ import annotations

import asyncio
import time

#: Seconds for which work may last without a break.
LONGEST_SLICE = 0.003
#: How many others may be given work, which they do at the next break.
MOST_WORK = 20


class TimeSlice:
    """The milliseconds for which one long piece of work in a coroutine goes on before others have their turn."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._end, self._work = time.perf_counter() + LONGEST_SLICE, 0

    async def share(self, work: int = 0) -> None:
        """Let the others on the loop run, where they have waited for long enough or have had enough work given."""
        self._work += work
        if self._work >= MOST_WORK or time.perf_counter() >= self._end:
            await asyncio.sleep(0)
            self._begin()

# SPDX-License-Identifier: Apache-2.0
"""
Whose turn it is to decide, among all triggerers that let gates through on one account.

Airflow's Variables have no compare-and-set. A turn is taken by writing one's name, waiting, and reading it back.
Who reads its own name back knows that whoever writes another one later will wait for :data:`WAIT` as well, and has
most of that time for itself. This is Fischer's algorithm; because the time is measured, and who took longer does
nothing, it relies on no message being quick. What others wrote in their turns is read after the wait: whoever had
the turn when this name was written has ended by then.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections.abc import AsyncIterator, Awaitable, Callable

from airflow_provider_scnet.claims.variable_store import NotDecidedError, Store, StoreError
from airflow_provider_scnet.event_loop import clock

#: Seconds between writing and reading back. The same for all processes: a part of the format, and no setting.
WAIT = 0.6
#: Seconds from the sending of the second reading within which all has to be written.
LONGEST_SECTION = 0.5
#: Seconds for which a turn that does not change is respected: who holds it may have died.
TAKEN_OVER_AFTER = 60.0
#: Seconds after which a turn is not given back, as somebody else may hold it by then.
GIVEN_BACK_WITHIN = 20.0
#: Seconds for which one waits for a turn. What was seen of it is remembered for the next time.
LONGEST_WAIT = 45.0

_FREE = "free"


class Section:
    """The time since a turn was read back."""

    def __init__(self) -> None:
        self._began = clock.now(), clock.wall()

    @property
    def seconds(self) -> float:
        """How long it has lasted: by both clocks, as one of them may stand still while a machine sleeps."""
        return max(clock.now() - self._began[0], clock.wall() - self._began[1])

    @property
    def is_in_time(self) -> bool:
        """Whether what is decided in it stands."""
        return self.seconds < LONGEST_SECTION


class Turn:
    """
    The turn of one account, as one process takes it.

    :param store: where it is written
    :param key: under which key
    :param description: what is written there, for people
    :param name: the process, by a name of which there is no other
    """

    def __init__(self, store: Store, key: str, description: str, name: str) -> None:
        self._store = store
        self._key = key
        self._description = description
        self._name = f"{name}-"
        self._names = (f"{self._name}{number}" for number in itertools.count(1))
        # Who held it when it was read last, and since when.
        self._held: tuple[str, float] = _FREE, 0.0

    @contextlib.asynccontextmanager
    async def taken(self, read: Callable[[], Awaitable[None]]) -> AsyncIterator[Section | None]:
        """
        Wait for the turn, take it for what is done meanwhile, and let others have it.

        :param read: reads what others wrote in theirs
        :return: the section that begins; None where another process took the turn in the same moment
        :raises NotDecidedError: where it does not become free
        :raises StoreError: where it cannot be read or written
        """
        give_up_at = clock.now() + LONGEST_WAIT
        while not await self._is_free():
            if clock.now() >= give_up_at:
                raise NotDecidedError("another triggerer decides, or died while it did")
            await asyncio.sleep(random.uniform(0.3, 0.6))  # noqa: S311
        mine, is_mine = next(self._names), True
        await self._write(mine)
        # What fails or is ended before the section gives the turn back as well.
        section = Section()
        try:
            await asyncio.sleep(WAIT)
            async with self._store.alone():
                await read()
                section = Section()
                is_mine = await self._store.get(self._key) == mine
                yield section if is_mine else None
        finally:
            if is_mine and section.seconds < GIVEN_BACK_WITHIN:
                with contextlib.suppress(StoreError):
                    await self._write(_FREE)

    async def _is_free(self) -> bool:
        holder, now = await self._store.get(self._key) or _FREE, clock.now()
        if holder != self._held[0]:
            self._held = holder, now
        # One's own name is left from a turn that could not be given back.
        is_left = holder.startswith(self._name) or now - self._held[1] >= TAKEN_OVER_AFTER
        return holder == _FREE or is_left

    async def _write(self, value: str) -> None:
        await self._store.set(self._key, value, self._description)

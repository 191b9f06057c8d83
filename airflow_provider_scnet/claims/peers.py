# SPDX-License-Identifier: Apache-2.0
"""
Gates of one task in several triggerers: which of them may open on an observation.

Two triggerers that poll in the same second see the same room, and neither sees what the other gives out of it. But
both see in Airflow's states which gates wait, and need no more to divide it: as many as there is room for may
open, in an order on which all agree, each in its own triggerer.
"""

from __future__ import annotations

import bisect
import random
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator

from airflow_provider_scnet.claims.submission import GateId
from airflow_provider_scnet.claims.waiting import WaitingGate

#: Polls at which room is left to a gate elsewhere that does not open, and to all of them while none does: their
#: triggerer may be dead or full, or they may ask something else. A gate that opened after one poll shows at the
#: next but one at the latest; a third poll leaves time to a triggerer that is slow.
PATIENCE = 3
#: The same while other gates are passed over already.
LESS_PATIENCE = 1
#: Polls with room at which it is left to gates elsewhere while none of those here is among the first: of many
#: triggerers each has its turn after many polls.
LONGEST_PATIENCE = 30

# A gate's place in the order on which all agree.
_Place = tuple[str, str, int]


class Peers:
    """The gates elsewhere of tasks whose gates wait here."""

    def __init__(self) -> None:
        # By DAG and task, and by run: their map indexes.
        self._elsewhere: dict[tuple[str, str], dict[str, Collection[int]]] = {}
        self._lines: dict[tuple[object, ...], _Line] = {}
        #: How many gates wait elsewhere of which no more is known, by DAG and task.
        self.unseen: Counter[tuple[str, str]] = Counter()

    def note(self, gates: GateId, elsewhere: Collection[int]) -> Collection[int]:
        """
        Note which gates of a run and task wait elsewhere.

        :param gates: the run and task
        :param elsewhere: their map indexes
        :return: those that were known before
        """
        by_run = self._elsewhere.setdefault(gates.task, {})
        before = by_run.pop(gates.run_id, ())
        if elsewhere:
            by_run[gates.run_id] = elsewhere
        return before

    def may_open(
        self,
        waiting: WaitingGate,
        at: float,
        competing: Callable[[], Iterable[GateId]],
        opens: Callable[[int], bool],
    ) -> bool:
        """
        Tell whether a gate is among the first for which there is room.

        :param waiting: the gate
        :param at: when the observation was made, by the event loop's clock
        :param competing: returns the gates that wait here and may open, of the same task and asking the same
        :param opens: tells whether it would open after so many others
        """
        if waiting.gate is None:
            return True
        task = waiting.gate.task
        by_run, unseen = self._elsewhere.get(task), self.unseen[task]
        if not by_run and not unseen:
            return True
        name = (*task, waiting.asks, waiting.account)
        line = self._lines.get(name)
        if line is None:
            line = self._lines[name] = _Line()
        if line.at != at:
            here = [gate.order for gate in competing()]
            elsewhere = [
                GateId(task[0], run_id, task[1], index).order
                for run_id, indexes in (by_run or {}).items()
                for index in indexes
            ]
            line.form(at, here, elsewhere, unseen, opens)
        return waiting.gate.order in line.first

    def known(self, task: tuple[str, str]) -> int:
        """
        Return how many gates of a task are known to wait elsewhere.

        :param task: the DAG and the task
        """
        return sum(len(indexes) for indexes in self._elsewhere.get(task, {}).values())

    def forget_run(self, dag_id: str, run_id: str) -> None:
        """
        Forget the gates of a run.

        :param dag_id: the DAG
        :param run_id: the run
        """
        for (dag, _), by_run in self._elsewhere.items():
            if dag == dag_id:
                by_run.pop(run_id, None)

    def forget(self, before: float) -> None:
        """
        Forget what was asked at no poll for long.

        :param before: since when, by the event loop's clock
        """
        self._lines = {name: line for name, line in self._lines.items() if line.at > before}
        self._elsewhere = {task: by_run for task, by_run in self._elsewhere.items() if by_run}


class _Line:
    """All gates of a task that ask the same about an account, wherever they wait, at one observation."""

    def __init__(self) -> None:
        self.at = float("-inf")
        #: Those that may open: as many as there was room for when the first of them asked.
        self.first: set[_Place] = set()
        # Those that waited elsewhere at the last poll; at how many polls each of them was among the first; and at
        # how many in a row none of them used the room that was left to it.
        self._elsewhere: set[_Place] = set()
        self._left: Counter[_Place] = Counter()
        self._unused = 0
        # At how many polls with room in a row none of those here was among the first.
        self._starved = 0

    def form(
        self,
        at: float,
        here: Collection[_Place],
        elsewhere: Collection[_Place],
        unseen: int,
        opens: Callable[[int], bool],
    ) -> None:
        """
        Put all in line for one observation.

        :param at: when it was made, by the event loop's clock
        :param here: those who wait here
        :param elsewhere: those who wait elsewhere; some may ask something else, which nobody says
        :param unseen: how many more wait elsewhere, nobody knows which
        :param opens: tells whether one of them would open after so many others
        """
        self.at = at
        was_left = not self._elsewhere.isdisjoint(self.first)
        now_elsewhere = set(elsewhere)
        if self._elsewhere - now_elsewhere:
            self._unused = 0
        elif was_left:
            self._unused += 1
        self._elsewhere = now_elsewhere
        self._left = Counter({place: polls for place, polls in self._left.items() if place in now_elsewhere})
        line = sorted([*here, *self._respected()])
        room = bisect.bisect_left(range(len(line) + unseen), True, key=lambda others: not opens(others))
        if unseen:
            # Their share, by chance: where nobody knows who comes first, that is right on average.
            share = room * len(line) / (len(line) + unseen)
            room = int(share + random.random())  # noqa: S311
        self.first = set(line[:room])
        self._left.update(self.first.difference(here))
        if self.first:
            self._starved = 0 if self.first.intersection(here) else self._starved + 1
        if self._starved > LONGEST_PATIENCE:
            self._starved = 0
            self.first.add(min(here))

    def _respected(self) -> Iterator[_Place]:
        """Yield those elsewhere to whom room is left."""
        if self._unused >= PATIENCE:
            return
        patience = LESS_PATIENCE if any(polls >= PATIENCE for polls in self._left.values()) else PATIENCE
        for place in self._elsewhere:
            if self._left[place] < patience:
                yield place

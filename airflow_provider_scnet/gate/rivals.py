# SPDX-License-Identifier: Apache-2.0
"""
Whose turn it is where gates of one task wait in several triggerers.

Two triggerers that look in the same second see the same room, and neither sees what the other gives out of it. But
both see in Airflow's answers which gates wait, and need no more to part it: as many as there is room for may pass,
in an order on which all agree, each in its own triggerer.
"""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator

from airflow_provider_scnet.gate.submission import GateId
from airflow_provider_scnet.gate.waiting import Waiting, WaitingGates

#: Why a gate waits that is not among the first.
AFTER_OTHERS = "gates that wait in other triggerers come first"
#: Looks at which room is left to a gate elsewhere that does not pass, and to all of them while none does: their
#: triggerer may be dead or full, or they may ask something else. What passed after one look shows at the next but
#: one at the latest.
PATIENCE = 2
#: The same while other gates are passed over already.
LESS_PATIENCE = 1
#: Looks at which room is left to gates elsewhere and none of those here is among the first.
LONGEST_PATIENCE = 10

# A gate's place in the order on which all agree: its run's date, its run, and its map index.
_Place = tuple[str, str, int]


class Rivals:
    """
    The gates elsewhere of tasks whose gates wait here, and who comes first.

    :param waiting: the gates that wait here
    """

    def __init__(self, waiting: WaitingGates) -> None:
        self._waiting = waiting
        self._elsewhere: dict[tuple[str, str], dict[str, Collection[int]]] = {}
        self._lines: dict[tuple[object, ...], _Line] = {}

    def note(self, gates: GateId, elsewhere: Collection[int]) -> Collection[int]:
        """
        Note which gates of a run and task wait elsewhere.

        :param gates: the run and task
        :param elsewhere: their map indexes
        :return: those that were known before
        """
        by_run = self._elsewhere.setdefault((gates.dag_id, gates.task_id), {})
        before = by_run.pop(gates.run_id, ())
        if elsewhere:
            by_run[gates.run_id] = elsewhere
        return before

    def turn(
        self,
        waiting: Waiting,
        look_at: float,
        competing: Callable[[], Iterable[GateId]],
        opens: Callable[[int], bool],
    ) -> str:
        """
        Say why it is not a gate's turn; empty where it is.

        :param waiting: the gate
        :param look_at: when the look was made, by :mod:`.clock`
        :param competing: returns the gates that wait here and may pass, of the same task and asking the same
        :param opens: tells whether it would open on the look after so many others
        """
        task = (waiting.gate.dag_id, waiting.gate.task_id)
        by_run = self._elsewhere.get(task)
        if not by_run:
            return ""
        name = (*task, waiting.asks, waiting.account)
        line = self._lines.get(name)
        if line is None:
            line = self._lines[name] = _Line()
        if line.look_at != look_at:
            census = self._waiting.census(waiting.gate.dag_id)
            here = [_place(gate.run_id, gate.map_index) for gate in competing()]
            # What is known of a run is old where none of its gates waits here any longer.
            elsewhere = [
                _place(run, index) for run, indexes in by_run.items() if run in census for index in indexes
            ]
            line.stand(look_at, here, elsewhere, opens)
        return "" if _place(waiting.gate.run_id, waiting.gate.map_index) in line.first else AFTER_OTHERS

    def forget(self, before: float) -> None:
        """
        Forget what is about runs none of whose gates waits here, and what stood at no look for long.

        :param before: since when, by :mod:`.clock`
        """
        for (dag_id, task_id), by_run in list(self._elsewhere.items()):
            census = self._waiting.census(dag_id)
            for run_id in [run_id for run_id in by_run if run_id not in census]:
                del by_run[run_id]
            if not by_run:
                del self._elsewhere[dag_id, task_id]
        self._lines = {name: line for name, line in self._lines.items() if line.look_at > before}


def _place(run_id: str, map_index: int) -> _Place:
    # Airflow's own run ids are a type and a date, as in "scheduled__2026-01-01T00:00:00+00:00".
    return run_id.partition("__")[2] or run_id, run_id, map_index


class _Line:
    """All gates of a task that ask the same about an account, wherever they wait, as they stand at one look."""

    def __init__(self) -> None:
        self.look_at = float("-inf")
        #: Those that may pass: as many as there was room for when the first of them was asked.
        self.first: set[_Place] = set()
        # Those who waited elsewhere at the last look; at how many looks each of them was among the first; and at
        # how many in a row none of them took the room that was left to them.
        self._elsewhere: set[_Place] = set()
        self._left: Counter[_Place] = Counter()
        self._untaken = 0
        # In how many looks in a row none of those here was among the first.
        self._starved = 0

    def stand(
        self,
        look_at: float,
        here: Collection[_Place],
        elsewhere: Collection[_Place],
        opens: Callable[[int], bool],
    ) -> None:
        """
        Stand in line for a look.

        :param look_at: when it was made, by :mod:`.clock`
        :param here: those who wait here
        :param elsewhere: those who wait elsewhere; some may ask something else, which nobody says
        :param opens: tells whether one of them would open after so many others
        """
        self.look_at = look_at
        was_left = not self._elsewhere.isdisjoint(self.first)
        now_elsewhere = set(elsewhere)
        if self._elsewhere - now_elsewhere:
            self._untaken = 0
        elif was_left:
            self._untaken += 1
        self._elsewhere = now_elsewhere
        self._left = Counter({place: looks for place, looks in self._left.items() if place in now_elsewhere})
        line = sorted([*here, *self._respected()])
        room = bisect.bisect_left(range(len(line)), True, key=lambda others: not opens(others))
        self.first = set(line[:room])
        self._left.update(self.first.difference(here))
        self._starved = 0 if self.first.intersection(here) else self._starved + 1
        if self._starved > LONGEST_PATIENCE and here:
            self._starved = 0
            self.first.add(min(here))

    def _respected(self) -> Iterator[_Place]:
        """Yield those elsewhere to whom room is left."""
        if self._untaken >= PATIENCE:
            return
        patience = LESS_PATIENCE if any(looks >= PATIENCE for looks in self._left.values()) else PATIENCE
        for place in self._elsewhere:
            if self._left[place] < patience:
                yield place

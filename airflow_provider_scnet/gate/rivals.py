# SPDX-License-Identifier: Apache-2.0
"""
Whose turn it is where gates of one task wait in several triggerers.

Two triggerers that look in the same second see the same room, and neither sees what the other gives out of it. But
both see in Airflow's answers which gates wait, and need no more to part it: as many as there is room for may pass,
in an order on which all agree, each in its own triggerer.
"""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Callable, Collection

from airflow_provider_scnet.gate.submission import GateId
from airflow_provider_scnet.gate.waiting import Waiting, WaitingGates

#: Why a gate waits that is not among the first.
AFTER_OTHERS = "gates that wait in other triggerers come first"
#: Looks at which room is left to gates elsewhere while none of them passes: their triggerer may be dead, or full.
#: That they passed after one look shows at the next but one at the latest.
PATIENCE = 2
#: Looks at which room is left to gates elsewhere that do pass, while none passes here: those that are first may
#: ask for more than these do.
LONG_PATIENCE = 10


@dataclasses.dataclass
class _Others:
    """What is known of the gates of one task that wait elsewhere."""

    by_run: dict[str, Collection[int]] = dataclasses.field(default_factory=dict)
    # The last look at which they were left room; at how many they were since one of them passed; and since one
    # passed here.
    left_at: float | None = None
    left: int = 0
    starved: int = 0
    # Whether they did not take it. They are left none again until one of them passes.
    are_inert: bool = False


class Queue:
    """
    All gates of a task that compete on one look, wherever they wait, before any of them has passed on it.

    :param look_at: when the look was made, by :mod:`.clock`
    :param places: their runs and map indexes
    :param claimed: jobs that are claimed on the look
    """

    def __init__(self, look_at: float, places: list[tuple[str, int]], claimed: int) -> None:
        self.look_at = look_at
        self._places = sorted(places)
        self._claimed = claimed
        self._shut_from = len(places) + 1

    def is_turn_of(self, gate: GateId, jobs: int, opens: Callable[[int], bool]) -> bool:
        """
        Tell whether a gate is among those that there is room for.

        :param gate: the gate
        :param jobs: how many jobs each of them will submit
        :param opens: tells whether it would open with so many jobs claimed
        """
        before = bisect.bisect_left(self._places, (gate.run_id, gate.map_index))
        if before < self._shut_from and not opens(self._claimed + before * jobs):
            self._shut_from = before
        return before < self._shut_from


class Rivals:
    """
    The gates elsewhere of tasks whose gates wait here, and who comes first.

    :param waiting: the gates that wait here
    """

    def __init__(self, waiting: WaitingGates) -> None:
        self._waiting = waiting
        self._others: dict[tuple[str, str], _Others] = {}
        self._queues: dict[tuple[object, ...], Queue] = {}

    def note(self, gates: GateId, elsewhere: Collection[int]) -> None:
        """
        Note which gates of a run and task wait elsewhere.

        :param gates: the run and task
        :param elsewhere: their map indexes
        """
        task = (gates.dag_id, gates.task_id)
        if elsewhere:
            self._others.setdefault(task, _Others()).by_run[gates.run_id] = elsewhere
        elif others := self._others.get(task):
            others.by_run.pop(gates.run_id, None)

    def passed_elsewhere(self, gate: GateId) -> None:
        """
        Note that a gate has passed elsewhere.

        :param gate: the gate
        """
        if others := self._others.get((gate.dag_id, gate.task_id)):
            others.left, others.are_inert = 0, False

    def passed_here(self, gate: GateId) -> None:
        """
        Note that a gate has passed here.

        :param gate: the gate
        """
        if others := self._others.get((gate.dag_id, gate.task_id)):
            others.starved = 0

    def queue(self, waiting: Waiting, look_at: float, claimed: int) -> Queue | None:
        """
        Return the queue that a gate stands in; None where nobody else stands in it that may pass.

        :param waiting: the gate
        :param look_at: when the look was made, by :mod:`.clock`
        :param claimed: jobs that are claimed on it by now
        """
        task = (waiting.gate.dag_id, waiting.gate.task_id)
        others = self._others.get(task)
        if others is None or others.are_inert or not others.by_run:
            return None
        name = (*task, waiting.asks, waiting.account)
        queue = self._queues.get(name)
        if queue is None or queue.look_at != look_at:
            places = [(run_id, index) for run_id, indexes in others.by_run.items() for index in indexes]
            places += [(each.run_id, each.map_index) for each in self._waiting.that_compete_with(waiting)]
            queue = self._queues[name] = Queue(look_at, places, claimed)
        return queue

    def leave(self, gate: GateId, look_at: float) -> str:
        """
        Leave room to gates elsewhere, for as long as it is likely that they take it.

        :param gate: the gate that leaves it
        :param look_at: when the look was made on which it does, by :mod:`.clock`
        :return: why; empty where it need not
        """
        others = self._others[gate.dag_id, gate.task_id]
        if others.left_at != look_at:
            others.left_at = look_at
            others.left += 1
            others.starved += 1
        if others.left > PATIENCE:
            others.are_inert = True
            return ""
        if others.starved > LONG_PATIENCE:
            others.starved = 0
            return ""
        return AFTER_OTHERS

    def forget(self) -> None:
        """Forget what is about tasks of DAGs none of whose gates waits here."""
        self._others = {task: each for task, each in self._others.items() if task[0] in self._waiting.dags}
        self._queues = {name: each for name, each in self._queues.items() if name[:2] in self._others}

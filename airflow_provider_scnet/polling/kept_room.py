# SPDX-License-Identifier: Apache-2.0
"""Room that is kept for a gate with several jobs, which others with room enough would overtake for ever."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from airflow_provider_scnet.gate.reporter import Note
from airflow_provider_scnet.polling.waiting import WaitingGate

#: Polls at which others may overtake a gate with several jobs before room is kept for it; and polls for which it
#: is kept without what it lacks having become less.
MOST_OVERTAKEN = 10


class KeptRoom:
    """
    The gate of an account for which there is room for some of its jobs, and those that overtake it.

    Room is kept for one gate at a time. If that does not help, because jobs of others fill the queue, the gate has
    to be overtaken twice as often before room is kept again: what comes behind stands still now and then, and not
    for ever.
    """

    def __init__(self) -> None:
        self._gate: WaitingGate | None = None
        self._is_kept = False
        # At how many polls each gate was overtaken; at how many any was since room was kept, and has to be.
        self._overtaken: Counter[WaitingGate] = Counter()
        self._polls, self._most_polls = 0, MOST_OVERTAKEN
        # The least that the gate has lacked since room is kept, and for how many polls that has not become less.
        self._least, self._in_vain = 0, 0

    def reason_to_wait(self, gate: WaitingGate) -> str:
        """Say for which gate room is kept from one that would open; empty where it may open."""
        kept_for = self._gate if self._is_kept else None
        return f"room is kept for {kept_for.id or 'a gate'}" if kept_for and _overtakes(gate, kept_for) else ""

    def learn(
        self,
        short: Collection[tuple[WaitingGate, int]],
        opened: Collection[WaitingGate],
        decided: Collection[WaitingGate],
    ) -> None:
        """
        Note what came of a poll.

        :param short: the gates with room for some of their jobs, and how many they lack; the first in order first
        :param opened: the gates that open
        :param decided: all that decided, these among them
        """
        self._overtaken = Counter({gate: polls for gate, polls in self._overtaken.items() if not gate.has_ended})
        if self._gate and self._gate.has_ended:
            self._gate, self._is_kept, self._polls, self._most_polls = None, False, 0, MOST_OVERTAKEN
        if self._gate and self._is_kept:
            if self._gate not in decided:
                return
            lacks = next((lacks for gate, lacks in short if gate is self._gate), self._least)
            self._in_vain = 0 if lacks < self._least else self._in_vain + 1
            self._least = min(lacks, self._least)
            if self._in_vain >= MOST_OVERTAKEN:
                self._is_kept, self._polls = False, 0
                self._most_polls *= 2
                del self._overtaken[self._gate]
            return
        overtakers = {gate: [each for each in opened if _overtakes(each, gate)] for gate, _ in short}
        self._overtaken.update(gate for gate, others in overtakers.items() if others)
        self._polls += any(overtakers.values())
        if self._polls >= self._most_polls and overtakers:
            # Where several are short, the one that was overtaken most, so that each has its turn.
            self._gate = max(overtakers, key=lambda gate: self._overtaken[gate])
            # What opens now takes of its room as well.
            self._least = dict(short)[self._gate] + sum(each.asks.submits for each in overtakers[self._gate])
            self._is_kept, self._in_vain = True, 0

    def notes(self) -> list[Note]:
        """Return what a reader of a gate's log should know."""
        if self._gate is None or not self._is_kept:
            return []
        whose = f"the {self._gate.asks.submits} jobs of {self._gate.id or 'a gate'}"
        return [
            Note(
                f"room is kept for {whose}, which gates behind it overtook at {self._most_polls} polls: they "
                f"wait while what it lacks becomes less, and for {MOST_OVERTAKEN} polls without",
                key="kept room",
            )
        ]


def _overtakes(gate: WaitingGate, other: WaitingGate) -> bool:
    """Tell whether a gate comes behind another, and takes room that the other wants."""
    return other.order < gate.order and gate.claims_from(other.asks.queue_name)

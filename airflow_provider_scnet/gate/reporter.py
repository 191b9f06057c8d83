# SPDX-License-Identifier: Apache-2.0
"""What a gate says in its log: what is new, and once in a while what is not."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any, Protocol

from airflow_provider_scnet.event_loop.clock import now
from airflow_provider_scnet.gate.decision import Decision
from airflow_provider_scnet.gate.note import Note

#: Seconds after which a gate that sees nothing new says again why it waits.
REPEAT_AFTER = 600.0


class Log(Protocol):
    """A task's own logger, whichever Airflow made it."""

    def info(self, message: str, /, *args: Any) -> Any:
        """Log what an operator may want to know."""

    def warning(self, message: str, /, *args: Any) -> Any:
        """Log what an operator should know."""


class Reporter:
    """
    Says what is new, and once in a while what is not.

    :param log: where it is said
    :param clock: seconds that never jump
    :param name: who says it, where others use the log as well; empty where it is one's own
    """

    def __init__(self, log: Log, clock: Callable[[], float] = now, name: str = ""):
        self._log = log
        self._clock = clock
        self._name = f"{name}: " if name else ""
        self._said_at = 0.0
        # What was said of each subject, and when.
        self._noted: dict[str, tuple[str, float]] = {}
        #: The decision that was said last.
        self.last: Decision | None = None

    def has_news(self, decision: Decision, notes: Collection[str], at: float) -> bool:
        """
        Tell whether there is anything to say.

        :param decision: the decision
        :param notes: what a reader should know once
        :param at: a moment not long ago, such as that of the observation
        """
        if decision is not self.last and decision != self.last:
            return True
        if notes and any(self._is_news(note, at) for note in notes):
            return True
        # The clock is dear where thousands ask: it is only read where it may say that it is time.
        return at - self._said_at >= REPEAT_AFTER / 2 and self._clock() - self._said_at >= REPEAT_AFTER

    def note(self, notes: Iterable[str]) -> None:
        """
        Say what a reader should know once; where its words change, not more often than the gate repeats itself.

        :param notes: each of them
        """
        for note in notes:
            at = self._clock()
            if self._is_news(note, at):
                self._noted[_subject(note)] = note, at
                self._log.warning("%s%s", self._name, note)

    def report(self, decision: Decision) -> None:
        """
        Say a decision where it is another than the last one, or that is long ago.

        :param decision: the decision
        """
        at = self._clock()
        if decision != self.last or at - self._said_at >= REPEAT_AFTER:
            self.last, self._said_at = decision, at
            say = self._log.warning if decision.trouble else self._log.info
            say("%s%s", self._name, decision)

    def _is_news(self, note: str, at: float) -> bool:
        said = self._noted.get(_subject(note))
        return said is None or (note != said[0] and at - said[1] >= REPEAT_AFTER)


def _subject(note: str) -> str:
    return note.key if isinstance(note, Note) else note

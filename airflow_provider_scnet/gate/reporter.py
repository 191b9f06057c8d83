# SPDX-License-Identifier: Apache-2.0
"""What a gate says in its log: what is new, and once in a while what is not."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from airflow_provider_scnet.gate.decision import Decision

#: Seconds after which a gate that sees nothing new says again why it waits.
REPEAT_AFTER = 600.0


class Note(str):
    """
    What the reader of a log should know, said once and not at each poll.

    :param text: the sentence
    :param key: what it is about, where the words vary from poll to poll; default: the sentence itself
    """

    key: str

    def __new__(cls, text: str, key: str = "") -> Note:
        """Make a note."""
        note = super().__new__(cls, text)
        note.key = key or text
        return note


class Log(Protocol):
    """A task's own logger, whichever Airflow made it."""

    def info(self, message: str, /, *args: Any) -> Any:
        """Log what an operator may want to know."""

    def warning(self, message: str, /, *args: Any) -> Any:
        """Log what an operator should know."""


class Reporter:
    """
    Says what is new, and once in a while what is not. Times are those of observations, in seconds.

    :param log: where it is said
    :param name: who says it, where others use the log as well; empty where it is one's own
    """

    def __init__(self, log: Log, name: str = ""):
        self._log = log
        #: How its lines begin.
        self.name = f"{name}: " if name else ""
        self._said_at = 0.0
        # What was said of each subject, and when.
        self._noted: dict[str, tuple[str, float]] = {}
        #: The decision that was said last.
        self.last: Decision | None = None

    def note(self, notes: Iterable[str], at: float) -> None:
        """Say what a reader should know once; where its words change, no oftener than the gate repeats itself."""
        for note in notes:
            subject = note.key if isinstance(note, Note) else note
            said = self._noted.get(subject)
            if said is None or (note != said[0] and at - said[1] >= REPEAT_AFTER):
                self._noted[subject] = note, at
                self._log.warning("%s%s", self.name, note)

    def report(self, decision: Decision, at: float) -> bool:
        """Say a decision that differs from the last one, or where that is long ago; return whether it was said."""
        # Thousands of gates share one decision: it is compared only where it is another object.
        if (decision is self.last or decision == self.last) and at - self._said_at < REPEAT_AFTER:
            return False
        self.last, self._said_at = decision, at
        say = self._log.warning if decision.trouble else self._log.info
        say("%s%s", self.name, decision)
        return True

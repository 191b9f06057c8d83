# SPDX-License-Identifier: Apache-2.0
"""The names of jobs by which a later try finds what an earlier one submitted."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import re

#: Characters of a name: the part that tells whose job it is, and all of it. What SCnet allows is not documented.
LONGEST_KEY, LONGEST_NAME = 24, 32

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_MOST = len(_DIGITS) ** 3
_NAME = re.compile(r"(a[a-z2-7]{15})_([0-9a-z]{1,3})_([0-9a-z]{1,3})(_[a-z0-9_]*)?")


@dataclasses.dataclass(frozen=True)
class JobName:
    """
    A job's name: whose it is first, a readable part last, so that a cut cannot hurt.

    :param task: a hash that no other task instance has
    :param round: how often somebody has cleared the task after it had ended
    :param number: how many jobs of the round are proven to have failed before it
    :param readable: for people
    """

    task: str
    round: int
    number: int
    readable: str = ""

    @classmethod
    def read(cls, text: str) -> JobName | None:
        """Return what a name says; None where it was not made here."""
        if not (found := _NAME.fullmatch(text)):
            return None
        task, round_, number, readable = found.groups()
        return cls(task, int(round_, 36), int(number, 36), (readable or "").removeprefix("_"))

    @property
    def key(self) -> str:
        """All but the readable part, which somebody may change between two tries."""
        return f"{self.task}_{_base36(self.round)}_{_base36(self.number)}"

    def __str__(self) -> str:
        return f"{self.key}_{self.readable}"[:LONGEST_NAME].rstrip("_")


def task_hash(*identity: object) -> str:
    """
    Return what tells a task instance from all others, as lower-case letters and digits.

    :param identity: the Airflow, DAG, run, task and map index
    """
    digest = hashlib.sha256("\n".join(map(str, identity)).encode()).digest()
    return "a" + base64.b32encode(digest).decode().lower()[:15]


def readable(text: str) -> str:
    """Return as much of a text as may stand in a name."""
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")


def _base36(number: int) -> str:
    if not 0 <= number < _MOST:
        raise ValueError(f"no number from 0 to {_MOST - 1}: {number}")
    digits = ""
    while number or not digits:
        number, digit = divmod(number, 36)
        digits = _DIGITS[digit] + digits
    return digits

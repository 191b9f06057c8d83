# SPDX-License-Identifier: Apache-2.0
"""The simulator's time, which a test can stop and advance."""

from __future__ import annotations

import threading
import time


class SimulatorClock:
    """
    A clock that follows real time, or stands still until it is told to advance.

    It reads 0 when it is made. Several simulators may share one.

    :param frozen: whether the clock stands still from the start
    """

    def __init__(self, *, frozen: bool = False) -> None:
        self._lock = threading.Lock()
        self._passed = 0.0
        self._made_at = time.time()
        self._ticking_since = None if frozen else time.monotonic()

    def now(self) -> float:
        """Return the seconds since this clock was made."""
        with self._lock:
            return self._now()

    def wall(self, seconds: float) -> float:
        """
        Return what epoch time it is when the clock reads ``seconds``.

        It was right when the clock was made; since then it passes as this clock does.
        """
        return self._made_at + seconds

    def advance(self, seconds: float) -> None:
        """Let ``seconds`` pass at once, on a frozen clock and on a ticking one."""
        check_seconds("seconds", seconds)
        with self._lock:
            self._passed += seconds

    def freeze(self) -> None:
        """Stand still from now on."""
        with self._lock:
            self._passed = self._now()
            self._ticking_since = None

    def thaw(self) -> None:
        """Follow real time again, from where the clock stands."""
        with self._lock:
            if self._ticking_since is None:
                self._ticking_since = time.monotonic()

    def _now(self) -> float:
        if self._ticking_since is None:
            return self._passed
        return self._passed + time.monotonic() - self._ticking_since


def check_number(name: str, value: int, least: int = 0) -> None:
    """
    Make sure that a value is a whole number.

    :param name: what it is called in the error
    :param value: the value
    :param least: the least that it may be
    :raises ValueError: if it is not
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be a whole number from {least}, not {value!r}")


def check_seconds(name: str, value: float) -> None:
    """
    Make sure that a value is a number of seconds from 0.

    :param name: what it is called in the error
    :param value: the value
    :raises ValueError: if it is not
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
        raise ValueError(f"{name} must be a number of seconds from 0, not {value!r}")

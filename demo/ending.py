# SPDX-License-Identifier: Apache-2.0
"""An end in order, whoever asks for it: Ctrl-C, the terminal that closes, the machine that goes down."""

from __future__ import annotations

import signal
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Ended(BaseException):
    """
    Somebody wants this to end.

    :param signum: the signal that said so
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


def raise_on_signals() -> None:
    """From here on, the first signal raises :class:`Ended`, and the next ones do not interrupt what it started."""
    for signum in _SIGNALS:
        signal.signal(signum, _end)


def ignore_signals() -> None:
    """From here on, nothing interrupts the end."""
    for signum in _SIGNALS:
        signal.signal(signum, signal.SIG_IGN)


def _end(signum: int, frame: FrameType | None) -> None:
    ignore_signals()
    raise Ended(signum)

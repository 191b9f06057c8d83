# SPDX-License-Identifier: Apache-2.0
"""The time by which gates wait."""

from __future__ import annotations

import asyncio
import time


def now() -> float:
    """
    Return seconds that never jump: the running event loop's, else the machine's.

    An ordinary loop uses :func:`time.monotonic` as well; a simulation has a clock of its own.
    """
    try:
        return asyncio.get_running_loop().time()
    except RuntimeError:
        return time.monotonic()


def wall() -> float:
    """Return seconds since 1970, as all machines have them: what is written down for other processes."""
    return time.time()

# SPDX-License-Identifier: Apache-2.0
"""Asking beside what else a process does, so that it can be left alone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def run_in_thread(function: Callable[[], T]) -> Future[T]:
    """
    Run a function in a thread of its own; neither who asks nor the end of the process has to wait for it.

    The threads of :func:`asyncio.to_thread` are few and belong to all of a process: requests that hang would hold
    them, and Airflow's triggerer fires no trigger without one.

    :param function: what to run
    """
    found: Future[T] = Future()
    # Nobody can take back what has begun; who no longer wants it just goes.
    found.set_running_or_notify_cancel()

    def run() -> None:
        try:
            found.set_result(function())
        except BaseException as error:  # whoever waits must not do so for ever
            found.set_exception(error)

    threading.Thread(target=run, name="scnet-aside", daemon=True).start()
    return found

# SPDX-License-Identifier: Apache-2.0
"""Threads that neither their caller nor the end of the process has to wait for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def run_in_thread(function: Callable[[], T]) -> Future[T]:
    """
    Run a function in a thread of its own; neither the caller nor the end of the process has to wait for it.

    The threads of :func:`asyncio.to_thread` are few and shared by the whole process: requests that hang would hold
    them, and without one Airflow's triggerer fires no trigger.

    :param function: what to run
    """
    result: Future[T] = Future()
    # A function that runs cannot be cancelled; a caller that no longer wants the result does not wait.
    result.set_running_or_notify_cancel()

    def run() -> None:
        try:
            result.set_result(function())
        except BaseException as error:  # otherwise the caller would wait for ever
            result.set_exception(error)

    threading.Thread(target=run, name="scnet-request", daemon=True).start()
    return result

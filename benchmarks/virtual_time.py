# SPDX-License-Identifier: Apache-2.0
"""An event loop whose time passes at once: what sleeps for an hour sleeps for nothing."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, Future
from typing import Any, TypeVar
from unittest import mock

from airflow_provider_scnet.event_loop import clock, log_thread

T = TypeVar("T")


class _Selector(selectors.DefaultSelector):
    """Where the loop would wait for its next timer, lets the loop's time pass instead."""

    passed = 0.0

    def select(self, timeout: float | None = None) -> Any:
        if timeout:
            self.passed += timeout
        return super().select(0 if timeout is not None else None)


class VirtualLoop(asyncio.SelectorEventLoop):
    """
    A loop for coroutines that wait for timers and for each other, and for nothing outside.

    :param start: what its clock shows at first, in seconds
    """

    def __init__(self, start: float = 1000.0) -> None:
        self._virtual_selector = _Selector()
        self._start = start
        super().__init__(self._virtual_selector)

    def time(self) -> float:
        """Return the seconds that have passed, and those at the start."""
        return self._start + self._virtual_selector.passed

    def call_later(self, delay: float, *given: Any, **more: Any) -> asyncio.TimerHandle:
        """Call later, also where so short a delay would be lost in the sum, and time stand still."""
        return super().call_later(max(delay, 1e-6) if delay > 0 else delay, *given, **more)


class _AtOnce(Executor):
    """Runs what is put into a thread elsewhere, without one: what it does there would take no time."""

    def submit(self, function: Callable[..., T], /, *given: Any, **more: Any) -> Future[T]:
        done: Future[T] = Future()
        done.set_result(function(*given, **more))
        return done


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on a loop of virtual time, and end all that it left behind."""
    loop = VirtualLoop()
    patches = mock.patch.object(log_thread, "executor", _AtOnce()), mock.patch.object(clock, "wall", loop.time)
    with patches[0], patches[1]:
        try:
            return loop.run_until_complete(coroutine)
        finally:
            left = asyncio.all_tasks(loop)
            for task in left:
                task.cancel()
            if left:
                loop.run_until_complete(asyncio.wait(left))
            loop.close()

# SPDX-License-Identifier: Apache-2.0
"""The LocalExecutor of Airflow 3.0, without a race of its own."""

from __future__ import annotations

from typing import Any

from airflow.executors.local_executor import LocalExecutor


class LateLocalExecutor(LocalExecutor):
    """
    Starts a task only when the database says that it is queued.

    Airflow 3.0 hands it to a worker before that, and where the worker is first the task fails (apache/airflow
    #52754). From 3.1 on it is handed over at the next heartbeat, as here.
    """

    def start(self) -> None:
        """Start the executor."""
        super().start()
        self._queued: list[Any] = []

    def queue_workload(self, workload: Any, session: Any = None) -> None:
        """Keep a task until the next heartbeat."""
        self._queued.append(workload)

    def sync(self) -> None:
        """Hand out what was queued; called at each heartbeat."""
        while self._queued:
            super().queue_workload(self._queued.pop(0))
        super().sync()

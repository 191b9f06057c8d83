# SPDX-License-Identifier: Apache-2.0
"""Airflow on the parts that production runs, with a service manager that starts again what has ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from demo.engine import Engine


class Production(Engine):
    """
    Two schedulers, a Celery worker, and triggerers, on PostgreSQL and Redis.

    While somebody waits for something, a component that has ended, by a signal or by itself, is started again: the
    service manager.

    :param dags: the folder with the DAG files
    :param env: more environment variables for all components
    :param database_url: PostgreSQL
    :param broker_url: Redis
    :param triggerers: more arguments for each triggerer
    """

    def __init__(
        self,
        dags: Path,
        env: Mapping[str, str],
        database_url: str,
        broker_url: str,
        triggerers: Sequence[Sequence[str]],
    ) -> None:
        celery = {
            "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
            "AIRFLOW__CORE__PARALLELISM": "16",
            "AIRFLOW__CELERY__BROKER_URL": broker_url,
            "AIRFLOW__CELERY__RESULT_BACKEND": f"db+{database_url}",
            "AIRFLOW__CELERY__WORKER_CONCURRENCY": "4",
        }
        super().__init__(dags, celery | dict(env), database_url, triggerers)
        #: The components that were started again, one after another.
        self.revived: list[str] = []

    @property
    def commands(self) -> dict[str, list[str]]:
        """The components and their arguments."""
        commands = super().commands
        commands["scheduler-2"] = commands["scheduler"]
        commands["worker"] = ["celery", "worker", "--skip-serve-logs"]
        return commands

    def kill(self, name: str) -> None:
        """
        End a component and all its children as a power cut would; the service manager notices.

        :param name: the component
        """
        self._end(lambda: self.processes(name), grace=0)
        self._processes[name].wait()

    def _has_ended(self, name: str, status: int) -> None:
        self.revived.append(name)
        self.start_component(name)

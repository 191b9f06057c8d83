# SPDX-License-Identifier: Apache-2.0
"""A cluster whose looks see what a test says, and an Airflow, for gates and watchers on a loop of virtual time."""

from __future__ import annotations

import asyncio
import json
import types
from typing import Any

from airflow_provider_scnet.client.errors import ErrorKind, ScnetError
from airflow_provider_scnet.client.job_counts import STATES, JobCounts
from airflow_provider_scnet.client.observation import Observation
from airflow_provider_scnet.event_loop import clock

#: An error that is waited out.
HEALS = ScnetError("no answer", kind=ErrorKind.TRANSIENT)


class Cluster:
    """
    What looks see, one after another; the last again and again.

    :param seen: jobs in the queue, or an error, or other counts, or a whole look
    """

    def __init__(self, *seen: Any) -> None:
        self.seen = list(seen)
        #: When each look was, by the loop's clock.
        self.times: list[float] = []
        #: For each look whether the jobs were listed.
        self.lists: list[bool] = []

    @property
    def looks(self) -> int:
        """How many there were."""
        return len(self.times)

    def __call__(self, scnet_conn_id: str) -> Cluster:
        return self

    async def aread_settings(self, user_name: str | None = None) -> Any:
        return types.SimpleNamespace(account=("https://h", user_name or "alice"))

    async def awith_token(self, target: Any) -> Any:
        return target

    async def apoll(self, target: Any, queues: Any = (), with_list: bool = False) -> Observation:
        seen = self.seen[min(self.looks, len(self.seen) - 1)]
        self.times.append(clock.now())
        self.lists.append(with_list)
        known: dict[str, Any] = {"account": target.account, "where": "connection 'x'", "at": clock.now()}
        if isinstance(seen, ScnetError):
            return Observation(error=seen, **known)
        if isinstance(seen, int):
            seen = {"counts": JobCounts(**dict.fromkeys(STATES, 0) | {"queued": seen})}
        elif isinstance(seen, JobCounts):
            seen = {"counts": seen}
        # Nobody gets a list without asking.
        return Observation(**seen | ({} if with_list else {"listed": None}), **known)


class Airflow:
    """
    Airflow as claims know it: its states of tasks, by DAG, run, task and map index, and its Variables.

    Triggerers that share one read what the others wrote.
    """

    def __init__(self) -> None:
        self.found: dict[str, dict[str, dict[str, dict[int, str | None]]]] = {}
        self.runs: dict[str, str] = {}
        #: The ids of jobs that tasks have left, by run, task and map index.
        self.left: dict[tuple[str, str, int], str] = {}
        self.variables: dict[str, str] = {}
        #: Keys of what was read and written, in order.
        self.reads: list[str] = []
        self.writes: list[str] = []
        #: Seconds that each answer takes.
        self.takes = 0.0

    def set(self, map_index: int, gate: str | None, submit: str | None = None, run_id: str = "run") -> None:
        """Set the states of an instance of the task ``gate``, and of that of ``submit`` behind it."""
        tasks = self.found.setdefault("dag", {}).setdefault(run_id, {"gate": {}, "submit": {}})
        tasks["gate"][map_index], tasks["submit"][map_index] = gate, submit

    def written(self) -> list[str]:
        """Return the phases of all claims that are written down."""
        claims = [value for key, value in self.variables.items() if key.startswith("scnet_claims_")]
        return [row[3] for value in claims for group in json.loads(value)["gates"] for row in group["claims"]]

    async def states(self, dag_id: str, run_ids: Any, task_ids: Any) -> Any:
        await asyncio.sleep(self.takes)
        runs = self.found.get(dag_id, {})
        return {
            run_id: {task_id: dict(runs[run_id][task_id]) for task_id in task_ids if task_id in runs[run_id]}
            for run_id in run_ids
            if run_id in runs
        }

    async def job_ids(self, dag_id: str, instances: Any) -> Any:
        await asyncio.sleep(self.takes)
        return {each: self.left[each] for each in instances if each in self.left}

    async def run_states(self, dag_id: str, run_ids: Any) -> dict[str, str]:
        await asyncio.sleep(self.takes)
        return {run_id: self.runs[run_id] for run_id in run_ids if run_id in self.runs}

    async def get_variable(self, key: str) -> str | None:
        await asyncio.sleep(self.takes)
        self.reads.append(key)
        return self.variables.get(key)

    async def set_variable(self, key: str, value: str, description: str) -> None:
        await asyncio.sleep(self.takes)
        self.writes.append(key)
        self.variables[key] = value

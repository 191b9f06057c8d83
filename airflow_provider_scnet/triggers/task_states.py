# SPDX-License-Identifier: Apache-2.0
"""What Airflow says of the tasks of a DAG, asked from a trigger."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Collection, Iterator, Sequence

from airflow import __version__ as airflow_version

from airflow_provider_scnet.gate.turns import Pauses

#: States by run id, task id and map index (-1 where the task is not mapped).
States = dict[str, dict[str, dict[int, "str | None"]]]

# Characters of run ids in one question: they travel in the address of a request, for which servers and the proxies
# before them have room for 8,000.
_MOST_CHARACTERS = 4000


async def task_states(dag_id: str, run_ids: Collection[str], task_ids: Collection[str]) -> States:
    """
    Return the states of all instances of some tasks in some runs; what does not exist is left out.

    Not to be cancelled: Airflow 3.1's triggerer would read the answer as that to its next question.

    :param dag_id: the DAG
    :param run_ids: its runs
    :param task_ids: its tasks
    """
    if airflow_version.startswith("2."):
        return await asyncio.to_thread(_in_database, dag_id, list(run_ids), list(task_ids))
    states: States = {}
    # One after another: the supervisor answers so, beside its heartbeat.
    for runs in _chunks(sorted(run_ids)):
        for tasks in _unambiguous(sorted(task_ids)):
            await _add_from_supervisor(states, dag_id, runs, tasks)
    return states


async def _add_from_supervisor(
    states: States, dag_id: str, run_ids: Sequence[str], task_ids: Sequence[str]
) -> None:
    from airflow.sdk.execution_time import task_runner
    from airflow.sdk.execution_time.comms import ErrorResponse, GetTaskStates, TaskStatesResult

    answer = await task_runner.SUPERVISOR_COMMS.asend(
        GetTaskStates(dag_id=dag_id, run_ids=list(run_ids), task_ids=list(task_ids))  # type: ignore[arg-type]
    )
    if not isinstance(answer, TaskStatesResult):
        what = answer.error.value if isinstance(answer, ErrorResponse) else type(answer).__name__
        raise RuntimeError(what)
    pauses = Pauses()
    for run_id, by_name in answer.task_states.items():
        for name, state in by_name.items():
            if pauses.are_due:
                await pauses.take()
            task_id, map_index = _instance(name, task_ids)
            states.setdefault(run_id, {}).setdefault(task_id, {})[map_index] = state


def _instance(name: str, task_ids: Collection[str]) -> tuple[str, int]:
    """Read the name that Airflow gives an instance: the task's id, and for a mapped one its map index."""
    if name in task_ids:
        return name, -1
    task_id, _, map_index = name.rpartition("_")
    return task_id, int(map_index)


def _unambiguous(task_ids: Sequence[str]) -> Iterator[list[str]]:
    """Part tasks so that no instance's name can mean two of them: ``submit_1``, and ``submit`` with index 1."""
    left = list(task_ids)
    while left:
        part: list[str] = []
        for task_id in left:
            if not any(re.fullmatch(re.escape(other) + r"_\d+", task_id) for other in part):
                part.append(task_id)
        yield part
        left = [task_id for task_id in left if task_id not in part]


def _chunks(run_ids: Sequence[str]) -> Iterator[list[str]]:
    chunk: list[str] = []
    for run_id in run_ids:
        if chunk and sum(map(len, chunk)) + len(run_id) > _MOST_CHARACTERS:
            yield chunk
            chunk = []
        chunk.append(run_id)
    if chunk:
        yield chunk


def _in_database(dag_id: str, run_ids: Sequence[str], task_ids: Sequence[str]) -> States:
    """Ask Airflow 2's database, which its triggers may use, in a thread."""
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session

    states: States = {}
    with create_session() as session:
        rows = session.query(
            TaskInstance.run_id, TaskInstance.task_id, TaskInstance.map_index, TaskInstance.state
        ).filter(
            TaskInstance.dag_id == dag_id, TaskInstance.run_id.in_(run_ids), TaskInstance.task_id.in_(task_ids)
        )
        for row in rows:
            states.setdefault(row.run_id, {}).setdefault(row.task_id, {})[row.map_index] = row.state
    return states

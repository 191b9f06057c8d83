# SPDX-License-Identifier: Apache-2.0
"""How a trigger asks Airflow about the tasks of a DAG."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from airflow_provider_scnet.claims.claim_terms import JOB_ID_KEY
from airflow_provider_scnet.event_loop.time_slice import TimeSlice
from airflow_provider_scnet.triggers.airflow_access import HAS_DATABASE, answer, in_database

#: States by run id, task id and map index (-1 where the task is not mapped).
States = dict[str, dict[str, dict[int, "str | None"]]]

# Characters of run ids in one question: they travel in the address of a request, for which servers and the proxies
# before them have room for 8,000.
_MOST_CHARACTERS = 4000

_RUN_STATES = {"queued": ["queued"], "ended": ["success", "failed"]}


class AirflowTaskStates:
    """
    Asks Airflow: its database before 3.0, the triggerer's supervisor since.

    None of these calls may be cancelled: Airflow up to 3.2.1 would read the answer as that to its next question.
    """

    async def states(self, dag_id: str, run_ids: Collection[str], task_ids: Collection[str]) -> States:
        """
        Return the states of all instances of some tasks in some runs; what does not exist is left out.

        :param dag_id: the DAG
        :param run_ids: its runs
        :param task_ids: its tasks
        """
        if HAS_DATABASE:
            return await in_database(lambda session: _states(session, dag_id, run_ids, task_ids))
        states: States = {}
        # One after another: the supervisor answers so, beside its heartbeat.
        for runs in _chunks(sorted(run_ids)):
            for tasks in _unambiguous(sorted(task_ids)):
                await _add_states(states, dag_id, runs, tasks)
        return states

    async def job_ids(
        self, dag_id: str, instances: Collection[tuple[str, str, int]]
    ) -> dict[tuple[str, str, int], str]:
        """
        Return the ids of jobs that some instances have left as their XCom ``job_id``.

        :param dag_id: the DAG
        :param instances: run, task and map index of each
        """
        if HAS_DATABASE:
            return await in_database(lambda session: _job_ids(session, dag_id, instances))
        from airflow.sdk.execution_time.comms import GetXCom, XComResult

        found: dict[tuple[str, str, int], str] = {}
        for run_id, task_id, map_index in instances:
            question = GetXCom(
                key=JOB_ID_KEY,
                dag_id=dag_id,
                run_id=run_id,
                task_id=task_id,
                map_index=map_index if map_index >= 0 else None,
            )
            if job_id := (await answer(question, XComResult)).value:
                found[run_id, task_id, map_index] = str(job_id)
        return found

    async def run_states(self, dag_id: str, run_ids: Collection[str]) -> dict[str, str]:
        """
        Return "queued" or "ended" for those of some runs that are, whatever states their tasks have.

        :param dag_id: the DAG
        :param run_ids: its runs
        """
        if HAS_DATABASE:
            return await in_database(lambda session: _run_states(session, dag_id, run_ids))
        from airflow.sdk.execution_time.comms import DRCount, GetDRCount

        found: dict[str, str] = {}
        for (name, states), runs in itertools.product(_RUN_STATES.items(), _chunks(sorted(run_ids))):
            # Most often there is none, which one question tells.
            question = GetDRCount(dag_id=dag_id, run_ids=runs, states=states)
            if not (await answer(question, DRCount)).count:
                continue
            for run_id in runs:
                question = GetDRCount(dag_id=dag_id, run_ids=[run_id], states=states)
                if (await answer(question, DRCount)).count:
                    found[run_id] = name
        return found


async def _add_states(states: States, dag_id: str, run_ids: Sequence[str], task_ids: Sequence[str]) -> None:
    from airflow.sdk.execution_time.comms import GetTaskStates, TaskStatesResult

    question = GetTaskStates(dag_id=dag_id, run_ids=list(run_ids), task_ids=list(task_ids))
    found = await answer(question, TaskStatesResult)
    time_slice = TimeSlice()
    for run_id, by_name in found.task_states.items():
        for name, state in by_name.items():
            await time_slice.share()
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


def _states(session: Any, dag_id: str, run_ids: Collection[str], task_ids: Collection[str]) -> States:
    from airflow.models.taskinstance import TaskInstance

    rows = session.query(
        TaskInstance.run_id, TaskInstance.task_id, TaskInstance.map_index, TaskInstance.state
    ).filter(TaskInstance.dag_id == dag_id, TaskInstance.task_id.in_(task_ids), TaskInstance.run_id.in_(run_ids))
    states: States = {}
    for row in rows:
        states.setdefault(row.run_id, {}).setdefault(row.task_id, {})[row.map_index] = row.state
    return states


def _job_ids(
    session: Any, dag_id: str, instances: Collection[tuple[str, str, int]]
) -> dict[tuple[str, str, int], str]:
    from airflow.models.xcom import XCom

    runs, tasks = ({each[part] for each in instances} for part in (0, 1))
    rows = session.query(XCom).filter(
        XCom.dag_id == dag_id, XCom.key == JOB_ID_KEY, XCom.run_id.in_(runs), XCom.task_id.in_(tasks)
    )
    found = {(row.run_id, row.task_id, row.map_index): str(row.value) for row in rows if row.value}
    return {each: found[each] for each in instances if each in found}


def _run_states(session: Any, dag_id: str, run_ids: Collection[str]) -> dict[str, str]:
    from airflow.models.dagrun import DagRun

    rows = session.query(DagRun.run_id, DagRun.state).filter(DagRun.dag_id == dag_id, DagRun.run_id.in_(run_ids))
    names = {state: name for name, states in _RUN_STATES.items() for state in states}
    return {row.run_id: names[row.state] for row in rows if row.state in names}

# SPDX-License-Identifier: Apache-2.0
"""How Airflow is asked about the tasks of a DAG, and how its answers are read."""

from __future__ import annotations

import asyncio
from typing import Any
from unittest import mock

import airflow
import pytest
from airflow.providers.common.compat.sdk import DAG, BaseOperator

from airflow_provider_scnet.triggers import task_states as module
from airflow_provider_scnet.triggers.task_states import AirflowTaskStates

IS_2 = airflow.__version__.startswith("2.")
needs_supervisor = pytest.mark.skipif(IS_2, reason="Airflow 2's triggers ask the database themselves")


class Supervisor:
    """Answers as Airflow's API does, from the states of instances by run, task and map index."""

    def __init__(self, states: dict[tuple[str, str, int], str | None]) -> None:
        self.states = states
        self.asked: list[Any] = []
        self.ended_runs: set[str] = set()

    async def asend(self, question: Any) -> Any:
        from airflow.sdk.execution_time.comms import DRCount, GetDRCount, GetTICount, TaskStatesResult, TICount

        self.asked.append(question)
        if isinstance(question, GetDRCount):
            assert question.states == ["success", "failed"]
            return DRCount(count=len(self.ended_runs & set(question.run_ids)))
        if isinstance(question, GetTICount):
            found = [
                state or "null" for (_, task_id, _), state in self.states.items() if task_id in question.task_ids
            ]
            return TICount(count=sum(question.states is None or state in question.states for state in found))
        found: dict[str, dict[str, str | None]] = {}
        for (run_id, task_id, map_index), state in self.states.items():
            if (question.run_ids is None or run_id in question.run_ids) and task_id in question.task_ids:
                key = task_id if map_index < 0 else f"{task_id}_{map_index}"
                found.setdefault(run_id, {})[key] = state
        return TaskStatesResult(task_states=found)


def answer(supervisor: Any, question: Any) -> Any:
    with mock.patch("airflow.sdk.execution_time.task_runner.SUPERVISOR_COMMS", supervisor, create=True):
        return asyncio.run(question)


def ask(supervisor: Any, run_ids: set[str] | None, task_ids: set[str]) -> Any:
    return flat(answer(supervisor, AirflowTaskStates().states("dag", run_ids, task_ids)))


def flat(states: Any) -> dict[tuple[str, str, int], str | None]:
    return {
        (run_id, task_id, map_index): state
        for run_id, instances in states.items()
        for task_id, by_index in instances.items()
        for map_index, state in by_index.items()
    }


@needs_supervisor
def test_one_question_tells_all_instances_of_all_tasks_in_all_runs():
    states = {
        ("run 1", "gate", -1): "success",
        ("run 1", "group.submit", 0): None,
        ("run 1", "group.submit", 12): "running",
        ("run 2", "gate", -1): "deferred",
    }
    supervisor = Supervisor(states)
    assert ask(supervisor, {"run 1", "run 2", "gone"}, {"gate", "group.submit", "unknown"}) == states
    assert len(supervisor.asked) == 1


@needs_supervisor
def test_a_task_whose_id_ends_like_a_map_index_is_not_taken_for_a_mapped_instance():
    states = {
        ("run", "submit", 1): "running",
        ("run", "submit_1", -1): "success",
        ("run", "submit_1", 2): None,
        ("run", "submit_1_2", -1): "failed",
    }
    supervisor = Supervisor(states)
    assert ask(supervisor, {"run"}, {"submit", "submit_1", "submit_1_2"}) == states
    assert len(supervisor.asked) == 2


@needs_supervisor
def test_many_runs_are_asked_about_in_questions_that_fit_into_an_address():
    states = {(f"scheduled__2026-11-24T00:00:00.{run:06}+00:00", "gate", -1): "deferred" for run in range(500)}
    supervisor = Supervisor(states)
    assert ask(supervisor, {run for run, _, _ in states}, {"gate"}) == states
    assert 1 < len(supervisor.asked) < 10
    assert all(sum(map(len, question.run_ids)) <= module._MOST_CHARACTERS for question in supervisor.asked)


@needs_supervisor
def test_all_runs_are_listed_in_one_question():
    states = {(f"run {number}", "gate", -1): "deferred" for number in range(500)}
    supervisor = Supervisor(states)
    assert ask(supervisor, None, {"gate"}) == states
    assert len(supervisor.asked) == 1


@needs_supervisor
def test_instances_are_counted_over_all_runs():
    supervisor = Supervisor(
        {("run 1", "gate", -1): "success", ("run 1", "submit", -1): None, ("run 2", "submit", 3): "running"}
    )
    airflow = AirflowTaskStates()
    assert answer(supervisor, airflow.count("dag", {"gate", "submit"})) == 3
    assert answer(supervisor, airflow.count("dag", {"submit"}, [None, "scheduled"])) == 1
    assert answer(supervisor, airflow.count("dag", {"submit"}, ["success"])) == 0


@needs_supervisor
def test_runs_that_have_ended_are_told_apart_by_few_questions():
    supervisor = Supervisor({})
    runs = {f"run {number}" for number in range(50)}
    assert answer(supervisor, AirflowTaskStates().ended("dag", runs)) == set()
    assert len(supervisor.asked) == 1
    supervisor.ended_runs = {"run 7", "run 11", "another"}
    assert answer(supervisor, AirflowTaskStates().ended("dag", runs)) == {"run 7", "run 11"}


@needs_supervisor
def test_an_error_in_place_of_an_answer_is_an_error():
    from airflow.sdk.execution_time.comms import ErrorResponse

    class Failing:
        async def asend(self, question: Any) -> Any:
            return ErrorResponse(error="API_SERVER_ERROR", detail={"token": "secret"})

    with pytest.raises(RuntimeError, match=r"^API_SERVER_ERROR$"):
        ask(Failing(), {"run"}, {"gate"})


@pytest.mark.skipif(not IS_2, reason="from Airflow 3 on triggers have no database")
def test_airflow_2_is_asked_in_its_database(airflow_db):
    from datetime import datetime, timezone

    from airflow.models.dagrun import DagRun
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session

    with DAG("asked_about", schedule=None, start_date=datetime(2024, 1, 1, tzinfo=timezone.utc)):
        tasks = [BaseOperator(task_id=name) for name in ("gate", "submit", "other")]
    with create_session() as session:
        moment = datetime(2024, 1, 1, tzinfo=timezone.utc)
        session.add(DagRun("asked_about", "run", execution_date=moment, run_type="manual"))
        session.flush()
        for task in tasks:
            for map_index in (-1, 0, 1):
                session.add(TaskInstance(task, run_id="run", map_index=map_index, state="success"))
                session.flush()
    airflow, tasks = AirflowTaskStates(), {"gate", "submit", "unknown"}
    found = {("run", task, index): "success" for task in ("gate", "submit") for index in (-1, 0, 1)}
    for runs in ({"run", "gone"}, None):
        assert flat(asyncio.run(airflow.states("asked_about", runs, tasks))) == found
    assert asyncio.run(airflow.count("asked_about", tasks)) == 6
    assert asyncio.run(airflow.count("asked_about", tasks, ["success"])) == 6
    assert asyncio.run(airflow.count("asked_about", tasks, [None, "running"])) == 0
    assert asyncio.run(airflow.ended("asked_about", {"run", "gone"})) == set()

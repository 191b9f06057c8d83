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
    """Answers as Airflow's API does, from the states of instances by run, task and map index, and those of runs."""

    def __init__(self, states: dict[tuple[str, str, int], str | None], runs: dict[str, str] | None = None) -> None:
        self.states = states
        self.runs = runs or {}
        self.asked: list[Any] = []

    async def asend(self, question: Any) -> Any:
        from airflow.sdk.execution_time.comms import DRCount, GetDRCount, TaskStatesResult

        self.asked.append(question)
        if isinstance(question, GetDRCount):
            assert question.dag_id == "dag"
            return DRCount(count=sum(self.runs.get(run_id) in question.states for run_id in question.run_ids))
        found: dict[str, dict[str, str | None]] = {}
        for (run_id, task_id, map_index), state in self.states.items():
            if run_id in question.run_ids and task_id in question.task_ids:
                key = task_id if map_index < 0 else f"{task_id}_{map_index}"
                found.setdefault(run_id, {})[key] = state
        return TaskStatesResult(task_states=found)


def answer(supervisor: Any, question: Any) -> Any:
    with mock.patch("airflow.sdk.execution_time.task_runner.SUPERVISOR_COMMS", supervisor, create=True):
        return asyncio.run(question)


def ask(supervisor: Any, run_ids: set[str], task_ids: set[str]) -> Any:
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
def test_runs_that_wait_or_have_ended_are_told_apart_by_few_questions():
    supervisor = Supervisor({})
    runs = {f"run {number}" for number in range(50)}
    assert answer(supervisor, AirflowTaskStates().run_states("dag", runs)) == {}
    assert len(supervisor.asked) == 2
    supervisor.runs = {
        "run 1": "running",
        "run 7": "success",
        "run 9": "queued",
        "run 11": "failed",
        "b": "failed",
    }
    found = answer(supervisor, AirflowTaskStates().run_states("dag", runs))
    assert found == {"run 7": "ended", "run 9": "queued", "run 11": "ended"}


@needs_supervisor
def test_the_states_of_many_runs_are_asked_for_in_questions_that_fit_into_an_address():
    names = [f"scheduled__2026-11-24T00:00:00.{run:06}+00:00" for run in range(500)]
    supervisor = Supervisor({}, dict.fromkeys(names[-1:], "queued"))
    assert answer(supervisor, AirflowTaskStates().run_states("dag", names)) == {names[-1]: "queued"}
    asked = [question.run_ids for question in supervisor.asked]
    assert all(sum(map(len, runs)) <= module._MOST_CHARACTERS for runs in asked)
    # Those of a chunk that has none are not asked about one by one.
    assert len(asked) < 150


@needs_supervisor
@pytest.mark.parametrize("nothing", [None, ""])
def test_who_has_left_the_id_of_a_job_is_asked_for_each_instance(nothing):
    from airflow.sdk.execution_time.comms import GetXCom, XComResult

    left = {("run", "submit", -1): "17", ("run", "submit", 3): "18", ("run", "submit", 4): nothing}

    class XComs:
        async def asend(self, question: GetXCom) -> XComResult:
            assert (question.key, question.dag_id) == ("job_id", "dag")
            index = -1 if question.map_index is None else question.map_index
            return XComResult(key="job_id", value=left.get((question.run_id, question.task_id, index)))

    asked = {*left, ("run", "other", -1), ("another run", "submit", -1)}
    assert answer(XComs(), AirflowTaskStates().job_ids("dag", asked)) == dict(list(left.items())[:2])


@needs_supervisor
def test_of_no_runs_nothing_is_asked():
    supervisor = Supervisor({})
    assert answer(supervisor, AirflowTaskStates().run_states("dag", set())) == {}
    assert supervisor.asked == []


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
    from airflow.models.xcom import XCom
    from airflow.utils.session import create_session

    with DAG("asked_about", schedule=None, start_date=datetime(2024, 1, 1, tzinfo=timezone.utc)):
        tasks = [BaseOperator(task_id=name) for name in ("gate", "submit", "other")]
    with create_session() as session:
        for number, state in enumerate(("running", "queued", "success", "failed")):
            moment = datetime(2024, 1, 1 + number, tzinfo=timezone.utc)
            session.add(
                DagRun("asked_about", f"run_{number}", execution_date=moment, run_type="manual", state=state)
            )
        session.flush()
        for task in tasks:
            for map_index in (-1, 0, 1):
                session.add(TaskInstance(task, run_id="run_0", map_index=map_index, state="success"))
                session.flush()
    airflow, tasks = AirflowTaskStates(), {"gate", "submit", "unknown"}
    found = {("run_0", task, index): "success" for task in ("gate", "submit") for index in (-1, 0, 1)}
    assert flat(asyncio.run(airflow.states("asked_about", {"run_0", "gone"}, tasks))) == found
    with create_session() as session:
        for key, task, map_index, left in (
            ("job_id", "submit", 1, "17"),
            ("job_id", "submit", -1, None),
            ("job_id", "other", -1, "17"),
            ("else", "submit", 0, "17"),
        ):
            XCom.set(
                key, left, task_id=task, dag_id="asked_about", run_id="run_0", map_index=map_index, session=session
            )
    asked = {("run_0", task, index) for task in ("gate", "submit") for index in (-1, 0, 1)}
    assert asyncio.run(airflow.job_ids("asked_about", asked)) == {("run_0", "submit", 1): "17"}
    runs = {"gone", *(f"run_{number}" for number in range(4))}
    assert asyncio.run(airflow.run_states("asked_about", runs)) == {
        "run_1": "queued",
        "run_2": "ended",
        "run_3": "ended",
    }

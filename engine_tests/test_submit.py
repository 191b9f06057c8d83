# SPDX-License-Identifier: Apache-2.0
"""One job for each task, whatever is killed, cleared or marked while it is submitted and awaited."""

from __future__ import annotations

import math

import pytest

from airflow_provider_scnet.testing import SUBMISSION_PATH, Fault, JobPlan, ScnetSimulator
from airflow_provider_scnet.testing.cluster import Job
from demo.engine import Engine
from engine_tests.conftest import AIRFLOW

#: The jobs of the mapped task.
JOBS = 5

ENV = {
    # Seconds after which a triggerer that was killed is missed. 30, the default, would only be waited for.
    "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "15",
}

_HEAD = """
        import os, signal
        from datetime import timedelta
        from airflow_provider_scnet.hooks.scnet import ScnetHook
        from airflow_provider_scnet.operators.scnet import ScnetSubmitJobOperator

        ASKED = {
            "work_dir": "/public/home/alice", "queue_name": "comp", "wall_time": "24:00:00", "poll_interval": 2,
            "settle": 15, "retry_delay": timedelta(seconds=1),
        }
"""

DAGS = {
    "mapped": f"""{_HEAD}
        with new("mapped") as dag:
            @task
            def check(job):
                assert job["state"] == "completed", job
            jobs = ScnetSubmitJobOperator.partial(task_id="run", **ASKED).expand_kwargs(
                [{{"command": f"echo {{n}}", "job_name": "mapped"}} for n in range({JOBS})]
            )
            check.expand(job=jobs.output)
    """,
    "killed": f"""{_HEAD}
        class KilledOnce(ScnetSubmitJobOperator):
            # Killed in its first try, between the submission and the writing of the id.
            def execute(self, context):
                submit, is_first = ScnetHook.submit_job, context["ti"].try_number == 1

                def submit_and_die(*given, **more):
                    job_id = submit(*given, **more)
                    if is_first:
                        os.kill(os.getpid(), signal.SIGKILL)
                    return job_id

                ScnetHook.submit_job = submit_and_die
                return super().execute(context)

        with new("killed") as dag:
            KilledOnce(task_id="killed", command="hostname", job_name="killed", retries=1, **ASKED)
    """,
    "unanswered": f"""{_HEAD}
        with new("unanswered") as dag:
            ScnetSubmitJobOperator(task_id="unanswered", command="hostname", job_name="unanswered", **ASKED)
    """,
    "waiting": f"""{_HEAD}
        with new("waiting") as dag:
            ScnetSubmitJobOperator.partial(task_id="run", command="hostname", **ASKED).expand(
                job_name=["waiting"] * {JOBS}
            )
    """,
    "touched": f"""{_HEAD}
        with new("touched") as dag:
            for name in ("again", "early", "marked"):
                ScnetSubmitJobOperator(task_id=name, command="hostname", job_name=name, **ASKED)
    """,
}


def jobs(scnet: ScnetSimulator, name: str) -> list[Job]:
    return [job for job in scnet.jobs("alice") if job.name.endswith(f"_{name}")]


def state(engine: Engine, dag_id: str, task_id: str) -> str | None:
    return engine.task_states(dag_id).get((task_id, -1))


def wait_for_task(engine: Engine, dag_id: str, task_id: str, wanted: str) -> None:
    engine.wait_until(lambda: state(engine, dag_id, task_id) == wanted, 180, f"{task_id} to be {wanted}")


def wait_for_run(engine: Engine, dag_id: str) -> None:
    engine.wait_until(lambda: engine.run_state(dag_id) in ("success", "failed"), 240, f"the end of {dag_id}")


def test_a_mapped_task_submits_one_job_each_and_awaits_them(engine: Engine, scnet: ScnetSimulator):
    scnet.plan_jobs(JobPlan(run_for=5), times=None, name="mapped")
    engine.trigger_dag("mapped")
    wait_for_run(engine, "mapped")
    assert engine.run_state("mapped") == "success"
    assert len(jobs(scnet, "mapped")) == JOBS


@pytest.mark.parametrize("how", ["killed", "unanswered"])
def test_a_job_whose_worker_was_killed_or_whose_answer_was_lost_is_taken_and_not_submitted_again(
    engine: Engine, scnet: ScnetSimulator, how
):
    scnet.plan_jobs(JobPlan(run_for=30), name=how)
    if how == "unanswered":
        scnet.order(Fault.lost(taken=True), path=SUBMISSION_PATH)
    engine.trigger_dag(how)
    wait_for_run(engine, how)
    (job,) = jobs(scnet, how)
    if how == "killed" and AIRFLOW == (3, 0):
        # There Airflow gives a task whose process was killed no retry.
        assert engine.run_state(how) == "failed"
        return
    assert engine.run_state(how) == "success"
    assert f"job {job.id} ({job.name}) is there already: it is taken" in engine.log_of(how, how)


def test_jobs_are_awaited_on_when_the_triggerer_was_killed(engine: Engine, scnet: ScnetSimulator):
    scnet.plan_jobs(JobPlan(run_for=math.inf), times=JOBS, name="waiting")
    engine.trigger_dag("waiting")

    def deferred() -> bool:
        states = list(engine.task_states("waiting").values())
        return states == ["deferred"] * JOBS and len(jobs(scnet, "waiting")) == JOBS

    engine.wait_until(deferred, 180, "the waiting of all tasks")
    engine.kill("triggerer")
    for job in jobs(scnet, "waiting"):
        if job.state != "ended" and job.started_at is not None:
            scnet.end_job(job.id)
    engine.start_component("triggerer")
    # The queue has room for few at once.
    engine.wait_until(lambda: all(job.started_at is not None for job in jobs(scnet, "waiting")), 60, "their start")
    for job in jobs(scnet, "waiting"):
        if job.state != "ended":
            scnet.end_job(job.id)
    wait_for_run(engine, "waiting")
    assert engine.run_state("waiting") == "success"
    assert len(jobs(scnet, "waiting")) == JOBS


@pytest.mark.skipif(AIRFLOW < (3, 3), reason="no earlier Airflow says that a deferred task was ended")
def test_a_job_whose_deferred_task_somebody_marks_is_cancelled(engine: Engine, scnet: ScnetSimulator):
    scnet.plan_jobs(JobPlan(run_for=math.inf), name="marked")
    scnet.plan_jobs(JobPlan(run_for=math.inf), name="early")
    engine.trigger_dag("touched")
    wait_for_task(engine, "touched", "marked", "deferred")
    wait_for_task(engine, "touched", "early", "deferred")
    # What no triggerer has taken yet, none is told about.
    engine.wait_until(lambda: "is running" in engine.log_of("touched", "marked"), 60, "the wait in the triggerer")
    # What Airflow's pages do.
    engine.execute("UPDATE task_instance SET state = 'failed' WHERE dag_id = 'touched' AND task_id = 'marked'")
    engine.wait_until(lambda: jobs(scnet, "marked")[0].state == "ended", 120, "the end of its job")
    (job,) = jobs(scnet, "marked")
    assert job.end is not None
    assert job.end.outcome == "CANCELLED"
    assert len(jobs(scnet, "early")) == 1
    assert jobs(scnet, "early")[0].state != "ended"


@pytest.mark.skipif(AIRFLOW < (3, 3), reason="goes on where the test before ends")
def test_a_task_that_is_cleared_submits_anew_and_never_before_the_job_before_has_ended(
    engine: Engine, scnet: ScnetSimulator
):
    wait_for_task(engine, "touched", "again", "success")
    for task in ("again", "early"):
        engine.airflow("tasks", "clear", "touched", "--task-regex", task, "--yes")
    for task in ("again", "early"):
        engine.wait_until(lambda task=task: len(jobs(scnet, task)) == 2, 180, f"the second job of {task}")
        first, second = jobs(scnet, task)
        assert first.ended_at is not None
        assert first.ended_at <= second.submitted_at
        wait_for_task(engine, "touched", task, "success")
    assert [job.end.outcome for job in jobs(scnet, "early") if job.end] == ["CANCELLED", "COMPLETED"]

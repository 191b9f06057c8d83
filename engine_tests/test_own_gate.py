# SPDX-License-Identifier: Apache-2.0
"""Tasks that wait for room, submit and wait for their jobs, all in one: never too many, and none twice."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from airflow_provider_scnet.testing import SUBMISSION_PATH, Fault, JobQuirks, ScnetSimulator
from demo.clusters import most_queued
from demo.engine import Engine
from engine_tests.conftest import engine_for

TASKS, MOST_QUEUED = 8, 3
#: Seconds until the cluster's list shows a job, and its counts do; and for which claims allow for that. A claim of
#: which the job is not known, as that of a task that Airflow ended, lasts for so long; there may be a few.
LISTED_AFTER, COUNTED_AFTER, ALLOWED = 1, 30, 180

DAGS = {
    # "queued < 3": a gate opens where two are queued, so that three are.
    "own_gates": f"""
        from datetime import timedelta
        from airflow_provider_scnet.operators.scnet import ScnetSubmitJobOperator

        with new("own_gates") as dag:
            ScnetSubmitJobOperator.partial(
                task_id="run", condition="queued < {MOST_QUEUED}", work_dir="/public/home/alice", queue_name="comp",
                wall_time="01:00:00", poll_interval=3, settle=30,
                # Of a task that is resumed soon, a busy scheduler may take the end of its deferral for its own.
                retries=2, retry_delay=timedelta(seconds=5),
            ).expand(command=[f"echo {{n}}" for n in range({TASKS})])
    """,
}


@pytest.fixture(scope="module")
def scnet() -> Iterator[ScnetSimulator]:
    quirks = JobQuirks(listed_after=LISTED_AFTER)
    with ScnetSimulator(slots=2, run_for=20, counted_after=COUNTED_AFTER, quirks=quirks) as simulator:
        simulator.add_user("alice")
        yield simulator


@pytest.fixture(scope="module")
def engine(scnet: ScnetSimulator, tmp_path_factory) -> Iterator[Engine]:
    env = {"AIRFLOW_CONN_SCNET_DEFAULT": scnet.connection_json("alice", counted_after=ALLOWED)}
    folder = tmp_path_factory.mktemp("dags")
    with engine_for(scnet, folder, DAGS, env, triggerers=((), ())) as running:
        yield running


def test_tasks_with_gates_of_their_own_let_no_more_through_than_there_is_room_for(engine: Engine, scnet):
    scnet.order(Fault.refusal("user's limit"), path=SUBMISSION_PATH)
    scnet.order(Fault.lost(taken=True), path=SUBMISSION_PATH)
    engine.trigger_dag("own_gates")
    engine.wait_until(lambda: engine.run_state("own_gates") in ("success", "failed"), 540, "the jobs")
    assert engine.run_state("own_gates") == "success"
    jobs = scnet.jobs("alice")
    assert len({job.name for job in jobs}) == len(jobs) == TASKS
    # On a busy machine jobs start before there are as many as there is room for.
    assert 0 < most_queued(jobs) <= MOST_QUEUED
    # By claims alone no more than there is room for could be submitted within the time that they last.
    submitted = sorted(job.submitted_at for job in jobs)
    assert any(later - first < ALLOWED for first, later in zip(submitted, submitted[MOST_QUEUED:], strict=False))
    assert all("passes, queued < 3" in engine.log_of("own_gates", "run", index) for index in range(TASKS))

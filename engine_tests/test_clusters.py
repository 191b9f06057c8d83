# SPDX-License-Identifier: Apache-2.0
"""Gates of one queue, and of several clusters, in a real Airflow: the job goes where there is room, and no further."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from airflow_provider_scnet.testing import ScnetSimulator
from demo.engine import Engine
from engine_tests.conftest import engine_for

JOBS = 12
#: Room in the queue of each cluster.
ROOM = 2

DAGS = {
    "clusters": f"""
        import json, os
        from urllib.request import Request, urlopen

        with new("clusters") as dag:
            @task
            def submit(conn_id):
                job = {{"user": "alice", "jobs": 1, "run_for": 5, "queue": "gpu"}}
                url = os.environ["SCNET_TEST_" + conn_id.upper()] + "/simulator/jobs"
                with urlopen(Request(url, json.dumps(job).encode()), timeout=30) as answer:
                    return json.load(answer)["ids"]
            @task_group
            def group(number):
                where = ["west", "east", "away"]
                waited = gate(condition="queued < {ROOM}", scnet_conn_id=where, queue_name="gpu")
                submit(waited.output["scnet_conn_id"])
            group.expand(number=list(range({JOBS})))
    """,
    "queues": """
        with new("queues") as dag:
            gate("full", condition="queued < 1", queue_name="comp", retries=1, timeout=20)
            gate("free", condition="queued < 1", queue_name="gpu")
            gate("wrong", condition="queued < 1", queue_name="gup", retries=1)
    """,
}


@pytest.fixture(scope="module")
def clusters() -> Iterator[dict[str, ScnetSimulator]]:
    with ScnetSimulator(slots=1) as west, ScnetSimulator(slots=1) as east:
        for each in (west, east):
            each.add_user("alice")
            each.add_queue("gpu", slots=1)
            # What is in another queue is of no concern.
            each.submit("alice", 20, run_for=3600)
        yield {"west": west, "east": east}


@pytest.fixture(scope="module")
def engine(clusters: dict[str, ScnetSimulator], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    env = {f"AIRFLOW_CONN_{name.upper()}": each.connection_json("alice") for name, each in clusters.items()}
    env |= {f"SCNET_TEST_{name.upper()}": each.url for name, each in clusters.items()}
    # Nobody answers there.
    env["AIRFLOW_CONN_AWAY"] = env["AIRFLOW_CONN_EAST"].replace(str(clusters["east"].port), "9")
    with engine_for(clusters["west"], tmp_path_factory.mktemp("dags"), DAGS, env) as running:
        yield running


def test_jobs_go_to_whichever_cluster_has_room_and_no_queue_grows_beyond_it(engine: Engine, clusters):
    engine.trigger_dag("clusters")
    engine.wait_until(lambda: engine.run_state("clusters") in ("success", "failed"), 300, "the end of the run")
    assert engine.run_state("clusters") == "success", engine.tails()
    submitted = {
        name: [job for job in each.jobs("alice") if job.queue == "gpu"] for name, each in clusters.items()
    }
    assert sum(map(len, submitted.values())) == JOBS
    assert all(submitted.values()), "one cluster took all of them"
    for jobs in submitted.values():
        starts = [(job.submitted_at, job.started_at) for job in jobs]
        queued = [sum(at <= now < (start or now + 1) for at, start in starts) for now, _ in starts]
        assert max(queued) <= ROOM


def test_a_gate_of_a_queue_waits_for_it_alone_and_a_wrong_name_is_not_tried_again(engine: Engine):
    engine.trigger_dag("queues")
    engine.wait_until(lambda: engine.run_state("queues") == "failed", 120, "the end of the run")
    states = {name: state for (name, *_), state in engine.task_states("queues").items()}
    assert states == {"full": "failed", "free": "success", "wrong": "failed"}
    assert "queue comp: running 1, queued 19: waiting, needs queued < 1" in engine.log_of("queues", "full")
    assert "there are 'comp', 'gpu'" in engine.log_of("queues", "wrong")

# SPDX-License-Identifier: Apache-2.0
"""Where there is room, in a real Airflow: in one queue, on whichever cluster, for the urgent, for many jobs at once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from airflow_provider_scnet.testing import ScnetSimulator
from demo.engine import Engine
from engine_tests.conftest import engine_for

JOBS = 12
#: Room in the queue of each cluster.
ROOM = 2
#: Jobs of the gate with several, and gates with one that come after it.
BIG, SMALL = 3, 30

SUBMIT = """
        import json, os
        from urllib.request import Request, urlopen

        @task
        def submit(conn_id, jobs=1, queue="comp", run_for=3):
            url = os.environ["SCNET_TEST_" + conn_id.upper()] + "/simulator/jobs"
            job = json.dumps({"user": "alice", "jobs": jobs, "queue": queue, "run_for": run_for})
            with urlopen(Request(url, job.encode()), timeout=30) as answer:
                return json.load(answer)["ids"]
"""

DAGS = {
    "clusters": f"""{SUBMIT}
        with new("clusters") as dag:
            @task_group
            def group(number):
                where = ["west", "east", "away"]
                waited = gate(condition="queued < {ROOM}", scnet_conn_id=where, queue_name="gpu")
                submit(waited.output["scnet_conn_id"], queue="gpu", run_for=5)
            group.expand(number=list(range({JOBS})))
    """,
    "queues": """
        with new("queues") as dag:
            gate("full", condition="queued < 1", queue_name="comp", retries=1, timeout=20)
            gate("free", condition="queued < 1", queue_name="gpu")
            gate("wrong", condition="queued < 1", queue_name="gup", retries=1)
    """,
    "others": """
        with new("others") as dag:
            for number in range(5):
                gate(f"gate_{number}", condition="queued < 1", scnet_conn_id="north")
    """,
    "urgent": """
        with new("urgent") as dag:
            gate(condition="queued < 1", scnet_conn_id="north", priority_weight=20)
    """,
    "big": f"""{SUBMIT}
        with new("big") as dag:
            big = gate(condition="queued < {BIG}", submits={BIG}, scnet_conn_id="south", poke_interval=1)
            big >> submit("south", jobs={BIG})
    """,
    "small": f"""{SUBMIT}
        with new("small") as dag:
            @task_group
            def group(number):
                gate(condition="queued < {BIG}", scnet_conn_id="south", poke_interval=1) >> submit("south")
            group.expand(number=list(range({SMALL})))
    """,
}


@pytest.fixture(scope="module")
def clusters() -> Iterator[dict[str, ScnetSimulator]]:
    with contextlib.ExitStack() as stack:
        found = {
            name: stack.enter_context(ScnetSimulator(slots=1, run_for=3, counted_after=0))
            for name in ("west", "east", "north", "south")
        }
        for each in found.values():
            each.add_user("alice")
        for each in (found["west"], found["east"]):
            each.add_queue("gpu", slots=1)
            # What is in another queue is of no concern.
            each.submit("alice", 20, run_for=3600)
        yield found


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
        name: [job for job in clusters[name].jobs("alice") if job.queue == "gpu"] for name in ("west", "east")
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


def wait_until_deferred(engine: Engine, cluster: ScnetSimulator, dag_id: str, gates: int = 1) -> None:
    """Start a DAG, and wait until its gates have seen the queue."""
    engine.trigger_dag(dag_id)
    engine.wait_until(
        lambda: list(engine.task_states(dag_id).values()).count("deferred") == gates, 180, f"the gates of {dag_id}"
    )
    before = len(cluster.job_state_requests)
    engine.wait_until(lambda: len(cluster.job_state_requests) > before + 1, 60, "polls for them")


def test_the_urgent_opens_first_although_it_came_last(engine: Engine, clusters):
    north = clusters["north"]
    north.set_counts("alice", queued=9)
    wait_until_deferred(engine, north, "others", 5)
    wait_until_deferred(engine, north, "urgent")
    north.set_counts("alice", queued=0)
    engine.wait_until(lambda: engine.run_state("urgent") == "success", 60, "the urgent gate")
    # It claims what would be submitted behind it, so that none of the others has room.
    assert set(engine.task_states("others").values()) == {"deferred"}


def test_room_is_kept_for_a_gate_with_several_jobs_that_others_overtake(engine: Engine, clusters):
    south = clusters["south"]
    south.set_counts("alice", queued=9)
    wait_until_deferred(engine, south, "big")
    wait_until_deferred(engine, south, "small", SMALL)
    # One runs, and there is room for fewer jobs than the first gate has.
    south.submit("alice", BIG)
    south.set_counts("alice", queued=None)
    engine.wait_until(lambda: engine.run_state("big") == "success", 300, "the gate with several jobs")
    last = max(job.id for job in south.jobs("alice"))
    assert list(engine.task_states("small").values()).count("success") < 2 * SMALL
    said = f"room is kept for the {BIG} jobs of gate (DAG 'big', run "
    assert said in engine.log_of("big", "gate")
    assert any(said in engine.log_of("small", "group.gate", index) for index in range(SMALL))
    assert "waiting, room is kept for gate (DAG 'big', run " in engine.log_of("small", "group.gate", SMALL - 1)
    engine.wait_until(lambda: max(job.id for job in south.jobs("alice")) > last, 60, "one of those after it")
    assert south.totals("alice").highest_queued <= BIG

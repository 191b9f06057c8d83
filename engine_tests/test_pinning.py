# SPDX-License-Identifier: Apache-2.0
"""
Several triggerers: what passes in one of them claims in the others, too; gates of one queue wait in one of them.

Two that look in the same second can both give out the same room. Nothing but a queue excludes that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from airflow_provider_scnet.testing import ScnetSimulator
from demo.engine import Engine
from engine_tests.conftest import AIRFLOW, engine_for

needs_queues = pytest.mark.skipif(AIRFLOW < (3, 2), reason="triggerers have queues from Airflow 3.2 on")

GATES = 20
#: "queued < 5": a gate passes where four are queued, so that five are.
ROOM = 5

ADMISSION = f"""
    import json, os
    from urllib.request import Request, urlopen

    with new("admission") as dag:
        @task
        def submit():
            url = os.environ["SCNET_SIMULATOR_URL"] + "/simulator/jobs"
            with urlopen(Request(url, b'{{"user": "alice", "jobs": 1}}'), timeout=30) as answer:
                return json.load(answer)["ids"]

        @task_group
        def gated_submission(number):
            gate("wait_for_room", condition="queued < {ROOM}", **GIVEN) >> submit()

        gated_submission.expand(number=list(range({GATES})))
"""
WATCHING = """
    with new("watching") as dag:
        gate("anywhere", submits=0)
        gate("pinned", submits=0, queue="cluster")
"""


def cluster() -> ScnetSimulator:
    """Return a cluster that works slowly, so that jobs do queue, and counts them late, as claims are for."""
    simulator = ScnetSimulator(slots=1, run_for=3, counted_after=2)
    simulator.add_user("alice")
    return simulator


def holders(engine: Engine, dag_id: str) -> dict[str, int | None]:
    """Return in which triggerer each gate waits, by name; None where it does not yet."""
    rows = engine.rows(
        "SELECT ti.task_id, ti.map_index, t.triggerer_id FROM task_instance ti JOIN trigger t"
        " ON t.id = ti.trigger_id WHERE ti.dag_id = :dag_id AND ti.state = 'deferred'",
        dag_id=dag_id,
    )
    return {f"{row.task_id}[{row.map_index}]": row.triggerer_id for row in rows}


def all_wait(engine: Engine, dag_id: str, gates: int) -> bool:
    found = holders(engine, dag_id)
    return len(found) == gates and None not in found.values()


def admit(engine: Engine, scnet: ScnetSimulator) -> list[int]:
    """Let all gates wait before a full queue, then make room; return how many each triggerer held at first."""
    scnet.set_counts("alice", queued=99)
    engine.trigger_dag("admission")
    engine.wait_until(lambda: all_wait(engine, "admission", GATES), 240, "the waiting of all gates")
    held = list(holders(engine, "admission").values())
    where = set(held)
    scnet.set_counts("alice", queued=None)

    def has_ended() -> bool:
        # A gate that moved to another triggerer would share in another room.
        where.update(set(holders(engine, "admission").values()))
        return engine.run_state("admission") in ("success", "failed")

    engine.wait_until(has_ended, 400, "all submissions")
    assert engine.run_state("admission") == "success"
    assert where == set(held)
    return [held.count(each) for each in where]


def test_gates_without_a_queue_spread_over_two_triggerers_that_give_out_one_room_each_at_most(
    tmp_path: Path, record_property
):
    # Each takes half: it has no place for more.
    half = ["--capacity", str(GATES // 2)]
    dags = {"admission": ADMISSION.replace("**GIVEN", "")}
    with cluster() as scnet, engine_for(scnet, tmp_path, dags, triggerers=[half, half]) as engine:
        held = admit(engine, scnet)
        totals = scnet.totals("alice")
    record_property("highest_queued", totals.highest_queued)
    assert held == [GATES // 2, GATES // 2]
    assert totals.submitted == GATES
    assert totals.highest_queued <= 2 * ROOM


HELD = f"""
    with new("held") as dag:
        @task(pool="held")
        def submit(): ...

        @task_group
        def group(number):
            gate(condition="queued < {ROOM}") >> submit()

        group.expand(number=list(range({GATES})))
"""


def test_gates_that_move_to_another_triggerer_meet_the_claims_of_those_that_passed(tmp_path: Path):
    def passed() -> int:
        return list(engine.task_states("held").values()).count("success")

    env = {"AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "15"}
    with cluster() as scnet, engine_for(scnet, tmp_path, {"held": HELD}, env, triggerers=[[], []]) as engine:
        engine.airflow("pools", "set", "held", "0", "nothing starts")
        engine.kill("triggerer-2")
        engine.trigger_dag("held")
        engine.wait_until(lambda: passed() == ROOM, 240, "the passing of as many as there is room for")
        engine.wait_until(lambda: all_wait(engine, "held", GATES - ROOM), 120, "the waiting of the others")
        (former,) = set(holders(engine, "held").values())
        engine.start_component("triggerer-2")
        engine.kill("triggerer")
        engine.wait_until(
            lambda: all_wait(engine, "held", GATES - ROOM) and former not in holders(engine, "held").values(),
            120,
            "the moving of all gates",
        )
        before = len(scnet.requests)
        engine.wait_until(lambda: len(scnet.requests) > before + 3, 120, "looks of the other triggerer")
        assert passed() == ROOM
        engine.airflow("pools", "set", "held", "8", "all may start")
        engine.wait_until(lambda: engine.run_state("held") in ("success", "failed"), 240, "the end of the run")
        assert passed() == 2 * GATES


@pytest.fixture(scope="module")
def scnet() -> Iterator[ScnetSimulator]:
    with cluster() as simulator:
        yield simulator


@pytest.fixture(scope="module")
def queues(scnet: ScnetSimulator, tmp_path_factory) -> Iterator[Engine]:
    """An engine whose triggerers have queues: one is for the gates of the cluster, one for all the rest."""
    dags: Mapping[str, str] = {
        "admission": ADMISSION.replace("**GIVEN", "queue='cluster'"),
        "watching": WATCHING,
    }
    env = {"AIRFLOW__TRIGGERER__QUEUES_ENABLED": "True"}
    triggerers = [["--queues", "cluster"], ["--queues", "default"]]
    with engine_for(scnet, tmp_path_factory.mktemp("dags"), dags, env, triggerers) as running:
        yield running


@needs_queues
def test_gates_of_one_queue_wait_in_one_triggerer_and_share_one_room(
    queues: Engine, scnet: ScnetSimulator, record_property
):
    held = admit(queues, scnet)
    totals = scnet.totals("alice")
    record_property("highest_queued", totals.highest_queued)
    assert held == [GATES]
    assert totals.submitted == GATES
    assert totals.highest_queued <= ROOM


@needs_queues
def test_where_triggerers_have_queues_a_gate_starts_on_a_worker_and_waits_in_that_of_its_queue(
    queues: Engine, scnet: ScnetSimulator
):
    scnet.set_counts("alice", queued=99)
    queues.trigger_dag("watching")
    queues.wait_until(lambda: all_wait(queues, "watching", 2), 120, "the waiting of both gates")
    assert len(set(holders(queues, "watching").values())) == 2
    pids = queues.rows("SELECT pid FROM task_instance WHERE dag_id = 'watching'")
    assert None not in [row.pid for row in pids]
    scnet.set_counts("alice", queued=0)
    queues.wait_until(lambda: queues.run_state("watching") in ("success", "failed"), 120, "the passing of both")
    assert set(queues.task_states("watching").values()) == {"success"}

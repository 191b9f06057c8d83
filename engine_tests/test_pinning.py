# SPDX-License-Identifier: Apache-2.0
"""Several triggerers: what passes in one of them claims in the others, too; gates of one queue wait in one of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from airflow_provider_scnet.testing import ScnetSimulator
from benchmarks.queues import over_admitted
from demo.engine import Engine
from engine_tests.conftest import AIRFLOW, engine_for

needs_queues = pytest.mark.skipif(AIRFLOW < (3, 2), reason="triggerers have queues from Airflow 3.2 on")

GATES = 16
#: Runs of one gate each.
RUNS = 16
#: "queued < 5": a gate passes where four are queued, so that five are.
ROOM = 5

HEAD = """
    import json, os
    from datetime import timedelta
    from urllib.request import Request, urlopen

    @task
    def submit():
        url = os.environ["SCNET_SIMULATOR_URL"] + "/simulator/jobs"
        with urlopen(Request(url, b'{"user": "alice", "jobs": 1}'), timeout=30) as answer:
            return json.load(answer)["ids"]

    def runs(dag_id, number):
        start = datetime(2024, 1, 1)
        return DAG(dag_id, schedule="@hourly", start_date=start, end_date=start + timedelta(hours=number - 1),
                   catchup=True, is_paused_upon_creation=True, max_active_runs=number)
"""
ADMISSION = f"""{HEAD}
    with new("admission") as dag:
        @task_group
        def gated_submission(number):
            gate("wait_for_room", condition="queued < {ROOM}", **GIVEN) >> submit()

        gated_submission.expand(number=list(range({GATES})))
"""
RUN_BY_RUN = f"""{HEAD}
    with runs("run_by_run", {RUNS}):
        gate(condition="queued < {ROOM}") >> submit()
"""
WATCHING = """
    with new("watching") as dag:
        gate("anywhere", submits=0)
        gate("pinned", submits=0, queue="cluster")
"""


def cluster() -> ScnetSimulator:
    """Return a cluster that works slowly, so that jobs do queue, and counts them late, as claims are for."""
    simulator = ScnetSimulator(slots=2, run_for=3, counted_after=2)
    for name in ("alice", "bob"):
        simulator.add_user(name)
    return simulator


def holders(engine: Engine, dag_id: str) -> dict[str, int | None]:
    """Return in which triggerer each gate waits, by name; None where it does not yet."""
    rows = engine.rows(
        "SELECT ti.run_id, ti.task_id, ti.map_index, t.triggerer_id FROM task_instance ti JOIN trigger t"
        " ON t.id = ti.trigger_id WHERE ti.dag_id = :dag_id AND ti.state = 'deferred'",
        dag_id=dag_id,
    )
    return {f"{row.run_id} {row.task_id}[{row.map_index}]": row.triggerer_id for row in rows}


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


def succeeded(engine: Engine, dag_id: str) -> int:
    """Return how many tasks have succeeded, in all runs."""
    rows = engine.rows("SELECT state FROM task_instance WHERE dag_id = :id AND state = 'success'", id=dag_id)
    return len(rows)


def test_gates_of_a_group_and_of_many_runs_spread_over_two_triggerers_share_one_room(tmp_path: Path):
    # Each takes half: it has no place for more.
    half = ["--capacity", str((GATES + RUNS) // 2)]
    dags = {"admission": ADMISSION.replace("**GIVEN", ""), "run_by_run": RUN_BY_RUN}
    with cluster() as scnet, engine_for(scnet, tmp_path, dags, triggerers=[half, half]) as engine:
        scnet.set_counts("alice", queued=99)
        engine.trigger_dag("admission")
        unpause(engine, "run_by_run")
        for dag_id, gates in (("admission", GATES), ("run_by_run", RUNS)):
            engine.wait_until(lambda d=dag_id, n=gates: all_wait(engine, d, n), 240, f"the waiting of {dag_id}")
        held = [*holders(engine, "admission").values(), *holders(engine, "run_by_run").values()]
        scnet.set_counts("alice", queued=None)
        for dag_id, gates in (("admission", GATES), ("run_by_run", RUNS)):
            engine.wait_until(
                lambda d=dag_id, n=gates: succeeded(engine, d) == 2 * n, 400, f"the jobs of {dag_id}"
            )
        totals, over = scnet.totals("alice"), over_admitted(scnet.jobs("alice"), ROOM)
    assert {held.count(each) for each in held} == {(GATES + RUNS) // 2}
    assert totals.submitted == GATES + RUNS
    assert totals.highest_queued <= ROOM
    assert over == 0


def unpause(engine: Engine, dag_id: str) -> None:
    parsed = "SELECT dag_id FROM serialized_dag WHERE dag_id = :dag_id"
    engine.wait_until(lambda: bool(engine.rows(parsed, dag_id=dag_id)), 60, f"the parsing of {dag_id}")
    engine.execute("UPDATE dag SET is_paused = :no WHERE dag_id = :dag_id", no=False, dag_id=dag_id)


HELD = f"""{HEAD}
    @task(pool="held")
    def submit(): ...

    with new("held") as dag:
        @task_group
        def group(number):
            gate(condition="queued < {ROOM}") >> submit()

        group.expand(number=list(range({GATES})))

    with runs("held_runs", {GATES}):
        gate(condition="queued < {ROOM}", scnet_conn_id="scnet_bob") >> submit()
"""


def test_gates_that_move_to_another_triggerer_meet_the_claims_of_those_that_passed(tmp_path: Path):
    dag_ids = ("held", "held_runs")

    def passed() -> list[int]:
        return [succeeded(engine, dag_id) for dag_id in dag_ids]

    def others_wait() -> bool:
        return all(all_wait(engine, dag_id, GATES - ROOM) for dag_id in dag_ids)

    def where() -> set[int | None]:
        return {each for dag_id in dag_ids for each in holders(engine, dag_id).values()}

    with cluster() as scnet:
        env = {
            "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "15",
            "AIRFLOW_CONN_SCNET_BOB": scnet.connection_json("bob"),
        }
        with engine_for(scnet, tmp_path, {"held": HELD}, env, triggerers=[[], []]) as engine:
            engine.airflow("pools", "set", "held", "0", "nothing starts")
            engine.kill("triggerer-2")
            engine.trigger_dag("held")
            unpause(engine, "held_runs")
            engine.wait_until(lambda: passed() == [ROOM, ROOM], 240, "the passing of as many as there is room for")
            engine.wait_until(others_wait, 120, "the waiting of the others")
            (former,) = where()
            engine.start_component("triggerer-2")
            engine.kill("triggerer")
            engine.wait_until(lambda: others_wait() and former not in where(), 120, "the moving of all gates")
            before = len(scnet.requests_of("bob"))
            engine.wait_until(
                lambda: len(scnet.requests_of("bob")) > before + 3, 120, "looks of the other triggerer"
            )
            assert passed() == [ROOM, ROOM]
            engine.airflow("pools", "set", "held", "8", "all may start")
            engine.wait_until(lambda: passed() == [2 * GATES] * 2, 240, "all submissions")


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
def test_gates_of_one_queue_wait_in_one_triggerer_and_share_one_room(queues: Engine, scnet: ScnetSimulator):
    held = admit(queues, scnet)
    totals = scnet.totals("alice")
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

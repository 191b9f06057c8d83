# SPDX-License-Identifier: Apache-2.0
"""Gates outlive what happens to an Airflow: killed components, and people who act on waiting tasks."""

from __future__ import annotations

import collections
import json

import pytest

from airflow_provider_scnet.testing import ScnetSimulator
from demo.engine import Engine

GATES = 50
ROOM = 20

DAGS = {
    "many": f"""
        with new("many", params={{"gates": {GATES}}}) as dag:
            @task
            def numbers(params=None):
                return list(range(params["gates"]))

            @task_group
            def group(number):
                gate(condition="queued < {ROOM}", claim_ttl=4)
            group.expand(number=numbers())
    """,
    "acted_on": """
        with new("acted_on") as dag:
            @task
            def numbers():
                return list(range(6))

            @task_group
            def group(number):
                gate(condition="queued < 3", claim_ttl=600)
            group.expand(number=numbers())
    """,
}


def states(engine: Engine, dag_id: str) -> collections.Counter[str | None]:
    return collections.Counter(
        state for (task, _), state in engine.task_states(dag_id).items() if task == "group.gate"
    )


def decisions(engine: Engine, dag_id: str) -> list[dict]:
    """Return the records of the gates of a DAG's latest run, in the order of their map indexes."""
    found = []
    for row in engine.rows(
        "SELECT value FROM xcom WHERE key = 'decision' AND dag_id = :dag_id AND run_id ="
        " (SELECT run_id FROM dag_run WHERE dag_id = :dag_id ORDER BY id DESC LIMIT 1) ORDER BY map_index",
        dag_id=dag_id,
    ):
        value = row.value
        # A record that ends in the triggerer is encoded twice by Airflow 3, once by 2.11.
        while isinstance(value, (str, bytes)):
            value = json.loads(value)
        found.append(value)
    return found


def tries(engine: Engine, dag_id: str) -> set[int]:
    rows = engine.rows(
        "SELECT try_number FROM task_instance WHERE dag_id = :d AND task_id = 'group.gate' AND run_id ="
        " (SELECT run_id FROM dag_run WHERE dag_id = :d ORDER BY id DESC LIMIT 1)",
        d=dag_id,
    )
    return {row.try_number for row in rows}


@pytest.fixture
def waiting(engine: Engine, scnet: ScnetSimulator) -> Engine:
    """An engine with fifty gates that wait, and have looked."""
    scnet.set_counts("alice", queued=99)
    engine.trigger_dag("many")
    engine.wait_until(lambda: states(engine, "many")["deferred"] == GATES, 240, "the waiting of all gates")
    before = len(scnet.requests)
    engine.wait_until(lambda: len(scnet.requests) > before + 1, 60, "two looks")
    return engine


def all_pass(engine: Engine, scnet: ScnetSimulator) -> None:
    scnet.set_counts("alice", queued=0)
    engine.wait_until(lambda: states(engine, "many")["success"] == GATES, 240, "the passing of all gates")
    assert tries(engine, "many") == {1}
    records = decisions(engine, "many")
    assert len(records) == GATES
    # One look lets no more pass than there is room.
    passed = collections.Counter(record["observed_at"] for record in records)
    assert max(passed.values()) <= ROOM


def test_a_triggerer_that_is_killed_loses_no_gate_and_passes_none_twice(waiting: Engine, scnet: ScnetSimulator):
    waiting.kill("triggerer")
    before = len(scnet.requests)
    waiting.start_component("triggerer")
    waiting.wait_until(lambda: len(scnet.requests) > before, 120, "the first look of the new triggerer")
    all_pass(waiting, scnet)


def test_a_triggerer_that_is_killed_while_gates_pass_forgets_at_most_one_rooms_claims(
    waiting: Engine, scnet: ScnetSimulator
):
    scnet.set_counts("alice", queued=0)
    waiting.wait_until(lambda: states(waiting, "many")["success"] >= ROOM, 60, "the first gates to pass")
    waiting.kill("triggerer")
    passed = len(decisions(waiting, "many"))
    # What passed is counted by now: the new triggerer may add one room to it, and not more.
    scnet.set_counts("alice", queued=0)
    waiting.start_component("triggerer")
    waiting.wait_until(lambda: states(waiting, "many")["success"] > passed, 120, "more gates to pass")
    all_pass(waiting, scnet)


def test_a_scheduler_that_is_killed_loses_no_gate(waiting: Engine, scnet: ScnetSimulator):
    waiting.kill("scheduler")
    waiting.start_component("scheduler")
    all_pass(waiting, scnet)


def test_gates_that_people_act_on_leave_no_claim(engine: Engine, scnet: ScnetSimulator):
    scnet.set_counts("alice", queued=99)
    run_id = engine.trigger_dag("acted_on")
    engine.wait_until(lambda: states(engine, "acted_on")["deferred"] == 6, 120, "the waiting of all gates")
    for map_index, state in ((0, "failed"), (1, "success")):
        # What Airflow's pages do when somebody marks a task.
        engine.execute(
            "UPDATE task_instance SET state = :state, trigger_id = NULL"
            " WHERE dag_id = 'acted_on' AND task_id = 'group.gate' AND run_id = :run_id AND map_index = :map_index",
            state=state,
            run_id=run_id,
            map_index=map_index,
        )
    left = "SELECT COUNT(*) AS n FROM trigger"
    engine.wait_until(lambda: engine.rows(left)[0].n == 4, 60, "Airflow to drop the two triggers")
    before = len(scnet.requests)
    engine.wait_until(lambda: len(scnet.requests) > before + 2, 60, "looks of the gates that are left")
    scnet.set_counts("alice", queued=0)
    engine.wait_until(lambda: states(engine, "acted_on")["success"] == 4, 60, "three gates to pass")
    before = len(scnet.requests)
    engine.wait_until(lambda: len(scnet.requests) > before + 2, 60, "further looks")
    # Room for three let three pass beside the one that was marked: the two that were acted on took none of it.
    assert states(engine, "acted_on") == {"success": 4, "failed": 1, "deferred": 1}

# SPDX-License-Identifier: Apache-2.0
"""
Gates end while Airflow is being asked for them, and nothing else ends with them.

On Airflow 3.1 a request to the triggerer's supervisor that is cancelled in flight ends the trigger runner for good,
while the triggerer's heartbeat goes on: every waiting task of it stands still.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from airflow_provider_scnet.testing import ScnetSimulator
from demo.engine import Engine
from engine_tests.conftest import AIRFLOW, engine_for

GATES = 50
ROUNDS = 2

DAGS = {
    # Each gate has an account of its own, in Airflow's database, so that each asks for it, for what is claimed on it
    # and for its submission.
    "asking": f"""
        with new("asking") as dag:
            @task
            def submit(): ...
            for number in range({GATES}):
                name = f"gate_{{number:02}}"
                gate(name, scnet_conn_id=name, poke_interval=0.2) >> submit.override(
                    task_id=f"submit_{{number:02}}")()
    """,
    "witness": """
        with new("witness") as dag:
            gate("witness", submits=0)
    """,
}


@pytest.fixture
def engine(scnet: ScnetSimulator, tmp_path_factory) -> Iterator[Engine]:
    # The triggerer would say that its loop is busy: that is what this test is about.
    with engine_for(scnet, tmp_path_factory.mktemp("dags"), DAGS) as running:
        yield running


def waiting(engine: Engine) -> dict[str, int]:
    """Return the try of each gate that waits in a triggerer."""
    rows = engine.rows(
        "SELECT ti.task_id, ti.try_number FROM task_instance ti JOIN trigger t ON t.id = ti.trigger_id"
        " WHERE ti.dag_id = 'asking' AND ti.state = 'deferred' AND t.triggerer_id IS NOT NULL"
    )
    return {row.task_id: row.try_number for row in rows}


@pytest.mark.skipif(AIRFLOW < (3, 0), reason="Airflow 2's triggers ask no supervisor")
def test_gates_that_are_cleared_and_marked_while_airflow_is_asked_end_nothing_but_themselves(
    engine: Engine, scnet: ScnetSimulator, tmp_path
):
    connections = tmp_path / "connections.json"
    names = [f"gate_{number:02}" for number in range(GATES)]
    for name in names:
        scnet.add_user(name)
        scnet.set_counts(name, queued=99)
    connections.write_text(json.dumps({name: scnet.connection(name) for name in names}))
    engine.airflow("connections", "import", str(connections))
    scnet.set_counts("alice", queued=99)
    engine.trigger_dag("witness")
    run_id = engine.trigger_dag("asking")
    engine.wait_until(lambda: len(waiting(engine)) == GATES, 240, "the waiting of all gates")
    marked: set[str] = set()
    for number in range(ROUNDS):
        before = len(scnet.requests)
        engine.wait_until(lambda before=before: len(scnet.requests) > before + GATES, 120, "looks of all gates")
        former = waiting(engine)
        # What Airflow's pages do when somebody marks a task.
        victims = sorted(former)[:5]
        marked.update(victims)
        for task_id in victims:
            engine.execute(
                "UPDATE task_instance SET state = 'failed', trigger_id = NULL WHERE dag_id = 'asking'"
                " AND task_id = :task_id AND run_id = :run_id",
                task_id=task_id,
                run_id=run_id,
            )
        digit = f"gate_{4 - number}"
        engine.airflow("tasks", "clear", "asking", "--task-regex", digit, "--yes")
        cleared = {name for name in former if name.startswith(digit)} - marked
        engine.wait_until(
            lambda cleared=cleared, former=former: all(
                waiting(engine).get(name, 0) > former[name] for name in cleared
            ),
            120,
            "the cleared gates to wait anew",
        )
        marked -= {name for name in marked if name.startswith(digit)}
    # The triggerer lives, and so does what waits in it.
    for name in ("alice", *names):
        scnet.set_counts(name, queued=0)
    engine.wait_until(lambda: engine.run_state("witness") == "success", 120, "the passing of another DAG's gate")
    engine.wait_until(lambda: not waiting(engine), 120, "the passing of all gates that waited")
    states = {task: state for (task, _), state in engine.task_states("asking").items() if task.startswith("gate")}
    assert {task for task, state in states.items() if state != "success"} == marked

# SPDX-License-Identifier: Apache-2.0
"""Gates outlive what happens to an Airflow: killed components, and people who act on waiting tasks."""

from __future__ import annotations

import collections
import json
from collections.abc import Iterator
from datetime import datetime

import pytest

from airflow_provider_scnet.testing import ScnetSimulator
from demo.engine import Engine
from engine_tests.conftest import StatsdListener, engine_for

GATES = 50
ROOM = 20
# Seconds for which what the gates of "forgotten" claim counts.
CLAIM_TTL = 60

# Seconds after which a triggerer that was killed is missed. 30, the default, would only be waited for.
ENV = {"AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "15"}

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
    # The claims outlive a triggerer that is killed and started again.
    "forgotten": f"""
        with new("forgotten") as dag:
            @task_group
            def group(number):
                gate(condition="queued < {ROOM}", claim_ttl={CLAIM_TTL})
            group.expand(number=list(range({GATES})))
    """,
    "acted_on": """
        with new("acted_on") as dag:
            few = dict(condition="queued < 7", claim_ttl=600)
            for name in ("marked_failed", "marked_success", "cleared_plain", "plain_1", "plain_2"):
                gate(name, **few)
            for name in ("cleared_worker", "worker_1", "worker_2"):
                gate(name, use_worker=True, **few)
    """,
}


@pytest.fixture(scope="module")
def engine(scnet: ScnetSimulator, listener: StatsdListener, tmp_path_factory) -> Iterator[Engine]:
    with engine_for(scnet, tmp_path_factory.mktemp("dags"), DAGS, ENV | listener.env) as running:
        yield running


def states(engine: Engine, dag_id: str) -> collections.Counter[str | None]:
    return collections.Counter(
        state for (task, _), state in engine.task_states(dag_id).items() if task == "group.gate"
    )


def decisions(engine: Engine, dag_id: str) -> list[dict]:
    """Return the records of the gates of a DAG's latest run, in the order of their map indexes."""
    found = []
    for row in engine.rows(
        "SELECT value FROM xcom WHERE key = 'decision'"
        " AND dag_id = :dag_id AND run_id ="
        " (SELECT run_id FROM dag_run WHERE dag_id = :dag_id ORDER BY id DESC LIMIT 1) ORDER BY map_index",
        dag_id=dag_id,
    ):
        value = row.value
        # Text of text.
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


def wait_all(engine: Engine, scnet: ScnetSimulator, dag_id: str) -> None:
    """Let all gates of a DAG wait, and look."""
    scnet.set_counts("alice", queued=99)
    engine.trigger_dag(dag_id)
    engine.wait_until(lambda: states(engine, dag_id)["deferred"] == GATES, 240, "the waiting of all gates")
    two_looks(engine, scnet)


def two_looks(engine: Engine, scnet: ScnetSimulator) -> None:
    before = len(scnet.requests)
    engine.wait_until(lambda: len(scnet.requests) > before + 1, 60, "two looks")


@pytest.fixture
def waiting(engine: Engine, scnet: ScnetSimulator) -> Engine:
    """An engine with fifty gates that wait, and have looked."""
    wait_all(engine, scnet, "many")
    return engine


def all_pass(engine: Engine, scnet: ScnetSimulator, dag_id: str = "many") -> None:
    scnet.set_counts("alice", queued=0)
    engine.wait_until(lambda: states(engine, dag_id)["success"] == GATES, 240, "the passing of all gates")
    assert tries(engine, dag_id) == {1}
    records = decisions(engine, dag_id)
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


def test_a_triggerer_that_comes_after_one_that_was_killed_while_gates_passed_knows_what_they_claimed(
    engine: Engine, scnet: ScnetSimulator
):
    wait_all(engine, scnet, "forgotten")
    scnet.set_counts("alice", queued=0)
    engine.wait_until(lambda: states(engine, "forgotten")["success"] == ROOM, 240, "the first gates to pass")
    engine.kill("triggerer")
    engine.start_component("triggerer")
    engine.wait_until(lambda: states(engine, "forgotten")["success"] == 2 * ROOM, 240, "more gates to pass")
    two_looks(engine, scnet)
    # It gave out the room when the claims of the first had ended, once, and then heeds its own.
    assert states(engine, "forgotten")["success"] == 2 * ROOM
    first, second = sorted({record["observed_at"] for record in decisions(engine, "forgotten")})
    waited = datetime.fromisoformat(second) - datetime.fromisoformat(first)
    assert waited.total_seconds() >= CLAIM_TTL
    all_pass(engine, scnet, "forgotten")


def test_a_scheduler_that_is_killed_loses_no_gate(waiting: Engine, scnet: ScnetSimulator):
    waiting.kill("scheduler")
    waiting.start_component("scheduler")
    all_pass(waiting, scnet)


def test_gates_that_are_marked_failed_or_cleared_leave_no_claim_and_the_cleared_wait_anew(
    engine: Engine, scnet: ScnetSimulator, listener: StatsdListener
):
    scnet.set_counts("alice", queued=99)
    run_id = engine.trigger_dag("acted_on")

    def triggers() -> dict[str, int]:
        """Return the trigger of each gate that waits."""
        rows = engine.rows(
            "SELECT task_id, trigger_id FROM task_instance WHERE dag_id = 'acted_on' AND state = 'deferred'"
        )
        return {row.task_id: row.trigger_id for row in rows}

    engine.wait_until(lambda: len(triggers()) == 8, 120, "the waiting of all gates")
    engine.wait_until(lambda: listener.gauge("gates.waiting") == 8, 60, "all gates to see the queue")
    former = triggers()
    for state in ("failed", "success"):
        # What Airflow's pages do when somebody marks a task.
        engine.execute(
            "UPDATE task_instance SET state = :state, trigger_id = NULL"
            " WHERE dag_id = 'acted_on' AND task_id = :task_id AND run_id = :run_id",
            state=state,
            run_id=run_id,
            task_id=f"marked_{state}",
        )
    engine.airflow("tasks", "clear", "acted_on", "--task-regex", "cleared_", "--yes")
    anew = {"cleared_plain", "cleared_worker"}
    engine.wait_until(
        lambda: {task for task, trigger in triggers().items() if trigger != former[task]} == anew,
        120,
        "the cleared gates to wait anew",
    )

    def has_seen_the_queue(task: str) -> bool:
        files = engine.home.glob(f"logs/dag_id=acted_on/run_id={run_id}/task_id={task}/attempt=2.log*")
        return any("waiting, needs" in file.read_text() for file in files)

    engine.wait_until(lambda: all(map(has_seen_the_queue, anew)), 60, "the cleared gates to see the queue")
    # Airflow has dropped the former triggers some time before the triggerer ends them.
    engine.wait_until(lambda: listener.gauge("gates.waiting") == 6, 60, "the former gates to end")
    scnet.set_counts("alice", queued=0)
    engine.wait_until(lambda: engine.run_state("acted_on") == "failed", 120, "the end of all gates")
    ended = {task: state for (task, _), state in engine.task_states("acted_on").items()}
    assert ended.pop("marked_failed") == "failed"
    assert set(ended.values()) == {"success"}
    # Room for seven let the six pass that were left, each beside the claims of those before it: what was marked, and
    # what was waited for before it was cleared, took none of it.
    assert sorted(record["claimed"] for record in decisions(engine, "acted_on")) == list(range(6))
    said = {task: engine.log_of("acted_on", task).count("passes, queued < 7") for task in former}
    assert said["cleared_plain"] == said["plain_1"] > 0
    assert said["cleared_worker"] == said["worker_1"] > 0
    assert said["marked_failed"] == said["marked_success"] == 0

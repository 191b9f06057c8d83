# SPDX-License-Identifier: Apache-2.0
"""Claims follow what really becomes of submissions: whatever happens to a task, its run, Airflow or its triggerer."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from airflow_provider_scnet.testing import ScnetSimulator
from demo.engine import Engine
from engine_tests.conftest import AIRFLOW, engine_for

#: Room for so many: "queued < 20".
ROOM = 20
GATES = 50
MANY = 1000
RUNS = 200

# Seconds after which a triggerer that was killed is missed. 30, the default, would only be waited for.
ENV = {"AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "15", "AIRFLOW__CORE__MAX_MAP_LENGTH": str(MANY)}

DAGS = {
    # One gate and its submission, which does as it is told by a file; and a gate that waits until nothing is claimed.
    "fate": """
        import os, time
        from datetime import timedelta
        from pathlib import Path
        from airflow.providers.common.compat.sdk import AirflowSkipException

        def obey(run_id, task_id):
            order = Path(os.environ["SCNET_TEST_ORDERS"], f"{run_id}.{task_id}")
            while not order.exists():
                time.sleep(0.1)
            said = order.read_text()
            order.unlink()
            if said == "fail":
                raise RuntimeError("as ordered")
            if said == "skip":
                raise AirflowSkipException("as ordered")

        for dag_id, ttl in (("fate", 600), ("fate_short", 3)):
            with new(dag_id) as dag:
                @task(pool="fate", retries=1, retry_delay=timedelta(seconds=5))
                def submit(run_id=None, ti=None):
                    obey(run_id, "submit")

                gate(claim_ttl=ttl) >> submit()
                gate("witness", condition="queued < 1", submits=0)

        with new("waits_for_its_job") as dag:
            gate(claim_ttl=3) >> gate("submit", condition="running == 99", submits=0)
            gate("witness", condition="queued < 1", submits=0)

        with new("shapes") as dag:
            @task(pool="held")
            def submit(number=None): ...

            gate("nothing", claim_ttl=4)
            three = gate("three")
            for name in "abc":
                three >> submit.override(task_id=name)()
            @task_group
            def whole():
                submit.override(task_id="first")() >> submit.override(task_id="second")()
            gate("before_a_group") >> whole()
            gate("before_mapped") >> submit.expand(number=[1, 2, 3])
            gate("like_an_index") >> submit.override(task_id="submit_1")()
    """,
    "held": f"""
        with new("held") as dag:
            @task(pool="held")
            def submit(): ...
            @task_group
            def group(number):
                gate(condition="queued < {ROOM}") >> submit()
            group.expand(number=list(range({GATES})))
    """,
    "many": f"""
        with new("many") as dag:
            @task(pool="held")
            def submit(): ...
            @task_group
            def group(number):
                gate(condition="queued < {ROOM}") >> submit()
            group.expand(number=list(range({MANY})))
    """,
    "runs": f"""
        from datetime import timedelta, timezone
        start = datetime(2024, 1, 1, tzinfo=timezone.utc)
        with DAG("runs", schedule=timedelta(hours=1), start_date=start, end_date=start + timedelta(hours={RUNS - 1}),
                 catchup=True, max_active_runs={RUNS}, is_paused_upon_creation=True) as dag:
            @task(pool="held")
            def submit(): ...
            gate(condition="queued < {ROOM}") >> submit()
    """,
}


@pytest.fixture(scope="module")
def orders(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("orders")


@pytest.fixture(scope="module")
def scnet() -> Iterator[ScnetSimulator]:
    with ScnetSimulator(counted_after=1) as simulator:
        simulator.add_user("alice")
        yield simulator


@pytest.fixture(scope="module")
def engine(scnet: ScnetSimulator, orders: Path, tmp_path_factory) -> Iterator[Engine]:
    env = ENV | {"SCNET_TEST_ORDERS": str(orders)}
    with engine_for(scnet, tmp_path_factory.mktemp("dags"), DAGS, env) as running:
        slots(running, "fate", 4)
        slots(running, "held", 0)
        yield running


def slots(engine: Engine, pool: str, number: int) -> None:
    engine.airflow("pools", "set", pool, str(number), "of the tests")


def looks(engine: Engine, scnet: ScnetSimulator, more: int = 2) -> None:
    before = len(scnet.requests)
    engine.wait_until(lambda: len(scnet.requests) > before + more, 120, "further looks")


class Fate:
    """One run of a gate, its submission, and the gate that waits until nothing is claimed."""

    def __init__(self, engine: Engine, scnet: ScnetSimulator, orders: Path, dag_id: str) -> None:
        self.engine, self.scnet, self.orders, self.dag_id = engine, scnet, orders, dag_id
        # Room for the gate, none for the witness.
        scnet.set_counts("alice", queued=1)
        self.run_id = engine.trigger_dag(dag_id)
        self.wait("gate", "success")
        self.wait("witness", "deferred")
        # From here on only claims keep the witness waiting.
        scnet.set_counts("alice", queued=0)

    def state(self, task_id: str) -> str | None:
        return self.engine.task_states(self.dag_id).get((task_id, -1))

    def wait(self, task_id: str, *states: str) -> None:
        self.engine.wait_until(
            lambda: self.state(task_id) in states, 120, f"{task_id} to be {' or '.join(states)}"
        )

    def order(self, what: str) -> None:
        partial = self.orders / "order"
        partial.write_text(what)
        partial.rename(self.orders / f"{self.run_id}.submit")

    def still_waits(self) -> None:
        looks(self.engine, self.scnet)
        assert self.state("witness") == "deferred"

    def passes(self) -> None:
        self.wait("witness", "success")

    def mark(self, state: str) -> None:
        """Do what Airflow's pages do when somebody marks the submission."""
        self.engine.execute(
            "UPDATE task_instance SET state = :state WHERE dag_id = :dag_id AND run_id = :run_id"
            " AND task_id = 'submit'",
            state=state,
            dag_id=self.dag_id,
            run_id=self.run_id,
        )

    @property
    def said(self) -> str:
        return self.engine.log_of(self.dag_id, "witness")


@pytest.fixture
def fate(engine: Engine, scnet: ScnetSimulator, orders: Path):
    made = []

    def make(dag_id: str = "fate") -> Fate:
        made.append(Fate(engine, scnet, orders, dag_id))
        return made[-1]

    yield make
    for each in made:
        engine.wait_until(
            lambda each=each: engine.run_state(each.dag_id) in ("success", "failed"), 120, "the end of the run"
        )


def test_no_claim_expires_before_a_submission_has_started_that_waits_for_its_pool(engine: Engine, fate):
    slots(engine, "fate", 0)
    held = fate("fate_short")
    held.wait("submit", "scheduled")
    since = time.monotonic()
    # Much longer than its claim_ttl of 3 s.
    engine.wait_until(lambda: time.monotonic() - since > 12, 60, "the end of what its claim_ttl would be")
    held.still_waits()
    assert "queued 0 (+1 claimed: submit has not ended): waiting, needs queued < 1; only claims" in held.said
    slots(engine, "fate", 4)
    held.order("succeed")
    held.passes()


def test_a_submission_that_is_retried_is_awaited_until_it_ends(fate):
    retried = fate()
    retried.wait("submit", "running")
    retried.order("fail")
    retried.wait("submit", "up_for_retry")
    retried.still_waits()
    retried.order("succeed")
    retried.passes()
    assert retried.state("submit") == "success"


def test_a_submission_that_fails_for_good_may_have_submitted(fate):
    failing = fate()
    failing.wait("submit", "running")
    failing.order("fail")
    failing.wait("submit", "up_for_retry")
    failing.order("fail")
    failing.passes()
    assert failing.state("submit") == "failed"


def test_a_submission_that_is_skipped_claims_nothing(fate):
    skipped = fate()
    skipped.wait("submit", "running")
    skipped.still_waits()
    skipped.order("skip")
    skipped.passes()


def test_a_submission_that_is_cleared_while_it_runs_is_awaited_anew(engine: Engine, fate):
    cleared = fate()
    cleared.wait("submit", "running")
    engine.airflow("tasks", "clear", "fate", "--task-regex", "submit", "--yes")
    cleared.wait("submit", "running")
    cleared.still_waits()
    cleared.order("succeed")
    cleared.passes()


@pytest.mark.parametrize("state", ["failed", "success"])
def test_a_submission_that_somebody_marks_is_over(fate, state):
    marked = fate()
    marked.wait("submit", "running")
    marked.still_waits()
    marked.mark(state)
    marked.passes()


def test_a_submission_that_waits_for_its_job_claims_for_its_ttl(fate):
    waiting = fate("waits_for_its_job")
    waiting.wait("submit", "deferred")
    waiting.passes()
    assert waiting.state("submit") == "deferred"
    waiting.scnet.set_counts("alice", running=99)
    waiting.wait("submit", "success")
    waiting.scnet.set_counts("alice", running=0)


def test_a_gate_that_is_cleared_and_passes_again_claims_again(engine: Engine, fate):
    again = fate()
    again.wait("submit", "running")
    again.scnet.set_counts("alice", queued=9)
    engine.airflow("tasks", "clear", "fate", "--task-regex", "gate", "--downstream", "--yes")
    again.wait("gate", "deferred")
    again.scnet.set_counts("alice", queued=1)
    again.wait("gate", "success")
    again.scnet.set_counts("alice", queued=0)
    again.wait("submit", "running")
    again.still_waits()
    again.order("succeed")
    again.passes()


def test_a_run_that_is_deleted_takes_its_claims_along(engine: Engine, scnet: ScnetSimulator, fate):
    gone, other = fate(), fate("fate_short")
    gone.wait("submit", "running")
    other.wait("submit", "running")
    scnet.set_counts("alice", queued=0)
    engine.execute("DELETE FROM dag_run WHERE dag_id = 'fate' AND run_id = :run_id", run_id=gone.run_id)
    other.order("succeed")
    other.passes()
    # The run is gone: there is nothing of it to wait for at the end of the test.
    gone.dag_id = other.dag_id


def test_a_run_that_is_marked_failed_takes_its_claims_along(engine: Engine, fate):
    failed, other = fate(), fate("fate_short")
    failed.wait("submit", "running")
    other.wait("submit", "running")
    engine.execute(
        "UPDATE task_instance SET state = CASE state WHEN 'success' THEN 'success' ELSE 'failed' END, trigger_id = NULL"
        " WHERE dag_id = 'fate' AND run_id = :run_id",
        run_id=failed.run_id,
    )
    engine.execute("UPDATE dag_run SET state = 'failed' WHERE dag_id = 'fate' AND run_id = :r", r=failed.run_id)
    other.order("succeed")
    other.passes()


def test_what_stands_behind_a_gate_may_have_any_shape(engine: Engine, scnet: ScnetSimulator):
    scnet.set_counts("alice", queued=0)
    engine.trigger_dag("shapes")
    gates = ["nothing", "three", "before_a_group", "before_mapped", "like_an_index"]

    def gate_states() -> dict[str, str | None]:
        states = engine.task_states("shapes")
        return {name: states.get((name, -1)) for name in gates}

    engine.wait_until(lambda: set(gate_states().values()) == {"success"}, 120, "the passing of all gates")
    slots(engine, "held", 4)
    engine.wait_until(lambda: engine.run_state("shapes") in ("success", "failed"), 120, "the end of the run")
    slots(engine, "held", 0)
    assert engine.run_state("shapes") == "success"


def passed(engine: Engine, dag_id: str) -> int:
    rows = engine.rows(
        "SELECT count(*) AS n FROM task_instance WHERE dag_id = :dag_id AND state = 'success'"
        " AND task_id IN ('gate', 'group.gate')",
        dag_id=dag_id,
    )
    return int(rows[0].n)


def waits(engine: Engine, dag_id: str) -> int:
    rows = engine.rows(
        "SELECT count(*) AS n FROM task_instance WHERE dag_id = :dag_id AND state = 'deferred'", dag_id=dag_id
    )
    return int(rows[0].n)


def end(engine: Engine, dag_id: str) -> None:
    """Let nothing of a DAG be left for the tests that follow."""
    engine.execute(
        "UPDATE task_instance SET state = 'failed', trigger_id = NULL WHERE dag_id = :d"
        " AND (state IS NULL OR state NOT IN ('success', 'failed', 'skipped'))",
        d=dag_id,
    )
    engine.execute("UPDATE dag_run SET state = 'failed' WHERE dag_id = :d", d=dag_id)


@pytest.fixture
def room_was_taken(engine: Engine, scnet: ScnetSimulator) -> Iterator[Engine]:
    """An engine in which twenty gates have passed whose submissions have not started, and thirty wait."""
    scnet.set_counts("alice", queued=0)
    engine.trigger_dag("held")
    engine.wait_until(lambda: passed(engine, "held") == ROOM, 120, "the passing of as many as there is room for")
    engine.wait_until(lambda: waits(engine, "held") == GATES - ROOM, 120, "the waiting of the others")
    yield engine
    end(engine, "held")
    engine.execute("DELETE FROM dag_run WHERE dag_id = 'held'")


def test_a_triggerer_that_is_killed_with_claims_out_knows_them_when_it_is_back(
    room_was_taken: Engine, scnet: ScnetSimulator
):
    room_was_taken.kill("triggerer")
    before = len(scnet.requests)
    room_was_taken.start_component("triggerer")
    room_was_taken.wait_until(lambda: len(scnet.requests) > before + 3, 120, "looks of the new triggerer")
    assert passed(room_was_taken, "held") == ROOM
    said = "".join(room_was_taken.log_of("held", "group.gate", index) for index in range(GATES))
    assert re.search(rf"\+{ROOM} claimed: submit\[\d+\], submit\[\d+\] and {ROOM - 2} more have not ended", said)


@pytest.mark.skipif(AIRFLOW < (3, 0), reason="Airflow 2's triggers ask the database, which is in no server here")
def test_while_the_api_server_is_away_or_slow_gates_stay_as_shut_as_they_were(
    room_was_taken: Engine, scnet: ScnetSimulator
):
    engine = room_was_taken
    engine.kill("api-server")
    looks(engine, scnet, 3)
    assert passed(engine, "held") == ROOM
    engine.start_component("api-server")
    looks(engine, scnet, 3)
    assert passed(engine, "held") == ROOM
    slow = [process for process in engine.processes("api-server") if process.status() != psutil.STATUS_ZOMBIE]
    for process in slow:
        process.suspend()
    try:
        before = len(scnet.requests)
        since = time.monotonic()
        engine.wait_until(
            lambda: len(scnet.requests) > before + 1 or time.monotonic() - since > 45, 60, "a look meanwhile"
        )
    finally:
        for process in slow:
            process.resume()
    looks(engine, scnet, 2)
    assert passed(engine, "held") == ROOM
    slots(engine, "held", 4)
    # All is well again: what has been submitted makes room.
    engine.wait_until(lambda: passed(engine, "held") > ROOM, 120, "more gates to pass")
    slots(engine, "held", 0)


def test_a_thousand_gates_of_one_run_share_one_room(engine: Engine, scnet: ScnetSimulator):
    scnet.set_counts("alice", queued=99)
    engine.trigger_dag("many")
    engine.wait_until(lambda: waits(engine, "many") == MANY, 240, "the waiting of all gates")
    scnet.set_counts("alice", queued=0)
    engine.wait_until(lambda: passed(engine, "many") >= ROOM, 60, "the passing of as many as there is room for")
    looks(engine, scnet, 3)
    assert passed(engine, "many") == ROOM
    end(engine, "many")


def test_two_hundred_runs_of_one_gate_share_one_room(engine: Engine, scnet: ScnetSimulator):
    scnet.set_counts("alice", queued=99)
    engine.airflow("dags", "unpause", "runs")
    engine.wait_until(lambda: waits(engine, "runs") == RUNS, 240, "the waiting of all gates")
    scnet.set_counts("alice", queued=0)
    engine.wait_until(lambda: passed(engine, "runs") >= ROOM, 60, "the passing of as many as there is room for")
    looks(engine, scnet, 3)
    assert passed(engine, "runs") == ROOM
    end(engine, "runs")

# SPDX-License-Identifier: Apache-2.0
"""Claims follow what really becomes of submissions: whatever happens to a task, its run, Airflow or its triggerer."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_provider_scnet.testing import ScnetSimulator
from demo.engine import Engine
from engine_tests.conftest import AIRFLOW, engine_for

#: Room for so many: "queued < 20".
ROOM = 20
GATES = 50
# Before 3.3 each gate starts on a worker, which takes a processor for a second.
MANY, RUNS = (1_000, 80) if AIRFLOW >= (3, 3) else (100, 40)

not_on_3_0 = pytest.mark.skipif(
    (3, 0) <= AIRFLOW < (3, 1),
    reason="a task that is cleared while it runs stays as it is for ever (apache/airflow #55045)",
)

#: What becomes of a submission, and the arguments of its gate and of its task; each with an account of its own.
FATES = {
    "retried": ("", "retries=1"),
    "failing": ("", "retries=1"),
    "skipped": ("", ""),
    "cleared": ("", ""),
    "marked_failed": ("", ""),
    "marked_success": ("", ""),
    "again": ("", ""),
    "deleted": ("", ""),
    "given_up": ("", ""),
}
#: Those whose run is ended meanwhile.
DOOMED = ("deleted", "given_up")
#: DAGs whose submissions do not start.
HELD = ("held_killed", "held_away")

ENV = {
    # Seconds after which a triggerer that was killed is missed. 30, the default, would only be waited for.
    "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "15",
    "AIRFLOW__CORE__MAX_MAP_LENGTH": str(MANY),
    # Submissions wait for their orders.
    "AIRFLOW__CORE__PARALLELISM": str(2 * len(FATES)),
}

#: Seconds for which a submission that waits for its pool is claimed from everybody.
POOLED_TTL = 40
#: Seconds in which no claim ends by itself, however slow the machine is.
LONG_TTL = 3600

DAGS = {
    # A gate and its submission, which does as it is told by a file; and a gate that waits until nothing is claimed.
    "fates": f"""
        import os, time
        from datetime import timedelta
        from pathlib import Path
        from airflow.providers.common.compat.sdk import AirflowSkipException

        @task(retry_delay=timedelta(seconds=5))
        def submit(name):
            order = Path(os.environ["SCNET_TEST_ORDERS"], name)
            while not order.exists():
                time.sleep(0.1)
            said = order.read_text()
            order.unlink()
            if said == "fail":
                raise RuntimeError("as ordered")
            if said == "skip":
                raise AirflowSkipException("as ordered")

        def account(name, given, submission):
            given = {{"claim_ttl": {LONG_TTL}, **given}}
            first = gate(f"{{name}}_gate", scnet_conn_id=f"scnet_{{name}}", **given)
            first >> submission
            gate(f"{{name}}_witness", scnet_conn_id=f"scnet_{{name}}", condition="queued < 1", submits=0)

        fates = {{{", ".join(f"{name!r}: (dict({gate}), dict({task}))" for name, (gate, task) in FATES.items())}}}
        with new("fates") as dag:
            for name, (given, told) in fates.items():
                if name not in {DOOMED!r}:
                    account(name, given, submit.override(task_id=f"{{name}}_submit", **told)(name))
            job = gate("job_submit", scnet_conn_id="scnet_job", condition="running == 99", submits=0)
            account("job", dict(claim_ttl=20), job)
        for name in {DOOMED!r}:
            with new(name):
                first = gate(f"{{name}}_gate", scnet_conn_id=f"scnet_{{name}}", claim_ttl={LONG_TTL})
                first >> submit.override(task_id=f"{{name}}_submit")(name)
        with new("doomed") as dag:
            for name in {DOOMED!r}:
                gate(f"{{name}}_witness", scnet_conn_id=f"scnet_{{name}}", condition="queued < 1", submits=0)
    """,
    # A gate of the same task, in a later run, has room for one job, and the witness for none.
    "pooled": f"""
        with DAG("pooled", schedule="@hourly", start_date=datetime(2024, 1, 1), end_date=datetime(2024, 1, 1, 1),
                 catchup=True, is_paused_upon_creation=True, max_active_runs=2) as dag:
            @task(pool="scarce")
            def submit(): ...
            gate(condition="queued < 2", scnet_conn_id="scnet_pooled", claim_ttl={POOLED_TTL}) >> submit()
        with new("pooled_witness") as dag:
            gate("pooled_witness", scnet_conn_id="scnet_pooled", condition="queued < 2", submits=0)
    """,
    "shapes": """
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
        for dag_id in {HELD!r}:
            with new(dag_id) as dag:
                @task(pool="held")
                def submit(): ...
                @task_group
                def group(number):
                    gate(condition="queued < {ROOM}", scnet_conn_id=f"scnet_{{dag_id}}", claim_ttl={LONG_TTL}) >> submit()
                group.expand(number=list(range({GATES})))
    """,
    "many": f"""
        with new("many") as dag:
            @task(pool="held")
            def submit(): ...
            @task_group
            def group(number):
                gate(condition="queued < {ROOM}", scnet_conn_id="scnet_many", claim_ttl={LONG_TTL}) >> submit()
            group.expand(number=list(range({MANY})))
    """,
    "runs": f"""
        from datetime import timedelta, timezone
        start = datetime(2024, 1, 1, tzinfo=timezone.utc)
        with DAG("runs", schedule=timedelta(hours=1), start_date=start, end_date=start + timedelta(hours={RUNS - 1}),
                 catchup=True, max_active_runs={RUNS}, is_paused_upon_creation=True) as dag:
            @task(pool="held")
            def submit(): ...
            gate(condition="queued < {ROOM}", scnet_conn_id="scnet_runs", claim_ttl={LONG_TTL}) >> submit()
    """,
}


# The job first: its claim does not wait for anybody.
FATED = ["job", *FATES]
# An account for each: a run that is ended by force may leave a submission behind that never ends, and whose claim
# no other test must meet.
ACCOUNTS = [*FATED, *HELD, "pooled", "many", "runs"]


@pytest.fixture(scope="module")
def orders(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("orders")


@pytest.fixture(scope="module")
def scnet() -> Iterator[ScnetSimulator]:
    with ScnetSimulator(counted_after=1) as simulator:
        for name in ("alice", *ACCOUNTS):
            simulator.add_user(name)
        yield simulator


@pytest.fixture(scope="module")
def engine(scnet: ScnetSimulator, orders: Path, tmp_path_factory) -> Iterator[Engine]:
    env = ENV | {"SCNET_TEST_ORDERS": str(orders)}
    env |= {f"AIRFLOW_CONN_SCNET_{name.upper()}": scnet.connection_json(name) for name in ACCOUNTS}
    with engine_for(scnet, tmp_path_factory.mktemp("dags"), DAGS, env) as running:
        slots(running, "scarce", 0)
        slots(running, "held", 0)
        yield running


def slots(engine: Engine, pool: str, number: int) -> None:
    engine.airflow("pools", "set", pool, str(number), "of the tests")


def looks(engine: Engine, scnet: ScnetSimulator, user: str, more: int = 2) -> None:
    def made() -> int:
        return sum(request.query.get("userName") == user for request in list(scnet.requests))

    before = made()
    engine.wait_until(lambda: made() > before + more, 120, "further looks")


class Fate:
    """A gate that has passed, its submission, and the gate that waits until nothing of its account is claimed."""

    def __init__(self, engine: Engine, scnet: ScnetSimulator, orders: Path, name: str) -> None:
        self.engine, self.scnet, self.orders, self.name = engine, scnet, orders, name
        self.dag_id, self.witness_dag_id = (name, "doomed") if name in DOOMED else ("fates", "fates")

    def state(self, task: str) -> str | None:
        dag_id = self.witness_dag_id if task == "witness" else self.dag_id
        return self.engine.task_states(dag_id).get((f"{self.name}_{task}", -1))

    def wait(self, task: str, state: str) -> None:
        self.engine.wait_until(lambda: self.state(task) == state, 120, f"{self.name}_{task} to be {state}")

    def order(self, what: str) -> None:
        partial = self.orders / f"{self.name}.partial"
        partial.write_text(what)
        partial.rename(self.orders / self.name)

    def counts(self, **counts: int) -> None:
        self.scnet.set_counts(self.name, **counts)

    def still_waits(self) -> None:
        looks(self.engine, self.scnet, self.name)
        assert self.state("witness") == "deferred"

    def passes(self) -> None:
        self.wait("witness", "success")

    @property
    def said(self) -> str:
        return self.engine.log_of(self.witness_dag_id, f"{self.name}_witness")


@pytest.fixture(scope="module")
def fates(engine: Engine, scnet: ScnetSimulator, orders: Path) -> dict[str, Fate]:
    """Let each gate pass, and only claims keep its witness waiting."""
    found = {name: Fate(engine, scnet, orders, name) for name in FATED}
    for fate in found.values():
        fate.counts(queued=1)
    # The job's claim does not wait long.
    for dag_id in ("doomed", *DOOMED, "fates"):
        engine.trigger_dag(dag_id)
    for fate in found.values():
        fate.wait("gate", "success")
        fate.wait("witness", "deferred")
        fate.counts(queued=0)
    return found


def test_a_submission_that_waits_for_its_pool_is_claimed_from_all_for_a_while_and_then_from_its_own_task(
    engine: Engine, scnet: ScnetSimulator
):
    def states(task_id: str) -> list[str | None]:
        rows = engine.rows(
            "SELECT state FROM task_instance WHERE dag_id = 'pooled' AND task_id = :task_id ORDER BY run_id",
            task_id=task_id,
        )
        return [row.state for row in rows]

    witness = Fate(engine, scnet, Path(), "pooled")
    witness.witness_dag_id = "pooled_witness"
    scnet.set_counts("pooled", queued=2)
    engine.airflow("dags", "unpause", "pooled")
    engine.wait_until(lambda: states("gate") == ["deferred"] * 2, 120, "the waiting of both gates")
    # One poll decides in the order in which gates came: the witness must not pass before the gate that claims.
    engine.trigger_dag("pooled_witness")
    witness.wait("witness", "deferred")
    scnet.set_counts("pooled", queued=1)
    engine.wait_until(lambda: set(states("submit")) == {"scheduled", None}, 120, "the passing of the first gate")
    # Where gates start on workers, either may be the first.
    hour = states("submit").index("scheduled")
    witness.passes()
    assert set(states("submit")) == {"scheduled", None}
    assert (
        f"queued 1 (+1 claimed: submit (DAG 'pooled', run 'scheduled__2024-01-01T0{hour}:00:00+00:00') has not ended)"
        ": waiting, needs queued < 2; only claims" in witness.said
    )
    looks(engine, scnet, "pooled")
    assert set(states("gate")) == {"success", "deferred"}
    assert "is its pool full" in engine.log_of("pooled", "gate")
    slots(engine, "scarce", 1)
    engine.wait_until(lambda: states("submit") == ["success"] * 2, 120, "both submissions")


def test_a_submission_that_is_retried_is_awaited_until_it_ends(fates):
    fate = fates["retried"]
    fate.wait("submit", "running")
    fate.order("fail")
    fate.wait("submit", "up_for_retry")
    fate.still_waits()
    fate.order("succeed")
    fate.passes()
    assert fate.state("submit") == "success"


def test_a_submission_that_fails_for_good_may_have_submitted(fates):
    fate = fates["failing"]
    fate.wait("submit", "running")
    fate.order("fail")
    fate.wait("submit", "up_for_retry")
    fate.order("fail")
    fate.passes()
    assert fate.state("submit") == "failed"
    assert "failing_submit (DAG 'fates', run '" in fate.said


def test_a_submission_that_is_skipped_claims_nothing(fates):
    fate = fates["skipped"]
    fate.wait("submit", "running")
    fate.still_waits()
    fate.order("skip")
    fate.passes()


@not_on_3_0
def test_a_submission_that_is_cleared_while_it_runs_is_awaited_anew(engine: Engine, fates):
    fate = fates["cleared"]
    fate.wait("submit", "running")
    before = tries(engine, "cleared_submit")
    engine.airflow("tasks", "clear", "fates", "--task-regex", "cleared_submit", "--yes")
    engine.wait_until(lambda: tries(engine, "cleared_submit") > before, 120, "the next try")
    fate.wait("submit", "running")
    fate.still_waits()
    fate.order("succeed")
    fate.passes()


def tries(engine: Engine, task_id: str) -> int:
    rows = engine.rows("SELECT try_number FROM task_instance WHERE task_id = :task_id", task_id=task_id)
    return int(rows[0].try_number)


@pytest.mark.parametrize("state", ["failed", "success"])
def test_a_submission_that_somebody_marks_is_over(engine: Engine, fates, state):
    fate = fates[f"marked_{state}"]
    fate.wait("submit", "running")
    fate.still_waits()
    # What Airflow's pages do.
    engine.execute(
        "UPDATE task_instance SET state = :state WHERE task_id = :task_id",
        state=state,
        task_id=f"marked_{state}_submit",
    )
    fate.passes()


def test_a_submission_that_waits_for_its_job_claims_for_its_ttl(fates):
    fate = fates["job"]
    fate.passes()
    assert fate.state("submit") == "deferred"
    assert "job_submit (DAG 'fates', run '" in fate.said


@not_on_3_0
def test_a_gate_that_is_cleared_and_passes_again_claims_again(engine: Engine, fates):
    fate = fates["again"]
    fate.wait("submit", "running")
    fate.counts(queued=9)
    engine.airflow("tasks", "clear", "fates", "--task-regex", "again_gate", "--downstream", "--yes")
    fate.wait("gate", "deferred")
    fate.counts(queued=1)
    fate.wait("gate", "success")
    fate.counts(queued=0)
    fate.wait("submit", "running")
    fate.still_waits()
    fate.order("succeed")
    fate.passes()


def test_a_run_that_is_deleted_takes_its_claims_along(engine: Engine, fates):
    fate = fates["deleted"]
    # The scheduler of 3.3.2 dies of a run that is deleted while it looks at it.
    engine.execute("UPDATE dag_run SET state = 'failed' WHERE dag_id = 'deleted'")
    fate.still_waits()
    for table in ("task_instance", "dag_run"):
        engine.execute(f"DELETE FROM {table} WHERE dag_id = 'deleted'")
    fate.passes()


def test_a_run_that_is_marked_failed_takes_its_claims_along(engine: Engine, fates):
    fate = fates["given_up"]
    fate.still_waits()
    # What Airflow's pages do: tasks that run fail, and those that have not started are skipped.
    engine.execute("UPDATE task_instance SET state = 'failed' WHERE task_id = 'given_up_submit'")
    engine.execute("UPDATE dag_run SET state = 'failed' WHERE dag_id = 'given_up'")
    fate.passes()


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


@contextlib.contextmanager
def room_taken(engine: Engine, scnet: ScnetSimulator, dag_id: str) -> Iterator[None]:
    """Let twenty gates pass whose submissions do not start, while thirty wait."""
    engine.trigger_dag(dag_id)
    engine.wait_until(lambda: passed(engine, dag_id) == ROOM, 240, "the passing of as many as there is room for")
    engine.wait_until(lambda: waits(engine, dag_id) == GATES - ROOM, 240, "the waiting of the others")
    yield
    end(engine, dag_id)


def test_a_triggerer_that_is_killed_with_claims_out_knows_them_when_it_is_back(
    engine: Engine, scnet: ScnetSimulator
):
    with room_taken(engine, scnet, "held_killed"):
        engine.kill("triggerer")
        before = len(scnet.requests)
        engine.start_component("triggerer")
        engine.wait_until(lambda: len(scnet.requests) > before + 3, 120, "looks of the new triggerer")
        assert passed(engine, "held_killed") == ROOM
        said = "".join(engine.log_of("held_killed", "group.gate", index) for index in range(GATES))
        assert re.search(
            rf"\+{ROOM} claimed: submit\[\d+\], submit\[\d+\] \(DAG 'held_killed', run '.+'\) "
            rf"and {ROOM - 2} more have not ended",
            said,
        )


@pytest.mark.skipif(AIRFLOW < (3, 0), reason="Airflow 2's triggers ask the database, which is in no server here")
def test_while_the_api_server_is_away_or_slow_gates_stay_as_shut_as_they_were(
    engine: Engine, scnet: ScnetSimulator
):
    with room_taken(engine, scnet, "held_away"):
        engine.kill("api-server")
        looks(engine, scnet, "held_away", 3)
        assert passed(engine, "held_away") == ROOM
        engine.start_component("api-server")
        looks(engine, scnet, "held_away", 3)
        assert passed(engine, "held_away") == ROOM
        servers = engine.processes("api-server")
        for process in servers:
            process.suspend()
        try:
            looks(engine, scnet, "held_away", 1)
        finally:
            for process in servers:
                process.resume()
        looks(engine, scnet, "held_away", 2)
        assert passed(engine, "held_away") == ROOM
        slots(engine, "held", 4)
        # All is well again: what has been submitted makes room.
        engine.wait_until(lambda: passed(engine, "held_away") > ROOM, 120, "more gates to pass")
        slots(engine, "held", 0)


def test_many_gates_of_one_run_share_one_room(engine: Engine, scnet: ScnetSimulator):
    scnet.set_counts("many", queued=99)
    engine.trigger_dag("many")
    engine.wait_until(lambda: waits(engine, "many") == MANY, 420, "the waiting of all gates")
    scnet.set_counts("many", queued=0)
    engine.wait_until(lambda: passed(engine, "many") >= ROOM, 240, "the passing of as many as there is room for")
    looks(engine, scnet, "many", 3)
    assert passed(engine, "many") == ROOM
    end(engine, "many")


def test_many_runs_of_one_gate_share_one_room(engine: Engine, scnet: ScnetSimulator):
    scnet.set_counts("runs", queued=99)
    engine.airflow("dags", "unpause", "runs")
    engine.wait_until(lambda: waits(engine, "runs") == RUNS, 420, "the waiting of all gates")
    scnet.set_counts("runs", queued=0)
    engine.wait_until(lambda: passed(engine, "runs") >= ROOM, 240, "the passing of as many as there is room for")
    looks(engine, scnet, "runs", 3)
    assert passed(engine, "runs") == ROOM
    end(engine, "runs")

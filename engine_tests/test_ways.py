# SPDX-License-Identifier: Apache-2.0
"""Which way a gate goes through a real Airflow: with no worker at all where nothing is lost by it."""

from __future__ import annotations

import pytest

from airflow_provider_scnet.testing import Fault, ScnetSimulator
from demo.engine import Engine
from engine_tests.conftest import AIRFLOW

IS_3_3 = AIRFLOW >= (3, 3)

#: The ways: how a gate starts and how it ends.
NO_WORKER = "no worker"
STARTS_ON_WORKER = "starts on a worker"
WORKER = "starts and ends on a worker"

#: Each row of the table in docs/en/compatibility.md: the gate's arguments, and the way it goes on Airflow 3.3.
ROWS: dict[str, tuple[str, str]] = {
    "plain": ("", NO_WORKER),
    "guarded": ("fail_when='held > 99', user_name='alice', submits=1", NO_WORKER),
    "of_a_queue": ("queue_name='comp'", NO_WORKER),
    "of_clusters": ("scnet_conn_id=['scnet_default', 'nowhere']", NO_WORKER),
    "of_templates": ("scnet_conn_id=['{{ \"scnet_default\" }}', 'nowhere']", STARTS_ON_WORKER),
    "failure_callback": ("on_failure_callback=print, retries=2", NO_WORKER),
    "template": ("user_name='{{ \"alice\" }}'", STARTS_ON_WORKER),
    "no_xcom": ("do_xcom_push=False", STARTS_ON_WORKER),
    "execute_callback": ("on_execute_callback=lambda context: None", STARTS_ON_WORKER),
    "pool": ("pool='few'", STARTS_ON_WORKER),
    "limited": ("max_active_tis_per_dag=4", STARTS_ON_WORKER),
    "limited_in_a_run": ("max_active_tis_per_dagrun=4", STARTS_ON_WORKER),
    "hurried": ("execution_timeout=timedelta(seconds=60)", STARTS_ON_WORKER),
    "unhurried": ("execution_timeout=timedelta(seconds=600)", NO_WORKER),
    "own_field": ("sensor=WithAField, message='m'", NO_WORKER),
    "pre_execute": ("pre_execute=lambda context: None", STARTS_ON_WORKER),
    "prepared": ("sensor=Prepared", STARTS_ON_WORKER),
    "use_worker": ("use_worker=True", WORKER),
    "outlets": ("outlets=[ASSET]", WORKER),
    "inlets": ("inlets=[ASSET]", WORKER),
    "success_callback": ("on_success_callback=lambda context: None", WORKER),
    "post_execute": ("post_execute=lambda context, result=None: None", WORKER),
    "followed": ("sensor=Followed", WORKER),
    "output": ("", WORKER),
    "poke": ("deferrable=False", WORKER),
    "reschedule": ("deferrable=False, mode='reschedule'", WORKER),
}

GATES = "".join(
    f"    {name} = gate({name!r}, **{{'submits': 0, **dict({args})}})\n" for name, (args, _) in ROWS.items()
)

DAGS = {
    "ways": f"""
import json
from datetime import timedelta
try:
    from airflow.sdk import Asset
except ImportError:
    from airflow.datasets import Dataset as Asset
ASSET = Asset("scnet://room")

class Prepared(ScnetJobCountSensor):
    def pre_execute(self, context):
        print("prepared")

class WithAField(ScnetJobCountSensor):
    template_fields = (*ScnetJobCountSensor.template_fields, "message")

    def __init__(self, *, message, **kwargs):
        super().__init__(**kwargs)
        self.message = message

class Followed(ScnetJobCountSensor):
    def post_execute(self, context, result=None):
        print("followed")

with new("ways") as dag:
    @task
    def use(decision):
        assert decision["counts"]["queued"] == 0, decision

    @task_group
    def group(number):
        gate("inner", submits=0)

    @task
    def read(name, ti=None):
        decision = json.loads(ti.xcom_pull(task_ids=name, key="decision"))
        assert decision["counts"]["queued"] == 0, decision
        assert ti.xcom_pull(task_ids=name) in (None, decision)

{GATES}
    use(output.output)
    for gated in (plain, template, use_worker, output, poke, reschedule):
        gated >> read.override(task_id="read_" + gated.task_id)(gated.task_id)
    group.expand(number=[1, 2, 3])
    ScnetJobCountSensor.partial(task_id="mapped", poke_interval=2, submits=0).expand(
        condition=["queued < 5", "queued < 6"]
    )
""",
    "failing": """
        with new("failing") as dag:
            gate("for_good", fail_when="running == 77", retries=2)
            gate("soft", fail_when="running == 77", soft_fail=True)
            gate("for_good_worker", fail_when="running == 77", retries=2, use_worker=True)
            gate("soft_worker", fail_when="running == 77", soft_fail=True, use_worker=True)
            gate("soft_poke", fail_when="running == 77", soft_fail=True, deferrable=False)
            gate("too_long", condition="running == 78", timeout=8, retries=2)
            gate("too_long_soft", condition="running == 78", timeout=8, soft_fail=True)
            gate("too_long_never", condition="running == 78", timeout=8, never_fail=True)
            gate("too_long_worker", condition="running == 78", timeout=8, retries=2, use_worker=True)
            gate("too_long_soft_worker", condition="running == 78", timeout=8, soft_fail=True, use_worker=True)
            gate("too_long_soft_poke", condition="running == 78", timeout=8, soft_fail=True, deferrable=False)
            gate("never", fail_when="running == 77", never_fail=True)
            gate("never_worker", fail_when="running == 77", never_fail=True, use_worker=True)
            gate("never_poke", fail_when="running == 77", never_fail=True, deferrable=False)
    """,
    "hurried": """
        with new("hurried") as dag:
            from datetime import timedelta
            gate("waits", condition="running == 78", timeout=20, retries=0, execution_timeout=timedelta(seconds=6))
    """,
    "retried": """
        with new("retried") as dag:
            from datetime import timedelta
            again = dict(retries=3, retry_delay=timedelta(seconds=1), submits=0)
            gate("again", **again)
            gate("again_worker", use_worker=True, **again)
    """,
    "pooled": """
        with new("pooled") as dag:
            for number in range(4):
                gate(f"gate_{number}", pool="few", submits=0)
    """,
    "large": """
        try:
            from airflow.providers.standard.operators.empty import EmptyOperator
        except ImportError:
            from airflow.operators.empty import EmptyOperator
        for tasks in (100, 101):
            with new(f"tasks_{tasks}"):
                for number in range(tasks - 2):
                    EmptyOperator(task_id=f"empty_{number}")
                gate(f"gate_1_of_{tasks}", submits=0)
                gate(f"gate_2_of_{tasks}", submits=0)
    """,
    "on_worker": """
        with new("on_worker") as dag:
            gate("poke", deferrable=False, submits=0)
            gate("reschedule", deferrable=False, mode="reschedule", submits=0)
    """,
}


def ended(engine: Engine, dag_id: str) -> bool:
    return engine.run_state(dag_id) in ("success", "failed")


@pytest.fixture(scope="module")
def pool(engine: Engine) -> int:
    """A pool whose slots waiting gates hold too; how many there are."""
    engine.airflow("pools", "set", "few", "2", "a few", "--include-deferred")
    return 2


@pytest.fixture(scope="module")
def ways(engine: Engine, pool: int) -> Engine:
    engine.trigger_dag("ways")
    engine.wait_until(lambda: ended(engine, "ways"), 180, "the end of all gates")
    return engine


def decisions(engine: Engine, key: str, task_id: str) -> int:
    return len(engine.rows("SELECT 1 FROM xcom WHERE key = :key AND task_id = :task_id", key=key, task_id=task_id))


def worked(engine: Engine, task_id: str, map_index: int = -1) -> bool:
    """Tell whether a worker process ever ran the task: only a worker names itself."""
    rows = engine.rows(
        "SELECT pid FROM task_instance WHERE task_id = :task_id AND map_index = :map_index",
        task_id=task_id,
        map_index=map_index,
    )
    return rows[0].pid is not None


def test_every_gate_passes_whichever_way_it_goes(ways: Engine):
    assert set(ways.task_states("ways").values()) == {"success"}


@pytest.mark.parametrize(("name", "way"), [(name, way) for name, (_, way) in ROWS.items()], ids=list(ROWS))
def test_a_gate_goes_the_way_that_loses_nothing(ways: Engine, name: str, way: str):
    started_on_worker = way != NO_WORKER or not IS_3_3
    assert worked(ways, name) is started_on_worker
    if name != "no_xcom":
        assert decisions(ways, "return_value", name) == (way == WORKER)
        assert decisions(ways, "decision", name) == 1
    else:
        assert decisions(ways, "decision", name) == decisions(ways, "return_value", name) == 0


@pytest.mark.parametrize("map_index", [0, 1])
def test_a_mapped_gate_starts_on_a_worker_and_ends_in_the_triggerer(ways: Engine, map_index: int):
    assert worked(ways, "mapped", map_index)
    assert decisions(ways, "decision", "mapped") == 2


@pytest.mark.parametrize("map_index", [0, 1, 2])
def test_a_gate_in_a_mapped_group_needs_no_worker(ways: Engine, map_index: int):
    assert worked(ways, "group.inner", map_index) is not IS_3_3


def test_gates_of_a_dag_with_more_than_a_hundred_tasks_start_on_workers(engine: Engine):
    for tasks in (100, 101):
        engine.trigger_dag(f"tasks_{tasks}")
        engine.wait_until(lambda tasks=tasks: ended(engine, f"tasks_{tasks}"), 120, "the end of all tasks")
        assert set(engine.task_states(f"tasks_{tasks}").values()) == {"success"}
        for number in (1, 2):
            assert worked(engine, f"gate_{number}_of_{tasks}") is (tasks > 100 or not IS_3_3)


def test_gates_hold_no_more_slots_of_their_pool_than_there_are(engine: Engine, pool: int, scnet: ScnetSimulator):
    scnet.set_counts("alice", queued=99)
    engine.trigger_dag("pooled")

    def waiting() -> int:
        return list(engine.task_states("pooled").values()).count("deferred")

    engine.wait_until(lambda: waiting() >= pool, 120, "the waiting of as many gates as there are slots")
    before = len(scnet.requests)
    engine.wait_until(lambda: len(scnet.requests) > before + 2, 60, "further looks")
    assert sorted(map(str, engine.task_states("pooled").values())) == ["deferred"] * pool + ["scheduled"] * 2
    scnet.set_counts("alice", queued=None)
    engine.wait_until(lambda: ended(engine, "pooled"), 120, "the passing of all gates")
    assert set(engine.task_states("pooled").values()) == {"success"}


def test_without_deferring_a_gate_waits_on_a_worker(engine: Engine, scnet: ScnetSimulator):
    scnet.set_counts("alice", queued=99)
    engine.trigger_dag("on_worker")
    seen = set()

    def wait() -> bool:
        seen.update(engine.task_states("on_worker").items())
        waits = {(("poke", -1), "running"), (("reschedule", -1), "up_for_reschedule")}
        logs = [engine.log_of("on_worker", task) for task in ("poke", "reschedule")]
        return waits <= seen and all("needs queued < 5" in log for log in logs)

    engine.wait_until(wait, 120, "the waiting of both gates")
    scnet.set_counts("alice", queued=None)
    engine.wait_until(lambda: ended(engine, "on_worker"), 120, "the passing of both gates")
    assert set(engine.task_states("on_worker").values()) == {"success"}
    assert "deferred" not in {state for _, state in seen}


def test_the_decision_is_there_for_people(ways: Engine):
    (row,) = ways.rows("SELECT value FROM xcom WHERE key = 'decision' AND task_id = 'plain'")
    # Text, bytes or a dict: each version keeps it in another way.
    assert "queued < 5" in str(row.value)


def test_what_fails_for_good_is_not_retried_and_soft_fail_skips(engine: Engine, scnet: ScnetSimulator):
    scnet.set_counts("alice", running=77)
    engine.trigger_dag("failing")
    engine.wait_until(lambda: ended(engine, "failing"), 180, "the end of all gates")
    scnet.set_counts("alice", running=None)
    assert {task: state for (task, _), state in engine.task_states("failing").items()} == {
        "for_good": "failed",
        "soft": "skipped",
        "for_good_worker": "failed",
        "soft_worker": "skipped",
        "soft_poke": "skipped",
        "too_long": "failed",
        "too_long_soft": "skipped",
        "too_long_never": "skipped",
        "too_long_worker": "failed",
        "too_long_soft_worker": "skipped",
        "too_long_soft_poke": "skipped",
        "never": "skipped",
        "never_worker": "skipped",
        "never_poke": "skipped",
    }
    tries = {
        row.task_id: row.try_number for row in engine.rows("SELECT * FROM task_instance WHERE dag_id = 'failing'")
    }
    assert set(tries.values()) == {1}
    assert "fail_when running == 77 holds (running 77)" in engine.log_of("failing", "for_good")
    assert "waiting, needs running == 78" in engine.log_of("failing", "too_long")


def test_an_execution_timeout_is_no_timeout_of_the_gates(engine: Engine, scnet: ScnetSimulator):
    engine.trigger_dag("hurried")
    engine.wait_until(lambda: ended(engine, "hurried"), 120, "the end of the gate's time")
    said = engine.log_of("hurried", "waits")
    # Without what was seen last where Airflow's scheduler notices the time before the triggerer does.
    assert ("the gate's timeout of 20 s is over" if AIRFLOW >= (3, 0) else "AirflowTaskTimeout") in said
    assert "waiting, needs running == 78" in said


def test_a_try_that_fails_is_retried_and_passes_when_the_cause_is_gone(engine: Engine, scnet: ScnetSimulator):
    scnet.order(Fault.api("10008", "auth_fail"), times=None)
    engine.trigger_dag("retried")

    def tries() -> dict[str, int]:
        rows = engine.rows("SELECT task_id, try_number FROM task_instance WHERE dag_id = 'retried'")
        return {row.task_id: row.try_number for row in rows}

    engine.wait_until(lambda: min(tries().values(), default=0) >= 2, 120, "a second try of both gates")
    scnet.clear_faults()
    engine.wait_until(lambda: ended(engine, "retried"), 120, "the end of both gates")
    assert set(engine.task_states("retried").values()) == {"success"}

# SPDX-License-Identifier: Apache-2.0
"""
Submissions that Airflow does not start: they shut no account for ever, and what comes of them keeps the limit.

All DAGs run in one engine, each with an account of its own and a queue of the cluster for it.
"""

from __future__ import annotations

import contextlib
import re
import textwrap
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path

import psutil
import pytest
from sqlalchemy.exc import OperationalError

from airflow_provider_scnet.testing import ScnetSimulator
from benchmarks import queues
from demo.engine import Engine
from engine_tests.conftest import AIRFLOW, engine_for

#: Jobs that may be queued at once: "queued < 3".
ROOM = 3
#: DAGs that are paused, or whose file is removed, while their gates wait.
STALLED = ("paused_runs", "paused_group", "removed")
GATES = 5
STALLED_TTL = 10
#: Submissions that start one after another, in a pool of one slot, in three times the ttl of their claims.
ONE_BY_ONE, EACH_TAKES, ONE_BY_ONE_TTL = 7, 8, 18
# Before 3.3 each gate starts on a worker, which takes a processor for a second.
PAST_RUNS = 60 if AIRFLOW >= (3, 3) else 20

#: DAGs by their names, and how many jobs of each run at once.
SLOTS = {
    "crossed": 1,
    **dict.fromkeys(STALLED, 1),
    "pool": 2,
    "one_by_one": 20,
    "past": 1,
    "active": 1,
    "backfill": 4,
    "report": 1,
}

HEAD = f"""
import json, os, time
from datetime import timedelta
from pathlib import Path
from urllib.request import Request, urlopen

def job(user, after=0, **given):
    @task(task_id="submit", **given)
    def submit():
        time.sleep(after)
        job = json.dumps({{"user": user, "queue": user}}).encode()
        with urlopen(Request(os.environ["SCNET_SIMULATOR_URL"] + "/simulator/jobs", job), timeout=30) as answer:
            return json.load(answer)["ids"]
    return submit

@task
def ordered(name):
    while not Path(os.environ["SCNET_TEST_ORDERS"], name).exists():
        time.sleep(0.1)

def gated(user, condition="queued < {ROOM}", submit=None, **given):
    gate(condition=condition, scnet_conn_id=f"scnet_{{user}}", **given) >> (submit or job(user))()

def once(dag_id, **given):
    return DAG(dag_id, schedule="@once", start_date=datetime(2024, 1, 1), is_paused_upon_creation=True, **given)

def runs(dag_id, number, **given):
    start = datetime(2024, 1, 1)
    return DAG(dag_id, schedule="@hourly", start_date=start, end_date=start + timedelta(hours=number - 1),
               catchup=True, is_paused_upon_creation=True, max_active_runs=number, **given)
"""

DAGS = {
    # What the first submission waits for is kept shut by its own claim.
    "crossed": """
        given = dict(scnet_conn_id="scnet_crossed", condition="queued < 1")
        with once("crossed"):
            static = job("crossed").override(task_id="static")()
            relax = job("crossed").override(task_id="relax")()
            ordered("crossed") >> gate("gate1", **given) >> relax >> static
            gate("gate2", **given) >> static
    """,
    **{
        name: f"""
            with runs({name!r}, {GATES}):
                gated({name!r}, claim_ttl={STALLED_TTL})
        """
        for name in STALLED
    },
    "paused_group": f"""
        with once("paused_group"):
            @task_group
            def group(number):
                gated("paused_group", claim_ttl={STALLED_TTL})
            group.expand(number=list(range({GATES})))
    """,
    "beside": f"""
        for name in {STALLED!r}:
            with once(f"beside_{{name}}"):
                gated(name)
    """,
    "pool": """
        with once("pool"):
            @task_group
            def group(number):
                gated("pool", "queued < 2", job("pool", pool="shared"), claim_ttl=5, pool="shared")
            group.expand(number=list(range(6)))
    """,
    "one_by_one": f"""
        with once("one_by_one"):
            @task_group
            def group(number):
                submit = job("one_by_one", after={EACH_TAKES}, pool="one")
                gated("one_by_one", submit=submit, claim_ttl={ONE_BY_ONE_TTL})
            group.expand(number=list(range({ONE_BY_ONE})))
    """,
    # The first run and the last come to their gates when those between have opened.
    "past": """
        with runs("past", 4):
            @task
            def prepare(data_interval_start=None):
                while data_interval_start.hour in (0, 3):
                    if Path(os.environ["SCNET_TEST_ORDERS"], "past").exists():
                        break
                    time.sleep(0.1)
            prepare() >> gate(condition="queued < 2", scnet_conn_id="scnet_past", claim_ttl=10) >> (
                job("past", depends_on_past=True)()
            )
    """,
    "active": f"""
        with once("active", max_active_tasks=2):
            first = ordered.override(task_id="first")("active first")
            first >> [ordered.override(task_id=f"other_{{number}}")("active") for number in "12"]
            @task_group
            def group(number):
                gated("active")
            group.expand(number=list(range({GATES})))
    """,
    # Its latest run is made when it is unpaused, the others by a backfill.
    "backfill": """
        with DAG("backfill", schedule="@daily", start_date=datetime(2024, 1, 1), catchup=False,
                 is_paused_upon_creation=True):
            gated("backfill")
    """,
    "report": """
        with once("report"):
            @task
            def report(counts): ...
            wait_for_room = gate(condition="queued < 1", scnet_conn_id="scnet_report")
            wait_for_job = gate("wait_for_job", condition="running == 99", submits=0, scnet_conn_id="scnet_report")
            wait_for_room >> job("report")() >> wait_for_job >> report(wait_for_room.output)
        with once("beside_report"):
            gate(condition="queued < 1", scnet_conn_id="scnet_report", submits=0)
    """,
}

ENV = {
    # Tasks that wait for orders or in turn.
    "AIRFLOW__CORE__PARALLELISM": "16",
    "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "10",
    "AIRFLOW__SCHEDULER__DAG_DIR_LIST_INTERVAL": "10",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("dags")


@pytest.fixture(scope="module")
def orders(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("orders")


@pytest.fixture(scope="module")
def scnet() -> Iterator[ScnetSimulator]:
    with ScnetSimulator(run_for=2, counted_after=1) as simulator:
        for name, slots in SLOTS.items():
            simulator.add_user(name)
            simulator.add_queue(name, slots=slots)
        simulator.add_user("alice")
        yield simulator


@pytest.fixture(scope="module")
def engine(scnet: ScnetSimulator, folder: Path, orders: Path) -> Iterator[Engine]:
    """An engine in which all DAGs go on at once, from when there is room for them."""
    env = ENV | {"SCNET_TEST_ORDERS": str(orders)}
    env |= {f"AIRFLOW_CONN_SCNET_{name.upper()}": scnet.connection_json(name) for name in SLOTS}
    for name in (*STALLED, "active", "backfill"):
        shut(scnet, name)
    dags = {name: HEAD + textwrap.dedent(source) for name, source in DAGS.items()}
    with engine_for(scnet, folder, dags, env) as running:
        running.airflow("pools", "set", "shared", "3", "gates and submissions", "--include-deferred")
        running.airflow("pools", "set", "one", "1", "one after another")
        unpause(running, "backfill")
        if AIRFLOW >= (3, 0):
            backfill(running)
            make_room(scnet, "backfill")
        unpause(running, *SLOTS)
        yield running


def backfill(engine: Engine) -> None:
    """Let the daily run's gate wait, then create past runs."""
    wait_for(engine, "backfill", "gate", "deferred", 1)
    first = datetime(2024, 1, 1)
    last = first + timedelta(days=PAST_RUNS - 1)
    with standstill(engine):
        engine.airflow(
            *("backfill", "create", "--dag-id", "backfill", "--max-active-runs", str(PAST_RUNS)),
            *("--from-date", f"{first:%Y-%m-%d}", "--to-date", f"{last:%Y-%m-%d}"),
        )
    # Airflow looks at twenty runs at a time, of a backfill always at the first ones that have not ended.
    wait_for(engine, "backfill", "gate", "deferred", 15)


@contextlib.contextmanager
def standstill(engine: Engine) -> Iterator[None]:
    """Let nobody write to the database: what reads and then writes, SQLite refuses where others wrote meanwhile."""
    writers = [each for name in ("scheduler", "triggerer", "dag-processor") for each in engine.processes(name)]

    def tell_all(what: Callable[[psutil.Process], None]) -> None:
        for process in writers:
            with contextlib.suppress(psutil.NoSuchProcess):
                what(process)

    def nobody_writes() -> bool:
        tell_all(psutil.Process.suspend)
        try:
            engine.execute("UPDATE dag SET is_paused = is_paused WHERE dag_id = 'backfill'")
        except OperationalError:
            tell_all(psutil.Process.resume)
            return False
        return True

    engine.wait_until(nobody_writes, 120, "a moment at which nobody writes")
    try:
        yield
    finally:
        tell_all(psutil.Process.resume)


def unpause(engine: Engine, *dag_ids: str) -> None:
    """Unpause DAGs, as Airflow's pages do, as soon as their files have been parsed."""
    parsed = "SELECT dag_id FROM serialized_dag"
    engine.wait_until(
        lambda: {row.dag_id for row in engine.rows(parsed)}.issuperset(dag_ids), 120, "the parsing of all DAGs"
    )
    set_paused(engine, False, *dag_ids)


def set_paused(engine: Engine, paused: bool, *dag_ids: str) -> None:
    for dag_id in dag_ids:
        engine.execute("UPDATE dag SET is_paused = :paused WHERE dag_id = :dag_id", paused=paused, dag_id=dag_id)


def shut(scnet: ScnetSimulator, name: str) -> None:
    scnet.set_counts(name, queued=99)


def make_room(scnet: ScnetSimulator, name: str) -> None:
    scnet.set_counts(name, queued=None)


def states(engine: Engine, dag_id: str, task_id: str) -> list[str | None]:
    """Return the states of a task's instances, in all runs; ``gate`` in a group means ``group.gate``."""
    rows = engine.rows(
        "SELECT state FROM task_instance WHERE dag_id = :dag_id AND task_id IN (:task_id, :grouped)"
        " ORDER BY run_id, map_index",
        dag_id=dag_id,
        task_id=task_id,
        grouped=f"group.{task_id}",
    )
    return [row.state for row in rows]


def wait_for(engine: Engine, dag_id: str, task_id: str, state: str, number: int, timeout: float = 180) -> None:
    engine.wait_until(
        lambda: states(engine, dag_id, task_id).count(state) >= number,
        timeout,
        f"{number} instances of {dag_id}.{task_id} to be {state}",
    )


def looks(engine: Engine, scnet: ScnetSimulator, user: str, more: int = 3) -> None:
    before = len(scnet.requests_of(user))
    engine.wait_until(lambda: len(scnet.requests_of(user)) > before + more, 120, "further looks")


def said(engine: Engine, dag_id: str) -> str:
    """Return what all gates of a DAG have logged."""
    files = engine.home.glob(f"logs/dag_id={dag_id}/run_id=*/task_id=*gate*/**/attempt=*.log*")
    return "".join(file.read_text(errors="replace") for file in files)


def all_submit(
    engine: Engine, scnet: ScnetSimulator, name: str, jobs: int, most: int, timeout: float = 240
) -> None:
    """Wait until all submissions of a DAG have succeeded, and expect that none came on top of the limit."""
    wait_for(engine, name, "submit", "success", jobs, timeout)
    found = scnet.jobs(name)
    assert queues.over_admitted(found, most) == 0
    assert scnet.totals(name).highest_queued <= most


def test_a_gate_upstream_of_a_submission_is_not_shut_by_its_claim(
    engine: Engine, scnet: ScnetSimulator, orders: Path
):
    wait_for(engine, "crossed", "gate2", "success", 1)
    (orders / "crossed").touch()
    # Much sooner than its claim_ttl of 180 s would end.
    wait_for(engine, "crossed", "static", "success", 1, timeout=120)
    assert len(scnet.jobs("crossed")) == 2
    assert scnet.totals("crossed").highest_queued <= 1
    assert states(engine, "crossed", "gate1") == ["success"]


@pytest.fixture(scope="module")
def stalled(engine: Engine, scnet: ScnetSimulator, folder: Path) -> None:
    """Let gates open whose DAG is paused, or was removed, meanwhile; and then another DAG's gate come."""
    for name in STALLED:
        wait_for(engine, name, "gate", "deferred", GATES)
    set_paused(engine, True, "paused_runs", "paused_group")
    (folder / "removed.py").rename(folder / "removed.away")
    is_gone = "is_stale" if engine.airflow_3 else "NOT is_active"
    query = f"SELECT dag_id FROM dag WHERE dag_id = 'removed' AND {is_gone}"
    engine.wait_until(lambda: bool(engine.rows(query)), 120, "the removal of a DAG")
    for name in STALLED:
        make_room(scnet, name)
        wait_for(engine, name, "gate", "success", ROOM)


@pytest.mark.parametrize("name", STALLED)
def test_a_dag_that_does_not_submit_shuts_itself_and_nobody_else(
    engine: Engine, scnet: ScnetSimulator, folder: Path, stalled, name: str
):
    unpause(engine, f"beside_{name}")
    wait_for(engine, f"beside_{name}", "submit", "success", 1)
    log = said(engine, f"beside_{name}")
    assert re.search(
        rf"submit.* of DAG '{name}', run 'scheduled__.+' \(and {ROOM - 1} more\) does not start \(state: none\)",
        log,
    )
    assert "is the DAG paused, or was its file removed" in log
    # Longer than for all, the claims weigh on its own gates.
    looks(engine, scnet, name)
    assert states(engine, name, "gate").count("success") == ROOM
    assert set(states(engine, name, "submit")) == {None}
    if name == "removed":
        (folder / "removed.away").rename(folder / "removed.py")
    else:
        set_paused(engine, False, name)
    all_submit(engine, scnet, name, GATES, ROOM)
    assert len(scnet.jobs(name)) == GATES + 1


def test_gates_that_fill_the_pool_of_their_submissions_say_so_and_go_on(engine: Engine, scnet: ScnetSimulator):
    wait_for(engine, "pool", "submit", "success", 6, 240)
    assert "is its pool full (perhaps of gates, in a pool that includes deferred tasks)" in said(engine, "pool")


def test_a_claim_holds_while_submissions_start_one_after_another_in_a_full_pool(
    engine: Engine, scnet: ScnetSimulator
):
    wait_for(engine, "one_by_one", "submit", "success", ONE_BY_ONE, 240)
    rows = engine.rows("SELECT task_id, map_index, end_date FROM task_instance WHERE dag_id = 'one_by_one'")
    ends = {(row.task_id, row.map_index): str(row.end_date) for row in rows}
    assert len(scnet.jobs("one_by_one")) == ONE_BY_ONE
    for number in range(ONE_BY_ONE):
        opened = ends["group.gate", number]
        claims = sum(
            ends["group.gate", other] < opened < ends["group.submit", other] for other in range(ONE_BY_ONE)
        )
        assert claims < ROOM


def test_submissions_that_wait_for_an_earlier_run_let_its_gate_open(
    engine: Engine, scnet: ScnetSimulator, orders: Path
):
    wait_for(engine, "past", "gate", "success", 2)
    assert states(engine, "past", "gate") == [None, "success", "success", None]
    (orders / "past").touch()
    # The gate of the first run opens at once: the others' submissions wait for it.
    all_submit(engine, scnet, "past", 4, 2)


def test_submissions_behind_the_most_active_tasks_of_their_dag_are_claimed(
    engine: Engine, scnet: ScnetSimulator, orders: Path
):
    wait_for(engine, "active", "gate", "deferred", GATES)
    (orders / "active first").touch()
    for task_id in ("other_1", "other_2"):
        wait_for(engine, "active", task_id, "running", 1)
    make_room(scnet, "active")
    wait_for(engine, "active", "gate", "success", ROOM)
    looks(engine, scnet, "active")
    assert states(engine, "active", "gate").count("success") == ROOM
    assert states(engine, "active", "submit").count("scheduled") == ROOM
    (orders / "active").touch()
    all_submit(engine, scnet, "active", GATES, ROOM)


def test_a_claim_ends_with_its_submission_although_a_reader_of_the_decision_still_waits(
    engine: Engine, scnet: ScnetSimulator
):
    wait_for(engine, "report", "wait_for_job", "deferred", 1)
    unpause(engine, "beside_report")
    # Much sooner than its claim_ttl of 180 s would end.
    wait_for(engine, "beside_report", "gate", "success", 1, 120)
    assert states(engine, "report", "wait_for_job") == ["deferred"]
    assert states(engine, "report", "report") == [None]


@pytest.mark.skipif(AIRFLOW < (3, 0), reason="Airflow 2 runs a backfill in the command itself")
def test_a_backfill_and_the_daily_run_share_one_room(engine: Engine, scnet: ScnetSimulator):
    all_submit(engine, scnet, "backfill", PAST_RUNS + 1, ROOM, 400)

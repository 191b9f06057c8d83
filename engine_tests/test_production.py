# SPDX-License-Identifier: Apache-2.0
"""
Gates on production's parts: PostgreSQL, Redis, CeleryExecutor, two schedulers, two triggerers.

Each part is killed while gates wait, and a triggerer while claims are out; what ends is started again.
"""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import pytest
from conftest import write_dags

from airflow_provider_scnet.testing import ScnetSimulator
from benchmarks import queues
from demo.production import Production
from demo.servers import PostgreSQL, Redis

# Airflow's drivers for them are pinned for the main version only.
pytest.importorskip("psycopg2")
pytest.importorskip("airflow.providers.celery")
if shutil.which("redis-server") is None:
    pytest.skip("Debian's package redis-server is not installed", allow_module_level=True)

#: Gates that only watch, on an account of their own, half of them in each triggerer; and gates with a submission.
WATCHERS = int(os.environ.get("SCNET_TEST_WATCHERS", "200"))
SUBMISSIONS = 30
ROOM = 5
INTERVAL = 5
#: Seconds for which a server is away.
AWAY = 10
MAPPED = "scnet_gate_mapped"
EXAMPLE = Path(__file__).parent.parent / "example_dags" / f"{MAPPED}.py"

DAGS = {
    "watch": f"""
        with new("watch") as dag:
            @task_group
            def group(number):
                gate(
                    submits=0, condition="queued < 1", scnet_conn_id="scnet_watched", poke_interval={INTERVAL},
                    timeout=3600,
                )
            group.expand(number=list(range({WATCHERS})))
    """
}


@pytest.fixture(scope="module")
def scnet() -> Iterator[ScnetSimulator]:
    with ScnetSimulator(slots=4, run_for=8, counted_after=2) as simulator:
        for name in ("alice", "watched"):
            simulator.add_user(name)
        simulator.set_counts("watched", queued=1)
        yield simulator


@pytest.fixture(scope="module")
def redis() -> Iterator[Redis]:
    with Redis() as server:
        yield server


@pytest.fixture(scope="module")
def postgresql() -> Iterator[PostgreSQL]:
    with PostgreSQL() as server:
        yield server


@pytest.fixture(scope="module")
def engine(scnet: ScnetSimulator, postgresql: PostgreSQL, redis: Redis, tmp_path_factory) -> Iterator[Production]:
    """Let all gates that only watch wait."""
    dags = tmp_path_factory.mktemp("dags")
    write_dags(dags, DAGS)
    shutil.copy(EXAMPLE, dags)
    env = {
        "AIRFLOW_CONN_SCNET_DEFAULT": scnet.connection_json("alice"),
        "AIRFLOW_CONN_SCNET_WATCHED": scnet.connection_json("watched"),
        "SCNET_SIMULATOR_URL": scnet.url,
        "SCNET_POKE_INTERVAL": str(INTERVAL),
        # Seconds after which a part that was killed is missed. 30, the default, would only be waited for.
        "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "15",
        "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "15",
    }
    # Neither triggerer has room for all gates that watch, or the first one to be back might take them all.
    capacity = ("--capacity", str((WATCHERS + SUBMISSIONS) // 2 + 5))
    with Production(dags, env, postgresql.url, redis.url, [capacity, capacity]) as running:
        running.trigger_dag("watch")
        running.wait_until(lambda: all_wait(running), 240, "the waiting of all gates")
        yield running


def watchers(engine: Production) -> Counter[str | None]:
    return Counter(state for (task_id, _), state in engine.task_states("watch").items() if task_id == "group.gate")


def all_wait(engine: Production) -> bool:
    return watchers(engine) == {"deferred": WATCHERS}


def looks(engine: Production, scnet: ScnetSimulator, more: int) -> None:
    def made() -> int:
        return sum(request.query.get("userName") == "watched" for request in list(scnet.requests))

    before = made()
    engine.wait_until(lambda: made() >= before + more, 120, "further looks")


def triggerers_of(engine: Production) -> set[int]:
    rows = engine.rows("SELECT DISTINCT triggerer_id AS id FROM trigger WHERE triggerer_id IS NOT NULL")
    return {row.id for row in rows}


def test_both_triggerers_have_gates(engine: Production):
    engine.wait_until(lambda: len(triggerers_of(engine)) == 2, 120, "the gates to be given out to both")


@pytest.mark.parametrize("part", ["triggerer", "scheduler", "api-server", "worker", "dag-processor"])
def test_gates_wait_on_while_a_part_is_killed(engine: Production, scnet: ScnetSimulator, part: str):
    engine.kill(part)
    since = datetime.now(timezone.utc)
    engine.wait_until(lambda: engine.is_up(since), 180, "all parts to be back")
    assert part in engine.revived
    looks(engine, scnet, 2)
    assert all_wait(engine)


def test_gates_wait_on_while_redis_is_away(engine: Production, scnet: ScnetSimulator, redis: Redis):
    redis.stop()
    # No less than the interval twice.
    looks(engine, scnet, AWAY // INTERVAL + 1)
    redis.start()
    looks(engine, scnet, 2)
    assert all_wait(engine)


def test_gates_wait_on_while_postgresql_is_away(engine: Production, scnet: ScnetSimulator, postgresql: PostgreSQL):
    postgresql.stop()
    back_at = time.monotonic() + AWAY
    engine.wait_until(lambda: time.monotonic() >= back_at, 2 * AWAY, "the end of the outage")
    postgresql.start()
    since = datetime.now(timezone.utc)
    engine.wait_until(lambda: engine.is_up(since), 240, "all parts to be back")
    engine.wait_until(lambda: len(triggerers_of(engine)) == 2, 120, "the gates to be given out again")
    looks(engine, scnet, 2)
    assert all_wait(engine)


def test_admission_keeps_its_limit_with_a_triggerer_killed_while_claims_are_out(
    engine: Production, scnet: ScnetSimulator
):
    def passed() -> int:
        states = engine.task_states(MAPPED).items()
        return sum(task_id.endswith("wait_for_room") and state == "success" for (task_id, _), state in states)

    engine.trigger_dag(MAPPED, {"inputs": SUBMISSIONS})
    engine.wait_until(lambda: passed() >= SUBMISSIONS // 3, 240, "the passing of some gates")
    engine.kill("triggerer")
    engine.wait_until(lambda: engine.run_state(MAPPED) in ("success", "failed"), 300, "the end of the run")
    assert engine.run_state(MAPPED) == "success"
    jobs = scnet.jobs("alice")
    assert len(jobs) == SUBMISSIONS
    # At most as many as two triggerers give out that decide in the same second, in a run that one of them has
    # only just taken over.
    assert queues.over_admitted(jobs, ROOM) <= 2


def test_all_gates_pass_once_there_is_room_and_none_was_lost(engine: Production, scnet: ScnetSimulator):
    scnet.set_counts("watched", queued=0)
    engine.wait_until(lambda: watchers(engine)["success"] == WATCHERS, 180, "the passing of all gates")
    engine.wait_until(lambda: engine.run_state("watch") == "success", 120, "the end of the run")

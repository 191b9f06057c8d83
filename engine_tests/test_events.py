# SPDX-License-Identifier: Apache-2.0
"""DAGs that a watcher starts: one run a rise, whatever happens to the triggerer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_scnet.testing import ScnetSimulator
from demo.engine import Engine
from engine_tests.conftest import AIRFLOW, engine_for

pytestmark = pytest.mark.skipif(AIRFLOW < (3, 0), reason="Airflow 2 has no watchers of assets")

HEAD = """
    from airflow.sdk import Asset, AssetWatcher
    from airflow_provider_scnet.triggers.scnet import ScnetJobCountEventTrigger

    def room(name, **given):
        watcher = ScnetJobCountEventTrigger(**{"poke_interval": 1, **given})
        return Asset(name, watchers=[AssetWatcher(name="queue", trigger=watcher)])
"""

RISES = (
    HEAD
    + """
    with DAG("rises", schedule=[room("room", condition="queued < 5")], start_date=datetime(2024, 1, 1)) as dag:
        @task
        def seen(triggering_asset_events=None):
            return [event.extra["payload"] for events in triggering_asset_events.values() for event in events]
        seen()
"""
)
WRONG = (
    HEAD
    + """
    with DAG("wrong", schedule=[room("wrong", condition="pending < 5")], start_date=datetime(2024, 1, 1)) as dag:
        @task
        def nothing(): ...
        nothing()
"""
)
DAGS = {"rises": RISES, "wrong": WRONG}

# Seconds after which a triggerer that was killed is missed. 30, the default, would only be waited for.
ENV = {"AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "15"}


def runs(engine: Engine) -> list[str]:
    """Return the states of all runs."""
    return [row.state for row in engine.rows("SELECT state FROM dag_run WHERE dag_id = 'rises'")]


def payloads(engine: Engine) -> list[dict[str, Any]]:
    """Return what the watcher handed to each run, in their order."""
    found = []
    for row in engine.rows("SELECT value FROM xcom WHERE dag_id = 'rises' ORDER BY timestamp"):
        value = row.value
        while isinstance(value, (str, bytes)):
            value = json.loads(value)
        (payload,) = value
        found.append(payload)
    return found


def said(engine: Engine, text: str) -> int:
    """Return how often watchers have said something."""
    triggerers = [name for name in engine.commands if name.startswith("triggerer")]
    return sum(
        text in line
        for name in triggerers
        for line in engine.log(name).splitlines()
        if "watcher of 'queued < 5' (scnet_default)" in line
    )


def is_kept_as_armed(engine: Engine) -> bool:
    """Tell whether the asset's state store has it that the watcher is armed."""
    rows = engine.rows("SELECT value FROM asset_state_store WHERE key LIKE 'scnet-watcher-%'")
    return [json.loads(row.value)["armed"] for row in rows] == [True]


def looks(engine: Engine, scnet: ScnetSimulator, more: int = 5) -> None:
    """Wait for some looks that begin from now on, and for what the watcher makes of all but the last one."""
    before = len(scnet.requests)
    engine.wait_until(lambda: len(scnet.requests) > before + more, 90, "more looks")


def fall(engine: Engine, scnet: ScnetSimulator) -> None:
    """Let the queue become long, and the watcher see it."""
    before = said(engine, "armed, needs queued < 5")
    scnet.set_counts("alice", queued=9)
    engine.wait_until(lambda: said(engine, "armed, needs queued < 5") > before, 90, "the watcher to be armed")
    if AIRFLOW >= (3, 3):
        engine.wait_until(lambda: is_kept_as_armed(engine), 30, "the state store")


def has_run(engine: Engine, scnet: ScnetSimulator, times: int) -> None:
    """Wait until the DAG has run so often, and see that it does not run more often."""
    engine.wait_until(lambda: runs(engine) == ["success"] * times, 120, f"{times} runs")
    looks(engine, scnet)
    assert len(runs(engine)) == times


def test_three_rises_and_a_triggerer_that_is_killed_twice_start_three_runs(engine: Engine, scnet: ScnetSimulator):
    # The queue is short at the first look already.
    engine.wait_until(lambda: bool(said(engine, "holds already")), 120, "the first look")
    looks(engine, scnet)
    assert runs(engine) == []

    fall(engine, scnet)
    scnet.set_counts("alice", queued=2)
    has_run(engine, scnet, 1)

    fall(engine, scnet)
    engine.kill("triggerer")
    if AIRFLOW < (3, 3):
        # It remembers nothing: its first look only arms it.
        before = said(engine, "armed, needs")
        engine.start_component("triggerer")
        engine.wait_until(lambda: said(engine, "armed, needs") > before, 120, "the new triggerer's first look")
        scnet.set_counts("alice", queued=3)
    else:
        # The queue becomes short while nobody looks.
        scnet.set_counts("alice", queued=3)
        engine.start_component("triggerer")
    has_run(engine, scnet, 2)

    # That it has fired it remembers, too, or sees that the condition holds already.
    before = said(engine, "holds already")
    engine.kill("triggerer")
    engine.start_component("triggerer")
    engine.wait_until(lambda: said(engine, "holds already") > before, 120, "the new triggerer's first look")
    has_run(engine, scnet, 2)

    fall(engine, scnet)
    scnet.set_counts("alice", queued=4)
    has_run(engine, scnet, 3)

    assert [payload["counts"]["queued"] for payload in payloads(engine)] == [2, 3, 4]
    for payload in payloads(engine):
        assert payload["condition"] == "queued < 5"
        assert payload["user_name"] == "alice"
        assert payload["scnet_conn_id"] == "scnet_default"
        assert payload["observed_at"].endswith("+00:00")


def test_a_condition_that_cannot_be_read_is_an_import_error_of_the_dag(engine: Engine):
    def errors() -> str:
        return "".join(row.stacktrace for row in engine.rows("SELECT stacktrace FROM import_error"))

    engine.wait_until(lambda: "unknown state 'pending' (did you mean 'queued'?)" in errors(), 60, "the error")
    assert len(engine.rows("SELECT id FROM import_error")) == 1


@pytest.mark.skipif(AIRFLOW < (3, 2), reason="before 3.2 each triggerer may take a watcher that another one has")
def test_with_two_triggerers_a_rise_starts_one_run(tmp_path: Path):
    with ScnetSimulator() as scnet:
        scnet.add_user("alice")
        scnet.set_counts("alice", queued=9)
        # Here nobody dies, and a busy machine may be late with a heartbeat: what is given to another by that fires
        # twice.
        patient = {"AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "120"}
        with engine_for(scnet, tmp_path, {"rises": RISES}, patient, triggerers=[(), ()]) as engine:
            engine.wait_until(lambda: bool(said(engine, "armed, needs")), 120, "the first look")
            scnet.set_counts("alice", queued=2)
            has_run(engine, scnet, 1)
            fall(engine, scnet)
            scnet.set_counts("alice", queued=3)
            has_run(engine, scnet, 2)


def test_the_example_starts_a_run_that_submits(tmp_path: Path):
    example = Path(__file__).parents[1] / "example_dags" / "scnet_room_appears.py"
    shutil.copy(example, tmp_path)
    with ScnetSimulator() as scnet:
        scnet.add_user("alice")
        scnet.set_counts("alice", queued=25)
        with engine_for(scnet, tmp_path, {}, {"SCNET_POKE_INTERVAL": "1"}) as engine:
            engine.wait_until(lambda: bool(said(engine, "armed, needs")), 120, "the first look")
            scnet.set_counts("alice", queued=2)
            engine.wait_until(lambda: engine.run_state(example.stem) == "success", 120, "the run")
            looks(engine, scnet)
            assert len(engine.rows("SELECT id FROM dag_run WHERE dag_id = :dag_id", dag_id=example.stem)) == 1
        assert scnet.totals("alice").submitted == 1

# SPDX-License-Identifier: Apache-2.0
"""Triggerers of a real Airflow contend for one turn as fast as they can: no two decide at once, no room twice."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest

from airflow_provider_scnet.testing import ScnetSimulator
from engine_tests.conftest import engine_for
from engine_tests.contending import ROOM

TRIGGERERS = 4

DAG = """
    from airflow.providers.common.compat.sdk import BaseOperator
    from engine_tests.contending import Contender

    class Contend(BaseOperator):
        def execute(self, context):
            self.defer(trigger=Contender(self.task_id, {triggerers}, {log!r}), method_name="done")

        def done(self, context, event=None):
            return event

    with new("contend"):
        for number in range({triggerers}):
            Contend(task_id=f"contender_{{number}}")
"""


@pytest.mark.timeout(600)
def test_triggerers_that_contend_for_the_turn_never_decide_at_once_and_fill_the_room_exactly(
    scnet: ScnetSimulator, tmp_path: Path
):
    log = tmp_path / "contention.jsonl"
    log.touch()
    dags = tmp_path / "dags"
    dags.mkdir()
    source = DAG.format(triggerers=TRIGGERERS, log=str(log))
    env = {"PYTHONPATH": str(Path(__file__).parents[1])}
    with engine_for(scnet, dags, {"contend": source}, env, [("--capacity", "1")] * TRIGGERERS) as engine:
        engine.trigger_dag("contend")
        engine.wait_until(lambda: engine.run_state("contend") in ("success", "failed"), 400)
        (row,) = engine.rows("SELECT key FROM variable WHERE key LIKE 'scnet_claims_%'")
        written = engine.airflow("variables", "get", row.key)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    sections = sorted((each for each in lines if "start" in each), key=lambda each: each["start"])
    assert len({each["pid"] for each in sections}) == TRIGGERERS
    assert [late for early, late in pairwise(sections) if late["start"] < early["end"]] == []
    assert sections[-1]["claimed"] == ROOM
    # What is written is what was opened, whoever did.
    found = json.loads(written[written.index('{"format"') :])
    assert sum(len(group["claims"]) for group in found["gates"]) == ROOM

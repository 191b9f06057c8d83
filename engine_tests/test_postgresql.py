# SPDX-License-Identifier: Apache-2.0
"""One whole run of admission with PostgreSQL as Airflow's metadata database, as in production."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_provider_scnet.testing import ScnetSimulator
from demo.engine import Engine
from demo.servers import PostgreSQL

# Airflow's driver for it; pinned for the main version only.
pytest.importorskip("psycopg2")

INPUTS = 12
EXAMPLES = Path(__file__).parent.parent / "example_dags"


@pytest.fixture(scope="module")
def database_url() -> Iterator[str]:
    with PostgreSQL() as server:
        yield server.url


def test_admission_keeps_the_limit_and_loses_no_submission(database_url: str):
    with ScnetSimulator(slots=4, run_for=8, counted_after=2) as scnet:
        scnet.add_user("alice")
        env = {
            "AIRFLOW_CONN_SCNET_DEFAULT": scnet.connection_json("alice"),
            "SCNET_SIMULATOR_URL": scnet.url,
            "SCNET_POKE_INTERVAL": "2",
        }
        with Engine(EXAMPLES, env, database_url) as engine:
            engine.trigger_dag("scnet_gate_mapped", {"inputs": INPUTS})
            engine.wait_until(
                lambda: engine.run_state("scnet_gate_mapped") in ("success", "failed"), 240, "the run"
            )
            assert engine.run_state("scnet_gate_mapped") == "success"
        totals = scnet.totals("alice")
    assert totals.submitted == INPUTS
    assert totals.highest_queued <= 5

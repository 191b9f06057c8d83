# SPDX-License-Identifier: Apache-2.0
"""One whole run of admission with PostgreSQL as Airflow's metadata database, as in production."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_provider_scnet.testing import ScnetSimulator
from demo.engine import Engine, free_port

# Airflow's driver for it; pinned for the main version only.
pytest.importorskip("psycopg2")

INPUTS = 12
EXAMPLES = Path(__file__).parent.parent / "example_dags"


def program(name: str) -> str:
    """Find a program of Debian's package, which keeps the server's out of the PATH."""
    for folder in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True):
        if (folder / name).exists():
            return str(folder / name)
    found = shutil.which(name)
    assert found, f"{name} is missing: install Debian's package postgresql"
    return found


@pytest.fixture(scope="module")
def database_url() -> Iterator[str]:
    folder = Path(tempfile.mkdtemp(prefix="scnet-postgresql-"))
    # PostgreSQL refuses to run as root; Debian's package brings a user for it.
    who = {"user": "postgres"} if os.geteuid() == 0 else {}
    if who:
        shutil.chown(folder, "postgres")
    port, data = free_port(), folder / "data"
    subprocess.run(
        [program("initdb"), "--pgdata", data, "--username", "airflow", "--auth", "trust", "--encoding", "UTF8"],
        check=True, capture_output=True, cwd=folder, **who,
    )  # fmt: skip
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
    control = [program("pg_ctl"), "--pgdata", str(data), "--wait"]
    subprocess.run([*control, "-l", str(folder / "log"), "-o", options, "start"], check=True, cwd=folder, **who)
    try:
        create = [
            program("createdb"),
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "--username",
            "airflow",
            "airflow",
        ]
        subprocess.run(create, check=True, capture_output=True)
        yield f"postgresql+psycopg2://airflow@127.0.0.1:{port}/airflow"
    finally:
        subprocess.run([*control, "-m", "immediate", "stop"], check=True, capture_output=True, cwd=folder, **who)
        shutil.rmtree(folder, ignore_errors=True)


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

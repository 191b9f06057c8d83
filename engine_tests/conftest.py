# SPDX-License-Identifier: Apache-2.0
"""A real Airflow (scheduler, triggerer, DAG processor, API server) for tests that the quick suite cannot do."""

from __future__ import annotations

import re
import socket
import textwrap
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import airflow
import pytest

from airflow_provider_scnet.testing import ScnetSimulator
from demo.engine import Engine

#: The minor version of Airflow, such as (3, 3).
AIRFLOW = tuple(int(part) for part in airflow.__version__.split(".")[:2])

#: How the metrics of the simulator's alice begin.
NAME = "airflow.scnet.scnet_default.alice."

HEAD = """\
from datetime import datetime
from airflow.providers.common.compat.sdk import DAG, task, task_group
from airflow_provider_scnet.sensors.scnet import ScnetJobCountSensor

def gate(task_id="gate", sensor=ScnetJobCountSensor, **given):
    return sensor(task_id=task_id, **{"condition": "queued < 5", "poke_interval": 2, "timeout": 600, **given})

def new(dag_id, **given):
    return DAG(dag_id, schedule=None, start_date=datetime(2024, 1, 1), catchup=False, **given)

"""


class StatsdListener:
    """Listens as StatsD does, and keeps what is about SCnet."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        #: What tells Airflow to send its metrics here.
        self.env = {
            "AIRFLOW__METRICS__STATSD_ON": "True",
            "AIRFLOW__METRICS__STATSD_HOST": "127.0.0.1",
            "AIRFLOW__METRICS__STATSD_PORT": str(self._socket.getsockname()[1]),
        }
        self.sent: list[str] = []
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        # Airflow sends much of its own.
        while packet := self._socket.recv(65536):
            self.sent += [line for line in packet.decode().splitlines() if ".scnet." in line]

    def close(self) -> None:
        self._socket.sendto(b"", self._socket.getsockname())
        self._thread.join()
        self._socket.close()

    def gauge(self, name: str) -> int | None:
        """Return what was sent last, of the gauges of alice."""
        values = [line for line in self.sent if line.startswith(f"{NAME}{name}:") and line.endswith("|g")]
        return int(values[-1].split(":")[1].split("|")[0]) if values else None

    def count(self, name: str) -> int:
        """Return the sum of what was sent, of the counters of alice."""
        found = [re.fullmatch(re.escape(NAME + name) + r":(\d+)\|c", line) for line in self.sent]
        return sum(int(match.group(1)) for match in found if match)


@pytest.fixture(scope="module")
def listener() -> Iterator[StatsdListener]:
    found = StatsdListener()
    yield found
    found.close()


@pytest.fixture(scope="module")
def scnet() -> Iterator[ScnetSimulator]:
    with ScnetSimulator() as simulator:
        simulator.add_user("alice")
        yield simulator


def write_dags(folder: Path, dags: Mapping[str, str]) -> None:
    """Write DAG files, each with the head above it."""
    for dag_id, source in dags.items():
        (folder / f"{dag_id}.py").write_text(HEAD + textwrap.dedent(source))


def engine_for(
    scnet: ScnetSimulator,
    folder: Path,
    dags: Mapping[str, str],
    env: Mapping[str, str] | None = None,
    triggerers: Sequence[Sequence[str]] = ((),),
) -> Engine:
    """Return an engine, not yet started, with these DAGs and a connection to the cluster."""
    write_dags(folder, dags)
    known = {"AIRFLOW_CONN_SCNET_DEFAULT": scnet.connection_json("alice"), "SCNET_SIMULATOR_URL": scnet.url}
    return Engine(folder, known | dict(env or {}), triggerers=triggerers)


@pytest.fixture(scope="module")
def engine(request: pytest.FixtureRequest, scnet: ScnetSimulator, tmp_path_factory) -> Iterator[Engine]:
    """The engine, with the DAGs that the module names in ``DAGS``, and the environment in ``ENV``, if any."""
    env = getattr(request.module, "ENV", None)
    with engine_for(scnet, tmp_path_factory.mktemp("dags"), request.module.DAGS, env) as running:
        yield running

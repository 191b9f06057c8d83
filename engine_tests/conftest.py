# SPDX-License-Identifier: Apache-2.0
"""A real Airflow (scheduler, triggerer, DAG processor, API server) for tests that the quick suite cannot do."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_provider_scnet.testing import ScnetSimulator
from demo.engine import Engine

HEAD = """\
from datetime import datetime
from airflow.providers.common.compat.sdk import DAG, task, task_group
from airflow_provider_scnet.sensors.scnet import ScnetJobStateSensor

def gate(task_id="gate", **given):
    return ScnetJobStateSensor(task_id=task_id, **{"condition": "queued < 5", "poke_interval": 2, "timeout": 600, **given})

def new(dag_id, **given):
    return DAG(dag_id, schedule=None, start_date=datetime(2024, 1, 1), catchup=False, **given)

"""


@pytest.fixture(scope="module")
def scnet() -> Iterator[ScnetSimulator]:
    with ScnetSimulator() as simulator:
        simulator.add_user("alice")
        yield simulator


@pytest.fixture(scope="module")
def engine(request: pytest.FixtureRequest, scnet: ScnetSimulator, tmp_path_factory) -> Iterator[Engine]:
    """The engine, with the DAGs that the module names in ``DAGS``."""
    dags = tmp_path_factory.mktemp("dags")
    for dag_id, source in request.module.DAGS.items():
        (dags / f"{dag_id}.py").write_text(HEAD + textwrap.dedent(source))
    env = {"AIRFLOW_CONN_SCNET_DEFAULT": scnet.connection_json("alice"), "SCNET_SIMULATOR_URL": scnet.url}
    with Engine(Path(dags), env) as running:
        yield running

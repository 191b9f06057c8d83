# SPDX-License-Identifier: Apache-2.0
"""An Airflow home of the tests' own, made before anything imports Airflow."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

_HOME = Path(tempfile.mkdtemp(prefix="scnet-tests-"))
for _name in [name for name in os.environ if name.startswith(("AIRFLOW", "SCNET"))]:
    del os.environ[_name]
for _name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
    os.environ.pop(_name, None)
os.environ.update(
    AIRFLOW_HOME=str(_HOME),
    AIRFLOW__CORE__DAGS_FOLDER=str(_HOME / "dags"),
    AIRFLOW__CORE__LOAD_EXAMPLES="False",
    AIRFLOW__CORE__UNIT_TEST_MODE="False",
    AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=f"sqlite:///{_HOME / 'airflow.db'}",
    # Airflow 3.2.2 runs dag.test() through an API of its own, which wants one.
    AIRFLOW__API_AUTH__JWT_SECRET="a secret of the tests, long enough for HS512: 0123456789abcdef0123456789abcdef",
    # Only what is asked for: no call home, no examples.
    AIRFLOW__USAGE_DATA_COLLECTION__ENABLED="False",
)

from airflow_provider_scnet.client import queue_counts  # noqa: E402
from airflow_provider_scnet.testing import ScnetSimulator  # noqa: E402

# From 3.1 on Airflow has two in one process, the core's and that of the tasks, which is the last.
_MASKERS = (
    "airflow.utils.log.secrets_masker",
    "airflow.sdk.execution_time.secrets_masker",
    "airflow._shared.secrets_masker",
    "airflow.sdk._shared.secrets_masker",
)

pytest_plugins = ["airflow_provider_scnet.testing.pytest_plugin"]


def pytest_sessionfinish() -> None:
    shutil.rmtree(_HOME, ignore_errors=True)


@pytest.fixture(autouse=True)
def masker(monkeypatch: pytest.MonkeyPatch) -> Any:
    """
    What Airflow masks secrets with; it forgets those of a test at its end.

    Airflow compiles all that it knows into one pattern whenever it learns of a new one. A process of its own
    knows a few; one that runs hundreds of tests, each with fresh tokens, would soon do nothing else.
    """
    for module in _MASKERS:
        with contextlib.suppress(ImportError):
            masker = importlib.import_module(module)._secrets_masker()
            monkeypatch.setattr(masker, "patterns", set(masker.patterns))
            monkeypatch.setattr(masker, "replacer", masker.replacer)
    return masker


@pytest.fixture(autouse=True)
def no_queue_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget which queues there are: this test's simulator may get the port of an earlier one's."""
    monkeypatch.setattr(queue_counts, "_known", {})


@pytest.fixture(scope="session")
def airflow_db() -> Path:
    """A metadata database, for what runs whole DAGs."""
    dags = _HOME / "dags"
    dags.mkdir(exist_ok=True)
    subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], check=True, capture_output=True)
    return dags


@pytest.fixture
def scnet(scnet_simulator: ScnetSimulator) -> ScnetSimulator:
    """A simulator with one user, alice, that the connection ``scnet_default`` points to."""
    return scnet_simulator


@pytest.fixture
def connect(scnet: ScnetSimulator, monkeypatch: pytest.MonkeyPatch):
    """Change the connection: extras by keyword."""

    def change(conn_id: str = "scnet_default", user: str = "alice", **extra: object) -> None:
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", scnet.connection_json(user, **extra))

    return change


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """What gates say: Airflow's own loggers print, and in each version in another way."""
    from airflow_provider_scnet.sensors.scnet import ScnetJobCountSensor
    from airflow_provider_scnet.triggers.scnet import ScnetJobCountEventTrigger, ScnetJobCountTrigger

    log = logging.getLogger("gate")
    for each in (ScnetJobCountSensor, ScnetJobCountTrigger, ScnetJobCountEventTrigger):
        monkeypatch.setattr(each, "log", log)
    caplog.set_level("DEBUG")
    return caplog

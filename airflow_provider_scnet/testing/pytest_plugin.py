# SPDX-License-Identifier: Apache-2.0
"""
Fixtures for tests of DAGs that wait for an SCnet cluster.

Opt in from a ``conftest.py``::

    pytest_plugins = ["airflow_provider_scnet.testing.pytest_plugin"]
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from airflow_provider_scnet.testing.simulator import ScnetSimulator


@pytest.fixture
def scnet_simulator(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScnetSimulator]:
    """Serve a simulator with the user ``alice``, and point the connection ``scnet_default`` at it."""
    with ScnetSimulator() as scnet:
        scnet.add_user("alice")
        monkeypatch.setenv("AIRFLOW_CONN_SCNET_DEFAULT", scnet.connection_json("alice"))
        yield scnet

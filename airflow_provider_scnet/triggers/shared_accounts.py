# SPDX-License-Identifier: Apache-2.0
"""What the running triggerer knows of its accounts, and how it asks Airflow and SCnet about them."""

from __future__ import annotations

from airflow_provider_scnet.polling.accounts import Accounts
from airflow_provider_scnet.triggers.airflow_stats import AirflowStats
from airflow_provider_scnet.triggers.task_states import AirflowTaskStates
from airflow_provider_scnet.triggers.variables import AirflowVariables


class RunningAirflow(AirflowTaskStates, AirflowVariables):
    """The Airflow around a trigger."""


def accounts() -> Accounts:
    """Return the accounts of the running event loop."""
    # Not before something waits: a DAG file that names a trigger is parsed again and again, and asks nobody.
    from airflow_provider_scnet.hooks.polled_connection import PolledConnection

    return Accounts.of_running_loop(PolledConnection, RunningAirflow(), AirflowStats())

# SPDX-License-Identifier: Apache-2.0
"""What Airflow discovers of this package."""

from __future__ import annotations

import copy
from typing import Any

from airflow_provider_scnet.connection_form import CONN_FIELDS, UI_FIELD_BEHAVIOUR

_HOOK = "airflow_provider_scnet.hooks.scnet"
_INTEGRATION = "SCnet"


def get_provider_info() -> dict[str, Any]:
    """Return the provider's metadata; one form for Airflow 2.11 to 3.3."""
    return {
        "package-name": "airflow-provider-scnet",
        "name": "SCnet",
        "description": "Gates on the load of an SCnet cluster (国家超算互联网), and jobs submitted to it.",
        "integrations": [
            {
                "integration-name": _INTEGRATION,
                "external-doc-url": "https://www.scnet.cn/",
                "tags": ["service"],
            }
        ],
        "hooks": [{"integration-name": _INTEGRATION, "python-modules": [_HOOK]}],
        "operators": [
            {"integration-name": _INTEGRATION, "python-modules": ["airflow_provider_scnet.operators.scnet"]}
        ],
        "sensors": [
            {"integration-name": _INTEGRATION, "python-modules": ["airflow_provider_scnet.sensors.scnet"]}
        ],
        "triggers": [
            {
                "integration-name": _INTEGRATION,
                "python-modules": ["airflow_provider_scnet.triggers.scnet", "airflow_provider_scnet.triggers.job"],
            }
        ],
        "connection-types": [
            {
                "hook-class-name": f"{_HOOK}.ScnetHook",
                "hook-name": "SCnet",
                "connection-type": "scnet",
                "ui-field-behaviour": copy.deepcopy(UI_FIELD_BEHAVIOUR),
                "conn-fields": copy.deepcopy(CONN_FIELDS),
            }
        ],
        "cli": ["airflow_provider_scnet.cli.definition.get_scnet_commands"],
    }

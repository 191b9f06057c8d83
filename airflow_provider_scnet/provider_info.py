# SPDX-License-Identifier: Apache-2.0
"""What Airflow discovers of this package; the connection form is described here and nowhere else."""

from __future__ import annotations

import copy
from typing import Any

#: Fields of the connection form that live in the connection's extra.
CONN_FIELDS: dict[str, dict[str, Any]] = {
    "timeout": {
        "label": "Timeout (seconds)",
        "description": "For connecting, between bytes, and for the whole answer. Empty: 10.",
        "schema": {"type": ["number", "null"]},
    },
    "verify": {
        "label": "Verify certificates",
        "description": "true, false, or the path of a file of authorities to trust. Empty: true.",
        "schema": {"type": ["string", "null"]},
    },
    "proxies": {
        "label": "Proxies",
        "description": 'A JSON object, e.g. {"https": "http://proxy:3128"}. Empty: as the environment says.',
        "schema": {"type": ["string", "null"]},
    },
    "allow_foreign_user": {
        "label": "Believe all zeros for another user",
        "description": (
            "Let a gate open when no job is reported for a user other than the token's own. "
            "SCnet may answer so for a user name that does not exist."
        ),
        "schema": {"type": ["boolean", "null"], "default": False},
    },
}

#: How the ordinary fields of the connection form are named for SCnet.
UI_FIELD_BEHAVIOUR: dict[str, Any] = {
    "hidden-fields": ["schema"],
    "relabeling": {
        "host": "HPC endpoint",
        "login": "Cluster user",
        "password": "Token",
    },
    "placeholders": {
        "host": "https://host:65051, as SCnet shows it for your region",
        "login": "the cluster user whose jobs are counted; empty: the token's own",
        "password": "the token of that region",
        "port": "if the endpoint does not hold it",
    },
}

_HOOK = "airflow_provider_scnet.hooks.scnet"
_INTEGRATION = "SCnet"


def get_provider_info() -> dict[str, Any]:
    """Return the provider's metadata; one form for Airflow 2.11 to 3.3."""
    return {
        "package-name": "airflow-provider-scnet",
        "name": "SCnet",
        "description": "Gates on the load of an SCnet cluster (国家超算互联网).",
        "integrations": [
            {
                "integration-name": _INTEGRATION,
                "external-doc-url": "https://www.scnet.cn/",
                "tags": ["service"],
            }
        ],
        "hooks": [{"integration-name": _INTEGRATION, "python-modules": [_HOOK]}],
        "sensors": [
            {"integration-name": _INTEGRATION, "python-modules": ["airflow_provider_scnet.sensors.scnet"]}
        ],
        "triggers": [
            {"integration-name": _INTEGRATION, "python-modules": ["airflow_provider_scnet.triggers.scnet"]}
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
    }

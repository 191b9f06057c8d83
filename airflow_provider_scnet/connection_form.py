# SPDX-License-Identifier: Apache-2.0
"""The form in which Airflow asks for a connection to SCnet; it is described here and nowhere else."""

from __future__ import annotations

from typing import Any

#: The connection that is used where nobody names another.
DEFAULT_CONN_ID = "scnet_default"

#: Fields of the connection form that live in the connection's extra.
CONN_FIELDS: dict[str, dict[str, Any]] = {
    "access_key": {
        "label": "Access key",
        "description": (
            "授权码 of www.scnet.cn, column Accesskey. Fill in this and the three below and leave Token empty, or "
            "fill in Token and leave all four empty. "
            "With an empty endpoint too the Test button needs a Port, e.g. 443, which is not used otherwise."
        ),
        "schema": {"type": ["string", "null"], "format": "password"},
    },
    "secret_key": {
        "label": "Secret key",
        "description": "Column Secretkey. It signs requests and is sent nowhere.",
        "schema": {"type": ["string", "null"], "format": "password"},
    },
    "cluster_id": {
        "label": "Cluster id",
        "description": "区域ID, your region's id, e.g. 11112. A wrong one shows which exist.",
        "schema": {"type": ["string", "null"]},
    },
    "platform_user": {
        "label": "Platform user",
        "description": "平台用户名, your user name at www.scnet.cn, which is not the cluster user.",
        "schema": {"type": ["string", "null"]},
    },
    "timeout": {
        "label": "Timeout (seconds)",
        "description": "For a whole request, from the look-up of the name to the end of the answer. Empty: 10.",
        "schema": {"type": ["number", "null"]},
    },
    "verify": {
        "label": "Verify certificates",
        "description": "Of the region: true, false, or the path of a CA bundle. Empty: true.",
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
    "counted_after": {
        "label": "Jobs counted after (seconds)",
        "description": (
            "How long the cluster may take until its counts include a submitted job. "
            "Until then gates add the jobs of submissions that have just ended. Empty: 60."
        ),
        "schema": {"type": ["number", "null"]},
    },
    "condition": {
        "label": "Condition of all gates",
        "description": (
            "What every gate of this connection needs besides its own condition, e.g. queued < 20. "
            "Gates that wait read it at each poll; running < 0 lets none through."
        ),
        "schema": {"type": ["string", "null"]},
    },
    "namespace": {
        "label": "Namespace",
        "description": (
            "Tells the jobs of this Airflow from those of another with the same DAGs. "
            "Empty: made once, and kept as the Variable scnet_namespace."
        ),
        "schema": {"type": ["string", "null"]},
    },
    "platform": {
        "label": "Platform",
        "description": "With access keys: where tokens are issued. Empty: https://api.scnet.cn.",
        "schema": {"type": ["string", "null"]},
    },
    "portal": {
        "label": "Portal",
        "description": "With access keys: where regions are described. Empty: https://www.scnet.cn.",
        "schema": {"type": ["string", "null"]},
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
        "host": "https://host.example; with access keys it may be empty",
        "login": "the cluster user whose jobs are counted; empty: the token's own",
        "password": "the token of that region; empty with access keys (below)",
        # 3.3.2's page sends 0 for an empty field, which its API takes for another endpoint: "Bad Request".
        "port": "for example 65051, or 443 if the address names none; the Test button needs it",
    },
}

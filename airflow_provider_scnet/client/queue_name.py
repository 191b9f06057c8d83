# SPDX-License-Identifier: Apache-2.0
"""The name of a queue, which Slurm calls a partition, read strictly."""

from __future__ import annotations

import re

from airflow_provider_scnet.client.errors import ScnetConfigError
from airflow_provider_scnet.client.redaction import redacted


def queue_named(value: object) -> str:
    """
    Read the name of a queue, strictly.

    :param value: the name; a whole number is one that consists of digits
    :raises ScnetConfigError: where it is empty, no text, or holds white space
    """
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if value is None or (isinstance(value, str) and not value.strip()):
        raise ScnetConfigError("queue_name is given but empty")
    if not isinstance(value, str):
        raise ScnetConfigError(f"queue_name is no text but {type(value).__name__}")
    if len(value) > 200 or not value.isprintable() or re.search(r"\s", value):
        raise ScnetConfigError(f"queue_name is no name of a queue: {redacted(value)[:80]!r}")
    return value

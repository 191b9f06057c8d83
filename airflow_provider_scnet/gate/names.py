# SPDX-License-Identifier: Apache-2.0
"""The names that whoever waits gives: of a connection, a user, a queue."""

from __future__ import annotations

from airflow_provider_scnet.client.errors import ScnetConfigError
from airflow_provider_scnet.client.queue_name import queue_named


def named(field: str, value: object) -> str:
    """
    Read a name, strictly: nothing must not stand for a default, as a template may render to nothing.

    :param field: what it is the name of, for people
    :param value: the name; a whole number is one that consists of digits, as a native template makes one
    :raises ValueError: where it is empty, or no text
    """
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if value is None or (isinstance(value, str) and not value.strip()):
        raise ValueError(f"{field} is given but empty")
    if not isinstance(value, str):
        raise ValueError(f"{field} is no text but {type(value).__name__}")
    return value


def named_queue(value: object) -> str:
    """
    Read the name of a queue, as strictly.

    :param value: the name
    :raises ValueError: where it is empty, no text, or holds white space
    """
    try:
        return queue_named(value)
    except ScnetConfigError as error:
        raise ValueError(str(error)) from None

# SPDX-License-Identifier: Apache-2.0
"""Arguments of whoever waits, read strictly: the names of a connection, a user, a queue."""

from __future__ import annotations

from collections.abc import Sequence

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


def named_connections(value: object) -> list[str]:
    """
    Read the id of a connection, or a list of them.

    :param value: the id, or the ids
    :raises ValueError: where there is none, one is empty or no text, or one stands there twice
    """
    if isinstance(value, str) and value.strip().startswith("["):
        raise ValueError(
            "scnet_conn_id is the text of a list: a template that makes a list needs a DAG with "
            "render_template_as_native_obj=True, or give a list of templates"
        )
    if isinstance(value, str) or not isinstance(value, Sequence):
        return [named("scnet_conn_id", value)]
    if not value:
        raise ValueError("scnet_conn_id is an empty list")
    ids = [named("scnet_conn_id", each) for each in value]
    if twice := next((each for each in ids if ids.count(each) > 1), None):
        raise ValueError(f"scnet_conn_id names the connection '{twice}' twice")
    return ids


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

# SPDX-License-Identifier: Apache-2.0
"""
Airflow's own masking of secrets, under the names that its versions have for it.

It talks to the task's supervisor, so a triggerer calls it on the event loop and a worker in the task itself, never
in a thread.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

# Airflow 3.1 and later, 3.0, 2.x. The name in common-compat is younger than the version that is required of it.
_MODULES = (
    "airflow.sdk.log",
    "airflow.sdk.execution_time.secrets_masker",
    "airflow.utils.log.secrets_masker",
)


def mask(secrets: Sequence[str]) -> None:
    """
    Hide texts in everything that Airflow logs or shows from now on.

    :param secrets: the texts
    """
    if secrets:
        _find("mask_secret")(list(secrets))


async def amask(secrets: Sequence[str]) -> None:
    """
    Do the same on an event loop.

    :param secrets: the texts
    """
    # Before 3.3 there is no asynchronous call; Airflow's own code then makes the ordinary one on a loop, too.
    if secrets and (masked := _find("amask_secret")):
        await masked(list(secrets))
    else:
        mask(secrets)


def _find(name: str) -> Any:
    for module in _MODULES:
        try:
            found = importlib.import_module(module)
        except ImportError:
            continue
        return getattr(found, name, None)
    return None

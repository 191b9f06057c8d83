# SPDX-License-Identifier: Apache-2.0
"""
Airflow's own masking of secrets, under the names that its versions have for it.

From Airflow 3 on it tells the supervisor, which writes the logs. A worker calls it in the task itself, a triggerer
on the event loop; never in a thread that knows nothing of that loop.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from asgiref.sync import sync_to_async

# Airflow 3.1 and later, 3.0, 2.x. The names in common-compat are younger than the version that is required of it.
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
    Do the same on an event loop. Not to be cancelled, as no request to a triggerer's supervisor.

    :param secrets: the texts
    """
    # Before 3.3 there is no asynchronous call, and on a loop the ordinary one does not reach the supervisor: 3.0
    # raises, 3.1 and 3.2 are silent. From a thread of asgiref's, and from no other, it comes back to the loop.
    if secrets:
        masked = getattr(_import(_MODULES[0]), "amask_secret", None)
        await (masked or sync_to_async(_find("mask_secret")))(list(secrets))


def _find(name: str) -> Any:
    # Lazily: from 3.1 on the second module warns that it has moved.
    return next(filter(None, (getattr(_import(module), name, None) for module in _MODULES)))


def _import(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        return None

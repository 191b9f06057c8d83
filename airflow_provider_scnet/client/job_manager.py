# SPDX-License-Identifier: Apache-2.0
"""What a region tells of its job manager, such as Slurm: its id, the queues of a user, and the user's limit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from airflow_provider_scnet.client.connection_settings import ConnectionSettings
from airflow_provider_scnet.client.errors import ScnetConfigError, ScnetResponseError
from airflow_provider_scnet.client.redaction import redacted
from airflow_provider_scnet.client.transport import ask

#: The schedulers of a region, and their ids.
SCHEDULER_PATH = "/hpc/openapi/v2/cluster"
#: The queues that a user may use; the user's name follows.
QUEUE_NAMES_PATH = "/hpc/openapi/v2/queuenames/users/"
#: The limits of the token's own user. Source: SCnet OpenAPI v2, "query user resource limits".
LIMITS_PATH = "/hpc/openapi/v2/userquotas/userlimit"

# Very large numbers are a usual way to say that there is no limit.
_LARGEST_LIMIT = 10**9


def schedulers(settings: ConnectionSettings) -> list[str]:
    """
    Return the ids of the region's schedulers, one at least.

    :param settings: whom to ask
    :raises ScnetError: where they could not be learnt
    """
    return ask(settings, SCHEDULER_PATH, _schedulers_from_data)


def only_scheduler(settings: ConnectionSettings) -> str:
    """
    Return the id of the region's scheduler.

    :param settings: whom to ask
    :raises ScnetConfigError: where it has several
    """
    match schedulers(settings):
        case [scheduler_id]:
            return scheduler_id
        case ids:
            shown = ", ".join(redacted(each) for each in ids[:10])
            raise ScnetConfigError(
                f"the region has several schedulers ({shown}): name one of them as scheduler_id",
                where=settings.where,
            )


def queue_names(settings: ConnectionSettings) -> dict[str, bool]:
    """
    Return the names of the queues that the user may use, and whether each takes jobs, SCnet's ``queueEnabled``.

    :param settings: whom to ask, and about whom
    :raises ScnetError: where they could not be learnt, or there is none
    """
    names: dict[str, bool] = {}
    path = QUEUE_NAMES_PATH + quote(settings.user_name, safe="")
    for scheduler in schedulers(settings):
        for name, enabled in ask(settings, path, _names_from_data, params={"strJobManagerID": scheduler}).items():
            names[name] = names.get(name, False) or enabled
    if not names:
        raise ScnetResponseError("SCnet names no queue that the user may use", where=settings.where)
    return names


def job_limit(settings: ConnectionSettings) -> int | None:
    """
    Return how many jobs the user may have submitted, SCnet's ``userMaxSubmitJob``, where its meaning is sure.

    None where the token is another user's, as the answer is about the token's own; where the region has several
    schedulers, each with limits of its own; and for anything but a whole number from 1 to 10⁹, as it is not known
    how SCnet says that there is no limit.

    :param settings: whom to ask, and about whom
    :raises ScnetError: where there is no answer, or one that is an error
    """
    if settings.token_user != settings.user_name:
        return None
    match schedulers(settings):
        case [scheduler]:
            return ask(settings, LIMITS_PATH, _limit_from_data, params={"strJobManagerID": scheduler})
    return None


def _limit_from_data(data: Any) -> int | None:
    # A list by its documentation, an object to a public client.
    match data if isinstance(data, list) else [data]:
        case [{"userMaxSubmitJob": int(limit)}] if not isinstance(limit, bool) and 0 < limit <= _LARGEST_LIMIT:
            return limit
    return None


def _schedulers_from_data(data: Any) -> list[str]:
    ids = [entry.get("id") for entry in data if isinstance(entry, Mapping)] if isinstance(data, list) else []
    if not ids or not all(isinstance(each, str | int) and not isinstance(each, bool) for each in ids):
        raise ScnetResponseError("the answer's data is no list of schedulers with an id")
    return [str(each) for each in ids]


def _names_from_data(data: Any) -> dict[str, bool]:
    entries = [] if data is None else data if isinstance(data, list) else [data]
    if not all(isinstance(entry, Mapping) and isinstance(entry.get("queueName"), str) for entry in entries):
        raise ScnetResponseError("the answer's data is no list of queues with a queueName")
    # SCnet writes other flags as text.
    return {entry["queueName"]: entry.get("queueEnabled") not in (False, "false") for entry in entries}

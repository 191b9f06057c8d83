# SPDX-License-Identifier: Apache-2.0
"""
The counts of single queues, which Slurm calls partitions: what the answer lists, and what a missing queue means.

SCnet does not say whether it lists a queue in which the user has no job. So a queue that is missing counts as
empty only where the counts of all queues agree, and where the user has a queue of that name.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from typing import Any

from airflow_provider_scnet.client.connection_settings import ConnectionSettings
from airflow_provider_scnet.client.errors import ErrorKind, ScnetConfigError, ScnetError, ScnetResponseError
from airflow_provider_scnet.client.job_counts import STATES, JobCounts
from airflow_provider_scnet.client.job_manager import queue_names
from airflow_provider_scnet.client.redaction import listed, redacted
from airflow_provider_scnet.client.transport import ask

#: Source: SCnet OpenAPI v2; the shape of the answer as a public client reads it.
QUEUE_COUNTS_PATH = "/hpc/openapi/v2/view/queue/jobs"

#: Seconds for which a queue is known to exist, while no answer lists it.
KNOWN_FOR = 600.0

# How many names of queues an error lists.
_MOST_NAMES = 20

Counted = JobCounts | ScnetError

# When a missing queue was found among the user's queues, by (endpoint, user, queue) and time.monotonic().
_known: dict[tuple[str, str, str], float] = {}


def observe_queues(settings: ConnectionSettings, queues: Collection[str], whole: JobCounts) -> dict[str, Counted]:
    """
    Ask once for the counts of all queues; where one is missing, also whether there is such a queue.

    :param settings: whom to ask, and about whom
    :param queues: the queues that somebody asks about
    :param whole: the counts of all queues together, of the same moment
    :return: for each queue that was listed or asked about its counts, or why there are none
    """
    if not queues:
        return {}
    try:
        by_queue = ask(settings, QUEUE_COUNTS_PATH, by_queue_from_data, params={"userName": settings.user_name})
    except ScnetError as error:
        return dict.fromkeys(queues, error)
    for queue in by_queue:
        # Where it is missing later, it may be gone.
        _known.pop((*settings.account, queue), None)
    missing = [queue for queue in queues if queue not in by_queue]
    errors = _errors_of_names(settings, [queue for queue in missing if not _is_known(settings, queue)])
    return {
        **by_queue,
        **{queue: errors.get(queue) or missing_queue(queue, whole, by_queue) for queue in missing},
    }


def by_queue_from_data(data: Any) -> dict[str, JobCounts]:
    """
    Read the ``data`` of a successful answer of :data:`QUEUE_COUNTS_PATH`.

    :param data: the decoded list; None where no queue has jobs
    :raises ScnetResponseError: where it is anything else
    """
    if data is None:
        return {}
    if not isinstance(data, list):
        raise ScnetResponseError("the answer's data is no list of queues")
    found: dict[str, JobCounts] = {}
    for entry in data:
        if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str) or not entry["name"]:
            raise ScnetResponseError("an entry of the answer's data has no name of a queue")
        if entry["name"] in found:
            raise ScnetResponseError(f"queue '{redacted(entry['name'])}' is reported twice")
        found[entry["name"]] = JobCounts.from_metrics(entry.get("values"))
    return found


def missing_queue(queue: str, whole: JobCounts, by_queue: Mapping[str, JobCounts]) -> JobCounts:
    """
    Return the counts of a queue that exists and that the answer does not list.

    Zero where the listed queues account for all jobs of the user, or for all in that state; else not known.

    :param queue: the queue
    :param whole: the counts of all queues together
    :param by_queue: the counts of the listed queues
    """
    others = {state: sum(getattr(each, state) or 0 for each in by_queue.values()) for state in STATES}
    is_all_listed = whole.total is not None and whole.total <= sum(others.values())
    counts: dict[str, Any] = {}
    problems: dict[str, str] = {}
    for state in STATES:
        reported = getattr(whole, state)
        if is_all_listed or (reported is not None and reported <= others[state]):
            counts[state] = 0
        elif reported is None:
            problems[state] = f"is missing for queue '{redacted(queue)}' and for all queues"
        else:
            problems[state] = (
                f"is not known: queue '{redacted(queue)}' is not listed, and the listed queues have "
                f"{others[state]} of {reported} jobs"
            )
    # The two answers are not of quite the same moment: the next poll may well find that they agree.
    contradict = any(getattr(whole, state) is not None for state in problems)
    kind = ErrorKind.TRANSIENT if contradict else ErrorKind.UNCLEAR
    return JobCounts(**counts, problems=problems, problem_kind=kind)


def _is_known(settings: ConnectionSettings, queue: str) -> bool:
    return time.monotonic() - _known.get((*settings.account, queue), float("-inf")) < KNOWN_FOR


def _errors_of_names(settings: ConnectionSettings, queues: Collection[str]) -> dict[str, ScnetError]:
    """Ask whether there are queues of these names that take jobs; return why not, or why that was not learnt."""
    if not queues:
        return {}
    try:
        names = queue_names(settings)
    except ScnetError as error:
        return dict.fromkeys(queues, error)
    _known.update({(*settings.account, queue): time.monotonic() for queue in queues if names.get(queue)})
    there_are = listed([f"'{redacted(name)}'" for name in sorted(names)], _MOST_NAMES)
    unknown = f"for this user; there are {there_are}"
    return {
        queue: ScnetError(
            f"queue '{redacted(queue)}' is disabled (queueEnabled), so it takes no jobs",
            kind=ErrorKind.TRANSIENT,
            where=settings.where,
        )
        if queue in names
        else ScnetConfigError(f"SCnet knows no queue '{redacted(queue)}' {unknown}", where=settings.where)
        for queue in queues
        if not names.get(queue)
    }

# SPDX-License-Identifier: Apache-2.0
"""One poll: the counts of a user's jobs, of all queues or single ones, and the list of jobs, as an observation."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Collection, Iterator, Mapping

from airflow_provider_scnet.client import issued_tokens
from airflow_provider_scnet.client.connection_settings import ConnectionSettings
from airflow_provider_scnet.client.errors import ScnetError, ScnetResponseError
from airflow_provider_scnet.client.job_counts import JobCounts
from airflow_provider_scnet.client.job_lists import JobList, live_jobs
from airflow_provider_scnet.client.job_manager import only_scheduler
from airflow_provider_scnet.client.job_state import JobState
from airflow_provider_scnet.client.observation import Observation
from airflow_provider_scnet.client.queue_counts import observe_queues
from airflow_provider_scnet.client.redaction import listed, redacted
from airflow_provider_scnet.client.transport import ask

#: Source: SCnet OpenAPI v2, "query job state data".
JOB_STATE_PATH = "/hpc/openapi/v2/view/jobs/state"

# How many names of unknown states a note lists.
_MOST_NAMES = 10

# The scheduler of each account of which jobs were listed.
_schedulers: dict[tuple[str, str], str] = {}


def poll(settings: ConnectionSettings, queues: Collection[str] = (), with_list: bool = False) -> Observation:
    """
    Ask once; with access keys, once more with a new token if the first one is refused.

    :param settings: whom to ask, and about whom
    :param queues: the queues whose own counts are asked for, too
    :param with_list: whether the jobs are listed, too
    :return: what was seen; an error is part of it
    """
    nothing = Observation(
        account=settings.account,
        where=settings.where,
        notes=settings.notes,
        token_ends=None if settings.keys else settings.token_ends,
        counted_after=settings.counted_after,
        condition=settings.condition,
    )
    try:
        return issued_tokens.ask(settings, lambda granted: _look(nothing, granted, queues, with_list))
    except ScnetError as error:
        return dataclasses.replace(nothing, error=error)


def _look(
    nothing: Observation, settings: ConnectionSettings, queues: Collection[str], with_list: bool
) -> Observation:
    """Send one request, one more for the counts of single queues, and one a page for a list."""
    try:
        counts = ask(settings, JOB_STATE_PATH, JobCounts.from_data, params={"userName": settings.user_name})
    except ScnetError as error:
        error.where = settings.where
        raise
    doubt = _doubt(settings, counts)
    # What proves nothing of all queues proves nothing of one.
    by_queue: Mapping[str, JobCounts | ScnetError] = (
        dict.fromkeys(queues, counts) if doubt else observe_queues(settings, queues, counts)
    )
    jobs = _list_jobs(settings) if with_list else None
    notes = [*nothing.notes, *_unknown_states(settings, counts, by_queue)]
    if isinstance(jobs, ScnetError):
        notes.append(f"claims last longer, as jobs were not listed: {jobs}")
    return dataclasses.replace(
        nothing, counts=counts, queues=by_queue, listed=jobs, doubt=doubt, notes=tuple(notes)
    )


def _list_jobs(settings: ConnectionSettings) -> JobList | ScnetError:
    # However many pages there are, the counts must not be held up.
    settings = dataclasses.replace(settings, until=time.monotonic() + settings.timeout)
    try:
        scheduler = _schedulers[settings.account] = _schedulers.get(settings.account) or only_scheduler(settings)
        jobs = live_jobs(settings, scheduler).complete()
        if any(job.state is JobState.UNKNOWN for job in jobs):
            raise ScnetResponseError("a job in the list is in a state that may mean anything")
        return dataclasses.replace(jobs, scheduler_id=scheduler)
    except ScnetError as error:
        _schedulers.pop(settings.account, None)
        return error


def _doubt(settings: ConnectionSettings, counts: JobCounts) -> str:
    """Say why counts prove nothing: SCnet may report zeros for a user that does not exist."""
    if not counts.all_zero or settings.allow_foreign_user or settings.token_user in (None, settings.user_name):
        return ""
    return (
        f"{settings.where}: no job in any state, but the token was issued for '{redacted(settings.token_user)}': "
        "correct the user name, or set extra 'allow_foreign_user' if this is meant"
    )


def _unknown_states(
    settings: ConnectionSettings, counts: JobCounts, by_queue: Mapping[str, JobCounts | ScnetError]
) -> Iterator[str]:
    metrics = {name for each in by_queue.values() if isinstance(each, JobCounts) for name in each.unknown}
    for kind, names, so in (
        ("state", counts.unknown, "counted as other"),
        ("metric of queues", sorted(metrics), "so other and total are not known there"),
    ):
        if names:
            quoted = listed([f"'{name}'" for name in names], _MOST_NAMES)
            yield f"{settings.where}: unknown {kind} {quoted}, {so}"

# SPDX-License-Identifier: Apache-2.0
"""
The lists of a user's jobs, those that are live and those that ended, read whole.

Whatever cannot be read is an error, never "no job". Source: SCnet OpenAPI v2, "query jobs" and "query history
jobs".
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta, timezone
from typing import Any

from airflow_provider_scnet.client.connection_settings import ConnectionSettings
from airflow_provider_scnet.client.errors import ErrorKind, ScnetConfigError, ScnetResponseError
from airflow_provider_scnet.client.job_counts import JobCounts
from airflow_provider_scnet.client.job_state import JobState
from airflow_provider_scnet.client.redaction import redacted
from airflow_provider_scnet.client.reported_job import ReportedJob, scnet_time
from airflow_provider_scnet.client.transport import ask

#: Where jobs are listed and deleted; with a slash and an id it is that of a job's detail.
JOBS_PATH = "/hpc/openapi/v2/jobs"
HISTORY_PATH = "/hpc/openapi/v2/historyjobs"

#: How many jobs a page is asked for; the largest that public clients use.
PAGE = 100
#: How many pages of one list are read at most.
MOST_PAGES = 50
#: How far back the history is asked where nobody says.
HISTORY = timedelta(days=30)

# The history is asked for times until tomorrow: the clocks here and there may differ.
_CLOCKS_DIFFER = timedelta(days=1)


@dataclasses.dataclass(frozen=True)
class JobList:
    """
    Jobs as a list of SCnet's shows them.

    :param jobs: the jobs, in SCnet's order
    :param is_complete: whether these are all that SCnet has of what was asked for; if not, a job that is missing
        here may be there
    :param problem: why it is not complete
    :param is_null: whether SCnet sent no list at all: so it answers where there is no job, and to what it does not
        know
    :param scheduler_id: the scheduler whose jobs these are, where that was noted
    """

    jobs: tuple[ReportedJob, ...] = ()
    is_complete: bool = True
    problem: str = ""
    is_null: bool = False
    scheduler_id: str = ""

    def __iter__(self) -> Iterator[ReportedJob]:
        """Iterate over the jobs."""
        return iter(self.jobs)

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self.jobs)

    def where(self, is_meant: Callable[[ReportedJob], bool]) -> JobList:
        """Return those jobs of the list that are meant."""
        return dataclasses.replace(self, jobs=tuple(filter(is_meant, self.jobs)))

    def ids(self, queue: str | None) -> set[str]:
        """Return the ids of the jobs in a queue; None stands for all queues together."""
        return {job.job_id for job in self.jobs if queue in (None, job.queue)}

    def counts(self, queue: str | None) -> JobCounts | None:
        """Return how many jobs of a queue are in which state; None where it is not known of a job which is its."""
        if queue is not None and not all(job.queue for job in self.jobs):
            return None
        found = Counter(job.state for job in self.jobs if queue in (None, job.queue))
        return JobCounts(
            running=found[JobState.RUNNING],
            queued=found[JobState.QUEUED],
            held=found[JobState.HELD],
            suspended=found[JobState.SUSPENDED],
            other=0,
        )

    def complete(self) -> JobList:
        """
        Return this list, if nothing is missing in it.

        :raises ScnetResponseError: where something may be missing
        """
        if not self.is_complete:
            raise ScnetResponseError(f"the list of jobs is not complete: {self.problem}", kind=ErrorKind.TRANSIENT)
        return self


def check_own_jobs(settings: ConnectionSettings) -> None:
    """
    Make sure that the jobs that are asked about are those that are submitted.

    :param settings: whom to ask, and about whom
    :raises ScnetConfigError: where the token submits as another user than the one asked about
    """
    if settings.token_user in (None, settings.user_name) or settings.allow_foreign_user:
        return
    raise ScnetConfigError(
        f"the token was issued for '{redacted(settings.token_user)}', whose jobs it submits and sees: "
        "correct the user name, or set extra 'allow_foreign_user' if this is meant",
        where=settings.where,
    )


def live_jobs(
    settings: ConnectionSettings, scheduler_id: str, job_name: str = "", queue_name: str = ""
) -> JobList:
    """
    List the user's jobs that have not ended, or ended in the last minutes (five, as documented).

    How soon a job that was just submitted appears is not documented.

    :param settings: whom to ask, and about whom
    :param scheduler_id: the scheduler
    :param job_name: only jobs of this name; SCnet is told as well, and looks for it or for any part of it
    :param queue_name: only jobs of this queue
    :raises ScnetError: where the list cannot be read
    """
    asked = {
        "strClusterIDList": scheduler_id,
        "strJobOwner": settings.user_name,
        "strJobName": job_name,
        "strQueueName": queue_name,
    }
    return _list(settings, JOBS_PATH, asked, lambda entry: ReportedJob.from_live(entry, "list")).where(
        lambda job: job_name in ("", job.name) and queue_name in ("", job.queue)
    )


def ended_jobs(
    settings: ConnectionSettings,
    scheduler_id: str,
    since: datetime | None = None,
    job_name: str = "",
    job_id: str = "",
    queue_name: str = "",
) -> JobList:
    """
    List the user's jobs that ended, from the history: one entry for each run, where a job was queued again.

    How soon a job appears after its end, and how far back the history reaches, is not documented.

    :param settings: whom to ask, and about whom
    :param scheduler_id: the scheduler
    :param since: from when on; default: :data:`HISTORY` ago
    :param job_name: only jobs of this name; SCnet is told as well, and looks for it or for any part of it
    :param job_id: only this job
    :param queue_name: only jobs of this queue
    :raises ScnetError: where the list cannot be read
    """
    now = datetime.now(timezone.utc)
    asked = {
        # It is called a name, and is the id.
        "strClusterNameList": scheduler_id,
        "startTime": scnet_time(since or now - HISTORY),
        "endTime": scnet_time(now + _CLOCKS_DIFFER),
        "timeType": "CUSTOM",
        "isQueryByQueueTime": "false",
        "sort": "DESC",
        "strUser": settings.user_name,
        "jobName": job_name,
        "jobId": job_id,
        "queue": queue_name,
    }
    return _list(settings, HISTORY_PATH, asked, ReportedJob.from_history).where(
        lambda job: job_name in ("", job.name) and job_id in ("", job.job_id) and queue_name in ("", job.queue)
    )


def _list(
    settings: ConnectionSettings, path: str, asked: Mapping[str, str], reader: Callable[[Any], ReportedJob]
) -> JobList:
    """
    Read a list page by page.

    Each page begins with the last job of the one before: where that is another one, jobs have come or gone
    meanwhile, or the service does not page, and a job may have been passed over.
    """
    check_own_jobs(settings)
    asked = {name: value for name, value in asked.items() if value}
    jobs: list[ReportedJob] = []

    def incomplete(problem: str) -> JobList:
        return JobList(tuple(jobs), is_complete=False, problem=problem)

    for _ in range(MOST_PAGES):
        start = max(len(jobs) - 1, 0)
        params = {**asked, "start": str(start), "limit": str(PAGE)}
        total, page = ask(settings, path, lambda data: _page(data, reader), params=params)
        if page is None:
            return JobList(is_null=True) if not jobs else incomplete("it ended while it was read")
        if jobs and (not page or _key(page[0]) != _key(jobs[-1])):
            return incomplete("it changed while it was read, or SCnet repeats a page")
        fresh = page[1:] if jobs else page
        jobs += fresh
        if len(jobs) >= total and len(page) < PAGE:
            return JobList(tuple(jobs))
        if not fresh:
            # A full page was the last one, or SCnet shows no more.
            return (
                JobList(tuple(jobs)) if len(jobs) >= total else incomplete(f"SCnet shows {len(jobs)} of {total}")
            )
    return incomplete(f"{len(jobs)} of {total} jobs were read")


def _key(job: ReportedJob) -> tuple[str, datetime | None]:
    # The history may have several entries of a job.
    return job.job_id, job.ended_at


def _page(data: Any, reader: Callable[[Any], ReportedJob]) -> tuple[int, list[ReportedJob] | None]:
    if data is None:
        return 0, None
    total, entries = (data.get("total"), data.get("list")) if isinstance(data, Mapping) else (None, None)
    if isinstance(total, str) and total.isascii() and total.isdecimal():
        total = int(total[:18])
    if entries is None and total == 0:
        entries = []
    if isinstance(total, bool) or not isinstance(total, int) or not isinstance(entries, list):
        raise ScnetResponseError("the answer's data is no list of jobs with its total")
    if len(entries) > total:
        raise ScnetResponseError(f"the answer lists {len(entries)} jobs and says that there are {total}")
    return total, list(map(reader, entries))

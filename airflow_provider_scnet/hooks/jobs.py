# SPDX-License-Identifier: Apache-2.0
"""The hook's methods for jobs: to submit, find, look at and cancel them, and to read what they wrote."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from airflow_provider_scnet.client import issued_tokens, job_lists, jobs, submission
from airflow_provider_scnet.client.connection_settings import ConnectionSettings
from airflow_provider_scnet.client.errors import ScnetConfigError
from airflow_provider_scnet.client.job_lists import JobList
from airflow_provider_scnet.client.job_manager import only_scheduler
from airflow_provider_scnet.client.job_request import JobRequest
from airflow_provider_scnet.client.queue_name import queue_named
from airflow_provider_scnet.client.redaction import redacted
from airflow_provider_scnet.client.reported_job import ReportedJob
from airflow_provider_scnet.client.threads import run_in_thread
from airflow_provider_scnet.hooks.polled_connection import PolledConnection

P = ParamSpec("P")
T = TypeVar("T")


def _aside(
    method: Callable[Concatenate[Any, P], T],
) -> Callable[Concatenate[JobMethods, P], Coroutine[Any, Any, T]]:
    """Return a method that does the same in a thread, with the connection as it was read on the event loop."""

    @functools.wraps(method)
    async def run(self: JobMethods, /, *args: P.args, **kwargs: P.kwargs) -> T:
        settings = await self._connection.aread_settings()
        return await asyncio.wrap_future(run_in_thread(lambda: method(_AlreadyRead(settings), *args, **kwargs)))

    return run


class JobMethods:
    """
    What a hook does with jobs of the connection's user.

    Each call reads the connection anew. ``scheduler_id``, where a region has one scheduler, may be left out: it is
    asked for, with one request more. Whoever calls often gets it once, from :meth:`get_scheduler_id`.
    """

    if TYPE_CHECKING:

        @property
        def _connection(self) -> PolledConnection: ...

    def get_namespace(self) -> str:
        """Return the connection's extra ``namespace``, which tells this Airflow's jobs from those of others."""
        return self._read_settings().namespace

    def get_scheduler_id(self) -> str:
        """
        Ask for the id of the region's scheduler, SCnet's ``strJobManagerID``.

        :raises ScnetConfigError: where the region has several
        :raises ScnetError: where there is no answer, or one that is an error
        """
        return issued_tokens.ask(self._read_settings(), only_scheduler)

    def submit_job(self, job: JobRequest, *, scheduler_id: str | None = None) -> str:
        """
        Submit a job once and return its id.

        Such as::

            job = JobRequest(
                command="hostname", work_dir="/public/home/alice", queue_name="comp", wall_time="01:00:00",
                job_name="run_1",
            )
            job_id = ScnetHook().submit_job(job)

        It never sends a submission twice, and looks for no earlier one: whoever repeats it asks first, with
        :meth:`find_jobs`, whether the job is there. Any other error than these means that nothing was submitted.

        :param job: the job
        :param scheduler_id: the scheduler that is to take it
        :raises ScnetJobLimitError: where it is certain that there is no job, as the limit of submitted jobs is
            met: try again later
        :raises ScnetSubmissionRefusedError: where it is certain that there is no job, as Slurm or SCnet refused it
        :raises ScnetSubmissionUnknownError: where nobody knows whether there is a job
        :raises ScnetError: where it could not be sent
        """
        return self._asked(lambda settings, scheduler: submission.submit(settings, job, scheduler), scheduler_id)

    def find_jobs(
        self,
        job_name: str = "",
        *,
        queue_name: str | None = None,
        ended_since: datetime | None = None,
        scheduler_id: str | None = None,
    ) -> JobList:
        """
        List jobs of the connection's user: those that are live, or those that ended since some time.

        The live list also shows jobs that ended in the last minutes. Jobs are absent only where the list
        ``is_complete``; even then a new job may appear late, in either list.

        :param job_name: only jobs of this name, exactly; SCnet is told as well
        :param queue_name: only jobs of this queue
        :param ended_since: asks the history for runs that ended since then, a time with its zone; default: the
            live list
        :param scheduler_id: the scheduler
        :raises ScnetError: where the list cannot be read
        """
        queue = "" if queue_name is None else queue_named(queue_name)
        since = _with_zone("ended_since", ended_since)

        def find(settings: ConnectionSettings, scheduler: str) -> JobList:
            if since is None:
                return job_lists.live_jobs(settings, scheduler, job_name, queue)
            return job_lists.ended_jobs(settings, scheduler, since, job_name, queue_name=queue)

        return self._asked(find, scheduler_id)

    afind_jobs = _aside(find_jobs)
    """Do what :meth:`find_jobs` does without blocking the event loop."""

    def get_job(
        self, job_id: str, *, since: datetime | None = None, scheduler_id: str | None = None
    ) -> ReportedJob | None:
        """
        Ask what is known of a job: how it goes, or how it ended.

        It asks the job's detail and, where that does not say how the job ended, the history. None means that
        neither shows it: it may be unknown, or not to be seen yet, or not any longer.

        :param job_id: its id
        :param since: from when on the history is asked, a time with its zone; default: 30 days ago
        :param scheduler_id: the scheduler
        :raises ScnetError: where an answer cannot be read
        """
        job_id, since = _id(job_id), _with_zone("since", since)
        return self._asked(lambda settings, scheduler: jobs.job(settings, scheduler, job_id, since), scheduler_id)

    aget_job = _aside(get_job)
    """Do what :meth:`get_job` does without blocking the event loop."""

    def cancel_job(self, job_id: str, *, scheduler_id: str | None = None) -> ReportedJob | None:
        """
        Ask SCnet to delete a job, and return it as it is then.

        SCnet's success does not say that a job was cancelled, and a cancelled job may go on for a while: look at
        the state of what is returned, and ask :meth:`get_job` again. None: SCnet shows no such job.

        :param job_id: its id
        :param scheduler_id: the scheduler
        :raises ScnetError: where there is no answer, or one that is an error
        """
        job_id = _id(job_id)
        return self._asked(lambda settings, scheduler: jobs.cancel(settings, scheduler, job_id), scheduler_id)

    acancel_job = _aside(cancel_job)
    """Do what :meth:`cancel_job` does without blocking the event loop."""

    def cancel_jobs(
        self, job_ids: Sequence[str], *, scheduler_id: str | None = None
    ) -> tuple[list[str], list[str]]:
        """Ask SCnet to delete jobs with one request; return those that had not ended, and those that go on."""
        ids = [_id(job_id) for job_id in job_ids]
        return self._asked(
            lambda settings, scheduler: jobs.cancel_together(settings, scheduler, ids), scheduler_id
        )

    acancel_jobs = _aside(cancel_jobs)

    def read_log(self, path: str, *, lines: int = 50) -> str:
        """
        Return the last lines of a file of the cluster, such as the ``stdout`` of a job.

        A file that does not exist reads as an empty one: that is all that SCnet says.

        :param path: its absolute path
        :param lines: how many lines, at most 1000
        :raises ScnetError: where it cannot be read
        """
        return issued_tokens.ask(self._read_settings(), lambda settings: jobs.log_tail(settings, path, lines))

    aread_log = _aside(read_log)
    """Do what :meth:`read_log` does without blocking the event loop."""

    def _asked(self, ask: Callable[[ConnectionSettings, str], T], scheduler_id: str | None) -> T:
        return issued_tokens.ask(
            self._read_settings(), lambda settings: ask(settings, scheduler_id or only_scheduler(settings))
        )

    def _read_settings(self) -> ConnectionSettings:
        return self._connection.read_settings()


class _AlreadyRead(JobMethods):
    def __init__(self, settings: ConnectionSettings) -> None:
        self._settings = settings

    def _read_settings(self) -> ConnectionSettings:
        return self._settings


def _id(job_id: object) -> str:
    text = str(job_id).strip() if isinstance(job_id, str | int) and not isinstance(job_id, bool) else ""
    # What separates the parts of a deletion would make it one of other jobs.
    if not text or len(text) > 100 or not text.isprintable() or set(text) & set(",:;/ "):
        raise ScnetConfigError(f"job_id is no id of a job: '{redacted(job_id)[:80]}'")
    return text


def _with_zone(name: str, time: datetime | None) -> datetime | None:
    if time is not None and (not isinstance(time, datetime) or time.tzinfo is None):
        raise ScnetConfigError(f"{name} has to be a time with its zone, not {redacted(time)}")
    return time

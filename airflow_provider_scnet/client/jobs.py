# SPDX-License-Identifier: Apache-2.0
"""
One job of a user: what is known of it, its deletion, and what it wrote.

Whatever cannot be read is an error, never "no job". Source: SCnet OpenAPI v2, "query a job's detail", "control
jobs" and "read a file's content"; what it leaves open is handled as noted.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from typing import Any
from urllib.parse import quote

from airflow_provider_scnet.client.connection_settings import ConnectionSettings
from airflow_provider_scnet.client.errors import (
    ScnetApiError,
    ScnetAuthError,
    ScnetConfigError,
    ScnetResponseError,
)
from airflow_provider_scnet.client.job_lists import JOBS_PATH, check_own_jobs, ended_jobs, live_jobs
from airflow_provider_scnet.client.job_state import JobState
from airflow_provider_scnet.client.redaction import redacted
from airflow_provider_scnet.client.reported_job import MOST_LINES, ReportedJob
from airflow_provider_scnet.client.transport import ask

#: Source: SCnet OpenAPI v2, "read a file's content", page by page.
FILE_CONTENT_PATH = "/hpc/openapi/v2/file/content"


def live_job(settings: ConnectionSettings, job_id: str) -> ReportedJob | None:
    """
    Ask for the detail of a job.

    :param settings: whom to ask
    :param job_id: which
    :return: the job; None where SCnet shows none, as it is unknown, not yet known, or known to the history only
    :raises ScnetError: where the answer cannot be read
    """

    def read(data: Any) -> ReportedJob | None:
        if data is None:
            return None
        job = ReportedJob.from_live(data, "detail")
        if job.job_id != job_id:
            raise ScnetResponseError(f"the answer is about another job, '{redacted(job.job_id)}'")
        return job

    return ask(settings, f"{JOBS_PATH}/{quote(job_id, safe='')}", read)


def job(
    settings: ConnectionSettings, scheduler_id: str, job_id: str, since: datetime | None = None
) -> ReportedJob | None:
    """
    Ask what is known of a job: its detail, and where that does not say how it ended, the history.

    Where the history says that it ended, the detail is asked once more: Slurm queues some jobs again, under the
    same id.

    :param settings: whom to ask, and about whom
    :param scheduler_id: the scheduler
    :param job_id: which
    :param since: from when on the history is asked; default: :data:`~.job_lists.HISTORY` ago
    :return: the job; None where neither knows it
    :raises ScnetError: where an answer cannot be read
    """
    live = live_job(settings, job_id)
    if live and live.state not in (JobState.ENDED, JobState.UNKNOWN):
        return live
    found = ended_jobs(settings, scheduler_id, since, job_id=job_id)
    if not found.jobs:
        found.complete()
        return live
    first = datetime.min.replace(tzinfo=timezone.utc)
    last = max(found, key=lambda run: (run.ended_at or first, run.state.is_final))
    again = live_job(settings, job_id)
    if again and again.state not in (JobState.ENDED, JobState.UNKNOWN):
        return again
    if seen := again or live:
        if last.ended_at and seen.started_at and seen.started_at > last.ended_at:
            # A later run has ended as well, which the history does not show yet.
            return seen
        kept = {name: getattr(seen, name) for name in ("exit_code", "reason", "stdout", "stderr")}
        last = dataclasses.replace(last, **kept)
    return last


def cancel(settings: ConnectionSettings, scheduler_id: str, job_id: str) -> ReportedJob | None:
    """
    Ask SCnet to delete a job, and look what became of it.

    A deletion is documented as a form, which the service may not read, and is answered with success in any case.
    So the job is looked at, and where it goes on, the same is sent as a query.

    :param settings: whom to ask, and whose job it is
    :param scheduler_id: the scheduler
    :param job_id: which
    :return: the job as its detail shows it then, which may go on for a while, or None where SCnet shows none
    :raises ScnetError: where it was not answered, or refused
    """
    check_own_jobs(settings)
    asked = _deletion(settings, scheduler_id, [job_id])
    refused = _refusal_of_form(settings, asked)
    seen = live_job(settings, job_id)
    if seen is None and refused:
        raise refused
    if seen is None or seen.state is JobState.ENDED or seen.state.is_final:
        return seen
    ask(settings, JOBS_PATH, _anything, method="DELETE", params=asked)
    return live_job(settings, job_id)


def cancel_together(
    settings: ConnectionSettings, scheduler_id: str, job_ids: Sequence[str]
) -> tuple[list[str], list[str]]:
    """
    Ask SCnet to delete jobs with one request, as :func:`cancel` does with one, and look what became of them.

    :param settings: whom to ask, and whose jobs these are
    :param scheduler_id: the scheduler
    :param job_ids: which
    :return: those that had not ended, and those of them that go on, perhaps for a while only
    :raises ScnetError: where it was not answered, or refused
    """

    def unfinished(ids: Iterable[str]) -> list[str]:
        listed = {job.job_id: job for job in live_jobs(settings, scheduler_id)}
        # A job that was just submitted may not be listed yet.
        found = {each: listed.get(each) or live_job(settings, each) for each in ids}
        return [each for each, job in found.items() if job and job.state.is_unfinished]

    live = left = unfinished(job_ids)
    if left:
        _refusal_of_form(settings, _deletion(settings, scheduler_id, left))
        left = unfinished(left)
    if left:
        ask(settings, JOBS_PATH, _anything, method="DELETE", params=_deletion(settings, scheduler_id, left))
        left = unfinished(left)
    return live, left


def _deletion(settings: ConnectionSettings, scheduler_id: str, job_ids: Iterable[str]) -> dict[str, str]:
    named = (f"{scheduler_id},{settings.user_name}:{job_id}:" for job_id in job_ids)
    return {"jobMethod": "5", "strJobInfoMap": ";".join(named)}


def _refusal_of_form(settings: ConnectionSettings, asked: dict[str, str]) -> Exception | None:
    """Ask for a deletion as a form; return why that was refused, perhaps because SCnet did not see the form."""
    try:
        ask(settings, JOBS_PATH, _anything, method="DELETE", data=asked)
    except ScnetAuthError:
        raise
    except (ScnetApiError, ScnetResponseError) as error:
        return error
    return None


def log_tail(settings: ConnectionSettings, path: str, lines: int) -> str:
    """
    Return the last lines of a file.

    A file that does not exist reads as an empty one.

    :param settings: whom to ask
    :param path: its absolute path
    :param lines: how many, at most :data:`MOST_LINES`
    :raises ScnetError: where it cannot be read
    """
    if isinstance(lines, bool) or not isinstance(lines, int) or not 0 < lines <= MOST_LINES:
        raise ScnetConfigError(f"the number of lines has to be from 1 to {MOST_LINES}, not {redacted(lines)}")
    if not path.startswith("/"):
        raise ScnetConfigError(f"a file is named by its absolute path, not '{redacted(path)}'")

    def read(data: Any) -> str:
        text = data.get("data") if isinstance(data, Mapping) else None
        if not isinstance(text, str):
            raise ScnetResponseError("the answer's data holds no text of a file")
        return "".join(text.splitlines(keepends=True)[-lines:])

    form = {"hostName": "", "dirPath": path, "triggerNum": "1", "rollDirection": "UP"}
    return ask(settings, FILE_CONTENT_PATH, read, method="POST", data=form)


def _anything(data: Any) -> None:
    return None

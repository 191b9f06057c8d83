# SPDX-License-Identifier: Apache-2.0
"""One try of a task that submits a job: what it sees of the jobs of all tries, and what it does."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from airflow_provider_scnet.client.errors import (
    ScnetJobLimitError,
    ScnetSubmissionUnknownError,
)
from airflow_provider_scnet.client.job_request import JobRequest
from airflow_provider_scnet.client.lifecycle import JobState
from airflow_provider_scnet.client.reported_job import ReportedJob
from airflow_provider_scnet.gate.reporter import Log
from airflow_provider_scnet.hooks.scnet import ScnetHook
from airflow_provider_scnet.operators.intents import Intents
from airflow_provider_scnet.operators.job_name import JobName
from airflow_provider_scnet.operators.submit_once import Decision, Intent, Seen, Step, decide

# The history is asked for times before the run's start: clocks differ.
_CLOCKS_DIFFER = timedelta(hours=1)


@dataclasses.dataclass(frozen=True)
class Identity:
    """
    Which try of which task instance it is.

    :param task: the hash of the task instance
    :param round: how often somebody has cleared the task after it had ended
    :param is_first: whether it is the first try of its round
    :param readable: the readable part of the names of its jobs
    :param run_began_at: when the DAG run was made; nothing was submitted before
    """

    task: str
    round: int
    is_first: bool
    readable: str
    run_began_at: datetime


class Attempt:
    """
    One try.

    :param hook: how SCnet is asked
    :param who: which try it is
    :param intents: where it writes down what it is about to submit
    :param log: the task's log
    :param began_at: when the try began, in seconds since 1970
    :param settle: seconds from a request to submit for which a job that is in no list may yet appear
    :param interval: seconds between two looks
    """

    def __init__(
        self,
        hook: ScnetHook,
        who: Identity,
        intents: Intents,
        log: Log,
        began_at: float,
        settle: float,
        interval: float,
    ) -> None:
        self._hook = hook
        self._who = who
        self._intents = intents
        self._log = log
        self._believes_from = 0.0 if who.is_first else began_at + settle
        self._settle, self._interval = settle, interval
        self._scheduler_id = ""
        #: What was written last of what is submitted.
        self.intent: Intent | None = None

    @property
    def scheduler_id(self) -> str:
        """The region's scheduler."""
        self._scheduler_id = self._scheduler_id or self._hook.get_scheduler_id()
        return self._scheduler_id

    def next_step(self) -> Decision:
        """
        Look at all there is, and decide what comes next.

        :raises IntentError: where what was submitted cannot be read
        :raises ScnetError: where SCnet does not answer
        """
        self.intent = self._intents.read()
        name = JobName.read(self.intent.name) if self.intent else None
        if name and name.task == self._who.task and name.round != self._who.round:
            self.intent = None
        seen = self._look()
        return decide(
            self._who.task,
            self._who.round,
            seen,
            self.intent,
            readable=self._who.readable,
            believes_from=0.0 if self.intent else self._believes_from,
            settle=self._settle,
            interval=self._interval,
        )

    def _look(self) -> Seen:
        asked_at, jobs, trouble = time.time(), dict[str, ReportedJob](), ""
        since, scheduler = self._who.run_began_at - _CLOCKS_DIFFER, self.scheduler_id
        for name in self._names():
            # Of a task that was cleared all jobs are of interest, whatever was written of them.
            live = self._hook.find_jobs("" if self._who.round else name, scheduler_id=scheduler)
            ended = self._hook.find_jobs(name, ended_since=since, scheduler_id=scheduler)
            trouble = trouble or live.problem or ended.problem
            for job in (*ended, *live):
                found = JobName.read(job.name)
                if found and found.task == self._who.task:
                    jobs[job.job_id] = job
        placeholder = None
        if self.intent and self.intent.job_id and self.intent.job_id not in jobs:
            placeholder = ReportedJob(self.intent.job_id, self.intent.name, JobState.UNKNOWN, "list")
            jobs[self.intent.job_id] = placeholder
        for job in list(jobs.values()):
            if not (job.source == "list" and job.state.is_unfinished):
                # Its detail, the history, and the detail once more.
                if known := self._hook.get_job(job.job_id, since=since, scheduler_id=scheduler):
                    jobs[job.job_id] = known
                    self._check_name(known)
                elif job is placeholder:
                    del jobs[job.job_id]
        return Seen(list(jobs.values()), asked_at, trouble)

    def _names(self) -> Sequence[str]:
        """Return the names that jobs of this round may have."""
        written = JobName.read(self.intent.name) if self.intent else None
        most = written.number + bool(self.intent and self.intent.has_failed) if written else 0
        names = [
            str(JobName(self._who.task, self._who.round, each, self._who.readable)) for each in range(most + 1)
        ]
        return list(dict.fromkeys([*names, *([self.intent.name] if self.intent else [])]))

    def _check_name(self, job: ReportedJob) -> None:
        if not self.intent or job.job_id != self.intent.job_id or not self.intent.keeps_name:
            return
        asked, found = JobName.read(self.intent.name), JobName.read(job.name)
        if asked and (found is None or found.key != asked.key):
            self._log.warning(
                "the cluster calls job %s '%s' instead of '%s': a later try will not find it by its name",
                job.job_id,
                job.name,
                self.intent.name,
            )
            self._write(keeps_name=False)

    def _write(self, **changed: Any) -> None:
        if self.intent:
            self.intent = dataclasses.replace(self.intent, **changed)
            self._intents.write(self.intent)

    def submit(self, name: JobName, request: JobRequest) -> str:
        """
        Submit a job, once.

        :param name: its name
        :param request: what is asked
        :return: why there is none yet, or perhaps none; empty where it was accepted
        :raises IntentError: where the intent cannot be written; nothing was submitted then
        :raises ScnetError: where nothing was submitted
        """
        before = self.intent
        self.intent = Intent(str(name), time.time())
        self._intents.write(self.intent)
        try:
            job_id = self._hook.submit_job(
                dataclasses.replace(request, job_name=str(name)), scheduler_id=self.scheduler_id
            )
        except ScnetSubmissionUnknownError as error:
            self._write(said=str(error))
            return str(error)
        except Exception as error:
            # It is certain that there is no job: the next try need not wait for it to appear.
            if before:
                self._intents.write(before)
            else:
                self._intents.forget()
            if isinstance(error, ScnetJobLimitError):
                return str(error)
            raise
        self._log.info("job %s (%s) is submitted", job_id, name)
        self._write(job_id=job_id)
        return ""

    def take(self, job: ReportedJob) -> None:
        """Note that this is the job, which may have been found by its name."""
        if self.intent is None:
            self._log.info("job %s (%s) is there already: it is taken", job.job_id, job.name)
            self.intent = Intent(job.name, time.time(), job.job_id)
            self._intents.write(self.intent)
        elif self.intent.job_id != job.job_id:
            self._log.info("job %s (%s) is there already: it is taken", job.job_id, job.name)
            self._write(job_id=job.job_id, name=job.name if JobName.read(job.name) else self.intent.name, said="")

    def note_end(self, decision: Decision) -> None:
        """Note since when a job that has ended is looked at, while it is not known how it did."""
        if decision.step is Step.LOOK_AGAIN and decision.jobs and self.intent and not self.intent.ended_at:
            self._write(ended_at=time.time())

    def cancel(self, job: ReportedJob, why: str, **changed: Any) -> str:
        """
        Ask SCnet to cancel a job.

        :param job: the job
        :param why: for people
        :param changed: what to write of the intent
        :return: what is awaited now
        """
        self._log.info("job %s (%s) is cancelled: %s", job.job_id, job.name, why)
        if changed:
            self._write(**changed)
        self._hook.cancel_job(job.job_id, scheduler_id=self.scheduler_id)
        return f"job {job.job_id} is being cancelled"

    def has_failed(self) -> None:
        """Note that the try fails because of the job: the next one submits another."""
        self._write(has_failed=True)

    def forget(self) -> None:
        """Remove what was written of a job that has succeeded."""
        self._intents.forget()

    def read_log(self, path: str, lines: int) -> str:
        """Return the last lines of a file of the cluster."""
        return self._hook.read_log(path, lines=lines)

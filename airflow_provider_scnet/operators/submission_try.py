# SPDX-License-Identifier: Apache-2.0
"""One try of a task that submits a job: what it sees of the jobs of all tries, and what it does."""

from __future__ import annotations

import dataclasses
from datetime import datetime, timedelta
from typing import Any

from airflow_provider_scnet.client.errors import (
    ScnetApiError,
    ScnetError,
    ScnetJobLimitError,
    ScnetSubmissionUnknownError,
)
from airflow_provider_scnet.client.job_request import JobRequest
from airflow_provider_scnet.client.job_state import JobState
from airflow_provider_scnet.client.reported_job import ReportedJob
from airflow_provider_scnet.event_loop import clock
from airflow_provider_scnet.gate.reporter import Log
from airflow_provider_scnet.hooks.scnet import ScnetHook
from airflow_provider_scnet.operators.intents import IntentError, Intents
from airflow_provider_scnet.operators.job_name import JobName
from airflow_provider_scnet.operators.submit_once import Decision, Intent, Seen, Try, decide

# The history is asked for times before the run's start: clocks differ.
_CLOCKS_DIFFER = timedelta(hours=1)
# Seconds within which an intent has to be written: another try could miss a request much later than it says.
_WRITTEN_WITHIN = 30.0


class Attempt:
    """
    One try.

    :param hook: how SCnet is asked
    :param this: which try it is
    :param intents: where it writes down what it is about to submit
    :param log: the task's log
    :param since: a time before which nothing of the DAG run was submitted
    :param settle: seconds from a request to submit for which a job that is in no list may yet appear
    :param interval: seconds between two looks
    """

    def __init__(
        self,
        hook: ScnetHook,
        this: Try,
        intents: Intents,
        log: Log,
        since: datetime,
        settle: float,
        interval: float,
    ) -> None:
        self.hook = hook
        self._this = this
        self._intents = intents
        self._log = log
        self._since = since - _CLOCKS_DIFFER
        self._settle, self._interval = settle, interval
        self._scheduler_id = ""
        # Whether it is only in memory, as it could not be written.
        self._is_unwritten = False
        #: What was written last of what is submitted, of this round or an earlier one.
        self.intent: Intent | None = None
        #: The job that this process has just submitted.
        self.submitted: ReportedJob | None = None
        #: Ids of jobs that were queued again after they had run.
        self.has_run: set[str] = set()

    @property
    def scheduler_id(self) -> str:
        """The region's scheduler."""
        self._scheduler_id = self._scheduler_id or self.hook.get_scheduler_id()
        return self._scheduler_id

    @property
    def known_job(self) -> ReportedJob | None:
        """The round's job that is awaited, where its id is known, whatever its state."""
        intent = self._of_this_round
        if not intent or not intent.job_id or intent.has_failed:
            return None
        return ReportedJob(intent.job_id, intent.called or intent.name, JobState.UNKNOWN, "list")

    @property
    def job_id(self) -> str:
        """The id of the round's job, as far as it is known."""
        return self.known_job.job_id if self.known_job else ""

    @property
    def _of_this_round(self) -> Intent | None:
        return self.intent if self.intent and self.intent.asked.round == self._this.round else None

    def next_step(self) -> Decision:
        """
        Look at all there is, and decide what comes next.

        :raises IntentError: where what was submitted cannot be read, or written
        :raises ScnetError: where SCnet does not answer
        """
        if self._is_unwritten:
            self._write()
        else:
            self.intent = self._intents.read()
        if intent := self._of_this_round:
            # Airflow's own store knows the task, whatever becomes of the namespace.
            self._this = dataclasses.replace(self._this, task=intent.asked.task)
        seen = self._look()
        decision = decide(self._this, seen, self.intent, settle=self._settle, interval=self._interval)
        if decision.is_unclear:
            job = next(iter(decision.jobs), None)
            intent, run = (self._intent_of(job), str(job.started_at)) if job else (self.intent, "")
            if intent and not (intent.unclear_since and intent.unclear_run == run):
                self._write(intent, unclear_since=seen.asked_at, unclear_run=run)
        return decision

    def _look(self) -> Seen:
        asked_at, intent, names = clock.wall(), self.intent, self._names()
        # Where earlier rounds may have left any, or nobody knows what was submitted, all jobs are of interest.
        is_sure = not self._this.round and (intent or self._this.is_first)
        find, scheduler_id = self.hook.find_jobs, self.scheduler_id
        live = [find(name, scheduler_id=scheduler_id) for name in (names if is_sure else [""])]
        ended = [find(name, ended_since=self._since, scheduler_id=scheduler_id) for name in names]
        self.has_run |= {job.job_id for found in ended for job in found}
        jobs = {
            job.job_id: job
            for found in (*ended, *live)
            for job in found
            if (name := JobName.read(job.name)) and name.task == self._this.task
        }
        problems = dict.fromkeys(found.problem for found in (*live, *ended) if found.problem)
        if any(found.is_null for found in live) and (intent or not self._this.is_first):
            problems |= dict.fromkeys(filter(None, [self._doubt_of_null()]))
        for job_id in dict.fromkeys([*jobs, *([intent.job_id] if intent and intent.job_id else [])]):
            job = jobs.get(job_id)
            if not (job and job.source == "list" and job.state.is_unfinished):
                # Its detail, the history, and the detail once more.
                job = self.hook.get_job(job_id, since=self._since, scheduler_id=self.scheduler_id) or job
            if job and self._is_meant(job):
                jobs[job_id] = job
            else:
                jobs.pop(job_id, None)
        return Seen(list(jobs.values()), asked_at, "; ".join(problems))

    def _doubt_of_null(self) -> str:
        """Return why it is no proof that there is no job where SCnet sends no list of some name; empty: it is."""
        if not self.hook.find_jobs(scheduler_id=self.scheduler_id).is_null:
            return ""
        counts = self.hook.get_job_counts()
        return "" if counts.total == 0 else f"SCnet sends no list of jobs, and counts some: {counts}"

    def _names(self) -> list[str]:
        """Return the names that the round's last job, and the one after it, may have."""
        intent = self._of_this_round
        number = intent.asked.number + intent.has_failed if intent else 0
        return list(dict.fromkeys([*([intent.name] if intent else []), str(self._this.name(number))]))

    def _is_meant(self, job: ReportedJob) -> bool:
        """Whether a job is what its id says: another cluster may have one of the same id."""
        if not self.intent or job.job_id != self.intent.job_id:
            return True
        if not self.intent.called:
            self._write(self.intent, called=job.name)
            if self.intent.is_renamed:
                self._log.warning(
                    "the cluster calls job %s '%s' instead of '%s': no later try would find a job by its name",
                    job.job_id,
                    job.name,
                    self.intent.name,
                )
        return job.name == self.intent.called

    def _intent_of(self, job: ReportedJob) -> Intent:
        """Return what is to be written of a job, which may have been found by its name."""
        intent = self._of_this_round
        if intent and intent.job_id == job.job_id:
            return intent
        self._log.info("job %s (%s) is there already: it is taken", job.job_id, job.name)
        return Intent(job.name, intent.at if intent else clock.wall(), job.job_id, called=job.name)

    def _write(self, intent: Intent | None = None, **changed: Any) -> None:
        intent = intent or self.intent
        assert intent is not None  # noqa: S101
        self.intent, self._is_unwritten = dataclasses.replace(intent, **changed), True
        self._intents.write(self.intent)
        self._is_unwritten = False

    def submit(self, name: JobName, request: JobRequest) -> str:
        """
        Submit a job, once.

        :param name: its name
        :param request: what is asked
        :return: what is awaited; it was accepted where it is ``submitted``
        :raises IntentError: where the intent cannot be written; nothing was submitted then
        :raises ScnetError: where nothing was submitted
        """
        self.submitted, before, scheduler_id = None, self.intent, self.scheduler_id
        intent = Intent(str(name), clock.wall())
        self._intents.write(intent)
        self.intent = intent
        if clock.wall() > intent.at + _WRITTEN_WITHIN:
            return "Airflow took too long to write down what is submitted: nothing was"
        try:
            job_id = self.hook.submit_job(
                dataclasses.replace(request, job_name=str(name)), scheduler_id=scheduler_id
            )
        except ScnetSubmissionUnknownError as error:
            self._write_later(at=clock.wall(), said=str(error))
            return str(error)
        except ScnetError as error:
            # It is certain that there is no job: the next try need not wait for it to appear.
            try:
                self._intents.write(before) if before else self._intents.remove()
                self.intent = before
            except IntentError as unwritten:
                self._log.warning("%s", unwritten)
            if isinstance(error, ScnetJobLimitError):
                return str(error)
            raise
        self._log.info("job %s (%s) is submitted", job_id, name)
        self._write_later(job_id=job_id)
        self.submitted = ReportedJob(job_id, str(name), JobState.QUEUED, "list")
        return f"job {job_id} is {JobState.QUEUED}"

    def _write_later(self, intent: Intent | None = None, **changed: Any) -> None:
        """Write, if not at once then before the next step: what is submitted is known here."""
        try:
            self._write(intent, **changed)
        except IntentError as error:
            self._log.warning("%s", error)

    def take(self, job: ReportedJob) -> None:
        """Note that this is the job, which may have been found by its name."""
        intent = dataclasses.replace(self._intent_of(job), has_failed=False)
        if job.state.is_unfinished:
            intent = dataclasses.replace(intent, unclear_since=0.0)
        if intent != self.intent:
            self._write(intent)

    def cancel(self, job: ReportedJob, why: str, **changed: Any) -> str:
        """
        Ask SCnet to cancel a job.

        :param job: the job
        :param why: for people
        :param changed: what to write of the intent before
        :return: what is awaited now
        :raises IntentError: where that cannot be written
        """
        self._log.info("job %s (%s) is cancelled: %s", job.job_id, job.name, why)
        intent = self.intent or Intent(job.name, clock.wall(), job.job_id, called=job.name)
        if changed:
            # First: else the next try would not know who cancelled it.
            self._write(intent, **changed)
        seen, refusal = None, ""
        try:
            seen = self.hook.cancel_job(job.job_id, scheduler_id=self.scheduler_id)
        except ScnetError as error:
            refusal = f"job {job.job_id} goes on, as it cannot be cancelled: {error}"
            self._log.warning("%s", refusal)
            if not isinstance(error, ScnetApiError):
                return refusal
        if intent.cancelled_at < self._this.began_at:
            intent = intent if self.intent is None else self.intent
            self._write_later(intent, cancelled_at=clock.wall())
        if seen and seen.state.is_unfinished:
            self._log.info("job %s is %s after it was cancelled", job.job_id, seen.state)
        return refusal or f"job {job.job_id} is being cancelled"

    def resists(self) -> bool:
        """Tell whether the job was cancelled by this try, and that must have shown by now."""
        return bool(self.intent and self.intent.resists(self._this, clock.wall()))

    def fail(self) -> None:
        """Note that the try fails because of the job: the next one submits another, or fails as well."""
        self._write_later(has_failed=True)

    def tidy_up(self) -> None:
        """Remove what was written of a job that is over."""
        try:
            self._intents.tidy_up()
        except IntentError as error:
            self._log.warning("%s", error)

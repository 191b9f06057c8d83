# SPDX-License-Identifier: Apache-2.0
"""
Whether to submit a job, or to take one that is there: the whole rule of "never knowingly twice".

A task's tries leave jobs whose names begin with a key, and an intent that was written before each submission. What
both say at one moment makes one step; nothing here asks or writes.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Sequence
from typing import Any

from airflow_provider_scnet.client.job_state import HISTORY_LAG, JobState
from airflow_provider_scnet.client.reported_job import ReportedJob
from airflow_provider_scnet.operators.job_name import JobName

#: Seconds from a request to submit until a job that is in no list was not submitted.
SETTLE = 120.0
#: Seconds for which the live list at least shows a job, as it does so for five minutes after its end.
LISTED_FOR = 240.0
#: Seconds within which a job ends that was cancelled.
CANCELLED_WITHIN = 600.0

# Slurm may queue such a job again, under the same id.
_MAY_COME_BACK = {JobState.NODE_FAILED, JobState.PREEMPTED, JobState.REQUEUED}


@dataclasses.dataclass(frozen=True)
class Try:
    """
    Which try of which task instance it is.

    :param task: the hash of the task instance
    :param round: how often somebody has cleared the task after it had ended, or a number that grows with that
    :param is_first: whether there was no try before, of whichever round
    :param began_at: when it began, in seconds since 1970
    :param readable: the readable part of the names of its jobs
    """

    task: str
    round: int = 0
    is_first: bool = True
    began_at: float = 0.0
    readable: str = ""

    def name(self, number: int) -> JobName:
        """Return the name of the round's job of a number."""
        return JobName(self.task, self.round, number, self.readable)


@dataclasses.dataclass(frozen=True)
class Intent:
    """
    What was about to be submitted; written down before the request, and after the answer.

    :param name: the job's name
    :param at: when the request was about to be made, in seconds since 1970, or when it had failed
    :param job_id: the id by which it was accepted, or of the job that was taken; empty where that is not known
    :param called: what the cluster calls the job of that id; empty until that was read
    :param said: the answer, where it told neither that the job was taken nor that it was not
    :param unclear_since: since when it is not clear what became of the job; 0 while it is
    :param unclear_run: when the run of the job began of which it is not clear, as it may be queued again
    :param cancelled_for: why the task itself has cancelled it; empty where it has not
    :param cancelled_at: when SCnet first answered to that, in the try that did so last
    :param has_failed: whether a try has failed because of this job
    """

    name: str
    at: float
    job_id: str = ""
    called: str = ""
    said: str = ""
    unclear_since: float = 0.0
    unclear_run: str = ""
    cancelled_for: str = ""
    cancelled_at: float = 0.0
    has_failed: bool = False

    @classmethod
    def read(cls, written: Any) -> Intent | None:
        """Return what was written; None where it is something else."""
        try:
            found = cls(**written)
        except TypeError:
            return None
        return found if JobName.read(str(found.name)) and isinstance(found.at, (int, float)) else None

    def written(self) -> dict[str, Any]:
        """Return it as something to be written."""
        return dataclasses.asdict(self)

    @property
    def asked(self) -> JobName:
        """The name, read."""
        name = JobName.read(self.name)
        assert name is not None  # noqa: S101 - Intent.read() and submit() make no others
        return name

    def resists(self, this: Try, now: float) -> bool:
        """Whether this try has cancelled the job, and that must have shown by now."""
        return this.began_at <= self.cancelled_at <= now - CANCELLED_WITHIN

    @property
    def is_renamed(self) -> bool:
        """Whether the cluster calls the job by another name, so that no other job could be found by its own."""
        called = JobName.read(self.called)
        return bool(self.called) and (called is None or called.key != self.asked.key)


@dataclasses.dataclass(frozen=True)
class Seen:
    """
    What the cluster showed of a task's jobs: in its list, in its history, and by the id that is known.

    :param jobs: the jobs whose names begin with the task's hash, or whose id is that of the intent
    :param asked_at: when the first of these requests was begun, in seconds since 1970
    :param trouble: why it may not be all; empty where it is
    """

    jobs: Sequence[ReportedJob]
    asked_at: float
    trouble: str = ""


class Step(enum.Enum):
    """What comes next."""

    SUBMIT = "submit"
    TAKE = "take"  #: the job that is there, whatever its state
    CANCEL = "cancel"  #: what earlier rounds or tries left
    LOOK_AGAIN = "look again"
    FAIL = "fail"  #: without retry: somebody has to look


@dataclasses.dataclass(frozen=True)
class Decision:
    """
    What comes next, and why.

    :param step: what comes next
    :param why: for people
    :param name: the name of the job that is submitted
    :param jobs: the job that is taken, those that are cancelled, or the one that is looked at
    :param at: when to look again at the latest, in seconds since 1970
    :param is_unclear: whether it is to be noted since when it is not clear what became of the job
    """

    step: Step
    why: str = ""
    name: JobName | None = None
    jobs: Sequence[ReportedJob] = ()
    at: float = 0.0
    is_unclear: bool = False


def decide(
    this: Try, seen: Seen, intent: Intent | None, *, settle: float = SETTLE, interval: float = 60.0
) -> Decision:
    """
    Decide what comes next.

    :param this: which try it is
    :param seen: what the cluster showed
    :param intent: what was written last, by whichever round; None: nothing was, or it cannot be found
    :param settle: seconds from a request to submit until a job that is in no list was not submitted
    :param interval: seconds after which to look again where nothing else says when
    """
    ours, left = _sorted(this, seen, intent)
    is_known = intent is not None
    earlier = intent if intent and intent.asked.round != this.round else None
    if earlier:
        intent = None
    looker = _Looker(seen, settle, seen.asked_at + interval)
    if waits := looker.of_earlier_rounds(this, left, earlier):
        return waits
    number = max([*ours, intent.asked.number if intent else 0])
    if intent and intent.asked.number != number:
        intent = None
    if intent and intent.has_failed:
        job = ours.get(number)
        if job and job.state.is_unfinished and intent.cancelled_for and not intent.resists(this, seen.asked_at):
            return Decision(Step.CANCEL, intent.cancelled_for, jobs=[job])
        if job and (_may_go_on(job) or job.state is JobState.COMPLETED):
            return looker.of_job(job, intent)  # it goes on after all
        if intent.is_renamed:
            return _of_renamed(intent)
        number, intent = number + 1, None
    if job := ours.get(number):
        return looker.of_job(job, intent)
    if intent:
        return looker.of_intent(intent, this.name(number))
    if seen.trouble:
        return looker.again(seen.trouble)
    if not (is_known or this.is_first) and seen.asked_at < this.began_at + settle:
        return looker.again("an earlier try may have submitted", this.began_at + settle)
    return Decision(Step.SUBMIT, name=this.name(number))


def _sorted(this: Try, seen: Seen, intent: Intent | None) -> tuple[dict[int, ReportedJob], list[ReportedJob]]:
    """Return the jobs of this round by their numbers, and those of others."""
    ours, left = {}, []
    # Of several of the same number, which should not be, the one that goes on.
    for job in sorted(seen.jobs, key=lambda job: job.state.is_unfinished):
        is_intents = intent is not None and job.job_id == intent.job_id
        name = intent.asked if intent and is_intents else JobName.read(job.name)
        if name and (is_intents or name.task == this.task):
            if name.round == this.round:
                ours[name.number] = job
            else:
                left.append(job)
    return ours, left


def _of_renamed(intent: Intent) -> Decision:
    return Decision(
        Step.FAIL,
        f"the cluster calls job {intent.job_id} '{intent.called}' instead of '{intent.name}', so a later try could"
        " not find its own job: nothing more is submitted. Clear the task to submit once more",
    )


@dataclasses.dataclass(frozen=True)
class _Looker:
    seen: Seen
    settle: float
    next_look: float

    def again(
        self, why: str, at: float = float("inf"), job: ReportedJob | None = None, is_unclear: bool = False
    ) -> Decision:
        jobs = [job] if job else []
        return Decision(Step.LOOK_AGAIN, why, jobs=jobs, at=min(at, self.next_look), is_unclear=is_unclear)

    def of_earlier_rounds(self, this: Try, left: Sequence[ReportedJob], earlier: Intent | None) -> Decision | None:
        """Return what they keep this round waiting for."""
        going_on = [job for job in left if _may_go_on(job)]
        ids = ", ".join(job.job_id for job in going_on)
        if going_on and earlier and earlier.resists(this, self.seen.asked_at):
            why = f"job {ids} was submitted before the task was cleared, and cannot be cancelled"
            return Decision(Step.FAIL, f"{why}: cancel it, and clear the task again", jobs=going_on)
        if going_on:
            return Decision(Step.CANCEL, "somebody has cleared the task since", jobs=going_on)
        until = this.began_at + self.settle
        if self.seen.asked_at < until and not all(job.state.is_final for job in left):
            return self.again("what was submitted before the task was cleared may be queued again", until)
        if earlier is None or any(
            job.job_id == earlier.job_id or ((name := JobName.read(job.name)) and name.key == earlier.asked.key)
            for job in left
        ):
            return None
        until = earlier.at + self.settle
        if self.seen.asked_at < until or self.seen.trouble:
            why = self.seen.trouble or "something was perhaps submitted before the task was cleared"
            return self.again(why, until)
        return None

    def of_job(self, job: ReportedJob, intent: Intent | None) -> Decision:
        if job.state.is_unfinished or job.state.is_final:
            return Decision(Step.TAKE, jobs=[job])
        if _may_go_on(job):
            return self.again(f"job {job.job_id} is there, and SCnet does not say how it goes", job=job)
        may_come_back = job.state in _MAY_COME_BACK
        what = "may be queued again" if may_come_back else "has ended, and it is not known how"
        since = intent.unclear_since if intent and intent.unclear_run == str(job.started_at) else 0.0
        # Of a job that was queued again, the history may know an earlier run only.
        is_shown = may_come_back and job.source != "history"
        until = since + self.settle + (0.0 if is_shown else HISTORY_LAG)
        if not since or self.seen.asked_at < until:
            return self.again(f"job {job.job_id} {what}", until if since else float("inf"), job, is_unclear=True)
        if may_come_back:
            return Decision(Step.TAKE, jobs=[job])
        return Decision(
            Step.FAIL, f"job {job.job_id} {what}: see what became of it, and clear the task", jobs=[job]
        )

    def of_intent(self, intent: Intent, name: JobName) -> Decision:
        """Decide where there is no job of an intent, so far."""
        since, asked_at = intent.unclear_since, self.seen.asked_at
        if self.seen.trouble:
            return self.again(self.seen.trouble)
        if intent.job_id:
            until = since + self.settle + HISTORY_LAG
            if not since or asked_at < until:
                why = f"job {intent.job_id} is in no list and in no history"
                return self.again(why, until if since else float("inf"), is_unclear=True)
            what = f"job {intent.job_id} ({intent.called or intent.name}) is in no list and in no history"
            return Decision(Step.FAIL, f"{what}: see what became of it, and clear the task")
        until = intent.at + self.settle
        if asked_at < until:
            return self.again("it was perhaps submitted, and is in no list yet", until)
        if (since or asked_at) > intent.at + LISTED_FOR:
            # Nobody looked while the list would still have shown a job that ended at once.
            until = since + HISTORY_LAG if since else float("inf")
            if asked_at < until:
                return self.again("it was perhaps submitted, and has ended", until, is_unclear=True)
        if intent.said:
            why = f"no job {intent.name} came of it; the answer to the submission was: {intent.said}"
            return Decision(Step.FAIL, why)
        return Decision(Step.SUBMIT, "the try before died before it submitted", name=name)


def _may_go_on(job: ReportedJob) -> bool:
    """Whether a job has not ended for certain; what only the history knows has ended."""
    return job.state.is_unfinished or (job.state is JobState.UNKNOWN and job.source != "history")

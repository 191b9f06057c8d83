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

from airflow_provider_scnet.client.lifecycle import JobState
from airflow_provider_scnet.client.reported_job import ReportedJob
from airflow_provider_scnet.operators.job_name import JobName

#: Seconds from a request to submit until a job that is in no list was not submitted.
SETTLE = 120.0
#: Seconds that history may need besides, for a job that was seen or whose id is known.
HISTORY_LAG = 900.0

# Slurm may queue such a job again, under the same id.
_MAY_COME_BACK = {JobState.NODE_FAILED, JobState.PREEMPTED, JobState.REQUEUED}


@dataclasses.dataclass(frozen=True)
class Intent:
    """
    What was about to be submitted; written down before the request, and after the answer.

    :param name: the job's name
    :param at: when the request was about to be made, in seconds since 1970
    :param job_id: the id by which it was accepted, or of the job that was taken; empty where that is not known
    :param said: the answer, where it told neither that the job was taken nor that it was not
    :param ended_at: when the job was first seen to have ended, where that may not be its end
    :param cancelled_for: why the task itself has cancelled it; empty where it has not
    :param has_failed: whether a try has failed because of this job
    :param keeps_name: whether the cluster gave the job the name that was asked for
    """

    name: str
    at: float
    job_id: str = ""
    said: str = ""
    ended_at: float = 0.0
    cancelled_for: str = ""
    has_failed: bool = False
    keeps_name: bool = True

    @classmethod
    def read(cls, written: Any) -> Intent | None:
        """Return what was written; None where it is something else."""
        try:
            found = cls(**written)
        except TypeError:
            return None
        return found if JobName.read(found.name) and isinstance(found.at, (int, float)) else None

    def written(self) -> dict[str, Any]:
        """Return it as something to be written."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class Seen:
    """
    What the cluster showed of a task's jobs: in its list, in its history, and by the id that is known.

    :param jobs: the jobs whose names begin with the task's hash, or whose id is known
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
    CANCEL = "cancel"  #: what earlier rounds left
    LOOK_AGAIN = "look again"
    FAIL = "fail"  #: without retry: somebody has to look


@dataclasses.dataclass(frozen=True)
class Decision:
    """
    What comes next, and why.

    :param step: what comes next
    :param why: for people
    :param name: the name of the job that is submitted
    :param jobs: the job that is taken, or those that are cancelled
    :param at: when to look again at the latest, in seconds since 1970
    """

    step: Step
    why: str = ""
    name: JobName | None = None
    jobs: Sequence[ReportedJob] = ()
    at: float = 0.0


def decide(
    task: str,
    round: int,
    seen: Seen,
    intent: Intent | None,
    *,
    readable: str = "",
    believes_from: float = 0.0,
    settle: float = SETTLE,
    interval: float = 60.0,
) -> Decision:
    """
    Decide what comes next.

    :param task: the hash of the task instance
    :param round: how often somebody has cleared the task after it had ended
    :param seen: what the cluster showed
    :param intent: what was written last; None: nothing was
    :param readable: the readable part of a new job's name
    :param believes_from: from when on it is believed that there is no job although no intent could be read, in
        seconds since 1970
    :param settle: seconds from a request to submit until a job that is in no list was not submitted
    :param interval: seconds after which to look again where nothing else says when
    """
    again = seen.asked_at + interval
    written = JobName.read(intent.name) if intent else None
    if written and written.round != round:
        intent = written = None
    named = [(name, job) for job in seen.jobs if (name := JobName.read(job.name)) and name.task == task]
    left = [job for name, job in named if name.round != round and not job.state.is_final]
    if left:
        return Decision(Step.CANCEL, "somebody has cleared the task since they were submitted", jobs=left)
    if intent and not intent.keeps_name:
        return _of_changed_name(intent, seen, again)
    ours = {name.number: job for name, job in sorted(named, key=_by_state) if name.round == round}
    number = max([*ours, written.number if written else 0])
    if intent and intent.has_failed and written and written.number == number:
        job = ours.get(number)
        if job and job.state.is_unfinished:
            return Decision(Step.TAKE, "it goes on after all", jobs=[job])
        number += 1
    if job := ours.get(number):
        return _of_job(job, intent.ended_at if intent else 0.0, seen, settle, again)
    name = JobName(task, round, number, readable)
    if intent and written and written.number == number:
        return _of_intent(intent, name, seen, settle, again)
    if seen.trouble:
        return Decision(Step.LOOK_AGAIN, seen.trouble, at=again)
    if seen.asked_at < believes_from:
        return Decision(Step.LOOK_AGAIN, "an earlier try may have submitted", at=believes_from)
    return Decision(Step.SUBMIT, name=name)


def _by_state(named: tuple[JobName, ReportedJob]) -> bool:
    # Of several of the same number, which should not be, the one that goes on.
    return named[1].state.is_unfinished


def _of_job(job: ReportedJob, ended_at: float, seen: Seen, settle: float, again: float) -> Decision:
    if job.state.is_unfinished or job.state.is_final:
        return Decision(Step.TAKE, jobs=[job])
    may_come_back = job.state in _MAY_COME_BACK
    what = "may be queued again" if may_come_back else "has ended, and it is not known how"
    if not ended_at or seen.asked_at < ended_at + settle + (0.0 if may_come_back else HISTORY_LAG):
        return Decision(Step.LOOK_AGAIN, f"job {job.job_id} {what}", jobs=[job], at=again)
    if may_come_back:
        return Decision(Step.TAKE, jobs=[job])
    return Decision(Step.FAIL, f"job {job.job_id} {what}: see what became of it, and clear the task", jobs=[job])


def _of_intent(intent: Intent, name: JobName, seen: Seen, settle: float, again: float) -> Decision:
    sure_at = intent.at + settle + (HISTORY_LAG if intent.job_id else 0.0)
    if seen.asked_at < sure_at or seen.trouble:
        why = seen.trouble or "it was perhaps submitted, and is in no list yet"
        return Decision(Step.LOOK_AGAIN, why, at=again)
    if intent.job_id:
        return Decision(Step.FAIL, f"job {intent.job_id} ({intent.name}) is in no list and in no history")
    if intent.said:
        return Decision(
            Step.FAIL, f"no job {intent.name} came of it; the answer to the submission was: {intent.said}"
        )
    return Decision(Step.SUBMIT, "the try before died before it submitted", name=name)


def _of_changed_name(intent: Intent, seen: Seen, again: float) -> Decision:
    job = next((job for job in seen.jobs if intent.job_id and job.job_id == intent.job_id), None)
    if intent.has_failed or (job is None and not seen.trouble):
        why = f"the cluster changed the name of the job ({intent.name}): what was submitted cannot be told"
        return Decision(Step.FAIL, f"{why}; look for job {intent.job_id}, and clear the task when it has ended")
    return Decision(Step.TAKE, jobs=[job]) if job else Decision(Step.LOOK_AGAIN, seen.trouble, at=again)

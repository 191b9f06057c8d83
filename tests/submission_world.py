# SPDX-License-Identifier: Apache-2.0
"""A model of SCnet, of Airflow and of their faults in virtual time, around the real operator."""

from __future__ import annotations

import copy
import dataclasses
import random
from collections.abc import Callable
from datetime import datetime, timezone
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException, TaskDeferred

from airflow_provider_scnet.client import jobs as client_jobs
from airflow_provider_scnet.client.errors import (
    ErrorKind,
    ScnetConnectionError,
    ScnetJobLimitError,
    ScnetSubmissionRefusedError,
    ScnetSubmissionUnknownError,
)
from airflow_provider_scnet.client.job_lists import JobList
from airflow_provider_scnet.client.job_state import JobState
from airflow_provider_scnet.client.reported_job import ReportedJob
from airflow_provider_scnet.event_loop import clock
from airflow_provider_scnet.hooks import scnet as hooks
from airflow_provider_scnet.operators import scnet as operators
from airflow_provider_scnet.operators.job_name import JobName, task_hash
from airflow_provider_scnet.operators.submit_once import HISTORY_LAG, SETTLE


class Silent:
    """A log that takes no time."""

    def say(self, *line: object, **given: object) -> None: ...

    debug = info = warning = error = say


START = 1_800_000_000.0
INTERVAL = 60.0


TASK = operators.ScnetSubmitJobOperator(
    task_id="run",
    command="hostname",
    work_dir="/public/home/alice",
    queue_name="comp",
    wall_time="01:00:00",
    poll_interval=INTERVAL,
    timeout=40_000,
)


def moment(at: float) -> datetime:
    return datetime.fromtimestamp(at, timezone.utc)


class Killed(BaseException):
    """The worker is gone."""


@dataclasses.dataclass
class Job:
    """A job as it really is: when it starts and ends, each time that it runs."""

    id: str
    name: str
    asked: JobName
    at: float
    #: Start, end, and how it ends.
    runs: list[tuple[float, float, JobState]]
    is_cancelled_by_us: bool = False

    @property
    def ended_at(self) -> float:
        return self.runs[-1][1]

    @property
    def end(self) -> JobState:
        return self.runs[-1][2]

    def ended_runs(self, now: float) -> list[tuple[float, float, JobState]]:
        return [run for run in self.runs if run[1] <= now]

    def state(self, now: float) -> JobState:
        # Between the end of a run and its being queued again it looks as if it had ended.
        queued_at, last = self.at, self.end
        for start, end, state in self.runs:
            if now < end:
                return last if now < queued_at else JobState.QUEUED if now < start else JobState.RUNNING
            queued_at, last = end + REQUEUED_AFTER, state
        return self.end

    def cancel(self, at: float) -> None:
        if at < self.ended_at:
            kept = [run for run in self.runs if run[0] < at]
            if kept and at < kept[-1][1]:
                kept[-1] = (kept[-1][0], at, JobState.CANCELLED)
            else:
                kept.append((at, at, JobState.CANCELLED))
            self.runs = kept


#: Seconds after which a node that failed has its jobs queued again.
REQUEUED_AFTER = 50.0


@dataclasses.dataclass(frozen=True)
class Conditions:
    """What SCnet is like in a schedule, and how often what goes wrong."""

    listed_after: float
    detailed_after: float
    in_history_after: float
    slurm_record: bool
    cancelled_after: float
    rename: Callable[[str], str]
    lost: float
    limited: float
    cut: float
    away: float
    killed: float
    store_away: float

    @classmethod
    def drawn(cls, dice: random.Random) -> Conditions:
        def rarely(most: float) -> float:
            return dice.choice((0.0, 0.0, most / 4, most))

        return cls(
            listed_after=dice.choice((0.0, 0.0, 5.0, 60.0, SETTLE - 10)),
            detailed_after=dice.choice((0.0, 0.0, 30.0)),
            in_history_after=dice.choice((0.0, 60.0, 300.0, HISTORY_LAG - 10)),
            slurm_record=dice.random() < 0.7,
            cancelled_after=dice.choice((0.0, 0.0, 40.0)),
            # Not less than the key, as a cluster may do to names.
            rename=dice.choice((str, str, lambda name: name[:24])),
            lost=rarely(0.8),
            limited=rarely(0.6),
            cut=rarely(0.3),
            away=rarely(0.2),
            killed=rarely(0.06),
            store_away=rarely(0.1),
        )


class Cluster:
    """SCnet, as the hook shows it to one worker."""

    def __init__(self, dice: random.Random, like: Conditions) -> None:
        self.dice = dice
        self.like = like
        self.now = START
        self.jobs: list[Job] = []

    def pass_time(self, most: float = 1.0) -> None:
        self.now += self.dice.random() * most

    def asked(self, may_fail: bool = True) -> None:
        """Let time pass, and go wrong what may."""
        self.pass_time()
        if self.dice.random() < self.like.killed:
            raise Killed
        if may_fail and self.dice.random() < self.like.away:
            raise ScnetConnectionError("no answer")

    def listed(self, job: Job, after: float) -> bool:
        seen_from = job.at + after
        return seen_from <= self.now and not job.ended_at + 300 <= self.now

    def live(self, job: Job, source: str) -> ReportedJob:
        state = job.state(self.now)
        if not state.is_unfinished and not (source == "detail" and self.like.slurm_record):
            state = JobState.ENDED
        started = [moment(run[0]) for run in job.runs if run[0] <= self.now]
        return ReportedJob(job.id, job.name, state, source, started_at=started[-1] if started else None)  # type: ignore[arg-type]

    def history(self, is_meant: Callable[[Job], bool]) -> JobList:
        found = [
            ReportedJob(job.id, job.name, end, "history", ended_at=datetime.fromtimestamp(ended_at, timezone.utc))
            for job in self.jobs
            if is_meant(job)
            for _, ended_at, end in reversed(job.ended_runs(self.now))
            if ended_at + self.like.in_history_after <= self.now
        ]
        return self.perhaps_cut(found)

    def perhaps_cut(self, found: list[ReportedJob]) -> JobList:
        if self.dice.random() >= self.like.cut:
            return JobList(tuple(found))
        shown = [job for job in found if self.dice.random() < 0.5]
        return JobList(tuple(shown), is_complete=False, problem="it was cut")

    def live_job(self, settings: Any, job_id: str) -> ReportedJob | None:
        self.asked()
        found = [job for job in self.jobs if job.id == job_id and self.listed(job, self.like.detailed_after)]
        return self.live(found[0], "detail") if found else None

    def ended_jobs(self, settings: Any, scheduler_id: str, since: Any, job_id: str) -> JobList:
        self.asked()
        return self.history(lambda job: job.id == job_id)

    def submitted(self, request: Any) -> str:
        """Take a job, or say why not."""
        dice = self.dice
        self.asked(may_fail=False)
        if dice.random() < self.like.limited:
            raise ScnetJobLimitError("815007", "QOSMaxSubmitJobPerUserLimit", kind=ErrorKind.TRANSIENT)
        if dice.random() < 0.02:
            raise ScnetSubmissionRefusedError("815007", "Invalid partition", kind=ErrorKind.PERMANENT)
        is_lost = dice.random() < self.like.lost
        if is_lost and dice.random() < 0.5:
            self.pass_time(20)
            raise ScnetSubmissionUnknownError("no answer came")
        asked = JobName.read(request.job_name)
        assert asked
        start = self.now + dice.choice((0.0, 5.0, 200.0, 2500.0))
        runs = []
        for _ in range(dice.choice((0, 0, 0, 0, 1, 2))):
            end = start + dice.choice((1.0, 30.0, 1000.0))
            runs.append((start, end, dice.choice((JobState.NODE_FAILED, JobState.PREEMPTED))))
            start = end + REQUEUED_AFTER + dice.choice((0.0, 100.0, 2000.0))
        ends = [JobState.COMPLETED] * 5 + [JobState.FAILED] * 3 + [JobState.TIMED_OUT, JobState.OUT_OF_MEMORY]
        runs.append((start, start + dice.choice((1.0, 20.0, 400.0, 3000.0)), dice.choice(ends)))
        job = Job(str(len(self.jobs) + 1), self.like.rename(request.job_name), asked, self.now, runs)
        self.jobs.append(job)
        if dice.random() < 0.03:
            # By somebody else.
            job.cancel(self.now + dice.choice((10.0, 300.0)))
        if is_lost:
            self.pass_time(20)
            raise ScnetSubmissionUnknownError("no answer came")
        if dice.random() < self.like.killed:
            raise Killed
        return job.id


class Hook:
    """The hook's methods, on a model."""

    cluster: Cluster
    namespace = ""

    def __init__(self, scnet_conn_id: str) -> None: ...

    def get_namespace(self) -> str:
        return self.namespace

    def get_scheduler_id(self) -> str:
        self.cluster.asked()
        return "1"

    def find_jobs(self, job_name: str = "", *, ended_since: Any = None, scheduler_id: str) -> JobList:
        cluster = self.cluster
        cluster.asked()

        def is_meant(job: Job) -> bool:
            return job_name in ("", job.name)

        if ended_since:
            return cluster.history(is_meant)
        found = [
            cluster.live(job, "list")
            for job in cluster.jobs
            if is_meant(job) and cluster.listed(job, cluster.like.listed_after)
        ]
        return cluster.perhaps_cut(found)

    def get_job(self, job_id: str, *, since: Any = None, scheduler_id: str) -> ReportedJob | None:
        # The provider's own way, on the model's answers.
        return client_jobs.job(None, scheduler_id, job_id, since)  # type: ignore[arg-type]

    def submit_job(self, request: Any, *, scheduler_id: str) -> str:
        return self.cluster.submitted(request)

    def cancel_job(self, job_id: str, *, scheduler_id: str) -> ReportedJob | None:
        self.cluster.asked()
        (job,) = [job for job in self.cluster.jobs if job.id == job_id]
        job.cancel(self.cluster.now + self.cluster.like.cancelled_after)
        job.is_cancelled_by_us = True
        return self.cluster.live_job(None, job_id)

    def read_log(self, path: str, *, lines: int) -> str:
        return ""


class Store:
    """Airflow's task state store, which may be away, or take what it says it did not."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._kept: dict[str, Any] = {}

    def _asked(self) -> None:
        self._cluster.asked(may_fail=False)
        if self._cluster.dice.random() < self._cluster.like.store_away:
            raise RuntimeError("the API server is away")

    def get(self, key: str) -> Any:
        self._asked()
        return self._kept.get(key)

    def set(self, key: str, value: Any) -> None:
        self._asked()
        self._kept[key] = value
        self._asked()

    def delete(self, key: str) -> None:
        self._asked()
        self._kept.pop(key, None)
        self._asked()


@dataclasses.dataclass
class End:
    """How a task ended in a round."""

    how: str
    round: int
    at: float
    said: str = ""
    job_id: str = ""


class Airflow:
    """One Airflow that runs the task: tries, retries, and what people do to it."""

    def __init__(self, cluster: Cluster, namespace: str, begins_at: float) -> None:
        self.cluster, self.namespace = cluster, namespace
        self.begins_at = begins_at
        self.dice = cluster.dice
        self.retries = self.dice.choice((0, 1, 2, 4))
        self.deferrable = self.dice.random() < 0.7
        self.queue_timeout = self.dice.choice((None, None, 100.0, 1000.0))
        self.store = Store(cluster)
        self.ends: list[End] = []
        self.task = task_hash(namespace, "d", "r", "run", -1)

    @property
    def jobs(self) -> list[Job]:
        return [job for job in self.cluster.jobs if job.asked.task == self.task]

    def run(self) -> None:
        cluster, dice, try_number, max_tries = self.cluster, self.dice, 0, self.retries
        cluster.now, Hook.cluster, Hook.namespace = self.begins_at, cluster, self.namespace
        for clears in range(dice.choice((1, 1, 2, 3))):
            if clears:
                # What Airflow does with a task that has ended, or is deferred.
                max_tries = try_number + self.retries
                cluster.now += dice.choice((1.0, 30.0, 900.0))
            while True:
                try_number += 1
                end = self._run_try(try_number, max_tries)
                if end.how in ("success", "failed", "cleared") or try_number > max_tries:
                    break
                # It takes a while until a worker that died is missed.
                cluster.now += dice.choice((1.0, 60.0, 400.0, 1500.0))
            self.ends.append(end)

    def _run_try(self, try_number: int, max_tries: int) -> End:
        pushed: dict[str, Any] = {}
        ti = SimpleNamespace(
            dag_id="d",
            run_id="r",
            task_id="run",
            map_index=-1,
            try_number=try_number,
            max_tries=max_tries,
            xcom_push=lambda key, value: pushed.update({key: value}),
        )
        made_at = moment(START)
        context: Any = {"ti": ti, "dag_run": SimpleNamespace(run_after=made_at), "task_state_store": self.store}

        def end(how: str, said: object = "") -> End:
            return End(how, max_tries - self.retries, self.cluster.now, str(said), pushed.get("job_id", ""))

        resume: Callable[[Any], Any] = self._operator().execute
        try:
            while True:
                try:
                    left = resume(context)
                    assert left["state"] == "completed"
                    return end("success")
                except TaskDeferred as deferral:
                    # Deferred: the worker is free, and somebody may clear the task.
                    if self.dice.random() < 0.02:
                        return end("cleared")
                    event = self._event_of(deferral.trigger)
                    # A triggerer's error, an Airflow of before 3.0, or dag.test(): what was handed over is lost.
                    is_lost = self.dice.random() < 0.05
                    operator = self._operator()
                    resume = lambda context, operator=operator, event=event, lost=is_lost: (  # noqa: E731
                        operator.resume_execution("__fail__", {"error": "Trigger failure"}, context)
                        if lost
                        else operator.execute_complete(context, event)
                    )
        except Killed:
            return end("killed")
        except AirflowFailException as error:
            return end("failed", error)
        except AirflowException as error:
            return end("retried", error)

    def _operator(self) -> operators.ScnetSubmitJobOperator:
        """Return the task as another process has it; to make one anew takes long."""
        task = copy.copy(TASK)
        task.retries, task.deferrable, task.queue_timeout = self.retries, self.deferrable, self.queue_timeout
        return task

    def _event_of(self, trigger: Any) -> dict[str, Any]:
        """Let the trigger wait, by the list."""
        cluster, missed_from = self.cluster, self.cluster.now + SETTLE
        if trigger.until is not None:
            cluster.now = max(cluster.now, trigger.until)
        else:
            while True:
                cluster.now += INTERVAL
                found = [job for job in cluster.jobs if job.id == trigger.job_id]
                is_listed = found and cluster.listed(found[0], cluster.like.listed_after)
                if is_listed and found[0].state(cluster.now).is_unfinished:
                    is_queued = found[0].state(cluster.now) is JobState.QUEUED
                    if trigger.start_by is not None and is_queued and cluster.now >= trigger.start_by:
                        break
                elif is_listed or cluster.now >= missed_from:
                    break
        cluster.now += self.dice.choice((5.0, 5.0, 90.0, 700.0))
        return {"began_at": trigger.began_at, "try_number": trigger.try_number}


class World:
    """A schedule: a cluster, and two Airflows with the same DAG."""

    def __init__(self, seed: int, monkeypatch: pytest.MonkeyPatch, like: Conditions | None = None) -> None:
        dice = random.Random(seed)
        self.cluster = cluster = Cluster(dice, like or Conditions.drawn(dice))
        monkeypatch.setattr(hooks, "ScnetHook", Hook)
        monkeypatch.setattr(client_jobs, "live_job", cluster.live_job)
        monkeypatch.setattr(client_jobs, "ended_jobs", cluster.ended_jobs)
        monkeypatch.setattr(clock, "wall", lambda: cluster.now)

        def sleep(seconds: float) -> None:
            # A worker that waits may die, and need not be asked each half second.
            cluster.now += max(seconds, 5.0)
            if dice.random() < cluster.like.killed / 20:
                raise Killed

        monkeypatch.setattr(operators.time, "sleep", sleep)
        # Airflow's own loggers print, which takes most of the time.
        monkeypatch.setattr(operators.ScnetSubmitJobOperator, "log", Silent())
        self.airflows = [Airflow(cluster, "production", START), Airflow(cluster, "test", START + 100)]

    def run(self) -> None:
        for airflow in self.airflows:
            airflow.run()

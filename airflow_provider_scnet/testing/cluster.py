# SPDX-License-Identifier: Apache-2.0
"""The simulated cluster itself, without HTTP: its queues, its users, their jobs."""

from __future__ import annotations

import heapq
import itertools
import math
import threading
from collections import deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace

from airflow_provider_scnet.testing.clock import SimulatorClock, check_number, check_seconds
from airflow_provider_scnet.testing.job_plan import JobEnd, JobPlan, JobTerms, Run

STATES = ("running", "queued", "held", "suspended", "other")
#: The queue that is there from the start.
FIRST_QUEUE = "comp"
#: What a job is called whose submission does not say; SCnet's own page calls jobs so.
NO_NAME = "STDIN"


@dataclass(frozen=True)
class Job:
    """
    One job as it was when it was looked at. All times are seconds on the simulator's clock.

    ``end`` is how its last run ended. A job that was requeued has its ``earlier_runs``, and until it is queued
    again it looks as if it had ended.
    """

    id: int
    user: str
    run_for: float
    submitted_at: float
    started_at: float | None = None
    ended_at: float | None = None
    queue: str = FIRST_QUEUE
    name: str = ""
    end: JobEnd | None = None
    plan: JobPlan = field(default=JobPlan(), repr=False)
    terms: JobTerms = field(default=JobTerms(), repr=False)
    earlier_runs: tuple[Run, ...] = ()

    @property
    def stdout(self) -> str:
        """The file with its standard output."""
        return (self.terms.stdout or f"{self.terms.work_dir}/std.out.%j").replace("%j", str(self.id))

    @property
    def stderr(self) -> str:
        """The file with its standard error."""
        return (self.terms.stderr or f"{self.terms.work_dir}/std.err.%j").replace("%j", str(self.id))

    @property
    def runs(self) -> tuple[Run, ...]:
        """All of its runs that have ended, one that was cancelled in the queue too."""
        if self.ended_at is None or self.end is None:
            return self.earlier_runs
        start = self.ended_at if self.started_at is None else self.started_at
        return (*self.earlier_runs, Run(start, self.ended_at, self.end))

    def state_at(self, time: float) -> str:
        """Return in which state it was at an earlier time; empty if it was not there yet."""
        if time < self.submitted_at:
            return ""
        if any(run.started_at <= time < run.ended_at for run in self.runs):
            return "running"
        if self.ended_at is not None and self.ended_at <= time:
            return "ended"
        return "queued" if self.started_at is None or time < self.started_at else "running"

    @property
    def state(self) -> str:
        """``queued``, ``running`` or ``ended``."""
        if self.ended_at is not None:
            return "ended"
        return "queued" if self.started_at is None else "running"


@dataclass(frozen=True)
class Totals:
    """What one user did since the cluster was made, in jobs."""

    submitted: int = 0
    refused: int = 0
    highest_queued: int = 0
    highest_running: int = 0


def sbatch_says(text: str, reason: str = "") -> str:
    """
    Return what Slurm's sbatch says of a job that was not taken.

    :param text: the text of Slurm's error
    :param reason: Slurm's own word for the limit that was met, such as ``QOSMaxSubmitJobPerUserLimit``
    """
    first = f"sbatch: error: {reason}\n" if reason else ""
    return f"{first}sbatch: error: Batch job submission failed: {text}"


class SubmissionError(Exception):
    """
    The cluster took no job of a submission.

    :param message: why
    :param sbatch: what Slurm's sbatch would have said
    :param reason: Slurm's own word for the limit that was met, which sbatch says first
    """

    #: "作业提交失败", submission failed, in the list of codes of SCnet's job interfaces.
    code = "815005"

    def __init__(self, message: str, sbatch: str, reason: str = "") -> None:
        super().__init__(message)
        self.sbatch = sbatch_says(sbatch, reason)


@dataclass
class _Queue:
    slots: int
    users: frozenset[str] | None
    free: int
    enabled: bool = True
    waiting: deque[int] = field(default_factory=deque)


@dataclass
class _User:
    totals: Totals = field(default_factory=Totals)
    most_jobs: int | None = None
    #: By queue; None: of all queues together.
    pinned: dict[str | None, dict[str, int]] = field(default_factory=dict)


@dataclass
class _Planned:
    plan: JobPlan
    name: str
    times: float


class Cluster:
    """
    Queues, each first in, first out in front of slots of its own, for any number of users and threads.

    Nothing happens in the background. Whoever looks brings the cluster up to date first, event by event:
    a slot that became free at ``t`` started the next job at ``t``, whenever anybody looks.

    :param slots: how many jobs of the first queue, ``comp``, run at once, over all users
    :param run_for: seconds that a job runs if its submission does not say
    :param counted_after: seconds from a submission until the reported counts include it
    :param counts_refreshed_every: seconds for which the reported counts stay as they were; 0: they are never stale
    :param queue_limit: how many jobs of one user may be queued; None: any number
    :param clock: the time; by default real time
    """

    def __init__(
        self,
        *,
        slots: int = 4,
        run_for: float = 60.0,
        counted_after: float = 0.0,
        counts_refreshed_every: float = 0.0,
        queue_limit: int | None = None,
        clock: SimulatorClock | None = None,
    ) -> None:
        check_seconds("run_for", run_for)
        check_seconds("counted_after", counted_after)
        check_seconds("counts_refreshed_every", counts_refreshed_every)
        if queue_limit is not None:
            check_number("queue_limit", queue_limit)
        self.run_for = run_for
        self.counted_after = counted_after
        self.counts_refreshed_every = counts_refreshed_every
        self.queue_limit = queue_limit
        self.clock = clock or SimulatorClock()
        self._lock = threading.Lock()
        self._ids = itertools.count(1)
        self._users: dict[str, _User] = {}
        self._queues: dict[str, _Queue] = {}
        self._jobs: dict[int, Job] = {}
        self._running: list[tuple[float, int]] = []  # a heap of (end, job id)
        # A heap of (time, order, job id, end): a job that ends then, or, without an end, is queued again.
        self._later: list[tuple[float, int, int, JobEnd | None]] = []
        self._order = itertools.count()
        self._plans: list[_Planned] = []
        self.add_queue(FIRST_QUEUE, slots=slots)

    @property
    def users(self) -> list[str]:
        """The names of all users, in the order in which they were added."""
        with self._lock:
            return list(self._users)

    @property
    def slots(self) -> int:
        """How many jobs run at once, over all users and queues."""
        with self._lock:
            return sum(queue.slots for queue in self._queues.values())

    def add_user(self, name: str) -> None:
        """
        Add a user without jobs.

        :raises ValueError: if the name is empty or taken
        """
        with self._lock:
            if not name:
                raise ValueError("a user needs a name")
            if name in self._users:
                raise ValueError(f"the cluster has a user {name!r} already")
            self._users[name] = _User()

    def add_queue(self, name: str, *, slots: int = 4, users: Collection[str] | None = None) -> None:
        """
        Add a queue, which Slurm calls a partition.

        :param name: its name
        :param slots: how many of its jobs run at once, over all users
        :param users: who may use it; None: everybody
        :raises ValueError: if the name is empty or taken
        """
        check_number("slots", slots)
        with self._lock:
            if not name:
                raise ValueError("a queue needs a name")
            if name in self._queues:
                raise ValueError(f"the cluster has a queue {name!r} already")
            self._queues[name] = _Queue(slots, None if users is None else frozenset(users), free=slots)

    def remove_queue(self, name: str) -> None:
        """Remove a queue; its jobs end now."""
        with self._lock:
            self._queue(name)
            self._end(lambda job: job.queue == name)
            del self._queues[name]

    def set_queue_enabled(self, name: str, enabled: bool) -> None:
        """Let a queue take jobs, or none; what is there already goes on."""
        with self._lock:
            self._queue(name).enabled = enabled

    def queues(self, user: str) -> dict[str, tuple[bool, int, int]]:
        """Return whether each queue that a user may use takes jobs, its slots, and how many of them are free."""
        with self._lock:
            self._catch_up()
            self._user(user)
            return {
                name: (queue.enabled, queue.slots, queue.free)
                for name, queue in self._queues.items()
                if queue.users is None or user in queue.users
            }

    def set_most_jobs(self, user: str, jobs: int | None) -> None:
        """Allow a user so many jobs, queued and running (None: any number); what is there already stays."""
        if jobs is not None:
            check_number("jobs", jobs)
        with self._lock:
            self._user(user).most_jobs = jobs

    def most_jobs(self, user: str) -> int | None:
        """Return how many jobs, queued and running, a user may have; None: any number."""
        with self._lock:
            return self._user(user).most_jobs

    def submit(
        self,
        user: str,
        jobs: int = 1,
        run_for: float | None = None,
        *,
        queue: str | None = None,
        name: str = "",
        plan: JobPlan | None = None,
        terms: JobTerms | None = None,
    ) -> list[int]:
        """
        Submit some jobs at once: all of them, or none.

        :param user: whose jobs these are
        :param jobs: how many
        :param run_for: seconds that each of them runs (``math.inf``: never ends); None: as the cluster says
        :param queue: the queue; None: the first one there is
        :param name: what the jobs are called
        :param plan: how they go; None: as :meth:`plan_jobs` says
        :param terms: what they ask for
        :return: the ids of the jobs
        :raises SubmissionError: if the queue is disabled, or the user may not use it, or would have more than
            ``queue_limit`` jobs queued, or more jobs than :meth:`set_most_jobs` allows
        """
        run_for = self.run_for if run_for is None else run_for
        check_number("jobs", jobs)
        check_seconds("run_for", run_for)
        with self._lock:
            now = self._catch_up()
            owner = self._user(user)
            if queue is None:
                queue = next(iter(self._queues), "")
            if refusal := self._refusal(user, jobs, queue):
                owner.totals = replace(owner.totals, refused=owner.totals.refused + jobs)
                raise refusal
            ids = [next(self._ids) for _ in range(jobs)]
            for job_id in ids:
                goes = plan or self._planned(name)
                self._jobs[job_id] = Job(
                    job_id,
                    user,
                    run_for if goes.run_for is None else goes.run_for,
                    submitted_at=now,
                    queue=queue,
                    name=name or NO_NAME,
                    plan=goes,
                    terms=terms or JobTerms(),
                )
            self._queue(queue).waiting.extend(ids)
            self._fill_slots(queue, now)
            owner.totals = replace(
                owner.totals,
                submitted=owner.totals.submitted + jobs,
                highest_queued=max(owner.totals.highest_queued, self._count(user)["queued"]),
            )
            return ids

    def plan_jobs(self, plan: JobPlan, times: int | None = 1, name: str = "") -> None:
        """
        Say how the next jobs go, after those planned before.

        :param plan: how they go
        :param times: how many jobs; None: all
        :param name: only jobs whose name has this part
        """
        if times is not None and times < 1:
            raise ValueError(f"times must be 1 or more, not {times!r}")
        with self._lock:
            self._plans.append(_Planned(plan, name, math.inf if times is None else times))

    def cancel(self, user: str) -> None:
        """End all queued and running jobs of a user now."""
        with self._lock:
            self._user(user)
            self._end(lambda job: job.user == user)

    def cancel_job(self, user: str, job_id: int, after: float = 0.0) -> None:
        """
        Cancel a job of a user; nothing happens where there is no such job, or it has ended.

        :param user: whose job it is
        :param job_id: which
        :param after: seconds from now until it has ended
        """
        with self._lock:
            now = self._catch_up()
            job = self._jobs.get(job_id)
            if job is None or job.user != user or not self._is_unfinished(job):
                return
            if after:
                heapq.heappush(self._later, (now + after, next(self._order), job_id, JobEnd("CANCELLED")))
            else:
                self._end(lambda job: job.id == job_id)

    def end_job(self, job_id: int, end: JobEnd) -> None:
        """
        End a job now.

        :param job_id: which
        :param end: how it ended
        :raises LookupError: if there is no such job, or it has ended
        """
        with self._lock:
            self._catch_up()
            if not self._is_unfinished(self._job(job_id)):
                raise LookupError(f"job {job_id} has ended")
            self._end(lambda job: job.id == job_id, end)

    def requeue_job(self, job_id: int, end: JobEnd) -> None:
        """
        Queue a job again under its id: its run ends now, or has ended already.

        :param job_id: which
        :param end: how the run ends, if it is running
        :raises LookupError: if there is no such job, or it is queued
        """
        with self._lock:
            now = self._catch_up()
            if self._job(job_id).state == "queued":
                raise LookupError(f"job {job_id} is queued")
            if self._job(job_id).state == "running":
                self._end(lambda job: job.id == job_id, end)
            self._later = [entry for entry in self._later if entry[2] != job_id]
            heapq.heapify(self._later)
            self._queue_again(job_id, now)

    def set_counts(self, user: str, queue: str | None = None, **counts: int | None) -> None:
        """
        Pin reported counts of a user, by state; the true counts are not touched.

        What is pinned for a queue and for all queues together is independent, and may contradict.

        :param user: whose counts
        :param queue: those of this queue; None: those of all queues together
        :param counts: a number of jobs for any of ``running``, ``queued``, ``held``, ``suspended`` and
            ``other``; None to report the true count again. States that are not given stay as they are.
        """
        for state, count in counts.items():
            if state not in STATES:
                raise ValueError(f"no state {state!r}; there are {', '.join(STATES)}")
            if count is not None:
                check_number(state, count)
        with self._lock:
            if queue is not None:
                self._queue(queue)
            pinned = self._user(user).pinned.setdefault(queue, {})
            for state, count in counts.items():
                if count is None:
                    pinned.pop(state, None)
                else:
                    pinned[state] = count

    def counts(self, user: str, queue: str | None = None) -> dict[str, int]:
        """Return how many jobs of a user are really there, in one queue or in all, by state."""
        with self._lock:
            self._catch_up()
            self._user(user)
            return self._count(user, queue)

    def reported(self, user: str, queue: str | None = None) -> dict[str, int]:
        """Return what the cluster says now: jobs that are old enough to be counted, and pinned counts."""
        with self._lock:
            return self._reported(user, queue, self._catch_up())

    def reported_by_queue(self, user: str) -> dict[str, dict[str, int]]:
        """Return what the cluster says of each queue in which the user has a job, or counts that are pinned."""
        with self._lock:
            now = self._catch_up()
            counts = {queue: self._reported(user, queue, now) for queue in self._queues}
            pinned = self._user(user).pinned
            return {queue: states for queue, states in counts.items() if any(states.values()) or pinned.get(queue)}

    def jobs(self, user: str) -> list[Job]:
        """Return all jobs of a user, ended ones too, in the order in which they were submitted."""
        with self._lock:
            self._catch_up()
            self._user(user)
            return [job for job in self._jobs.values() if job.user == user]

    def totals(self, user: str) -> Totals:
        """Return what a user did since the cluster was made."""
        with self._lock:
            self._catch_up()
            return self._user(user).totals

    def _user(self, name: str) -> _User:
        try:
            return self._users[name]
        except KeyError:
            raise LookupError(f"the cluster has no user {name!r}") from None

    def _queue(self, name: str) -> _Queue:
        try:
            return self._queues[name]
        except KeyError:
            raise LookupError(f"the cluster has no queue {name!r}") from None

    def _job(self, job_id: int) -> Job:
        try:
            return self._jobs[job_id]
        except KeyError:
            raise LookupError(f"the cluster has no job {job_id}") from None

    def _planned(self, name: str) -> JobPlan:
        for planned in self._plans:
            if planned.name in name:
                planned.times -= 1
                self._plans = [each for each in self._plans if each.times > 0]
                return planned.plan
        return JobPlan()

    def _is_unfinished(self, job: Job) -> bool:
        """Whether a job is queued, running, or about to be queued again."""
        return job.ended_at is None or any(entry[2:] == (job.id, None) for entry in self._later)

    def _refusal(self, user: str, jobs: int, queue: str) -> SubmissionError | None:
        if not self._queue(queue).enabled:
            return SubmissionError(
                f"the queue {queue!r} is disabled", "Required partition not available (inactive or drain)"
            )
        allowed, most_jobs = self._queue(queue).users, self._user(user).most_jobs
        if allowed is not None and user not in allowed:
            return SubmissionError(
                f"{user} may not use the queue {queue!r}", "User's group not permitted to use this partition"
            )
        counts = self._count(user)
        queued = counts["queued"] + max(0, jobs - self._queue(queue).free)
        over = "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"
        if self.queue_limit is not None and queued > self.queue_limit:
            return SubmissionError(
                f"{user} would have {queued} jobs in the queue, {self.queue_limit} are allowed",
                over,
                "QOSMaxSubmitJobPerUserLimit",
            )
        total = sum(counts.values()) + jobs
        if most_jobs is not None and total > most_jobs:
            return SubmissionError(
                f"{user} would have {total} jobs, {most_jobs} are allowed", over, "AssocMaxSubmitJobLimit"
            )
        return None

    def _end(self, is_meant: Callable[[Job], bool], end: JobEnd | None = None) -> None:
        now = self._catch_up()
        awaited = [self._jobs[job_id] for _, _, job_id, then in self._later if then is None]
        for job in filter(is_meant, [*self._unfinished(), *awaited]):
            self._jobs[job.id] = replace(job, ended_at=now, end=end or JobEnd("CANCELLED"))
            self._later = [entry for entry in self._later if entry[2] != job.id]
        heapq.heapify(self._later)
        self._free_slots_of_the_ended(now)

    def _free_slots_of_the_ended(self, now: float) -> None:
        self._running = sorted(entry for entry in self._running if self._jobs[entry[1]].ended_at is None)
        for name, queue in self._queues.items():
            queue.waiting = deque(i for i in queue.waiting if self._jobs[i].ended_at is None)
            queue.free = queue.slots - sum(self._jobs[i].queue == name for _, i in self._running)
            self._fill_slots(name, now)

    def _catch_up(self) -> float:
        """Let everything happen that is due, in its order; return the time."""
        now = self.clock.now()
        while True:
            run_ends = self._running[0][0] if self._running else math.inf
            later = self._later[0][0] if self._later else math.inf
            if not min(run_ends, later) <= now:
                return now
            if run_ends <= later:
                self._end_run(*heapq.heappop(self._running))
            else:
                self._do_later(*heapq.heappop(self._later))

    def _end_run(self, time: float, job_id: int) -> None:
        job = self._jobs[job_id]
        if job.terms.wall_time < job.run_for:
            end = JobEnd("TIMEOUT")
        elif len(job.earlier_runs) < job.plan.requeues:
            end = JobEnd(job.plan.requeued_as)
            heapq.heappush(self._later, (time + job.plan.requeued_after, next(self._order), job_id, None))
        else:
            end = job.plan.end
        self._jobs[job_id] = replace(job, ended_at=time, end=end)
        self._queues[job.queue].free += 1
        self._fill_slots(job.queue, time)

    def _do_later(self, time: float, order: int, job_id: int, end: JobEnd | None) -> None:
        job = self._jobs[job_id]
        if end is None:
            self._queue_again(job_id, time)
        elif job.ended_at is None:
            self._jobs[job_id] = replace(job, ended_at=time, end=end)
            self._free_slots_of_the_ended(time)

    def _queue_again(self, job_id: int, time: float) -> None:
        job = self._jobs[job_id]
        self._jobs[job_id] = replace(job, started_at=None, ended_at=None, end=None, earlier_runs=job.runs)
        self._queue(job.queue).waiting.append(job_id)
        self._fill_slots(job.queue, time)

    def _fill_slots(self, name: str, now: float) -> None:
        queue = self._queues[name]
        while queue.waiting and queue.free:
            job = replace(self._jobs[queue.waiting.popleft()], started_at=now)
            self._jobs[job.id] = job
            queue.free -= 1
            heapq.heappush(self._running, (now + min(job.run_for, job.terms.wall_time), job.id))
            owner = self._users[job.user]
            running = sum(self._jobs[job_id].user == job.user for _, job_id in self._running)
            owner.totals = replace(owner.totals, highest_running=max(owner.totals.highest_running, running))

    def _unfinished(self) -> list[Job]:
        waiting = itertools.chain.from_iterable(queue.waiting for queue in self._queues.values())
        return [self._jobs[i] for i in itertools.chain((job_id for _, job_id in self._running), waiting)]

    def _reported(self, user: str, queue: str | None, now: float) -> dict[str, int]:
        pinned = self._user(user).pinned.get(queue, {})
        if not self.counts_refreshed_every:
            return self._count(user, queue, submitted_until=now - self.counted_after) | pinned
        counts = dict.fromkeys(STATES, 0)
        then = now - now % self.counts_refreshed_every
        for job in self._jobs.values():
            state = job.state_at(then) if job.submitted_at <= then - self.counted_after else ""
            if state in counts and job.user == user and queue in (None, job.queue):
                counts[state] += 1
        return counts | pinned

    def _count(self, user: str, queue: str | None = None, submitted_until: float = math.inf) -> dict[str, int]:
        counts = dict.fromkeys(STATES, 0)
        for job in self._unfinished():
            if job.user == user and queue in (None, job.queue) and job.submitted_at <= submitted_until:
                counts[job.state] += 1
        return counts

# SPDX-License-Identifier: Apache-2.0
"""The simulated cluster itself, without HTTP: its clock, its users, their jobs."""

from __future__ import annotations

import heapq
import itertools
import math
import threading
import time
from collections import deque
from dataclasses import dataclass, field, replace

STATES = ("running", "queued", "held", "suspended", "other")


class SimulatorClock:
    """
    A clock that follows real time, or stands still until it is told to advance.

    It reads 0 when it is made. Several simulators may share one.

    :param frozen: whether the clock stands still from the start
    """

    def __init__(self, *, frozen: bool = False) -> None:
        self._lock = threading.Lock()
        self._passed = 0.0
        self._ticking_since = None if frozen else time.monotonic()

    def now(self) -> float:
        """Return the seconds since this clock was made."""
        with self._lock:
            return self._now()

    def advance(self, seconds: float) -> None:
        """Let ``seconds`` pass at once, on a frozen clock and on a ticking one."""
        _check_seconds("seconds", seconds)
        with self._lock:
            self._passed += seconds

    def freeze(self) -> None:
        """Stand still from now on."""
        with self._lock:
            self._passed = self._now()
            self._ticking_since = None

    def thaw(self) -> None:
        """Follow real time again, from where the clock stands."""
        with self._lock:
            if self._ticking_since is None:
                self._ticking_since = time.monotonic()

    def _now(self) -> float:
        if self._ticking_since is None:
            return self._passed
        return self._passed + time.monotonic() - self._ticking_since


@dataclass(frozen=True)
class Job:
    """One job as it was when it was looked at. All times are seconds on the simulator's clock."""

    id: int
    user: str
    run_for: float
    submitted_at: float
    started_at: float | None = None
    ended_at: float | None = None

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


class SubmissionError(Exception):
    """
    The cluster took no job of a submission: it would have exceeded the queue's limit.

    :param message: why
    """

    #: "作业提交失败", submission failed, in the list of codes of SCnet's job interfaces.
    code = "815005"


@dataclass
class _User:
    totals: Totals = field(default_factory=Totals)
    pinned: dict[str, int] = field(default_factory=dict)


class Cluster:
    """
    A first-in-first-out queue in front of ``slots``, for any number of users and threads.

    Nothing happens in the background. Whoever looks brings the cluster up to date first, event by event:
    a slot that became free at ``t`` started the next job at ``t``, whenever anybody looks.

    :param slots: how many jobs run at once, over all users
    :param run_for: seconds that a job runs if its submission does not say
    :param counted_after: seconds from a submission until the reported counts include it
    :param queue_limit: how many jobs of one user may be in the queue; None: any number
    :param clock: the time; by default real time
    """

    def __init__(
        self,
        *,
        slots: int = 4,
        run_for: float = 60.0,
        counted_after: float = 0.0,
        queue_limit: int | None = None,
        clock: SimulatorClock | None = None,
    ) -> None:
        _check_number("slots", slots)
        _check_seconds("run_for", run_for)
        _check_seconds("counted_after", counted_after)
        if queue_limit is not None:
            _check_number("queue_limit", queue_limit)
        self.slots = slots
        self.run_for = run_for
        self.counted_after = counted_after
        self.queue_limit = queue_limit
        self.clock = clock or SimulatorClock()
        self._lock = threading.Lock()
        self._ids = itertools.count(1)
        self._users: dict[str, _User] = {}
        self._jobs: dict[int, Job] = {}
        self._queue: deque[int] = deque()
        self._running: list[tuple[float, int]] = []  # a heap of (end, job id)

    @property
    def users(self) -> list[str]:
        """The names of all users, in the order in which they were added."""
        with self._lock:
            return list(self._users)

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

    def submit(self, user: str, jobs: int = 1, run_for: float | None = None) -> list[int]:
        """
        Submit some jobs at once: all of them, or none.

        :param user: whose jobs these are
        :param jobs: how many
        :param run_for: seconds that each of them runs (``math.inf``: never ends); None: as the cluster says
        :return: the ids of the jobs
        :raises SubmissionError: if the user would have more than ``queue_limit`` jobs in the queue
        """
        run_for = self.run_for if run_for is None else run_for
        _check_number("jobs", jobs)
        _check_seconds("run_for", run_for)
        with self._lock:
            now = self._catch_up()
            self._refuse_over_limit(user, jobs)
            ids = [next(self._ids) for _ in range(jobs)]
            for job_id in ids:
                self._jobs[job_id] = Job(job_id, user, run_for, submitted_at=now)
            self._queue.extend(ids)
            self._fill_slots(now)
            owner = self._user(user)
            owner.totals = replace(
                owner.totals,
                submitted=owner.totals.submitted + jobs,
                highest_queued=max(owner.totals.highest_queued, self._count(user)["queued"]),
            )
            return ids

    def cancel(self, user: str) -> None:
        """End all queued and running jobs of a user now."""
        with self._lock:
            now = self._catch_up()
            self._user(user)
            for job in self._unfinished(user):
                self._jobs[job.id] = replace(job, ended_at=now)
            self._queue = deque(i for i in self._queue if self._jobs[i].ended_at is None)
            self._running = sorted(entry for entry in self._running if self._jobs[entry[1]].ended_at is None)
            self._fill_slots(now)

    def set_counts(self, user: str, **counts: int | None) -> None:
        """
        Pin reported counts of a user, by state; the true counts are not touched.

        :param user: whose counts
        :param counts: a number of jobs for any of ``running``, ``queued``, ``held``, ``suspended`` and
            ``other``; None to report the true count again. States that are not given stay as they are.
        """
        for state, count in counts.items():
            if state not in STATES:
                raise ValueError(f"no state {state!r}; there are {', '.join(STATES)}")
            if count is not None:
                _check_number(state, count)
        with self._lock:
            pinned = self._user(user).pinned
            for state, count in counts.items():
                if count is None:
                    pinned.pop(state, None)
                else:
                    pinned[state] = count

    def counts(self, user: str) -> dict[str, int]:
        """Return how many jobs of a user are really there, by state."""
        with self._lock:
            self._catch_up()
            self._user(user)
            return self._count(user)

    def reported(self, user: str) -> dict[str, int]:
        """Return what the cluster says now: jobs that are old enough to be counted, and pinned counts."""
        with self._lock:
            now = self._catch_up()
            pinned = self._user(user).pinned
            return self._count(user, submitted_until=now - self.counted_after) | pinned

    def jobs(self, user: str) -> list[Job]:
        """Return all jobs of a user, ended ones too, in the order of their submission."""
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

    def _refuse_over_limit(self, user: str, jobs: int) -> None:
        owner = self._user(user)
        if self.queue_limit is None:
            return
        free = self.slots - len(self._running)
        queued = self._count(user)["queued"] + max(0, jobs - free)
        if queued > self.queue_limit:
            owner.totals = replace(owner.totals, refused=owner.totals.refused + jobs)
            raise SubmissionError(f"{user} would have {queued} jobs in the queue, {self.queue_limit} are allowed")

    def _catch_up(self) -> float:
        """Let everything happen that is due, in its order; return the time."""
        now = self.clock.now()
        while self._running and self._running[0][0] <= now:
            end, job_id = heapq.heappop(self._running)
            self._jobs[job_id] = replace(self._jobs[job_id], ended_at=end)
            self._fill_slots(end)
        return now

    def _fill_slots(self, now: float) -> None:
        while self._queue and len(self._running) < self.slots:
            job = replace(self._jobs[self._queue.popleft()], started_at=now)
            self._jobs[job.id] = job
            heapq.heappush(self._running, (now + job.run_for, job.id))
            owner = self._users[job.user]
            running = sum(self._jobs[job_id].user == job.user for _, job_id in self._running)
            owner.totals = replace(owner.totals, highest_running=max(owner.totals.highest_running, running))

    def _unfinished(self, user: str) -> list[Job]:
        ids = itertools.chain((job_id for _, job_id in self._running), self._queue)
        return [job for job in map(self._jobs.__getitem__, ids) if job.user == user]

    def _count(self, user: str, submitted_until: float = math.inf) -> dict[str, int]:
        counts = dict.fromkeys(STATES, 0)
        for job in self._unfinished(user):
            if job.submitted_at <= submitted_until:
                counts[job.state] += 1
        return counts


def _check_number(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"{name} must be a whole number from 0, not {value!r}")


def _check_seconds(name: str, value: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
        raise ValueError(f"{name} must be a number of seconds from 0, not {value!r}")

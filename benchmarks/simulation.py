# SPDX-License-Identifier: Apache-2.0
"""
How far claims carry: many triggerers on one account, none pinned, with time that passes at once.

The polls, claims and decisions are the provider's own code, a set of them for each triggerer. Simulated are the
cluster, and an Airflow that starts what stands behind a gate as late as a busy one does.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import contextvars
import dataclasses
import itertools
import random
import types
from collections.abc import Collection, Iterable
from typing import Any
from unittest import mock

from airflow_provider_scnet.client.job_counts import JobCounts
from airflow_provider_scnet.client.job_lists import JobList
from airflow_provider_scnet.client.job_state import JobState
from airflow_provider_scnet.client.observation import Observation
from airflow_provider_scnet.client.reported_job import ReportedJob
from airflow_provider_scnet.event_loop import clock
from airflow_provider_scnet.polling import kept_room
from airflow_provider_scnet.polling.accounts import Accounts
from airflow_provider_scnet.testing.clock import SimulatorClock
from airflow_provider_scnet.testing.cluster import FIRST_QUEUE, Cluster, Job
from airflow_provider_scnet.triggers import shared_accounts
from benchmarks import alone, queues, virtual_time

USER = "alice"


@dataclasses.dataclass(frozen=True)
class Setting:
    """
    What is simulated. Times are seconds; a pair is the least and the most that it takes.

    :param triggerers: how many there are
    :param dead: how many of them have died, and left their gates waiting
    :param killed_at: when the last one is killed; None: never
    :param moved_after: that Airflow takes to give the gates of a dead triggerer to the others
    :param submissions: how many gates with a submission behind each; a triggerer has its share of them
    :param runs: how many DAG runs they belong to, the same number each
    :param spread: over which the gates come, one after another
    :param interval: between two polls
    :param limit: the gates ask for ``queued < limit``
    :param submits: jobs behind each gate
    :param clusters: how many there are; each gate waits on all of them
    :param queues: how many each cluster has; each gate asks about one of them, where there are several
    :param slots: jobs that run at once in each queue
    :param run_for: that a job runs
    :param counted_after: after which the cluster's counts include a job; the connection says so as well
    :param operator: whether the provider's operator submits, which leaves the job's id and waits for its end
    :param listed_after: after which the cluster's list shows a job
    :param poll: for an answer of the cluster, twice
    :param answer: for an answer of Airflow, twice
    :param message: for a Variable that is read or written, twice
    :param passing: from a gate's decision until Airflow's state of it says so
    :param scheduling: from then until the submission is scheduled
    :param starting: from then until the submission runs
    :param submitting: from then until it has submitted, and again until Airflow says that it has ended
    """

    triggerers: int
    dead: int = 0
    killed_at: float | None = None
    moved_after: float = 30.0
    submissions: int = 1_000
    runs: int = 1
    spread: float = 0.0
    interval: float = 10.0
    limit: int = 50
    submits: int = 1
    clusters: int = 1
    queues: int = 1
    slots: int = 40
    run_for: float = 120.0
    counted_after: float = 5.0
    operator: bool = False
    listed_after: float = 2.0
    poll: tuple[float, float] = (0.05, 0.5)
    answer: tuple[float, float] = (0.02, 0.3)
    message: tuple[float, float] = (0.005, 0.05)
    passing: tuple[float, float] = (0.5, 2.0)
    scheduling: tuple[float, float] = (0.2, 1.5)
    starting: tuple[float, float] = (0.3, 2.5)
    submitting: tuple[float, float] = (0.5, 3.0)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """
    What came of it.

    :param submitted: jobs that were submitted
    :param highest: jobs that were in a queue at most
    :param over_admitted: jobs that came when their queue was full
    :param idle: percent of the slots' time that no job used while gates waited, in the queue where it was most
    :param took: seconds until all had submitted
    """

    submitted: int
    highest: int
    over_admitted: int
    idle: float
    took: float

    def __str__(self) -> str:
        """Print what a table's cell shows."""
        return f"{self.highest} / {self.over_admitted} / {self.idle:.1f}"


class _LoopClock(SimulatorClock):
    """The simulated cluster goes by the running loop's time."""

    def now(self) -> float:
        return clock.now()


_Gate = tuple[str, int]


@dataclasses.dataclass(frozen=True)
class _Region:
    """One cluster, as a connection is to a poller."""

    world: _World
    name: str
    cluster: Cluster

    async def aread_settings(self, user_name: str | None = None) -> Any:
        return types.SimpleNamespace(account=(f"https://{self.name}", USER))

    async def awith_token(self, settings: Any) -> Any:
        return settings

    async def apoll(self, settings: Any, queues: Collection[str] = (), with_list: bool = False) -> Observation:
        began, setting = clock.now(), self.world.setting
        await self.world.lasts(setting.poll)
        whole = self.cluster.reported(USER)
        by_queue = {queue: JobCounts(**self.cluster.reported(USER, queue)) for queue in queues}
        listed = self.listed() if with_list else None
        await self.world.lasts(setting.poll)
        return Observation(
            counts=JobCounts(**whole),
            queues=by_queue,
            listed=listed,
            account=settings.account,
            counted_after=setting.counted_after,
            at=began,
        )

    def listed(self) -> JobList:
        """Return the list of jobs as it is now: those that ended in the last five minutes are in it, too."""
        now, then = clock.now(), clock.now() - self.world.setting.listed_after
        return JobList(
            tuple(
                ReportedJob(str(job.id), job.name, JobState(job.state_at(then)), "list", queue=job.queue)
                for job in self.cluster.jobs(USER)
                if job.submitted_at <= then and (job.ended_at is None or job.ended_at > now - 300)
            ),
            scheduler_id="1",
        )


class _World:
    """The clusters, and the Airflow, that all triggerers share."""

    def __init__(self, setting: Setting, chance: random.Random) -> None:
        self.setting = setting
        self.chance = chance
        self.queues = [FIRST_QUEUE, *(f"queue{number}" for number in range(1, setting.queues))]
        self.clusters = {f"cluster{number}": self._new_cluster() for number in range(setting.clusters)}
        #: Airflow's states, by run, task and map index.
        self.found: dict[str, dict[str, dict[int, str | None]]] = {}
        #: In which order gates came first, by which each asks about a queue.
        self.numbers: dict[_Gate, int] = {}
        self.opened: set[_Gate] = set()
        #: The ids of jobs that tasks have left, by run, task and map index.
        self.job_ids_left: dict[tuple[str, str, int], str] = {}
        self.variables: dict[str, str] = {}
        self.last_waited = 0.0

    async def lasts(self, seconds: tuple[float, float]) -> None:
        await asyncio.sleep(self.chance.uniform(*seconds))

    def _new_cluster(self) -> Cluster:
        setting = self.setting
        cluster = Cluster(
            slots=setting.slots, run_for=setting.run_for, counted_after=setting.counted_after, clock=_LoopClock()
        )
        cluster.add_user(USER)
        for queue in self.queues[1:]:
            cluster.add_queue(queue, slots=setting.slots)
        return cluster

    def __call__(self, scnet_conn_id: str) -> _Region:
        return _Region(self, scnet_conn_id, self.clusters[scnet_conn_id])

    def fill(self, more: int = 0) -> None:
        """Let all slots be busy, with earlier jobs that end one after another, and more jobs be queued."""
        slots, run_for = self.setting.slots, self.setting.run_for
        for cluster, queue in itertools.product(self.clusters.values(), self.queues):
            for slot in range(slots + more):
                cluster.submit(USER, run_for=run_for * (slot % slots + 1) / slots, queue=queue)

    def come(self, gate: _Gate) -> None:
        """Let Airflow know of a gate that waits from now on."""
        tasks = self.found.setdefault(gate[0], {"gate": {}, "submit": {}})
        tasks["gate"][gate[1]], tasks["submit"][gate[1]] = "deferred", None

    def jobs(self) -> list[list[Job]]:
        """Return the jobs of each queue of each cluster."""
        return [
            [job for job in cluster.jobs(USER) if job.queue == queue]
            for cluster, queue in itertools.product(self.clusters.values(), self.queues)
        ]

    # What Airflow is to claims

    async def states(self, dag_id: str, run_ids: Collection[str], task_ids: Collection[str]) -> Any:
        await self.lasts(self.setting.answer)
        found = {
            run_id: {task_id: dict(states) for task_id, states in self.found[run_id].items()} for run_id in run_ids
        }
        await self.lasts(self.setting.answer)
        return found

    async def job_ids(self, dag_id: str, instances: Collection[tuple[str, str, int]]) -> Any:
        await self.lasts(self.setting.answer)
        return {each: self.job_ids_left[each] for each in instances if each in self.job_ids_left}

    async def run_states(self, dag_id: str, run_ids: Collection[str]) -> dict[str, str]:
        return {}

    async def get_variable(self, key: str) -> str | None:
        await self.lasts(self.setting.message)
        value = self.variables.get(key)
        await self.lasts(self.setting.message)
        return value

    async def set_variable(self, key: str, value: str, description: str) -> None:
        await self.lasts(self.setting.message)
        self.variables[key] = value
        await self.lasts(self.setting.message)

    # What happens

    async def gate_and_submission(
        self, run_id: str, index: int, accounts: Accounts, submits: int | None = None, **more: Any
    ) -> None:
        """Be one gate, and what stands behind it."""
        _accounts.set(accounts)
        setting = self.setting
        submits = setting.submits if submits is None else submits
        queue = self.queues[self.numbers.setdefault((run_id, index), len(self.numbers)) % len(self.queues)]
        decision = await alone.wait(
            index,
            run_id,
            scnet_conn_id=list(self.clusters) if len(self.clusters) > 1 else next(iter(self.clusters)),
            queue_name=queue if len(self.queues) > 1 else None,
            condition=f"queued < {setting.limit}",
            submits=submits,
            poke_interval=setting.interval,
            tell_job_id=["submit"] if setting.operator else [],
            **more,
        )
        self.last_waited = clock.now()
        # The triggerer may be killed from now on; the event is under way.
        self.opened.add((run_id, index))
        behind = asyncio.ensure_future(
            self._behind(run_id, index, submits, self.clusters[decision["scnet_conn_id"]], queue)
        )
        await asyncio.shield(behind)

    async def _behind(self, run_id: str, index: int, submits: int, cluster: Cluster, queue: str) -> None:
        setting, tasks = self.setting, self.found[run_id]
        await self.lasts(setting.passing)
        tasks["gate"][index] = "success"
        await self.lasts(setting.scheduling)
        tasks["submit"][index] = "scheduled"
        await self.lasts(setting.starting)
        tasks["submit"][index] = "running"
        await self.lasts(setting.submitting)
        submitted = cluster.submit(USER, submits, queue=queue)
        await self.lasts(setting.submitting)
        if setting.operator:
            self.job_ids_left[run_id, "submit", index] = str(submitted[0])
            tasks["submit"][index] = "deferred"
            while any(job.id == submitted[0] and job.ended_at is None for job in cluster.jobs(USER)):
                await self.lasts((0.0, 60.0))
        tasks["submit"][index] = "success"


_accounts: contextvars.ContextVar[Accounts] = contextvars.ContextVar("accounts")


class _Triggerer:
    """One triggerer, and the gates that wait in it."""

    def __init__(self, world: _World) -> None:
        self.world = world
        self.accounts = Accounts(world, world)
        self.tasks: dict[_Gate, asyncio.Task[None]] = {}

    def take(self, gates: Iterable[_Gate], **more: Any) -> None:
        for run_id, index in gates:
            self.tasks[run_id, index] = asyncio.ensure_future(
                self.world.gate_and_submission(run_id, index, self.accounts, **more)
            )

    async def kill(self) -> list[_Gate]:
        """Return the gates that wait on."""
        left = [gate for gate in self.tasks if gate not in self.world.opened]
        for gate in left:
            self.tasks[gate].cancel()
        await asyncio.gather(*(self.tasks[gate] for gate in left), return_exceptions=True)
        return left


async def _play(setting: Setting, chance: random.Random) -> Outcome:
    world = _World(setting, chance)
    each = setting.submissions // setting.runs
    gates = [(f"scheduled__{run:05}", index) for run in range(setting.runs) for index in range(each)]
    if setting.runs > 1 and each == 1:
        gates = [(run_id, -1) for run_id, _ in gates]
    if not setting.spread:
        for gate in gates:
            world.come(gate)
    world.fill()
    start = clock.now()
    triggerers = [_Triggerer(world) for _ in range(setting.triggerers)]

    async def run(number: int) -> None:
        # Each was started at its own time.
        await world.lasts((0.0, setting.interval))
        its_gates = gates[number :: setting.triggerers]
        if not setting.spread:
            triggerers[number].take(its_gates)
            return
        for gate in its_gates:
            await world.lasts((0.0, 2 * setting.spread / len(its_gates)))
            world.come(gate)
            triggerers[number].take([gate])

    alive = range(setting.dead, setting.triggerers)
    with mock.patch.object(shared_accounts, "accounts", _accounts.get):
        await asyncio.gather(*(run(number) for number in alive))
        if setting.killed_at is not None:
            await asyncio.sleep(start + setting.killed_at - clock.now())
            left = await triggerers[-1].kill()
            await asyncio.sleep(setting.moved_after)
            waited = setting.killed_at + setting.moved_after
            others = triggerers[:-1] or [_Triggerer(world)]
            triggerers = [*triggerers[:-1], *(other for other in others if other not in triggerers)]
            for number, other in enumerate(others):
                other.take(left[number :: len(others)], waited=waited)
        await asyncio.gather(
            *(task for each in triggerers for task in each.tasks.values()),
            return_exceptions=setting.killed_at is not None,
        )
    await world.lasts((30.0, 30.0))
    by_queue = world.jobs()
    return Outcome(
        submitted=sum(len(jobs) - setting.slots for jobs in by_queue),
        highest=max(queued for jobs in by_queue for _, queued in queues.over_time(jobs, start)),
        over_admitted=sum(queues.over_admitted(jobs[setting.slots :], setting.limit) for jobs in by_queue),
        idle=max(queues.idle(jobs, setting.slots, start, world.last_waited) for jobs in by_queue),
        took=clock.now() - start,
    )


def play(setting: Setting, seed: int = 0) -> Outcome:
    """
    Simulate.

    :param setting: what
    :param seed: of the chances in it
    """
    random.seed(seed)
    return virtual_time.run(_play(setting, random.Random(seed)))


@dataclasses.dataclass(frozen=True)
class Overtaken:
    """
    What came of one gate with several jobs among others with one.

    :param by: how many of the others opened before it
    :param after: seconds until it opened; None: it did not, before the last of the others had
    :param over_admitted: jobs that came when the queue was full
    :param idle: percent of the slots' time that no job used while gates waited
    """

    by: int
    after: float | None
    over_admitted: int
    idle: float


async def _overtake(setting: Setting, jobs: int, every: float, chance: random.Random) -> Overtaken:
    world = _World(setting, chance)
    accounts, opened = Accounts(world, world), 0
    world.fill(setting.limit - 1)
    await asyncio.sleep(setting.counted_after)
    start = clock.now()
    by, after = 0, None

    async def one(run_id: str, submits: int) -> None:
        nonlocal opened, by, after
        world.come((run_id, -1))
        await world.gate_and_submission(run_id, -1, accounts, submits)
        if submits > 1:
            by, after = opened, clock.now() - start
        opened += 1

    with mock.patch.object(shared_accounts, "accounts", _accounts.get):
        big = asyncio.ensure_future(one("scheduled__00000", jobs))
        await asyncio.sleep(setting.interval)
        small = []
        for number in range(1, setting.submissions + 1):
            small.append(asyncio.ensure_future(one(f"scheduled__{number:05}", 1)))
            await asyncio.sleep(every)
        await asyncio.gather(*small)
        last_waited = world.last_waited
        if not big.done():
            by = opened
            big.cancel()
            await asyncio.gather(big, return_exceptions=True)
    (every_job,) = world.jobs()
    return Overtaken(
        by,
        after,
        over_admitted=queues.over_admitted(every_job[setting.slots + setting.limit - 1 :], setting.limit),
        idle=queues.idle(every_job, setting.slots, start, last_waited),
    )


def overtake(setting: Setting, jobs: int, every: float, seed: int = 0) -> Overtaken:
    """
    Simulate one gate with several jobs, and others with one job that come after it, one after another.

    :param setting: what is simulated; its ``submissions`` are the others
    :param jobs: the jobs behind the one gate
    :param every: seconds after which the next of the others comes
    :param seed: of the chances in it
    """
    random.seed(seed)
    return virtual_time.run(_overtake(setting, jobs, every, random.Random(seed)))


def starvation() -> list[dict[str, object]]:
    """One gate with five jobs, then 300 with one; `queued < 5`, four slots: room is kept for it, or not."""
    rows: list[dict[str, object]] = []
    for interval, run_for in ((10.0, 40.0), (10.0, 400.0), (60.0, 400.0)):
        setting = Setting(1, submissions=300, limit=5, slots=4, interval=interval, run_for=run_for)
        # Others come a little faster than jobs end.
        every = 0.8 * run_for / setting.slots
        for is_kept in (False, True):
            with contextlib.nullcontext() if is_kept else mock.patch.object(kept_room, "MOST_OVERTAKEN", 10**9):
                found = overtake(setting, 5, every)
            rows.append(
                {
                    "interval, s": f"{interval:.0f}",
                    "each job runs, s": f"{run_for:.0f}",
                    "room is kept": "yes" if is_kept else "no",
                    "overtaken by": found.by,
                    "opens after, min": "never" if found.after is None else f"{found.after / 60:.0f}",
                    "over-admitted": found.over_admitted,
                    "slots idle, %": f"{abs(found.idle):.1f}",
                }
            )
    return rows


#: DAG runs that the submissions belong to, and what such a table row is called.
SHAPES = {1: "1 run of 1,000", 20: "20 runs of 50", 1_000: "1,000 runs of 1"}
TRIGGERERS = (1, 2, 4, 8, 16)
#: Jobs in all.
JOBS = 1_000


def simulation() -> list[dict[str, object]]:
    """1,000 jobs of 120 s behind `queued < 50`, 40 slots: highest queue / over-admitted / % of slots idle."""
    settings = [
        (shape, interval, submits, killed_at)
        for shape in SHAPES
        for interval in (10.0, 60.0)
        for submits in (1, 4)
        for killed_at in (None, 300.0)
    ]
    with concurrent.futures.ProcessPoolExecutor() as pool:
        rows = [
            [pool.submit(play, _setting(triggerers, *setting)) for triggerers in TRIGGERERS]
            for setting in settings
        ]
        return [
            {
                "gates": SHAPES[shape] if submits == 1 else f"{SHAPES[shape]}, a quarter",
                "interval, s": f"{interval:.0f}",
                "jobs a gate": submits,
                "one is killed": "yes" if killed_at else "no",
                **{
                    f"{triggerers} triggerer{'s' if triggerers > 1 else ''}": str(found.result())
                    for triggerers, found in zip(TRIGGERERS, row, strict=True)
                },
            }
            for (shape, interval, submits, killed_at), row in zip(settings, rows, strict=True)
        ]


def _setting(triggerers: int, shape: int, interval: float, submits: int, killed_at: float | None) -> Setting:
    runs = shape if shape < JOBS else JOBS // submits
    # As many gates for each run, whatever the number of runs.
    gates = JOBS // submits // runs * runs
    return Setting(
        triggerers, submissions=gates, runs=runs, interval=interval, submits=submits, killed_at=killed_at
    )


def clusters() -> list[dict[str, object]]:
    """1,000 jobs to several queues or clusters, `queued < 50` in each, 40 slots each, every 10 s; as above."""
    with concurrent.futures.ProcessPoolExecutor() as pool:
        rows = {
            (several, number, shape): [
                pool.submit(play, Setting(each, submissions=JOBS, runs=shape, **{several: number}))
                for each in TRIGGERERS[:-1]
            ]
            for several, number in (("queues", 2), ("queues", 4), ("clusters", 2), ("clusters", 4))
            for shape in (1, JOBS)
        }
        return [
            {
                "gates": SHAPES[shape],
                "they ask about": f"one of {number} queues"
                if several == "queues"
                else f"all of {number} clusters",
                **{
                    f"{triggerers} triggerer{'s' if triggerers > 1 else ''}": str(found.result())
                    for triggerers, found in zip(TRIGGERERS, row, strict=False)
                },
            }
            for (several, number, shape), row in rows.items()
        ]

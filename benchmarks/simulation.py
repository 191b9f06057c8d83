# SPDX-License-Identifier: Apache-2.0
"""
How far claims carry: many triggerers on one account, none pinned, with time that passes at once.

The looks, claims and decisions are the provider's own code, a set of them for each triggerer. Simulated are the
cluster, and an Airflow that starts what stands behind a gate as late as a busy one does.
"""

from __future__ import annotations

import asyncio
import contextvars
import dataclasses
import random
import types
from collections.abc import Collection
from typing import Any
from unittest import mock

from airflow_provider_scnet.client.job_counts import JobCounts
from airflow_provider_scnet.client.look import Look
from airflow_provider_scnet.gate import clock
from airflow_provider_scnet.gate.account import Accounts
from airflow_provider_scnet.testing.clock import SimulatorClock
from airflow_provider_scnet.testing.cluster import Cluster
from airflow_provider_scnet.triggers import here
from benchmarks import alone, queues, virtual_time

USER = "alice"


@dataclasses.dataclass(frozen=True)
class Setting:
    """
    What is simulated. Times are seconds; a pair is the least and the most that it takes.

    :param triggerers: how many there are
    :param dead: how many of them have died, and left their gates waiting
    :param submissions: how many gates with a submission behind each; a triggerer has its share of them
    :param interval: between two looks
    :param limit: the gates ask for ``queued < limit``
    :param slots: jobs that run at once
    :param run_for: that a job runs
    :param counted_after: after which the cluster's counts include a job; the connection says so as well
    :param look: for an answer of the cluster
    :param answer: for an answer of Airflow
    :param passing: from a gate's decision until Airflow's state of it says so
    :param starting: from then until the submission runs
    :param submitting: from then until it has submitted, and again until Airflow says that it has ended
    """

    triggerers: int
    dead: int = 0
    submissions: int = 1_000
    interval: float = 10.0
    limit: int = 50
    slots: int = 40
    run_for: float = 120.0
    counted_after: float = 5.0
    look: tuple[float, float] = (0.05, 0.5)
    answer: tuple[float, float] = (0.02, 0.3)
    passing: tuple[float, float] = (0.5, 2.0)
    starting: tuple[float, float] = (0.5, 4.0)
    submitting: tuple[float, float] = (0.5, 3.0)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """
    What came of it.

    :param submitted: jobs that were submitted
    :param highest: jobs that were in the queue at most
    :param over_admitted: jobs that came when the queue was full
    :param idle: percent of the slots' time that no job used while gates waited
    :param took: seconds until all had submitted
    """

    submitted: int
    highest: int
    over_admitted: int
    idle: float
    took: float


class _LoopClock(SimulatorClock):
    """The simulated cluster goes by the running loop's time."""

    def now(self) -> float:
        return clock.now()


class _World:
    """The cluster, and the Airflow, that all triggerers share."""

    def __init__(self, setting: Setting, chance: random.Random) -> None:
        self.setting = setting
        self.chance = chance
        self.cluster = Cluster(
            slots=setting.slots, run_for=setting.run_for, counted_after=setting.counted_after, clock=_LoopClock()
        )
        self.cluster.add_user(USER)
        self.gates: dict[int, str | None] = {}
        self.submissions: dict[int, str | None] = {}
        self.last_waited = 0.0

    async def lasts(self, seconds: tuple[float, float]) -> None:
        await asyncio.sleep(self.chance.uniform(*seconds))

    def __call__(self, scnet_conn_id: str) -> _World:
        return self

    async def aresolve(self, user_name: str | None = None) -> Any:
        return types.SimpleNamespace(account=("https://cluster", USER))

    async def acomplete(self, target: Any) -> Any:
        return target

    async def alook(self, target: Any) -> Look:
        began = clock.now()
        await self.lasts(self.setting.look)
        reported = self.cluster.reported(USER)
        await self.lasts(self.setting.look)
        return Look(
            counts=JobCounts(**reported),
            account=target.account,
            counted_after=self.setting.counted_after,
            at=began,
        )

    async def ask(self, dag_id: str, run_ids: Collection[str], task_ids: Collection[str]) -> Any:
        await self.lasts(self.setting.answer)
        states = {"run": {"gate": dict(self.gates), "submit": dict(self.submissions)}}
        await self.lasts(self.setting.answer)
        return states

    async def submit_behind(self, index: int, accounts: Accounts) -> None:
        """Be one gate, and what stands behind it."""
        _accounts.set(accounts)
        setting = self.setting
        await alone.wait(index, condition=f"queued < {setting.limit}", poke_interval=setting.interval)
        self.last_waited = clock.now()
        await self.lasts(setting.passing)
        self.gates[index] = "success"
        await self.lasts(setting.starting)
        self.submissions[index] = "running"
        await self.lasts(setting.submitting)
        self.cluster.submit(USER)
        await self.lasts(setting.submitting)
        self.submissions[index] = "success"


_accounts: contextvars.ContextVar[Accounts] = contextvars.ContextVar("accounts")


async def _play(setting: Setting, chance: random.Random) -> Outcome:
    world = _World(setting, chance)
    for index in range(setting.submissions):
        world.gates[index], world.submissions[index] = "deferred", None
    # All slots are busy at first, and earlier jobs end one after another.
    for slot in range(setting.slots):
        world.cluster.submit(USER, run_for=setting.run_for * (slot + 1) / setting.slots)
    earlier = setting.slots
    start = clock.now()

    async def triggerer(number: int) -> None:
        # Each was started at its own time.
        await world.lasts((0.0, setting.interval))
        accounts = Accounts(world, world.ask)
        mine = range(number, setting.submissions, setting.triggerers)
        await asyncio.gather(*(asyncio.ensure_future(world.submit_behind(index, accounts)) for index in mine))

    with mock.patch.object(here, "accounts", _accounts.get):
        alive = range(setting.dead, setting.triggerers)
        await asyncio.gather(*(asyncio.ensure_future(triggerer(number)) for number in alive))
    jobs = world.cluster.jobs(USER)
    return Outcome(
        submitted=len(jobs) - earlier,
        highest=world.cluster.totals(USER).highest_queued,
        over_admitted=queues.over_admitted(jobs[earlier:], setting.limit),
        idle=queues.idle(jobs, setting.slots, start, world.last_waited),
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


#: How often each setting is played.
RUNS = 2


def simulation() -> list[dict[str, object]]:
    """1,000 submissions behind `queued < 50`, 40 slots, jobs of 120 s, in triggerers not pinned; simulated."""
    rows: list[dict[str, object]] = []
    for interval in (10.0, 60.0):
        for triggerers in (1, 2, 4, 8, 16):
            setting = Setting(triggerers=triggerers, interval=interval)
            outcomes = [play(setting, seed) for seed in range(RUNS)]
            rows.append(
                {
                    "interval, s": f"{interval:.0f}",
                    "triggerers": triggerers,
                    "submitted": "/".join(str(each.submitted) for each in outcomes),
                    "highest queue": "/".join(str(each.highest) for each in outcomes),
                    "over-admitted": "/".join(str(each.over_admitted) for each in outcomes),
                    "slots idle while gates wait, %": "/".join(f"{each.idle:.0f}" for each in outcomes),
                }
            )
    return rows

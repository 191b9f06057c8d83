# SPDX-License-Identifier: Apache-2.0
"""What gates of one account cost one event loop as they grow in number; without an Airflow around them."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import gc
import time
import types
from collections.abc import Awaitable, Callable, Collection
from typing import Any
from unittest import mock

from airflow_provider_scnet.client.job_counts import STATES, JobCounts
from airflow_provider_scnet.client.observation import Observation
from airflow_provider_scnet.event_loop import clock
from airflow_provider_scnet.polling.accounts import Accounts
from airflow_provider_scnet.triggers import shared_accounts
from benchmarks import alone, pictures

GATES = (100, 1_000, 10_000)
#: How many looks a figure is the mean of.
LOOKS = 5
#: One in so many gates has passed, and claims, where claims are out.
CLAIMING = 10


class Cluster:
    """
    A cluster, and an Airflow, that answer at once; looks are made when the benchmark says so.

    :param queued: jobs that every look sees
    """

    def __init__(self, queued: int) -> None:
        self.queued = queued
        self.gates: dict[int, str | None] = {}
        self.submissions: dict[int, str | None] = {}
        self.variables: dict[str, str] = {}
        self._asked = asyncio.Event()
        self._let_go = asyncio.Event()

    def __call__(self, scnet_conn_id: str) -> Cluster:
        """Be the source for any connection."""
        return self

    async def aread_settings(self, user_name: str | None = None) -> Any:
        """Read no connection."""
        return types.SimpleNamespace(account=("https://cluster", "alice"))

    async def awith_token(self, target: Any) -> Any:
        """Ask no platform."""
        return target

    async def apoll(self, target: Any, queues: Any = (), with_list: bool = False) -> Observation:
        """Look when it is time."""
        self._asked.set()
        await self._let_go.wait()
        self._let_go.clear()
        counts = JobCounts(**dict.fromkeys(STATES, 0) | {"queued": self.queued})
        return Observation(counts=counts, account=target.account, at=clock.now())

    async def states(self, dag_id: str, run_ids: Collection[str], task_ids: Collection[str]) -> Any:
        """Tell the states of tasks."""
        return {"run": {"gate": self.gates, "submit": self.submissions}}

    async def run_states(self, dag_id: str, run_ids: Collection[str]) -> dict[str, str]:
        """Tell of no run that it is queued, or has ended."""
        return {}

    async def get_variable(self, key: str) -> str | None:
        """Read a Variable."""
        return self.variables.get(key)

    async def set_variable(self, key: str, value: str, description: str) -> None:
        """Write a Variable."""
        self.variables[key] = value

    async def look(self) -> None:
        """Let a look be made; return when the next one is due, and so all is done that follows from it."""
        await self._asked.wait()
        self._asked.clear()
        self._let_go.set()
        await self._asked.wait()


def growth() -> list[dict[str, object]]:
    """Gates of one account in one event loop, garbage collector off: CPU, and how long the loop stands still."""
    figures = [_measured(gates, share) for share in (0, CLAIMING) for gates in GATES]
    by_share = [[each for each in figures if each.share == share] for share in (0, CLAIMING)]
    pictures.growth(
        [{each.gates: each.cpu for each in those} for those in by_share],
        [{each.gates: max(each.still.values()) for each in those} for those in by_share],
    )
    return [
        {
            "gates": f"{each.gates:,}",
            "claims out": f"{each.claims:,}",
            "CPU per gate and poll": f"{each.cpu:.1f} µs",
            **{f"still {when}": f"{longest:.0f} ms" for when, longest in each.still.items()},
        }
        for each in figures
    ]


@dataclasses.dataclass
class _Figures:
    """What so many gates cost: microseconds per gate and poll, and the longest standstills in milliseconds."""

    gates: int
    share: int
    claims: int
    cpu: float
    still: dict[str, float]


def _measured(gates: int, share: int) -> _Figures:
    gc.collect()
    gc.disable()
    try:
        return asyncio.run(_measure(gates, share))
    finally:
        gc.enable()


async def _measure(number: int, share: int) -> _Figures:
    claiming = number // share if share else 0
    still: dict[str, float] = {}
    for end in ("the release of all", "the cancelling of all"):
        cluster = Cluster(queued=0 if claiming else 10 * number)
        accounts = Accounts(cluster, cluster)
        with mock.patch.object(shared_accounts, "accounts", return_value=accounts):
            asks = {"condition": f"queued < {claiming or 1}", "submits": int(bool(claiming)), "poke_interval": 0.0}
            waiting = [asyncio.ensure_future(alone.wait(index, **asks)) for index in range(number)]
            for index in range(number):
                cluster.gates[index] = "deferred"
                cluster.submissions[index] = None
            await cluster.look()
            if claiming:
                # A gate that opens ends when its log is written, which comes after those of all others here.
                await _end_of(waiting[:claiming])
            passed = [index for index, task in enumerate(waiting) if task.done()]
            for index in passed:
                cluster.gates[index] = "success"
            await cluster.look()
            cpu = 1e6 * await _cpu(cluster.look) / LOOKS / number
            still["at a poll"] = await _still(cluster.look)
            cluster.queued += 1
            still["where something changes"] = await _still(cluster.look)
            left = [task for task in waiting if not task.done()]
            if end == "the cancelling of all":
                still[f"at {end}"] = await _still(functools.partial(_cancel, left))
            elif not claiming:
                # What has passed holds on to its room: with claims out, they cannot all be released.
                cluster.queued = 0
                still[f"at {end}"] = await _still(functools.partial(_release, cluster, left))
            else:
                await _cancel(left)
    return _Figures(number, share, len(passed), cpu, still)


async def _release(cluster: Cluster, waiting: list[asyncio.Task[Any]]) -> None:
    looking = asyncio.ensure_future(cluster.look())
    await _end_of(waiting)
    looking.cancel()


async def _cancel(waiting: list[asyncio.Task[Any]]) -> None:
    for task in waiting:
        task.cancel()
    await _end_of(waiting)


async def _end_of(tasks: list[asyncio.Task[Any]]) -> None:
    # asyncio.wait() has work with each of them in the turn in which the last one ends.
    left, over = len(tasks), asyncio.Event()

    def tell(task: asyncio.Task[Any]) -> None:
        nonlocal left
        left -= 1
        if not left:
            over.set()

    for task in tasks:
        task.add_done_callback(tell)
    await over.wait()


async def _cpu(do: Callable[[], Awaitable[None]]) -> float:
    before = time.process_time()
    for _ in range(LOOKS):
        await do()
    return time.process_time() - before


async def _still(do: Callable[[], Awaitable[None]]) -> float:
    longest = 0.0

    async def tick() -> None:
        nonlocal longest
        last = time.perf_counter()
        while True:
            await asyncio.sleep(0)
            now = time.perf_counter()
            longest, last = max(longest, now - last), now

    ticking = asyncio.ensure_future(tick())
    await asyncio.sleep(0)
    await do()
    ticking.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await ticking
    return 1e3 * longest

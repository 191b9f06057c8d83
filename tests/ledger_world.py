# SPDX-License-Identifier: Apache-2.0
"""One triggerer's ledger, and the Airflow that it asks, with time that passes at once."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Collection, Coroutine
from typing import Any

from airflow_provider_scnet.claims.ledger import Ledger
from airflow_provider_scnet.claims.submission import GateId, SubmissionTasks
from airflow_provider_scnet.claims.waiting import WaitingGate
from airflow_provider_scnet.gate.claimed import Claimed
from benchmarks import virtual_time

ACCOUNT = ("https://h", "alice")
TTL = 180.0
COUNTED_AFTER = 60.0


class Airflow:
    """Airflow's states of tasks, and the questions about them."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, str, str, int], str | None] = {}
        #: Those about the states of runs: DAG, runs (None: all), tasks.
        self.questions: list[tuple[str, set[str] | None, set[str]]] = []
        self.counts = 0
        self.ended_runs: set[str] = set()
        self.error: Exception | None = None
        self.answers = asyncio.Event()
        self.answers.set()
        self.cancelled = 0
        self.takes = 0.0
        #: The next answer is what is true when it is asked for, and comes when this is set.
        self.late: asyncio.Event | None = None

    def set(self, gate: GateId, state: str | None, **submitters: str | None) -> None:
        """Set the state of a gate, and of the instances of other tasks with its map index."""
        self.found[gate.dag_id, gate.run_id, gate.task_id, gate.map_index] = state
        for task_id, submitter in submitters.items():
            self.found[gate.dag_id, gate.run_id, task_id, gate.map_index] = submitter

    async def states(self, dag_id: str, run_ids: Any, task_ids: Any) -> Any:
        self.questions.append((dag_id, None if run_ids is None else set(run_ids), set(task_ids)))
        if late := self.late:
            self.late, found = None, self._found(dag_id, run_ids, task_ids)
            await late.wait()
            return found
        try:
            await self.answers.wait()
            await asyncio.sleep(self.takes)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error:
            raise self.error
        return self._found(dag_id, run_ids, task_ids)

    def _found(self, dag_id: str, run_ids: Any, task_ids: Any) -> dict[str, dict[str, dict[int, str | None]]]:
        found: dict[str, dict[str, dict[int, str | None]]] = {}
        for (dag, run, task, index), state in self.found.items():
            if dag == dag_id and (run_ids is None or run in run_ids) and task in task_ids:
                found.setdefault(run, {}).setdefault(task, {})[index] = state
        return found

    async def count(self, dag_id: str, task_ids: Any, states: Any = None) -> int:
        self.counts += 1
        return sum(
            dag == dag_id and task in task_ids and (states is None or state in states)
            for (dag, _, task, _), state in self.found.items()
        )

    async def ended(self, dag_id: str, run_ids: Collection[str]) -> set[str]:
        return self.ended_runs & set(run_ids)


class World:
    """One triggerer's knowledge, and the Airflow that it asks."""

    def __init__(self, airflow: Airflow | None = None) -> None:
        self.airflow = airflow or Airflow()
        self.ledger = Ledger(self.airflow)
        self._places = contextlib.ExitStack()

    def wait(
        self,
        gate: GateId,
        submitted_by: dict[str, bool] | None = None,
        upstream: dict[str, bool] | None = None,
        gates: frozenset[str] = frozenset(),
        after_past_runs: bool = False,
        **given: Any,
    ) -> WaitingGate:
        """Let a gate wait from now on."""
        submit = {"submit": True} if submitted_by is None else submitted_by
        tasks = SubmissionTasks(submit, upstream or {}, gates, after_past_runs)
        waiting = WaitingGate(gate, **{"jobs": 1, "ttl": TTL, "account": ACCOUNT, "tasks": tasks, **given})
        waiting.counted_after = COUNTED_AFTER
        waiting.leave = self._places.enter_context(contextlib.ExitStack())
        waiting.leave.enter_context(self.ledger.kept(waiting))
        if (gate.dag_id, gate.run_id, gate.task_id, gate.map_index) not in self.airflow.found:
            self.airflow.set(gate, "deferred", submit=None)
        return waiting

    def hold(self, waiting: WaitingGate) -> asyncio.Task[None]:
        """Let a gate wait until its task is cancelled, as Airflow does where another triggerer gets it."""

        async def wait() -> None:
            with self.ledger.kept(waiting):
                await asyncio.Event().wait()

        return asyncio.ensure_future(wait())

    def let_through(self, waiting: WaitingGate) -> None:
        self.ledger.reserve(waiting)
        waiting.leave.close()

    async def poll(self, account: Any = ACCOUNT, gate: GateId | None = None) -> Claimed:
        """Make an observation, learn what there is to learn, and return what weighs on it for a gate."""
        # No two observations are made in the same moment.
        await asyncio.sleep(0.01)
        at = now()
        await self.ledger.refresh(account, at)
        return self.ledger.claimed(account, at, gate)

    async def after(self, seconds: float, gate: GateId | None = None) -> int:
        await asyncio.sleep(seconds)
        return (await self.poll(gate=gate)).jobs

    def held(self, waiting: WaitingGate, at: float | None = None) -> str:
        return self.ledger.reason_to_wait(waiting, now() if at is None else at, lambda others: True)

    def notes(self) -> str:
        return "\n".join(self.ledger.notes(ACCOUNT))


def now() -> float:
    return asyncio.get_running_loop().time()


def gate(map_index: int = 0, run: str = "run", task: str = "gate", dag: str = "dag") -> GateId:
    return GateId(dag, run, task, map_index)


#: A gate of another task, which waits all the time.
WITNESS = gate(99, task="witness")

Scenario = Callable[[World], Coroutine[Any, Any, None]]


def scenario(test: Scenario) -> Callable[[], None]:
    """Run a test on a loop of virtual time."""

    def run() -> None:
        async def whole() -> None:
            await test(World())

        virtual_time.run(whole())

    run.__name__ = test.__name__
    run.__doc__ = test.__doc__
    return run


async def opened(world: World, **given: Any) -> WaitingGate:
    """Let a gate of another task wait and another open, and Airflow know of it."""
    world.wait(WITNESS, submitted_by={"another": True})
    waiting = world.wait(gate(0), **given)
    await world.poll()
    world.let_through(waiting)
    world.airflow.set(gate(0), "success")
    return waiting

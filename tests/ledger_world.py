# SPDX-License-Identifier: Apache-2.0
"""One process's ledger, and the Airflow that it asks and writes into, with time that passes at once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Collection, Coroutine
from typing import Any

from airflow_provider_scnet.claims.claim import Claim
from airflow_provider_scnet.claims.claim_terms import GateId, SubmissionTasks, Terms
from airflow_provider_scnet.claims.ledger import Ledger
from airflow_provider_scnet.gate.claimed import Claimed
from benchmarks import virtual_time

ACCOUNT = ("https://h", "alice")
TTL = 180.0
COUNTED_AFTER = 60.0
#: Seconds for which a message about a Variable is under way, before it takes effect and after.
MESSAGE = 0.01


class Airflow:
    """Airflow's states of tasks and runs, its Variables, and the questions about them."""

    def __init__(self) -> None:
        self.found: dict[tuple[str, str, str, int], str | None] = {}
        #: Those about the states of tasks: DAG, runs, tasks; and those about the states of runs.
        self.questions: list[tuple[str, set[str], set[str]]] = []
        self.run_questions: list[tuple[str, set[str]]] = []
        #: "queued" or "ended", by run; all others go on.
        self.runs: dict[str, str] = {}
        self.error: Exception | None = None
        self.answers = asyncio.Event()
        self.answers.set()
        self.cancelled = 0
        self.takes = 0.0
        #: The next answer is what is true when it is asked for, and comes when this is set.
        self.late: asyncio.Event | None = None
        self.variables: dict[str, str] = {}
        self.descriptions: dict[str, str] = {}
        #: Each message about a Variable: "read" or "written", and its key.
        self.messages: list[tuple[str, str]] = []
        #: The ids of jobs that instances have left, by run, task and map index; and the instances asked about.
        self.told: dict[tuple[str, str, int], str] = {}
        self.job_id_questions: list[set[tuple[str, str, int]]] = []
        #: What goes wrong with those that are "read" or "written".
        self.failures: dict[str, Exception] = {}
        #: Seconds that a message takes besides.
        self.message_takes = 0.0

    def set(self, gate: GateId, state: str | None, **others: str | None) -> None:
        """Set the state of a gate, and of the instances of other tasks with its map index."""
        self.found[gate.dag_id, gate.run_id, gate.task_id, gate.map_index] = state
        for task_id, other in others.items():
            self.found[gate.dag_id, gate.run_id, task_id, gate.map_index] = other

    # What Airflow is to a ledger

    async def states(self, dag_id: str, run_ids: Collection[str], task_ids: Collection[str]) -> Any:
        self.questions.append((dag_id, set(run_ids), set(task_ids)))
        if late := self.late:
            self.late, found = None, self._found(dag_id, run_ids, task_ids)
            await late.wait()
            return found
        await self._answer()
        return self._found(dag_id, run_ids, task_ids)

    async def job_ids(self, dag_id: str, instances: Any) -> Any:
        self.job_id_questions.append(set(instances))
        await self._answer()
        return {each: self.told[each] for each in instances if each in self.told}

    async def run_states(self, dag_id: str, run_ids: Collection[str]) -> dict[str, str]:
        self.run_questions.append((dag_id, set(run_ids)))
        await self._answer()
        return {run_id: self.runs[run_id] for run_id in run_ids if run_id in self.runs}

    async def get_variable(self, key: str) -> str | None:
        await self._message("read", key)
        value = self.variables.get(key)
        await asyncio.sleep(MESSAGE)
        return value

    async def set_variable(self, key: str, value: str, description: str) -> None:
        await self._message("written", key)
        self.variables[key], self.descriptions[key] = value, description
        await asyncio.sleep(MESSAGE)

    async def _answer(self) -> None:
        try:
            await self.answers.wait()
            await asyncio.sleep(self.takes)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error:
            raise self.error

    async def _message(self, kind: str, key: str) -> None:
        self.messages.append((kind, key))
        await asyncio.sleep(MESSAGE + self.message_takes)
        if kind in self.failures:
            raise self.failures[kind]

    def _found(self, dag_id: str, run_ids: Any, task_ids: Any) -> dict[str, dict[str, dict[int, str | None]]]:
        found: dict[str, dict[str, dict[int, str | None]]] = {}
        for (dag, run, task, index), state in self.found.items():
            if dag == dag_id and run in run_ids and task in task_ids:
                found.setdefault(run, {}).setdefault(task, {})[index] = state
        return found

    # What is written

    @property
    def claims_key(self) -> str:
        """The key under which the claims of the one account are."""
        (key,) = (key for key in self.variables if key.startswith("scnet_claims_"))
        return key

    @property
    def written(self) -> dict[str, Any]:
        """What is written of claims."""
        found: dict[str, Any] = json.loads(self.variables[self.claims_key])
        return found

    @property
    def rows(self) -> list[list[Any]]:
        """The claims that are written, each as a row."""
        return [row for group in self.written["gates"] for row in group["claims"]]

    def edit(self, change: Callable[[dict[str, Any]], Any]) -> None:
        """Change what is written, as somebody does by hand."""
        found = self.written
        change(found)
        self.variables[self.claims_key] = json.dumps(found)


class World:
    """One process's knowledge, and the Airflow that it asks."""

    def __init__(self, airflow: Airflow | None = None) -> None:
        self.airflow = airflow or Airflow()
        self.ledger = Ledger(ACCOUNT, self.airflow)
        #: The gates that wait here: since when, and when each was deferred.
        self.waiting: dict[GateId | None, tuple[float, float]] = {}
        self._looked_at = now()

    @property
    def is_empty(self) -> bool:
        """Whether its ledger knows of nothing that is claimed, or was until a while ago."""
        return all(each.is_forgotten(now()) for each in self.ledger._claims.values())

    def wait(self, gate: GateId, waited: float = 0.0) -> None:
        """Let a gate wait here from now on, which had waited elsewhere before."""
        self.waiting[gate] = now(), now() - waited
        if (gate.dag_id, gate.run_id, gate.task_id, gate.map_index) not in self.airflow.found:
            self.airflow.set(gate, "deferred")

    async def open(self, *gates: GateId, **given: Any) -> list[Claim]:
        """Let gates open, as a poll does."""
        what = terms(**given)
        claims: list[Claim] = []

        def admit() -> list[Claim]:
            claims[:] = [self.ledger.claim(gate, what) for gate in gates]
            return claims

        for gate in gates:
            if (gate.dag_id, gate.run_id, gate.task_id, gate.map_index) not in self.airflow.found:
                self.airflow.set(gate, "deferred")
        await self.ledger.decide(admit)
        for gate in gates:
            self.waiting.pop(gate, None)
        return claims

    async def poll(self, gate: GateId | None = None, queue_name: str | None = None) -> Claimed:
        """Make an observation, learn what there is to learn, and return what weighs on it for a gate."""
        # No two observations are made in the same moment.
        await asyncio.sleep(0.01)
        self._looked_at = now()
        await self.ledger.refresh(self._looked_at, self.waiting)
        return self.ledger.totals(self._looked_at, queue_name).claimed(gate)

    async def jobs(self, gate: GateId | None = None) -> int:
        """Poll, and return how many jobs weigh on that for a gate."""
        return (await self.poll(gate)).jobs

    async def sleep(self, seconds: float) -> None:
        """Let time pass between two polls: Airflow is asked what became of submissions, where that is due."""
        end = now() + seconds
        while (due := max(self.ledger.follow_due, now())) < end:
            await asyncio.sleep(due - now())
            await self.ledger.follow(self._looked_at)
        await asyncio.sleep(end - now())

    async def after(self, seconds: float, gate: GateId | None = None) -> int:
        """Return how many jobs weigh on a poll that is made after so many seconds."""
        await self.sleep(seconds)
        return await self.jobs(gate)

    def notes(self) -> str:
        return "\n".join(self.ledger.notes())


def now() -> float:
    return asyncio.get_running_loop().time()


def gate(map_index: int = 0, run: str = "run", task: str = "gate", dag: str = "dag") -> GateId:
    return GateId(dag, run, task, map_index)


def terms(
    submit: dict[str, bool] | None = None,
    upstream: dict[str, bool] | None = None,
    gates: Collection[str] = (),
    after_past_runs: bool = False,
    tell_job_id: Collection[str] = (),
    **given: Any,
) -> Terms:
    """What a gate before a task ``submit`` claims, unless something else is given."""
    tasks = SubmissionTasks(
        {"submit": True} if submit is None else submit,
        upstream or {},
        tuple(gates),
        after_past_runs,
        tuple(tell_job_id),
    )
    return Terms(**{"jobs": 1, "ttl": TTL, "counted_after": COUNTED_AFTER, "tasks": tasks, **given})


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


async def opened(world: World, state: str | None = None, **given: Any) -> Claim:
    """Let a gate open, and Airflow know of it; its submission has a state."""
    (claim,) = await world.open(gate(0), **given)
    world.airflow.set(gate(0), "success", submit=state)
    return claim

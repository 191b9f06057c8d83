# SPDX-License-Identifier: Apache-2.0
"""Asks Airflow what became of the submissions behind gates that opened."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from typing import Protocol

from airflow_provider_scnet.claims.claim import Claim
from airflow_provider_scnet.claims.claim_terms import Instances
from airflow_provider_scnet.claims.expiry import Phase
from airflow_provider_scnet.client.unexpected_error import unexpected
from airflow_provider_scnet.event_loop import clock
from airflow_provider_scnet.event_loop.shielded_call import ShieldedCall

#: Seconds between two questions while the end of a submission is awaited.
FOLLOW_EVERY = 5.0
#: Where answers take long, the pause is so many times as long, so that a thousand submissions take no more of a
#: triggerer than a hundred; and the longest pause, in seconds.
PAUSE_PER_ANSWER, LONGEST_PAUSE = 20, 60.0


#: A task instance of a DAG: its run, its task, its map index.
Instance = tuple[str, str, int]


class TaskStates(Protocol):
    """How to ask Airflow about the tasks and runs of a DAG."""

    async def states(
        self, dag_id: str, run_ids: Collection[str], task_ids: Collection[str]
    ) -> Mapping[str, Instances]:
        """Return the states of all instances of some tasks in some runs, by run."""

    async def job_ids(self, dag_id: str, instances: Collection[Instance]) -> Mapping[Instance, str]:
        """Return the ids of jobs that some instances have left as their XCom ``job_id``."""

    async def run_states(self, dag_id: str, run_ids: Collection[str]) -> Mapping[str, str]:
        """Return "queued" or "ended" for those of some runs that are."""


class Follower:
    """Follows claims of one account, by asking Airflow."""

    def __init__(self, airflow: TaskStates) -> None:
        self._airflow = airflow
        self._call: ShieldedCall[None] | None = None
        self._took = 0.0
        #: When Airflow was last asked, and answered.
        self.heard = -math.inf
        #: Why an answer is missing; empty where Airflow answered.
        self.trouble = ""

    @property
    def due(self) -> float:
        """When to ask again, while somebody waits for an answer."""
        return self.heard + self._took + min(max(FOLLOW_EVERY, PAUSE_PER_ANSWER * self._took), LONGEST_PAUSE)

    async def ask(self, claims: Collection[Claim]) -> None:
        """Ask about claims, and note what has become of them. No question is put while one is being answered."""
        if self._call is None or self._call.is_over:
            self._call = ShieldedCall(self._survey(claims))
        try:
            await self._call.result()
        except TimeoutError as error:
            self.trouble = str(error)

    async def _survey(self, claims: Iterable[Claim]) -> None:
        began, troubles = clock.now(), set()
        by_dag: dict[str, list[Claim]] = {}
        for claim in claims:
            by_dag.setdefault(claim.gate.dag_id, []).append(claim)
        # One after another: the supervisor answers so, beside its heartbeat.
        for dag_id, its_claims in by_dag.items():
            try:
                await self._ask_about(dag_id, its_claims)
            except Exception as error:  # whatever it is, gates stay as shut as they were
                troubles.add(unexpected(error))
        self.trouble, self.heard, self._took = "; ".join(sorted(troubles)), began, clock.now() - began

    async def _ask_about(self, dag_id: str, claims: Collection[Claim]) -> None:
        asked_at, tasks = clock.now(), set[str]()
        for claim in claims:
            tasks.update((claim.gate.task_id, *claim.terms.tasks.submit, *claim.terms.tasks.upstream))
        found = await self._airflow.states(dag_id, {claim.gate.run_id for claim in claims}, tasks)
        states = {claim: found.get(claim.gate.run_id, {}) for claim in claims}
        doubts = {
            claim: [(claim.gate.run_id, *each) for each in claim.in_doubt(states[claim])] for claim in claims
        }
        asked = {each for its in doubts.values() for each in its}
        job_ids = await self._airflow.job_ids(dag_id, asked) if asked else {}
        unclear = {claim.gate.run_id for claim in claims if claim.asks_about_run(states[claim])}
        runs = await self._airflow.run_states(dag_id, unclear) if unclear else {}
        # No ``await`` below: whoever decides meets all of an answer, or nothing of it.
        now, started = clock.now(), set[str]()
        for claim in claims:
            before, jobs = claim.phase, {each[1:]: job_ids[each] for each in doubts[claim] if each in job_ids}
            claim.follow(states[claim], runs.get(claim.gate.run_id), asked_at, now, jobs)
            if claim.phase is not before and claim.phase in (Phase.STARTED, Phase.ENDED):
                started.add(claim.gate.task_id)
        for claim in claims:
            if claim.gate.task_id in started:
                claim.begin_anew(now)

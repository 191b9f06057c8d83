# SPDX-License-Identifier: Apache-2.0
"""One judgement for all that ask the same: what it decides and says is what each gate for itself would."""

from __future__ import annotations

import asyncio
import contextlib
import random
import types
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest

from airflow_provider_scnet.claims.ledger import Ledger
from airflow_provider_scnet.claims.submission import GateId, Submission, SubmissionTasks, Terms
from airflow_provider_scnet.client.job_counts import JobCounts
from airflow_provider_scnet.gate import decision
from airflow_provider_scnet.gate.claimed import NOTHING
from airflow_provider_scnet.polling import poller, waiter
from airflow_provider_scnet.polling.accounts import Accounts
from airflow_provider_scnet.triggers import runtime
from airflow_provider_scnet.triggers.scnet import ScnetJobStateTrigger
from benchmarks import virtual_time

from gates import first_event
from observations import HEALS, Cluster

ACCOUNT = ("https://h", "alice")
LOOKS = 100
INTERVAL = 60.0
CONDITIONS = ("queued < 5", "queued < 5", "queued < 5", "running + queued < 12", "queued != 6", "queued < 1")


class ForItself:
    """Each gate for itself: all of them are woken at each poll, and count and decide anew."""

    class Decisions(decision.SharedDecisions):
        def decide(self, counts: Any, claimed: Any = NOTHING, hold: str = "") -> Any:
            return decision.decide(self.gate, counts, claimed, hold)

    @classmethod
    def patches(cls) -> Iterator[Any]:
        yield mock.patch.object(poller.Poller, "decisions", lambda self, gate: cls.Decisions(gate))
        claimed, show = Ledger.claimed, waiter.Waiter.show

        def claimed_anew(ledger: Any, *given: Any) -> Any:
            ledger._totals.clear()
            return claimed(ledger, *given)

        def show_all(each: Any, observation: Any) -> int:
            each._wake_for = None
            return show(each, observation)

        yield mock.patch.object(Ledger, "claimed", claimed_anew)
        yield mock.patch.object(waiter.Waiter, "show", show_all)


class Airflow:
    """Its states of the gates and of what stands behind them."""

    def __init__(self) -> None:
        self.found: dict[str, dict[int, str | None]] = {"gate": {}, "submit": {}}

    async def states(self, dag_id: str, run_ids: Any, task_ids: Any) -> Any:
        return {"run": {task_id: dict(states) for task_id, states in self.found.items()}}

    async def count(self, dag_id: str, task_ids: Any, states: Any = None) -> int:
        found = [state for task_id in task_ids for state in self.found[task_id].values()]
        return sum(states is None or state in states for state in found)

    async def ended(self, dag_id: str, run_ids: Any) -> Any:
        return ()

    def go_on(self, chance: random.Random) -> None:
        """Let submissions start, end, and be cleared."""
        for index, state in self.found["submit"].items():
            if self.found["gate"][index] == "success" and chance.random() < 0.3:
                follows = {None: "running", "running": chance.choice(["success", "failed", "up_for_retry"])}
                self.found["submit"][index] = follows.get(state, "running" if state == "up_for_retry" else state)


class Scenario:
    """Gates that come and go, looks that see this and that, claims that come and go; the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.cluster = Cluster(0)
        self.airflow = Airflow()
        #: What each gate says, and how it ends.
        self.transcript: dict[int, list[Any]] = {}
        self.tasks: dict[int, asyncio.Task[Any]] = {}
        self.claims: list[Submission] = []

    async def play(self) -> dict[int, list[Any]]:
        accounts = Accounts(self.cluster, self.airflow)
        with mock.patch.object(runtime, "accounts", return_value=accounts):
            for step in range(LOOKS):
                self.come_and_go(step)
                self.claim(accounts.ledger)
                self.airflow.go_on(self.chance)
                self.cluster.seen = [self.next_seen()]
                await asyncio.sleep(INTERVAL)
                self.settle()
        return self.transcript

    def come_and_go(self, step: int) -> None:
        for number in range(self.chance.choice([0, 0, 0, 0, 0, 1, 5])):
            self.start(100 * step + number)
        for index in self.chance.sample(
            sorted(self.tasks), k=min(len(self.tasks), self.chance.choice([0, 0, 0, 2]))
        ):
            self.tasks.pop(index).cancel()
            self.airflow.found["gate"][index] = "failed"
        for index in list(self.airflow.found["gate"]):
            if self.airflow.found["gate"][index] == "success" and self.chance.random() < 0.02:
                # It is cleared, and waits again.
                self.start(index)

    def start(self, index: int) -> None:
        chance = self.chance
        trigger = ScnetJobStateTrigger(
            condition=chance.choice(CONDITIONS),
            fail_when=chance.choice([None, None, None, "queued > 17"]),
            submits=chance.choice([0, 1, 1, 1, 3]),
            claim_ttl=chance.choice([30.0, 100.0, 600.0]),
            submitted_by={"submit": True},
            poke_interval=INTERVAL,
            silent_fail=chance.random() < 0.3,
            end_task=True,
        )
        trigger.trigger_id = index
        if chance.random() < 0.7:
            trigger.task_instance = types.SimpleNamespace(
                dag_id="dag", run_id="run", task_id="gate", map_index=index
            )
            self.airflow.found["gate"][index] = "deferred"
            self.airflow.found["submit"][index] = None
        log = mock.MagicMock()
        for level in ("info", "warning"):
            getattr(log, level).side_effect = lambda text, *given: self.note(index, "says", text % given)
        trigger._log = log
        self.tasks[index] = asyncio.ensure_future(self.run(index, trigger))

    async def run(self, index: int, trigger: ScnetJobStateTrigger) -> None:
        event = await first_event(trigger)
        if index in self.airflow.found["gate"]:
            self.airflow.found["gate"][index] = "success"
        self.note(index, "ends", str(getattr(event, "xcoms", None) or event.payload))

    def claim(self, ledger: Ledger) -> None:
        """Let gates that Airflow does not know claim, and cease to."""
        now = asyncio.get_running_loop().time()
        if self.chance.random() < 0.3:
            jobs, ttl = self.chance.choice([0, 1, 2]), self.chance.choice([90.0, 700.0])
            terms = Terms(jobs, ttl, 60.0, SubmissionTasks(), frozenset({ACCOUNT}))
            self.claims.append(Submission(GateId("", "", ""), terms, now, is_ours=True))
            ledger._untracked.append(self.claims[-1])
        if self.claims and self.chance.random() < 0.3:
            dropped = self.claims.pop(self.chance.randrange(len(self.claims)))
            ledger._untracked = [each for each in ledger._untracked if each is not dropped]
        ledger._totals.clear()

    def next_seen(self) -> Any:
        chance = self.chance
        kind = chance.random()
        if kind < 0.07:
            return HEALS
        if kind < 0.1:
            return JobCounts(running=1)
        number = {"running": chance.randrange(9), "queued": chance.choice([0, 1, 2, 4, 4, 5, 6, 18])}
        counts = JobCounts(held=0, suspended=0, other=0, **number)
        if kind < 0.2:
            return {"counts": counts, "doubt": "the token is bob's"}
        if kind < 0.3:
            return {"counts": counts, "notes": (f"note {chance.randrange(5)}",)}
        # Most looks see what the one before saw.
        return self.cluster.seen[0] if kind < 0.6 else counts

    def settle(self) -> None:
        self.tasks = {index: task for index, task in self.tasks.items() if not task.done()}

    def note(self, index: int, what: str, text: str) -> None:
        self.transcript.setdefault(index, []).append((round(asyncio.get_running_loop().time(), 3), what, text))


def played(seed: int) -> dict[int, list[Any]]:
    random.seed(seed)
    # What a gate that passed leaves says when it looked, by the wall clock.
    with mock.patch.object(decision, "observed", lambda condition, look, *, scnet_conn_id: {"at": look.at}):
        return virtual_time.run(Scenario(seed).play())


@pytest.mark.parametrize("seed", range(20))
def test_each_gate_decides_and_says_what_it_would_have_by_itself(seed: int):
    together = played(seed)
    with contextlib.ExitStack() as stack:
        for patch in ForItself.patches():
            stack.enter_context(patch)
        alone = played(seed)
    assert together == alone
    # The scenario is worth its while: of each kind there is something.
    said = " ".join(text for lines in together.values() for *_, text in lines)
    for kind in ("passes", "claimed", "not ended", "needs running + queued", "no answer", "bob", "note "):
        assert kind in said

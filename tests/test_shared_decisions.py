# SPDX-License-Identifier: Apache-2.0
"""One judgement for all that ask the same: what it decides and says is what each gate for itself would."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import random
import types
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest

from airflow_provider_scnet.claims.claim import Claim
from airflow_provider_scnet.claims.claim_terms import Terms
from airflow_provider_scnet.claims.ledger import Ledger
from airflow_provider_scnet.claims.totals import Totals
from airflow_provider_scnet.client.job_counts import JobCounts
from airflow_provider_scnet.gate import decision
from airflow_provider_scnet.polling import waiting
from airflow_provider_scnet.polling.accounts import Accounts
from airflow_provider_scnet.polling.admission import Admission
from airflow_provider_scnet.triggers import shared_accounts
from airflow_provider_scnet.triggers.scnet import ScnetJobCountTrigger
from benchmarks import virtual_time

from gates import first_event
from observations import HEALS, Airflow, Cluster

ACCOUNT = ("https://h", "alice")
LOOKS = 100
#: What gates say of what their connection needs.
OF_CONNECTION = ("waiting, the connection needs", "all queues: ", "extra 'condition': ")
INTERVAL = 60.0
CONDITIONS = ("queued < 5", "queued < 5", "queued < 5", "running + queued < 12", "queued != 6", "queued < 1")


def for_itself() -> Iterator[Any]:
    """Yield what makes each gate count and decide anew, whatever the others have."""

    def decide(admission: Admission, *given: Any) -> Any:
        return decision.decide(*given)

    def claimed_anew(admission: Admission, gate: Any, seen: Any, queue_name: Any, is_listed: bool) -> Any:
        if admission._ledger is None:
            return decision.NOTHING
        totals = admission._ledger.totals(
            seen.at, queue_name, seen.listed.job_ids[queue_name] if is_listed else ()
        )
        for claim in admission.claims:
            totals.add(claim)
        return claimed(totals, gate.id)

    claimed = Totals.claimed

    def unremembered(totals: Totals, *given: Any) -> Any:
        totals._known.clear()
        return claimed(totals, *given)

    yield mock.patch.object(Admission, "_decide", decide)
    yield mock.patch.object(Admission, "_claimed", claimed_anew)
    yield mock.patch.object(Totals, "claimed", unremembered)


class Scenario:
    """Gates that come and go, looks that see this and that, claims that come and go; the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.cluster = Cluster({"counts": JobCounts(0, 0, 0, 0, 0), "queues": {"gpu": JobCounts(0, 0, 0, 0, 0)}})
        self.airflow = Airflow()
        #: What each gate says, and how it ends.
        self.transcript: dict[int, list[Any]] = {}
        self.tasks: dict[int, asyncio.Task[Any]] = {}
        self.claims: list[Claim] = []

    async def play(self) -> dict[int, list[Any]]:
        accounts = Accounts(self.cluster, self.airflow)
        self.airflow.set(-1, None)
        with mock.patch.object(shared_accounts, "accounts", return_value=accounts):
            for step in range(LOOKS):
                self.come_and_go(step)
                self.claim(accounts.shared(ACCOUNT)[0])
                self.go_on()
                self.cluster.seen = [self.next_seen()]
                await asyncio.sleep(INTERVAL)
                self.tasks = {index: task for index, task in self.tasks.items() if not task.done()}
        return self.transcript

    @property
    def states(self) -> dict[str, dict[int, str | None]]:
        return self.airflow.found["dag"]["run"]

    def come_and_go(self, step: int) -> None:
        for number in range(self.chance.choice([0, 0, 0, 0, 0, 1, 5])):
            self.start(100 * step + number)
        leave = min(len(self.tasks), self.chance.choice([0, 0, 0, 2]))
        for index in self.chance.sample(sorted(self.tasks), k=leave):
            self.tasks.pop(index).cancel()
            if index in self.states["gate"]:
                self.states["gate"][index] = "failed"
        for index in list(self.states["gate"]):
            if self.states["gate"][index] == "success" and self.chance.random() < 0.02:
                # It is cleared, and waits again.
                self.start(index)

    def go_on(self) -> None:
        """Let submissions start, end, and be tried again."""
        for index, state in self.states["submit"].items():
            if self.states["gate"][index] == "success" and self.chance.random() < 0.3:
                follows = {
                    None: "running",
                    "running": self.chance.choice(["success", "failed", "up_for_retry"]),
                    "up_for_retry": "running",
                }
                self.states["submit"][index] = follows.get(state, state)

    def start(self, index: int) -> None:
        chance = self.chance
        trigger = ScnetJobCountTrigger(
            condition=chance.choice(CONDITIONS),
            fail_when=chance.choice([None, None, None, "queued > 17"]),
            submits=chance.choice([0, 1, 1, 1, 3]),
            queue_name=chance.choice([None, None, "gpu"]),
            claim_ttl=chance.choice([30.0, 100.0, 600.0]),
            submitted_by={"submit": True},
            poke_interval=INTERVAL,
            silent_fail=chance.random() < 0.3,
            end_task=True,
        )
        trigger.trigger_id = index
        trigger.task_instance = None
        if chance.random() < 0.7:
            trigger.task_instance = types.SimpleNamespace(
                dag_id="dag", run_id="run", task_id="gate", map_index=index
            )
            self.airflow.set(index, "deferred")
        log = mock.MagicMock()
        for level in ("info", "warning"):
            getattr(log, level).side_effect = lambda text, *given: self.note(index, "says", text % given)
        trigger._log = log
        self.tasks[index] = asyncio.ensure_future(self.run(index, trigger))

    async def run(self, index: int, trigger: ScnetJobCountTrigger) -> None:
        event = await first_event(trigger)
        if index in self.states["gate"]:
            self.states["gate"][index] = "success"
        self.note(index, "ends", str(getattr(event, "xcoms", None) or event.payload))

    def claim(self, ledger: Ledger) -> None:
        """Let gates that Airflow does not know claim, and cease to."""
        if self.chance.random() < 0.3:
            jobs, ttl = self.chance.choice([0, 1, 2]), self.chance.choice([90.0, 700.0])
            self.claims.append(ledger.claim(None, Terms(jobs, ttl, 60.0)))
            ledger.keep(self.claims[-1:])
        if self.claims and self.chance.random() < 0.3:
            ledger.withdraw(self.claims.pop(self.chance.randrange(len(self.claims))))

    def next_seen(self) -> Any:
        chance = self.chance
        kind = chance.random()
        if kind < 0.07:
            return HEALS
        if kind < 0.1:
            return {"counts": JobCounts(running=1), "queues": {"gpu": JobCounts(running=1)}}
        number = {"running": chance.randrange(9), "queued": chance.choice([0, 1, 2, 4, 4, 5, 6, 18])}
        counts = JobCounts(held=0, suspended=0, other=0, **number)
        in_queue = dataclasses.replace(counts, queued=counts.queued // 2)
        seen = {"counts": counts, "queues": {"gpu": in_queue}}
        # What the connection needs of all gates is changed now and then.
        seen["condition"] = chance.choice(["", "", "queued < 4", "running + queued < 9", "pending < 4"])
        if kind < 0.2:
            return seen | {"doubt": "the token is bob's"}
        if kind < 0.3:
            return seen | {"notes": (f"note {chance.randrange(5)}",)}
        # Most looks see what the one before saw.
        return self.cluster.seen[0] if kind < 0.6 else seen

    def note(self, index: int, what: str, text: str) -> None:
        self.transcript.setdefault(index, []).append((round(asyncio.get_running_loop().time(), 3), what, text))


def played(seed: int) -> dict[int, list[Any]]:
    random.seed(seed)
    # What a gate that passed leaves says when it looked, by the wall clock.
    with mock.patch.object(waiting, "record", lambda condition, look, *, scnet_conn_id: {"at": look.at}):
        return virtual_time.run(Scenario(seed).play())


@pytest.mark.parametrize("seed", range(3))
def test_each_gate_decides_and_says_what_it_would_have_by_itself(seed: int):
    together = played(seed)
    with contextlib.ExitStack() as stack:
        for patch in for_itself():
            stack.enter_context(patch)
        alone = played(seed)
    assert together == alone
    # The scenario is worth its while: of each kind there is something.
    said = " ".join(text for lines in together.values() for *_, text in lines)
    for kind in (
        "passes",
        "claimed",
        "not ended",
        "needs running + queued",
        "no answer",
        "bob",
        "note ",
        *OF_CONNECTION,
    ):
        assert kind in said

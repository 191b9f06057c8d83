# SPDX-License-Identifier: Apache-2.0
"""What the DAG of ``test_contention.py`` waits for: a triggerer that decides as often as it can."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import time
from pathlib import Path
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_scnet.claims.claim_terms import GateId, Terms
from airflow_provider_scnet.claims.ledger import Ledger, NotDecidedError
from airflow_provider_scnet.triggers.shared_accounts import RunningAirflow

ACCOUNT = ("https://contended", "alice")
ROOM = 60


class Contender(BaseTrigger):
    """One of several processes that let jobs into the same room, one to three at a time, until it is full."""

    def __init__(self, name: str, contenders: int, log: str) -> None:
        super().__init__()
        self.name, self.contenders, self.log_file = name, contenders, Path(log)

    def serialize(self) -> tuple[str, dict[str, Any]]:
        kwargs = {"name": self.name, "contenders": self.contenders, "log": str(self.log_file)}
        return f"{__name__}.Contender", kwargs

    def note(self, **what: Any) -> None:
        with self.log_file.open("a") as file:
            file.write(json.dumps({"by": self.name, "pid": os.getpid(), **what}) + "\n")

    async def run(self):
        ledger, numbers = Ledger(ACCOUNT, RunningAirflow()), itertools.count()
        # The first message of a triggerer's life takes seconds.
        await ledger.refresh(0.0, {})
        self.note(is_ready=True)
        while self.log_file.read_text().count("is_ready") < self.contenders:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        while ledger.totals(0.0).claimed().jobs < ROOM:
            opened: list[Any] = []

            def admit(opened: list[Any] = opened) -> list[Any]:
                opened[:] = [time.monotonic()]
                room = ROOM - ledger.totals(0.0).claimed().jobs
                return [
                    ledger.claim(GateId("dag", self.name, "gate", next(numbers)), Terms(1, 600.0))
                    for _ in range(min(room, random.randint(1, 3)))
                ]

            try:
                await ledger.decide(admit)
            except NotDecidedError as why:
                self.note(error=str(why))
                continue
            self.note(start=opened[0], end=time.monotonic(), claimed=ledger.totals(0.0).claimed().jobs)
            await asyncio.sleep(random.uniform(0.0, 0.3))
        yield TriggerEvent(self.name)

# SPDX-License-Identifier: Apache-2.0
"""How the tests run a gate without an engine: as a worker and a triggerer would, over real HTTP."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime, timezone
from typing import Any
from unittest import mock

from airflow.providers.common.compat.sdk import TaskDeferred
from airflow.triggers.base import TriggerEvent

from airflow_provider_scnet.event_loop import clock
from airflow_provider_scnet.polling import poller
from airflow_provider_scnet.sensors.scnet import ScnetJobCountSensor
from airflow_provider_scnet.triggers import shared_accounts
from airflow_provider_scnet.triggers.scnet import ScnetJobCountTrigger

#: Seconds between looks: short, because most of these gates look a few times at most.
INTERVAL = 0.02

poller.SHORTEST_INTERVAL = INTERVAL


def context(**more: Any) -> dict[str, Any]:
    return {"ti": mock.MagicMock(name="ti"), "task_reschedule_count": 0, **more}


def gate(condition: str = "queued < 5", **arguments: Any) -> ScnetJobCountSensor:
    return ScnetJobCountSensor(
        **{"task_id": "gate", "condition": condition, "poke_interval": INTERVAL, "timeout": 30, **arguments}
    )


def deferred(sensor: ScnetJobCountSensor) -> tuple[ScnetJobCountTrigger, TaskDeferred]:
    """Defer as a worker does, and hand the trigger over as the database does."""
    try:
        sensor.execute(context())
    except TaskDeferred as deferral:
        path, kwargs = deferral.trigger.serialize()
        assert path == f"{ScnetJobCountTrigger.__module__}.{ScnetJobCountTrigger.__qualname__}"
        trigger = ScnetJobCountTrigger(**json.loads(json.dumps(kwargs)))
        assert trigger.serialize() == (path, kwargs)
        return trigger, deferral
    raise AssertionError("the gate did not defer")


async def first_event(trigger: ScnetJobCountTrigger) -> TriggerEvent:
    events = trigger.run()
    try:
        return await anext(events)
    finally:
        await events.aclose()


def claimed(account: tuple[str, str], queue_name: str | None = None, at: float | None = None) -> int:
    """Return the jobs that count on top of an observation of now, or of some other moment, in the running loop."""
    ledger, _ = shared_accounts.accounts().shared(account)
    return ledger.totals(clock.now() if at is None else at, queue_name).claimed().jobs


def decision_of(event: TriggerEvent) -> Any:
    """Return the decision of a gate that ends in the triggerer; Airflow 3 makes text of it later on."""
    found = event.xcoms["decision"]
    return json.loads(found) if isinstance(found, str) else found


def left(given: dict[str, Any]) -> Any:
    """Return the decision that a gate left, which is in the same place whichever way it went."""
    (pushed,) = given["ti"].xcom_push.call_args_list
    assert pushed.args[0] == "decision"
    return json.loads(pushed.args[1])


def run_deferred(sensor: ScnetJobCountSensor) -> Any:
    trigger, deferral = deferred(sensor)
    # As a triggerer does it.
    trigger.timeout_after = datetime.now(timezone.utc) + deferral.timeout
    event = asyncio.run(first_event(trigger))
    payload = json.loads(json.dumps(event.payload))
    given = context()
    sensor.resume_execution(deferral.method_name, {"event": payload}, given)
    return left(given)


def run_poking(sensor: ScnetJobCountSensor) -> Any:
    sensor.deferrable, given = False, context()
    sensor.execute(given)
    return left(given)


#: The two ways to run a gate that the tests hold side by side.
MODES = {"deferrable": run_deferred, "poke": run_poking}

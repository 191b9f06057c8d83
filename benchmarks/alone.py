# SPDX-License-Identifier: Apache-2.0
"""A gate as a triggerer runs it, without the Airflow around it."""

from __future__ import annotations

import json
import logging
import types
from datetime import datetime, timedelta, timezone
from typing import Any

from airflow_provider_scnet.triggers.scnet import ScnetJobCountTrigger

# Where gates say why they wait: a line is made, and goes nowhere. What a handler does with it is not ours.
_NOWHERE = logging.getLogger(__name__)
_NOWHERE.addHandler(logging.NullHandler())
_NOWHERE.setLevel(logging.INFO)
_NOWHERE.propagate = False


async def wait(map_index: int, run_id: str = "run", waited: float | None = None, **given: Any) -> dict[str, Any]:
    """
    Wait at a gate of a task ``gate``, before the instance of a task ``submit`` with its own map index.

    :param map_index: its map index
    :param run_id: its DAG run
    :param waited: seconds that it has waited in another triggerer; None: it has just been deferred
    :param given: arguments of the trigger
    :return: the decision that opened it
    """
    if waited is not None:
        given["timeout"] = 1e6
    trigger = ScnetJobCountTrigger(
        submitted_by={"submit": True}, upstream={"gate": True}, end_task=True, push_decision=True, **given
    )
    trigger._log = _NOWHERE
    trigger.trigger_id = 1
    trigger.task_instance = types.SimpleNamespace(dag_id="dag", run_id=run_id, task_id="gate", map_index=map_index)
    if waited is not None:
        trigger.timeout_after = datetime.now(timezone.utc) + timedelta(seconds=1e6 - waited)
    events = trigger.run()
    try:
        event = await anext(events)
    finally:
        await events.aclose()
    found = event.xcoms["decision"]
    # Text where Airflow does not make text of it by itself.
    decision: dict[str, Any] = json.loads(found) if isinstance(found, str) else found
    return decision

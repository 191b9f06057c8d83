# SPDX-License-Identifier: Apache-2.0
"""A gate as a triggerer runs it, without the Airflow around it."""

from __future__ import annotations

import logging
import types
from typing import Any

from airflow_provider_scnet.triggers.scnet import ScnetJobStateTrigger

# Where gates say why they wait: a line is made, and goes nowhere. What a handler does with it is not ours.
_NOWHERE = logging.getLogger(__name__)
_NOWHERE.addHandler(logging.NullHandler())
_NOWHERE.setLevel(logging.INFO)
_NOWHERE.propagate = False


async def wait(index: int, **given: Any) -> None:
    """
    Wait at a gate of a mapped task ``gate``, before the instance of a task ``submit`` with its own index.

    :param index: which of its instances
    :param given: arguments of the trigger
    """
    trigger = ScnetJobStateTrigger(submitted_by={"submit": True}, end_task=True, **given)
    trigger._log = _NOWHERE
    trigger.trigger_id = index
    trigger.task_instance = types.SimpleNamespace(dag_id="dag", run_id="run", task_id="gate", map_index=index)
    events = trigger.run()
    try:
        await anext(events)
    finally:
        await events.aclose()

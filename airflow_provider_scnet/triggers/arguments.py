# SPDX-License-Identifier: Apache-2.0
"""What another triggerer needs to make the same trigger."""

from __future__ import annotations

import inspect
from typing import Any

from airflow.triggers.base import BaseTrigger


def arguments(trigger: BaseTrigger, cls: type[BaseTrigger]) -> dict[str, Any]:
    """
    Return the named arguments of a trigger, as they stand by now: it keeps each under its name.

    :param trigger: the trigger
    :param cls: the class whose constructor names them
    """
    parameters = inspect.signature(cls.__init__).parameters.values()
    return {each.name: getattr(trigger, each.name) for each in parameters if each.kind is each.KEYWORD_ONLY}

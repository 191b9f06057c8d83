# SPDX-License-Identifier: Apache-2.0
"""What the author of a gate asks, read strictly."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from airflow_provider_scnet.client.errors import ScnetConfigError
from airflow_provider_scnet.client.queue_name import queue_named
from airflow_provider_scnet.gate.condition import Condition, ConditionError


@dataclasses.dataclass(frozen=True)
class Gate:
    """
    What the author of a gate asks.

    :param condition: the state of the queue to wait for
    :param fail_when: what fails the gate for good, judged on reported counts only, before ``condition``
    :param submits: how many jobs the work behind the gate will submit
    :param queue_name: the queue whose jobs both are about; None: all of them together
    """

    condition: Condition
    fail_when: Condition | None = None
    submits: int = 1
    queue_name: str | None = None

    @classmethod
    def of(
        cls,
        condition: str,
        fail_when: str | None = None,
        submits: int | str = 1,
        queue_name: str | None = None,
    ) -> Gate:
        """
        Read what the author wrote, strictly.

        :param condition: the state of the queue to wait for
        :param fail_when: what fails the gate for good, or None
        :param submits: how many jobs the work behind the gate will submit, also as rendered text
        :param queue_name: the queue, or None
        :raises ConditionError: where an expression is outside the grammar
        :raises ValueError: where ``submits`` is no number of jobs, or ``queue_name`` no name
        """
        guard = None if fail_when is None else Condition(fail_when)
        queue = None if queue_name is None else named_queue(queue_name)
        return cls(Condition(condition), guard, number_of_jobs(submits), queue)

    def checked(self) -> Gate:
        """
        Return the gate, if it can open at all.

        :raises ConditionError: where the condition holds on an empty cluster but could never hold once the gate's
            own jobs are added
        """
        text, jobs = self.condition.text, self.submits
        if not self.condition.leaves_room_for(jobs - 1):
            raise ConditionError(text, f"could never hold with the {jobs} jobs that the gate submits")
        return self

    @property
    def states(self) -> frozenset[str]:
        """The names that have to be reported before the gate can decide."""
        return self.condition.states | (self.fail_when.states if self.fail_when else frozenset())


def number_of_jobs(submits: int | str) -> int:
    """
    Read a number of jobs to submit.

    :param submits: a whole number from 0 to 10⁹, also as rendered text
    :raises ValueError: where it is anything else
    """
    if isinstance(submits, str) and re.fullmatch(r"\s*[0-9]{1,10}\s*", submits):
        submits = int(submits)
    if isinstance(submits, bool) or not isinstance(submits, int) or not 0 <= submits <= 10**9:
        raise ValueError(f"submits is no number of jobs from 0 to 10⁹: {str(submits)[:80]!r}")
    return submits


def named(field: str, value: object) -> str:
    """
    Read a name, strictly: nothing must not stand for a default, as a template may render to nothing.

    :param field: what it is the name of, for people
    :param value: the name; a whole number is one that consists of digits, as a native template makes one
    :raises ValueError: where it is empty, or no text
    """
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if value is None or (isinstance(value, str) and not value.strip()):
        raise ValueError(f"{field} is given but empty")
    if not isinstance(value, str):
        raise ValueError(f"{field} is no text but {type(value).__name__}")
    return value


def named_connections(value: object) -> list[str]:
    """
    Read the id of a connection, or a list of them.

    :param value: the id, or the ids
    :raises ValueError: where there is none, one is empty or no text, or one stands there twice
    """
    if isinstance(value, str) and value.strip().startswith("["):
        raise ValueError(
            "scnet_conn_id is the text of a list: a template that makes a list needs a DAG with "
            "render_template_as_native_obj=True, or give a list of templates"
        )
    if isinstance(value, str) or not isinstance(value, Sequence):
        return [named("scnet_conn_id", value)]
    if not value:
        raise ValueError("scnet_conn_id is an empty list")
    ids = [named("scnet_conn_id", each) for each in value]
    if twice := next((each for each in ids if ids.count(each) > 1), None):
        raise ValueError(f"scnet_conn_id names the connection '{twice}' twice")
    return ids


def named_queue(value: object) -> str:
    """
    Read the name of a queue, as strictly.

    :param value: the name
    :raises ValueError: where it is empty, no text, or holds white space
    """
    try:
        return queue_named(value)
    except ScnetConfigError as error:
        raise ValueError(str(error)) from None

# SPDX-License-Identifier: Apache-2.0
"""Where a task writes down what it is about to submit, so that a later try knows."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable
from typing import Any

from airflow_provider_scnet.operators.submit_once import Intent

#: The Variable that tells this Airflow from others with the same DAGs.
NAMESPACE_KEY = "scnet_namespace"
#: Seconds after which a name that two workers wrote at the same moment is read back.
READ_BACK_AFTER = 2.0
_STORE_KEY = "scnet_job"
_ABOUT_NAMESPACE = "Tells the SCnet jobs of this Airflow from others. Where it is changed, none is found again."


class IntentError(Exception):
    """An intent could not be read, written or removed."""


class Intents:
    """
    Where one task instance's intent is: Airflow's task state store from 3.3 on, before that a Variable of its own.

    :param task: the hash of the task instance
    :param store: the context's ``task_state_store``; None: there is none
    """

    def __init__(self, task: str, store: Any = None) -> None:
        self._key = f"scnet_job_{task}"
        self._store = store

    def read(self) -> Intent | None:
        """Return what was written last; None: nothing was, or nobody can read it."""
        if self._store is not None:
            return Intent.read(_or_error("read", lambda: self._store.get(_STORE_KEY)))
        text = _or_error("read", lambda: read_variable(self._key))
        try:
            return Intent.read(json.loads(text)) if text else None
        except ValueError:
            return None

    def write(self, intent: Intent) -> None:
        """Write it, in place of what was there."""
        if self._store is not None:
            _or_error("written", lambda: self._store.set(_STORE_KEY, intent.written()))
            return
        about = f"What a task submits to SCnet: job {intent.name}. Removed when the task ends."
        _or_error("written", lambda: write_variable(self._key, json.dumps(intent.written()), about))

    def remove(self) -> None:
        """Remove it."""
        if self._store is not None:
            _or_error("removed", lambda: self._store.delete(_STORE_KEY))
        else:
            _or_error("removed", lambda: delete_variable(self._key))

    def tidy_up(self) -> None:
        """Remove it where it would stay for ever; Airflow's own store goes with the task instance."""
        if self._store is None:
            self.remove()


def namespace() -> str:
    """
    Return what tells this Airflow from others: made once, and kept as a Variable.

    :raises IntentError: where it can be neither read nor written
    """
    for _ in range(2):
        if found := _or_error("read", lambda: read_variable(NAMESPACE_KEY)):
            return str(found)
        _or_error("written", lambda: write_variable(NAMESPACE_KEY, uuid.uuid4().hex, _ABOUT_NAMESPACE))
        time.sleep(READ_BACK_AFTER)
    raise IntentError(f"the Variable {NAMESPACE_KEY} was written to Airflow, and is not there")


def is_running(task_instance: Any) -> bool:
    """Tell whether Airflow still calls a task instance running, on its worker; where it does not say, it is."""
    from airflow_provider_scnet.triggers.airflow_access import HAS_DATABASE

    ti = task_instance
    try:
        if HAS_DATABASE:
            ti.refresh_from_db()
            return bool(ti.state == "running")
        states = ti.get_task_states(
            dag_id=ti.dag_id,
            map_index=ti.map_index if ti.map_index >= 0 else None,
            task_ids=[ti.task_id],
            run_ids=[ti.run_id],
        )
        return "running" in dict(states.get(ti.run_id, {})).values()
    except Exception:
        return True


def _or_error(done: str, what: Callable[[], Any]) -> Any:
    try:
        return what()
    except Exception as error:
        raise IntentError(
            f"what is submitted cannot be {done} in Airflow ({type(error).__name__}: {str(error)[:200]})"
        ) from None


# Airflow 2 keeps Variables in a database that a worker may use; its Variable.get takes each error for "not there".


def read_variable(key: str) -> str | None:
    """Return a Variable's value, on a worker; None where there is none."""
    from airflow_provider_scnet.triggers.airflow_access import HAS_DATABASE

    if HAS_DATABASE:
        from airflow.utils.session import create_session

        from airflow_provider_scnet.triggers.variables import get_in_database

        with create_session() as session:
            return get_in_database(session, key)
    from airflow.sdk import Variable

    value = Variable.get(key, default=None)
    return None if value is None else str(value)


def write_variable(key: str, value: str, description: str) -> None:
    """Write a Variable, on a worker."""
    from airflow_provider_scnet.triggers.airflow_access import HAS_DATABASE

    if HAS_DATABASE:
        from airflow.utils.session import create_session

        from airflow_provider_scnet.triggers.variables import set_in_database

        with create_session() as session:
            set_in_database(session, key, value, description)
        return
    from airflow.sdk import Variable

    Variable.set(key, value, description=description)


def delete_variable(key: str) -> None:
    """Delete a Variable, on a worker; nothing where there is none."""
    from airflow_provider_scnet.triggers.airflow_access import HAS_DATABASE

    if HAS_DATABASE:
        from airflow.models.variable import Variable
    else:
        from airflow.sdk import Variable  # type: ignore[assignment]

    Variable.delete(key)

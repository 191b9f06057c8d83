# SPDX-License-Identifier: Apache-2.0
"""How a trigger reads and writes Airflow's Variables."""

from __future__ import annotations

from typing import Any

from airflow_provider_scnet.triggers.airflow_access import HAS_DATABASE, answer, in_database


class AirflowVariables:
    """
    Airflow's Variables: by its database before 3.0, by the triggerer's supervisor since.

    None of these calls may be cancelled: Airflow up to 3.2.1 would read the answer as that to its next question.
    """

    async def get_variable(self, key: str) -> str | None:
        """
        Return a Variable's value; None where there is none.

        :param key: its key
        """
        if HAS_DATABASE:
            return await in_database(lambda session: get_in_database(session, key))
        from airflow.sdk.execution_time.comms import ErrorResponse, GetVariable, VariableResult

        found: VariableResult | ErrorResponse = await answer(GetVariable(key=key), (VariableResult, ErrorResponse))
        if isinstance(found, VariableResult):
            return found.value
        if found.error.value != "VARIABLE_NOT_FOUND":
            raise RuntimeError(found.error.value)
        return None

    async def set_variable(self, key: str, value: str, description: str) -> None:
        """
        Write a Variable.

        :param key: its key
        :param value: its value
        :param description: what it is, for people
        """
        if HAS_DATABASE:
            await in_database(lambda session: set_in_database(session, key, value, description))
            return
        from airflow.sdk.execution_time.comms import OKResponse, PutVariable

        # The supervisor says nothing where it has written it, or that it has.
        message = PutVariable(key=key, value=value, description=description)
        await answer(message, (OKResponse, type(None)))


def get_in_database(session: Any, key: str) -> str | None:
    """Return a Variable's value by Airflow 2's database; None where there is none."""
    from airflow.models.variable import Variable

    # Not by Variable.get(), which takes whatever fails for a Variable that is not there.
    found = session.query(Variable).filter(Variable.key == key).one_or_none()
    if found is not None and found.val is None:
        raise RuntimeError("a Variable cannot be decrypted")
    return None if found is None else str(found.val)


def set_in_database(session: Any, key: str, value: str, description: str) -> None:
    """Write a Variable into Airflow 2's database."""
    from airflow.models.variable import Variable

    # Not by Variable.set(), which deletes and inserts: of two that write at the same time one would fail.
    found = session.query(Variable).filter(Variable.key == key).one_or_none()
    if found is None:
        session.add(Variable(key=key, val=value, description=description))  # type: ignore[no-untyped-call]
    else:
        found.val, found.description = value, description

# SPDX-License-Identifier: Apache-2.0
"""Airflow's Variables, read and written as a trigger does it: in the database, or through the supervisor."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from typing import Any
from unittest import mock

import airflow
import pytest

from airflow_provider_scnet.triggers.shared_accounts import RunningAirflow

IS_2 = airflow.__version__.startswith("2.")
KEY = "scnet_claims_0123456789ab"
ABOUT = "What gates have claimed: SCnet, user alice at https://h."


class Supervisor:
    """Answers as the triggerer's supervisor does, and keeps what it is given."""

    def __init__(self) -> None:
        self.kept: dict[str, tuple[str, str]] = {}
        self.error: str | None = None

    async def asend(self, question: Any) -> Any:
        from airflow.sdk.exceptions import ErrorType
        from airflow.sdk.execution_time.comms import ErrorResponse, GetVariable, OKResponse, VariableResult

        # What travels is JSON: what it cannot hold would be lost on the way.
        question = type(question).model_validate_json(question.model_dump_json())
        if self.error:
            return ErrorResponse(error=ErrorType(self.error), detail={"token": "secret"})
        if isinstance(question, GetVariable):
            if question.key not in self.kept:
                return ErrorResponse(error=ErrorType.VARIABLE_NOT_FOUND, detail={"key": question.key})
            return VariableResult(key=question.key, value=self.kept[question.key][0])
        self.kept[question.key] = question.value, question.description
        return OKResponse(ok=True)


Do = Callable[[Coroutine[Any, Any, Any]], Any]


@pytest.fixture
def supervisor(request: pytest.FixtureRequest) -> Any:
    """What answers a trigger; None on Airflow 2, whose triggers ask the database themselves."""
    if IS_2:
        request.getfixturevalue("airflow_db")
        return None
    return Supervisor()


@pytest.fixture
def do(supervisor: Any) -> Do:
    """Run what asks Airflow, in a process that Airflow answers."""

    def run(question: Coroutine[Any, Any, Any]) -> Any:
        if supervisor is None:
            return asyncio.run(question)
        with mock.patch("airflow.sdk.execution_time.task_runner.SUPERVISOR_COMMS", supervisor, create=True):
            return asyncio.run(question)

    return run


def stored(supervisor: Any, key: str) -> tuple[str, str]:
    """Return a Variable's value and description as Airflow keeps them."""
    if supervisor is not None:
        return supervisor.kept[key]
    from airflow.models.variable import Variable
    from airflow.utils.session import create_session

    with create_session() as session:
        row = session.query(Variable).filter(Variable.key == key).one()
        return row.val, row.description


def test_what_was_written_is_read(do: Do, supervisor: Any):
    do(RunningAirflow().set_variable(KEY, "free", ABOUT))
    assert do(RunningAirflow().get_variable(KEY)) == "free"
    assert stored(supervisor, KEY) == ("free", ABOUT)


def test_what_is_written_anew_takes_the_place_of_what_was(do: Do, supervisor: Any):
    for value in ("first", "second", ""):
        do(RunningAirflow().set_variable(KEY, value, ABOUT))
        assert do(RunningAirflow().get_variable(KEY)) == value
    assert stored(supervisor, KEY) == ("", ABOUT)


def test_a_key_that_nobody_has_written_is_no_error(do: Do):
    assert do(RunningAirflow().get_variable("scnet_claims_of_nobody")) is None


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(json.dumps({"format": 1, "gates": ["x" * 100] * 10_000}), id="a megabyte"),
        pytest.param(json.dumps({"dag": "排队 – Größe 🚦", "run": 'a "quoted" {{ run_id }}\n'}), id="escaped"),
        pytest.param('{"dag": "排队 – Größe 🚦"}', id="unicode"),
        pytest.param(" null ", id="what JSON would read as nothing"),
    ],
)
def test_a_value_comes_back_as_it_was(do: Do, value: str):
    do(RunningAirflow().set_variable(KEY, value, ABOUT))
    assert do(RunningAirflow().get_variable(KEY)) == value


@pytest.mark.skipif(IS_2, reason="Airflow 2's triggers ask the database themselves")
@pytest.mark.parametrize("error", ["API_SERVER_ERROR", "GENERIC_ERROR"])
@pytest.mark.parametrize(
    "question",
    [lambda: RunningAirflow().get_variable(KEY), lambda: RunningAirflow().set_variable(KEY, "free", ABOUT)],
    ids=["read", "write"],
)
def test_an_error_is_never_taken_for_an_answer(do: Do, supervisor: Any, question: Any, error: str):
    supervisor.kept[KEY], supervisor.error = ("held", ABOUT), error
    with pytest.raises(RuntimeError, match=rf"^{error}$"):
        do(question())


@pytest.mark.skipif(IS_2, reason="Airflow 2's triggers ask the database themselves")
def test_a_write_that_is_answered_by_something_else_has_failed(do: Do, supervisor: Any):
    supervisor.error = "VARIABLE_NOT_FOUND"
    with pytest.raises(RuntimeError, match=r"^VARIABLE_NOT_FOUND$"):
        do(RunningAirflow().set_variable(KEY, "free", ABOUT))


@pytest.mark.skipif(not IS_2, reason="from Airflow 3 on triggers have no database")
def test_a_database_that_is_away_is_an_error(do: Do, monkeypatch: pytest.MonkeyPatch):
    import contextlib

    from airflow.utils import session as module

    @contextlib.contextmanager
    def away(*given: Any, **more: Any) -> Any:
        raise ConnectionError("no route to host")
        yield

    monkeypatch.setattr(module, "create_session", away)
    for question in (RunningAirflow().get_variable(KEY), RunningAirflow().set_variable(KEY, "free", ABOUT)):
        with pytest.raises(ConnectionError):
            do(question)

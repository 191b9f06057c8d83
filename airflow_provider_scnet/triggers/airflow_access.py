# SPDX-License-Identifier: Apache-2.0
"""How a trigger asks Airflow anything: its database before 3.0, the triggerer's supervisor since."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from airflow import __version__ as airflow_version

#: Whether a trigger may use Airflow's database, in a thread.
HAS_DATABASE = airflow_version.startswith("2.")

T = TypeVar("T")


async def answer(question: Any, kind: type[T] | tuple[type[Any], ...]) -> T:
    """
    Ask the triggerer's supervisor.

    :param question: one of Airflow's messages
    :param kind: the message that answers it, or several that may
    :raises RuntimeError: where the answer is another, such as that of an API that is away
    """
    from airflow.sdk.execution_time import task_runner
    from airflow.sdk.execution_time.comms import ErrorResponse

    found: Any = await task_runner.SUPERVISOR_COMMS.asend(question)
    if not isinstance(found, kind):
        raise RuntimeError(found.error.value if isinstance(found, ErrorResponse) else type(found).__name__)
    return found  # type: ignore[no-any-return]


async def in_database(ask: Callable[[Any], T]) -> T:
    """Ask Airflow's database, in a thread; the session is the argument."""
    from airflow.utils.session import create_session

    def run() -> T:
        with create_session() as session:
            return ask(session)

    return await asyncio.to_thread(run)

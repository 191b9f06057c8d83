# SPDX-License-Identifier: Apache-2.0
"""What the commands do, and how they end."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from airflow.cli.simple_table import AirflowConsole, SimpleTable
from airflow.utils.cli import suppress_logs_and_warning
from airflow.utils.providers_configuration_loader import providers_configuration_loaded
from rich.console import Group
from rich.live import Live
from rich.text import Text

from airflow_provider_scnet.client.errors import ScnetError
from airflow_provider_scnet.client.job_counts import JobCounts
from airflow_provider_scnet.client.observation import Observation
from airflow_provider_scnet.client.queue_name import queue_named
from airflow_provider_scnet.client.threads import run_in_thread
from airflow_provider_scnet.gate.condition import Condition
from airflow_provider_scnet.gate.decision import Verdict, decide
from airflow_provider_scnet.gate.gate import Gate
from airflow_provider_scnet.hooks.polled_connection import PolledConnection
from airflow_provider_scnet.hooks.scnet import ScnetHook

#: How a command ends; those from 128 on as a shell names the signals.
YES, NO, COULD_NOT_TELL, INTERRUPTED, READER_GONE = 0, 1, 2, 130, 141


def _command(function: Callable[[Namespace], int]) -> Callable[[Namespace], None]:
    """Make a command end as its users expect: with a status of its own, and never with a traceback."""

    @suppress_logs_and_warning
    @providers_configuration_loaded
    def quietly(args: Namespace) -> None:
        status = function(args)
        sys.stdout.flush()
        raise SystemExit(status)

    @functools.wraps(function)
    def run(args: Namespace) -> None:
        # As Airflow's own commands do: without it Airflow 3 does not look for connections in its database.
        os.environ["_AIRFLOW_PROCESS_CONTEXT"] = "server"
        args.verbose = False  # Airflow's decorator wants to know
        try:
            quietly(args)
        except KeyboardInterrupt:
            raise SystemExit(INTERRUPTED) from None
        except BrokenPipeError:
            # What is left in the buffer goes nowhere, or Python would complain when it ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(READER_GONE) from None

    return run


@_command
def jobs(args: Namespace) -> int:
    """
    Show how many jobs are in which state.

    :param args: ``conn_ids``, ``users``, ``queues``, ``output``, ``watch``
    """
    try:
        queues = list(dict.fromkeys(map(queue_named, args.queues or [])))
    except ScnetError as error:
        _say(str(error), error=True)
        return COULD_NOT_TELL
    # The same one twice would be asked more often than the interval says.
    asked = list(itertools.product(dict.fromkeys(args.conn_ids), dict.fromkeys(args.users or [None])))
    console = _Console()
    seen = _observe(asked, queues)
    # As for a gate: an error of the first poll will hardly go away, a later one may.
    if args.watch is None or all(observation.fails_gates for *_, observation in seen):
        _show(seen, args.output, console)
        return COULD_NOT_TELL if any(_trouble(observation) for *_, observation in seen) else YES
    in_place = args.output == "table" and sys.stdout.isatty() and console.is_interactive
    with Live(console=console, auto_refresh=False) if in_place else contextlib.nullcontext() as live:
        while True:
            _show(seen, args.output, console, live)
            time.sleep(max(args.watch, *(observation.pause for *_, observation in seen)))
            seen = _observe(asked, queues)


@_command
def check(args: Namespace) -> int:
    """
    Say what the Test button says, and how many jobs the user may submit; whether a condition allows more.

    The connection's own condition is shown beside that number.

    :param args: ``conn_id``, ``queue``, ``condition``
    """
    try:
        condition = None if args.condition is None else Condition(args.condition)
    except ValueError as error:
        _say(str(error), error=True)
        return COULD_NOT_TELL
    hook = ScnetHook(args.conn_id)
    works, message = hook.test_connection(args.queue)
    _say(message, error=not works)
    if not works:
        return NO
    try:
        text = PolledConnection(args.conn_id).read_settings().condition
        of_connection = Condition(text) if text else None
    except (ScnetError, ValueError) as error:
        _say(f"its gates stay shut: connection '{args.conn_id}', extra 'condition': {error}", error=True)
        return NO
    _say_limit(hook, condition, of_connection)
    return YES


@_command
def explain(args: Namespace) -> int:
    """
    Say whether a gate would open now, and why not.

    :param args: ``condition``, ``conn_id``, ``user``, ``queue``, ``submits``, ``fail_when``
    """
    try:
        gate = Gate.of(args.condition, args.fail_when, args.submits, args.queue).checked()
    except ValueError as error:
        _say(str(error), error=True)
        return COULD_NOT_TELL
    [(*_, observation)] = _observe([(args.conn_id, args.user)], [args.queue] if args.queue else [])
    for note in observation.notes:
        _say(note, error=True)
    if trouble := _trouble(observation, gate.states):
        _say(trouble, error=True)
        return COULD_NOT_TELL
    decision = decide(gate, observation)
    _say(decision.reason)
    return YES if decision.verdict is Verdict.OPEN else NO


def _say_limit(hook: ScnetHook, condition: Condition | None, of_connection: Condition | None) -> None:
    """Say what the connection needs and how many jobs SCnet allows; warn where a condition allows more."""
    limit, unread = None, ""
    try:
        limit = run_in_thread(hook.get_job_limit).result()
    except ScnetError as error:
        unread = f"how many jobs this user may submit could not be read: {error}"
    needs = f"each of its gates needs {of_connection.text} besides its own condition" if of_connection else ""
    at_most = f"SCnet lets this user submit {limit} jobs (userMaxSubmitJob)" if limit else ""
    if found := [each for each in (needs, at_most) if each]:
        _say("; ".join(found))
    if unread and (condition or of_connection):
        _say(unread, error=True)
    # With none running, because it is not known whether running jobs count towards the limit.
    full = JobCounts(running=0, queued=limit, held=0, suspended=0, other=0)
    if limit and condition and all(each.holds(full) for each in (condition, of_connection) if each):
        _say(
            f"warning: with {limit} jobs queued, all that SCnet lets this user submit (userMaxSubmitJob), "
            "the condition still holds: let it hold for fewer, or submissions may be refused",
            error=True,
        )


# A connection, the user that was asked for, and what was seen, of one queue or of all.
_Seen = Sequence[tuple[str, str | None, Observation]]


class _Console(AirflowConsole):  # type: ignore[misc]
    def on_broken_pipe(self) -> None:
        """Leave it to the command: rich would end it with the status of another answer."""
        raise BrokenPipeError


def _observe(asked: Iterable[tuple[str, str | None]], queues: Sequence[str]) -> _Seen:
    # Aside: Python drops a Ctrl-C that comes in a finalizer, and urllib3 closes its connections in one.
    return run_in_thread(
        lambda: [
            (conn_id, user, observation.of(queue))
            for conn_id, user in asked
            for observation in [PolledConnection(conn_id).observe(user, queues)]
            for queue in (queues or (None,))
        ]
    ).result()


def _trouble(observation: Observation, states: Iterable[str] = ("total",)) -> str:
    """Return why an observation does not tell what was asked; empty where it does."""
    return str(observation.error_about(states) or observation.doubt)


def _say(line: str, *, error: bool = False) -> None:
    print(line, file=sys.stderr if error else sys.stdout)


def _show(seen: _Seen, output: str, console: _Console, live: Live | None = None) -> None:
    """Show what was seen, and what was wrong with it: on stderr, or in place below the table."""
    remarks = [line for *_, observation in seen for line in (_trouble(observation), *observation.notes) if line]
    if live:
        live.update(Group(_table(seen), *map(Text, remarks)), refresh=True)
        return
    if output == "json":
        _say(json.dumps([_record(*each) for each in seen]))
    elif any(observation.counts for *_, observation in seen):
        console.print(_table(seen))
    sys.stdout.flush()
    for line in remarks:
        _say(line, error=True)


def _table(seen: _Seen) -> SimpleTable:
    states = list(JobCounts().as_dict())
    table = SimpleTable(show_header=True, caption_justify="left")
    names = ["connection", "user"]
    if any(observation.queue_name for *_, observation in seen):
        names.append("queue")
    for heading in (*names, *states):
        table.add_column(heading, justify="right" if heading in states else "left")
    for conn_id, _, observation in seen:
        if observation.counts:
            counts = ("?" if number is None else str(number) for number in observation.counts.as_dict().values())
            # A Text, because rich would take brackets in a name for its own.
            name = conn_id, observation.user_name or "", observation.queue_name or ""
            table.add_row(*map(Text, name[: len(names)]), *counts)
            table.caption = f"at {observation.observed_at.astimezone():%H:%M:%S}"
    return table


def _record(conn_id: str, user: str | None, observation: Observation) -> dict[str, Any]:
    """Return what was seen as JSON, in the words of a gate's decision."""
    return {
        "scnet_conn_id": conn_id,
        "user_name": observation.user_name or user,
        "queue_name": observation.queue_name,
        "counts": observation.counts.as_dict() if observation.counts else None,
        "observed_at": observation.observed_at.isoformat(),
        "trouble": _trouble(observation) or None,
    }

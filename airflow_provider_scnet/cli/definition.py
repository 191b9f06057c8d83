# SPDX-License-Identifier: Apache-2.0
"""
What may be said on the command line.

Once for both ways, ``airflow scnet`` and ``python -m airflow_provider_scnet``. Airflow reads this at each start of
its own command line, so nothing is imported here that it has not loaded already.
"""

from __future__ import annotations

import argparse

from airflow.cli.cli_config import ActionCommand, Arg, CLICommand, GroupCommand, lazy_load_command

from airflow_provider_scnet.connection_form import DEFAULT_CONN_ID

#: Seconds between two polls of ``--watch``, at least and at most.
SHORTEST_WATCH, LONGEST_WATCH = 5.0, 86400.0

_COMMANDS = "airflow_provider_scnet.cli.commands"


def _conn_id(text: str) -> str:
    # Somebody who writes an address here may well write a token into it: it is not repeated.
    if "://" in text:
        raise argparse.ArgumentTypeError("an address is no id of a connection")
    return text


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not SHORTEST_WATCH <= seconds <= LONGEST_WATCH:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no number of seconds from {SHORTEST_WATCH:g} to {LONGEST_WATCH:g}"
        )
    return seconds


_CONNECTION = Arg(
    ("conn_id",),
    metavar="CONN_ID",
    nargs="?",
    type=_conn_id,
    default=DEFAULT_CONN_ID,
    help=f"the id of a connection of type scnet (default: {DEFAULT_CONN_ID})",
)
_CONNECTIONS = Arg(
    ("conn_ids",),
    metavar="CONN_ID",
    nargs="*",
    type=_conn_id,
    default=[DEFAULT_CONN_ID],
    help=f"the ids of connections of type scnet (default: {DEFAULT_CONN_ID})",
)
_USER = Arg(
    ("--user",),
    metavar="NAME",
    help="the cluster user (default: the connection's login, or else the token's own user)",
)
_USERS = Arg(
    ("--user",),
    metavar="NAME",
    dest="users",
    action="append",
    help="a cluster user, may be repeated (default: the connection's login, or else the token's own user)",
)
_QUEUE = Arg(
    ("--queue",),
    metavar="NAME",
    help="the queue whose jobs are counted (default: all of them together)",
)
_QUEUES = Arg(
    ("--queue",),
    metavar="NAME",
    dest="queues",
    action="append",
    help="a queue whose jobs are counted, may be repeated (default: all of them together)",
)
_OUTPUT = Arg(
    ("-o", "--output"),
    metavar="FORMAT",
    choices=("table", "json"),
    default="table",
    help="table or json (default: table)",
)
_WATCH = Arg(
    ("--watch",),
    metavar="SECONDS",
    type=_seconds,
    help=(
        f"poll again and again with a pause of so many seconds, {SHORTEST_WATCH:g} at least, until Ctrl-C; "
        "the pause grows where the cluster asks for it"
    ),
)
_CONDITION = Arg(("condition",), metavar="CONDITION", help="what the gate waits for, e.g. 'queued < 5'")
_CONDITION_TO_CHECK = Arg(
    ("--condition",),
    metavar="CONDITION",
    help="a gate's condition; warn where it allows more queued jobs than SCnet lets the user submit",
)
_FAIL_WHEN = Arg(("--fail-when",), metavar="CONDITION", help="what fails the gate for good, e.g. 'held > 0'")
# Text, because the gate itself reads it, as strictly as in a DAG file.
_SUBMITS = Arg(
    ("--submits",),
    metavar="N",
    default="1",
    help="how many jobs the work behind the gate submits (default: 1)",
)

COMMANDS = (
    ActionCommand(
        name="jobs",
        help="Show how many jobs are in which state",
        description="Show how many jobs of a cluster user are in which state.",
        func=lazy_load_command(f"{_COMMANDS}.jobs"),
        args=(_CONNECTIONS, _USERS, _QUEUES, _OUTPUT, _WATCH),
        epilog="Exit status: 0 where all was reported, 2 where something was not.",
    ),
    ActionCommand(
        name="check",
        help="Say whether a connection works",
        description=(
            "Say what the Test button of a connection says, and what its extra 'condition' needs of all its gates."
        ),
        func=lazy_load_command(f"{_COMMANDS}.check"),
        args=(_CONNECTION, _QUEUE, _CONDITION_TO_CHECK),
        epilog="Exit status: 0 where it works, 1 where it does not, 2 where the command line is wrong.",
    ),
    ActionCommand(
        name="explain",
        help="Say whether a gate would open now, and why not",
        description=(
            "Say whether a gate with this condition would open now, and why not. "
            "The jobs of other gates that have just opened are known to the triggerer only."
        ),
        func=lazy_load_command(f"{_COMMANDS}.explain"),
        args=(_CONDITION, _CONNECTION, _USER, _QUEUE, _SUBMITS, _FAIL_WHEN),
        epilog="Exit status: 0 open, 1 shut, 2 could not tell (a condition that cannot be read is one reason).",
    ),
)


def get_scnet_commands() -> list[CLICommand]:
    """Return the commands for Airflow's own command line; 3.2 and later ask for them."""
    return [GroupCommand(name="scnet", help="Ask SCnet, the HPC cluster", subcommands=COMMANDS)]

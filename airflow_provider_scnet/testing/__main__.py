# SPDX-License-Identifier: Apache-2.0
"""Serve a simulator from the command line: ``python -m airflow_provider_scnet.testing``."""

from __future__ import annotations

import argparse
import re
import shlex
import signal
import threading
from collections.abc import Callable, Sequence
from types import FrameType
from typing import NoReturn
from urllib.parse import quote

from airflow_provider_scnet.testing.counts import JOB_STATE_PATH
from airflow_provider_scnet.testing.simulator import ScnetSimulator


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Say what is wrong in one line, without the usage in front of it."""
        self.exit(2, f"{self.prog}: error: {message}\n")


def _numbers_of(form: str) -> Callable[[str], tuple[str, int]]:
    def read(text: str) -> tuple[str, int]:
        name, _, number = text.rpartition("=")
        if not name or not number.isdecimal():
            raise argparse.ArgumentTypeError(f"{text!r} is not {form}")
        return name, int(number)

    return read


def _parser() -> _Parser:
    parser = _Parser(
        prog="python -m airflow_provider_scnet.testing",
        description="A small SCnet on loopback, to try a DAG against. Serves until Ctrl-C.",
        allow_abbrev=False,
    )
    parser.add_argument("--port", type=int, default=0, help="port on 127.0.0.1 (default: any free one)")
    parser.add_argument(
        "--slots", type=int, default=4, help="jobs of the queue comp that run at once (default: %(default)s)"
    )
    parser.add_argument(
        "--queue",
        type=_numbers_of("NAME=SLOTS"),
        action="append",
        default=[],
        metavar="NAME=SLOTS",
        help="a queue beside comp, with slots of its own; may be repeated",
    )
    parser.add_argument(
        "--user", action="append", metavar="NAME", help="a cluster user; may be repeated (default: alice)"
    )
    parser.add_argument(
        "--run-for",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="how long a job runs (default: %(default)s)",
    )
    parser.add_argument(
        "--counted-after",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="how long it takes until a job is in the reported counts (default: %(default)s)",
    )
    parser.add_argument(
        "--submit",
        type=_numbers_of("USER=N"),
        action="append",
        default=[],
        metavar="USER=N",
        help="submit N jobs of a user at the start; may be repeated",
    )
    return parser


def _usage(scnet: ScnetSimulator, users: Sequence[str]) -> str:
    first, *others = users
    commands = scnet.commands(first)
    look = f"{scnet.url}{JOB_STATE_PATH}?userName={quote(first, safe='')}"
    lines = [
        f"SCnet simulator on {scnet.url}",
        "",
        f"# The connection scnet_default, as user {first}; either line will do:",
        f"export AIRFLOW_CONN_SCNET_DEFAULT={shlex.quote(scnet.connection_json(first))}",
        f"export AIRFLOW_CONN_SCNET_DEFAULT={shlex.quote(scnet.connection_uri(first))}",
        "",
    ]
    for user in others:
        variable = "AIRFLOW_CONN_SCNET_" + re.sub(r"\W", "_", user, flags=re.ASCII).upper()
        lines += [f"# As user {user}:", f"export {variable}={shlex.quote(scnet.connection_json(user))}", ""]
    scnet.add_access_keys(first)
    lines += [
        f"# The connection scnet_keys, which obtains its tokens with the access keys of {first}:",
        f"export AIRFLOW_CONN_SCNET_KEYS={shlex.quote(scnet.key_connection_json(first))}",
        "",
    ]
    lines += [
        "# What the example DAGs need besides: where they submit their jobs:",
        f"export SCNET_SIMULATOR_URL={scnet.url}",
        "",
        "# Look at what SCnet reports, and at what is really there:",
        f"curl -s -H {shlex.quote('token: ' + scnet.token(first))} {shlex.quote(look)}",
        commands["state"],
        "",
        f"# Submit a job, and end all jobs of {first}:",
        commands["submit"],
        commands["cancel"],
        "",
        "Serving until Ctrl-C.",
    ]
    return "\n".join(lines)


def _end(signum: int, frame: FrameType | None) -> NoReturn:
    # Once is enough: a second Ctrl-C must not interrupt the orderly end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def main(argv: Sequence[str] | None = None) -> None:
    """
    Serve until the process is interrupted or terminated.

    :param argv: the arguments; None: those of the process
    """
    parser = _parser()
    args = parser.parse_args(argv)
    if not 0 <= args.port <= 65535:
        parser.error(f"argument --port: {args.port} is not a port")
    users = args.user or ["alice"]
    signal.signal(signal.SIGINT, _end)
    signal.signal(signal.SIGTERM, _end)
    try:
        scnet = ScnetSimulator(
            port=args.port, slots=args.slots, run_for=args.run_for, counted_after=args.counted_after
        )
        for user in users:
            scnet.add_user(user)
        for queue, slots in args.queue:
            scnet.add_queue(queue, slots=slots)
        for user, jobs in args.submit:
            scnet.submit(user, jobs)
        with scnet:
            print(_usage(scnet, users), flush=True)  # noqa: T201
            threading.Event().wait()
    except (LookupError, ValueError) as error:
        parser.error(str(error))
    except OSError as error:
        parser.error(f"cannot serve on 127.0.0.1:{args.port}: {error.strerror}")
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()

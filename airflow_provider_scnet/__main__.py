# SPDX-License-Identifier: Apache-2.0
"""The commands without Airflow's own command line: ``python -m airflow_provider_scnet``."""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
from collections.abc import Sequence
from typing import NoReturn


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Say what is wrong in one line, without the usage in front of it."""
        self.exit(2, f"{self.prog}: error: {message}\n")


def _parser() -> _Parser:
    from airflow_provider_scnet.cli.definition import COMMANDS

    parser = _Parser(
        prog="python -m airflow_provider_scnet",
        description="Ask SCnet, the HPC cluster, through the connections of this Airflow.",
        allow_abbrev=False,
    )
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in COMMANDS:
        subparser = subparsers.add_parser(
            command.name,
            help=command.help,
            description=command.description,
            epilog=command.epilog,
            allow_abbrev=False,
        )
        for arg in command.args:
            arg.add_to_parser(subparser)
        subparser.set_defaults(func=command.func)
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """
    Do what was asked for.

    :param argv: the arguments; None: those of the process
    """
    try:
        # What Airflow logs while it is loaded is no part of an answer. The commands themselves are quiet.
        logging.disable(logging.INFO)
        with contextlib.redirect_stdout(sys.stderr):
            parser = _parser()
            import airflow_provider_scnet.cli.commands  # noqa: F401
        args = parser.parse_args(argv)
        args.func(args)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""Runs ``airflow`` commands one after another, so that Airflow is imported once: that takes many seconds."""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path


def run(arguments: list[str]) -> int:
    """
    Run one command, and return its status.

    :param arguments: what stands behind ``airflow``
    """
    sys.argv = ["airflow", *arguments]
    try:
        from airflow.__main__ import main as airflow

        airflow()
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def main() -> None:
    """Read one command a line, as JSON: its arguments, and the file for what it writes. Answer with its status."""
    with os.fdopen(os.dup(1), "w") as answers:
        for line in sys.stdin:
            arguments, written = json.loads(line)
            with Path(written).open("wb") as output:
                os.dup2(output.fileno(), 1)
                os.dup2(output.fileno(), 2)
            status = run(arguments)
            sys.stdout.flush()
            sys.stderr.flush()
            print(status, file=answers, flush=True)


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""What ``make play`` says before it starts an Airflow."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import airflow
import pytest


def play(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "demo.play", *arguments],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.skipif(airflow.__version__.startswith("2."), reason="these pages are those of Airflow 3")
def test_a_port_in_use_is_one_line_with_a_status_of_its_own():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = play("--port", str(port))
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == (
        f"cannot serve on 127.0.0.1:{port}: Address already in use. Name another port: make play PORT=9090\n"
    )


@pytest.mark.parametrize(
    ("port", "message"),
    [("70000", "70000 is not a port"), ("0", "0 is not a port"), ("x", "invalid int value: 'x'")],
)
def test_what_is_no_port_is_said(port: str, message: str):
    done = play("--port", port)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith(f"error: argument --port: {message}\n")

# SPDX-License-Identifier: Apache-2.0
"""What ``make play`` says before it starts an Airflow."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import airflow
import pytest

AIRFLOW_3 = airflow.__version__.startswith("3.")


def play(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "demo.play", *arguments],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.skipif(not AIRFLOW_3, reason="there are no such pages to serve, as the next test says")
def test_a_port_in_use_is_one_line_with_a_status_of_its_own():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = play("--port", str(port))
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == (
        f"cannot serve on 127.0.0.1:{port}: Address already in use. Name another port: make play PORT=9090\n"
    )


@pytest.mark.skipif(AIRFLOW_3, reason="Airflow 3 has the pages")
def test_an_airflow_without_these_pages_is_said():
    done = play()
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "python -m demo.play: error: its pages are those of Airflow 3; make play has one\n"


@pytest.mark.parametrize(
    ("port", "message"),
    [("70000", "70000 is not a port"), ("0", "0 is not a port"), ("x", "invalid int value: 'x'")],
)
def test_what_is_no_port_is_said(port: str, message: str):
    done = play("--port", port)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"python -m demo.play: error: argument --port: {message}\n"

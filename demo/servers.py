# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL and Redis, from Debian's packages: on free ports, and gone afterwards."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType

from demo.engine import free_port

#: Seconds that a server may take to start.
LONGEST_START = 60.0


def program(name: str, package: str) -> str:
    """Find a program of a Debian package; PostgreSQL's keeps the server's out of the PATH."""
    for folder in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True):
        if (folder / name).exists():
            return str(folder / name)
    found = shutil.which(name)
    assert found, f"{name} is missing: install Debian's package {package}"
    return found


class PostgreSQL:
    """A server with an empty database."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="scnet-postgresql-"))
        self._port = free_port()
        #: What Airflow connects to.
        self.url = f"postgresql+psycopg2://airflow@127.0.0.1:{self._port}/airflow"

    def __enter__(self) -> PostgreSQL:
        if os.geteuid() == 0:
            # PostgreSQL refuses to run as root; Debian's package brings a user for it.
            shutil.chown(self._folder, "postgres")
        self._run("initdb", "--pgdata", "data", "--username", "airflow", "--auth", "trust", "--encoding", "UTF8")
        self.start()
        self._run("createdb", "-h", "127.0.0.1", "-p", str(self._port), "-U", "airflow", "airflow")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(subprocess.CalledProcessError):  # it may have been stopped already
            self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def start(self) -> None:
        """Start, with all that was there before."""
        options = f"-p {self._port} -k {self._folder} -c listen_addresses=127.0.0.1 -c max_connections=300"
        self._run("pg_ctl", "--pgdata", "data", "--wait", "-l", "log", "-o", options, "start")

    def stop(self) -> None:
        """End as a power cut would."""
        self._run("pg_ctl", "--pgdata", "data", "--wait", "-m", "immediate", "stop")

    def _run(self, name: str, *arguments: str) -> None:
        subprocess.run(
            [program(name, "postgresql"), *arguments],
            check=True,
            # The server inherits them, and would keep a pipe open.
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self._folder,
            **({"user": "postgres"} if os.geteuid() == 0 else {}),
        )


class Redis:
    """A server without anything in it."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="scnet-redis-"))
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        #: What Celery connects to.
        self.url = f"redis://127.0.0.1:{self._port}/0"

    def __enter__(self) -> Redis:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def start(self) -> None:
        """Start, with what was written before it was stopped."""
        server = program("redis-server", "redis-server")
        self._process = subprocess.Popen(
            [
                server,
                "--port",
                str(self._port),
                "--bind",
                "127.0.0.1",
                "--dir",
                self._folder,
                "--appendonly",
                "yes",
            ],
            stdout=subprocess.DEVNULL,
        )
        end = time.monotonic() + LONGEST_START
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._port), timeout=1):
                return
            assert self._process.poll() is None, "Redis did not start"
            assert time.monotonic() < end, "Redis does not answer"

    def stop(self) -> None:
        """End as a power cut would."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

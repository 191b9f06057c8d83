# SPDX-License-Identifier: Apache-2.0
"""A real Airflow for a while: its own home, database and processes, and nothing left of them afterwards."""

# Every command below is this interpreter's own Airflow, with arguments from this file.

from __future__ import annotations

import contextlib
import http.client
import json
import os
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil
import sqlalchemy

#: Seconds between two looks at what Airflow is doing.
PAUSE = 0.25
#: Seconds that the components have to end by themselves. The scheduler would wait for tasks that nobody needs.
GRACE = 5.0

#: The environment variable by which a component's children are recognised.
COMPONENT = "SCNET_ENGINE_COMPONENT"

LONG_AGO = datetime(2000, 1, 1, tzinfo=timezone.utc)

#: What the database calls the components that it knows.
JOBS = {"scheduler": "SchedulerJob", "triggerer": "TriggererJob", "dag-processor": "DagProcessorJob"}
#: Against faults of Airflow 3.0. It starts tasks before they may start (apache/airflow #52754), takes a DAG for
#: removed whose file ran a callback long after it was parsed (#55315), and makes the trigger of a watcher only
#: when its file is parsed for the second time.
OF_3_0 = {
    "AIRFLOW__CORE__EXECUTOR": "demo.late_executor.LateLocalExecutor",
    "AIRFLOW__DAG_PROCESSOR__STALE_DAG_THRESHOLD": "86400",
    "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "30",
}

#: A task instance: task id and map index, -1 where it is not mapped.
TaskKey = tuple[str, int]


class EngineError(Exception):
    """Airflow did not do what was asked; the message ends with the tails of its logs."""


class Engine:
    """
    The Airflow of the running interpreter's environment, 2.11 or 3.x, on 127.0.0.1 and free ports.

    Use it as a context manager, or call :meth:`start` and, whatever happens, :meth:`stop`.

    :param dags: the folder with the DAG files
    :param env: more environment variables for all components, such as ``AIRFLOW_CONN_SCNET_DEFAULT``
    :param database_url: the metadata database; default: SQLite in the home
    :param triggerers: more arguments for each triggerer, such as ``["--queues", "cluster"]``; default: one
        triggerer without any. The first is the component ``triggerer``, the next ``triggerer-2``
    :param port: the API server's; default: any free one
    :param pages: serve Airflow's pages too, to anybody on this machine, as an admin and without a login; 3.x only
    """

    def __init__(
        self,
        dags: Path,
        env: Mapping[str, str] | None = None,
        database_url: str | None = None,
        triggerers: Sequence[Sequence[str]] = ((),),
        port: int | None = None,
        pages: bool = False,
    ) -> None:
        self.airflow_3 = not version("apache-airflow").startswith("2.")
        self.home = Path(tempfile.gettempdir()) / f"scnet-airflow-{secrets.token_hex(4)}"
        self.database_url = database_url or f"sqlite:///{self.home / 'airflow.db'}"
        self.port = port or free_port()
        self._pages = pages
        self._triggerers = {
            f"triggerer-{number}" if number > 1 else "triggerer": ["triggerer", "--skip-serve-logs", *arguments]
            for number, arguments in enumerate(triggerers, start=1)
        }
        self.env = self._clean_environment() | self._settings(dags) | dict(env or {})
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        # What runs commands, once there has been one.
        self._commands: subprocess.Popen[bytes] | None = None
        # The server may be gone for a while.
        self._database = sqlalchemy.create_engine(self.database_url, pool_pre_ping=True)

    @property
    def url(self) -> str:
        """The address of the API server and the pages."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def commands(self) -> dict[str, list[str]]:
        """The components and their arguments."""
        # Nobody reads logs through the components' own servers, which would listen on all addresses.
        commands = {"scheduler": ["scheduler", "--skip-serve-logs"], **self._triggerers}
        if self.airflow_3:
            commands["dag-processor"] = ["dag-processor"]
            # What the tasks talk to; the pages only for those who want to see them.
            commands["api-server"] = ["api-server", "--apps", "all" if self._pages else "execution"]
        return commands

    # From start to stop

    def __enter__(self) -> Engine:
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> Engine:
        """Make the database, start all components, and wait until each has reported that it runs."""
        self.home.mkdir(mode=0o700)
        (self.home / "tmp").mkdir()
        self.airflow("db", "migrate")
        if self.database_url.startswith("sqlite"):
            # Readers and the one writer do not block each other; it is a property of the file and so stays.
            with self._database.connect() as connection:
                connection.execute(sqlalchemy.text("PRAGMA journal_mode=WAL"))
        for name in self.commands:
            self.start_component(name)
        self.wait_until(self.is_up, 300, "the start of all components")
        return self

    def stop(self) -> None:
        """End all processes, wait until none is left, and remove the home."""
        self._database.dispose()
        self._end_commands()
        self._end(self.processes)
        for process in self._processes.values():
            process.wait()
        self._processes.clear()
        shutil.rmtree(self.home, ignore_errors=True)

    def start_component(self, name: str) -> None:
        """
        Start one component.

        :param name: ``scheduler``, ``triggerer`` (``triggerer-2``, …), and on Airflow 3 ``dag-processor`` and
            ``api-server``
        """
        with self._log_file(name).open("ab") as log:
            streams = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": subprocess.STDOUT}
            self._processes[name] = self._spawn(name, "airflow", self.commands[name], streams)

    def kill(self, name: str) -> None:
        """
        End a component and all its children as a power cut would.

        :param name: the component
        """
        self._end(lambda: self.processes(name), grace=0)
        self._processes.pop(name).wait()

    def processes(self, component: str | None = None) -> list[psutil.Process]:
        """
        Return all processes of this Airflow that live.

        Tasks and parsers leave the process group of the component that started them, and may outlive it. So they
        are recognised by what all of them inherit, the environment.

        :param component: only this component and its children
        """
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.status() == psutil.STATUS_ZOMBIE:
                    continue
                env = process.environ()
                if env.get("AIRFLOW_HOME") == str(self.home) and component in (None, env.get(COMPONENT)):
                    found.append(process)
        return found

    def _end(self, processes: Callable[[], list[psutil.Process]], grace: float = GRACE) -> None:
        """Ask the components to end; what still lives after the grace, and what it starts meanwhile, is killed."""
        if grace:
            for component in self._processes.values():
                if component.poll() is None:
                    os.killpg(component.pid, signal.SIGTERM)
            _wait(lambda: not processes(), grace)
        while living := processes():
            for process in living:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(living, timeout=1)

    def is_up(self, since: datetime = LONG_AGO) -> bool:
        """
        Tell whether all components run.

        :param since: count what has said so after this moment only, in UTC
        """
        heard = "SELECT job_type FROM job WHERE state = 'running' AND latest_heartbeat > :since"
        running = Counter(row.job_type for row in self.rows(heard, since=since))
        # A triggerer-2 is a triggerer, too.
        started = Counter(name.rstrip("-0123456789") for name in self.commands)
        wanted = Counter({job: started[name] for name, job in JOBS.items()})
        return wanted <= running and (not self.airflow_3 or self._answers())

    def _answers(self) -> bool:
        try:
            with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)) as server:
                server.request("GET", "/execution/health")
                return server.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False

    # DAGs and their tasks

    def trigger_dag(self, dag_id: str, conf: Mapping[str, Any] | None = None, timeout: float = 60) -> str:
        """
        Start a run of a DAG, as soon as its file has been parsed, and return the run's id.

        :param dag_id: the DAG
        :param conf: its params
        :param timeout: seconds to wait for the file
        """
        self.wait_until_parsed(dag_id, timeout)
        run_id = f"run-{secrets.token_hex(4)}"
        self.airflow("dags", "trigger", dag_id, "--run-id", run_id, "--conf", json.dumps(conf or {}))
        return run_id

    def wait_until_parsed(self, dag_id: str, timeout: float = 60) -> None:
        """
        Wait until Airflow knows a DAG.

        :param dag_id: the DAG
        :param timeout: seconds to wait
        """
        parsed = "SELECT dag_id FROM serialized_dag WHERE dag_id = :dag_id"
        self.wait_until(lambda: bool(self.rows(parsed, dag_id=dag_id)), timeout, f"the parsing of {dag_id}")

    def task_states(self, dag_id: str) -> dict[TaskKey, str | None]:
        """
        Return the states of all task instances of a DAG's latest run.

        :param dag_id: the DAG
        """
        rows = self.rows(
            "SELECT task_id, map_index, state FROM task_instance WHERE dag_id = :dag_id AND run_id ="
            " (SELECT run_id FROM dag_run WHERE dag_id = :dag_id ORDER BY id DESC LIMIT 1)",
            dag_id=dag_id,
        )
        return {(row.task_id, row.map_index): row.state for row in rows}

    def run_state(self, dag_id: str) -> str | None:
        """
        Return the state of a DAG's latest run; None where there is none.

        :param dag_id: the DAG
        """
        rows = self.rows(
            "SELECT state FROM dag_run WHERE dag_id = :id ORDER BY dag_run.id DESC LIMIT 1", id=dag_id
        )
        return rows[0].state if rows else None

    def log_of(self, dag_id: str, task_id: str, map_index: int = -1) -> str:
        """
        Return what a task has logged so far, on workers and in the triggerer.

        :param dag_id: the DAG
        :param task_id: the task
        :param map_index: which of a mapped task's instances
        """
        mapped = f"map_index={map_index}/" if map_index >= 0 else ""
        files = self.home.glob(f"logs/dag_id={dag_id}/run_id=*/task_id={task_id}/{mapped}attempt=*.log*")
        return "".join(file.read_text(errors="replace") for file in sorted(files))

    def log(self, component: str) -> str:
        """
        Return what a component has logged so far.

        :param component: the component
        """
        return self._log_file(component).read_text(errors="replace")

    def wait_until(self, predicate: Callable[[], bool], timeout: float, what: str = "the condition") -> None:
        """
        Look again and again until the predicate holds.

        :param predicate: what to wait for
        :param timeout: seconds
        :param what: what it is called in the error
        :raises EngineError: when the time is up, or a component has ended by itself
        """

        def holds() -> bool:
            for name, process in list(self._processes.items()):
                if process.poll() is not None:
                    self._has_ended(name, process.returncode)
            return predicate()

        if not _wait(holds, timeout):
            raise EngineError(self._with_logs(f"{timeout:g} s were not enough for {what}"))

    def _has_ended(self, name: str, status: int) -> None:
        raise EngineError(self._with_logs(f"{name} has ended with status {status}"))

    def rows(self, query: str, **values: Any) -> list[Any]:
        """
        Read from the metadata database.

        :param query: a SELECT
        :param values: its parameters
        """
        with self._database.connect() as connection:
            return list(connection.execute(sqlalchemy.text(query), values))

    def execute(self, statement: str, **values: Any) -> None:
        """
        Change the metadata database, as somebody would through Airflow's pages.

        :param statement: an UPDATE
        :param values: its parameters
        """
        with self._database.begin() as connection:
            connection.execute(sqlalchemy.text(statement), values)

    def airflow(self, *arguments: str, timeout: float = 120) -> str:
        """
        Run an ``airflow`` command to its end and return what it wrote.

        :param arguments: the command
        :param timeout: seconds
        """
        log = self._log_file("command")
        log.touch()
        if self._commands is None:
            with self._log_file("commands").open("wb") as errors:
                streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": errors}
                self._commands = self._spawn("command", "demo.commands", [], streams)
        asked, answers = self._commands.stdin, self._commands.stdout
        assert asked
        assert answers
        with contextlib.suppress(BrokenPipeError):
            asked.write(json.dumps([arguments, str(log)]).encode() + b"\n")
            asked.flush()
        answer = answers.readline() if select.select([answers], [], [], timeout)[0] else b""
        text = log.read_text(errors="replace")
        if not answer:
            self._end_commands()
            raise EngineError(f"airflow {' '.join(arguments)} did not end within {timeout:g} s\n{text}")
        if status := int(answer):
            raise EngineError(f"airflow {' '.join(arguments)} ended with status {status}\n{text}")
        return text

    def _end_commands(self) -> None:
        if self._commands:
            self._commands.kill()
            self._commands.communicate()
            self._commands = None

    def tails(self, lines: int = 15) -> str:
        """
        Return the last lines of all components' logs.

        :param lines: how many of each
        """
        parts = []
        for name in self.commands:
            with contextlib.suppress(FileNotFoundError):
                tail = self._log_file(name).read_text(errors="replace").splitlines()[-lines:]
                parts += [f"--- {name}", *tail]
        return "\n".join(parts)

    def _with_logs(self, message: str) -> str:
        return f"{message}\n{self.tails()}"

    def _log_file(self, name: str) -> Path:
        return self.home / f"{name}.log"

    def _spawn(
        self, name: str, module: str, arguments: list[str], streams: Mapping[str, Any]
    ) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            env=self.env | {COMPONENT: name},
            cwd=self.home,
            **streams,
            # A Ctrl-C in the terminal is for whoever started the engine, who then ends it in order.
            start_new_session=True,
        )

    # Settings

    @staticmethod
    def _clean_environment() -> dict[str, str]:
        """Leave out what would make another Airflow of this one, and proxies: everything here is on loopback."""
        return {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("AIRFLOW", "PYTHONPATH")) and not name.lower().endswith("_proxy")
        }

    def _settings(self, dags: Path) -> dict[str, str]:
        secret = secrets.token_hex(32)
        return {
            "AIRFLOW_HOME": str(self.home),
            "TMPDIR": str(self.home / "tmp"),
            # Airflow gives its processes titles; without this they are written over their environment, by which
            # they are recognised.
            "SPT_NOENV": "1",
            "AIRFLOW__CORE__DAGS_FOLDER": str(dags.resolve()),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": self.database_url,
            "AIRFLOW__DATABASE__LOAD_DEFAULT_CONNECTIONS": "False",
            # Tasks run side by side, as they do in production. 2.11 would refuse that on SQLite; for the few tasks
            # of a demo it serves.
            "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
            "_AIRFLOW__SKIP_DATABASE_EXECUTOR_COMPATIBILITY_CHECK": "1",
            # Starting a task is all work for the processor: more at once only take turns.
            "AIRFLOW__CORE__PARALLELISM": "4",
            # A second between two rounds of the scheduler would be most of a short task's time; 0.2 s would take a
            # fifth of a processor while nothing goes on.
            "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.5",
            # The DAG files do not change; parsing them every 30 s takes the processor from the tasks.
            "AIRFLOW__SCHEDULER__MIN_FILE_PROCESS_INTERVAL": "600",
            "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "600",
            # One secret for all components, of this run only.
            "AIRFLOW__API_AUTH__JWT_SECRET": secret,
            "AIRFLOW__API__SECRET_KEY": secret,
            "AIRFLOW__WEBSERVER__SECRET_KEY": secret,
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(self.port),
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__API__BASE_URL": self.url,
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            # Whoever sees the pages may do everything there, also press a connection's Test button.
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": str(self._pages),
            "AIRFLOW__CORE__TEST_CONNECTION": "Enabled" if self._pages else "Disabled",
            # 2.11 would report to its authors.
            "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
            **(OF_3_0 if version("apache-airflow").startswith("3.0.") else {}),
        }


def free_port() -> int:
    """Return a port on 127.0.0.1 that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait(predicate: Callable[[], bool], timeout: float) -> bool:
    end = time.monotonic() + timeout
    while not predicate():
        if time.monotonic() >= end:
            return False
        time.sleep(PAUSE)
    return True

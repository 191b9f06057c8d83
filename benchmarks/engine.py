# SPDX-License-Identifier: Apache-2.0
"""
What waiting costs on a real Airflow, side by side: this gate, and ``HttpSensor`` in reschedule mode.

All components run on this machine, against the simulator as the cluster.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import psutil

from airflow_provider_scnet.testing import ScnetSimulator
from benchmarks import pictures, queues
from demo.engine import Engine

DAGS = Path(__file__).parent / "dags"
#: Where Airflow finds settings of the benchmarks.
SETTINGS = Path(__file__).parent / "settings"

#: Seconds between two looks, as in the README's example.
INTERVAL = 60
#: Seconds of waiting that are measured: whole intervals, so that each task asks equally often.
WINDOW = 2 * INTERVAL

#: Admission: a gate with "queued < 5" passes where four are queued, so that five are.
MOST_QUEUED = 5
#: Jobs that run at once.
SLOTS = 4
#: Submissions, and seconds that each job runs.
SUBMISSIONS = 60
RUN_FOR = 15
#: Seconds until the cluster counts a job.
COUNTED_AFTER = 5
#: Seconds between two looks.
ADMISSION_INTERVAL = 8
#: A run with two triggerers that share nothing but Airflow may fall out well by chance.
UNPINNED_RUNS = 3

#: Seconds after which something is wrong.
TOO_LONG = 1800


@dataclass(frozen=True)
class Usage:
    """What was used up to a moment, or between two."""

    cpu: float  # seconds of one core
    requests: int
    workers: int

    def __sub__(self, earlier: Usage) -> Usage:
        return Usage(self.cpu - earlier.cpu, self.requests - earlier.requests, self.workers - earlier.workers)


class Run:
    """
    One Airflow, one cluster, and one DAG with tasks that wait.

    :param engine: the Airflow
    :param scnet: the cluster
    :param dag_id: the DAG
    :param tasks: how many of its tasks wait
    """

    def __init__(self, engine: Engine, scnet: ScnetSimulator, dag_id: str, tasks: int) -> None:
        self.engine = engine
        self.scnet = scnet
        self.dag_id = dag_id
        self.tasks = tasks

    def states(self) -> list[str | None]:
        """Return the states of the tasks that wait, or have waited."""
        found = "SELECT state FROM task_instance WHERE dag_id LIKE :dag_id AND task_id LIKE '%gate%'"
        return [row.state for row in self.engine.rows(found, dag_id=self._dag_ids)]

    @property
    def _dag_ids(self) -> str:
        """The DAG, or all that have a number behind its name."""
        return f"{self.dag_id}%"

    @property
    def has_ended(self) -> bool:
        """Whether all runs of the DAG have ended."""
        unended = "SELECT COUNT(*) AS n FROM dag_run WHERE dag_id LIKE :d AND state NOT IN ('success', 'failed')"
        return self.engine.rows(unended, d=self._dag_ids)[0].n == 0

    def begin(self) -> float:
        """Start the DAG while the queue is full, and return the seconds until all its tasks wait."""
        self.scnet.set_counts("alice", queued=10**6)
        began = time.monotonic()
        if self.dag_id.endswith("_runs"):
            self.engine.wait_until_parsed(self.dag_id)
            self.engine.airflow("dags", "unpause", self.dag_id)
        elif self.dag_id.endswith("_dags"):
            for number in range(self.tasks):
                self.engine.trigger_dag(f"{self.dag_id}_{number:04}")
        else:
            self.engine.trigger_dag(self.dag_id)
        self.engine.wait_until(self._all_wait, TOO_LONG, "the first look of all tasks")
        return time.monotonic() - began

    def _all_wait(self) -> bool:
        if self.dag_id.endswith("_pool"):
            return self.states().count("scheduled") == self.tasks
        if self.dag_id.endswith("_http"):
            # Between two looks such a task is nowhere; that each has looked shows in the requests.
            return len(self.scnet.job_state_requests) >= self.tasks
        taken = "SELECT COUNT(*) AS n FROM trigger WHERE triggerer_id IS NOT NULL"
        has_looked = bool(self.scnet.job_state_requests) or self.dag_id.endswith("_datetime")
        return self.engine.rows(taken)[0].n == self.tasks and has_looked

    def release(self) -> float:
        """Make room just after a look, the worst moment, and return the seconds until the last success."""
        self.scnet.wait_for_requests(len(self.scnet.requests) + 1, timeout=2 * INTERVAL)
        self.scnet.set_counts("alice", queued=0)
        return self.ended_after(datetime.now(timezone.utc))

    def ended_after(self, released: datetime) -> float:
        """
        Wait for the end of all tasks, and return the seconds until the last success.

        :param released: since when
        """
        self.engine.wait_until(
            lambda: sum(state in ("success", "failed") for state in self.states()) == self.tasks,
            TOO_LONG,
            "the end of all tasks",
        )
        last = "SELECT MAX(end_date) AS at FROM task_instance WHERE dag_id = :dag_id AND state = 'success'"
        # SQLite knows no moments, only their text, in UTC.
        at = datetime.fromisoformat(str(self.engine.rows(last, dag_id=self.dag_id)[0].at))
        return ((at if at.tzinfo else at.replace(tzinfo=timezone.utc)) - released).total_seconds()

    def usage(self, component: str | None = None) -> Usage:
        """
        Return what was used so far.

        :param component: whose processor time counts; None: that of the whole engine
        """
        # Airflow notes in its audit log whenever a worker process begins with a task.
        begun = "SELECT COUNT(*) AS n FROM log WHERE event = 'running' AND dag_id = :dag_id"
        return Usage(
            cpu=sum(map(_cpu, self.engine.processes(component))),
            requests=len(self.scnet.job_state_requests),
            workers=self.engine.rows(begun, dag_id=self.dag_id)[0].n,
        )

    def used_in(self, seconds: float, component: str | None = None) -> Usage:
        """
        Let time pass, and return what was used meanwhile.

        :param seconds: how long
        :param component: whose processor time counts; None: that of the whole engine
        """
        before = self.usage(component)
        end = time.monotonic() + seconds
        self.engine.wait_until(lambda: time.monotonic() >= end, 2 * seconds, "the end of what is measured")
        return self.usage(component) - before


@contextlib.contextmanager
def running(
    dag_id: str,
    tasks: int,
    *,
    interval: float = INTERVAL,
    cluster: Mapping[str, Any] | None = None,
    env: Mapping[str, str] | None = None,
    triggerers: Sequence[Sequence[str]] = ((),),
    start: Callable[..., Engine] = Engine,
) -> Iterator[Run]:
    """
    Start an Airflow and a cluster.

    :param dag_id: the DAG that will run
    :param tasks: how many of its tasks will wait
    :param interval: seconds between two looks
    :param cluster: the simulator's arguments
    :param env: more of the environment
    :param triggerers: arguments of each triggerer
    :param start: makes the Airflow
    """
    # The table comes at the end; until then somebody may want to know that it goes on.
    print(f"{time.strftime('%H:%M:%S')} {dag_id}, {tasks} tasks", file=sys.stderr, flush=True)
    with ScnetSimulator(**(cluster or {})) as scnet:
        scnet.add_user("alice")
        variables = {
            "AIRFLOW_CONN_SCNET_DEFAULT": scnet.connection_json("alice"),
            "AIRFLOW_CONN_HTTP_DEFAULT": scnet.url,
            # Airflow's own default, not that of a short demo.
            "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "1",
            "SCNET_SIMULATOR_URL": scnet.url,
            "BENCH_TASKS": str(tasks),
            "BENCH_INTERVAL": str(interval),
            "BENCH_TOKEN": scnet.token("alice"),
        }
        with start(DAGS, variables | dict(env or {}), triggerers=triggerers) as engine:
            yield Run(engine, scnet, dag_id, tasks)


def waiting() -> list[dict[str, object]]:
    """Let 100 tasks wait, asking every 60 s, and release them just after a look."""
    rows: list[dict[str, object]] = []
    with running("waiting_scnet", 100) as run:
        rows.append(_row("an Airflow without tasks", run.used_in(WINDOW)))
    for dag_id, name in (("waiting_scnet", "100 gates"), ("waiting_http", "100 HttpSensors, rescheduled")):
        with running(dag_id, 100) as run:
            run.begin()
            used = run.used_in(WINDOW)
            seconds = run.release()
            rows.append(
                _row(name, used)
                | {
                    "… from first to last": run.usage().workers,
                    "release to last success, s": f"{seconds:.1f}",
                    "failed": run.states().count("failed"),
                }
            )
    return rows


def _row(name: str, used: Usage) -> dict[str, object]:
    return {
        "while waiting": name,
        "requests a minute": f"{used.requests * 60 / WINDOW:.0f}",
        "CPU seconds a minute, whole Airflow": f"{used.cpu * 60 / WINDOW:.1f}",
        "worker processes a minute": f"{used.workers * 60 / WINDOW:.0f}",
    }


def compared() -> list[dict[str, object]]:
    """Submit 60 jobs of 15 s to four slots, for the picture: `queued < 5` every 8 s, or a pool of five slots."""
    ways = {
        "ScnetJobCountSensor": Admission("gates", "admission_scnet"),
        "HttpSensor": Admission("HttpSensors, rescheduled", "admission_http"),
        f"Airflow pool, {MOST_QUEUED} slots": Admission("submissions in a pool", "admission_pool"),
    }
    rows = [way.row() for way in ways.values()]
    pictures.queues({name: way.queue for name, way in ways.items()}, limit=MOST_QUEUED)
    return rows


def admission() -> list[dict[str, object]]:
    """Submit 60 jobs of 15 s to four slots, each behind `queued < 5`, asking every 8 s; counted after 5 s."""
    queue = {"AIRFLOW__TRIGGERER__QUEUES_ENABLED": "True", "BENCH_QUEUE": "cluster"}
    pinned = (("--queues", "cluster"), ("--queues", "default"))
    halves = (("--capacity", str(SUBMISSIONS // 2)),) * 2
    rows = [
        Admission("gates, triggerer killed and started again", "admission_scnet", kill=True).row(),
        Admission("gates, two triggerers, pinned to one", "admission_scnet", queue, pinned).row(),
    ]
    for number in range(1, UNPINNED_RUNS + 1):
        name = f"gates, two triggerers, half on each, run {number}"
        rows.append(Admission(name, "admission_scnet", None, halves).row())
    for number in range(1, UNPINNED_RUNS + 1):
        name = f"gates, one in each of {SUBMISSIONS} runs, two triggerers, half on each, run {number}"
        rows.append(Admission(name, "admission_runs", None, halves).row())
    for number in range(1, UNPINNED_RUNS + 1):
        name = f"gates, one in each of {SUBMISSIONS} DAGs, two triggerers, half on each, run {number}"
        rows.append(Admission(name, "admission_dags", {"BENCH_DAGS": "1"}, halves).row())
    return rows


class Admission:
    """
    One run of the submissions.

    :param name: what it is called in the table
    :param dag_id: the DAG
    :param env: more of the environment
    :param triggerers: arguments of each triggerer
    :param kill: whether to kill the triggerer in the middle, and start it again
    """

    def __init__(
        self,
        name: str,
        dag_id: str,
        env: Mapping[str, str] | None = None,
        triggerers: Sequence[Sequence[str]] = ((),),
        kill: bool = False,
    ) -> None:
        self.name = name
        self.dag_id = dag_id
        self.env = env
        self.triggerers = triggerers
        self.kill = kill
        #: Moments, in seconds since there was room, and how many jobs were in the queue from then on.
        self.queue: list[tuple[float, int]] = []

    def row(self) -> dict[str, object]:
        """Let it run, and return what came of it."""
        cluster = {"slots": SLOTS, "run_for": RUN_FOR, "counted_after": COUNTED_AFTER}
        with running(
            self.dag_id,
            SUBMISSIONS,
            interval=ADMISSION_INTERVAL,
            cluster=cluster,
            env=self.env,
            triggerers=self.triggerers,
        ) as run:
            by_pool = self.dag_id.endswith("_pool")
            if by_pool:
                run.engine.airflow("pools", "set", "few", "0", "nothing starts")
            run.begin()
            # All compete for the queue at once, and what gets in stays there for a while: earlier jobs run.
            earlier = run.scnet.submit("alice", SLOTS)
            run.scnet.set_counts("alice", queued=None)
            start = run.scnet.clock.now()
            if by_pool:
                run.engine.airflow("pools", "set", "few", str(MOST_QUEUED), "as many as may be queued")
            last_waited = self._let_run(run, start)
            seconds = run.scnet.clock.now() - start
            every_job = run.scnet.jobs("alice")
            jobs = [job for job in every_job if job.id not in earlier]
            self.queue = queues.over_time(jobs, start)
            row: dict[str, object] = {
                "admission": f"{SUBMISSIONS} {self.name}",
                "highest queue": run.scnet.totals("alice").highest_queued,
                "over-admitted": queues.over_admitted(jobs, MOST_QUEUED),
                "submitted": len(jobs),
                "failed": run.states().count("failed"),
                "time, s": f"{seconds:.0f}",
                "slots idle while gates wait, %": f"{queues.idle(every_job, SLOTS, start, last_waited):.0f}",
            }
            print(row, file=sys.stderr, flush=True)
            return row

    def _let_run(self, run: Run, start: float) -> float:
        """Wait for the end of the run, and return when a gate waited last."""
        last_waited = start
        to_be_killed = self.kill

        def has_ended() -> bool:
            nonlocal last_waited, to_be_killed
            left = sum(state not in ("success", "failed") for state in run.states())
            if left:
                last_waited = run.scnet.clock.now()
            if to_be_killed and left <= SUBMISSIONS // 2:
                to_be_killed = False
                run.engine.kill("triggerer")
                run.engine.start_component("triggerer")
            return run.has_ended

        run.engine.wait_until(has_ended, TOO_LONG, "the run")
        return last_waited


def least() -> list[dict[str, object]]:
    """Say what no admission can be faster than: the slots are never idle, and the last job waits in the queue."""
    seconds = (SUBMISSIONS - MOST_QUEUED) / SLOTS * RUN_FOR
    return [{"least": f"{SUBMISSIONS} submissions, slots busy at first", "time, s": f"{seconds:.0f}"}]


def claims() -> list[dict[str, object]]:
    """Let 500 of 1,000 gates of one run pass, whose submissions do not start, asking every 60 s."""
    passed, tasks = 500, 1000
    with tempfile.NamedTemporaryFile() as asked:
        env = {
            "BENCH_CONDITION": f"queued < {passed}",
            "BENCH_POOL": "none",
            "BENCH_ASKED": asked.name,
            "PYTHONPATH": str(SETTINGS),
        }
        with running("admission_scnet", tasks, env=env) as run:
            run.engine.airflow("pools", "set", "none", "0", "nothing starts")
            run.begin()
            run.scnet.set_counts("alice", queued=0)
            run.engine.wait_until(
                lambda: run.states().count("success") == passed, TOO_LONG, "the passing of half of them"
            )
            # What their passing left behind is no part of the waiting.
            run.used_in(INTERVAL)
            questions = Path(asked.name).stat().st_size
            # What is asked of Airflow is in it: a triggerer of 3.x answers by itself.
            used = run.used_in(WINDOW, "triggerer")
            questions = Path(asked.name).stat().st_size - questions
            return [
                {
                    "with claims out": f"{tasks - passed} gates wait, {passed} have passed",
                    "requests to the cluster a minute": f"{used.requests * 60 / WINDOW:.0f}",
                    "requests to Airflow a minute": f"{questions * 60 / WINDOW:.1f}",
                    "triggerer's CPU, % of a core": f"{used.cpu / WINDOW * 100:.1f}",
                    "passed meanwhile": run.states().count("success") - passed,
                }
            ]


def scale() -> list[dict[str, object]]:
    """Let many gates wait on one triggerer, asking every 60 s."""
    return [
        _many("waiting_scnet", 1000, "in a mapped group"),
        _many("waiting_flat", 100, "each a task of its own"),
        _many("waiting_flat", 500, "each a task of its own"),
    ]


def _many(dag_id: str, tasks: int, name: str) -> dict[str, object]:
    env = {"BENCH_FLAT": str(tasks)} if dag_id == "waiting_flat" else {}
    with running(dag_id, tasks, env=env) as run:
        started = run.begin()
        # What their start left behind is no part of their waiting.
        run.used_in(INTERVAL)
        used = run.used_in(WINDOW, "triggerer")
        # Memory that processes share counts once.
        memory = sum(process.memory_full_info().pss for process in run.engine.processes("triggerer"))
        seconds = run.release()
        return {
            "on one triggerer": f"{tasks:,} gates, {name}",
            "until all wait, s": f"{started:.0f}",
            "requests a minute": f"{used.requests * 60 / WINDOW:.0f}",
            "triggerer's CPU, % of a core": f"{used.cpu / WINDOW * 100:.1f}",
            "triggerer's memory, MB": f"{memory / 1e6:.0f}",
            "worker processes, in all": run.usage().workers,
            "release to last success, s": f"{seconds:.1f}",
            "failed": run.states().count("failed"),
        }


def _cpu(process: psutil.Process) -> float:
    """Return the seconds that a process and its ended children have computed."""
    with contextlib.suppress(psutil.Error):
        return float(sum(process.cpu_times()[:4]))
    return 0.0

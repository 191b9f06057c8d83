# SPDX-License-Identifier: Apache-2.0
"""What waiting costs on the parts that production runs, beside an asynchronous sensor of Airflow's own."""

from __future__ import annotations

import functools
import re
import time
from datetime import datetime, timedelta, timezone

from benchmarks import engine
from demo.production import Production
from demo.servers import PostgreSQL, Redis

GATES = 1_000
#: Seconds between two looks.
INTERVAL = 10
#: Seconds of waiting that are measured.
WINDOW = 60
TRIGGERERS = ("triggerer", "triggerer-2")
#: Seconds after which a sensor ends that waits for a moment: all of them wait by then, and have been measured.
RELEASE_AFTER = 330

_BLOCKED = re.compile(r"async thread was blocked for ([0-9.]+) seconds")


def production() -> list[dict[str, object]]:
    """1,000 tasks in two triggerers: PostgreSQL, Redis, CeleryExecutor, two schedulers; looks every 10 s."""
    return [
        _waiting("ScnetJobCountSensor", "waiting_scnet"),
        _waiting("DateTimeSensorAsync, started from the trigger", "waiting_datetime"),
    ]


def _waiting(name: str, dag_id: str) -> dict[str, object]:
    half = ("--capacity", str(GATES // 2))
    with PostgreSQL() as database, Redis() as broker:
        start = functools.partial(Production, database_url=database.url, broker_url=broker.url)
        release = datetime.now(timezone.utc) + timedelta(seconds=RELEASE_AFTER)
        with engine.running(
            dag_id,
            GATES,
            interval=INTERVAL,
            env={"BENCH_RELEASE": release.isoformat()},
            triggerers=(half, half),
            start=start,
        ) as run:
            started = run.begin()
            # What their start left behind is no part of their waiting.
            run.used_in(2 * INTERVAL)
            before, began = [run.usage(each).cpu for each in TRIGGERERS], time.monotonic()
            run.used_in(WINDOW)
            seconds = time.monotonic() - began
            used = [run.usage(each).cpu - earlier for each, earlier in zip(TRIGGERERS, before, strict=True)]
            # Memory that processes share counts once.
            memory = [
                sum(process.memory_full_info().pss for process in run.engine.processes(each))
                for each in TRIGGERERS
            ]
            ended = run.ended_after(release) if dag_id.endswith("_datetime") else run.release()
            blocked = [float(found) for each in TRIGGERERS for found in _BLOCKED.findall(run.engine.log(each))]
            return {
                "1,000 in two triggerers": name,
                "until all wait, s": f"{started:.0f}",
                "CPU of a triggerer, % of a core": " and ".join(f"{100 * cpu / seconds:.1f}" for cpu in used),
                "its memory, MB": " and ".join(f"{each / 1e6:.0f}" for each in memory),
                "release to last success, s": f"{ended:.0f}",
                "longest warning of a blocked loop, s": f"{max(blocked, default=0):.1f}",
                "failed": run.states().count("failed"),
            }

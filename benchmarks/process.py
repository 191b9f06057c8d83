# SPDX-License-Identifier: Apache-2.0
"""What a gate costs in one process: where a DAG file is parsed, and where many wait on one event loop."""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys

RUNS = 9
GATES = 100
INTERVAL = 0.5
LOOKS = 20

# The garbage collector is off: what it does depends on what was imported before.
IMPORT = """
import gc, json, sys, time
gc.disable()
import airflow.sdk
airflow.sdk.BaseSensorOperator, airflow.sdk.XComArg
before = set(sys.modules)
start = time.perf_counter()
import {module}
seconds = time.perf_counter() - start
new = set(sys.modules) - before
print(json.dumps(dict(ms=seconds * 1000, modules=len(new), requests="requests" in sys.modules)))
"""
SENSORS = {
    "ScnetJobCountSensor": "airflow_provider_scnet.sensors.scnet",
    "FileSensor": "airflow.providers.standard.sensors.filesystem",
    "HttpSensor": "airflow.providers.http.sensors.http",
}


# Jobs that are awaited in one event loop; seconds between two polls, and how many of these.
JOBS, EVERY, POLLS = 1_000, 10.0, 6
AWAIT = """
import asyncio, os, time
from {module} import {trigger}

async def wait():
    async def one(number):
        async for _ in {trigger}({arguments}).run():
            raise SystemExit("a job has ended")

    waiting = [asyncio.ensure_future(one(number)) for number in {ids}]
    # All have asked once, which opens what is opened once.
    await asyncio.sleep(1.5 * {every})
    print("begins", flush=True)
    before = time.process_time()
    await asyncio.sleep({polls} * {every})
    print(time.process_time() - before, flush=True)
    os._exit(0)

asyncio.run(wait())
"""
TRIGGERS = {
    "ScnetJobTrigger": (
        "airflow_provider_scnet.triggers.job",
        "scnet_conn_id='scnet_default', job_id=str(number), poll_interval={every}",
    ),
    # A resource that is not there yet is what it waits for.
    "HttpSensorTrigger": (
        "airflow.providers.http.triggers.http",
        "endpoint=f'nothing/{{number}}', poke_interval={every}",
    ),
}


def import_once(module: str) -> dict[str, float]:
    """Import a module in a process of its own, after ``airflow.sdk``."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORT.format(module=module)], check=True, capture_output=True, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def imports() -> list[dict[str, object]]:
    """Import a sensor after `airflow.sdk`, as parsing a DAG file does; the sensors in turn, median of 9 runs."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in SENSORS}
    for run in range(RUNS + 1):
        for name, module in SENSORS.items():
            measured = import_once(module)
            if run:  # the first round fills the disk's cache and writes the bytecode
                found[name].append(measured)
    files = [row["ms"] for row in found["FileSensor"]]
    rows: list[dict[str, object]] = []
    for name, measured_rows in found.items():
        ratios = [row["ms"] / ms for row, ms in zip(measured_rows, files, strict=True)]
        rows.append(
            {
                "import": name,
                "ms": f"{statistics.median(row['ms'] for row in measured_rows):.1f}",
                "ratio to FileSensor, run by run": f"{statistics.median(ratios):.2f}",
                "modules": measured_rows[0]["modules"],
                "requests loaded": "yes" if measured_rows[0]["requests"] else "no",
            }
        )
    return rows


def looks() -> list[dict[str, object]]:
    """Let one gate and a hundred wait for 20 intervals of 0.5 s."""
    from airflow_provider_scnet.testing import ScnetSimulator
    from airflow_provider_scnet.triggers.scnet import ScnetJobCountTrigger

    async def wait(scnet: ScnetSimulator, gates: int) -> float:
        async def gate() -> None:
            async for _ in ScnetJobCountTrigger(condition="queued < 5", poke_interval=INTERVAL).run():
                pass

        tasks = [asyncio.ensure_future(gate()) for _ in range(gates)]
        before = len(scnet.requests)
        await asyncio.sleep(LOOKS * INTERVAL)
        asked = len(scnet.requests) - before
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return asked

    with ScnetSimulator() as scnet:
        scnet.add_user("alice")
        scnet.set_counts("alice", queued=9)
        os.environ["AIRFLOW_CONN_SCNET_DEFAULT"] = scnet.connection_json("alice")
        # A first gate pays for what is imported and opened once.
        asyncio.run(wait(scnet, 1))
        return [{"gates": gates, "requests": asyncio.run(wait(scnet, gates))} for gates in (1, GATES)]


def jobs() -> list[dict[str, object]]:
    """Await 1,000 jobs in one process for a minute, polls every 10 s, beside a deferrable sensor for as many."""
    from airflow_provider_scnet.testing import ScnetSimulator

    rows: list[dict[str, object]] = []
    with ScnetSimulator(slots=JOBS, run_for=86_400) as scnet:
        scnet.add_user("alice")
        ids = [int(job_id) for job_id in scnet.submit("alice", jobs=JOBS)]
        connections = {
            "AIRFLOW_CONN_SCNET_DEFAULT": scnet.connection_json("alice"),
            "AIRFLOW_CONN_HTTP_DEFAULT": json.dumps({"conn_type": "http", "host": scnet.url}),
        }
        for trigger, (module, arguments) in TRIGGERS.items():
            source = AWAIT.format(
                module=module,
                trigger=trigger,
                arguments=arguments.format(every=EVERY),
                ids=ids,
                every=EVERY,
                polls=POLLS,
            )
            with subprocess.Popen(
                [sys.executable, "-c", source], env=os.environ | connections, stdout=subprocess.PIPE, text=True
            ) as process:
                assert process.stdout
                process.stdout.readline()
                before = len(scnet.requests)
                seconds = float(process.stdout.readline())
                requests = len(scnet.requests) - before
            rows.append(
                {
                    f"{JOBS:,} waiting": trigger,
                    "requests a poll": f"{requests / POLLS:.0f}",
                    "CPU": f"{100 * seconds / POLLS / EVERY:.1f} % of a core",
                }
            )
    return rows

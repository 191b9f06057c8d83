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

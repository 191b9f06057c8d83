# SPDX-License-Identifier: Apache-2.0
"""
What a gate costs, measured side by side on this machine: `make bench`.

Nothing is asserted here; the ratios are for people to read.
"""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable

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
    "ScnetJobStateSensor": "airflow_provider_scnet.sensors.scnet",
    "FileSensor": "airflow.providers.standard.sensors.filesystem",
    "HttpSensor": "airflow.providers.http.sensors.http",
}


def import_once(module: str) -> dict[str, float]:
    """Import a module in a process of its own, after ``airflow.sdk``."""
    done = subprocess.run(
        [sys.executable, "-c", IMPORT.format(module=module)], check=True, capture_output=True, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def imports() -> None:
    """Compare what parsing a DAG file costs: the sensors in turn, so that a drifting machine hurts all alike."""
    print(f"Importing a sensor after airflow.sdk ({RUNS} runs each, in turn; median)")
    found: dict[str, list[dict[str, float]]] = {name: [] for name in SENSORS}
    for run in range(RUNS + 1):
        for name, module in SENSORS.items():
            measured = import_once(module)
            if run:  # the first round fills the disk's cache and writes the bytecode
                found[name].append(measured)
    ms = {name: statistics.median(each["ms"] for each in rows) for name, rows in found.items()}
    for name, rows in found.items():
        print(
            f"  {name:<20} {ms[name]:7.1f} ms  {rows[0]['modules']:>4} modules  "
            f"requests loaded: {'yes' if rows[0]['requests'] else 'no'}"
        )
    ratios = sorted(
        ours["ms"] / files["ms"]
        for ours, files in zip(found["ScnetJobStateSensor"], found["FileSensor"], strict=True)
    )
    print(f"  ratio to FileSensor, run by run: median {statistics.median(ratios):.2f}")


def looks() -> None:
    """Compare how often gates ask, one and a hundred, over the same number of intervals."""
    from airflow_provider_scnet.testing import ScnetSimulator
    from airflow_provider_scnet.triggers.scnet import ScnetJobStateTrigger

    async def wait(scnet: ScnetSimulator, gates: int) -> float:
        async def gate() -> None:
            async for _ in ScnetJobStateTrigger(condition="queued < 5", poke_interval=INTERVAL).run():
                pass

        tasks = [asyncio.ensure_future(gate()) for _ in range(gates)]
        before = len(scnet.requests)
        await asyncio.sleep(LOOKS * INTERVAL)
        asked = len(scnet.requests) - before
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return asked

    print(f"Requests of gates that wait {LOOKS} intervals of {INTERVAL} s")
    with ScnetSimulator() as scnet:
        scnet.add_user("alice")
        scnet.set_counts("alice", queued=9)
        os.environ["AIRFLOW_CONN_SCNET_DEFAULT"] = scnet.connection_json("alice")
        # A first gate pays for what is imported and opened once.
        asyncio.run(wait(scnet, 1))
        for gates in (1, GATES):
            print(f"  {gates:>4} gates: {asyncio.run(wait(scnet, gates)):>4} requests")


def main(parts: list[Callable[[], None]]) -> None:
    """Run the parts in a home of their own."""
    with tempfile.TemporaryDirectory() as home:
        os.environ["AIRFLOW_HOME"] = home
        os.environ["AIRFLOW__LOGGING__LOGGING_LEVEL"] = "ERROR"
        for part in parts:
            part()
            print()


if __name__ == "__main__":
    main([imports, looks])

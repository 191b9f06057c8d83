# SPDX-License-Identifier: Apache-2.0
"""
``make bench``: what a gate costs, measured side by side on this machine, which should have nothing else to do.

Nothing is asserted here; the figures are for people to read. All parts take about two hours; name
some to run only those, as in ``python -m benchmarks.run imports waiting``.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
from collections.abc import Callable
from importlib.metadata import version

import psutil
from tabulate import tabulate

from benchmarks import engine, growth, process, production, simulation

PARTS: dict[str, Callable[[], list[dict[str, object]]]] = {
    "imports": process.imports,
    "looks": process.looks,
    "jobs": process.jobs,
    "growth": growth.growth,
    "simulation": simulation.simulation,
    "clusters": simulation.clusters,
    "starvation": simulation.starvation,
    "waiting": engine.waiting,
    "compared": engine.compared,
    "admission": engine.admission,
    "least": engine.least,
    "claims": engine.claims,
    "scale": engine.scale,
    "production": production.production,
}


def main() -> None:
    """Run the parts that are asked for, and print a table of each."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description="what a gate costs")
    parser.add_argument("parts", nargs="*", metavar="part", help=f"default: all of {', '.join(PARTS)}")
    wanted = parser.parse_args().parts or list(PARTS)
    if unknown := set(wanted) - set(PARTS):
        parser.error(f"no part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    print(
        f"Airflow {version('apache-airflow')}, Python {platform.python_version()}, {psutil.cpu_count()} cores",
        flush=True,
    )
    with tempfile.TemporaryDirectory() as home:
        os.environ["AIRFLOW_HOME"] = home
        os.environ["AIRFLOW__LOGGING__LOGGING_LEVEL"] = "ERROR"
        for name in wanted:
            print(f"\n{PARTS[name].__doc__}\n", flush=True)
            print(tabulate(PARTS[name](), headers="keys", tablefmt="github", disable_numparse=True), flush=True)


if __name__ == "__main__":
    main()

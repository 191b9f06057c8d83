# SPDX-License-Identifier: Apache-2.0
"""
``make play``: Airflow's pages, with a simulated cluster behind them, until Ctrl-C.

The cluster is full at first, and twelve gates wait. Lines to paste empty the cluster and fill it again.

Status 0 once it was told to end, 1 if Airflow ends by itself, 2 for a wrong argument, 3 if the port is in use.
"""

# What it prints is what it is for.

from __future__ import annotations

import argparse
import contextlib
import json
import math
import socket
import sys
from collections.abc import Iterator
from importlib.metadata import version

from airflow_provider_scnet.testing import ScnetSimulator
from demo.ending import Ended, ignore_signals, raise_on_signals
from demo.engine import Engine, EngineError
from demo.run import COUNTED_AFTER, DAG, DAGS, INTERVAL, MOST_QUEUED, SLOTS, USER

PORT = 8080
PORT_IN_USE = 3
#: Seconds that a gated job runs.
RUN_FOR = 20
#: Seconds that the jobs run which fill the cluster: until somebody ends them.
FOR_LONG = 3600

WAITING_GATES = "/task_instances?task_state=deferred&operator_name_pattern=ScnetJobCountSensor"


@contextlib.contextmanager
def airflow_with_pages(port: int | None = None) -> Iterator[tuple[Engine, ScnetSimulator]]:
    """
    Run an Airflow with its pages, the examples, and the connections to a full cluster in its database.

    :param port: the port of the pages on 127.0.0.1; None: any free one
    """
    scnet = ScnetSimulator(slots=SLOTS, run_for=RUN_FOR, counted_after=COUNTED_AFTER)
    scnet.add_user(USER)
    scnet.add_access_keys(USER)
    scnet.submit(USER, SLOTS + MOST_QUEUED, FOR_LONG)
    with scnet:
        env = {"SCNET_SIMULATOR_URL": scnet.url, "SCNET_POKE_INTERVAL": str(INTERVAL)}
        with Engine(DAGS, env, port=port, pages=True) as engine:
            _add_connections(engine, scnet)
            yield engine, scnet


def _add_connections(engine: Engine, scnet: ScnetSimulator) -> None:
    """Put them into Airflow's database, as its form would: what the environment holds has no form."""
    connections = {
        "scnet_default": scnet.connection(USER) | {"host": "http://127.0.0.1", "port": scnet.port},
        # The port is for the Test button alone.
        "scnet_keys": scnet.key_connection(USER) | {"port": 443},
    }
    file = engine.home / "connections.json"
    file.write_text(json.dumps(connections))
    engine.airflow("connections", "import", str(file))
    file.unlink()


def _usage(engine: Engine, scnet: ScnetSimulator) -> str:
    commands = scnet.commands(USER, SLOTS + MOST_QUEUED, FOR_LONG)
    return "\n".join(
        [
            "",
            f"Airflow is on {engine.url}, for this machine only, and without a login.",
            "",
            f"  {engine.url}/dags/{DAG}",
            "      twelve submissions, each behind its gate; the logs of the gates say why they wait",
            f"  {engine.url}{WAITING_GATES}",
            "      all gates that wait",
            f"  {engine.url}/connections",
            "      scnet_default with a token, scnet_keys with access keys; their forms, and the Test button",
            "",
            "The cluster is full. To empty it, so that gates open within seconds:",
            f"  {commands['cancel']}",
            "To fill it again, so that they wait:",
            f"  {commands['submit']}",
            "To see what is in it:",
            f"  {commands['state']}",
            "",
            "Ctrl-C ends all of it.",
        ]
    )


def _refusal(port: int) -> str:
    """Say why a port cannot be served; nothing, if it can."""
    with socket.socket() as probe:
        # As the server will bind it: what an earlier one has left behind is not in the way.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            return error.strerror or str(error)
    return ""


def main() -> int:
    """Show the pages until it is told to end, and return its status."""
    parser = argparse.ArgumentParser(
        prog="python -m demo.play", description="Airflow's pages and a small cluster", usage=argparse.SUPPRESS
    )
    parser.add_argument("--port", type=int, default=PORT, help="port on 127.0.0.1 (default: %(default)s)")
    port = parser.parse_args().port
    if not 0 < port <= 65535:
        parser.error(f"argument --port: {port} is not a port")
    if version("apache-airflow").startswith("2."):
        parser.error("its pages are those of Airflow 3; make play has one")
    if refusal := _refusal(port):
        print(
            f"cannot serve on 127.0.0.1:{port}: {refusal}. Name another port: make play PORT=9090", file=sys.stderr
        )
        return PORT_IN_USE
    try:
        raise_on_signals()
        print(f"starting Airflow {version('apache-airflow')}, which takes about a minute", flush=True)
        with contextlib.ExitStack() as stack:
            engine, scnet = stack.enter_context(airflow_with_pages(port))
            # From here on, and first of all: nothing interrupts the end.
            stack.callback(ignore_signals)
            engine.trigger_dag(DAG)
            print(_usage(engine, scnet), flush=True)
            engine.wait_until(lambda: False, math.inf)
    except EngineError as error:
        print(f"\nFAILED: {error}", file=sys.stderr)
        return 1
    except Ended:
        print("\nended: nothing is left of it", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

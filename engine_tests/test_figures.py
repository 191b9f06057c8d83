# SPDX-License-Identifier: Apache-2.0
"""Figures of a real triggerer, as they come to where StatsD would listen."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from airflow_provider_scnet.testing import Fault, ScnetSimulator
from demo.engine import Engine
from engine_tests.conftest import NAME, StatsdListener, engine_for

DAGS = {
    "figures": """
        with new("figures") as dag:
            @task
            def submit(): ...
            for number in range(3):
                gate(f"gate_{number}", claim_ttl=600) >> submit.override(task_id=f"submit_{number}")()
    """
}


@pytest.fixture(scope="module")
def engine(scnet: ScnetSimulator, listener: StatsdListener, tmp_path_factory) -> Iterator[Engine]:
    with engine_for(scnet, tmp_path_factory.mktemp("dags"), DAGS, listener.env) as running:
        yield running


def test_a_triggerer_sends_what_its_looks_saw_and_what_its_gates_made_of_it(
    engine: Engine, scnet: ScnetSimulator, listener: StatsdListener
):
    scnet.set_counts("alice", running=7, queued=99)
    engine.trigger_dag("figures")
    engine.wait_until(lambda: listener.gauge("gates.waiting") == 3, 120, "three gates that wait")
    assert listener.gauge("jobs.running") == 7
    assert listener.gauge("jobs.queued") == 99
    assert listener.gauge("jobs.claimed") == 0
    assert listener.count("gates.passed") == 0

    scnet.order(Fault(status=503), times=1)
    engine.wait_until(lambda: listener.count("poll.failed.transient") == 1, 60, "a look that failed")

    # Two more jobs leave no room for a third.
    scnet.set_counts("alice", running=7, queued=3)
    engine.wait_until(lambda: listener.count("gates.passed") == 2, 60, "two gates that pass")
    engine.wait_until(lambda: listener.gauge("jobs.claimed") == 2, 60, "a look with their claims")
    assert listener.gauge("gates.waiting") == 1
    assert listener.gauge("jobs.queued") == 3

    scnet.set_counts("alice", queued=0)
    engine.wait_until(lambda: engine.run_state("figures") == "success", 120, "the last gate")
    engine.wait_until(lambda: listener.gauge("gates.waiting") == 0, 30, "the last figures")
    assert listener.count("gates.passed") == 3
    assert listener.gauge("jobs.claimed") == 0
    durations = [line for line in listener.sent if line.startswith(f"{NAME}poll.duration:")]
    assert durations
    for line in durations:
        assert re.fullmatch(r".*:[0-9.]+\|ms", line), line

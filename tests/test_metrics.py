# SPDX-License-Identifier: Apache-2.0
"""Figures: what a look saw and what the gates made of it, once a look, and nothing that could disturb a gate."""

from __future__ import annotations

import asyncio
import collections
import logging
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_scnet.client.errors import ErrorKind, ScnetConfigError, ScnetError
from airflow_provider_scnet.client.job_counts import JobCounts
from airflow_provider_scnet.polling.accounts import Accounts
from airflow_provider_scnet.polling.metrics import Whom
from airflow_provider_scnet.testing import ScnetSimulator
from airflow_provider_scnet.triggers import airflow_stats
from airflow_provider_scnet.triggers.scnet import ScnetJobCountEventTrigger, ScnetJobCountTrigger
from airflow_provider_scnet.triggers.shared_accounts import RunningAirflow
from benchmarks import virtual_time

from gates import first_event
from observations import HEALS, Cluster

MINUTE = 60.0
ALICE = Whom("scnet_default", "alice")


class Figures:
    """A sink that keeps what it is sent."""

    def __init__(self) -> None:
        self.gauges: dict[tuple[str, Whom], int] = {}
        self.counts: collections.Counter[tuple[str, Whom]] = collections.Counter()
        self.durations: list[tuple[str, Whom, float]] = []

    def gauge(self, name: str, whom: Whom, value: int) -> None:
        self.gauges[name, whom] = value

    def count(self, name: str, whom: Whom, number: int) -> None:
        self.counts[name, whom] += number

    def duration(self, name: str, whom: Whom, seconds: float) -> None:
        self.durations.append((name, whom, seconds))

    def of(self, whom: Whom) -> dict[str, int]:
        return {name: value for (name, about), value in self.gauges.items() if about == whom}


def told(cluster: Cluster, scenario: Callable[[], Coroutine[Any, Any, None]], sink: Any = None) -> Figures:
    """Run a scenario on a triggerer of virtual time, and return what it told."""
    sink = sink or Figures()

    async def whole() -> None:
        Accounts._by_loop[asyncio.get_running_loop()] = Accounts(cluster, RunningAirflow(), sink)
        await scenario()

    virtual_time.run(whole())
    return sink


def wait(condition: str = "queued < 5", **given: Any) -> asyncio.Task[Any]:
    return asyncio.ensure_future(first_event(ScnetJobCountTrigger(condition=condition, **given)))


def watch() -> asyncio.Task[Any]:
    return asyncio.ensure_future(first_event(ScnetJobCountEventTrigger(condition="queued < 5")))


def test_a_look_tells_the_jobs_by_state_and_how_long_it_took_once_for_all_gates():
    cluster = Cluster({"counts": JobCounts(1, 9, 2, 3, 4)}, 9)

    async def slowly(*asked: Any, apoll: Any = cluster.apoll) -> Any:
        look = await apoll(*asked)
        await asyncio.sleep(0.25)
        return look

    cluster.apoll = slowly

    async def scenario() -> None:
        for user_name in [None] * 50 + ["alice"] * 50:
            wait(user_name=user_name)
        await asyncio.sleep(0.5 * MINUTE)
        assert cluster.looks == 1

    sink = told(cluster, scenario)
    states = {"jobs.running": 1, "jobs.queued": 9, "jobs.held": 2, "jobs.suspended": 3, "jobs.other": 4}
    # Those that name the user and those that do not share the account, and are counted together.
    assert sink.of(ALICE) == {**states, "gates.waiting": 100, "jobs.claimed": 0}
    assert sink.durations == [("poll.duration", ALICE, pytest.approx(0.25))]
    assert not sink.counts


def test_gates_that_pass_are_counted_and_those_that_wait_see_what_they_claim():
    async def scenario() -> None:
        gates = [wait(submits=2) for _ in range(4)]
        await asyncio.sleep(0.5 * MINUTE)
        assert sum(gate.done() for gate in gates) == 0
        await asyncio.sleep(MINUTE)
        assert sum(gate.done() for gate in gates) == 2
        assert sink.of(ALICE)["gates.waiting"] == 2
        assert sink.of(ALICE)["jobs.claimed"] == 4

    sink = Figures()
    told(Cluster(9, 1), scenario, sink)
    assert sink.counts == {("gates.passed", ALICE): 2}


def test_when_the_last_gate_has_gone_none_waits_and_nothing_is_claimed():
    sink = Figures()

    async def scenario() -> None:
        await wait(submits=3)
        await asyncio.sleep(0.5 * MINUTE)
        assert sink.of(ALICE)["gates.waiting"] == sink.of(ALICE)["jobs.claimed"] == 0
        leaves = wait("queued < 1")
        await asyncio.sleep(0.5 * MINUTE)
        assert sink.of(ALICE)["gates.waiting"] == 1
        leaves.cancel()
        await asyncio.sleep(0.5 * MINUTE)
        assert sink.of(ALICE)["gates.waiting"] == 0

    told(Cluster(2), scenario, sink)
    assert sink.counts == {("gates.passed", ALICE): 1}


def test_a_watcher_is_no_gate():
    async def scenario() -> None:
        watch()
        wait()
        await asyncio.sleep(2.5 * MINUTE)

    sink = told(Cluster(9, 4, 4), scenario)
    assert sink.of(ALICE)["gates.waiting"] == 0
    assert sink.of(ALICE)["jobs.queued"] == 4
    assert sink.counts == {("gates.passed", ALICE): 1}


def test_connections_and_users_are_told_apart():
    async def scenario() -> None:
        for scnet_conn_id, user_name in [("a", None), ("b", None), ("b", "bob"), ("b", "bob")]:
            wait(scnet_conn_id=scnet_conn_id, user_name=user_name)
        await asyncio.sleep(0.5 * MINUTE)

    sink = told(Cluster(9), scenario)
    waiting = {whom: value for (name, whom), value in sink.gauges.items() if name == "gates.waiting"}
    assert waiting == {Whom("a", "alice"): 1, Whom("b", "alice"): 1, Whom("b", "bob"): 2}


@pytest.mark.parametrize("kind", ErrorKind)
def test_a_look_that_fails_is_counted_by_the_kind_of_its_error_and_tells_no_jobs(kind):
    async def scenario() -> None:
        watch()
        await asyncio.sleep(2.5 * MINUTE)

    sink = told(Cluster(ScnetError("x", kind=kind)), scenario)
    assert sink.counts == {(f"poll.failed.{kind.name.lower()}", ALICE): 3}
    assert set(sink.of(ALICE)) == {"gates.waiting", "jobs.claimed"}
    assert len(sink.durations) == 3


def test_a_connection_that_cannot_be_read_is_a_failed_look_of_no_user_and_takes_no_time():
    cluster = Cluster(9)

    async def scenario() -> None:
        gate = wait()
        await asyncio.sleep(0.5 * MINUTE)

        async def fails(user_name: str | None = None) -> Any:
            raise ScnetConfigError("x")

        cluster.aread_settings = fails
        await gate

    sink = told(cluster, scenario)
    assert sink.counts == {("poll.failed.permanent", Whom("scnet_default", None)): 1}
    assert len(sink.durations) == 1
    # The gate that it failed does not wait any longer.
    assert sink.of(ALICE)["gates.waiting"] == 0


def test_a_queue_that_is_asked_about_has_gauges_of_its_own():
    of_queue = ScnetError("not listed", kind=ErrorKind.TRANSIENT)
    queues = {"comp": JobCounts(1, 2, 0, 0, 0), "gpu": JobCounts(5, 5, 5, 5, 5), "bad": of_queue}
    cluster = Cluster({"counts": JobCounts(6, 7, 5, 5, 5), "queues": queues})

    async def scenario() -> None:
        wait("queued < 1", queue_name="comp")
        wait("queued < 1", queue_name="bad")
        await asyncio.sleep(0.5 * MINUTE)

    sink = told(cluster, scenario)
    comp = Whom("scnet_default", "alice", "comp")
    assert sink.of(comp) == {
        "jobs.running": 1,
        "jobs.queued": 2,
        "jobs.held": 0,
        "jobs.suspended": 0,
        "jobs.other": 0,
    }
    assert sink.of(ALICE)["jobs.queued"] == 7
    assert not sink.of(Whom("scnet_default", "alice", "gpu"))
    assert sink.counts == {("poll.failed.transient", Whom("scnet_default", "alice", "bad")): 1}


def test_a_queue_is_a_tag_or_a_part_of_the_name(monkeypatch: pytest.MonkeyPatch):
    comp = Whom("scnet_default", "alice", "comp.1")
    monkeypatch.setattr(airflow_stats, "_tags_are_dropped", lambda: True)
    assert airflow_stats._name("jobs.running", comp) == "scnet.scnet_default.alice.comp_1.jobs.running"
    assert airflow_stats._tags(comp) == {
        "scnet_conn_id": "scnet_default",
        "user_name": "alice",
        "queue_name": "comp.1",
    }


def test_a_look_that_fails_as_nobody_expected_is_counted_too():
    cluster = Cluster(9)

    async def scenario() -> None:
        watch()
        await asyncio.sleep(0.5 * MINUTE)

    async def fails(*asked: Any) -> Any:
        raise ZeroDivisionError

    cluster.apoll = fails
    assert told(cluster, scenario).counts == {("poll.failed.unclear", Whom("scnet_default", None)): 1}


@pytest.mark.parametrize(
    ("seen", "states"),
    [
        (JobCounts(running=1, queued=9), {"jobs.running": 1, "jobs.queued": 9}),
        ({"counts": JobCounts(0, 0, 0, 0, 0), "doubt": "nobody knows this user"}, {}),
    ],
)
def test_what_is_not_known_is_not_told_as_zero(seen, states):
    async def scenario() -> None:
        wait()
        await asyncio.sleep(0.5 * MINUTE)

    gauges = told(Cluster(seen), scenario).of(ALICE)
    assert {
        name: value for name, value in gauges.items() if name not in ("gates.waiting", "jobs.claimed")
    } == states


def test_a_sink_that_fails_disturbs_no_gate_and_is_logged_once(caplog: pytest.LogCaptureFixture):
    class Broken(Figures):
        def gauge(self, name: str, whom: Whom, value: int) -> None:
            raise OSError("no route to host")

        duration = count = gauge

    async def scenario() -> None:
        await asyncio.wait_for(asyncio.gather(*(wait() for _ in range(5))), 5 * MINUTE)

    caplog.set_level(logging.WARNING)
    told(Cluster(9, HEALS, 0), scenario, Broken())
    said = [record.getMessage() for record in caplog.records if record.name.endswith("metrics")]
    assert said == ["figures get lost (OSError: no route to host); gates go on"]


# Through Airflow


@pytest.mark.parametrize(
    ("switched_on", "dropped"),
    [
        ([], False),
        (["statsd_on"], True),
        (["otel_on"], False),
        (["statsd_on", "statsd_influxdb_enabled"], False),
        (["statsd_on", "statsd_datadog_enabled"], False),
    ],
)
def test_names_hold_connection_and_user_where_the_protocol_drops_tags(monkeypatch, switched_on, dropped):
    for option in switched_on:
        monkeypatch.setenv(f"AIRFLOW__METRICS__{option.upper()}", "True")
    airflow_stats._tags_are_dropped.cache_clear()
    name = airflow_stats._name("jobs.running", Whom("my conn.1", "ålice"))
    airflow_stats._tags_are_dropped.cache_clear()
    assert name == ("scnet.my_conn_1._lice.jobs.running" if dropped else "scnet.jobs.running")


def test_tags_hold_nothing_that_means_something_to_a_protocol():
    assert airflow_stats._tags(Whom("a|b", "x,y=z:1#é@host")) == {
        "scnet_conn_id": "a_b",
        "user_name": "x_y_z_1_é@host",
    }
    assert airflow_stats._tags(Whom("a", None)) == {"scnet_conn_id": "a", "user_name": "unknown"}


GATE = """
import asyncio, sys
sys.path.insert(0, {tests!r})
try:
    # Before a triggerer runs anything, it has read what is stored of it with this.
    import airflow.sdk.serde
except ImportError:
    pass
from gates import first_event
from airflow_provider_scnet.triggers.scnet import ScnetJobCountTrigger

async def scenario():
    await first_event(ScnetJobCountTrigger(condition="queued < 5"))
    # Until those who look have noticed that nobody waits.
    while len(asyncio.all_tasks()) > 1:
        await asyncio.sleep(0)

asyncio.run(scenario())
"""


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A place where StatsD would listen."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as found:
        found.bind(("127.0.0.1", 0))
        found.setblocking(False)
        yield found


@pytest.mark.parametrize("influxdb", [False, True])
def test_airflow_sends_them_to_where_its_deployment_has_switched_on(
    scnet: ScnetSimulator, listener: socket.socket, influxdb: bool
):
    scnet.set_counts("alice", running=3, queued=2)
    subprocess.run(
        [sys.executable, "-c", GATE.format(tests=str(Path(__file__).parent))],
        check=True,
        env={
            **os.environ,
            "AIRFLOW__METRICS__STATSD_ON": "True",
            "AIRFLOW__METRICS__STATSD_HOST": "127.0.0.1",
            "AIRFLOW__METRICS__STATSD_PORT": str(listener.getsockname()[1]),
            "AIRFLOW__METRICS__STATSD_INFLUXDB_ENABLED": str(influxdb),
        },
    )
    sent = []
    while True:
        try:
            sent.append(listener.recv(65536).decode())
        except BlockingIOError:
            break
    sent = [re.sub(r"[0-9.]+\|ms", "…|ms", packet) for packet in sent if "scnet" in packet]
    name = (
        "airflow.scnet.{},scnet_conn_id=scnet_default,user_name=alice"
        if influxdb
        else ("airflow.scnet.scnet_default.alice.{}")
    )
    first_look = [
        f"{name.format(figure)}:{value}"
        for figure, value in [
            ("poll.duration", "…|ms"),
            ("jobs.running", "3|g"),
            ("jobs.queued", "2|g"),
            ("jobs.held", "0|g"),
            ("jobs.suspended", "0|g"),
            ("jobs.other", "0|g"),
            ("gates.waiting", "0|g"),
            ("jobs.claimed", "0|g"),
            ("gates.passed", "1|c"),
        ]
    ]
    assert sent[:9] == first_look
    assert set(sent) == set(first_look)

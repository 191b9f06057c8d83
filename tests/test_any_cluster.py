# SPDX-License-Identifier: Apache-2.0
"""Gates that wait on several clusters: which one opens them, whose errors count, and where they claim."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
from collections.abc import Callable, Iterator
from datetime import datetime
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.exceptions import AirflowException
from airflow.providers.common.compat.sdk import DAG, AirflowFailException, AirflowSensorTimeout

from airflow_provider_scnet.client.job_counts import JobCounts
from airflow_provider_scnet.client.observation import Observation
from airflow_provider_scnet.event_loop import clock
from airflow_provider_scnet.gate.clusters import Clusters
from airflow_provider_scnet.gate.decision import Decision, Verdict
from airflow_provider_scnet.hooks.polled_connection import PolledConnection
from airflow_provider_scnet.polling import waiting
from airflow_provider_scnet.polling.accounts import Accounts
from airflow_provider_scnet.sensors.start_and_end import _AIRFLOW_STARTS_FROM_TRIGGER
from airflow_provider_scnet.testing import Fault, ScnetSimulator
from airflow_provider_scnet.triggers import shared_accounts
from airflow_provider_scnet.triggers.scnet import ScnetJobCountTrigger
from benchmarks import virtual_time

from gates import INTERVAL, MODES, claimed, first_event, gate
from observations import HEALS, Airflow

BOTH = ["west", "east"]
#: Seconds within which a busy machine has asked one cluster after another.
LONG_ENOUGH = 2.0


@pytest.fixture
def west(scnet: ScnetSimulator, monkeypatch: pytest.MonkeyPatch) -> ScnetSimulator:
    monkeypatch.setenv("AIRFLOW_CONN_WEST", scnet.connection_json())
    return scnet


@pytest.fixture
def east(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScnetSimulator]:
    with ScnetSimulator() as simulator:
        simulator.add_user("alice")
        monkeypatch.setenv("AIRFLOW_CONN_EAST", simulator.connection_json())
        yield simulator


@pytest.fixture(params=MODES.values(), ids=MODES)
def run(request: pytest.FixtureRequest, west: ScnetSimulator, east: ScnetSimulator) -> Any:
    return request.param


def full(*clusters: ScnetSimulator) -> None:
    for each in clusters:
        each.set_counts("alice", queued=9)


class TestWhichOpens:
    def test_the_first_in_the_order_given_where_several_have_room(self, run):
        assert run(gate(scnet_conn_id=BOTH))["scnet_conn_id"] == "west"
        assert run(gate(scnet_conn_id=BOTH[::-1]))["scnet_conn_id"] == "east"

    def test_where_a_dag_is_tested_nothing_that_was_asked_of_airflow_goes_on(self, west, east, monkeypatch):
        """It would get into the answers to the next task, in the one process of all."""
        read, asked = PolledConnection.aread_settings, []

        async def slow(connection: PolledConnection, user_name: str | None = None) -> Any:
            if connection._conn_id == "west":
                asked.append("begun")
                await asyncio.sleep(1.0)
                asked.append("ended")
            return await read(connection, user_name)

        monkeypatch.setattr(PolledConnection, "aread_settings", slow)
        monkeypatch.setattr(waiting, "FIRST_ANSWER", 0.0)
        tested = ScnetJobCountTrigger(scnet_conn_id=BOTH, condition="queued < 5", poke_interval=INTERVAL)
        asyncio.run(first_event(tested))
        assert asked == ["begun", "ended"]

    @pytest.mark.parametrize("conn_ids", [BOTH, BOTH[::-1]])
    def test_the_one_that_has_room(self, run, west, conn_ids):
        full(west)
        record = run(gate(scnet_conn_id=list(conn_ids)))
        assert (record["scnet_conn_id"], record["counts"]["queued"]) == ("east", 0)

    def test_the_first_is_waited_for_where_its_answer_comes_later(self, run, west):
        west.order(Fault(delay=0.5))
        assert run(gate(scnet_conn_id=BOTH))["scnet_conn_id"] == "west"

    def test_but_not_for_long(self, run, west, monkeypatch):
        if run is MODES["poke"]:
            pytest.skip("a worker asks one after another")
        monkeypatch.setattr(waiting, "FIRST_ANSWER", 0.0)
        west.order(Fault(delay=3), times=None)
        assert run(gate(scnet_conn_id=BOTH))["scnet_conn_id"] == "east"

    def test_room_that_appears_later(self, run, west, east):
        full(west)
        east.order(Fault.api("0", "success", [{"name": "排队", "y": 7}]), times=3)
        assert run(gate(scnet_conn_id=BOTH))["scnet_conn_id"] == "east"

    def test_none_before_the_time_is_up(self, run, west, east, said):
        full(west, east)
        with pytest.raises(AirflowSensorTimeout):
            run(gate(scnet_conn_id=BOTH, timeout=LONG_ENOUGH))
        for name in BOTH:
            assert f"{name}: running 0, queued 9: waiting, needs queued < 5" in said.messages

    def test_in_one_queue_of_each(self, run, west, east):
        full(west, east)
        west.set_counts("alice", queue="comp", queued=9)
        east.set_counts("alice", queue="comp", queued=2)
        record = run(gate(scnet_conn_id=BOTH, queue_name="comp"))
        assert (record["scnet_conn_id"], record["queue_name"]) == ("east", "comp")

    def test_a_cluster_without_such_a_queue_is_set_aside(self, run, west, east, said):
        east.add_queue("gpu")
        assert run(gate(scnet_conn_id=BOTH, queue_name="gpu"))["scnet_conn_id"] == "east"
        assert "west: set aside for good; the gate waits for its other clusters" in said.messages

    def test_a_list_of_one_is_that_one(self, run):
        assert run(gate(scnet_conn_id=["east"]))["scnet_conn_id"] == "east"
        assert gate(scnet_conn_id=["east"]).scnet_conn_id == "east"


AWAY = Fault(status=503, body="")
REFUSED = Fault.api("10008", "auth_fail", "token is invalid")
FOR_GOOD = Fault.api("10007", "frozen")


class TestErrors:
    @pytest.mark.parametrize("fault", [AWAY, REFUSED, FOR_GOOD, Fault.html(200, "<p>Login")])
    @pytest.mark.parametrize("broken", BOTH)
    def test_one_that_cannot_be_read_neither_opens_nor_fails_the_gate(self, run, west, east, fault, broken):
        west_or_east = {"west": west, "east": east}
        west_or_east[broken].order(fault, times=None)
        (other,) = set(BOTH) - {broken}
        assert run(gate(scnet_conn_id=BOTH))["scnet_conn_id"] == other

    @pytest.mark.parametrize("fault", [AWAY, REFUSED, FOR_GOOD])
    def test_nor_while_the_other_is_full(self, run, west, east, fault):
        full(east)
        west.order(fault, times=None)
        with pytest.raises(AirflowSensorTimeout):
            run(gate(scnet_conn_id=BOTH, timeout=LONG_ENOUGH))
        assert east.job_state_requests

    def test_what_fails_for_good_is_said_once_and_not_asked_again(self, run, west, east, said):
        west.order(FOR_GOOD, times=None)
        full(east)
        with pytest.raises(AirflowSensorTimeout):
            run(gate(scnet_conn_id=BOTH, timeout=LONG_ENOUGH))
        assert sum("10007" in message for message in said.messages if message.startswith("west: ")) == 1
        assert said.messages.count("west: set aside for good; the gate waits for its other clusters") == 1
        assert len(west.job_state_requests) == 1

    def test_a_refused_token_is_tried_again(self, run, west, east):
        full(east)
        west.order(REFUSED, times=2)
        assert run(gate(scnet_conn_id=BOTH))["scnet_conn_id"] == "west"

    def test_of_all_for_good_the_gate_fails_and_says_each(self, run, west, east):
        west.order(FOR_GOOD, times=None)
        east.order(Fault.redirect("https://elsewhere"), times=None)
        with pytest.raises(AirflowFailException, match=r"west: .*10007.*; east: .*redirect"):
            run(gate(scnet_conn_id=BOTH))

    def test_of_all_where_one_may_be_mended_the_try_fails(self, run, west, east):
        west.order(FOR_GOOD, times=None)
        east.order(REFUSED, times=None)
        with pytest.raises(AirflowException, match=r"west: .*; east: .*10008") as caught:
            run(gate(scnet_conn_id=BOTH))
        assert not isinstance(caught.value, AirflowFailException)

    def test_a_connection_that_is_not_defined_fails_no_gate_that_another_may_open(self, run):
        assert run(gate(scnet_conn_id=["nowhere", "east"]))["scnet_conn_id"] == "east"

    @pytest.mark.parametrize("knows", [True, False])
    def test_a_user_that_one_of_them_does_not_have(self, monkeypatch, east, knows):
        for run, code in itertools.product(MODES.values(), ("0", "911009")):
            with ScnetSimulator(unknown_user=code) as north:
                north.add_user("bob")
                monkeypatch.setenv("AIRFLOW_CONN_NORTH", north.connection_json("bob"))
                conn_ids = ["north", "east"] if knows else ["north"]
                asked = gate(scnet_conn_id=conn_ids, user_name="alice", timeout=LONG_ENOUGH)
                if knows:
                    assert run(asked)["scnet_conn_id"] == "east"
                else:
                    with pytest.raises(AirflowException):
                        run(asked)

    def test_fail_when_sets_a_cluster_aside(self, run, west, east):
        west.set_counts("alice", held=1)
        assert run(gate(scnet_conn_id=BOTH, fail_when="held > 0"))["scnet_conn_id"] == "east"
        east.set_counts("alice", held=1)
        with pytest.raises(AirflowFailException, match=r"west: .*fail_when.*; east: .*fail_when"):
            run(gate(scnet_conn_id=BOTH, fail_when="held > 0"))

    @pytest.mark.parametrize(
        ("verdicts", "outcome"),
        [
            ("WAIT WAIT", "WAIT"),
            ("RETRY WAIT", "WAIT"),
            ("FAIL WAIT", "WAIT"),
            ("RETRY RETRY", "RETRY"),
            ("FAIL RETRY", "RETRY"),
            ("FAIL FAIL", "FAIL"),
            ("FAIL OPEN", "OPEN"),
            ("WAIT OPEN", "OPEN"),
        ],
    )
    def test_what_becomes_of_the_gate(self, verdicts, outcome):
        clusters = Clusters(BOTH)
        first, second = (Decision(Verdict[each], each) for each in verdicts.split())
        assert clusters.outcome("west", first).verdict is Verdict.WAIT
        assert clusters.outcome("east", second).verdict is Verdict[outcome]


WRONG = [
    ([], "empty list"),
    ((), "empty list"),
    (["west", "west"], "the connection 'west' twice"),
    (["west", ""], "given but empty"),
    (["west", None], "given but empty"),
    (["west", 1.5], "no text but float"),
    ({"west"}, "no text but set"),
    ("['west', 'east']", "render_template_as_native_obj"),
]


class TestBadInput:
    @pytest.mark.parametrize(("conn_ids", "message"), WRONG)
    def test_it_shows_when_the_file_is_parsed(self, conn_ids, message):
        with pytest.raises(ValueError, match=message):
            gate(scnet_conn_id=conn_ids)

    @pytest.mark.parametrize(("conn_ids", "message"), WRONG)
    def test_and_where_a_template_renders_it(self, run, conn_ids, message):
        templated = gate(scnet_conn_id="{{ params.clusters }}")
        templated.scnet_conn_id = conn_ids
        with pytest.raises(AirflowFailException, match=message):
            run(templated)

    def test_a_list_may_hold_templates(self, run):
        templated = gate(scnet_conn_id=["{{ params.first }}", "east"])
        templated.render_template_fields({"params": {"first": "west"}})
        assert templated.scnet_conn_id == BOTH
        assert run(templated)["scnet_conn_id"] == "west"
        templated = gate(scnet_conn_id=["{{ params.first }}", "east"])
        templated.render_template_fields({"params": {"first": "east"}})
        with pytest.raises(AirflowFailException, match="twice"):
            run(templated)


@pytest.mark.skipif(not _AIRFLOW_STARTS_FROM_TRIGGER, reason="Airflow before 3.3 starts each gate on a worker")
@pytest.mark.parametrize(("conn_ids", "starts"), [(BOTH, True), (["{{ params.x }}", "east"], False)])
def test_it_starts_without_a_worker_where_one_with_a_single_connection_would(conn_ids, starts):
    with DAG("dag", schedule=None, start_date=datetime(2026, 1, 1)):
        sensor = gate(scnet_conn_id=conn_ids)
    assert sensor.start_from_trigger is starts
    if starts:
        kwargs = sensor.start_trigger_args.trigger_kwargs
        assert json.loads(json.dumps(kwargs))["scnet_conn_id"] == BOTH


def trigger(condition: str = "queued < 5", **arguments: Any) -> ScnetJobCountTrigger:
    return ScnetJobCountTrigger(
        **{
            "condition": condition,
            "poke_interval": INTERVAL,
            "claim_ttl": 600,
            "scnet_conn_id": BOTH,
            **arguments,
        }
    )


class TestClaims:
    def test_they_are_made_on_the_cluster_that_was_chosen(self, west, east):
        full(west)

        async def scenario() -> None:
            event = await first_event(trigger(submits=3))
            assert event.payload["decision"]["scnet_conn_id"] == "east"
            assert [claimed((each.url, "alice")) for each in (west, east)] == [0, 3]
            assert {poller.gates for poller in shared_accounts.accounts()._pollers.values()} == {0}

        asyncio.run(scenario())

    def test_room_for_two_here_and_three_there_lets_five_of_twenty_pass_and_fills_the_first_first(
        self, west, east
    ):
        west.set_counts("alice", queued=3)
        east.set_counts("alice", queued=2)

        async def scenario() -> None:
            tasks = [asyncio.ensure_future(first_event(trigger())) for _ in range(20)]
            for _ in range(4):
                await asyncio.to_thread(west.wait_for_requests, len(west.requests) + 1)
                await asyncio.to_thread(east.wait_for_requests, len(east.requests) + 1)
            opened = [task.result().payload["decision"]["scnet_conn_id"] for task in tasks if task.done()]
            assert opened == ["west", "west", "east", "east", "east"]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run(scenario())

    def test_gates_of_one_cluster_and_of_both_give_room_out_once(self, west, east):
        west.set_counts("alice", queued=4)
        full(east)

        async def scenario() -> None:
            triggers = [trigger(scnet_conn_id=each) for each in (BOTH, "west", BOTH[::-1], "west") * 3]
            tasks = [asyncio.ensure_future(first_event(each)) for each in triggers]
            for _ in range(4):
                await asyncio.to_thread(west.wait_for_requests, len(west.requests) + 1)
            assert sum(task.done() for task in tasks) == 1
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run(scenario())


class Busy:
    """Clusters of virtual time that answer late, each in its own time, and count jobs from the moment they come."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.jobs = dict.fromkeys(BOTH, 0)
        self.most = dict.fromkeys(BOTH, 0)

    def __call__(self, scnet_conn_id: str) -> Any:
        return BusyCluster(self, scnet_conn_id)

    async def submit(self, name: str, has_submitted: Callable[[], None]) -> None:
        await asyncio.sleep(self.chance.uniform(0, 60))
        self.jobs[name] += 1
        self.most[name] = max(self.most[name], self.jobs[name])
        has_submitted()
        await asyncio.sleep(self.chance.uniform(0, 300))
        self.jobs[name] -= 1


class BusyCluster:
    def __init__(self, clusters: Busy, name: str) -> None:
        self.clusters = clusters
        self.name = name

    async def aread_settings(self, user_name: str | None = None) -> Any:
        return SimpleNamespace(account=(f"https://{self.name}", "alice"))

    async def awith_token(self, settings: Any) -> Any:
        return settings

    async def apoll(self, settings: Any, queues: Any = (), with_list: bool = False) -> Observation:
        at = clock.now()
        queued = self.clusters.jobs[self.name]
        await asyncio.sleep(self.clusters.chance.uniform(0, 9))
        if self.clusters.chance.random() < 0.1:
            return Observation(error=HEALS, account=settings.account, at=at)
        return Observation(counts=JobCounts(0, queued, 0, 0, 0), account=settings.account, at=at)


@pytest.mark.parametrize("is_known", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_whatever_answers_first_no_cluster_gets_more_than_it_has_room_for(seed: int, is_known: bool):
    async def scenario() -> None:
        clusters, airflow = Busy(seed), Airflow()
        airflow.takes = 0.02
        loop = asyncio.get_running_loop()
        Accounts._by_loop[loop] = Accounts(clusters, airflow)

        async def submit_behind_a_gate(index: int) -> str:
            chance = clusters.chance
            await asyncio.sleep(chance.uniform(0, 300))
            conn_ids = chance.choice([BOTH, BOTH[::-1], "west", "east"])
            asked = trigger(
                scnet_conn_id=conn_ids, poke_interval=chance.choice([10, 60]), claim_ttl=180, timeout=None
            )
            if is_known:
                # A submission takes less than its claim lasts, and is counted when it comes.
                asked.trigger_id, asked.submitted_by = index + 1, {"submit": True}
                asked.task_instance = SimpleNamespace(dag_id="dag", run_id="run", task_id="gate", map_index=index)
                airflow.set(index, "deferred")
            name = (await first_event(asked)).payload["decision"]["scnet_conn_id"]
            airflow.set(index, "success", "running")
            await clusters.submit(name, lambda: airflow.set(index, "success", "success"))
            return name

        names = await asyncio.gather(*map(submit_behind_a_gate, range(100)))
        assert set(names) == set(BOTH)
        assert max(clusters.most.values()) <= 5

    virtual_time.run(scenario())

# SPDX-License-Identifier: Apache-2.0
"""The connection's own condition: every gate of it needs that too, reads it anew at each poll, and says so."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Callable
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowFailException
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_scnet.client.job_counts import JobCounts
from airflow_provider_scnet.client.observation import Observation
from airflow_provider_scnet.gate.claimed import Claimed
from airflow_provider_scnet.gate.decision import Decision, Verdict, decide
from airflow_provider_scnet.gate.gate import Gate
from airflow_provider_scnet.polling.accounts import Accounts
from airflow_provider_scnet.testing import Fault, ScnetSimulator
from airflow_provider_scnet.triggers.scnet import ScnetJobCountEventTrigger, ScnetJobCountTrigger
from benchmarks import virtual_time

from gates import INTERVAL, MODES, first_event, gate
from observations import Airflow, Cluster


@pytest.fixture(params=MODES.values(), ids=MODES)
def run(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def when_said(said: pytest.LogCaptureFixture):
    """Do something once a gate has said something."""
    handlers: list[logging.Handler] = []

    def when(text: str, do: Callable[[], Any]) -> None:
        class Once(logging.Handler):
            def emit(self, record: logging.LogRecord) -> None:
                if text in record.getMessage():
                    self.emit = lambda record: None
                    do()

        handlers.append(Once())
        logging.getLogger("gate").addHandler(handlers[-1])

    yield when
    for each in handlers:
        logging.getLogger("gate").removeHandler(each)


class TestGate:
    def test_it_stays_shut_says_what_the_connection_needs_and_reads_it_anew(
        self, scnet, connect, run, when_said, said
    ):
        connect(condition="queued < 3")
        scnet.set_counts("alice", running=7, queued=4)
        shut = "running 7, queued 4: waiting, the connection needs queued < 3"
        when_said(shut, lambda: connect(condition="queued < 9"))
        assert run(gate("queued < 5"))["counts"]["queued"] == 4
        assert shut in said.messages

    def test_one_that_is_set_while_a_gate_waits_shuts_it(self, scnet, connect, run, when_said, said):
        # One after another: a poll that has read the connection already would open on counts that come later.
        scnet.set_counts("alice", queued=9)
        when_said("waiting, needs queued < 5", lambda: connect(condition="running < 0"))
        when_said(
            "queued 9: waiting, the connection needs running < 0", lambda: scnet.set_counts("alice", queued=0)
        )
        when_said("queued 0: waiting, the connection needs running < 0", connect)
        assert run(gate())
        assert "running 0, queued 0: waiting, the connection needs running < 0" in said.messages

    @pytest.mark.parametrize("nothing", [None, ""])
    def test_a_field_that_nobody_filled_in_needs_nothing(self, scnet, connect, run, nothing):
        connect(condition=nothing)
        assert run(gate())

    @pytest.mark.parametrize(
        ("mistake", "what"),
        [
            (
                "pending < 5",
                "condition 'pending < 5', character 1: unknown state 'pending' (did you mean 'queued'?)",
            ),
            ("  ", "is empty"),
            (5, "'5' is no comparison"),
            (False, "only whole numbers, states"),
            (["queued < 5"], "character '[' is not allowed"),
            ("held < 5", "in the cluster's answer 'held' is missing"),
        ],
    )
    def test_a_mistake_in_it_keeps_gates_shut_and_says_where(
        self, scnet, connect, run, when_said, said, mistake, what
    ):
        connect(condition=mistake)
        reported = [{"name": "运行", "y": 1}, {"name": "排队", "y": 2}]
        scnet.order(Fault.api("0", "success", reported), times=None)
        where = f"connection 'scnet_default' ({scnet.url}), user 'alice', extra 'condition': "
        when_said(where, connect)
        assert run(gate())
        (line,) = [line for line in said.messages if where in line]
        assert line.startswith(f"waiting: {where}")
        assert what in line

    @pytest.mark.parametrize("condition", ["running < 0", "pending < 5"])
    def test_fail_when_fails_a_gate_all_the_same(self, scnet, connect, run, condition):
        connect(condition=condition)
        scnet.set_counts("alice", held=1)
        with pytest.raises(AirflowFailException, match="fail_when held > 0"):
            run(gate(fail_when="held > 0"))

    def test_the_jobs_of_the_gate_need_room_in_it_too(self, scnet, connect, run, when_said, said):
        connect(condition="queued < 3")
        shut = "running 0, queued 0: waiting, the connection needs queued < 3 with room for 4"
        when_said(shut, lambda: connect(condition="queued < 4"))
        assert run(gate(submits=4))
        assert shut in said.messages

    def test_for_a_gate_of_one_queue_it_is_about_the_jobs_of_all(self, scnet, connect, run, when_said, said):
        connect(condition="queued < 5")
        scnet.add_queue("gpu")
        scnet.submit("alice", 10)
        shut = "all queues: running 4, queued 6: waiting, the connection needs queued < 5"
        when_said(shut, lambda: connect(condition="queued < 7"))
        assert run(gate("queued < 1", queue_name="gpu"))["queue_name"] == "gpu"
        assert shut in said.messages

    def test_of_several_clusters_each_has_its_own(self, scnet, connect, run, said, monkeypatch):
        connect("west", condition="running < 0")
        with ScnetSimulator() as east:
            east.add_user("alice")
            monkeypatch.setenv("AIRFLOW_CONN_EAST", east.connection_json(condition="queued < 9"))
            record = run(gate(scnet_conn_id=["west", "east"]))
        assert record["scnet_conn_id"] == "east"
        assert "west: running 0, queued 0: waiting, the connection needs running < 0" in said.messages

    def test_gates_of_another_connection_to_the_same_account_do_not_need_it(self, scnet, connect, run):
        connect(condition="running < 0")
        connect("other")
        assert run(gate(scnet_conn_id="other"))


def trigger(condition: str = "queued < 100", **arguments: Any) -> ScnetJobCountTrigger:
    return ScnetJobCountTrigger(
        **{"condition": condition, "poke_interval": INTERVAL, "claim_ttl": 600, **arguments}
    )


@pytest.mark.parametrize("queues", [[None], ["comp", "gpu"], ["comp", None]])
def test_five_gates_that_open_on_one_poll_do_not_break_it_together(scnet: ScnetSimulator, connect, said, queues):
    connect(condition="queued < 7")
    scnet.add_queue("gpu")
    scnet.set_counts("alice", queued=5)
    scnet.set_counts("alice", queue="comp", queued=2)
    scnet.set_counts("alice", queue="gpu", queued=3)

    async def scenario() -> list[bool]:
        names = list(itertools.islice(itertools.cycle(queues), 5))
        tasks = [asyncio.ensure_future(first_event(trigger(queue_name=name))) for name in names]
        seen = 0
        while seen < 3:
            await asyncio.to_thread(scnet.wait_for_requests, len(scnet.requests) + 1)
            seen = len(scnet.job_state_requests)
        opened = [task.done() for task in tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return opened

    assert asyncio.run(scenario()) == [True, True, False, False, False]
    shut = "queued 5 (+2 claimed): waiting, the connection needs queued < 7; only claims of gates that passed keep"
    assert any(shut in line for line in said.messages)


def test_where_claims_alone_keep_gates_shut_in_it_the_next_poll_is_due_when_they_end():
    async def scenario() -> float:
        counts = JobCounts(0, 0, 0, 0, 0)
        seen = {"counts": counts, "queues": {"comp": counts, "gpu": counts}, "condition": "queued < 1"}
        accounts = Accounts(Cluster(seen), Airflow())
        Accounts._by_loop[asyncio.get_running_loop()] = accounts
        loop = asyncio.get_running_loop()
        began = loop.time()
        gates = [trigger(queue_name=name, poke_interval=3600, claim_ttl=100) for name in ("comp", "gpu")]
        await asyncio.gather(*map(first_event, gates))
        return loop.time() - began

    assert 100 <= virtual_time.run(scenario()) < 110


def test_a_watcher_does_not_need_it(scnet: ScnetSimulator, connect):
    connect(condition="running < 0")
    scnet.set_counts("alice", queued=9)

    async def scenario() -> dict[str, Any]:
        watcher = ScnetJobCountEventTrigger(condition="queued < 5", poke_interval=INTERVAL)
        fired = asyncio.ensure_future(first_event(watcher))
        await asyncio.to_thread(scnet.wait_for_requests, 2)
        scnet.set_counts("alice", queued=4)
        return (await fired).payload

    assert asyncio.run(scenario())["counts"]["queued"] == 4


conditions = st.sampled_from(["queued < 5", "running > 3", "queued == 2", "running + queued < 8", "running < 0"])


@given(conditions, conditions, st.integers(0, 8), st.integers(0, 8), st.integers(0, 5), st.integers(0, 4))
def test_a_gate_opens_where_both_conditions_let_it(own, of_connection, running, queued, claimed, submits):
    counts = JobCounts(running, queued, 0, 0, 0)

    def decided(condition: str, of_connection: str = "") -> Decision:
        seen = Observation(counts=counts, condition=of_connection)
        return decide(Gate.of(condition, submits=submits), seen, Claimed(claimed))

    both, one, other = decided(own, of_connection), decided(own), decided(of_connection)
    as_one = decided(f"({own}) and ({of_connection})")
    assert (both.verdict is Verdict.OPEN) == (one.verdict is other.verdict is Verdict.OPEN)
    assert (both.verdict, both.shut_by, both.lacks) == (as_one.verdict, as_one.shut_by, as_one.lacks)

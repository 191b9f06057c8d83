# SPDX-License-Identifier: Apache-2.0
"""When a poll is due, who decides on it and in which order, and that no gate that is ended leaves a claim."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import types
from collections.abc import Callable, Coroutine
from datetime import datetime, timedelta, timezone
from typing import Any
from unittest import mock

import pytest

from airflow_provider_scnet.claims.claim import KEPT_AFTER
from airflow_provider_scnet.claims.claim_terms import GateId, SubmissionTasks, Terms
from airflow_provider_scnet.claims.ledger import Ledger, NotDecidedError
from airflow_provider_scnet.client.errors import ErrorKind, ScnetError
from airflow_provider_scnet.client.job_counts import STATES, JobCounts
from airflow_provider_scnet.client.job_lists import JobList
from airflow_provider_scnet.client.job_state import JobState
from airflow_provider_scnet.client.observation import Observation
from airflow_provider_scnet.client.reported_job import ReportedJob
from airflow_provider_scnet.event_loop import clock
from airflow_provider_scnet.event_loop.log_thread import ThreadedLog
from airflow_provider_scnet.gate.decision import Decision
from airflow_provider_scnet.gate.evaluator import GateEvaluator
from airflow_provider_scnet.gate.gate import Gate
from airflow_provider_scnet.polling import poller
from airflow_provider_scnet.polling.accounts import Accounts
from airflow_provider_scnet.polling.job_poller import AwaitedJob, JobPoller
from airflow_provider_scnet.polling.kept_room import KeptRoom
from airflow_provider_scnet.polling.waiting import Place, WaitingGate, Watcher
from airflow_provider_scnet.triggers.scnet import ScnetJobCountTrigger
from benchmarks import simulation, virtual_time

from gates import claimed, decision_of, first_event
from observations import HEALS, Airflow, Cluster

ACCOUNT = ("https://h", "alice")
INTERVAL = 60.0
START = 1000.0


def played(scenario: Callable[[Airflow, Cluster], Coroutine[Any, Any, Any]], *seen: Any) -> Any:
    """Play a scenario on a triggerer of virtual time, of a cluster that shows this and that."""

    async def whole() -> Any:
        airflow, cluster = Airflow(), Cluster(*seen)
        Accounts._by_loop[asyncio.get_running_loop()] = Accounts(cluster, airflow)
        return await scenario(airflow, cluster)

    return virtual_time.run(whole())


class Lines(list):
    """A gate's log."""

    def info(self, message: str, *given: Any) -> None:
        self.append(message % given)

    warning = error = info


def trigger(condition: str = "queued < 5", **given: Any) -> ScnetJobCountTrigger:
    found = ScnetJobCountTrigger(condition=condition, submitted_by={"submit": True}, end_task=True, **given)
    found.lines = found._log = Lines()
    return found


def known(airflow: Airflow, map_index: int, condition: str = "queued < 5", **given: Any) -> ScnetJobCountTrigger:
    """Return the trigger of a gate that Airflow knows, so that its claim is written down."""
    found = trigger(condition, **given)
    found.trigger_id = map_index + 1
    found.task_instance = types.SimpleNamespace(dag_id="dag", run_id="run", task_id="gate", map_index=map_index)
    airflow.set(map_index, "deferred")
    return found


def wait(gate: ScnetJobCountTrigger) -> asyncio.Task[Any]:
    return asyncio.ensure_future(first_event(gate))


def pauses(cluster: Cluster) -> list[float]:
    return [later - earlier for earlier, later in itertools.pairwise(cluster.times)]


# Who decides


@pytest.mark.parametrize(
    ("priorities", "order"),
    [([1, 1, 1], [0, 1, 2]), ([1, 3, 2], [1, 2, 0]), ([0, 5, 5], [1, 2, 0])],
)
def test_the_urgent_gates_come_first_and_then_those_that_came_first(priorities: list[int], order: list[int]):
    async def scenario(airflow: Airflow, cluster: Cluster) -> list[int]:
        opened = []

        async def one(number: int, priority: int) -> None:
            # With room for one at each look, as its claim has ended by the next.
            await first_event(trigger(priority_weight=priority, claim_ttl=1))
            opened.append(number)

        await asyncio.gather(*(one(*each) for each in enumerate(priorities)))
        return opened

    assert played(scenario, 4) == order


def test_all_that_wait_decide_at_one_place_on_one_look():
    async def scenario(airflow: Airflow, cluster: Cluster) -> None:
        gates = [wait(known(airflow, index)) for index in range(50)] + [wait(trigger()) for _ in range(50)]
        await asyncio.sleep(0.5 * INTERVAL)
        assert [gate.done() for gate in gates] == [True] * 3 + [False] * 97
        assert cluster.looks == 1
        await asyncio.sleep(INTERVAL)
        assert sum(gate.done() for gate in gates) == 3

    played(scenario, 2)


def test_gates_that_have_opened_are_not_polled_for_where_the_poll_took_longer_than_an_interval():
    async def scenario(airflow: Airflow, cluster: Cluster) -> None:
        async def slowly(*asked: Any, apoll: Any = cluster.apoll) -> Observation:
            seen = await apoll(*asked)
            await asyncio.sleep(2 * INTERVAL)
            return seen

        cluster.apoll = slowly
        await asyncio.gather(*(wait(trigger(submits=0)) for _ in range(3)))
        await asyncio.sleep(10 * INTERVAL)
        assert cluster.looks == 1

    played(scenario, 0)


def test_no_gate_decides_twice_on_a_look():
    async def scenario(airflow: Airflow, cluster: Cluster) -> list[float]:
        decided: list[float] = []

        class Counts(GateEvaluator):
            def take(self, decision: Decision) -> Decision:
                decided.append(cluster.times[-1])
                return super().take(decision)

        poller, asks = (
            Accounts._by_loop[asyncio.get_running_loop()].poller("scnet_default", None),
            Gate.of("queued < 5"),
        )
        log = logging.getLogger("gate")
        place = Place(WaitingGate(asks, log, ["scnet_default"]), "scnet_default", INTERVAL, Counts(asks, log))
        poller.add(place)
        for _ in range(4):
            await asyncio.sleep(0.5 * INTERVAL - 1)
            # Who comes between two looks makes the others decide on nothing anew.
            wait(trigger("queued < 1"))
        poller.remove(place)
        assert decided == cluster.times
        return decided

    assert len(played(scenario, 9)) == 2


def test_nothing_is_shown_twice_to_a_watcher():
    async def scenario(airflow: Airflow, cluster: Cluster) -> list[float]:
        watcher = Watcher(INTERVAL)
        Accounts._by_loop[asyncio.get_running_loop()].poller("x", None).add(watcher)
        return [(await watcher.next_observation()).at for _ in range(3)]

    assert played(scenario, 9) == [START, START + INTERVAL, START + 2 * INTERVAL]


def test_an_observation_has_the_time_by_which_the_gates_wait():
    async def scenario() -> tuple[float, float]:
        return Observation(error=HEALS).at, clock.now()

    at, now = virtual_time.run(scenario())
    assert at == now


# What fails


@pytest.mark.parametrize(
    ("where", "what"),
    [
        (Accounts, "observe"),
        (Ledger, "refresh"),
        (Ledger, "notes"),
        (Ledger, "totals"),
        (Ledger, "claim"),
        (Ledger, "decide"),
        (KeptRoom, "notes"),
        (KeptRoom, "reason_to_wait"),
    ],
    ids=lambda each: getattr(each, "__name__", each),
)
def test_whatever_fails_in_a_poll_is_told_to_all_and_none_hangs(where: type, what: str):
    async def scenario(airflow: Airflow, cluster: Cluster) -> None:
        old = known(airflow, 0)
        tasks = [wait(old)]
        await asyncio.sleep(0.5 * INTERVAL)
        assert cluster.looks == 1
        # Of a shorter interval, so that there is another look.
        new = [known(airflow, 1, poke_interval=5), trigger(poke_interval=5)]
        tasks += map(wait, new)
        with mock.patch.object(where, what, side_effect=ZeroDivisionError("a mistake")):
            await asyncio.sleep(20)
        for gate in (old, *new):
            assert any(
                "unexpected ZeroDivisionError: a mistake while polling SCnet" in line for line in gate.lines
            )
        # The first of them had a good answer before, and waits on. So do those that had one before it failed.
        assert not tasks[0].done()
        assert claimed(ACCOUNT) == 0
        await asyncio.wait_for(asyncio.gather(*tasks), 5 * INTERVAL)
        for gate, task in zip((old, *new), tasks, strict=True):
            event = task.result()
            if getattr(event, "xcoms", None) is None and event.payload["verdict"] != "open":
                assert event.payload["verdict"] == "retry"
                assert gate.lines == [event.payload["message"]]
            else:
                assert gate.lines[-1].endswith("passes, queued < 5")

    played(scenario, 9, 0)


# Gates that end meanwhile


def _in_flush(stack: Any, end: Callable[[], None]) -> None:
    async def flush(log: ThreadedLog) -> None:
        end()
        await asyncio.sleep(10)

    stack.setattr(ThreadedLog, "flush", flush)


def _after_flush(stack: Any, end: Callable[[], None]) -> None:
    async def flush(log: ThreadedLog) -> None:
        end()

    stack.setattr(ThreadedLog, "flush", flush)


def _as_it_opens(stack: Any, end: Callable[[], None]) -> None:
    opens = WaitingGate.open

    def and_end(gate: WaitingGate, *given: Any) -> bool:
        is_open = opens(gate, *given)
        end()
        return is_open

    stack.setattr(WaitingGate, "open", and_end)


def _before_it_opens(stack: Any, end: Callable[[], None]) -> None:
    opens = WaitingGate.open

    def end_before(gate: WaitingGate, *given: Any) -> bool:
        end()
        return opens(gate, *given)

    stack.setattr(WaitingGate, "open", end_before)


def _while_it_is_written(stack: Any, end: Callable[[], None]) -> None:
    writes = Airflow.set_variable

    async def end_while(airflow: Airflow, key: str, *given: Any) -> None:
        if key.startswith("scnet_claims_"):
            end()
        await writes(airflow, key, *given)

    stack.setattr(Airflow, "set_variable", end_while)


def _while_the_turn_is_waited_for(stack: Any, end: Callable[[], None]) -> None:
    asyncio.get_running_loop().call_later(0.5, end)


MOMENTS = [
    _in_flush,
    _after_flush,
    _as_it_opens,
    _before_it_opens,
    _while_it_is_written,
    _while_the_turn_is_waited_for,
]


@pytest.mark.parametrize("conn_ids", ["x", ["x", "y"]], ids=["one cluster", "several"])
@pytest.mark.parametrize("moment", MOMENTS, ids=lambda each: each.__name__.strip("_"))
def test_a_gate_that_is_cancelled_before_its_event_leaves_no_claim(
    moment: Callable[[Any, Callable[[], None]], None], conn_ids: Any
):
    async def scenario(airflow: Airflow, cluster: Cluster) -> None:
        airflow.takes = 0.01
        # So that there are polls after that.
        other = wait(known(airflow, 7, "queued < 1", scnet_conn_id="x"))
        ended = []
        with pytest.MonkeyPatch.context() as stack:

            def end() -> None:
                ended.append(gate.cancel())

            gate = wait(known(airflow, 0, scnet_conn_id=conn_ids))
            moment(stack, end)
            await asyncio.sleep(0.5 * INTERVAL)
        assert gate.cancelled()
        assert True in ended
        assert claimed(ACCOUNT) == 0
        await asyncio.sleep(INTERVAL)
        assert airflow.written() == []
        assert not other.done()

    played(scenario, 4)


@pytest.mark.parametrize("is_known", [True, False])
def test_one_of_many_that_is_cancelled_as_they_open_leaves_no_claim_and_takes_none_with_it(is_known: bool):
    async def scenario(airflow: Airflow, cluster: Cluster) -> None:
        gates = [wait(known(airflow, index) if is_known else trigger()) for index in range(60)]
        opens = WaitingGate.open
        opened = []

        def and_end_others(gate: WaitingGate, *given: Any) -> bool:
            opened.append(gate)
            if len(opened) == 10:
                for each in gates[5:15]:
                    each.cancel()
            return opens(gate, *given)

        with mock.patch.object(WaitingGate, "open", and_end_others):
            await asyncio.sleep(0.5 * INTERVAL)
        ended = await asyncio.gather(*gates, return_exceptions=True)
        left = sum(not isinstance(each, asyncio.CancelledError) for each in ended)
        assert 50 <= left < 60
        assert claimed(ACCOUNT) == left

    played(scenario, {"counts": JobCounts(0, -55, 0, 0, 0)})


def test_a_gate_whose_time_is_up_while_the_turn_is_taken_ends_with_that_and_leaves_no_claim():
    async def scenario(airflow: Airflow, cluster: Cluster) -> None:
        gate = known(airflow, 0)
        gate.timeout_after = datetime.now(timezone.utc) + timedelta(seconds=0.5)
        event = await first_event(gate)
        assert event.payload["verdict"] == "timeout"
        assert any(key.startswith("scnet_turn_") for key in airflow.writes)
        assert claimed(ACCOUNT) == 0
        await asyncio.sleep(INTERVAL)
        assert airflow.written() == []

    played(scenario, 4)


# When a poll is due


def test_a_gate_that_arrives_between_two_polls_uses_a_look_that_is_fresh_enough():
    async def scenario(airflow: Airflow, cluster: Cluster) -> None:
        wait(trigger("queued < 1", poke_interval=3600))
        await asyncio.sleep(KEPT_AFTER / 2 - 10)
        await first_event(trigger(poke_interval=3600))
        assert cluster.looks == 1
        # What has ended is known for ten minutes, of which a turn may take some: no gate decides on an older look.
        await asyncio.sleep(20)
        await first_event(trigger(poke_interval=3600))
        assert cluster.times == [START, START + KEPT_AFTER / 2 + 10]

    played(scenario, 2)


def test_alone_a_triggerer_polls_at_the_interval():
    async def scenario(airflow: Airflow, cluster: Cluster) -> None:
        wait(known(airflow, 0, "queued < 20"))
        wait(known(airflow, 1, "queued < 1"))
        await asyncio.sleep(10.5 * INTERVAL)
        assert pauses(cluster) == pytest.approx([INTERVAL] * 10)

    played(scenario, 4)


@pytest.mark.parametrize(
    ("opened_here", "shortest", "longest"),
    [(0, 0.75 * INTERVAL, INTERVAL), (2, INTERVAL, 1.25 * INTERVAL)],
    ids=["who let less through is sooner", "who let more through is later"],
)
def test_beside_another_process_that_lets_gates_through_polls_shift_by_up_to_a_quarter_of_the_interval(
    opened_here: int, shortest: float, longest: float
):
    async def scenario(airflow: Airflow, cluster: Cluster) -> list[float]:
        await let_one_through_elsewhere(airflow, cluster)
        await asyncio.sleep(1)
        for index in range(opened_here):
            wait(known(airflow, index, "queued < 20"))
        wait(known(airflow, 9, "queued < 1"))
        await asyncio.sleep(3.5 * INTERVAL)
        return pauses(cluster)[:2]

    found = []
    for seed in range(10):
        random.seed(seed)
        found += played(scenario, 9)
    assert all(shortest <= pause <= longest for pause in found)
    # By how much is left to chance, so that none is always first.
    assert max(found) - min(found) > 1


async def let_one_through_elsewhere(airflow: Airflow, cluster: Cluster) -> None:
    """Let another triggerer write down the claim of a gate that it lets through."""
    airflow.set(99, "deferred")
    ledger, _ = Accounts(cluster, airflow).shared(ACCOUNT)
    terms = Terms(1, 180.0, tasks=SubmissionTasks({"submit": True}))
    await ledger.decide(lambda: [ledger.claim(GateId("dag", "run", "gate", 99), terms)])
    airflow.set(99, "success", "running")


class Submissions:
    """
    Gates in front of a queue with room for one job, whose submissions end when a test says so.

    The queue stays as it is: another job starts to run for each that is submitted.
    """

    counted_after = 60.0

    def __init__(self, airflow: Airflow, gates: int) -> None:
        self.airflow = airflow
        self.opened: dict[int, float] = {}
        self.tasks = [asyncio.ensure_future(self._one(index)) for index in range(gates)]

    async def _one(self, index: int) -> None:
        await first_event(known(self.airflow, index))
        self.opened[index] = clock.now()
        self.airflow.set(index, "success", "running")

    def end(self, index: int) -> None:
        self.airflow.set(index, "success", "success")

    @classmethod
    def look(cls, **more: Any) -> dict[str, Any]:
        return {"counts": JobCounts(9, 4, 0, 0, 0), "counted_after": cls.counted_after, **more}


async def until(at: float) -> None:
    """Sleep until a moment of the scenario."""
    await asyncio.sleep(START + at - clock.now())


def test_where_claims_alone_keep_gates_shut_the_next_poll_comes_when_the_first_of_them_ends():
    async def scenario(airflow: Airflow, cluster: Cluster) -> None:
        submissions = Submissions(airflow, 2)
        await until(12)
        submissions.end(0)
        await until(50)
        (claim,) = _ledger()._claims.values()
        end = claim.ends()
        # A while after the submission ended: when Airflow was asked, every few seconds.
        assert START + 72 <= end <= START + 80
        await until(85)
        assert cluster.times == pytest.approx([START, START + INTERVAL, end], abs=0.01)
        assert cluster.times[-1] > end
        assert set(submissions.opened) == {0, 1}

    played(scenario, Submissions.look())


def test_but_no_sooner_than_a_few_seconds_after_the_last_one():
    async def scenario(airflow: Airflow, cluster: Cluster) -> None:
        submissions = Submissions(airflow, 2)
        await until(1.5)
        submissions.end(0)
        await until(50)
        (claim,) = _ledger()._claims.values()
        assert START + INTERVAL < claim.ends() < START + INTERVAL + 5
        await until(75)
        assert cluster.times == pytest.approx([START, START + INTERVAL, START + INTERVAL + 5])
        assert set(submissions.opened) == {0, 1}

    # It is seen to have ended a few seconds later.
    with mock.patch.object(Submissions, "counted_after", 57.0):
        played(scenario, Submissions.look())


def test_and_once_an_interval_at_most():
    async def scenario(airflow: Airflow, cluster: Cluster) -> None:
        submissions = Submissions(airflow, 4)
        await until(12)
        submissions.end(0)
        await until(65)
        # The claim that is made at the poll that is brought forward ends long before the next one.
        cluster.seen = [Submissions.look(counted_after=20)]
        await until(82)
        brought_forward = cluster.times[2]
        assert START + 72 < brought_forward < START + 80
        assert set(submissions.opened) == {0, 1}
        submissions.end(1)
        await until(100)
        (end,) = [claim.ends() for claim in _ledger()._claims.values() if claim.gate.map_index == 1]
        assert end < brought_forward + 0.7 * INTERVAL
        await until(150)
        assert cluster.times[3] == pytest.approx(brought_forward + INTERVAL)
        assert set(submissions.opened) == {0, 1, 2}

    played(scenario, Submissions.look())


def test_nor_while_the_server_asks_for_a_pause():
    pause = ScnetError("slow down", kind=ErrorKind.TRANSIENT, retry_after=100.0)

    async def scenario(airflow: Airflow, cluster: Cluster) -> None:
        submissions = Submissions(airflow, 2)
        wait(trigger(queue_name="gpu"))
        await until(12)
        submissions.end(0)
        await until(155)
        assert cluster.times == pytest.approx([START, START + INTERVAL])
        await until(170)
        assert cluster.times[2] == pytest.approx(START + INTERVAL + 100)

    # Of all together there are counts; of one queue there is none for now.
    gpu = {"queues": {"gpu": JobCounts(9, 9, 0, 0, 0)}}
    played(scenario, Submissions.look(**gpu), Submissions.look(queues={"gpu": pause}), Submissions.look(**gpu))


def test_gates_that_counts_keep_shut_bring_no_poll_forward():
    async def scenario(airflow: Airflow, cluster: Cluster) -> None:
        submissions = Submissions(airflow, 2)
        await until(12)
        submissions.end(0)
        cluster.seen = [9]
        await until(119)
        assert cluster.times == pytest.approx([START, START + INTERVAL])

    played(scenario, Submissions.look())


def _ledger() -> Ledger:
    return Accounts._by_loop[asyncio.get_running_loop()].shared(ACCOUNT)[0]


@pytest.mark.parametrize(
    ("jobs", "operator", "most"),
    # Where the operator submits, the list shows the jobs before the counts do.
    [(20, False, 1.35), (60, True, 1.05)],
    ids=["whoever submits", "the operator submits"],
)
@pytest.mark.parametrize("seed", range(3))
def test_with_all_defaults_and_an_empty_queue_batches_follow_at_the_pace_of_the_polls(
    seed: int, jobs: int, operator: bool, most: float
):
    limit, interval = 5, INTERVAL
    setting = simulation.Setting(
        1,
        submissions=jobs,
        limit=limit,
        slots=40,
        run_for=15.0,
        interval=interval,
        counted_after=60.0,
        operator=operator,
    )
    opened: list[float] = []
    opens = WaitingGate.open

    def at(gate: WaitingGate, *given: Any) -> bool:
        opened.append(clock.now())
        return opens(gate, *given)

    with (
        # All slots are empty.
        mock.patch.object(simulation._World, "fill"),
        mock.patch.object(WaitingGate, "open", at),
    ):
        simulation.play(setting, seed)
    assert len(opened) == jobs
    assert max(opened) - min(opened) <= most * (jobs // limit - 1) * interval


# A list of the jobs, where that may show those that are claimed


def in_state(**states: int) -> JobCounts:
    return JobCounts(**dict.fromkeys(STATES, 0) | states)


def listing(*job_ids: str, queued: int = 4, elsewhere: int = 0) -> JobList:
    """Return a list of running jobs with these ids, beside others that are queued, also in another queue."""
    running = [ReportedJob(job_id, "x", JobState.RUNNING, "list", queue="gpu") for job_id in job_ids]
    queues = ["gpu"] * queued + ["elsewhere"] * elsewhere
    others = [ReportedJob(f"q{n}", "x", JobState.QUEUED, "list", queue=queue) for n, queue in enumerate(queues)]
    return JobList((*running, *others), scheduler_id="1")


SLOW_DOWN = ScnetError("slow down", kind=ErrorKind.TRANSIENT, retry_after=150.0)


def let_a_second_one_come(then: dict[str, Any], **given: Any) -> tuple[bool, Cluster]:
    """Let a gate pass and its job be submitted; tell whether the next passes on what is seen an interval later."""
    look = {"counts": in_state(queued=4), "counted_after": 1000.0}
    # The first gate opens on counts alone.
    at_first = {name: value for name, value in then.items() if name not in ("listed", "counts")}

    async def scenario(airflow: Airflow, cluster: Cluster) -> tuple[bool, Cluster]:
        given.setdefault("tell_job_id", ["submit"])
        gates = [wait(known(airflow, index, **given)) for index in (0, 1)]
        await until(INTERVAL / 2)
        assert [gate.done() for gate in gates] == [True, False]
        airflow.set(0, "success", "deferred")
        airflow.left["run", "submit", 0] = "7"
        await until(1.5 * INTERVAL)
        return gates[1].done(), cluster

    return played(scenario, {**look, **at_first}, {**look, **then})


@pytest.mark.parametrize(
    ("seen", "opens"),
    [
        # The list counts its job, and so do the counts or not yet.
        ({"listed": listing("7")}, True),
        ({"listed": listing("7", "8")}, True),
        ({"listed": listing("7", queued=5)}, False),
        ({"listed": listing("8")}, False),
        ({"listed": listing()}, False),
        ({"listed": None}, False),
        ({"listed": SLOW_DOWN}, False),
        ({"listed": listing("7"), "counts": in_state(queued=5)}, False),
    ],
    ids=[
        "it is",
        "and another",
        "no room there",
        "another is",
        "none is",
        "no list",
        "error",
        "no room elsewhere",
    ],
)
def test_a_claim_whose_job_is_listed_keeps_no_gate_shut_where_list_and_counts_both_have_room(seen, opens):
    assert let_a_second_one_come(seen)[0] is opens


@pytest.mark.parametrize(("elsewhere", "opens"), [(4, True), (5, False)])
def test_of_a_queue_its_own_part_of_the_list_counts_and_the_whole_for_what_the_connection_needs(elsewhere, opens):
    gpu = {"gpu": in_state(queued=4)}
    seen = {"queues": gpu, "condition": "queued < 9", "listed": listing("7", elsewhere=elsewhere)}
    assert let_a_second_one_come(seen, queue_name="gpu")[0] is opens
    assert not let_a_second_one_come({**seen, "listed": listing("7", queued=5)}, queue_name="gpu")[0]


def test_jobs_are_listed_only_where_that_can_help():
    assert let_a_second_one_come({"listed": listing("8")})[1].lists == [False, True]
    # Who submits does not say which job it is.
    assert let_a_second_one_come({"listed": listing("7")}, tell_job_id=[])[1].lists == [False, False]


@pytest.mark.parametrize(
    ("user_name", "scheduler_id", "asked_at"),
    [
        (None, "1", [30, 330]),
        (None, None, [30, 330]),
        (None, "2", [30, 90, 150, 210, 270, 330]),
        ("bob", "1", [30, 90, 150, 210, 270, 330]),
    ],
    ids=["the scheduler", "the only one", "another scheduler", "another user"],
)
def test_while_gates_list_jobs_who_waits_for_one_makes_no_list(user_name, scheduler_id, asked_at):
    asked: list[float] = []

    async def find_jobs() -> JobList:
        asked.append(clock.now() - START)
        return listing("9")

    async def scenario(airflow: Airflow, cluster: Cluster) -> None:
        gates = [wait(known(airflow, n, tell_job_id=["submit"], user_name=user_name)) for n in (0, 1)]
        await until(INTERVAL / 2)
        airflow.set(0, "success", "deferred")
        airflow.left["run", "submit", 0] = "7"
        job = AwaitedJob("9", INTERVAL, lines := Lines())
        accounts = Accounts._by_loop[asyncio.get_running_loop()]
        with accounts.job_poller("scnet_default", scheduler_id, find_jobs).waiting(job):
            await until(4.5 * INTERVAL)
            gates[1].cancel()
            await until(6 * INTERVAL)
        # Those of the gates at 60, 120, 180 and 240 s.
        assert cluster.lists == [False, True, True, True, True]
        assert lines == ["job 9 is running"]

    look = {"counts": in_state(queued=4), "counted_after": 10_000.0, "listed": listing("9", queued=5)}
    played(scenario, look)
    assert asked == asked_at


class Lister:
    """Who lists jobs: what it shows, how long that takes, and with which error it fails."""

    def __init__(self, *job_ids: str) -> None:
        self.job_ids, self.takes, self.error = job_ids, 0.0, None
        self.asked_at: list[float] = []

    async def __call__(self) -> JobList:
        self.asked_at.append(clock.now() - START)
        jobs, error = listing(*self.job_ids), self.error
        await asyncio.sleep(self.takes)
        if error:
            raise error
        return jobs


def test_of_two_lists_the_one_that_was_begun_later_counts():
    async def scenario() -> None:
        lister, lines = Lister(), Lines()
        lister.takes = 10.0
        poller = JobPoller(lister)
        with poller.waiting(job := AwaitedJob("7", INTERVAL, lines)):
            await until(5)
            poller.share(listing("7"), START + 5)
            lister.job_ids = ("7",)
            # The own list of 0 s, without the job.
            await until(15)
            assert not job.ended.done()
            await until(110)
            poller.share(listing(), START + 90)
            assert not job.ended.done()
            # A failure is none where a younger list was shown meanwhile.
            lister.error = ScnetError("no list")
            await until(185)
            poller.share(listing("7"), clock.now())
            await until(200)
            assert lines == ["job 7 is running"]
            lister.error = None
            await until(400)
            poller.share(listing(), clock.now())
            assert job.ended.done()
        # An interval after its own, one and a half after the gates' where that is the later.
        assert lister.asked_at == [0, 95, 180, 275, 335, 395]

    virtual_time.run(scenario())


def test_who_came_while_the_gates_list_was_made_sees_nothing_of_it():
    async def scenario() -> None:
        await until(1)
        poller = JobPoller(Lister("7"))
        with poller.waiting(job := AwaitedJob("7", INTERVAL, Lines())):
            poller.share(listing(), START)
            assert not job.ended.done()

    virtual_time.run(scenario())


def test_after_a_list_of_the_gates_who_is_in_a_hurry_waits_a_little_longer_and_a_pause_stands():
    async def scenario() -> None:
        lister = Lister("7", "8")
        poller = JobPoller(lister)
        with poller.waiting(AwaitedJob("7", 600, Lines())):
            await until(10)
            poller.share(listing("7", "8"), clock.now())
            await until(20)
            lister.error = ScnetError("slow down", retry_after=400.0)
            with poller.waiting(AwaitedJob("8", 20, Lines())):
                await until(50)
                poller.share(listing("7", "8"), clock.now())
                await until(500)
        assert lister.asked_at[:3] == [0, 40, 440]

    virtual_time.run(scenario())


@pytest.mark.parametrize(
    "error",
    [SLOW_DOWN, ScnetError("gone", kind=ErrorKind.PERMANENT), ScnetError("slow", retry_after=500.0)],
    ids=lambda error: error.message,
)
def test_while_jobs_cannot_be_listed_polls_go_on_without_and_no_gate_fails(error: ScnetError):
    async def scenario(airflow: Airflow, cluster: Cluster) -> None:
        gates = [wait(known(airflow, index, tell_job_id=["submit"])) for index in (0, 1)]
        await until(INTERVAL / 2)
        airflow.set(0, "success", "deferred")
        airflow.left["run", "submit", 0] = "7"
        listed_again = INTERVAL + max(poller.UNLISTED_FOR, error.retry_after or 0.0)
        await until(listed_again - INTERVAL / 2)
        assert [gate.done() for gate in gates] == [True, False]
        assert cluster.lists == [False, True] + [False] * (len(cluster.lists) - 2)
        assert all(pause <= 1.3 * INTERVAL for pause in pauses(cluster))
        await until(listed_again + 1.5 * INTERVAL)
        assert [gate.done() for gate in gates] == [True, True]
        assert cluster.lists.count(True) == 2

    look = {"counts": in_state(queued=4), "counted_after": 10_000.0}
    fails = {**look, "listed": error}

    played(scenario, look, fails, {**look, "listed": listing("7")})


def test_who_may_not_open_now_on_what_a_list_shows_has_another_at_the_next_poll():
    async def scenario(airflow: Airflow, cluster: Cluster) -> None:
        gates = [wait(known(airflow, index, tell_job_id=["submit"])) for index in (0, 1)]
        await until(INTERVAL / 2)
        airflow.set(0, "success", "deferred")
        airflow.left["run", "submit", 0] = "7"
        with mock.patch.object(Ledger, "decide", side_effect=NotDecidedError("another triggerer decides")):
            await until(1.5 * INTERVAL)
        assert [gate.done() for gate in gates] == [True, False]
        await until(3 * INTERVAL)
        assert [gate.done() for gate in gates] == [True, True]
        assert cluster.lists[:3] == [False, True, True]

    look = {"counts": in_state(queued=4), "counted_after": 1000.0}
    played(scenario, look, {**look, "listed": listing("7")})


# Several clusters


def test_a_gate_is_never_opened_on_two_clusters_at_once_while_a_turn_is_under_way():
    async def scenario(airflow: Airflow, cluster: Cluster) -> None:
        clusters = {name: Cluster(0) for name in ("west", "east")}
        for name, each in clusters.items():

            async def settings(user_name: str | None = None, name: str = name) -> Any:
                return types.SimpleNamespace(account=(f"https://{name}", "alice"))

            each.aread_settings = settings
        Accounts._by_loop[asyncio.get_running_loop()] = Accounts(clusters.get, airflow)
        both = ["west", "east"]
        gates = [
            wait(known(airflow, index, scnet_conn_id=both[:: 1 - 2 * (index % 2)], submits=2))
            for index in range(4)
        ]
        # A poll of each at about the same moment; a turn takes a second.
        await asyncio.sleep(0.5)
        assert not any(gate.done() for gate in gates)
        await asyncio.sleep(0.5 * INTERVAL)
        opened_on = [decision_of(gate.result())["scnet_conn_id"] for gate in gates]
        assert opened_on == ["west", "east"] * 2
        assert [claimed((f"https://{name}", "alice")) for name in both] == [4, 4]
        assert airflow.written() == ["opening"] * 4

    played(scenario)

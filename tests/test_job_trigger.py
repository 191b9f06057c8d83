# SPDX-License-Identifier: Apache-2.0
"""The wait for jobs in the triggerer: one list an interval for all, and what ends it."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from airflow.triggers.base import BaseTrigger

from airflow_provider_scnet.client.errors import ScnetConnectionError, ScnetError
from airflow_provider_scnet.client.job_lists import JobList
from airflow_provider_scnet.client.job_state import JobState
from airflow_provider_scnet.client.reported_job import ReportedJob
from airflow_provider_scnet.event_loop import clock
from airflow_provider_scnet.hooks import scnet as hooks
from airflow_provider_scnet.polling.job_poller import AwaitedJob
from airflow_provider_scnet.testing import JOB_LIST_PATH, Fault, JobPlan, JobQuirks, ScnetSimulator
from airflow_provider_scnet.triggers import job as module
from airflow_provider_scnet.triggers import shared_accounts
from airflow_provider_scnet.triggers.job import ScnetJobTrigger
from airflow_provider_scnet.triggers.scnet import SETTLE
from benchmarks import virtual_time

START = 1000.0
INTERVAL = 60.0


class Lines(list):
    """A log."""

    def info(self, message: str, *given: Any) -> None:
        self.append(message % given)

    warning = error = info


class Cluster:
    """What the list of jobs shows, moment by moment; as a hook."""

    def __init__(self) -> None:
        self.states: dict[str, JobState] = {}
        self.asked_at: list[float] = []
        self.fails_with: Exception | None = None
        self.problem = ""
        self.cancelled: list[str] = []
        self.cancellations: list[list[str]] = []
        self.resists: list[str] = []
        self.takes = 0.0

    async def afind_jobs(self, *, scheduler_id: str | None) -> JobList:
        self.asked_at.append(clock.now())
        shown = dict(self.states)
        await asyncio.sleep(self.takes)
        if self.fails_with:
            raise self.fails_with
        jobs = tuple(ReportedJob(job_id, "x", state, "list") for job_id, state in shown.items())
        return JobList(jobs, is_complete=not self.problem, problem=self.problem)

    async def acancel_jobs(self, job_ids: list[str], *, scheduler_id: str | None) -> tuple[list[str], list[str]]:
        live = [job_id for job_id in job_ids if job_id in self.states and self.states[job_id].is_unfinished]
        self.cancelled += live
        self.cancellations.append(list(job_ids))
        return live, self.resists


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    found = Cluster()
    monkeypatch.setattr(hooks, "ScnetHook", lambda conn_id: found)
    return found


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Lines:
    found = Lines()
    monkeypatch.setattr(ScnetJobTrigger, "log", found)
    return found


def trigger(in_triggerer: bool = True, **given: Any) -> ScnetJobTrigger:
    made = ScnetJobTrigger(
        **{"scnet_conn_id": "scnet_default", "job_id": "7", "poll_interval": INTERVAL, "settle": 120.0, **given}
    )
    made.trigger_id = 1 if in_triggerer else None  # type: ignore[assignment]
    return made


async def ended_at(waiting: ScnetJobTrigger) -> float:
    events = waiting.run()
    event = await anext(events)
    await events.aclose()
    assert json.loads(json.dumps(event.payload)) == {
        "began_at": waiting.began_at,
        "try_number": waiting.try_number,
    }
    return clock.now() - START


async def later(seconds: float, what: Callable[[], object]) -> None:
    await asyncio.sleep(seconds)
    what()


def waited(waiting: ScnetJobTrigger, *changes: tuple[float, Callable[[], object]]) -> float:
    """Return the seconds for which a trigger waits while this and that happens."""

    async def whole() -> float:
        happening = [asyncio.ensure_future(later(*change)) for change in changes]
        found = await ended_at(waiting)
        for each in happening:
            each.cancel()
        return found

    return virtual_time.run(whole())


# What ends a wait


def test_in_dag_test_it_waits_for_the_list_that_is_under_way(cluster: Cluster):
    cluster.states["7"], cluster.takes = JobState.QUEUED, 20.0
    assert waited(trigger(start_by=START + 65)) == 65
    assert waited(trigger(start_by=START + 65, in_triggerer=False)) == 80


def test_it_waits_until_the_list_shows_that_the_job_has_ended(cluster: Cluster, lines: Lines):
    cluster.states["7"] = JobState.QUEUED
    changes = [(90.0, JobState.RUNNING), (400.0, JobState.ENDED)]
    at = waited(trigger(), *[(when, lambda s=s: cluster.states.update({"7": s})) for when, s in changes])
    assert at == 420
    assert [when - START for when in cluster.asked_at] == [60.0 * n for n in range(8)]
    assert lines == ["job 7 is queued", "job 7 is running", "job 7 is ended"]


@pytest.mark.parametrize("state", [JobState.ENDED, JobState.COMPLETED, JobState.FAILED, JobState.NODE_FAILED])
def test_no_task_is_handed_back_within_the_first_seconds(cluster: Cluster, state):
    cluster.states["7"] = state
    assert waited(trigger()) == SETTLE
    assert waited(trigger(in_triggerer=False)) == 0


def test_a_job_that_leaves_the_list_has_ended(cluster: Cluster):
    cluster.states["7"] = JobState.RUNNING
    assert waited(trigger(), (100.0, cluster.states.clear)) == 120


def test_a_new_job_may_be_missing_in_the_list_for_a_while(cluster: Cluster):
    assert waited(trigger()) == 120
    change = (100.0, lambda: cluster.states.update({"7": JobState.QUEUED}))
    assert waited(trigger(), change, (400.0, cluster.states.clear)) == 420


@pytest.mark.parametrize("what", ["cut", "away", "broken"])
def test_a_list_that_is_cut_or_cannot_be_read_ends_no_wait(cluster: Cluster, lines: Lines, what):
    cluster.states["7"] = JobState.RUNNING

    def go_wrong() -> None:
        cluster.states.clear()
        cluster.problem = "SCnet shows 3 of 9" if what == "cut" else ""
        cluster.fails_with = {"away": ScnetConnectionError("no answer"), "broken": ZeroDivisionError()}.get(what)

    def mend() -> None:
        cluster.problem, cluster.fails_with = "", None

    assert waited(trigger(), (100.0, go_wrong), (1000.0, mend)) == 1020
    said = {"cut": "SCnet shows 3 of 9", "away": "waiting: no answer", "broken": "unexpected ZeroDivisionError"}
    assert sum(said[what] in line for line in lines) == 1


def test_a_name_that_may_mean_anything_ends_no_wait(cluster: Cluster):
    cluster.states["7"] = JobState.UNKNOWN
    assert waited(trigger(), (1000.0, cluster.states.clear)) == 1020


def test_it_waits_until_a_moment_whatever_becomes_of_the_job(cluster: Cluster):
    assert waited(trigger(job_id=None, until=START + 333)) == 333
    assert waited(trigger(until=START + 333)) == 333
    assert waited(trigger(until=START - 5)) == SETTLE
    assert cluster.asked_at == []


def test_a_job_that_has_not_started_by_then_ends_the_wait(cluster: Cluster):
    cluster.states["7"] = JobState.HELD
    assert waited(trigger(start_by=START + 333)) == 333


@pytest.mark.parametrize("then", [JobState.RUNNING, JobState.QUEUED])
def test_a_job_that_has_started_by_then_is_awaited_to_its_end(cluster: Cluster, then):
    cluster.states["7"] = JobState.RUNNING
    requeue = (200.0, lambda: cluster.states.update({"7": then}))
    assert waited(trigger(start_by=START + 333), requeue, (900.0, cluster.states.clear)) == 900


def test_a_job_that_ends_before_it_had_to_start_ends_the_wait(cluster: Cluster):
    cluster.states["7"] = JobState.QUEUED
    assert waited(trigger(start_by=START + 333), (100.0, cluster.states.clear)) == 120


def test_another_triggerer_can_go_on_with_the_wait():
    made = trigger(start_by=3.5, began_at=1.25, try_number=2, scheduler_id="1", cancel_on_kill=True)
    path, kwargs = made.serialize()
    assert path == f"{ScnetJobTrigger.__module__}.{ScnetJobTrigger.__qualname__}"
    again = ScnetJobTrigger(**json.loads(json.dumps(kwargs)))
    assert again.serialize() == (path, kwargs)
    assert kwargs.keys() == {name for name in vars(made) if name in ScnetJobTrigger.__init__.__annotations__}


# One list for all


def test_a_thousand_jobs_share_one_list_an_interval(cluster: Cluster):
    ids = [str(n) for n in range(1000)]
    cluster.states.update(dict.fromkeys(ids, JobState.RUNNING))

    async def whole() -> Counter[float]:
        ends = [asyncio.ensure_future(ended_at(trigger(job_id=job_id))) for job_id in ids]
        for minute in range(10):
            await asyncio.sleep(60)
            for job_id in ids[minute * 100 : minute * 100 + 100]:
                cluster.states[job_id] = JobState.ENDED
        return Counter(await asyncio.gather(*ends))

    ends = virtual_time.run(whole())
    assert sum(ends.values()) == 1000
    # The last look may see what the first hundred do just then, or a minute later.
    assert len(cluster.asked_at) in (11, 12)
    assert {b - a for a, b in zip(cluster.asked_at, cluster.asked_at[1:], strict=False)} == {60.0}


def test_jobs_of_other_connections_and_schedulers_have_lists_of_their_own(cluster: Cluster):
    async def whole() -> int:
        accounts = shared_accounts.accounts()
        made = [
            accounts.job_poller(conn_id, scheduler, mock.AsyncMock())
            for conn_id in ("east", "west")
            for scheduler in ("1", "2", None)
        ]
        assert accounts.job_poller("east", "1", mock.AsyncMock()) is made[0]
        return len(set(made))

    assert virtual_time.run(whole()) == 6


def test_the_shortest_interval_of_those_who_wait_counts(cluster: Cluster):
    cluster.states.update({"7": JobState.RUNNING, "8": JobState.RUNNING})

    async def whole() -> list[float]:
        patient = asyncio.ensure_future(ended_at(trigger(poll_interval=300)))
        await asyncio.sleep(100)
        hurried = asyncio.ensure_future(ended_at(trigger(job_id="8", poll_interval=20)))
        await asyncio.sleep(50)
        cluster.states["8"] = JobState.ENDED
        await hurried
        cluster.states["7"] = JobState.ENDED
        await patient
        return [at - START for at in cluster.asked_at]

    assert virtual_time.run(whole()) == [0, 100, 120, 140, 160, 460]


def test_who_comes_while_a_list_is_read_is_not_judged_by_it(cluster: Cluster):
    cluster.states["1"] = JobState.RUNNING
    cluster.takes = 10.0

    async def whole() -> float:
        first = asyncio.ensure_future(ended_at(trigger(job_id="1")))
        await asyncio.sleep(5)
        cluster.states["7"] = JobState.QUEUED
        second = asyncio.ensure_future(ended_at(trigger(settle=0.0)))
        await asyncio.sleep(50)
        assert not second.done()
        del cluster.states["7"]
        at = await second
        first.cancel()
        return at

    assert virtual_time.run(whole()) == 70


def test_a_service_that_asks_to_be_left_alone_is(cluster: Cluster):
    cluster.states["7"] = JobState.RUNNING
    cluster.fails_with = ScnetError("busy", retry_after=400)
    mend = (10.0, lambda: setattr(cluster, "fails_with", None))
    waited(trigger(), mend, (420.0, cluster.states.clear))
    assert [at - START for at in cluster.asked_at] == [0, 400, 460]


def test_when_nobody_waits_nobody_asks(cluster: Cluster):
    cluster.states["7"] = JobState.RUNNING

    async def whole() -> None:
        waiting = asyncio.ensure_future(ended_at(trigger()))
        await asyncio.sleep(90)
        waiting.cancel()
        await asyncio.sleep(3600)
        assert len(cluster.asked_at) == 2
        waiting = asyncio.ensure_future(ended_at(trigger()))
        await asyncio.sleep(1)
        assert len(cluster.asked_at) == 3
        waiting.cancel()

    virtual_time.run(whole())


def test_a_poll_that_was_cancelled_from_outside_is_begun_again(cluster: Cluster):
    cluster.states["7"] = JobState.RUNNING

    async def whole() -> float:
        waiting = asyncio.ensure_future(ended_at(trigger()))
        await asyncio.sleep(90)
        for task in asyncio.all_tasks() - {asyncio.current_task(), waiting}:
            task.cancel()
        cluster.states.clear()
        return await waiting

    assert virtual_time.run(whole()) == 120


def test_an_awaited_job_says_a_thing_once():
    async def whole() -> Lines:
        lines = Lines()
        job = AwaitedJob("7", 60, lines)
        for _ in range(3):
            job.see(ReportedJob("7", "x", JobState.QUEUED, "list", reason="Priority"))
        job.miss("no answer")
        job.miss("no answer")
        assert not job.has_started
        return lines

    assert asyncio.run(whole()) == ["job 7 is queued (Priority)", "waiting: no answer"]


# Ended from outside


@pytest.fixture
def on_kill() -> None:
    if not hasattr(BaseTrigger, "on_kill"):
        pytest.skip("Airflow calls it from 3.3 on")


def killed(
    made: ScnetJobTrigger, monkeypatch: pytest.MonkeyPatch, states: Any, map_index: int | None = -1
) -> None:
    asked = []

    class TaskStates:
        async def states(self, *given: Any) -> Any:
            asked.append(given)
            if isinstance(states, Exception):
                raise states
            return states

    monkeypatch.setattr(module, "AirflowTaskStates", TaskStates)
    ti = SimpleNamespace(dag_id="d", run_id="r", task_id="g.run", map_index=map_index)
    monkeypatch.setattr(ScnetJobTrigger, "task_instance", ti)
    virtual_time.run(made.on_kill())
    assert asked in ([("d", ["r"], ["g.run"])], [])


@pytest.mark.usefixtures("on_kill")
def test_a_job_is_cancelled_also_where_airflow_ends_that_again_and_again(cluster: Cluster, lines, monkeypatch):
    cluster.states["7"] = JobState.RUNNING

    class TaskStates:
        async def states(self, *_: Any) -> Any:
            await asyncio.sleep(9)
            return of_task("failed")

    monkeypatch.setattr(module, "AirflowTaskStates", TaskStates)
    ti = SimpleNamespace(dag_id="d", run_id="r", task_id="g.run", map_index=-1)
    monkeypatch.setattr(ScnetJobTrigger, "task_instance", ti)

    async def whole() -> None:
        killing = asyncio.ensure_future(trigger(cancel_on_kill=True).on_kill())
        await asyncio.sleep(1)
        killing.cancel()
        await asyncio.sleep(9)
        assert killing.cancelled()

    virtual_time.run(whole())
    assert cluster.cancelled == ["7"]


def of_task(state: str | None, map_index: int = -1) -> dict[str, Any]:
    return {"r": {"g.run": {-1: "deferred", 3: "deferred", map_index: state}}}


@pytest.mark.parametrize("state", ["failed", "success", "skipped", "removed", None])
@pytest.mark.usefixtures("on_kill")
def test_a_job_whose_task_somebody_ended_is_cancelled(cluster: Cluster, lines, monkeypatch, state):
    cluster.states["7"] = JobState.RUNNING
    killed(trigger(cancel_on_kill=True), monkeypatch, of_task(state))
    assert cluster.cancelled == ["7"]
    assert lines == ["job 7 is cancelled: somebody ended the task"]


@pytest.mark.usefixtures("on_kill")
def test_jobs_whose_tasks_are_ended_together_are_cancelled_with_one_request(cluster: Cluster, lines, monkeypatch):
    questions = []

    class TaskStates:
        async def states(self, *given: Any) -> Any:
            questions.append(given)
            return {"r": {"g.run": {index: "failed" if index else "deferred" for index in range(500)}}}

    monkeypatch.setattr(module, "AirflowTaskStates", TaskStates)
    cluster.states = {str(index): JobState.QUEUED for index in range(500)}
    cluster.resists = ["3"]

    async def kill(index: int) -> None:
        made = trigger(cancel_on_kill=True, job_id=str(index))
        ti = SimpleNamespace(dag_id="d", run_id="r", task_id="g.run", map_index=index)
        monkeypatch.setattr(made, "task_instance", ti, raising=False)
        await made.on_kill()

    async def whole() -> None:
        await asyncio.gather(*map(kill, range(500)))
        await kill(1)

    monkeypatch.setattr(ScnetJobTrigger, "task_instance", None)
    virtual_time.run(whole())
    # The first is still waited for; whoever comes later is asked about anew.
    assert cluster.cancellations == [[str(index) for index in range(1, 500)], ["1"]]
    assert questions == [("d", ["r"], ["g.run"])] * 2
    assert lines.count("job 3 is cancelled: somebody ended the task") == 1
    assert lines.count("job 3 has not ended after it was cancelled") == 1


@pytest.mark.usefixtures("on_kill")
def test_where_scnet_does_not_answer_only_those_hear_of_it_whose_tasks_are_over(
    cluster: Cluster, lines, monkeypatch
):
    async def refuse(*_: Any, **__: Any) -> None:
        raise ScnetConnectionError("no answer")

    class TaskStates:
        async def states(self, *_: Any) -> Any:
            return {"r": {"g.run": {0: "running", 1: "failed"}}}

    async def kill(index: int) -> None:
        made = trigger(cancel_on_kill=True, job_id=str(index))
        ti = SimpleNamespace(dag_id="d", run_id="r", task_id="g.run", map_index=index)
        monkeypatch.setattr(made, "task_instance", ti, raising=False)
        await made.on_kill()

    async def whole() -> None:
        await asyncio.gather(kill(0), kill(1))

    monkeypatch.setattr(cluster, "acancel_jobs", refuse)
    monkeypatch.setattr(module, "AirflowTaskStates", TaskStates)
    monkeypatch.setattr(ScnetJobTrigger, "task_instance", None)
    virtual_time.run(whole())
    assert lines == ["job 1 may go on, as it was not cancelled: no answer"]


@pytest.mark.usefixtures("on_kill")
def test_a_job_whose_run_was_deleted_is_cancelled(cluster: Cluster, lines, monkeypatch):
    cluster.states["7"] = JobState.RUNNING
    killed(trigger(cancel_on_kill=True), monkeypatch, {})
    assert cluster.cancelled == ["7"]


@pytest.mark.usefixtures("on_kill")
def test_only_the_task_of_its_own_map_index_counts(cluster: Cluster, lines, monkeypatch):
    cluster.states["7"] = JobState.RUNNING
    killed(trigger(cancel_on_kill=True), monkeypatch, of_task("failed", 3), map_index=-1)
    assert cluster.cancelled == []
    killed(trigger(cancel_on_kill=True), monkeypatch, of_task("failed", 3), map_index=3)
    assert cluster.cancelled == ["7"]


@pytest.mark.parametrize("state", ["deferred", "scheduled", "queued", "running", "up_for_retry", "restarting"])
@pytest.mark.usefixtures("on_kill")
def test_a_job_with_which_somebody_goes_on_is_left_alone(cluster: Cluster, lines, monkeypatch, state):
    cluster.states["7"] = JobState.RUNNING
    killed(trigger(cancel_on_kill=True), monkeypatch, of_task(state))
    assert cluster.cancelled == []


@pytest.mark.usefixtures("on_kill")
def test_a_job_that_has_ended_is_not_cancelled(cluster: Cluster, lines, monkeypatch):
    killed(trigger(cancel_on_kill=True), monkeypatch, of_task("success"))
    cluster.states["7"] = JobState.COMPLETED
    killed(trigger(cancel_on_kill=True), monkeypatch, of_task("success"))
    assert cluster.cancelled == []


@pytest.mark.parametrize("given", [{"cancel_on_kill": False}, {"cancel_on_kill": True, "job_id": None}])
@pytest.mark.usefixtures("on_kill")
def test_nothing_is_cancelled_where_nobody_wants_it_or_there_is_no_job(
    cluster: Cluster, lines, monkeypatch, given
):
    killed(trigger(**given), monkeypatch, of_task("failed"))
    assert (cluster.cancelled, lines) == ([], [])


@pytest.mark.usefixtures("on_kill")
def test_where_airflow_does_not_answer_nothing_is_cancelled_and_the_log_says_so(
    cluster: Cluster, lines, monkeypatch
):
    cluster.states["7"] = JobState.RUNNING
    killed(trigger(cancel_on_kill=True), monkeypatch, RuntimeError("API_SERVER_ERROR"))
    assert cluster.cancelled == []
    assert lines == ["job 7 may go on, as it was not cancelled: API_SERVER_ERROR"]


# Over real HTTP


def test_a_wait_over_real_http(scnet: ScnetSimulator):
    scnet.quirks = JobQuirks(listed_after=0.3, listed_for=0.0)
    scnet.order(Fault(status=503), path=JOB_LIST_PATH, times=1)
    (job_id,) = scnet.submit("alice", plan=JobPlan(run_for=1.0))
    waiting = trigger(in_triggerer=False, job_id=str(job_id), poll_interval=0.1, settle=2.0)

    async def whole() -> None:
        await anext(waiting.run())

    asyncio.run(whole())
    assert scnet.jobs("alice")[0].state == "ended"
    assert {request.status for request in scnet.requests if request.path == JOB_LIST_PATH} == {200, 503}

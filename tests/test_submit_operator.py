# SPDX-License-Identifier: Apache-2.0
"""The operator that submits, against the simulator over real HTTP on loopback."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import math
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowFailException,
    AirflowTaskTimeout,
    TaskDeferred,
)

from airflow_provider_scnet.client.poll import JOB_STATE_PATH
from airflow_provider_scnet.gate.condition import ConditionError
from airflow_provider_scnet.hooks.scnet import ScnetHook
from airflow_provider_scnet.operators import intents, submit_once
from airflow_provider_scnet.operators.scnet import ScnetSubmitJobOperator
from airflow_provider_scnet.sensors.start_and_end import EXECUTION_TIMEOUT_ENDS_DEFERRALS
from airflow_provider_scnet.testing import (
    HISTORY_PATH,
    JOB_LIST_PATH,
    SUBMISSION_PATH,
    Fault,
    JobPlan,
    JobQuirks,
    ScnetSimulator,
)
from airflow_provider_scnet.triggers.job import ScnetJobTrigger
from airflow_provider_scnet.triggers.scnet import ScnetJobCountTrigger

ASKED: dict[str, Any] = {
    "task_id": "run",
    "command": "hostname",
    "work_dir": "/public/home/alice",
    "queue_name": "comp",
    "wall_time": "01:00:00",
}
FOR_EVER = math.inf


@dataclasses.dataclass
class TaskInstance:
    """What the operator asks of Airflow's."""

    dag_id: str = "d"
    run_id: str = "r"
    task_id: str = "run"
    map_index: int = -1
    try_number: int = 1
    max_tries: int = 0
    state: str = "running"
    pushed: dict[str, Any] = dataclasses.field(default_factory=dict)

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed[key] = value

    # Airflow 3, and Airflow 2.

    def get_task_states(self, **asked: Any) -> dict[str, dict[str, str]]:
        return {self.run_id: {self.task_id: self.state}}

    def refresh_from_db(self) -> None: ...


class Store(dict):
    """Airflow 3.3's task state store."""

    set, delete = dict.__setitem__, lambda self, key: self.pop(key, None)


@pytest.fixture
def scnet(monkeypatch: pytest.MonkeyPatch):
    with ScnetSimulator(slots=2, run_for=0.3) as simulator:
        simulator.add_user("alice")
        monkeypatch.setenv("AIRFLOW_CONN_SCNET_DEFAULT", simulator.connection_json("alice", namespace="test"))
        yield simulator


@pytest.fixture(autouse=True)
def variables(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Airflow's Variables, which need a database."""
    kept: dict[str, str] = {}
    monkeypatch.setattr(intents, "read_variable", kept.get)
    monkeypatch.setattr(intents, "write_variable", lambda key, value, about: kept.update({key: value}))
    monkeypatch.setattr(intents, "delete_variable", lambda key: kept.pop(key, None))
    monkeypatch.setattr(intents, "READ_BACK_AFTER", 0.0)
    return kept


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    log = logging.getLogger("submission")
    for each in (ScnetSubmitJobOperator, ScnetJobTrigger, ScnetJobCountTrigger):
        monkeypatch.setattr(each, "log", log)
    caplog.set_level("INFO")
    return caplog


class Task:
    """A task that submits, with the tries that Airflow gives it."""

    def __init__(self, store: Store | None = None, **asked: Any) -> None:
        self.asked = {"poll_interval": 0.1, "settle": 0.5, "deferrable": False, **ASKED, **asked}
        self.store = store
        self.ti = TaskInstance(max_tries=self.asked.get("retries", 0))
        self.deferrals: list[TaskDeferred] = []

    def operator(self) -> ScnetSubmitJobOperator:
        return ScnetSubmitJobOperator(**self.asked)

    @property
    def context(self) -> Any:
        context = {"ti": self.ti, "dag_run": SimpleNamespace(run_after=datetime.now(timezone.utc))}
        return context if self.store is None else {**context, "task_state_store": self.store}

    def run(self) -> Any:
        """Run a try, with the triggerer between its parts."""
        resume: Callable[[Any], Any] = self.operator().execute
        while True:
            try:
                return resume(self.context)
            except TaskDeferred as deferral:
                self.deferrals.append(deferral)
                event = asyncio.run(first_event(deferral.trigger))
                # Each part is another process.
                operator, kwargs = self.operator(), {**(deferral.kwargs or {}), "event": event}
                resume = lambda context, op=operator, kw=kwargs: op.resume_execution(  # noqa: E731
                    "execute_complete", kw, context
                )

    def next_try(self) -> Any:
        self.ti.try_number += 1
        return self.run()

    def clear(self) -> None:
        """Do what Airflow does with a task that has ended."""
        self.ti.max_tries = self.ti.try_number + self.asked.get("retries", 0)


async def first_event(trigger: Any) -> dict[str, Any]:
    async for event in trigger.run():
        # As it comes back from Airflow's database.
        return json.loads(json.dumps(event.payload))
    raise AssertionError("no event")


def submissions(scnet: ScnetSimulator) -> int:
    return sum(request.path == SUBMISSION_PATH for request in scnet.requests)


in_both_ways = pytest.mark.parametrize("deferrable", [True, False])
with_both_stores = pytest.mark.parametrize("store", [Store, lambda: None], ids=["store", "variables"])


# From the submission to the end


@in_both_ways
def test_a_job_is_submitted_and_awaited_and_told_of(scnet: ScnetSimulator, deferrable):
    task = Task(deferrable=deferrable)
    left = task.run()
    (job,) = scnet.jobs("alice")
    assert job.state == "ended"
    assert left == task.ti.pushed["job"]
    assert task.ti.pushed["job_id"] == "1"
    assert {name: left[name] for name in ("job_id", "job_name", "scnet_conn_id", "state", "exit_code")} == {
        "job_id": "1",
        "job_name": job.name,
        "scnet_conn_id": "scnet_default",
        "state": "completed",
        "exit_code": "0:0",
    }
    assert (left["stdout"], left["stderr"]) == ("/public/home/alice/std.out.1", "/public/home/alice/std.err.1")
    assert left["started_at"]
    assert json.loads(json.dumps(left)) == left
    assert bool(task.deferrals) is deferrable


@in_both_ways
def test_a_job_that_fails_fails_the_try_with_its_code_and_shows_what_it_wrote(
    scnet: ScnetSimulator, said, deferrable
):
    scnet.plan_jobs(
        JobPlan(outcome="FAILED", exit_code="37:0", output="one\ntwo\nthree\n", error_output="oh no\n")
    )
    task = Task(deferrable=deferrable, log_tail_lines=2)
    with pytest.raises(
        AirflowException, match=r"job 1 has ended: failed \(NonZeroExitCode\), exit code 37:0"
    ) as e:
        task.run()
    assert not isinstance(e.value, AirflowFailException)
    assert task.ti.pushed["job"]["state"] == "failed"
    assert task.ti.pushed["job"]["exit_code"] == "37:0"
    assert "the end of /public/home/alice/std.out.1:\ntwo\nthree" in said.text
    assert "oh no" in said.text
    assert "one" not in said.text


def test_output_that_cannot_be_read_changes_nothing(scnet: ScnetSimulator, said):
    scnet.plan_jobs(JobPlan(outcome="FAILED"))
    scnet.order(Fault.api("911030", "permission"), path="/hpc/openapi/v2/file/content", times=2)
    with pytest.raises(AirflowException, match="has ended: failed"):
        Task().run()
    assert "it cannot be read" in said.text


def test_without_a_tail_no_file_is_read(scnet: ScnetSimulator):
    scnet.plan_jobs(JobPlan(outcome="FAILED"))
    with pytest.raises(AirflowException, match="has ended: failed"):
        Task(log_tail_lines=0).run()
    assert not [request for request in scnet.requests if "file" in request.path]


@pytest.mark.parametrize(
    ("outcome", "state"),
    [("TIMEOUT", "timed_out"), ("OUT_OF_MEMORY", "out_of_memory"), ("NODE_FAIL", "node_failed")],
)
def test_each_way_to_fail_is_named(scnet: ScnetSimulator, outcome, state):
    scnet.plan_jobs(JobPlan(outcome=outcome))
    with pytest.raises(AirflowException, match=f"job 1 has ended: {state}"):
        Task().run()


def test_how_it_ended_is_known_from_the_history_where_the_detail_does_not_say(scnet: ScnetSimulator):
    scnet.quirks = JobQuirks(slurm_record=False, in_history_after=0.5)
    assert Task().run()["state"] == "completed"


def test_what_somebody_else_cancelled_is_not_submitted_again(scnet: ScnetSimulator):
    scnet.plan_jobs(JobPlan(outcome="CANCELLED"))
    with pytest.raises(AirflowFailException, match="somebody cancelled it"):
        Task(retries=3).run()


def test_a_job_that_is_queued_again_has_not_failed(scnet: ScnetSimulator):
    scnet.plan_jobs(JobPlan(requeues=2, requeued_after=0.2))
    assert Task().run()["state"] == "completed"
    assert len(scnet.jobs("alice")) == 1


@in_both_ways
def test_without_waiting_the_task_ends_when_the_job_is_accepted(scnet: ScnetSimulator, variables, deferrable):
    scnet.plan_jobs(JobPlan(run_for=FOR_EVER))
    task = Task(deferrable=deferrable, wait_for_completion=False)
    left = task.run()
    assert (left["job_id"], left["state"]) == ("1", "queued")
    assert task.ti.pushed == {"job_id": "1", "job": left}
    assert task.deferrals == []
    assert variables == {}
    # A try of which Airflow does not know that it was the last.
    assert task.next_try()["job_id"] == "1"


def test_nothing_is_pushed_where_nobody_wants_it(scnet: ScnetSimulator):
    task = Task(do_xcom_push=False)
    assert task.run()["state"] == "completed"
    assert task.ti.pushed == {}


@with_both_stores
def test_what_was_written_is_gone_with_the_task(scnet: ScnetSimulator, variables, store):
    scnet.plan_jobs(JobPlan(outcome="FAILED"), times=3)
    for retries in (0, 1):
        task = Task(store(), retries=retries, job_name=f"retries_{retries}")
        task.ti.run_id = f"run_{retries}"
        for number in range(retries + 1):
            with pytest.raises(AirflowException):
                task.next_try() if number else task.run()
    Task(store()).run()
    assert variables == {}


# Behind a gate of its own


@in_both_ways
def test_it_submits_once_the_condition_holds(
    scnet: ScnetSimulator, said, monkeypatch: pytest.MonkeyPatch, deferrable
):
    before = scnet.submit("alice", 3, run_for=FOR_EVER)

    def end_jobs_that_it_waits_for(record: logging.LogRecord) -> bool:
        while before and "waiting, needs" in record.getMessage():
            scnet.end_job(before.pop())
        return True

    monkeypatch.setattr(said.handler, "filters", [end_jobs_that_it_waits_for])
    task = Task(condition="running + queued < 2", deferrable=deferrable)
    assert task.run()["state"] == "completed"
    *earlier, own = scnet.jobs("alice")
    assert sum(job.ended_at is None or job.ended_at > own.submitted_at for job in earlier) < 2
    assert "waiting, needs running + queued < 2" in said.text
    # On the worker too: Airflow may not keep what the gate said in the triggerer.
    assert said.text.count("passes, running + queued < 2") == 1 + deferrable
    assert ("decision" in task.ti.pushed) is deferrable
    assert ("no room is claimed" in said.text) is not deferrable


@in_both_ways
def test_a_job_that_is_there_needs_no_room(scnet: ScnetSimulator, deferrable):
    task = Task(deferrable=deferrable, wait_for_completion=False, retries=1)
    assert task.run()["job_id"] == "1"
    task.asked["condition"] = "running < 0"
    assert task.next_try()["job_id"] == "1"


@in_both_ways
def test_a_refusal_by_the_limit_goes_back_behind_the_gate(scnet: ScnetSimulator, said, deferrable):
    scnet.order(Fault.refusal("user's limit"), path=SUBMISSION_PATH)
    task = Task(condition="queued < 5", deferrable=deferrable)
    assert task.run()["state"] == "completed"
    assert submissions(scnet) == 2
    # Another look at the counts stands before the second.
    asked = [request.path for request in scnet.requests]
    first = asked.index(SUBMISSION_PATH)
    assert scnet.job_state_requests[0].path in asked[first : asked.index(SUBMISSION_PATH, first + 1)]


@in_both_ways
def test_room_is_waited_for_no_longer_than_the_timeout(scnet: ScnetSimulator, deferrable):
    task = Task(condition="running < 0", deferrable=deferrable, timeout=600 if deferrable else 0.4)
    with pytest.raises((AirflowException, TaskDeferred)) as caught:
        task.operator().execute(task.context)
    if deferrable:
        assert timedelta(seconds=500) < caught.value.timeout <= timedelta(seconds=600)
        event = {"verdict": "timeout", "message": "last seen: running 0", "began_at": 1.0, "try_number": 1}
        with pytest.raises(AirflowException, match=r"within 600 s: there was no room; last seen: running 0"):
            task.operator().execute_complete(task.context, event)
        # Where no triggerer said so.
        with pytest.raises(AirflowException, match=r"no job was accepted within 600 s: there was no room"):
            task.operator().resume_execution("__fail__", {"error": "Trigger timeout"}, task.context)
    else:
        assert "no job was accepted within 0.4 s: running 0, queued 0: waiting" in str(caught.value)
    assert submissions(scnet) == 0


def test_a_deferral_that_timed_out_while_a_job_is_there_goes_on_with_the_job(scnet: ScnetSimulator):
    task = Task(wait_for_completion=False)
    task.run()
    task.asked |= {"condition": "running < 0", "deferrable": True, "wait_for_completion": True}
    scnet.plan_jobs(JobPlan(run_for=FOR_EVER))
    with pytest.raises(TaskDeferred) as caught:
        task.operator().resume_execution("__fail__", {"error": "Trigger timeout"}, task.context)
    assert isinstance(caught.value.trigger, ScnetJobTrigger)


@pytest.mark.parametrize(
    ("verdict", "kind"), [("retry", AirflowException), ("fail", AirflowFailException), (None, AirflowException)]
)
def test_a_gate_that_fails_fails_the_try_and_submits_nothing(scnet: ScnetSimulator, verdict, kind):
    task = Task(condition="queued < 5", deferrable=True)
    event = {"verdict": verdict, "message": "why", "began_at": 1.0, "try_number": 1}
    with pytest.raises(kind, match="why") as caught:
        task.operator().execute_complete(task.context, event)
    assert type(caught.value) is kind
    assert submissions(scnet) == 0


@pytest.mark.parametrize("fault", [Fault.api("10003", "not authorised"), Fault(status=404, body="")])
def test_on_a_worker_too(scnet: ScnetSimulator, fault):
    scnet.order(fault, path=JOB_STATE_PATH, times=None)
    with pytest.raises(AirflowException):
        Task(condition="queued < 5").run()
    assert submissions(scnet) == 0


def test_what_its_trigger_gets_names_the_task_as_its_own_submission(scnet: ScnetSimulator):
    task = Task(condition="queued < 5", deferrable=True, priority_weight=7)
    with pytest.raises(TaskDeferred) as caught:
        task.operator().execute(task.context)
    _, kwargs = caught.value.trigger.serialize()
    assert (kwargs["submitted_by"], kwargs["tell_job_id"]) == ({"run": True}, ["run"])
    assert (kwargs["submits"], kwargs["priority_weight"], kwargs["poke_interval"]) == (1, 7, 0.1)
    assert kwargs["echo"]["try_number"] == 1
    assert "hostname" not in json.dumps(kwargs)
    assert ScnetJobCountTrigger(**kwargs).serialize()[1] == kwargs


@pytest.mark.parametrize("condition", ["pending < 5", "", "queued"])
def test_what_is_no_condition_is_an_error_when_the_file_is_parsed(condition):
    with pytest.raises(ConditionError):
        ScnetSubmitJobOperator(**ASKED, condition=condition)


@pytest.mark.parametrize("rendered", [None, "", "pending < 5"])
def test_a_template_that_renders_to_none_does_not_switch_the_gate_off(scnet: ScnetSimulator, rendered):
    task = Task(condition="{{ params.condition }}")
    operator = task.operator()
    operator.condition = rendered
    with pytest.raises(AirflowFailException):
        operator.execute(task.context)
    assert submissions(scnet) == 0


# What is refused, and what nobody knows


@in_both_ways
def test_a_limit_of_submitted_jobs_is_waited_out(scnet: ScnetSimulator, said, deferrable):
    scnet.order(Fault.refusal("user's limit of the QOS"), path=SUBMISSION_PATH, times=3)
    assert Task(deferrable=deferrable).run()["state"] == "completed"
    assert submissions(scnet) == 4
    assert "QOSMaxSubmitJobPerUserLimit" in said.text
    assert len(scnet.jobs("alice")) == 1


@in_both_ways
def test_a_limit_is_waited_out_no_longer_than_the_timeout(scnet: ScnetSimulator, deferrable):
    scnet.order(Fault.refusal("user's limit"), path=SUBMISSION_PATH, times=None)
    task = Task(deferrable=deferrable, timeout=timedelta(seconds=0.5))
    with pytest.raises(AirflowException, match=r"no job was accepted within 0\.5 s: .*AssocMaxSubmitJobLimit"):
        task.run()
    assert submissions(scnet) > 1


@pytest.mark.parametrize("refusal", ["policy", "queue", "memory", "no card asked for"])
def test_any_other_refusal_fails_without_retry_and_says_what_slurm_said(scnet: ScnetSimulator, variables, refusal):
    scnet.order(Fault.refusal(refusal), path=SUBMISSION_PATH)
    with pytest.raises(AirflowFailException, match="Batch job submission failed"):
        Task().run()
    assert submissions(scnet) == 1
    assert variables == {}


AMBIGUOUS = {
    "internal error": Fault.api("10001", "internal error", unheard=True),
    "too many requests": Fault(status=429, body="slow down", unheard=True),
    "no id": Fault.api("0", "success", unheard=True),
    "no answer of Slurm": Fault.refusal("no answer"),
    "nothing": Fault.lost(taken=False),
}


@pytest.mark.parametrize("what", AMBIGUOUS)
def test_where_nobody_knows_it_asks_and_never_submits_again(scnet: ScnetSimulator, what):
    scnet.order(AMBIGUOUS[what], path=SUBMISSION_PATH)
    with pytest.raises(AirflowFailException, match=r"no job .* came of it; the answer to the submission was: "):
        Task(retries=3).run()
    assert submissions(scnet) == 1


@in_both_ways
def test_a_job_whose_answer_was_lost_is_found_by_its_name(scnet: ScnetSimulator, deferrable):
    scnet.order(Fault.lost(taken=True), path=SUBMISSION_PATH)
    scnet.quirks = JobQuirks(listed_after=0.3)
    task = Task(deferrable=deferrable)
    assert task.run()["job_id"] == "1"
    assert task.ti.pushed["job_id"] == "1"
    assert submissions(scnet) == 1


def test_while_a_list_is_cut_or_cannot_be_read_nothing_is_submitted(scnet: ScnetSimulator):
    cut = Fault.api("0", "success", {"total": 9, "list": []})
    scnet.order(cut, path=JOB_LIST_PATH, times=2)
    scnet.order(cut, path=HISTORY_PATH, times=3)
    scnet.order(Fault(status=502, body="bad gateway"), path=JOB_LIST_PATH, times=1)
    assert Task().run()["state"] == "completed"
    paths = [request.path for request in scnet.requests]
    done = paths[: paths.index(SUBMISSION_PATH)]
    assert done.count(JOB_LIST_PATH) >= 3
    assert submissions(scnet) == 1


NO_LIST = Fault.api("0", "success", None)


def test_no_list_is_no_proof_that_nothing_was_submitted_while_jobs_are_counted(scnet: ScnetSimulator):
    scnet.order(Fault.lost(taken=True), path=SUBMISSION_PATH)
    scnet.order(NO_LIST, path=JOB_LIST_PATH, times=None)
    scnet.plan_jobs(JobPlan(run_for=FOR_EVER))
    with pytest.raises(AirflowException, match=r"SCnet sends no list of jobs, and counts some: .*running=1"):
        Task(timeout=3).run()
    assert submissions(scnet) == 1


def test_no_list_where_no_job_is_counted_is_one_without_jobs(scnet: ScnetSimulator):
    scnet.quirks = JobQuirks(empty_is_null=True)
    scnet.order(Fault.lost(taken=False), path=SUBMISSION_PATH)
    with pytest.raises(AirflowFailException, match=r"no job .* came of it"):
        Task(retries=3).run()
    assert submissions(scnet) == 1


def test_what_cannot_be_written_down_is_not_submitted(scnet: ScnetSimulator, monkeypatch: pytest.MonkeyPatch):
    def fail(*_: object) -> None:
        raise RuntimeError("the API server is away")

    monkeypatch.setattr(intents, "write_variable", fail)
    with pytest.raises(AirflowException, match=r"no job was accepted within 0\.5 s: .* cannot be written"):
        Task(timeout=0.5).run()
    assert submissions(scnet) == 0


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault.html(404, "not here"), AirflowException),
        (Fault.api("10008", "auth_fail"), AirflowException),
        (Fault.api("10007", "frozen"), AirflowFailException),
    ],
)
def test_what_does_not_heal_fails_at_once(scnet: ScnetSimulator, fault, kind):
    scnet.order(fault, path=JOB_LIST_PATH, times=None)
    with pytest.raises(AirflowException) as e:
        Task(timeout=60).run()
    assert type(e.value) is kind
    assert submissions(scnet) == 0


def test_a_token_that_is_refused_while_the_job_runs_is_awaited(scnet: ScnetSimulator):
    scnet.plan_jobs(JobPlan(run_for=1.0))
    Task(wait_for_completion=False).run()
    scnet.order(Fault.api("10008", "auth_fail"), path=JOB_LIST_PATH, times=3)
    waiting = Task(Store(scnet_job=submit_once.Intent(scnet.jobs("alice")[0].name, 0.0, "1").written()))
    assert (
        waiting.operator().execute_complete(waiting.context, {"began_at": 1.0, "try_number": 1})["state"]
        == "completed"
    )
    assert submissions(scnet) == 1


# Tries


class Killed(BaseException):
    """The process is gone."""


@with_both_stores
def test_a_retry_after_a_proven_failure_submits_another_job(scnet: ScnetSimulator, store):
    scnet.plan_jobs(JobPlan(outcome="FAILED"))
    task = Task(store(), retries=1)
    with pytest.raises(AirflowException):
        task.run()
    assert task.next_try()["job_id"] == "2"
    first, second = (job.name for job in scnet.jobs("alice"))
    assert first.replace("_0_0_", "_0_1_") == second


@with_both_stores
def test_a_worker_that_dies_before_it_writes_the_id_leaves_a_job_that_the_next_try_takes(
    scnet: ScnetSimulator, monkeypatch: pytest.MonkeyPatch, said, store
):
    submit = ScnetHook.submit_job

    def submit_and_die(self: Any, *given: Any, **more: Any) -> None:
        submit(self, *given, **more)
        raise Killed

    scnet.plan_jobs(JobPlan(run_for=1.0))
    task = Task(store(), retries=1)
    with monkeypatch.context() as dying:
        dying.setattr(ScnetHook, "submit_job", submit_and_die)
        with pytest.raises(Killed):
            task.run()
    assert task.next_try()["job_id"] == "1"
    assert submissions(scnet) == 1
    assert "job 1 " in said.text
    assert "is there already: it is taken" in said.text


@with_both_stores
def test_a_worker_that_dies_before_it_submits_leaves_no_job_and_the_next_try_submits(
    scnet: ScnetSimulator, monkeypatch: pytest.MonkeyPatch, store
):
    def die(*_: object, **__: object) -> None:
        raise Killed

    task = Task(store(), retries=1)
    with monkeypatch.context() as dying:
        dying.setattr(ScnetHook, "submit_job", die)
        with pytest.raises(Killed):
            task.run()
    assert task.next_try()["job_id"] == "1"
    assert len(scnet.jobs("alice")) == 1


def test_a_task_that_is_cleared_after_its_end_submits_anew(scnet: ScnetSimulator):
    task = Task(Store())
    assert task.run()["job_id"] == "1"
    task.clear()
    assert task.next_try()["job_id"] == "2"
    assert "_1_0_" in scnet.jobs("alice")[1].name


@with_both_stores
def test_a_task_that_is_cleared_while_its_job_goes_on_cancels_it_first(scnet: ScnetSimulator, said, store):
    scnet.quirks = JobQuirks(cancelled_after=0.3)
    scnet.plan_jobs(JobPlan(run_for=FOR_EVER))
    task = Task(store(), deferrable=True)
    with pytest.raises(TaskDeferred):
        task.operator().execute(task.context)
    task.clear()
    assert task.next_try()["job_id"] == "2"
    first, second = scnet.jobs("alice")
    assert first.end is not None
    assert first.end.outcome == "CANCELLED"
    assert first.ended_at is not None
    assert first.ended_at <= second.submitted_at
    assert "somebody has cleared the task since" in said.text


def test_a_new_round_that_cannot_cancel_fails_without_retry_and_names_the_job(
    scnet: ScnetSimulator, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(submit_once, "CANCELLED_WITHIN", 0.5)
    scnet.quirks = JobQuirks(deletion="nowhere")
    scnet.plan_jobs(JobPlan(run_for=FOR_EVER))
    task = Task(Store(), deferrable=True)
    with pytest.raises(TaskDeferred):
        task.operator().execute(task.context)
    task.clear()
    with pytest.raises(AirflowFailException, match="job 1 was submitted before the task was cleared"):
        task.next_try()
    assert submissions(scnet) == 1


def test_two_airflows_with_the_same_dag_do_not_take_each_others_jobs(scnet: ScnetSimulator, connect):
    scnet.plan_jobs(JobPlan(run_for=FOR_EVER), times=None)
    for namespace in ("production", "test"):
        connect(namespace=namespace)
        Task(wait_for_completion=False).run()
    assert len({job.name for job in scnet.jobs("alice")}) == 2


def test_an_airflow_without_a_namespace_makes_one_and_keeps_it(scnet: ScnetSimulator, connect, variables):
    connect()
    for number in (1, 2):
        task = Task(wait_for_completion=False)
        assert task.run()["job_id"] == "1", number
    assert list(variables) == [intents.NAMESPACE_KEY]


@with_both_stores
def test_a_job_whose_name_was_changed_is_followed_by_its_id_and_not_submitted_again(
    scnet: ScnetSimulator, said, store
):
    scnet.quirks = JobQuirks(rename=lambda name: name[:12])
    scnet.plan_jobs(JobPlan(outcome="FAILED"))
    task = Task(store(), retries=1)
    with pytest.raises(AirflowException, match="job 1 has ended: failed"):
        task.run()
    assert "no later try would find a job by its name" in said.text
    with pytest.raises(AirflowFailException, match="nothing more is submitted"):
        task.next_try()
    assert submissions(scnet) == 1


def test_a_job_that_vanished_is_not_submitted_again(scnet: ScnetSimulator, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(submit_once, "HISTORY_LAG", 0.2)
    scnet.quirks = JobQuirks(listed_for=0.0, in_history_after=1e6)
    with pytest.raises(AirflowFailException, match=r"job 1 \(.*\) is in no list and in no history"):
        Task(retries=3).run()
    assert submissions(scnet) == 1


# Ended from outside


@in_both_ways
def test_a_job_that_does_not_start_in_time_is_cancelled_and_the_next_try_submits_another(
    scnet: ScnetSimulator, deferrable
):
    scnet.cluster.submit("alice", 2, run_for=FOR_EVER)
    task = Task(Store(), deferrable=deferrable, queue_timeout=0.5, retries=1)
    with pytest.raises(
        AirflowException, match=r"job 3 has ended: cancelled.*: it did not start within 0\.5 s"
    ) as e:
        task.run()
    assert not isinstance(e.value, AirflowFailException)
    scnet.end_job(1)
    assert task.next_try()["job_id"] == "4"


@in_both_ways
def test_a_job_that_has_started_may_run_for_longer_than_the_queue_timeout(scnet: ScnetSimulator, deferrable):
    scnet.plan_jobs(JobPlan(run_for=1.0))
    assert Task(deferrable=deferrable, queue_timeout=0.4).run()["state"] == "completed"


def test_a_job_that_cannot_be_cancelled_goes_on_and_is_named(
    scnet: ScnetSimulator, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(submit_once, "CANCELLED_WITHIN", 0.3)
    scnet.quirks = JobQuirks(deletion="nowhere")
    scnet.cluster.submit("alice", 2, run_for=FOR_EVER)
    with pytest.raises(AirflowFailException, match="job 3 cannot be cancelled, and goes on"):
        Task(Store(), queue_timeout=0.3).run()


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> Callable[[Task], None]:
    """Kill the worker in its first sleep, as Airflow does: it calls on_kill(), and Airflow 2 raises besides."""

    def run(task: Task, error: type[BaseException] | None = None) -> None:
        operator = task.operator()

        def sleep(seconds: float) -> None:
            operator.on_kill()
            if error:
                raise error

        with monkeypatch.context() as ending:
            ending.setattr("airflow_provider_scnet.operators.scnet.time.sleep", sleep)
            operator.execute(task.context)

    return run


@pytest.mark.parametrize("error", [None, Killed])
def test_a_worker_whose_task_somebody_ended_cancels_the_job(scnet: ScnetSimulator, killed, error):
    scnet.plan_jobs(JobPlan(run_for=FOR_EVER))
    task = Task(Store(), retries=1)
    task.ti.state = "failed"
    with pytest.raises(error or AirflowException):
        killed(task, error)
    (job,) = scnet.jobs("alice")
    assert job.end is not None
    # Cleared while it ran: the next try knows who cancelled it.
    assert task.next_try()["job_id"] == "2"


@pytest.mark.parametrize("error", [None, Killed])
@pytest.mark.parametrize("given", [{}, {"cancel_on_kill": False}])
def test_a_worker_that_is_only_shut_down_leaves_the_job_to_the_next_try(
    scnet: ScnetSimulator, killed, error, given
):
    scnet.plan_jobs(JobPlan(run_for=FOR_EVER))
    task = Task(Store(), retries=1, **given)
    task.ti.state = "failed" if given else "running"
    with pytest.raises(error or AirflowException):
        killed(task, error)
    scnet.end_job(1)
    assert task.next_try()["job_id"] == "1"


@pytest.mark.parametrize("state", ["running", "failed"])
def test_a_worker_that_is_told_to_end_before_it_hands_over_to_the_triggerer_does_so_if_the_task_goes_on(
    scnet: ScnetSimulator, state
):
    scnet.plan_jobs(JobPlan(run_for=FOR_EVER))
    task = Task(Store(), deferrable=True)
    task.ti.state = state
    operator = task.operator()
    operator.on_kill()
    with pytest.raises(TaskDeferred if state == "running" else AirflowException):
        operator.execute(task.context)
    assert (scnet.jobs("alice")[0].end is None) is (state == "running")


@pytest.mark.parametrize("cancel", [True, False])
def test_a_task_whose_execution_timeout_is_over_cancels_its_job(
    scnet: ScnetSimulator, monkeypatch: pytest.MonkeyPatch, cancel
):
    def time_is_up(seconds: float) -> None:
        raise AirflowTaskTimeout

    scnet.plan_jobs(JobPlan(run_for=FOR_EVER))
    task = Task(Store(), execution_timeout=timedelta(seconds=9), retries=1, cancel_on_kill=cancel)
    with monkeypatch.context() as late:
        late.setattr("airflow_provider_scnet.operators.scnet.time.sleep", time_is_up)
        with pytest.raises(AirflowTaskTimeout):
            task.run()
    (job,) = scnet.jobs("alice")
    assert (job.end is not None) is cancel
    if cancel:
        assert task.next_try()["job_id"] == "2"


def test_where_airflow_ends_a_deferral_for_the_execution_timeout_the_job_is_cancelled(scnet: ScnetSimulator, said):
    scnet.plan_jobs(JobPlan(run_for=FOR_EVER))
    task = Task(Store(), execution_timeout=timedelta(seconds=9), deferrable=True)
    with pytest.raises(TaskDeferred):
        task.operator().execute(task.context)
    resume = task.operator().resume_execution
    if EXECUTION_TIMEOUT_ENDS_DEFERRALS:
        with pytest.raises(AirflowException, match=r"execution_timeout of 0:00:09 is over"):
            resume("__fail__", {"error": "Trigger timeout"}, task.context)
        assert scnet.jobs("alice")[0].end is not None
    else:
        # No limit of Airflow 3: whatever it was, the job is awaited.
        with pytest.raises(TaskDeferred):
            resume("__fail__", {"error": "Trigger timeout"}, task.context)


def test_a_trigger_that_failed_is_only_the_end_of_a_wait(scnet: ScnetSimulator):
    scnet.plan_jobs(JobPlan(run_for=FOR_EVER))
    task = Task(Store(), deferrable=True)
    with pytest.raises(TaskDeferred):
        task.operator().execute(task.context)
    with pytest.raises(TaskDeferred):
        task.operator().resume_execution("__fail__", {"error": "Trigger failure"}, task.context)
    assert submissions(scnet) == 1


def test_a_retry_that_airflow_resumes_with_the_event_of_the_try_before_begins_anew(scnet: ScnetSimulator):
    task = Task(timeout=0.3, retries=1)
    scnet.order(Fault.refusal("user's limit"), path=SUBMISSION_PATH, times=None)
    task.ti.try_number = 2
    event = {"began_at": 1.0, "try_number": 1}
    with pytest.raises(AirflowException, match="no job was accepted"):
        task.operator().execute_complete(task.context, event)
    # Not at once, as it would be by the time at which the first try began.
    assert submissions(scnet) >= 1


# What is handed over


def test_no_command_is_in_what_the_triggerer_gets(scnet: ScnetSimulator):
    scnet.order(Fault.refusal("user's limit"), path=SUBMISSION_PATH)
    task = Task(
        deferrable=True, command="secret --password=hunter2", job_options={"GAP_SCHEDULER_OPT_WEB": "hunter2"}
    )
    task.run()
    assert len(task.deferrals) >= 2
    for deferral in task.deferrals:
        assert "hunter2" not in repr((deferral.trigger.serialize(), deferral.kwargs, deferral.method_name))
        assert deferral.timeout is None


# What is asked


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"wall_time": "soon"}, "wall_time"),
        ({"work_dir": "here"}, "work_dir"),
        ({"cores": 1, "cores_per_node": 1}, "exclude each other"),
        ({"cores": "{{ params.n }}", "cores_per_node": 1}, "exclude each other"),
        ({"command": ""}, "command is empty"),
        ({"command": "#SBATCH -n 3"}, "#SBATCH"),
        ({"command": "{{ params.c }}", "nodes": 0}, "nodes"),
        ({"job_options": {"GAP_MULTI_SUB": "5"}}, "GAP_MULTI_SUB"),
        ({"job_options": {"GAP_JOB_NAME": "mine"}}, "GAP_JOB_NAME"),
        ({"job_options": {"GAP_SCHEDULER_OPT_WEB": "#SBATCH --array=1-5"}}, "--array"),
        ({"poll_interval": 0}, "poll_interval"),
        ({"timeout": -1}, "timeout"),
        ({"queue_timeout": "soon"}, "queue_timeout"),
        ({"log_tail_lines": 5000}, "log_tail_lines"),
        ({"log_tail_lines": -1}, "log_tail_lines"),
        ({"scnet_conn_id": ["one", "two"]}, "scnet_conn_id"),
        ({"scnet_conn_id": ""}, "scnet_conn_id"),
    ],
)
def test_what_is_wrong_is_an_error_when_the_file_is_parsed(given, said):
    with pytest.raises(ValueError, match=said):
        ScnetSubmitJobOperator(**{**ASKED, **given})


def test_templates_are_judged_when_they_have_been_rendered(scnet: ScnetSimulator):
    names = [name for name in ScnetSubmitJobOperator.template_fields if name not in ("cores_per_node", "nodes")]
    given = {**ASKED, **dict.fromkeys(names, "{{ params.x }}")}
    ScnetSubmitJobOperator(**given)
    task = Task(wall_time="{{ rendered to nothing }}")
    with pytest.raises(AirflowFailException, match="wall_time"):
        task.run()
    assert scnet.requests == []


def test_all_that_is_asked_reaches_the_cluster(scnet: ScnetSimulator):
    task = Task(
        command=["cd x", "hostname"],
        nodes="2",
        cores_per_node=4,
        wall_time=timedelta(minutes=90),
        stdout="out.%j",
        job_name="Relax the cell",
    )
    left = task.run()
    (job,) = scnet.jobs("alice")
    assert (job.terms.command, job.terms.nodes, job.terms.cores) == ("cd x\nhostname", 2, 8)
    assert job.terms.wall_time == 5400
    assert job.name.endswith("_relax_the_c")
    assert left["stdout"] == "/public/home/alice/out.1"

# SPDX-License-Identifier: Apache-2.0
"""The sensor that waits for the end of a job, against the simulator over real HTTP on loopback."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable
from datetime import datetime, timezone
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    BaseSensorOperator,
    TaskDeferred,
)

from airflow_provider_scnet.client import job_state
from airflow_provider_scnet.sensors.scnet import ScnetJobSensor
from airflow_provider_scnet.testing import HISTORY_PATH, JOB_LIST_PATH, Fault, JobPlan, JobQuirks, ScnetSimulator

try:
    from airflow.sdk.exceptions import AirflowRescheduleException
except ImportError:
    from airflow.exceptions import AirflowRescheduleException

DETAIL = f"{JOB_LIST_PATH}/1"


def context(began: datetime | None = None) -> Any:
    names = dict.fromkeys(("dag_id", "task_id", "run_id"), "any")
    ti = SimpleNamespace(
        try_number=1, max_tries=0, get_first_reschedule_date=lambda context: began, map_index=-1, **names
    )
    return {"ti": ti, "task_reschedule_count": 1}


def sensor(**given: Any) -> ScnetJobSensor:
    return ScnetJobSensor(**{"task_id": "wait", "job_id": "1", "poke_interval": 0.1, "timeout": 60, **given})


def in_triggerer(made: ScnetJobSensor) -> Any:
    resume: Callable[[Any], Any] = made.execute
    while True:
        try:
            return resume(context())
        except TaskDeferred as deferral:
            event = json.loads(json.dumps(asyncio.run(first_event(deferral.trigger))))
            resume = lambda context, event=event: made.resume_execution(  # noqa: E731
                "execute_complete", {"event": event}, context
            )


async def first_event(trigger: Any) -> Any:
    return (await anext(trigger.run())).payload


def poking(made: ScnetJobSensor) -> Any:
    made.deferrable = False
    return made.execute(context())


def rescheduled(made: ScnetJobSensor) -> Any:
    made.deferrable, made.mode, began = False, "reschedule", datetime.now(timezone.utc)
    # How Airflow before 3.0 asks when it began.
    orig_start_date = f"{BaseSensorOperator.__module__}._orig_start_date"
    while True:
        try:
            with mock.patch(orig_start_date, return_value=began, create=True):
                return made.execute(context(began))
        except AirflowRescheduleException:
            made._has_answered, made._seen = False, None


in_each_way = pytest.mark.parametrize("wait", [in_triggerer, poking, rescheduled])


@in_each_way
@pytest.mark.parametrize("quirks", [JobQuirks(), JobQuirks(slurm_record=False, in_history_after=0.3)])
def test_a_job_that_completes_is_a_success_and_told_of(scnet: ScnetSimulator, wait, quirks):
    scnet.quirks = quirks
    scnet.submit("alice", name="theirs", plan=JobPlan(run_for=0.4))
    left = wait(sensor())
    assert (left["job_id"], left["job_name"], left["state"]) == ("1", "theirs", "completed")
    assert json.loads(json.dumps(left)) == left
    assert scnet.jobs("alice")[0].state == "ended"


@in_each_way
@pytest.mark.parametrize("outcome", ["FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY"])
def test_a_job_that_ends_otherwise_fails_without_retry(scnet: ScnetSimulator, wait, outcome):
    scnet.submit("alice", plan=JobPlan(run_for=0.2, outcome=outcome))
    with pytest.raises(AirflowFailException, match="job 1 has ended: "):
        wait(sensor())


@in_each_way
def test_a_job_that_is_queued_again_is_waited_for(scnet: ScnetSimulator, wait):
    scnet.submit("alice", plan=JobPlan(run_for=0.2, requeues=1, requeued_after=0.3))
    assert wait(sensor())["state"] == "completed"


def test_a_job_whose_node_failed_long_ago_has_failed(scnet: ScnetSimulator, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(job_state, "HISTORY_LAG", 1.0)
    scnet.quirks = JobQuirks(listed_for=0.2)
    scnet.submit("alice", plan=JobPlan(run_for=0.1, outcome="NODE_FAIL"))
    with pytest.raises(AirflowFailException, match="job 1 has ended: node_failed"):
        in_triggerer(sensor())


@in_each_way
@pytest.mark.parametrize("job", ["none", "endless"])
def test_the_wait_has_an_end(scnet: ScnetSimulator, wait, job):
    if job == "endless":
        scnet.submit("alice", plan=JobPlan(run_for=math.inf))
    made = sensor(timeout=0.5)
    if wait is in_triggerer and job == "endless":
        # Here Airflow ends it.
        with pytest.raises(TaskDeferred) as deferral:
            made.execute(context())
        assert 0 < deferral.value.timeout.total_seconds() <= 0.5
        with pytest.raises(AirflowSensorTimeout):
            made.resume_execution("__fail__", {"error": "Trigger timeout"}, context())
        # The event came at once with it.
        event = {"began_at": 1.0, "try_number": 1}
        with pytest.raises(AirflowSensorTimeout):
            made.resume_execution("__fail__", {"event": event}, context())
    else:
        with pytest.raises(AirflowSensorTimeout):
            wait(made)


@in_each_way
def test_what_passes_is_waited_out(scnet: ScnetSimulator, wait):
    scnet.submit("alice", plan=JobPlan(run_for=0.5))
    scnet.order(Fault(status=503), path=DETAIL, times=2)
    scnet.order(Fault(status=503), path=HISTORY_PATH, times=1)
    assert wait(sensor())["state"] == "completed"


@pytest.mark.parametrize("wait", [in_triggerer, poking])
@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault.html(404, "not here"), AirflowException),
        (Fault.api("10008", "auth_fail"), AirflowException),
        (Fault.api("10007", "frozen"), AirflowFailException),
    ],
)
def test_what_does_not_heal_fails_at_once(scnet: ScnetSimulator, wait, fault, kind):
    scnet.order(fault, path=DETAIL, times=None)
    with pytest.raises(AirflowException) as e:
        wait(sensor())
    assert type(e.value) is kind


def test_an_unclear_answer_after_a_good_one_is_waited_out(scnet: ScnetSimulator):
    scnet.submit("alice", plan=JobPlan(run_for=0.5))
    made = sensor()
    assert made.poke(context()) is None
    scnet.order(Fault.html(404, "not here"), path=DETAIL, times=1)
    assert poking(made)["state"] == "completed"


@in_each_way
def test_soft_fail_skips(scnet: ScnetSimulator, wait):
    scnet.submit("alice", plan=JobPlan(run_for=0.2, outcome="FAILED"))
    with pytest.raises(AirflowSkipException):
        wait(sensor(soft_fail=True))


def test_a_job_that_has_failed_before_skips_as_well(scnet: ScnetSimulator):
    scnet.submit("alice", plan=JobPlan(run_for=0.0, outcome="FAILED"))
    with pytest.raises(AirflowSkipException, match="has ended: failed"):
        sensor(soft_fail=True).execute(context())


@pytest.mark.parametrize("given", [{"job_id": ""}, {"job_id": None}, {"scnet_conn_id": " "}])
def test_what_is_empty_is_an_error_when_the_file_is_parsed_and_after_rendering(given):
    with pytest.raises(ValueError, match="is given but empty"):
        sensor(**given)
    made = sensor(job_id="{{ params.job }}")
    for name, value in given.items():
        setattr(made, name, value)
    with pytest.raises(AirflowFailException, match="is given but empty"):
        made.poke(context())


def test_a_whole_number_is_an_id(scnet: ScnetSimulator):
    scnet.submit("alice", plan=JobPlan(run_for=0.0))
    assert sensor(job_id=1).execute(context())["job_id"] == "1"

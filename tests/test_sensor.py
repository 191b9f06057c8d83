# SPDX-License-Identifier: Apache-2.0
"""The sensor as a user of Airflow meets it, in all three ways to wait."""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import warnings
from datetime import datetime, timedelta, timezone
from typing import Any
from unittest import mock

import airflow
import pytest
from airflow.providers.common.compat.sdk import (
    DAG,
    AirflowException,
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    BaseOperator,
    BaseSensorOperator,
    TaskDeferred,
    XComArg,
    conf,
)
from airflow.triggers.base import TaskSuccessEvent

from airflow_provider_scnet.client.errors import ScnetError
from airflow_provider_scnet.gate.condition import ConditionError
from airflow_provider_scnet.operators.scnet import ScnetSubmitJobOperator
from airflow_provider_scnet.sensors import scnet as sensors_scnet
from airflow_provider_scnet.sensors.scnet import ScnetJobCountSensor
from airflow_provider_scnet.sensors.start_and_end import _AIRFLOW_STARTS_FROM_TRIGGER
from airflow_provider_scnet.testing import Fault, ScnetSimulator
from airflow_provider_scnet.triggers import scnet as triggers_scnet
from airflow_provider_scnet.triggers import shared_accounts

from gates import MODES, context, decision_of, deferred, first_event, gate, run_deferred, run_poking

BAD_CONDITIONS = ["pending < 5", "queued", "", "queued < 5 #", "queued ＜ 5", None, 5]


# What is checked when the DAG file is parsed


@pytest.mark.parametrize("condition", BAD_CONDITIONS)
def test_a_mistake_in_the_condition_shows_when_the_dag_is_parsed(condition):
    with pytest.raises(ConditionError):
        gate(condition)


@pytest.mark.parametrize("condition", [bad for bad in BAD_CONDITIONS if bad is not None])
def test_a_mistake_in_fail_when_shows_when_the_dag_is_parsed(condition):
    with pytest.raises(ConditionError):
        gate(fail_when=condition)


def test_a_gate_that_could_never_open_shows_when_the_dag_is_parsed():
    with pytest.raises(ConditionError, match="could never hold with the 5 jobs"):
        gate("queued < 5 and held == 0 and queued < 4", submits=5)


@pytest.mark.parametrize(
    "arguments",
    [
        {"submits": -1},
        {"submits": "many"},
        {"submits": 1.5},
        {"submits": None},
        {"submitted_by": []},
        {"submitted_by": ""},
        {"submitted_by": ["submit", ""]},
        {"submitted_by": {"submit"}},
        {"submitted_by": 5},
        {"claim_ttl": -1},
        {"claim_ttl": "180"},
        {"claim_ttl": None},
        {"claim_ttl": float("inf")},
        {"claim_ttl": float("nan")},
        {"user_name": ""},
        {"user_name": "  "},
        {"user_name": 1.5},
        {"scnet_conn_id": ""},
        {"scnet_conn_id": None},
    ],
)
def test_other_mistakes_show_when_the_dag_is_parsed(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        gate(**arguments)


def test_templates_are_left_for_later():
    sensor = gate(
        "{{ params.condition }}",
        fail_when="{% if true %}held > 0{% endif %}",
        user_name="{{ params.user }}",
        scnet_conn_id="{{ params.conn }}",
        queue_name="{{ params.queue }}",
        submits="{{ params.jobs }}",
    )
    assert set(sensor.template_fields) == {
        *("condition", "fail_when", "user_name", "scnet_conn_id", "queue_name", "submits")
    }
    gate("queued < 5", submits="{{ 7 }}")
    with pytest.raises(ConditionError):
        gate("queue < 5", submits="{{ 7 }}")
    with pytest.raises(ValueError, match="submits"):
        gate("{{ condition }}", submits=-1)


OWN_DELIMITERS = {"variable_start_string": "[[", "variable_end_string": "]]", "line_statement_prefix": "%%"}


def test_a_dag_may_have_delimiters_of_its_own():
    with dag(jinja_environment_kwargs=OWN_DELIMITERS):
        sensor = gate("queued < [[ params.most ]]", scnet_conn_id=["[[ params.conn ]]", "west"])
        gate("%% if true\nqueued < 5\n%% endif", task_id="line")
        gate("{% if true %}queued < 5{% endif %}", task_id="block")
        gate(submits="[[ 3 ]]", task_id="jobs")
        with pytest.raises(ConditionError):
            gate("queued < {{ 5 }}", task_id="text")
        with pytest.raises(ConditionError):
            gate("queue < 5", task_id="wrong")
    assert sensor.start_from_trigger is False


def test_it_is_deferrable_unless_told_otherwise():
    assert gate().deferrable is True
    assert gate(claim_ttl=timedelta(minutes=2)).claim_ttl == 120.0
    with pytest.raises(TaskDeferred) as caught:
        gate(timeout=7).execute(context())
    assert caught.value.timeout == timedelta(seconds=7)
    assert caught.value.method_name == "execute_complete"


@pytest.mark.parametrize("mode", ["poke", "reschedule"])
@pytest.mark.parametrize("deferrable", [{}, {"deferrable": True}])
def test_a_mode_of_a_gate_that_defers_is_a_contradiction(scnet: ScnetSimulator, mode, deferrable):
    with pytest.raises(ValueError, match=f"mode='{mode}'.*deferrable=False with it, or leave it out"):
        gate(mode=mode, **deferrable)
    with dag():
        mapped = ScnetJobCountSensor.partial(task_id="gate", mode=mode, **deferrable).expand(
            condition=["total < 5"]
        )
    sensor = mapped.unmap({"condition": "total < 5"})
    with pytest.raises(AirflowFailException, match=f"mode='{mode}'"):
        sensor.execute(context())
    assert gate(mode=mode, deferrable=False).mode == mode


def warned(**given: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        gate(**given)
    return [str(each.message) for each in caught]


def test_a_mode_for_all_sensors_of_a_dag_is_not_ignored_in_silence():
    with dag(default_args={"mode": "reschedule"}):
        (said,) = warned(task_id="gate")
        assert "mode='reschedule' of the default_args is not heeded" in said
        assert "say deferrable=True if that is meant, or deferrable=False" in said
        assert warned(task_id="meant", deferrable=True) == warned(task_id="worker", deferrable=False) == []
        mapped = ScnetJobCountSensor.partial(task_id="mapped").expand(condition=["total < 5"])
        # Only a worker makes it.
        with pytest.warns(UserWarning, match="not heeded"):
            deferred(mapped.unmap({"condition": "total < 5"}))
    with dag(default_args={"mode": "reschedule", "deferrable": False}):
        assert warned(task_id="gate") == []


def test_a_choice_of_the_installation_against_deferring_is_not_ignored_in_silence(monkeypatch):
    # Each file that Airflow makes says so, which nobody has chosen.
    monkeypatch.setattr(conf, "_sections", {**conf._sections, "operators": {"default_deferrable": "False"}})
    assert warned() == []
    monkeypatch.setenv("AIRFLOW__OPERATORS__DEFAULT_DEFERRABLE", "False")
    (said,) = warned()
    assert "[operators] default_deferrable = False is not heeded" in said
    assert warned(deferrable=True) == warned(deferrable=False) == []
    monkeypatch.setenv("AIRFLOW__OPERATORS__DEFAULT_DEFERRABLE", "True")
    assert warned() == []


def test_parsing_a_dag_brings_neither_the_hook_nor_requests_nor_urllib3_along():
    import subprocess
    import sys

    code = (
        "import sys; import airflow_provider_scnet.sensors.scnet as s;"
        "s.ScnetJobCountSensor(task_id='g', condition='queued < 5');"
        "import airflow_provider_scnet.operators.scnet as o;"
        "o.ScnetSubmitJobOperator(task_id='o', condition='queued < 5', command='x', work_dir='/x', queue_name='q',"
        " wall_time='01:00:00');"
        "print([m for m in sys.modules if m.startswith('airflow_provider_scnet.') and 'hooks' in m],"
        " [m for m in ('transport', 'address') if f'airflow_provider_scnet.client.{m}' in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[] []"


# What is checked after rendering


@pytest.mark.parametrize("run", MODES.values(), ids=MODES)
@pytest.mark.parametrize(
    ("rendered", "what"),
    [
        ({"condition": "pending < 5"}, "did you mean 'queued'"),
        ({"condition": ""}, "is empty"),
        ({"condition": "queued < 5", "submits": "9"}, "could never hold"),
        ({"fail_when": ""}, "is empty"),
        ({"fail_when": "nonsense"}, "unknown state"),
        ({"fail_when": None}, "fail_when is given but empty"),
        ({"user_name": ""}, "user_name is given but empty"),
        ({"user_name": None}, "user_name is given but empty"),
        ({"scnet_conn_id": " "}, "scnet_conn_id is given but empty"),
        ({"submits": "-1"}, "submits is no number"),
        ({"submits": None}, "submits is no number"),
    ],
)
@pytest.mark.parametrize("soft_fail", [False, True])
def test_what_a_template_renders_to_is_checked_and_no_retry_would_mend_it(scnet, run, rendered, what, soft_fail):
    sensor = gate(
        "{{ a }}",
        fail_when="{{ b }}",
        user_name="{{ c }}",
        scnet_conn_id="{{ d }}",
        submits="{{ e }}",
        soft_fail=soft_fail,
    )
    good = {
        "condition": "queued < 5",
        "fail_when": "held > 9",
        "user_name": "alice",
        "scnet_conn_id": "scnet_default",
    }
    for name, value in {**good, "submits": "1", **rendered}.items():
        setattr(sensor, name, value)
    with pytest.raises(AirflowSkipException if soft_fail else AirflowFailException) as caught:
        run(sensor)
    reason = caught.value.__cause__ if soft_fail and caught.value.__cause__ else caught.value
    assert what in str(reason)
    assert scnet.requests == []


@pytest.mark.parametrize("run", MODES.values(), ids=MODES)
def test_native_values_of_templates_are_taken_as_they_are_meant(scnet: ScnetSimulator, connect, run):
    scnet.add_user("12345")
    connect(user="12345")
    scnet.set_counts("12345", queued=1)
    sensor = gate("{{ a }}", user_name="{{ b }}", submits="{{ c }}")
    sensor.condition, sensor.user_name, sensor.submits = "queued < 5", 12345, 2
    assert run(sensor)["user_name"] == "12345"


def test_a_number_is_a_name_in_the_trigger_too():
    sensor = gate(user_name=12345, scnet_conn_id=2026)
    kwargs = deferred(sensor)[0].serialize()[1]
    assert (kwargs["user_name"], kwargs["scnet_conn_id"]) == ("12345", "2026")
    if IS_3_3:
        assert sensor.start_trigger_args.trigger_kwargs == kwargs


@pytest.mark.parametrize("field", ["user_name", "scnet_conn_id"])
def test_a_name_that_is_no_text_shows_when_the_file_is_parsed(field):
    with pytest.raises(ValueError, match=f"{field} is no text but dict"):
        gate(**{field: {"alice": 1}})


# soft_fail, retries, timeout


@pytest.mark.parametrize("run", MODES.values(), ids=MODES)
def test_soft_fail_skips_a_gate_that_fails_for_good(scnet: ScnetSimulator, run):
    scnet.set_counts("alice", held=1)
    with pytest.raises(AirflowSkipException):
        run(gate(fail_when="held > 0", soft_fail=True))


def test_soft_fail_skips_where_airflows_does_and_not_elsewhere(scnet: ScnetSimulator):
    scnet.reject_token("alice")
    # As in every Airflow sensor: what a poke raises is left to retries, what a deferred sensor resumes to is not.
    with pytest.raises(AirflowException) as caught:
        run_poking(gate(soft_fail=True))
    assert not isinstance(caught.value, AirflowSkipException)
    with pytest.raises(AirflowSkipException):
        run_deferred(gate(soft_fail=True))


@pytest.mark.parametrize(("soft_fail", "error"), [(False, AirflowSensorTimeout), (True, AirflowSkipException)])
def test_a_deferral_that_times_out_is_a_sensors_timeout_on_every_version(soft_fail, error):
    with pytest.raises(error, match=r"timeout|soft_fail"):
        gate(soft_fail=soft_fail).resume_execution("__fail__", {"error": "Trigger timeout"}, context())


@pytest.mark.parametrize(("soft_fail", "error"), [(False, AirflowSensorTimeout), (True, AirflowSkipException)])
def test_where_the_event_and_the_time_out_of_a_deferral_come_at_once_the_event_counts(soft_fail, error):
    # Airflow's scheduler has written the method, and its triggerer the arguments that it had read before.
    event = {"verdict": "timeout", "message": "last seen: queued 5"}
    with pytest.raises(error, match=r"timeout|soft_fail"):
        gate(soft_fail=soft_fail).resume_execution("__fail__", {"event": event}, context())
    event = {"verdict": "open", "message": "passes", "decision": {"claimed": 0}}
    gate(soft_fail=soft_fail, use_worker=True).resume_execution("__fail__", {"event": event}, context())


@pytest.mark.parametrize(("soft_fail", "error"), [(False, Exception), (True, AirflowSkipException)])
def test_a_trigger_that_died_is_a_failure_that_is_retried(soft_fail, error):
    with pytest.raises(error) as caught:
        gate(soft_fail=soft_fail).resume_execution("__fail__", {"error": "Trigger failure"}, context())
    assert not isinstance(caught.value, (AirflowFailException, AirflowSensorTimeout))


@pytest.mark.parametrize("verdict", ["retry", "open"])
def test_a_retry_waits_anew_even_where_airflow_resumes_it_with_the_end_of_the_try_before(verdict):
    sensor, first, second = gate(), context(), context()
    first["ti"].try_number, second["ti"].try_number = 1, 2
    with pytest.raises(TaskDeferred) as deferral:
        sensor.execute(first)
    stale = {**deferral.value.kwargs, "event": {"verdict": verdict, "decision": {}, "message": "m"}}
    with pytest.raises(TaskDeferred) as anew:
        sensor.resume_execution(deferral.value.method_name, stale, second)
    assert anew.value.kwargs["try_number"] == 2


@pytest.mark.parametrize("run", MODES.values(), ids=MODES)
@pytest.mark.parametrize(("soft_fail", "error"), [(False, AirflowSensorTimeout), (True, AirflowSkipException)])
def test_timeout_is_the_one_budget_for_waiting(scnet: ScnetSimulator, run, soft_fail, error):
    scnet.set_counts("alice", queued=9)
    with pytest.raises(error):
        run(gate(soft_fail=soft_fail, timeout=0.5))


def test_a_gate_that_times_out_says_what_it_saw_last(scnet: ScnetSimulator):
    scnet.set_counts("alice", queued=9)
    trigger, _ = deferred(gate())

    async def scenario() -> Any:
        waiting = asyncio.ensure_future(first_event(trigger))
        await asyncio.to_thread(scnet.wait_for_requests, 2)
        (place,) = shared_accounts.accounts().poller("scnet_default", None)._waiting
        place.gate.end(None)
        return await waiting

    assert asyncio.run(scenario()).payload == {
        "verdict": "timeout",
        "message": "last seen: running 0, queued 9: waiting, needs queued < 5",
    }


@pytest.mark.parametrize("verdict", ["retry", "fail", "timeout", "?"])
def test_never_fail_skips_whatever_a_deferred_gate_resumes_to_on_every_version(verdict):
    sensor = gate(never_fail=True)
    with pytest.raises(AirflowSkipException):
        sensor.resume_execution("execute_complete", {"event": {"verdict": verdict, "message": "m"}}, context())


def test_a_gate_without_an_end_waits_without_one():
    assert deferred(gate(timeout=1e12))[1].timeout is None


@pytest.mark.parametrize(
    "event", [None, "success", True, {}, {"verdict": "open"}, {"verdict": "?"}, {"decision": {}}, []]
)
def test_an_event_that_is_no_decision_keeps_it_shut(event):
    with pytest.raises(AirflowException, match="stays shut"):
        gate().execute_complete(context(), event)


# Poke and reschedule mode


def test_reschedule_mode_gives_the_worker_back_between_looks(scnet: ScnetSimulator):
    from airflow.exceptions import AirflowRescheduleException

    scnet.set_counts("alice", queued=9)
    sensor = gate(deferrable=False, mode="reschedule", poke_interval=30)
    with (
        mock.patch.object(sensors_scnet, "was_rescheduled", return_value=False),
        mock.patch(f"{BaseSensorOperator.__module__}._orig_start_date", return_value=None, create=True),
        pytest.raises(AirflowRescheduleException),
    ):
        sensor.execute(context(ti=mock.MagicMock(get_first_reschedule_date=lambda c: None, max_tries=0)))


def test_in_reschedule_mode_a_wait_that_went_on_counts_as_a_good_answer(scnet: ScnetSimulator):
    scnet.order(Fault(status=404, body=""), times=2)
    sensor = gate(deferrable=False, mode="reschedule")
    assert sensor.poke(context(task_reschedule_count=1)) is False
    again = gate(deferrable=False, mode="reschedule")
    with pytest.raises(AirflowException):
        again.poke(context(task_reschedule_count=0))


def test_retry_after_lengthens_the_pause_of_a_poke(scnet: ScnetSimulator):
    scnet.order(Fault(status=429, body="", headers={"Retry-After": "99999"}))
    sensor = gate(deferrable=False, poke_interval=5, timeout=600)
    assert sensor.poke(context()) is False
    assert sensor._get_next_poke_interval(0.0, lambda: 0.0, 1) == 600.0
    assert sensor._get_next_poke_interval(0.0, lambda: 590.0, 1) == 10.0
    assert sensor.poke(context())
    assert sensor._get_next_poke_interval(0.0, lambda: 0.0, 1) == 5.0


@pytest.mark.parametrize(("submits", "warned"), [(1, 1), (3, 1), (0, 0), ("0", 0)])
def test_a_run_without_claims_warns_once(scnet: ScnetSimulator, said, submits, warned):
    run_poking(gate(submits=submits))
    assert sum("no room is claimed" in message for message in said.messages) == warned
    said.clear()
    run_deferred(gate(submits=submits))
    assert "no room is claimed" not in said.text


# How a gate ends


def outlet() -> Any:
    try:
        from airflow.sdk import Asset
    except ImportError:
        from airflow.datasets import Dataset as Asset
    return Asset("scnet://room")


class WithPostExecute(ScnetJobCountSensor):
    def post_execute(self, context: Any, result: Any = None) -> None: ...


class WithItsOwnEnd(ScnetJobCountSensor):
    def execute_complete(self, context: Any, event: Any = None) -> Any: ...


def end_task(sensor: ScnetJobCountSensor) -> bool:
    return deferred(sensor)[0].end_task


def test_a_gate_ends_in_the_triggerer_where_nothing_is_lost_by_it():
    assert end_task(gate()) is True
    assert end_task(gate(use_worker=True)) is False
    assert end_task(gate(outlets=[outlet()])) is False
    assert end_task(gate(inlets=[outlet()])) is False
    assert end_task(gate(on_success_callback=print)) is False
    assert end_task(gate(post_execute=lambda context, result=None: None)) is False
    assert end_task(gate(on_failure_callback=print, retries=3)) is True
    for other in (WithPostExecute, WithItsOwnEnd):
        assert end_task(other(task_id="gate", condition="queued < 5")) is False


AIRFLOW = tuple(int(part) for part in airflow.__version__.split(".")[:2])
IS_3_3 = AIRFLOW >= (3, 3)


def test_a_gate_with_a_label_ends_where_airflow_renders_it():
    # Before 3.2 a worker renders it at the end of a task only.
    assert end_task(gate(map_index_template="{{ ds }}")) is (AIRFLOW >= (3, 2))


@pytest.mark.parametrize(
    ("arguments", "starts_from_trigger"),
    [
        ({}, True),
        ({"user_name": "alice", "fail_when": "held > 0", "submits": "2", "retries": 3, "soft_fail": True}, True),
        ({"condition": "queued < {{ 5 }}"}, False),
        ({"submits": "{{ 1 }}"}, False),
        ({"deferrable": False}, False),
        ({"use_worker": True}, False),
        ({"do_xcom_push": False}, False),
        ({"on_execute_callback": print}, False),
        ({"on_success_callback": print}, False),
        ({"pre_execute": print}, False),
        ({"map_index_template": "{{ ds }}"}, False),
        ({"post_execute": print}, False),
        ({"pool": "scarce"}, False),
        ({"max_active_tis_per_dag": 2}, False),
        ({"max_active_tis_per_dagrun": 2}, False),
    ],
)
def test_a_gate_needs_no_worker_on_3_3_where_nothing_is_lost_by_it(arguments, starts_from_trigger):
    sensor = gate(**arguments)
    assert sensor.start_from_trigger is (starts_from_trigger and IS_3_3)
    if sensor.start_from_trigger:
        assert sensor.start_trigger_args.trigger_kwargs == deferred(sensor)[0].serialize()[1]
        assert sensor.start_trigger_args.timeout == timedelta(seconds=sensor.timeout)
    assert ScnetJobCountSensor.start_from_trigger is False


def test_a_gate_of_a_class_of_its_own_starts_where_its_code_is():
    class Before(ScnetJobCountSensor):
        def pre_execute(self, context: Any) -> None: ...

    class Instead(ScnetJobCountSensor):
        def execute(self, context: Any) -> Any: ...

    for other in (Before, Instead, WithPostExecute, WithItsOwnEnd):
        assert other(task_id="gate", condition="queued < 5").start_from_trigger is False


def test_a_gate_starts_on_a_worker_where_triggerers_have_queues(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AIRFLOW__TRIGGERER__QUEUES_ENABLED", "True")
    assert gate().start_from_trigger is False


@pytest.mark.parametrize("result", [lambda sensor: sensor.output, XComArg], ids=["output", "XComArg"])
def test_a_gate_whose_output_is_used_starts_and_ends_on_a_worker(result):
    with dag():
        sensor = gate(task_id="used")
        assert sensor.start_from_trigger is IS_3_3
        argument = result(sensor)
        # To read the attribute changes nothing: only its use does.
        assert sensor.start_from_trigger is IS_3_3
        Uses(task_id="user", value=argument)
    assert sensor.start_from_trigger is False
    assert end_task(sensor) is False


def test_all_gates_of_a_large_dag_start_on_workers():
    with dag():
        gates = [gate(task_id=f"gate_{n}") for n in range(100)]
    assert [each.start_from_trigger for each in gates] == [IS_3_3] * 100
    with dag():
        gates = [gate(task_id=f"gate_{n}") for n in range(101)]
    assert not any(each.start_from_trigger for each in gates)


class WithAFieldOfItsOwn(ScnetJobCountSensor):
    """As everybody writes a subclass: what is its own comes after what it inherits."""

    template_fields = (*ScnetJobCountSensor.template_fields, "message")

    def __init__(self, *, message: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.message = message


@pytest.mark.parametrize("message", ["plain", "{{ ds }}"])
def test_a_subclass_may_have_a_template_field_of_its_own(message):
    sensor = WithAFieldOfItsOwn(task_id="gate", condition="queued < 5", message=message)
    assert sensor.start_from_trigger is (IS_3_3 and message == "plain")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("on_success_callback", print),
        ("on_execute_callback", print),
        ("map_index_template", "{{ ds }}"),
        ("pool", "scarce"),
        ("max_active_tis_per_dag", 2),
        ("execution_timeout", timedelta(seconds=1)),
        ("outlets", ["asset"]),
    ],
)
def test_what_a_policy_of_the_installation_changes_later_is_heeded(name, value):
    sensor = gate()
    assert sensor.start_from_trigger is IS_3_3
    setattr(sensor, name, value)
    assert sensor.start_from_trigger is False
    assert sensor.start_trigger_args is None


def test_a_timeout_that_a_policy_sets_is_the_one_that_counts():
    sensor = gate()
    sensor.timeout = 7
    assert deferred(sensor)[1].timeout == timedelta(seconds=7)
    if IS_3_3:
        assert sensor.start_trigger_args.timeout == timedelta(seconds=7)


def test_a_mapped_gate_starts_on_a_worker():
    assert ScnetJobCountSensor.start_from_trigger is False
    assert ScnetJobCountSensor.start_trigger_args is None
    with dag():
        mapped = ScnetJobCountSensor.partial(task_id="mapped").expand(condition=["queued < 5"])
        labelled = ScnetJobCountSensor.partial(task_id="labelled", map_index_template="{{ ds }}").expand(
            condition=["queued < 5"]
        )
    for each in (mapped, labelled):
        assert each.start_from_trigger is False
        assert each.start_trigger_args is None


def test_the_serialised_dag_says_how_a_gate_starts():
    with dag() as made:
        gate(task_id="gate")
        gate(task_id="worker", use_worker=True)
        WithAFieldOfItsOwn(task_id="own", condition="queued < 5", message="m")
        ScnetJobCountSensor.partial(task_id="mapped").expand(condition=["queued < 5"])
    read = round_trip(made)
    starts = {task_id: bool(task.start_from_trigger) for task_id, task in read.task_dict.items()}
    assert starts == {"gate": IS_3_3, "worker": False, "own": IS_3_3, "mapped": False}


try:
    from airflow.serialization.serialized_objects import DagSerialization as Serialized
except ImportError:
    from airflow.serialization.serialized_objects import SerializedDAG as Serialized


def round_trip(made: DAG) -> Any:
    """Serialise a DAG and read it again, as Airflow keeps it."""
    return Serialized.from_dict(json.loads(json.dumps(Serialized.to_dict(made))))


@pytest.mark.parametrize("behind", [True, False])
def test_a_field_that_another_task_sets_when_it_runs_does_not_keep_the_dag_from_being_serialised(behind):
    class SetsItLater(BaseOperator):
        template_fields = ("late",)

    with dag() as made:
        sensor, other = gate(), SetsItLater(task_id="other")
        if behind:
            sensor >> other
    assert set(round_trip(made).task_dict) == {"gate", "other"}
    assert end_task(sensor) is True


def calls_to_serialise(tasks: list[Any], shape: Any) -> int:
    """Return how many functions are called, Python's own too: a measure of the time that no load changes."""
    calls = 0

    def count(*_: Any) -> None:
        nonlocal calls
        calls += 1

    with dag() as made:
        shape([make() for make in tasks])
    # Once before, or what is imported on the way counts as well.
    Serialized.to_dict(made)
    sys.setprofile(count)
    try:
        Serialized.to_dict(made)
    finally:
        sys.setprofile(None)
    return calls


def all_before_all(sensors: list[Any]) -> None:
    for number in range(len(sensors)):
        sensors >> BaseOperator(task_id=f"submit_{number}")


def one_after_the_other(sensors: list[Any]) -> None:
    for before, after in itertools.pairwise(sensors):
        before >> after


@pytest.mark.parametrize(("shape", "number"), [(all_before_all, 60), (one_after_the_other, 120)])
def test_a_large_dag_of_gates_is_serialised_as_fast_as_one_of_other_sensors(shape, number):
    def calls(make: Any, number: int) -> int:
        return calls_to_serialise([lambda n=n: make(task_id=f"gate_{n}") for n in range(number)], shape)

    gates, others = (calls(make, number) for make in (gate, BaseSensorOperator))
    assert gates < 2 * others
    twice = calls(gate, 2 * number)
    assert twice / gates < 1.2 * calls(BaseSensorOperator, 2 * number) / others


# The tasks that submit


def submitted_by(sensor: ScnetJobCountSensor) -> dict[str, bool]:
    kwargs = deferred(sensor)[0].submitted_by
    if sensor.start_from_trigger:
        assert sensor.start_trigger_args.trigger_kwargs.get("submitted_by", {}) == kwargs
    return kwargs


def task_group() -> Any:
    try:
        from airflow.sdk import task_group
    except ImportError:
        from airflow.decorators import task_group
    return task_group


def test_the_tasks_right_behind_a_gate_submit_unless_it_says_otherwise():
    with dag():
        plain, three, far, one, nothing, watching = (
            gate(task_id="plain"),
            gate(task_id="three"),
            gate(task_id="far", submitted_by=["submit"]),
            gate(task_id="one", submitted_by="submit"),
            gate(task_id="nothing"),
            gate(task_id="watching", submits=0),
        )
        submit = Uses(task_id="submit", value="x")
        plain >> submit
        three >> [Uses(task_id=name, value="x") for name in "cab"]
        far >> Uses(task_id="prepare", value="x") >> submit
        one >> submit
        watching >> submit
    assert submitted_by(plain) == {"submit": False}
    assert submitted_by(three) == {"a": False, "b": False, "c": False}
    assert submitted_by(far) == submitted_by(one) == {"submit": False}
    assert submitted_by(nothing) == {}
    assert submitted_by(watching) == {}


def test_what_stands_behind_another_task_behind_the_gate_waits_for_it_or_reads_and_does_not_submit():
    with dag():
        plain = gate(task_id="plain")
        submit, wait = Uses(task_id="submit", value="x"), Uses(task_id="wait", value="x")
        plain >> submit >> wait >> Uses(task_id="report", value=plain.output)
    assert submitted_by(plain) == {"submit": False}


def test_the_trigger_knows_what_stands_before_the_submission():
    with dag():
        first, second = gate(task_id="first"), gate(task_id="second")
        static, relax = Uses(task_id="static", value="x"), Uses(task_id="relax", value="x")
        Uses(task_id="prepare", value="x") >> first >> relax
        second >> static
        relax >> static
    trigger = deferred(second)[0]
    assert trigger.upstream == {"relax": False, "second": False}
    assert trigger.gates_upstream == ["first", "second"]
    assert deferred(first)[0].gates_upstream == ["first"]


def test_the_trigger_knows_which_tasks_tell_that_they_have_submitted():
    asked = {"work_dir": "/x", "queue_name": "comp", "wall_time": "01:00:00"}
    with dag():
        first = gate(task_id="first")
        plain = ScnetSubmitJobOperator(task_id="plain", command="hostname", **asked)
        mapped = ScnetSubmitJobOperator.partial(task_id="mapped", **asked).expand(command=["a", "b"])
        mute = ScnetSubmitJobOperator(task_id="mute", command="hostname", do_xcom_push=False, **asked)
        mute_too = ScnetSubmitJobOperator.partial(task_id="mute_too", do_xcom_push=False, **asked)
        first >> [plain, mapped, mute, mute_too.expand(command=["a"]), Uses(task_id="other", value="x")]
    trigger = deferred(first)[0]
    assert trigger.submitted_by == dict.fromkeys(("mapped", "mute", "mute_too", "other", "plain"), False)
    assert trigger.tell_job_id == ["mapped", "plain"]


def test_each_instance_of_a_mapped_group_has_a_submission_of_its_own():
    with dag() as made:

        @task_group()
        def gated(number):
            gate(task_id="gate") >> Uses(task_id="submit", value=number)

        gated.expand(number=[1, 2, 3])
    trigger = deferred(made.get_task("gated.gate"))[0]
    assert trigger.submitted_by == {"gated.submit": True}
    assert trigger.upstream == {"gated.gate": True}
    assert trigger.gates_upstream == []


def test_a_gate_knows_whether_what_it_lets_through_waits_for_the_run_before():
    with dag():
        plain, past, far = gate(task_id="plain"), gate(task_id="past"), gate(task_id="far", submitted_by="after")
        plain >> Uses(task_id="submit", value="x")
        past >> Uses(task_id="in_order", value="x", depends_on_past=True)
        (
            far
            >> Uses.partial(task_id="prepare", depends_on_past=True).expand(value=["x"])
            >> (Uses(task_id="after", value="x"))
        )
    assert [deferred(each)[0].after_past_runs for each in (plain, past, far)] == [False, True, True]


def test_a_group_behind_a_gate_submits_with_the_tasks_that_begin_it():
    with dag():
        sensor = gate()

        @task_group()
        def group() -> None:
            Uses(task_id="first", value="x") >> Uses(task_id="second", value="x")

        sensor >> group()
    assert submitted_by(sensor) == {"group.first": False}


def test_in_a_mapped_group_the_instance_with_the_gates_own_map_index_submits():
    with dag():
        after = Uses(task_id="after", value="x")
        found = {}

        @task_group()
        def group(value: Any) -> None:
            found["near"] = gate(task_id="near")
            found["far"] = gate(task_id="far", submitted_by=["submit"])
            found["full"] = gate(task_id="full", submitted_by=["group.submit"])
            submit = Uses(task_id="submit", value=value)
            found["near"] >> submit
            found["far"] >> Uses(task_id="prepare", value=value) >> submit
            found["near"] >> after

        outer = gate(task_id="outer", submitted_by=["group.submit"])
        outer >> group.expand(value=[1, 2, 3])
    assert submitted_by(found["near"]) == {"after": False, "group.submit": True}
    assert submitted_by(found["far"]) == submitted_by(found["full"]) == {"group.submit": True}
    assert submitted_by(outer) == {"group.submit": False}


def test_a_mapped_submission_behind_an_unmapped_gate_means_all_its_instances():
    with dag():
        sensor = gate()
        sensor >> Uses.partial(task_id="submit").expand(value=[1, 2, 3])
    assert submitted_by(sensor) == {"submit": False}


@pytest.mark.parametrize(
    ("name", "hint"),
    [("sumbit", "did you mean 'submit'"), ("gate", "no other task"), ("nonsense", "no other task")],
)
@pytest.mark.parametrize("run", MODES.values(), ids=MODES)
@pytest.mark.parametrize("soft_fail", [False, True])
def test_a_task_that_the_dag_does_not_have_is_an_error_when_the_task_runs_and_when_the_dag_is_serialised(
    scnet, run, name, hint, soft_fail
):
    with dag() as made:
        sensor = gate(submitted_by=[name], soft_fail=soft_fail)
        sensor >> Uses(task_id="submit", value="x")
    with pytest.raises(AirflowSkipException if soft_fail else AirflowFailException) as caught:
        run(sensor)
    reason = caught.value.__cause__ if soft_fail and caught.value.__cause__ else caught.value
    assert hint in str(reason)
    assert scnet.requests == []
    with pytest.raises(Exception, match=hint):
        round_trip(made)


# execution_timeout is no timeout of the gate's


def test_an_execution_timeout_does_not_cut_a_wait_short_where_airflow_can_be_kept_from_it():
    sensor = gate(timeout=600, execution_timeout=timedelta(seconds=60))
    assert sensor.start_from_trigger is False
    assert gate(timeout=600, execution_timeout=timedelta(seconds=600)).start_from_trigger is IS_3_3
    assert deferred(sensor)[1].timeout == timedelta(seconds=600)


IS_2 = airflow.__version__.startswith("2.")


def test_where_airflow_2_cuts_it_short_the_message_names_the_true_limit_and_retries_apply():
    sensor = gate(timeout=600, execution_timeout=timedelta(seconds=60))
    with pytest.raises(AirflowException) as caught:
        sensor.resume_execution("__fail__", {"error": "Trigger timeout"}, context())
    assert isinstance(caught.value, AirflowSensorTimeout) is not IS_2
    named = (
        "execution_timeout of 60 s is over, before the gate's own timeout of 600 s" if IS_2 else "timeout of 600 s"
    )
    assert named in str(caught.value)
    # What the trigger notices first is the same limit.
    assert deferred(sensor)[0].timeout == (60 if IS_2 else 600)
    with pytest.raises(AirflowException) as caught:
        sensor.execute_complete(context(), {"verdict": "timeout", "message": "last seen: running 1"})
    assert isinstance(caught.value, AirflowSensorTimeout) is not IS_2
    assert named in str(caught.value)
    assert str(caught.value).endswith("; last seen: running 1")


def test_on_a_worker_the_log_names_the_execution_timeout(scnet: ScnetSimulator, said):
    from airflow.providers.common.compat.sdk import AirflowTaskTimeout

    sensor = gate(execution_timeout=timedelta(seconds=60), timeout=600)
    with (
        mock.patch.object(sensor, "poke", side_effect=AirflowTaskTimeout("Timeout")),
        pytest.raises(AirflowTaskTimeout),
    ):
        run_poking(sensor)
    assert "execution_timeout of 60 s is over, before the gate's own timeout of 600 s" in said.text


# A restarted triggerer, and silent_fail


def waited(trigger: Any, seconds: float) -> Any:
    """A trigger as a restarted triggerer gets it: of its time, so much is over."""
    trigger.timeout_after = datetime.now(timezone.utc) + timedelta(seconds=trigger.timeout - seconds)
    return trigger


@pytest.mark.parametrize("fault", [Fault(status=404, body=""), Fault(body="<html>")], ids=["404", "html"])
def test_a_gate_that_has_waited_for_long_is_no_newcomer_after_a_restart(scnet: ScnetSimulator, fault):
    scnet.order(fault, times=2)
    trigger = waited(deferred(gate(timeout=7200))[0], 3600)
    assert asyncio.run(first_event(trigger)).payload["verdict"] == "open"


def test_a_gate_that_has_just_begun_fails_at_what_is_unclear(scnet: ScnetSimulator):
    scnet.order(Fault(status=404, body=""), times=2)
    trigger = waited(deferred(gate(timeout=7200))[0], 1)
    assert asyncio.run(first_event(trigger)).payload["verdict"] == "retry"


@pytest.mark.parametrize("run", MODES.values(), ids=MODES)
def test_with_silent_fail_a_gate_waits_on_where_the_try_would_fail(scnet: ScnetSimulator, run):
    scnet.order(Fault(status=404, body=""))
    scnet.order(Fault.api("10008", "auth_fail"))
    assert run(gate(silent_fail=True))["counts"]["queued"] == 0


@pytest.mark.parametrize("run", MODES.values(), ids=MODES)
def test_silent_fail_does_not_wait_for_what_no_waiting_would_mend(scnet: ScnetSimulator, run):
    scnet.order(Fault.api("10007", "frozen"))
    with pytest.raises(AirflowFailException):
        run(gate(silent_fail=True))


class Uses(BaseOperator):
    template_fields = ("value",)

    def __init__(self, *, value: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.value = value


def dag(**given: Any) -> DAG:
    return DAG("test_output", schedule=None, start_date=datetime(2024, 1, 1, tzinfo=timezone.utc), **given)


def test_a_gate_whose_output_the_dag_uses_has_a_return_value():
    with dag():
        used, unused = gate(task_id="used"), gate(task_id="unused")
        Uses(task_id="user", value={"deep": [used.output["counts"]]})
        unused >> Uses(task_id="follower", value="{{ 1 }}")
    assert end_task(used) is False
    assert end_task(unused) is True


def test_a_gate_whose_output_a_mapped_task_uses_has_a_return_value():
    with dag():
        mapped_over, given = gate(task_id="mapped_over"), gate(task_id="given")
        Uses.partial(task_id="a").expand(value=mapped_over.output)
        Uses.partial(task_id="b", value=given.output).expand_kwargs([{"do_xcom_push": True}])
    assert end_task(mapped_over) is False
    assert end_task(given) is False


def test_a_gate_whose_output_a_decorated_mapped_task_uses_has_a_return_value():
    from airflow.providers.common.compat.sdk import task

    with dag():
        over, by_kwargs = gate(task_id="over"), gate(task_id="by_kwargs")

        @task
        def use(decision: Any) -> None: ...

        use.override(task_id="a").expand(decision=over.output)
        use.override(task_id="b").expand_kwargs(by_kwargs.output)
    assert end_task(over) is False
    assert end_task(by_kwargs) is False


def test_a_gate_whose_output_a_mapped_group_uses_has_a_return_value():
    try:
        from airflow.sdk import task_group
    except ImportError:
        from airflow.decorators import task_group

    with dag():
        used = gate(task_id="used")

        @task_group
        def group(value: Any) -> None:
            Uses(task_id="inner", value=value)

        group.expand(value=used.output)
    assert end_task(used) is False


def test_a_mapped_gate_whose_output_is_used_has_a_return_value():
    with dag():
        used, unused = (
            ScnetJobCountSensor.partial(task_id=name).expand(condition=["queued < 5", "queued < 6"])
            for name in ("used", "unused")
        )
        Uses(task_id="user", value=used.output)
    assert end_task(used.unmap({"condition": "queued < 5"})) is False
    assert end_task(unused.unmap({"condition": "queued < 5"})) is True


def triggered(trigger: Any, trigger_id: int = 1) -> Any:
    trigger.trigger_id = trigger_id
    return trigger


def test_a_gate_that_ends_in_the_triggerer_leaves_its_decision_for_people(scnet: ScnetSimulator):
    event = asyncio.run(first_event(triggered(deferred(gate())[0])))
    assert isinstance(event, TaskSuccessEvent)
    assert set(event.xcoms) == {"decision"}
    assert decision_of(event)["counts"]["queued"] == 0


def test_a_gate_that_pushes_no_xcom_leaves_none(scnet: ScnetSimulator):
    event = asyncio.run(first_event(triggered(deferred(gate(do_xcom_push=False))[0])))
    assert isinstance(event, TaskSuccessEvent)
    assert event.xcoms is None


def end(sensor: ScnetJobCountSensor) -> tuple[Any, dict[str, Any]]:
    """End a gate without an engine, as dag.test() does: return its return value, and the XComs that it leaves."""
    # dag.test() has no trigger row, and would take an end event for an ordinary one.
    event = asyncio.run(first_event(deferred(sensor)[0])) if sensor.deferrable else None
    assert not isinstance(event, TaskSuccessEvent)
    given = context()
    returned = sensor.execute_complete(given, event.payload) if event else sensor.execute(given)
    return returned, dict(call.args for call in given["ti"].xcom_push.call_args_list)


@pytest.mark.parametrize("arguments", [{}, {"use_worker": True}, {"deferrable": False}])
def test_the_decision_is_in_one_place_whichever_way_a_gate_goes(scnet: ScnetSimulator, arguments):
    returned, xcoms = end(gate(**arguments))
    assert set(xcoms) == {"decision"}
    # Text in any case: Airflow 3 makes text of what a trigger leaves.
    decision = json.loads(xcoms["decision"])
    assert decision["counts"]["queued"] == 0
    # And the return value is there in a test just where it is there with an engine.
    assert returned == (decision if arguments else None)
    assert end(gate(do_xcom_push=False, **arguments))[1] == {}


class Slept(list):
    """The moments, in the loop's time, that were to be slept until; a pause of nothing is none."""

    async def __call__(self, seconds: float) -> None:
        if seconds > 0:
            self.append(asyncio.get_running_loop().time() + seconds)


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> Slept:
    """The trigger's own pauses, taken down instead of waited for."""
    pauses = Slept()
    monkeypatch.setattr(triggers_scnet, "asyncio", mock.MagicMock(wraps=asyncio, sleep=pauses))
    return pauses


def test_a_gate_that_a_worker_must_resume_decides_no_sooner_than_the_scheduler_is_ready(scnet, slept):
    async def scenario() -> None:
        started = asyncio.get_running_loop().time()
        await first_event(triggered(deferred(gate(use_worker=True))[0]))
        assert slept[0] >= started + triggers_scnet.SETTLE

    asyncio.run(scenario())


def test_a_gate_that_fails_at_once_is_handed_to_a_worker_no_sooner_than_the_scheduler_is_ready(scnet, slept):
    scnet.reject_token("alice")

    async def scenario() -> None:
        started = asyncio.get_running_loop().time()
        event = await first_event(triggered(deferred(gate())[0]))
        assert event.payload["verdict"] == "retry"
        assert slept[-1] >= started + triggers_scnet.SETTLE

    asyncio.run(scenario())


def test_a_gate_that_ends_in_the_triggerer_does_not_wait_for_the_scheduler(scnet: ScnetSimulator, slept):
    asyncio.run(first_event(triggered(deferred(gate())[0])))
    assert slept == []


@pytest.mark.parametrize(
    "bad", [{"condition": "nonsense"}, {"condition": None}, {"submits": -1}, {"fail_when": 5}]
)
def test_a_trigger_with_bad_arguments_fails_its_own_task_only(bad):
    trigger = triggers_scnet.ScnetJobCountTrigger(**{"condition": "queued < 5", **bad})
    event = asyncio.run(first_event(trigger))
    assert event.payload["verdict"] == "fail"


def test_what_only_another_version_knows_of_is_ignored_and_said(scnet: ScnetSimulator, said):
    _, kwargs = deferred(gate())[0].serialize()
    trigger = triggers_scnet.ScnetJobCountTrigger(**kwargs, new_fashion=1, newer=None)
    assert trigger.serialize()[1] == kwargs
    assert asyncio.run(first_event(trigger)).payload["verdict"] == "open"
    assert "only another version of airflow-provider-scnet knows it: new_fashion, newer" in said.text


def test_no_secret_is_in_a_trigger(scnet: ScnetSimulator):
    trigger, deferral = deferred(gate())
    assert scnet.token("alice") not in repr(trigger) + str(trigger.serialize()) + repr(deferral)


def test_our_errors_are_plain_exceptions():
    assert not issubclass(ScnetError, AirflowException)


# Who comes first


@pytest.mark.parametrize("weight_rule", ["downstream", "upstream", "absolute"])
@pytest.mark.parametrize("is_mapped", [False, True])
def test_the_priority_of_a_gate_is_the_one_its_author_gave_whatever_stands_around_it(
    weight_rule: str, is_mapped: bool
):
    given = {"condition": "queued < 5", "priority_weight": 3, "weight_rule": weight_rule}
    with dag():
        sensor: Any = (
            ScnetJobCountSensor.partial(task_id="gate", **given).expand(user_name=["alice", "bob"])
            if is_mapped
            else gate(**given)
        )
        before, behind = (BaseOperator(task_id=name, priority_weight=100) for name in ("before", "behind"))
        before >> sensor >> behind
    waiting = sensor.unmap({"user_name": "bob"}) if is_mapped else sensor
    assert deferred(waiting)[0].priority_weight == 3


def test_a_gate_whose_author_gave_no_priority_has_the_one_of_every_task():
    with dag():
        sensor = gate()
        sensor >> [BaseOperator(task_id=f"behind_{number}") for number in range(50)]
    assert deferred(sensor)[0].priority_weight == 1


@pytest.mark.skipif(not _AIRFLOW_STARTS_FROM_TRIGGER, reason="Airflow before 3.3 starts each gate on a worker")
def test_a_gate_that_starts_without_a_worker_has_its_authors_priority_too():
    with dag():
        sensor = gate(priority_weight=3)
        sensor >> BaseOperator(task_id="behind", priority_weight=100)
    assert sensor.start_from_trigger
    assert sensor.start_trigger_args.trigger_kwargs["priority_weight"] == 3

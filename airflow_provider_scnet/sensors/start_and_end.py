# SPDX-License-Identifier: Apache-2.0
"""
Which way a gate goes through Airflow: with no worker at all where nothing is lost by it, else over one.

Everything here is asked when it matters, not when the gate is made: by then the DAG is complete, subclasses have
set their fields, and the policies of the installation have changed what they change.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow import __version__ as airflow_version
from airflow.providers.common.compat.sdk import BaseSensorOperator, XComArg, conf

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_provider_scnet.sensors.scnet import ScnetJobCountSensor

_AIRFLOW = tuple(map(int, airflow_version.split(".")[:2]))

#: Airflow 2 ends a deferral when the task's ``execution_timeout`` is over, Airflow 3 does not.
EXECUTION_TIMEOUT_ENDS_DEFERRALS = _AIRFLOW < (3, 0)

#: What Airflow says when a deferral has timed out; before 3.0 it does not say which exception that is.
TRIGGER_TIMEOUT = "Trigger timeout"


def method_of(next_method: str, next_kwargs: Mapping[str, Any]) -> str:
    """
    Return where a task goes on after a deferral.

    Where an event and the deferral's time-out come at once, Airflow keeps the method that the one has written and
    the arguments that the other has: a failure of which it does not know why, and which would be retried.

    :param next_method: what Airflow says
    :param next_kwargs: with what
    """
    return "execute_complete" if next_method == "__fail__" and "event" in next_kwargs else next_method


# Airflow 3.1 and 3.2 ignore it, and 2.11 does it in a way of its own.
_AIRFLOW_STARTS_FROM_TRIGGER = _AIRFLOW >= (3, 3)

# Before 3.2 a worker renders the label of a mapped task when the task ends, not when it is deferred.
_LABELS_ARE_RENDERED_AT_THE_START = _AIRFLOW >= (3, 2)

# Tasks. Measured on 3.3.2: 100 gates in one DAG took the triggerer 6 s and 0.3 GB, 500 gates 29 s and 2.0 GB.
_LARGEST_DAG = 100

_DEFAULT_POOL = "default_pool"

# What begins a template, unless the DAG's ``jinja_environment_kwargs`` say otherwise; None: nothing does.
_JINJA = {
    "variable_start_string": "{{",
    "block_start_string": "{%",
    "comment_start_string": "{#",
    "line_statement_prefix": None,
    "line_comment_prefix": None,
}


class WhenRead:
    """
    An attribute that is computed when it is read, and a constant on the class.

    Airflow reads how a task starts when it serialises the DAG. It also reads it in the middle of a constructor,
    where a subclass is half made, and for a mapped task on the class; both get the constant.

    :param constant: what the class says
    :param compute: what a task says that is whole
    """

    def __init__(self, constant: Any, compute: Callable[[Any], Any]) -> None:
        self._constant = constant
        self._compute = compute

    def __get__(self, task: Any, owner: type) -> Any:
        """Return the attribute."""
        if task is None or not getattr(task, "_BaseOperator__instantiated", False):
            return self._constant
        return self._compute(task)


def starts_in_scheduler(sensor: ScnetJobCountSensor, base: type[ScnetJobCountSensor]) -> bool:
    """
    Tell whether the scheduler can defer the task by itself, so that no worker is needed at all.

    :param sensor: the gate
    :param base: the class of which it may be a subclass
    """
    cls, dag = type(sensor), sensor.get_dag()
    return bool(
        _AIRFLOW_STARTS_FROM_TRIGGER
        and sensor.deferrable
        # First what is cheap to ask: a large DAG has many gates, and each would look at many tasks.
        and _dag_is_small(sensor)
        and sensor.do_xcom_push
        and not sensor.map_index_template
        and not sensor.on_execute_callback
        and not getattr(sensor, "_pre_execute_hook", None)
        and not any(is_template(getattr(sensor, field, None), dag) for field in sensor.template_fields)
        # A subclass does something of its own on the worker before the wait.
        and cls.pre_execute is BaseSensorOperator.pre_execute
        and cls.execute is base.execute
        and _nothing_is_lost_at_the_end(sensor, base)
        # A trigger that the scheduler makes has no queue: where triggerers have some, it may start nowhere.
        and not conf.getboolean("triggerer", "queues_enabled", fallback=False)
        # What the scheduler defers by itself passes by pools and by limits of running tasks.
        and sensor.pool == _DEFAULT_POOL
        and sensor.max_active_tis_per_dag is None
        and sensor.max_active_tis_per_dagrun is None
        # And it is cut short by a limit that means a worker's time.
        and not is_shorter(sensor.execution_timeout, sensor.timeout)
        and not _output_is_used(sensor)
    )


def ends_in_triggerer(sensor: ScnetJobCountSensor, base: type[ScnetJobCountSensor]) -> bool:
    """
    Tell whether nothing is lost when the task ends without a worker: no callback, event, label or result.

    :param sensor: the gate
    :param base: the class of which it may be a subclass
    """
    return _nothing_is_lost_at_the_end(sensor, base) and not _output_is_used(sensor)


def asks_for_workers(sensor: ScnetJobCountSensor) -> str:
    """
    Return the setting for all sensors that asks for waits on workers; empty where there is none.

    :param sensor: the gate
    """
    if sensor.reschedule:
        return "mode='reschedule' of the default_args"
    # Airflow's own default says so, too, and so does each file that Airflow makes: nobody has chosen these.
    chosen = "AIRFLOW__OPERATORS__DEFAULT_DEFERRABLE" in os.environ
    is_against = chosen and not conf.getboolean("operators", "default_deferrable")
    return "[operators] default_deferrable = False" if is_against else ""


def is_template(value: Any, dag: Any) -> bool:
    """
    Tell whether a value is known only when the task runs: Jinja, or another task's result.

    :param value: an argument of a task
    :param dag: the task's DAG, which may have delimiters of its own; None: the task has none yet
    """
    if isinstance(value, (list, tuple)):
        return any(is_template(each, dag) for each in value)
    if not isinstance(value, str):
        return hasattr(value, "resolve")
    given = getattr(dag, "jinja_environment_kwargs", None) or {}
    return any(mark in value for mark in ({**_JINJA, **given}[name] for name in _JINJA) if mark)


def was_rescheduled(sensor: BaseSensorOperator, context: Context) -> bool:
    """
    Tell whether the try has looked before, in another process.

    :param sensor: a sensor that a worker runs
    :param context: the task's context
    """
    if not sensor.reschedule:
        return False
    count = context.get("task_reschedule_count")
    if count is not None:
        return bool(count)
    # Airflow before 3.0 has no count in the context.
    from airflow.models.taskreschedule import TaskReschedule
    from airflow.utils.session import create_session

    ti = context["ti"]
    with create_session() as session:
        statement = TaskReschedule.stmt_for_task_instance(ti, try_number=ti.try_number)  # type: ignore[arg-type, call-arg]
        return session.scalar(statement.limit(1)) is not None


def is_shorter(execution_timeout: timedelta | None, timeout: float) -> bool:
    """
    Tell whether a task's ``execution_timeout`` is over before the gate's own timeout.

    :param execution_timeout: what Airflow grants a task
    :param timeout: seconds
    """
    return execution_timeout is not None and execution_timeout.total_seconds() < timeout


def _nothing_is_lost_at_the_end(sensor: ScnetJobCountSensor, base: type[ScnetJobCountSensor]) -> bool:
    cls = type(sensor)
    return not (
        sensor.use_worker
        or sensor.outlets
        or sensor.inlets
        or sensor.on_success_callback
        or getattr(sensor, "_post_execute_hook", None)
        or (sensor.map_index_template and not _LABELS_ARE_RENDERED_AT_THE_START)
        or cls.post_execute is not BaseSensorOperator.post_execute
        or cls.execute_complete is not base.execute_complete
    )


def _dag_is_small(sensor: ScnetJobCountSensor) -> bool:
    """Tell whether Airflow can afford it: it gives each such trigger a copy of the whole DAG."""
    dag = sensor.get_dag()
    return dag is None or len(dag.task_dict) <= _LARGEST_DAG


def _output_is_used(sensor: ScnetJobCountSensor) -> bool:
    """
    Tell whether another task of the DAG takes this gate's result as an argument.

    Airflow puts each such task right behind the gate, and of a mapped group those that begin it.
    """
    return sensor.get_dag() is not None and any(
        operator.task_id == sensor.task_id
        for task in sensor.downstream_list
        for part in _arguments(task)
        for operator, _ in XComArg.iter_xcom_references(part)
    )


def _arguments(task: Any) -> Iterator[Any]:
    """Yield all places of a task, or of the groups around it, that may refer to another task's result."""
    if hasattr(task, "partial_kwargs"):
        yield task.partial_kwargs
        # A decorated task keeps what it is mapped over in a place of its own.
        yield getattr(task, "op_kwargs_expand_input", task.expand_input).value
    else:
        # A task may set a field of its own as late as when it runs.
        yield [getattr(task, field, None) for field in task.template_fields]
    group = task.task_group
    while group is not None:
        expand_input = getattr(group, "_expand_input", None)
        if expand_input is not None:
            yield expand_input.value
        group = group.task_group if hasattr(group, "task_group") else None

# SPDX-License-Identifier: Apache-2.0
"""The gate in the DAG; the sensor that waits for one job, which users import from here, lives next door."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    AirflowTaskTimeout,
    BaseSensorOperator,
    PokeReturnValue,
)

from airflow_provider_scnet.gate.gate import Gate, named, named_connections
from airflow_provider_scnet.sensors.scnet_job import ScnetJobSensor
from airflow_provider_scnet.sensors.start_and_end import (
    EXECUTION_TIMEOUT_ENDS_DEFERRALS,
    TRIGGER_TIMEOUT,
    WhenRead,
    asks_for_workers,
    ends_in_triggerer,
    is_shorter,
    is_template,
    method_of,
    starts_in_scheduler,
    was_rescheduled,
)
from airflow_provider_scnet.sensors.submitting_tasks import named_tasks, names, submission_tasks

# The hook and the trigger bring requests along, and Airflow's own triggers pydantic: they are imported where they
# are needed, not wherever a DAG file is parsed. So is what decides: a DAG file needs the grammar of conditions.

if TYPE_CHECKING:
    from airflow.sdk import Context
    from airflow.triggers.base import StartTriggerArgs

    from airflow_provider_scnet.gate.clusters import Clusters
    from airflow_provider_scnet.gate.evaluator import GateEvaluator

__all__ = ["ScnetJobCountSensor", "ScnetJobSensor"]

_TRIGGER = "airflow_provider_scnet.triggers.scnet.ScnetJobCountTrigger"

# Seconds, about a hundred years: a wait that ends later has no end, and no date that a database could hold.
_FOREVER = 3e9


class ScnetJobCountSensor(BaseSensorOperator):
    """
    Waits until a user's job counts on an SCnet cluster meet a condition.

    By default it waits in the triggerer: hundreds of gates share one request an interval and hold no worker, and
    a gate that opens claims room for the jobs that follow, so that room for three opens three. Its decision
    is the XCom ``decision``, as JSON text. It is the task's return value as well, a dict, where the DAG uses the
    gate's ``.output``, with ``use_worker``, and in poke and reschedule mode. ``dag.test()`` does the same.

    :param condition: the state of the queue to wait for: comparisons of sums, differences and products of whole
        numbers and ``running``, ``queued``, ``held``, ``suspended``, ``other``, ``total``, joined by ``and``,
        ``or``, ``not``, e.g. ``queued < 5 and running + queued < 20`` (templated)
    :param fail_when: an expression of the same kind that fails the gate for good when it holds on the reported
        counts, e.g. ``held > 0`` (templated)
    :param user_name: the cluster user whose jobs are counted; default: the connection's login, else the token's
        own user (templated)
    :param scnet_conn_id: the connection's id, or a list of ids: the gate waits on all of these clusters, and opens
        on the first whose condition holds, in the order given where several do; its decision names the connection
        (templated)
    :param queue_name: the queue, Slurm's partition, whose jobs are counted; default: all of them together
        (templated)
    :param submits: how many jobs the work behind this gate will submit; 0 for a gate that only watches (templated)
    :param submitted_by: ids of the tasks that submit, where these are not the tasks right behind the gate; a
        task of the gate's own group may go by the name it has there
    :param claim_ttl: seconds, or a timedelta, for which the jobs of a gate that opened are counted at most on
        top of what the cluster reports, once their submission runs
    :param deferrable: whether to wait in the triggerer, default True; with False there is no shared request and
        there are no claims, and ``mode`` says how a worker waits: it is a mistake with any other gate
    :param use_worker: whether to start and end on a worker all the same, for a return value that is read by
        ``xcom_pull`` in a template, or for listeners that live there
    :raises ConditionError: when the DAG file is parsed, where an expression without a template is outside the
        grammar, or could never hold once ``submits`` jobs are added
    :raises ValueError: likewise, where another argument is none of those above
    """

    template_fields: Sequence[str] = (
        "condition",
        "fail_when",
        "user_name",
        "scnet_conn_id",
        "queue_name",
        "submits",
    )
    ui_color = "#d5ead8"

    def __init__(
        self,
        *,
        condition: str,
        fail_when: str | None = None,
        user_name: str | None = None,
        scnet_conn_id: str | Sequence[str] = "scnet_default",
        queue_name: str | None = None,
        submits: int | str = 1,
        submitted_by: str | Sequence[str] | None = None,
        claim_ttl: float | timedelta = 180,
        deferrable: bool | None = None,
        use_worker: bool = False,
        **kwargs: Any,
    ) -> None:
        if not isinstance(scnet_conn_id, str):
            # The submission takes the connection from it: wait_for_room.output["scnet_conn_id"].
            kwargs.setdefault("multiple_outputs", True)
        super().__init__(**kwargs)
        self.condition = condition
        self.fail_when = fail_when
        self.user_name = user_name
        self.scnet_conn_id = scnet_conn_id
        self.queue_name = queue_name
        self.submits = submits
        names(submitted_by)
        self.submitted_by = submitted_by
        self.claim_ttl = _seconds(claim_ttl)
        self.deferrable = deferrable is None or deferrable
        # By whoever wrote the gate: what default_args say comes another way, and is meant for all sensors.
        self._names_a_mode = "mode" in kwargs
        self.use_worker = use_worker
        # A template may render to nothing, and nothing must neither become the connection's own user nor all
        # queues, nor switch a guard off.
        self._given = [
            name for name in ("user_name", "queue_name", "fail_when") if getattr(self, name) is not None
        ]
        # A mapped gate is built on the worker, where execute() checks it in a way that heeds soft_fail.
        if not getattr(self, "_BaseOperator__from_mapped", False):
            self._check_what_is_no_template()
        if deferrable is None and not self._names_a_mode and (asks := asks_for_workers(self)):
            warnings.warn(
                f"{asks} is not heeded by SCnet's gates, which wait in the triggerer: say deferrable=True "
                f"if that is meant, or deferrable=False to wait on a worker, where no room is claimed",
                stacklevel=2,
            )

    def _starts_from_trigger(self) -> bool:
        # Airflow reads this when it serialises the DAG, which is when a name that no task has can be told.
        named_tasks(self)
        return starts_in_scheduler(self, ScnetJobCountSensor)

    def _start_arguments(self) -> StartTriggerArgs | None:
        if not self.start_from_trigger:
            return None
        from airflow.triggers.base import StartTriggerArgs

        return StartTriggerArgs(
            trigger_cls=_TRIGGER,
            trigger_kwargs=self._trigger_kwargs(
                Gate.of(self.condition, self.fail_when, self.submits, self.queue_name), True
            ),
            next_method="execute_complete",
            timeout=self._budget(),
        )

    start_from_trigger = WhenRead(False, _starts_from_trigger)  # type: ignore[assignment]
    start_trigger_args = WhenRead(None, _start_arguments)  # type: ignore[assignment]

    def _check_what_is_no_template(self) -> None:
        self._check_mode()
        dag, fields = self.get_dag(), ScnetJobCountSensor.template_fields
        known = {field: value for field in fields if not is_template(value := getattr(self, field), dag)}
        # In place of what is not known yet stands what is no mistake.
        Gate.of(
            known.get("condition", "total >= 0"),
            known.get("fail_when"),
            known.get("submits", 1),
            known.get("queue_name"),
        ).checked()
        if "scnet_conn_id" in known:
            self._set_connections()
        if known.get("user_name") is not None:
            self.user_name = named("user_name", self.user_name)

    def execute(self, context: Context) -> Any:
        """
        Wait for the condition.

        :param context: the task's context
        """
        # The branches exclude each other: after a poke that succeeded there is nothing to defer, and a return
        # value is what carries the XCom.
        if not self.deferrable:
            self._warn_that_nothing_is_claimed(context)
            try:
                return self._left(context, super().execute(context))
            except AirflowTaskTimeout:
                self.log.error("%s", self._time_is_up(self.execution_timeout))
                raise
        return self._defer(context)

    def _defer(self, context: Context) -> Any:
        try:
            gate = self._gate()
        except AirflowFailException as e:
            if self.soft_fail or self.never_fail:
                raise AirflowSkipException(str(e)) from None
            raise
        from airflow_provider_scnet.triggers.scnet import ScnetJobCountTrigger

        return self.defer(
            trigger=ScnetJobCountTrigger(
                **self._trigger_kwargs(gate, ends_in_triggerer(self, ScnetJobCountSensor))
            ),
            method_name="execute_complete",
            kwargs={"try_number": context["ti"].try_number},
            timeout=self._budget(),
        )

    def _trigger_kwargs(self, gate: Gate, end_task: bool) -> dict[str, Any]:
        return {
            "condition": gate.condition.text,
            "fail_when": gate.fail_when.text if gate.fail_when else None,
            "user_name": self.user_name,
            "scnet_conn_id": self.scnet_conn_id,
            "queue_name": gate.queue_name,
            "submits": gate.submits,
            "claim_ttl": self.claim_ttl,
            **(self._submission_tasks() if gate.submits else {}),
            # The author's own, not the sum that Airflow makes of it: a large DAG must not come before a small one.
            "priority_weight": self.priority_weight,
            "poke_interval": self.poke_interval,
            "timeout": self._limit() if self.timeout < _FOREVER else None,
            "silent_fail": self.silent_fail,
            "end_task": end_task,
            "push_decision": bool(self.do_xcom_push),
        }

    def _submission_tasks(self) -> dict[str, Any]:
        return submission_tasks(self, ScnetJobCountSensor)

    def _limit(self) -> float:
        """Return the seconds that a deferral may last: the gate's timeout, unless Airflow cuts it short."""
        if self._is_cut_short():
            return self.execution_timeout.total_seconds()  # type: ignore[union-attr]
        return float(self.timeout)

    def _is_cut_short(self) -> bool:
        return EXECUTION_TIMEOUT_ENDS_DEFERRALS and is_shorter(self.execution_timeout, self.timeout)

    def _budget(self) -> timedelta | None:
        """Return how long a deferral may last; Airflow enforces it even while no triggerer runs."""
        return timedelta(seconds=self.timeout) if self.timeout < _FOREVER else None

    def _time_is_up(self, execution_timeout: timedelta | None = None) -> str:
        if execution_timeout is None:
            return f"the gate's timeout of {self.timeout:g} s is over"
        return (
            f"the task's execution_timeout of {execution_timeout.total_seconds():g} s is over, "
            f"before the gate's own timeout of {self.timeout:g} s: gates need no execution_timeout"
        )

    def execute_complete(self, context: Context, event: dict[str, Any] | None = None) -> Any:
        """
        End the task as the trigger decided, or fail.

        :param context: the task's context
        :param event: what the trigger sent
        """
        from airflow_provider_scnet.gate.decision import Verdict

        event = event if isinstance(event, dict) else {}
        message = str(event.get("message", ""))
        if event.get("verdict") == Verdict.TIMEOUT.value:
            cut_short = self.execution_timeout if self._is_cut_short() else None
            message = "; ".join(filter(None, (self._time_is_up(cut_short), message)))
        # Said here, because soft_fail puts words of its own in place of an error's.
        self.log.info("%s", message)
        match event:
            case {"verdict": Verdict.OPEN.value, "decision": dict(decision)}:
                self._left(context, decision)
                # What ends in the triggerer has no return value; in dag.test() it comes here, and has none either.
                return None if ends_in_triggerer(self, ScnetJobCountSensor) else decision
            case {"verdict": Verdict.RETRY.value}:
                raise AirflowException(message)
            case {"verdict": Verdict.FAIL.value}:
                raise AirflowFailException(message)
            case {"verdict": Verdict.TIMEOUT.value} if self._is_cut_short():
                # No limit of the gate's own, so the try fails as it does on a worker: retries apply.
                raise AirflowException(message)
            case {"verdict": Verdict.TIMEOUT.value}:
                raise AirflowSensorTimeout(message)
        raise AirflowException("the trigger sent no decision; the gate stays shut")

    def _left(self, context: Context, decision: Any) -> Any:
        """Leave a decision where one that ends in the triggerer leaves it, too; return it."""
        # A subclass may return something of its own from a poke.
        if self.do_xcom_push and isinstance(decision, dict):
            from airflow_provider_scnet.gate.decision import XCOM_KEY

            context["ti"].xcom_push(XCOM_KEY, json.dumps(decision))
        return decision

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """
        Go on after a deferral.

        :param next_method: where to go on
        :param next_kwargs: with what
        :param context: the task's context
        """
        next_kwargs, this_try = dict(next_kwargs or {}), context["ti"].try_number
        # Airflow 3.0 resumes a retry with what ended the try before it (apache/airflow #56704).
        if next_kwargs.pop("try_number", this_try) != this_try:
            return self._defer(context)
        next_method = method_of(next_method, next_kwargs)
        # Airflow before 3.0 makes an ordinary failure of a deferral's time-out, which would be retried.
        if next_method == "__fail__" and next_kwargs.get("error") == TRIGGER_TIMEOUT:
            from airflow_provider_scnet.gate.decision import Verdict

            next_method, next_kwargs = "execute_complete", {"event": {"verdict": Verdict.TIMEOUT.value}}
        try:
            return super().resume_execution(next_method, next_kwargs, context)
        except AirflowSkipException:
            raise
        except AirflowException as e:
            # Airflow before 3.0 heeds soft_fail here, but not never_fail.
            if self.never_fail:
                raise AirflowSkipException(str(e)) from None
            raise

    def poke(self, context: Context) -> bool | PokeReturnValue:
        """
        Poll once.

        :param context: the task's context
        """
        from airflow_provider_scnet.gate.clusters import SET_ASIDE
        from airflow_provider_scnet.gate.decision import Decision, Verdict, record
        from airflow_provider_scnet.hooks.polled_connection import PolledConnection

        evaluators, self._pause = self._evaluators(context), 0.0
        outcome = Decision(Verdict.WAIT, "")
        for conn_id, evaluator in list(evaluators.items()):
            gate = evaluator.gate
            queues = () if gate.queue_name is None else (gate.queue_name,)
            observation = PolledConnection(conn_id).observe(self.user_name, queues).of(gate.queue_name)
            self._pause = max(self._pause, observation.pause)
            decision = evaluator.judge(observation)
            if decision.verdict is Verdict.OPEN:
                xcom_value = {**record(gate.condition, observation, scnet_conn_id=conn_id), "claimed": 0}
                return PokeReturnValue(is_done=True, xcom_value=xcom_value)
            outcome = self._clusters.outcome(conn_id, decision)
            if decision.verdict is Verdict.FAIL and outcome.verdict is Verdict.WAIT:
                self.log.warning(SET_ASIDE, conn_id)
                del evaluators[conn_id]
        if outcome.verdict is Verdict.RETRY:
            raise AirflowException(str(outcome))
        if outcome.verdict is Verdict.FAIL:
            raise AirflowFailException(str(outcome))
        return False

    # Seconds for which the server asked to be left alone; what this process knows of each cluster.
    _pause = 0.0
    _clusters: Clusters
    _evaluators_here: dict[str, GateEvaluator] | None = None

    def _get_next_poke_interval(
        self, started_at: datetime | float, run_duration: Callable[[], float], poke_count: int
    ) -> float:
        interval: float = super()._get_next_poke_interval(started_at, run_duration, poke_count)
        left = max(self.timeout - run_duration(), 0.0)
        return max(interval, min(self._pause, left))

    def _evaluators(self, context: Context) -> dict[str, GateEvaluator]:
        """Return what decides for each cluster that the gate waits on, by the connection's id."""
        if self._evaluators_here is None:
            from airflow_provider_scnet.gate.clusters import Clusters
            from airflow_provider_scnet.gate.evaluator import GateEvaluator

            # In reschedule mode the process that had a good answer is gone; that it waited on stands for it.
            again = was_rescheduled(self, context)
            gate, wait_for = self._gate(), None if again else self.timeout
            conn_ids = named_connections(self.scnet_conn_id)
            self._clusters = Clusters(conn_ids)
            self._evaluators_here = {
                conn_id: GateEvaluator(
                    gate,
                    self.log,
                    answered=again,
                    wait_for=wait_for,
                    name=conn_id if len(conn_ids) > 1 else "",
                )
                for conn_id in conn_ids
            }
        return self._evaluators_here

    def _gate(self) -> Gate:
        """Read the arguments, rendered by now; what is wrong with them no retry would mend."""
        try:
            self._check_mode()
            self._set_connections()
            if emptied := next((name for name in self._given if getattr(self, name) is None), None):
                raise ValueError(f"{emptied} is given but empty")
            if self.user_name is not None:
                self.user_name = named("user_name", self.user_name)
            self._submission_tasks()
            return Gate.of(self.condition, self.fail_when, self.submits, self.queue_name).checked()
        except ValueError as e:
            raise AirflowFailException(str(e)) from None

    def _check_mode(self) -> None:
        if self._names_a_mode and self.deferrable:
            raise ValueError(
                f"mode={self.mode!r} says how a worker waits, and this gate waits in the triggerer: "
                f"say deferrable=False with it, or leave it out"
            )

    def _set_connections(self) -> None:
        # One is kept as the text that it was: so it stands in rendered fields and in the row of a trigger.
        conn_ids = named_connections(self.scnet_conn_id)
        self.scnet_conn_id = conn_ids if len(conn_ids) > 1 else conn_ids[0]

    def _warn_that_nothing_is_claimed(self, context: Context) -> None:
        if str(self.submits).strip() != "0" and not was_rescheduled(self, context):
            self.log.warning(
                "without deferrable=True no room is claimed: gates that look at the same moment may all pass; "
                "a gate that only watches has submits=0"
            )


def _seconds(claim_ttl: float | timedelta) -> float:
    seconds = claim_ttl.total_seconds() if isinstance(claim_ttl, timedelta) else claim_ttl
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds < math.inf:
        raise ValueError("claim_ttl is neither a number of seconds from 0 nor a timedelta")
    return float(seconds)

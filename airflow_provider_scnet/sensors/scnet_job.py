# SPDX-License-Identifier: Apache-2.0
"""The sensor that waits for the end of a job."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    BaseSensorOperator,
    PokeReturnValue,
)

from airflow_provider_scnet.event_loop import clock
from airflow_provider_scnet.gate.gate import named
from airflow_provider_scnet.sensors.start_and_end import TRIGGER_TIMEOUT, is_template, method_of, was_rescheduled

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_provider_scnet.client.reported_job import ReportedJob


class ScnetJobSensor(BaseSensorOperator):
    """
    Waits for the end of a job that somebody else submitted, and succeeds where the job completed.

    A job that ended otherwise fails the task without retry: it will not complete any more. What SCnet does not
    show, or not yet, is waited for until ``timeout``. It returns a dict: ``job_id``, ``job_name``, ``state``,
    ``exit_code``, ``started_at``, ``ended_at``, ``stdout`` and ``stderr``.

    :param job_id: the job's id (templated)
    :param scnet_conn_id: the connection's id (templated)
    :param deferrable: whether to wait in the triggerer, where all who wait for jobs share one list an interval;
        without it ``mode`` says how a worker waits
    """

    template_fields: Sequence[str] = ("job_id", "scnet_conn_id")
    ui_color = "#d5ead8"

    def __init__(
        self,
        *,
        job_id: str | int,
        scnet_conn_id: str = "scnet_default",
        deferrable: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.job_id = job_id
        self.scnet_conn_id = scnet_conn_id
        self.deferrable = deferrable
        if not getattr(self, "_BaseOperator__from_mapped", False):
            for name in self.template_fields:
                if not is_template(getattr(self, name), self.get_dag()):
                    named(name, getattr(self, name))

    def execute(self, context: Context) -> Any:
        """
        Wait for the job's end.

        :param context: the task's context
        """
        if not self.deferrable:
            return super().execute(context)
        try:
            return self._look(context, clock.wall())
        except AirflowFailException as error:
            if self.soft_fail or self.never_fail:
                raise AirflowSkipException(str(error)) from None
            raise

    def execute_complete(self, context: Context, event: Any = None) -> Any:
        """
        Go on after a wait in the triggerer.

        :param context: the task's context
        :param event: what the trigger sent
        """
        match event:
            # Airflow 3.0 resumes a retry with what ended the try before it (apache/airflow #56704).
            case {"began_at": float(began_at), "try_number": number} if number == context["ti"].try_number:
                self._has_answered = True
                return self._look(context, began_at)
        return self._look(context, clock.wall())

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """
        Go on after a deferral.

        :param next_method: where to go on
        :param next_kwargs: with what
        :param context: the task's context
        """
        next_method = method_of(next_method, next_kwargs or {})
        # Airflow before 3.0 makes an ordinary failure of a deferral's time-out, which would be retried.
        if next_method == "__fail__" and (next_kwargs or {}).get("error") == TRIGGER_TIMEOUT:
            next_method, next_kwargs = "_time_is_up", {}
        return super().resume_execution(next_method, next_kwargs, context)

    def _time_is_up(self, context: Context) -> None:
        raise AirflowSensorTimeout(f"job {self.job_id} has not ended within {self.timeout:g} s")

    def _look(self, context: Context, began_at: float) -> Any:
        done = self.poke(context)
        if done:
            return done.xcom_value
        from airflow_provider_scnet.triggers.job import ScnetJobTrigger

        left = began_at + self.timeout - clock.wall()
        if left <= 0:
            self._time_is_up(context)
        is_listed = self._seen is not None and self._seen.state.is_unfinished
        return self.defer(
            trigger=ScnetJobTrigger(
                scnet_conn_id=self.scnet_conn_id,
                job_id=str(self.job_id),
                poll_interval=self.poke_interval,
                # What the list does not show has to be asked for.
                until=None if is_listed else clock.wall() + self.poke_interval,
                settle=0.0,
                began_at=began_at,
                try_number=context["ti"].try_number,
            ),
            method_name="execute_complete",
            timeout=timedelta(seconds=left),
        )

    # Whether SCnet has answered in this try; the job as it was seen last.
    _has_answered = False
    _seen: ReportedJob | None = None

    def poke(self, context: Context) -> PokeReturnValue | None:  # type: ignore[override]
        """
        Ask once what became of the job.

        :param context: the task's context
        """
        from airflow_provider_scnet.client.errors import ErrorKind, ScnetError
        from airflow_provider_scnet.client.job_state import HISTORY_LAG, JobState
        from airflow_provider_scnet.hooks.scnet import ScnetHook

        try:
            conn_id = named("scnet_conn_id", self.scnet_conn_id)
            job_id = named("job_id", self.job_id)
        except ValueError as error:
            raise AirflowFailException(str(error)) from None
        try:
            self._seen = job = ScnetHook(conn_id).get_job(job_id)
        except ScnetError as error:
            if error.kind is ErrorKind.PERMANENT:
                raise AirflowFailException(str(error)) from None
            is_first = not (self._has_answered or was_rescheduled(self, context))
            if error.kind is ErrorKind.CREDENTIALS or (error.kind is ErrorKind.UNCLEAR and is_first):
                raise AirflowException(str(error)) from None
            self.log.warning("waiting: %s", error)
            return None
        self._has_answered = True
        if job is None:
            self.log.info("waiting: SCnet shows no job %s", job_id)
            return None
        if job.state is JobState.COMPLETED:
            return PokeReturnValue(is_done=True, xcom_value=job.as_dict())
        # The others may be queued again, which Slurm does soon.
        if job.state.is_final or (job.ended_at and clock.wall() > job.ended_at.timestamp() + HISTORY_LAG):
            raise AirflowFailException(job.how_it_ended)
        self.log.info("waiting: job %s is %s", job_id, job.said_state)
        return None

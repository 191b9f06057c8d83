# SPDX-License-Identifier: Apache-2.0
"""The operator that submits a job and waits for its end."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowFailException,
    AirflowTaskTimeout,
    BaseOperator,
)

from airflow_provider_scnet.gate.names import named
from airflow_provider_scnet.sensors.start_and_end import is_template

# What brings requests along is imported where it is needed, not wherever a DAG file is parsed.

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_provider_scnet.client.job_request import JobRequest
    from airflow_provider_scnet.client.reported_job import ReportedJob
    from airflow_provider_scnet.operators.attempt import Attempt

#: Seconds after which a worker that waits looks whether its task was killed.
LOOK_EVERY = 5.0


class ScnetSubmitJobOperator(BaseOperator):
    """
    Submits one job to an SCnet cluster, never knowingly twice, and waits for its end.

    Each job gets a name that tells the task instance. Each try asks for jobs of that name before it submits, and
    takes the one that is there: after a worker died, or an answer was lost, the next try goes on with the job. A
    try after a job that is known to have failed submits a new one, and so does a task that somebody clears.

    It returns a dict, ``job_id``, ``job_name``, ``scnet_conn_id``, ``state``, ``exit_code``, ``started_at``,
    ``ended_at``, ``stdout`` and ``stderr``, which is the XCom ``job`` as well, also where the task fails. The XCom
    ``job_id`` is there as soon as the id is known.

    :param command: what runs on the cluster, as text or as a list of lines (templated)
    :param work_dir: where it runs, an absolute path of the cluster (templated)
    :param queue_name: the queue, Slurm's partition (templated)
    :param wall_time: how long the job may run, such as ``01:30:00``, or a timedelta (templated)
    :param nodes: how many nodes (templated)
    :param cores: how many cores in all; not together with ``cores_per_node`` (templated)
    :param cores_per_node: how many cores on each node (templated)
    :param gpus_per_node: how many GPUs on each node (templated)
    :param dcus_per_node: how many DCUs on each node (templated)
    :param memory_per_node: memory on each node, such as ``4GB`` (templated)
    :param exclusive: whether the job has its nodes for itself
    :param app_name: the English name of SCnet's application (templated)
    :param stdout: the file of the standard output, below ``work_dir`` unless absolute; ``%j`` stands for the id
        (templated)
    :param stderr: the file of the standard error, likewise (templated)
    :param job_options: further fields ``GAP_…`` of SCnet's interface, but none that names, multiplies or replaces
        the job (templated)
    :param job_name: the readable end of the job's name, of which few characters are kept; default: the task's id
        (templated)
    :param scnet_conn_id: the connection's id (templated)
    :param wait_for_completion: whether to wait for the end; without, the task ends when the job is accepted
    :param deferrable: whether to wait in the triggerer, without a worker
    :param poll_interval: seconds between two looks at the job
    :param timeout: seconds, or a timedelta, within which the job has to be accepted; so long a limit of submitted
        jobs is waited out
    :param queue_timeout: seconds, or a timedelta, within which an accepted job has to start, else it is cancelled
        and the try fails; None: it may be queued for however long
    :param cancel_on_kill: whether the job is cancelled where the task is killed while a worker waits for it
    :param log_tail_lines: how many lines of its output a failed job shows in the task's log
    :param settle: seconds from a request to submit for which a job that is in no list may yet appear
    :raises ValueError: when the DAG file is parsed, where something without a template is wrong or missing
    """

    template_fields: Sequence[str] = (
        "command",
        "work_dir",
        "queue_name",
        "wall_time",
        "nodes",
        "cores",
        "cores_per_node",
        "gpus_per_node",
        "dcus_per_node",
        "memory_per_node",
        "app_name",
        "stdout",
        "stderr",
        "job_options",
        "job_name",
        "scnet_conn_id",
    )
    template_ext: Sequence[str] = ()
    ui_color = "#d5ead8"

    def __init__(
        self,
        *,
        command: str | Sequence[str],
        work_dir: str,
        queue_name: str,
        wall_time: str | timedelta,
        nodes: int | str | None = None,
        cores: int | str | None = None,
        cores_per_node: int | str | None = None,
        gpus_per_node: int | str | None = None,
        dcus_per_node: int | str | None = None,
        memory_per_node: str | None = None,
        exclusive: bool = False,
        app_name: str = "BASE",
        stdout: str = "std.out.%j",
        stderr: str = "std.err.%j",
        job_options: Mapping[str, Any] | None = None,
        job_name: str | None = None,
        scnet_conn_id: str = "scnet_default",
        wait_for_completion: bool = True,
        deferrable: bool = True,
        poll_interval: float = 60.0,
        timeout: float | timedelta = timedelta(days=7),
        queue_timeout: float | timedelta | None = None,
        cancel_on_kill: bool = True,
        log_tail_lines: int = 50,
        settle: float = 120.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.command = command
        self.work_dir = work_dir
        self.queue_name = queue_name
        self.wall_time = wall_time
        self.nodes = nodes
        self.cores = cores
        self.cores_per_node = cores_per_node
        self.gpus_per_node = gpus_per_node
        self.dcus_per_node = dcus_per_node
        self.memory_per_node = memory_per_node
        self.exclusive = exclusive
        self.app_name = app_name
        self.stdout = stdout
        self.stderr = stderr
        self.job_options = job_options
        self.job_name = job_name
        self.scnet_conn_id = scnet_conn_id
        self.wait_for_completion = wait_for_completion
        self.deferrable = deferrable
        self.poll_interval = _seconds("poll_interval", poll_interval)
        self.timeout = _seconds("timeout", timeout)
        self.queue_timeout = None if queue_timeout is None else _seconds("queue_timeout", queue_timeout)
        self.cancel_on_kill = cancel_on_kill
        self.log_tail_lines = log_tail_lines
        self.settle = _seconds("settle", settle)
        # A mapped task is built on the worker, where execute() checks it.
        if not getattr(self, "_BaseOperator__from_mapped", False):
            values = [getattr(self, name) for name in self.template_fields]
            if not any(is_template(value) for value in values):
                self._request("check")

    @property
    def _queue_timeout(self) -> float:
        return float("inf") if self.queue_timeout is None else self.queue_timeout

    def _request(self, job_name: str) -> JobRequest:
        from airflow_provider_scnet.client.errors import ScnetConfigError
        from airflow_provider_scnet.client.job_request import JobRequest

        names = [field.name for field in dataclasses.fields(JobRequest) if field.name != "job_name"]
        given = {name: getattr(self, name) for name in names}
        try:
            return JobRequest(**{**given, "job_options": self.job_options or {}, "job_name": job_name})
        except ScnetConfigError as error:
            raise ValueError(str(error)) from None

    # The way through a try

    def execute(self, context: Context) -> Any:
        """
        Submit the job, or take the one that is there, and wait for its end.

        :param context: the task's context
        """
        return self._go_on(context, time.time())

    def execute_complete(self, context: Context, event: Any = None, began_at: float | None = None) -> Any:
        """
        Go on after a wait in the triggerer: what became of the job is asked anew.

        :param context: the task's context
        :param event: what the trigger sent
        :param began_at: when the try began, in seconds since 1970
        """
        return self._go_on(context, began_at or time.time())

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """
        Go on after a deferral, however it ended.

        :param next_method: where to go on
        :param next_kwargs: with what
        :param context: the task's context
        """
        next_kwargs, this_try = dict(next_kwargs or {}), context["ti"].try_number
        # Airflow 3.0 resumes a retry with what ended the try before it (apache/airflow #56704).
        if next_method == "__fail__" or next_kwargs.pop("try_number", this_try) != this_try:
            return self.execute(context)
        return super().resume_execution(next_method, next_kwargs, context)

    def on_kill(self) -> None:
        """Let the worker that waits look whether somebody ended the task, or a machine is only shut down."""
        self._is_killed = True

    # Whether a signal said that the task is to end; the attempt that is under way.
    _is_killed = False
    _job: ReportedJob | None = None

    def _go_on(self, context: Context, began_at: float) -> Any:
        from airflow_provider_scnet.client.errors import ErrorKind, ScnetError
        from airflow_provider_scnet.operators.intents import IntentError
        from airflow_provider_scnet.operators.submit_once import Step

        try:
            named("scnet_conn_id", self.scnet_conn_id)
            request = self._request("any")
        except ValueError as error:
            raise AirflowFailException(str(error)) from None
        attempt, said = None, ""
        try:
            while True:
                until, job = time.time() + self.poll_interval, None
                try:
                    attempt = attempt or self._attempt(context, began_at)
                    decision = attempt.next_step()
                    match decision.step:
                        case Step.TAKE:
                            job = decision.jobs[0]
                            attempt.take(job)
                            why = self._of_job(context, attempt, job)
                            if not why:
                                return self._left(attempt, job)
                        case Step.FAIL:
                            raise AirflowFailException(decision.why)
                        case Step.CANCEL:
                            why = attempt.cancel(decision.jobs[0], decision.why)
                        case Step.SUBMIT if decision.name:
                            why = attempt.submit(decision.name, request)
                            if not why:
                                self._push(context, "job_id", attempt.intent and attempt.intent.job_id)
                                if not self.wait_for_completion:
                                    return self._of_accepted(attempt, request)
                                continue
                        case _:
                            attempt.note_end(decision)
                            why, until = decision.why, max(decision.at, time.time() + 1.0)
                except IntentError as error:
                    why = f"{error}: nothing is submitted"
                except ScnetError as error:
                    if error.kind is ErrorKind.PERMANENT:
                        raise AirflowFailException(str(error)) from None
                    if error.kind is ErrorKind.CREDENTIALS:
                        raise AirflowException(str(error)) from None
                    why = str(error)
                accepted = attempt and attempt.intent and attempt.intent.job_id
                if not accepted and time.time() >= began_at + self.timeout:
                    raise AirflowException(f"no job was accepted within {self.timeout:g} s: {why}")
                if why != said:
                    said = why
                    self.log.info("waiting: %s", why)
                self._wait(context, attempt, began_at, until, job)
        except AirflowTaskTimeout:
            if attempt and self.cancel_on_kill and self._job:
                attempt.cancel(self._job, "the task's execution_timeout is over")
            raise

    def _attempt(self, context: Context, began_at: float) -> Attempt:
        from airflow_provider_scnet.hooks.scnet import ScnetHook
        from airflow_provider_scnet.operators import intents, job_name
        from airflow_provider_scnet.operators.attempt import Attempt, Identity

        ti, hook = context["ti"], ScnetHook(self.scnet_conn_id)
        run = context["dag_run"]
        space = hook.get_namespace() or intents.namespace()
        task = job_name.task_hash(space, ti.dag_id, ti.run_id, ti.task_id, ti.map_index)
        # The number of the last try before somebody cleared the task: it stays the same over retries.
        round_ = max(0, (ti.max_tries or 0) - (self.retries or 0))
        store = context.get("task_state_store")
        return Attempt(
            hook,
            Identity(
                task,
                round_,
                ti.try_number == round_ + 1,
                job_name.readable(self.job_name or self.task_id.rpartition(".")[2]),
                getattr(run, "queued_at", None) or run.start_date or datetime.now(timezone.utc),
            ),
            intents.VariableIntents(task) if store is None else intents.StateStoreIntents(store),
            self.log,
            began_at,
            self.settle,
            self.poll_interval,
        )

    def _of_job(self, context: Context, attempt: Attempt, job: ReportedJob) -> str:
        """Return what is awaited of a job; empty where it has succeeded, or nobody waits."""
        from airflow_provider_scnet.client.lifecycle import JobState

        self._job, intent = job, attempt.intent
        self._push(context, "job_id", job.job_id)
        if job.state is JobState.COMPLETED or (job.state.is_unfinished and not self.wait_for_completion):
            self._push(context, "job", self._left(attempt, job))
            if job.state is JobState.COMPLETED:
                attempt.forget()
            return ""
        if job.state.is_unfinished:
            waits = job.state in (JobState.QUEUED, JobState.HELD)
            if intent and waits and not intent.cancelled_for and time.time() >= intent.at + self._queue_timeout:
                why = f"it did not start within {self._queue_timeout:g} s"
                return attempt.cancel(job, why, cancelled_for=why)
            return f"job {job.job_id} is {job.state}" + (
                f" ({job.reason})" if job.reason not in ("", "None") else ""
            )
        self._push(context, "job", self._left(attempt, job))
        self._show_output(attempt, job)
        attempt.has_failed()
        why = f"job {job.job_id} has ended: {job.state}" + (f", {job.reason}" if job.reason else "")
        why += f", exit code {job.exit_code}" if job.exit_code else ""
        if intent and intent.cancelled_for:
            raise AirflowException(f"{why}: {intent.cancelled_for}")
        if job.state is JobState.CANCELLED:
            raise AirflowFailException(f"{why}: somebody cancelled it, so it is not submitted again")
        raise AirflowException(why)

    def _wait(
        self, context: Context, attempt: Attempt | None, began_at: float, until: float, job: ReportedJob | None
    ) -> None:
        """Wait until some moment, or for the end of a job; in the triggerer it goes on in ``execute_complete``."""
        if not self.deferrable:
            while (left := until - time.time()) > 0:
                time.sleep(min(left, LOOK_EVERY))
                self._end_if_killed(context, attempt)
            return
        from airflow_provider_scnet.triggers.job import ScnetJobTrigger

        start_by, intent = None, attempt.intent if attempt else None
        if job and intent and self.queue_timeout is not None and not intent.cancelled_for:
            start_by = intent.at + self._queue_timeout
        self.defer(
            trigger=ScnetJobTrigger(
                scnet_conn_id=self.scnet_conn_id,
                poll_interval=self.poll_interval,
                job_id=job.job_id if job else None,
                until=None if job else until,
                start_by=start_by,
            ),
            method_name="execute_complete",
            kwargs={"began_at": began_at, "try_number": context["ti"].try_number},
        )

    def _end_if_killed(self, context: Context, attempt: Attempt | None) -> None:
        if not self._is_killed:
            return
        from airflow_provider_scnet.operators.intents import is_running

        # A worker that is evicted gets the same signal as one whose task somebody ended.
        if self.cancel_on_kill and attempt and self._job and not is_running(context["ti"]):
            attempt.cancel(self._job, "the task was ended")
        raise AirflowException("the task was ended" + (f"; job {self._job.job_id} may go on" if self._job else ""))

    # What it leaves

    def _push(self, context: Context, key: str, value: Any) -> None:
        if self.do_xcom_push:
            context["ti"].xcom_push(key=key, value=value)

    def _left(self, attempt: Attempt, job: ReportedJob) -> dict[str, Any]:
        return {
            "job_id": job.job_id,
            "job_name": job.name,
            "scheduler_id": attempt.scheduler_id,
            "scnet_conn_id": self.scnet_conn_id,
            "state": str(job.state),
            "exit_code": job.exit_code or None,
            "started_at": _text(job.started_at),
            "ended_at": _text(job.ended_at),
            "stdout": job.stdout or self._request("any").stdout_of(job.job_id),
            "stderr": job.stderr or self._request("any").stderr_of(job.job_id),
        }

    def _of_accepted(self, attempt: Attempt, request: JobRequest) -> dict[str, Any]:
        from airflow_provider_scnet.client.lifecycle import JobState
        from airflow_provider_scnet.client.reported_job import ReportedJob

        intent = attempt.intent
        assert intent is not None  # noqa: S101
        return self._left(attempt, ReportedJob(intent.job_id, intent.name, JobState.QUEUED, "list"))

    def _show_output(self, attempt: Attempt, job: ReportedJob) -> None:
        from airflow_provider_scnet.client.errors import ScnetError

        left = self._left(attempt, job)
        for path in dict.fromkeys((left["stdout"], left["stderr"])) if self.log_tail_lines else ():
            try:
                text = attempt.read_log(path, self.log_tail_lines)
            except ScnetError as error:
                text = f"it cannot be read: {error}"
            self.log.info("the end of %s:\n%s", path, text or "(it is empty, or not there)")


def _seconds(name: str, value: float | timedelta) -> float:
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 < seconds < float("inf"):
        raise ValueError(f"{name} is neither a number of seconds above 0 nor a timedelta")
    return float(seconds)


def _text(time: datetime | None) -> str | None:
    return time.isoformat() if time else None

# SPDX-License-Identifier: Apache-2.0
"""The operator that submits a job and waits for its end."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowFailException,
    AirflowTaskTimeout,
    BaseOperator,
)

from airflow_provider_scnet.claims.claim_terms import JOB_ID_KEY
from airflow_provider_scnet.client.reported_job import MOST_LINES
from airflow_provider_scnet.event_loop import clock
from airflow_provider_scnet.gate.condition import Condition
from airflow_provider_scnet.gate.gate import Gate, named
from airflow_provider_scnet.sensors.start_and_end import (
    EXECUTION_TIMEOUT_ENDS_DEFERRALS,
    TRIGGER_TIMEOUT,
    is_shorter,
    is_template,
)

# What brings requests along is imported where it is needed, not wherever a DAG file is parsed.

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airflow_provider_scnet.client.errors import ScnetError
    from airflow_provider_scnet.client.job_request import JobRequest
    from airflow_provider_scnet.client.reported_job import ReportedJob
    from airflow_provider_scnet.gate.evaluator import GateEvaluator
    from airflow_provider_scnet.operators.submission_try import Attempt

# Seconds for which a worker that waits sleeps at most: after a signal Airflow leaves it five.
_NAP = 0.5
# What stands for a template where a DAG file is parsed; a number for all others.
_SAMPLES = {
    **dict.fromkeys(("command", "queue_name", "app_name", "stdout", "stderr"), "x"),
    "work_dir": "/x",
    "wall_time": "00:01:00",
    "memory_per_node": "1GB",
    "job_options": {},
}
# How far back the history is asked at most.
_LONGEST_RUN = timedelta(days=30)


class ScnetSubmitJobOperator(BaseOperator):
    """
    Submits one job to an SCnet cluster, never knowingly twice, and waits for its end.

    Each job gets a name that tells the task instance. Each try asks for jobs of that name before it submits, and
    takes the one that is there: after a worker died, or an answer was lost, the next try goes on with the job. A
    try after a job that is known to have failed submits a new one, and so does a task that somebody clears.

    It returns a dict, ``job_id``, ``job_name``, ``scheduler_id``, ``scnet_conn_id``, ``state``, ``exit_code``,
    ``started_at``, ``ended_at``, ``stdout`` and ``stderr``, which is the XCom ``job`` as well, also where the task
    fails. The XCom ``job_id`` is there as soon as the id is known.

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
    :param condition: the state of the queue to wait for before it submits, as that of
        :class:`.ScnetJobCountSensor`, on the counts of all queues; a gate of its own, of which a retry and a
        refusal by the limit wait again. Default: it submits at once (templated)
    :param wait_for_completion: whether to wait for the end; without, the task ends when the job is accepted
    :param deferrable: whether to wait in the triggerer, without a worker
    :param poll_interval: seconds between two looks at the job
    :param timeout: seconds, or a timedelta, within which the job has to be accepted; so long it waits for the
        condition, and a limit of submitted jobs is waited out
    :param queue_timeout: seconds, or a timedelta, within which an accepted job has to start, else it is cancelled
        and the try fails; None: it may be queued for however long
    :param cancel_on_kill: whether the job is cancelled where somebody ends the task, or its ``execution_timeout``
        is over; in the triggerer from Airflow 3.3 on
    :param log_tail_lines: how many lines of its output a failed job shows in the task's log
    :param settle: seconds from a request to submit for which a job that is in no list may yet appear
    :raises ValueError: when the DAG file is parsed, where something without a template is wrong or missing
    """

    #: A gate in front of it learns by the XCom ``job_id`` that its job is submitted, long before the task ends.
    tells_job_id = True
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
        "condition",
    )
    template_fields_renderers = {"command": "bash"}  # noqa: RUF012
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
        condition: str | None = None,
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
        self.condition = condition
        # A template that renders to nothing must not switch the gate off.
        self._has_a_gate = condition is not None
        self.wait_for_completion = wait_for_completion
        self.deferrable = deferrable
        self.poll_interval = _seconds("poll_interval", poll_interval)
        self.timeout = _seconds("timeout", timeout)
        self.queue_timeout = None if queue_timeout is None else _seconds("queue_timeout", queue_timeout)
        self.cancel_on_kill = cancel_on_kill
        self.log_tail_lines = log_tail_lines
        self.settle = _seconds("settle", settle)
        if isinstance(log_tail_lines, bool) or log_tail_lines not in range(MOST_LINES + 1):
            raise ValueError(f"log_tail_lines is no whole number from 0 to {MOST_LINES}")
        # A mapped task is built on the worker, where execute() checks it.
        if not getattr(self, "_BaseOperator__from_mapped", False):
            self._request(_SAMPLES)
            if not is_template(scnet_conn_id, self.get_dag()):
                named("scnet_conn_id", scnet_conn_id)
            if condition is not None and not is_template(condition, self.get_dag()):
                Condition(condition)

    def _request(self, samples: Mapping[str, Any] | None = None) -> JobRequest:
        """
        Return what is asked; the name of the job is none yet.

        :param samples: what stands for templates; None: they have been rendered
        :raises ValueError: where something is missing, wrong, or excludes each other
        """
        from airflow_provider_scnet.client.errors import ScnetConfigError
        from airflow_provider_scnet.client.job_request import JobRequest

        given: dict[str, Any] = {
            field.name: getattr(self, field.name, "any") for field in dataclasses.fields(JobRequest)
        }
        given |= {"job_name": "any", "job_options": self.job_options or {}}
        if samples is not None:
            dag = self.get_dag()
            given |= {name: samples.get(name, "1") for name, value in given.items() if _is_template(value, dag)}
        try:
            return JobRequest(**given)
        except ScnetConfigError as error:
            raise ValueError(str(error)) from None

    # The way through a try

    def execute(self, context: Context) -> Any:
        """
        Submit the job, or take the one that is there, and wait for its end.

        :param context: the task's context
        """
        return self._run(context, clock.wall())

    def execute_complete(self, context: Context, event: Any = None) -> Any:
        """
        Go on after a wait in the triggerer: what became of the job is asked anew.

        :param context: the task's context
        :param event: what the trigger sent
        """
        match event:
            # Airflow 3.0 resumes a retry with what ended the try before it (apache/airflow #56704).
            case {"began_at": float(began_at), "try_number": number} if number == context["ti"].try_number:
                has_room = "verdict" in event and self._has_room(context, event)
                return self._run(context, began_at, is_resumed=True, has_room=has_room)
        return self.execute(context)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:
        """
        Go on after a deferral, however it ended.

        :param next_method: where to go on
        :param next_kwargs: with what
        :param context: the task's context
        """
        if next_method != "__fail__":
            return super().resume_execution(next_method, next_kwargs, context)
        error = str((next_kwargs or {}).get("error"))
        if error == TRIGGER_TIMEOUT:
            limit = self.execution_timeout if EXECUTION_TIMEOUT_ENDS_DEFERRALS else None
            if limit and (not self._has_a_gate or is_shorter(limit, self.timeout)):
                self._cancel(context, self._time_is_up)
                raise AirflowException(self._time_is_up)
            if self._has_a_gate:
                # No triggerer told it; no other wait has an end that Airflow knows.
                return self._run(context, clock.wall() - self.timeout, is_resumed=True)
        self.log.warning("the wait in the triggerer ended with an error, and is begun anew: %s", error)
        return self.execute(context)

    def on_kill(self) -> None:
        """Let the worker that waits see whether somebody ended the task, or a machine is only shut down."""
        self._is_killed = True

    # Whether a signal said that this process is to end; the try that is under way in it.
    _is_killed = False
    _attempt: Attempt | None = None

    def _run(self, context: Context, began_at: float, is_resumed: bool = False, has_room: bool = False) -> Any:
        self._attempt = None
        try:
            named("scnet_conn_id", self.scnet_conn_id)
            if self._has_a_gate:
                Condition(str(self.condition or ""))
            request = self._request()
        except ValueError as error:
            raise AirflowFailException(str(error)) from None
        try:
            return self._go_on(context, request, began_at, is_resumed, has_room or not self._has_a_gate)
        except AirflowTaskTimeout:
            self._cancel(context, self._time_is_up)
            raise
        except BaseException:
            # Airflow 2 raises an error of its own after on_kill().
            if self._is_killed:
                self._cancel_if_over(context)
            raise

    def _go_on(
        self, context: Context, request: JobRequest, began_at: float, has_answered: bool, has_room: bool
    ) -> Any:
        from airflow_provider_scnet.client.errors import ScnetError
        from airflow_provider_scnet.client.job_state import JobState
        from airflow_provider_scnet.operators.intents import IntentError
        from airflow_provider_scnet.operators.submit_once import Step

        said = ""
        while True:
            until, job = clock.wall() + self.poll_interval, None
            try:
                attempt = self._attempt = self._attempt or self._new_attempt(context, began_at)
                decision = attempt.next_step()
                has_answered = True
                match decision.step:
                    case Step.SUBMIT if not has_room:
                        if self.deferrable:
                            self._defer_for_room(context, began_at)
                        said = why = self._why_there_is_no_room()
                        if has_room := not why:
                            continue
                    case Step.SUBMIT if decision.name:
                        has_room = not self._has_a_gate
                        why = attempt.submit(decision.name, request)
                        if job := attempt.submitted:
                            self._push(context, JOB_ID_KEY, job.job_id)
                            if not self.wait_for_completion:
                                return self._leave(context, attempt, job)
                    case Step.TAKE:
                        attempt.take(decision.jobs[0])
                        self._push(context, JOB_ID_KEY, decision.jobs[0].job_id)
                        if not self.wait_for_completion or decision.jobs[0].state is JobState.COMPLETED:
                            return self._leave(context, attempt, decision.jobs[0])
                        why, job = self._of_job(context, attempt, decision.jobs[0])
                    case Step.CANCEL:
                        why = "; ".join([attempt.cancel(each, decision.why) for each in decision.jobs])
                    case Step.FAIL:
                        raise AirflowFailException(decision.why)
                    case _ if decision.jobs and not self.wait_for_completion:
                        return self._leave(context, attempt, decision.jobs[0])
                    case _:
                        why, until = decision.why, max(decision.at, clock.wall() + 1.0)
            except IntentError as error:
                why = str(error)
            except ScnetError as error:
                why = self._of_error(error, has_answered)
            if not self._job_id and clock.wall() >= began_at + self.timeout:
                raise AirflowException(f"{self._too_late}: {why}")
            if why != said:
                said = why
                self.log.info("waiting: %s", why)
            self._wait(context, began_at, until, job)

    def _new_attempt(self, context: Context, began_at: float) -> Attempt:
        from airflow_provider_scnet.hooks.scnet import ScnetHook
        from airflow_provider_scnet.operators.intents import Intents, namespace
        from airflow_provider_scnet.operators.job_name import readable, task_hash
        from airflow_provider_scnet.operators.submission_try import Attempt
        from airflow_provider_scnet.operators.submit_once import Try

        ti, hook = context["ti"], ScnetHook(self.scnet_conn_id)
        task = task_hash(hook.get_namespace() or namespace(), ti.dag_id, ti.run_id, ti.task_id, ti.map_index)
        # The same over retries; where somebody clears a task that has ended, Airflow adds the tries that it had.
        round_ = max(0, (ti.max_tries or 0) - (self.retries or 0))
        name = readable(self.job_name or self.task_id.rpartition(".")[2])
        return Attempt(
            hook,
            Try(task, round_, ti.try_number == 1, began_at, name),
            Intents(task, context.get("task_state_store")),
            self.log,
            _made_at(context["dag_run"]),
            self.settle,
            self.poll_interval,
        )

    @property
    def _job_id(self) -> str:
        """The id of the job, as far as it is known."""
        return self._attempt.job_id if self._attempt else ""

    @property
    def _job_goes_on(self) -> str:
        return f"; job {self._job_id} may go on" if self._job_id else ""

    def _of_error(self, error: ScnetError, has_answered: bool) -> str:
        """Return what is waited out; fail where waiting does not help."""
        from airflow_provider_scnet.client.errors import ErrorKind

        if error.kind is ErrorKind.PERMANENT:
            raise AirflowFailException(f"{error}{self._job_goes_on}") from None
        # A job that is there is better waited for than left alone: somebody may paste a new token.
        if not self._job_id and (
            error.kind is ErrorKind.CREDENTIALS or (error.kind is ErrorKind.UNCLEAR and not has_answered)
        ):
            raise AirflowException(str(error)) from None
        return str(error)

    def _of_job(self, context: Context, attempt: Attempt, job: ReportedJob) -> tuple[str, ReportedJob | None]:
        """Return what is awaited, and the job whose end that is; fail where it has ended."""
        if not job.state.is_unfinished:
            self._fail(context, attempt, job)
        start_by = self._start_by(job)
        if start_by is None or clock.wall() < start_by:
            return f"job {job.job_id} is {job.said_state}", job
        why = f"it did not start within {self.queue_timeout:g} s"
        if attempt.resists():
            raise AirflowFailException(f"job {job.job_id} cannot be cancelled, and goes on: {why}")
        return attempt.cancel(job, why, cancelled_for=why), None

    def _start_by(self, job: ReportedJob) -> float | None:
        """Return the moment by which a job has to start; None where it has, or may start whenever it does."""
        from airflow_provider_scnet.client.job_state import JobState

        intent, has_run = (self._attempt.intent, self._attempt.has_run) if self._attempt else (None, set())
        is_queued = job.state in (JobState.QUEUED, JobState.HELD) and job.job_id not in has_run
        return intent.at + self.queue_timeout if intent and is_queued and self.queue_timeout is not None else None

    def _fail(self, context: Context, attempt: Attempt, job: ReportedJob) -> NoReturn:
        from airflow_provider_scnet.client.errors import ScnetError
        from airflow_provider_scnet.client.job_state import JobState

        left, ti = self._left(attempt, job), context["ti"]
        self._push(context, "job", left)
        for path in dict.fromkeys((left["stdout"], left["stderr"])) if self.log_tail_lines else ():
            try:
                text = attempt.hook.read_log(path, lines=self.log_tail_lines)
            except ScnetError as error:
                text = f"it cannot be read: {error}"
            self.log.info("the end of %s:\n%s", path, text or "(it is empty, or not there)")
        why = job.how_it_ended
        is_cancelled = job.state is JobState.CANCELLED
        cancelled_for = attempt.intent.cancelled_for if attempt.intent and is_cancelled else ""
        is_others = is_cancelled and not cancelled_for
        attempt.fail()
        if is_others or ti.try_number > (ti.max_tries or 0):
            attempt.tidy_up()
        if is_others:
            raise AirflowFailException(f"{why}: somebody cancelled it, so it is not submitted again")
        raise AirflowException(f"{why}: {cancelled_for}" if cancelled_for else why)

    # The gate of its own

    def _defer_for_room(self, context: Context, began_at: float) -> None:
        left = began_at + self.timeout - clock.wall()
        if left <= 0:
            raise AirflowException(f"{self._too_late}: there was no room")
        from airflow_provider_scnet.triggers.scnet import ScnetJobCountTrigger

        self.defer(
            trigger=ScnetJobCountTrigger(
                condition=str(self.condition),
                scnet_conn_id=self.scnet_conn_id,
                submitted_by={self.task_id: True},
                tell_job_id=[self.task_id] if self.do_xcom_push else [],
                priority_weight=self.priority_weight,
                poke_interval=self.poll_interval,
                timeout=self.timeout,
                echo={"began_at": began_at, "try_number": context["ti"].try_number},
            ),
            method_name="execute_complete",
            timeout=timedelta(seconds=left),
        )

    def _has_room(self, context: Context, event: dict[str, Any]) -> bool:
        """Read what the trigger of its gate sent: it opened, or the try fails."""
        from airflow_provider_scnet.gate.decision import XCOM_KEY, Verdict

        match event:
            case {"verdict": Verdict.OPEN.value, "decision": dict(decision), "message": message}:
                # Of two waits in one triggerer Airflow 3 keeps the log of the second.
                self.log.info("%s", message)
                self._push(context, XCOM_KEY, json.dumps(decision))
                return True
            case {"verdict": Verdict.TIMEOUT.value, "message": message}:
                raise AirflowException(f"{self._too_late}: there was no room; {message}")
            case {"verdict": Verdict.FAIL.value, "message": message}:
                raise AirflowFailException(message)
        raise AirflowException(str(event.get("message")))

    def _why_there_is_no_room(self) -> str:
        """Look once, on a worker, where nothing is claimed; empty where there is room."""
        from airflow_provider_scnet.gate.decision import Verdict
        from airflow_provider_scnet.gate.evaluator import GateEvaluator
        from airflow_provider_scnet.hooks.polled_connection import PolledConnection

        if self._evaluator is None:
            self.log.warning("without deferrable=True no room is claimed: tasks that look at once may all submit")
            self._evaluator = GateEvaluator(Gate.of(str(self.condition)), self.log)
        decision = self._evaluator.judge(PolledConnection(self.scnet_conn_id).observe())
        if decision.verdict is Verdict.FAIL:
            raise AirflowFailException(str(decision))
        if decision.verdict is Verdict.RETRY:
            raise AirflowException(str(decision))
        return "" if decision.verdict is Verdict.OPEN else str(decision)

    _evaluator: GateEvaluator | None = None

    @property
    def _too_late(self) -> str:
        return f"no job was accepted within {self.timeout:g} s"

    # Waiting, and being ended

    def _wait(self, context: Context, began_at: float, until: float, job: ReportedJob | None) -> None:
        """Wait until some moment, or for the end of a job; in the triggerer it goes on in ``execute_complete``."""
        start_by = self._start_by(job) if job else None
        if not self.deferrable:
            until = min(until, start_by or until)
            while (left := until - clock.wall()) > 0 and not self._is_killed:
                time.sleep(min(left, _NAP))
        # The triggerer needs no process that goes on; the task of one that somebody ended is over.
        if self._is_killed and not (self.deferrable and _is_running(context)):
            raise AirflowException(f"the process was told to end{self._job_goes_on}")
        if self.deferrable:
            from airflow_provider_scnet.triggers.job import ScnetJobTrigger

            self.defer(
                trigger=ScnetJobTrigger(
                    scnet_conn_id=self.scnet_conn_id,
                    scheduler_id=self._attempt.scheduler_id if job and self._attempt else None,
                    job_id=self._job_id or None,
                    poll_interval=self.poll_interval,
                    until=None if job else until,
                    start_by=start_by,
                    settle=self.settle,
                    cancel_on_kill=self.cancel_on_kill,
                    began_at=began_at,
                    try_number=context["ti"].try_number,
                ),
                method_name="execute_complete",
            )

    @property
    def _time_is_up(self) -> str:
        return f"the task's execution_timeout of {self.execution_timeout} is over"

    def _cancel_if_over(self, context: Context) -> None:
        # A worker that is evicted gets the same signal as one whose task somebody ended.
        if self._job_id and not _is_running(context):
            self._cancel(context, "somebody ended the task")

    def _cancel(self, context: Context, why: str) -> None:
        """Cancel the job at the task's end, if there is one."""
        from airflow_provider_scnet.client.errors import ScnetError
        from airflow_provider_scnet.operators.intents import IntentError

        if not self.cancel_on_kill:
            return
        try:
            if self._attempt is None:
                self._attempt = self._new_attempt(context, clock.wall())
                self._attempt.next_step()
            if job := self._attempt.known_job:
                self._attempt.cancel(job, why, cancelled_for=why, has_failed=True)
        except (IntentError, ScnetError) as error:
            self.log.warning("%s: nothing is cancelled%s", error, self._job_goes_on)

    # What it leaves

    def _push(self, context: Context, key: str, value: Any) -> None:
        if self.do_xcom_push:
            context["ti"].xcom_push(key=key, value=value)

    def _leave(self, context: Context, attempt: Attempt, job: ReportedJob) -> dict[str, Any]:
        left = self._left(attempt, job)
        self._push(context, "job", left)
        attempt.tidy_up()
        return left

    def _left(self, attempt: Attempt, job: ReportedJob) -> dict[str, Any]:
        request = self._request()
        paths = {"stdout": request.stdout_of(job.job_id), "stderr": request.stderr_of(job.job_id)}
        told = {name: value or paths.get(name) for name, value in job.as_dict().items()}
        return told | {"scheduler_id": attempt.scheduler_id, "scnet_conn_id": self.scnet_conn_id}


def _is_running(context: Context) -> bool:
    from airflow_provider_scnet.operators.intents import is_running

    return is_running(context["ti"])


def _is_template(value: Any, dag: Any) -> bool:
    return is_template([*value.values()] if isinstance(value, Mapping) else value, dag)


def _seconds(name: str, value: float | timedelta) -> float:
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 < seconds < float("inf"):
        raise ValueError(f"{name} is neither a number of seconds above 0 nor a timedelta")
    return float(seconds)


def _made_at(run: Any) -> datetime:
    """Return a time at which a DAG run was not there yet, or a month ago; a clear changes some of its times."""
    names = ("run_after", "data_interval_end", "queued_at", "start_date")
    times: list[datetime] = [time for name in names if (time := getattr(run, name, None))]
    now = datetime.now(timezone.utc)
    return max(min([*times, now]), now - _LONGEST_RUN)

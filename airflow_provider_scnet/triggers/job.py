# SPDX-License-Identifier: Apache-2.0
"""The wait for a job in the triggerer: for its end, or for the moment to look again."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator
from typing import Any, ClassVar

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_scnet.event_loop import clock
from airflow_provider_scnet.event_loop.log_thread import ThreadedLog
from airflow_provider_scnet.event_loop.shielded_call import ShieldedCall
from airflow_provider_scnet.polling.job_poller import AwaitedJob
from airflow_provider_scnet.triggers import shared_accounts
from airflow_provider_scnet.triggers.arguments import arguments
from airflow_provider_scnet.triggers.scnet import SETTLE
from airflow_provider_scnet.triggers.task_states import AirflowTaskStates

# Seconds for which the cancelling of a job is waited for; Airflow gives on_kill() 30.
_CANCELLED_WITHIN = 25.0
# Seconds for which jobs are collected that are cancelled together: many tasks may be ended at once.
_COLLECTED_FOR = 1.0
# States of a task that nobody goes on with; None: somebody has cleared it. Whoever handed it over to another
# triggerer finds it deferred, or by then on a worker.
_OVER = ("success", "failed", "skipped", "upstream_failed", "removed", None)


class ScnetJobTrigger(BaseTrigger):
    """
    Waits until a job has ended, or until some moment.

    All triggers of one triggerer that wait for jobs of one connection share one list of jobs an interval. The
    trigger only says that there is something to see: what became of the job is asked by whoever goes on.

    :param scnet_conn_id: the connection's id
    :param job_id: the job; None: there is none yet
    :param scheduler_id: the region's scheduler; None: it is asked for each time
    :param poll_interval: seconds between two lists
    :param until: the moment until which it waits, in seconds since 1970, whatever becomes of the job; None: it
        waits for the job's end
    :param start_by: the moment by which the job has to run, likewise; None: it may be queued for however long
    :param settle: seconds for which a job that was in no list yet may be missing there
    :param cancel_on_kill: whether the job is cancelled where somebody ends the task
    :param began_at: when the try of the task began, in seconds since 1970; it comes back in the event
    :param try_number: the try, likewise
    """

    def __init__(
        self,
        *,
        scnet_conn_id: str,
        job_id: str | None = None,
        scheduler_id: str | None = None,
        poll_interval: float = 60.0,
        until: float | None = None,
        start_by: float | None = None,
        settle: float = 120.0,
        cancel_on_kill: bool = False,
        began_at: float | None = None,
        try_number: int | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.scnet_conn_id = scnet_conn_id
        self.job_id = job_id
        self.scheduler_id = scheduler_id
        self.poll_interval = poll_interval
        self.until = until
        self.start_by = start_by
        self.settle = settle
        self.cancel_on_kill = cancel_on_kill
        self.began_at = began_at
        self.try_number = try_number

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what another triggerer needs to go on with the wait."""
        return "airflow_provider_scnet.triggers.job.ScnetJobTrigger", arguments(self, ScnetJobTrigger)

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, and tell a worker."""
        # A worker that still ends from the deferral must not meet the task scheduled again.
        settled_at = clock.now() + (SETTLE if self.trigger_id is not None else 0.0)
        log = ThreadedLog(self.log)
        if self.until is not None:
            await asyncio.sleep(max(0.0, self.until - clock.wall()))
        elif self.job_id is not None:
            await self._wait_for_job(self.job_id, log)
        await log.flush()
        if self.trigger_id is None:
            # As at the end of a gate in dag.test().
            await ShieldedCall.all_finished()
        await asyncio.sleep(max(0.0, settled_at - clock.now()))
        yield TriggerEvent({"began_at": self.began_at, "try_number": self.try_number})  # type: ignore[no-untyped-call]

    async def _wait_for_job(self, job_id: str, log: ThreadedLog) -> None:
        from airflow_provider_scnet.hooks.scnet import ScnetHook

        list_jobs = functools.partial(ScnetHook(self.scnet_conn_id).afind_jobs, scheduler_id=self.scheduler_id)
        poller = shared_accounts.accounts().job_poller(self.scnet_conn_id, self.scheduler_id, list_jobs)
        job = AwaitedJob(job_id, self.poll_interval, log, self.settle)
        with poller.waiting(job):
            if self.start_by is not None:
                await asyncio.wait([job.ended], timeout=max(0.0, self.start_by - clock.wall()))
            if self.start_by is None or job.has_started:
                await job.ended

    async def on_kill(self) -> None:
        """
        Cancel the job where somebody has ended the task, and Airflow says so.

        Airflow 3.3 also calls this where another triggerer goes on with the wait (apache/airflow #73454). And it
        cancels what it has called at each of its next loops, a second apart: so a task of its own does the work.
        """
        if self.cancel_on_kill and self.job_id and self.task_instance:
            cancelling = _Cancelling.of_running_loop(self.scnet_conn_id, self.scheduler_id)
            cancelling.add(self.job_id, self.task_instance, ThreadedLog(self.log))
            await cancelling.call.finished()


class _Cancelling:
    """The jobs of one connection whose tasks are ended at about the same time: cancelled with one request."""

    _collecting: ClassVar[dict[tuple[asyncio.AbstractEventLoop, str, str | None], _Cancelling]] = {}

    def __init__(self, name: tuple[asyncio.AbstractEventLoop, str, str | None]) -> None:
        self._name = name
        self._jobs: list[tuple[str, Any, ThreadedLog]] = []
        self.call = ShieldedCall(self._cancel(), _CANCELLED_WITHIN)

    @classmethod
    def of_running_loop(cls, scnet_conn_id: str, scheduler_id: str | None) -> _Cancelling:
        """Return what collects jobs of a connection now."""
        name = asyncio.get_running_loop(), scnet_conn_id, scheduler_id
        if name not in cls._collecting:
            cls._collecting[name] = cls(name)
        return cls._collecting[name]

    def add(self, job_id: str, ti: Any, log: ThreadedLog) -> None:
        """Add the job of a task that may have been ended."""
        self._jobs.append((job_id, ti, log))

    async def _cancel(self) -> None:
        from airflow_provider_scnet.hooks.scnet import ScnetHook

        await asyncio.sleep(_COLLECTED_FOR)
        _, scnet_conn_id, scheduler_id = self._name
        del self._collecting[self._name]
        # Until Airflow has said whose tasks are over.
        logs = {job_id: log for job_id, _, log in self._jobs}
        try:
            logs = {job_id: logs[job_id] for job_id in await self._over()}
            if logs:
                hook = ScnetHook(scnet_conn_id)
                live, left = await hook.acancel_jobs(list(logs), scheduler_id=scheduler_id)
                for job_id in live:
                    logs[job_id].info("job %s is cancelled: somebody ended the task", job_id)
                for job_id in left:
                    logs[job_id].warning("job %s has not ended after it was cancelled", job_id)
        except Exception as error:
            for job_id, log in logs.items():
                log.warning("job %s may go on, as it was not cancelled: %s", job_id, error)
        for *_, log in self._jobs:
            await log.flush()

    async def _over(self) -> list[str]:
        """Return the jobs whose tasks nobody goes on with."""
        over = []
        for dag_id in {ti.dag_id for _, ti, _ in self._jobs}:
            jobs = [(job_id, ti) for job_id, ti, _ in self._jobs if ti.dag_id == dag_id]
            runs, tasks = sorted({ti.run_id for _, ti in jobs}), sorted({ti.task_id for _, ti in jobs})
            states = await AirflowTaskStates().states(dag_id, runs, tasks)
            for job_id, ti in jobs:
                instances = states.get(ti.run_id, {}).get(ti.task_id, {})
                if instances.get(-1 if ti.map_index is None else ti.map_index) in _OVER:
                    over.append(job_id)
        return over

# SPDX-License-Identifier: Apache-2.0
"""The wait for a job in the triggerer: for its end, or for the moment to look again."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_scnet.event_loop import clock
from airflow_provider_scnet.event_loop.log_thread import ThreadedLog
from airflow_provider_scnet.polling.job_poller import AwaitedJob, JobPoller
from airflow_provider_scnet.triggers.scnet import SETTLE


class ScnetJobTrigger(BaseTrigger):
    """
    Waits until a job has ended, or until some moment.

    All triggers of one triggerer that wait for jobs of one connection share one list of jobs an interval. The
    trigger only says that there is something to see: what became of the job is asked by whoever goes on.

    :param scnet_conn_id: the connection's id
    :param job_id: the job; None: there is none yet
    :param poll_interval: seconds between two lists
    :param until: the moment, in seconds since 1970; None: however long it takes
    :param start_by: the moment by which the job has to run, likewise
    """

    def __init__(
        self,
        *,
        scnet_conn_id: str,
        job_id: str | None = None,
        poll_interval: float = 60.0,
        until: float | None = None,
        start_by: float | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.scnet_conn_id = scnet_conn_id
        self.job_id = job_id
        self.poll_interval = poll_interval
        self.until = until
        self.start_by = start_by

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return what another triggerer needs to go on with the wait."""
        names = ("scnet_conn_id", "job_id", "poll_interval", "until", "start_by")
        return f"{__name__}.ScnetJobTrigger", {name: getattr(self, name) for name in names}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Wait, and tell a worker."""
        # A worker that still ends from the deferral must not meet the task scheduled again.
        settled_at = clock.now() + (SETTLE if self.trigger_id is not None else 0.0)
        log = ThreadedLog(self.log)
        if self.job_id is None:
            await asyncio.sleep(max(0.0, (self.until or 0.0) - clock.wall()))
        else:
            await self._wait_for_job(self.job_id, log)
        await log.flush()
        await asyncio.sleep(max(0.0, settled_at - clock.now()))
        yield TriggerEvent({"job_id": self.job_id})  # type: ignore[no-untyped-call]

    async def _wait_for_job(self, job_id: str, log: ThreadedLog) -> None:
        from airflow_provider_scnet.hooks.scnet import ScnetHook

        poller = JobPoller.of_running_loop(self.scnet_conn_id, ScnetHook(self.scnet_conn_id).afind_jobs)
        job = AwaitedJob(job_id, self.poll_interval, log)
        with poller.waiting(job):
            for moment in sorted(filter(None, (self.start_by, self.until))):
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(asyncio.shield(job.ended), max(0.0, moment - clock.wall()))
                    return
                if moment == self.until or not job.has_started:
                    return
            await job.ended

# SPDX-License-Identifier: Apache-2.0
"""One list of jobs an account and interval, for all who wait for one of them on this event loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, ClassVar

from airflow_provider_scnet.client.errors import ScnetError
from airflow_provider_scnet.client.job_lists import JobList
from airflow_provider_scnet.client.lifecycle import JobState
from airflow_provider_scnet.client.unexpected import unexpected
from airflow_provider_scnet.event_loop import clock
from airflow_provider_scnet.event_loop.background import BackgroundTask
from airflow_provider_scnet.gate.reporter import Log
from airflow_provider_scnet.polling.waiting import SHORTEST_INTERVAL


class AwaitedJob:
    """
    A job that somebody waits for, as the account's list shows it.

    :param job_id: its id
    :param interval: seconds after which a list is too old for it
    :param log: where is said what becomes of it
    """

    def __init__(self, job_id: str, interval: float, log: Log) -> None:
        self.job_id = job_id
        self.interval = interval
        #: Whether it was seen to run.
        self.has_started = False
        self._log = log
        self._said = ""
        #: Done when the job was seen to have ended, or not to be in the list.
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def see(self, jobs: JobList) -> None:
        """Note what a list shows of it."""
        job = next((job for job in jobs if job.job_id == self.job_id), None)
        if job is None:
            # A list that is cut proves nothing.
            if jobs.is_complete:
                self._say(f"job {self.job_id} is not in the list of jobs any longer")
                self._has_ended()
            return
        self.has_started |= job.state not in (JobState.QUEUED, JobState.HELD)
        self._say(
            f"job {self.job_id}: {job.state}" + (f" ({job.reason})" if job.reason not in ("", "None") else "")
        )
        if not job.state.is_unfinished:
            self._has_ended()

    def miss(self, error: ScnetError) -> None:
        """Note that there is no list."""
        self._say(f"waiting: {error}", is_trouble=True)

    def _has_ended(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)

    def _say(self, what: str, is_trouble: bool = False) -> None:
        if what != self._said:
            self._said = what
            (self._log.warning if is_trouble else self._log.info)("%s", what)


class JobPoller:
    """
    The jobs of one connection, listed once an interval for all of this event loop who wait for one of them.

    :param list_jobs: lists them
    """

    _by_loop: ClassVar[dict[asyncio.AbstractEventLoop, dict[str, JobPoller]]] = {}

    def __init__(self, list_jobs: Callable[[], Coroutine[Any, Any, JobList]]) -> None:
        self._list_jobs = list_jobs
        self._waiting: set[AwaitedJob] = set()
        self._changed = asyncio.Event()
        self._polling = BackgroundTask(self._keep_polling, lambda: bool(self._waiting), unexpected)
        self._polled_at = -float("inf")
        self._pause = 0.0

    @classmethod
    def of_running_loop(
        cls, scnet_conn_id: str, list_jobs: Callable[[], Coroutine[Any, Any, JobList]]
    ) -> JobPoller:
        """Return the poller of a connection, made of this where the loop has none."""
        loop = asyncio.get_running_loop()
        cls._by_loop = {known: pollers for known, pollers in cls._by_loop.items() if not known.is_closed()}
        pollers = cls._by_loop.setdefault(loop, {})
        if scnet_conn_id not in pollers:
            pollers[scnet_conn_id] = cls(list_jobs)
        return pollers[scnet_conn_id]

    @contextlib.contextmanager
    def waiting(self, job: AwaitedJob) -> Iterator[None]:
        """Show a job what becomes of it, as long as somebody waits for it."""
        self._waiting.add(job)
        self._changed.set()
        self._polling.start()
        try:
            yield
        finally:
            self._waiting.discard(job)
            self._changed.set()

    async def _keep_polling(self) -> None:
        while self._waiting:
            self._changed.clear()
            interval = max(min(job.interval for job in self._waiting), SHORTEST_INTERVAL, self._pause)
            if (wait := self._polled_at + interval - clock.now()) > 0:
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), wait)
            else:
                await self._poll()

    async def _poll(self) -> None:
        self._polled_at, self._pause = clock.now(), 0.0
        # Who comes meanwhile may have submitted after the list was made.
        waiting = list(self._waiting)
        try:
            jobs = await self._list_jobs()
        except ScnetError as error:
            self._pause = error.retry_after or 0.0
            for job in waiting:
                job.miss(error)
        except Exception as error:  # it must not end the waiting of everybody
            for job in waiting:
                job.miss(ScnetError(f"{unexpected(error)} while the list of jobs was read"))
        else:
            for job in waiting:
                job.see(jobs)

# SPDX-License-Identifier: Apache-2.0
"""One list of jobs an account and interval at most, for all who wait for one of them on this event loop."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any

from airflow_provider_scnet.client.errors import ScnetError
from airflow_provider_scnet.client.job_state import JobState
from airflow_provider_scnet.client.reported_job import ReportedJob
from airflow_provider_scnet.client.unexpected_error import unexpected
from airflow_provider_scnet.event_loop import clock
from airflow_provider_scnet.event_loop.background import BackgroundTask
from airflow_provider_scnet.event_loop.shielded_call import ShieldedCall
from airflow_provider_scnet.gate.reporter import Log
from airflow_provider_scnet.polling.waiting import SHORTEST_INTERVAL

if TYPE_CHECKING:
    from airflow_provider_scnet.client.job_lists import JobList


#: Seconds that a list may take: it may have many pages.
LONGEST_LIST = 600.0
#: Intervals after which no further list of the gates' is expected: they may poll a little later than one.
GATES_LIST_WITHIN = 1.5


class AwaitedJob:
    """
    A job that somebody waits for, as the account's list shows it.

    :param job_id: its id
    :param interval: seconds after which a list is too old for it
    :param log: where is said what becomes of it
    :param settle: seconds for which it may be missing in the list before it is there
    """

    def __init__(self, job_id: str, interval: float, log: Log, settle: float = 0.0) -> None:
        self.job_id = job_id
        self.interval = interval
        #: Since when somebody waits for it. An older list may not show it yet.
        self.since = clock.now()
        #: Whether it was seen to run, or to have run.
        self.has_started = False
        #: Done when the job was seen to have ended, or to be in the list no longer.
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._log = log
        self._said = ""
        self._missed_from = self.since + settle

    def see(self, job: ReportedJob | None) -> None:
        """Note what a whole list shows of it: None, where it is not there."""
        if job is None:
            if clock.now() >= self._missed_from:
                self._say(f"job {self.job_id} is in the list of jobs no longer")
                self._end()
            return
        self._missed_from = 0.0
        self.has_started |= job.state not in (JobState.QUEUED, JobState.HELD, JobState.UNKNOWN)
        self._say(f"job {self.job_id} is {job.said_state}")
        # What SCnet calls by a name that may mean anything is asked about once it has left the list.
        if not job.state.is_unfinished and job.state is not JobState.UNKNOWN:
            self._end()

    def miss(self, why: object) -> None:
        """Note that there is no list, or not all of it."""
        self._say(f"waiting: {why}", is_trouble=True)

    def _end(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)

    def _say(self, what: str, is_trouble: bool = False) -> None:
        if what != self._said:
            self._said = what
            (self._log.warning if is_trouble else self._log.info)("%s", what)


class JobPoller:
    """
    The jobs of one connection, listed once an interval for all of this event loop who wait for one of them.

    A list that was made for gates of the connection is as good, and puts off the next one.

    :param list_jobs: lists them
    """

    def __init__(self, list_jobs: Callable[[], Coroutine[Any, Any, JobList]]) -> None:
        self._list_jobs = list_jobs
        self._waiting: set[AwaitedJob] = set()
        self._polling = BackgroundTask(self._act, unexpected)
        # When the last list was begun, the own one and that of the gates; seconds for which SCnet asked for none.
        self._polled_at = self._shared_at = -math.inf
        self._pause = 0.0

    def share(self, jobs: JobList, at: float) -> None:
        """
        Show a list that was made for gates of the connection: it saves the next own one.

        :param jobs: what was listed
        :param at: when, or sooner
        """
        self._shared_at = max(self._shared_at, at)
        self._show(jobs, at)

    @contextlib.contextmanager
    def waiting(self, job: AwaitedJob) -> Iterator[None]:
        """Show a job what becomes of it, as long as somebody waits for it."""
        self._waiting.add(job)
        self._polling.start()
        try:
            yield
        finally:
            self._waiting.discard(job)

    async def _act(self) -> float | None:
        if self._waiting and self._due() <= clock.now():
            await self._poll()
        return self._due() if self._waiting else None

    def _due(self) -> float:
        interval = max(min(job.interval for job in self._waiting), SHORTEST_INTERVAL)
        own_due = self._polled_at + max(interval, self._pause)
        return max(own_due, self._shared_at + GATES_LIST_WITHIN * interval)

    async def _poll(self) -> None:
        at = self._polled_at = clock.now()
        self._pause = 0.0
        try:
            # It asks Airflow for the connection: that is never cancelled.
            jobs = await ShieldedCall(self._list_jobs(), LONGEST_LIST).result()
        except ScnetError as error:
            self._pause = error.retry_after or 0.0
            self._miss(error, at)
        except Exception as error:  # it must not end the waiting of everybody
            self._miss(f"the list of jobs could not be read: {unexpected(error)}", at)
        else:
            self._show(jobs, at)

    def _show(self, jobs: JobList, at: float) -> None:
        if at < max(self._polled_at, self._shared_at):
            # Of the gates' list and the own one the other was begun later.
            return
        by_id = {job.job_id: job for job in jobs}
        for job in self._waiting:
            # Who came later may have submitted after the list was made.
            if job.since <= at:
                if job.job_id in by_id or jobs.is_complete:
                    job.see(by_id.get(job.job_id))
                else:
                    job.miss(f"the list of jobs is not complete: {jobs.problem}")

    def _miss(self, why: object, at: float) -> None:
        for job in self._waiting if at >= self._shared_at else ():
            job.miss(why)

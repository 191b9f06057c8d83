# SPDX-License-Identifier: Apache-2.0
"""What one triggerer knows of its accounts: who polls them, and the last observation of each."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection, Coroutine
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from airflow_provider_scnet.claims.ledger import Airflow, Ledger
from airflow_provider_scnet.client.connection_settings import ConnectionSettings
from airflow_provider_scnet.client.errors import ScnetConnectionError
from airflow_provider_scnet.client.observation import Observation
from airflow_provider_scnet.event_loop import clock
from airflow_provider_scnet.event_loop.shielded_call import ShieldedCall
from airflow_provider_scnet.polling.job_poller import JobPoller
from airflow_provider_scnet.polling.kept_room import KeptRoom
from airflow_provider_scnet.polling.metrics import Metrics, Sink, Whom
from airflow_provider_scnet.polling.poller import Poller

if TYPE_CHECKING:
    from airflow_provider_scnet.client.job_lists import JobList


class Source(Protocol):
    """How one asks SCnet through a connection."""

    def aread_settings(self, user_name: str | None = None) -> Coroutine[Any, Any, ConnectionSettings]:
        """Read the connection."""

    async def awith_token(self, settings: ConnectionSettings) -> ConnectionSettings:
        """Obtain what the connection leaves to SCnet's platform."""

    async def apoll(
        self, settings: ConnectionSettings, queues: Collection[str] = (), with_list: bool = False
    ) -> Observation:
        """Poll once, for single queues and a list of the jobs too; an error is part of what is seen."""


class Accounts:
    """
    What one event loop, and so one triggerer, knows of all accounts that its gates ask about.

    However many gates ask about an account through a connection, one request an interval is made for all of them,
    and room is given out once. Another triggerer polls for itself; what was claimed there is written down.

    :param source: returns how one asks SCnet through a connection, by the connection's id
    :param airflow: how one asks Airflow, and writes into it
    :param sink: where metrics go; None: nowhere
    """

    # Tasks and locks of asyncio belong to one loop: a second asyncio.run must not meet those of the first.
    _by_loop: ClassVar[dict[asyncio.AbstractEventLoop, Accounts]] = {}

    def __init__(self, source: Callable[[str], Source], airflow: Airflow, sink: Sink | None = None) -> None:
        self._source = source
        self._airflow = airflow
        self._messages = asyncio.Lock()
        #: What is sent of polls and gates.
        self.metrics = Metrics(sink)
        self._shared: dict[tuple[str, ...], tuple[Ledger, KeptRoom]] = {}
        self._readings: dict[tuple[str, str | None], ShieldedCall[ConnectionSettings]] = {}
        self._pollers: dict[tuple[str, str | None], Poller] = {}
        self._job_pollers: dict[tuple[str, str | None], JobPoller] = {}
        # The last observation of each account through each connection, and with which settings it was made.
        self._last: dict[tuple[str, ...], tuple[ConnectionSettings, Observation]] = {}
        # One request at a time.
        self._locks: defaultdict[tuple[str, ...], asyncio.Lock] = defaultdict(asyncio.Lock)

    @classmethod
    def of_running_loop(
        cls, source: Callable[[str], Source], airflow: Airflow, sink: Sink | None = None
    ) -> Accounts:
        """Return the accounts of the running event loop, made of these where it has none."""
        loop = asyncio.get_running_loop()
        if loop not in cls._by_loop:
            cls._by_loop = {known: accounts for known, accounts in cls._by_loop.items() if not known.is_closed()}
            cls._by_loop[loop] = cls(source, airflow, sink)
        return cls._by_loop[loop]

    def poller(self, scnet_conn_id: str, user_name: str | None) -> Poller:
        """Return the poller that all gates with this connection and user name (None: its own user) share."""
        name = (scnet_conn_id, user_name)
        if name not in self._pollers:
            self._pollers[name] = Poller(self, scnet_conn_id, user_name)
        return self._pollers[name]

    def job_poller(
        self,
        scnet_conn_id: str,
        scheduler_id: str | None,
        list_jobs: Callable[[], Coroutine[Any, Any, JobList]],
    ) -> JobPoller:
        """
        Return the poller that all share who wait for jobs of a connection's own user.

        :param scnet_conn_id: the connection's id
        :param scheduler_id: the scheduler whose jobs these are; None: the only one
        :param list_jobs: lists all that are live
        """
        name = (scnet_conn_id, scheduler_id)
        if name not in self._job_pollers:
            self._job_pollers[name] = JobPoller(list_jobs)
        return self._job_pollers[name]

    def shared(self, account: tuple[str, ...]) -> tuple[Ledger, KeptRoom]:
        """Return what all gates of an account share, through whichever connection: claims, and the room kept."""
        if account not in self._shared:
            self._shared[account] = Ledger(account, self._airflow, self._messages), KeptRoom()
        return self._shared[account]

    async def observe(
        self,
        scnet_conn_id: str,
        user_name: str | None,
        max_age: float,
        queues: Collection[str] = (),
        with_list: bool = False,
    ) -> Observation:
        """
        Return an observation that is young enough: the last one, or a new one. The connection is read each time.

        :param scnet_conn_id: the connection's id
        :param user_name: the cluster user as the gate names it; None: the connection's own
        :param max_age: seconds
        :param queues: the queues that it has to say something of
        :param with_list: whether the jobs are listed where it is a new one
        :raises ScnetError: where it comes to no account, and so to no request
        """
        source = self._source(scnet_conn_id)
        settings = await self._read(source, scnet_conn_id, user_name)
        # First, because only the region may know the account's endpoint and user.
        settings = await source.awith_token(settings)
        # Gates that name the same user in different ways (or not at all) meet here.
        name = scnet_conn_id, *settings.account
        async with self._locks[name]:
            asked_with, last = self._last.get(name, (None, None))
            # Another token that was pasted deserves another poll: the last answer may have been about the old one.
            # And the sum is that by which a poller knows when a poll is due: a difference is rounded otherwise.
            if (
                last is None
                or asked_with != settings
                or clock.now() >= last.at + max(max_age, last.pause)
                or not all(map(last.has, queues))
            ):
                began = clock.now()
                its_pollers = self._pollers_of(scnet_conn_id, settings.account)
                asked = sorted(set(queues).union(*(poller.queues for poller in its_pollers)))
                last = await source.apoll(settings, asked, with_list)
                self._last[name] = settings, last
                if user_name is None and (jobs := last.jobs) is not None:
                    for scheduler_id in (None, jobs.scheduler_id):
                        if job_poller := self._job_pollers.get((scnet_conn_id, scheduler_id)):
                            job_poller.share(jobs, last.at)
                whom = Whom(scnet_conn_id, settings.account[1])
                self.metrics.polled(whom, last, clock.now() - began, asked)
            return last

    def report_gates(self, scnet_conn_id: str, account: tuple[str, ...], at: float, opened: int) -> None:
        """
        Send metrics of what gates made of an observation.

        :param scnet_conn_id: the connection's id
        :param account: the account that the gates ask about
        :param at: when the observation was made, by the event loop's clock
        :param opened: how many gates have opened on it
        """
        waiting = sum(poller.gates for poller in self._pollers_of(scnet_conn_id, account))
        # Where nobody waits nobody polls: what is sent last stands until somebody comes.
        claimed = self.shared(account)[0].totals(at).claimed().jobs if waiting else 0
        self.metrics.gates_decided(Whom(scnet_conn_id, account[1]), waiting, opened, claimed)

    def _pollers_of(self, scnet_conn_id: str, account: tuple[str, ...]) -> list[Poller]:
        return [
            poller
            for (conn_id, _), poller in self._pollers.items()
            if conn_id == scnet_conn_id and poller.account == account
        ]

    async def _read(self, source: Source, scnet_conn_id: str, user_name: str | None) -> ConnectionSettings:
        """Read the connection. A call that takes too long is found again at the next poll, and then left alone."""
        name = (scnet_conn_id, user_name)
        reading = self._readings.get(name)
        if reading is None or reading.is_over:
            reading = self._readings[name] = ShieldedCall(source.aread_settings(user_name))
        try:
            return await reading.result()
        except TimeoutError as no_answer:
            error = ScnetConnectionError(f"Airflow did not hand it out: {no_answer}")
            error.where = f"connection '{scnet_conn_id}'"
            raise error from None

# SPDX-License-Identifier: Apache-2.0
"""What one triggerer knows of its accounts: who polls them, and the last observation of each."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine
from typing import Any, ClassVar, Protocol

from airflow_provider_scnet.claims.ledger import Airflow, Ledger
from airflow_provider_scnet.client.connection_settings import ConnectionSettings
from airflow_provider_scnet.client.errors import ScnetConnectionError, ScnetError
from airflow_provider_scnet.client.observation import Observation
from airflow_provider_scnet.event_loop import clock
from airflow_provider_scnet.event_loop.shielded_call import ShieldedCall
from airflow_provider_scnet.polling.job_poller import JobPoller
from airflow_provider_scnet.polling.kept_room import KeptRoom
from airflow_provider_scnet.polling.metrics import Metrics, Sink, Whom
from airflow_provider_scnet.polling.poller import Poller

#: Seconds after which a gate that has just arrived no longer trusts a failure that would fail it: somebody may
#: have mended the account, and cleared the gate.
MENDED_AFTER = 5.0
#: Seconds after which an account is forgotten about which nobody asks.
FORGET_AFTER = 3600.0


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
        self._last: dict[tuple[str, ...], _LastObservation] = {}

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
        self._forget()
        name = (scnet_conn_id, user_name)
        if name not in self._pollers:
            self._pollers[name] = Poller(self, scnet_conn_id, user_name)
        return self._pollers[name]

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
        newcomers: bool = False,
        queues: Collection[str] = (),
        with_list: bool = False,
    ) -> Observation:
        """
        Return an observation that is young enough: the last one, or a new one. The connection is read each time.

        :param scnet_conn_id: the connection's id
        :param user_name: the cluster user as the gate names it; None: the connection's own
        :param max_age: seconds
        :param newcomers: whether gates are among those who ask that have not seen any observation yet
        :param queues: the queues that it has to say something of
        :param with_list: whether the jobs are listed where it is a new one
        """
        source = self._source(scnet_conn_id)
        try:
            settings = await self._read(source, scnet_conn_id, user_name)
            # First, because only the region may know the account's endpoint and user.
            settings = await source.awith_token(settings)
        except ScnetError as error:
            observation = Observation(error=error)
            self.metrics.polled(Whom(scnet_conn_id, user_name), observation)
            return observation
        # Gates that name the same user in different ways (or not at all) meet here.
        last = self._last.setdefault((scnet_conn_id, *settings.account), _LastObservation())
        async with last.lock:
            # Another token that was pasted deserves another poll: the last answer may have been about the old one.
            if (
                last.observation is None
                or last.settings != settings
                or last.is_too_old(max_age, newcomers)
                or not all(map(last.observation.has, queues))
            ):
                began = clock.now()
                its_pollers = self._pollers_of(scnet_conn_id, settings.account)
                asked = sorted(set(queues).union(*(poller.queues for poller in its_pollers)))
                last.observation = await source.apoll(settings, asked, with_list)
                last.settings = settings
                if user_name is None and (jobs := last.observation.jobs) is not None:
                    JobPoller.share(scnet_conn_id, jobs, last.observation.at)
                whom = Whom(scnet_conn_id, settings.account[1])
                self.metrics.polled(whom, last.observation, clock.now() - began, asked)
            return last.observation

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

    def _forget(self) -> None:
        since = clock.now() - FORGET_AFTER
        self._pollers = {k: poller for k, poller in self._pollers.items() if not poller.is_idle(since)}
        accounts = {poller.account for poller in self._pollers.values()}
        self._shared = {k: v for k, v in self._shared.items() if k in accounts or not v[0].is_empty}
        # What was read holds the token.
        self._readings = {k: reading for k, reading in self._readings.items() if not reading.is_over}
        self._last = {
            k: last
            for k, last in self._last.items()
            if last.lock.locked() or (last.observation and last.observation.at > since)
        }


class _LastObservation:
    """The last observation of one account through one connection; one request at a time."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.settings: ConnectionSettings | None = None
        self.observation: Observation | None = None

    def is_too_old(self, max_age: float, newcomers: bool) -> bool:
        if self.observation is None:
            return True
        if newcomers and self.observation.fails_gates:
            max_age = min(max_age, MENDED_AFTER)
        # The sum by which a poller knows when a poll is due: by a difference, rounded otherwise, it may not be.
        return clock.now() >= self.observation.at + max(max_age, self.observation.pause)

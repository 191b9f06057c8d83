# SPDX-License-Identifier: Apache-2.0
"""What one triggerer knows of its accounts: the last look at each, and what is claimed there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar, Protocol

from airflow_provider_scnet.client.connection_settings import ConnectionSettings
from airflow_provider_scnet.client.errors import ScnetConnectionError, ScnetError
from airflow_provider_scnet.client.observation import Observation
from airflow_provider_scnet.gate import clock
from airflow_provider_scnet.gate.asking import Asking
from airflow_provider_scnet.gate.claims import Claims
from airflow_provider_scnet.gate.figures import Figures, Sink, Whom
from airflow_provider_scnet.gate.submission import Account
from airflow_provider_scnet.gate.submissions import FORGET_AFTER, Ask, Submissions
from airflow_provider_scnet.gate.turns import Turns
from airflow_provider_scnet.gate.watch import Watch

#: Seconds that Airflow may take to hand a connection out.
LONGEST_READ = 30.0
#: Seconds after which a gate that has just arrived no longer trusts a failure that would fail it: somebody may
#: have mended the account, and cleared the gate.
MENDED_AFTER = 5.0


class Source(Protocol):
    """How one asks SCnet through a connection."""

    def aread_settings(self, user_name: str | None = None) -> Coroutine[Any, Any, ConnectionSettings]:
        """Read the connection."""

    async def awith_token(self, target: ConnectionSettings) -> ConnectionSettings:
        """Obtain what the connection leaves to SCnet's platform."""

    async def apoll(self, target: ConnectionSettings) -> Observation:
        """Look once; an error is part of what is seen."""


class Accounts:
    """
    What one event loop, and so one triggerer, knows of all accounts that its gates watch.

    However many gates watch an account through a connection, one request an interval is made for all of them,
    and room is given out once. Another triggerer looks and admits for itself; what passed there shows in Airflow's
    states of its tasks.

    :param source: returns how one asks SCnet through a connection, by the connection's id
    :param ask: how one asks Airflow about tasks
    :param sink: where figures go; None: nowhere
    """

    # Tasks and locks of asyncio belong to one loop: a second asyncio.run must not meet those of the first.
    _by_loop: ClassVar[dict[asyncio.AbstractEventLoop, Accounts]] = {}

    def __init__(self, source: Callable[[str], Source], ask: Ask, sink: Sink | None = None) -> None:
        self._source = source
        #: What is told of looks and gates.
        self.figures = Figures(sink)
        #: What becomes of the submissions behind gates that passed.
        self.submissions = Submissions(ask, self.claims)
        self._readings: dict[tuple[str, str | None], Asking[ConnectionSettings]] = {}
        self._watches: dict[tuple[str, str | None], Watch] = {}
        self._shared: dict[tuple[str, ...], _SharedLook] = {}
        #: What is done for many gates.
        self.turns = Turns()
        self._claims: dict[Account, Claims] = {}

    @classmethod
    def here(cls, source: Callable[[str], Source], ask: Ask, sink: Sink | None = None) -> Accounts:
        """
        Return the accounts of the running event loop.

        :param source: returns how one asks SCnet through a connection, by the connection's id
        :param ask: how one asks Airflow about tasks
        :param sink: where figures go; None: nowhere
        """
        loop = asyncio.get_running_loop()
        if loop not in cls._by_loop:
            cls._by_loop = {known: accounts for known, accounts in cls._by_loop.items() if not known.is_closed()}
            cls._by_loop[loop] = cls(source, ask, sink)
        return cls._by_loop[loop]

    def watch(self, scnet_conn_id: str, user_name: str | None) -> Watch:
        """
        Return the watch that all gates with this connection and user name share.

        :param scnet_conn_id: the connection's id
        :param user_name: the cluster user as the gate names it; None: the connection's own
        """
        self._forget()
        name = (scnet_conn_id, user_name)
        if name not in self._watches:
            self._watches[name] = Watch(self, scnet_conn_id, user_name)
        return self._watches[name]

    def claims(self, account: Account) -> Claims:
        """
        Return the claims on an account, whatever the connections to it are called.

        :param account: the resolved (endpoint, user)
        """
        claims = self._claims.get(account)
        if claims is None:
            claims = self._claims[account] = Claims()
        return claims

    async def look(
        self, scnet_conn_id: str, user_name: str | None, max_age: float, newcomers: bool = False
    ) -> Observation:
        """
        Return a look that is young enough: another gate's, or a new one. The connection is read anew each time.

        :param scnet_conn_id: the connection's id
        :param user_name: the cluster user as the gate names it; None: the connection's own
        :param max_age: seconds
        :param newcomers: whether gates are among those who ask that have not seen any look yet
        """
        source = self._source(scnet_conn_id)
        try:
            target = await self._read(source, scnet_conn_id, user_name)
            # First, because only the region may know the account's endpoint and user.
            target = await source.awith_token(target)
        except ScnetError as error:
            look = Observation(error=error)
            self.figures.looked(Whom(scnet_conn_id, user_name), look)
            return look
        # Gates that name the same user in different ways (or not at all) meet here.
        shared = self._shared.setdefault((scnet_conn_id, *target.account), _SharedLook())
        async with shared.lock:
            # Another token deserves another look: the last answer may have been about the old one.
            if shared.look is None or shared.target != target or shared.is_too_old(max_age, newcomers):
                began = clock.now()
                shared.look = await source.apoll(target)
                shared.target = target
                self.figures.looked(Whom(scnet_conn_id, target.account[1]), shared.look, clock.now() - began)
                self.claims(target.account).forget(self._oldest_look(target.account))
            return shared.look

    def tell_of_gates(self, scnet_conn_id: str, account: Account, look_at: float, passed: int) -> None:
        """
        Tell in figures what gates made of a look.

        :param scnet_conn_id: the connection's id
        :param account: the account that the gates ask about
        :param look_at: when the look was made, by :mod:`.clock`
        :param passed: how many gates have passed since this was told last
        """
        waiting = sum(
            watch.gates
            for (conn_id, _), watch in self._watches.items()
            if conn_id == scnet_conn_id and watch.account == account
        )
        # Where nobody waits nobody looks: what is told last stands until somebody comes.
        claimed = self.claims(account).weigh(look_at).jobs if waiting else 0
        self.figures.judged(Whom(scnet_conn_id, account[1]), waiting, passed, claimed)

    def _oldest_look(self, account: Account) -> float:
        """Return when the oldest look at an account was made that a gate may still be judged on."""
        return min(
            shared.look.at for (_, *key), shared in self._shared.items() if shared.look and tuple(key) == account
        )

    async def _read(self, source: Source, scnet_conn_id: str, user_name: str | None) -> ConnectionSettings:
        """
        Read the connection, for as long as it is worth waiting for.

        A reading that takes longer is never cancelled: to give up what Airflow's supervisor is about to answer
        ends the whole triggerer of some versions. It is met again at the next look, and then left alone.
        """
        name = (scnet_conn_id, user_name)
        reading = self._readings.get(name)
        if reading is None or reading.is_over:
            reading = self._readings[name] = Asking(source.aread_settings(user_name), LONGEST_READ)
        try:
            return await reading.answer()
        except TimeoutError:
            raise _unread(scnet_conn_id) from None

    def _forget(self) -> None:
        since = clock.now() - FORGET_AFTER
        self._watches = {k: watch for k, watch in self._watches.items() if not watch.is_idle(since)}
        # What was read holds the token.
        self._readings = {k: reading for k, reading in self._readings.items() if not reading.is_over}
        self._shared = {
            k: shared
            for k, shared in self._shared.items()
            if shared.lock.locked() or (shared.look and shared.look.at > since)
        }
        for claims in self._claims.values():
            claims.forget(since)
        self._claims = {account: claims for account, claims in self._claims.items() if claims}


class _SharedLook:
    """The last look at one account through one connection; one request at a time."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.target: ConnectionSettings | None = None
        self.look: Observation | None = None

    def is_too_old(self, max_age: float, newcomers: bool) -> bool:
        if self.look is None:
            return True
        if newcomers and self.look.fails_gates:
            max_age = min(max_age, MENDED_AFTER)
        # The sum by which a watch knows when a look is due: by a difference, rounded otherwise, it may not be.
        return clock.now() >= self.look.at + max(max_age, self.look.pause)


def _unread(scnet_conn_id: str) -> ScnetError:
    error = ScnetConnectionError(f"Airflow did not hand it out within {LONGEST_READ:.0f} s")
    error.where = f"connection '{scnet_conn_id}'"
    return error

# SPDX-License-Identifier: Apache-2.0
"""
The tokens that this process has obtained with access keys: in memory, renewed in time, for all regions at once.

Any thread may call these functions; their arguments are plain values.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import os
import threading
import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from typing import TypeVar

from airflow_provider_scnet.client import access_keys, response, transport
from airflow_provider_scnet.client.access_keys import AccessKeys, RegionToken
from airflow_provider_scnet.client.connection_settings import ConnectionSettings
from airflow_provider_scnet.client.errors import (
    ErrorKind,
    ScnetApiError,
    ScnetAuthError,
    ScnetConnectionError,
    ScnetError,
)
from airflow_provider_scnet.client.region import REGION_PATH, Region
from airflow_provider_scnet.client.token_payload import TokenPayload

T = TypeVar("T")

#: Seconds before its end at which a token is renewed; a tenth of its lifetime where that is less.
MARGIN = 60.0
#: Seconds for which this process keeps a token that does not say when it ends.
UNKNOWN_LIFETIME = 900.0
#: Seconds after a failed request before the next one; gates that arrive meanwhile share the error.
PAUSE_AFTER_FAILURE = 5.0
#: Seconds by which the clocks here and at SCnet may differ before a refusal is put down to that.
CLOCKS_DIFFER = 60.0


def with_token(settings: ConnectionSettings) -> ConnectionSettings:
    """
    Return the settings with a token, and with what the connection leaves open of endpoint and user.

    Settings with a pasted token are complete as they are.

    :param settings: what the connection says
    :raises ScnetError: where the platform does not issue a token, or does not say where the region is
    """
    if not (keys := settings.keys):
        return settings
    if found := cached(settings):
        return found
    # One request at a time for a pair of keys.
    lock = _locks.setdefault(dataclasses.replace(keys, cluster_id=""), threading.Lock())
    with _named(settings, keys, keys.platform):
        # The thread that holds the lock makes two requests, as a rule.
        if not lock.acquire(timeout=settings.at_most(2 * settings.timeout)):
            raise ScnetConnectionError("there is no answer yet to an earlier request for a token")
    try:
        return cached(settings) or _obtain_unless_just_failed(settings, keys)
    finally:
        lock.release()


def cached(settings: ConnectionSettings) -> ConnectionSettings | None:
    """
    Return what :func:`with_token` would, if that takes no request; else None.

    :param settings: what the connection says
    """
    if not (keys := settings.keys):
        return settings
    known = _known(keys)
    grant = known.grant
    if grant is None or time.monotonic() >= grant.until or known.lacks_place(settings, grant):
        return None
    return _completed(settings, keys, grant)


def invalidate(token: str) -> None:
    """
    Give a token to nobody in this process any longer: SCnet has just refused it.

    :param token: the token, of whichever account
    """
    for known in list(_regions.values()):
        if known.grant and known.grant.token == token:
            known.grant = None


def ask(settings: ConnectionSettings, request: Callable[[ConnectionSettings], T]) -> T:
    """
    Ask with a token; with access keys, once more with another one if the first is refused.

    :param settings: what the connection says
    :param request: asks
    :raises ScnetError: where there is no token, or what the request raises
    """
    settings = with_token(settings)
    try:
        return _ask_once(settings, request)
    except ScnetAuthError:
        # A submission that was refused is another error, and not sent again by itself.
        if not settings.keys:
            raise
    return _ask_once(with_token(settings), request)


def _ask_once(settings: ConnectionSettings, request: Callable[[ConnectionSettings], T]) -> T:
    try:
        return request(settings)
    except ScnetError as error:
        if error.kind is ErrorKind.CREDENTIALS:
            invalidate(settings.token)
        if settings.keys and isinstance(error, ScnetConnectionError):
            # The address does not answer: the portal is asked again where the region is.
            _known(settings.keys).is_located = False
        raise


@dataclasses.dataclass(frozen=True)
class _Grant:
    """
    The token of a region.

    :param token: the token
    :param name: the name of its region
    :param payload: what it says of itself; the end only where that lay ahead when it was issued
    :param until: when it is to be renewed, by :func:`time.monotonic`
    """

    token: str = dataclasses.field(repr=False)
    name: str
    payload: TokenPayload
    until: float

    @classmethod
    def of(cls, region: RegionToken, server_time: datetime | None) -> _Grant:
        token, now = region.token or "", time.monotonic()
        payload = TokenPayload.from_token(token)
        # By SCnet's clock, which set the end, where it is known.
        issued_at = server_time or datetime.now(timezone.utc)
        if payload.expires_at is None or payload.expires_at <= issued_at:
            return cls(token, region.name, TokenPayload(payload.compute_user), now + UNKNOWN_LIFETIME)
        lifetime = (payload.expires_at - issued_at).total_seconds()
        return cls(token, region.name, payload, now + lifetime - min(MARGIN, lifetime / 10))


@dataclasses.dataclass
class _Known:
    """
    What this process knows of a region through a pair of keys. Who holds no lock may read it at any moment.

    :param grant: its token; None: it is to be obtained
    :param is_located: whether the portal was asked where it is since the token was issued
    :param endpoint: the address in use; empty where nobody had to know it
    :param user_name: the user that the portal names
    :param failure: the last error, and when one may ask again, by :func:`time.monotonic`
    """

    grant: _Grant | None = None
    is_located: bool = False
    endpoint: str = ""
    user_name: str | None = None
    failure: tuple[ScnetError, float] | None = None

    def lacks_place(self, settings: ConnectionSettings, grant: _Grant) -> bool:
        """Tell whether the portal has to be asked before settings can be completed."""
        if settings.endpoint and (settings.user_name or grant.payload.compute_user):
            return False
        return not self.is_located or not (settings.endpoint or self.endpoint)


# By the keys with their region; the locks without.
_regions: dict[AccessKeys, _Known] = {}
_locks: dict[AccessKeys, threading.Lock] = {}
# After a fork a lock may be held by a thread that this process does not have.
os.register_at_fork(after_in_child=_locks.clear)


def _known(keys: AccessKeys) -> _Known:
    return _regions.setdefault(keys, _Known())


def _obtain_unless_just_failed(settings: ConnectionSettings, keys: AccessKeys) -> ConnectionSettings:
    known = _known(keys)
    if known.failure and time.monotonic() < known.failure[1]:
        error = copy.copy(known.failure[0])
        # It may have been another connection that met it.
        error.where = f"connection '{settings.conn_id}', {error.where.split(', ', 1)[1]}"
        raise error
    try:
        return _obtain(settings, keys)
    except ScnetError as error:
        # A request with less time than the connection grants may fail where others would not.
        if settings.until is None:
            # A copy has no traceback, whose frames hold secrets.
            pause = max(PAUSE_AFTER_FAILURE, error.retry_after or 0.0)
            known.failure = copy.copy(error), time.monotonic() + pause
        raise


def _obtain(settings: ConnectionSettings, keys: AccessKeys) -> ConnectionSettings:
    kept = _known(keys).grant
    grant = kept if kept and time.monotonic() < kept.until else _renew(settings, keys)
    try:
        _locate(settings, keys, grant)
    except ScnetError as error:
        if error.kind is not ErrorKind.CREDENTIALS:
            raise
        invalidate(grant.token)
        if grant is not kept:
            raise
        # It was too old: once more with a fresh one, as a poll does.
        grant = _renew(settings, keys)
        _locate(settings, keys, grant)
    return _completed(settings, keys, grant)


def _renew(settings: ConnectionSettings, keys: AccessKeys) -> _Grant:
    asked_at = time.time()
    headers = keys.signed(asked_at)
    secrets = (keys.secret_key, keys.access_key, str(headers["signature"]))
    with _named(settings, keys, keys.platform):
        answer = transport.send(
            settings, "POST", access_keys.TOKENS_PATH, base=keys.platform, headers=headers, secrets=secrets
        )
        try:
            regions = response.read(answer, access_keys.tokens_from_data)
        except ScnetApiError as error:
            if error.kind in (ErrorKind.CREDENTIALS, ErrorKind.PERMANENT):
                _explain(error, asked_at, answer.date)
            raise
        # Of all regions: where issuing ends earlier tokens, they would otherwise end each other's.
        for region in regions:
            known = _known(dataclasses.replace(keys, cluster_id=region.cluster_id))
            known.is_located, known.grant = False, None
            with contextlib.suppress(ScnetError):
                issued = access_keys.token_of(region.cluster_id, regions)
                known.grant = _Grant.of(issued, answer.date)
        return _Grant.of(access_keys.token_of(keys.cluster_id, regions), answer.date)


def _locate(settings: ConnectionSettings, keys: AccessKeys, grant: _Grant) -> None:
    """Ask the portal where the region is, where that has to be known and is not."""
    known, token = _known(keys), grant.token
    if not known.lacks_place(settings, grant):
        return
    with _named(settings, keys, keys.portal):
        try:
            answer = transport.send(
                settings, "GET", REGION_PATH, base=keys.portal, headers={"token": token}, secrets=(token,)
            )
            region = response.read(answer, Region.of)
        except ScnetError as error:
            # What was known stands while the portal cannot say.
            known.is_located = bool(known.endpoint)
            if error.kind is ErrorKind.CREDENTIALS or known.lacks_place(settings, grant):
                raise
            return
        if not settings.endpoint:
            known.endpoint = region.endpoint(known.endpoint)
        known.user_name, known.is_located = region.user_name, True


def _completed(settings: ConnectionSettings, keys: AccessKeys, grant: _Grant) -> ConnectionSettings:
    known = _known(keys)
    with _named(settings, keys, keys.portal):
        return settings.with_token(
            grant.token,
            grant.payload,
            region=grant.name,
            endpoint=settings.endpoint or known.endpoint,
            portal_user=None if settings.user_name else known.user_name,
        )


@contextlib.contextmanager
def _named(settings: ConnectionSettings, keys: AccessKeys, origin: str) -> Iterator[None]:
    """Let errors say whose keys were used, and where."""
    try:
        yield
    except ScnetError as error:
        whose = f"access keys of platform user '{keys.user}', region {keys.cluster_id} ({origin})"
        error.where = f"connection '{settings.conn_id}', {whose}"
        raise


def _explain(error: ScnetApiError, asked_at: float, server_time: datetime | None) -> None:
    """Say what may be the matter with a signature; a clock that is off is set sooner or later, so that heals."""
    ahead = asked_at - server_time.timestamp() if server_time else 0.0
    error.advice = "check the extras access_key, secret_key and platform_user"
    if abs(ahead) > CLOCKS_DIFFER:
        side = "ahead of" if ahead > 0 else "behind"
        clock = f"the clock here is {abs(ahead) / 60:.0f} min {side} SCnet's, which fails signatures: set it"
        error.advice, error.kind = f"{clock}; if that does not help, {error.advice}", ErrorKind.TRANSIENT

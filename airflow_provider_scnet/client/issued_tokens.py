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
from typing import NamedTuple, TypeVar

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
    return _account_of(settings.keys).with_token(settings, settings.keys) if settings.keys else settings


def cached(settings: ConnectionSettings) -> ConnectionSettings | None:
    """
    Return what :func:`with_token` would, if that takes no request; else None.

    :param settings: what the connection says
    """
    return _account_of(settings.keys).cached(settings, settings.keys) if settings.keys else settings


def invalidate(token: str) -> None:
    """
    Give a token to nobody in this process any longer: SCnet has just refused it.

    :param token: the token, of whichever account
    """
    for account in list(_accounts.values()):
        account.drop(token)


def ask(settings: ConnectionSettings, request: Callable[[ConnectionSettings], T]) -> T:
    """
    Ask with a token; with access keys, once more with another one if the first is refused.

    :param settings: what the connection says
    :param request: asks
    :raises ScnetError: where there is no token, or what the request raises
    """
    settings = with_token(settings)
    try:
        return request(settings)
    except ScnetError as error:
        if error.kind is ErrorKind.CREDENTIALS:
            invalidate(settings.token)
        # A submission that was refused is not sent again by itself.
        if not settings.keys or not isinstance(error, ScnetAuthError):
            raise
    return request(with_token(settings))


def ask_for_region_again(settings: ConnectionSettings) -> None:
    """
    Have the portal asked again where a region is: its address does not answer.

    :param settings: whom a request did not reach
    """
    if keys := settings.keys:
        grants = _account_of(keys).grants
        if grant := grants.get(keys.cluster_id):
            # A copy: another thread may be completing settings with that one.
            grants[keys.cluster_id] = dataclasses.replace(grant, place=None)


class _Place(NamedTuple):
    """Where a region is: the address in use, empty where nobody had to know it, and the user that SCnet names."""

    endpoint: str = ""
    user_name: str | None = None


@dataclasses.dataclass
class _Grant:
    """
    The token of a region, as it is kept.

    :param token: the token
    :param name: the name of its region
    :param payload: what it says of itself; the end only where that lay ahead when it was issued
    :param until: when it is to be renewed, by :func:`time.monotonic`
    :param place: where its region is; None: the portal is to be asked
    """

    token: str = dataclasses.field(repr=False)
    name: str
    payload: TokenPayload
    until: float
    place: _Place | None = None

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

    def lacks_place(self, settings: ConnectionSettings) -> bool:
        """Tell whether the portal has to be asked before settings can be completed."""
        if settings.endpoint and (settings.user_name or self.payload.compute_user):
            return False
        return self.place is None or not (settings.endpoint or self.place.endpoint)


class _Account:
    """What the platform has granted to a pair of keys, in all regions; one request at a time."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        # All by cluster id. An error is kept with the connection that met it, until it may be tried again.
        self.grants: dict[str, _Grant] = {}
        self._places: dict[str, _Place] = {}
        self._failed: dict[str, tuple[ScnetError, str, float]] = {}

    def drop(self, token: str) -> None:
        for cluster_id, grant in list(self.grants.items()):
            if grant.token == token:
                self.grants.pop(cluster_id, None)

    def cached(self, settings: ConnectionSettings, keys: AccessKeys) -> ConnectionSettings | None:
        grant = self.grants.get(keys.cluster_id)
        if grant is None or time.monotonic() >= grant.until or grant.lacks_place(settings):
            return None
        return _completed(settings, keys, grant)

    def with_token(self, settings: ConnectionSettings, keys: AccessKeys) -> ConnectionSettings:
        if found := self.cached(settings, keys):
            return found
        # The thread that holds the lock makes two requests, as a rule.
        lock = self.lock
        with _named(settings, keys, keys.platform):
            if not lock.acquire(timeout=settings.at_most(2 * settings.timeout)):
                raise ScnetConnectionError("there is no answer yet to an earlier request for a token")
        try:
            return self.cached(settings, keys) or self._obtain_unless_just_failed(settings, keys)
        finally:
            lock.release()

    def _obtain_unless_just_failed(self, settings: ConnectionSettings, keys: AccessKeys) -> ConnectionSettings:
        known, conn_id, until = self._failed.get(keys.cluster_id, (None, "", 0.0))
        if known and time.monotonic() < until:
            error = copy.copy(known)
            error.where = error.where.replace(f"'{conn_id}'", f"'{settings.conn_id}'", 1)
            raise error
        try:
            return self._obtain(settings, keys)
        except ScnetError as error:
            # A request with less time than the connection grants may fail where others would not.
            if settings.until is None:
                until = time.monotonic() + max(PAUSE_AFTER_FAILURE, error.retry_after or 0.0)
                # A copy has no traceback, whose frames hold secrets.
                self._failed[keys.cluster_id] = copy.copy(error), settings.conn_id, until
            raise

    def _obtain(self, settings: ConnectionSettings, keys: AccessKeys) -> ConnectionSettings:
        kept = self.grants.get(keys.cluster_id)
        grant = kept if kept and time.monotonic() < kept.until else self._renew(settings, keys)
        if grant.lacks_place(settings):
            try:
                self._locate(settings, keys, grant)
            except ScnetError as error:
                if error.kind is not ErrorKind.CREDENTIALS:
                    raise
                self.drop(grant.token)
                if grant is not kept:
                    raise
                # It was too old: once more with a fresh one, as a poll does.
                grant = self._renew(settings, keys)
                self._locate(settings, keys, grant)
        return _completed(settings, keys, grant)

    def _renew(self, settings: ConnectionSettings, keys: AccessKeys) -> _Grant:
        asked_at = time.time()
        headers = keys.signed(asked_at)
        secrets = (keys.secret_key, keys.access_key, str(headers["signature"]))
        request = transport.Request("POST", keys.platform, access_keys.TOKENS_PATH, headers, secrets=secrets)
        with _named(settings, keys, keys.platform):
            answer = transport.send(request, settings)
            try:
                regions = response.read(answer, access_keys.tokens_from_data, *secrets)
            except ScnetApiError as error:
                if error.kind in (ErrorKind.CREDENTIALS, ErrorKind.PERMANENT):
                    _explain(error, asked_at, answer.date)
                raise
            # Of all regions: where issuing ends earlier tokens, they would otherwise end each other's.
            for region in regions:
                with contextlib.suppress(ScnetError):
                    issued = access_keys.token_of(region.cluster_id, regions)
                    self.grants[region.cluster_id] = _Grant.of(issued, answer.date)
            issued = access_keys.token_of(keys.cluster_id, regions)
            # Not in there any longer where somebody has met a refusal at once.
            return self.grants.get(keys.cluster_id) or _Grant.of(issued, answer.date)

    def _locate(self, settings: ConnectionSettings, keys: AccessKeys, grant: _Grant) -> None:
        known, token = self._places.get(keys.cluster_id, _Place()), grant.token
        request = transport.Request("GET", keys.portal, REGION_PATH, {"token": token}, secrets=(token,))
        with _named(settings, keys, keys.portal):
            try:
                region = response.read(transport.send(request, settings), Region.of, token)
            except ScnetError as error:
                # What was known stands while the portal cannot say.
                grant.place = known if known.endpoint else None
                if error.kind is ErrorKind.CREDENTIALS or grant.lacks_place(settings):
                    raise
                return
            endpoint = known.endpoint if settings.endpoint else region.endpoint(known.endpoint)
        grant.place = self._places[keys.cluster_id] = _Place(endpoint, region.user_name)


def _completed(settings: ConnectionSettings, keys: AccessKeys, grant: _Grant) -> ConnectionSettings:
    place = grant.place or _Place()
    with _named(settings, keys, keys.portal):
        return settings.with_token(
            grant.token,
            grant.payload,
            region=grant.name,
            endpoint=settings.endpoint or place.endpoint,
            portal_user=None if settings.user_name else place.user_name,
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


# By the keys, without a region.
_accounts: dict[AccessKeys, _Account] = {}
_accounts_lock = threading.Lock()


def _account_of(keys: AccessKeys) -> _Account:
    with _accounts_lock:
        return _accounts.setdefault(dataclasses.replace(keys, cluster_id=""), _Account())


def _make_locks_anew() -> None:
    """Forget who holds a lock: after a fork that is a thread which this process does not have."""
    global _accounts_lock
    _accounts_lock = threading.Lock()
    for account in _accounts.values():
        account.lock = threading.Lock()


os.register_at_fork(after_in_child=_make_locks_anew)

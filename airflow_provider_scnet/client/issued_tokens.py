# SPDX-License-Identifier: Apache-2.0
"""
The tokens that this process has obtained with access keys: kept in memory, renewed in time, one request at a time.

Any thread may call these functions; their arguments are plain values.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import threading
import time
from collections.abc import Callable
from datetime import datetime, timezone

from airflow_provider_scnet.client import response, transport
from airflow_provider_scnet.client.access_keys import REGION_PATH, TOKENS_PATH, AccessKeys, Region, token_of
from airflow_provider_scnet.client.connection_settings import ConnectionSettings
from airflow_provider_scnet.client.errors import ErrorKind, ScnetApiError, ScnetConnectionError, ScnetError
from airflow_provider_scnet.client.token_payload import TokenPayload

#: Seconds before its end at which a token is renewed; a tenth of its lifetime where that is less.
MARGIN = 60.0
#: Seconds for which this process keeps a token that does not say when it ends.
UNKNOWN_LIFETIME = 900.0
#: Seconds after a failed request before the next one; gates that arrive meanwhile share the error.
PAUSE_AFTER_FAILURE = 5.0
#: Seconds by which the clocks here and at SCnet may differ before a message says so.
CLOCKS_DIFFER = 60.0


def with_token(settings: ConnectionSettings, refused: str = "") -> ConnectionSettings:
    """
    Return the settings with a token, and with what the connection leaves open of endpoint and user.

    Settings with a pasted token are complete as they are.

    :param settings: what the connection says
    :param refused: a token that the region has just not accepted: another is asked for
    :raises ScnetError: where the platform does not issue a token, or does not say where the region is
    """
    return _cache_of(settings.keys).with_token(settings, refused) if settings.keys else settings


def cached(settings: ConnectionSettings, refused: str = "") -> ConnectionSettings | None:
    """
    Return what :func:`with_token` would, if that takes no request; else None.

    :param settings: what the connection says
    :param refused: a token that the region has just not accepted
    """
    return _cache_of(settings.keys).cached(settings, refused) if settings.keys else settings


def note_refusal(settings: ConnectionSettings, error: ScnetError) -> None:
    """
    Note that the region refused the renewed token, too.

    No request sends it again, and polls within the next seconds share the error.

    :param settings: whom the poll asked, and with which token
    :param error: what the region said
    """
    if settings.keys:
        _cache_of(settings.keys).note_refusal(settings, error)


@dataclasses.dataclass(frozen=True)
class _Grant:
    """
    A token, as it is kept.

    :param token: the token
    :param name: the name of its region
    :param until: when it is to be renewed, by :func:`time.monotonic`
    :param region: where its region is, once a request had to know it
    :param refused: where it was not accepted: the portal, and accounts of the region. All copies share it. It is
        kept here and not by token, because the platform may issue the same token again: that is worth another try
    """

    token: str = dataclasses.field(repr=False)
    name: str
    until: float
    region: Region | None = None
    refused: set[str | tuple[str, str]] = dataclasses.field(default_factory=set)

    def with_token(self, settings: ConnectionSettings) -> ConnectionSettings:
        """Complete settings; of the region only with what they lack, so that earlier requests do not matter."""
        if self.region is None or not self._needs_region(settings):
            return settings.with_token(self.token, region=self.name)
        return settings.with_token(
            self.token,
            region=self.name,
            endpoint=None if settings.endpoint else self.region.endpoint,
            user_name=self.region.user_name,
        )

    def suffices(self, settings: ConnectionSettings) -> bool:
        """Tell whether settings can be completed without another request."""
        return self.region is not None or not self._needs_region(settings)

    def _needs_region(self, settings: ConnectionSettings) -> bool:
        has_user = settings.user_name or TokenPayload.from_token(self.token).compute_user
        return not (settings.endpoint and has_user)


class _TokenCache:
    """The token of one account for one region."""

    def __init__(self, keys: AccessKeys) -> None:
        self._keys = keys
        self._renewing = threading.Lock()
        self._grant: _Grant | None = None
        # By path, or by the account that refuses all tokens: the error of a request, and when it may be repeated,
        # by time.monotonic().
        self._failed: dict[str | tuple[str, str], tuple[ScnetError, float]] = {}

    @property
    def is_idle(self) -> bool:
        """Whether it holds nothing that a later request could use."""
        now = time.monotonic()
        in_use = self._renewing.locked() or self._is_fresh(self._grant)
        return not in_use and all(until <= now for _, until in list(self._failed.values()))

    def cached(self, settings: ConnectionSettings, refused: str) -> ConnectionSettings | None:
        self._refuse(settings, refused)
        grant = self._grant
        if grant is None or not self._is_fresh(grant) or not grant.suffices(settings):
            return None
        done = self._completed(grant, settings)
        return None if done.account in grant.refused else done

    def with_token(self, settings: ConnectionSettings, refused: str) -> ConnectionSettings:
        if found := self.cached(settings, refused):
            return found
        # The thread that holds the lock makes two requests at most.
        if not self._renewing.acquire(timeout=settings.at_most(2 * settings.timeout)):
            raise ScnetConnectionError(
                "there is no answer yet to an earlier request for a token",
                where=self._where(settings, self._keys.platform),
            )
        try:
            return self.cached(settings, "") or self._obtain(settings)
        finally:
            self._renewing.release()

    def note_refusal(self, settings: ConnectionSettings, error: ScnetError) -> None:
        self._refuse(settings, settings.token)
        self._remember(settings.account, error)

    def _refuse(self, settings: ConnectionSettings, token: str) -> None:
        grant = self._grant
        if grant and grant.token == token:
            grant.refused.add(settings.account)

    def _obtain(self, settings: ConnectionSettings) -> ConnectionSettings:
        kept = self._grant if self._is_fresh(self._grant) else None
        if kept and self._keys.portal in kept.refused and not kept.suffices(settings):
            kept = None
        grant = kept or self._renewed(settings)
        if not grant.suffices(settings):
            is_new = kept is None
            described = self._unless_just_failed(
                REGION_PATH,
                self._keys.portal,
                settings,
                lambda: self._described(grant, settings, is_new=is_new),
            )
            self._grant = grant = described
        done = self._completed(grant, settings)
        if done.account not in grant.refused:
            return done
        # The account may have refused a renewed token a moment ago.
        self._recall(done.account, done.where)
        return self._renewed(settings).with_token(done)

    def _renewed(self, settings: ConnectionSettings) -> _Grant:
        self._grant = self._unless_just_failed(
            TOKENS_PATH, self._keys.platform, settings, lambda: self._request_token(settings)
        )
        return self._grant

    def _completed(self, grant: _Grant, settings: ConnectionSettings) -> ConnectionSettings:
        try:
            return grant.with_token(settings)
        except ScnetError as error:
            error.where = self._where(settings, self._keys.portal)
            raise

    def _described(self, grant: _Grant, settings: ConnectionSettings, *, is_new: bool) -> _Grant:
        try:
            return dataclasses.replace(grant, region=self._request_region(settings, grant))
        except ScnetError as error:
            if is_new or error.kind is not ErrorKind.CREDENTIALS:
                raise
        # The kept token was too old: try once more with a fresh one, as a poll does.
        grant = self._renewed(settings)
        return dataclasses.replace(grant, region=self._request_region(settings, grant))

    def _unless_just_failed(
        self, path: str, origin: str, settings: ConnectionSettings, request: Callable[[], _Grant]
    ) -> _Grant:
        """Make a request, or raise the error of the last one if that failed a moment ago."""
        where = self._where(settings, origin)
        self._recall(path, where)
        try:
            grant = request()
        except ScnetError as error:
            error.where = error.where or where
            # A request with less time than the connection grants may fail where others would not.
            if settings.until is None:
                self._remember(path, error)
            raise
        self._failed.pop(path, None)
        return grant

    def _remember(self, what: str | tuple[str, str], error: ScnetError) -> None:
        self._failed[what] = _copy(error), time.monotonic() + max(PAUSE_AFTER_FAILURE, error.retry_after or 0.0)

    def _recall(self, what: str | tuple[str, str], where: str) -> None:
        known, until = self._failed.get(what, (None, 0.0))
        if known and time.monotonic() < until:
            error = _copy(known)
            # Another connection with the same keys may have met it.
            error.where = where
            raise error

    def _request_token(self, settings: ConnectionSettings) -> _Grant:
        keys, asked_at = self._keys, time.time()
        headers = keys.signed(asked_at)
        secrets = (keys.secret_key, keys.access_key, str(headers["signature"]))
        request = transport.Request("POST", keys.platform, TOKENS_PATH, headers, secrets=secrets)
        answer = transport.send(request, settings)
        try:
            token, name = response.read(answer, functools.partial(token_of, keys.cluster_id), *secrets)
        except ScnetApiError as error:
            error.advice = _advice(error, asked_at, answer.date)
            raise
        return _Grant(token, name, _until(token, answer.date))

    def _request_region(self, settings: ConnectionSettings, grant: _Grant) -> Region:
        portal, token = self._keys.portal, grant.token
        request = transport.Request("GET", portal, REGION_PATH, {"token": token}, secrets=(token,))
        try:
            return response.read(transport.send(request, settings), Region.of, token)
        except ScnetError as error:
            if error.kind is ErrorKind.CREDENTIALS:
                grant.refused.add(portal)
            raise

    def _where(self, settings: ConnectionSettings, origin: str) -> str:
        return (
            f"connection '{settings.conn_id}', access keys of platform user '{self._keys.user}', "
            f"region {self._keys.cluster_id} ({origin})"
        )

    @staticmethod
    def _is_fresh(grant: _Grant | None) -> bool:
        return grant is not None and time.monotonic() < grant.until


def _copy(error: ScnetError) -> ScnetError:
    """Return a copy to keep or to raise again, without the traceback, whose frames hold secrets."""
    return copy.copy(error).with_traceback(None)


_caches: dict[AccessKeys, _TokenCache] = {}
_caches_lock = threading.Lock()


def _cache_of(keys: AccessKeys) -> _TokenCache:
    with _caches_lock:
        if keys not in _caches:
            # Forget keys that were replaced, or are no longer used.
            for other in [other for other, cache in _caches.items() if cache.is_idle]:
                del _caches[other]
            _caches[keys] = _TokenCache(keys)
        return _caches[keys]


def _until(token: str, server_time: datetime | None) -> float:
    ends = TokenPayload.from_token(token).expires_at
    if ends is None:
        return time.monotonic() + UNKNOWN_LIFETIME
    # Use SCnet's clock, which set the end, where it is known.
    lifetime = (ends - (server_time or datetime.now(timezone.utc))).total_seconds()
    return time.monotonic() + lifetime - min(MARGIN, lifetime / 10)


def _advice(error: ScnetApiError, asked_at: float, server_time: datetime | None) -> str:
    parts = []
    ahead = asked_at - server_time.timestamp() if server_time else 0.0
    if abs(ahead) > CLOCKS_DIFFER:
        side = "ahead of" if ahead > 0 else "behind"
        parts.append(f"the clock here is {abs(ahead) / 60:.0f} min {side} SCnet's, which fails signatures: set it")
    if error.kind in (ErrorKind.CREDENTIALS, ErrorKind.PERMANENT):
        parts.append("check the extras access_key, secret_key and platform_user")
    return "; ".join(parts)

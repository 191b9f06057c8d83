# SPDX-License-Identifier: Apache-2.0
"""What an Airflow connection says: where SCnet is, who asks, and with which token."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import math
import re
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Protocol

from airflow_provider_scnet.client.access_keys import NO_REGION, PLATFORM, PORTAL, AccessKeys, is_user_name
from airflow_provider_scnet.client.base_url import base_url
from airflow_provider_scnet.client.errors import ErrorKind, ScnetConfigError
from airflow_provider_scnet.client.token_payload import TokenPayload, local

#: These replace a token; a connection has all of them or none.
KEY_EXTRAS = ("access_key", "secret_key", "cluster_id", "platform_user")


class ConnectionFields(Protocol):
    """The fields of an Airflow connection, on every version of Airflow."""

    host: str | None
    login: str | None
    password: str | None
    schema: str | None
    port: int | None
    extra: str | None


@dataclasses.dataclass(frozen=True)
class ConnectionSettings:
    """
    What a connection says: whom to ask, and about whom; plain values, safe to give to a thread.

    Two are equal where connections say the same, whichever token was obtained.

    With access keys the token, and what the connection leaves open of endpoint and user, are empty until
    :mod:`~airflow_provider_scnet.client.issued_tokens` has filled them in.

    :param conn_id: the connection's id
    :param endpoint: scheme, host, port and path, without the trailing ``/hpc``
    :param user_name: the cluster user whose jobs are counted
    :param token: what the request is authorised with
    :param timeout: seconds for a whole request, from the look-up of the name to the end of the answer
    :param verify: whether to verify certificates of the endpoint, or a file of authorities to trust
    :param proxies: proxy addresses by scheme
    :param allow_foreign_user: whether all zeros for another user than the token's own are believed
    :param counted_after: seconds after which the cluster's counts include a submitted job
    :param condition: what has to hold for every gate of the connection besides its own condition, as it stands
        there: gates read it, and stay shut where they cannot; empty: nothing
    :param token_user: the cluster user that the token names as its own, or None
    :param token_ends: when the token says that it ends, or None
    :param pasted: the token as the connection has it, or empty
    :param keys: what tokens are obtained with, or None where the token was pasted
    :param region: the name of the region that the token was obtained for
    :param portal_user: the cluster user that SCnet's portal names, where it was asked who that is
    :param until: when all requests together have to be over, by :func:`time.monotonic`; None: each has its time
    """

    conn_id: str
    endpoint: str
    user_name: str
    token: str = dataclasses.field(repr=False, compare=False)
    timeout: float = 10.0
    verify: bool | str = True
    proxies: Mapping[str, str] = dataclasses.field(default_factory=dict, repr=False)
    allow_foreign_user: bool = False
    # Sites that refresh their counts once a minute need so long.
    counted_after: float = 60.0
    condition: str = ""
    namespace: str = ""
    token_user: str | None = None
    token_ends: datetime | None = dataclasses.field(default=None, compare=False)
    pasted: str = dataclasses.field(default="", repr=False)
    keys: AccessKeys | None = None
    region: str = ""
    portal_user: str | None = dataclasses.field(default=None, compare=False)
    until: float | None = None

    @classmethod
    def from_connection(
        cls, conn_id: str, conn: ConnectionFields, user_name: str | None = None
    ) -> ConnectionSettings:
        """
        Read a connection, strictly.

        :param conn_id: the connection's id
        :param conn: the connection
        :param user_name: the cluster user to ask about; default: the login, else the token's own user
        :raises ScnetConfigError: naming the field that lacks or contradicts something
        """
        try:
            extra = _extra(conn.extra)
            keys = _keys(extra, conn.password)
            host = (conn.host or "").strip()
            if not host and not keys:
                raise ScnetConfigError("no host: fill in the HPC endpoint of your region, e.g. https://host:65051")
            settings = cls(
                conn_id=conn_id,
                endpoint=base_url("the field 'host'", host, schema=conn.schema, port=conn.port) if host else "",
                user_name=_user(user_name, conn.login),
                token="",
                pasted="" if keys else _token(conn.password),
                keys=keys,
                **{name: _READERS[name](name, value) for name, value in extra.items() if name in _READERS},
            )
            if keys:
                return settings.checked()
            settings = settings.with_token(settings.pasted)
            if settings.token_ends and settings.token_ends <= datetime.now(timezone.utc):
                ended = ScnetConfigError(
                    f"the token ended {local(settings.token_ends)}", kind=ErrorKind.CREDENTIALS
                )
                ended.advice = settings.advice
                raise ended
            return settings
        except ScnetConfigError as error:
            error.where = f"connection '{conn_id}'"
            raise

    def checked(self) -> ConnectionSettings:
        """
        Make sure that the parts go together.

        :raises ScnetConfigError: where a proxy would see the token of a plain-text request
        """
        origins = [self.endpoint, *([self.keys.platform, self.keys.portal] if self.keys else [])]
        if self.proxies and any(origin.startswith("http://") for origin in origins):
            raise ScnetConfigError(
                "extra 'proxies' does not go with a plain http host: the proxy would see the token"
            )
        return self

    def with_token(self, token: str, payload: TokenPayload | None = None, **obtained: Any) -> ConnectionSettings:
        """
        Fill in the token, and what the connection leaves open.

        The user, if neither the gate nor the connection names one, is the token's own, else the portal's.

        :param token: the token
        :param payload: what it says of itself, where that was read already
        :param obtained: the region's name, its ``endpoint`` if the connection has none, and the ``portal_user``
        :raises ScnetConfigError: where there is no user
        """
        payload = payload or TokenPayload.from_token(token)
        user = self.user_name or payload.compute_user or obtained.get("portal_user") or ""
        if not is_user_name(user):
            raise ScnetConfigError(
                "no cluster user: fill in the field 'login' or pass user_name (the token names no user)"
            )
        return dataclasses.replace(
            self,
            token=token,
            user_name=user,
            token_user=payload.compute_user,
            token_ends=payload.expires_at,
            **obtained,
        ).checked()

    def at_most(self, seconds: float) -> float:
        """
        Return how many seconds something may take.

        :param seconds: what it may take where there is time enough
        """
        return seconds if self.until is None else max(min(seconds, self.until - time.monotonic()), 0.0)

    @property
    def advice(self) -> str:
        """What to do when the region does not accept the token."""
        if self.keys:
            return (
                "the token had just been issued: check that the host is that of the region "
                f"with the cluster_id {self.keys.cluster_id}"
            )
        return "paste a fresh token into the connection's password; waiting gates pick it up by themselves"

    @property
    def account(self) -> tuple[str, str]:
        """The account: endpoint and user; the same for all connections that lead to it."""
        return self.endpoint, self.user_name

    @property
    def where(self) -> str:
        """The connection, endpoint and user, for people."""
        return f"connection '{self.conn_id}' ({self.endpoint}), user '{self.user_name}'"

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must be in no message."""
        keys = (self.keys.secret_key, self.keys.access_key) if self.keys else ()
        return (self.token, *keys) if self.token else keys

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the log should know of the connection."""
        where, notes = f"connection '{self.conn_id}'", []
        if self.verify is False:
            notes.append(f"{where}: extra 'verify' is false, certificates are not verified")
        if self.portal_user and self.user_name == self.token_user != self.portal_user:
            notes.append(
                f"{where}: the token was issued for '{self.user_name}', whose jobs are counted, but the portal "
                f"names the cluster user '{self.portal_user}': fill in the field 'login' if that one is meant"
            )
        return tuple(notes)


def _extra(text: str | None) -> dict[str, Any]:
    if not text or not text.strip():
        return {}
    try:
        extra = json.loads(text)
    except (ValueError, RecursionError):
        raise ScnetConfigError("the extra field is not JSON") from None
    if not isinstance(extra, dict):
        raise ScnetConfigError("the extra field is not a JSON object")
    if unknown := sorted(set(extra) - set(EXTRAS)):
        # A misspelt 'verify' or 'timeout' would otherwise be ignored silently.
        raise ScnetConfigError(
            f"unknown extra {', '.join(repr(name[:40]) for name in unknown)}; the extras are {', '.join(EXTRAS)}"
        )
    # The form stores an empty field as null or as an empty text.
    return {name: value for name, value in extra.items() if value is not None and value != ""}


def _keys(extra: Mapping[str, Any], password: str | None) -> AccessKeys | None:
    given = [name for name in (*KEY_EXTRAS, "platform", "portal") if name in extra]
    if not given:
        return None
    if missing := [name for name in KEY_EXTRAS if name not in extra]:
        raise ScnetConfigError(
            f"extra {_names(given)} without {_names(missing)}: "
            f"access keys need all of {_names(KEY_EXTRAS)} (or none of them, and a token in the field 'password')"
        )
    if (password or "").strip():
        raise ScnetConfigError(
            f"the field 'password' (Token) and extra {_names(KEY_EXTRAS)} contradict each other: "
            "either a token, or access keys that obtain one"
        )
    # A cluster id consists of digits, so JSON may well hold a number.
    cluster_id = extra["cluster_id"]
    if isinstance(cluster_id, int) and not isinstance(cluster_id, bool):
        cluster_id = str(cluster_id)
    if _word("cluster_id", cluster_id) == NO_REGION:
        raise ScnetConfigError("extra 'cluster_id' is 0, which is the platform itself: name a region")
    user = extra["platform_user"]
    if not is_user_name(user):
        raise ScnetConfigError("extra 'platform_user' is no name of a user")
    return AccessKeys(
        user=str(user).strip(),
        access_key=_word("access_key", extra["access_key"]),
        secret_key=_word("secret_key", extra["secret_key"]),
        cluster_id=_word("cluster_id", cluster_id),
        platform=_origin("platform", extra.get("platform", PLATFORM)),
        portal=_origin("portal", extra.get("portal", PORTAL)),
    )


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)


def _word(name: str, value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[!-~]{1,1000}", value.strip()):
        raise ScnetConfigError(f"extra '{name}' is empty, or holds white space or characters beyond ASCII")
    return value.strip()


def _origin(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ScnetConfigError(f"extra '{name}' is no address")
    return base_url(f"extra '{name}'", value)


def _token(password: str | None) -> str:
    token = (password or "").strip()
    if not token:
        raise ScnetConfigError(
            "no token: paste it into the field 'password' (Token), or fill in the extras for access keys"
        )
    if not re.fullmatch(r"[!-~]+", token):
        raise ScnetConfigError("the token in the field 'password' holds white space or characters beyond ASCII")
    return token


def _user(user_name: str | None, login: str | None) -> str:
    """Return the user that the gate or the connection names, or an empty text."""
    user, field = (login or "", "login") if user_name is None else (user_name, "user_name")
    if not isinstance(user, str):
        raise ScnetConfigError(f"{field} is no text but {type(user).__name__}")
    if user_name is not None and not user.strip():
        raise ScnetConfigError("user_name is given but empty")
    if user.strip() and not is_user_name(user):
        raise ScnetConfigError(f"{field} is no name of a user: longer than 200 characters, or with line breaks")
    return user.strip()


def _flag(name: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
        return value.strip().lower() == "true"
    raise ScnetConfigError(f"extra '{name}' is neither true nor false")


def _seconds(name: str, value: Any, *, most: float, or_none: bool = False) -> float:
    try:
        seconds = float(value) if not isinstance(value, bool) else math.nan
    except (TypeError, ValueError):
        seconds = math.nan
    if not (0 < seconds <= most or (or_none and seconds == 0)):
        least = "from 0" if or_none else "above 0 and"
        raise ScnetConfigError(f"extra '{name}' is no number of seconds {least} up to {most:.0f}")
    return seconds


def _verify(name: str, value: Any) -> bool | str:
    if isinstance(value, str) and value.strip().lower() not in ("true", "false"):
        if not Path(value).exists():
            raise ScnetConfigError("extra 'verify' is neither true nor false nor an existing file of authorities")
        return value
    return _flag(name, value)


def _proxies(name: str, value: Any) -> dict[str, str]:
    if isinstance(value, str):
        with contextlib.suppress(ValueError, RecursionError):
            value = json.loads(value)
    if not isinstance(value, dict) or not all(
        scheme in ("http", "https", "all")
        and isinstance(address, str)
        and re.match("(https?|socks5h?|socks4a?)://.", address)
        for scheme, address in value.items()
    ):
        raise ScnetConfigError('extra \'proxies\' is not a JSON object such as {"https": "http://proxy:3128"}')
    return value


# How the extras are read that stand in fields of the same name.
_READERS: dict[str, Callable[[str, Any], Any]] = {
    "timeout": functools.partial(_seconds, most=300.0),
    "verify": _verify,
    "proxies": _proxies,
    "allow_foreign_user": _flag,
    "counted_after": functools.partial(_seconds, most=3600.0, or_none=True),
    # A mistake in it, of whatever type, fails no gate.
    "condition": lambda name, value: str(value),
    "namespace": _word,
}
#: The extras a connection may have.
EXTRAS = (*_READERS, *KEY_EXTRAS, "platform", "portal")

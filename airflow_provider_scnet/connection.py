# SPDX-License-Identifier: Apache-2.0
"""What an Airflow connection says: where SCnet is, who asks, and with which token."""

from __future__ import annotations

import dataclasses
import ipaddress
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from airflow_provider_scnet.exceptions import ScnetConfigError
from airflow_provider_scnet.token import TokenPayload

#: The extras a connection may have.
EXTRAS = ("timeout", "verify", "proxies", "allow_foreign_user")

DEFAULT_TIMEOUT = 10.0
_LONGEST_TIMEOUT = 300.0
_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")


class ConnectionFields(Protocol):
    """The fields of an Airflow connection, whichever Airflow made it."""

    host: str | None
    login: str | None
    password: str | None
    schema: str | None
    port: int | None
    extra: str | None


@dataclasses.dataclass(frozen=True)
class Target:
    """
    Whom to ask and about whom; plain values that may be handed to a thread.

    :param conn_id: the connection's id
    :param endpoint: scheme, host, port and path, without the trailing ``/hpc``
    :param user_name: the cluster user whose jobs are counted
    :param token: what the request is authorised with
    :param timeout: seconds for connecting, between bytes, and for the whole answer
    :param verify: whether to verify certificates, or a file of authorities to trust
    :param proxies: proxy addresses by scheme
    :param allow_foreign_user: whether all zeros for another user than the token's own are believed
    :param token_user: the cluster user that the token names as its own, or None
    """

    conn_id: str
    endpoint: str
    user_name: str
    token: str = dataclasses.field(repr=False)
    timeout: float = DEFAULT_TIMEOUT
    verify: bool | str = True
    proxies: Mapping[str, str] = dataclasses.field(default_factory=dict, repr=False)
    allow_foreign_user: bool = False
    token_user: str | None = None

    @classmethod
    def from_connection(cls, conn_id: str, conn: ConnectionFields, user_name: str | None = None) -> Target:
        """
        Read a connection, strictly.

        :param conn_id: the connection's id
        :param conn: the connection
        :param user_name: the cluster user to ask about; default: the login, else the token's own user
        :raises ScnetConfigError: naming the field that lacks or contradicts something
        """
        try:
            extra = _extra(conn.extra)
            token = _token(conn.password)
            token_user = TokenPayload.from_token(token).compute_user
            return cls(
                conn_id=conn_id,
                endpoint=_endpoint(conn),
                user_name=_user(user_name, conn.login, token_user),
                token=token,
                timeout=_timeout(extra.get("timeout")),
                verify=_verify(extra.get("verify")),
                proxies=_proxies(extra.get("proxies")),
                allow_foreign_user=_flag("allow_foreign_user", extra.get("allow_foreign_user"), default=False),
                token_user=token_user,
            ).checked()
        except ScnetConfigError as error:
            error.where = f"connection '{conn_id}'"
            raise

    def checked(self) -> Target:
        """
        Make sure that the parts go together.

        :raises ScnetConfigError: where a proxy would see the token of a plain-text request
        """
        if self.proxies and self.endpoint.startswith("http://"):
            raise ScnetConfigError(
                "extra 'proxies' does not go with a plain http host: the proxy would see the token"
            )
        return self

    @property
    def account(self) -> tuple[str, str]:
        """The account that is looked at: endpoint and user, whatever the connection is called."""
        return self.endpoint, self.user_name

    @property
    def where(self) -> str:
        """The connection, endpoint and user, for people."""
        return f"connection '{self.conn_id}' ({self.endpoint}), user '{self.user_name}'"

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader of the log should know of the connection."""
        if self.verify is False:
            return (f"connection '{self.conn_id}': extra 'verify' is false, certificates are not verified",)
        return ()


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
        # A misspelt 'verify' or 'timeout' would otherwise be ignored without a word.
        raise ScnetConfigError(
            f"unknown extra {', '.join(repr(name[:40]) for name in unknown)}; the extras are {', '.join(EXTRAS)}"
        )
    # The form stores a field that nobody touched as null or as an empty text.
    return {name: value for name, value in extra.items() if value is not None and value != ""}


def _token(password: str | None) -> str:
    token = (password or "").strip()
    if not token:
        raise ScnetConfigError("no token: paste it into the field 'password' (Token)")
    if not re.fullmatch(r"[!-~]+", token):
        raise ScnetConfigError("the token in the field 'password' holds white space or characters beyond ASCII")
    return token


def _user(user_name: str | None, login: str | None, token_user: str | None) -> str:
    if user_name is not None:
        user, field = user_name, "user_name"
    else:
        user, field = (login or "").strip() or token_user or "", "login"
    if not isinstance(user, str) or not user.strip():
        raise ScnetConfigError(
            "user_name is given but empty"
            if user_name is not None
            else "no cluster user: fill in the field 'login' or pass user_name (the token names no user)"
        )
    if len(user) > 200 or not user.isprintable():
        raise ScnetConfigError(f"{field} is no name of a user: longer than 200 characters, or with line breaks")
    return user.strip()


def _endpoint(conn: ConnectionFields) -> str:
    host = (conn.host or "").strip()
    if not host:
        raise ScnetConfigError("no host: fill in the HPC endpoint of your region, e.g. https://host:65051")
    whole = "://" in host
    try:
        address = urlsplit(host if whole else f"//{host}")
        address_port = address.port
    except ValueError:
        raise ScnetConfigError("the field 'host' is no address") from None
    if address.username is not None or address.password is not None:
        raise ScnetConfigError("the field 'host' holds a user or a token: they belong into login and password")
    if address.query or address.fragment or "?" in host or "#" in host:
        raise ScnetConfigError("the field 'host' holds a query: give the address alone")
    schema = (conn.schema or "").strip().strip("/")
    scheme_given, path_given = (schema.lower(), "") if schema.lower() in ("http", "https") else ("", schema)
    scheme = _agree("scheme", address.scheme.lower() or None, scheme_given or None, "schema") or "https"
    if scheme not in ("http", "https"):
        raise ScnetConfigError("the field 'host' is neither an https nor an http address")
    if conn.port is not None and not 0 < int(conn.port) < 65536:
        raise ScnetConfigError("the field 'port' is no port")
    port = _agree("port", address_port, conn.port, "port")
    path = _agree("path", address.path.strip("/") or None, path_given or None, "schema") or ""
    name = _host(address.hostname)
    if scheme == "http" and not _is_loopback(name):
        raise ScnetConfigError(
            "plain http would show the token to the network: use https (http is for loopback only)"
        )
    segments = [part for part in path.split("/") if part]
    if not all(re.fullmatch(r"[\w.~-]+", part, re.ASCII) and part not in (".", "..") for part in segments):
        raise ScnetConfigError("the path of the field 'host' holds unusual characters")
    if segments[-1:] == ["hpc"]:
        # SCnet hands its base addresses out with and without this suffix.
        segments.pop()
    authority = f"[{name}]" if ":" in name else name
    if port is not None and port != {"http": 80, "https": 443}[scheme]:
        authority += f":{port}"
    return "/".join([f"{scheme}://{authority}", *segments])


def _agree(what: str, in_host: Any, in_field: Any, field: str) -> Any:
    if in_host and in_field and in_host != in_field:
        raise ScnetConfigError(f"the {what} in the field 'host' and the field '{field}' contradict each other")
    return in_host or in_field


def _host(name: str | None) -> str:
    if name and ":" in name:
        try:
            return str(ipaddress.IPv6Address(name))
        except ValueError:
            name = None
    if not name or not all(map(_LABEL.fullmatch, name.removesuffix(".").split("."))):
        raise ScnetConfigError("the field 'host' is no name of a host")
    return name.lower()


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


def _flag(name: str, value: Any, *, default: bool) -> bool:
    if value is None:
        return default
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
        return value.strip().lower() == "true"
    raise ScnetConfigError(f"extra '{name}' is neither true nor false")


def _timeout(value: Any) -> float:
    if value is None:
        return DEFAULT_TIMEOUT
    try:
        seconds = float(value) if not isinstance(value, bool) else 0.0
    except (TypeError, ValueError):
        seconds = 0.0
    if not 0 < seconds <= _LONGEST_TIMEOUT:
        raise ScnetConfigError(f"extra 'timeout' is no number of seconds above 0 and up to {_LONGEST_TIMEOUT:.0f}")
    return seconds


def _verify(value: Any) -> bool | str:
    if isinstance(value, str) and value.strip().lower() not in ("true", "false"):
        if not Path(value).exists():
            raise ScnetConfigError("extra 'verify' is neither true nor false nor an existing file of authorities")
        return value
    return _flag("verify", value, default=True)


def _proxies(value: Any) -> dict[str, str]:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            value = False
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(
        scheme in ("http", "https", "all")
        and isinstance(address, str)
        and address.startswith(("http://", "https://"))
        for scheme, address in value.items()
    ):
        raise ScnetConfigError('extra \'proxies\' is not a JSON object such as {"https": "http://proxy:3128"}')
    return value

# SPDX-License-Identifier: Apache-2.0
"""An address that requests may go to, read strictly: https, or plain http on loopback."""

from __future__ import annotations

import contextlib
import ipaddress
import re
from typing import Any

from urllib3.exceptions import LocationParseError
from urllib3.util import parse_url

from airflow_provider_scnet.client.errors import ScnetConfigError

_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")


def base_url(what: str, text: str, *, schema: str | None = None, port: int | str | None = None) -> str:
    """
    Return scheme, host, port and path, in one spelling for all ways to write them, without a trailing ``/hpc``.

    :param what: what the address is called in an error, e.g. ``the field 'host'``
    :param text: the name of a host, or a whole address
    :param schema: the scheme or the path, where a connection has it in a field of its own
    :param port: the port, where a connection has it in a field of its own; some secrets backends give it as text
    :raises ScnetConfigError: where it is no address, could be taken for another one, or its parts contradict each
        other
    """
    text = text.strip()
    if _is_ipv6(text):
        # Airflow takes the brackets off when it reads a URI.
        text = f"[{text}]"
    if not re.fullmatch(r"[!-~]*", text):
        raise ScnetConfigError(f"{what} is no name of a host: it holds white space or characters beyond ASCII")
    try:
        # requests uses the same parser, so a request goes where this check says.
        address = parse_url(text if "://" in text else f"//{text}")
    except LocationParseError:
        raise ScnetConfigError(f"{what} is no address") from None
    if address.auth is not None:
        raise ScnetConfigError(f"{what} holds a user or a token: they belong into login and password")
    if "?" in text or "#" in text:
        raise ScnetConfigError(f"{what} holds a query: give the address alone")
    if address.url.lower() != text.lower():
        # The parser has corrected the text; another program might correct it differently.
        raise ScnetConfigError(f"{what} is written in an unusual way, and could be taken for another address")
    schema = (schema or "").strip().strip("/")
    scheme_given, path_given = (schema.lower(), "") if schema.lower() in ("http", "https") else ("", schema)
    path_written = (address.path or "").rstrip("/").removeprefix("/")
    scheme = _agree(what, "scheme", address.scheme, scheme_given or None, "schema") or "https"
    if scheme not in ("http", "https"):
        raise ScnetConfigError(f"{what} is neither an https nor an http address")
    given = "" if port is None else str(port).strip()
    if given and not (re.fullmatch("[1-9][0-9]{0,4}", given) and int(given) < 65536):
        raise ScnetConfigError("the field 'port' is no port")
    if address.port == 0:
        raise ScnetConfigError(f"{what} is no address: 0 is no port")
    port = _agree(what, "port", address.port, int(given or 0), "port") or None
    path = _agree(what, "path", path_written or None, path_given or None, "schema") or ""
    host = _host(what, (address.host or "").lower())
    if scheme == "http" and not _is_loopback(host):
        raise ScnetConfigError(
            f"{what}: plain http would show the token to the network: use https (http is for loopback only)"
        )
    segments = path.split("/") if path else []
    if not all(re.fullmatch(r"[\w.~-]+", part, re.ASCII) and part not in (".", "..") for part in segments):
        raise ScnetConfigError(f"the path of {what} holds unusual characters")
    if segments[-1:] == ["hpc"]:
        # SCnet gives its base addresses with and without this suffix.
        segments.pop()
    authority = host if port in (None, {"http": 80, "https": 443}[scheme]) else f"{host}:{port}"
    return "/".join([f"{scheme}://{authority}", *segments])


def _agree(what: str, part: str, in_address: Any, in_field: Any, field: str) -> Any:
    if in_address and in_field and in_address != in_field:
        raise ScnetConfigError(f"the {part} in {what} and the field '{field}' contradict each other")
    return in_address or in_field


def _host(what: str, host: str) -> str:
    """Return the host in one spelling, an IPv6 address in its brackets."""
    inner = host.removeprefix("[").removesuffix("]")
    if host == f"[{inner}]" and _is_ipv6(inner):
        return f"[{ipaddress.IPv6Address(inner)}]"
    if all(map(_LABEL.fullmatch, host.removesuffix(".").split("."))):
        return host
    raise ScnetConfigError(f"{what} is no name of a host")


def _is_ipv6(text: str) -> bool:
    # A percent sign is followed by the name of an interface, which only one machine knows.
    with contextlib.suppress(ValueError):
        return "%" not in text and bool(ipaddress.IPv6Address(text))
    return False


def _is_loopback(host: str) -> bool:
    # Read strictly: a resolver may take 127.1 for an address, and 127.0.0.256 for a name somewhere.
    with contextlib.suppress(ValueError):
        return ipaddress.IPv4Address(host).is_loopback
    return host in ("localhost", "[::1]")

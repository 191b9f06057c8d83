# SPDX-License-Identifier: Apache-2.0
"""An address that requests may go to, read strictly: https, or plain http on loopback."""

from __future__ import annotations

import ipaddress
import re
from typing import Any
from urllib.parse import urlsplit

from airflow_provider_scnet.client.errors import ScnetConfigError

_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")


def base_url(what: str, text: str, *, schema: str | None = None, port: int | None = None) -> str:
    """
    Return scheme, host, port and path, in one spelling for all ways to write them, without a trailing ``/hpc``.

    :param what: what the address is called in an error, e.g. ``the field 'host'``
    :param text: the name of a host, or a whole address
    :param schema: the scheme or the path, where a connection has it in a field of its own
    :param port: the port, where a connection has it in a field of its own
    :raises ScnetConfigError: where it is no address, or its parts contradict each other
    """
    text = text.strip()
    try:
        address = urlsplit(text if "://" in text else f"//{text}")
        address_port = address.port
    except ValueError:
        raise ScnetConfigError(f"{what} is no address") from None
    if address.username is not None or address.password is not None:
        raise ScnetConfigError(f"{what} holds a user or a token: they belong into login and password")
    if address.query or address.fragment or "?" in text or "#" in text:
        raise ScnetConfigError(f"{what} holds a query: give the address alone")
    schema = (schema or "").strip().strip("/")
    scheme_given, path_given = (schema.lower(), "") if schema.lower() in ("http", "https") else ("", schema)
    scheme = _agree(what, "scheme", address.scheme.lower() or None, scheme_given or None, "schema") or "https"
    if scheme not in ("http", "https"):
        raise ScnetConfigError(f"{what} is neither an https nor an http address")
    if port is not None and not 0 < int(port) < 65536:
        raise ScnetConfigError("the field 'port' is no port")
    port = _agree(what, "port", address_port, port, "port")
    path = _agree(what, "path", address.path.strip("/") or None, path_given or None, "schema") or ""
    name = _host(what, address.hostname)
    if scheme == "http" and not _is_loopback(name):
        raise ScnetConfigError(
            f"{what}: plain http would show the token to the network: use https (http is for loopback only)"
        )
    segments = [part for part in path.split("/") if part]
    if not all(re.fullmatch(r"[\w.~-]+", part, re.ASCII) and part not in (".", "..") for part in segments):
        raise ScnetConfigError(f"the path of {what} holds unusual characters")
    if segments[-1:] == ["hpc"]:
        # SCnet hands its base addresses out with and without this suffix.
        segments.pop()
    authority = f"[{name}]" if ":" in name else name
    if port is not None and port != {"http": 80, "https": 443}[scheme]:
        authority += f":{port}"
    return "/".join([f"{scheme}://{authority}", *segments])


def _agree(what: str, part: str, in_address: Any, in_field: Any, field: str) -> Any:
    if in_address and in_field and in_address != in_field:
        raise ScnetConfigError(f"the {part} in {what} and the field '{field}' contradict each other")
    return in_address or in_field


def _host(what: str, name: str | None) -> str:
    if name and ":" in name:
        try:
            return str(ipaddress.IPv6Address(name))
        except ValueError:
            name = None
    if not name or not all(map(_LABEL.fullmatch, name.removesuffix(".").split("."))):
        raise ScnetConfigError(f"{what} is no name of a host")
    return name.lower()


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"

# SPDX-License-Identifier: Apache-2.0
"""One request to one origin, with bounds on time and size; its failures as readable errors."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.exceptions import InvalidHeader
from urllib3.util.retry import Retry

from airflow_provider_scnet import __version__
from airflow_provider_scnet.client.connection_settings import ConnectionSettings
from airflow_provider_scnet.client.errors import (
    ErrorKind,
    ScnetConfigError,
    ScnetConnectionError,
    ScnetError,
    ScnetResponseError,
)
from airflow_provider_scnet.client.response import Answer
from airflow_provider_scnet.client.text import redacted
from airflow_provider_scnet.client.token_payload import local

#: The largest body that is read, in bytes after decompression.
LARGEST_BODY = 1024 * 1024
#: The longest ``Retry-After`` that is honoured, in seconds.
LONGEST_PAUSE = 600.0

# OpenSSL's X509_V_ERR_CERT_NOT_YET_VALID.
_NOT_YET_VALID = 9

# Bytes; a compressed piece of this size cannot fill the memory: deflate expands by a factor of 1032 at most.
_PIECE = 1024


@dataclasses.dataclass(frozen=True)
class Request:
    """
    One request.

    :param method: ``GET`` or ``POST``; neither has a body
    :param base: scheme, host, port and path: the only origin that it reaches
    :param path: below the base
    :param headers: what authorises it
    :param params: the query
    :param secrets: texts that must not appear in an error
    """

    method: str
    base: str
    path: str
    headers: Mapping[str, str | bytes] = dataclasses.field(repr=False)
    params: Mapping[str, str] = dataclasses.field(default_factory=dict)
    secrets: tuple[str, ...] = dataclasses.field(default=(), repr=False)


class OneOriginSession(requests.Session):
    """
    A session that carries what authorises it and can reach one origin only.

    A path, such as ``/hpc/openapi/v2/cluster``, is taken below :attr:`base_url`. It follows no redirect and reads
    no netrc. Proxies and authorities come from the environment unless the connection names them; a plain http
    origin, on loopback, is asked directly.

    :param base: the origin, as an address
    :param headers: what authorises its requests
    :param settings: the connection's time-outs, authorities and proxies
    :param adapter: how its connections are made; default: the ordinary way
    """

    def __init__(
        self,
        base: str,
        headers: Mapping[str, str | bytes],
        settings: ConnectionSettings,
        adapter: HTTPAdapter | None = None,
    ):
        super().__init__()
        #: The address that paths are taken below: scheme, host, port, and a path if the endpoint has one.
        self.base_url = base
        #: The cluster user that the connection is for: its login, else the token's own.
        self.user_name = settings.user_name
        address = urlsplit(base)
        self.headers.update(
            {
                **headers,
                "Content-Type": "application/json",
                "Accept": "application/json",
                "Accept-Language": "zh-CN",
                "User-Agent": f"airflow-provider-scnet/{__version__}",
            }
        )
        self.verify = settings.verify
        self.proxies.update(settings.proxies)
        # A proxy from the environment would see the token of a plain-text request.
        self.trust_env = address.scheme == "https"
        # With any authentication set, requests does not read netrc, which may hold another server's password.
        self.auth = _as_it_is
        self.adapters.clear()
        self.mount(f"{address.scheme}://{address.netloc}/", adapter or HTTPAdapter())
        self._timeout = (settings.timeout, settings.timeout)

    def request(self, method: str | bytes, url: str | bytes, *args: Any, **kwargs: Any) -> requests.Response:
        """Send a request to a path or an address, with the connection's time-outs unless others are given."""
        if isinstance(url, str) and url.startswith("/"):
            url = self.base_url + url
        kwargs.setdefault("timeout", self._timeout)
        # Given with the request, because the environment would override what is set on the session.
        kwargs.setdefault("verify", self.verify)
        kwargs.setdefault("proxies", dict(self.proxies))
        return super().request(method, url, *args, **kwargs)

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """Follow no redirect: the token belongs to one origin only."""
        return None


def _as_it_is(request: requests.PreparedRequest) -> requests.PreparedRequest:
    return request


class _ClosableAdapter(HTTPAdapter):
    """
    An adapter that tracks its sockets, so that another thread can end a request.

    The time-outs of requests bound the time between two bytes; a server that sends a byte at a time could hold a
    thread for days. Shutting the connection down ends a TLS handshake, the headers and the body alike.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._is_cut = False
        super().__init__(max_retries=0)

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        """Return the pool, with connections that are tracked."""
        pool: Any = super().get_connection_with_tls_context(*args, **kwargs)
        if not hasattr(pool.ConnectionCls, "tracked_by"):
            pool.ConnectionCls = type(
                "TrackedConnection", (_TrackedConnection, pool.ConnectionCls), {"tracked_by": self}
            )
        return pool

    def track(self, sock: socket.socket) -> None:
        """Keep a second handle: the first one moves into the TLS layer."""
        handle = socket.socket(fileno=os.dup(sock.fileno()))
        with self._lock:
            self._sockets.append(handle)
            too_late = self._is_cut
        if too_late:
            self.cut()

    def cut(self) -> None:
        """End every connection, from any thread."""
        with self._lock:
            self._is_cut = True
            for handle in self._sockets:
                with contextlib.suppress(OSError):
                    handle.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Release the connections."""
        super().close()
        with self._lock:
            while self._sockets:
                self._sockets.pop().close()


class _TrackedConnection:
    tracked_by: _ClosableAdapter

    def _new_conn(self) -> socket.socket:
        sock: socket.socket = super()._new_conn()  # type: ignore[misc]
        self.tracked_by.track(sock)
        return sock


def send(request: Request, settings: ConnectionSettings) -> Answer:
    """
    Send one request and read the answer, in the connection's time and at most 1 MiB of it.

    :param request: what to ask
    :param settings: the connection's time-outs, authorities and proxies
    :raises ScnetConnectionError: where no answer came, or there is no time left to ask
    :raises ScnetResponseError: where it was too large or cannot be decompressed
    :raises ScnetConfigError: where the connection's settings do not allow a request
    """
    settings = dataclasses.replace(settings, timeout=settings.at_most(settings.timeout))
    if not settings.timeout:
        raise ScnetConnectionError("there was no time left to ask")
    adapter = _ClosableAdapter()
    with (
        OneOriginSession(request.base, request.headers, settings, adapter) as session,
        _cut_off(adapter, settings.timeout) as time_is_up,
        _header_warning.suppressed(),
    ):
        try:
            # An answer of 200 bytes needs no compression, and compression has risks.
            with session.request(
                request.method,
                request.base + request.path,
                params=request.params,
                headers={"Accept-Encoding": "identity"},
                stream=True,
                allow_redirects=False,
            ) as response:
                return Answer(
                    status=response.status_code,
                    body=_read(response, *request.secrets),
                    location=response.headers.get("Location", ""),
                    retry_after=_retry_after(response.headers.get("Retry-After")),
                    date=_date(response.headers.get("Date")),
                )
        except (requests.RequestException, OSError, ValueError) as error:
            # The socket's own time-out, or that for the whole answer: whichever came first.
            if time_is_up.is_set() or _is_silence(error):
                raise ScnetConnectionError(f"no whole answer within {settings.timeout:.3g} s") from None
            raise _readable(error, request.secrets) from None


@contextlib.contextmanager
def _cut_off(adapter: _ClosableAdapter, seconds: float) -> Iterator[threading.Event]:
    time_is_up = threading.Event()

    def cut() -> None:
        time_is_up.set()
        adapter.cut()

    timer = threading.Timer(seconds, cut)
    timer.daemon = True
    timer.start()
    try:
        yield time_is_up
    finally:
        timer.cancel()


class _HeaderWarningFilter(logging.Filter):
    """Drops urllib3's warning about malformed headers, which quotes them: a server may echo the token there."""

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.local()

    @contextlib.contextmanager
    def suppressed(self) -> Iterator[None]:
        """Drop the warning in this thread."""
        self._thread.asks = True
        try:
            yield
        finally:
            self._thread.asks = False

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether a record may be logged."""
        return not (getattr(self._thread, "asks", False) and str(record.msg).startswith("Failed to parse headers"))


_header_warning = _HeaderWarningFilter()
logging.getLogger("urllib3.connection").addFilter(_header_warning)


def _read(response: requests.Response, *secrets: str) -> bytes:
    encoding = response.headers.get("Content-Encoding", "identity").strip()
    if encoding.lower() not in ("", "identity", "gzip", "deflate"):
        raise ScnetResponseError(f"the answer is encoded as {redacted(encoding, *secrets)}")
    body = bytearray()
    for piece in response.iter_content(_PIECE):
        body += piece
        if len(body) > LARGEST_BODY:
            raise ScnetResponseError("the answer is larger than 1 MiB")
    return bytes(body)


def _retry_after(value: str | None) -> float | None:
    if value is None:
        return None
    try:
        return min(Retry().parse_retry_after(value), LONGEST_PAUSE)
    except (InvalidHeader, OverflowError, ValueError):
        return None


def _date(value: str | None) -> datetime | None:
    try:
        date = parsedate_to_datetime(value or "")
    except (TypeError, ValueError, OverflowError):
        return None
    return date if date.tzinfo else date.replace(tzinfo=timezone.utc)


def _is_silence(error: Exception) -> bool:
    return isinstance(error, requests.Timeout) or isinstance(_root(error), TimeoutError)


def _readable(error: Exception, secrets: tuple[str, ...]) -> ScnetError:
    root = _root(error)
    # Python's own message quotes the answer and may cut it inside a secret, which is then not found.
    said = "what came is not HTTP" if isinstance(root, ValueError) else getattr(root, "strerror", None) or root
    reason = redacted(said, *secrets)
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            if cause.verify_code == _NOT_YET_VALID:
                now = local(datetime.now(timezone.utc))
                return ScnetConnectionError(
                    f"the server's certificate is not yet valid by the clock here, which says {now}: set the clock"
                )
            return ScnetConnectionError(
                f"the server's certificate does not verify ({redacted(cause.verify_message)}); "
                "check the host, or name a file of authorities in extra 'verify'",
                kind=ErrorKind.PERMANENT,
            )
    if isinstance(error, requests.exceptions.ContentDecodingError):
        return ScnetResponseError("the answer cannot be decompressed")
    if isinstance(error, requests.exceptions.SSLError) and not isinstance(root, (ssl.SSLEOFError, OSError)):
        return ScnetConnectionError(f"TLS failed: {reason}", kind=ErrorKind.UNCLEAR)
    if isinstance(root, ssl.SSLError) and not isinstance(root, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
        return ScnetConnectionError(f"TLS failed: {reason}; is it an https endpoint?", kind=ErrorKind.UNCLEAR)
    if isinstance(root, socket.gaierror) and root.errno != socket.EAI_AGAIN:
        return ScnetConnectionError(f"the host has no address ({reason}): is it right?", kind=ErrorKind.UNCLEAR)
    if isinstance(error, (requests.ConnectionError, requests.exceptions.ChunkedEncodingError)):
        return ScnetConnectionError(f"the connection failed: {reason}")
    if isinstance(error, (requests.exceptions.InvalidURL, requests.exceptions.InvalidProxyURL)):
        return ScnetConfigError("the host or a proxy of the connection is no address")
    if isinstance(error, OSError) and "certificate" in str(error).lower():
        return ScnetConfigError("extra 'verify' names no readable file of authorities")
    return ScnetResponseError(f"the answer cannot be read ({type(root).__name__})")


def _root(error: BaseException) -> BaseException:
    return [*_causes(error)][-1]


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        inner = getattr(current, "reason", None) or next(
            (arg for arg in current.args if isinstance(arg, BaseException)), None
        )
        current = inner if isinstance(inner, BaseException) else current.__cause__ or current.__context__

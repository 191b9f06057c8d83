# SPDX-License-Identifier: Apache-2.0
"""One request to one origin, with bounds on time and size; its failures as readable errors."""

from __future__ import annotations

import contextlib
import http.client
import math
import os
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from concurrent.futures import TimeoutError as TimeoutOfFuture
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.utils import get_environ_proxies, select_proxy
from urllib3.exceptions import ConnectTimeoutError, InvalidHeader, NewConnectionError, ProxyError
from urllib3.util.retry import Retry

from airflow_provider_scnet import __version__
from airflow_provider_scnet.client import response
from airflow_provider_scnet.client.connection_settings import ConnectionSettings
from airflow_provider_scnet.client.error_codes import kind_of_status
from airflow_provider_scnet.client.errors import (
    ErrorKind,
    ScnetConfigError,
    ScnetConnectionError,
    ScnetError,
    ScnetResponseError,
)
from airflow_provider_scnet.client.redaction import redacted
from airflow_provider_scnet.client.response import Answer
from airflow_provider_scnet.client.threads import run_in_thread
from airflow_provider_scnet.client.token_payload import local

T = TypeVar("T")

#: The largest body that is read, in bytes after decompression.
LARGEST_BODY = 1024 * 1024
#: The longest ``Retry-After`` that is honoured, in seconds.
LONGEST_PAUSE = 600.0
#: How many requests to one origin may hang, in a name server perhaps, after their time is over.
MOST_HANGING = 8

# Bytes; a compressed piece of this size cannot fill the memory: deflate expands by a factor of 1032 at most.
_PIECE = 1024
# Seconds after which the next address of a name is tried.
_PATIENCE = 2.0
# Where the environment names a file of authorities, for requests and for cURL.
_BUNDLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")

# OpenSSL's X509_V_ERR_CERT_NOT_YET_VALID.
_NOT_YET_VALID = 9

# By origin. A process that is forked has none of these threads.
_hanging: dict[str, set[Future[Answer]]] = {}
os.register_at_fork(after_in_child=_hanging.clear)


def ask(
    settings: ConnectionSettings,
    path: str,
    reader: Callable[[Any], T],
    *,
    method: str = "GET",
    **content: Any,
) -> T:
    """
    Send one request to the region and read the answer.

    :param settings: whom to ask
    :param path: below the endpoint, with a slash at its beginning
    :param reader: converts the ``data`` of the answer
    :param method: how to ask
    :param content: the query and the body, under the names that requests has for them
    :raises ScnetError: where there is no answer, or one that is an error or cannot be read; it names the path
    """
    try:
        return response.read(send(settings, method, path, **content), reader)
    except ScnetError as error:
        error.where = f"{settings.where}, {path.removeprefix('/hpc/openapi/v2/')}"
        if error.kind is ErrorKind.CREDENTIALS:
            error.advice = settings.advice
        raise


def send(
    settings: ConnectionSettings,
    method: str,
    path: str,
    *,
    base: str = "",
    headers: Mapping[str, str | bytes] | None = None,
    secrets: tuple[str, ...] = (),
    **content: Any,
) -> Answer:
    """
    Send one request and read the answer, in the connection's time and at most 1 MiB of it.

    The time-outs of requests bound the time between two bytes, and nothing bounds a name server. So it runs in a
    thread, which is left behind when the time is over: no more than :data:`MOST_HANGING` for one origin.

    :param settings: whom to ask
    :param method: such as ``GET``
    :param path: below the base, with a slash at its beginning
    :param base: scheme, host, port and path, the only origin that it reaches; default: the region's endpoint
    :param headers: with a base, what authorises it; the region has the token
    :param secrets: with a base, texts that must not appear in the answer or an error; else the connection's
    :param content: the query and the body, under the names that requests has for them
    :raises ScnetConnectionError: where no answer came, or there is no time left to ask
    :raises ScnetResponseError: where it was too large or cannot be decompressed
    :raises ScnetConfigError: where the connection's settings do not allow a request
    """
    if not base:
        base, headers, secrets = settings.endpoint, {"token": settings.token}, settings.secrets
    seconds = settings.at_most(settings.timeout)
    if not seconds:
        raise ScnetConnectionError("there was no time left to ask")
    until = _after(seconds)
    hanging = _hanging.setdefault(base, set())
    if len(hanging) >= MOST_HANGING:
        raise ScnetConnectionError(
            f"{len(hanging)} earlier requests to {base} still hang, in a name server perhaps"
        )
    session = OneOriginSession(base, headers or {}, settings, until)
    answer = run_in_thread(lambda: _answer(session, method, path, content, secrets))
    try:
        return answer.result(seconds)
    except (requests.RequestException, OSError, ValueError, TimeoutOfFuture) as error:
        if not answer.done():
            hanging.add(answer)
            answer.add_done_callback(hanging.discard)
        if isinstance(error, (requests.Timeout, TimeoutOfFuture)) or isinstance(_root(error), TimeoutError):
            raise ScnetConnectionError(f"no whole answer within {seconds:.3g} s{_through(session)}") from None
        raise _readable(error, session, secrets) from None


def _answer(
    session: OneOriginSession, method: str, path: str, content: Mapping[str, Any], secrets: tuple[str, ...]
) -> Answer:
    # An answer of 200 bytes needs no compression, and compression has risks.
    headers = {"Accept-Encoding": "identity"}
    with session, session.request(method, path, headers=headers, stream=True, **content) as answer:
        return Answer(
            status=answer.status_code,
            body=_read(answer, *secrets),
            location=answer.headers.get("Location", ""),
            retry_after=_retry_after(answer.headers.get("Retry-After")),
            date=_date(answer.headers.get("Date")),
            secrets=secrets,
        )


class OneOriginSession(requests.Session):
    """
    A session that carries what authorises it and can reach one origin only.

    A path, such as ``/hpc/openapi/v2/cluster``, is taken below :attr:`base_url`. It follows no redirect and reads
    no netrc. Proxies and authorities come from the environment unless the connection names them; a plain http
    origin, on loopback, is asked directly.

    :param base: the origin, as an address
    :param headers: what authorises its requests
    :param settings: the connection's time-outs, authorities and proxies
    :param until: from when on nothing is sent any more, by :func:`time.monotonic`
    """

    def __init__(
        self, base: str, headers: Mapping[str, str | bytes], settings: ConnectionSettings, until: float = math.inf
    ) -> None:
        super().__init__()
        #: The address that paths are taken below: scheme, host, port, and a path if the endpoint has one.
        self.base_url = base
        #: The cluster user that the connection is for: its login, else the token's own.
        self.user_name = settings.user_name
        address = urlsplit(base)
        self.headers.update(
            {
                **headers,
                "Accept": "application/json",
                "Accept-Language": "zh-CN",
                "User-Agent": f"airflow-provider-scnet/{__version__}",
            }
        )
        # Of the environment only what is read here: netrc may hold another server's password, a proxy would see
        # the token of a plain-text request, and neither overrides what the connection says.
        self.trust_env = False
        if address.scheme == "https":
            self.proxies.update(settings.proxies or get_environ_proxies(base))
        # The connection's authorities are those of its region, and nobody else's.
        own, bundle = "extra 'verify'", next(filter(os.environ.get, _BUNDLES), "")
        if base != settings.endpoint:
            own = _BUNDLES[0]
        elif settings.verify is not True:
            self.verify, bundle = settings.verify, ""
        if bundle:
            self.verify = os.environ[bundle]
        #: What names the file of authorities, or could name one.
        self.authorities = bundle or own
        self.adapters.clear()
        self.mount(f"{address.scheme}://{address.netloc}/", _Adapter(until))
        self._timeout, self._until = settings.timeout, until
        #: The proxy on the way, for people, without its password; empty where there is none.
        self.proxy = ""
        if proxy := select_proxy(base, self.proxies):
            shown = redacted(re.sub(r"^(\w+://)?.*@", r"\1", proxy))
            named_by = "extra 'proxies'" if settings.proxies else "the environment"
            self.proxy = f"the proxy {shown} ({named_by})"

    def request(self, method: str | bytes, url: str | bytes, *args: Any, **kwargs: Any) -> requests.Response:
        """Send a request to a path or an address, with the connection's time-outs unless others are given."""
        if isinstance(url, str) and url.startswith("/"):
            url = self.base_url + url
        kwargs.setdefault("timeout", max(min(self._timeout, self._until - time.monotonic()), 0.001))
        return super().request(method, url, *args, **kwargs)

    def prepare_request(self, request: requests.Request) -> requests.PreparedRequest:
        """Call JSON what has no type of its own, as SCnet documents it; a form and files have one."""
        prepared = super().prepare_request(request)
        prepared.headers.setdefault("Content-Type", "application/json")
        return prepared

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        """Follow no redirect: the token belongs to one origin only."""
        return None


class _Adapter(HTTPAdapter):
    def __init__(self, until: float) -> None:
        super().__init__()
        self._until = until

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        pool: Any = super().get_connection_with_tls_context(*args, **kwargs)
        if not issubclass(pool.ConnectionCls, _Connection):
            pool.ConnectionCls = type("Connection", (_Connection, pool.ConnectionCls), {"until": self._until})
        return pool


class _Response(http.client.HTTPResponse):
    def begin(self) -> None:
        super().begin()
        # urllib3 would log what it cannot read of the headers, where a server may echo the token.
        self.msg.set_payload("")
        self.msg.defects.clear()


class _Connection:
    """What a connection of urllib3 does otherwise here: all that comes before the request shares its time."""

    until: float
    _dns_host: str
    port: int
    timeout: float | None
    socket_options: Any
    response_class = _Response

    def connect(self) -> None:
        super().connect()  # type: ignore[misc]
        # A submission that went out when nobody waits for it any more would be there beside its repetition.
        if time.monotonic() >= self.until:
            self.close()  # type: ignore[attr-defined]
            raise TimeoutError

    def _new_conn(self) -> socket.socket:
        if hasattr(self, "_socks_options"):
            return super()._new_conn()  # type: ignore[misc, no-any-return]
        try:
            return _connected(self._dns_host, self.port, self.timeout, self.socket_options or ())
        except TimeoutError as error:
            raise ConnectTimeoutError(self, "no address answered in time") from error
        except OSError as error:
            raise NewConnectionError(self, str(error)) from error  # type: ignore[arg-type]

    def _tunnel(self) -> None:
        try:
            super()._tunnel()  # type: ignore[misc]
        except TimeoutError:
            raise
        except (OSError, http.client.HTTPException) as error:
            raise ProxyError("no tunnel", error) from error


def _after(seconds: float | None) -> float:
    return time.monotonic() + (math.inf if seconds is None else seconds)


def _connected(host: str, port: int, seconds: float | None, options: Iterable[Any]) -> socket.socket:
    """
    Connect to the first address of a name that answers; each but the last has half of the time, and 2 s at most.

    The standard library and urllib3 give each the whole time: behind a dead one, such as an IPv6 address that
    leads nowhere, none is ever reached.
    """
    until = _after(seconds)
    addresses = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
    failure = OSError("the name has no address")
    for number, (family, kind, protocol, _, address) in enumerate(addresses, 1):
        left = until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        wait = min(left / 2, _PATIENCE) if number < len(addresses) else left
        try:
            with contextlib.ExitStack() as closing:
                sock = closing.enter_context(socket.socket(family, kind, protocol))
                for option in options:
                    sock.setsockopt(*option)
                sock.settimeout(None if wait == math.inf else wait)
                sock.connect(address)
                sock.settimeout(seconds)
                closing.pop_all()
                return sock
        except OSError as error:
            failure = error
    raise failure


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


def _through(session: OneOriginSession) -> str:
    return f", through {session.proxy}" if session.proxy else ""


def _readable(error: Exception, session: OneOriginSession, secrets: tuple[str, ...]) -> ScnetError:
    root = _root(error)
    # Python's own message quotes the answer and may cut it inside a secret, which is then not found.
    said = "what came is not HTTP" if isinstance(root, ValueError) else getattr(root, "strerror", None) or root
    reason = redacted(said, *secrets)
    if isinstance(error, requests.exceptions.ProxyError):
        return _of_proxy(root, reason, session)
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return _of_certificate(cause, session)
    if getattr(root, "library", None) == "X509" or (type(error) is OSError and "certificate" in str(error)):
        return ScnetConfigError(f"{session.authorities} names no readable file of authorities")
    if isinstance(error, requests.exceptions.ContentDecodingError):
        return ScnetResponseError("the answer cannot be decompressed")
    is_tls = isinstance(error, requests.exceptions.SSLError) and not isinstance(root, OSError)
    is_broken_off = isinstance(root, (ssl.SSLEOFError, ssl.SSLZeroReturnError))
    if is_tls or (isinstance(root, ssl.SSLError) and not is_broken_off):
        return ScnetConnectionError(f"TLS failed: {reason}; is it an https endpoint?", kind=ErrorKind.UNCLEAR)
    if isinstance(root, socket.gaierror) and root.errno != socket.EAI_AGAIN:
        return ScnetConnectionError(f"the host has no address ({reason}): is it right?", kind=ErrorKind.UNCLEAR)
    if isinstance(error, (requests.ConnectionError, requests.exceptions.ChunkedEncodingError)):
        return ScnetConnectionError(f"the connection failed: {reason}{_through(session)}")
    if session.proxy and "SOCKS support" in str(error):
        return ScnetConfigError(f"{session.proxy} is a SOCKS proxy, which needs the Python package PySocks")
    if isinstance(error, requests.exceptions.InvalidURL) or (session.proxy and isinstance(root, ValueError)):
        return ScnetConfigError(f"{session.proxy or 'the host'} is no address")
    return ScnetResponseError(f"the answer cannot be read ({type(root).__name__})")


def _of_proxy(root: BaseException, reason: str, session: OneOriginSession) -> ScnetError:
    kind = ErrorKind.TRANSIENT
    if isinstance(root, socket.gaierror):
        reason = f"it has no address ({reason})"
        kind = kind if root.errno == socket.EAI_AGAIN else ErrorKind.UNCLEAR
    elif status := re.match(r"Tunnel connection failed: (\d{3})", str(root)):
        reason += ": give it as http://user:password@proxy:port" if status[1] == "407" else ""
        # Of a proxy's refusal no other token can make anything.
        kind = min(kind_of_status(int(status[1])), ErrorKind.UNCLEAR)
    elif not isinstance(root, OSError) or isinstance(root, ssl.SSLError):
        reason += "; is it a proxy, and one for http:// or for https://?"
        kind = ErrorKind.UNCLEAR
    return ScnetConnectionError(f"{session.proxy} failed: {reason}", kind=kind)


def _of_certificate(error: ssl.SSLCertVerificationError, session: OneOriginSession) -> ScnetError:
    reason = f"the server's certificate does not verify ({redacted(error.verify_message)})"
    if error.verify_code == _NOT_YET_VALID:
        now = local(datetime.now(timezone.utc))
        return ScnetConnectionError(
            f"the server's certificate is not yet valid by the clock here, which says {now}: set the clock"
        )
    advice = f"check the host, or name a file of authorities in {session.authorities}"
    return ScnetConnectionError(f"{reason}; {advice}", kind=ErrorKind.PERMANENT)


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

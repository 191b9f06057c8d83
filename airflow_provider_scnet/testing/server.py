# SPDX-License-Identifier: Apache-2.0
"""HTTP on loopback that can be told to misbehave, and that stops at once. It knows nothing of SCnet."""

from __future__ import annotations

import contextlib
import json
import socket
import socketserver
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from unittest import mock
from urllib.parse import parse_qsl

from airflow_provider_scnet.testing.faults import Fault

MAX_BODY = 2**20


@dataclass(frozen=True)
class Call:
    """A request as it arrived; header names are in lower case, of a repeated name the last value stands."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes = b""


@dataclass(frozen=True)
class Answer:
    """What is sent back, and by which fault it is marred on its way."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    fault: Fault = field(default_factory=Fault)

    @classmethod
    def json(cls, value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Answer:
        """Answer with JSON in UTF-8, with the Chinese as it is."""
        body = json.dumps(value, ensure_ascii=False).encode()
        return cls(status, body, {"Content-Type": "application/json;charset=UTF-8", **(headers or {})})

    @classmethod
    def envelope(cls, code: str, msg: str, data: object = None, status: int = 200, **answer: Any) -> Answer:
        """Answer in the form that all of SCnet's answers share."""
        return cls.json({"code": code, "msg": msg, "data": data}, status, **answer)

    def with_fault(self, fault: Fault) -> Answer:
        """Return this answer as the fault makes it."""
        body = fault.encoded_body()
        headers = {name.title(): value for name, value in [*self.headers.items(), *fault.headers.items()]}
        return replace(
            self, status=fault.status, body=self.body if body is None else body, headers=headers, fault=fault
        )


class LoopbackServer(ThreadingHTTPServer):
    """
    Serve one port of 127.0.0.1 from a thread of its own, with a thread for each connection.

    :param port: the port; 0: any free one
    :param respond: answers a call; is called by many threads at once
    """

    daemon_threads = True
    allow_reuse_port = False
    request_queue_size = 256

    def __init__(self, port: int, respond: Callable[[Call], Answer]) -> None:
        self.respond = respond
        self.stopping = threading.Event()
        self._connections: set[Any] = set()
        self._connections_changed = threading.Condition()
        super().__init__(("127.0.0.1", port), _Handler)
        self._thread = threading.Thread(target=self._accept, name=f"scnet-simulator-{self.port}", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The port that is served."""
        return int(self.server_address[1])

    def stop(self) -> None:
        """Close the port, break off whatever is being answered, and wait until all of it has ended."""
        self.stopping.set()
        # One more connection, so that the loop looks whether it is to end. If the queue is full, it looks anyway.
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
        self._thread.join()
        self.server_close()
        with self._connections_changed:
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            self._connections_changed.wait_for(lambda: not self._connections, timeout=10)

    def _accept(self) -> None:
        # Unlike serve_forever(), which looks at intervals whether it is to end: each stop() would wait for that.
        while not self.stopping.is_set():
            self.handle_request()

    def server_bind(self) -> None:
        """Bind without the look-up of the host's name in DNS, which can take seconds and is not used."""
        socketserver.TCPServer.server_bind(self)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Note the connection, for stop(), before its thread starts."""
        with self._connections_changed:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Forget the connection."""
        super().shutdown_request(request)
        with self._connections_changed:
            self._connections.discard(request)
            self._connections_changed.notify_all()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keep quiet about a client that went away; anything else is a bug worth a traceback."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


@contextlib.contextmanager
def dead_first_address(port: int) -> Iterator[None]:
    """
    Let ``localhost`` have two addresses in this process: 127.0.0.2, where a port is dead, and then 127.0.0.1.

    On Linux only, where all of 127.0.0.0/8 is there.

    :param port: the port, which drops what comes, as a route that leads nowhere does
    """
    with contextlib.ExitStack() as sockets:
        dead = sockets.enter_context(socket.socket())
        dead.bind(("127.0.0.2", port))
        dead.listen(0)
        for _ in range(4):  # a full queue drops what comes next
            waiting = sockets.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(("127.0.0.2", port))
        real = socket.getaddrinfo

        def resolve(host: Any, *args: Any, **kwargs: Any) -> Any:
            both = ("127.0.0.2", "127.0.0.1") if host == "localhost" else (host,)
            return [info for each in both for info in real(each, *args, **kwargs)]

        with mock.patch.object(socket, "getaddrinfo", resolve):
            yield


class _Handler(BaseHTTPRequestHandler):
    server: LoopbackServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def _serve(self) -> None:
        path, _, query = self.path.partition("?")
        self._send(
            self.server.respond(
                Call(
                    method=self.command,
                    path=path,
                    query=dict(parse_qsl(query, keep_blank_values=True)),
                    headers={name.lower(): value for name, value in self.headers.items()},
                    body=self._read_body(),
                )
            )
        )

    # http.server calls a method by such a name; all of HTTP's are recorded and answered.
    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = _serve  # noqa: N815
    do_DELETE = do_OPTIONS = do_TRACE = do_CONNECT = _serve  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:
        """Write nothing: the requests are recorded elsewhere."""

    def _read_body(self) -> bytes:
        try:
            length = int(self.headers.get("Content-Length", 0))
        except ValueError:
            length = -1
        if not 0 <= length <= MAX_BODY or "Transfer-Encoding" in self.headers:
            # Where the next request begins is unknown, so there can be none.
            self.close_connection = True
            return b""
        return self.rfile.read(length)

    def _send(self, answer: Answer) -> None:
        fault = answer.fault
        if self.server.stopping.wait(fault.delay) or fault.drop == "before":
            self.close_connection = True
            return
        body = b"" if self.command == "HEAD" or answer.status in (204, 304) else answer.body
        head = self._head(answer)
        self._write(head, fault.drip if fault.drip_headers else None)
        if fault.drop:
            self.close_connection = True
            body = body[: len(body) // 2] if fault.drop == "body" else b""
        self._write(body, fault.drip)

    def _head(self, answer: Answer) -> bytes:
        headers = dict(answer.headers)
        if {"content-length", "transfer-encoding"} & {name.lower() for name in answer.fault.headers}:
            self.close_connection = True
        else:
            # An empty body cannot break off half-way, so one that is to break off is announced longer.
            headers["Content-Length"] = str(len(answer.body) or int(answer.fault.drop is not None))
        if headers.get("Connection", "").lower() == "close":
            self.close_connection = True
        elif self.close_connection:
            headers["Connection"] = "close"
        phrase = HTTPStatus(answer.status).phrase if answer.status in list(HTTPStatus) else ""
        lines = [f"{name}: {value}" for name, value in headers.items()]
        return "\r\n".join([f"HTTP/1.1 {answer.status} {phrase}", *lines, "", ""]).encode()

    def _write(self, data: bytes, drip: float | None) -> None:
        if drip is None:
            self.wfile.write(data)
            return
        for byte in data:
            self.wfile.write(bytes([byte]))
            if self.server.stopping.wait(drip):
                raise ConnectionAbortedError("the simulator stops")

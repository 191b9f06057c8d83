# SPDX-License-Identifier: Apache-2.0
"""The way to SCnet: names with several addresses, slow name servers, proxies, and files of authorities."""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import re
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from airflow_provider_scnet.client import transport
from airflow_provider_scnet.client.errors import ErrorKind, ScnetConnectionError, ScnetError
from airflow_provider_scnet.client.job_counts import JobCounts
from airflow_provider_scnet.hooks.polled_connection import PolledConnection
from airflow_provider_scnet.hooks.scnet import ScnetHook
from airflow_provider_scnet.testing import ScnetSimulator
from airflow_provider_scnet.testing.server import dead_first_address

STATE = "/hpc/openapi/v2/view/jobs/state"
BODY = json.dumps({"code": "0", "data": [{"name": "运行", "y": 1}, {"name": "排队", "y": 2}]}).encode()

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="needs all of 127.0.0.0/8")


def by_session() -> JobCounts:
    with ScnetHook().get_conn() as session:
        return JobCounts.from_response(session.get(STATE, params={"userName": "alice"}).json())


#: The ways that lead to SCnet.
WAYS: dict[str, Callable[[], JobCounts]] = {
    "synchronous": lambda: ScnetHook().get_job_counts(),
    "asynchronous": lambda: asyncio.run(ScnetHook().aget_job_counts()),
    "any request": lambda: JobCounts.from_data(ScnetHook().request("GET", STATE, params={"userName": "alice"})),
    "session": by_session,
}
#: Those that are over in time, whatever holds them up.
BOUNDED = {name: ask for name, ask in WAYS.items() if name != "session"}


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Point the connection to a host; extras by keyword."""

    def use(host: str, **extra: object) -> None:
        conn = {"conn_type": "scnet", "host": host, "login": "alice", "password": "TOKEN-1", "extra": extra}
        monkeypatch.setenv("AIRFLOW_CONN_SCNET_DEFAULT", json.dumps(conn))

    return use


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tls")
    made, key = folder / "cert.pem", folder / "key.pem"
    names = "subjectAltName=IP:127.0.0.1,DNS:localhost"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=scnet"]
    subprocess.run(
        [*command, "-addext", names, "-keyout", str(key), "-out", str(made)], check=True, capture_output=True
    )
    made.write_text(key.read_text() + made.read_text())
    return made


@pytest.fixture
def tls_port(certificate: Path) -> Iterator[int]:
    """A TLS server that answers each connection with counts."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(BODY), BODY)

    def talk(peer: socket.socket) -> None:
        with context.wrap_socket(peer, server_side=True) as tls:
            tls.recv(65536)
            tls.sendall(answer)

    with Serving(talk) as port:
        yield port


class Serving:
    """A server that does the same with each connection, one after the other."""

    def __init__(self, talk: Callable[[socket.socket], None]) -> None:
        self._talk = talk

    def __enter__(self) -> int:
        self._server = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        return int(self._server.getsockname()[1])

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self._server.accept()
            except OSError:
                return
            with peer, contextlib.suppress(OSError):
                self._talk(peer)

    def __exit__(self, *_: object) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._server.close()


class TestAddresses:
    @on_linux
    @pytest.mark.parametrize("ask", WAYS.values(), ids=WAYS)
    def test_a_name_is_reached_whose_first_address_is_dead(self, scnet: ScnetSimulator, use, monkeypatch, ask):
        scnet.set_counts("alice", running=1, queued=2)
        with scnet.dead_first_address() as host:
            conn = scnet.connection("alice", timeout=10) | {"host": host}
            monkeypatch.setenv("AIRFLOW_CONN_SCNET_DEFAULT", json.dumps(conn))
            assert ask().queued == 2
        assert len(scnet.requests) == 1

    @on_linux
    @pytest.mark.parametrize("ask", WAYS.values(), ids=WAYS)
    def test_so_is_one_that_speaks_tls(self, tls_port, certificate, use, ask):
        use(f"https://localhost:{tls_port}", verify=str(certificate), timeout=10)
        with dead_first_address(tls_port):
            assert ask().queued == 2

    @on_linux
    def test_the_next_address_is_tried_at_once_where_one_refuses(self, scnet: ScnetSimulator, use, monkeypatch):
        # Nobody listens at 127.0.0.2; and the one that answers is not the last.
        def resolve(host: str, port: int, *_: Any, **__: Any) -> list[Any]:
            each = ("127.0.0.2", "127.0.0.1", "127.0.0.3")
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in each]

        monkeypatch.setattr(transport, "_PATIENCE", 3600.0)
        monkeypatch.setattr(socket, "getaddrinfo", resolve)
        conn = scnet.connection() | {"host": f"http://localhost:{scnet.port}"}
        monkeypatch.setenv("AIRFLOW_CONN_SCNET_DEFAULT", json.dumps(conn))
        assert ScnetHook().get_job_counts().running == 0
        scnet.stop()
        with pytest.raises(ScnetConnectionError, match="Connection refused"):
            ScnetHook().get_job_counts()

    @on_linux
    @pytest.mark.parametrize("ask", BOUNDED.values(), ids=BOUNDED)
    def test_where_every_address_is_dead_the_time_is_over_once(self, use, ask):
        with socket.create_server(("127.0.0.1", 0)) as unused:
            port = unused.getsockname()[1]
            use(f"http://localhost:{port}", timeout=0.5)
            with dead_first_address(port):
                real = socket.getaddrinfo
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(socket, "getaddrinfo", lambda *a, **k: real(*a, **k)[:1] * 50)
                    with pytest.raises(ScnetConnectionError, match=r"no whole answer within 0\.5 s"):
                        ask()


class SlowNames:
    """A name server that does not answer until it is told to; then it knows this machine."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._answers, self.threads, real = threading.Event(), [], socket.getaddrinfo

        def resolve(host: Any, *args: Any, **kwargs: Any) -> Any:
            if host != "localhost":
                return real(host, *args, **kwargs)
            self.threads.append(threading.current_thread())
            self._answers.wait(60)
            return real("127.0.0.1", *args, **kwargs)

        monkeypatch.setattr(socket, "getaddrinfo", resolve)

    def answer(self) -> None:
        self._answers.set()
        for thread in self.threads:
            thread.join()


class TestNames:
    @pytest.fixture
    def names(self, scnet: ScnetSimulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowNames]:
        conn = scnet.connection(timeout=0.3) | {"host": f"http://localhost:{scnet.port}"}
        monkeypatch.setenv("AIRFLOW_CONN_SCNET_DEFAULT", json.dumps(conn))
        names = SlowNames(monkeypatch)
        yield names
        names.answer()

    @pytest.mark.parametrize("ask", BOUNDED.values(), ids=BOUNDED)
    def test_a_name_server_that_hangs_holds_nobody_longer_than_the_time_out(self, names, ask):
        with pytest.raises(ScnetConnectionError, match=r"no whole answer within 0\.3 s") as caught:
            ask()
        assert caught.value.kind is ErrorKind.TRANSIENT
        (thread,) = names.threads
        assert thread.is_alive()
        assert thread.daemon

    def test_a_request_whose_time_is_over_is_not_sent(self, scnet: ScnetSimulator, names):
        with pytest.raises(ScnetConnectionError):
            ScnetHook().request("POST", "/hpc/openapi/v2/apptemplates/BASIC/BASE/job", json={})
        names.answer()
        assert scnet.requests == []

    def test_nor_is_one_whose_time_was_over_before_the_connection_stood(self, scnet, monkeypatch):
        connected, is_over, threads = transport._connected, threading.Event(), []

        def slowly(*given: Any) -> socket.socket:
            found = connected(*given)
            threads.append(threading.current_thread())
            is_over.wait(60)
            return found

        monkeypatch.setattr(transport, "_connected", slowly)
        monkeypatch.setenv("AIRFLOW_CONN_SCNET_DEFAULT", scnet.connection_json(timeout=0.3))
        with pytest.raises(ScnetConnectionError, match=r"no whole answer within 0\.3 s"):
            ScnetHook().request("POST", "/hpc/openapi/v2/apptemplates/BASIC/BASE/job", json={})
        is_over.set()
        (thread,) = threads
        thread.join()
        assert scnet.requests == []

    def test_no_more_than_a_few_requests_hang(self, scnet: ScnetSimulator, names, monkeypatch):
        monkeypatch.setattr(transport, "MOST_HANGING", 2)
        for _ in range(3):
            with pytest.raises(ScnetConnectionError) as caught:
                ScnetHook().get_job_counts()
        assert "2 earlier requests to http://localhost" in str(caught.value)
        assert caught.value.kind is ErrorKind.TRANSIENT
        assert len(names.threads) == 2
        names.answer()
        conn = scnet.connection(timeout=60) | {"host": f"http://localhost:{scnet.port}"}
        monkeypatch.setenv("AIRFLOW_CONN_SCNET_DEFAULT", json.dumps(conn))
        assert ScnetHook().get_job_counts().queued == 0

    @pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
    def test_a_process_that_is_forked_does_not_wait_for_threads_that_it_does_not_have(self, scnet, names, connect):
        with pytest.raises(ScnetConnectionError):
            ScnetHook().get_job_counts()
        fork = multiprocessing.get_context("fork")
        child = fork.Process(target=lambda: sys.exit(any(transport._hanging.values())))
        assert any(transport._hanging.values())
        child.start()
        child.join()
        assert child.exitcode == 0


class TestProxies:
    @pytest.mark.parametrize("scheme", ["https", "all"])
    def test_the_connections_proxy_wins_over_the_environments(self, use, monkeypatch, scheme):
        with ScnetSimulator() as own, ScnetSimulator() as other:
            for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
                monkeypatch.setenv(name, other.url)
            use("https://scnet.invalid", proxies={scheme: own.url})
            with pytest.raises(ScnetConnectionError):
                ScnetHook().get_job_counts()
            with ScnetHook().get_conn() as session, pytest.raises(requests.ConnectionError):
                session.get(STATE)
            assert [request.method for request in own.requests] == ["CONNECT"] * 2
            assert other.requests == []

    @pytest.mark.parametrize("named_by", ["extra 'proxies'", "the environment"])
    @pytest.mark.parametrize(
        ("answer", "said", "kind"),
        [
            (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "407.*user:password@", ErrorKind.UNCLEAR),
            (b"HTTP/1.1 403 Forbidden\r\n\r\n", "403 Forbidden", ErrorKind.UNCLEAR),
            (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", "503 Service Unavailable", ErrorKind.TRANSIENT),
            (b"SSH-2.0-OpenSSH_9.6\r\n", "is it a proxy", ErrorKind.UNCLEAR),
            (b"", "failed: ", ErrorKind.TRANSIENT),
        ],
        ids=["407", "403", "503", "SSH", "nothing"],
    )
    def test_what_a_proxy_does_is_told_of_the_proxy(self, use, monkeypatch, named_by, answer, said, kind):
        def talk(peer: socket.socket) -> None:
            peer.recv(65536)
            peer.sendall(answer)

        with Serving(talk) as port:
            self.point_to(f"http://u:SECRET-PW@127.0.0.1:{port}", named_by, use, monkeypatch)
            with pytest.raises(ScnetError, match=said) as caught:
                ScnetHook().get_job_counts()
        assert f"the proxy http://127.0.0.1:{port} ({named_by}) failed" in str(caught.value)
        assert "SECRET" not in str(caught.value)
        assert caught.value.kind is kind

    @pytest.mark.parametrize("named_by", ["extra 'proxies'", "the environment"])
    @pytest.mark.parametrize(
        ("proxy", "said"),
        [
            ("http://nowhere.invalid:3128", r"the proxy http://nowhere\.invalid:3128 .*it has no address"),
            ("http://127.0.0.1:9", r"the proxy http://127\.0\.0\.1:9 .*failed: Connection refused"),
            ("http://u:SECRET-PW@127.0.0.1:99999", r"the proxy .* is no address"),
            ("http://a..b:1", r"the proxy .* is no address"),
        ],
    )
    def test_what_is_no_proxy_is_not_told_of_scnets_host(self, use, monkeypatch, named_by, proxy, said):
        self.point_to(proxy, named_by, use, monkeypatch)
        with pytest.raises(ScnetError, match=said) as caught:
            ScnetHook().get_job_counts()
        assert f"({named_by})" in str(caught.value)
        assert "SECRET" not in str(caught.value)

    @pytest.mark.parametrize(
        ("proxy", "said"),
        [("127.0.0.1:9", "failed: Connection refused"), ("u:SECRET-PW@127.0.0.1:9", "no address")],
    )
    def test_an_environment_may_leave_out_the_scheme_of_a_proxy(self, use, monkeypatch, proxy, said):
        self.point_to(proxy, "the environment", use, monkeypatch)
        with pytest.raises(ScnetError, match=rf"the proxy 127\.0\.0\.1:9 \(the environment\) .*{said}") as caught:
            ScnetHook().get_job_counts()
        assert "SECRET" not in str(caught.value)

    def test_a_proxy_that_is_silent_is_named(self, use):
        with socket.create_server(("127.0.0.1", 0)) as silent:
            port = silent.getsockname()[1]
            use("https://scnet.invalid", proxies={"https": f"http://127.0.0.1:{port}"}, timeout=0.3)
            with pytest.raises(ScnetConnectionError, match=rf"within 0\.3 s, through the proxy http://.*:{port}"):
                ScnetHook().get_job_counts()

    def test_a_proxy_that_speaks_no_tls_is_told_of_the_proxy(self, use):
        with ScnetSimulator() as plain:
            use("https://scnet.invalid", proxies={"https": plain.url.replace("http:", "https:")})
            with pytest.raises(ScnetConnectionError, match=r"the proxy https://.*one for http:// or for https://"):
                ScnetHook().get_job_counts()

    @pytest.mark.parametrize("named_by", ["extra 'proxies'", "the environment"])
    @pytest.mark.parametrize("scheme", ["socks5", "socks5h", "socks4"])
    def test_a_socks_proxy_needs_a_package_that_is_named(self, use, monkeypatch, named_by, scheme):
        monkeypatch.setattr("requests.adapters.SOCKSProxyManager", without_pysocks)
        self.point_to(f"{scheme}://127.0.0.1:9", named_by, use, monkeypatch)
        with pytest.raises(ScnetError, match="PySocks") as caught:
            ScnetHook().get_job_counts()
        assert f"the proxy {scheme}://127.0.0.1:9 ({named_by})" in str(caught.value)
        assert caught.value.kind is ErrorKind.PERMANENT

    def test_a_socks_proxy_is_used_where_that_package_is(self, use, tls_port, certificate):
        pytest.importorskip("socks")
        asked: list[bytes] = []

        def talk(peer: socket.socket) -> None:
            # RFC 1928: no authentication; connect to a name of 16 characters; then pass on what comes.
            peer.recv(3)
            peer.sendall(b"\x05\x00")
            asked.append(peer.recv(65536))
            with socket.create_connection(("127.0.0.1", tls_port)) as server:
                peer.sendall(b"\x05\x00\x00\x01\x7f\x00\x00\x01\x00\x00")
                back = threading.Thread(target=pass_on, args=(server, peer))
                back.start()
                pass_on(peer, server)
                back.join()

        with Serving(talk) as port:
            use(
                f"https://localhost:{tls_port}",
                verify=str(certificate),
                proxies={"all": f"socks5h://127.0.0.1:{port}"},
            )
            assert ScnetHook().get_job_counts().queued == 2
        assert b"localhost" in asked[0]

    @staticmethod
    def point_to(proxy: str, named_by: str, use: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
        if named_by == "the environment":
            monkeypatch.setenv("HTTPS_PROXY", proxy)
            use("https://scnet.invalid")
        else:
            use("https://scnet.invalid", proxies={"https": proxy})


def without_pysocks(*_: Any, **__: Any) -> None:
    # What requests has in the place of the class where the package is not installed.
    raise requests.exceptions.InvalidSchema("Missing dependencies for SOCKS support.")


def pass_on(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while piece := source.recv(65536):
            target.sendall(piece)
        target.shutdown(socket.SHUT_WR)


class TestAuthorities:
    @pytest.fixture(autouse=True)
    def no_bundle(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
            monkeypatch.delenv(name, raising=False)

    @pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
    def test_a_file_that_the_environment_names_is_trusted(self, use, monkeypatch, tls_port, certificate, name):
        monkeypatch.setenv(name, str(certificate))
        use(f"https://127.0.0.1:{tls_port}")
        assert ScnetHook().get_job_counts().queued == 2

    @pytest.mark.parametrize("content", [None, "no certificate"])
    @pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "extra 'verify'"])
    def test_a_file_that_cannot_be_read_is_told_of_who_names_it(
        self, use, monkeypatch, tls_port, tmp_path, name, content
    ):
        file = tmp_path / "ca.pem"
        file.write_text(content or "")
        if name.startswith("extra"):
            use(f"https://127.0.0.1:{tls_port}", verify=str(file))
        else:
            monkeypatch.setenv(name, str(file))
            use(f"https://127.0.0.1:{tls_port}")
            if content is None:
                file.unlink()
        with pytest.raises(ScnetError, match=f"{name} names no readable file of authorities") as caught:
            ScnetHook().get_job_counts()
        assert caught.value.kind is ErrorKind.PERMANENT

    @pytest.mark.parametrize("place", ["platform", "portal"])
    @pytest.mark.parametrize("verify", [False, "its own file"])
    @pytest.mark.parametrize("is_trusted", [False, True])
    def test_what_a_region_is_trusted_with_its_platform_and_portal_are_not(
        self, scnet: ScnetSimulator, monkeypatch, tls_port, certificate, place, verify, is_trusted
    ):
        scnet.add_access_keys("alice")
        extra = {place: f"https://127.0.0.1:{tls_port}", "verify": verify and str(certificate)}
        monkeypatch.setenv("AIRFLOW_CONN_SCNET_DEFAULT", scnet.key_connection_json("alice", **extra))
        if is_trusted:
            monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
        with pytest.raises(ScnetError, match=f"https://127.0.0.1:{tls_port}") as caught:
            ScnetHook().get_job_counts()
        # That server's answers describe neither tokens nor a region.
        is_refused = re.search("certificate does not verify.*REQUESTS_CA_BUNDLE", str(caught.value))
        assert bool(is_refused) is not is_trusted

    def test_a_certificate_that_does_not_verify_is_permanent(self, use, tls_port):
        use(f"https://127.0.0.1:{tls_port}")
        with pytest.raises(ScnetConnectionError, match=r"certificate does not verify.*'verify'") as caught:
            ScnetHook().get_job_counts()
        assert caught.value.kind is ErrorKind.PERMANENT

    @pytest.mark.parametrize("bundle", [None, "the environment's"])
    def test_verification_can_be_switched_off_whatever_the_environment_says(
        self, use, monkeypatch, tls_port, bundle
    ):
        if bundle:
            monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/etc/ssl/certs/ca-certificates.crt")
        use(f"https://127.0.0.1:{tls_port}", verify=False)
        with pytest.warns(Warning, match="Unverified HTTPS"):
            look = PolledConnection("scnet_default").observe()
        assert look.counts is not None
        assert look.counts.queued == 2
        assert any("not verified" in note for note in look.notes)

    def test_a_certificate_that_is_not_valid_yet_points_to_the_clock_and_is_waited_out(self):
        error = ssl.SSLCertVerificationError(1, "certificate verify failed")
        error.verify_code, error.verify_message = 9, "certificate is not yet valid"
        settings = transport.ConnectionSettings("c", "https://h", "alice", "T")
        found = transport._readable(
            requests.exceptions.SSLError(error), transport.OneOriginSession("https://h", {}, settings), ()
        )
        assert "by the clock here, which says" in str(found)
        assert found.kind is ErrorKind.TRANSIENT

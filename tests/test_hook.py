# SPDX-License-Identifier: Apache-2.0
"""The hook, over real HTTP on loopback."""

from __future__ import annotations

import asyncio
import json
import pickle
import socket
import threading
from concurrent.futures import Future
from pathlib import Path

import pytest
import requests

from airflow_provider_scnet import __version__
from airflow_provider_scnet.client import threads, transport
from airflow_provider_scnet.client.errors import (
    ErrorKind,
    ScnetApiError,
    ScnetAuthError,
    ScnetConfigError,
    ScnetConnectionError,
    ScnetResponseError,
)
from airflow_provider_scnet.client.job_counts import JobCounts
from airflow_provider_scnet.hooks.polled_connection import PolledConnection
from airflow_provider_scnet.hooks.scnet import ScnetHook
from airflow_provider_scnet.testing import Fault, ScnetSimulator

COUNTS = {"running": 3, "queued": 5, "held": 0, "suspended": 0, "other": 1}


def test_it_asks_as_the_specification_shows(scnet: ScnetSimulator):
    scnet.set_counts("alice", **COUNTS)
    assert ScnetHook().get_job_counts() == JobCounts(**COUNTS)
    (request,) = scnet.requests
    assert request.method == "GET"
    assert request.path == "/hpc/openapi/v2/view/jobs/state"
    assert request.query == {"userName": "alice"}
    assert request.headers["token"] == scnet.token("alice")
    assert request.headers["content-type"] == "application/json"
    assert request.headers["accept"] == "application/json"
    assert request.headers["accept-language"] == "zh-CN"
    assert request.headers["user-agent"] == f"airflow-provider-scnet/{__version__}"
    assert "authorization" not in request.headers


def test_the_asynchronous_call_sees_the_same(scnet: ScnetSimulator):
    scnet.set_counts("alice", **COUNTS)
    assert asyncio.run(ScnetHook().aget_job_counts()) == JobCounts(**COUNTS)


def test_a_user_name_is_encoded(scnet: ScnetSimulator):
    scnet.add_user("a&b=用 户")
    ScnetHook().get_job_counts("a&b=用 户")
    assert scnet.requests[-1].query == {"userName": "a&b=用 户"}


def test_the_connection_is_read_anew_for_each_call(scnet: ScnetSimulator, monkeypatch: pytest.MonkeyPatch):
    hook = ScnetHook()
    hook.get_job_counts()
    scnet.renew_token("alice")
    with pytest.raises(ScnetAuthError):
        hook.get_job_counts()
    monkeypatch.setenv("AIRFLOW_CONN_SCNET_DEFAULT", scnet.connection_json("alice"))
    hook.get_job_counts()


@pytest.mark.parametrize("form", ["json", "uri"])
def test_a_connection_may_be_json_or_a_uri(scnet: ScnetSimulator, monkeypatch: pytest.MonkeyPatch, form: str):
    conn = scnet.connection_json(timeout="5") if form == "json" else scnet.connection_uri(timeout="5")
    monkeypatch.setenv("AIRFLOW_CONN_SCNET_DEFAULT", conn)
    assert PolledConnection("scnet_default").read_settings().timeout == 5.0
    ScnetHook().get_job_counts()


@pytest.mark.parametrize(
    ("uri", "endpoint"),
    [
        ("scnet://alice:TOKEN@host.example:65051", "https://host.example:65051"),
        ("scnet://alice:TOKEN@host.example:65051/hpc", "https://host.example:65051"),
        ("scnet://alice:TOKEN@127.0.0.1:8080/http", "http://127.0.0.1:8080"),
        ("scnet://alice:TOKEN@https%3A%2F%2Fhost.example%3A65051%2Fhpc", "https://host.example:65051"),
    ],
)
def test_a_uri_means_the_same_as_a_whole_address(monkeypatch: pytest.MonkeyPatch, uri: str, endpoint: str):
    monkeypatch.setenv("AIRFLOW_CONN_SCNET_DEFAULT", uri)
    settings = PolledConnection("scnet_default").read_settings()
    assert (settings.endpoint, settings.user_name, settings.token) == (endpoint, "alice", "TOKEN")


def test_a_connection_that_airflow_does_not_know_is_named():
    with pytest.raises(ScnetConfigError, match=r"'nowhere'.*not defined.*Connections") as caught:
        ScnetHook("nowhere").get_job_counts()
    assert caught.value.kind is ErrorKind.UNCLEAR


def test_in_a_multi_team_airflow_a_connection_that_the_triggerer_does_not_find_may_be_a_teams(monkeypatch):
    monkeypatch.setenv("AIRFLOW__CORE__MULTI_TEAM", "True")
    with pytest.raises(ScnetConfigError, match=r"'nowhere'.*without a team.*deferrable=False") as caught:
        asyncio.run(ScnetHook("nowhere").aget_job_counts())
    assert "create it" not in str(caught.value)
    assert caught.value.kind is ErrorKind.UNCLEAR
    # A worker asks for its task's team.
    with pytest.raises(ScnetConfigError, match="create it"):
        ScnetHook("nowhere").get_job_counts()


def test_a_malformed_uri_is_refused_without_showing_the_token(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AIRFLOW_CONN_SCNET_DEFAULT", "scnet://alice:SECRET-TOKEN@h://x://y")
    with pytest.raises(ScnetConfigError) as caught:
        ScnetHook().get_job_counts()
    assert "SECRET" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    ("status", "body", "error", "kind"),
    [
        (500, "oops", ScnetResponseError, ErrorKind.TRANSIENT),
        (502, "<html>", ScnetResponseError, ErrorKind.TRANSIENT),
        (503, {"code": "503", "msg": "x"}, ScnetResponseError, ErrorKind.TRANSIENT),
        (500, {"code": "10003", "msg": "x"}, ScnetApiError, ErrorKind.PERMANENT),
        (500, {"code": "0", "data": []}, ScnetResponseError, ErrorKind.TRANSIENT),
        (200, {"code": "10001", "msg": "x", "data": []}, ScnetApiError, ErrorKind.TRANSIENT),
        (400, {"status": 400, "error": "Bad Request"}, ScnetResponseError, ErrorKind.UNCLEAR),
        (400, {"code": "10012", "msg": "x"}, ScnetResponseError, ErrorKind.UNCLEAR),
        (401, "", ScnetAuthError, ErrorKind.CREDENTIALS),
        (401, {"code": "10001", "msg": "x"}, ScnetAuthError, ErrorKind.CREDENTIALS),
        (401, {"code": "10009", "msg": "x"}, ScnetApiError, ErrorKind.PERMANENT),
        (403, {"code": "10008", "msg": "auth_fail"}, ScnetAuthError, ErrorKind.CREDENTIALS),
        (403, {"code": "0", "data": []}, ScnetAuthError, ErrorKind.CREDENTIALS),
        (404, {"code": "404", "msg": "x"}, ScnetResponseError, ErrorKind.UNCLEAR),
        (408, "", ScnetResponseError, ErrorKind.TRANSIENT),
        (425, "", ScnetResponseError, ErrorKind.TRANSIENT),
        (429, "", ScnetResponseError, ErrorKind.TRANSIENT),
        (201, {"code": "0", "data": []}, ScnetResponseError, ErrorKind.UNCLEAR),
        (203, {"code": "0", "data": []}, ScnetResponseError, ErrorKind.UNCLEAR),
        (204, b"", ScnetResponseError, ErrorKind.UNCLEAR),
        (304, b"", ScnetResponseError, ErrorKind.PERMANENT),
    ],
)
def test_where_status_and_body_disagree_the_worse_one_stands(scnet, status, body, error, kind):
    scnet.order(Fault(status=status, body=body))
    with pytest.raises(error) as caught:
        ScnetHook().get_job_counts()
    assert type(caught.value) is error
    assert caught.value.kind is kind


def test_an_error_names_the_connection_and_the_user_and_carries_scnets_own_words(scnet: ScnetSimulator):
    scnet.order(Fault.api("10007", "用户已被冻结, 请联系客服"))
    with pytest.raises(ScnetApiError) as caught:
        ScnetHook().get_job_counts()
    assert str(caught.value) == (
        f"connection 'scnet_default' ({scnet.url}), user 'alice': "
        "SCnet answered code 10007 (用户已被冻结, user frozen): 用户已被冻结, 请联系客服"
    )


def test_a_token_that_the_server_echoes_is_not_shown(scnet: ScnetSimulator):
    token = scnet.token("alice")
    scnet.order(Fault.api("10004", f"bad\n{token}\r\n{token}"))
    with pytest.raises(ScnetApiError) as caught:
        ScnetHook().get_job_counts()
    assert caught.value.msg == "bad\\n***\\r\\n***"
    assert token not in str(caught.value)


@pytest.mark.parametrize(
    ("header", "pause"), [("7", 7.0), ("100000", 600.0), ("soon", None), ("", None), ("-5", None), (None, None)]
)
def test_retry_after_is_read_and_bounded(scnet: ScnetSimulator, header, pause):
    scnet.order(Fault(status=429, headers={"Retry-After": header} if header is not None else {}))
    assert PolledConnection("scnet_default").observe().pause == (pause or 0.0)


@pytest.mark.parametrize(
    ("body", "kind", "sent"),
    [
        ({"json": {"a": [1]}}, "application/json", b'{"a": [1]}'),
        ({"data": {"jobMethod": "5"}}, "application/x-www-form-urlencoded", b"jobMethod=5"),
        ({"files": {"file": ("in.dat", b"bytes")}}, "multipart/form-data; boundary=", b"in.dat"),
        ({"data": '{"a": 1}'}, "application/json", b'{"a": 1}'),
        ({}, "application/json", b""),
    ],
    ids=["json", "form", "file", "text", "none"],
)
@pytest.mark.parametrize("way", ["session", "request"])
def test_a_body_is_labelled_as_what_it_is(scnet: ScnetSimulator, way, body, kind, sent):
    if way == "session":
        with ScnetHook().get_conn() as session:
            session.request("DELETE", "/hpc/openapi/v2/jobs", **body)
    else:
        with pytest.raises(ScnetResponseError, match="404"):
            ScnetHook().request("DELETE", "/hpc/openapi/v2/none", **body)
    (request,) = scnet.requests
    assert request.headers["content-type"].startswith(kind)
    assert sent in request.body


def test_a_request_returns_the_data_of_the_answer(scnet: ScnetSimulator):
    scnet.submit("alice", name="mine")
    scheduler = str(ScnetHook().request("GET", "/hpc/openapi/v2/cluster")[0]["id"])
    asked = {"strClusterIDList": scheduler, "strJobOwner": "alice", "start": "0", "limit": "25"}
    assert ScnetHook().request("GET", "/hpc/openapi/v2/jobs", params=asked)["list"][0]["jobName"] == "mine"


@pytest.mark.parametrize(
    ("fault", "error", "said"),
    [
        (Fault.api("815007", "sbatch: error"), ScnetApiError, "code 815007 .*: sbatch: error"),
        (Fault(status=503, body=""), ScnetResponseError, "HTTP 503"),
        (Fault.html(200, "<p>Login"), ScnetResponseError, "not the documented JSON"),
        (Fault(drop="before"), ScnetConnectionError, "connection failed"),
    ],
)
def test_a_request_raises_what_is_no_success_and_is_not_repeated(scnet: ScnetSimulator, fault, error, said):
    path = "/hpc/openapi/v2/apptemplates/BASIC/BASE/job"
    scnet.order(fault, path=path)
    with pytest.raises(error, match=rf"connection 'scnet_default' .*, apptemplates/BASIC/BASE/job: .*{said}"):
        ScnetHook().request("POST", path, json={})
    assert len(scnet.requests) == 1


def test_a_request_with_a_refused_token_says_what_to_do(scnet: ScnetSimulator):
    scnet.reject_token("alice")
    with pytest.raises(ScnetAuthError, match="paste a fresh token"):
        ScnetHook().request("GET", "/hpc/openapi/v2/cluster")
    assert len(scnet.requests) == 1


def test_a_request_whose_issued_token_is_refused_is_made_with_another(scnet: ScnetSimulator, monkeypatch):
    scnet.add_access_keys("alice")
    monkeypatch.setenv("AIRFLOW_CONN_SCNET_DEFAULT", scnet.key_connection_json("alice"))
    scnet.order(Fault.api("10008", "auth_fail", "token is invalid"), path="/hpc/openapi/v2/cluster")
    assert ScnetHook().request("GET", "/hpc/openapi/v2/cluster")
    assert len(scnet.token_requests) == 2


@pytest.mark.parametrize(
    "path", ["hpc/openapi/v2/cluster", "https://elsewhere.example/", "@elsewhere.example", ""]
)
def test_a_request_goes_to_a_path_below_the_endpoint(scnet: ScnetSimulator, path):
    with pytest.raises(ValueError, match="slash"):
        ScnetHook().request("GET", path)
    assert scnet.requests == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_refused_and_the_token_stays(scnet: ScnetSimulator, status: int):
    with ScnetSimulator() as elsewhere:
        scnet.order(Fault.redirect(f"{elsewhere.url}/?t={scnet.token('alice')}", status))
        with pytest.raises(ScnetResponseError, match=r"redirect to http://127\.0\.0\.1") as caught:
            ScnetHook().get_job_counts()
        assert elsewhere.requests == []
    assert caught.value.kind is ErrorKind.PERMANENT
    assert scnet.token("alice") not in str(caught.value)


def test_a_session_reaches_its_own_origin_only(scnet: ScnetSimulator):
    with ScnetSimulator() as elsewhere, ScnetHook().get_conn() as session:
        scnet.order(Fault.redirect(elsewhere.url))
        response = session.get(f"{scnet.url}/hpc/openapi/v2/view/jobs/state", params={"userName": "alice"})
        assert response.status_code == 302
        for url in (elsewhere.url, f"{scnet.url}@127.0.0.1:{elsewhere.port}/", "http://example.invalid/"):
            with pytest.raises(requests.exceptions.InvalidSchema):
                session.get(url)
        assert elsewhere.requests == []


def test_a_session_takes_paths_below_the_endpoint(scnet: ScnetSimulator):
    with ScnetHook().get_conn() as session:
        assert (session.base_url, session.user_name) == (scnet.url, "alice")
        answer = session.get("/hpc/openapi/v2/view/jobs/state", params={"userName": session.user_name})
    assert answer.json()["code"] == "0"


def test_a_path_is_taken_below_the_path_of_an_endpoint(scnet: ScnetSimulator, monkeypatch: pytest.MonkeyPatch):
    connection = scnet.connection() | {"host": f"{scnet.url}/region/hpc"}
    monkeypatch.setenv("AIRFLOW_CONN_SCNET_DEFAULT", json.dumps(connection))
    with ScnetHook().get_conn() as session:
        session.get("/hpc/openapi/v2/cluster")
    assert scnet.requests[-1].path == "/region/hpc/openapi/v2/cluster"


@pytest.mark.parametrize("path", ["//127.0.0.1:{port}/", "/\\127.0.0.1:{port}/", "/@127.0.0.1:{port}/"])
def test_no_path_leads_to_another_origin(scnet: ScnetSimulator, path: str):
    with ScnetSimulator() as elsewhere, ScnetHook().get_conn() as session:
        session.get(path.format(port=elsewhere.port))
        assert elsewhere.requests == []
    assert len(scnet.requests) == 1


def test_a_session_that_is_used_for_long_leaks_no_connection(scnet: ScnetSimulator):
    def handles() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    with ScnetHook().get_conn() as session:
        before = handles()
        for _ in range(20):
            session.get(f"{scnet.url}/hpc/openapi/v2/view/jobs/state", headers={"Connection": "close"})
        assert handles() - before < 10


def test_a_token_that_is_echoed_in_a_malformed_header_is_in_no_log(monkeypatch, caplog: pytest.LogCaptureFixture):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            peer, _ = server.accept()
            with peer:
                peer.recv(65536)
                peer.sendall(b"HTTP/1.1 200 OK\r\nA: b\r\nbad line with SECRET-TOKEN\r\nC: d\r\n\r\n{}")

        thread = threading.Thread(target=answer)
        thread.start()
        uri = f"scnet://alice:SECRET-TOKEN@127.0.0.1:{server.getsockname()[1]}/http"
        monkeypatch.setenv("AIRFLOW_CONN_SCNET_DEFAULT", uri)
        with caplog.at_level("DEBUG"):
            assert PolledConnection("scnet_default").observe().error is not None
        thread.join()
    assert "SECRET-TOKEN" not in caplog.text
    assert "Failed to parse" not in caplog.text


def test_many_unknown_names_make_one_note(scnet: ScnetSimulator):
    scnet.order(Fault.api("0", "success", [{"name": f"state {n}", "y": 1} for n in range(5000)]))
    (note,) = PolledConnection("scnet_default").observe().notes
    assert note.endswith("'state 9' and 4990 more, counted as other")


def test_netrc_is_ignored(scnet: ScnetSimulator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login eve password stolen\nmachine localhost login eve password stolen\n")
    monkeypatch.setenv("NETRC", str(netrc))
    with ScnetHook().get_conn() as session:
        session.get(f"{scnet.url}/hpc/openapi/v2/view/jobs/state")
    assert "authorization" not in scnet.requests[-1].headers


def test_an_environments_proxy_never_sees_the_token_of_a_plain_request(
    scnet: ScnetSimulator, monkeypatch: pytest.MonkeyPatch
):
    with ScnetSimulator() as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        monkeypatch.setenv("no_proxy", "")
        ScnetHook().get_job_counts()
        assert proxy.requests == []


def test_a_proxy_of_the_connection_is_asked_to_pass_an_encrypted_connection_on(monkeypatch: pytest.MonkeyPatch):
    with ScnetSimulator() as proxy:
        conn = {
            "conn_type": "scnet",
            "host": "https://scnet.invalid",
            "login": "alice",
            "password": "TOKEN-1",
            "extra": {"proxies": {"https": proxy.url}},
        }
        monkeypatch.setenv("AIRFLOW_CONN_SCNET_DEFAULT", json.dumps(conn))
        with pytest.raises(ScnetConnectionError):
            ScnetHook().get_job_counts()
        (request,) = proxy.requests
    assert request.method == "CONNECT"
    assert "token" not in request.headers


@pytest.mark.parametrize(
    "fault",
    [
        Fault(delay=30),
        Fault(drip=0.05, drip_headers=True),
        Fault(drip=0.05),
    ],
    ids=["silent", "drips headers", "drips the body"],
)
def test_an_answer_that_does_not_come_in_time_is_cut_off(scnet: ScnetSimulator, connect, fault: Fault):
    connect(timeout=0.3)
    scnet.order(fault)
    with pytest.raises(ScnetConnectionError, match=r"within 0\.3 s") as caught:
        ScnetHook().get_job_counts()
    assert caught.value.kind is ErrorKind.TRANSIENT


@pytest.mark.parametrize(
    "error", [ScnetConnectionError("no", retry_after=7.0), ScnetApiError("10008", "no", kind=ErrorKind.PERMANENT)]
)
def test_an_error_survives_the_way_into_another_process(error):
    error.where = "here"
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.__dict__) == (type(error), str(error), error.__dict__)


@pytest.mark.parametrize("fault", [Fault(delay=30), Fault(drip=30)], ids=["silent", "falls silent in the body"])
@pytest.mark.parametrize("is_thread_late", [False, True])
def test_silence_is_told_alike_whichever_of_the_two_time_outs_ends_it(
    scnet: ScnetSimulator, connect, monkeypatch: pytest.MonkeyPatch, fault: Fault, is_thread_late: bool
):
    def patient(function):
        found = threads.run_in_thread(function)
        monkeypatch.setattr(found, "result", lambda _: Future.result(found, 60))
        return found

    if not is_thread_late:
        monkeypatch.setattr(transport, "run_in_thread", patient)
    connect(timeout=0.3)
    scnet.order(fault)
    with pytest.raises(ScnetConnectionError, match=r"no whole answer within 0\.3 s"):
        ScnetHook().get_job_counts()


def test_a_tls_handshake_that_drips_is_cut_off(monkeypatch: pytest.MonkeyPatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        done = threading.Event()

        def drip() -> None:
            peer, _ = server.accept()
            with peer:
                # The start of a long handshake record, a byte at a time: never silent for long.
                for byte in b"\x16\x03\x03\x3f\xff\x02" + bytes(10_000):
                    try:
                        peer.send(bytes([byte]))
                    except OSError:
                        break
                    if done.wait(0.02):
                        break

        thread = threading.Thread(target=drip)
        thread.start()
        port = server.getsockname()[1]
        conn = {
            "conn_type": "scnet",
            "host": f"https://127.0.0.1:{port}",
            "login": "alice",
            "password": "TOKEN-1",
            "extra": {"timeout": 0.3},
        }
        monkeypatch.setenv("AIRFLOW_CONN_SCNET_DEFAULT", json.dumps(conn))
        with pytest.raises(ScnetConnectionError, match=r"within 0\.3 s"):
            ScnetHook().get_job_counts()
        done.set()
        thread.join()


@pytest.mark.parametrize("drop", ["before", "headers", "body"])
def test_a_connection_that_breaks_is_transient(scnet: ScnetSimulator, drop):
    scnet.order(Fault(drop=drop))
    with pytest.raises(ScnetConnectionError) as caught:
        ScnetHook().get_job_counts()
    assert caught.value.kind is ErrorKind.TRANSIENT


def test_a_refused_connection_is_transient_and_says_so(scnet: ScnetSimulator):
    scnet.stop()
    with pytest.raises(ScnetConnectionError, match="Connection refused") as caught:
        ScnetHook().get_job_counts()
    assert caught.value.kind is ErrorKind.TRANSIENT


@pytest.mark.parametrize(
    ("errno", "kind"), [(socket.EAI_NONAME, ErrorKind.UNCLEAR), (socket.EAI_AGAIN, ErrorKind.TRANSIENT)]
)
def test_a_host_without_an_address_is_unclear_and_a_name_server_that_is_away_heals(monkeypatch, errno, kind):
    def resolve(*args: object, **kwargs: object) -> None:
        raise socket.gaierror(errno, "no")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setenv("AIRFLOW_CONN_SCNET_DEFAULT", "scnet://alice:TOKEN@scnet.invalid:65051")
    with pytest.raises(ScnetConnectionError) as caught:
        ScnetHook().get_job_counts()
    assert caught.value.kind is kind


def test_a_plain_http_server_where_tls_is_expected_is_unclear(
    scnet: ScnetSimulator, monkeypatch: pytest.MonkeyPatch
):
    conn = scnet.connection_json().replace("http://", "https://")
    monkeypatch.setenv("AIRFLOW_CONN_SCNET_DEFAULT", conn)
    with pytest.raises(ScnetConnectionError, match="TLS failed") as caught:
        ScnetHook().get_job_counts()
    assert caught.value.kind is ErrorKind.UNCLEAR


def test_no_more_than_a_mebibyte_is_read(scnet: ScnetSimulator):
    for fault in (Fault(body=b" " * (5 * 2**20)), Fault.gzip_bomb(200 * 2**20)):
        scnet.order(fault)
        with pytest.raises(ScnetResponseError, match="larger than 1 MiB") as caught:
            ScnetHook().get_job_counts()
        assert caught.value.kind is ErrorKind.UNCLEAR


def test_an_encoding_that_was_not_asked_for_is_not_decoded(scnet: ScnetSimulator):
    scnet.order(Fault(body=b"x", headers={"Content-Encoding": "gzip, gzip"}))
    with pytest.raises(ScnetResponseError, match="encoded as gzip, gzip"):
        ScnetHook().get_job_counts()
    scnet.order(Fault(body=b"x" * 100, headers={"Content-Encoding": "gzip"}))
    with pytest.raises(ScnetResponseError, match="decompressed"):
        ScnetHook().get_job_counts()


def test_zeros_for_another_user_than_the_tokens_own_are_doubted(scnet: ScnetSimulator, connect):
    look = PolledConnection("scnet_default").observe("stranger")
    assert look.counts is not None
    assert look.counts.all_zero
    assert "issued for 'alice'" in look.doubt
    assert PolledConnection("scnet_default").observe("alice").doubt == ""
    connect(allow_foreign_user=True)
    assert PolledConnection("scnet_default").observe("stranger").doubt == ""


def test_counts_of_another_user_are_believed_where_there_are_any(scnet: ScnetSimulator):
    scnet.order(Fault.api("0", "success", [{"name": "运行", "y": 1}]))
    assert PolledConnection("scnet_default").observe("stranger").doubt == ""


def test_a_name_nobody_knows_is_noted(scnet: ScnetSimulator):
    scnet.order(Fault.api("0", "success", [{"name": "等\n待", "y": 1}, {"name": "其他", "y": 2}]))
    look = PolledConnection("scnet_default").observe()
    assert look.counts is not None
    assert look.counts.other == 3
    assert any("unknown state '等\\n待'" in note for note in look.notes)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({"running": 3, "queued": 5}, "user alice: 3 running, 5 queued"),
        ({"running": 3, "held": 2}, "user alice: 3 running, 0 queued, 2 held, 5 total"),
        ({}, "user alice: no job in any state: check the user name"),
    ],
)
def test_the_connection_test_says_what_it_found(scnet: ScnetSimulator, counts, message):
    scnet.set_counts("alice", **counts)
    ok, said = ScnetHook().test_connection()
    assert ok
    assert said.startswith(f"{message.replace(', 5 total', '')}; token of the connection, valid until 2")


def test_the_connection_test_says_why_not(scnet: ScnetSimulator, connect):
    scnet.reject_token("alice")
    ok, message = ScnetHook().test_connection()
    assert not ok
    assert "auth_fail" in message
    assert "paste a fresh token" in message
    assert scnet.token("alice") not in message
    assert len(scnet.requests) == 1


def test_the_connection_test_doubts_zeros_of_a_stranger(scnet: ScnetSimulator, monkeypatch: pytest.MonkeyPatch):
    conn = {**scnet.connection(), "login": "stranger"}
    monkeypatch.setenv("AIRFLOW_CONN_SCNET_DEFAULT", json.dumps(conn))
    ok, message = ScnetHook().test_connection()
    assert not ok
    assert "issued for 'alice'" in message


def test_the_connection_test_needs_all_states(scnet: ScnetSimulator):
    scnet.order(Fault.api("0", "success", []))
    ok, message = ScnetHook().test_connection()
    assert not ok
    assert "missing" in message

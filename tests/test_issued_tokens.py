# SPDX-License-Identifier: Apache-2.0
"""Tokens that are obtained with access keys, and pasted ones that end: over real HTTP, as gates meet them."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import hmac
import json
import os
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from unittest import mock

import airflow
import pytest
from airflow.providers.common.compat.sdk import AirflowException, AirflowFailException
from asgiref.sync import async_to_sync
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from airflow_provider_scnet.client import issued_tokens
from airflow_provider_scnet.client.access_keys import TOKENS_PATH, AccessKeys, RegionToken
from airflow_provider_scnet.client.connection_settings import ConnectionSettings
from airflow_provider_scnet.client.errors import (
    ErrorKind,
    ScnetApiError,
    ScnetConfigError,
    ScnetConnectionError,
    ScnetError,
)
from airflow_provider_scnet.client.observation import Observation
from airflow_provider_scnet.client.region import REGION_PATH
from airflow_provider_scnet.hooks import polled_connection
from airflow_provider_scnet.hooks import scnet as hook_module
from airflow_provider_scnet.hooks.polled_connection import PolledConnection
from airflow_provider_scnet.hooks.scnet import ScnetHook
from airflow_provider_scnet.polling.accounts import Accounts
from airflow_provider_scnet.testing import Fault, ScnetSimulator, make_token
from airflow_provider_scnet.triggers import shared_accounts
from airflow_provider_scnet.triggers.scnet import ScnetJobCountTrigger
from airflow_provider_scnet.triggers.shared_accounts import RunningAirflow

from gates import INTERVAL, MODES, first_event, gate

IS_2 = airflow.__version__.startswith("2.")
JOB_STATE_PATH = "/hpc/openapi/v2/view/jobs/state"


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(issued_tokens, "_regions", {})
    monkeypatch.setattr(issued_tokens, "PAUSE_AFTER_FAILURE", 0.0)


@pytest.fixture
def connect_keys(scnet: ScnetSimulator, monkeypatch: pytest.MonkeyPatch):
    """Make the connection one with access keys: fields and extras by keyword."""

    def change(
        user: str = "alice", platform_user: str | None = None, fields: dict | None = None, **extra: object
    ) -> None:
        scnet.add_access_keys(user, platform_user)
        conn = {**scnet.key_connection(user, **extra), **(fields or {})}
        monkeypatch.setenv("AIRFLOW_CONN_SCNET_DEFAULT", json.dumps(conn))

    return change


@pytest.fixture
def keys(connect_keys) -> None:
    connect_keys()


@pytest.fixture(params=MODES)
def run(request: pytest.FixtureRequest):
    return MODES[request.param]


def paths(scnet: ScnetSimulator) -> list[str]:
    names = {TOKENS_PATH: "tokens", REGION_PATH: "region", JOB_STATE_PATH: "jobs"}
    return [names[request.path] for request in scnet.requests]


def entry(cluster_id: Any, token: Any, name: Any = "somewhere") -> dict[str, Any]:
    return {"clusterName": name, "clusterId": cluster_id, "token": token}


# What is asked, and what is sent where


def test_the_signature_is_the_documented_one():
    text = '{"accessKey":"AK","timestamp":"1700000000","user":"alice"}'
    expected = hmac.new(b"SK", text.encode(), hashlib.sha256).hexdigest()
    assert AccessKeys("alice", "AK", "SK", "11112").signed(1700000000.5)["signature"] == expected
    assert re.fullmatch("[0-9a-f]{64}", expected)


def test_a_token_is_asked_for_as_documented_and_each_secret_goes_to_its_own_place_only(scnet, keys):
    ScnetHook().get_job_counts()
    tokens, region, jobs = scnet.requests
    extra = scnet.key_connection()["extra"]
    assert (tokens.method, tokens.path, tokens.query) == ("POST", "/api/user/v3/tokens", {})
    assert tokens.headers["user"] == "alice"
    assert tokens.headers["accesskey"] == extra["access_key"]
    assert abs(int(tokens.headers["timestamp"]) - time.time()) < 5
    assert "token" not in tokens.headers
    assert (region.method, region.path) == ("GET", "/ac/openapi/v2/center")
    assert region.headers["token"] == jobs.headers["token"] == scnet.token("alice")
    for request in (region, jobs):
        assert {"user", "accesskey", "timestamp", "signature"}.isdisjoint(request.headers)
    for request in scnet.requests:
        assert extra["secret_key"] not in str(request)


@pytest.mark.parametrize("user", ["王小明", 'a"b\\c', "zoë@example"])
def test_a_user_name_beyond_ascii_is_signed_and_sent_as_utf_8(scnet, connect_keys, run, user):
    connect_keys(platform_user=user)
    assert run(gate())["user_name"] == "alice"


def test_endpoint_and_user_come_from_the_region(scnet, connect_keys):
    scnet.add_user("remote", compute_user="alice_hpc")
    scnet.add_region("22", "East", user_name="alice_hpc")
    connect_keys("remote", platform_user="alice@example.com", cluster_id=22)
    settings = issued_tokens.with_token(PolledConnection("scnet_default").read_settings())
    assert (settings.account, settings.region) == ((scnet.url, "alice_hpc"), "East")


def test_a_host_and_a_login_in_the_connection_win(scnet, connect_keys):
    scnet.add_region("11112", "two", hpc_urls=[("https://a.example", True), ("https://b.example", True)])
    connect_keys(fields={"host": scnet.url, "login": "alice"})
    ScnetHook().get_job_counts()
    assert paths(scnet) == ["tokens", "jobs"]
    connect_keys(fields={"login": "somebody"}, allow_foreign_user=True)
    scnet.add_region("11112", "one")
    ScnetHook().get_job_counts()
    assert scnet.requests[-1].query == {"userName": "somebody"}
    ScnetHook().get_job_counts("alice")
    assert scnet.requests[-1].query == {"userName": "alice"}


def test_with_a_host_the_user_is_the_tokens_own_else_the_regions(scnet, connect_keys):
    connect_keys(fields={"host": scnet.url})
    ScnetHook().get_job_counts()
    assert paths(scnet) == ["tokens", "jobs"]
    issued_tokens._regions.clear()
    scnet.order(Fault.api("0", "success", [entry("11112", scnet.token("alice"))]), path=TOKENS_PATH)
    scnet.order(Fault.api("0", "success", [entry("11112", "opaque")]), path=TOKENS_PATH)
    ScnetHook().get_job_counts()
    issued_tokens._regions.clear()
    scnet.order(Fault.api("0", "success", {"clusterUserInfo": {"userName": "bob"}}), path=REGION_PATH)
    look = look_once()
    assert look.user_name == "bob"


@pytest.mark.parametrize(
    ("urls", "message", "for_good"),
    [
        ((), "no HPC address in use; there are no others", True),
        (
            (("https://a.example/hpc", False),),
            r"no HPC address in use; the others are: https://a\.example/hpc: fill in the field 'host'",
            False,
        ),
    ],
)
def test_a_region_without_an_address_in_use_fails(scnet, connect_keys, run, urls, message, for_good, monkeypatch):
    monkeypatch.setattr(issued_tokens, "PAUSE_AFTER_FAILURE", 60.0)
    scnet.add_region("33", "odd", hpc_urls=urls)
    connect_keys(cluster_id="33")
    for _ in range(2):
        with pytest.raises(AirflowException, match=message) as caught:
            run(gate())
        assert isinstance(caught.value, AirflowFailException) == for_good
        assert "connection 'scnet_default'" in str(caught.value)
    assert paths(scnet) == ["tokens", "region"]


def test_a_gate_that_waits_outlasts_a_region_that_is_switched_off_for_a_while(scnet, keys, run, said):
    one = scnet.add_address()
    scnet.add_region("11112", "one", hpc_urls=[(one, True)])
    scnet.set_counts("alice", queued=9)

    def switch_off_and_on() -> None:
        # With the second poll the first has had its answer.
        scnet.wait_for_requests(4)
        scnet.add_region("11112", "one", hpc_urls=[(one, False)])
        scnet.remove_address(one)
        scnet.wait_for_requests(len(scnet.requests) + 2)
        scnet.set_counts("alice", queued=0)
        scnet.add_region("11112", "one")

    assert while_it_waits(switch_off_and_on, run)["counts"]["queued"] == 0
    assert "waiting: connection 'scnet_default'" in said.text
    assert "no HPC address in use" in said.text


def test_an_address_that_is_switched_on_later_is_found_though_the_token_is_kept(scnet, connect_keys, run):
    scnet.add_region("33", "odd", hpc_urls=[(scnet.url, False)])
    connect_keys(cluster_id="33")
    with pytest.raises(AirflowException, match="no HPC address in use"):
        run(gate())
    scnet.add_region("33", "odd", hpc_urls=[(scnet.url, True)])
    assert run(gate())
    assert paths(scnet) == ["tokens", "region", "region", "jobs"]


def hosts(scnet: ScnetSimulator) -> list[str]:
    return [f"http://{request.headers['host']}" for request in scnet.job_state_requests]


def while_it_waits(change: Any, run: Any) -> Any:
    """Run a gate, and change something meanwhile: aside, as Airflow 2 runs a task in its own thread only."""
    with ThreadPoolExecutor(1) as pool:
        changing = pool.submit(change)
        result = run(gate())
        changing.result()
    return result


def look_once() -> Observation:
    return PolledConnection("scnet_default").observe()


def test_of_several_addresses_the_first_that_is_enabled_is_used(scnet, keys):
    one, two, three = (scnet.add_address() for _ in range(3))
    scnet.add_region("11112", "one", hpc_urls=[(three, False), (two, True), (one, True)])
    assert look_once().counts
    assert hosts(scnet) == [two]


def test_the_address_in_use_is_kept_while_it_is_enabled(scnet, keys):
    one, two = scnet.add_address(), scnet.add_address()
    for urls in ([(one, False), (two, True)], [(one, True), (two, True)], [(one, True), (two, False)]):
        scnet.add_region("11112", "one", hpc_urls=urls)
        assert look_once().counts
        # The region is described anew for each token.
        issued_tokens.invalidate(scnet.token("alice"))
    assert hosts(scnet) == [two, two, one]


def test_an_address_that_went_away_is_asked_for_again_while_the_token_is_kept(scnet, keys, run):
    one, two = scnet.add_address(), scnet.add_address()
    scnet.add_region("11112", "one", hpc_urls=[(one, True), (two, False)])
    assert run(gate())
    scnet.remove_address(one)
    assert "Connection refused" in str(look_once().error)
    scnet.add_region("11112", "one", hpc_urls=[(one, False), (two, True)])
    assert run(gate())
    assert hosts(scnet) == [one, two]
    assert len(scnet.token_requests) == 1


def test_a_gate_that_waits_finds_the_other_address(scnet, keys, run):
    one, two = scnet.add_address(), scnet.add_address()
    scnet.add_region("11112", "one", hpc_urls=[(one, True), (two, True)])
    scnet.set_counts("alice", queued=9)

    def move() -> None:
        scnet.wait_for_requests(3)
        scnet.add_region("11112", "one", hpc_urls=[(two, True)])
        scnet.remove_address(one)
        scnet.set_counts("alice", queued=0)

    assert while_it_waits(move, run)["counts"]["queued"] == 0
    assert (hosts(scnet)[0], hosts(scnet)[-1]) == (one, two)


def test_where_the_region_is_stands_while_the_portal_cannot_say(scnet, keys):
    assert look_once().counts
    scnet.order(Fault.html(200, "<html>log in</html>"), path=REGION_PATH)
    scnet.order(DOWN, path=REGION_PATH)
    for _ in range(2):
        issued_tokens.invalidate(scnet.token("alice"))
        assert look_once().counts
    assert paths(scnet)[3:] == ["tokens", "region", "jobs"] * 2


@pytest.mark.parametrize("enable", [True, "true", "True"])
def test_enable_may_be_a_boolean_and_a_cluster_id_a_number(scnet, keys, enable):
    token = scnet.token("alice")
    scnet.order(Fault.api("0", "success", [entry(11111, "t"), entry(11112, token)]), path=TOKENS_PATH)
    urls = [{"url": "https://a.example", "enable": False}, {"url": scnet.url, "enable": enable}]
    scnet.order(region(hpcUrls=urls), path=REGION_PATH)
    assert look_once().counts


@pytest.mark.parametrize("where", [{}, {"host": "the simulator's"}], ids=["no host", "a host"])
def test_the_user_is_the_tokens_own_where_the_portal_names_another(scnet, connect_keys, run, said, where):
    scnet.add_user("hpc", compute_user="alice_hpc")
    scnet.add_region("11112", "one", user_name="portal_alice")
    connect_keys("hpc", fields={"host": scnet.url} if where else {})
    assert run(gate())["user_name"] == "alice_hpc"
    if not where:
        assert said.text.count("the portal names the cluster user 'portal_alice': fill in the field 'login'") == 1


def test_nothing_is_said_of_the_portals_user_where_the_connection_names_one(scnet, connect_keys):
    scnet.add_region("11112", "one", user_name="portal_alice")
    connect_keys(fields={"login": "alice"})
    assert not look_once().notes


def test_a_token_that_names_no_possible_user_is_not_asked_about_it(scnet, connect_keys, said, run):
    scnet.add_user("odd", compute_user="a\nb")
    connect_keys("odd", fields={"host": scnet.url})
    with pytest.raises(AirflowFailException, match="no cluster user"):
        run(gate())
    assert "jobs" not in paths(scnet)


def test_a_region_that_sends_the_token_over_plain_http_is_not_followed(scnet, connect_keys):
    scnet.add_region("33", "odd", hpc_urls=[("http://10.0.0.1", True)])
    connect_keys(cluster_id="33")
    with pytest.raises(ScnetError, match="plain http"):
        ScnetHook().get_job_counts()


# What the platform refuses


def test_a_wrong_secret_fails_for_good(scnet, connect_keys, run):
    connect_keys(secret_key="not-the-secret")
    with pytest.raises(AirflowFailException, match=r"10009.*签名校验失败.*check the extras access_key") as caught:
        run(gate())
    assert "not-the-secret" not in str(caught.value)
    assert "platform user 'alice'" in str(caught.value)
    assert "clock" not in str(caught.value)


def test_an_unknown_user_fails_for_good(scnet, connect_keys, run, monkeypatch):
    connect_keys()
    conn = scnet.key_connection(platform_user="renamed")
    monkeypatch.setenv("AIRFLOW_CONN_SCNET_DEFAULT", json.dumps(conn))
    with pytest.raises(AirflowFailException, match=r"10009.*用户不存在.*platform_user"):
        run(gate())
    assert paths(scnet) == ["tokens"]


def test_a_region_in_arrears_lists_those_that_are_not(scnet, connect_keys, run):
    scnet.add_region("44", "South", in_arrears=True)
    connect_keys(cluster_id="44")
    with pytest.raises(AirflowFailException, match=r"'South' \(44\).*in arrears.*'模拟一区' \(11112\)"):
        run(gate())


@pytest.mark.parametrize("cluster_id", ["99", "ac"])
def test_an_unknown_region_lists_those_there_are_but_not_the_platform(scnet, connect_keys, run, cluster_id):
    scnet.add_region("44", "South", in_arrears=True)
    connect_keys(cluster_id=cluster_id)
    with pytest.raises(AirflowFailException, match="no region with the cluster_id") as caught:
        run(gate())
    assert str(caught.value).endswith("the regions are: '模拟一区' (11112), 'South' (44)")


@pytest.mark.parametrize(("ahead", "message"), [(420, "7 min behind"), (-420, "7 min ahead of")])
def test_a_clock_that_is_off_is_said_and_waited_out(scnet, keys, run, ahead, message, said):
    scnet.clock_ahead = ahead

    def set_the_clock() -> None:
        scnet.wait_for_requests(3)
        scnet.clock_ahead = 0.0

    assert while_it_waits(set_the_clock, run)["counts"]["queued"] == 0
    assert f"the clock here is {message} SCnet's, which fails signatures: set it" in said.text


def test_a_wrong_secret_is_not_put_down_to_a_clock_that_is_right(scnet, connect_keys):
    connect_keys(secret_key="not-the-secret")
    scnet.clock_ahead = 50.0
    error = look_once().error
    assert (error.kind, "clock" in str(error)) == (ErrorKind.PERMANENT, False)
    scnet.clock_ahead = 3600.0
    error = look_once().error
    assert error.kind is ErrorKind.TRANSIENT
    assert "if that does not help, check the extras access_key" in str(error)


def not_yet_valid(folder: Path) -> Path:
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    tomorrow = datetime.now(timezone.utc) + timedelta(days=1)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(tomorrow)
        .not_valid_after(tomorrow + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = folder / "both.pem"
    path.write_bytes(private + made.public_bytes(pem))
    return path


def test_a_certificate_that_is_not_yet_valid_is_put_down_to_the_clock_and_heals(monkeypatch, tmp_path):
    path = not_yet_valid(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            peer, _ = server.accept()
            with contextlib.suppress(OSError):
                context.wrap_socket(peer, server_side=True)
            peer.close()

        thread = threading.Thread(target=serve)
        thread.start()
        host = f"https://127.0.0.1:{server.getsockname()[1]}"
        conn = {
            "conn_type": "scnet",
            "host": host,
            "login": "alice",
            "password": "T",
            "extra": {"verify": str(path)},
        }
        monkeypatch.setenv("AIRFLOW_CONN_SCNET_DEFAULT", json.dumps(conn))
        error = look_once().error
        thread.join()
    assert error.kind is ErrorKind.TRANSIENT
    assert re.search(
        r"certificate is not yet valid by the clock here, which says \d{4}-.*: set the clock", str(error)
    )


# What heals


@pytest.mark.parametrize("path", [TOKENS_PATH, REGION_PATH])
@pytest.mark.parametrize(
    "fault",
    [
        Fault(status=503, body=""),
        Fault.api("10001", "busy"),
        Fault(drop="before"),
        Fault(drop="body"),
        Fault(status=429, headers={"Retry-After": "0"}),
    ],
    ids=["503", "10001", "dropped", "half an answer", "429"],
)
def test_a_platform_that_is_away_for_a_while_is_waited_out(scnet, keys, run, path, fault):
    scnet.order(fault, times=2, path=path)
    assert run(gate())["counts"]["queued"] == 0
    assert paths(scnet).count("tokens" if path == TOKENS_PATH else "region") == 3
    assert paths(scnet).count("jobs") == 1


def test_the_wait_for_the_platform_is_in_the_budget(scnet, keys, run):
    scnet.order(Fault(status=503, body=""), times=None, path=TOKENS_PATH)
    began = time.monotonic()
    with pytest.raises(AirflowException, match=r"(?i)time"):
        run(gate(timeout=0.5))
    assert time.monotonic() - began < 5


def test_a_platform_that_does_not_answer_is_cut_off(scnet, connect_keys):
    connect_keys(timeout=0.3)
    scnet.order(Fault(delay=30), path=TOKENS_PATH)
    look = look_once()
    assert look.error.kind is ErrorKind.TRANSIENT
    assert "within 0.3 s" in str(look.error)


def test_each_connection_is_named_in_what_another_one_with_the_same_keys_was_told(scnet, keys, monkeypatch):
    monkeypatch.setattr(issued_tokens, "PAUSE_AFTER_FAILURE", 60.0)
    monkeypatch.setenv("AIRFLOW_CONN_TWIN", os.environ["AIRFLOW_CONN_SCNET_DEFAULT"])
    scnet.order(Fault.api("10001", "later"), path=TOKENS_PATH)
    errors = [
        PolledConnection(conn_id).observe().error for conn_id in ("scnet_default", "twin", "twin", "scnet_default")
    ]
    assert [str(error).split("'")[1] for error in errors] == ["scnet_default", "twin", "twin", "scnet_default"]
    assert len({str(error).split("'", 2)[2] for error in errors}) == 1
    assert paths(scnet) == ["tokens"]
    assert {(error.__traceback__, error.__context__) for error in errors} == {(None, None)}


def test_gates_that_arrive_while_the_platform_is_away_do_not_ask_it_again(scnet, keys, monkeypatch):
    monkeypatch.setattr(issued_tokens, "PAUSE_AFTER_FAILURE", 60.0)
    scnet.order(Fault(status=503, body=""), times=None, path=TOKENS_PATH)
    with ThreadPoolExecutor(20) as pool:
        errors = list(pool.map(lambda _: look_once().error, range(20)))
    assert {error.kind for error in errors} == {ErrorKind.TRANSIENT}
    assert paths(scnet) == ["tokens"]


def test_the_platforms_retry_after_is_heeded(scnet, keys):
    scnet.order(Fault(status=429, headers={"Retry-After": "120"}), path=TOKENS_PATH)
    for _ in range(3):
        assert look_once().pause == 120.0
    assert paths(scnet) == ["tokens"]


# Malformed answers, in the ways of test_answers

MALFORMED: dict[str, Fault] = {
    "empty body": Fault(body=b""),
    "HTML": Fault.html(200, "<html>log in</html>"),
    "no object": Fault(body=[1]),
    "no code": Fault(body={"msg": "success", "data": []}),
    "an unlisted code": Fault.api("123456", "?"),
    "400 of Spring": Fault(status=400, body={"status": 400, "error": "Bad Request"}),
    "404": Fault.api("404", "Not Found", status=404),
    "203": Fault(status=203),
    "204": Fault(status=204, body=b""),
    "data null": Fault.api("0", "success", None),
    "data text": Fault.api("0", "success", "token is valid"),
    "data a number": Fault.api("0", "success", 1),
    "5 MiB": Fault(body=b" " * (5 * 2**20)),
    "a gzip bomb": Fault.gzip_bomb(100 * 2**20),
    "deep nesting": Fault(body=b"[" * 50_000 + b"]" * 50_000),
    "invalid UTF-8": Fault(body=b'{"code":"0","msg":"\xff","data":[]}'),
    "trailing junk": Fault(body='{"code":"0","data":[]}junk'),
    "a key given twice": Fault(body='{"code":"0","data":[],"data":[]}'),
}


def tokens(*entries: Any) -> Fault:
    return Fault.api("0", "success", list(entries))


def region(**data: Any) -> Fault:
    return Fault.api("0", "success", data)


MALFORMED_TOKENS = MALFORMED | {
    "an object": region(token="t"),
    "an empty list": tokens(),
    "an entry that is none": tokens("t"),
    "no clusterId": tokens({"clusterName": "x", "token": "t"}),
    "clusterId null": tokens(entry(None, "t")),
    "clusterId true": tokens(entry(True, "t")),
    "no token at all": tokens({"clusterName": "x", "clusterId": "11112"}),
    "an empty token": tokens(entry("11112", "")),
    "a token with a line break": tokens(entry("11112", "a\r\nb")),
    "a token beyond ASCII": tokens(entry("11112", "令牌")),
    "a token that is none": tokens(entry("11112", 5)),
    "a region twice": tokens(entry("11112", "t"), entry("11112", "u")),
}

URL = {"url": "http://127.0.0.1:9", "enable": "true"}
MALFORMED_REGION = MALFORMED | {
    "a list": tokens(),
    "urls no list": region(hpcUrls={}),
    "urls text": region(hpcUrls="https://a.example"),
    "an entry that is none": region(hpcUrls=["https://a.example"]),
    "no url": region(hpcUrls=[{"enable": "true"}]),
    "a url that is none": region(hpcUrls=[{"url": "https://a b", "enable": "true"}]),
    "a url with a user": region(hpcUrls=[{"url": "https://u:p@a.example", "enable": "true"}]),
    "a user that is none": region(hpcUrls=[URL], clusterUserInfo="alice"),
    "a name that is none": region(hpcUrls=[URL], clusterUserInfo={"userName": 5}),
    "an empty name": region(hpcUrls=[URL], clusterUserInfo={"userName": " "}),
    "a name with a line break": region(hpcUrls=[URL], clusterUserInfo={"userName": "a\nb"}),
}
CASES = [
    pytest.param(path, fault, id=f"{path}: {name}")
    for path, faults in ((TOKENS_PATH, MALFORMED_TOKENS), (REGION_PATH, MALFORMED_REGION))
    for name, fault in faults.items()
]


@pytest.mark.parametrize(("path", "fault"), CASES)
def test_a_malformed_answer_of_the_platform_fails_the_first_look(scnet, keys, run, path, fault):
    scnet.order(fault, times=None, path=path)
    with pytest.raises(AirflowException) as caught:
        run(gate())
    assert not isinstance(caught.value, AirflowFailException)
    assert "scnet_default" in str(caught.value)
    assert paths(scnet) == (["tokens"] if path == TOKENS_PATH else ["tokens", "region"])


@pytest.mark.parametrize("name", ["HTML", "data null", "an empty list"])
def test_a_malformed_answer_of_the_platform_is_waited_out_after_a_good_one(scnet, keys, run, name):
    scnet.order(Fault.api("0", "success", [{"name": "排队", "y": 9}]))
    scnet.order(Fault.api("10008", "auth_fail"))
    scnet.order(Fault(), path=TOKENS_PATH)
    scnet.order(MALFORMED_TOKENS[name], times=2, path=TOKENS_PATH)
    assert run(gate())["counts"]["queued"] == 0
    assert paths(scnet).count("tokens") == 4


@pytest.mark.parametrize("path", [TOKENS_PATH, REGION_PATH])
@pytest.mark.parametrize("code", ["10003", "10004", "10007", "10009", "911009"])
def test_the_platforms_permanent_codes_fail_for_good(scnet, keys, run, path, code):
    scnet.order(Fault.api(code, "no"), path=path)
    with pytest.raises(AirflowFailException, match=code):
        run(gate())


@pytest.mark.parametrize("path", [TOKENS_PATH, REGION_PATH])
def test_a_redirect_of_the_platform_is_not_followed(scnet, keys, run, path):
    with ScnetSimulator() as elsewhere:
        scnet.order(Fault.redirect(elsewhere.url + path), path=path)
        with pytest.raises(AirflowFailException, match="redirect"):
            run(gate())
        assert elsewhere.requests == []


@pytest.mark.parametrize(
    "fault", [Fault(status=401, body=""), Fault.api("10008", "auth_fail")], ids=["401", "10008"]
)
def test_keys_that_the_platform_does_not_accept_fail_the_try(scnet, keys, run, fault):
    scnet.order(fault, times=None, path=TOKENS_PATH)
    with pytest.raises(AirflowException, match="check the extras access_key") as caught:
        run(gate())
    assert not isinstance(caught.value, AirflowFailException)
    assert paths(scnet) == ["tokens"]


def test_what_the_platform_echoes_is_in_no_message(scnet, keys, run, said, capfd):
    extra = scnet.key_connection()["extra"]
    scnet.order(Fault.api("10001", f"bad {extra['secret_key']} {extra['access_key']}"), path=TOKENS_PATH)
    token = make_token("alice")
    scnet.order(tokens(entry("99", token, name=f"region {token}")), path=TOKENS_PATH)
    with pytest.raises(AirflowFailException) as caught:
        run(gate())
    assert "bad *** ***" in said.text
    for secret in (extra["secret_key"], extra["access_key"], token):
        assert secret not in str(caught.value)
        assert secret not in said.text
        assert secret not in "".join(capfd.readouterr())


# Keeping and renewing


def test_a_token_is_kept_and_the_region_with_it(scnet, keys):
    for _ in range(3):
        ScnetHook().get_job_counts()
    assert paths(scnet) == ["tokens", "region", "jobs", "jobs", "jobs"]


def test_two_connections_with_the_same_keys_share_a_token(scnet, keys, monkeypatch):
    monkeypatch.setenv("AIRFLOW_CONN_OTHER", json.dumps({**scnet.key_connection(), "host": scnet.url}))
    ScnetHook().get_job_counts()
    ScnetHook("other").get_job_counts()
    assert paths(scnet) == ["tokens", "region", "jobs", "jobs"]


@pytest.mark.parametrize(
    ("lifetime", "kept"),
    [(3600, 3540), (601, 541), (600, 540), (300, 270), (10, 9), (0, 900), (-9, 900), (None, 900)],
    ids=str,
)
def test_a_token_is_kept_until_shortly_before_its_end(monkeypatch, lifetime, kept):
    monkeypatch.setattr(time, "monotonic", lambda: 1000.0)
    now = datetime.now(timezone.utc)
    token = make_token("alice", expire_time=None if lifetime is None else now.timestamp() + lifetime)
    granted = issued_tokens._Grant.of(RegionToken("1", "x", token), now)
    assert granted.until == pytest.approx(1000 + kept, abs=0.01)
    assert (granted.payload.expires_at is None) == (kept == 900)


@pytest.mark.parametrize("zone", ["Asia/Shanghai", "UTC", "America/New_York"])
@pytest.mark.parametrize(
    ("expire_time", "said_of_it"),
    [
        ("0", "token which does not say when it ends"),
        ("1000", "token which does not say when it ends"),
        ("253402300799999", r"token valid until 9999-12-31"),
        ("-62135596800000", "token which does not say when it ends"),
    ],
)
def test_an_end_that_means_nothing_costs_no_request(
    scnet, connect_keys, monkeypatch, expire_time, said_of_it, zone
):
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        scnet.add_user("odd", expire_time=expire_time)
        connect_keys("odd")
        ok, message = ScnetHook().test_connection()
        assert ok, message
        assert re.search(said_of_it, message)
        for _ in range(3):
            assert look_once().counts
        assert len(scnet.token_requests) == 1
        monkeypatch.setenv("AIRFLOW_CONN_SCNET_DEFAULT", scnet.connection_json("odd"))
        assert ScnetHook().test_connection()[0] == (expire_time != "1000")
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_token_is_renewed_once_its_time_is_nearly_over(scnet, keys, monkeypatch):
    ScnetHook().get_job_counts()
    now = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: now() + 24 * 3600 - 59)
    ScnetHook().get_job_counts()
    assert paths(scnet) == ["tokens", "region", "jobs"] * 2


def test_the_end_of_a_token_is_taken_by_scnets_clock(scnet, connect_keys):
    scnet.add_user("brief", lifetime=240)
    scnet.clock_ahead = -250
    connect_keys("brief")
    ScnetHook().get_job_counts()
    ScnetHook().get_job_counts()
    assert len(scnet.token_requests) == 1


def test_a_token_that_is_refused_is_replaced_within_the_same_look(scnet, keys, run):
    assert run(gate())
    scnet.reject_token("alice")
    before = len(scnet.requests)
    assert run(gate())["counts"]["queued"] == 0
    assert paths(scnet)[before:] == ["jobs", "tokens", "jobs"]
    assert run(gate())
    # The region is described anew for each token, in case it has moved.
    assert paths(scnet)[before + 3 :] == ["region", "jobs"]


def test_a_fresh_token_that_is_refused_too_fails_the_try(scnet, keys, run):
    scnet.order(Fault.api("10008", "auth_fail"), times=None)
    with pytest.raises(AirflowException, match=r"had just been issued.*cluster_id 11112") as caught:
        run(gate())
    assert not isinstance(caught.value, AirflowFailException)
    assert "paste" not in str(caught.value)
    assert paths(scnet).count("jobs") == 2
    assert paths(scnet).count("tokens") == 2


DOWN = Fault(status=503, body="")


@pytest.fixture(params=["sync", "async", "one gate after another"])
def look(request: pytest.FixtureRequest):
    """Look, as who pokes does, as who waits on an event loop does, and as gates of a triggerer do."""

    async def apoll() -> Observation:
        connection = PolledConnection("scnet_default")
        try:
            settings = await connection.awith_token(await connection.aread_settings())
        except ScnetError as error:
            return Observation(error=error)
        return await connection.apoll(settings)

    async def share() -> Observation:
        try:
            return await Accounts(PolledConnection, RunningAirflow()).observe("scnet_default", None, 0.0)
        except ScnetError as error:
            return Observation(error=error)

    ways = {
        "sync": look_once,
        "async": lambda: asyncio.run(apoll()),
        "one gate after another": lambda: asyncio.run(share()),
    }
    return ways[request.param]


def sent(scnet: ScnetSimulator) -> list[str]:
    """Return the tokens that the region was asked with."""
    return [request.headers["token"] for request in scnet.job_state_requests]


def test_a_refused_token_is_not_sent_again_while_the_platform_is_away(scnet, keys, look):
    assert look().counts
    scnet.reject_token("alice")
    scnet.order(DOWN, times=None, path=TOKENS_PATH)
    errors = [look().error for _ in range(30)]
    assert {error.kind for error in errors} == {ErrorKind.TRANSIENT}
    assert all("HTTP 503" in str(error) for error in errors)
    assert paths(scnet).count("jobs") == 2
    scnet.clear_faults()
    assert look().counts
    assert paths(scnet).count("jobs") == 3
    assert sent(scnet)[2] not in sent(scnet)[:2]


def test_a_gate_whose_token_is_refused_waits_for_a_platform_that_is_away(scnet, keys, run):
    scnet.order(Fault.api("0", "success", [{"name": "排队", "y": 9}]))
    scnet.order(Fault.api("10008", "auth_fail"))
    scnet.order(Fault(), path=TOKENS_PATH)
    scnet.order(DOWN, times=5, path=TOKENS_PATH)
    assert run(gate())["counts"]["queued"] == 0
    assert paths(scnet).count("tokens") == 7
    assert paths(scnet).count("jobs") == 3


def test_a_fresh_token_that_was_refused_too_is_not_sent_again(scnet, keys, look):
    scnet.order(Fault.api("10008", "auth_fail"), times=None)
    assert look().error.kind is ErrorKind.CREDENTIALS
    scnet.order(DOWN, times=None, path=TOKENS_PATH)
    for _ in range(5):
        assert look().error.kind is ErrorKind.TRANSIENT
    scnet.clear_faults()
    assert look().counts
    assert len(sent(scnet)) == len(set(sent(scnet))) == 3


def test_gates_that_arrive_after_a_fresh_token_was_refused_too_ask_nobody(scnet, keys):
    scnet.order(Fault.api("10008", "auth_fail"), times=None)

    async def scenario() -> None:
        accounts = Accounts(PolledConnection, RunningAirflow())
        errors = [(await accounts.observe("scnet_default", None, 60.0)).error for _ in range(20)]
        assert {error.kind for error in errors} == {ErrorKind.CREDENTIALS}

    asyncio.run(scenario())
    # The next look will need another token; whose account it is has to be learnt once for that.
    assert paths(scnet) == ["tokens", "region", "jobs", "tokens", "jobs", "tokens", "region"]


def test_a_refused_token_that_the_platform_issues_again_is_tried_again_once_a_look(scnet, keys, look):
    token = scnet.token("alice")
    scnet.order(Fault.api("0", "success", [entry("11112", token)]), times=None, path=TOKENS_PATH)
    scnet.order(region(hpcUrls=[{"url": scnet.url, "enable": "true"}]), times=None, path=REGION_PATH)
    scnet.order(Fault.api("10008", "auth_fail"), times=4)
    for _ in range(2):
        assert look().error.kind is ErrorKind.CREDENTIALS
    assert (paths(scnet).count("tokens"), paths(scnet).count("jobs")) == (4, 4)
    assert look().counts
    assert set(sent(scnet)) == {token}


def ask_the_session() -> str:
    with ScnetHook().get_conn() as session:
        return session.get(JOB_STATE_PATH, params={"userName": "alice"}).json()["code"]


@pytest.mark.parametrize(
    "refusal", [Fault.api("10008", "auth_fail"), Fault(status=401, body=""), Fault.api("911406", "?")], ids=str
)
def test_what_a_session_learns_of_a_token_everybody_learns(scnet, keys, refusal):
    assert ask_the_session() == "0"
    token = scnet.token("alice")
    scnet.order(refusal)
    with ScnetHook().get_conn() as session:
        session.get(JOB_STATE_PATH)
        # Whoever holds it may go on; nobody else is given it.
        assert session.headers["token"] == token
    with ScnetHook().get_conn() as session:
        assert session.headers["token"] != token
    assert len(scnet.token_requests) == 2


@pytest.mark.parametrize(
    "answer",
    [Fault.api("10001", "?"), Fault(status=404, body="{}"), Fault(body=b"\0" * 2 * 2**20), Fault(body='{"code":')],
    ids=["10001", "404", "a file", "no JSON"],
)
def test_other_answers_to_a_session_cost_no_token(scnet, keys, answer):
    scnet.order(answer)
    for _ in range(2):
        with ScnetHook().get_conn() as session:
            session.get(JOB_STATE_PATH)
    assert len(scnet.token_requests) == 1


def test_a_session_that_streams_is_not_read_ahead(scnet, keys):
    with ScnetHook().get_conn() as session, session.get(JOB_STATE_PATH, stream=True) as answer:
        assert not answer._content_consumed


def test_the_jobs_limit_is_asked_once_more_where_the_token_is_refused(scnet, keys):
    scnet.set_most_jobs("alice", 7)
    assert ScnetHook().get_job_limit() == 7
    scnet.reject_token("alice")
    assert ScnetHook().get_job_limit() == 7
    assert len(scnet.token_requests) == 2
    scnet.order(Fault.api("10008", "auth_fail"), times=None, path="/hpc/openapi/v2/cluster")
    with pytest.raises(ScnetError, match="10008"):
        ScnetHook().get_job_limit()
    assert len(scnet.token_requests) == 3


def test_one_request_obtains_the_tokens_of_all_regions(scnet, connect_keys, monkeypatch):
    scnet.add_region("22", "East")
    scnet.add_region("33", "West", in_arrears=True)
    connect_keys()
    for cluster_id in ("11112", "22"):
        monkeypatch.setenv("AIRFLOW_CONN_SCNET_DEFAULT", scnet.key_connection_json(cluster_id=cluster_id))
        assert look_once().counts
    assert paths(scnet) == ["tokens", "region", "jobs", "region", "jobs"]
    monkeypatch.setenv("AIRFLOW_CONN_SCNET_DEFAULT", scnet.key_connection_json(cluster_id="33"))
    assert "in arrears" in str(look_once().error)
    # What is said of one region says nothing of another.
    monkeypatch.setattr(issued_tokens, "PAUSE_AFTER_FAILURE", 60.0)
    assert "in arrears" in str(look_once().error)
    monkeypatch.setenv("AIRFLOW_CONN_SCNET_DEFAULT", scnet.key_connection_json())
    assert look_once().counts


def test_regions_whose_tokens_end_each_other_are_served_by_one_request(monkeypatch):
    with ScnetSimulator(ends_earlier_tokens=True) as scnet:
        scnet.add_user("alice")
        scnet.add_access_keys()
        scnet.add_region("22", "East")
        for cluster_id in ("11112", "22") * 3:
            monkeypatch.setenv("AIRFLOW_CONN_SCNET_DEFAULT", scnet.key_connection_json(cluster_id=cluster_id))
            assert look_once().counts
        assert len(scnet.token_requests) == 1
        # Another process obtains one, which ends ours: one more is obtained, for both.
        monkeypatch.setattr(issued_tokens, "_regions", {})
        assert look_once().counts
        assert len(scnet.token_requests) == 2


def test_a_token_that_is_refused_for_one_user_does_not_stop_another(scnet, keys):
    scnet.order(Fault.api("10008", "权限不足"), times=2)
    assert PolledConnection("scnet_default").observe("bob").error.kind is ErrorKind.CREDENTIALS
    assert PolledConnection("scnet_default").observe("alice").counts


FORK = """
import os, sys, threading
from airflow_provider_scnet.client import issued_tokens
from airflow_provider_scnet.client.access_keys import AccessKeys
from airflow_provider_scnet.client.connection_settings import ConnectionSettings

url, access_key, secret_key = sys.argv[1:]
keys = AccessKeys("alice", access_key, secret_key, "11112", url, url)
settings = ConnectionSettings("x", "", "", "", keys=keys, timeout=120.0)
threading.Thread(target=issued_tokens.with_token, args=(settings,), daemon=True).start()
sys.stdin.readline()  # until the request has arrived
if child := os.fork():
    os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
issued_tokens.with_token(settings)
os._exit(0)
"""


def test_a_process_that_is_forked_in_the_middle_of_a_renewal_obtains_its_own(scnet, keys):
    scnet.order(Fault(delay=300), path=TOKENS_PATH)
    pair = scnet.key_connection()["extra"]
    command = [sys.executable, "-W", "ignore", "-c", FORK, scnet.url, pair["access_key"], pair["secret_key"]]
    with subprocess.Popen(command, stdin=subprocess.PIPE, text=True) as process:
        scnet.wait_for_requests(1)
        process.communicate("\n", timeout=60)
    assert process.returncode == 0
    assert paths(scnet) == ["tokens", "tokens", "region"]


def test_the_portal_is_not_asked_again_with_a_token_that_it_refused(scnet, connect_keys, look, monkeypatch):
    connect_keys(fields={"host": scnet.url, "login": "alice"})
    assert look().counts
    scnet.order(Fault.api("10008", "auth_fail"), times=None, path=REGION_PATH)
    scnet.order(DOWN, times=None, path=TOKENS_PATH)
    monkeypatch.setenv("AIRFLOW_CONN_SCNET_DEFAULT", scnet.key_connection_json())
    for _ in range(5):
        assert look().error.kind is ErrorKind.TRANSIENT
    assert paths(scnet).count("region") == 1
    scnet.clear_faults()
    assert look().counts


def test_nor_with_a_fresh_one_that_it_refused_too(scnet, keys, look):
    scnet.order(Fault.api("10008", "auth_fail"), times=3, path=REGION_PATH)
    for _ in range(3):
        assert look().error.kind is ErrorKind.CREDENTIALS
    assert look().counts
    described = [request.headers["token"] for request in scnet.region_requests]
    assert len(described) == len(set(described)) == 4


def test_a_token_that_the_portal_refuses_is_replaced_once(scnet, connect_keys, monkeypatch):
    connect_keys(fields={"host": scnet.url, "login": "alice"})
    ScnetHook().get_job_counts()
    scnet.reject_token("alice")
    monkeypatch.setenv("AIRFLOW_CONN_SCNET_DEFAULT", scnet.key_connection_json())
    ScnetHook().get_job_counts()
    assert paths(scnet) == ["tokens", "jobs", "region", "tokens", "region", "jobs"]


def test_two_hundred_gates_whose_token_ends_between_two_looks_renew_it_once(scnet, keys):
    scnet.set_counts("alice", queued=9)

    def trigger() -> ScnetJobCountTrigger:
        return ScnetJobCountTrigger(condition="queued < 5", poke_interval=INTERVAL, submits=0)

    async def scenario() -> None:
        gates = [asyncio.ensure_future(first_event(trigger())) for _ in range(200)]
        await asyncio.to_thread(scnet.wait_for_requests, 5)
        scnet.reject_token("alice")
        await asyncio.to_thread(scnet.wait_for_requests, len(scnet.requests) + 6)
        assert len(scnet.token_requests) == 2
        assert not any(each.done() for each in gates)
        scnet.set_counts("alice", queued=0)
        events = await asyncio.gather(*gates)
        assert {event.payload["verdict"] for event in events} == {"open"}
        assert len(scnet.token_requests) == 2
        # Observations belong to the account that the region named.
        assert [account for _, *account in shared_accounts.accounts()._last] == [[scnet.url, "alice"]]

    asyncio.run(scenario())


def test_fifty_threads_that_meet_the_end_of_a_token_renew_it_once(scnet, keys):
    ScnetHook().get_job_counts()
    scnet.reject_token("alice")
    scnet.order(Fault(delay=0.2), path=TOKENS_PATH)
    with ThreadPoolExecutor(50) as pool:
        counts = list(pool.map(lambda _: ScnetHook().get_job_counts(), range(50)))
    assert len(counts) == 50
    assert len(scnet.token_requests) == 2


def test_a_short_lived_token_is_renewed_before_it_ends(scnet, connect_keys):
    scnet.add_user("brief", lifetime=3)
    connect_keys("brief")
    scnet.set_counts("brief", queued=9)

    async def scenario() -> None:
        waiting = asyncio.ensure_future(
            first_event(ScnetJobCountTrigger(condition="queued < 5", poke_interval=0.1))
        )
        while len(scnet.token_requests) < 3:
            await asyncio.sleep(0.05)
            assert not waiting.done()
        scnet.set_counts("brief", queued=0)
        assert (await waiting).payload["verdict"] == "open"

    asyncio.run(scenario())
    held = {request.headers["token"] for request in scnet.job_state_requests}
    assert len(held) == 3


def test_gates_that_name_the_user_in_different_ways_share_a_look_and_the_claims(scnet, keys):
    scnet.set_counts("alice", queued=3)

    async def scenario() -> None:
        gates = [
            asyncio.ensure_future(
                first_event(ScnetJobCountTrigger(condition="queued < 5", user_name=user, poke_interval=60))
            )
            for user in (None, "alice", None)
        ]
        waiting = set(gates)
        while len(waiting) > 1:
            _, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        # The last one has seen the same look by now, and finds its room claimed.
        await asyncio.sleep(0.1)
        assert sum(each.done() for each in gates) == 2
        assert paths(scnet) == ["tokens", "region", "jobs"]
        for each in gates:
            each.cancel()
        await asyncio.gather(*gates, return_exceptions=True)

    asyncio.run(scenario())


def test_a_renewal_that_hangs_holds_up_nobody_for_long(scnet, connect_keys, monkeypatch):
    connect_keys(timeout=0.1)
    hung, released = threading.Event(), threading.Event()

    def hang(*args: object, **options: object) -> None:
        hung.set()
        released.wait(30)

        raise ScnetConnectionError("at last")

    monkeypatch.setattr(issued_tokens.transport, "send", hang)
    thread = threading.Thread(target=look_once)
    thread.start()
    hung.wait(10)
    error = look_once().error
    assert error.kind is ErrorKind.TRANSIENT
    assert "no answer yet" in str(error)
    released.set()
    thread.join()


def test_the_event_loop_goes_on_while_a_token_is_obtained(scnet, keys):
    scnet.order(Fault(delay=0.5), path=TOKENS_PATH)

    async def scenario() -> int:
        beats = 0
        asking = asyncio.ensure_future(ScnetHook().aget_job_counts())
        while not asking.done():
            await asyncio.sleep(0.01)
            beats += 1
        await asking
        return beats

    assert asyncio.run(scenario()) > 20


# What is masked


@pytest.mark.parametrize("way", ["sync", "async"])
def test_keys_are_masked_never_in_a_thread(scnet, keys, monkeypatch, way):
    masked: set[str] = set()
    threads: set[int] = set()

    def note(secrets: Any) -> None:
        masked.update(secrets)
        threads.add(threading.get_ident())

    async def anote(secrets: Any) -> None:
        note(secrets)

    monkeypatch.setattr(polled_connection, "mask", note)
    monkeypatch.setattr(polled_connection, "amask", anote)
    scnet.reject_token("alice")
    look = ScnetHook().get_job_counts if way == "sync" else lambda: asyncio.run(ScnetHook().aget_job_counts())
    look()
    scnet.reject_token("alice")
    look()
    extra = scnet.key_connection()["extra"]
    assert masked == {extra["access_key"], extra["secret_key"]}
    assert threads == {threading.get_ident()}


@pytest.mark.parametrize("way", ["sync", "async"])
def test_what_airflow_masks_does_not_grow_with_the_tokens_that_are_issued(scnet, keys, masker, way):
    look = ScnetHook().get_job_counts if way == "sync" else lambda: asyncio.run(ScnetHook().aget_job_counts())
    look()
    known = set(masker.patterns)
    for _ in range(20):
        scnet.reject_token("alice")
        look()
    assert len(scnet.token_requests) == 21
    assert masker.patterns == known
    extra = scnet.key_connection()["extra"]
    assert {re.escape(extra["access_key"]), re.escape(extra["secret_key"])} <= known


@pytest.mark.parametrize("way", ["sync", "async"])
def test_a_pasted_token_is_masked_and_compiled_once(scnet, masker, monkeypatch, way):
    look = ScnetHook().get_job_counts if way == "sync" else lambda: asyncio.run(ScnetHook().aget_job_counts())
    look()
    compiled = masker.replacer
    for _ in range(5):
        look()
    assert masker.replacer is compiled
    fresh = scnet.renew_token("alice")
    monkeypatch.setenv("AIRFLOW_CONN_SCNET_DEFAULT", scnet.connection_json("alice"))
    look()
    assert re.escape(fresh) in masker.patterns


def test_the_token_of_a_session_is_masked_because_others_hold_it(scnet, keys, masker):
    with ScnetHook().get_conn():
        assert re.escape(scnet.token("alice")) in masker.patterns


def test_airflow_really_masks_what_it_is_told(scnet, keys, masker):
    from airflow_provider_scnet.hooks.masking import amask, mask

    with mock.patch.object(masker, "add_mask") as add:
        mask(["a-secret"])
        asyncio.run(amask(["another"]))
    assert [call.args[0] for call in add.call_args_list if isinstance(call.args[0], list)] == [
        ["a-secret"],
        ["another"],
    ]


class Channel:
    """Takes what a triggerer's supervisor is told, as 3.0 and 3.1 do: what is not awaited is refused on the loop."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.at_work: asyncio.AbstractEventLoop | None = None

    def send(self, message: Any) -> None:
        async_to_sync(self.asend)(message)

    async def asend(self, message: Any) -> None:
        # Its lock belongs to the triggerer's loop.
        assert asyncio.get_running_loop() is self.at_work
        self.told.append(message.value)


@pytest.mark.skipif(IS_2, reason="Airflow 2's triggers have no supervisor")
def test_a_triggerers_supervisor_which_writes_the_logs_masks_too():
    from airflow_provider_scnet.hooks.masking import amask

    channel = Channel()

    async def scenario() -> None:
        channel.at_work = asyncio.get_running_loop()
        await amask(["a-secret", "another"])

    with mock.patch("airflow.sdk.execution_time.task_runner.SUPERVISOR_COMMS", channel, create=True):
        asyncio.run(scenario())
    assert channel.told == [["a-secret", "another"]]


# Pasted tokens that end


def paste(scnet: ScnetSimulator, monkeypatch: pytest.MonkeyPatch, ends_in: float | None) -> str:
    token = make_token("alice", expire_time=None if ends_in is None else time.time() + ends_in)
    monkeypatch.setenv("AIRFLOW_CONN_SCNET_DEFAULT", json.dumps({**scnet.connection(), "password": token}))
    return token


@pytest.mark.parametrize(("zone", "shown"), [("Asia/Shanghai", r"\+0800"), ("UTC", r"\+0000")])
def test_a_pasted_token_that_has_ended_fails_the_try_before_any_request(scnet, run, monkeypatch, zone, shown):
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        token = paste(scnet, monkeypatch, -3600)
        moment = time.strftime("%Y-%m-%d %H:%M", time.localtime(time.time() - 3600))[:-1]
        match = rf"connection 'scnet_default': the token ended {moment}\d:\d\d {shown}; paste a fresh token"
        with pytest.raises(AirflowException, match=match) as caught:
            run(gate())
    finally:
        monkeypatch.undo()
        time.tzset()
    assert not isinstance(caught.value, AirflowFailException)
    assert token not in str(caught.value)
    assert scnet.requests == []


def test_a_token_that_ends_before_the_gates_timeout_is_said_once(scnet, run, monkeypatch, said):
    paste(scnet, monkeypatch, 600)
    nine = Fault.api("0", "success", [{"name": "排队", "y": 9}])
    scnet.order(nine, times=4)
    scnet.order(Fault.api("0", "success", [{"name": "排队", "y": 0}]))
    run(gate(timeout=3600))
    notes = [message for message in said.messages if "the token ends 2" in message]
    assert len(notes) == 1
    assert "before this gate's timeout: paste a fresh one" in notes[0]


@pytest.mark.parametrize(("ends_in", "queued"), [(7200, 9), (None, 9), (600, 0)])
def test_nothing_is_said_of_a_token_that_lasts_or_of_a_gate_that_passes(
    scnet, run, monkeypatch, said, ends_in, queued
):
    paste(scnet, monkeypatch, ends_in)
    scnet.order(Fault.api("0", "success", [{"name": "排队", "y": queued}]))
    scnet.order(Fault.api("0", "success", [{"name": "排队", "y": 0}]))
    run(gate(timeout=3600))
    assert "the token ends" not in said.text


def test_nothing_is_said_of_a_token_that_renews_itself(scnet, connect_keys, run, said):
    scnet.add_user("brief", lifetime=60)
    scnet.set_counts("brief", queued=9)
    connect_keys("brief")
    scnet.order(Fault(), times=2)
    with pytest.raises(AirflowException):
        run(gate(timeout=0.5))
    assert "the token ends" not in said.text


# The connection's test


def test_the_connection_test_says_which_way_was_used(scnet, connect_keys, monkeypatch):
    scnet.set_counts("alice", running=3, queued=5)
    moment = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{4}"
    ok, message = ScnetHook().test_connection()
    assert ok
    assert re.fullmatch(
        rf"user alice: 3 running, 5 queued; token of the connection, valid until {moment}", message
    )
    connect_keys()
    ok, message = ScnetHook().test_connection()
    assert ok
    assert re.fullmatch(
        r"user alice: 3 running, 5 queued; "
        rf"access keys, region '模拟一区' \(11112\) at {scnet.url}, token valid until {moment}",
        message,
    )
    connect_keys(secret_key="not-the-secret")
    ok, message = ScnetHook().test_connection()
    assert not ok
    assert "签名校验失败" in message


@pytest.fixture
def granted(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that each request of this test was given, on a clock that each one holds up for 4 s."""
    seconds: list[float] = []
    answered: list[object] = []
    at_most, answer, now = ConnectionSettings.at_most, hook_module.transport._answer, time.monotonic

    def note(settings: ConnectionSettings, most: float) -> float:
        given = at_most(settings, most)
        if most == settings.timeout:
            seconds.append(given)
        return given

    def hold_up(*asked: Any) -> Any:
        answered.append(found := answer(*asked))
        return found

    monkeypatch.setattr(ConnectionSettings, "at_most", note)
    monkeypatch.setattr(hook_module.transport, "_answer", hold_up)
    monkeypatch.setattr(time, "monotonic", lambda: now() + 4.0 * len(answered))
    return seconds


def test_all_requests_of_the_connection_test_share_its_ten_seconds(scnet, connect_keys, granted):
    connect_keys(timeout=120.0)
    scnet.order(Fault.api("10008", "auth_fail"))
    ok, message = ScnetHook().test_connection()
    assert not ok
    assert message.endswith("there was no time left to ask; a test has 10 s in all")
    assert paths(scnet) == ["tokens", "region", "jobs"]
    assert granted.pop() == 0
    for number, seconds in enumerate(granted):
        assert 0 < seconds <= 10 - 4 * number
    assert "access keys of platform user 'alice'" in message


def test_a_request_of_the_connection_test_has_the_connections_time_at_most(scnet, connect_keys, granted):
    connect_keys(timeout=3)
    ok, _ = ScnetHook().test_connection()
    assert ok
    assert granted[:2] == [3.0, 3.0]
    assert granted[2] < 2


@pytest.mark.parametrize("path", [TOKENS_PATH, REGION_PATH, JOB_STATE_PATH])
def test_a_connection_test_that_meets_silence_says_so_and_spoils_nothing(scnet, keys, monkeypatch, path):
    # The first connection that a process reads has Airflow import much, which would be in the budget.
    PolledConnection("scnet_default").read_settings()
    monkeypatch.setattr(hook_module, "_TEST_TIMEOUT", 5.0)
    monkeypatch.setattr(issued_tokens, "PAUSE_AFTER_FAILURE", 60.0)
    scnet.order(Fault(delay=60), path=path)
    ok, message = ScnetHook().test_connection()
    assert not ok
    assert re.search(r"connection 'scnet_default'.*no whole answer within [0-4]\.?\d* s", message)
    assert message.endswith("; a test has 5 s in all")
    assert scnet.requests[-1].path == path
    # A gate of the same process, with more time, is not told what only a test had no time for.
    assert look_once().counts


def test_a_connection_test_that_waits_for_the_renewal_of_another_ends_in_time(scnet, connect_keys, monkeypatch):
    connect_keys(timeout=120.0)
    settings = PolledConnection("scnet_default").read_settings()
    monkeypatch.setattr(hook_module, "_TEST_TIMEOUT", 2.0)
    account = dataclasses.replace(settings.keys, cluster_id="")
    with issued_tokens._locks.setdefault(account, threading.Lock()):
        ok, message = ScnetHook().test_connection()
    assert not ok
    assert "no answer yet to an earlier request" in message
    assert message.endswith("; a test has 2 s in all")
    assert scnet.requests == []


def test_a_name_server_that_holds_a_thread_does_not_hold_the_connection_test(scnet, keys, monkeypatch):
    PolledConnection("scnet_default").read_settings()
    monkeypatch.setattr(hook_module, "_TEST_TIMEOUT", 2.0)
    released, held = threading.Event(), []

    def resolve(*args: object, **kwargs: object) -> None:
        held.append(threading.current_thread())
        released.wait(60)
        raise socket.gaierror(socket.EAI_AGAIN, "no")

    with monkeypatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", resolve)
        ok, message = ScnetHook().test_connection()
        assert held[0].is_alive()
        assert held[0].daemon
        released.set()
        held[0].join()
    assert not ok
    assert "no whole answer within" in message
    assert message.endswith("; a test has 2 s in all")


def test_a_session_with_access_keys_carries_the_token_only(scnet, keys):
    with ScnetHook().get_conn() as session:
        assert session.headers["token"] == scnet.token("alice")
        assert "accessKey" not in session.headers


def test_the_errors_are_the_documented_ones(scnet, connect_keys):
    connect_keys(secret_key="not-the-secret")
    with pytest.raises(ScnetApiError) as caught:
        ScnetHook().get_job_counts()
    assert (caught.value.code, caught.value.kind) == ("10009", ErrorKind.PERMANENT)
    connect_keys(cluster_id="99")
    with pytest.raises(ScnetConfigError):
        ScnetHook().get_job_counts()

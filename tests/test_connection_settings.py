# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_scnet.client.connection_settings import ConnectionSettings
from airflow_provider_scnet.client.errors import ErrorKind, ScnetConfigError
from airflow_provider_scnet.client.token_payload import TokenPayload
from airflow_provider_scnet.testing import make_token


def fields(**given: object) -> SimpleNamespace:
    ordinary = {
        "host": "host.example",
        "login": "alice",
        "password": "token-1",
        "schema": "",
        "port": None,
        "extra": "",
    }
    return SimpleNamespace(**{**ordinary, **given})


def settings(user_name: str | None = None, **given: object) -> ConnectionSettings:
    return ConnectionSettings.from_connection("c", fields(**given), user_name)


@pytest.mark.parametrize(
    ("given", "endpoint"),
    [
        ({"host": "host.example"}, "https://host.example"),
        ({"host": "host.example", "port": 65051}, "https://host.example:65051"),
        ({"host": "host.example:65051"}, "https://host.example:65051"),
        ({"host": "https://host.example:65051"}, "https://host.example:65051"),
        ({"host": "https://host.example:65051", "port": 65051}, "https://host.example:65051"),
        ({"host": "https://host.example:65051/hpc"}, "https://host.example:65051"),
        ({"host": "https://host.example:65051/hpc/"}, "https://host.example:65051"),
        ({"host": "https://host.example:65051", "schema": "hpc"}, "https://host.example:65051"),
        ({"host": "host.example", "port": 8443, "schema": "hpc"}, "https://host.example:8443"),
        ({"host": "host.example", "schema": "https"}, "https://host.example"),
        ({"host": "https://host.example/gate/way/hpc"}, "https://host.example/gate/way"),
        ({"host": "https://host.example/hpc/hpc"}, "https://host.example/hpc"),
        ({"host": "HTTPS://Host.Example:443/"}, "https://host.example"),
        ({"host": " host.example "}, "https://host.example"),
        ({"host": "http://127.0.0.1:8080"}, "http://127.0.0.1:8080"),
        ({"host": "localhost", "port": 80, "schema": "http"}, "http://localhost"),
        ({"host": "http://[::1]:8080/hpc"}, "http://[::1]:8080"),
        ({"host": "http://127.8.9.1"}, "http://127.8.9.1"),
    ],
)
def test_all_ways_to_write_an_address_mean_the_same(given, endpoint):
    assert settings(**given).endpoint == endpoint


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ({"host": ""}, "no host"),
        ({"host": None}, "no host"),
        ({"host": "https://"}, "no name of a host"),
        ({"host": "https://host.example:1", "port": 2}, "port .* contradict"),
        ({"host": "https://host.example", "schema": "http"}, "scheme .* contradict"),
        ({"host": "https://host.example/a", "schema": "b"}, "path .* contradict"),
        ({"host": "http://host.example"}, "plain http"),
        ({"host": "http://10.0.0.1"}, "plain http"),
        ({"host": "http://127.0.0.1.example"}, "plain http"),
        ({"host": "ftp://host.example"}, "neither an https nor an http"),
        ({"host": "https://alice:token-1@host.example"}, "login and password"),
        ({"host": "https://host.example?x=1"}, "query"),
        ({"host": "https://host.example#x"}, "query"),
        ({"host": "https://host.example:port"}, "no address"),
        ({"host": "https://host.example:99999"}, "no address"),
        ({"host": "host.example", "port": 99999}, "no port"),
        ({"host": "https://[::1"}, "no address"),
        ({"host": "https://[zz]"}, "no (address|name of a host)"),
        ({"host": "ho st"}, "no name of a host"),
        ({"host": "https://a..b"}, "no name of a host"),
        ({"host": "https://" + "a" * 64 + ".b"}, "no name of a host"),
        ({"host": "https://-a.b"}, "no name of a host"),
        ({"host": "https://主机.example"}, "no name of a host"),
        ({"host": "https://host.example/../x"}, "unusual"),
        ({"host": "https://host.example/a%2fb"}, "unusual"),
        ({"password": ""}, "no token"),
        ({"password": None}, "no token"),
        ({"password": "  \n"}, "no token"),
        ({"password": "a b"}, "white space"),
        ({"password": "a\nb"}, "white space"),
        ({"password": "令牌"}, "ASCII"),
        ({"login": ""}, "no cluster user"),
        ({"login": None}, "no cluster user"),
        ({"login": "a\nb"}, "no name of a user"),
        ({"login": "a" * 201}, "no name of a user"),
        ({"extra": "{"}, "not JSON"),
        ({"extra": "[]"}, "JSON object"),
        ({"extra": "[" * 100_000}, "not JSON"),
        ({"extra": {"verfiy": "false"}}, "unknown extra 'verfiy'"),
        ({"extra": {"timeout": 0}}, "timeout"),
        ({"extra": {"timeout": -1}}, "timeout"),
        ({"extra": {"timeout": "ten"}}, "timeout"),
        ({"extra": {"timeout": "nan"}}, "timeout"),
        ({"extra": {"timeout": "inf"}}, "timeout"),
        ({"extra": {"timeout": True}}, "timeout"),
        ({"extra": {"timeout": [1]}}, "timeout"),
        ({"extra": {"timeout": 301}}, "timeout"),
        ({"extra": {"verify": "no"}}, "verify"),
        ({"extra": {"verify": 0}}, "verify"),
        ({"extra": {"verify": "/no/such/file.pem"}}, "verify"),
        ({"extra": {"allow_foreign_user": "yes"}}, "allow_foreign_user"),
        ({"extra": {"allow_foreign_user": 1}}, "allow_foreign_user"),
        ({"extra": {"proxies": "http://proxy:1"}}, "proxies"),
        ({"extra": {"proxies": {"https": "proxy:1"}}}, "proxies"),
        ({"extra": {"proxies": {"https": "socks6://proxy:1"}}}, "proxies"),
        ({"extra": {"proxies": {"ftp": "http://proxy:1"}}}, "proxies"),
        ({"extra": {"proxies": {"https": "http://p:1"}}, "host": "http://127.0.0.1"}, "proxies"),
    ],
)
def test_what_is_lacking_or_contradictory_is_named_and_no_secret_is(given, what):
    if isinstance(given.get("extra"), dict):
        given = {**given, "extra": json.dumps(given["extra"])}
    with pytest.raises(ScnetConfigError, match=what) as caught:
        settings(**given)
    assert caught.value.kind is ErrorKind.PERMANENT
    assert "connection 'c'" in str(caught.value)
    assert "token-1" not in str(caught.value)


def test_extras_that_arrive_as_text_mean_the_same_as_typed_ones(tmp_path: Path):
    authorities = tmp_path / "ca.pem"
    authorities.touch()
    typed = settings(
        extra=json.dumps(
            {"timeout": 15, "verify": False, "allow_foreign_user": True, "proxies": {"https": "http://p:1"}}
        )
    )
    text = settings(
        extra=json.dumps(
            {
                "timeout": "15",
                "verify": "False",
                "allow_foreign_user": "true",
                "proxies": '{"https": "http://p:1"}',
            }
        )
    )
    assert typed == text
    assert typed.timeout == 15.0
    assert typed.verify is False
    assert typed.notes
    assert settings(extra=json.dumps({"verify": str(authorities)})).verify == str(authorities)


@pytest.mark.parametrize("mistake", [5, 0, False, ["queued < 5"], {"queued": 5}, "pending < 5"])
def test_a_condition_is_kept_as_it_stands_for_gates_to_read(mistake):
    assert settings(extra=json.dumps({"condition": mistake})).condition == str(mistake)
    assert settings(extra="").condition == ""


@pytest.mark.parametrize("nothing", [None, ""])
def test_fields_that_nobody_filled_in_are_absent(nothing):
    extra = json.dumps(dict.fromkeys(("timeout", "verify", "proxies", "allow_foreign_user"), nothing))
    assert settings(extra=extra) == settings()
    assert settings().timeout == 10.0
    assert settings().verify is True
    assert settings().notes == ()


def test_the_user_is_the_one_named_else_the_login_else_the_tokens_own():
    token = make_token("bob")
    assert settings("carol", password=token).user_name == "carol"
    assert settings(password=token).user_name == "alice"
    assert settings(login="", password=token).user_name == "bob"
    assert settings(password=token).token_user == "bob"
    assert settings().token_user is None


@pytest.mark.parametrize("empty", ["", "  "])
def test_a_user_that_is_given_but_empty_is_not_the_connections_own(empty):
    with pytest.raises(ScnetConfigError, match="given but empty"):
        settings(empty)


def test_a_pasted_token_may_end_with_a_line_break():
    assert settings(password=" token-1\n").token == "token-1"


def test_the_token_is_in_no_representation():
    shown = repr(settings(password="token-1", extra=json.dumps({"proxies": {"https": "http://u:pw@p:1"}})))
    assert "token-1" not in shown
    assert "pw" not in shown


def test_a_payload_is_read_as_a_hint():
    in_an_hour = time.time() + 3600
    payload = TokenPayload.from_token(make_token("alice", expire_time=in_an_hour))
    assert payload.compute_user == "alice"
    assert payload.expires_at is not None
    assert abs(payload.expires_at.timestamp() - in_an_hour) < 1


@pytest.mark.parametrize(
    "token",
    [
        "",
        "token",
        "a.b.c",
        "..",
        "a.e30.c",
        "a.W10.c",
        "a.bnVsbA.c",
        "a.eyJjb21wdXRlVXNlciI6MX0.c",
        "a.é.c",
        "a." + "x" * 9,
    ],
)
def test_a_token_that_is_no_jwt_tells_nothing(token):
    assert TokenPayload.from_token(token) == TokenPayload()


@pytest.mark.parametrize("moment", ["soon", "1" * 400, True, None, 1.5, [1], "", "-" + "9" * 30])
def test_an_expiry_that_is_no_moment_tells_nothing(moment):
    assert TokenPayload.from_token(make_token("alice", expireTime=moment)).expires_at is None


@given(st.text())
def test_any_token_is_read_or_tells_nothing(token):
    TokenPayload.from_token(token)


@given(host=st.text(), schema=st.text(), extra=st.text(), login=st.text(), port=st.none() | st.integers())
def test_any_connection_is_read_or_refused_with_the_documented_error(host, schema, extra, login, port):
    try:
        found = settings(host=host, schema=schema, extra=extra, login=login, port=port)
    except ScnetConfigError:
        return
    assert found.endpoint.startswith(("https://", "http://127.", "http://localhost", "http://[::1]"))


KEYS = {"access_key": "AK-1234", "secret_key": "SK-1234", "cluster_id": "11112", "platform_user": "alice@scnet"}


def keyed(**given: object) -> ConnectionSettings:
    extra = {name: value for name, value in {**KEYS, **given.pop("extra", {})}.items() if value is not None}
    return settings(**{"host": "", "login": "", "password": "", "extra": json.dumps(extra), **given})


def test_access_keys_need_neither_host_nor_login_nor_token():
    found = keyed()
    assert (found.endpoint, found.user_name, found.token) == ("", "", "")
    assert found.keys is not None
    assert (found.keys.platform, found.keys.portal) == ("https://api.scnet.cn", "https://www.scnet.cn")
    assert found.keys.cluster_id == "11112"
    assert keyed(extra={"cluster_id": 11112}) == found
    assert keyed(host="host.example", login="bob").endpoint == "https://host.example"
    # The Test button of 3.3.2 wants a port, whatever there is for it to belong to.
    assert keyed(port=443) == found
    for secret in ("AK-1234", "SK-1234"):
        assert secret not in repr(found)


@pytest.mark.parametrize(
    ("given", "what"),
    [
        *(({"extra": {name: None}}, rf"without '{name}'") for name in KEYS),
        ({"extra": {"secret_key": None, "cluster_id": None}}, r"without 'secret_key', 'cluster_id'"),
        ({"extra": {**dict.fromkeys(KEYS), "platform": "https://a.example"}}, r"'platform' without 'access_key'"),
        (
            {"extra": {**dict.fromkeys(KEYS), "portal": "https://a.example"}, "password": "token-1"},
            "'portal' without",
        ),
        ({"password": "token-1"}, r"'password' \(Token\) and extra 'access_key', .* contradict"),
        ({"extra": {"cluster_id": "0"}}, "cluster_id"),
        ({"extra": {"cluster_id": True}}, "cluster_id"),
        ({"extra": {"cluster_id": "a b"}}, "cluster_id"),
        ({"extra": {"access_key": "a\nb"}}, "access_key"),
        ({"extra": {"secret_key": "密钥"}}, "secret_key"),
        ({"extra": {"secret_key": 5}}, "secret_key"),
        ({"extra": {"platform_user": " "}}, "platform_user"),
        ({"extra": {"platform_user": "a\r\nb"}}, "platform_user"),
        ({"extra": {"platform": "http://a.example"}}, "extra 'platform': plain http"),
        ({"extra": {"portal": "http://a.example"}}, "extra 'portal': plain http"),
        ({"extra": {"platform": "https://u:p@a.example"}}, "extra 'platform' holds a user"),
        ({"extra": {"platform": 5}}, "extra 'platform' is no address"),
        ({"extra": {"platform": "http://127.0.0.1:1", "proxies": {"https": "http://p:1"}}}, "proxies"),
        ({"host": "http://a.example"}, "plain http"),
    ],
)
def test_access_keys_by_halves_or_beside_a_token_are_named_and_no_secret_is(given, what):
    with pytest.raises(ScnetConfigError, match=what) as caught:
        keyed(**given)
    assert caught.value.kind is ErrorKind.PERMANENT
    for secret in ("token-1", "AK-1234", "SK-1234"):
        assert secret not in str(caught.value)


def test_a_pasted_token_that_has_ended_is_refused():
    with pytest.raises(ScnetConfigError, match=r"the token ended 2\d{3}-.*paste a fresh token") as caught:
        settings(password=make_token("alice", expire_time=time.time() - 1))
    assert caught.value.kind is ErrorKind.CREDENTIALS


@pytest.mark.parametrize("name", ["al\nice", "al\x1b[31mice", "al\u2028ice", "a" * 201])
def test_a_token_names_no_user_whose_name_no_log_could_show(name):
    token = make_token(name)
    with pytest.raises(ScnetConfigError, match="the token names no user") as caught:
        settings(login="", password=token)
    assert name not in str(caught.value)
    # It is another user than the connection's all the same, so that zeros prove nothing.
    assert settings(password=token).token_user == name

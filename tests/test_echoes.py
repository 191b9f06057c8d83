# SPDX-License-Identifier: Apache-2.0
"""
Whatever a server echoes of a token, it is in no text that the provider makes.

Airflow's masking does not know the tokens that access keys obtain, so nothing but the provider's own care keeps them
out of logs, messages and records.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import socket
import threading
import traceback
from typing import Any

import pytest

from airflow_provider_scnet.client import issued_tokens
from airflow_provider_scnet.client.access_keys import TOKENS_PATH, RegionToken
from airflow_provider_scnet.client.errors import ScnetError
from airflow_provider_scnet.client.poll import JOB_STATE_PATH
from airflow_provider_scnet.client.region import REGION_PATH
from airflow_provider_scnet.client.response import Answer
from airflow_provider_scnet.client.token_payload import TokenPayload
from airflow_provider_scnet.gate.decision import record
from airflow_provider_scnet.gate.evaluator import GateEvaluator
from airflow_provider_scnet.gate.gate import Gate
from airflow_provider_scnet.hooks.polled_connection import PolledConnection
from airflow_provider_scnet.hooks.scnet import ScnetHook
from airflow_provider_scnet.testing import Fault, ScnetSimulator, make_token

#: One of the documented form, and one of which nothing but the text itself is known, longer than a message.
TOKENS = {"a JWT": make_token("alice"), "an opaque token": "Opaque-" + "0123456789abcdef" * 20}

#: Where any answer may hold it.
ANYWHERE = {
    "msg": lambda t: Fault.api("10001", f"bad {t}"),
    "msg, late": lambda t: Fault.api("10004", "x" * 190 + t),
    "msg, often": lambda t: Fault.api("10012", f"{t}\n" * 50),
    "code": lambda t: Fault.api(t, "no"),
    "code and status": lambda t: Fault.api(t, f"bad {t}", status=500),
    "data": lambda t: Fault.api("0", "success", t),
    "data of an error": lambda t: Fault.api("10008", "auth_fail", t),
    "no JSON": lambda t: Fault(body=t),
    "HTML": lambda t: Fault.html(502, f"<html>{t}</html>"),
    "a key": lambda t: Fault(body={t: t}),
    "401": lambda t: Fault(status=401, body={"code": "401", "msg": t}),
    "Location": lambda t: Fault.redirect(f"https://elsewhere.example/?token={t}"),
    "Retry-After": lambda t: Fault(status=429, body="", headers={"Retry-After": t}),
    "Date": lambda t: Fault(headers={"Date": t}),
    "Content-Encoding": lambda t: Fault(headers={"Content-Encoding": t}),
    "Content-Type": lambda t: Fault(headers={"Content-Type": f"text/plain; charset={t}"}),
    "Content-Length": lambda t: Fault(headers={"Content-Length": f"{t}, 5"}),
    "Transfer-Encoding": lambda t: Fault(body=f"{t}\r\n", headers={"Transfer-Encoding": "chunked"}),
    "Set-Cookie": lambda t: Fault(headers={"Set-Cookie": f"token={t}; Domain={t}.example"}),
    "a malformed header": lambda t: Fault(
        body="{}", headers={"Content-Length": "2", "A": f"b\r\nbad line with {t}"}
    ),
}


def states(*entries: Any) -> Fault:
    return Fault.api("0", "success", list(entries))


JOBS = ANYWHERE | {
    "the name of a state": lambda t: states({"name": f"state {t}", "y": 1}, {"name": t, "y": 2}),
    "a name twice": lambda t: states({"name": t, "y": 1}, {"name": t, "y": 2}, {"name": "其他", "y": 0}),
    "a name without a number": lambda t: states({"name": t, "y": "no"}),
    "a number": lambda t: states({"name": "排队", "y": t}),
    "something else in the list": lambda t: states(t),
}


def described(url: Any = "http://127.0.0.1:9", enable: Any = "true", user: Any = "alice") -> Fault:
    data = {"hpcUrls": [{"url": url, "enable": enable}], "clusterUserInfo": {"userName": user}}
    return Fault.api("0", "success", data)


REGION = ANYWHERE | {
    "the name of the user": lambda t: described(user=t),
    "part of the name of the user": lambda t: described(user=f"u {t}"),
    "the host of an address": lambda t: described(f"http://{t}.localhost"),
    "the path of an address": lambda t: described(f"http://127.0.0.1:9/{t}"),
    "the query of an address": lambda t: described(f"http://127.0.0.1:9/?{t}"),
    "an address that is not in use": lambda t: described(f"http://127.0.0.1:9/{t}", "false"),
    "whether it is in use": lambda t: described(enable=t),
}


def listed(*entries: tuple[Any, Any, Any]) -> Fault:
    return states(*({"clusterId": i, "clusterName": name, "token": token} for i, name, token in entries))


ISSUED = {
    "its region's name": lambda t: listed(("99", f"region {t}", t)),
    "its region's id": lambda t: listed((f"99{t}", "x", t)),
    "another region's name": lambda t: listed(("98", f"like {t}", None), ("99", "x", t)),
    "another region's id": lambda t: listed((t, "x", None), ("99", "x", t)),
    "another entry's token, malformed": lambda t: listed(("98", "x", t), ("99", "x", f"令牌{t}")),
    "another entry's id": lambda t: listed(("98", "x", t), (t, "x", "a b")),
    "the name of the region asked for": lambda t: listed(("11112", f"region {t}", t)),
    "a region in arrears": lambda t: listed(("11112", f"region {t}", None), ("99", t, t)),
}

CASES = [
    pytest.param(path, echo, token, id=f"{path}: {name}: {kind}")
    for path, echoes in ((JOB_STATE_PATH, JOBS), (REGION_PATH, REGION), (TOKENS_PATH, ISSUED))
    for name, echo in echoes.items()
    for kind, token in TOKENS.items()
]


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(issued_tokens, "_regions", {})
    monkeypatch.setattr(issued_tokens, "PAUSE_AFTER_FAILURE", 0.0)


class Said:
    """All texts that came of asking."""

    def __init__(self) -> None:
        self._texts: list[str] = []

    def add(self, *things: object) -> None:
        for thing in things:
            self._texts += [str(thing), repr(thing)]

    def attempt(self, ask: Any) -> Any:
        try:
            result = ask()
        except Exception as error:
            self.add(error, vars(error), *error.args)
            self._texts += traceback.format_exception(error)
            return None
        self.add(result)
        return result

    def __str__(self) -> str:
        return "\n".join(self._texts)


def ask_in_every_way(said: Said) -> None:
    """Let the provider make of the answers whatever it makes of them."""
    hook, connection = ScnetHook(), PolledConnection("scnet_default")
    said.attempt(hook.test_connection)
    said.attempt(hook.get_job_counts)
    said.attempt(lambda: asyncio.run(hook.aget_job_counts()))
    said.attempt(lambda: hook.get_conn().close())
    if settings := said.attempt(lambda: issued_tokens.with_token(connection.read_settings())):
        said.add(settings.where, settings.notes, settings.account, settings.advice, settings.region)
    look = connection.observe()
    said.add(look, look.error, look.notes, look.doubt, look.where, look.account)
    counts = look.counts
    if counts:
        said.add(counts.unknown, dict(counts.problems), counts.as_dict())
        said.attempt(lambda: counts.require(("total",)))
    gate = Gate.of("queued < 5", fail_when="other > 5")
    said.attempt(lambda: GateEvaluator(gate, logging.getLogger("gate")).judge(look))
    said.add(json.dumps(record(gate.condition, look, scnet_conn_id="scnet_default"), ensure_ascii=False))
    said.add(issued_tokens._regions)


def assert_unsaid(secret: str, *texts: object) -> None:
    for text in map(str, texts):
        # In no spelling, whole or cut off: a third of a token is more than a message may tell.
        for part in (secret, secret[: len(secret) // 3], secret[-len(secret) // 3 :]):
            at = text.lower().find(part.lower())
            assert at < 0, text[max(at - 300, 0) : at + 300]


@pytest.mark.parametrize(("path", "echo", "token"), CASES)
def test_an_issued_token_that_is_echoed_is_in_no_text(
    scnet: ScnetSimulator, monkeypatch, caplog, capfd, masker, path, echo, token
):
    scnet.add_access_keys("alice")
    monkeypatch.setenv("AIRFLOW_CONN_SCNET_DEFAULT", scnet.key_connection_json("alice"))
    caplog.set_level("DEBUG")
    said = Said()
    scnet.order(echo(token), times=None, path=path)
    if path != TOKENS_PATH:
        scnet.order(listed(("11112", "region", token)), times=None, path=TOKENS_PATH)
    if path != REGION_PATH:
        scnet.order(described(scnet.url), times=None, path=REGION_PATH)
    ask_in_every_way(said)
    assert path in {request.path for request in scnet.requests}
    assert_unsaid(token, said, caplog.text, *capfd.readouterr())
    # A session is in other hands; its token was masked for them. All else had to do without.
    if path == JOB_STATE_PATH:
        assert re.escape(token) in masker.patterns


@pytest.mark.parametrize("token", TOKENS.values(), ids=TOKENS)
@pytest.mark.parametrize(
    "answer",
    [
        "HTTP/1.1 {token} OK\r\n\r\n",
        "HTTP/{token} 200 OK\r\n\r\n",
        "HTTP/1.1 200 {token}\r\nContent-Length: 2\r\n\r\n{{}}",
        "{token}\r\n\r\n",
        "HTTP/1.1 200 OK\r\n{token}: {token}\r\n{token}\r\n {token}\r\n\r\n{{}}",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{token}\r\n",
    ],
)
def test_a_token_in_a_broken_status_line_or_header_is_in_no_text(monkeypatch, caplog, capfd, token, answer):
    with socket.create_server(("127.0.0.1", 0)) as server:
        asked_for = []

        def serve() -> None:
            while True:
                try:
                    peer, _ = server.accept()
                except OSError:
                    return
                with peer:
                    asked_for.append(peer.recv(65536))
                    peer.sendall(answer.format(token=token).encode())

        thread = threading.Thread(target=serve)
        thread.start()
        conn = {
            "conn_type": "scnet",
            "host": f"http://127.0.0.1:{server.getsockname()[1]}",
            "login": "alice",
            "password": token,
        }
        monkeypatch.setenv("AIRFLOW_CONN_SCNET_DEFAULT", json.dumps(conn))
        caplog.set_level("DEBUG")
        said = Said()
        ask_in_every_way(said)
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert asked_for
    assert_unsaid(token, said, caplog.text, *capfd.readouterr())


@pytest.mark.parametrize("echo", ANYWHERE.values(), ids=ANYWHERE)
def test_keys_that_the_platform_echoes_are_in_no_text(scnet: ScnetSimulator, monkeypatch, caplog, capfd, echo):
    scnet.add_access_keys("alice")
    extra = scnet.key_connection("alice")["extra"]
    monkeypatch.setenv("AIRFLOW_CONN_SCNET_DEFAULT", scnet.key_connection_json("alice"))
    caplog.set_level("DEBUG")
    for key in (extra["access_key"], extra["secret_key"]):
        said = Said()
        scnet.clear_faults()
        scnet.order(echo(key), times=None, path=TOKENS_PATH)
        ask_in_every_way(said)
        assert_unsaid(key, said, caplog.text, *capfd.readouterr())


def test_what_holds_a_token_does_not_print_it():
    token = TOKENS["an opaque token"]
    assert token not in repr(RegionToken("1", "x", token))
    assert token not in repr(Answer(200, token.encode(), location=token))
    assert token not in repr(issued_tokens._Grant(token, "x", TokenPayload(), 0.0))


def test_errors_of_the_provider_carry_no_cause_that_could_be_printed(scnet: ScnetSimulator):
    scnet.order(Fault(drop="before"))
    with pytest.raises(ScnetError) as caught:
        ScnetHook().get_job_counts()
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__

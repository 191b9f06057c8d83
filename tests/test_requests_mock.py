# SPDX-License-Identifier: Apache-2.0
"""What users of other HTTP providers test with, ``requests-mock``, works with this one too."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import requests
import requests_mock as rm

from airflow_provider_scnet.client import issued_tokens
from airflow_provider_scnet.client.errors import ErrorKind, ScnetApiError, ScnetConnectionError
from airflow_provider_scnet.client.job_counts import JobCounts
from airflow_provider_scnet.hooks.scnet import ScnetHook

from gates import MODES, gate

CLUSTER = "https://cluster.example:65051"
STATE = f"{CLUSTER}/hpc/openapi/v2/view/jobs/state"

Wait = Callable[..., Any]


def answer(running: int, queued: int) -> dict[str, Any]:
    return {"code": "0", "msg": "success", "data": [{"name": "运行", "y": running}, {"name": "排队", "y": queued}]}


@pytest.fixture(autouse=True)
def connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_SCNET_DEFAULT", f"scnet://alice:TOKEN@{CLUSTER.removeprefix('https://')}")


@pytest.fixture(params=MODES)
def wait(request: pytest.FixtureRequest) -> Wait:
    """A gate's wait: in the triggerer, where a thread looks, and on a worker."""
    run = MODES[request.param]
    return lambda **arguments: run(gate(**arguments))


@pytest.mark.parametrize(
    "ask", [lambda: ScnetHook().get_job_counts(), lambda: asyncio.run(ScnetHook().aget_job_counts())]
)
def test_the_hook_sees_what_was_put_there(requests_mock: rm.Mocker, ask):
    requests_mock.get(STATE, json=answer(4, 2))
    assert ask() == JobCounts(running=4, queued=2)
    assert requests_mock.last_request.qs == {"username": ["alice"]}
    assert requests_mock.last_request.headers["token"] == "TOKEN"


def test_a_gate_waits_and_passes_on_one_answer_after_the_other(requests_mock: rm.Mocker, wait: Wait):
    requests_mock.get(STATE, [{"json": answer(4, 5)}, {"status_code": 503}, {"json": answer(4, 4)}])
    assert wait()["counts"]["queued"] == 4
    assert requests_mock.call_count == 3


@pytest.mark.parametrize(
    ("given", "error", "kind", "said"),
    [
        (
            {"exc": requests.ConnectTimeout},
            ScnetConnectionError,
            ErrorKind.TRANSIENT,
            "no whole answer within 10 s",
        ),
        (
            {"exc": requests.ConnectionError("reset by peer")},
            ScnetConnectionError,
            ErrorKind.TRANSIENT,
            "reset by peer",
        ),
        ({"json": {"code": "10003", "msg": "no"}}, ScnetApiError, ErrorKind.PERMANENT, "10003"),
        ({"status_code": 401}, ScnetApiError, ErrorKind.CREDENTIALS, "401"),
    ],
)
def test_errors_are_what_they_are_on_the_wire(requests_mock: rm.Mocker, given, error, kind, said):
    requests_mock.get(STATE, **given)
    with pytest.raises(error, match=said) as caught:
        ScnetHook().get_job_counts()
    assert caught.value.kind is kind


def test_an_address_without_an_answer_ends_the_wait_and_is_named(requests_mock: rm.Mocker, wait: Wait):
    with pytest.raises(Exception, match=r"NoMockAddress|No mock address"):
        wait()
    assert requests_mock.call_count == 1


def test_access_keys_ask_scnets_own_platform_and_portal(requests_mock: rm.Mocker, monkeypatch, wait: Wait):
    monkeypatch.setattr(issued_tokens, "_regions", {})
    keys = {"access_key": "AK", "secret_key": "SK", "cluster_id": "11112", "platform_user": "alice@example.com"}
    uri = "scnet://?" + "&".join(f"{name}={value}" for name, value in keys.items())
    monkeypatch.setenv("AIRFLOW_CONN_SCNET_DEFAULT", uri)
    entry = {"clusterName": "one", "clusterId": "11112", "token": "ISSUED"}
    region = {"id": "11112", "name": "one", "hpcUrls": [{"url": f"{CLUSTER}/hpc", "enable": "true"}]}
    region["clusterUserInfo"] = {"userName": "alice"}
    requests_mock.post("https://api.scnet.cn/api/user/v3/tokens", json={"code": "0", "data": [entry]})
    requests_mock.get("https://www.scnet.cn/ac/openapi/v2/center", json={"code": "0", "data": region})
    requests_mock.get(STATE, request_headers={"token": "ISSUED"}, json=answer(4, 4))
    assert wait()["user_name"] == "alice"
    assert [request.hostname for request in requests_mock.request_history] == [
        "api.scnet.cn",
        "www.scnet.cn",
        "cluster.example",
    ]

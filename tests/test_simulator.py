# SPDX-License-Identifier: Apache-2.0
"""The simulator, over real HTTP on loopback."""

from __future__ import annotations

import base64
import gzip
import hashlib
import hmac
import http.client
import json
import math
import os
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from types import SimpleNamespace
from urllib.parse import quote, unquote, urlsplit

import pytest

from airflow_provider_scnet.testing import (
    Fault,
    ScnetSimulator,
    SimulatorClock,
    SubmissionError,
    make_token,
)
from airflow_provider_scnet.testing.cluster import Cluster

pytest_plugins = ["airflow_provider_scnet.testing.pytest_plugin"]

PATH = "/hpc/openapi/v2/view/jobs/state"
AUTH_FAIL = {"msg": "auth_fail", "code": "10008", "data": "token is invalid"}
ZEROS = {"running": 0, "queued": 0, "held": 0, "suspended": 0, "other": 0}
NAMES = {"运行": "running", "排队": "queued", "保留": "held", "挂起": "suspended", "其他": "other"}


def call(scnet, path, *, method="GET", body=None, **headers):
    """One request on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", scnet.port, timeout=30)
    try:
        connection.request(method, path, body=body, headers=headers)
        response = connection.getresponse()
        return SimpleNamespace(status=response.status, headers=response.headers, body=response.read())
    finally:
        connection.close()


def ask(scnet, user="alice", *, token=None):
    """Ask for the job states of a user, with alice's token if no other is given; return the JSON."""
    path = f"{PATH}?userName={quote(user)}"
    return json.loads(call(scnet, path, token=token or scnet.token("alice")).body)


def asked_counts(scnet, user="alice", *, token=None):
    body = ask(scnet, user, token=token)
    assert body["code"] == "0"
    return {NAMES[entry["name"]]: entry["y"] for entry in body["data"]}


def submit(scnet, body):
    answer = call(scnet, "/simulator/jobs", method="POST", body=json.dumps(body).encode())
    return answer.status, json.loads(answer.body)


def payload_of(token):
    encoded = token.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)))


@pytest.fixture
def clock():
    return SimulatorClock(frozen=True)


@pytest.fixture
def scnet(clock):
    with ScnetSimulator(slots=2, run_for=10, clock=clock) as simulator:
        simulator.add_user("alice")
        simulator.add_user("bob")
        yield simulator


class TestJobStateEndpoint:
    def test_answers_as_the_specification_shows(self, scnet):
        scnet.submit("alice")
        answer = call(scnet, f"{PATH}?userName=alice", token=scnet.token("alice"))
        assert answer.status == 200
        assert answer.headers["Content-Length"] == str(len(answer.body))
        documented = (
            '{"code":"0","msg":"success","data":[{"name":"运行","y":1},{"name":"排队","y":0},'
            '{"name":"保留","y":0},{"name":"挂起","y":0},{"name":"其他","y":0}]}'
        )
        assert answer.body.decode() == json.dumps(json.loads(documented), ensure_ascii=False)

    def test_a_missing_or_unknown_token_is_answered_with_http_200_and_10008(self, scnet):
        missing = call(scnet, f"{PATH}?userName=alice")
        assert (missing.status, json.loads(missing.body)) == (200, AUTH_FAIL)
        assert ask(scnet, token="nobody's") == AUTH_FAIL

    def test_the_token_is_not_read_from_the_authorization_header(self, scnet):
        answer = call(scnet, f"{PATH}?userName=alice", Authorization=f"Bearer {scnet.token('alice')}")
        assert json.loads(answer.body) == AUTH_FAIL

    @pytest.mark.parametrize("query", ["", "?userName=", "?username=alice"])
    def test_a_missing_user_name_is_10003(self, scnet, query):
        body = json.loads(call(scnet, PATH + query, token=scnet.token("alice")).body)
        assert body == {"code": "10003", "msg": "参数不全", "data": None}

    def test_a_stranger_has_zero_jobs_and_code_0(self, scnet):
        assert asked_counts(scnet, "nobody") == ZEROS

    def test_an_unknown_user_can_be_an_error_instead(self):
        with ScnetSimulator(unknown_user="911009") as scnet:
            scnet.add_user("alice")
            scnet.add_user("bob")
            assert ask(scnet, "nobody") == {"code": "911009", "msg": "区域用户不存在", "data": None}
            assert asked_counts(scnet, "bob") == ZEROS
            assert asked_counts(scnet, "alice") == ZEROS

    def test_the_jobs_of_another_user_are_not_shown(self, scnet):
        scnet.submit("bob")
        assert asked_counts(scnet, "bob") == ZEROS
        assert asked_counts(scnet, "bob", token=scnet.token("bob"))["running"] == 1

    def test_a_user_is_known_by_its_name_and_by_the_compute_user_of_its_token(self, scnet):
        token = scnet.add_user("carol", compute_user="ac_carol")
        scnet.submit("carol")
        assert payload_of(token)["computeUser"] == "ac_carol"
        assert asked_counts(scnet, "carol", token=token)["running"] == 1
        assert asked_counts(scnet, "ac_carol", token=token)["running"] == 1

    def test_a_user_name_in_chinese_is_understood(self, scnet):
        token = scnet.add_user("王小明")
        scnet.submit("王小明")
        assert asked_counts(scnet, "王小明", token=token)["running"] == 1

    def test_an_unknown_path_is_404_in_json(self, scnet):
        answer = call(scnet, "/hpc/openapi/v2/nothing")
        assert (answer.status, json.loads(answer.body)["code"]) == (404, "404")

    @pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
    def test_a_wrong_method_is_405(self, scnet, method):
        answer = call(scnet, f"{PATH}?userName=alice", method=method, body=b"{}")
        assert (answer.status, answer.headers["Allow"]) == (405, "GET")

    def test_one_connection_serves_many_requests(self, scnet):
        connection = http.client.HTTPConnection("127.0.0.1", scnet.port, timeout=30)
        for _ in range(3):
            connection.request("GET", f"{PATH}?userName=alice", headers={"token": scnet.token("alice")})
            used = connection.sock
            assert json.loads(connection.getresponse().read())["code"] == "0"
            assert connection.sock is used is not None
        connection.request("POST", "/nowhere", body=b"to be read before the next request")
        connection.getresponse().read()
        connection.request("HEAD", PATH)
        assert connection.getresponse().read() == b""
        connection.request("GET", "/nowhere")
        assert connection.getresponse().status == 404
        assert connection.sock is used
        connection.close()


class TestTokens:
    def test_a_token_is_a_signed_jwt_with_the_documented_payload(self):
        token = make_token("alice", expire_time=1_700_000_000.5, key=b"key")
        header, payload, signature = token.split(".")
        digest = hmac.new(b"key", f"{header}.{payload}".encode(), hashlib.sha256).digest()
        assert signature == base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        assert json.loads(base64.urlsafe_b64decode(header + "=="))["alg"] == "HS256"
        assert list(payload_of(token)) == [
            "computeUser",
            "user",
            "userId",
            "clusterId",
            "accountStatus",
            "creator",
            "role",
            "invoker",
            "expireTime",
        ]
        assert payload_of(token)["expireTime"] == "1700000000500"

    def test_a_token_can_have_other_claims_and_no_expiry(self):
        payload = payload_of(make_token("alice", accountStatus="Owe"))
        assert payload["accountStatus"] == "Owe"
        assert "expireTime" not in payload

    def test_a_given_token_is_used_as_it_is(self, scnet):
        assert scnet.add_user("carol", token="as it is") == "as it is"
        assert asked_counts(scnet, "carol", token="as it is") == ZEROS

    def test_a_rejected_token_is_answered_with_10008(self, scnet):
        scnet.reject_token("alice")
        assert ask(scnet) == AUTH_FAIL
        assert asked_counts(scnet, "bob", token=scnet.token("bob")) == ZEROS

    def test_a_renewed_token_replaces_the_old_one(self, scnet):
        old = scnet.token("alice")
        new = scnet.renew_token("alice")
        assert old != new == scnet.token("alice")
        assert ask(scnet, token=old) == AUTH_FAIL
        assert ask(scnet, token=new)["code"] == "0"

    def test_renewal_ends_a_rejection(self, scnet):
        scnet.reject_token("alice")
        scnet.renew_token("alice")
        assert ask(scnet)["code"] == "0"

    def test_an_expired_token_is_rejected(self, scnet):
        assert ask(scnet, token=scnet.add_user("carol", lifetime=-1)) == AUTH_FAIL
        assert ask(scnet, token=scnet.add_user("dave", token=make_token("dave", expire_time=1))) == AUTH_FAIL
        assert ask(scnet, token=scnet.add_user("erin", token=make_token("erin")))["code"] == "0"

    @pytest.mark.parametrize("expire_time", ["0", "1000", "253402300799999", "never"])
    def test_a_token_may_say_anything_of_its_end(self, scnet, expire_time):
        token = scnet.add_user("carol", expire_time=expire_time)
        assert payload_of(token)["expireTime"] == expire_time
        assert ask(scnet, "carol", token=token)["code"] == "0"
        scnet.reject_token("carol")
        assert ask(scnet, "carol", token=token) == AUTH_FAIL
        assert payload_of(scnet.renew_token("carol"))["expireTime"] == expire_time

    def test_users_and_tokens_are_unique(self, scnet):
        with pytest.raises(ValueError, match="'alice'"):
            scnet.add_user("alice")
        with pytest.raises(ValueError, match="token"):
            scnet.add_user("carol", token=scnet.token("alice"))
        with pytest.raises(LookupError, match="'carol'"):
            scnet.token("carol")


class TestQueue:
    def test_jobs_run_in_the_slots_and_the_others_wait(self, scnet):
        scnet.submit("alice", 5)
        assert asked_counts(scnet) == {**ZEROS, "running": 2, "queued": 3}

    def test_jobs_start_in_the_order_of_submission_over_all_users(self, scnet, clock):
        scnet.submit("alice", 2)
        scnet.submit("bob", 1)
        scnet.submit("alice", 2)
        clock.advance(10)
        assert scnet.counts("bob") == {**ZEROS, "running": 1}
        assert scnet.counts("alice") == {**ZEROS, "running": 1, "queued": 1}

    def test_a_free_slot_is_taken_when_it_became_free_and_not_when_somebody_looks(self, clock):
        cluster = Cluster(slots=1, run_for=10, clock=clock)
        cluster.add_user("alice")
        cluster.submit("alice", 3)
        clock.advance(25)
        assert [(job.state, job.started_at, job.ended_at) for job in cluster.jobs("alice")] == [
            ("ended", 0, 10),
            ("ended", 10, 20),
            ("running", 20, None),
        ]
        clock.advance(5)
        assert cluster.counts("alice") == ZEROS

    def test_jobs_of_different_lengths_free_their_slots_in_the_order_of_their_ends(self, scnet, clock):
        scnet.submit("alice", run_for=30)
        scnet.submit("alice", run_for=5)
        scnet.submit("bob", 2, run_for=7)
        clock.advance(100)
        assert [job.started_at for job in scnet.jobs("bob")] == [5, 12]

    def test_a_job_may_never_end(self, scnet, clock):
        scnet.submit("alice", run_for=math.inf)
        clock.advance(1e9)
        assert scnet.counts("alice")["running"] == 1

    def test_without_slots_nothing_runs(self, clock):
        with ScnetSimulator(slots=0, clock=clock) as scnet:
            scnet.add_user("alice")
            scnet.submit("alice", 3)
            clock.advance(1000)
            assert asked_counts(scnet) == {**ZEROS, "queued": 3}

    def test_a_new_job_is_counted_late_though_it_is_there(self, clock):
        with ScnetSimulator(slots=1, run_for=20, counted_after=15, clock=clock) as scnet:
            scnet.add_user("alice")
            scnet.submit("alice", 2)
            clock.advance(14)
            assert scnet.counts("alice") == {**ZEROS, "running": 1, "queued": 1}
            assert scnet.reported("alice") == asked_counts(scnet) == ZEROS
            clock.advance(1)
            assert scnet.reported("alice") == asked_counts(scnet) == scnet.counts("alice")

    def test_pinned_counts_are_reported_until_they_are_unpinned(self, scnet):
        scnet.submit("alice", 3)
        scnet.set_counts("alice", queued=7, held=1)
        scnet.set_counts("alice", suspended=2, other=3)
        assert asked_counts(scnet) == {"running": 2, "queued": 7, "held": 1, "suspended": 2, "other": 3}
        assert scnet.counts("alice") == {**ZEROS, "running": 2, "queued": 1}
        scnet.set_counts("alice", queued=None, held=None)
        assert asked_counts(scnet) == {"running": 2, "queued": 1, "held": 0, "suspended": 2, "other": 3}

    def test_pinning_takes_the_states_of_the_field_only(self, scnet):
        with pytest.raises(ValueError, match="no state 'pending'"):
            scnet.set_counts("alice", pending=1)
        with pytest.raises(ValueError, match="whole number"):
            scnet.set_counts("alice", queued=-1)

    def test_cancelled_jobs_make_room(self, scnet):
        scnet.submit("alice", 3)
        scnet.submit("bob", 3)
        scnet.cancel("alice")
        assert scnet.counts("alice") == ZEROS
        assert scnet.counts("bob") == {**ZEROS, "running": 2, "queued": 1}

    def test_the_jobs_of_others_end_in_time_after_a_cancellation(self, clock):
        cluster = Cluster(slots=6, clock=clock)
        for name in ("alice", "bob"):
            cluster.add_user(name)
        for name, run_for in [("alice", 1), ("bob", 5), ("alice", 2), ("bob", 6), ("bob", 7), ("bob", 3)]:
            cluster.submit(name, run_for=run_for)
        cluster.cancel("alice")
        clock.advance(4)
        assert cluster.counts("bob")["running"] == 3

    def test_a_submission_over_the_queue_limit_is_refused_as_a_whole(self, clock):
        with ScnetSimulator(slots=2, run_for=10, queue_limit=3, clock=clock) as scnet:
            scnet.add_user("alice")
            scnet.add_user("bob")
            scnet.submit("alice", 5)
            with pytest.raises(SubmissionError, match="4 jobs in the queue, 3 are allowed"):
                scnet.submit("alice")
            scnet.submit("bob", 3)
            clock.advance(10)
            with pytest.raises(SubmissionError):
                scnet.submit("alice", 3)
            scnet.submit("alice", 2)
            totals = scnet.totals("alice")
            assert (totals.submitted, totals.refused, totals.highest_queued) == (7, 4, 3)

    def test_the_highest_numbers_are_the_true_ones(self, scnet, clock):
        scnet.set_counts("alice", queued=0, running=0)
        scnet.submit("alice", 6)
        clock.advance(1000)
        totals = scnet.totals("alice")
        assert (totals.highest_queued, totals.highest_running) == (4, 2)
        assert scnet.counts("alice") == ZEROS

    @pytest.mark.parametrize(("jobs", "run_for"), [(-1, 1), (True, 1), (1.5, 1), (1, -1), (1, math.nan)])
    def test_a_submission_that_makes_no_sense_is_an_error(self, scnet, jobs, run_for):
        with pytest.raises(ValueError, match="must be a"):
            scnet.submit("alice", jobs, run_for)

    def test_an_unknown_user_submits_nothing(self, scnet):
        with pytest.raises(LookupError, match="'nobody'"):
            scnet.submit("nobody")

    def test_submissions_from_many_threads_are_all_counted(self, scnet, clock):
        with ThreadPoolExecutor(16) as pool:
            ids = [i for made in pool.map(lambda _: scnet.submit("alice", 2), range(100)) for i in made]
        assert sorted(ids) == list(range(1, 201))
        assert scnet.counts("alice") == {**ZEROS, "running": 2, "queued": 198}


class TestClock:
    def test_a_frozen_clock_stands_still_and_advances_when_told(self):
        clock = SimulatorClock(frozen=True)
        clock.advance(2.5)
        assert clock.now() == clock.now() == 2.5

    def test_a_ticking_clock_can_be_advanced_frozen_and_thawed(self):
        clock = SimulatorClock()
        clock.advance(1000)
        clock.freeze()
        frozen = clock.now()
        assert frozen >= 1000
        assert clock.now() == frozen
        clock.thaw()
        assert clock.now() >= frozen

    def test_time_does_not_run_backwards(self):
        with pytest.raises(ValueError, match="seconds"):
            SimulatorClock().advance(-1)


class TestFaults:
    def test_faults_come_in_their_order_and_then_the_ordinary_answer(self, scnet):
        scnet.order(Fault.api("10001", "内部错误"), times=2)
        scnet.order(Fault(status=503))
        path = f"{PATH}?userName=alice"
        answers = [call(scnet, path, token=scnet.token("alice")) for _ in range(4)]
        codes = [(answer.status, json.loads(answer.body)["code"]) for answer in answers]
        assert codes == [(200, "10001"), (200, "10001"), (503, "0"), (200, "0")]
        assert [request.status for request in scnet.requests] == [200, 200, 503, 200]

    def test_a_fault_without_end_lasts_until_it_is_cleared(self, scnet):
        scnet.order(Fault.api("911404", "unreachable"), times=None)
        assert [ask(scnet)["code"] for _ in range(5)] == ["911404"] * 5
        scnet.clear_faults()
        assert ask(scnet)["code"] == "0"

    def test_a_fault_is_for_the_job_state_endpoint_only(self, scnet):
        scnet.order(Fault(status=500))
        assert call(scnet, "/simulator/state").status == 200
        assert call(scnet, "/nowhere").status == 404
        assert call(scnet, PATH).status == 500

    @pytest.mark.parametrize(
        ("body", "sent"),
        [
            (b"\xff\x00", b"\xff\x00"),
            ("运行", "运行".encode()),
            ("", b""),
            ({"code": 0}, b'{"code": 0}'),
            ([1], b"[1]"),
            (7, b"7"),
        ],
    )
    def test_the_body_can_be_anything(self, scnet, body, sent):
        scnet.order(Fault(body=body))
        assert call(scnet, PATH).body == sent

    def test_headers_of_a_fault_replace_the_ordinary_ones(self, scnet):
        scnet.order(Fault(status=429, headers={"Retry-After": "7", "content-type": "text/plain"}))
        answer = call(scnet, PATH)
        assert answer.headers["Retry-After"] == "7"
        assert answer.headers.get_all("Content-Type") == ["text/plain"]

    def test_a_redirect_leads_to_another_simulator_which_records_what_arrives(self, scnet):
        with ScnetSimulator() as other:
            scnet.order(Fault.redirect(f"{other.url}/login?from=scnet"))
            request = urllib.request.Request(f"{scnet.url}{PATH}", headers={"token": "secret"})
            with pytest.raises(urllib.error.HTTPError, match="404") as error:
                urllib.request.urlopen(request)
            error.value.close()
            (arrived,) = other.requests
            assert (arrived.method, arrived.path, arrived.query) == ("GET", "/login", {"from": "scnet"})
            assert arrived.headers["token"] == "secret"
            assert arrived.status == 404
            assert other.job_state_requests == []

    def test_a_page_is_html(self, scnet):
        scnet.order(Fault.html(502, "<h1>Bad Gateway</h1>"))
        answer = call(scnet, PATH)
        assert (answer.status, answer.body) == (502, b"<h1>Bad Gateway</h1>")
        assert answer.headers.get_content_type() == "text/html"

    @pytest.mark.parametrize("size", [0, 10, 5 * 2**20 + 3])
    def test_a_gzip_bomb_is_small_and_unpacks_to_its_size(self, scnet, size):
        scnet.order(Fault.gzip_bomb(size))
        answer = call(scnet, PATH)
        assert answer.headers["Content-Encoding"] == "gzip"
        assert len(answer.body) < 10_000
        assert gzip.decompress(answer.body) == b" " * size

    def test_a_connection_dropped_before_the_answer_sends_nothing(self, scnet):
        scnet.order(Fault(drop="before"))
        with pytest.raises(http.client.RemoteDisconnected):
            call(scnet, PATH)
        assert [request.status for request in scnet.requests] == [None]

    @pytest.mark.parametrize("body", [None, b""])
    @pytest.mark.parametrize("drop", ["headers", "body"])
    def test_a_connection_dropped_later_leaves_the_body_incomplete(self, scnet, drop, body):
        scnet.order(Fault(drop=drop, body=body))
        with pytest.raises(http.client.IncompleteRead) as error:
            call(scnet, PATH)
        assert bool(error.value.partial) == (drop == "body" and body is None)

    def test_a_fault_can_lie_about_the_length(self, scnet):
        scnet.order(Fault(body="short", headers={"Content-Length": "1000"}))
        with pytest.raises(http.client.IncompleteRead) as error:
            call(scnet, PATH)
        assert error.value.partial == b"short"

    @pytest.mark.parametrize("drip_headers", [False, True])
    def test_a_dripping_answer_arrives_whole(self, scnet, drip_headers):
        scnet.order(Fault(drip=0, drip_headers=drip_headers))
        assert ask(scnet)["code"] == "0"

    def test_the_answer_is_made_when_the_request_arrives_however_late_it_is_sent(self, scnet):
        scnet.submit("alice")
        scnet.order(Fault(delay=0.05))
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(asked_counts, scnet)
            scnet.wait_for_requests(1)
            scnet.cancel("alice")
            assert answer.result()["running"] == 1

    def test_a_client_that_goes_away_leaves_no_traceback(self, capfd):
        with ScnetSimulator() as scnet:
            scnet.order(Fault(delay=0.05, body=b"x" * 10_000_000))
            scnet.order(Fault(drip=0, body=b"x" * 1_000_000))
            for n in (1, 2):
                with socket.create_connection(("127.0.0.1", scnet.port)) as client:
                    client.sendall(f"GET {PATH} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                    scnet.wait_for_requests(n)
                    # Linger 0: the connection is reset, and what is sent next fails.
                    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            assert call(scnet, "/nowhere").status == 404
        assert capfd.readouterr() == ("", "")

    def test_what_is_not_http_harms_nothing(self, scnet, capfd):
        for garbage in (b"\x16\x03\x01\r\n\r\n", b"GET\r\n\r\n", b"BREW / HTTP/1.1\r\n\r\n", b""):
            with socket.create_connection(("127.0.0.1", scnet.port)) as client:
                client.sendall(garbage)
                client.shutdown(socket.SHUT_WR)
                while client.recv(4096):
                    pass
        for length in ("-1", "many", "9" * 5000):
            assert call(scnet, "/nowhere", **{"Content-Length": length}).headers["Connection"] == "close"
        assert ask(scnet)["code"] == "0"
        assert capfd.readouterr() == ("", "")


class TestRecord:
    def test_a_request_is_recorded_with_all_that_came_with_it(self, scnet, clock):
        clock.advance(42)
        ask(scnet)
        (request,) = scnet.requests
        assert (request.method, request.path, request.query) == ("GET", PATH, {"userName": "alice"})
        assert request.headers["token"] == scnet.token("alice")
        assert (request.at, request.status) == (42, 200)
        assert request.at_wall > 0

    def test_requests_are_told_apart_by_user_and_path(self, scnet):
        ask(scnet, "alice")
        ask(scnet, "bob")
        call(scnet, "/elsewhere?userName=alice")
        call(scnet, "/simulator/state")
        assert len(scnet.requests) == 3
        assert len(scnet.job_state_requests) == 2
        assert len(scnet.requests_of("alice")) == 1

    def test_a_request_is_recorded_before_its_answer_has_left(self, scnet):
        scnet.order(Fault(delay=3600))
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(ask, scnet)
            assert scnet.wait_for_requests(1) == scnet.requests
            assert not answer.done()
            scnet.stop()
            assert isinstance(answer.exception(), http.client.RemoteDisconnected)

    def test_waiting_for_requests_that_do_not_come_is_an_error(self, scnet):
        with pytest.raises(TimeoutError, match="0 of 1 requests"):
            scnet.wait_for_requests(1, timeout=0)

    def test_many_clients_at_once_are_all_recorded(self, scnet):
        with ThreadPoolExecutor(32) as pool:
            assert {body["code"] for body in pool.map(lambda _: ask(scnet), range(200))} == {"0"}
        assert len(scnet.requests_of("alice")) == 200


class TestControlEndpoints:
    def test_jobs_are_submitted_and_the_state_is_told(self, scnet):
        assert submit(scnet, {"user": "alice"}) == (200, {"ids": [1]})
        assert submit(scnet, {"user": "alice", "jobs": 3, "run_for": 5}) == (200, {"ids": [2, 3, 4]})
        ask(scnet)
        state = json.loads(call(scnet, "/simulator/state").body)
        assert state == scnet.state()
        assert state["users"]["alice"] == {
            "counts": {**ZEROS, "running": 2, "queued": 2},
            "reported": {**ZEROS, "running": 2, "queued": 2},
            "submitted": 4,
            "refused": 0,
            "highest_queued": 2,
            "highest_running": 2,
            "requests": 1,
        }
        assert [job.run_for for job in scnet.jobs("alice")] == [10, 5, 5, 5]

    @pytest.mark.parametrize(
        "body",
        [
            {"user": "nobody"},
            {"user": ["alice"]},
            {"user": "alice", "jobs": -1},
            {"user": "alice", "jobs": None},
            {"user": "alice", "run_for": -1},
            {"user": "alice", "run_for": math.nan},
            {"user": "alice", "job": 2},
            {"jobs": 1},
            ["alice"],
            None,
        ],
    )
    def test_a_submission_that_makes_no_sense_is_http_400(self, scnet, body):
        status, answer = submit(scnet, body)
        assert (status, answer["code"]) == (400, "10004")
        assert scnet.totals("alice").submitted == 0

    def test_all_jobs_of_a_user_are_ended(self, scnet):
        scnet.submit("alice", 3)
        scnet.submit("bob", 1)
        answer = call(scnet, "/simulator/jobs?user=alice", method="DELETE")
        assert (answer.status, json.loads(answer.body)) == (200, ZEROS)
        assert scnet.counts("bob")["running"] == 1

    @pytest.mark.parametrize("query", ["", "?user=", "?user=nobody"])
    def test_nobodys_jobs_are_not_ended(self, scnet, query):
        scnet.submit("alice")
        assert call(scnet, f"/simulator/jobs{query}", method="DELETE").status == 400
        assert scnet.counts("alice")["running"] == 1

    @pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe\xfd"])
    def test_a_submission_that_is_not_json_is_http_400(self, scnet, body):
        assert call(scnet, "/simulator/jobs", method="POST", body=body).status == 400

    def test_a_full_queue_is_http_429(self):
        with ScnetSimulator(slots=0, queue_limit=1) as scnet:
            scnet.add_user("alice")
            assert submit(scnet, {"user": "alice"})[0] == 200
            status, answer = submit(scnet, {"user": "alice"})
            assert (status, answer["code"]) == (429, "815005")
            assert scnet.state()["users"]["alice"]["refused"] == 1


class TestLife:
    def test_start_and_stop_may_be_repeated(self):
        scnet = ScnetSimulator()
        with pytest.raises(RuntimeError, match="started"):
            _ = scnet.url
        assert scnet.start().start() is scnet
        assert scnet.url == f"http://127.0.0.1:{scnet.port}"
        scnet.stop()
        scnet.stop()
        with pytest.raises(ConnectionRefusedError):
            call(scnet, PATH)

    def test_a_simulator_comes_back_on_its_port_with_its_jobs(self, scnet):
        scnet.submit("alice")
        port = scnet.port
        scnet.stop()
        scnet.start()
        assert scnet.port == port
        assert asked_counts(scnet)["running"] == 1

    def test_a_taken_port_is_an_error(self, scnet):
        with pytest.raises(OSError, match="in use"):
            ScnetSimulator(port=scnet.port).start()

    @pytest.mark.parametrize(
        "fault",
        [
            Fault(delay=3600),
            Fault(drip=3600),
            Fault(drip=3600, drip_headers=True),
            Fault(body=b"x" * 100_000_000),
        ],
        ids=["delay", "drip", "drip_headers", "unread"],
    )
    def test_stop_releases_answers_under_way_and_open_connections(self, fault):
        threads = set(threading.enumerate())
        with ScnetSimulator() as scnet:
            scnet.order(fault)
            idle = socket.create_connection(("127.0.0.1", scnet.port))
            client = socket.create_connection(("127.0.0.1", scnet.port))
            client.sendall(f"GET {PATH} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            scnet.wait_for_requests(1)
        for thread in set(threading.enumerate()) - threads:
            thread.join(30)
            assert not thread.is_alive()
        client.close()
        idle.close()

    @pytest.mark.parametrize(
        "options", [{"slots": -1}, {"run_for": -1}, {"counted_after": math.nan}, {"queue_limit": -1}]
    )
    def test_options_that_make_no_sense_are_errors(self, options):
        with pytest.raises(ValueError, match=next(iter(options))):
            ScnetSimulator(**options)

    def test_unknown_user_is_one_of_two_answers(self):
        with pytest.raises(ValueError, match="unknown_user"):
            ScnetSimulator(unknown_user="404")

    def test_it_imports_neither_airflow_nor_requests(self):
        code = (
            "import sys, airflow_provider_scnet.testing.__main__;"
            "sys.exit(any(m.split('.')[0] in ('airflow', 'requests', 'pytest') for m in sys.modules))"
        )
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


class TestConnection:
    def test_the_connection_names_the_address_the_user_and_the_token(self, scnet):
        connection = {
            "conn_type": "scnet",
            "host": scnet.url,
            "login": "alice",
            "password": scnet.token("alice"),
            "extra": {"timeout": 5, "counted_after": scnet.cluster.counted_after},
        }
        assert scnet.connection(timeout=5) == connection
        assert json.loads(scnet.connection_json(timeout=5)) == connection

    def test_the_uri_keeps_every_character(self, scnet):
        scnet.add_user("a@b/c", token="t:/?#%+ é")
        uri = urlsplit(scnet.connection_uri("a@b/c"))
        assert (uri.scheme, uri.hostname, uri.port, uri.path) == ("scnet", "127.0.0.1", scnet.port, "/http")
        assert (unquote(uri.username), unquote(uri.password)) == ("a@b/c", "t:/?#%+ é")

    def test_airflow_reads_the_same_from_the_uri_as_from_json(self, scnet):
        connection_class = pytest.importorskip("airflow.models.connection").Connection
        for extra in ({}, {"verify": "/etc/a b.pem"}, {"timeout": 5, "proxies": {"http": "http://p"}}):
            of_uri = connection_class(uri=scnet.connection_uri(**extra))
            of_json = connection_class.from_json(scnet.connection_json(**extra))
            assert (of_uri.conn_type, of_uri.login, of_uri.password) == (
                of_json.conn_type,
                of_json.login,
                of_json.password,
            )
            assert f"{of_uri.schema}://{of_uri.host}:{of_uri.port}" == of_json.host == scnet.url
            assert of_uri.extra_dejson == of_json.extra_dejson == {"counted_after": 0.0} | extra

    def test_the_fixture_serves_alice_and_sets_the_default_connection(self, scnet_simulator):
        connection = json.loads(os.environ["AIRFLOW_CONN_SCNET_DEFAULT"])
        assert connection == scnet_simulator.connection("alice")
        assert asked_counts(scnet_simulator, token=connection["password"]) == ZEROS


class TestCommandLine:
    COMMAND = (sys.executable, "-m", "airflow_provider_scnet.testing")

    @pytest.fixture
    def served(self):
        """Start the command, read what it prints until it serves, and end it."""
        processes = []

        def serve(*arguments):
            process = subprocess.Popen(
                [*self.COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
            processes.append(process)
            lines = []
            for line in process.stdout:
                lines.append(line.rstrip("\n"))
                if line.startswith("Serving"):
                    return process, lines
            raise AssertionError(process.stderr.read())

        yield serve
        for process in processes:
            process.kill()
            process.communicate()

    @pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
    def test_it_serves_until_it_is_told_to_end(self, served, signum):
        process, lines = served()
        url = lines[0].rpartition(" ")[2]
        with urllib.request.urlopen(f"{url}/simulator/state") as answer:
            assert list(json.load(answer)["users"]) == ["alice"]
        process.send_signal(signum)
        assert process.communicate(timeout=30)[1] == ""
        assert process.returncode == 0

    def test_it_prints_commands_that_work(self, served):
        _, lines = served("--user", "o'neil", "--user", "bob", "--slots", "1", "--submit", "o'neil=3")
        exports = [shlex.split(line)[1].partition("=") for line in lines if line.startswith("export ")]
        variables = [name for name, _, _ in exports]
        assert variables == ["AIRFLOW_CONN_SCNET_DEFAULT"] * 2 + [
            "AIRFLOW_CONN_SCNET_BOB",
            "AIRFLOW_CONN_SCNET_KEYS",
            "SCNET_SIMULATOR_URL",
        ]
        connection = json.loads(exports[0][2])
        assert connection["login"] == "o'neil"
        assert unquote(urlsplit(exports[1][2]).password) == connection["password"]

        curls = [shlex.split(line) for line in lines if line.startswith("curl ")]
        (_, _, _, header, look), (_, _, state), (_, _, _, job, jobs), (_, _, _, method, cancel) = curls
        url = urlsplit(look)
        scnet = SimpleNamespace(port=url.port)
        name, _, value = header.partition(": ")
        body = json.loads(call(scnet, f"{url.path}?{url.query}", **{name: value}).body)
        assert [entry["y"] for entry in body["data"]] == [1, 2, 0, 0, 0]
        assert call(scnet, urlsplit(jobs).path, method="POST", body=job.encode()).status == 200
        told = json.loads(call(scnet, urlsplit(state).path).body)
        assert told["users"]["o'neil"]["submitted"] == 4
        url = urlsplit(cancel)
        assert json.loads(call(scnet, f"{url.path}?{url.query}", method=method).body) == ZEROS

    def test_it_names_what_the_example_dags_need(self, served):
        _, lines = served()
        (export,) = [line for line in lines if line.startswith("export SCNET_SIMULATOR_URL=")]
        (address,) = shlex.split(export)[1].split("=")[1:]
        # As scnet_gate.py submits.
        with urllib.request.urlopen(f"{address}/simulator/jobs", b'{"user": "alice", "jobs": 1}') as answer:
            assert json.load(answer) == {"ids": [1]}

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--port", "70000"], "70000 is not a port"),
            (["--port", "x"], "invalid int value: 'x'"),
            (["--slots", "-1"], "slots must be a whole number"),
            (["--run-for", "nan"], "run_for must be a number of seconds"),
            (["--counted-after", "-1"], "counted_after must be"),
            (["--user", "bob", "--user", "bob"], "'bob' already"),
            (["--user", ""], "a user needs a name"),
            (["--submit", "alice"], "'alice' is not USER=N"),
            (["--submit", "alice=-1"], "'alice=-1' is not USER=N"),
            (["--submit", "bob=1"], "no user 'bob'"),
            (["--queue", "gpu"], "'gpu' is not NAME=SLOTS"),
            (["--queue", "comp=1"], "a queue 'comp' already"),
            (["--colour"], "unrecognized arguments: --colour"),
        ],
    )
    def test_a_bad_argument_is_one_line(self, arguments, message):
        process = subprocess.run(
            [*self.COMMAND, *arguments], capture_output=True, text=True, check=False, timeout=60
        )
        assert process.returncode == 2
        assert process.stdout == ""
        assert message in process.stderr
        assert process.stderr.count("\n") == 1

    def test_a_port_in_use_is_one_line(self, scnet):
        process = subprocess.run(
            [*self.COMMAND, "--port", str(scnet.port)],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert process.returncode == 2
        assert process.stderr == (
            "python -m airflow_provider_scnet.testing: error: "
            f"cannot serve on 127.0.0.1:{scnet.port}: Address already in use\n"
        )


class TestPlatform:
    @pytest.fixture
    def scnet(self, scnet_simulator):
        scnet_simulator.add_access_keys("alice", platform_user='王 "小明"')
        return scnet_simulator

    def ask(self, scnet, **changed):
        """Ask for tokens, signed as the documentation shows; return the JSON."""
        keys = scnet.key_connection()["extra"]
        fields = {
            "accessKey": keys["access_key"],
            "timestamp": str(int(time.time())),
            "user": keys["platform_user"],
        }
        fields |= changed
        text = json.dumps(fields, separators=(",", ":"), ensure_ascii=False)
        signature = hmac.new(keys["secret_key"].encode(), text.encode(), hashlib.sha256).hexdigest()
        headers = {name: value.encode() for name, value in fields.items()} | {"signature": signature}
        return json.loads(call(scnet, "/api/user/v3/tokens", method="POST", **headers).body)

    def test_it_issues_a_token_for_each_region_and_one_that_opens_none(self, scnet):
        scnet.add_region("22", "East", in_arrears=True)
        body = self.ask(scnet)
        tokens = {each["clusterId"]: each["token"] for each in body["data"]}
        assert list(tokens) == ["0", "11112", "22"]
        assert tokens["22"] is None
        assert payload_of(tokens["11112"])["clusterId"] == "11112"
        assert ask(scnet, token=tokens["11112"])["code"] == "0"
        region = json.loads(call(scnet, "/ac/openapi/v2/center", token=tokens["11112"]).body)["data"]
        assert region["hpcUrls"] == [{"url": f"{scnet.url}/hpc", "enable": "true"}]
        assert region["clusterUserInfo"]["userName"] == "alice"
        assert json.loads(call(scnet, "/ac/openapi/v2/center", token=tokens["0"]).body)["code"] == "10001"

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"user": "nobody"}, "用户不存在"),
            ({"accessKey": "another"}, "AK/SK签名校验失败"),
            ({"timestamp": "1000000000"}, "AK/SK签名校验失败"),
        ],
    )
    def test_it_refuses_what_is_not_signed_well_or_in_time(self, scnet, changed, message):
        body = self.ask(scnet, **changed)
        assert body["code"] == "10009"
        assert body["msg"].startswith(message)

    def test_its_clock_is_in_every_answer(self, scnet):
        scnet.clock_ahead = 3600
        date = call(scnet, "/nowhere").headers["Date"]
        assert abs(parsedate_to_datetime(date).timestamp() - time.time() - 3600) < 5

    def test_tokens_issued_earlier_are_accepted_until_all_are_revoked(self, scnet):
        first, second = self.ask(scnet), self.ask(scnet)
        for body in (first, second):
            assert ask(scnet, token=body["data"][1]["token"])["code"] == "0"
        scnet.reject_token("alice")
        for body in (first, second):
            assert ask(scnet, token=body["data"][1]["token"]) == AUTH_FAIL

    def test_tokens_may_end_those_that_were_issued_earlier_to_the_same_user(self):
        with ScnetSimulator(ends_earlier_tokens=True) as scnet, ScnetSimulator() as east:
            for user in ("alice", "bob"):
                scnet.add_user(user)
            east.add_user("alice")
            scnet.add_access_keys("alice")
            scnet.add_region("22", "East", cluster=east)
            scnet.add_region("33", "West")
            first = self.ask(scnet)["data"]
            second = self.ask(scnet)["data"]
            for region, where in ((1, scnet), (2, east), (3, scnet)):
                assert ask(where, token=first[region]["token"]) == AUTH_FAIL
                assert ask(where, token=second[region]["token"])["code"] == "0"
            assert ask(scnet, "bob", token=scnet.token("bob"))["code"] == "0"

    def test_a_region_may_name_another_user_than_the_token(self, scnet):
        scnet.add_region("11112", "one", user_name="portal_alice")
        token = self.ask(scnet)["data"][1]["token"]
        region = json.loads(call(scnet, "/ac/openapi/v2/center", token=token).body)["data"]
        assert region["clusterUserInfo"]["userName"] == "portal_alice"
        assert payload_of(token)["computeUser"] == "alice"

    def test_a_region_may_have_several_addresses_one_of_which_goes_away(self, scnet):
        more = scnet.add_address()
        scnet.add_region("11112", "one", hpc_urls=[(more, True), (scnet.url, False)])
        token = self.ask(scnet)["data"][1]["token"]
        region = json.loads(call(scnet, "/ac/openapi/v2/center", token=token).body)["data"]
        assert region["hpcUrls"] == [{"url": more, "enable": "true"}, {"url": scnet.url, "enable": "false"}]
        there = SimpleNamespace(port=urlsplit(more).port)
        assert ask(there, token=token)["code"] == "0"
        assert scnet.requests[-1].headers["host"] == urlsplit(more).netloc
        scnet.remove_address(more)
        with pytest.raises(ConnectionRefusedError):
            ask(there, token=token)
        assert ask(scnet, token=token)["code"] == "0"

    def test_all_addresses_end_with_the_simulator(self):
        with ScnetSimulator() as scnet:
            more = scnet.add_address()
        with pytest.raises(ConnectionRefusedError):
            call(SimpleNamespace(port=urlsplit(more).port), "/")

    def test_faults_are_ordered_for_each_endpoint(self, scnet):
        scnet.order(Fault.api("10001", "busy"), path="/api/user/v3/tokens")
        assert ask(scnet)["code"] == "0"
        assert self.ask(scnet)["code"] == "10001"
        assert self.ask(scnet)["code"] == "0"

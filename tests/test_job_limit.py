# SPDX-License-Identifier: Apache-2.0
"""How many jobs a user may submit: what SCnet says of it, and when that is believed."""

from __future__ import annotations

import pytest

from airflow_provider_scnet.client.errors import ScnetAuthError, ScnetError
from airflow_provider_scnet.client.job_manager import LIMITS_PATH, SCHEDULER_PATH
from airflow_provider_scnet.hooks.scnet import ScnetHook
from airflow_provider_scnet.testing import Fault, ScnetSimulator


def answer(data: object) -> Fault:
    return Fault.api("0", "success", data)


def paths(scnet: ScnetSimulator) -> list[str]:
    return [request.path for request in scnet.requests]


class TestHook:
    def test_it_tells_the_limit_of_the_connections_user(self, scnet):
        assert ScnetHook().get_job_limit() is None
        scnet.set_most_jobs("alice", 300)
        assert ScnetHook().get_job_limit() == 300

    def test_access_keys_obtain_it_too(self, scnet, monkeypatch):
        scnet.set_most_jobs("alice", 300)
        scnet.add_access_keys("alice")
        monkeypatch.setenv("AIRFLOW_CONN_SCNET_DEFAULT", scnet.key_connection_json("alice"))
        assert ScnetHook().get_job_limit() == 300

    @pytest.mark.parametrize(
        "data", [[{"userMaxSubmitJob": 300}], {"userMaxSubmitJob": 300, "userMaxRunJob": None}]
    )
    def test_it_reads_a_list_as_documented_and_an_object_as_a_client_has_seen(self, scnet, data):
        scnet.order(answer(data), path=LIMITS_PATH)
        assert ScnetHook().get_job_limit() == 300

    @pytest.mark.parametrize("limit", [None, 0, -1, "300", "", "无", 300.0, True, [300], 10**9 + 1, 2**63 - 1])
    def test_what_may_mean_anything_is_no_limit(self, scnet, limit):
        scnet.order(answer([{"userMaxSubmitJob": limit}]), path=LIMITS_PATH)
        assert ScnetHook().get_job_limit() is None

    @pytest.mark.parametrize(
        "data", [None, [], {}, "300", 300, [None], [{"userMaxRunJob": 300}], [{"userMaxSubmitJob": 300}] * 2]
    )
    def test_an_answer_without_one_limit_has_none(self, scnet, data):
        scnet.order(answer(data), path=LIMITS_PATH)
        assert ScnetHook().get_job_limit() is None

    def test_of_several_schedulers_nobody_knows_which_takes_the_jobs(self, scnet):
        scnet.set_most_jobs("alice", 300)
        scnet.order(answer([{"id": 1}, {"id": 2}]), path=SCHEDULER_PATH)
        assert ScnetHook().get_job_limit() is None
        assert paths(scnet) == [SCHEDULER_PATH]

    def test_the_limit_of_the_tokens_user_is_nobody_elses(self, scnet, monkeypatch):
        scnet.set_most_jobs("alice", 300)
        uri = scnet.connection_uri("alice", allow_foreign_user=True).replace("//alice:", "//bob:")
        monkeypatch.setenv("AIRFLOW_CONN_SCNET_DEFAULT", uri)
        assert ScnetHook().get_job_limit() is None
        assert paths(scnet) == []

    def test_a_token_that_names_no_user_has_no_limit(self, scnet, connect):
        scnet.add_user("carol", token="opaque")
        scnet.set_most_jobs("carol", 300)
        connect(user="carol")
        assert ScnetHook().get_job_limit() is None

    def test_a_refused_token_is_an_error_of_that_kind(self, scnet):
        scnet.reject_token("alice")
        with pytest.raises(ScnetAuthError):
            ScnetHook().get_job_limit()

    def test_an_answer_that_repeats_the_token_does_not_show_it(self, scnet):
        scnet.order(Fault.api("10001", scnet.token("alice")), path=LIMITS_PATH)
        with pytest.raises(ScnetError, match=r"userquotas/userlimit: .*\*\*\*"):
            ScnetHook().get_job_limit()

# SPDX-License-Identifier: Apache-2.0
"""How the simulator takes, lists and counts jobs, in its queues and its regions, over real HTTP on loopback."""

from __future__ import annotations

from typing import Any

import pytest
import requests

from airflow_provider_scnet.hooks.scnet import ScnetHook
from airflow_provider_scnet.testing import (
    JOB_LIST_PATH,
    SUBMISSION_PATH,
    Fault,
    ScnetSimulator,
    SimulatorClock,
    SubmissionError,
)

HPC = "/hpc/openapi/v2"
SCHEDULER = "1637646236"
JOB = {
    "GAP_CMD_FILE": "hostname\nsleep 60",
    "GAP_NNODE": "1",
    "GAP_SUBMIT_TYPE": "cmd",
    "GAP_JOB_NAME": "STDIN_0101",
    "GAP_WORK_DIR": "/public/home/alice",
    "GAP_QUEUE": "comp",
    "GAP_NPROC": "1",
    "GAP_WALL_TIME": "00:10:00",
    "GAP_APPNAME": "BASE",
}
ZEROS = {"running": 0, "queued": 0, "held": 0, "suspended": 0, "other": 0}


@pytest.fixture
def clock() -> SimulatorClock:
    return SimulatorClock(frozen=True)


@pytest.fixture
def scnet(clock: SimulatorClock):
    with ScnetSimulator(slots=2, run_for=10, clock=clock) as simulator:
        simulator.add_user("alice")
        simulator.add_user("bob")
        simulator.add_queue("gpu", slots=1)
        yield simulator


def ask(
    scnet: ScnetSimulator, path: str, user: str = "alice", body: object = None, **query: str
) -> dict[str, Any]:
    answer = requests.request(
        "GET" if body is None else "POST",
        scnet.url + path,
        params=query,
        json=body,
        headers={"token": scnet.token(user)},
        timeout=30,
    )
    assert answer.status_code == 200
    return answer.json()


def submit(scnet: ScnetSimulator, user: str = "alice", **changed: Any) -> dict[str, Any]:
    return ask(scnet, SUBMISSION_PATH, user, {"strJobManagerID": SCHEDULER, "mapAppJobInfo": JOB | changed})


def listed(scnet: ScnetSimulator, **query: str) -> list[str]:
    asked = {"strClusterIDList": SCHEDULER, "strJobOwner": "alice"} | query
    data = ask(scnet, JOB_LIST_PATH, **asked)["data"]
    assert data["total"] == len(data["list"])
    return [job["jobId"] for job in data["list"]]


def by_queue(scnet: ScnetSimulator, user: str = "alice") -> Any:
    body = ask(scnet, f"{HPC}/view/queue/jobs", userName=user)
    assert body["code"] == "0"
    return body["data"] and {
        queue["name"]: {each["metricName"]: each["metricValue"] for each in queue["values"]}
        for queue in body["data"]
    }


class TestSubmission:
    def test_a_job_is_taken_as_the_documentation_shows(self, scnet):
        assert ask(scnet, f"{HPC}/cluster")["data"] == [
            {"id": int(SCHEDULER), "text": "模拟调度器", "JobManagerType": "SLURM"}
        ]
        assert submit(scnet) == {"code": "0", "msg": "success", "data": "1"}
        (job,) = scnet.jobs("alice")
        assert (job.id, job.name, job.queue, job.state) == (1, "STDIN_0101", "comp", "running")

    @pytest.mark.parametrize("missing", sorted(JOB.keys() - {"GAP_NPROC"}))
    @pytest.mark.parametrize("value", [None, ""])
    def test_what_is_required_and_missing_is_10003(self, scnet, missing, value):
        assert submit(scnet, **{missing: value}) == {"code": "10003", "msg": f"参数不全: {missing}", "data": None}
        assert scnet.jobs("alice") == []

    @pytest.mark.parametrize(
        "changed",
        [
            {"GAP_NNODE": 1},
            {"GAP_NNODE": "0"},
            {"GAP_SUBMIT_TYPE": "file"},
            {"GAP_APPNAME": "no name"},
            {"GAP_MULTI_SUB": "50"},
            {"GAP_JOB_MEM": "4"},
            {"GAP_WALL_TIME": "10 min"},
            {"GAP_WORK_DIR": "here"},
        ],
    )
    def test_what_is_wrong_is_10004(self, scnet, changed):
        (name,) = changed
        assert submit(scnet, **changed) == {"code": "10004", "msg": f"参数无效: {name}", "data": None}

    @pytest.mark.parametrize(
        "body", [[], "job", {}, {"strJobManagerID": SCHEDULER}, {"strJobManagerID": "1", "mapAppJobInfo": JOB}]
    )
    def test_a_body_that_is_no_job_is_refused(self, scnet, body):
        assert ask(scnet, SUBMISSION_PATH, body=body)["code"] in ("10003", "10004")
        assert scnet.jobs("alice") == []

    def test_a_refusal_comes_with_the_text_of_sbatch(self, scnet):
        scnet.add_queue("theirs", users=["bob"])
        scnet.set_most_jobs("alice", 1)
        failed = "Batch job submission failed: "
        assert submit(scnet)["code"] == "0"
        for changed, said in [
            ({}, f"AssocMaxSubmitJobLimit\nsbatch: error: {failed}Job violates accounting/QOS policy"),
            ({"GAP_QUEUE": "theirs"}, f"{failed}User's group not permitted to use this partition"),
            ({"GAP_QUEUE": "nowhere"}, f"{failed}Invalid partition name specified"),
        ]:
            body = submit(scnet, **changed)
            assert (body["code"], body["data"]) == ("815007", None)
            assert body["msg"].startswith(f"作业提交失败: sbatch: error: {said}")
        assert len(scnet.jobs("alice")) == 1

    def test_a_job_is_there_though_the_answer_never_came(self, scnet):
        scnet.order(Fault(drop="before"), path=SUBMISSION_PATH)
        with pytest.raises(requests.ConnectionError):
            submit(scnet)
        assert listed(scnet, strJobName="STDIN_0101") == ["1"]

    def test_an_answer_without_an_id_can_leave_a_job_or_none(self, scnet):
        for unheard in (True, False):
            scnet.order(Fault.api("0", "success", "", unheard=unheard), path=SUBMISSION_PATH)
            assert submit(scnet) == {"code": "0", "msg": "success", "data": ""}
            assert len(scnet.jobs("alice")) == (0 if unheard else 1)

    def test_nobody_submits_without_a_token(self, scnet):
        scnet.reject_token("alice")
        assert submit(scnet) == {"code": "10008", "msg": "auth_fail", "data": "token is invalid"}


class TestListOfJobs:
    def test_it_finds_jobs_by_owner_name_state_and_queue(self, scnet):
        scnet.submit("alice", 3, name="first")
        scnet.submit("alice", queue="gpu", name="second")
        scnet.submit("bob")
        assert listed(scnet) == ["1", "2", "3", "4"]
        assert listed(scnet, strJobName="sec") == ["4"]
        assert listed(scnet, strJobStat="statQ") == ["3"]
        assert listed(scnet, strQueueName="gpu", strJobStat="statR") == ["4"]
        assert listed(scnet, strJobOwner="bob") == []

    def test_an_entry_names_the_job_its_state_and_its_queue(self, scnet):
        submit(scnet, GAP_QUEUE="gpu")
        body = ask(scnet, JOB_LIST_PATH, strClusterIDList=SCHEDULER, strJobOwner="alice")
        (entry,) = body["data"]["list"]
        assert body["data"]["total"] == 1
        assert (
            entry.items() >= {"jobId": "1", "jobName": "STDIN_0101", "jobStatus": "statR", "queue": "gpu"}.items()
        )

    def test_it_comes_in_pages_of_25(self, scnet):
        scnet.submit("alice", 30)
        for query, ids in [({}, range(1, 26)), ({"start": "25"}, range(26, 31)), ({"limit": "2"}, range(1, 3))]:
            data = ask(scnet, JOB_LIST_PATH, strClusterIDList=SCHEDULER, strJobOwner="alice", **query)["data"]
            assert (data["total"], [int(job["jobId"]) for job in data["list"]]) == (30, list(ids))

    def test_a_job_that_has_ended_stays_for_five_minutes(self, scnet, clock):
        scnet.submit("alice")
        clock.advance(10)
        assert listed(scnet, strJobStat="statC") == ["1"]
        clock.advance(299)
        assert listed(scnet) == ["1"]
        clock.advance(1)
        assert listed(scnet) == []

    def test_a_job_appears_when_it_is_counted(self, clock):
        with ScnetSimulator(counted_after=5, clock=clock) as scnet:
            scnet.add_user("alice")
            scnet.submit("alice")
            assert listed(scnet) == []
            clock.advance(5)
            assert listed(scnet) == ["1"]

    @pytest.mark.parametrize(
        ("query", "code"),
        [
            ({"strJobOwner": "alice"}, "10003"),
            ({"strClusterIDList": SCHEDULER}, "10003"),
            ({"strJobOwner": "alice", "strClusterIDList": "1"}, "10004"),
            ({"strJobOwner": "alice", "strClusterIDList": SCHEDULER, "limit": "all"}, "10004"),
        ],
    )
    def test_a_question_that_makes_no_sense_is_an_error(self, scnet, query, code):
        assert ask(scnet, JOB_LIST_PATH, **query)["code"] == code


class TestQueues:
    def test_each_has_slots_of_its_own(self, scnet, clock):
        scnet.submit("alice", 3)
        scnet.submit("alice", 3, run_for=5, queue="gpu")
        assert scnet.counts("alice", "comp") == ZEROS | {"running": 2, "queued": 1}
        assert scnet.counts("alice", "gpu") == ZEROS | {"running": 1, "queued": 2}
        assert scnet.counts("alice") == ZEROS | {"running": 3, "queued": 3}
        clock.advance(5)
        assert scnet.counts("alice", "gpu") == ZEROS | {"running": 1, "queued": 1}
        assert [job.started_at for job in scnet.jobs("alice")] == [0, 0, None, 0, 5, None]

    def test_counts_come_by_queue_and_are_null_without_any_job(self, scnet):
        assert by_queue(scnet) is None
        scnet.submit("alice", 2, queue="gpu")
        assert by_queue(scnet) == {"gpu": {"R": 1, "Q": 1, "H": 0, "S": 0, "O": 0}}
        scnet.submit("alice", 1)
        assert list(by_queue(scnet)) == ["comp", "gpu"]
        assert by_queue(scnet, "bob") is None

    def test_what_is_pinned_for_a_queue_is_listed_and_leaves_the_whole_alone(self, scnet):
        scnet.set_counts("alice", queue="gpu", queued=0, held=2)
        assert by_queue(scnet) == {"gpu": {"R": 0, "Q": 0, "H": 2, "S": 0, "O": 0}}
        assert scnet.reported("alice") == ZEROS
        scnet.set_counts("alice", queue="gpu", held=0)
        assert by_queue(scnet) == {"gpu": {"R": 0, "Q": 0, "H": 0, "S": 0, "O": 0}}
        scnet.set_counts("alice", queue="gpu", queued=None, held=None)
        assert by_queue(scnet) is None

    def test_a_new_job_is_counted_late_in_its_queue_too(self, clock):
        with ScnetSimulator(counted_after=5, clock=clock) as scnet:
            scnet.add_user("alice")
            scnet.submit("alice")
            assert by_queue(scnet) is None
            clock.advance(5)
            assert list(by_queue(scnet)) == ["comp"]

    def test_a_user_learns_the_queues_it_may_use(self, scnet):
        scnet.add_queue("theirs", users=["bob"])
        scnet.submit("alice")
        body = ask(scnet, f"{HPC}/queuenames/users/alice", strJobManagerID=SCHEDULER)
        comp, gpu = body["data"]
        assert (comp["queueName"], comp["queNodes"], comp["queFreeNodes"]) == ("comp", "2", "1")
        assert (gpu["queueName"], gpu["queueEnabled"], gpu["queMaxWalltime"]) == ("gpu", True, "-1")
        body = ask(scnet, f"{HPC}/queuenames/users/bob", "bob", strJobManagerID=SCHEDULER)
        assert [queue["queueName"] for queue in body["data"]] == ["comp", "gpu", "theirs"]
        assert ask(scnet, f"{HPC}/queuenames/users/bob", strJobManagerID=SCHEDULER)["data"] == []
        assert ask(scnet, f"{HPC}/queuenames/users/alice")["code"] == "10003"

    def test_a_queue_can_be_disabled_and_takes_no_jobs_then(self, scnet):
        scnet.submit("alice", queue="gpu")
        scnet.set_queue_enabled("gpu", False)
        comp, gpu = ask(scnet, f"{HPC}/queuenames/users/alice", strJobManagerID=SCHEDULER)["data"]
        assert (comp["queueEnabled"], gpu["queueEnabled"]) == (True, False)
        with pytest.raises(SubmissionError, match="'gpu' is disabled") as caught:
            scnet.submit("alice", queue="gpu")
        assert "Required partition not available" in caught.value.sbatch
        assert scnet.counts("alice", "gpu")["running"] == 1
        scnet.set_queue_enabled("gpu", True)
        assert scnet.submit("alice", queue="gpu")

    def test_a_user_name_in_chinese_learns_its_queues_too(self, scnet):
        scnet.add_user("小明")
        body = ask(scnet, f"{HPC}/queuenames/users/小明", "小明", strJobManagerID=SCHEDULER)
        assert len(body["data"]) == 2

    def test_a_queue_that_is_removed_takes_its_jobs_along(self, scnet):
        scnet.submit("alice", 2, queue="gpu")
        scnet.submit("alice", 3)
        scnet.remove_queue("gpu")
        assert list(by_queue(scnet)) == ["comp"]
        assert scnet.counts("alice") == ZEROS | {"running": 2, "queued": 1}
        with pytest.raises(LookupError, match="no queue 'gpu'"):
            scnet.submit("alice", queue="gpu")

    def test_the_users_limit_is_told_and_kept(self, scnet):
        limits = {"userMaxSubmitJob": -1, "userMaxRunJob": -1}
        assert ask(scnet, f"{HPC}/userquotas/userlimit", strJobManagerID=SCHEDULER)["data"] == [limits]
        scnet.set_most_jobs("alice", 3)
        limits["userMaxSubmitJob"] = 3
        assert ask(scnet, f"{HPC}/userquotas/userlimit", strJobManagerID=SCHEDULER)["data"] == [limits]
        scnet.submit("alice", 3)
        with pytest.raises(SubmissionError, match="alice would have 4 jobs, 3 are allowed"):
            scnet.submit("alice", queue="gpu")
        assert scnet.submit("bob") == [4]

    def test_queues_are_unique_and_have_names(self, scnet):
        for name, message in [("gpu", "'gpu' already"), ("", "needs a name")]:
            with pytest.raises(ValueError, match=message):
                scnet.add_queue(name)

    @pytest.mark.parametrize("path", ["view/queue/jobs", "jobs", "cluster", "queuenames/users/alice"])
    def test_a_stranger_learns_nothing(self, scnet, path):
        scnet.submit("alice")
        scnet.reject_token("alice")
        assert ask(scnet, f"{HPC}/{path}", userName="alice", strJobOwner="alice")["code"] == "10008"


class TestRegions:
    @pytest.fixture
    def east(self, scnet):
        with ScnetSimulator() as simulator:
            scnet.add_access_keys("alice")
            scnet.add_region("22", "East", cluster=simulator)
            yield simulator

    def test_one_pair_of_keys_opens_two_clusters(self, scnet, east, monkeypatch):
        east.add_user("alice")
        east.submit("alice", 3)
        scnet.submit("alice", 2)
        monkeypatch.setenv("AIRFLOW_CONN_HOME", scnet.key_connection_json())
        monkeypatch.setenv("AIRFLOW_CONN_EAST", scnet.key_connection_json(cluster_id="22"))
        assert ScnetHook("home").get_job_counts().running == 2
        assert ScnetHook("east").get_job_counts().running == 3
        with ScnetHook("east").get_conn() as session:
            assert session.base_url == east.url
            assert ask(scnet, f"{HPC}/cluster")["code"] == "0"
            foreign = requests.get(f"{scnet.url}{HPC}/cluster", headers=dict(session.headers), timeout=30)
        assert foreign.json()["code"] == "10008"

    def test_a_region_may_know_the_account_by_another_user(self, scnet, east, monkeypatch):
        scnet.add_region("22", "East", cluster=east, user_name="alice_east")
        east.add_user("alice_east")
        east.submit("alice_east")
        monkeypatch.setenv("AIRFLOW_CONN_EAST", scnet.key_connection_json(cluster_id="22"))
        assert ScnetHook("east").get_job_counts().running == 1

    def test_where_the_account_has_no_user_there_is_no_token(self, scnet, east, monkeypatch):
        monkeypatch.setenv("AIRFLOW_CONN_EAST", scnet.key_connection_json(cluster_id="22"))
        ok, said = ScnetHook("east").test_connection()
        assert not ok
        assert "East" in said

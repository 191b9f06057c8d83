# SPDX-License-Identifier: Apache-2.0
"""How jobs go in the simulator, and how its list, detail, history, deletion and files show it, over real HTTP."""

from __future__ import annotations

import math
import re
from dataclasses import asdict
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
import requests

from airflow_provider_scnet.testing import (
    FILE_CONTENT_PATH,
    HISTORY_PATH,
    JOB_LIST_PATH,
    REFUSALS,
    SUBMISSION_PATH,
    Fault,
    JobPlan,
    JobQuirks,
    ScnetSimulator,
    SimulatorClock,
)

from pages import ROOT, blocks

SCHEDULER = "1637646236"
BEIJING = timezone(timedelta(hours=8))
JOB = {
    "GAP_CMD_FILE": "hostname",
    "GAP_NNODE": "2",
    "GAP_SUBMIT_TYPE": "cmd",
    "GAP_JOB_NAME": "run_1",
    "GAP_WORK_DIR": "/public/home/alice",
    "GAP_QUEUE": "comp",
    "GAP_PPN": "4",
    "GAP_WALL_TIME": "00:10:00",
    "GAP_STD_OUT_FILE": "/public/home/alice/out.%j",
    "GAP_APPNAME": "BASE",
}


@pytest.fixture
def clock() -> SimulatorClock:
    return SimulatorClock(frozen=True)


@pytest.fixture
def scnet(clock: SimulatorClock):
    with ScnetSimulator(slots=2, run_for=10, clock=clock) as simulator:
        simulator.add_user("alice")
        simulator.add_user("bob")
        yield simulator


def call(scnet: ScnetSimulator, method: str, path: str, user: str = "alice", **content: Any) -> Any:
    headers = {"token": scnet.token(user)}
    answer = requests.request(method, scnet.url + path, headers=headers, timeout=30, **content)
    assert answer.status_code == 200
    return answer.json()


def submit(scnet: ScnetSimulator, **changed: str) -> Any:
    body = {"strJobManagerID": SCHEDULER, "mapAppJobInfo": JOB | changed}
    return call(scnet, "POST", SUBMISSION_PATH, json=body)


def listed(scnet: ScnetSimulator, **asked: str) -> Any:
    params = {"strClusterIDList": SCHEDULER, "strJobOwner": "alice"} | asked
    return call(scnet, "GET", JOB_LIST_PATH, params=params)["data"]


def ids(data: Any) -> list[str]:
    return [entry["jobId"] for entry in data["list"]]


def detail(scnet: ScnetSimulator, job_id: int | str = 1, user: str = "alice") -> Any:
    body = call(scnet, "GET", f"{JOB_LIST_PATH}/{job_id}", user)
    assert body["code"] == "0"
    return body["data"]


def history(scnet: ScnetSimulator, **asked: str) -> Any:
    now = datetime.now(BEIJING)
    params = {
        "strClusterNameList": SCHEDULER,
        "startTime": f"{now - timedelta(hours=1):%F %T}",
        "endTime": f"{now + timedelta(hours=1):%F %T}",
        "timeType": "CUSTOM",
        "start": "0",
        "limit": "25",
        "isQueryByQueueTime": "false",
    }
    return call(scnet, "GET", HISTORY_PATH, params=params | asked)["data"]


def delete(scnet: ScnetSimulator, job_id: int, user: str = "alice", where: str = "data") -> Any:
    sent = {"jobMethod": "5", "strJobInfoMap": f"{SCHEDULER},{user}:{job_id}:"}
    return call(scnet, "DELETE", JOB_LIST_PATH, **{where: sent})


def test_the_api_reference_names_all_options_of_the_job_interfaces():
    assert "::: airflow_provider_scnet.testing.JobQuirks" in (ROOT / "docs" / "en" / "api.md").read_text()
    assert re.findall(r":param (\w+):", JobQuirks.__doc__ or "") == list(asdict(JobQuirks()))


def test_what_the_page_shows_of_jobs_is_so(scnet_simulator):
    (block,) = [
        block for block in blocks(ROOT / "docs" / "en" / "testing.md") if "# test_my_jobs.py" in block.text
    ]
    shown: dict[str, Any] = {}
    exec(block.text, shown)
    tests = [each for name, each in shown.items() if name.startswith("test_")]
    assert len(tests) == 2
    for test in tests:
        test(scnet_simulator)


class TestEnds:
    @pytest.mark.parametrize(
        ("plan", "slurm", "code", "reason", "in_history"),
        [
            (JobPlan(), "COMPLETED", "0:0", "None", "statC"),
            (JobPlan(outcome="FAILED", exit_code="37:0"), "FAILED", "37:0", "NonZeroExitCode", "statD"),
            (JobPlan(run_for=math.inf), "TIMEOUT", "0:15", "TimeLimit", "statT"),
            (JobPlan(outcome="OUT_OF_MEMORY"), "OUT_OF_MEMORY", "0:125", "OutOfMemory", "statD"),
            (JobPlan(outcome="NODE_FAIL"), "NODE_FAIL", "1:0", "NodeDown", "statN"),
            (JobPlan(outcome="CANCELLED", reason="JobHeldAdmin"), "CANCELLED", "0:15", "JobHeldAdmin", "statDE"),
        ],
    )
    def test_a_job_ends_as_planned(self, scnet, clock, plan, slurm, code, reason, in_history):
        scnet.plan_jobs(plan)
        submit(scnet)
        assert detail(scnet)["jobInitAttr"]["JobState"] == "RUNNING"
        clock.advance(600 if plan.run_for else 10)
        shown = detail(scnet)
        assert (shown["jobStatus"], shown["exitCode"]) == ("statC", "")
        record = shown["jobInitAttr"]
        assert (record["JobState"], record["ExitCode"], record["Reason"]) == (slurm, code, reason)
        (entry,) = history(scnet)["list"]
        assert (entry["jobId"], entry["jobState"]) == ("1", in_history)
        assert entry["jobExitStatus"] == ("0" if code == "0:0" else "10005")

    def test_plans_are_for_the_next_jobs_or_for_those_with_a_name(self, scnet, clock):
        scnet.plan_jobs(JobPlan(outcome="FAILED"), times=2)
        scnet.plan_jobs(JobPlan(outcome="NODE_FAIL"), name="lost", times=None)
        for name in ("a", "lost_1", "lost_2", "b", "lost_3"):
            scnet.submit("alice", name=name)
            clock.advance(10)
        ends = [job.end.outcome for job in scnet.jobs("alice")]
        assert ends == ["FAILED", "FAILED", "NODE_FAIL", "COMPLETED", "NODE_FAIL"]

    def test_a_job_is_ended_by_hand_queued_or_running(self, scnet):
        scnet.submit("alice", 3, math.inf)
        scnet.end_job(3)
        scnet.end_job(1, "FAILED", "2:0")
        assert [(job.state, job.end and job.end.exit_code) for job in scnet.jobs("alice")] == [
            ("ended", "2:0"),
            ("running", None),
            ("ended", "0:0"),
        ]
        with pytest.raises(LookupError, match="has ended"):
            scnet.end_job(1)
        with pytest.raises(LookupError, match="no job 9"):
            scnet.end_job(9)

    @pytest.mark.parametrize(
        "plan",
        [{"outcome": "LOST"}, {"exit_code": "1"}, {"run_for": -1}, {"requeued_as": "RUNNING"}, {"requeues": -1}],
    )
    def test_a_plan_that_makes_no_sense_is_an_error(self, plan):
        with pytest.raises(ValueError, match=next(iter({"requeued_as": "outcome"}.get(k, k) for k in plan))):
            JobPlan(**plan)


class TestRequeues:
    def test_a_job_runs_again_under_its_id_and_history_names_each_run(self, scnet, clock):
        scnet.submit("alice", plan=JobPlan(run_for=5, requeues=2, output="done"))
        clock.advance(12)
        (job,) = scnet.jobs("alice")
        assert (job.id, job.state, len(job.earlier_runs)) == (1, "running", 2)
        assert [entry["jobState"] for entry in history(scnet)["list"]] == ["statN", "statN"]
        assert detail(scnet)["jobInitAttr"]["JobState"] == "RUNNING"
        clock.advance(3)
        assert [entry["jobState"] for entry in history(scnet)["list"]] == ["statC", "statN", "statN"]

    def test_until_it_is_queued_again_it_looks_as_if_it_had_ended(self, scnet, clock):
        plan = JobPlan(run_for=5, requeues=1, requeued_as="PREEMPTED", requeued_after=30)
        scnet.submit("alice", plan=plan)
        clock.advance(5)
        assert detail(scnet)["jobInitAttr"]["JobState"] == "PREEMPTED"
        assert [entry["jobState"] for entry in history(scnet)["list"]] == ["statRQ"]
        assert scnet.counts("alice")["running"] == 0
        clock.advance(30)
        assert scnet.counts("alice")["running"] == 1

    def test_a_job_that_waits_for_its_next_run_can_be_deleted(self, scnet, clock):
        scnet.submit("alice", plan=JobPlan(run_for=5, requeues=1, requeued_after=30))
        clock.advance(5)
        delete(scnet, 1)
        clock.advance(100)
        assert [job.end.outcome for job in scnet.jobs("alice")] == ["CANCELLED"]

    def test_one_is_queued_again_by_hand_running_or_ended(self, scnet, clock):
        scnet.submit("alice", 3, run_for=10)
        scnet.requeue_job(1)
        assert [job.state for job in scnet.jobs("alice")] == ["queued", "running", "running"]
        with pytest.raises(LookupError, match="is queued"):
            scnet.requeue_job(1)
        clock.advance(20)
        scnet.requeue_job(2)
        assert [job.state for job in scnet.jobs("alice")] == ["ended", "running", "ended"]


class TestEntries:
    def test_the_detail_shows_where_it_writes_and_what_it_takes(self, scnet):
        submit(scnet)
        shown = detail(scnet)
        assert (shown["nodeUsed"], shown["procNumUsed"], shown["user"]) == ("2", "8", "alice")
        assert shown["outputPath"] == "/public/home/alice/out.1"
        assert shown["errorPath"] == "/public/home/alice/std.err.1"

    def test_the_detail_of_nobodys_or_anothers_job_is_null(self, scnet):
        scnet.submit("bob")
        assert detail(scnet, "queues") is detail(scnet, 7) is detail(scnet, 1) is None
        assert detail(scnet, 1, "bob")["jobId"] == "1"

    def test_times_are_those_of_beijing(self, scnet, clock):
        submit(scnet)
        started = datetime.strptime(listed(scnet)["list"][0]["jobStartTime"], "%Y-%m-%d %H:%M:%S")
        assert abs(started.replace(tzinfo=BEIJING) - datetime.now(timezone.utc)) < timedelta(minutes=5)
        clock.advance(10)
        in_utc = {
            name: f"{datetime.now(timezone.utc) + timedelta(hours=h):%F %T}"
            for name, h in [("startTime", -1), ("endTime", 1)]
        }
        assert history(scnet, **in_utc) == {"total": 0, "list": []}
        scnet.quirks = JobQuirks(utc_offset=0)
        assert ids(history(scnet, **in_utc)) == ["1"]

    @pytest.mark.parametrize(
        ("asked", "found"),
        [
            ({}, ["3", "2", "1"]),
            ({"sort": "ASC"}, ["1", "2", "3"]),
            ({"jobName": "run"}, ["3", "1"]),
            ({"jobId": "2"}, ["2"]),
            ({"jobState": "statD"}, ["2"]),
            ({"strUser": "bob"}, []),
            ({"start": "1", "limit": "1"}, ["2"]),
        ],
    )
    def test_history_is_asked_by_name_id_state_and_user(self, scnet, clock, asked, found):
        for name in ("run_1", "other", "run_2"):
            scnet.submit("alice", name=name, plan=JobPlan(outcome="FAILED") if name == "other" else None)
            clock.advance(10)
        assert ids(history(scnet, **asked)) == found

    @pytest.mark.parametrize(
        ("asked", "code"),
        [
            ({"startTime": ""}, "10003"),
            ({"strClusterNameList": "1"}, "10004"),
            ({"endTime": "2026-10-01T00:00:00Z"}, "10004"),
            ({"timeType": "DAY"}, "10004"),
            ({"isQueryByQueueTime": "0"}, "10004"),
        ],
    )
    def test_a_question_to_history_that_makes_no_sense_is_an_error(self, scnet, asked, code):
        now = f"{datetime.now(BEIJING):%F %T}"
        params = {
            "strClusterNameList": SCHEDULER,
            "startTime": now,
            "endTime": now,
            "timeType": "CUSTOM",
            "start": "0",
            "limit": "25",
            "isQueryByQueueTime": "false",
        }
        assert call(scnet, "GET", HISTORY_PATH, params=params | asked)["code"] == code


class TestDeletion:
    def test_a_queued_and_a_running_job_are_cancelled(self, scnet):
        scnet.submit("alice", 3)
        assert delete(scnet, 3) == {"code": "0", "msg": "success", "data": {SCHEDULER: "success"}}
        delete(scnet, 1)
        assert [job.state for job in scnet.jobs("alice")] == ["ended", "running", "ended"]
        assert detail(scnet, 3)["jobInitAttr"]["JobState"] == "CANCELLED"

    def test_nobody_deletes_the_jobs_of_another(self, scnet):
        scnet.submit("bob")
        delete(scnet, 1)
        delete(scnet, 1, user="bob")
        assert scnet.counts("bob")["running"] == 1

    def test_it_takes_effect_late(self, scnet, clock):
        scnet.quirks = JobQuirks(cancelled_after=5)
        scnet.submit("alice", 3)
        for _ in range(2):
            delete(scnet, 1)
        assert scnet.counts("alice")["running"] == 2
        clock.advance(5)
        assert [job.state for job in scnet.jobs("alice")] == ["ended", "running", "running"]

    @pytest.mark.parametrize(("quirk", "works"), [("body", "data"), ("query", "params"), ("nowhere", "")])
    def test_what_is_sent_where_it_is_not_read_has_code_0_and_no_effect(self, scnet, quirk, works):
        scnet.quirks = JobQuirks(deletion=quirk)
        scnet.submit("alice", 2)
        for job_id, where in ((1, "data"), (2, "params")):
            assert delete(scnet, job_id, where=where)["code"] == "0"
            assert (scnet.jobs("alice")[job_id - 1].state == "ended") == (where == works)


class TestQuirks:
    def test_list_detail_and_history_are_late_each_by_its_own_time(self, scnet, clock):
        scnet.quirks = JobQuirks(listed_after=20, detailed_after=5, in_history_after=60, listed_for=30)
        submit(scnet)
        seen = []
        for _ in range(8):
            seen.append((bool(listed(scnet)["list"]), detail(scnet) is not None, bool(history(scnet)["list"])))
            clock.advance(10)
        # It ends at 10 s.
        assert [list(map(int, each)) for each in seen] == [
            [0, 0, 0],
            [0, 1, 0],
            [1, 1, 0],
            [1, 1, 0],
            [0, 0, 0],
            [0, 0, 0],
            [0, 0, 0],
            [0, 0, 1],
        ]

    def test_a_name_is_matched_in_part_or_exactly(self, scnet, clock):
        submit(scnet)
        clock.advance(10)
        asked = [("run", 1), ("run_1", 1), ("Run", 0)]
        assert [len(listed(scnet, strJobName=name)["list"]) for name, _ in asked] == [n for _, n in asked]
        scnet.quirks = JobQuirks(name_match="exact")
        for ask, field in ((listed, "strJobName"), (history, "jobName")):
            assert [len(ask(scnet, **{field: name})["list"]) for name in ("run", "run_1")] == [0, 1]

    def test_names_can_be_cut_or_changed(self, scnet):
        scnet.quirks = JobQuirks(rename=lambda name: name[:3].upper())
        submit(scnet)
        assert listed(scnet)["list"][0]["jobName"] == detail(scnet)["jobName"] == "RUN"

    def test_emptiness_can_be_null(self, scnet):
        scnet.quirks = JobQuirks(empty_is_null=True)
        assert listed(scnet) is history(scnet) is None
        scnet.submit("alice")
        assert ids(listed(scnet)) == ["1"]

    def test_an_ended_job_may_not_say_how_it_ended(self, scnet, clock):
        scnet.quirks = JobQuirks(slurm_record=False)
        scnet.submit("alice", plan=JobPlan(outcome="FAILED"))
        clock.advance(10)
        shown = detail(scnet)
        assert shown["jobStatus"] == "statC"
        assert "jobInitAttr" not in shown

    def test_pages_can_be_small_or_always_the_first(self, scnet):
        scnet.submit("alice", 7)
        scnet.quirks = JobQuirks(largest_page=3)
        data = listed(scnet, start="3", limit="100")
        assert (data["total"], ids(data)) == (7, ["4", "5", "6"])
        scnet.quirks = JobQuirks(ignores_start=True)
        assert ids(listed(scnet, start="3", limit="2")) == ["1", "2"]

    def test_counts_can_be_stale(self, clock):
        with ScnetSimulator(slots=1, run_for=10, counts_refreshed_every=60, clock=clock) as scnet:
            scnet.add_user("alice")
            clock.advance(55)
            scnet.submit("alice", 2)
            assert sum(scnet.reported("alice").values()) == 0
            clock.advance(5)
            assert scnet.reported("alice") == scnet.counts("alice")
            assert (scnet.reported("alice")["running"], scnet.reported("alice")["queued"]) == (1, 1)
            clock.advance(59)
            assert scnet.counts("alice")["running"] == 0
            assert (scnet.reported("alice")["running"], scnet.reported("alice")["queued"]) == (1, 1)
            clock.advance(1)
            assert sum(scnet.reported("alice").values()) == 0

    @pytest.mark.parametrize(
        "options",
        [
            {"listed_after": -1},
            {"in_history_after": "soon"},
            {"largest_page": 0},
            {"name_match": "some"},
            {"deletion": "post"},
        ],
    )
    def test_options_that_make_no_sense_are_errors(self, options):
        with pytest.raises(ValueError, match=next(iter(options))):
            JobQuirks(**options)


class TestAnswersToSubmissions:
    @pytest.mark.parametrize("taken", [True, False])
    def test_an_answer_is_lost_before_or_after_the_job_was_taken(self, scnet, taken):
        scnet.order(Fault.lost(taken=taken), path=SUBMISSION_PATH)
        with pytest.raises(requests.ConnectionError):
            submit(scnet)
        assert len(scnet.jobs("alice")) == taken

    @pytest.mark.parametrize("text", REFUSALS)
    def test_each_refusal_comes_with_slurms_text_and_takes_no_job(self, scnet, text):
        scnet.order(Fault.refusal(text), path=SUBMISSION_PATH)
        msg = f"作业提交失败: sbatch: error: {REFUSALS[text]}"
        assert submit(scnet) == {"code": "815007", "msg": msg, "data": None}
        assert scnet.jobs("alice") == []

    def test_faults_are_ordered_for_one_method_and_for_all_details(self, scnet):
        submit(scnet)
        scnet.order(Fault.api("10001", "内部错误"), path=JOB_LIST_PATH, method="DELETE")
        scnet.order(Fault.api("0", "success", None), path=f"{JOB_LIST_PATH}/")
        assert ids(listed(scnet)) == ["1"]
        assert delete(scnet, 1)["code"] == "10001"
        assert detail(scnet) is None
        assert detail(scnet)["jobId"] == "1"

    @pytest.mark.parametrize("both", [{"GAP_NPROC": "4"}, {"GAP_NODE_STRING": "node1"}])
    def test_what_excludes_each_other_is_10004(self, scnet, both):
        assert submit(scnet, **both)["code"] == "10004"

    def test_nodes_may_be_named_in_place_of_their_number(self, scnet):
        assert submit(scnet, GAP_NODE_STRING="node1,node2", GAP_NNODE="")["code"] == "0"


class TestFiles:
    def read(self, scnet: ScnetSimulator, path: str, **changed: str) -> Any:
        form = {"hostName": "", "dirPath": path, "triggerNum": "1", "rollDirection": "UP"} | changed
        return call(scnet, "POST", FILE_CONTENT_PATH, data=form)

    def test_a_job_writes_when_it_has_started(self, scnet, clock):
        scnet.submit("bob", 2)
        scnet.plan_jobs(JobPlan(output="step 1\nstep 2\n", error_output="no such file\n"))
        submit(scnet)
        out, err = "/public/home/alice/out.3", "/public/home/alice/std.err.3"
        assert self.read(scnet, out)["data"]["data"] == ""
        clock.advance(10)
        assert self.read(scnet, out)["data"] == {
            "data": "step 1\nstep 2\n",
            "totalTriggerTimes": 1,
            "allLineTotal": 2,
        }
        assert self.read(scnet, err)["data"]["data"] == "no such file\n"

    def test_a_file_that_does_not_exist_reads_as_an_empty_one(self, scnet):
        assert self.read(scnet, "/nowhere")["data"] == {"data": "", "totalTriggerTimes": 0, "allLineTotal": 0}

    def test_it_comes_in_pages_of_a_thousand_lines_from_either_end(self, scnet):
        scnet.write_file("/f", "".join(f"{n}\n" for n in range(2500)))
        for direction, page, first, last in [
            ("UP", 1, 1500, 2499),
            ("UP", 3, 0, 499),
            ("DOWN", 1, 0, 999),
            ("DOWN", 3, 2000, 2499),
        ]:
            data = self.read(scnet, "/f", triggerNum=str(page), rollDirection=direction)["data"]
            lines = data["data"].split()
            assert (lines[0], lines[-1], data["totalTriggerTimes"]) == (str(first), str(last), 3)
        assert self.read(scnet, "/f", triggerNum="4")["data"]["data"] == ""

    @pytest.mark.parametrize(
        "changed", [{"dirPath": "f"}, {"triggerNum": "0"}, {"rollDirection": "LEFT"}, {"triggerNum": "x"}]
    )
    def test_a_question_that_makes_no_sense_is_10004(self, scnet, changed):
        assert self.read(scnet, "/f", **changed)["code"] == "10004"


class TestFromOtherProcesses:
    def test_jobs_are_planned_and_told(self, scnet, clock):
        plan = {"outcome": "FAILED", "exit_code": "3:0", "output": "oh", "times": 2, "name": "run"}
        assert requests.post(f"{scnet.url}/simulator/plans", json=plan, timeout=30).status_code == 200
        submit(scnet)
        clock.advance(10)
        (job,) = requests.get(f"{scnet.url}/simulator/jobs", params={"user": "alice"}, timeout=30).json()
        assert (job["id"], job["name"], job["state"], job["outcome"], job["exit_code"]) == (
            1,
            "run_1",
            "ended",
            "FAILED",
            "3:0",
        )

    @pytest.mark.parametrize("plan", [{"outcome": "LOST"}, {"how": "badly"}, {"times": 0}, []])
    def test_a_plan_that_makes_no_sense_is_http_400(self, scnet, plan):
        assert requests.post(f"{scnet.url}/simulator/plans", json=plan, timeout=30).status_code == 400

    def test_nobodys_jobs_are_http_400(self, scnet):
        assert requests.get(f"{scnet.url}/simulator/jobs", timeout=30).status_code == 400

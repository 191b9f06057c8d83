# SPDX-License-Identifier: Apache-2.0
"""The hook's methods for jobs, against the simulator over real HTTP on loopback."""

from __future__ import annotations

import asyncio
import dataclasses
import pickle
from collections import Counter
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from airflow_provider_scnet.client import job_lists
from airflow_provider_scnet.client import poll as poll_module
from airflow_provider_scnet.client.errors import (
    ErrorKind,
    ScnetApiError,
    ScnetAuthError,
    ScnetConfigError,
    ScnetConnectionError,
    ScnetError,
    ScnetJobLimitError,
    ScnetResponseError,
    ScnetSubmissionRefusedError,
    ScnetSubmissionUnknownError,
)
from airflow_provider_scnet.client.job_counts import JobCounts
from airflow_provider_scnet.client.job_manager import SCHEDULER_PATH
from airflow_provider_scnet.client.job_request import JobRequest
from airflow_provider_scnet.client.job_state import JobState
from airflow_provider_scnet.client.observation import Observation
from airflow_provider_scnet.client.reported_job import BEIJING
from airflow_provider_scnet.hooks.polled_connection import PolledConnection
from airflow_provider_scnet.hooks.scnet import ScnetHook
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

SCHEDULER = "1637646236"
ASKED: dict[str, Any] = {
    "command": "hostname",
    "work_dir": "/public/home/alice",
    "queue_name": "comp",
    "wall_time": "01:00:00",
    "job_name": "run_1",
}
JOB = JobRequest(**ASKED)
DETAIL_PATH = f"{JOB_LIST_PATH}/"
AN_HOUR = timedelta(hours=1)


@pytest.fixture
def clock() -> SimulatorClock:
    return SimulatorClock(frozen=True)


@pytest.fixture
def scnet(clock: SimulatorClock, monkeypatch: pytest.MonkeyPatch):
    with ScnetSimulator(slots=2, run_for=10, clock=clock) as simulator:
        simulator.add_user("alice")
        simulator.add_user("bob")
        monkeypatch.setenv("AIRFLOW_CONN_SCNET_DEFAULT", simulator.connection_json("alice"))
        yield simulator


def hook() -> ScnetHook:
    return ScnetHook()


def data(value: object) -> Fault:
    return Fault.api("0", "success", value)


def sent(scnet: ScnetSimulator) -> Counter[str]:
    return Counter(
        f"{request.method} {request.path.removeprefix('/hpc/openapi/v2/')}" for request in scnet.requests
    )


def since(time: timedelta = AN_HOUR) -> datetime:
    return datetime.now(timezone.utc) - time


class TestSubmission:
    def test_a_job_is_submitted_and_its_id_returned(self, scnet):
        scnet.submit("bob")
        job = JobRequest(**ASKED | {"nodes": 2, "cores_per_node": 4, "stdout": "out.%j"})
        assert hook().submit_job(job) == "2"
        (taken,) = scnet.jobs("alice")
        assert (taken.name, taken.queue, taken.terms.command) == ("run_1", "comp", "hostname")
        assert (taken.terms.nodes, taken.terms.cores, taken.terms.wall_time) == (2, 8, 3600)
        assert (taken.stdout, taken.stderr) == (job.stdout_of("2"), job.stderr_of("2"))

    def test_the_scheduler_is_asked_for_unless_it_is_known(self, scnet):
        hook().submit_job(JOB)
        assert sent(scnet) == {"GET cluster": 1, "POST apptemplates/BASIC/BASE/job": 1}
        assert hook().get_scheduler_id() == SCHEDULER
        hook().submit_job(JOB, scheduler_id=SCHEDULER)
        assert sent(scnet)["GET cluster"] == 2

    def test_of_several_schedulers_one_has_to_be_named(self, scnet):
        scnet.order(data([{"id": 1}, {"id": 2}]), path=SCHEDULER_PATH)
        with pytest.raises(
            ScnetConfigError, match=r"several schedulers \(1, 2\): name one of them as scheduler_id"
        ):
            hook().submit_job(JOB)
        assert scnet.jobs("alice") == []

    @pytest.mark.parametrize("value", ["7", 7, {"jobId": "7"}, {"jobid": 7}])
    def test_the_id_is_a_text_or_a_number(self, scnet, value):
        scnet.order(data(value), path=SUBMISSION_PATH)
        assert hook().submit_job(JOB) == "7"

    @pytest.mark.parametrize("name", [name for name in REFUSALS if "limit" in name])
    def test_a_limit_is_known_by_slurms_reason(self, scnet, name):
        scnet.order(Fault.refusal(name), path=SUBMISSION_PATH)
        with pytest.raises(ScnetJobLimitError, match="SubmitJob") as caught:
            hook().submit_job(JOB)
        assert caught.value.kind is ErrorKind.TRANSIENT
        assert scnet.jobs("alice") == []

    def test_the_limit_of_the_cluster_is_one(self, scnet):
        scnet.set_most_jobs("alice", 1)
        hook().submit_job(JOB)
        with pytest.raises(ScnetJobLimitError):
            hook().submit_job(JOB)
        assert len(scnet.jobs("alice")) == 1

    @pytest.mark.parametrize("name", list(REFUSALS)[9:])
    def test_a_refusal_is_known_by_slurms_text_and_is_no_limit(self, scnet, name):
        scnet.order(Fault.refusal(name), path=SUBMISSION_PATH)
        with pytest.raises(ScnetSubmissionRefusedError) as caught:
            hook().submit_job(JOB)
        assert not isinstance(caught.value, ScnetJobLimitError)
        assert caught.value.kind is ErrorKind.PERMANENT
        assert (caught.value.code, REFUSALS[name].splitlines()[-1][-20:] in str(caught.value)) == ("815007", True)
        assert "connection 'scnet_default'" in str(caught.value)
        assert "job 'run_1'" in str(caught.value)

    @pytest.mark.parametrize("name", list(REFUSALS)[:5])
    def test_what_leaves_it_open_is_no_refusal(self, scnet, name):
        scnet.order(Fault.refusal(name), path=SUBMISSION_PATH)
        with pytest.raises(ScnetSubmissionUnknownError, match="nobody knows whether SCnet took the job"):
            hook().submit_job(JOB)

    def test_a_refusal_after_an_attempt_that_timed_out_leaves_it_open(self, scnet):
        text = f"Socket timed out on send/recv operation\nsbatch: error: {REFUSALS['queue']}"
        scnet.order(Fault.refusal(text), path=SUBMISSION_PATH)
        with pytest.raises(ScnetSubmissionUnknownError):
            hook().submit_job(JOB)

    @pytest.mark.parametrize("code", ["10003", "10004", "10007", "10009", "911009"])
    def test_what_scnet_itself_turns_away_is_refused(self, scnet, code):
        scnet.order(Fault.api(code, "参数无效", unheard=True), path=SUBMISSION_PATH)
        with pytest.raises(ScnetSubmissionRefusedError, match=rf"code {code}.*参数无效") as caught:
            hook().submit_job(JOB)
        assert caught.value.kind is ErrorKind.PERMANENT

    def test_a_token_that_is_refused_submits_nothing_and_is_not_tried_twice(self, scnet, monkeypatch):
        scnet.add_access_keys("alice")
        monkeypatch.setenv("AIRFLOW_CONN_SCNET_DEFAULT", scnet.key_connection_json("alice"))
        scnet.order(Fault.api("10008", "auth_fail", "token is invalid", unheard=True), path=SUBMISSION_PATH)
        with pytest.raises(ScnetSubmissionRefusedError) as caught:
            hook().submit_job(JOB)
        assert caught.value.kind is ErrorKind.CREDENTIALS
        assert sent(scnet)["POST apptemplates/BASIC/BASE/job"] == 1

    @pytest.mark.parametrize(
        "fault",
        [
            Fault.lost(taken=True),
            Fault.lost(taken=False),
            Fault(drop="body"),
            Fault(body=""),
            Fault(body='{"code": "0", "code": "0", "data": "1"}'),
            Fault.html(200, "<p>Login"),
            Fault.html(502, "Bad Gateway"),
            Fault.redirect("/login"),
            Fault(status=429),
            Fault(status=403),
            Fault.api("0", "success", "1", status=500),
            Fault.api("815007", REFUSALS["queue"], status=502),
            Fault.api("10004", "参数无效", status=429),
            *(
                data(value)
                for value in (None, "", "0", 0, -1, True, [], {}, "job 7", "7_1", "７", 7.0, {"id": "7"})
            ),
            *(Fault.api(code, "?") for code in ("10001", "10012", "10013", "815005", "815007", "911404", "4711")),
            Fault.api("815007", None),
            Fault.api("815007", "sbatch: error: Batch job submission failed: Unspecified error"),
            Fault.api("815007", "Job violates some policy"),
            Fault(body={"code": None, "msg": REFUSALS["queue"]}),
        ],
        ids=repr,
    )
    def test_everything_else_is_ambiguous_and_sent_once(self, scnet, fault):
        scnet.order(fault, path=SUBMISSION_PATH)
        with pytest.raises(ScnetSubmissionUnknownError, match="ask for it by its name") as caught:
            hook().submit_job(JOB)
        assert caught.value.kind is ErrorKind.UNCLEAR
        assert sent(scnet)["POST apptemplates/BASIC/BASE/job"] == 1

    def test_no_answer_in_time_is_ambiguous(self, scnet, monkeypatch):
        monkeypatch.setenv("AIRFLOW_CONN_SCNET_DEFAULT", scnet.connection_json("alice", timeout=1))
        scnet.order(Fault(delay=60), path=SUBMISSION_PATH)
        with pytest.raises(ScnetSubmissionUnknownError, match="no whole answer within 1 s"):
            hook().submit_job(JOB)
        assert len(scnet.jobs("alice")) == 1

    @pytest.mark.parametrize("fault", [Fault.lost(taken=True), Fault.api("10001", "内部错误"), data([])], ids=repr)
    def test_where_the_scheduler_is_not_known_nothing_is_sent_and_no_error_says_otherwise(self, scnet, fault):
        scnet.order(fault, path=SCHEDULER_PATH)
        with pytest.raises(ScnetError) as caught:
            hook().submit_job(JOB)
        assert not isinstance(caught.value, ScnetSubmissionUnknownError)
        assert scnet.jobs("alice") == []

    def test_a_job_that_would_be_another_users_is_not_submitted(self, scnet, monkeypatch):
        uri = scnet.connection_uri("alice").replace("//alice:", "//bob:")
        monkeypatch.setenv("AIRFLOW_CONN_SCNET_DEFAULT", uri)
        for ask in (lambda: hook().submit_job(JOB), lambda: hook().find_jobs(), lambda: hook().cancel_job("1")):
            with pytest.raises(ScnetConfigError, match="issued for 'alice'"):
                ask()
        assert scnet.jobs("alice") == []

    def test_a_refusal_does_not_show_the_token(self, scnet):
        text = f"{scnet.token('alice')}; {REFUSALS['queue']}"
        scnet.order(Fault.refusal(text), path=SUBMISSION_PATH)
        with pytest.raises(ScnetSubmissionRefusedError, match=r"\*\*\*") as caught:
            hook().submit_job(JOB)
        assert scnet.token("alice") not in str(caught.value)

    def test_refusals_keep_their_class_and_code_in_another_process(self):
        for kind in (ScnetSubmissionRefusedError, ScnetJobLimitError):
            error = pickle.loads(pickle.dumps(kind("815007", "no")))
            assert (type(error), error.code, error.msg) == (kind, "815007", "no")


class TestPolledList:
    """The list beside the counts, in one poll of the gates."""

    @pytest.fixture(autouse=True)
    def no_scheduler_is_known(self, monkeypatch):
        monkeypatch.setattr(poll_module, "_schedulers", {})

    def poll(self) -> Observation:
        return poll_module.poll(PolledConnection("scnet_default").read_settings(), (), True)

    def test_it_shows_ids_and_how_many_are_in_which_state_by_queue(self, scnet, clock):
        scnet.add_queue("gpu", slots=1)
        scnet.submit("alice", 2, run_for=5)
        scnet.submit("alice", 2, queue="gpu")
        scnet.submit("alice", 1)
        clock.advance(5)
        listed = self.poll().listed
        ids = {None: {"1", "2", "3", "4", "5"}, "comp": {"1", "2", "5"}, "gpu": {"3", "4"}}
        assert {queue: listed.ids(queue) for queue in ids} == ids
        counts = {
            None: JobCounts(running=2, queued=1, held=0, suspended=0, other=0),
            "comp": JobCounts(running=1, queued=0, held=0, suspended=0, other=0),
            "gpu": JobCounts(running=1, queued=1, held=0, suspended=0, other=0),
        }
        assert {queue: listed.counts(queue) for queue in counts} == counts
        assert self.poll().by_list.counts == counts[None]

    def test_it_costs_one_request_more(self, scnet):
        scnet.submit("alice")
        for schedulers in (1, 0):
            before = sent(scnet)
            assert self.poll().counts.total == 1
            assert sent(scnet) - before == Counter(
                {"GET view/jobs/state": 1, "GET jobs": 1} | ({"GET cluster": 1} if schedulers else {})
            )

    def test_where_a_job_has_no_queue_it_says_nothing_of_single_ones(self, scnet):
        entries = [
            {"jobId": str(n), "jobName": "a", "jobStatus": "statQ", "queue": queue}
            for n, queue in enumerate(["gpu", ""])
        ]
        for shown in (entries, entries[:1]):
            scnet.order(data({"total": len(shown), "list": shown}), path=JOB_LIST_PATH)
            observation = dataclasses.replace(self.poll(), queues={"gpu": JobCounts()})
            assert observation.by_list.counts.queued == len(shown)
            of_queue = observation.of("gpu").by_list
            assert (of_queue and of_queue.counts.queued) == (None if len(shown) == 2 else 1)

    def test_no_job_is_a_list_too(self, scnet):
        assert self.poll().by_list.counts.all_zero

    @pytest.mark.parametrize("status", ["statE", "statRQ", "whatever"])
    def test_where_a_state_may_mean_anything_or_jobs_are_missing_there_is_none(self, scnet, status):
        scnet.order(
            data({"total": 1, "list": [{"jobId": "1", "jobName": "a", "jobStatus": status}]}), path=JOB_LIST_PATH
        )
        scnet.order(
            data({"total": 2, "list": [{"jobId": "1", "jobName": "a", "jobStatus": "statR"}]}),
            path=JOB_LIST_PATH,
            times=2,
        )
        for _ in range(2):
            observation = self.poll()
            assert (type(observation.listed), observation.by_list) == (ScnetResponseError, None)
            assert observation.error is None

    @pytest.mark.parametrize(
        "fault",
        [Fault.api("10003", "no such interface"), Fault(status=429, headers={"Retry-After": "77"}), data("x")],
        ids=["permanent", "too many requests", "unreadable"],
    )
    def test_an_error_is_none_of_the_counts(self, scnet, fault):
        scnet.order(fault, path=JOB_LIST_PATH)
        observation = self.poll()
        assert (observation.counts.all_zero, observation.error, observation.by_list) == (True, None, None)
        assert isinstance(observation.listed, ScnetError)
        assert (observation.fails_gates, observation.pause) == (False, 0.0)
        assert observation.listed.retry_after == (77.0 if fault.status == 429 else None)
        assert observation.notes[-1].startswith(
            "claims last longer, as jobs were not listed: connection 'scnet_default'"
        )
        # The scheduler may be another one now.
        before = sent(scnet)
        assert self.poll().by_list
        assert (sent(scnet) - before)["GET cluster"] == 1

    def test_it_holds_up_the_counts_for_no_longer_than_one_request_may(self, scnet, monkeypatch):
        monkeypatch.setenv("AIRFLOW_CONN_SCNET_DEFAULT", scnet.connection_json("alice", timeout=1.5))
        scnet.submit("alice", 500)
        scnet.order(Fault(delay=1.0), path=JOB_LIST_PATH, times=None)
        observation = self.poll()
        assert observation.counts.total == 500
        assert isinstance(observation.listed, ScnetConnectionError)
        # Of the six pages those that fit; on a busy machine there may be no time for the second.
        assert sent(scnet)["GET jobs"] <= 2

    def test_jobs_of_another_user_than_the_tokens_are_not_listed(self, scnet, monkeypatch):
        monkeypatch.setenv(
            "AIRFLOW_CONN_SCNET_DEFAULT", scnet.connection_uri("alice").replace("//alice:", "//bob:")
        )
        assert isinstance(self.poll().listed, ScnetConfigError)
        assert sent(scnet)["GET jobs"] == 0


class TestLiveList:
    def test_it_shows_the_users_jobs_and_their_states(self, scnet, clock):
        scnet.submit("bob")
        scnet.submit("alice", name="first")
        scnet.submit("alice", name="second")
        found = hook().find_jobs()
        assert found.is_complete
        assert [(job.job_id, job.name, job.state, job.source) for job in found] == [
            ("2", "first", JobState.RUNNING, "list"),
            ("3", "second", JobState.QUEUED, "list"),
        ]
        started = found.jobs[0].started_at
        assert started is not None
        assert abs(started - datetime.now(timezone.utc)) < AN_HOUR
        clock.advance(10)
        assert [job.state for job in hook().find_jobs()] == [JobState.ENDED, JobState.RUNNING]

    def test_a_name_is_matched_on_this_side_too(self, scnet):
        for name in ("run_1", "run_10", "other"):
            scnet.submit("alice", name=name)
        assert [job.name for job in hook().find_jobs("run_1")] == ["run_1"]
        assert [job.name for job in hook().find_jobs("run_1", queue_name="gpu")] == []
        assert scnet.requests[-1].query["strJobName"] == "run_1"
        assert [job.name for job in hook().find_jobs().where(lambda job: job.name.startswith("run"))] == [
            "run_1",
            "run_10",
        ]

    @pytest.mark.parametrize("quirks", [JobQuirks(), JobQuirks(empty_is_null=True)])
    def test_no_job_is_a_complete_list(self, scnet, quirks):
        scnet.quirks = quirks
        for found in (hook().find_jobs(), hook().find_jobs(ended_since=since())):
            assert (found.jobs, found.is_complete) == ((), True)
            assert found.complete() is found

    @pytest.mark.parametrize("jobs", [99, 100, 101, 199, 250])
    @pytest.mark.parametrize("quirks", [JobQuirks(), JobQuirks(largest_page=30)])
    def test_it_is_read_page_by_page(self, scnet, jobs, quirks):
        scnet.quirks = quirks
        scnet.submit("alice", jobs)
        found = hook().find_jobs()
        assert found.is_complete
        assert [int(job.job_id) for job in found] == list(range(1, jobs + 1))

    def test_a_job_that_leaves_between_two_pages_hides_none(self, scnet, clock):
        scnet.quirks = JobQuirks(listed_for=0)
        scnet.submit("alice", 150)
        seen = []

        def end_the_first(entry: Any) -> Any:
            seen.append(entry)
            if len(seen) == 100:
                scnet.end_job(1)
            return job_lists.ReportedJob.from_live(entry, "list")

        settings = PolledConnection("scnet_default").read_settings()
        found = job_lists._list(
            settings, JOB_LIST_PATH, {"strClusterIDList": SCHEDULER, "strJobOwner": "alice"}, end_the_first
        )
        assert not found.is_complete
        with pytest.raises(ScnetResponseError, match="not complete: it changed while it was read"):
            found.complete()

    def test_a_service_that_repeats_its_first_page_is_not_believed(self, scnet):
        scnet.quirks = JobQuirks(ignores_start=True)
        scnet.submit("alice", 150)
        found = hook().find_jobs()
        assert (len(found), found.is_complete) == (100, False)

    def test_a_list_that_is_cut_is_not_complete(self, scnet, monkeypatch):
        page = [{"jobId": "1", "jobName": "a", "jobStatus": "statR"}]
        scnet.order(data({"total": 2, "list": page}), path=JOB_LIST_PATH, times=2)
        found = hook().find_jobs()
        assert (len(found), found.is_complete, found.problem) == (1, False, "SCnet shows 1 of 2")
        monkeypatch.setattr(job_lists, "MOST_PAGES", 1)
        scnet.submit("alice", 150)
        assert hook().find_jobs().problem == "100 of 150 jobs were read"

    @pytest.mark.parametrize(
        "value",
        [
            [],
            "",
            "token is invalid",
            {},
            {"list": []},
            {"total": 0},
            {"total": 1, "list": None},
            {"total": "many", "list": []},
            {"total": True, "list": []},
            {"total": -1, "list": []},
            {"total": 0, "list": [{"jobId": "1", "jobName": "a", "jobStatus": "statR"}]},
            {"total": 1, "list": [None]},
            {"total": 1, "list": [{"jobName": "a", "jobStatus": "statR"}]},
            {"total": 1, "list": [{"jobId": "1", "jobName": None, "jobStatus": "statR"}]},
            {"total": 1, "list": [{"jobId": "1", "jobName": "a"}]},
            {"total": 1, "list": [{"jobId": True, "jobName": "a", "jobStatus": "statR"}]},
        ],
        ids=repr,
    )
    def test_what_cannot_be_read_is_an_error_and_never_no_job(self, scnet, value):
        for path, ended_since in ((JOB_LIST_PATH, None), (HISTORY_PATH, since())):
            if value == {"total": 0}:
                # Nothing, said in another way.
                scnet.order(data(value), path=path)
                assert hook().find_jobs(ended_since=ended_since).is_complete
                continue
            scnet.order(data(value), path=path)
            with pytest.raises(ScnetResponseError):
                hook().find_jobs(ended_since=ended_since)

    def test_an_error_is_one_and_says_where(self, scnet):
        scnet.order(Fault.api("10001", "内部错误"), path=JOB_LIST_PATH)
        with pytest.raises(ScnetApiError, match=r"connection 'scnet_default' .*, jobs: SCnet answered code 10001"):
            hook().find_jobs()
        scnet.order(Fault.lost(taken=True), path=JOB_LIST_PATH)
        with pytest.raises(ScnetConnectionError):
            hook().find_jobs()

    @pytest.mark.parametrize(
        ("code", "live", "ended"),
        [
            ("statR", "running", "running"),
            ("statQ", "queued", "queued"),
            ("statW", "queued", "queued"),
            ("statH", "held", "held"),
            ("statS", "suspended", "suspended"),
            ("statC", "ended", "completed"),
            ("statD", "ended", "failed"),
            ("statDE", "ended", "cancelled"),
            ("statT", "ended", "timed_out"),
            ("statN", "ended", "node_failed"),
            ("statRQ", "unknown", "requeued"),
            ("statE", "unknown", "unknown"),
            ("statX", "unknown", "unknown"),
            ("new", "unknown", "unknown"),
        ],
    )
    def test_each_code_means_one_state_in_the_list_and_one_in_the_history(self, scnet, code, live, ended):
        entry = {"jobId": 1, "jobName": "a", "jobStatus": code, "jobState": code}
        for path, ended_since, state in ((JOB_LIST_PATH, None, live), (HISTORY_PATH, since(), ended)):
            scnet.order(data({"total": "1", "list": [entry]}), path=path)
            (job,) = hook().find_jobs(ended_since=ended_since)
            assert (job.state, str(job.state), job.code, job.job_id) == (JobState(state), state, code, "1")


class TestHistory:
    def test_it_is_asked_in_the_time_of_beijing(self, scnet, clock):
        scnet.submit("alice", name="run_1")
        clock.advance(10)
        (job,) = hook().find_jobs("run_1", ended_since=since(timedelta(minutes=30)))
        assert (job.job_id, job.state, job.source) == ("1", JobState.COMPLETED, "history")
        assert job.ended_at is not None
        assert job.started_at is not None
        assert job.ended_at - job.started_at == timedelta(seconds=10)
        assert abs(job.ended_at - datetime.now(timezone.utc)) < AN_HOUR
        query = scnet.requests[-1].query
        begins = datetime.strptime(query["startTime"], "%Y-%m-%d %H:%M:%S").replace(tzinfo=BEIJING)
        assert abs(datetime.now(timezone.utc) - begins - timedelta(minutes=30)) < timedelta(minutes=5)
        assert (query["strClusterNameList"], query["strUser"], query["jobName"]) == (SCHEDULER, "alice", "run_1")

    def test_jobs_that_ended_before_are_left_out(self, scnet, clock):
        scnet.submit("alice")
        clock.advance(10)
        assert len(hook().find_jobs(ended_since=datetime.now(timezone.utc) + timedelta(minutes=10))) == 0

    def test_each_run_of_a_job_is_listed(self, scnet, clock):
        scnet.submit("alice", plan=JobPlan(requeues=2, requeued_as="PREEMPTED"))
        clock.advance(30)
        states = [job.state for job in hook().find_jobs(ended_since=since())]
        assert states == [JobState.COMPLETED, JobState.REQUEUED, JobState.REQUEUED]

    def test_many_jobs_come_page_by_page(self, clock, scnet):
        scnet.submit("alice", 150, run_for=0)
        found = hook().find_jobs(ended_since=since())
        assert (found.is_complete, len({job.job_id for job in found})) == (True, 150)

    def test_a_time_needs_a_zone(self, scnet):
        with pytest.raises(ScnetConfigError, match="with its zone"):
            hook().find_jobs(ended_since=datetime(2026, 1, 1))


class TestOneJob:
    @pytest.mark.parametrize(
        ("outcome", "state", "exit_code", "reason"),
        [
            ("COMPLETED", JobState.COMPLETED, "0:0", "None"),
            ("FAILED", JobState.FAILED, "1:0", "NonZeroExitCode"),
            ("TIMEOUT", JobState.TIMED_OUT, "0:15", "TimeLimit"),
            ("OUT_OF_MEMORY", JobState.OUT_OF_MEMORY, "0:125", "OutOfMemory"),
            ("CANCELLED", JobState.CANCELLED, "0:15", "None"),
            ("NODE_FAIL", JobState.NODE_FAILED, "1:0", "NodeDown"),
            ("PREEMPTED", JobState.PREEMPTED, "0:15", "None"),
        ],
    )
    def test_slurms_record_says_how_it_ended(self, scnet, clock, outcome, state, exit_code, reason):
        scnet.plan_jobs(JobPlan(outcome=outcome))
        job_id = hook().submit_job(JOB)
        running = hook().get_job(job_id)
        assert running is not None
        assert (running.state, running.state.is_unfinished, running.stdout) == (
            JobState.RUNNING,
            True,
            JOB.stdout_of(job_id),
        )
        clock.advance(10)
        job = hook().get_job(job_id)
        assert job is not None
        assert (job.state, job.exit_code, job.reason, job.source) == (state, exit_code, reason, "detail")
        assert not job.state.is_unfinished

    def test_without_it_the_history_does(self, scnet, clock):
        scnet.quirks = JobQuirks(slurm_record=False)
        scnet.submit("alice", plan=JobPlan(outcome="FAILED"))
        clock.advance(10)
        job = hook().get_job("1")
        assert job is not None
        assert (job.state, job.source, job.exit_code, job.stdout) == (
            JobState.FAILED,
            "history",
            "",
            "/public/home/std.out.1",
        )

    def test_an_ambiguous_end_stays_one_while_the_history_is_late(self, scnet, clock):
        scnet.quirks = JobQuirks(slurm_record=False, in_history_after=60)
        scnet.submit("alice")
        clock.advance(10)
        job = hook().get_job("1")
        assert job is not None
        assert (job.state, job.state.is_final, job.state.is_unfinished) == (JobState.ENDED, False, False)

    def test_the_history_knows_it_when_the_detail_has_forgotten(self, scnet, clock):
        scnet.submit("alice", plan=JobPlan(outcome="TIMEOUT"))
        clock.advance(400)
        job = hook().get_job("1", scheduler_id=SCHEDULER)
        assert job is not None
        assert (job.state, job.source) == (JobState.TIMED_OUT, "history")

    def test_a_job_that_was_queued_again_is_not_taken_for_ended(self, scnet, clock):
        scnet.submit("alice", plan=JobPlan(requeues=1, requeued_after=400, run_for=10))
        clock.advance(399)
        job = hook().get_job("1")
        assert job is not None
        assert job.state is JobState.NODE_FAILED
        # It is queued again between the first look and the history's.
        scnet.order(data(None), path=DETAIL_PATH)
        clock.advance(11)
        job = hook().get_job("1")
        assert job is not None
        assert (job.state, job.source) == (JobState.RUNNING, "detail")
        assert sent(scnet)["GET historyjobs"] >= 1

    def test_of_several_runs_the_last_one_counts(self, scnet, clock):
        scnet.submit("alice", plan=JobPlan(requeues=2, run_for=10))
        clock.advance(1000)
        job = hook().get_job("1")
        assert job is not None
        assert job.state is JobState.COMPLETED

    def test_a_run_that_the_history_does_not_know_yet_is_not_taken_for_an_earlier_one(self, scnet, clock):
        scnet.quirks = JobQuirks(slurm_record=False, in_history_after=60)
        scnet.submit("alice", plan=JobPlan(requeues=1, requeued_after=55, run_for=10, outcome="FAILED"))
        # The first run, which ended after 10 s, is in the history; the second ends after 75 s.
        clock.advance(80)
        assert hook().get_job("1").state is JobState.ENDED
        clock.advance(60)
        assert hook().get_job("1").state is JobState.FAILED

    def test_one_that_nobody_knows_is_none(self, scnet):
        scnet.submit("bob")
        assert hook().get_job("1") is None
        assert hook().get_job("999") is None

    def test_it_is_not_none_where_the_history_cannot_be_read_or_is_cut(self, scnet, clock):
        entry = {"jobId": "2", "jobName": "a", "jobState": "statC"}
        for fault in (Fault.api("10001", "内部错误"), data({"total": 9, "list": [entry]})):
            scnet.order(fault, times=2, path=HISTORY_PATH)
            with pytest.raises(ScnetError):
                hook().get_job("1")
            scnet.clear_faults()

    @pytest.mark.parametrize(
        "value",
        ["", [], "no", {}, {"jobId": "2", "jobName": "a", "jobStatus": "statR"}, {"jobId": "1", "jobName": "a"}],
        ids=repr,
    )
    def test_a_detail_that_cannot_be_read_or_is_anothers_is_an_error(self, scnet, value):
        scnet.order(data(value), path=DETAIL_PATH)
        with pytest.raises(ScnetResponseError):
            hook().get_job("1")

    @pytest.mark.parametrize(
        ("slurm_state", "state"),
        [
            ("PENDING", "queued"),
            ("COMPLETING", "running"),
            ("CANCELLED by 1001", "cancelled"),
            ("CANCELLED+", "cancelled"),
            ("BOOT_FAIL", "node_failed"),
            ("DEADLINE", "timed_out"),
            ("", "ended"),
            (None, "ended"),
            ("NEW_STATE", "unknown"),
            ("completed", "unknown"),
        ],
    )
    def test_slurms_word_is_believed_before_scnets(self, scnet, slurm_state, state):
        scnet.submit("alice")
        entry = {"jobId": "1", "jobName": "a", "jobStatus": "statC", "jobInitAttr": {"JobState": slurm_state}}
        scnet.order(data(entry), times=None, path=DETAIL_PATH)
        job = hook().get_job("1")
        assert job is not None
        assert job.state is JobState(state)

    @pytest.mark.parametrize("job_id", ["", " ", None, True, "1,bob:2", "1;2", "../jobs", "1\n2"])
    def test_what_is_no_id_is_not_sent(self, scnet, job_id):
        for ask in (hook().get_job, hook().cancel_job):
            with pytest.raises(ScnetConfigError, match="job_id is no id of a job"):
                ask(job_id)
        assert scnet.requests == []


class TestCancelling:
    def test_a_job_is_cancelled_by_a_form(self, scnet):
        scnet.submit("alice", 3)
        for job_id in ("1", "3"):
            job = hook().cancel_job(job_id)
            assert job is not None
            assert (job.state, job.job_id) == (JobState.CANCELLED, job_id)
        assert [job.state for job in scnet.jobs("alice")] == ["ended", "running", "ended"]
        assert sent(scnet)["DELETE jobs"] == 2

    def test_where_nothing_changed_it_is_asked_for_in_the_query(self, scnet):
        scnet.quirks = JobQuirks(deletion="query")
        scnet.submit("alice")
        job = hook().cancel_job("1")
        assert job is not None
        assert job.state is JobState.CANCELLED
        first, second = (request for request in scnet.requests if request.method == "DELETE")
        assert first.query == {}
        assert first.headers["content-type"] == "application/x-www-form-urlencoded"
        assert second.query == {"jobMethod": "5", "strJobInfoMap": f"{SCHEDULER},alice:1:"}
        assert second.headers.get("content-length", "0") == "0"

    @pytest.mark.parametrize(("deletion", "requests"), [("body", 1), ("query", 2), ("nowhere", 2)])
    def test_several_jobs_are_cancelled_together(self, scnet, deletion, requests):
        scnet.quirks = JobQuirks(deletion=deletion)
        scnet.submit("alice", 4)
        scnet.end_job(2)
        live, left = asyncio.run(hook().acancel_jobs(["1", "2", "4", "99"]))
        assert live == ["1", "4"]
        assert left == (["1", "4"] if deletion == "nowhere" else [])
        asked = [request for request in scnet.requests if request.method == "DELETE"]
        assert len(asked) == requests
        ended = [job.state == "ended" for job in scnet.jobs("alice")]
        assert ended == [not left, True, False, not left]

    def test_a_job_that_is_not_listed_yet_is_cancelled_with_the_others(self, scnet):
        scnet.quirks = JobQuirks(listed_after=3600.0)
        scnet.submit("alice", 2)
        assert asyncio.run(hook().acancel_jobs(["1", "2"])) == (["1", "2"], [])

    def test_a_form_that_is_refused_is_sent_as_a_query(self, scnet):
        scnet.submit("alice", 1)
        scnet.order(Fault.api("10004", "参数无效"), path=JOB_LIST_PATH, method="DELETE")
        assert asyncio.run(hook().acancel_jobs(["1"])) == (["1"], [])

    def test_where_nothing_has_to_be_cancelled_nothing_is_sent(self, scnet):
        assert asyncio.run(hook().acancel_jobs(["1"])) == ([], [])
        assert not [request for request in scnet.requests if request.method == "DELETE"]

    def test_success_is_not_believed(self, scnet):
        scnet.quirks = JobQuirks(deletion="nowhere")
        scnet.submit("alice")
        job = hook().cancel_job("1")
        assert job is not None
        assert job.state is JobState.RUNNING

    def test_a_form_that_is_refused_is_asked_for_in_the_query(self, scnet):
        scnet.submit("alice")
        scnet.quirks = JobQuirks(deletion="query")
        scnet.order(Fault.api("10003", "参数不全"), path=JOB_LIST_PATH, method="DELETE")
        job = hook().cancel_job("1")
        assert job is not None
        assert job.state is JobState.CANCELLED

    def test_a_refusal_of_both_is_an_error(self, scnet):
        scnet.submit("alice")
        scnet.order(Fault.api("10001", "内部错误", unheard=True), times=2, path=JOB_LIST_PATH, method="DELETE")
        with pytest.raises(ScnetApiError, match="10001"):
            hook().cancel_job("1")
        assert scnet.counts("alice")["running"] == 1

    def test_a_job_that_has_ended_stays_as_it_is_and_one_that_is_unknown_is_none(self, scnet, clock):
        scnet.submit("alice")
        clock.advance(10)
        job = hook().cancel_job("1")
        assert job is not None
        assert job.state is JobState.COMPLETED
        assert hook().cancel_job("999") is None

    def test_no_answer_is_an_error(self, scnet):
        scnet.submit("alice")
        scnet.order(Fault.lost(taken=True), path=JOB_LIST_PATH, method="DELETE")
        with pytest.raises(ScnetConnectionError):
            hook().cancel_job("1")


class TestLog:
    def test_the_last_lines_are_read(self, scnet):
        scnet.plan_jobs(JobPlan(output="".join(f"step {n}\n" for n in range(2000))))
        job_id = hook().submit_job(JOB)
        path = JOB.stdout_of(job_id)
        assert hook().read_log(path, lines=2) == "step 1998\nstep 1999\n"
        assert len(hook().read_log(path, lines=1000).splitlines()) == 1000
        assert len(hook().read_log(path).splitlines()) == 50

    def test_a_file_that_is_not_there_is_empty(self, scnet):
        assert hook().read_log("/nowhere") == ""

    @pytest.mark.parametrize("value", [None, "", [], {}, {"data": None}, {"data": ["a"]}], ids=repr)
    def test_what_cannot_be_read_is_an_error(self, scnet, value):
        scnet.order(data(value), path=FILE_CONTENT_PATH)
        with pytest.raises(ScnetResponseError):
            hook().read_log("/f")

    @pytest.mark.parametrize(("path", "lines"), [("f", 1), ("/f", 0), ("/f", 1001), ("/f", True), ("/f", "9")])
    def test_what_makes_no_sense_is_not_sent(self, scnet, path, lines):
        with pytest.raises(ScnetConfigError):
            hook().read_log(path, lines=lines)
        assert scnet.requests == []

    def test_it_does_not_show_the_token(self, scnet):
        scnet.write_file("/f", f"token {scnet.token('alice')}\n")
        assert hook().read_log("/f") == "token ***\n"


class TestAsynchronousTwins:
    def test_they_see_the_same(self, scnet, clock):
        scnet.plan_jobs(JobPlan(output="hello\n"))
        job_id = hook().submit_job(JOB)

        async def look() -> list[Any]:
            found = await hook().afind_jobs("run_1")
            job = await hook().aget_job(job_id, scheduler_id=SCHEDULER)
            log = await hook().aread_log(JOB.stdout_of(job_id))
            cancelled = await hook().acancel_job(job_id)
            ended = await hook().afind_jobs(ended_since=since())
            return [len(found), job and job.state, log, cancelled and cancelled.state, len(ended)]

        assert asyncio.run(look()) == [1, JobState.RUNNING, "hello\n", JobState.CANCELLED, 1]

    def test_errors_are_the_same(self, scnet):
        scnet.reject_token("alice")
        with pytest.raises(ScnetAuthError, match="paste a fresh token"):
            asyncio.run(hook().afind_jobs(scheduler_id=SCHEDULER))
        with pytest.raises(ScnetAuthError, match="paste a fresh token"):
            hook().find_jobs(scheduler_id=SCHEDULER)

    @pytest.mark.parametrize("way", [lambda: hook().find_jobs(), lambda: asyncio.run(hook().afind_jobs())])
    def test_a_token_of_access_keys_that_is_refused_is_renewed_once(self, scnet, monkeypatch, way):
        scnet.add_access_keys("alice")
        monkeypatch.setenv("AIRFLOW_CONN_SCNET_DEFAULT", scnet.key_connection_json("alice"))
        assert way().is_complete
        scnet.reject_token("alice")
        assert way().is_complete
        assert len(scnet.token_requests) == 2
        scnet.order(Fault.api("10008", "auth_fail", "token is invalid"), times=None, path=JOB_LIST_PATH)
        with pytest.raises(ScnetAuthError):
            way()

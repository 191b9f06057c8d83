# SPDX-License-Identifier: Apache-2.0
"""The example that submits as SCnet documents it: once, whatever becomes of the answer."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from airflow_provider_scnet.client.errors import (
    ScnetApiError,
    ScnetConnectionError,
    ScnetError,
    ScnetResponseError,
)
from airflow_provider_scnet.testing import JOB_LIST_PATH, SUBMISSION_PATH, Fault, ScnetSimulator

EXAMPLE = Path(__file__).parent.parent / "example_dags" / "scnet_submit.py"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    spec = importlib.util.spec_from_file_location("scnet_submit", EXAMPLE)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def submit(example: ModuleType, scnet: ScnetSimulator):
    return lambda name="job-1", queue="comp": example.submit_once(name, "hostname", queue, "/public/home/alice")


def names(scnet: ScnetSimulator) -> list[str]:
    return [job.name for job in scnet.jobs("alice")]


def test_it_submits_and_returns_the_id_of_the_job(scnet: ScnetSimulator, submit):
    assert [submit("job-1"), submit("job-2")] == ["1", "2"]
    assert names(scnet) == ["job-1", "job-2"]


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault(drop="before"), ScnetConnectionError),
        (Fault(drop="body"), ScnetConnectionError),
        (Fault(status=504), ScnetResponseError),
        (Fault.api("10013", "操作超时"), ScnetApiError),
        (Fault.api("0", "success", ""), RuntimeError),
        (Fault.html(200, "<p>Login"), ScnetResponseError),
    ],
    ids=["no answer", "half an answer", "gateway", "time-out", "no id", "a page"],
)
def test_a_job_without_an_answer_is_found_and_not_submitted_again(scnet: ScnetSimulator, submit, fault, error):
    scnet.order(fault, path=SUBMISSION_PATH)
    with pytest.raises(error):
        submit()
    assert submit() == "1"
    assert names(scnet) == ["job-1"]


def test_a_submission_that_scnet_did_not_hear_is_repeated(scnet: ScnetSimulator, submit):
    scnet.order(Fault(drop="before", unheard=True), path=SUBMISSION_PATH)
    with pytest.raises(ScnetConnectionError):
        submit()
    assert names(scnet) == []
    assert submit() == "1"


def test_a_job_that_has_ended_meanwhile_is_found_too(scnet: ScnetSimulator, submit):
    submit()
    scnet.cancel("alice")
    assert submit() == "1"


def test_another_job_whose_name_begins_alike_is_not_taken_for_it(scnet: ScnetSimulator, submit):
    scnet.submit("alice", name="job-10")
    assert submit("job-1") == "2"


def test_nothing_is_submitted_while_nobody_knows_whether_the_job_is_there(scnet: ScnetSimulator, submit):
    for fault in [Fault.api("10001", "内部错误"), Fault.api("0", "success", {"total": 26, "list": []})]:
        scnet.order(fault, path=JOB_LIST_PATH)
        with pytest.raises((ScnetError, RuntimeError)):
            submit()
    assert names(scnet) == []


@pytest.mark.parametrize("data", [None, {"total": 0, "list": None}, {"total": 0, "list": []}])
def test_a_list_without_jobs_may_be_null(scnet: ScnetSimulator, submit, data):
    scnet.order(Fault.api("0", "success", data), path=JOB_LIST_PATH)
    assert submit() == "1"


def test_a_refusal_is_said_in_the_words_of_sbatch(submit):
    with pytest.raises(
        ScnetApiError, match=r"code 815007 .*作业提交失败: sbatch: error: .*Invalid partition name"
    ):
        submit(queue="nowhere")

# SPDX-License-Identifier: Apache-2.0
"""What is asked of a job, and what of it excludes each other."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from airflow_provider_scnet.client.errors import ErrorKind, ScnetConfigError
from airflow_provider_scnet.client.job_request import JobRequest

ASKED: dict[str, Any] = {
    "command": "hostname",
    "work_dir": "/public/home/alice",
    "queue_name": "comp",
    "wall_time": "01:00:00",
    "job_name": "run_1",
}
FIELDS = {
    "GAP_SUBMIT_TYPE": "cmd",
    "GAP_CMD_FILE": "hostname",
    "GAP_JOB_NAME": "run_1",
    "GAP_WORK_DIR": "/public/home/alice",
    "GAP_QUEUE": "comp",
    "GAP_NNODE": "1",
    "GAP_WALL_TIME": "01:00:00",
    "GAP_APPNAME": "BASE",
    "GAP_STD_OUT_FILE": "/public/home/alice/std.out.%j",
    "GAP_STD_ERR_FILE": "/public/home/alice/std.err.%j",
}


def fields(**asked: Any) -> dict[str, str]:
    return JobRequest(**ASKED | asked).fields()


def test_the_least_that_is_asked_becomes_the_documented_fields():
    assert fields() == FIELDS


def test_all_that_is_asked_becomes_text():
    found = fields(
        command=["cd run", "", "srun ./a.out"],
        nodes=2,
        cores_per_node="32",
        gpus_per_node=4,
        dcus_per_node=1,
        memory_per_node="64 gb",
        exclusive=True,
        app_name="VASP",
        stdout="log/out.%j",
        stderr="/tmp/err",
        job_options={"GAP_SCHEDULER_OPT_WEB": "#SBATCH --account=x", "GAP_NOTE": 7, "GAP_EMPTY": ""},
    )
    assert found == FIELDS | {
        "GAP_CMD_FILE": "cd run\n\nsrun ./a.out",
        "GAP_NNODE": "2",
        "GAP_PPN": "32",
        "GAP_NGPU": "4",
        "GAP_NDCU": "1",
        "GAP_JOB_MEM": "64GB",
        "GAP_EXCLUSIVE": "1",
        "GAP_APPNAME": "VASP",
        "GAP_STD_OUT_FILE": "/public/home/alice/log/out.%j",
        "GAP_STD_ERR_FILE": "/tmp/err",
        "GAP_SCHEDULER_OPT_WEB": "#SBATCH --account=x",
        "GAP_NOTE": "7",
    }
    assert fields(cores=64)["GAP_NPROC"] == "64"


def test_named_nodes_take_the_place_of_their_number():
    found = fields(job_options={"GAP_NODE_STRING": "node1,node2"})
    assert (found["GAP_NODE_STRING"], found["GAP_NNODE"]) == ("node1,node2", "")


def test_the_files_of_a_job_are_known_with_its_id():
    job = JobRequest(**ASKED | {"work_dir": "/public/home/alice/", "stderr": "/tmp/%j/%j.err"})
    assert job.stdout_of("17") == "/public/home/alice/std.out.17"
    assert job.stderr_of("17") == "/tmp/17/17.err"


@pytest.mark.parametrize(
    ("wall_time", "sent"),
    [
        ("1:00:00", "01:00:00"),
        ("100:00:01", "100:00:01"),
        (timedelta(days=2, seconds=1), "48:00:01"),
        (timedelta(seconds=0.5), "00:00:01"),
        (" 00:10:00\n", "00:10:00"),
    ],
)
def test_a_wall_time_is_hours_minutes_and_seconds(wall_time, sent):
    assert fields(wall_time=wall_time)["GAP_WALL_TIME"] == sent


@pytest.mark.parametrize("command", ["\n  srun a \r\nsrun b\n\n", ["  srun a ", "srun b"]])
def test_a_command_keeps_its_lines_without_carriage_returns(command):
    assert fields(command=command)["GAP_CMD_FILE"] == "  srun a \nsrun b"


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"command": ""}, "command is empty"),
        ({"command": []}, "command is empty"),
        ({"command": [" ", "\n"]}, "command is empty"),
        ({"command": ["hostname", 1]}, "a text, or a list of lines"),
        ({"command": b"hostname"}, "a text, or a list of lines"),
        ({"command": "a\0b"}, "NUL"),
        ({"command": "#!/bin/bash\n#SBATCH --array=1-9\nhostname"}, "#SBATCH"),
        ({"work_dir": "home"}, "work_dir is no absolute path on the cluster: 'home'"),
        ({"work_dir": "/a\n/b"}, "work_dir"),
        ({"work_dir": None}, "work_dir"),
        ({"queue_name": ""}, "queue_name is given but empty"),
        ({"queue_name": "a b"}, "queue_name"),
        ({"wall_time": "01:00"}, "wall_time"),
        ({"wall_time": "10 min"}, "wall_time"),
        ({"wall_time": 3600}, "wall_time"),
        ({"wall_time": "00:00:00"}, "longer than zero"),
        ({"wall_time": timedelta(0)}, "longer than zero"),
        ({"wall_time": timedelta(seconds=-1)}, "longer than zero"),
        ({"wall_time": "01:60:00"}, "wall_time"),
        ({"wall_time": "１:00:00"}, "wall_time"),
        ({"job_name": ""}, "job_name"),
        ({"job_name": "a b"}, "job_name"),
        ({"job_name": "算"}, "job_name"),
        ({"job_name": "-a"}, "job_name"),
        ({"job_name": "a" * 129}, "job_name"),
        ({"nodes": 0}, "nodes has to be a whole number from 1, not '0'"),
        ({"nodes": True}, "nodes"),
        ({"nodes": 1.5}, "nodes"),
        ({"cores": "many"}, "cores"),
        ({"gpus_per_node": -1}, "gpus_per_node"),
        ({"cores": 4, "cores_per_node": 2}, "cores and cores_per_node exclude each other"),
        ({"nodes": 2, "job_options": {"GAP_NODE_STRING": "a"}}, "nodes and the job option GAP_NODE_STRING"),
        ({"memory_per_node": 4}, "memory_per_node"),
        ({"memory_per_node": "4"}, "memory_per_node"),
        ({"memory_per_node": "4TB"}, "memory_per_node"),
        ({"exclusive": "yes"}, "exclusive is neither true nor false"),
        ({"app_name": "a b"}, "app_name"),
        ({"stdout": ""}, "stdout"),
        ({"stderr": "a\nb"}, "stderr"),
        ({"job_options": ["GAP_X"]}, "job_options is no mapping"),
        ({"job_options": {"account": "x"}}, "no field GAP_"),
        ({"job_options": {"GAP_QUEUE": "x"}}, "GAP_QUEUE: use the parameter queue_name"),
        ({"job_options": {"GAP_JOB_NAME": "x"}}, "use the parameter job_name"),
        ({"job_options": {"GAP_MULTI_SUB": "2"}}, "one submission is one job"),
        ({"job_options": {"GAP_SUBMIT_TYPE": "file"}}, "by its command"),
        ({"job_options": {"GAP_CLUSTER_ID": "1"}}, "the connection says"),
        ({"job_options": {"GAP_X": True}}, "GAP_X has to be a text"),
        ({"job_options": {"GAP_X": None}}, "GAP_X has to be a text"),
        *(
            ({"job_options": {"GAP_SCHEDULER_OPT_WEB": f"#SBATCH {option}"}}, "name, multiply or replace")
            for option in ("--array=1-9", "-a 1-9", "-a1-9", "--job-name=x", "-J x", "--wrap=x", "-M c2")
        ),
    ],
)
def test_what_is_missing_or_wrong_or_excludes_each_other_is_said_to_people(asked, message):
    with pytest.raises(ScnetConfigError) as caught:
        JobRequest(**ASKED | asked)
    assert message in str(caught.value)
    assert caught.value.kind is ErrorKind.PERMANENT


def test_a_command_is_in_no_text_of_a_request():
    assert "PASSWORD" not in repr(
        JobRequest(**ASKED | {"command": "PASSWORD=x", "job_options": {"GAP_P": "PASSWORD"}})
    )

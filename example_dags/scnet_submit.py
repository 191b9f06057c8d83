# SPDX-License-Identifier: Apache-2.0
"""
Jobs submitted as SCnet documents it, each behind a gate of its own, and none of them twice.

When the answer to a submission does not come, nobody knows whether SCnet has taken the job. So each job has a name
that is the same in every try of its task and in no other task, and each try asks first whether SCnet has a job of
that name.
"""

from __future__ import annotations

import hashlib
import os
import shlex
from datetime import datetime, timedelta

from airflow.providers.common.compat.sdk import dag, task, task_group

from airflow_provider_scnet.hooks.scnet import ScnetHook
from airflow_provider_scnet.sensors.scnet import ScnetJobStateSensor

HPC = "/hpc/openapi/v2"
INTERVAL = float(os.environ.get("SCNET_POKE_INTERVAL", 60))  # seconds; only a demo asks more often
# SCnet lists a new job after a while, and one that has ended for five minutes: a retry has to come in between.
RETRY_DELAY = timedelta(seconds=2 * INTERVAL)


def find_job(hook, scheduler, name):
    """Return the id of the job of this name; None where there is none."""
    asked = {"strClusterIDList": scheduler, "strJobOwner": hook.get_conn().user_name, "strJobName": name}
    found = hook.request("GET", f"{HPC}/jobs", params={**asked, "start": "0", "limit": "25"}) or {"total": 0}
    jobs = found.get("list") or []
    ids = [str(job["jobId"]) for job in jobs if job["jobName"] == name]
    if not ids and int(found["total"]) > len(jobs):
        raise RuntimeError("SCnet lists too many jobs to see whether this one is among them")
    return ids[0] if ids else None


def submit_once(name, command, queue, work_dir):
    """Submit a job unless there is one of this name; return its id."""
    hook = ScnetHook()
    scheduler = str(hook.request("GET", f"{HPC}/cluster")[0]["id"])
    if job_id := find_job(hook, scheduler, name):
        return job_id
    job = {
        "GAP_APPNAME": "BASE",
        "GAP_SUBMIT_TYPE": "cmd",
        "GAP_JOB_NAME": name,
        "GAP_CMD_FILE": command,
        "GAP_WORK_DIR": work_dir,
        "GAP_QUEUE": queue,
        "GAP_NNODE": "1",
        "GAP_NPROC": "1",
        "GAP_WALL_TIME": "00:10:00",
    }
    body = {"strJobManagerID": scheduler, "mapAppJobInfo": job}
    # Where no answer comes, this raises, and the next try asks for the job.
    job_id = hook.request("POST", f"{HPC}/apptemplates/BASIC/BASE/job", json=body)
    if not job_id:
        raise RuntimeError("SCnet names no job: the next try sees whether there is one")
    return str(job_id)


@dag(
    schedule=None,
    start_date=datetime(2026, 1, 1),
    catchup=False,
    params={"inputs": 12, "queue": "comp", "work_dir": "/public/home/alice"},
    tags=["scnet"],
)
def scnet_submit():
    @task
    def list_inputs(params=None):
        return [f"sample-{number:03}" for number in range(params["inputs"])]

    @task(retries=3, retry_delay=RETRY_DELAY)
    def submit(sample, params=None, ti=None):
        whose = "/".join([ti.dag_id, ti.run_id, ti.task_id, str(ti.map_index)])
        name = f"{ti.dag_id}-{hashlib.sha256(whose.encode()).hexdigest()[:16]}"
        command = f"echo {shlex.quote(sample)}\nsleep 60"
        return submit_once(name, command, params["queue"], params["work_dir"])

    @task_group
    def gated_submission(sample):
        wait_for_room = ScnetJobStateSensor(
            task_id="wait_for_room",
            condition="queued < 5 and running + queued < 20",
            poke_interval=INTERVAL,
            timeout=6 * 3600,
        )
        wait_for_room >> submit(sample)

    gated_submission.expand(sample=list_inputs())


scnet_submit()

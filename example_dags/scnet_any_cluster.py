# SPDX-License-Identifier: Apache-2.0
"""
Jobs that go to whichever cluster has room.

Each gate waits on two clusters, and opens on the first whose queue has room. Its decision names the connection,
and the job goes there. One pair of access keys opens several regions: the connections differ in ``cluster_id``.
"""

from __future__ import annotations

import os
from datetime import datetime

from airflow.providers.common.compat.sdk import dag, task, task_group

from airflow_provider_scnet.hooks.scnet import ScnetHook
from airflow_provider_scnet.sensors.scnet import ScnetJobStateSensor

HPC = "/hpc/openapi/v2"


@dag(
    schedule=None,
    start_date=datetime(2026, 1, 1),
    catchup=False,
    params={"inputs": 12, "queue": "comp", "work_dir": "/public/home/alice"},
    tags=["scnet"],
)
def scnet_any_cluster():
    @task
    def list_inputs(params=None):
        return [f"sample-{number:03}" for number in range(params["inputs"])]

    # Without retries: nobody knows whether a job without an answer is there. scnet_submit.py shows how to ask.
    @task
    def submit(sample, conn_id, params=None):
        hook = ScnetHook(conn_id)
        scheduler = str(hook.request("GET", f"{HPC}/cluster")[0]["id"])
        job = {
            "GAP_APPNAME": "BASE",
            "GAP_SUBMIT_TYPE": "cmd",
            "GAP_JOB_NAME": sample,
            "GAP_CMD_FILE": "hostname\nsleep 60",
            "GAP_WORK_DIR": params["work_dir"],
            "GAP_QUEUE": params["queue"],
            "GAP_NNODE": "1",
            "GAP_NPROC": "1",
            "GAP_WALL_TIME": "00:10:00",
        }
        body = {"strJobManagerID": scheduler, "mapAppJobInfo": job}
        return conn_id, hook.request("POST", f"{HPC}/apptemplates/BASIC/BASE/job", json=body)

    @task_group
    def gated_submission(sample):
        wait_for_room = ScnetJobStateSensor(
            task_id="wait_for_room",
            scnet_conn_id=["scnet_west", "scnet_east"],
            queue_name="{{ params.queue }}",
            condition="queued < 2",
            poke_interval=float(os.environ.get("SCNET_POKE_INTERVAL", 60)),  # seconds; only a demo asks more often
            timeout=6 * 3600,
        )
        submit(sample, wait_for_room.output["scnet_conn_id"])

    gated_submission.expand(sample=list_inputs())


scnet_any_cluster()

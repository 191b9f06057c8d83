# SPDX-License-Identifier: Apache-2.0
"""
Jobs that go to whichever cluster has room.

Each gate waits on two clusters, and opens on the first whose queue has room. Its decision names the connection,
and the job goes there. One pair of access keys opens several regions: the connections differ in ``cluster_id``.
"""

from __future__ import annotations

import os
from datetime import datetime, timedelta

from airflow.providers.common.compat.sdk import dag, task, task_group

from airflow_provider_scnet.operators.scnet import ScnetSubmitJobOperator
from airflow_provider_scnet.sensors.scnet import ScnetJobCountSensor

INTERVAL = float(os.environ.get("SCNET_POKE_INTERVAL", 60))  # seconds; only a demo asks more often


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
        return [f"echo sample-{number:03}\nsleep 60" for number in range(params["inputs"])]

    @task_group
    def gated_submission(command):
        wait_for_room = ScnetJobCountSensor(
            task_id="wait_for_room",
            scnet_conn_id=["scnet_west", "scnet_east"],
            queue_name="{{ params.queue }}",
            condition="queued < 2",
            poke_interval=INTERVAL,
            timeout=6 * 3600,
        )
        ScnetSubmitJobOperator(
            task_id="submit",
            scnet_conn_id=wait_for_room.output["scnet_conn_id"],
            command=command,
            work_dir="{{ params.work_dir }}",
            queue_name="{{ params.queue }}",
            wall_time=timedelta(minutes=10),
            cores=1,
            # The task ends when the job is accepted.
            wait_for_completion=False,
            poll_interval=INTERVAL,
        )

    gated_submission.expand(command=list_inputs())


scnet_any_cluster()

# SPDX-License-Identifier: Apache-2.0
"""Jobs that are submitted and awaited, each behind a gate of its own, and none of them twice."""

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
def scnet_submit():
    @task
    def list_inputs(params=None):
        return [f"echo sample-{number:03}\nsleep 60" for number in range(params["inputs"])]

    @task_group
    def gated_submission(command):
        wait_for_room = ScnetJobCountSensor(
            task_id="wait_for_room",
            condition="queued < 5 and running + queued < 20",
            poke_interval=INTERVAL,
            timeout=6 * 3600,
        )
        # A retry takes the job that is there, or submits another one after a job that has failed.
        submit = ScnetSubmitJobOperator(
            task_id="submit",
            command=command,
            work_dir="{{ params.work_dir }}",
            queue_name="{{ params.queue }}",
            wall_time=timedelta(minutes=10),
            cores=1,
            poll_interval=INTERVAL,
            retries=1,
            retry_delay=timedelta(seconds=INTERVAL),
        )
        wait_for_room >> submit

    gated_submission.expand(command=list_inputs())


scnet_submit()

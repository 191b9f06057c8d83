# SPDX-License-Identifier: Apache-2.0
"""
Many submissions, each behind a gate of its own.

The gates wait together: they share one request an interval, and when there is room for three, three open.
What is mapped is the *group* of gate and submission. ``gate.expand() >> submit.expand()`` would not do: there
every submission waits for all gates.
"""

from __future__ import annotations

import json
import os
from datetime import datetime
from urllib.request import Request, urlopen

from airflow.providers.common.compat.sdk import dag, task, task_group

from airflow_provider_scnet.sensors.scnet import ScnetJobCountSensor


@dag(schedule=None, start_date=datetime(2026, 1, 1), catchup=False, params={"inputs": 12}, tags=["scnet"])
def scnet_gate_mapped():
    @task
    def list_inputs(params=None):
        return [f"sample-{number:03}" for number in range(params["inputs"])]

    # In real life whatever submits your job stands here, such as the operator of scnet_submit.py.
    # This one hands a job to the simulator: `python -m airflow_provider_scnet.testing` starts one.
    @task
    def submit(sample):
        job = {"user": "alice", "jobs": 1}
        url = os.environ["SCNET_SIMULATOR_URL"] + "/simulator/jobs"
        with urlopen(Request(url, json.dumps(job).encode()), timeout=30) as answer:
            return sample, json.load(answer)["ids"]

    def gate(**kwargs):
        return ScnetJobCountSensor(
            condition="queued < 5 and running + queued < 20",
            poke_interval=float(os.environ.get("SCNET_POKE_INTERVAL", 60)),  # seconds; only a demo asks more often
            timeout=6 * 3600,
            **kwargs,
        )

    @task_group
    def gated_submission(sample):
        gate(task_id="wait_for_room") >> submit(sample)

        # With `retries`, Airflow would repeat the submission but not the gate. To repeat both, put a second try
        # behind the first one; it is skipped where the first one succeeded:
        #
        #     first_try = submit(sample)
        #     gate(task_id="wait_for_room") >> first_try
        #     wait_again = gate(task_id="wait_for_room_again", trigger_rule="one_failed")
        #     first_try >> wait_again >> submit.override(task_id="submit_again")(sample)

    gated_submission.expand(sample=list_inputs())


scnet_gate_mapped()

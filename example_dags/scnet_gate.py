# SPDX-License-Identifier: Apache-2.0
"""A gate in front of a submission: the job is submitted when the queue has room for it."""

from __future__ import annotations

import json
import os
from datetime import datetime
from urllib.request import Request, urlopen

from airflow.providers.common.compat.sdk import dag, task

from airflow_provider_scnet.sensors.scnet import ScnetJobCountSensor


@dag(schedule=None, start_date=datetime(2026, 1, 1), catchup=False, tags=["scnet"])
def scnet_gate():
    # Uses the connection "scnet_default". Waits in the triggerer and holds no worker meanwhile.
    wait_for_room = ScnetJobCountSensor(
        task_id="wait_for_room",
        condition="queued < 5 and running + queued < 20",
        poke_interval=float(os.environ.get("SCNET_POKE_INTERVAL", 60)),  # seconds; only a demo asks more often
        timeout=6 * 3600,
    )

    # In real life whatever submits your job stands here, such as the operator of scnet_submit.py.
    # This one hands a job to the simulator: `python -m airflow_provider_scnet.testing` starts one.
    #
    # With `retries`, Airflow would repeat the submission but not the gate. scnet_gate_mapped.py shows how both
    # are repeated.
    @task
    def submit():
        job = {"user": "alice", "jobs": 1}
        url = os.environ["SCNET_SIMULATOR_URL"] + "/simulator/jobs"
        with urlopen(Request(url, json.dumps(job).encode()), timeout=30) as answer:
            return json.load(answer)["ids"]

    wait_for_room >> submit()


scnet_gate()

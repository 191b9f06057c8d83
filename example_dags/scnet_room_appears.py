# SPDX-License-Identifier: Apache-2.0
"""
A DAG that starts when room appears: no run waits before.

For Airflow 3. A watcher polls the queue for as long as the DAG exists, and starts one run each time that the
queue has become short; the next one only after it was long in between. It gives no room out: a gate does that.
"""

from __future__ import annotations

import json
import os
from datetime import datetime
from urllib.request import Request, urlopen

from airflow.providers.common.compat.sdk import dag, task

from airflow_provider_scnet.sensors.scnet import ScnetJobCountSensor
from airflow_provider_scnet.triggers.scnet import ScnetJobCountEventTrigger

try:
    from airflow.sdk import Asset, AssetWatcher
except ImportError:
    # Airflow 2.11 has no watchers, and finds no DAG in this file.
    Asset = AssetWatcher = None

INTERVAL = float(os.environ.get("SCNET_POKE_INTERVAL", 60))  # seconds; only a demo asks more often


def scnet_room_appears():
    # What the watcher saw comes with the event that started the run.
    @task
    def what_was_seen(triggering_asset_events=None):
        return [event.extra["payload"] for events in triggering_asset_events.values() for event in events]

    # Others may have taken the room meanwhile.
    wait_for_room = ScnetJobCountSensor(
        task_id="wait_for_room", condition="queued < 5", poke_interval=INTERVAL, timeout=6 * 3600
    )

    # In real life whatever submits your job stands here. This one hands a job to the simulator:
    # `python -m airflow_provider_scnet.testing` starts one.
    @task
    def submit():
        job = {"user": "alice", "jobs": 1}
        url = os.environ["SCNET_SIMULATOR_URL"] + "/simulator/jobs"
        with urlopen(Request(url, json.dumps(job).encode()), timeout=30) as answer:
            return json.load(answer)["ids"]

    what_was_seen() >> wait_for_room >> submit()


if AssetWatcher:
    # Uses the connection "scnet_default".
    watcher = ScnetJobCountEventTrigger(
        condition="queued < 5",
        rearm_when="queued > 20",
        poke_interval=INTERVAL,
    )
    room = Asset("scnet_room", watchers=[AssetWatcher(name="queue", trigger=watcher)])
    dag(schedule=[room], start_date=datetime(2026, 1, 1), catchup=False, tags=["scnet"])(scnet_room_appears)()

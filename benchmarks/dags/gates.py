# SPDX-License-Identifier: Apache-2.0
"""The same tasks twice: as this gate, and as the sensor that people use today; waiting only, and submitting."""

from __future__ import annotations

import json
import os
from datetime import datetime, timedelta, timezone
from urllib.request import Request, urlopen

from airflow.providers.common.compat.sdk import DAG, task, task_group
from airflow.providers.http.sensors.http import HttpSensor
from airflow.providers.standard.sensors.date_time import DateTimeSensorAsync

from airflow_provider_scnet.sensors import scnet as sensor
from airflow_provider_scnet.sensors import start_and_end

TASKS = int(os.environ["BENCH_TASKS"])
FLAT = int(os.environ.get("BENCH_FLAT", 0))
START = datetime(2026, 1, 1, tzinfo=timezone.utc)
INTERVAL = float(os.environ["BENCH_INTERVAL"])  # seconds


def scnet_gate(task_id="gate", **kwargs):
    return sensor.ScnetJobCountSensor(
        task_id=task_id,
        condition=os.environ.get("BENCH_CONDITION", "queued < 5"),
        poke_interval=INTERVAL,
        timeout=6 * 3600,
        queue=os.environ.get("BENCH_QUEUE", "default"),
        **kwargs,
    )


def http_sensor(**kwargs):
    # In deferrable mode a response_check keeps it from deferring: rescheduling is the lightest way it has.
    return HttpSensor(
        task_id="gate",
        endpoint="/hpc/openapi/v2/view/jobs/state?userName=alice",
        headers={"token": os.environ["BENCH_TOKEN"]},
        response_check=has_room,
        mode="reschedule",
        poke_interval=INTERVAL,
        timeout=6 * 3600,
        **kwargs,
    )


def has_room(response):
    return {state["name"]: state["y"] for state in response.json()["data"]}["排队"] < 5


@task(pool=os.environ.get("BENCH_POOL", "default_pool"))
def submit():
    job = {"user": "alice", "jobs": 1}
    with urlopen(
        Request(os.environ["SCNET_SIMULATOR_URL"] + "/simulator/jobs", json.dumps(job).encode()), timeout=30
    ) as answer:
        return json.load(answer)["ids"]


def new(dag_id):
    return DAG(dag_id, schedule=None, start_date=datetime(2026, 1, 1), catchup=False)


with new("waiting_scnet"):

    @task_group
    def scnet_waits(number):
        scnet_gate(submits=0)

    scnet_waits.expand(number=list(range(TASKS)))

with new("waiting_flat"):
    # Gates of a DAG with many tasks start on workers. What this spares can be seen only where they do not.
    start_and_end._LARGEST_DAG = max(FLAT, start_and_end._LARGEST_DAG)
    for number in range(FLAT):
        scnet_gate(f"gate_{number}", submits=0)

with new("waiting_datetime"):

    @task_group
    def datetime_waits(number):
        DateTimeSensorAsync(
            task_id="gate",
            # Whoever does not run it names no moment.
            target_time=os.environ.get("BENCH_RELEASE", "2026-01-01T00:00:00+00:00"),
            start_from_trigger=True,
            end_from_trigger=True,
        )

    datetime_waits.expand(number=list(range(TASKS)))

with new("waiting_http"):

    @task_group
    def http_waits(number):
        http_sensor()

    http_waits.expand(number=list(range(TASKS)))

with new("admission_scnet"):

    @task_group
    def scnet_submits(number):
        scnet_gate(submits=1) >> submit()

    scnet_submits.expand(number=list(range(TASKS)))

# The same gate and submission, one in each of as many runs.
with DAG(
    "admission_runs",
    schedule=timedelta(hours=1),
    start_date=START,
    end_date=START + timedelta(hours=max(TASKS - 1, 0)),
    catchup=True,
    max_active_runs=TASKS,
    is_paused_upon_creation=True,
):
    scnet_gate(submits=1) >> submit()

# The same, one in each of as many DAGs.
for number in range(TASKS if os.environ.get("BENCH_DAGS") else 0):
    with new(f"admission_dags_{number:04}"):
        scnet_gate(submits=1) >> submit()

# What Airflow has for it: so many tasks at once. The pool is made when it is wanted.
with new("admission_pool"):

    @task_group
    def pool_submits(number):
        submit.override(task_id="gate", pool="few")()

    pool_submits.expand(number=list(range(TASKS)))

with new("admission_http"):

    @task_group
    def http_submits(number):
        http_sensor() >> submit()

    http_submits.expand(number=list(range(TASKS)))

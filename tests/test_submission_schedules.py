# SPDX-License-Identifier: Apache-2.0
"""Random schedules of faults: one job for each round, never two; none is lost, none misjudged."""

from __future__ import annotations

import itertools
import re

import pytest

from airflow_provider_scnet.client.job_state import JobState

from submission_world import Airflow, End, Job, World

#: Schedules in all, in so many tests; each schedule has two Airflows.
SCHEDULES, TESTS = 2_000, 10


def unlawful(airflow: Airflow) -> list[str]:
    """Return what must not have happened."""
    found = []
    for first, then in itertools.combinations(airflow.jobs, 2):
        if first.ended_at > then.at:
            found.append(f"job {then.id} was submitted while job {first.id} had not ended")
        elif first.asked.round == then.asked.round and first.end is JobState.COMPLETED:
            found.append(f"job {then.id} was submitted although job {first.id} has completed")
        elif first.asked.round == then.asked.round and is_cancelled_by_others(first):
            found.append(f"job {then.id} was submitted although somebody had cancelled job {first.id}")
    for end in airflow.ends:
        found += misjudged(airflow, end)
    return found


def is_cancelled_by_others(job: Job) -> bool:
    return job.end is JobState.CANCELLED and not job.is_cancelled_by_us


def misjudged(airflow: Airflow, end: End) -> list[str]:
    jobs = [job for job in airflow.jobs if job.asked.round == end.round and job.at <= end.at]
    last = jobs[-1] if jobs else None
    if end.how == "success":
        is_right = last and last.end is JobState.COMPLETED and last.ended_at <= end.at and last.id == end.job_id
        return [] if is_right else [f"success, and its job is {last}"]
    if judged := re.match(r"job (\d+) has ended: (\w+)", end.said):
        is_right = last and last.id == judged[1] and str(last.end) == judged[2] and last.ended_at <= end.at
        if is_right and "somebody cancelled it" in end.said:
            is_right = is_cancelled_by_others(last)
        return [] if is_right else [f"{end.said}, and its job is {last}"]
    if end.how in ("killed", "cleared") or "no job was accepted within" in end.said:
        return []
    if lost := re.match(r"no job (\w+) came of it", end.said):
        there = [job for job in jobs if job.asked.key == lost[1].removesuffix("_run")]
        return [f"{end.said}, and there is {there}"] if there else []
    if "Invalid partition" in end.said:
        goes_on = [job for job in jobs if job.ended_at > end.at]
        return [f"{end.said}, and there goes on {goes_on}"] if goes_on or "may go on" in end.said else []
    return [f"{end.said}: it need not have ended so"]


@pytest.mark.parametrize("part", range(TESTS))
def test_one_job_for_each_round_never_two_none_lost_none_misjudged(part, monkeypatch: pytest.MonkeyPatch):
    broken, submitted = {}, 0
    for seed in range(part, SCHEDULES, TESTS):
        with monkeypatch.context() as patched:
            world = World(seed, patched)
            world.run()
        for airflow in world.airflows:
            submitted += len(airflow.jobs)
            if found := unlawful(airflow):
                broken[seed] = found
    assert broken == {}
    # The schedules are no idle ones.
    assert submitted > SCHEDULES / TESTS

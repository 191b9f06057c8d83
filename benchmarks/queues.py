# SPDX-License-Identifier: Apache-2.0
"""What a cluster's jobs tell of how they were let in."""

from __future__ import annotations

from collections.abc import Sequence

from airflow_provider_scnet.testing.cluster import Job


def over_time(jobs: Sequence[Job], start: float) -> list[tuple[float, int]]:
    """
    Return moments, and how many jobs were in the queue from then on.

    :param jobs: the jobs
    :param start: what the moments are counted from, in seconds on the cluster's clock
    """
    steps = [(job.submitted_at, 1) for job in jobs]
    steps += [(job.started_at, -1) for job in jobs if job.started_at is not None]
    found, queued = [(0.0, 0)], 0
    for at, step in sorted(steps):
        queued += step
        found.append((at - start, queued))
    return found


def over_admitted(jobs: Sequence[Job], most: int) -> int:
    """
    Return how many jobs came when there were as many in the queue as were allowed, or more.

    :param jobs: the jobs
    :param most: how many were allowed
    """
    return sum(_queued_before(job, jobs) >= most for job in jobs)


def idle(jobs: Sequence[Job], slots: int, start: float, end: float) -> float:
    """
    Return the share of the slots' time that no job used, in percent.

    :param jobs: the jobs
    :param slots: how many slots there are
    :param start: since when, in seconds on the cluster's clock
    :param end: until when
    """
    if end <= start:
        return 0.0
    used = 0.0
    for job in jobs:
        if job.started_at is not None:
            ended_at = end if job.ended_at is None else job.ended_at
            used += max(0.0, min(ended_at, end) - max(job.started_at, start))
    return 100 * (1 - used / (slots * (end - start)))


def _queued_before(job: Job, jobs: Sequence[Job]) -> int:
    return sum(
        other.id < job.id and (other.started_at is None or other.started_at > job.submitted_at) for other in jobs
    )

# SPDX-License-Identifier: Apache-2.0
"""The simulator's history of jobs that have ended."""

from __future__ import annotations

import re
from collections.abc import Callable

from airflow_provider_scnet.testing.access import Access, RefusedError, required
from airflow_provider_scnet.testing.cluster import Cluster
from airflow_provider_scnet.testing.job_entries import JobEntries
from airflow_provider_scnet.testing.job_quirks import JobQuirks
from airflow_provider_scnet.testing.scheduler import check_scheduler
from airflow_provider_scnet.testing.server import Answer, Call
from airflow_provider_scnet.testing.submission import has_name, page_of

HISTORY_PATH = "/hpc/openapi/v2/historyjobs"


class History:
    """
    What accounting knows of runs that have ended, one entry a run: a job that was requeued has several.

    :param access: who may see whose jobs
    :param cluster: the jobs
    :param quirks: what SCnet does not document of it, as it is now
    """

    def __init__(self, access: Access, cluster: Cluster, quirks: Callable[[], JobQuirks]) -> None:
        self._access = access
        self._cluster = cluster
        self._quirks = quirks

    def answer(self, call: Call) -> Answer:
        """
        List runs that ended within a time, or whose jobs were queued then.

        This is what ``GET /hpc/openapi/v2/historyjobs`` does.

        The newest comes first. The times are the cluster's own, without a zone.
        """
        query, quirks, now = call.query, self._quirks(), self._cluster.clock.now()
        user = self._access.owner(call, query.get("strUser") or self._access.holder(call).name)
        check_scheduler(query, "strClusterNameList")
        names = ("startTime", "endTime", "timeType", "start", "limit", "isQueryByQueueTime")
        start, end, kind, _, _, by_queue_time = required(query, *names)
        if kind != "CUSTOM" or by_queue_time not in ("true", "false"):
            raise RefusedError("10004", "参数无效: timeType, isQueryByQueueTime")
        if not all(re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", time) for time in (start, end)):
            raise RefusedError("10004", "参数无效: startTime, endTime")
        entries = JobEntries(self._cluster.clock.wall, quirks.utc_offset)
        asked_time = "jobQueueTime" if by_queue_time == "true" else "jobEndTime"
        found = [
            (run.ended_at, entry)
            for job in (self._cluster.jobs(user) if user else [])
            if has_name(job.name, query.get("jobName"), quirks)
            and query.get("jobId") in (None, "", str(job.id))
            and query.get("queue") in (None, "", job.queue)
            for run in job.runs
            if run.ended_at <= now - quirks.in_history_after
            for entry in [entries.history(job, run)]
            if query.get("jobState") in (None, "", entry["jobState"]) and start <= entry[asked_time] <= end
        ]
        found.sort(key=lambda each: each[0], reverse=query.get("sort", "DESC") == "DESC")
        return page_of([entry for _, entry in found], query, quirks)

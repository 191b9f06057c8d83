# SPDX-License-Identifier: Apache-2.0
"""Jobs as SCnet takes and lists them."""

from __future__ import annotations

import json
import re
from typing import Any

from airflow_provider_scnet.testing.access import Access, RefusedError, required
from airflow_provider_scnet.testing.cluster import Cluster, Job, SubmissionError
from airflow_provider_scnet.testing.scheduler import check_scheduler
from airflow_provider_scnet.testing.server import Answer, Call

SUBMISSION_PATH = "/hpc/openapi/v2/apptemplates/BASIC/BASE/job"
JOB_LIST_PATH = "/hpc/openapi/v2/jobs"

#: Seconds for which a job that has ended stays in the list.
LISTED_FOR = 300.0
#: The code for a submission that Slurm's sbatch refuses.
REFUSED = "815007"

_NO_SUCH_QUEUE = "sbatch: error: Batch job submission failed: Invalid partition name specified"
_STATUS = {"running": "statR", "queued": "statQ", "ended": "statC"}
#: What a job has to say, and how.
_REQUIRED = {
    "GAP_CMD_FILE": r"(?s).+",
    "GAP_NNODE": r"[1-9]\d*",
    "GAP_SUBMIT_TYPE": "cmd",
    "GAP_JOB_NAME": r"\S+",
    "GAP_WORK_DIR": "/.*",
    "GAP_QUEUE": ".+",
    "GAP_WALL_TIME": r"\d+:[0-5]\d:[0-5]\d",
    "GAP_APPNAME": "BASE",
}


class Submission:
    """
    Takes jobs, and lists those there are.

    A job is one job of the cluster, whatever it asks for, and runs as long as the cluster's jobs do.

    :param access: who may submit, and see whose jobs
    :param cluster: where the jobs go
    """

    def __init__(self, access: Access, cluster: Cluster) -> None:
        self._access = access
        self._cluster = cluster

    def answer_submission(self, call: Call) -> Answer:
        """Submit a job, as ``POST /hpc/openapi/v2/apptemplates/BASIC/BASE/job`` does; ``data`` is its id."""
        user = self._access.holder(call).name
        job = _job_of(call.body)
        try:
            (job_id,) = self._cluster.submit(user, queue=job["GAP_QUEUE"], name=job["GAP_JOB_NAME"])
        except (SubmissionError, LookupError) as error:
            raise RefusedError(REFUSED, f"作业提交失败: {getattr(error, 'sbatch', _NO_SUCH_QUEUE)}") from None
        return Answer.envelope("0", "success", str(job_id))

    def answer_list(self, call: Call) -> Answer:
        """
        List a user's jobs, as ``GET /hpc/openapi/v2/jobs`` does, a page of them.

        A job appears when the counts include it. ``strJobName`` is any part of a name.
        """
        query = call.query
        user = self._access.owner(call, query.get("strJobOwner"))
        check_scheduler(query, "strClusterIDList")
        start, limit = query.get("start", "0"), query.get("limit", "25")
        if not (start.isdecimal() and limit.isdecimal()):
            raise RefusedError("10004", "参数无效: start, limit")
        now = self._cluster.clock.now()
        found = [
            _entry(job)
            for job in (self._cluster.jobs(user) if user else [])
            if job.submitted_at <= now - self._cluster.counted_after
            and (job.ended_at is None or job.ended_at > now - LISTED_FOR)
            and query.get("strJobName", "") in job.name
            and query.get("strQueueName") in (None, "", job.queue)
            and query.get("strJobStat") in (None, "", _STATUS[job.state])
        ]
        page = found[int(start) :][: int(limit)]
        return Answer.envelope("0", "success", {"total": len(found), "list": page})


def _job_of(body: bytes) -> dict[str, str]:
    """Read the body of a submission; it has to be as documented."""
    try:
        content: Any = json.loads(body)
        check_scheduler(content, "strJobManagerID")
        values = required(content["mapAppJobInfo"], *_REQUIRED)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise RefusedError("10004", "参数无效") from None
    job = dict(zip(_REQUIRED, values, strict=True))
    if wrong := [name for name, pattern in _REQUIRED.items() if not re.fullmatch(pattern, job[name])]:
        raise RefusedError("10004", f"参数无效: {', '.join(wrong)}")
    return job


def _entry(job: Job) -> dict[str, str]:
    return {"jobId": str(job.id), "jobName": job.name, "jobStatus": _STATUS[job.state], "queue": job.queue}

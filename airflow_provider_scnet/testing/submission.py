# SPDX-License-Identifier: Apache-2.0
"""Jobs as SCnet takes, lists, shows and deletes them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from airflow_provider_scnet.testing.access import Access, RefusedError, required
from airflow_provider_scnet.testing.cluster import Cluster, Job, SubmissionError
from airflow_provider_scnet.testing.faults import REFUSED, refusal_text
from airflow_provider_scnet.testing.job_entries import LIVE_STATUS, JobEntries
from airflow_provider_scnet.testing.job_files import form_of
from airflow_provider_scnet.testing.job_plan import JobTerms
from airflow_provider_scnet.testing.job_quirks import JobQuirks
from airflow_provider_scnet.testing.scheduler import SCHEDULER_ID, check_scheduler
from airflow_provider_scnet.testing.server import Answer, Call

SUBMISSION_PATH = "/hpc/openapi/v2/apptemplates/BASIC/BASE/job"
#: Also the path of a deletion. With a slash and an id it is that of a job's detail.
JOB_LIST_PATH = "/hpc/openapi/v2/jobs"

_NO_SUCH_QUEUE = "sbatch: error: Batch job submission failed: Invalid partition name specified"
#: What a job has to say, and how.
_REQUIRED = {
    "GAP_CMD_FILE": r"(?s).+",
    "GAP_SUBMIT_TYPE": "cmd",
    "GAP_JOB_NAME": r"\S+",
    "GAP_WORK_DIR": "/.*",
    "GAP_QUEUE": ".+",
    "GAP_WALL_TIME": r"\d+:[0-5]\d:[0-5]\d",
    "GAP_APPNAME": r"\w+",
}
#: What it may say, and how; what is not listed here is ignored.
_OPTIONAL = {
    "GAP_NNODE": r"[1-9]\d*",
    "GAP_NODE_STRING": ".+",
    **dict.fromkeys(("GAP_NPROC", "GAP_PPN", "GAP_NGPU", "GAP_NDCU"), r"\d+"),
    "GAP_JOB_MEM": r"\d+(MB|GB)",
    "GAP_EXCLUSIVE": "1",
    "GAP_STD_OUT_FILE": "/.*",
    "GAP_STD_ERR_FILE": "/.*",
    # A group of jobs is something that this simulator does not have.
    "GAP_MULTI_SUB": "1",
}
#: Of these SCnet takes one.
_EITHER = (("GAP_NNODE", "GAP_NODE_STRING"), ("GAP_NPROC", "GAP_PPN"))


class Submission:
    """
    Takes jobs, lists and shows those there are, and deletes them.

    A job takes one slot of its queue, whatever it asks for, and goes as planned.

    :param access: who may submit, and see whose jobs
    :param cluster: where the jobs go
    :param quirks: what SCnet does not document of it, as it is now
    """

    def __init__(self, access: Access, cluster: Cluster, quirks: Callable[[], JobQuirks]) -> None:
        self._access = access
        self._cluster = cluster
        self._quirks = quirks

    def answer_submission(self, call: Call) -> Answer:
        """Submit a job, as ``POST /hpc/openapi/v2/apptemplates/BASIC/BASE/job`` does; ``data`` is its id."""
        user = self._access.holder(call).name
        job = _job_of(call.body)
        name, rename = job["GAP_JOB_NAME"], self._quirks().rename
        try:
            (job_id,) = self._cluster.submit(
                user, queue=job["GAP_QUEUE"], name=rename(name) if rename else name, terms=_terms(job)
            )
        except (SubmissionError, LookupError) as error:
            raise RefusedError(REFUSED, refusal_text(getattr(error, "sbatch", _NO_SUCH_QUEUE))) from None
        return Answer.envelope("0", "success", str(job_id))

    def answer_list(self, call: Call) -> Answer:
        """List a user's jobs, as ``GET /hpc/openapi/v2/jobs`` does, a page of them."""
        query, quirks, now = call.query, self._quirks(), self._cluster.clock.now()
        user = self._access.owner(call, query.get("strJobOwner"))
        check_scheduler(query, "strClusterIDList")
        appears = self._cluster.counted_after if quirks.listed_after is None else quirks.listed_after
        entries = self._entries()
        found = [
            entries.live(job, now)
            for job in (self._cluster.jobs(user) if user else [])
            if job.submitted_at <= now - appears
            and self._is_live(job, now)
            and has_name(job.name, query.get("strJobName"), quirks)
            and query.get("strJobId") in (None, "", str(job.id))
            and query.get("strQueueName") in (None, "", job.queue)
            and query.get("strJobStat") in (None, "", LIVE_STATUS[job.state])
        ]
        return page_of(found, query, quirks)

    def answer_detail(self, call: Call) -> Answer:
        """
        Show a job of the token's user, as ``GET /hpc/openapi/v2/jobs/{id}`` does.

        One that is unknown, or was forgotten, is null with code ``0``.
        """
        user, quirks, now = self._access.holder(call).name, self._quirks(), self._cluster.clock.now()
        job_id = call.path.rpartition("/")[2]
        shown = [
            self._entries().detail(job, now, quirks.slurm_record)
            for job in self._cluster.jobs(user)
            if str(job.id) == job_id
            and job.submitted_at <= now - quirks.detailed_after
            and self._is_live(job, now)
        ]
        return Answer.envelope("0", "success", shown[0] if shown else None)

    def answer_deletion(self, call: Call) -> Answer:
        """
        Delete jobs of the token's user, as ``DELETE /hpc/openapi/v2/jobs`` does.

        It has code ``0`` also where it deletes nothing.
        """
        holder, quirks = self._access.holder(call), self._quirks()
        sent = {"body": form_of(call), "query": call.query, "nowhere": {}}[quirks.deletion]
        if sent:
            method, jobs = required(sent, "jobMethod", "strJobInfoMap")
            found = re.findall(rf"(?:^|;){SCHEDULER_ID},([^,:;]+):(\d+):(?=;|$)", jobs)
            if method != "5" or not found:
                raise RefusedError("10004", "参数无效: jobMethod, strJobInfoMap")
            for user, job_id in found:
                if user in (holder.name, holder.compute_user):
                    self._cluster.cancel_job(holder.name, int(job_id), quirks.cancelled_after)
        return Answer.envelope("0", "success", {SCHEDULER_ID: "success"})

    def _is_live(self, job: Job, now: float) -> bool:
        return job.ended_at is None or job.ended_at > now - self._quirks().listed_for

    def _entries(self) -> JobEntries:
        return JobEntries(self._cluster.clock.wall, self._quirks().utc_offset)


def has_name(name: str, asked: str | None, quirks: JobQuirks) -> bool:
    """
    Tell whether a job is one that a query asks for by its name.

    :param name: the job's name
    :param asked: what the query asks for; None or empty: any
    :param quirks: whether that is the name, or a part of it
    """
    return not asked or (asked == name if quirks.name_match == "exact" else asked in name)


def page_of(found: list[dict[str, str]], query: Mapping[str, str], quirks: JobQuirks) -> Answer:
    """
    Answer with a page of a list, and the number of all its entries.

    :param found: all entries
    :param query: where the page starts, and its size
    :param quirks: what becomes of that
    """
    start, limit = query.get("start", "0"), query.get("limit", "25")
    if not (start.isdecimal() and limit.isdecimal()):
        raise RefusedError("10004", "参数无效: start, limit")
    if not found and quirks.empty_is_null:
        return Answer.envelope("0", "success")
    first = 0 if quirks.ignores_start else int(start)
    size = int(limit) if quirks.largest_page is None else min(int(limit), quirks.largest_page)
    return Answer.envelope("0", "success", {"total": len(found), "list": found[first : first + size]})


def _job_of(body: bytes) -> dict[str, str]:
    """Read the body of a submission; it has to be as documented."""
    try:
        content: Any = json.loads(body)
        check_scheduler(content, "strJobManagerID")
        asked = {name: value for name, value in content["mapAppJobInfo"].items() if value != ""}
        one_of_nodes = [name for name in _EITHER[0] if name in asked][:1] or _EITHER[0][:1]
        required(asked, *_REQUIRED, *one_of_nodes)
        known = [*_REQUIRED, *(name for name in _OPTIONAL if name in asked)]
        job = dict(zip(known, required(asked, *known), strict=True))
    except (AttributeError, KeyError, TypeError, ValueError):
        raise RefusedError("10004", "参数无效") from None
    patterns = _REQUIRED | _OPTIONAL
    wrong = [name for name, value in job.items() if not re.fullmatch(patterns[name], value)]
    wrong += [name for pair in _EITHER if job.keys() >= set(pair) for name in pair]
    if wrong:
        raise RefusedError("10004", f"参数无效: {', '.join(wrong)}")
    return job


def _terms(job: Mapping[str, str]) -> JobTerms:
    hours, minutes, seconds = map(int, job["GAP_WALL_TIME"].split(":"))
    nodes = int(job.get("GAP_NNODE", "1"))
    return JobTerms(
        command=job["GAP_CMD_FILE"],
        work_dir=job["GAP_WORK_DIR"],
        stdout=job.get("GAP_STD_OUT_FILE", ""),
        stderr=job.get("GAP_STD_ERR_FILE", ""),
        nodes=nodes,
        cores=int(job.get("GAP_NPROC") or int(job.get("GAP_PPN", "1")) * nodes),
        wall_time=hours * 3600 + minutes * 60 + seconds,
    )

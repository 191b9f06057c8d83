# SPDX-License-Identifier: Apache-2.0
"""
A job as SCnet's live list, its detail and its history show it: three forms with different names.

Source: clients that measured the answers, where the documentation is cut short.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone

from airflow_provider_scnet.testing.cluster import Job
from airflow_provider_scnet.testing.job_plan import JobEnd, Run

#: The live list calls all that has ended by one name.
LIVE_STATUS = {"running": "statR", "queued": "statQ", "ended": "statC"}
#: The history tells apart how a run ended; for memory that ran out no code is known.
HISTORY_STATE = {
    "COMPLETED": "statC",
    "FAILED": "statD",
    "OUT_OF_MEMORY": "statD",
    "TIMEOUT": "statT",
    "CANCELLED": "statDE",
    "NODE_FAIL": "statN",
    "PREEMPTED": "statRQ",
}
#: What accounting has as the status of a run that failed; it is not the script's exit code.
_FAILED_STATUS = "10005"
_SLURM_STATE = {"running": "RUNNING", "queued": "PENDING"}


class JobEntries:
    """
    Makes entries of jobs.

    :param wall: the epoch time of a time of the cluster's clock
    :param utc_offset: hours by which the shown times are ahead of UTC
    """

    def __init__(self, wall: Callable[[float], float], utc_offset: float) -> None:
        self._wall = wall
        self._zone = timezone(timedelta(hours=utc_offset))

    def time(self, seconds: float | None) -> str:
        """Return a time of the cluster's clock as SCnet writes it, without a zone; empty where there is none."""
        if seconds is None:
            return ""
        return datetime.fromtimestamp(self._wall(seconds), self._zone).strftime("%Y-%m-%d %H:%M:%S")

    def live(self, job: Job, now: float) -> dict[str, str]:
        """Return an entry of the live list."""
        until = now if job.ended_at is None else job.ended_at
        return {
            "jobId": str(job.id),
            "jobName": job.name,
            "jobStatus": LIVE_STATUS[job.state],
            "queue": job.queue,
            "nodeUsed": str(job.terms.nodes),
            "procNumUsed": str(job.terms.cores),
            "jobStartTime": self.time(job.started_at),
            "jobRunTime": "0" if job.started_at is None else str(int(until - job.started_at)),
            "workDir": job.terms.work_dir,
            "reason": _reason(job),
        }

    def detail(self, job: Job, now: float, slurm_record: bool) -> dict[str, object]:
        """Return a job's detail."""
        shown: dict[str, object] = {
            **self.live(job, now),
            "user": job.user,
            "outputPath": job.stdout,
            "errorPath": job.stderr,
            # Always empty; the real one is in Slurm's record.
            "exitCode": "",
            "jobmanagerType": "SLURM",
        }
        if slurm_record:
            end = job.end or JobEnd()
            shown["jobInitAttr"] = {
                "JobState": _SLURM_STATE.get(job.state, end.outcome),
                "ExitCode": end.exit_code,
                "Reason": _reason(job),
                "WorkDir": job.terms.work_dir,
                "NumCPUs": str(job.terms.cores),
                "NumNodes": str(job.terms.nodes),
            }
        return shown

    def history(self, job: Job, run: Run) -> dict[str, str]:
        """Return an entry of the history, of one run of a job."""
        return {
            "jobId": str(job.id),
            "jobName": job.name,
            "jobState": HISTORY_STATE[run.end.outcome],
            "queue": job.queue,
            "nodect": str(job.terms.nodes),
            "jobProcNum": str(job.terms.cores),
            "jobExecHost": "node1",
            "jobQueueTime": self.time(job.submitted_at),
            "jobStartTime": self.time(run.started_at),
            "jobEndTime": self.time(run.ended_at),
            "jobWalltimeUsed": str(int(run.ended_at - run.started_at)),
            "jobExitStatus": "0" if run.end.exit_code == "0:0" else _FAILED_STATUS,
            "workdir": job.terms.work_dir,
            "acctTime": self.time(run.ended_at),
            "appType": "BASE",
        }


def _reason(job: Job) -> str:
    if job.end:
        return job.end.reason
    return "Resources" if job.state == "queued" else "None"

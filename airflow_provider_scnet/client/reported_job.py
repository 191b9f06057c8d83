# SPDX-License-Identifier: Apache-2.0
"""A job as SCnet reports it; its live list, its detail and its history name the same things differently."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any, Literal

from airflow_provider_scnet.client.errors import ScnetResponseError
from airflow_provider_scnet.client.job_state import JobState, history_state, live_state
from airflow_provider_scnet.client.redaction import redacted

#: The zone of all times that SCnet writes, which it does not name. Source: clients that measured it.
BEIJING = timezone(timedelta(hours=8), "Asia/Shanghai")

#: How many lines of a file SCnet shows at once, such as a job's output. Source: "read a file's content".
MOST_LINES = 1000

_TIME = "%Y-%m-%d %H:%M:%S"


@dataclass(frozen=True)
class ReportedJob:
    """
    A job, as one answer of SCnet has it.

    Texts of SCnet's are as they came, but for secrets; escape what is to be shown.

    :param job_id: its id; of a job that somebody submitted elsewhere it may be such as ``5_[1-50]``
    :param name: its name, which SCnet may have changed
    :param state: what is known of it
    :param source: which answer this is: the live ``list``, the ``detail`` of the job, or the ``history``
    :param code: SCnet's own code of the state, such as ``statR``
    :param queue: its queue
    :param exit_code: Slurm's exit code, status and signal, such as ``37:0``; only a detail has it
    :param reason: Slurm's reason, such as ``NonZeroExitCode``
    :param queued_at: when it was queued; only the history has it
    :param started_at: when it started
    :param ended_at: when it ended; only the history has it
    :param stdout: the file of its standard output; only a detail has it
    :param stderr: the file of its standard error; only a detail has it
    """

    job_id: str
    name: str
    state: JobState
    source: Literal["list", "detail", "history"]
    code: str = ""
    queue: str = ""
    exit_code: str = ""
    reason: str = ""
    queued_at: datetime | None = None
    started_at: datetime | None = None
    ended_at: datetime | None = None
    stdout: str = ""
    stderr: str = ""

    @property
    def said_state(self) -> str:
        """The state, and Slurm's reason where there is one, for people."""
        return f"{self.state} ({redacted(self.reason)})" if self.reason not in ("", "None") else str(self.state)

    @property
    def how_it_ended(self) -> str:
        """How it ended, for people."""
        code = f", exit code {self.exit_code}" if self.exit_code else ""
        return f"job {self.job_id} has ended: {self.said_state}{code}"

    def as_dict(self) -> dict[str, str | None]:
        """Return what is of use for whoever goes on with it, as JSON has it."""
        return {
            "job_id": self.job_id,
            "job_name": self.name,
            "state": str(self.state),
            "exit_code": self.exit_code or None,
            "started_at": self.started_at.isoformat() if self.started_at else None,
            "ended_at": self.ended_at.isoformat() if self.ended_at else None,
            "stdout": self.stdout or None,
            "stderr": self.stderr or None,
        }

    @classmethod
    def from_live(cls, entry: Any, source: Literal["list", "detail"]) -> ReportedJob:
        """
        Read an entry of the live list, or the detail of a job, which has the same fields and more.

        Of the state and the exit code Slurm's own record is believed, which only a detail has.

        :param entry: the entry, or the detail
        :param source: which of them
        :raises ScnetResponseError: where it has no id, name or state
        """
        read = _Fields(entry)
        slurm = _Fields(read.entry.get("jobInitAttr") or {})
        job_id, exit_code = read.required("jobId"), slurm.text("ExitCode") or read.text("exitCode")
        return cls(
            job_id=job_id,
            name=read.name(),
            state=live_state(read.required("jobStatus"), slurm.text("JobState")),
            source=source,
            code=read.text("jobStatus"),
            queue=read.text("queue"),
            exit_code=exit_code if re.fullmatch(r"\d+:\d+", exit_code) else "",
            reason=slurm.text("Reason") or read.text("reason"),
            started_at=read.time("jobStartTime"),
            # Slurm's pattern for the id stands there as it was asked for, or filled in.
            stdout=read.text("outputPath").replace("%j", job_id),
            stderr=read.text("errorPath").replace("%j", job_id),
        )

    @classmethod
    def from_history(cls, entry: Any) -> ReportedJob:
        """
        Read an entry of the history. Its ``jobExitStatus`` is accounting's, no exit code, and left out.

        :param entry: the entry
        :raises ScnetResponseError: where it has no id, name or state
        """
        read = _Fields(entry)
        return cls(
            job_id=read.required("jobId"),
            name=read.name(),
            state=history_state(read.required("jobState")),
            source="history",
            code=read.text("jobState"),
            queue=read.text("queue"),
            queued_at=read.time("jobQueueTime"),
            started_at=read.time("jobStartTime"),
            ended_at=read.time("jobEndTime"),
        )


class _Fields:
    """The fields of an entry, of which SCnet may leave out some, or say null."""

    def __init__(self, entry: Any) -> None:
        if not isinstance(entry, Mapping):
            raise ScnetResponseError("an entry of the answer's data is no job")
        self.entry = entry

    def text(self, name: str) -> str:
        """Return a text, or a number as text; empty for whatever else."""
        value = self.entry.get(name)
        return str(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else ""

    def required(self, name: str) -> str:
        """Return a text that has to be there."""
        if text := self.text(name):
            return text
        raise ScnetResponseError(f"a job in the answer's data has no {name}")

    def name(self) -> str:
        """Return the job's name. An empty one is a name; where none was sent, this may be any job."""
        if not isinstance(self.entry.get("jobName"), str):
            raise ScnetResponseError("a job in the answer's data has no jobName")
        return self.text("jobName")

    def time(self, name: str) -> datetime | None:
        """Return a time; None where there is none, or it cannot be read: nothing is decided by it."""
        try:
            return datetime.strptime(self.text(name), _TIME).replace(tzinfo=BEIJING)
        except ValueError:
            return None


def scnet_time(time: datetime) -> str:
    """
    Write a time as SCnet reads it.

    :param time: the time, with its zone
    """
    return time.astimezone(BEIJING).strftime(_TIME)

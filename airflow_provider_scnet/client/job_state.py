# SPDX-License-Identifier: Apache-2.0
"""The states of a job: one enumeration for what the live list, the history and Slurm call them."""

from __future__ import annotations

import enum
import re

#: Seconds after its end within which the history shows a job, it is assumed: how soon it does is not documented.
HISTORY_LAG = 900.0


class JobState(str, enum.Enum):
    """
    What is known of a job.

    The live list says of a job only that it has ended; how it did is known from its detail and from the history.
    """

    QUEUED = "queued"
    HELD = "held"
    RUNNING = "running"
    SUSPENDED = "suspended"
    #: It has ended; how is not known, and it may be queued again.
    ENDED = "ended"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMED_OUT = "timed_out"
    OUT_OF_MEMORY = "out_of_memory"
    #: These three may be queued again by Slurm, under the same id; the last one only the history knows.
    NODE_FAILED = "node_failed"
    PREEMPTED = "preempted"
    REQUEUED = "requeued"
    #: SCnet calls it by a name that may mean anything.
    UNKNOWN = "unknown"

    def __str__(self) -> str:
        """Return the name as it is written."""
        return self.value

    @property
    def is_unfinished(self) -> bool:
        """Whether it is certain that the job has not ended."""
        return self in _UNFINISHED

    @property
    def is_final(self) -> bool:
        """Whether the job has ended and it is known how; Slurm does not queue it again by itself."""
        return self in _FINAL


_UNFINISHED = {JobState.QUEUED, JobState.HELD, JobState.RUNNING, JobState.SUSPENDED}
_FINAL = {
    JobState.COMPLETED,
    JobState.FAILED,
    JobState.CANCELLED,
    JobState.TIMED_OUT,
    JobState.OUT_OF_MEMORY,
}

#: What a code means in the live list and the detail, and what in the history. Source: SCnet OpenAPI v2 lists the
#: first eight; the others, and that the live ``statC`` says nothing of how a job ended, is what clients measured.
#: Of ``statE`` (退出) clients disagree whether such a job has ended.
CODES: dict[str, tuple[JobState, JobState]] = {
    "statR": (JobState.RUNNING, JobState.RUNNING),
    "statQ": (JobState.QUEUED, JobState.QUEUED),
    "statW": (JobState.QUEUED, JobState.QUEUED),
    "statH": (JobState.HELD, JobState.HELD),
    "statS": (JobState.SUSPENDED, JobState.SUSPENDED),
    "statC": (JobState.ENDED, JobState.COMPLETED),
    "statE": (JobState.UNKNOWN, JobState.UNKNOWN),
    "statX": (JobState.UNKNOWN, JobState.UNKNOWN),
    "statD": (JobState.ENDED, JobState.FAILED),
    "statDE": (JobState.ENDED, JobState.CANCELLED),
    "statT": (JobState.ENDED, JobState.TIMED_OUT),
    "statN": (JobState.ENDED, JobState.NODE_FAILED),
    "statRQ": (JobState.UNKNOWN, JobState.REQUEUED),
}

#: Slurm's own names, in the record of a job's detail. Source: Slurm's page of job state codes.
SLURM_STATES: dict[str, JobState] = {
    "PENDING": JobState.QUEUED,
    "CONFIGURING": JobState.RUNNING,
    "RUNNING": JobState.RUNNING,
    "COMPLETING": JobState.RUNNING,
    "RESIZING": JobState.RUNNING,
    "SIGNALING": JobState.RUNNING,
    "STAGE_OUT": JobState.RUNNING,
    "SUSPENDED": JobState.SUSPENDED,
    "STOPPED": JobState.SUSPENDED,
    "REQUEUED": JobState.QUEUED,
    "REQUEUE_FED": JobState.QUEUED,
    "REQUEUE_HOLD": JobState.HELD,
    "RESV_DEL_HOLD": JobState.HELD,
    "SPECIAL_EXIT": JobState.HELD,
    "COMPLETED": JobState.COMPLETED,
    "FAILED": JobState.FAILED,
    "CANCELLED": JobState.CANCELLED,
    "TIMEOUT": JobState.TIMED_OUT,
    "DEADLINE": JobState.TIMED_OUT,
    "OUT_OF_MEMORY": JobState.OUT_OF_MEMORY,
    "NODE_FAIL": JobState.NODE_FAILED,
    "BOOT_FAIL": JobState.NODE_FAILED,
    "LAUNCH_FAILED": JobState.NODE_FAILED,
    "PREEMPTED": JobState.PREEMPTED,
}


def live_state(code: str, slurm_state: str = "") -> JobState:
    """
    Return the state of a job of the live list, or of a detail.

    :param code: SCnet's ``jobStatus``
    :param slurm_state: Slurm's own ``JobState``, where the detail has it: SCnet's may lag behind, and does not say
        how a job ended
    """
    if slurm_state:
        # Also "CANCELLED by 1001", and "CANCELLED+" where a column was too narrow.
        word = re.match("[A-Z_]*", slurm_state)
        return SLURM_STATES.get(word.group() if word else "", JobState.UNKNOWN)
    return CODES.get(code, (JobState.UNKNOWN,))[0]


def history_state(code: str) -> JobState:
    """
    Return the state of an entry of the history.

    :param code: SCnet's ``jobState``
    """
    return CODES.get(code, (JobState.UNKNOWN,))[-1]

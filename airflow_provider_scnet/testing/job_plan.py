# SPDX-License-Identifier: Apache-2.0
"""How a job goes once it was taken, as a value that a test plans."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

from airflow_provider_scnet.testing.clock import check_number, check_seconds

#: Slurm's own names for how a job can end.
Outcome = Literal["COMPLETED", "FAILED", "TIMEOUT", "OUT_OF_MEMORY", "CANCELLED", "NODE_FAIL", "PREEMPTED"]

# Exit code and reason as scontrol shows them.
_SHOWN: dict[str, tuple[str, str]] = {
    "COMPLETED": ("0:0", "None"),
    "FAILED": ("1:0", "NonZeroExitCode"),
    "TIMEOUT": ("0:15", "TimeLimit"),
    "OUT_OF_MEMORY": ("0:125", "OutOfMemory"),
    "CANCELLED": ("0:15", "None"),
    "NODE_FAIL": ("1:0", "NodeDown"),
    "PREEMPTED": ("0:15", "None"),
}


@dataclass(frozen=True)
class JobEnd:
    """
    How a run of a job ended.

    :param outcome: Slurm's state
    :param exit_code: Slurm's ``ExitCode``, such as ``37:0``; empty: what is usual for the outcome
    :param reason: Slurm's ``Reason``; empty: what is usual for the outcome
    """

    outcome: Outcome = "COMPLETED"
    exit_code: str = ""
    reason: str = ""

    def __post_init__(self) -> None:
        if self.outcome not in _SHOWN:
            raise ValueError(f"no outcome {self.outcome!r}; there are {', '.join(_SHOWN)}")
        usual_code, usual_reason = _SHOWN[self.outcome]
        object.__setattr__(self, "exit_code", self.exit_code or usual_code)
        object.__setattr__(self, "reason", self.reason or usual_reason)
        if not re.fullmatch(r"\d+:\d+", self.exit_code):
            raise ValueError(f"exit_code must be such as '37:0', not {self.exit_code!r}")


@dataclass(frozen=True)
class JobPlan:
    """
    How a job goes: how long it runs, how it ends, what it writes.

    :param run_for: seconds that it runs (``math.inf``: never ends); None: as its submission or the cluster says.
        One that runs for longer than the wall time of its submission ends then, as ``TIMEOUT``.
    :param outcome: how it ends, in Slurm's words
    :param exit_code: Slurm's ``ExitCode``, such as ``37:0``; empty: what is usual for the outcome
    :param reason: Slurm's ``Reason``; empty: what is usual for the outcome
    :param output: what is in its standard output once it has started
    :param error_output: what is in its standard error once it has started
    :param requeues: how many runs end with ``requeued_as`` before the last one, under the same id
    :param requeued_as: how those runs end
    :param requeued_after: seconds from the end of such a run until the job is queued again; meanwhile it is shown
        as ended
    """

    run_for: float | None = None
    outcome: Outcome = "COMPLETED"
    exit_code: str = ""
    reason: str = ""
    output: str = ""
    error_output: str = ""
    requeues: int = 0
    requeued_as: Outcome = "NODE_FAIL"
    requeued_after: float = 0.0

    def __post_init__(self) -> None:
        if self.run_for is not None:
            check_seconds("run_for", self.run_for)
        check_seconds("requeued_after", self.requeued_after)
        check_number("requeues", self.requeues)
        # Makes sure that they are what there is.
        _ = self.end, JobEnd(self.requeued_as)

    @property
    def end(self) -> JobEnd:
        """How the last run ends."""
        return JobEnd(self.outcome, self.exit_code, self.reason)


@dataclass(frozen=True)
class JobTerms:
    """
    What a submission asked for.

    :param command: the command
    :param work_dir: where it runs
    :param stdout: where its standard output goes; ``%j`` stands for its id
    :param stderr: where its standard error goes
    :param nodes: how many nodes
    :param cores: how many cores in all
    :param wall_time: seconds after which it is ended
    """

    command: str = ""
    work_dir: str = "/public/home"
    stdout: str = ""
    stderr: str = ""
    nodes: int = 1
    cores: int = 1
    wall_time: float = math.inf


@dataclass(frozen=True)
class Run:
    """A run of a job that was queued again after it; times are seconds on the simulator's clock."""

    started_at: float
    ended_at: float
    end: JobEnd

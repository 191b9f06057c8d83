# SPDX-License-Identifier: Apache-2.0
"""What SCnet does not document of its job interfaces, as options that a test sets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from airflow_provider_scnet.testing.clock import check_number, check_seconds


@dataclass(frozen=True)
class JobQuirks:
    """
    How the simulator's submission, list, detail, history and deletion of jobs behave. All times are seconds.

    :param listed_after: from a submission until the live list shows the job; None: until the counts include it
    :param detailed_after: from a submission until its detail answers
    :param listed_for: from the end of a job until list and detail forget it
    :param in_history_after: from the end of a run until the history shows it
    :param name_match: whether ``strJobName`` and the history's ``jobName`` ask for any ``part`` of a name, or for
        the ``exact`` one
    :param rename: what SCnet makes of the name of a submission, such as ``lambda name: name[:16]``
    :param empty_is_null: whether a list or history without jobs is ``data: null``
    :param slurm_record: whether the detail has Slurm's own record (``jobInitAttr``); without it the ``statC`` of
        an ended job does not say how it ended
    :param largest_page: how many entries a page of list or history has at most, whatever ``limit`` asks for
    :param ignores_start: whether each page is the first one
    :param deletion: where a deletion is read: in the ``body``, in the ``query``, or ``nowhere``. What is not read
        has code ``0`` all the same, and does nothing
    :param cancelled_after: from a deletion until the job has ended
    :param utc_offset: hours by which the cluster's times are ahead of UTC; default: Beijing's
    """

    listed_after: float | None = None
    detailed_after: float = 0.0
    listed_for: float = 300.0
    in_history_after: float = 0.0
    name_match: Literal["part", "exact"] = "part"
    rename: Callable[[str], str] | None = None
    empty_is_null: bool = False
    slurm_record: bool = True
    largest_page: int | None = None
    ignores_start: bool = False
    deletion: Literal["body", "query", "nowhere"] = "body"
    cancelled_after: float = 0.0
    utc_offset: float = 8.0

    def __post_init__(self) -> None:
        for name in ("detailed_after", "listed_for", "in_history_after", "cancelled_after"):
            check_seconds(name, getattr(self, name))
        if self.listed_after is not None:
            check_seconds("listed_after", self.listed_after)
        if self.largest_page is not None:
            check_number("largest_page", self.largest_page, 1)
        for name, known in (("name_match", ("part", "exact")), ("deletion", ("body", "query", "nowhere"))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, not {getattr(self, name)!r}")

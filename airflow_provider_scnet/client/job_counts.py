# SPDX-License-Identifier: Apache-2.0
"""What the cluster reported: how many jobs of one user are in which state."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from airflow_provider_scnet.client.error_codes import ErrorKind
from airflow_provider_scnet.client.errors import ScnetResponseError
from airflow_provider_scnet.client.redaction import redacted

#: The states a job can be counted in, in the field's terms.
STATES = ("running", "queued", "held", "suspended", "other")

#: The names SCnet gives them. Source: ``/hpc/openapi/v2/view/jobs/state`` for the Chinese ones; the
#: ``jobview_*`` keys have been seen in their place.
REPORTED_NAMES: dict[str, str] = {
    "运行": "running",
    "jobview_status_run": "running",
    "排队": "queued",
    "jobview_status_queue": "queued",
    "保留": "held",
    "jobview_status_reserve": "held",
    "挂起": "suspended",
    "jobview_status_hung": "suspended",
    "其他": "other",
    "jobview_status_other": "other",
}

#: The names that the counts of one queue give them.
METRICS = dict(zip("RQHSO", STATES, strict=True))

_MOST_JOBS = 10**9


@dataclasses.dataclass(frozen=True)
class JobCounts:
    """
    How many jobs of one user the cluster reported, by state.

    ``None`` stands for a state that was not reported, or not as a whole number from 0 to 10⁹: never for zero.

    :param running: jobs that run
    :param queued: jobs that wait for a place
    :param held: jobs that were put on hold
    :param suspended: jobs that were running and are stopped for now
    :param other: jobs in any other state, those under names nobody knows among them
    :param unknown: the names nobody knows whose jobs are counted as ``other``
    :param problems: for a state that could not be read, why
    :param problem_kind: what a problem means for a gate that needs the state
    """

    running: int | None = None
    queued: int | None = None
    held: int | None = None
    suspended: int | None = None
    other: int | None = None
    unknown: tuple[str, ...] = dataclasses.field(default=(), compare=False, repr=False)
    problems: Mapping[str, str] = dataclasses.field(default_factory=dict, compare=False, repr=False)
    problem_kind: ErrorKind = dataclasses.field(default=ErrorKind.UNCLEAR, compare=False, repr=False)

    @classmethod
    def from_response(cls, body: Any) -> JobCounts:
        """
        Read the documented body of ``/hpc/openapi/v2/view/jobs/state``.

        :param body: the decoded JSON
        :raises ScnetApiError: where SCnet reports an error
        :raises ScnetResponseError: where the body is not the documented one
        """
        # Not needed wherever a DAG file is parsed.
        from airflow_provider_scnet.client import response

        return cls.from_data(response.data_of(body))

    @classmethod
    def from_data(cls, data: Any) -> JobCounts:
        """
        Read the ``data`` of a successful answer: a list of ``{"name": "运行", "y": 1}``.

        :param data: the decoded list
        :raises ScnetResponseError: where it is no list of such entries
        """
        return cls._read(data, REPORTED_NAMES, ("name", "y"), strangers_are_other=True)

    @classmethod
    def from_metrics(cls, data: Any) -> JobCounts:
        """
        Read the counts of one queue: a list of ``{"metricName": "R", "metricValue": 1}``.

        Under which metric SCnet counts jobs in the state 等待 is not documented. So where there is a metric that
        nobody knows, ``other`` is not known.

        :param data: the decoded list
        :raises ScnetResponseError: where it is no list of such entries
        """
        return cls._read(data, METRICS, ("metricName", "metricValue"), strangers_are_other=False)

    @classmethod
    def _read(
        cls, data: Any, names: Mapping[str, str], keys: tuple[str, str], *, strangers_are_other: bool
    ) -> JobCounts:
        if not isinstance(data, list):
            raise ScnetResponseError("the answer's data is no list of states")
        counts: dict[str, int] = {}
        problems: dict[str, str] = {}
        strangers: dict[str, int] = {}
        for entry in data:
            if not isinstance(entry, Mapping) or not isinstance(entry.get(keys[0]), str):
                raise ScnetResponseError("an entry of the answer's data has no name of a state")
            name, number = entry[keys[0]], entry.get(keys[1])
            state = names.get(name)
            label = redacted(name)
            if state in counts or state in problems or label in strangers:
                problems[state or "other"] = f"is reported twice ({label})"
            elif isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= _MOST_JOBS:
                problems[state or "other"] = f"is not reported as a whole number ({label})"
            elif state is None:
                strangers[label] = number
            else:
                counts[state] = number
        if strangers_are_other and "other" in counts:
            counts["other"] += sum(strangers.values())
        elif strangers and not strangers_are_other:
            problems["other"] = f"is not known beside {', '.join(strangers)}"
        for state in STATES:
            if state not in counts:
                problems.setdefault(state, "is missing")
        return cls(
            **{state: count for state, count in counts.items() if state not in problems},  # type: ignore[arg-type]
            unknown=tuple(strangers),
            problems=problems,
        )

    @property
    def total(self) -> int | None:
        """All jobs in any state; ``None`` unless all five states were reported."""
        counts = [getattr(self, state) for state in STATES]
        return None if None in counts else sum(counts)

    def as_dict(self) -> dict[str, int | None]:
        """Return the five counts and their total, ready for JSON."""
        return {name: getattr(self, name) for name in (*STATES, "total")}

    def require(self, names: Iterable[str]) -> None:
        """
        Make sure that states were reported.

        :param names: states, or ``total``
        :raises ScnetResponseError: naming each one that was not, and why
        """
        wanted = set(names)
        if "total" in wanted:
            wanted.update(STATES)
        lacking = [
            f"'{state}' {self.problems.get(state, 'is missing')}"
            for state in STATES
            if state in wanted and getattr(self, state) is None
        ]
        if lacking:
            raise ScnetResponseError(f"in the cluster's answer {', '.join(lacking)}", kind=self.problem_kind)

    def plus(self, *, running: int = 0, queued: int = 0) -> JobCounts:
        """
        Return the counts as they would be with more jobs; a state that was not reported stays unknown.

        :param running: jobs to add to the running ones
        :param queued: jobs to add to the queued ones
        """
        return dataclasses.replace(
            self,
            running=None if self.running is None else self.running + running,
            queued=None if self.queued is None else self.queued + queued,
        )

    @property
    def all_zero(self) -> bool:
        """Whether no job was reported in any state."""
        return not any(getattr(self, state) for state in STATES)


#: The counts of a user without any job.
NO_JOBS = JobCounts(running=0, queued=0, held=0, suspended=0, other=0)

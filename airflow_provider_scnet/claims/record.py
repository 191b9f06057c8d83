# SPDX-License-Identifier: Apache-2.0
"""Claims as they are written down: JSON that a person can read, with the gates of a task under one heading."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

from airflow_provider_scnet.claims.claim import Claim
from airflow_provider_scnet.claims.claim_terms import GateId, SubmissionTasks, Terms
from airflow_provider_scnet.claims.expiry import Phase
from airflow_provider_scnet.event_loop import clock

#: What is written, and how long a turn takes: processes that differ in it must not decide side by side.
FORMAT = 1

_MOST_JOBS = 10**9
_PHASES = {phase.value for phase in Phase}


class UnknownFormatError(Exception):
    """Another version of this provider wrote the claims."""


def to_json(claims: Iterable[Claim]) -> dict[str, Any]:
    """Return claims as something to be written. Those of gates that Airflow does not know are left out."""
    # Moments are written by the wall clock, which all machines share.
    offset = clock.wall() - clock.now()
    groups: dict[tuple[tuple[str, str], Terms], dict[str, Any]] = {}
    for claim in claims:
        if gate := claim.gate:
            name = gate.task, claim.terms
            if name not in groups:
                terms = dataclasses.asdict(claim.terms)
                groups[name] = {"dag": gate.dag_id, "task": gate.task_id, "terms": terms, "claims": []}
            moments = _moment(claim.opened_at), _moment(claim.since + offset)
            row = claim.id, gate.run_id, gate.map_index, claim.phase.value, claim.is_closed, *moments
            groups[name]["claims"].append(row)
    return {"format": FORMAT, "gates": list(groups.values())}


class Written(NamedTuple):
    """A claim as it is written. Moments are by the wall clock, which all machines share."""

    id: str
    gate: GateId
    terms: Terms
    opened_at: float
    since: float
    phase: Phase
    is_closed: bool

    def claim(self) -> Claim:
        """Return it as a claim of this process."""
        # A clock that is ahead must not make a claim last for longer than from now on.
        now, offset = clock.now(), clock.wall() - clock.now()
        moments = self.opened_at, min(now, self.since - offset), now
        return Claim(self.id, self.gate, self.terms, *moments, self.phase, self.is_closed)


def loads(text: str) -> list[Written]:
    """
    Read claims, but what somebody spoilt by hand.

    :raises UnknownFormatError: where another version of this provider wrote it
    """
    found: Any = None
    with contextlib.suppress(ValueError, RecursionError):
        found = json.loads(text)
    if not isinstance(found, dict) or "format" not in found:
        return []
    if found["format"] != FORMAT:
        formats = f"format {str(found['format'])[:20]}, this one knows {FORMAT}"
        raise UnknownFormatError(
            f"claims were written by another version of this provider ({formats}): let all triggerers have one "
            "version"
        )
    claims: list[Written] = []
    for group in _list(found.get("gates")):
        with contextlib.suppress(KeyError, TypeError, ValueError, AttributeError, OverflowError):
            terms = _terms(**group["terms"])
            if isinstance(group["dag"], str) and isinstance(group["task"], str):
                for row in _list(group["claims"]):
                    if isinstance(row, (list, tuple)) and len(row) == 7 and _is_readable(*row):
                        id_, run_id, map_index, phase, is_closed, opened_at, since = row
                        gate, begin = GateId(group["dag"], run_id, group["task"], map_index), _read_moment(since)
                        what = Phase(phase), bool(is_closed)
                        claims.append(Written(id_, gate, terms, opened_at, begin, *what))
    return claims


def _is_readable(
    id_: Any, run_id: Any, map_index: Any, phase: Any, is_closed: Any, opened_at: Any, since: Any
) -> bool:
    return (
        all(isinstance(each, str) for each in (id_, run_id, phase))
        and phase in _PHASES
        and isinstance(map_index, int)
        and isinstance(opened_at, (int, float))
        and isinstance(since, (int, float, type(None)))
    )


def _list(found: Any) -> list[Any]:
    return found if isinstance(found, list) else []


def _terms(jobs: int, ttl: float, counted_after: float, queue_name: str | None, tasks: dict[str, Any]) -> Terms:
    if not (0 <= int(jobs) <= _MOST_JOBS and 0 <= float(ttl) < math.inf and 0 <= float(counted_after) < math.inf):
        raise ValueError(jobs)
    submit, upstream = dict(tasks["submit"]), dict(tasks["upstream"])
    gates, tell_job_id = (tuple(map(str, _list(tasks.get(name)))) for name in ("gates", "tell_job_id"))
    found = SubmissionTasks(submit, upstream, gates, bool(tasks["after_past_runs"]), tell_job_id)
    return Terms(
        int(jobs), float(ttl), float(counted_after), None if queue_name is None else str(queue_name), found
    )


def _moment(seconds: float) -> float | None:
    return None if seconds == -math.inf else round(seconds, 3)


def _read_moment(written: Any) -> float:
    # What somebody wrote by hand may be no number, or none that a float can be.
    return float(min(max(written, -1e15), 1e15)) if isinstance(written, (int, float)) else -math.inf

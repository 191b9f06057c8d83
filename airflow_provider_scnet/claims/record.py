# SPDX-License-Identifier: Apache-2.0
"""Claims as they are written down: JSON that a person can read, with the gates of a task under one heading."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from airflow_provider_scnet.claims.claim import Claim
from airflow_provider_scnet.claims.claim_terms import GateId, SubmissionTasks, Terms
from airflow_provider_scnet.claims.expiry import Phase
from airflow_provider_scnet.claims.variable_store import NotDecidedError
from airflow_provider_scnet.event_loop import clock

#: What is written, and how long a turn takes: processes that differ in it must not decide side by side.
FORMAT = 1

_MOST_JOBS = 10**9

T = TypeVar("T")


def to_json(claims: Iterable[Claim]) -> dict[str, Any]:
    """Return claims as something to be written."""
    # Moments are written by the wall clock, which all machines share.
    offset = clock.wall() - clock.now()
    groups: dict[tuple[tuple[str, str], Terms], dict[str, Any]] = {}
    for claim in claims:
        gate, name = claim.gate, (claim.gate.task, claim.terms)
        if name not in groups:
            terms = dataclasses.asdict(claim.terms)
            groups[name] = {"dag": gate.dag_id, "task": gate.task_id, "terms": terms, "claims": []}
        moments = round(claim.opened_at, 3), round(claim.since + offset, 3)
        row = claim.id, gate.run_id, gate.map_index, claim.phase.value, claim.is_closed, *moments
        groups[name]["claims"].append(row)
    return {"format": FORMAT, "gates": list(groups.values())}


def loads(text: str, now: float, wall: float) -> list[Claim]:
    """
    Read claims, but what somebody spoilt by hand.

    :param text: what is written
    :param now: the time by the event loop's clock, which a thread cannot ask
    :param wall: the same moment by the wall clock
    :raises NotDecidedError: where another version of this provider wrote it
    """
    found: Any = None
    with contextlib.suppress(ValueError, RecursionError):
        found = json.loads(text)
    if not isinstance(found, dict) or "format" not in found:
        return []
    if found["format"] != FORMAT:
        formats = f"format {str(found['format'])[:20]}, this one knows {FORMAT}"
        raise NotDecidedError(
            f"claims were written by another version of this provider ({formats}): let all triggerers have one "
            "version"
        )
    groups = _readable(found.get("gates"), lambda group: _group(group, now, wall - now))
    return [claim for group in groups for claim in group]


def _readable(found: Any, read: Callable[[Any], T]) -> list[T]:
    """Read each part of a list, but what somebody spoilt by hand."""
    parts = []
    for each in found if isinstance(found, list) else ():
        with contextlib.suppress(KeyError, TypeError, ValueError, AttributeError, OverflowError):
            parts.append(read(each))
    return parts


def _group(found: Any, now: float, offset: float) -> list[Claim]:
    dag_id, task_id, terms = str(found["dag"]), str(found["task"]), _terms(**found["terms"])

    def claim(row: Any) -> Claim:
        id_, run_id, map_index, phase, is_closed, opened_at, since = row
        gate = GateId(dag_id, str(run_id), task_id, int(map_index))
        # A clock that is ahead must not make a claim last for longer than from now on.
        moments = _moment(opened_at), min(now, _moment(since) - offset), now
        return Claim(str(id_), gate, terms, *moments, Phase(phase), bool(is_closed))

    return _readable(found["claims"], claim)


def _terms(jobs: int, ttl: float, counted_after: float, queue_name: str | None, tasks: dict[str, Any]) -> Terms:
    if not (0 <= int(jobs) <= _MOST_JOBS and 0 <= float(ttl) < math.inf and 0 <= float(counted_after) < math.inf):
        raise ValueError(jobs)
    submit, upstream = dict(tasks["submit"]), dict(tasks["upstream"])
    gates, tell_job_id = (tuple(map(str, tasks[name])) for name in ("gates", "tell_job_id"))
    found = SubmissionTasks(submit, upstream, gates, bool(tasks["after_past_runs"]), tell_job_id)
    return Terms(
        int(jobs), float(ttl), float(counted_after), None if queue_name is None else str(queue_name), found
    )


def _moment(written: Any) -> float:
    # What somebody wrote by hand may be no moment that a float can be.
    return min(max(0.0, float(written)), 1e15)

# SPDX-License-Identifier: Apache-2.0
"""
The table of phases: for how long a claim counts, and for whom.

It is the whole rule. When a claim ends, what is left of it, when the next poll is due, what the log says and what
Airflow is asked are all derived from it: changing a cell changes nothing else.
"""

from __future__ import annotations

import dataclasses
import enum
import functools

from airflow_provider_scnet.claims.claim_terms import Terms

#: Seconds after which a claim counts for nobody any longer, in whatever phase it is.
LONGEST_PHASE = 86_400.0


class Scope(enum.IntEnum):
    """Whose gates count a claim on top of what the cluster reports."""

    NOBODY = 0
    OWN_TASK = 1  #: gates of the same task
    EVERYBODY = 2


class Phase(str, enum.Enum):
    """How far the submission behind a gate that opened is; written down with the claim."""

    OPENING = "opening"  #: Airflow does not show yet that the gate has opened
    WAITS_UPSTREAM = "waits upstream"  #: has no state: a task upstream of it, or in the run before, has not ended
    NOT_SCHEDULED = "not scheduled"  #: has no state, although nothing upstream is awaited
    RUN_QUEUED = "run queued"  #: likewise, in a run that is itself queued
    PENDING = "pending"  #: waits for a slot, a worker or its next try
    STARTED = "started"
    ENDED = "ended"
    RENAMED = "renamed"  #: its task is no longer in the DAG file, while the run goes on
    DROPPED = "dropped"  #: will not submit, unless somebody clears it


@dataclasses.dataclass(frozen=True)
class Span:
    """So many times the gate's ``claim_ttl`` and its connection's ``counted_after``, and so many seconds."""

    claim_ttls: float = 0.0
    counted_afters: float = 0.0
    seconds: float = 0.0

    def of(self, terms: Terms) -> float:
        """Return the seconds, for what a gate claims."""
        return self.claim_ttls * terms.ttl + self.counted_afters * terms.counted_after + self.seconds


_NEVER = Span()
_TTL = Span(claim_ttls=1)


@dataclasses.dataclass(frozen=True)
class Row:
    """
    One row of the table. Spans begin with the phase.

    :param everybody: for so long every gate of the account counts the claim
    :param own_task: for so long gates of the same task do, if that is longer
    :param since_last_start: whether spans begin anew where a submission behind a gate of the same task starts
    :param exempts_upstream: whether gates that the submission waits for never count it
    :param may_have_submitted: whether the cluster counts the jobs of a claim that expires in this phase, so that
        the end of its submission is no news
    :param until_listed: whether it counts no longer once the cluster's list of jobs shows its jobs
    :param is_last: whether Airflow will show nothing further, unless somebody clears a task
    :param asks_about_run: whether the state of the run tells more
    :param hint: what may be the matter where everybody has counted it for that long, for people
    """

    everybody: Span = _NEVER
    own_task: Span = _NEVER
    since_last_start: bool = False
    exempts_upstream: bool = False
    may_have_submitted: bool = False
    until_listed: bool = False
    is_last: bool = False
    asks_about_run: bool = False
    hint: str = ""

    @functools.cached_property
    def counts(self) -> bool:
        """Whether anybody counts the claim at any time."""
        return self.everybody != _NEVER or self.own_task != _NEVER


TABLE: dict[Phase, Row] = {
    Phase.OPENING: Row(_TTL),
    Phase.WAITS_UPSTREAM: Row(
        _TTL,
        Span(claim_ttls=3),
        exempts_upstream=True,
        hint="a task upstream of it, or the run before, has not ended",
    ),
    # Of a paused DAG. While it does not submit, its own gates stay shut: else all would submit at once when
    # somebody unpauses it.
    Phase.NOT_SCHEDULED: Row(
        _TTL,
        Span(seconds=LONGEST_PHASE),
        asks_about_run=True,
        hint="is the DAG paused, or was its file removed?",
    ),
    # By max_active_runs, behind the run whose gate waits: each would wait for the other.
    Phase.RUN_QUEUED: Row(),
    # A pool of one slot may take minutes a job.
    Phase.PENDING: Row(
        _TTL,
        Span(claim_ttls=3),
        since_last_start=True,
        hint="is its pool full (perhaps of gates, in a pool that includes deferred tasks), or is there no worker?",
    ),
    # It submits, and may then wait for its job.
    Phase.STARTED: Row(_TTL, may_have_submitted=True),
    Phase.ENDED: Row(Span(counted_afters=1), may_have_submitted=True, until_listed=True, is_last=True),
    Phase.RENAMED: Row(_TTL, asks_about_run=True),
    Phase.DROPPED: Row(is_last=True),
}

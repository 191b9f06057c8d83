# SPDX-License-Identifier: Apache-2.0
"""What one gate decides on the counts that the cluster reported."""

from __future__ import annotations

import bisect
import dataclasses
import enum
import functools
from collections.abc import Collection
from typing import Any, NamedTuple

from airflow_provider_scnet.client.errors import ErrorKind, ScnetResponseError
from airflow_provider_scnet.client.job_counts import JobCounts
from airflow_provider_scnet.client.observation import Observation
from airflow_provider_scnet.gate.claimed import NOTHING, Claimed
from airflow_provider_scnet.gate.condition import Condition, ConditionError, views
from airflow_provider_scnet.gate.gate import Gate

#: The XCom in which every gate that opened leaves its decision, as JSON text.
XCOM_KEY = "decision"


class Verdict(str, enum.Enum):
    """What becomes of a gate."""

    OPEN = "open"
    WAIT = "wait"
    RETRY = "retry"  #: the try fails; Airflow's ``retries`` apply
    FAIL = "fail"  #: fails for good
    TIMEOUT = "timeout"  #: its time is up


@dataclasses.dataclass(frozen=True)
class Decision:
    """
    What a gate makes of an observation; prints itself in one line.

    :param verdict: what becomes of the gate
    :param reason: why, as a person reads it
    :param trouble: whether it rests on an error or a doubt rather than on counts
    :param kind: of which kind that error is; None where it rests on none
    :param shut_by: the claims that alone keep it shut, or None
    :param lacks: for how many of the gate's jobs there is no room, where there is some for the others; else 0
    """

    verdict: Verdict
    reason: str
    trouble: bool = False
    kind: ErrorKind | None = None
    shut_by: Claimed | None = dataclasses.field(default=None, compare=False)
    lacks: int = dataclasses.field(default=0, compare=False)

    def __str__(self) -> str:
        if self.shut_by is None:
            return self.reason
        left = self.shut_by.seconds_left
        at_most = "" if left is None else f", for {left:.0f} s at most"
        return f"{self.reason}; only claims of gates that passed keep it shut{at_most}"


class _Need(NamedTuple):
    """
    A condition that has to hold before a gate opens, and on what.

    :param condition: the gate's own, or its connection's
    :param states: the names that matter
    :param counts: what the cluster reported
    :param claimed: jobs of other gates that opened, to be counted on top
    :param where: of which queue all this is, as a message begins
    """

    condition: Condition
    states: Collection[str]
    counts: JobCounts
    claimed: Claimed
    where: str

    def seen(self, claimed: str = "") -> str:
        """Say what was seen, and what is claimed: in these words, or in short."""
        claimed = claimed or (f"+{self.claimed.jobs} claimed" if self.claimed.jobs else "")
        return self.where + listed(self.counts, self.states, claimed)

    def unmet(self, jobs: int) -> str:
        """Return what keeps it from holding with jobs of the gate's own, and with the claims as well."""
        # With its own jobs alone too: else a claim could open a gate whose condition says '!=' or '=='.
        cases = views(self.counts, jobs, jobs + self.claimed.jobs)
        return next(filter(None, map(self.condition.unmet, cases)), "")

    def has_room(self, jobs: int) -> bool:
        """Tell whether it holds with so many jobs added."""
        return self.condition.room_on(self.counts, jobs)


# The same one holds for all gates of a connection, poll after poll.
_read = functools.lru_cache(maxsize=100)(Condition)


def decide(
    gate: Gate, seen: Observation, claimed: Claimed = NOTHING, hold: str = "", of_account: Claimed | None = None
) -> Decision:
    """
    Decide on counts, claims of other gates, and the gate's own jobs.

    The condition has to hold on the counts as reported, and with all but one of the gate's own jobs, and the
    claims, added to ``queued``, and with them added to ``running``. So claims can only ever close a gate.

    So has the connection's condition, which is about the account: on the jobs and the claims of all its queues,
    also where the gate asks about one. Where it cannot be read, the gate stays shut.

    :param gate: what its author asks
    :param seen: what was seen of its queue, or of all
    :param claimed: jobs of other gates that opened, to be counted on top
    :param hold: why it must not open yet, whatever the counts
    :param of_account: those that were claimed from any queue; None: the same
    """
    if unread := seen.error_about(gate.states):
        return Decision(Verdict.RETRY, str(unread), trouble=True, kind=unread.kind)
    if seen.doubt:
        return Decision(Verdict.WAIT, f"waiting: {seen.doubt}", trouble=True)
    counts = seen.counts or JobCounts()
    in_queue = f"queue {gate.queue_name}: " if gate.queue_name else ""
    own = _Need(gate.condition, gate.states, counts, claimed, in_queue)
    if gate.fail_when and gate.fail_when.holds(counts):
        why = gate.fail_when.explain(counts)
        return Decision(Verdict.FAIL, f"{own.seen()}: failed, because fail_when {why}", trouble=True)
    needs = [own]
    if seen.condition:
        try:
            condition, whole = _read(seen.condition), seen.whole or counts
            whole.require(condition.states)
        except (ConditionError, ScnetResponseError) as error:
            return Decision(Verdict.WAIT, f"waiting: {seen.where}, extra 'condition': {error}", trouble=True)
        in_all = "all queues: " if gate.queue_name else ""
        needs.append(_Need(condition, condition.states, whole, of_account or claimed, in_all))
    more = max(gate.submits - 1, 0)
    unmet = [(need, clauses) for need in needs if (clauses := need.unmet(more))]
    if not unmet:
        if hold:
            return Decision(Verdict.WAIT, f"{own.seen()}: waiting, {hold}")
        return Decision(Verdict.OPEN, f"{own.seen()}: passes, {gate.condition.text}")
    need, clauses = unmet[-1]
    shut_by = need.claimed if all(each.has_room(more) for each in needs) else None
    who = "" if need is own else "the connection "
    room = f" with room for {gate.submits}" if more else ""
    return Decision(
        Verdict.WAIT,
        f"{need.seen(str(shut_by or ''))}: waiting, {who}needs {clauses}{room}",
        shut_by=shut_by,
        lacks=_lacking(gate.submits, needs),
    )


def _lacking(submits: int, needs: Collection[_Need]) -> int:
    def is_too_many(jobs: int) -> bool:
        return not all(need.has_room(jobs - 1 + need.claimed.jobs) for need in needs)

    fitting = bisect.bisect_left(range(1, submits), True, key=is_too_many)
    return submits - fitting if fitting else 0


def listed(counts: JobCounts, states: Collection[str], claimed: str = "") -> str:
    """
    List what was reported: the states that matter, and every other one that holds jobs; and claims.

    :param counts: what the cluster reported
    :param states: the names that matter, besides ``running`` and ``queued``
    :param claimed: what is claimed, as a person reads it; empty where nothing is
    """
    matter = {*states, "running", "queued"}
    parts = []
    for name, number in counts.as_dict().items():
        if number is None or (name == "total" and name not in matter) or not (number or name in matter):
            continue
        parts.append(f"{name} {number}")
        if name == "queued" and claimed:
            parts[-1] += f" ({claimed})"
    if claimed and counts.queued is None:
        parts.append(claimed)
    return ", ".join(parts)


def record(condition: Condition, observation: Observation, *, scnet_conn_id: str) -> dict[str, Any]:
    """
    Return what a condition was found to hold on as a JSON-native record.

    :param condition: the condition
    :param observation: what it holds on
    :param scnet_conn_id: the connection that was asked through
    """
    # Airflow 3.0 stores no XCom that is None: what is not there is left out.
    queue = {"queue_name": observation.queue_name} if observation.queue_name else {}
    return {
        "condition": condition.text,
        "user_name": observation.user_name,
        "scnet_conn_id": scnet_conn_id,
        **queue,
        "counts": observation.counts.as_dict() if observation.counts else None,
        "observed_at": observation.observed_at.isoformat(),
    }

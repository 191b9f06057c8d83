# SPDX-License-Identifier: Apache-2.0
"""What one gate decides on the counts that the cluster reported."""

from __future__ import annotations

import bisect
import dataclasses
import enum
import functools
from collections.abc import Collection
from typing import Any

from airflow_provider_scnet.client.errors import ScnetResponseError
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
    :param shut_by: the claims that alone keep it shut, or None
    :param lacks: for how many of the gate's jobs there is no room, where there is some for the others; else 0
    """

    verdict: Verdict
    reason: str
    trouble: bool = False
    shut_by: Claimed | None = dataclasses.field(default=None, compare=False)
    lacks: int = dataclasses.field(default=0, compare=False)

    def __str__(self) -> str:
        if self.shut_by is None:
            return self.reason
        left = self.shut_by.seconds_left
        at_most = "" if left is None else f", for {left:.0f} s at most"
        return f"{self.reason}; only claims of gates that passed keep it shut{at_most}"


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
    :raises ScnetResponseError: where a state that the gate needs was not reported
    """
    own = _decide(gate, seen.counts or JobCounts(), claimed, hold)
    if not seen.condition or own.verdict is Verdict.FAIL:
        return own
    try:
        of_all = _decide(
            Gate(_read(seen.condition), submits=gate.submits),
            seen.whole or seen.counts or JobCounts(),
            claimed if of_account is None else of_account,
            who="the connection ",
        )
    except (ConditionError, ScnetResponseError) as error:
        return Decision(Verdict.WAIT, f"waiting: {seen.where}, extra 'condition': {error}", trouble=True)
    if of_all.verdict is Verdict.OPEN:
        return own
    if gate.queue_name:
        of_all = dataclasses.replace(of_all, reason=f"all queues: {of_all.reason}")
    if own.verdict is Verdict.OPEN:
        return of_all
    return dataclasses.replace(
        of_all,
        shut_by=of_all.shut_by if own.shut_by else None,
        lacks=max(of_all.lacks, own.lacks) if of_all.lacks and own.lacks else 0,
    )


def _decide(gate: Gate, counts: JobCounts, claimed: Claimed, hold: str = "", who: str = "") -> Decision:
    counts.require(gate.states)
    seen = listed(counts, gate.states, f"+{claimed.jobs} claimed" if claimed.jobs else "", gate.queue_name)
    if gate.fail_when and gate.fail_when.holds(counts):
        return Decision(
            Verdict.FAIL, f"{seen}: failed, because fail_when {gate.fail_when.explain(counts)}", trouble=True
        )
    own = max(gate.submits - 1, 0)
    # With its own jobs alone too: else a claim could open a gate whose condition says '!=' or '=='.
    for view in views(counts, own, own + claimed.jobs):
        if unmet := gate.condition.unmet(view):
            break
    else:
        if hold:
            return Decision(Verdict.WAIT, f"{seen}: waiting, {hold}")
        return Decision(Verdict.OPEN, f"{seen}: passes, {gate.condition.text}")
    shut_by = claimed if gate.condition.room_on(counts, own) else None
    if shut_by:
        seen = listed(counts, gate.states, str(claimed), gate.queue_name)
    reason = f"{seen}: waiting, {who}needs {unmet}" + (f" with room for {gate.submits}" if own else "")
    return Decision(Verdict.WAIT, reason, shut_by=shut_by, lacks=_lacking(gate, counts, claimed.jobs))


def _lacking(gate: Gate, counts: JobCounts, claimed: int) -> int:
    fitting = bisect.bisect_left(
        range(1, gate.submits), True, key=lambda jobs: not gate.condition.room_on(counts, jobs - 1 + claimed)
    )
    return gate.submits - fitting if fitting else 0


def listed(counts: JobCounts, states: Collection[str], claimed: str = "", queue_name: str | None = None) -> str:
    """
    List what was reported: the states that matter, and every other one that holds jobs; and claims.

    :param counts: what the cluster reported
    :param states: the names that matter, besides ``running`` and ``queued``
    :param claimed: what is claimed, as a person reads it; empty where nothing is
    :param queue_name: the queue that they are of; None: all of them together
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
    return (f"queue {queue_name}: " if queue_name else "") + ", ".join(parts)


def record(gate: Gate, observation: Observation, *, scnet_conn_id: str, claimed: int) -> dict[str, Any]:
    """
    Return the decision of a gate that opened as a JSON-native record.

    :param gate: what the author asked
    :param observation: what it opened on
    :param scnet_conn_id: the connection it asked through
    :param claimed: jobs of other gates that were counted on top
    """
    return {**observed(gate.condition, observation, scnet_conn_id=scnet_conn_id), "claimed": claimed}


def observed(condition: Condition, observation: Observation, *, scnet_conn_id: str) -> dict[str, Any]:
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

# SPDX-License-Identifier: Apache-2.0
"""What all claims on one account come to, for each gate that asks."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable

from airflow_provider_scnet.claims.submission import GateId, Phase, Scope, Submission, SubmissionTasks
from airflow_provider_scnet.gate.claimed import NOTHING, Claimed

#: How many awaited submissions a message names.
_MOST_NAMED = 2


def claim_of(submission: Submission) -> Claimed:
    """
    Return what one submission claims.

    :param submission: the submission
    """
    awaited = submission.awaited if submission.is_open else None
    return Claimed(
        jobs=submission.terms.jobs,
        awaited=(awaited,) if awaited else (),
        unended=int(awaited is not None),
        ended=int(submission.phase is Phase.FINISHED),
        end=submission.expires,
    )


def plus(a: Claimed, b: Claimed) -> Claimed:
    """
    Add up.

    :param a: what is claimed
    :param b: what is claimed besides
    """
    awaited = a.awaited if len(a.awaited) >= _MOST_NAMED else (*a.awaited, *b.awaited)[:_MOST_NAMED]
    return Claimed(a.jobs + b.jobs, awaited, a.unended + b.unended, a.ended + b.ended, max(a.end, b.end))


class Totals:
    """
    The claims on one account as they weigh on one observation.

    :param at: when the observation was made, by the event loop's clock
    """

    def __init__(self, at: float) -> None:
        self.at = at
        self._everybody = NOTHING
        # Those that Airflow does not start, by their gates' task. Only gates of that task count them.
        self._own: dict[tuple[str, str], list[Submission]] = {}
        # Those without a state that may wait for a gate, by DAG. Gates that they wait for do not count them.
        self._stateless: dict[str, list[Submission]] = {}
        self._sums: dict[object, Claimed] = {}
        self._by_gate: dict[object, Claimed] = {}

    def add(self, submission: Submission, scope: Scope) -> None:
        """
        Count a submission's jobs.

        :param submission: the submission
        :param scope: who counts them
        """
        if not submission.terms.jobs or scope is Scope.NOBODY:
            return
        self._by_gate.clear()
        gate = submission.gate
        if scope is Scope.OWN_TASK:
            self._own.setdefault(gate.task, []).append(submission)
            self._sums.clear()
            return
        self._everybody = plus(self._everybody, claim_of(submission))
        tasks = submission.terms.tasks
        is_stateless = submission.phase in (Phase.WAITS_UPSTREAM, Phase.NOT_SCHEDULED)
        if is_stateless and (tasks.gates or tasks.after_past_runs):
            self._stateless.setdefault(gate.dag_id, []).append(submission)

    def claimed(self, gate: GateId | None) -> Claimed:
        """
        Return what a gate counts on top of the observation.

        :param gate: the gate; None where Airflow does not know it
        """
        if gate is None or not (self._own or self._stateless):
            return self._everybody
        own = self._own.get(gate.task, ())
        waits_for_it = [each for each in self._stateless.get(gate.dag_id, ()) if _needs(each, gate)]
        if not own and not waits_for_it:
            return self._everybody
        tasks = own[0].terms.tasks if own else SubmissionTasks()
        is_alike = not waits_for_it and not tasks.after_past_runs and gate.task_id not in tasks.gates
        key = (gate.task, None if is_alike else gate.run_id)
        if key not in self._by_gate:
            if key not in self._sums:
                counted = (claim_of(each) for each in own if not _needs(each, gate))
                self._sums[key] = functools.reduce(plus, counted, NOTHING)
            self._by_gate[key] = plus(_without(self._everybody, waits_for_it), self._sums[key])
        return self._by_gate[key]


def _needs(submission: Submission, gate: GateId) -> bool:
    """Tell whether a submission of the same DAG cannot start before a gate has opened."""
    tasks, its_gate = submission.terms.tasks, submission.gate
    if its_gate.run_id == gate.run_id:
        return gate.task_id in tasks.gates
    return tasks.after_past_runs and its_gate.task_id == gate.task_id and gate.order < its_gate.order


def _without(claimed: Claimed, submissions: Iterable[Submission]) -> Claimed:
    taken = [claim_of(each) for each in submissions]
    names = {name for each in taken for name in each.awaited}
    return dataclasses.replace(
        claimed,
        jobs=claimed.jobs - sum(each.jobs for each in taken),
        awaited=tuple(name for name in claimed.awaited if name not in names),
        unended=claimed.unended - sum(each.unended for each in taken),
    )

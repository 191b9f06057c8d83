# SPDX-License-Identifier: Apache-2.0
"""What all claims on an account, or on one queue of it, come to for each gate that asks."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable

from airflow_provider_scnet.claims.claim import Claim
from airflow_provider_scnet.claims.claim_terms import GateId
from airflow_provider_scnet.claims.expiry import Scope
from airflow_provider_scnet.gate.claimed import NOTHING, Claimed

# Whose gates: DAG, run (None: all of them) and task.
_Gates = tuple[str, "str | None", str]


class Totals:
    """
    Claims as they weigh on one observation.

    :param claims: all that are known
    :param at: when the observation was made, by the event loop's clock
    :param queue_name: the queue that gates ask about; None: all of them together
    :param listed: the ids of jobs that need not be counted on top, as the list of jobs shows them
    """

    def __init__(
        self, claims: Iterable[Claim], at: float, queue_name: str | None = None, listed: Collection[str] = ()
    ) -> None:
        self._queue_name = queue_name
        self._everybody = NOTHING
        # What Airflow does not start: only gates of the same task count it.
        self._own: defaultdict[tuple[str, str], Claimed] = defaultdict(lambda: NOTHING)
        # What gates do not count because its submission waits for them.
        self._exempt: defaultdict[_Gates, Claimed] = defaultdict(lambda: NOTHING)
        # Gates that count the same get the same object, for as long as it is the same.
        self._known: dict[_Gates, Claimed] = {}
        for claim in claims:
            if not claim.is_listed(listed):
                self.add(claim, claim.scope(at))

    def add(self, claim: Claim, scope: Scope = Scope.EVERYBODY) -> None:
        """Count a claim, for whom it concerns."""
        if scope is Scope.NOBODY or not claim.terms.jobs or not claim.terms.claims_from(self._queue_name):
            return
        self._known.clear()
        gate, tasks = claim.gate, claim.terms.tasks
        # Nobody can tell when a claim ends whose submission may yet start.
        is_certain = claim.row.may_have_submitted or not claim.is_unended
        part = Claimed(
            claim.terms.jobs,
            (claim.awaited,) if claim.is_unended else (),
            unended=int(claim.is_unended),
            ended=int(claim.row.is_last),
            end=claim.ends(scope) if is_certain else math.inf,
        )
        if scope is Scope.EVERYBODY:
            self._everybody = self._everybody.plus(part)
        else:
            self._own[gate.task] = self._own[gate.task].plus(part)
        if claim.row.exempts_upstream:
            exempt: set[_Gates] = {(gate.dag_id, gate.run_id, task_id) for task_id in tasks.gates}
            if tasks.after_past_runs:
                exempt -= {(gate.dag_id, gate.run_id, gate.task_id)}
                exempt |= {(gate.dag_id, None, gate.task_id)}
            for gates in exempt:
                # Gates of other tasks have not counted what only its own task does.
                if scope is Scope.EVERYBODY or gates[2] == gate.task_id:
                    self._exempt[gates] = self._exempt[gates].plus(part)

    def claimed(self, gate: GateId | None = None) -> Claimed:
        """Return what a gate counts on top of the observation; None stands for one that Airflow does not know."""
        if gate is None or not (self._own or self._exempt):
            return self._everybody
        in_run: _Gates = gate.dag_id, gate.run_id, gate.task_id
        in_all: _Gates = gate.dag_id, None, gate.task_id
        name = in_run if in_run in self._exempt else in_all
        if name not in self._known:
            claimed = self._everybody
            if gate.task in self._own:
                claimed = claimed.plus(self._own[gate.task])
            for gates in {name, in_all} & self._exempt.keys():
                claimed = claimed.without(self._exempt[gates])
            self._known[name] = claimed
        return self._known[name]

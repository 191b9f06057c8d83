# SPDX-License-Identifier: Apache-2.0
"""Which gates open on one observation: all that see it decide, in order, and each that opens claims."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from airflow_provider_scnet.claims.claim import Claim
from airflow_provider_scnet.claims.ledger import Ledger
from airflow_provider_scnet.claims.totals import Totals
from airflow_provider_scnet.client.observation import Observation
from airflow_provider_scnet.gate.claimed import NOTHING, Claimed
from airflow_provider_scnet.gate.decision import Decision, Verdict, decide
from airflow_provider_scnet.gate.gate import Gate
from airflow_provider_scnet.polling.kept_room import KeptRoom
from airflow_provider_scnet.polling.waiting import Place, WaitingGate


class Admission:
    """
    The gates of one poller, and what they decide on one observation.

    :param places: the gates that see it, the first in order first
    :param observation: what was seen
    :param ledger: what is claimed on the account; None where nobody knows which account that is
    :param kept_room: the room that is kept there
    """

    def __init__(
        self,
        places: Collection[Place],
        observation: Observation,
        ledger: Ledger | None = None,
        kept_room: KeptRoom | None = None,
    ) -> None:
        #: The gates that see it.
        self.places = places
        self._observation = observation
        self._ledger = ledger
        self._kept_room = kept_room
        self._begin()

    def _begin(self) -> None:
        #: Those that open: each with what it opens on, its decision, the jobs claimed by others, and its claim.
        self.openings: list[tuple[Place, Observation, Decision, int, Claim | None]] = []
        #: The others, and what each decided on what.
        self.decisions: list[tuple[Place, Observation, Decision]] = []
        #: Those with room for some of their jobs, and how many they lack.
        self.short: list[tuple[WaitingGate, int]] = []
        #: The queues in which claims alone keep gates shut.
        self.shut_by_claims: set[str | None] = set()
        # By queue, and whether without what the list of jobs shows.
        self._totals: dict[tuple[str | None, bool], Totals] = {}
        # What was decided for gates that ask the same; with what was claimed, so that no other gets its identity.
        self._decided: dict[tuple[Any, ...], tuple[Claimed, Claimed | None, Decision]] = {}

    @property
    def claims(self) -> list[Claim]:
        """The claims of those that open."""
        return [claim for *_, claim in self.openings if claim]

    def admit(self, hold: str = "") -> Collection[Claim]:
        """
        Let all decide, without an ``await``, and return the claims of those that open.

        :param hold: why no gate may open now whose claim others have to know of
        """
        self._begin()
        for place in self.places:
            gate = place.gate
            if gate.opens_on == place.conn_id:
                gate.opens_on = None
            if gate.has_ended:
                continue
            seen = self._observation.of(place.queue_name)
            claimed, of_account = self._counted(gate, seen)
            decision = place.evaluator.take(self._decide(gate.asks, seen, claimed, "", of_account))
            if decision.shut_by:
                self.shut_by_claims.add(place.queue_name if decision.shut_by is claimed else None)
            if decision.shut_by and seen.by_list:
                # The counts may lack jobs that the list shows: both have to have room, without claims of these.
                unlisted = self._counted(gate, seen, is_listed=True)
                views = [
                    place.evaluator.take(self._decide(gate.asks, view, unlisted[0], "", unlisted[1]))
                    for view in (seen.by_list, seen)
                ]
                if all(each.verdict is Verdict.OPEN for each in views):
                    decision, (claimed, of_account) = views[-1], unlisted
            if decision.verdict is Verdict.OPEN:
                reason = gate.reason_to_wait(place.conn_id)
                if gate.asks.submits and self._kept_room:
                    reason = reason or (hold if gate.id else "") or self._kept_room.reason_to_wait(gate)
                if not reason:
                    # Not on another of its clusters meanwhile.
                    claim = self._claim(gate, seen.counted_after)
                    gate.opens_on = place.conn_id
                    self.openings.append((place, seen, decision, claimed.jobs, claim))
                    continue
                decision = place.evaluator.take(self._decide(gate.asks, seen, claimed, reason, of_account))
            if decision.lacks:
                self.short.append((gate, decision.lacks))
            self.decisions.append((place, seen, decision))
        return self.claims

    def _counted(
        self, gate: WaitingGate, seen: Observation, is_listed: bool = False
    ) -> tuple[Claimed, Claimed | None]:
        """Return what a gate counts on top, and of all queues where it needs that as well."""
        claimed = self._claimed(gate, seen, seen.queue_name, is_listed)
        return claimed, self._claimed(gate, seen, None, is_listed) if seen.condition and seen.queue_name else None

    def _claimed(self, gate: WaitingGate, seen: Observation, queue: str | None, is_listed: bool) -> Claimed:
        if self._ledger is None:
            return NOTHING
        name = queue, is_listed
        if name not in self._totals:
            listed = seen.jobs.ids(queue) if is_listed and seen.jobs else ()
            self._totals[name] = self._ledger.totals(seen.at, queue, listed)
            for claim in self.claims:
                self._totals[name].add(claim)
        return self._totals[name].claimed(gate.id)

    def _claim(self, gate: WaitingGate, counted_after: float) -> Claim | None:
        if not gate.asks.submits or self._ledger is None:
            return None
        claim = self._ledger.claim(gate.id, gate.terms(counted_after))
        for totals in self._totals.values():
            totals.add(claim)
        return claim

    def _decide(
        self, gate: Gate, seen: Observation, claimed: Claimed, hold: str, of_account: Claimed | None
    ) -> Decision:
        """Decide once for all that ask the same and count the same."""
        name = id(gate), id(seen), id(claimed), id(of_account), hold
        if name not in self._decided:
            self._decided[name] = claimed, of_account, decide(gate, seen, claimed, hold, of_account)
        return self._decided[name][-1]

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
    What the gates of one poller decide on one observation, in order and without an ``await``.

    :param places: the gates that see it, the first in order first
    :param observation: what was seen
    :param ledger: what is claimed on the account; None where nobody knows which account that is
    :param kept_room: the room that is kept there
    :param hold: why no gate may open now whose claim others have to know of
    """

    def __init__(
        self,
        places: Collection[Place],
        observation: Observation,
        ledger: Ledger | None = None,
        kept_room: KeptRoom | None = None,
        hold: str = "",
    ) -> None:
        #: The gates that see it.
        self.places = places
        self._ledger = ledger
        self._kept_room = kept_room
        self._hold = hold
        #: What each decides on what, the jobs claimed by others, and its own claim if it opens and makes one.
        self.decisions: list[tuple[Place, Observation, Decision, int, Claim | None]] = []
        #: The gates that open, and what they claim.
        self.opened: list[WaitingGate] = []
        self.claims: list[Claim] = []
        #: Those with room for some of their jobs, and how many they lack.
        self.short: list[tuple[WaitingGate, int]] = []
        #: The queues in which claims alone keep gates shut.
        self.shut_by_claims: set[str | None] = set()
        # By queue, and whether without what the list of jobs shows.
        self._totals: dict[tuple[str | None, bool], Totals] = {}
        # What was decided for gates that ask the same; with what was claimed, so that no other gets its identity.
        self._decided: dict[tuple[Any, ...], tuple[Claimed, Claimed | None, Decision]] = {}
        for place in places:
            if place.gate.opens_on == place.conn_id:
                place.gate.opens_on = None
            if not place.gate.has_ended:
                self._admit(place, observation.of(place.queue_name))

    def _admit(self, place: Place, seen: Observation) -> None:
        gate, claim, hold = place.gate, None, self._reason_to_wait(place)
        decision, claimed = self._on(place, seen, hold)
        if decision.shut_by:
            self.shut_by_claims.add(place.queue_name if decision.shut_by is claimed else None)
        if decision.shut_by and seen.by_list:
            # The counts may lack jobs that the list shows: both have to have room, without claims of these.
            views = [self._on(place, view, hold, is_listed=True) for view in (seen.by_list, seen)]
            if all(each.verdict is Verdict.OPEN for each, _ in views):
                decision, claimed = views[-1]
        if decision.verdict is Verdict.OPEN:
            # Not on another of its clusters meanwhile.
            gate.opens_on = place.conn_id
            self.opened.append(gate)
            claim = self._claim(gate, seen.counted_after)
        elif decision.lacks:
            self.short.append((gate, decision.lacks))
        self.decisions.append((place, seen, decision, claimed.jobs, claim))

    def _reason_to_wait(self, place: Place) -> str:
        gate = place.gate
        reason = gate.reason_to_wait(place.conn_id)
        if gate.asks.submits and self._kept_room:
            reason = reason or (self._hold if gate.id else "") or self._kept_room.reason_to_wait(gate)
        return reason

    def _on(self, place: Place, seen: Observation, hold: str, is_listed: bool = False) -> tuple[Decision, Claimed]:
        """Return what a gate decides on something, and what it counts on top."""
        claimed = self._claimed(place.gate, seen, seen.queue_name, is_listed)
        # Only the connection's condition is about all queues.
        is_about_all = seen.condition and seen.queue_name
        of_account = self._claimed(place.gate, seen, None, is_listed) if is_about_all else None
        return place.evaluator.take(self._decide(place.gate.asks, seen, claimed, hold, of_account)), claimed

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
        self.claims.append(claim)
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

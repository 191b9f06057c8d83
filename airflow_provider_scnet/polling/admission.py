# SPDX-License-Identifier: Apache-2.0
"""Whether one gate opens on an observation, given all claims; and its own claim where it does."""

from __future__ import annotations

from airflow_provider_scnet.claims.ledger import Ledger
from airflow_provider_scnet.claims.waiting import WaitingGate
from airflow_provider_scnet.client.observation import Observation
from airflow_provider_scnet.gate.claimed import NOTHING, Claimed
from airflow_provider_scnet.gate.decision import Decision, Verdict, decide
from airflow_provider_scnet.gate.evaluator import GateEvaluator
from airflow_provider_scnet.polling.waiter import Wake


class Admission:
    """
    Lets one gate through: its evaluator decides on observations and on the claims of all others.

    :param ledger: the claims
    :param evaluator: the gate's evaluator
    :param waiting: the gate
    """

    def __init__(self, ledger: Ledger, evaluator: GateEvaluator, waiting: WaitingGate) -> None:
        self._ledger = ledger
        self._evaluator = evaluator
        self._waiting = waiting

    def wake_for(self, observation: Observation) -> Wake:
        """
        Tell what an observation is to the gate.

        :param observation: the observation
        """
        decision, _ = self._decide(observation)
        if decision.verdict is Verdict.OPEN and self._waiting.jobs:
            return Wake.ROOM
        return Wake.NEWS if self._evaluator.has_news(observation, decision) else Wake.NOTHING

    def judge(self, observation: Observation) -> tuple[Decision, Claimed]:
        """
        Decide on an observation, say what is new, and claim room where the gate opens: without an ``await``.

        :param observation: the observation
        :return: the decision, and what others have claimed
        """
        decision, claimed = self._decide(observation)
        self._evaluator.say(observation, decision)
        if decision.verdict is Verdict.OPEN:
            self._waiting.account, self._waiting.counted_after = observation.account, observation.counted_after
            self._ledger.reserve(self._waiting)
        return decision, claimed

    def _decide(self, observation: Observation) -> tuple[Decision, Claimed]:
        claimed = (
            self._ledger.claimed(observation.account, observation.at, self._waiting.gate)
            if observation.account
            else NOTHING
        )
        decision = self._evaluator.decide(observation, claimed)
        if decision.is_short:
            self._ledger.kept_room.note_short(self._waiting, observation.at)
        if decision.verdict is Verdict.OPEN and (reason := self._reason_to_wait(observation, claimed)):
            decision = self._evaluator.decide(observation, claimed, reason)
        return decision, claimed

    def _reason_to_wait(self, observation: Observation, claimed: Claimed) -> str:
        gate, counts = self._evaluator.gate, observation.counts
        if not gate.submits or counts is None:
            return ""

        def opens(others: int) -> bool:
            more = Claimed(claimed.jobs + others * gate.submits)
            return decide(gate, counts, more).verdict is Verdict.OPEN

        return self._ledger.reason_to_wait(self._waiting, observation.at, opens)

# SPDX-License-Identifier: Apache-2.0
"""One gate's way through: what it makes of each look, and what it claims where it passes."""

from __future__ import annotations

from airflow_provider_scnet.client.observation import Observation
from airflow_provider_scnet.gate import clock
from airflow_provider_scnet.gate.account import Accounts
from airflow_provider_scnet.gate.claims import NOTHING, Claim, Claimed
from airflow_provider_scnet.gate.decision import Decision, GateKeeper, Verdict
from airflow_provider_scnet.gate.waiting import Waiting
from airflow_provider_scnet.gate.watch import Heed


class Passage:
    """
    A gate on its way: its keeper decides on looks and the claims of all others, and claims room as it passes.

    :param accounts: what this event loop knows of all accounts
    :param keeper: the gate's keeper
    :param ttl: seconds for which its jobs are claimed at most, where nobody tells what becomes of the submission
    :param waiting: the gate, as Airflow knows it; None where Airflow does not
    """

    def __init__(self, accounts: Accounts, keeper: GateKeeper, ttl: float, waiting: Waiting | None = None) -> None:
        self._accounts = accounts
        self._keeper = keeper
        self._ttl = ttl
        self._waiting = waiting

    def heeds(self, look: Observation) -> Heed:
        """
        Tell what a look is to the gate.

        :param look: what was seen
        """
        decision, _ = self._decide(look)
        if decision.verdict is Verdict.OPEN and self._keeper.gate.submits:
            return Heed.ALL
        return Heed.SOME if self._keeper.has_news(look, decision) else Heed.NONE

    def judge(self, look: Observation) -> tuple[Decision, Claimed]:
        """
        Decide on a look, say what is new, and claim room where the gate passes: all in one, without an ``await``.

        :param look: what was seen
        :return: the decision, and what others have claimed
        """
        decision, claimed = self._decide(look)
        self._keeper.say(look, decision)
        if decision.verdict is Verdict.OPEN:
            self._claim(look)
        return decision, claimed

    def _decide(self, look: Observation) -> tuple[Decision, Claimed]:
        claimed = self._accounts.claims(look.account).weigh(look.at) if look.account else NOTHING
        decision = self._keeper.decide(look, claimed)
        if decision.verdict is Verdict.OPEN and self._waiting:
            submissions = self._accounts.submissions
            hold = submissions.hold(self._waiting, look.at) or self._turn(self._waiting, look, claimed)
            if hold:
                decision = self._keeper.decide(look, claimed, hold)
        return decision, claimed

    def _turn(self, waiting: Waiting, look: Observation, claimed: Claimed) -> str:
        """Say why it is not the gate's turn; empty where it is."""
        gate, counts = self._keeper.gate, look.counts
        if not gate.submits or counts is None:
            return ""

        def opens(others: int) -> bool:
            return gate.judge(counts, Claimed(claimed.jobs + others * gate.submits)).verdict is Verdict.OPEN

        return self._accounts.submissions.turn(waiting, look.at, opens)

    def _claim(self, look: Observation) -> None:
        if self._waiting:
            self._accounts.submissions.passes(self._waiting)
        elif look.account:
            claim = Claim(self._keeper.gate.submits, clock.now() + self._ttl)
            self._accounts.claims(look.account).put(object(), claim)

# SPDX-License-Identifier: Apache-2.0
"""The clusters of one gate: it waits on all of them, and opens on one."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from airflow_provider_scnet.gate.decision import Decision, Verdict

#: What is said of a cluster that has failed for good, while the gate waits for others.
SET_ASIDE = "%s: set aside for good; the gate waits for its other clusters"


class Clusters:
    """
    What a gate's clusters have come to, and so the gate.

    A cluster that cannot be read fails no gate while another can be, or may yet be.

    :param conn_ids: the ids of their connections
    """

    def __init__(self, conn_ids: Iterable[str]) -> None:
        #: What a gate of each cluster alone would decide; None: there is no news of it yet.
        self.decisions: dict[str, Decision | None] = dict.fromkeys(conn_ids)

    def outcome(self, conn_id: str, decision: Decision) -> Decision:
        """
        Return what becomes of the gate.

        :param conn_id: the connection of which there is news
        :param decision: what a gate of this connection alone would decide
        """
        self.decisions[conn_id] = decision
        if len(self.decisions) == 1:
            return decision
        if decision.verdict is Verdict.OPEN:
            return dataclasses.replace(decision, reason=f"{conn_id}: {decision.reason}")
        reasons = []
        for each_id, each in self.decisions.items():
            if each is None or each.verdict is Verdict.WAIT:
                return Decision(Verdict.WAIT, f"{each_id}: waiting")
            reasons.append(f"{each_id}: {each}")
        verdicts = {each.verdict for each in self.decisions.values() if each}
        worst = Verdict.RETRY if Verdict.RETRY in verdicts else Verdict.FAIL
        return Decision(worst, "; ".join(reasons), trouble=True)

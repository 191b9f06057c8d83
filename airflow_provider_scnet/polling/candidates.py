# SPDX-License-Identifier: Apache-2.0
"""The clusters that one gate waits on, in the order of its author, and which of them opens it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from airflow_provider_scnet.client.observation import Observation
from airflow_provider_scnet.event_loop import clock
from airflow_provider_scnet.gate.claimed import Claimed
from airflow_provider_scnet.gate.clusters import SET_ASIDE, Clusters
from airflow_provider_scnet.gate.decision import Decision, Verdict
from airflow_provider_scnet.gate.evaluator import GateEvaluator
from airflow_provider_scnet.gate.reporter import Log
from airflow_provider_scnet.polling.admission import Admission
from airflow_provider_scnet.polling.waiter import Waiter, first_observation

#: Seconds for which a gate that has just arrived leaves room alone on a cluster, because one that stands before it
#: in the list has not answered yet.
FIRST_ANSWER = 15.0


@dataclasses.dataclass(eq=False)
class Candidate:
    """
    One cluster that a gate waits on.

    :param scnet_conn_id: the connection's id
    :param evaluator: decides on what was seen of this cluster
    :param admission: decides with the claims, and claims
    :param waiter: the gate's place among those that wait for this cluster
    :param leave: gives that place up
    :param observation: what was seen, and the gate has not decided on yet
    :param is_seen: whether the gate has decided on anything that was seen
    """

    scnet_conn_id: str
    evaluator: GateEvaluator
    admission: Admission
    waiter: Waiter
    leave: Callable[[], None]
    observation: Observation | None = None
    is_seen: bool = False


@dataclasses.dataclass(frozen=True)
class Outcome:
    """
    How a gate's wait ended.

    :param candidate: the cluster that decided it
    :param observation: what was seen there
    :param decision: what becomes of the gate
    :param claimed: what other gates have claimed there
    """

    candidate: Candidate
    observation: Observation
    decision: Decision
    claimed: Claimed


async def outcome_of(candidates: Sequence[Candidate], log: Log) -> Outcome | None:
    """
    Wait until one of the clusters opens the gate, or until none can any longer.

    :param candidates: the clusters
    :param log: the gate's log
    :return: the outcome; None where the gate's time is up
    """
    clusters = Clusters(each.scnet_conn_id for each in candidates)
    waited_on = {each.waiter: each for each in candidates}
    in_any_order_from = clock.now() + FIRST_ANSWER
    while found := await first_observation(list(waited_on)):
        waited_on[found[0]].observation = found[1]
        # No ``await`` below: one cluster opens the gate and is claimed from, and no other.
        for each in list(waited_on.values()):
            observation, each.observation = each.observation, None
            if observation is None:
                if each.is_seen or clock.now() >= in_any_order_from:
                    continue
                break
            each.is_seen = True
            decision, claimed = each.admission.judge(observation)
            outcome = clusters.outcome(each.scnet_conn_id, decision)
            if outcome.verdict is not Verdict.WAIT:
                return Outcome(each, observation, outcome, claimed)
            if decision.verdict is Verdict.FAIL:
                log.warning(SET_ASIDE, each.scnet_conn_id)
                del waited_on[each.waiter]
                each.leave()
    return None

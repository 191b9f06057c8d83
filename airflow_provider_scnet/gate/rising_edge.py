# SPDX-License-Identifier: Apache-2.0
"""The moment at which a condition becomes true: once, and again only after it was seen false."""

from __future__ import annotations

from airflow_provider_scnet.client.job_counts import JobCounts
from airflow_provider_scnet.client.observation import Observation
from airflow_provider_scnet.gate.condition import Condition
from airflow_provider_scnet.gate.decision import Decision, Verdict, listed


class RisingEdge:
    """
    Decides for one watcher on each observation, and remembers whether it is armed.

    What it cannot see is neither true nor false, and changes nothing. Claims of gates are no jobs yet, and end
    without any fall of the queue: they do not count.

    :param condition: fires when it becomes true
    :param rearm_when: what has to hold, with the condition false, before it fires again; None: nothing more
    """

    def __init__(self, condition: Condition, rearm_when: Condition | None = None) -> None:
        self.condition = condition
        self.rearm_when = rearm_when
        #: Whether it fires when the condition holds; None: no counts were seen yet.
        self.armed: bool | None = None

    def judge(self, observation: Observation) -> Decision:
        """
        Decide on an observation: it opens where the watcher fires.

        :param observation: what was seen
        """
        condition, rearm_when, was_armed = self.condition, self.rearm_when, self.armed
        states = condition.states | (rearm_when.states if rearm_when else frozenset())
        if trouble := observation.error_about(states) or observation.doubt:
            return Decision(Verdict.WAIT, f"sees nothing, and looks again: {trouble}", trouble=True)
        counts, verdict = observation.counts or JobCounts(), Verdict.WAIT
        self.armed = False
        if condition.holds(counts) and was_armed:
            verdict, why = Verdict.OPEN, f"fires, {condition.text}"
        elif condition.holds(counts):
            rearm = f" while '{rearm_when.text}'" if rearm_when else ""
            why = f"'{condition.text}' holds already, fires only after it was seen false{rearm}"
        elif was_armed is False and rearm_when and not rearm_when.holds(counts):
            why = f"not armed again yet, needs {rearm_when.unmet(counts)}"
        else:
            self.armed, why = True, f"armed, needs {condition.unmet(counts)}"
        where = f"queue {observation.queue_name}: " if observation.queue_name else ""
        return Decision(verdict, f"{where}{listed(counts, states)}: {why}")

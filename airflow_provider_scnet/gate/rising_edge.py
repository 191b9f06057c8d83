# SPDX-License-Identifier: Apache-2.0
"""The moment at which a condition becomes true: once, and again only after it was seen false."""

from __future__ import annotations

import dataclasses

from airflow_provider_scnet.client.errors import ScnetError
from airflow_provider_scnet.client.job_counts import JobCounts
from airflow_provider_scnet.client.observation import Observation
from airflow_provider_scnet.gate.condition import Condition
from airflow_provider_scnet.gate.decision import Decision, Verdict, listed
from airflow_provider_scnet.gate.reporter import Reporter


@dataclasses.dataclass(frozen=True)
class Edge:
    """
    What the author of a watcher asked.

    :param condition: fires when it becomes true
    :param rearm_when: what has to hold, with the condition false, before it fires again; None: nothing more
    :param queue_name: the queue whose jobs both are about; None: all of them together
    """

    condition: Condition
    rearm_when: Condition | None = None
    queue_name: str | None = None

    @property
    def states(self) -> frozenset[str]:
        """The names that have to be reported before anything counts as seen."""
        return self.condition.states | (self.rearm_when.states if self.rearm_when else frozenset())

    def judge(self, counts: JobCounts, armed: bool | None) -> tuple[Decision, bool]:
        """
        Decide on reported counts alone. Claims of gates are no jobs yet, and end without any fall of the queue.

        :param counts: what the cluster reported
        :param armed: whether it fires when the condition holds; None: no counts were seen before
        :return: what comes of it, and whether it is armed from now on
        :raises ScnetResponseError: where a state that it needs was not reported
        """
        counts.require(self.states)
        seen, text = listed(counts, self.states, queue_name=self.queue_name), self.condition.text
        if not self.condition.holds(counts):
            if armed is False and self.rearm_when and not self.rearm_when.holds(counts):
                return _wait(f"{seen}: not armed again yet, needs {self.rearm_when.unmet(counts)}"), False
            return _wait(f"{seen}: armed, needs {self.condition.unmet(counts)}"), True
        if armed:
            return Decision(Verdict.OPEN, f"{seen}: fires, {text}"), False
        rearm = f" while '{self.rearm_when.text}'" if self.rearm_when else ""
        return _wait(f"{seen}: '{text}' holds already, fires only after it was seen false{rearm}"), False


class EdgeEvaluator:
    """
    Decides for one watcher on each observation, remembers whether it is armed, and says why it does not fire.

    What it cannot see is neither true nor false, and changes nothing.

    :param edge: what the author asked
    :param reporter: where it is said
    """

    def __init__(self, edge: Edge, reporter: Reporter):
        self.edge = edge
        #: Whether it fires when the condition holds; None: nothing was seen yet.
        self.armed: bool | None = None
        self._reporter = reporter

    def judge(self, observation: Observation) -> Decision:
        """
        Decide on an observation, and log what is new.

        :param observation: what was seen
        """
        decision = self._decide(observation)
        self._reporter.note(observation.notes, observation.at)
        self._reporter.report(decision, observation.at)
        return decision

    def _decide(self, observation: Observation) -> Decision:
        if observation.error:
            return _wait(f"sees nothing, and looks again: {observation.error}", trouble=True)
        if observation.doubt:
            return _wait(f"sees nothing, and looks again: {observation.doubt}", trouble=True)
        try:
            decision, self.armed = self.edge.judge(observation.counts or JobCounts(), self.armed)
        except ScnetError as error:
            error.where = observation.where
            return _wait(f"sees nothing, and looks again: {error}", trouble=True)
        return decision


def _wait(reason: str, trouble: bool = False) -> Decision:
    return Decision(Verdict.WAIT, reason, trouble=trouble)

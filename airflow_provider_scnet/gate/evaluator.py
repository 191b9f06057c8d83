# SPDX-License-Identifier: Apache-2.0
"""One gate over its whole wait: the same whether it waits in the triggerer or pokes on a worker."""

from __future__ import annotations

from collections.abc import Callable

from airflow_provider_scnet.client.errors import ErrorKind, ScnetError
from airflow_provider_scnet.client.job_counts import JobCounts
from airflow_provider_scnet.client.observation import Observation
from airflow_provider_scnet.event_loop.clock import now
from airflow_provider_scnet.gate.claimed import NOTHING, Claimed
from airflow_provider_scnet.gate.decision import Decision, SharedDecisions, Verdict
from airflow_provider_scnet.gate.gate import Gate
from airflow_provider_scnet.gate.reporter import Log, Reporter


class GateEvaluator:
    """
    Decides for one gate on each observation, remembers whether one was good, and says why the gate waits.

    :param gate: what the author asked
    :param log: the task's own logger
    :param answered: whether an earlier process of the same wait had a good answer
    :param silent_fail: whether to wait on, too, where the try would fail: Airflow's parameter for sensors
    :param wait_for: seconds after which the gate's time is up; None where that is not known, or was said already
    :param clock: seconds that never jump
    :param decisions: those of this gate and others that ask the same; default: its own
    :param name: the cluster that it decides on, where the gate has several
    """

    def __init__(
        self,
        gate: Gate,
        log: Log,
        *,
        answered: bool = False,
        silent_fail: bool = False,
        wait_for: float | None = None,
        clock: Callable[[], float] = now,
        decisions: SharedDecisions | None = None,
        name: str = "",
    ):
        self.gate = gate
        self.answered = answered
        self.silent_fail = silent_fail
        self.clock = clock
        self._decisions = decisions or SharedDecisions(gate)
        self._end = None if wait_for is None else clock() + wait_for
        self._reporter = Reporter(log, clock, name)

    @property
    def last(self) -> Decision | None:
        """The decision that was said last."""
        return self._reporter.last

    def judge(self, observation: Observation, claimed: Claimed = NOTHING, hold: str = "") -> Decision:
        """
        Decide on an observation, and log what is new.

        :param observation: what was seen
        :param claimed: jobs of other gates that opened, to be counted on top
        :param hold: why it must not open yet, whatever the counts
        """
        decision = self.decide(observation, claimed, hold)
        self.say(observation, decision)
        return decision

    def decide(self, observation: Observation, claimed: Claimed = NOTHING, hold: str = "") -> Decision:
        """
        Decide on an observation.

        :param observation: what was seen
        :param claimed: jobs of other gates that opened, to be counted on top
        :param hold: why it must not open yet, whatever the counts
        """
        if observation.error:
            return self._bear(observation.error)
        counts = observation.counts or JobCounts()
        try:
            if observation.doubt:
                counts.require(self.gate.states)
                decision = Decision(Verdict.WAIT, f"waiting: {observation.doubt}", trouble=True)
            else:
                decision = self._decisions.decide(counts, claimed, hold)
        except ScnetError as error:
            error.where = observation.where
            return self._bear(error)
        self.answered = True
        return decision

    def has_news(self, observation: Observation, decision: Decision) -> bool:
        """
        Tell whether a decision is not to wait, or there is anything to say.

        :param observation: what was seen
        :param decision: what was decided on it
        """
        if decision.verdict is not Verdict.WAIT:
            return True
        return self._reporter.has_news(decision, self._notes(observation, decision), observation.at)

    def say(self, observation: Observation, decision: Decision) -> None:
        """
        Log what is new.

        :param observation: what was seen
        :param decision: what was decided on it
        """
        self._reporter.note(self._notes(observation, decision))
        self._reporter.report(decision)

    def _notes(self, observation: Observation, decision: Decision) -> tuple[str, ...]:
        if decision.verdict is Verdict.WAIT and self._end is not None and observation.token_ends:
            return observation.notes + observation.ends_within(self._end - self.clock())
        return observation.notes

    def _bear(self, error: ScnetError) -> Decision:
        """Wait out what heals, fail at once on what does not."""
        kind = error.kind
        if kind is ErrorKind.PERMANENT:
            return Decision(Verdict.FAIL, str(error), trouble=True)
        if kind is ErrorKind.TRANSIENT or (kind is ErrorKind.UNCLEAR and self.answered) or self.silent_fail:
            return Decision(Verdict.WAIT, f"waiting: {error}", trouble=True)
        return Decision(Verdict.RETRY, str(error), trouble=True)

# SPDX-License-Identifier: Apache-2.0
"""One gate over its whole wait: the same whether it waits in the triggerer or pokes on a worker."""

from __future__ import annotations

from collections.abc import Callable

from airflow_provider_scnet.client.errors import ErrorKind, ScnetError
from airflow_provider_scnet.client.job_counts import JobCounts
from airflow_provider_scnet.client.observation import Observation
from airflow_provider_scnet.event_loop import clock
from airflow_provider_scnet.gate.claimed import NOTHING, Claimed
from airflow_provider_scnet.gate.decision import Decision, Verdict, decide
from airflow_provider_scnet.gate.gate import Gate
from airflow_provider_scnet.gate.reporter import Log, Reporter

#: Decides as :func:`.decide` does.
Decide = Callable[[Gate, Observation, Claimed, str, Claimed | None], Decision]


class GateEvaluator:
    """
    Decides for one gate on each observation, remembers whether one was good, and says why the gate waits.

    :param gate: what the author asked
    :param log: the task's own logger
    :param answered: whether an earlier process of the same wait had a good answer
    :param silent_fail: whether to wait on, too, where the try would fail: Airflow's parameter for sensors
    :param wait_for: seconds after which the gate's time is up; None where that is not known, or was said already
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
        name: str = "",
    ):
        self.gate = gate
        self.answered = answered
        self.silent_fail = silent_fail
        self._end = None if wait_for is None else clock.now() + wait_for
        self._reporter = Reporter(log, name)

    @property
    def last(self) -> Decision | None:
        """The decision that was said last."""
        return self._reporter.last

    def judge(self, observation: Observation) -> Decision:
        """Decide on an observation alone, and log what is new."""
        decision = self.decide(observation)
        self.say(observation, decision)
        return decision

    def decide(
        self,
        observation: Observation,
        claimed: Claimed = NOTHING,
        hold: str = "",
        decide: Decide = decide,
        of_account: Claimed | None = None,
    ) -> Decision:
        """
        Decide on an observation.

        :param observation: what was seen
        :param claimed: jobs of other gates that opened, to be counted on top
        :param hold: why it must not open yet, whatever the counts
        :param decide: decides on counts; whoever asks for many gates may remember what was decided
        :param of_account: those that were claimed from any queue; None: the same
        """
        if observation.error:
            return self._bear(observation.error)
        try:
            if observation.doubt:
                (observation.counts or JobCounts()).require(self.gate.states)
                decision = Decision(Verdict.WAIT, f"waiting: {observation.doubt}", trouble=True)
            else:
                decision = decide(self.gate, observation, claimed, hold, of_account)
        except ScnetError as error:
            error.where = observation.where
            return self._bear(error)
        self.answered = True
        return decision

    def say(self, observation: Observation, decision: Decision) -> bool:
        """Log what is new, and return whether the decision was."""
        notes = observation.notes
        if decision.verdict is Verdict.WAIT and self._end is not None and observation.token_ends:
            notes += observation.ends_within(self._end - observation.at)
        if notes:
            self._reporter.note(notes, observation.at)
        return self._reporter.report(decision, observation.at)

    def _bear(self, error: ScnetError) -> Decision:
        """Wait out what heals, fail at once on what does not."""
        kind = error.kind
        if kind is ErrorKind.PERMANENT:
            return Decision(Verdict.FAIL, str(error), trouble=True)
        if kind is ErrorKind.TRANSIENT or (kind is ErrorKind.UNCLEAR and self.answered) or self.silent_fail:
            return Decision(Verdict.WAIT, f"waiting: {error}", trouble=True)
        return Decision(Verdict.RETRY, str(error), trouble=True)

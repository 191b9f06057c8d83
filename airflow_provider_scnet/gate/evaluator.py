# SPDX-License-Identifier: Apache-2.0
"""One gate over its whole wait: the same whether it waits in the triggerer or pokes on a worker."""

from __future__ import annotations

import dataclasses

from airflow_provider_scnet.client.errors import ErrorKind
from airflow_provider_scnet.client.observation import Observation
from airflow_provider_scnet.event_loop import clock
from airflow_provider_scnet.gate.decision import Decision, Verdict, decide
from airflow_provider_scnet.gate.gate import Gate
from airflow_provider_scnet.gate.reporter import Log, Reporter


class GateEvaluator(Reporter):
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
        super().__init__(log, name)
        self.gate = gate
        self.answered = answered
        self.silent_fail = silent_fail
        self._end = None if wait_for is None else clock.now() + wait_for

    def judge(self, observation: Observation) -> Decision:
        """Decide on an observation alone, and log what is new."""
        decision = self.take(decide(self.gate, observation))
        self.say(observation, decision)
        return decision

    def take(self, decision: Decision) -> Decision:
        """
        Return what becomes of this gate: it waits out what heals, and fails at once on what does not.

        :param decision: what was decided for all gates that ask the same
        """
        kind = decision.kind
        if kind is None:
            self.answered = True
            return decision
        if kind is ErrorKind.PERMANENT:
            return dataclasses.replace(decision, verdict=Verdict.FAIL)
        if kind is ErrorKind.TRANSIENT or (kind is ErrorKind.UNCLEAR and self.answered) or self.silent_fail:
            return dataclasses.replace(decision, verdict=Verdict.WAIT, reason=f"waiting: {decision.reason}")
        return decision

    def say(self, observation: Observation, decision: Decision) -> bool:
        """Log what is new, and return whether the decision was."""
        notes = observation.notes
        if observation.token_ends and decision.verdict is Verdict.WAIT and self._end is not None:
            notes += observation.ends_within(self._end - observation.at)
        if notes:
            self.note(notes, observation.at)
        return self.report(decision, observation.at)

# SPDX-License-Identifier: Apache-2.0
"""Submissions of which Airflow tells no more than how many there are."""

from __future__ import annotations

from airflow_provider_scnet.claims.submission import GateId, Phase, Submission, Terms


class UnseenSubmissions:
    """
    The submissions behind one gate's task in all runs but those that are known run by run.

    A DAG with a long history has too many runs to list; to count is one cheap question. So these have no names:
    where fewer are under way than before, the oldest are taken for those that ended.

    :param gates: the gate's DAG and task
    """

    def __init__(self, gates: GateId) -> None:
        self._gates = gates
        self._opened: int | None = None
        self._under_way: list[Submission] = []
        self._finished: list[Submission] = []

    def update(
        self, terms: Terms, opened: int, pending: int, running: int, now: float, observed_at: float
    ) -> list[Submission]:
        """
        Return the submissions that claim something.

        :param terms: what each of them claims
        :param opened: how many gates have opened, ever
        :param pending: how many submissions wait for a slot, a worker or their next try
        :param running: how many have started
        :param now: the time, by the event loop's clock
        :param observed_at: when the oldest of the observations was made on which gates decide
        """
        born = 0 if self._opened is None else max(0, opened - self._opened)
        self._opened = opened
        # What opened and ended since the last count was never under way when somebody counted.
        ended = max(0, len(self._under_way) + born - pending - running)
        self._finished = [each for each in self._finished if each.expires > observed_at]
        for _ in range(ended):
            each = self._under_way.pop(0) if self._under_way else self._new(terms, now)
            each.enter(Phase.FINISHED, now)
            self._finished.append(each)
        del self._under_way[pending + running :]
        while len(self._under_way) < pending + running:
            self._under_way.append(self._new(terms, now))
        for number, each in enumerate(self._under_way):
            each.enter(Phase.RUNNING if number < running else Phase.PENDING, now)
            each.asked_at = now
        return [*self._under_way, *self._finished]

    def _new(self, terms: Terms, now: float) -> Submission:
        return Submission(gate=self._gates, terms=terms, since=now, is_ours=False)

# SPDX-License-Identifier: Apache-2.0
"""What gates that opened have claimed, as a gate that decides counts it on top of what the cluster reported."""

from __future__ import annotations

import dataclasses
import itertools
import math

from airflow_provider_scnet.event_loop import clock

#: How many awaited submissions a message names.
_MOST_NAMED = 2


@dataclasses.dataclass(frozen=True)
class Awaited:
    """
    A submission that has not ended.

    :param task: its task, with the map index where it has one
    :param dag_id: the DAG
    :param run_id: the DAG run
    """

    task: str
    dag_id: str
    run_id: str


@dataclasses.dataclass(frozen=True)
class Claimed:
    """
    The jobs that gates which opened have claimed; prints itself as a message shows it.

    :param jobs: jobs to be counted on top of what the cluster reported
    :param awaited: the first of the submissions that have not ended
    :param unended: how many submissions have not ended
    :param ended: how many have, whose jobs the cluster may not count yet
    :param end: when the last of the claims has ended, by :mod:`~airflow_provider_scnet.event_loop.clock`, in
        seconds; infinite where that depends on a submission
    """

    jobs: int = 0
    awaited: tuple[Awaited, ...] = ()
    unended: int = 0
    ended: int = 0
    end: float = -math.inf

    def plus(self, more: Claimed) -> Claimed:
        """
        Add up.

        :param more: what is claimed besides
        """
        return Claimed(
            self.jobs + more.jobs,
            self.awaited if len(self.awaited) >= _MOST_NAMED else (*self.awaited, *more.awaited)[:_MOST_NAMED],
            self.unended + more.unended,
            self.ended + more.ended,
            max(self.end, more.end),
        )

    def without(self, part: Claimed) -> Claimed:
        """
        Leave a part out. When claims end is said of all of them.

        :param part: what does not count
        """
        return dataclasses.replace(
            self,
            jobs=self.jobs - part.jobs,
            awaited=tuple(each for each in self.awaited if each not in part.awaited),
            unended=self.unended - part.unended,
            ended=self.ended - part.ended,
        )

    @property
    def seconds_left(self) -> float | None:
        """Seconds until all have ended; None where nobody can tell."""
        return None if self.end == math.inf else max(0.0, self.end - clock.now())

    def __str__(self) -> str:
        """Say how many jobs, and which submissions are awaited."""
        parts = []
        if self.unended:
            names = [
                f"{', '.join(each.task for each in tasks)} (DAG '{dag_id}', run '{run_id}')"
                for (dag_id, run_id), tasks in itertools.groupby(
                    self.awaited, key=lambda each: (each.dag_id, each.run_id)
                )
            ]
            if more := self.unended - len(self.awaited):
                names.append(f"{more} more")
            parts.append(f"{' and '.join(names)} {'has' if self.unended == 1 else 'have'} not ended")
        if self.ended:
            parts.append(f"{self.ended} ended, perhaps not counted yet")
        return f"+{self.jobs} claimed: {'; '.join(parts)}" if parts else f"+{self.jobs} claimed"


#: Nothing is claimed.
NOTHING = Claimed()

# SPDX-License-Identifier: Apache-2.0
"""
One submission behind a gate that passed: how far it is, by Airflow's states of the tasks that submit.

What it claims follows from that.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Collection, Iterator, Mapping

from airflow_provider_scnet.gate import clock
from airflow_provider_scnet.gate.claims import Claim

#: A resolved (endpoint, user).
Account = tuple[str, str]
#: The states of a run's task instances, by task id and map index (-1 where the task is not mapped).
Instances = Mapping[str, Mapping[int, "str | None"]]

#: The submissions that gates which wait stand before, by task and account: its map indexes, or the one below.
Places = Mapping[tuple[str, Account], Collection[int]]
ALL_INSTANCES = -2

# Airflow's states of a task instance.
_NOT_STARTED = (None, "scheduled", "queued", "up_for_retry", "up_for_reschedule", "restarting")
_HAS_RUN = ("success", "failed")
_WILL_NOT_RUN = ("skipped", "upstream_failed", "removed")


@dataclasses.dataclass(frozen=True)
class GateId:
    """
    Which gate of which run, in Airflow's terms.

    :param dag_id: the DAG
    :param run_id: the run
    :param task_id: the gate's task
    :param map_index: which of its instances; -1 where it is not mapped
    """

    dag_id: str
    run_id: str
    task_id: str
    map_index: int = -1

    def at(self, map_index: int) -> GateId:
        """
        Return another instance of the same task and run.

        :param map_index: which
        """
        return GateId(self.dag_id, self.run_id, self.task_id, map_index)


class Phase(enum.Enum):
    """How far a submission is."""

    PASSES = "the gate passes"
    WAITS = "has not started"
    RUNS = "runs"
    ENDED = "has ended, with jobs that may not be counted yet"
    OVER = "is nothing to wait for"


@dataclasses.dataclass(eq=False)
class Submission:
    """
    The work behind one gate that passed, here or elsewhere. Times are seconds by :mod:`.clock`.

    :param gate: the gate
    :param jobs: how many jobs it will submit
    :param ttl: seconds for which a claim holds at most once it runs
    :param counted_after: seconds after which the cluster's counts include a submitted job
    :param submitted_by: ids of its tasks; for each whether it is the instance with the gate's own map index
    :param accounts: the accounts that the gate may have asked about
    :param since: when the gate passed, or was first seen to have
    :param is_ours: whether it passed on this event loop
    :param phase: how far it is
    :param changed: since when
    :param heard: when Airflow was heard of it last
    :param awaited: what it waits for, for people
    :param is_blocked: whether it cannot start before a gate has passed that its claim may keep shut
    """

    gate: GateId
    jobs: int
    ttl: float
    counted_after: float
    submitted_by: Mapping[str, bool]
    accounts: frozenset[Account]
    since: float
    is_ours: bool
    phase: Phase = Phase.PASSES
    changed: float = 0.0
    heard: float = 0.0
    awaited: str = ""
    is_blocked: bool = False

    def turn(self, phase: Phase, now: float) -> None:
        """
        Note how far it is.

        :param phase: how far
        :param now: the time, by :mod:`.clock`
        """
        self.heard = now
        if phase is Phase.ENDED and (
            self.phase is Phase.OVER or (self.phase is Phase.RUNS and now >= self.changed + self.ttl)
        ):
            # A claim holds for its ttl at most once the submission runs: what has expired does not come back.
            phase = Phase.OVER
        if phase is not self.phase:
            self.phase, self.changed = phase, now

    @property
    def is_open(self) -> bool:
        """Whether its end is still to come, and can be noticed."""
        return bool(self.submitted_by) and self.phase in (Phase.PASSES, Phase.WAITS, Phase.RUNS)

    @property
    def is_urgent(self) -> bool:
        """Whether its end is worth being noticed soon: it is ours, and still claims."""
        is_expired = self.phase is Phase.RUNS and clock.now() >= self.changed + self.ttl
        return self.is_ours and self.is_open and not is_expired

    @property
    def claim(self) -> Claim | None:
        """What it claims by now; None where that is nothing."""
        if self.phase is Phase.OVER:
            return None
        if self.phase is Phase.ENDED:
            return Claim(self.jobs, self.changed + self.counted_after, has_ended=True)
        if self.phase is Phase.RUNS:
            return Claim(self.jobs, self.changed + self.ttl, awaited=self.awaited)
        holds = bool(self.submitted_by) and not self.is_blocked
        return Claim(self.jobs, (self.heard if holds else self.since) + self.ttl, holds, awaited=self.awaited)

    def follow(self, instances: Instances, stood_before: Callable[[], Places], now: float) -> None:
        """
        Note how far it is by the states of its run's tasks.

        :param instances: states by task id and map index
        :param stood_before: returns the submissions that gates which wait stand before
        :param now: the time, by :mod:`.clock`
        """
        if not self.submitted_by:
            return
        state = instances.get(self.gate.task_id, {}).get(self.gate.map_index, "removed")
        if state in _HAS_RUN or state in _WILL_NOT_RUN:
            phase, first = (Phase.OVER, None) if state == "removed" else self.phase_by(instances)
            self.turn(phase, now)
            self.awaited = _label(*first) if first else ""
            self.is_blocked = phase is Phase.WAITS and first is not None and self._shares(first, stood_before())
        elif self.phase is not Phase.PASSES:
            # The gate was cleared, and waits anew: what it let pass before may have submitted.
            self.turn(Phase.ENDED, now)
        elif state != "deferred":
            # It is on its way over a worker. While it is deferred, its event is under way, or got lost.
            self.turn(Phase.PASSES, now)

    def phase_by(self, instances: Instances) -> tuple[Phase, tuple[str, int] | None]:
        """
        Return how far it is, and the first of its tasks that has not ended.

        :param instances: states by task id and map index
        """
        states = list(self._states(instances))
        for task, state in states:
            if state in _NOT_STARTED:
                return Phase.WAITS, task
        for task, state in states:
            if state not in _HAS_RUN and state not in _WILL_NOT_RUN:
                return Phase.RUNS, task
        return (Phase.ENDED if any(state in _HAS_RUN for _, state in states) else Phase.OVER), None

    def _states(self, instances: Instances) -> Iterator[tuple[tuple[str, int], str | None]]:
        for task_id, is_own in self.submitted_by.items():
            found = instances.get(task_id, {})
            if not is_own:
                yield from (((task_id, map_index), state) for map_index, state in found.items())
                continue
            # Until a mapped task is expanded, it has a single instance.
            map_index = self.gate.map_index
            if (index := map_index if map_index in found else -1) in found:
                yield (task_id, map_index), found[index]

    def _shares(self, task: tuple[str, int], stood_before: Places) -> bool:
        """Tell whether a gate that asks about the same account stands before its task as well."""
        task_id, map_index = task
        for account in self.accounts:
            indexes = stood_before.get((task_id, account), ())
            if indexes and (not self.submitted_by[task_id] or ALL_INSTANCES in indexes or map_index in indexes):
                return True
        return False


def awaited(gate: GateId, submitted_by: Mapping[str, bool]) -> str:
    """
    Return what a claim waits for before anything is known of it, for people.

    :param gate: the gate
    :param submitted_by: ids of the tasks that submit; for each whether it is the gate's own instance
    """
    for task_id, is_own in submitted_by.items():
        return _label(task_id, gate.map_index if is_own else -1)
    return ""


def _label(task_id: str, map_index: int) -> str:
    name = task_id.rpartition(".")[2]
    return f"{name}[{map_index}]" if map_index >= 0 else name

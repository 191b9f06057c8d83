# SPDX-License-Identifier: Apache-2.0
"""
One submission behind a gate that opened: its phase, by Airflow's states of the tasks that submit.

:data:`RULES` says, for each phase, for how long the submission's jobs are claimed, and from whom.
"""

from __future__ import annotations

import dataclasses
import enum
import math
import operator
from collections.abc import Callable, Iterator, Mapping

from airflow_provider_scnet.gate.claimed import Awaited

#: A resolved (endpoint, user), and the queue where a gate asks about one.
Account = tuple[str, ...]
#: The states of a run's task instances, by task id and map index (-1 where the task is not mapped).
Instances = Mapping[str, Mapping[int, "str | None"]]

_HAS_RUN = ("success", "failed")
_ENDED = (*_HAS_RUN, "skipped", "upstream_failed", "removed")
#: Airflow's states of a task instance that waits for a slot, a worker or its next try.
PENDING = ("scheduled", "queued", "up_for_retry", "up_for_reschedule", "restarting")
#: Those of one that has not ended. None is a task without a state.
UNFINISHED: tuple[str | None, ...] = (None, *PENDING, "running", "deferred")

#: A submission that Airflow does not start claims room from gates of its own task for so many times its
#: ``claim_ttl``: nine minutes by default.
OWN_TASK_TTLS = 3
#: Seconds after which no claim holds any longer, whatever Airflow says: a day in one phase.
LONGEST_PHASE = 86_400.0


@dataclasses.dataclass(frozen=True)
class GateId:
    """
    A gate's task instance, in Airflow's terms.

    :param dag_id: the DAG
    :param run_id: the DAG run
    :param task_id: the gate's task
    :param map_index: its map index; -1 where the task is not mapped
    """

    dag_id: str
    run_id: str
    task_id: str
    map_index: int = -1

    def at(self, map_index: int) -> GateId:
        """
        Return another instance of the same task and run.

        :param map_index: its map index
        """
        return GateId(self.dag_id, self.run_id, self.task_id, map_index)

    @property
    def task(self) -> tuple[str, str]:
        """The DAG and the task."""
        return self.dag_id, self.task_id

    @property
    def order(self) -> tuple[str, str, int]:
        """Its place among its task's gates, on which all triggerers agree: by the run's date and map index."""
        # Airflow's own run ids are a type and a date, as in "scheduled__2026-01-01T00:00:00+00:00".
        return self.run_id.partition("__")[2] or self.run_id, self.run_id, self.map_index


@dataclasses.dataclass(frozen=True)
class SubmissionTasks:
    """
    The tasks of a DAG that matter to a gate's submission.

    :param submit: the tasks that submit, by id; for each whether it is the instance with the gate's own map index
        rather than all of them
    :param upstream: the tasks right before these, likewise
    :param gates: ids of the gates that stand before these, directly or not
    :param after_past_runs: whether they wait for those of the run before, by ``depends_on_past``
    """

    submit: Mapping[str, bool] = dataclasses.field(default_factory=dict)
    upstream: Mapping[str, bool] = dataclasses.field(default_factory=dict)
    gates: frozenset[str] = frozenset()
    after_past_runs: bool = False

    @property
    def ids(self) -> set[str]:
        """Their task ids, as far as Airflow is asked about them."""
        return {*self.submit, *self.upstream}


@dataclasses.dataclass(frozen=True)
class Terms:
    """
    What a gate claims when it opens.

    :param jobs: how many jobs its submission submits
    :param ttl: seconds; the ``claim_ttl``
    :param counted_after: seconds after which the cluster's counts include a submitted job
    :param tasks: the tasks that submit, and those before them
    :param accounts: the accounts from which the jobs are claimed
    """

    jobs: int
    ttl: float
    counted_after: float
    tasks: SubmissionTasks
    accounts: frozenset[Account]

    def claims_from(self, account: Account) -> bool:
        """
        Tell whether gates of an account count the jobs.

        Those that ask about all queues count all jobs of the account. Those of one queue also count jobs of which
        only the account is known; over-counting is safe.

        :param account: the account
        """
        return any(all(map(operator.eq, account, each)) for each in self.accounts)

    def covering(self, other: Terms) -> Terms:
        """
        Return terms that claim no less than these or others.

        :param other: the others
        """
        if other == self:
            return self
        return Terms(
            jobs=max(self.jobs, other.jobs),
            ttl=max(self.ttl, other.ttl),
            counted_after=max(self.counted_after, other.counted_after),
            tasks=self.tasks,
            accounts=self.accounts | other.accounts,
        )


class Phase(enum.Enum):
    """How far a submission is."""

    RESERVED = "the gate opens; Airflow does not show it yet"
    WAITS_UPSTREAM = "has no state, because a task upstream of it has not ended"
    NOT_SCHEDULED = "has no state, although nothing upstream of it is awaited"
    PENDING = "waits for a slot, a worker or its next try"
    RUNNING = "has started"
    FINISHED = "has ended, with jobs that may not be counted yet"
    DROPPED = "will not submit, unless somebody clears it"
    RELEASED = "its jobs are counted"


class Scope(enum.IntEnum):
    """Whose gates count the claim on top of what the cluster reports."""

    NOBODY = 0
    OWN_TASK = 1  #: gates of the same task
    EVERYBODY = 2


@dataclasses.dataclass(frozen=True)
class Rule:
    """
    How long a claim lasts in one phase, in seconds since the phase began.

    :param everybody: while it is younger, every gate of the account counts it
    :param own_task: while it is younger, gates of the same task do
    :param hint: what may be the matter where it lasts longer than that, for people
    """

    everybody: Callable[[Terms], float]
    own_task: Callable[[Terms], float] = lambda terms: 0.0
    hint: str = ""


RULES: dict[Phase, Rule] = {
    Phase.RESERVED: Rule(lambda terms: terms.ttl),
    # Gates upstream of the submission never count it: it cannot start before they have opened.
    Phase.WAITS_UPSTREAM: Rule(
        lambda terms: terms.ttl,
        lambda terms: OWN_TASK_TTLS * terms.ttl,
        "a task upstream of it has not ended",
    ),
    # Of a paused DAG. While it does not submit, its own gates stay shut: else all would submit at once when
    # somebody unpauses it.
    Phase.NOT_SCHEDULED: Rule(
        lambda terms: terms.ttl,
        lambda terms: LONGEST_PHASE,
        "is the DAG paused, was its file removed, or does it wait for an earlier run?",
    ),
    # Since a submission behind a gate of the same task last started: a pool of one slot may take minutes a job.
    Phase.PENDING: Rule(
        lambda terms: terms.ttl,
        lambda terms: OWN_TASK_TTLS * terms.ttl,
        "is its pool full (perhaps of gates, in a pool that includes deferred tasks), or is there no worker?",
    ),
    # A task that submits may wait for its job afterwards.
    Phase.RUNNING: Rule(lambda terms: terms.ttl),
    Phase.FINISHED: Rule(lambda terms: terms.counted_after),
    Phase.DROPPED: Rule(lambda terms: 0.0),
    Phase.RELEASED: Rule(lambda terms: 0.0),
}


@dataclasses.dataclass(eq=False)
class Submission:
    """
    The work behind one gate that opened, here or elsewhere. Times are seconds by the event loop's clock.

    :param gate: the gate
    :param terms: what it claims
    :param since: when its phase began
    :param is_ours: whether the gate opened on this event loop
    :param phase: how far it is
    :param awaited: the first of its tasks that has not ended, for people
    :param state: Airflow's state of that task
    """

    gate: GateId
    terms: Terms
    since: float
    is_ours: bool
    phase: Phase = Phase.RESERVED
    awaited: Awaited | None = None
    state: str | None = None
    gate_has_ended: bool = False
    #: Whether the gate waits again, or will.
    is_past: bool = False

    def __post_init__(self) -> None:
        #: When Airflow was asked for the youngest answer about it. An older answer may come later.
        self.asked_at = self.since
        if self.terms.tasks.submit:
            task_id, is_own = next(iter(self.terms.tasks.submit.items()))
            self._await(task_id, self.gate.map_index if is_own else -1)

    def enter(self, phase: Phase, now: float) -> None:
        """
        Note its phase.

        :param phase: the phase
        :param now: the time
        """
        if phase is Phase.FINISHED and self.phase is not Phase.DROPPED and now >= self.expires:
            # It had expired while it ran, so its jobs were counted long ago.
            phase, now = Phase.RELEASED, self.expires
        elif phase in (Phase.DROPPED, Phase.RELEASED):
            # Not on the observation either that was made just before Airflow was asked.
            now = -math.inf
        if phase is not self.phase:
            self.phase, self.since = phase, now

    def end(self, now: float) -> None:
        """
        Note that its gate waits again: what it let through before may have submitted.

        :param now: the time
        """
        if self.phase is not Phase.DROPPED:
            self.enter(Phase.FINISHED, now)

    def scope(self, at: float, last_start: float = -math.inf) -> Scope:
        """
        Return who counts its jobs on top of an observation.

        :param at: when the observation was made
        :param last_start: when a submission behind a gate of the same task was last seen to start
        """
        rule, age = RULES[self.phase], at - self.since
        if age >= LONGEST_PHASE or (self.is_open and at >= self.asked_at + self.terms.ttl):
            # In the second case Airflow has not answered for that long.
            return Scope.NOBODY
        if self.phase is Phase.PENDING:
            age = min(age, at - last_start)
        if age < rule.everybody(self.terms):
            return Scope.EVERYBODY
        return Scope.OWN_TASK if age < rule.own_task(self.terms) else Scope.NOBODY

    @property
    def expires(self) -> float:
        """When it stops being claimed, if that is known; else infinity."""
        if self.is_open and self.phase is not Phase.RUNNING:
            return math.inf
        return self.since + RULES[self.phase].everybody(self.terms)

    @property
    def is_open(self) -> bool:
        """Whether its end is still to come, and Airflow will show it."""
        return bool(self.terms.tasks.submit) and self.phase not in (Phase.FINISHED, Phase.DROPPED, Phase.RELEASED)

    def follow(self, instances: Instances, asked_at: float, now: float) -> None:
        """
        Note its phase by the states of its run's tasks.

        :param instances: states by task id and map index
        :param asked_at: when Airflow was asked for them
        :param now: the time
        """
        if asked_at < self.asked_at:
            return
        self.asked_at = asked_at
        state = instances.get(self.gate.task_id, {}).get(self.gate.map_index, "removed")
        if state in _ENDED:
            self.gate_has_ended = True
            if self.terms.tasks.submit:
                self.enter(Phase.DROPPED if state == "removed" else self._phase_by(instances), now)
        elif self.gate_has_ended:
            # The gate was cleared and waits again. What it let through before may have submitted.
            self.is_past = True
            self.end(now)
        elif state == "up_for_retry" or (state == "deferred" and self.phase is Phase.PENDING):
            # It did not get through, and waits again.
            self.is_past = True
            self.enter(Phase.DROPPED, now)
        elif state != "deferred" and self.terms.tasks.submit:
            # The gate ends on a worker, and waits for one.
            self.state = state
            self._await(self.gate.task_id, self.gate.map_index)
            self.enter(Phase.PENDING, now)
        # While it is deferred its event is under way, or was lost.

    def _phase_by(self, instances: Instances) -> Phase:
        states = list(self._instances(instances, self.terms.tasks.submit))
        # A task that polls for its job in reschedule mode has started.
        pending = [
            each
            for each in states
            if each[2] in PENDING and not (each[2] == "up_for_reschedule" and self.phase is Phase.RUNNING)
        ]
        for phase, found in (
            (Phase.PENDING, pending),
            (Phase.NOT_SCHEDULED, [each for each in states if each[2] is None]),
            (Phase.RUNNING, [each for each in states if each[2] not in _ENDED]),
        ):
            if found:
                task_id, map_index, self.state = found[0]
                self._await(task_id, map_index)
                is_blocked = phase is Phase.NOT_SCHEDULED and self._waits_upstream(instances)
                return Phase.WAITS_UPSTREAM if is_blocked else phase
        return Phase.FINISHED if any(state in _HAS_RUN for *_, state in states) else Phase.DROPPED

    def _waits_upstream(self, instances: Instances) -> bool:
        upstream = self._instances(instances, self.terms.tasks.upstream)
        return any(state not in _ENDED for *_, state in upstream)

    def _instances(self, instances: Instances, tasks: Mapping[str, bool]) -> Iterator[tuple[str, int, str | None]]:
        for task_id, is_own in tasks.items():
            found = instances.get(task_id, {})
            if not is_own:
                yield from ((task_id, map_index, state) for map_index, state in found.items())
                continue
            # A mapped task that is not expanded yet has a single instance.
            map_index = self.gate.map_index
            if (index := map_index if map_index in found else -1) in found:
                yield task_id, index, found[index]

    def _await(self, task_id: str, map_index: int) -> None:
        name = task_id.rpartition(".")[2]
        label = f"{name}[{map_index}]" if map_index >= 0 else name
        self.awaited = Awaited(label, self.gate.dag_id, self.gate.run_id)

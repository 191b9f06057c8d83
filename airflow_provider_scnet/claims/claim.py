# SPDX-License-Identifier: Apache-2.0
"""One claim: the jobs behind a gate that opened, and how far their submission is by Airflow's states of tasks."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterator, Mapping

from airflow_provider_scnet.claims.claim_terms import GateId, Instances, Terms
from airflow_provider_scnet.claims.expiry import LONGEST_PHASE, TABLE, Phase, Row, Scope
from airflow_provider_scnet.event_loop import clock
from airflow_provider_scnet.gate.claimed import Awaited

#: Seconds for which a claim stays written once it counts for nobody: who decides on an observation that is as old
#: as that still finds it.
KEPT_AFTER = 600.0

#: Seconds after its opening for which a gate's event may be on its way, so that its task is deferred no longer.
ON_ITS_WAY = 10.0

_HAS_RUN = ("success", "failed")
_ENDED = (*_HAS_RUN, "skipped", "upstream_failed", "removed")
# A task instance that waits for a slot, a worker or its next try.
_PENDING = ("scheduled", "queued", "up_for_retry", "restarting")
# A task instance that waits in the triggerer, or goes on with the same try after that.
_GOES_ON = ("deferred", "scheduled", "queued", "running")


@dataclasses.dataclass(eq=False)
class Claim:
    """
    What one gate that opened has claimed. Times are seconds by the event loop's clock, where nothing else is said.

    :param id: its name, of which there is no other
    :param gate: the gate, which Airflow may not know
    :param terms: what it claims
    :param opened_at: when the gate opened, by the wall clock
    :param since: when its phase began, or began anew
    :param asked_at: when Airflow was asked for the youngest answer about it; an older answer may come later
    :param phase: how far it is
    :param is_closed: whether nothing further is to come: its gate waits again, or no task is known behind it
    """

    id: str
    gate: GateId
    terms: Terms
    opened_at: float
    since: float
    asked_at: float
    phase: Phase = Phase.OPENING
    is_closed: bool = False

    def __post_init__(self) -> None:
        self._gate_has_ended = False
        #: The ids of jobs, by the task id and the map index of the instance that has submitted each.
        self.jobs: dict[tuple[str, int], str] = {}
        # The states for which those of instances stand that go on with the same try: "running" where one waits in
        # reschedule mode, and "success" where it has submitted and waits for its job.
        self._stand_for: dict[tuple[str, int], str] = {}
        submit = self.terms.tasks.submit
        self.is_closed = self.is_closed or not (self.gate and submit)
        task_id, is_own = next(iter(submit.items()), (self.gate.task_id, True))
        self._await(task_id, self.gate.map_index if is_own else -1)

    # What is derived from the table

    @property
    def row(self) -> Row:
        """What the table says of its phase."""
        return TABLE[self.phase]

    @property
    def is_unended(self) -> bool:
        """Whether the end of its submission is awaited."""
        return not (self.is_closed or self.row.is_last)

    def ends(self, scope: Scope = Scope.EVERYBODY) -> float:
        """Return when it ceases to count for somebody, if nothing happens before."""
        if not self.row.counts:
            # Nor does it on an observation that was made just before Airflow was asked.
            return -math.inf
        spans = [self.row.everybody.of(self.terms)]
        if scope is Scope.OWN_TASK:
            spans.append(self.row.own_task.of(self.terms))
        end = self.since + min(max(spans), LONGEST_PHASE)
        # Where Airflow does not answer, it counts for its time from the last answer.
        return min(end, self.asked_at + self.terms.ttl) if self.is_unended else end

    def scope(self, at: float) -> Scope:
        """Return who counts its jobs on top of an observation that was made at some moment."""
        if at < self.ends():
            return Scope.EVERYBODY
        return Scope.OWN_TASK if at < self.ends(Scope.OWN_TASK) else Scope.NOBODY

    def is_listed(self, job_ids: Collection[str]) -> bool:
        """Tell whether a list of jobs shows all of its jobs."""
        is_known = self.row.until_listed and 0 < self.terms.jobs <= len(self.jobs)
        return is_known and all(job_id in job_ids for job_id in self.jobs.values())

    def is_followed(self, at: float) -> bool:
        """Tell whether Airflow is asked about it, where the oldest observation in use was made at some moment."""
        return not self.is_closed and (self.is_unended or not self.row.counts or self.scope(at) > Scope.NOBODY)

    def is_forgotten(self, now: float) -> bool:
        """Tell whether it need not be written down any longer."""
        kept_from = self.since + (LONGEST_PHASE if self.is_unended else 0.0)
        return now >= max(kept_from, self.ends(Scope.OWN_TASK)) + KEPT_AFTER

    # What changes

    def enter(self, phase: Phase, now: float) -> None:
        """Note its phase."""
        if phase is self.phase:
            return
        if phase is Phase.ENDED and self.row.may_have_submitted and self.scope(now) < Scope.EVERYBODY:
            # It had expired while it ran: its jobs were counted long ago.
            self.is_closed = True
            return
        self.phase, self.since = phase, now

    def begin_anew(self, now: float) -> None:
        """Note that another submission of its task starts; it goes on so for a day at most."""
        if self.row.since_last_start and clock.wall() < self.opened_at + LONGEST_PHASE:
            self.since = now

    def close(self, phase: Phase, now: float) -> None:
        """Note that its gate waits: again, so that its submission may have ended, or on, so that it is dropped."""
        if self.phase is not Phase.DROPPED:
            self.enter(phase, now)
        self.is_closed = True
        # What is submitted from now on would be another job.
        self.jobs.clear()

    def waits_again(self, deferred_at: float, now: float) -> None:
        """Note that its gate waits here, since later than it opened; when it was deferred is by the wall clock."""
        # Where the same deferral goes on, a triggerer died before Airflow took its event.
        goes_on = self.phase is Phase.OPENING and deferred_at <= self.opened_at
        if goes_on and clock.wall() < self.opened_at + ON_ITS_WAY:
            # Two triggerers may run a gate for a moment, where both take it over from a third: what the one lets
            # through Airflow takes, and then ends the wait in the other.
            return
        self.close(Phase.DROPPED if goes_on else Phase.ENDED, now)

    def in_doubt(self, instances: Instances) -> list[tuple[str, int]]:
        """Return the instances that may have submitted, or have: of which job is not known."""
        if self.is_closed:
            return []
        tasks = self.terms.tasks
        # First it is deferred as the gate that it was. Airflow logs an error where an XCom is not there.
        is_on_its_way = self._submits_itself and clock.wall() < self.opened_at + ON_ITS_WAY
        states = ("success",) if is_on_its_way else ("success", "deferred")
        return [
            (task_id, map_index)
            for task_id, map_index, state in self._instances(instances, tasks.submit)
            if task_id in tasks.tell_job_id and state in states and (task_id, map_index) not in self.jobs
        ]

    def asks_about_run(self, instances: Instances) -> bool:
        """Tell whether the state of its run would tell more than the states of its tasks."""
        return not self.is_closed and TABLE[self._phase_by(instances)].asks_about_run

    def follow(
        self,
        instances: Instances,
        run_state: str | None,
        asked_at: float,
        now: float,
        jobs: Mapping[tuple[str, int], str],
    ) -> None:
        """
        Note its phase by the states of its run's tasks.

        :param instances: states by task id and map index
        :param run_state: "queued" or "ended" where its run is; None: it goes on, or was not asked about
        :param asked_at: when Airflow was asked for them
        :param now: the time
        :param jobs: the ids of jobs that instances in doubt have left
        """
        if asked_at < self.asked_at or self.is_closed:
            return
        self.asked_at = asked_at
        self.jobs.update(jobs)
        self._stand_for.update(dict.fromkeys(jobs, "success"))
        gate_state = instances.get(self.gate.task_id, {}).get(self.gate.map_index, "removed")
        if self._submits_itself:
            self._follow_itself(instances, gate_state, now)
        elif gate_state in _ENDED:
            self._gate_has_ended = True
            phase = self._phase_by(instances)
            if TABLE[phase].asks_about_run and run_state == "ended":
                phase = Phase.DROPPED
            elif phase is Phase.NOT_SCHEDULED and run_state == "queued":
                phase = Phase.RUN_QUEUED
            self.enter(phase, now)
        elif self._gate_has_ended:
            self.close(Phase.ENDED, now)
        elif gate_state == "up_for_retry" or (gate_state == "deferred" and self.phase is Phase.PENDING):
            self.close(Phase.DROPPED, now)
        elif gate_state != "deferred":
            # The gate ends on a worker, and waits for one.
            self._await(self.gate.task_id, self.gate.map_index, gate_state)
            self.enter(Phase.PENDING, now)
        # While it is deferred its event is under way, or was lost.

    @property
    def _submits_itself(self) -> bool:
        """Whether the task waits for room, submits and waits for its job, all in one."""
        return self.gate.task_id in self.terms.tasks.submit

    def _follow_itself(self, instances: Instances, state: str | None, now: float) -> None:
        if state == "success":
            self.enter(Phase.ENDED, now)
            self.is_closed = True
        elif state not in _GOES_ON:
            # It may have submitted, in whatever state it was seen last; its next try is behind a gate again.
            self.close(Phase.DROPPED if state in _ENDED and state not in _HAS_RUN else Phase.ENDED, now)
        elif state != "deferred" or self.jobs:
            self.enter(self._phase_by(instances), now)
        # Deferred: its event is under way; or it does not know yet whether it has submitted.

    def _phase_by(self, instances: Instances) -> Phase:
        found: list[tuple[str, int, str | None]] = []
        for task_id, map_index, state in self._instances(instances, self.terms.tasks.submit):
            name = task_id, map_index
            if state == "up_for_reschedule":
                self._stand_for[name] = "running"
            elif state not in _GOES_ON:
                self._stand_for.pop(name, None)
            counts_as = self._stand_for.get(name, state)
            if counts_as != "success":
                # Its next try submits another job.
                self.jobs.pop(name, None)
            found.append((task_id, map_index, counts_as))
        pending = [each for each in found if each[2] in _PENDING]
        stateless = [each for each in found if each[2] is None]
        unended = pending or stateless or [each for each in found if each[2] not in _ENDED]
        if unended:
            self._await(*unended[0])
        if pending:
            return Phase.PENDING
        if stateless:
            upstream = self._instances(instances, self.terms.tasks.upstream)
            is_awaited = self.terms.tasks.after_past_runs or any(state not in _ENDED for *_, state in upstream)
            return Phase.WAITS_UPSTREAM if is_awaited else Phase.NOT_SCHEDULED
        if unended:
            return Phase.STARTED
        states = {state for *_, state in found}
        if not states.isdisjoint(_HAS_RUN):
            return Phase.ENDED
        return Phase.RENAMED if "removed" in states else Phase.DROPPED

    def _instances(self, instances: Instances, tasks: Mapping[str, bool]) -> Iterator[tuple[str, int, str | None]]:
        for task_id, is_own in tasks.items():
            found = instances.get(task_id, {})
            if is_own:
                # A mapped task that is not expanded yet has a single instance.
                own = self.gate.map_index if self.gate.map_index in found else -1
                found = {own: found[own]} if own in found else {}
            for map_index, state in found.items():
                yield task_id, map_index, state

    def _await(self, task_id: str, map_index: int, state: str | None = None) -> None:
        label = task_id.rpartition(".")[2] + (f"[{map_index}]" if map_index >= 0 else "")
        #: The first of its tasks that has not ended, and Airflow's state of it; for people.
        self.awaited, self.state = Awaited(label, self.gate.dag_id, self.gate.run_id), state

# SPDX-License-Identifier: Apache-2.0
"""What one event loop knows of one DAG: its runs that matter, and the submissions behind their gates."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping

from airflow_provider_scnet.claims.peers import Peers
from airflow_provider_scnet.claims.submission import (
    UNFINISHED,
    Account,
    GateId,
    Instances,
    Phase,
    Scope,
    Submission,
    Terms,
)
from airflow_provider_scnet.claims.unseen import UnseenSubmissions
from airflow_provider_scnet.claims.waiting import DagGates, WaitingGate, WaitingGates
from airflow_provider_scnet.event_loop import clock
from airflow_provider_scnet.event_loop.pacing import Breather

#: Seconds. A gate that has waited for longer when it comes to this event loop may have waited in another
#: triggerer.
NEW_GATE = 10.0

#: Seconds for which Airflow may still call a gate deferred that has ceased to wait: its event is under way.
EVENT_TAKES = 30.0

# Airflow's states of a gate that was deferred, and ends on a worker.
_ON_ITS_WAY = ("scheduled", "queued", "running")


@dataclasses.dataclass(eq=False)
class Run:
    """
    One run of a DAG.

    :param met: the gates' tasks whose instances were looked through
    :param submissions: those behind gates that opened
    :param asked_at: when Airflow was asked for the youngest answer about all of it
    :param held_until: no observation that was made before opens a gate of this run
    :param instances: how many task instances of it matter
    :param unfinished: how many of these have not ended
    :param is_old: whether it may have been there before anybody here asked about it
    :param has_ended: whether it has ended, whatever its tasks' states are
    """

    met: set[str] = dataclasses.field(default_factory=set)
    submissions: dict[GateId, Submission] = dataclasses.field(default_factory=dict)
    asked_at: float = -math.inf
    held_until: float = -math.inf
    instances: int = 0
    unfinished: int = 0
    is_old: bool = False
    has_ended: bool = False


class DagBook:
    """
    What is known of one DAG.

    :param dag_id: the DAG
    :param waiting: the gates that wait here, of all DAGs
    :param peers: those that wait elsewhere, of all DAGs
    """

    def __init__(self, dag_id: str, waiting: WaitingGates, peers: Peers) -> None:
        self.dag_id = dag_id
        self.runs: dict[str, Run] = {}
        #: What a gate's task claims, by its id: as the gates that wait here have it, or had it last.
        self.terms: dict[str, Terms] = {}
        #: When a submission was last seen to start, by its gate's task.
        self.last_start: dict[str, float] = {}
        #: Whether all runs of the DAG were listed once.
        self.is_listed = False
        #: How many gates were seen to open, by their task.
        self.opened: Counter[str] = Counter()
        #: When Airflow was last asked about all that is known here, and answered.
        self.heard = -math.inf
        #: Why Airflow's last answer is missing; empty where it answered.
        self.trouble = ""
        #: When a gate was last seen to have opened elsewhere.
        self.opened_elsewhere = -math.inf
        #: When the oldest of the observations was made on which gates decide.
        self.observed_at = -math.inf
        #: When a gate of it was last known to wait here.
        self.last_used = clock.now()
        self._is_new = True
        # The runs of which nothing is to come, and how many instances they have, ended or not.
        self._past: set[str] = set()
        self._past_instances = self._past_unfinished = 0
        # No observation that was made before opens a gate of this DAG.
        self._held_until = -math.inf
        # The gates that opened or failed here, and when.
        self._left: dict[GateId, float] = {}
        self._waiting = waiting
        self._peers = peers
        self._unseen: dict[str, UnseenSubmissions] = {}
        self._unseen_claims: dict[str, list[Submission]] = {}

    # What others ask

    def claims_from(self, account: Account) -> bool:
        """
        Tell whether its gates claim from an account.

        :param account: the account
        """
        terms = itertools.chain(self.terms.values(), (each.terms for each in self.open()))
        return any(each.claims_from(account) for each in terms)

    @property
    def tasks(self) -> set[str]:
        """The tasks about which Airflow is asked."""
        found = set(self.terms)
        for terms in self.terms.values():
            found |= terms.tasks.ids
        return found

    @property
    def instances(self) -> int:
        """How many task instances are known."""
        return self._past_instances + sum(run.instances for run in self.runs.values())

    @property
    def unfinished(self) -> int:
        """How many of these have not ended."""
        return self._past_unfinished + sum(run.unfinished for run in self.runs.values())

    @property
    def has_unmet(self) -> bool:
        """Whether a gate waits here about whose run Airflow was not asked yet."""
        return any(
            run_id not in self.runs or not tasks <= self.runs[run_id].met
            for run_id, tasks in self._waiting.of(self.dag_id).runs.items()
        )

    def submissions(self) -> Iterator[Submission]:
        """Yield all that are known."""
        for run in self.runs.values():
            yield from run.submissions.values()
        for unseen in self._unseen_claims.values():
            yield from unseen

    def open(self) -> Iterator[Submission]:
        """Yield those whose end is still to come."""
        for run in self.runs.values():
            for submission in run.submissions.values():
                if submission.is_open:
                    yield submission

    def urgent(self) -> Iterator[Submission]:
        """Yield those whose end is worth being noticed soon: they are ours, and still claim from everybody."""
        now = clock.now()
        return (each for each in self.open() if each.is_ours and self.scope(each, now) is Scope.EVERYBODY)

    def scope(self, submission: Submission, at: float) -> Scope:
        """
        Return who counts a submission's jobs on top of an observation.

        :param submission: the submission
        :param at: when the observation was made
        """
        return submission.scope(at, self.last_start.get(submission.gate.task_id, -math.inf))

    def held(self, waiting: WaitingGate, at: float) -> str:
        """
        Say why a gate must not open on an observation, whatever the counts; empty where nothing speaks against it.

        :param waiting: the gate
        :param at: when the observation was made
        """
        gate = waiting.gate
        if gate is None or not waiting.claims_by_airflow:
            return ""
        run = self.runs.get(gate.run_id)
        if run is None or gate.task_id not in run.met:
            if at < waiting.since + waiting.ttl:
                return "Airflow has not said yet which submissions of this run are under way"
        elif at < max(run.held_until, self._held_until):
            return "this DAG has submitted before, which may not be counted yet"
        return ""

    # What changes

    def reserve(self, waiting: WaitingGate) -> Submission:
        """
        Claim what the submission behind a gate will submit.

        :param waiting: the gate, its account known
        """
        assert waiting.gate is not None  # noqa: S101
        gate, now = waiting.gate, clock.now()
        submissions = self.runs.setdefault(gate.run_id, Run()).submissions
        self._set_aside(submissions, gate)
        submission = Submission(gate=gate, terms=waiting.terms(), since=now, is_ours=True)
        submissions[gate] = submission
        return submission

    def returns(self, gate: GateId) -> None:
        """
        Note that a gate that may have opened before waits again, because it was cleared.

        :param gate: the gate
        """
        run = self.runs.get(gate.run_id)
        if run and (before := run.submissions.get(gate)):
            before.end(clock.now())

    def leaves(self, gate: GateId) -> None:
        """
        Note that a gate ceases to wait here: it has opened or failed, and its event is under way.

        :param gate: the gate
        """
        self._left[gate] = clock.now()

    async def apply(
        self,
        states: Mapping[str, Instances],
        runs: Collection[str] | None,
        tasks: Collection[str],
        asked_at: float,
        asked_of: DagGates,
    ) -> None:
        """
        Apply Airflow's answer; where there are thousands of instances, with breaks.

        :param states: the states of instances, by run
        :param runs: the runs that it is about; None: all that there are
        :param tasks: the tasks that it is about
        :param asked_at: when Airflow was asked
        :param asked_of: the gates that waited then
        """
        breather, gates, asked = Breather(), self._waiting.of(self.dag_id), set(tasks)
        self.terms.update(gates.terms)
        is_whole = self.tasks <= asked
        if runs is None:
            self._past_instances = self._past_unfinished = 0
            self._past &= states.keys()
        for run_id in states.keys() | gates.runs.keys() | self.runs.keys() if runs is None else runs:
            instances = states.get(run_id, {})
            is_old = self._is_new or not self.is_listed or run_id in self._past
            # Before anybody else on the loop has a turn, in which a gate of it may open.
            run = self.runs.setdefault(run_id, Run(is_old=is_old))
            if is_whole and asked_at >= run.asked_at:
                run.asked_at = asked_at
                run.instances = sum(len(found) for found in instances.values())
                run.unfinished = sum(
                    state in UNFINISHED for found in instances.values() for state in found.values()
                )
                for task_id in self.terms.keys() & tasks:
                    where = GateId(self.dag_id, run_id, task_id)
                    await self._discover(run, where, asked_of, instances, breather)
                    await self._note_peers(run, where, gates, instances, breather)
            for gate, submission in list(run.submissions.items()):
                if breather.is_due:
                    await breather.take()
                # Meanwhile the gate may have been cleared and wait again, and the answer is not about that.
                if {gate.task_id, *submission.terms.tasks.ids} <= asked and gate not in self._waiting:
                    self._follow(submission, instances, asked_at)
                    if submission.is_past:
                        self._set_aside(run.submissions, gate)
            # In a break, a poll of another account may have dropped it.
            if runs is None and self.runs.get(run_id) is run and not self._matters(run_id, run):
                self._drop(run_id)
        if runs is None:
            self.is_listed = True
        if is_whole:
            # This triggerer was restarted, took gates over, or comes while others let gates through: what ended
            # before may not be counted yet.
            is_late = gates.waited > NEW_GATE or any(not each.is_ours for each in self.open())
            if self._is_new and is_late and (self._past or runs is not None):
                self._held_until = clock.now() + max(terms.counted_after for terms in self.terms.values())
            self._is_new = False

    def count_unseen(self, task_id: str, waiting: int, opened: int, pending: int, running: int) -> None:
        """
        Apply how many gates and submissions there are in all runs, where not all of them can be listed.

        :param task_id: the gates' task
        :param waiting: how many of its instances are deferred
        :param opened: how many have succeeded
        :param pending: how many instances of the tasks that submit wait for a slot, a worker or their next try
        :param running: how many have started
        """
        where, now = GateId(self.dag_id, "", task_id), clock.now()
        known = [each for each in self.open() if each.gate.task_id == task_id]
        here = self._waiting.of(self.dag_id).here
        known_waiting = sum(len(here[run_id, task_id]) for run_id in self.runs)
        self._peers.unseen[where.task] = max(0, waiting - known_waiting - self._peers.known(where.task))
        unseen = self._unseen.setdefault(task_id, UnseenSubmissions(where))
        before = len(self._unseen_claims.get(task_id, ()))
        self._unseen_claims[task_id] = unseen.update(
            self.terms[task_id],
            opened - self.opened[task_id],
            max(0, pending - sum(each.phase is Phase.PENDING and each.gate_has_ended for each in known)),
            max(0, running - sum(each.phase is Phase.RUNNING for each in known)),
            now,
            self.observed_at,
        )
        if any(each.since == now for each in self._unseen_claims[task_id]):
            self.last_start[task_id] = now
        if len(self._unseen_claims[task_id]) > before:
            self.opened_elsewhere = now

    def forget_unseen(self) -> None:
        """Forget what was only counted: all is known by name again."""
        self._unseen.clear()
        self._unseen_claims.clear()
        for task_id in self.terms:
            self._peers.unseen.pop((self.dag_id, task_id), None)

    def drop_what_is_over(self) -> None:
        """Drop the runs of which nothing is to come."""
        self._left = {gate: at for gate, at in self._left.items() if at > clock.now() - EVENT_TAKES}
        for run_id, run in list(self.runs.items()):
            if run.met and not self._matters(run_id, run):
                self._drop(run_id)

    def close(self) -> None:
        """Forget all that others keep of it."""
        self.forget_unseen()
        for run_id in self.runs:
            self._peers.forget_run(self.dag_id, run_id)

    def end_runs(self, ended: Collection[str]) -> None:
        """
        Release what did not start before its run ended.

        :param ended: the runs that have ended
        """
        for run_id in ended:
            run = self.runs.setdefault(run_id, Run())
            run.has_ended = True
            for submission in run.submissions.values():
                if submission.is_open and submission.phase is not Phase.RUNNING:
                    submission.enter(Phase.DROPPED, clock.now())

    def _drop(self, run_id: str) -> None:
        run = self.runs.pop(run_id)
        self._past.add(run_id)
        self._past_instances += run.instances
        self._past_unfinished += run.unfinished
        self._peers.forget_run(self.dag_id, run_id)

    def _matters(self, run_id: str, run: Run) -> bool:
        """Tell whether a gate of a run waits, or may still open, or has claimed what may not be counted yet."""
        return (
            run_id in self._waiting.of(self.dag_id).runs
            or (run.unfinished > 0 and not run.has_ended)
            or any(each.is_open or each.expires > self.observed_at for each in run.submissions.values())
        )

    def _set_aside(self, submissions: dict[GateId, Submission], gate: GateId) -> None:
        """Keep what a gate let through before it was cleared beside what it does from now on."""
        if before := submissions.pop(gate, None):
            now = clock.now()
            before.end(now)
            if before.phase is Phase.FINISHED:
                submissions[dataclasses.replace(gate, task_id=f"{gate.task_id} (cleared at {now})")] = before

    def _follow(self, submission: Submission, instances: Instances, asked_at: float) -> None:
        before, had_ended = submission.phase, submission.gate_has_ended
        submission.follow(instances, asked_at, clock.now())
        task_id = submission.gate.task_id
        self.opened[task_id] += submission.gate_has_ended and not had_ended
        if submission.phase is not before and submission.phase in (Phase.RUNNING, Phase.FINISHED):
            self.last_start[task_id] = clock.now()

    async def _discover(
        self, run: Run, where: GateId, asked_of: DagGates, instances: Instances, breather: Breather
    ) -> None:
        """Note the gates of a run and task that opened elsewhere."""
        is_first = where.task_id not in run.met
        asked_here = asked_of.here[where.run_id, where.task_id]
        terms = self.terms[where.task_id]
        for known in run.submissions.values():
            if known.gate.task_id == where.task_id and not known.is_ours:
                known.terms = known.terms.covering(terms)
        for map_index, state in instances.get(where.task_id, {}).items():
            if state != "success":
                continue
            if breather.is_due:
                await breather.take()
            gate = where.at(map_index)
            # One that waited here when Airflow was asked opened elsewhere; one that came since was cleared.
            if gate in run.submissions or (gate in self._waiting and map_index not in asked_here):
                continue
            now = clock.now()
            submission = Submission(gate=gate, terms=terms, since=now, is_ours=False)
            self._follow(submission, instances, now)
            run.submissions[gate] = submission
            if not run.is_old or not is_first:
                self.opened_elsewhere = now
            elif not terms.tasks.submit:
                submission.enter(Phase.RELEASED, now)
            elif submission.phase is Phase.FINISHED:
                # When, nobody knows: it is no claim, but its run's gates wait until its jobs are surely counted.
                submission.enter(Phase.RELEASED, now)
                run.held_until = max(run.held_until, now + terms.counted_after)
        # Last: until then the run's gates are held.
        run.met.add(where.task_id)

    async def _note_peers(
        self, run: Run, where: GateId, gates: DagGates, instances: Instances, breather: Breather
    ) -> None:
        """Note which gates of a run and task wait elsewhere, and those that opened there and end on a worker."""
        states = instances.get(where.task_id, {})
        elsewhere, now = set(), clock.now()
        deferred = {index for index, state in states.items() if state == "deferred"}
        for index in deferred - gates.here[where.run_id, where.task_id]:
            if breather.is_due:
                await breather.take()
            gate = where.at(index)
            submission = run.submissions.get(gate)
            # What has just opened here is still called deferred, and claims.
            is_reserved = (
                submission is not None
                and submission.phase is Phase.RESERVED
                and self.scope(submission, now) is Scope.EVERYBODY
            )
            if gate not in self._waiting and not is_reserved:
                elsewhere.add(index)
        for index in self._peers.note(where, elsewhere):
            gate = where.at(index)
            if (
                states.get(index) in _ON_ITS_WAY
                and gate not in run.submissions
                and gate not in self._waiting
                and self._left.get(gate, -math.inf) <= now - EVENT_TAKES
            ):
                # Its event says what it is only on the worker. Assume that it opened; over-counting is safe.
                run.submissions[gate] = Submission(gate, self.terms[where.task_id], clock.now(), is_ours=False)

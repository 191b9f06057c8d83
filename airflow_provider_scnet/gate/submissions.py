# SPDX-License-Identifier: Apache-2.0
"""
What became of the submissions behind gates that passed: Airflow's own states of the tasks that submit.

They are the ledger of claims; what stands here is a triggerer's memory of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import dataclasses
import functools
from collections.abc import Awaitable, Callable, Collection, Hashable, Iterator, Mapping, Set

from airflow_provider_scnet.client.text import redacted
from airflow_provider_scnet.gate import clock
from airflow_provider_scnet.gate.asking import Asking
from airflow_provider_scnet.gate.claims import Claims
from airflow_provider_scnet.gate.rivals import Rivals
from airflow_provider_scnet.gate.submission import (
    Account,
    GateId,
    Instances,
    Phase,
    Submission,
    awaited,
)
from airflow_provider_scnet.gate.turns import Pauses
from airflow_provider_scnet.gate.waiting import Census, Waiting, WaitingGates

#: Seconds between two questions while a claim of this event loop waits for the end of a submission.
FOLLOW_EVERY = 5.0
#: Where an answer takes long, the pause is so many times as long, so that a thousand submissions take no more of a
#: triggerer than a hundred; and the longest pause, in seconds.
FOLLOW_AFTER, FOLLOW_AT_LEAST_EVERY = 100, 60.0
#: Seconds that Airflow may take to answer. The first question of a triggerer's life was seen to take more than 8.
LONGEST_ANSWER = 30.0
#: Seconds after which a run is forgotten of which nothing was heard.
FORGET_AFTER = 3600.0

#: Returns the states of all instances of some tasks of a DAG in some of its runs, by run id. It gets dag id, run
#: ids and task ids; what does not exist is left out.
Ask = Callable[[str, Collection[str], Collection[str]], Awaitable[Mapping[str, Instances]]]

# Airflow's states of a gate that was deferred, and whose event is taken to a worker.
_ON_ITS_WAY = ("scheduled", "queued", "running")


@dataclasses.dataclass(eq=False)
class _Run:
    """One run of a DAG: the gates that were met, and the submissions behind those that passed."""

    met: set[str] = dataclasses.field(default_factory=set)
    submissions: dict[GateId, Submission] = dataclasses.field(default_factory=dict)
    # No look that was made before opens a gate of this run.
    held_until: float = 0.0
    heard: float = dataclasses.field(default_factory=clock.now)


class Submissions:
    """
    What one event loop knows of the submissions behind the gates that wait here.

    A gate that passes here is followed until its submission has ended. Gates of the same runs that passed
    elsewhere (in another triggerer, or here before a restart) show in the same answers. Runs none of whose
    gates waits here are not seen, nor is what happens in the moment between an answer and the decision on it.

    :param ask: how to ask Airflow
    :param claims_on: returns the claims on an account
    """

    def __init__(self, ask: Ask, claims_on: Callable[[Account], Claims]) -> None:
        self._ask = ask
        self._claims_on = claims_on
        #: The gates that wait here.
        self.waiting = WaitingGates()
        # Those that wait in other triggerers.
        self._rivals = Rivals(self.waiting)
        # By DAG and run.
        self._runs: dict[str, dict[str, _Run]] = {}
        # By DAG, and by whether the question is about the urgent alone.
        self._asking: dict[tuple[str, bool], Asking[None]] = {}
        self._heard: dict[str, float] = {}
        self._following: asyncio.Task[None] | None = None
        #: Why Airflow's last answer is missing; empty where it answered.
        self.trouble = ""
        #: When a gate was last seen to have passed elsewhere, by :mod:`.clock`.
        self.seen_elsewhere = 0.0

    @contextlib.contextmanager
    def kept(self, waiting: Waiting) -> Iterator[None]:
        """
        Keep a gate in mind for as long as it waits.

        :param waiting: the gate
        """
        run = self._run(waiting.gate)
        if before := run and run.submissions.get(waiting.gate):
            # It was cleared: what it let pass before may have submitted.
            before.turn(Phase.ENDED, clock.now())
            self._put(before)
        self.waiting.add(waiting)
        self._follow()
        try:
            yield
        finally:
            self.waiting.remove(waiting)

    def passes(self, waiting: Waiting) -> None:
        """
        Claim what a gate's submission will submit.

        :param waiting: the gate, its account known
        """
        if not waiting.jobs or waiting.account is None:
            return
        now = clock.now()
        submission = Submission(
            gate=waiting.gate,
            jobs=waiting.jobs,
            ttl=waiting.ttl,
            counted_after=waiting.counted_after,
            submitted_by=waiting.submitted_by,
            accounts=frozenset((waiting.account,)),
            since=now,
            is_ours=True,
            changed=now,
            heard=now,
            awaited=awaited(waiting.gate, waiting.submitted_by),
        )
        submissions = self._run_of(waiting.gate.dag_id, waiting.gate.run_id).submissions
        if before := submissions.get(waiting.gate):
            # It passed before it was cleared: what that submitted may not be counted yet. That expires by itself.
            self._put(before, object())
        submissions[waiting.gate] = submission
        self._put(submission)
        self._follow()

    def hold(self, waiting: Waiting, look_at: float) -> str:
        """
        Say why a gate must not open on a look, whatever the counts; empty where nothing speaks against it.

        :param waiting: the gate
        :param look_at: when the look was made, by :mod:`.clock`
        """
        if not waiting.jobs or not waiting.submitted_by:
            return ""
        run = self._run(waiting.gate)
        if run is None or waiting.gate.task_id not in run.met:
            if look_at < waiting.since + waiting.ttl:
                return "Airflow has not said yet which submissions of this run are under way"
        elif look_at < run.held_until:
            return "this run has submitted before, which may not be counted yet"
        return ""

    def turn(self, waiting: Waiting, look_at: float, opens: Callable[[int], bool]) -> str:
        """
        Say why it is not a gate's turn where others of its task wait in other triggerers; empty where it is.

        :param waiting: the gate
        :param look_at: when the look was made, by :mod:`.clock`
        :param opens: tells whether it would open on the look after so many others
        """

        def competing() -> Iterator[GateId]:
            for each in self.waiting.that_compete_with(waiting):
                if not self.hold(each, look_at):
                    yield each.gate

        return self._rivals.turn(waiting, look_at, competing, opens)

    async def hear(self, account: Account, look_at: float) -> None:
        """
        Learn what became of all submissions that matter to an account, as far as Airflow answers in time.

        :param account: the account
        :param look_at: when the look was made, by :mod:`.clock`: what was heard since then is not
            asked again
        """
        dags = {dag_id for dag_id in self.waiting.dags if account in self.waiting.census(dag_id).accounts}
        dags |= {dag_id for dag_id in self._runs if any(account in each.accounts for each in self._open(dag_id))}
        unheard = [dag_id for dag_id in dags if self._heard.get(dag_id, 0.0) < look_at or self._has_unmet(dag_id)]
        if unheard:
            await asyncio.gather(*(self._learn(dag_id) for dag_id in unheard))
        self._forget()

    # Asking

    def _has_unmet(self, dag_id: str) -> bool:
        runs = self._runs.get(dag_id, {})
        return any(
            run_id not in runs or not tasks <= runs[run_id].met
            for run_id, tasks in self.waiting.census(dag_id).gates.items()
        )

    async def _learn(self, dag_id: str, urgent_alone: bool = False) -> None:
        """Ask about a DAG, unless a question of the same kind that was put after this one is being answered."""
        now, kind = clock.now(), (dag_id, urgent_alone)
        try:
            while True:
                asking = self._asking.get(kind)
                if asking is None or asking.is_over:
                    runs, tasks = self._question(dag_id, urgent_alone)
                    if not runs:
                        return
                    asking = self._asking[kind] = Asking(self._put_question(dag_id, runs, tasks), LONGEST_ANSWER)
                await asking.answer()
                if asking.since >= now:
                    break
        except Exception as error:  # whatever it is, the gates stay as shut as they were
            self.trouble = (
                f"Airflow does not say what became of submissions ({type(error).__name__}: {redacted(error)}): "
                "gates stay as shut as they were, and claims of which nothing is heard expire"
            )
            return
        self.trouble = ""
        if not urgent_alone:
            self._heard[dag_id] = now

    async def _put_question(self, dag_id: str, runs: Collection[str], tasks: Set[str]) -> None:
        asked_of, asked_at = self.waiting.census(dag_id), clock.now()
        await self._take(dag_id, runs, tasks, asked_of, asked_at, await self._ask(dag_id, runs, tasks))

    def _question(self, dag_id: str, urgent_alone: bool) -> tuple[set[str], set[str]]:
        """Return the runs and tasks that matter, gates and submissions alike."""
        runs: set[str] = set()
        tasks: set[str] = set()
        if not urgent_alone:
            census = self.waiting.census(dag_id)
            runs.update(census.gates)
            tasks.update(census.tasks)
        for each in self._open(dag_id):
            if each.is_urgent or not urgent_alone:
                runs.add(each.gate.run_id)
                tasks.update((each.gate.task_id, *each.submitted_by))
        return runs, tasks

    def _follow(self) -> None:
        """Make sure that the ends of our submissions are noticed soon, while somebody waits for room."""
        if self._following is None or self._following.done():
            # An empty context: the task must not log in the name of the gate that happened to start it.
            self._following = contextvars.Context().run(asyncio.ensure_future, self._keep_following())

    async def _keep_following(self) -> None:
        took = 0.0
        while self.waiting and self._urgent_dags():
            await asyncio.sleep(min(max(FOLLOW_EVERY, FOLLOW_AFTER * took), FOLLOW_AT_LEAST_EVERY))
            if self.waiting:
                began, dags = clock.now(), self._urgent_dags()
                await asyncio.gather(*(self._learn(dag_id, urgent_alone=True) for dag_id in dags))
                took = clock.now() - began

    def _urgent_dags(self) -> list[str]:
        return [dag_id for dag_id in self._runs if any(each.is_urgent for each in self._open(dag_id))]

    # What the answers mean

    async def _take(
        self,
        dag_id: str,
        runs: Collection[str],
        tasks: Set[str],
        asked_of: Census,
        asked_at: float,
        states: Mapping[str, Instances],
    ) -> None:
        """Take in the states of gates and submissions; where there are thousands, with pauses."""
        pauses, census = Pauses(), self.waiting.census(dag_id)
        for run_id in runs:
            instances = states.get(run_id, {})
            run = self._run_of(dag_id, run_id)
            run.heard = clock.now()
            if run_id in census:
                for task_id in census.terms.keys() & tasks:
                    gates = GateId(dag_id, run_id, task_id)
                    await self._meet(run, gates, census.terms[task_id], instances, pauses)
                    await self._note_rivals(run, gates, census, asked_of, instances, pauses)
            stood_before = functools.partial(census.places, run_id)
            for gate, submission in list(run.submissions.items()):
                if pauses.are_due:
                    await pauses.take()
                # What was asked before a gate passed here may be older than its passing.
                is_too_old = submission.is_ours and submission.since >= asked_at
                was_asked_about = gate.task_id in tasks and submission.submitted_by.keys() <= tasks
                # Meanwhile the gate may have been cleared, and what was asked is no longer true of it.
                is_its_own = gate not in self.waiting and run.submissions.get(gate) is submission
                if was_asked_about and is_its_own and not is_too_old:
                    submission.follow(instances, stood_before, clock.now())
                    self._put(submission)
                    if gate.task_id not in run.met and not submission.is_open:
                        # Its claim, if any, expires by itself.
                        del run.submissions[gate]

    async def _note_rivals(
        self, run: _Run, gates: GateId, census: Census, asked_of: Census, instances: Instances, pauses: Pauses
    ) -> None:
        """Note which gates of a task wait elsewhere, and take up those that are on their way from there."""
        states = instances.get(gates.task_id, {})
        elsewhere: Collection[int] = [index for index, state in states.items() if state == "deferred"]
        # All that wait here are among them, if they did so already when Airflow was asked.
        if census is not asked_of or len(elsewhere) > census.here[gates.run_id, gates.task_id]:
            found = set()
            for index in elsewhere:
                if pauses.are_due:
                    await pauses.take()
                if self._is_elsewhere(gates.at(index), run):
                    found.add(index)
            elsewhere = found
        else:
            elsewhere = ()
        now = clock.now()
        for index in self._rivals.note(gates, elsewhere):
            gate = gates.at(index)
            if states.get(index) in _ON_ITS_WAY and gate not in run.submissions and gate not in self.waiting:
                # Its event goes over a worker, and says what it is only there. Closed is safe.
                run.submissions[gate] = dataclasses.replace(
                    census.terms[gates.task_id], gate=gate, since=now, changed=now, heard=now
                )

    def _is_elsewhere(self, gate: GateId, run: _Run) -> bool:
        """Tell whether a gate waits elsewhere that Airflow calls deferred, as what has just passed here."""
        submission = run.submissions.get(gate)
        return gate not in self.waiting and not (submission and submission.phase is Phase.PASSES)

    async def _meet(
        self, run: _Run, gates: GateId, terms: Submission, instances: Instances, pauses: Pauses
    ) -> None:
        """Take up the gates of a task that passed elsewhere."""
        is_first = gates.task_id not in run.met
        for known in run.submissions.values():
            if known.gate.task_id == gates.task_id and not known.is_ours:
                known.accounts |= terms.accounts
        for map_index, state in instances.get(gates.task_id, {}).items():
            if state != "success":
                continue
            if pauses.are_due:
                await pauses.take()
            gate = gates.at(map_index)
            if gate in run.submissions or gate in self.waiting:
                continue
            now = clock.now()
            submission = dataclasses.replace(terms, gate=gate, since=now, changed=now, heard=now)
            run.submissions[gate] = submission
            if not is_first:
                self.seen_elsewhere = now
            elif not submission.submitted_by:
                submission.turn(Phase.OVER, now)
            elif submission.phase_by(instances)[0] is Phase.ENDED:
                # When, nobody knows: it is no claim, but its run waits until its jobs are surely counted.
                submission.turn(Phase.OVER, now)
                run.held_until = max(run.held_until, now + submission.counted_after)
        # Last: until then the run's gates are held.
        run.met.add(gates.task_id)

    # What is kept

    def _open(self, dag_id: str) -> Iterator[Submission]:
        """Yield the submissions whose end is still to come, also where no gate of their run waits any longer."""
        for run in self._runs.get(dag_id, {}).values():
            for submission in run.submissions.values():
                if submission.is_open:
                    yield submission

    def _run(self, gate: GateId) -> _Run | None:
        return self._runs.get(gate.dag_id, {}).get(gate.run_id)

    def _run_of(self, dag_id: str, run_id: str) -> _Run:
        return self._runs.setdefault(dag_id, {}).setdefault(run_id, _Run())

    def _put(self, submission: Submission, name: Hashable = None) -> None:
        claim, name = submission.claim, name or submission.gate
        for account in submission.accounts:
            claims = self._claims_on(account)
            if claim is None:
                claims.drop(name)
            else:
                claims.put(name, claim)

    def _forget(self) -> None:
        now = clock.now()
        self._asking = {kind: asking for kind, asking in self._asking.items() if not asking.is_over}
        self._heard = {
            dag_id: at for dag_id, at in self._heard.items() if dag_id in self._runs or dag_id in self.waiting.dags
        }
        self._rivals.forget(now - FORGET_AFTER)
        for dag_id, runs in list(self._runs.items()):
            for run_id, run in list(runs.items()):
                if now - run.heard >= FORGET_AFTER and not any(
                    each.is_ours and each.is_open for each in run.submissions.values()
                ):
                    del runs[run_id]
            if not runs:
                del self._runs[dag_id]

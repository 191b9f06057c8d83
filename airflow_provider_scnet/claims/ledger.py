# SPDX-License-Identifier: Apache-2.0
"""
The ledger of claims: who opened, and what became of the submissions behind.

Airflow's own states of the tasks that submit are the ledger; what stands here is one triggerer's memory of it, and
how it asks.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Protocol

from airflow_provider_scnet.claims.book import DagBook
from airflow_provider_scnet.claims.kept_room import KeptRoom
from airflow_provider_scnet.claims.peers import Peers
from airflow_provider_scnet.claims.submission import (
    PENDING,
    RULES,
    UNFINISHED,
    Account,
    GateId,
    Instances,
    Phase,
    Scope,
    Submission,
)
from airflow_provider_scnet.claims.totals import Totals
from airflow_provider_scnet.claims.waiting import WaitingGate, WaitingGates
from airflow_provider_scnet.client.unexpected import unexpected
from airflow_provider_scnet.event_loop import clock
from airflow_provider_scnet.event_loop.background import BackgroundTask
from airflow_provider_scnet.event_loop.shielded_call import ShieldedCall
from airflow_provider_scnet.gate.claimed import Claimed
from airflow_provider_scnet.gate.note import Note

#: Seconds between two questions while a claim of this event loop waits for the end of a submission.
FOLLOW_EVERY = 5.0
#: Where an answer takes long, the pause is so many times as long, so that a thousand submissions take no more of a
#: triggerer than a hundred; and the longest pause, in seconds.
PAUSE_PER_ANSWER, LONGEST_PAUSE = 100, 60.0
#: Seconds that Airflow may take to answer. The first question of a triggerer's life was seen to take more than 8.
LONGEST_ANSWER = 30.0
#: Seconds after which a DAG is forgotten about which nobody asked.
FORGET_AFTER = 3600.0
#: Task instances that are listed at once: about two seconds of the supervisor's time. More are only counted,
#: unless the runs that matter have half as many.
MOST_LISTED = 10_000

#: Why a gate waits that is not among the first.
AFTER_OTHERS = "gates that wait in other triggerers come first"


class TaskStates(Protocol):
    """How to ask Airflow about the tasks of a DAG."""

    async def states(
        self, dag_id: str, run_ids: Collection[str] | None, task_ids: Collection[str]
    ) -> Mapping[str, Instances]:
        """Return the states of all instances of some tasks in some runs, or in all, by run."""

    async def count(
        self, dag_id: str, task_ids: Collection[str], states: Collection[str | None] | None = None
    ) -> int:
        """Return how many instances of some tasks there are in all runs, in some states or in any."""

    async def ended(self, dag_id: str, run_ids: Collection[str]) -> Collection[str]:
        """Return those of some runs that have ended."""


class Ledger:
    """
    What one event loop knows of the submissions behind gates, and of what they claim.

    A gate that opens here is followed until its submission has ended. Those that opened elsewhere (in another
    triggerer, or here before a restart) show in Airflow's states: run by run, as long as Airflow can list the runs
    of the DAG in a moment; else as numbers.

    :param airflow: how to ask Airflow
    """

    def __init__(self, airflow: TaskStates) -> None:
        self._airflow = airflow
        #: The gates that wait here.
        self.waiting = WaitingGates()
        #: The room that is kept for those with several jobs.
        self.kept_room = KeptRoom()
        self._peers = Peers()
        self._books: dict[str, DagBook] = {}
        # Claims of gates that Airflow does not know.
        self._untracked: list[Submission] = []
        # By DAG, and by whether only what is urgent is asked about.
        self._calls: dict[tuple[str, bool], ShieldedCall[None]] = {}
        # By DAG: when it may be listed again.
        self._list_at: dict[str, float] = {}
        # The youngest observation of each account through each connection: gates that arrive decide on it as well.
        self._observed: dict[tuple[Account, str], float] = {}
        self._totals: dict[tuple[Account, float], Totals] = {}
        self._following = BackgroundTask(self._follow, lambda: bool(self.waiting), unexpected)

    @contextlib.contextmanager
    def kept(self, waiting: WaitingGate) -> Iterator[None]:
        """
        Keep a gate in mind for as long as it waits.

        :param waiting: the gate
        """
        if waiting.gate and (book := self._books.get(waiting.gate.dag_id)):
            book.returns(waiting.gate)
            self._totals.clear()
        self.waiting.add(waiting)
        self._following.start()
        try:
            yield
            # Not where it was cancelled: it may wait, and open, in another triggerer.
            if waiting.gate and (book := self._books.get(waiting.gate.dag_id)):
                book.leaves(waiting.gate)
        finally:
            self.waiting.remove(waiting)
            self.kept_room.forget(waiting)

    def reserve(self, waiting: WaitingGate) -> None:
        """
        Claim what the submission behind a gate will submit.

        :param waiting: the gate, its account known
        """
        if not waiting.jobs or waiting.account is None:
            return
        if waiting.gate is None:
            submission = Submission(GateId("", "", ""), waiting.terms(), clock.now(), is_ours=True)
            self._untracked.append(submission)
        else:
            submission = self._book(waiting.gate.dag_id).reserve(waiting)
        for (account, _), totals in self._totals.items():
            if submission.terms.claims_from(account):
                totals.add(submission, Scope.EVERYBODY)
        self._following.start()

    def claimed(self, account: Account, at: float, gate: GateId | None = None) -> Claimed:
        """
        Return what is to be counted on top of an observation; equal for as long as it is the same.

        :param account: the account
        :param at: when the observation was made, by the event loop's clock
        :param gate: the gate that asks; None: one that Airflow does not know
        """
        totals = self._totals.get((account, at))
        if totals is None:
            totals = self._totals[account, at] = Totals(at)
            for book in self._books.values():
                for submission in book.submissions():
                    if submission.terms.claims_from(account):
                        totals.add(submission, book.scope(submission, at))
            for submission in self._untracked:
                if submission.terms.claims_from(account):
                    totals.add(submission, submission.scope(at))
        return totals.claimed(gate)

    def reason_to_wait(self, waiting: WaitingGate, at: float, opens: Callable[[int], bool]) -> str:
        """
        Say why a gate must not open on an observation although its condition holds; empty where it may.

        :param waiting: the gate
        :param at: when the observation was made, by the event loop's clock
        :param opens: tells whether it would open after so many others
        """
        if waiting.gate is None:
            return ""
        book = self._book(waiting.gate.dag_id)
        if held := book.held(waiting, at):
            return held

        def competing() -> Iterator[GateId]:
            for each in self.waiting.competing_with(waiting):
                if each.gate and not book.held(each, at):
                    yield each.gate

        if not self._peers.may_open(waiting, at, competing, opens):
            return AFTER_OTHERS
        return self.kept_room.reason_to_wait(waiting, at)

    def opened_elsewhere_since(self, account: Account, at: float) -> bool:
        """
        Tell whether a gate of an account was seen to have opened in another triggerer.

        :param account: the account
        :param at: since when, by the event loop's clock
        """
        return any(book.opened_elsewhere > at and book.claims_from(account) for book in self._books.values())

    def notes(self, account: Account) -> tuple[Note, ...]:
        """
        Return what a reader of a gate's log should know: of claims that Airflow does nothing about.

        :param account: the account
        """
        now = clock.now()
        stalled: dict[tuple[str, str, Phase], list[Submission]] = {}
        for book in self._books.values():
            for each in book.open():
                is_stalled = RULES[each.phase].hint and book.scope(each, now) < Scope.EVERYBODY
                if is_stalled and each.terms.claims_from(account):
                    stalled.setdefault((*each.gate.task, each.phase), []).append(each)
        notes = [Note(_stalled(each), key=str(kind)) for kind, each in stalled.items()]
        notes += self.kept_room.notes(account)
        notes += [
            Note(book.trouble, key="trouble")
            for book in self._books.values()
            if book.trouble and book.claims_from(account)
        ]
        if how := self._following.take_failure():
            notes.append(Note(f"the task that follows submissions {how}, and was started again"))
        return tuple(notes)

    # How Airflow is asked

    async def refresh(self, account: Account, at: float, scnet_conn_id: str = "") -> None:
        """
        Ask Airflow about all that matters to an account, as far as it answers in time.

        :param account: the account
        :param at: when the observation was made, by the event loop's clock: what was heard since then is not asked
            again
        :param scnet_conn_id: the connection through which it was made
        """
        for dag_id in self.waiting.dags:
            book = self._book(dag_id)
            book.last_used = clock.now()
            for task_id, terms in self.waiting.of(dag_id).terms.items():
                book.terms.setdefault(task_id, terms)
        self._observed[account, scnet_conn_id] = at
        for book in self._books.values():
            book.observed_at = min(self._observed.values())
        # Gates that arrive decide on an older observation. What opened elsewhere since then is not in it.
        since = max(at, clock.now() - FOLLOW_EVERY)
        due = [
            book
            for book in self._books.values()
            if book.claims_from(account) and (book.heard < since or book.has_unmet)
        ]
        if due:
            await asyncio.gather(*(self._ask(book) for book in due))
        self._forget(at)

    async def _ask(self, book: DagBook, urgent_alone: bool = False) -> None:
        """Ask about a DAG, unless a question of the same kind that was put after this one is being answered."""
        now, kind = clock.now(), (book.dag_id, urgent_alone)
        try:
            while True:
                call = self._calls.get(kind)
                if call is None or call.is_over:
                    question = self._urgent(book) if urgent_alone else self._survey(book)
                    call = self._calls[kind] = ShieldedCall(question, LONGEST_ANSWER)
                await call.result()
                if call.started_at >= now:
                    break
        except Exception as error:  # whatever it is, gates stay as shut as they were
            book.trouble = (
                f"Airflow does not say what became of submissions ({unexpected(error)}): "
                "gates stay as shut as they were, and claims of which nothing is heard expire"
            )
            return
        book.trouble = ""
        if not urgent_alone:
            book.heard = now

    async def _survey(self, book: DagBook) -> None:
        """Ask about all of a DAG that matters."""
        dag_id, asked_of = book.dag_id, self.waiting.of(book.dag_id)
        tasks = book.tasks
        total = await self._airflow.count(dag_id, tasks)
        unfinished = await self._airflow.count(dag_id, tasks, UNFINISHED)

        def is_all() -> bool:
            return total == book.instances and unfinished <= book.unfinished

        known = sum(run.instances for run in book.runs.values())
        runs: Collection[str] | None = book.runs.keys() | asked_of.runs.keys()
        asked_at = clock.now()
        if (
            not is_all()
            and total <= max(MOST_LISTED, 2 * known)
            and asked_at >= self._list_at.get(dag_id, -math.inf)
        ):
            runs = None
        states = await self._airflow.states(dag_id, runs, tasks)
        if runs is None:
            self._list_at[dag_id] = clock.now() + PAUSE_PER_ANSWER * (clock.now() - asked_at)
        await book.apply(states, runs, tasks, asked_at, asked_of)
        if runs is None or is_all():
            book.forget_unseen()
        else:
            await self._count_unseen(book)
        self._totals.clear()
        if stateless := {each.gate.run_id for each in book.open() if each.phase is Phase.NOT_SCHEDULED}:
            book.end_runs(await self._airflow.ended(dag_id, stateless))
            self._totals.clear()

    async def _count_unseen(self, book: DagBook) -> None:
        for task_id, terms in list(book.terms.items()):
            # Where several tasks submit for one gate, they start together: count the first.
            submit = list(terms.tasks.submit)[:1]
            numbers = [
                await self._airflow.count(book.dag_id, tasks, states) if tasks else 0
                for tasks, states in (
                    ([task_id], ["deferred"]),
                    ([task_id], ["success"]),
                    (submit, PENDING),
                    (submit, ["running", "deferred"]),
                )
            ]
            book.count_unseen(task_id, *numbers)

    async def _urgent(self, book: DagBook) -> None:
        """Ask about the submissions alone that somebody waits for."""
        urgent = list(book.urgent())
        runs = {each.gate.run_id for each in urgent}
        tasks = {task for each in urgent for task in (each.gate.task_id, *each.terms.tasks.ids)}
        if runs:
            asked_at, asked_of = clock.now(), self.waiting.of(book.dag_id)
            states = await self._airflow.states(book.dag_id, runs, tasks)
            await book.apply(states, runs, tasks, asked_at, asked_of)
            self._totals.clear()

    async def _follow(self) -> None:
        """Notice the ends of our submissions soon, while somebody waits for room."""
        took = 0.0
        while self.waiting and (books := self._urgent_books()):
            await asyncio.sleep(min(max(FOLLOW_EVERY, PAUSE_PER_ANSWER * took), LONGEST_PAUSE))
            if self.waiting:
                began = clock.now()
                await asyncio.gather(*(self._ask(book, urgent_alone=True) for book in books))
                took = clock.now() - began

    def _urgent_books(self) -> list[DagBook]:
        return [book for book in self._books.values() if any(book.urgent())]

    # What is kept

    def _book(self, dag_id: str) -> DagBook:
        if dag_id not in self._books:
            self._books[dag_id] = DagBook(dag_id, self.waiting, self._peers)
        return self._books[dag_id]

    def _forget(self, at: float) -> None:
        now = clock.now()
        self._totals = {key: totals for key, totals in self._totals.items() if totals.at >= at}
        self._calls = {kind: call for kind, call in self._calls.items() if not call.is_over}
        self._observed = {
            key: seen for key, seen in self._observed.items() if seen > now - FORGET_AFTER or seen == at
        }
        self._untracked = [each for each in self._untracked if each.expires > min(self._observed.values())]
        self._peers.forget(now - FORGET_AFTER)
        for dag_id, book in list(self._books.items()):
            book.drop_what_is_over()
            if dag_id not in self.waiting.dags and book.last_used <= now - FORGET_AFTER:
                book.close()
                del self._books[dag_id]


def _stalled(submissions: list[Submission]) -> str:
    first = submissions[0]
    more = f" (and {len(submissions) - 1} more)" if len(submissions) > 1 else ""
    task = first.awaited.task if first.awaited else first.gate.task_id
    return (
        f"the submission {task} of DAG '{first.gate.dag_id}', run '{first.gate.run_id}'{more} does not start "
        f"(state: {first.state or 'none'}); its claim keeps no gates of other tasks shut any longer: "
        f"{RULES[first.phase].hint}"
    )

# SPDX-License-Identifier: Apache-2.0
"""The ledger of one account: what gates have claimed, in this process's memory and where all processes read it."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import json
import math
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Protocol

from airflow_provider_scnet.claims import record
from airflow_provider_scnet.claims.claim import Claim
from airflow_provider_scnet.claims.claim_terms import UNKNOWN_GATE, GateId, Terms
from airflow_provider_scnet.claims.expiry import Phase, Scope
from airflow_provider_scnet.claims.submission_follower import FOLLOW_EVERY, Follower, TaskStates
from airflow_provider_scnet.claims.totals import Totals
from airflow_provider_scnet.claims.turn import LONGEST_SECTION, Turn
from airflow_provider_scnet.claims.variable_store import NotDecidedError, Store, Variables
from airflow_provider_scnet.event_loop import clock
from airflow_provider_scnet.gate.reporter import Note

#: How often a process tries to decide at one poll: its turn may be lost to another, or take too long.
MOST_TRIES = 3
#: Seconds within which the ends of claims bring one poll: gates that open together submit one after another.
TOGETHER = 3 * FOLLOW_EVERY
#: Characters of JSON that take a thread of their own: a thousand claims, a few milliseconds.
LONG_TEXT = 100_000


class Airflow(TaskStates, Variables, Protocol):
    """How to ask Airflow, and to write into it."""


class Ledger:
    """
    The claims on one account.

    A claim is written down before its gate opens, in one's turn, so that whoever decides after that counts it. A
    claim of one's own that is missing there counts all the same, and is written again.

    :param account: the resolved endpoint and user
    :param airflow: how to ask Airflow, and to write into it
    :param messages: held while a Variable is read or written, by the ledgers of all accounts of this process
    """

    def __init__(self, account: tuple[str, ...], airflow: Airflow, messages: asyncio.Lock | None = None) -> None:
        messages = messages or asyncio.Lock()
        digest = hashlib.sha256("\n".join(account[:2]).encode()).hexdigest()[:12]
        about = f"SCnet, user {account[1]} at {account[0]}. May be deleted when no gate waits."
        self._key, self._description = f"scnet_claims_{digest}", f"What gates have claimed: {about}"
        self._name = uuid.uuid4().hex[:8]
        self._ids = (f"{self._name}-{number}" for number in itertools.count(1))
        self._store = Store(airflow, messages)
        self._turn = Turn(self._store, f"scnet_turn_{digest}", f"Whose turn it is to decide: {about}", self._name)
        self._one_at_a_time = asyncio.Lock()
        self._follower = Follower(airflow)
        self._claims: dict[str, Claim] = {}
        # The ids of claims that were written too late, or taken back: a late message brings them.
        self._void: set[str] = set()
        # What is written, in which phase each claim is there, and when it was read.
        self._text = ""
        self._written: dict[str, Phase] = {}
        self._read_at = -math.inf
        self._trouble = ""

    def claim(self, gate: GateId | None, terms: Terms) -> Claim:
        """Make a claim, which counts once it is kept."""
        now = clock.now()
        return Claim(next(self._ids), gate or UNKNOWN_GATE, terms, clock.wall(), now, now)

    def keep(self, claims: Iterable[Claim]) -> None:
        """Count claims from now on. Those of gates that Airflow does not know need not be decided in a turn."""
        self._claims.update((claim.id, claim) for claim in claims)

    def withdraw(self, *claims: Claim) -> None:
        """Take back the claims of gates that did not open after all."""
        for claim in claims:
            self._claims.pop(claim.id, None)
            self._void.add(claim.id)

    def totals(self, at: float, queue_name: str | None = None, listed: Collection[str] = ()) -> Totals:
        """Return what gates that ask about a queue count on top of an observation that was made at some moment."""
        return Totals(self._claims.values(), at, queue_name, listed)

    @property
    def knows_jobs(self) -> bool:
        """Whether a list of jobs could show some that are claimed."""
        now = clock.now()
        return any(each.is_listed(each.jobs.values()) and each.scope(now) for each in self._claims.values())

    def next_end(self, at: float, queues: Collection[str | None]) -> float:
        """
        Return when claims free room: the first of them has ended, and those that end soon after it.

        :param at: when the observation was made on which they weigh
        :param queues: the queues that gates ask about
        """
        ends = [
            each.ends(scope)
            for each in self._claims.values()
            if (scope := each.scope(at)) and any(map(each.terms.claims_from, queues))
        ]
        soon = min(ends, default=math.inf) + TOGETHER
        return max((end for end in ends if end <= soon), default=math.inf)

    # What this process knows

    async def refresh(self, at: float, waiting: Mapping[GateId, tuple[float, float]]) -> None:
        """
        Learn what others have claimed, and what became of it.

        :param at: when the observation was made on which gates decide; what was heard since is not asked again
        :param waiting: the gates that wait here; for each since when, and when it was deferred, by the wall clock
        """
        since = max(at, clock.now() - FOLLOW_EVERY)
        if self._read_at < since:
            try:
                async with self._one_at_a_time:
                    await self._read()
            except NotDecidedError as error:
                self._trouble = f"{error}; nothing opens that has to claim"
        for claim in self._claims.values():
            began_at, deferred_at = waiting.get(claim.gate, (-math.inf, 0.0))
            if claim.opened_at < began_at and not claim.is_closed:
                claim.waits_again(deferred_at, clock.now())
        if self._follower.heard < since:
            await self.follow(at)

    async def follow(self, at: float) -> None:
        """Ask Airflow what became of claims, where the oldest observation in use was made at some moment."""
        await self._follower.ask([claim for claim in self._claims.values() if claim.is_followed(at)])

    @property
    def follow_due(self) -> float:
        """When to ask again; infinite where nobody waits for the end of a submission."""
        return self._follower.due if any(map(_is_awaited, self._claims.values())) else math.inf

    def lead(self, within: float) -> float:
        """
        Return how much more this process let through than others: from -1, nothing, over 0 to 1, twice the mean.

        :param within: seconds that count
        """
        opened, since = Counter({self._name: 0}), clock.wall() - within
        opened.update(
            each.id.partition("-")[0] for each in self._claims.values() if each.gate and each.opened_at > since
        )
        mean = sum(opened.values()) / len(opened)
        return min(max(opened[self._name] / mean - 1.0, -1.0), 1.0) if mean else 0.0

    @property
    def has_to_write(self) -> bool:
        """Whether what is written lacks a claim that counts, or holds one of nobody."""
        now = clock.now()
        return not self._void.isdisjoint(self._written) or any(
            each.id not in self._written and each.scope(now) for each in self._mine()
        )

    @property
    def is_unsettled(self) -> bool:
        """Whether a claim of this process has not ended, or it is not written down how it did."""
        return self.has_to_write or any(
            _is_awaited(each) or self._written.get(each.id) != each.phase for each in self._mine()
        )

    def _mine(self) -> list[Claim]:
        """Return the claims of this process that have to be written down."""
        now = clock.now()
        return [
            each
            for each in self._claims.values()
            if each.gate and each.id.startswith(self._name) and not each.is_forgotten(now)
        ]

    # What is written

    async def decide(self, admit: Callable[[], Collection[Claim]]) -> None:
        """
        Let gates decide in this process's turn, and keep what they claim.

        :param admit: lets gates decide on what is claimed, and returns the claims of those that open
        :raises NotDecidedError: where none of them may open
        """
        async with self._one_at_a_time:
            try:
                await self._decide(admit)
            except NotDecidedError:
                if not self._store.is_given_up:
                    raise
                self.keep(admit())

    async def _decide(self, admit: Callable[[], Collection[Claim]]) -> None:
        claims: Collection[Claim] = ()
        why = ""
        try:
            for _ in range(MOST_TRIES):
                # What was written too late.
                self.withdraw(*claims)
                async with self._turn.taken(self._read) as section:
                    if section is None:
                        why = "other triggerers decide at the same moment"
                        continue
                    # Who is late already must not write what it read long ago.
                    if section.is_in_time:
                        claims = admit()
                        self.keep(claims)
                        if self.is_unsettled:
                            await self._write()
                        if not claims or section.is_in_time:
                            return
                    took = f"it took Airflow {section.seconds:.1f} s to read the turn and write the claims"
                    why = f"{took}, which must not take more than {LONGEST_SECTION:g} s"
            raise NotDecidedError(why)
        except BaseException:
            # Nobody is told that they open.
            self.withdraw(*claims)
            raise

    async def settle(self) -> None:
        """
        Write down how this process's claims have ended, once they have, while no gate waits here.

        Whoever comes next, or to another process, would have to take what ended long ago for what ended just now.
        """
        if not any(map(_is_awaited, self._mine())) and self.is_unsettled:
            with contextlib.suppress(NotDecidedError):
                await self.decide(tuple)
            # It is worth one try. What is written is read again before anything opens.
            self._written = {each.id: each.phase for each in self._mine()}

    async def _read(self) -> None:
        text = await self._store.get(self._key) or ""
        if text != self._text:
            found = await _aside(len(text), record.loads, text, clock.now(), clock.wall())
            for each in found:
                if each.id not in self._void:
                    known = self._claims.setdefault(each.id, each)
                    if each.is_closed and not known.is_closed:
                        # Its gate waits again in another process, which alone can tell what that means.
                        known.close(each.phase, clock.now())
            self._note_written({each.id: each.phase for each in found})
            self._text = text
        self._read_at, self._trouble = clock.now(), ""

    async def _write(self) -> None:
        now = clock.now()
        kept = [each for each in self._claims.values() if each.gate and not each.is_forgotten(now)]
        written = {each.id: each.phase for each in kept}
        text = await _aside(len(self._text), json.dumps, record.to_json(kept))
        # Until the answer nobody knows what is written.
        self._text = "?"
        await self._store.set(self._key, text, self._description)
        self._text = text
        self._note_written(written)

    def _note_written(self, written: dict[str, Phase]) -> None:
        self._written, now = written, clock.now()
        # What others have taken back is gone. What is mine counts, whatever became of it there.
        self._claims = {
            id_: each
            for id_, each in self._claims.items()
            if id_ in written or (id_.startswith(self._name) and not each.is_forgotten(now))
        }

    # What people are told

    def notes(self) -> list[Note]:
        """Return what a reader of a gate's log should know."""
        now = clock.now()
        stalled: dict[tuple[str, str, Phase], list[Claim]] = {}
        for each in self._claims.values():
            if each.is_unended and each.row.hint and each.scope(now) < Scope.EVERYBODY:
                stalled.setdefault((*each.gate.task, each.phase), []).append(each)
        said = {str(kind): _stalled(each) for kind, each in stalled.items()}
        said["variables"] = self._trouble
        if self._store.is_given_up:
            said["given up"] = (
                "Airflow's Variables cannot be used: gates go by what this triggerer alone has let through, so "
                "that several triggerers may submit more than the condition allows"
            )
        if trouble := self._follower.trouble:
            so = "gates stay as shut as they were, and claims of which nothing is heard expire"
            said["follower"] = f"Airflow does not say what became of submissions ({trouble}): {so}"
        return [Note(text, key=about) for about, text in said.items() if text]


def _is_awaited(claim: Claim) -> bool:
    """Tell whether the end of a submission would be news to everybody."""
    return claim.is_unended and claim.scope(clock.now()) is Scope.EVERYBODY


def _stalled(claims: list[Claim]) -> str:
    first, more = claims[0], f" (and {len(claims) - 1} more)" if len(claims) > 1 else ""
    task = f"{first.awaited.task} of DAG '{first.awaited.dag_id}', run '{first.awaited.run_id}'"
    return (
        f"the submission {task}{more} does not start (state: {first.state or 'none'}); its claim keeps no gates "
        f"of other tasks shut any longer: {first.row.hint}"
    )


async def _aside(characters: int, function: Callable[..., Any], *given: Any) -> Any:
    """Do it here, or where it is long in a thread."""
    if characters <= LONG_TEXT:
        return function(*given)
    return await asyncio.get_running_loop().run_in_executor(None, function, *given)

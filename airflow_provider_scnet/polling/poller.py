# SPDX-License-Identifier: Apache-2.0
"""One connection and user, polled for all gates that name them; who opens is decided here."""

from __future__ import annotations

import dataclasses
import functools
import math
import random
from typing import TYPE_CHECKING

from airflow_provider_scnet.claims.claim import KEPT_AFTER, Claim
from airflow_provider_scnet.claims.ledger import TOGETHER, Ledger
from airflow_provider_scnet.claims.submission_follower import FOLLOW_EVERY
from airflow_provider_scnet.claims.variable_store import NotDecidedError
from airflow_provider_scnet.client.errors import ScnetError
from airflow_provider_scnet.client.observation import Observation
from airflow_provider_scnet.client.unexpected_error import unexpected
from airflow_provider_scnet.event_loop import clock
from airflow_provider_scnet.event_loop.background import BackgroundTask
from airflow_provider_scnet.event_loop.time_slice import TimeSlice
from airflow_provider_scnet.gate.decision import Verdict
from airflow_provider_scnet.polling.admission import Admission
from airflow_provider_scnet.polling.metrics import Whom
from airflow_provider_scnet.polling.waiting import SHORTEST_INTERVAL, Place, Watcher

if TYPE_CHECKING:
    from airflow_provider_scnet.polling.accounts import Accounts

#: Seconds after which a gate that has just arrived no longer trusts a failure that would fail it: somebody may
#: have mended the account, and cleared the gate.
MENDED_AFTER = 5.0
#: Seconds for which jobs are not listed after they could not be: gates do without.
UNLISTED_FOR = 300.0

# Seconds by which an observation is surely made after the end of a claim, however the sum is rounded.
_PAST = 0.001
# How many intervals are lately.
_LATELY = 3


class Poller:
    """
    One connection and user, polled for every gate of this event loop that names them.

    A background task polls when the last observation has grown too old for one of the gates, lets all decide on
    what it saw, the urgent first, then in the order of their arrival, and wakes those whose wait has ended. It
    outlives any single gate and ends with the last one. Gates that reach the same account by another name share
    its requests and its claims, but have an order of their own.

    :param accounts: who makes the requests, and holds what all pollers share
    :param scnet_conn_id: the connection's id
    :param user_name: the cluster user as the gates name it; None: the connection's own
    """

    def __init__(self, accounts: Accounts, scnet_conn_id: str, user_name: str | None) -> None:
        self._accounts = accounts
        self._name = (scnet_conn_id, user_name)
        self._waiting: dict[Place | Watcher, None] = {}
        self._newcomers: set[Place | Watcher] = set()
        self._polling = BackgroundTask(self._act, unexpected)
        self._ledger: Ledger | None = None
        self._last: Observation | None = None
        # The queues in which claims alone keep gates shut, and when the end of claims last brought a poll forward.
        self._shut_by_claims: set[str | None] = set()
        self._brought_forward_at = -math.inf
        # From when on jobs are listed.
        self._lists_from = -math.inf
        # By which share of the interval the next poll comes later, so that no triggerer is always first.
        self._shift = 0.0
        #: The account that it is about, as far as that was known at any poll.
        self.account: tuple[str, ...] | None = None

    @property
    def gates(self) -> int:
        """How many gates wait."""
        return sum(not place.gate.has_ended for place in self._places())

    @property
    def queues(self) -> set[str]:
        """The queues that somebody asks about."""
        return {each.queue_name for each in self._waiting if each.queue_name is not None}

    def add(self, who: Place | Watcher) -> None:
        """Let a gate wait behind all that are here already, or somebody watch."""
        self._waiting[who] = None
        self._newcomers.add(who)
        self._polling.start()

    def remove(self, who: Place | Watcher) -> None:
        """Let a gate, or a watcher, wait here no longer; it may have left already."""
        self._waiting.pop(who, None)
        self._newcomers.discard(who)
        if not self._waiting:
            self._polling.wake()

    def _places(self) -> list[Place]:
        return [each for each in self._waiting if isinstance(each, Place)]

    # When it polls

    async def _act(self) -> float | None:
        """Do what is due, and return when something is next; None where nothing is, before somebody comes."""
        if self._poll_due() <= clock.now():
            await self._poll()
        elif self._ledger and self._ledger.follow_due <= clock.now():
            await self._ledger.follow(self._last.at if self._last else clock.now())
        if not self._waiting:
            self._report()
            if self._ledger:
                await self._ledger.settle()
        if not (self._waiting or (self._ledger and self._ledger.is_unsettled)):
            return None
        follow_due = self._ledger.follow_due if self._ledger else math.inf
        return min(self._poll_due(), follow_due, clock.now() + KEPT_AFTER)

    def _poll_due(self) -> float:
        if not self._waiting:
            return math.inf
        # For a gate that has just arrived the connection is read at once; whether it comes to a request is another
        # matter.
        return self._last.at + self._interval() if self._last and not self._newcomers else -math.inf

    def _interval(self, is_early: bool = True) -> float:
        """Return the seconds after which the last observation is too old: perhaps early, for claims that end."""
        least = max(min((each.interval for each in self._waiting), default=0.0), SHORTEST_INTERVAL)
        interval = least * (1.0 + self._shift)
        if self._last is None or self._last.pause or not (is_early and self._shut_by_claims and self._ledger):
            return max(interval, self._last.pause if self._last else 0.0)
        # Where claims alone keep gates shut, there is nothing new to see before they end.
        end = self._ledger.next_end(self._last.at, self._shut_by_claims)
        if end < self._brought_forward_at + least:
            return interval
        # Who let more through than others leaves them a chance.
        end += _PAST + max(0.0, 4 * self._shift) * TOGETHER
        return min(interval, max(end - self._last.at, FOLLOW_EVERY))

    # What it does

    async def _poll(self) -> None:
        """Poll, and let all decide; whatever fails is told to them."""
        interval, newcomers = self._interval(), bool(self._newcomers)
        is_early = not newcomers and interval < self._interval(is_early=False)
        try:
            # No gate decides on what may be older, by the end of its turn, than claims are known that have ended.
            age = min(interval, KEPT_AFTER / 2)
            if newcomers and self._last and self._last.fails_gates:
                age = min(age, MENDED_AFTER)
            is_shut = self._shut_by_claims and clock.now() >= self._lists_from
            with_list = bool(is_shut and self._ledger and self._ledger.knows_jobs)
            seen = await self._accounts.observe(*self._name, age, self.queues, with_list)
            if how := self._polling.take_failure():
                note = f"the task that polls for all gates of this connection {how}, and was started again"
                seen = dataclasses.replace(seen, notes=(*seen.notes, note))
            seen, admission = await self._admit(seen)
        except Exception as error:  # it must not end the waiting of everybody
            if not isinstance(error, ScnetError):
                error = ScnetError(f"{unexpected(error)} while polling SCnet")
            seen = Observation(error=error)
            self._accounts.metrics.polled(Whom(*self._name), seen)
            admission = Admission(self._in_order(seen), seen)
        # Who comes between two polls decides on the last observation, on which others have decided.
        is_same = self._last is not None and self._last.at == seen.at
        self._shut_by_claims = admission.shut_by_claims | (self._shut_by_claims if is_same else set())
        self._last, self.account = seen, seen.account or self.account
        if is_early:
            self._brought_forward_at = seen.at
        if isinstance(seen.listed, ScnetError):
            self._lists_from = seen.at + max(UNLISTED_FOR, seen.listed.retry_after or 0.0)
        lead = self._ledger.lead(_LATELY * self._interval(is_early=False)) if self._ledger else 0.0
        self._shift = 0.25 * lead * random.uniform(0.5, 1.0)  # noqa: S311
        shown = [each for each in self._waiting if isinstance(each, Watcher) and seen.has(each.queue_name)]
        # Who came meanwhile has its turn right after.
        self._newcomers.difference_update(admission.places, shown)
        for watcher in shown:
            watcher.show(seen)
        self._report(await self._tell(admission))

    def _report(self, opened: int = 0) -> None:
        if self.account and self._last:
            self._accounts.report_gates(self._name[0], self.account, self._last.at, opened)

    def _in_order(self, seen: Observation) -> list[Place]:
        """Return the gates that have not decided on an observation, in their order."""
        places = (each for each in self._places() if each.seen_at != seen.at and seen.has(each.queue_name))
        return sorted(places, key=lambda place: place.gate.order)

    async def _admit(self, seen: Observation) -> tuple[Observation, Admission]:
        """Let the gates decide, in this process's turn where others have to know of it."""
        places = self._places()
        if seen.account is None or not places:
            return seen, Admission(self._in_order(seen), seen)
        ledger, kept_room = self._accounts.shared(seen.account)
        self._ledger = ledger
        # Gates that Airflow does not know, as in dag.test(), share nothing with other processes.
        waiting = {place.gate.id: place.gate.since for place in places if place.gate.id}
        if waiting:
            await ledger.refresh(seen.at, waiting)
        seen = dataclasses.replace(seen, notes=(*seen.notes, *ledger.notes(), *kept_room.notes()))
        places = self._in_order(seen)
        admission = Admission(places, seen, ledger, kept_room)

        def decide_anew(hold: str = "") -> list[Claim]:
            nonlocal admission
            admission = Admission(places, seen, ledger, kept_room, hold)
            return admission.claims

        if ledger.has_to_write or any(claim.gate for claim in admission.claims):
            try:
                await ledger.decide(decide_anew)
            except NotDecidedError as why:
                ledger.keep(decide_anew(hold=str(why)))
        else:
            ledger.keep(admission.claims)
        kept_room.learn(admission.short, admission.opened, [place.gate for place in places])
        return seen, admission

    async def _tell(self, admission: Admission) -> int:
        """Let all say what is new, and end what has opened or failed, with breaks; return how many have opened."""
        time_slice, opened, ledger = TimeSlice(), 0, self._ledger
        for place, seen, decision, claimed, claim in admission.decisions:
            place.seen_at = seen.at
            is_news = place.evaluator.say(seen, decision)
            if decision.verdict is Verdict.OPEN:
                withdraw = functools.partial(ledger.withdraw, claim) if ledger and claim else None
                opened += place.gate.open(place.conn_id, seen, decision, claimed, withdraw)
                self.remove(place)
            elif is_news and place.gate.decided(place.conn_id, decision):
                self.remove(place)
            await time_slice.share(work=is_news)
        return opened

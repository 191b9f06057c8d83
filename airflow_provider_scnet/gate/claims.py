# SPDX-License-Identifier: Apache-2.0
"""The jobs of gates that passed, until the cluster counts them."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Hashable, Iterator

from airflow_provider_scnet.gate import clock

#: How many awaited submissions a message names.
_MOST_NAMED = 2


@dataclasses.dataclass(frozen=True)
class Claimed:
    """
    What gates that passed have claimed, as it weighs on one look; prints itself as a message has it.

    :param jobs: jobs to be counted on top of what the cluster reported
    :param awaited: the first of the submissions that have not ended, for people
    :param unended: how many submissions have not ended
    :param ended: how many have, whose jobs the cluster may not count yet
    :param end: when the last of the claims has expired, by :mod:`.clock`, in seconds; infinite where that
        depends on a submission
    """

    jobs: int = 0
    awaited: tuple[str, ...] = ()
    unended: int = 0
    ended: int = 0
    end: float = 0.0

    def plus(self, claim: Claim) -> Claimed:
        """
        Return what is claimed with one more.

        :param claim: the claim
        """
        awaited = self.awaited
        if claim.awaited and len(awaited) < _MOST_NAMED:
            awaited = (*awaited, claim.awaited)
        return Claimed(
            jobs=self.jobs + claim.jobs,
            awaited=awaited,
            unended=self.unended + bool(claim.awaited),
            ended=self.ended + claim.has_ended,
            end=max(self.end, math.inf if claim.holds else claim.expires),
        )

    @property
    def seconds_left(self) -> float | None:
        """Seconds until all have expired; None where nobody can tell."""
        return None if self.end == math.inf else max(0.0, self.end - clock.now())

    def __str__(self) -> str:
        """Say how many jobs, and which submissions are awaited."""
        parts = []
        if self.unended:
            more = self.unended - len(self.awaited)
            names = f"{', '.join(self.awaited)} and {more} more" if more else " and ".join(self.awaited)
            parts.append(f"{names} {'has' if self.unended == 1 else 'have'} not ended")
        if self.ended:
            parts.append(f"{self.ended} ended, perhaps not counted yet")
        return f"+{self.jobs} claimed: {'; '.join(parts)}" if parts else f"+{self.jobs} claimed"


#: Nothing is claimed.
NOTHING = Claimed()


@dataclasses.dataclass
class Claim:
    """
    The jobs of one gate that passed.

    :param jobs: how many jobs will be submitted
    :param expires: it weighs on every look that was made before, by :mod:`.clock`
    :param holds: whether it does not expire by itself, as long as Airflow answers
    :param awaited: the submission that has not ended, for people; empty where none is known
    :param has_ended: whether its submission has ended
    """

    jobs: int
    expires: float
    holds: bool = False
    awaited: str = ""
    has_ended: bool = False


class Claims:
    """
    The claims on one account, whichever gates made them. They live in this process's memory only.

    What weighs on the latest look is kept as sums, so that it costs no more with a thousand claims than with one.
    """

    def __init__(self) -> None:
        self._claims: dict[Hashable, Claim] = {}
        self._oldest_look = 0.0
        # Of those claims that weigh on a look made at this moment: the earliest end (or one before it), the sums,
        # and what they come to, once somebody asked.
        self._at = -math.inf
        self._earliest = math.inf
        self._jobs = self._holding = self._ended = 0
        self._awaited: dict[Hashable, str] = {}
        self._claimed: Claimed | None = NOTHING
        # What weighs on an older look, for as long as no claim changes.
        self._older: tuple[float, Claimed] | None = None

    def put(self, name: Hashable, claim: Claim) -> None:
        """
        Add a claim, or put it in the place of an earlier one.

        :param name: whose claim it is
        :param claim: the claim
        """
        if claim.expires <= self._oldest_look:
            self.drop(name)
            return
        before = self._claims.get(name)
        if before == claim:
            return
        self._older = None
        if name not in self._awaited:
            # They are named in the order in which they began to be awaited.
            self._claims.pop(name, None)
        self._claims[name] = claim
        self._replace(name, before, claim)

    def drop(self, name: Hashable) -> None:
        """
        Take a claim away at once.

        :param name: whose claim it is
        """
        if before := self._claims.pop(name, None):
            self._older = None
            self._replace(name, before, None)

    def weigh(self, at: float) -> Claimed:
        """
        Return what is to be counted on top of a look; the same object for as long as it is the same.

        :param at: when the look was made, by :mod:`.clock`
        """
        if at < self._at:
            # An older look, through another connection, that is still good for somebody.
            if self._older is None or self._older[0] != at:
                weighing = (each for each in self._claims.values() if _weighs(each, at))
                self._older = (at, functools.reduce(Claimed.plus, weighing, NOTHING))
            return self._older[1]
        if at >= self._earliest:
            for name, claim in self._claims.items():
                if claim.expires <= at:
                    self._replace(name, claim, None)
            self._earliest = min(
                (each.expires for each in self._claims.values() if each.expires > at), default=math.inf
            )
        self._at = at
        if self._claimed is None:
            self._claimed = Claimed(
                jobs=self._jobs,
                awaited=tuple(itertools.islice(self._awaited.values(), _MOST_NAMED)),
                unended=len(self._awaited),
                ended=self._ended,
                end=math.inf if self._holding else max((each.expires for each in self._weighing()), default=0.0),
            )
        return self._claimed

    def forget(self, before: float) -> None:
        """
        Drop what no look can weigh any more.

        :param before: when the oldest look that is still kept was made
        """
        self._oldest_look = max(self._oldest_look, before)
        for name in [name for name, claim in self._claims.items() if claim.expires <= before]:
            self.drop(name)

    def __bool__(self) -> bool:
        """Tell whether there are any."""
        return bool(self._claims)

    def _weighing(self) -> Iterator[Claim]:
        return (each for each in self._claims.values() if _weighs(each, self._at))

    def _replace(self, name: Hashable, before: Claim | None, after: Claim | None) -> None:
        """Take a claim out of the sums, or put it in, or another in its place."""
        before = before if before and _weighs(before, self._at) else None
        after = after if after and _weighs(after, self._at) else None
        if before is None and after is None:
            return
        for claim, sign in ((before, -1), (after, 1)):
            if claim:
                self._jobs += sign * claim.jobs
                self._holding += sign * claim.holds
                self._ended += sign * claim.has_ended
        if after and after.awaited:
            self._awaited[name] = after.awaited
        else:
            self._awaited.pop(name, None)
        if after:
            self._earliest = min(self._earliest, after.expires)
        if not (before and after and before.holds and dataclasses.replace(before, expires=after.expires) == after):
            self._claimed = None


def _weighs(claim: Claim, at: float) -> bool:
    return claim.jobs > 0 and claim.expires > at

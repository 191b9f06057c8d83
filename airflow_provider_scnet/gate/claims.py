# SPDX-License-Identifier: Apache-2.0
"""The jobs of gates that passed, until the cluster counts them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Hashable

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
    """The claims on one account, whichever gates made them. They live in this process's memory only."""

    def __init__(self) -> None:
        self._claims: dict[Hashable, Claim] = {}
        # What was weighed last: with hundreds of gates on one look, only the first one weighs every claim.
        self._weighed: tuple[float, Claimed] | None = None
        self._oldest_look = 0.0

    def put(self, name: Hashable, claim: Claim) -> None:
        """
        Add a claim, or put it in the place of an earlier one.

        :param name: whose claim it is
        :param claim: the claim
        """
        if claim.expires <= self._oldest_look:
            self.drop(name)
            return
        if self._weighed and name not in self._claims and claim.jobs and claim.expires > self._weighed[0]:
            self._weighed = (self._weighed[0], self._weighed[1].plus(claim))
        elif self._claims.get(name) != claim:
            self._weighed = None
        self._claims[name] = claim

    def drop(self, name: Hashable) -> None:
        """
        Take a claim away at once.

        :param name: whose claim it is
        """
        if self._claims.pop(name, None):
            self._weighed = None

    def weigh(self, at: float) -> Claimed:
        """
        Return what is to be counted on top of a look.

        :param at: when the look was made, by :mod:`.clock`
        """
        if self._weighed is None or self._weighed[0] != at:
            claimed = NOTHING
            for claim in self._claims.values():
                if claim.jobs and claim.expires > at:
                    claimed = claimed.plus(claim)
            self._weighed = (at, claimed)
        return self._weighed[1]

    def forget(self, before: float) -> None:
        """
        Drop what no look can weigh any more.

        :param before: when the oldest look that is still kept was made
        """
        self._oldest_look = max(self._oldest_look, before)
        self._claims = {name: claim for name, claim in self._claims.items() if claim.expires > before}

    def __bool__(self) -> bool:
        """Tell whether there are any."""
        return bool(self._claims)

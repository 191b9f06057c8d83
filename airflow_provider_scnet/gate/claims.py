# SPDX-License-Identifier: Apache-2.0
"""The jobs of gates that passed, until the cluster counts them."""

from __future__ import annotations

import time

#: Seconds after which what nobody watches is forgotten.
FORGET_AFTER = 3600.0


class Claims:
    """
    The jobs that gates which passed are about to submit, for one account.

    A claim counts on every look that was made before it expired. It expires by time alone and is never renewed:
    by then the cluster's own count has taken its place. It lives in this process's memory only.
    """

    def __init__(self) -> None:
        self._claims: list[tuple[float, int]] = []

    def add(self, jobs: int, ttl: float) -> None:
        """
        Claim room.

        :param jobs: how many jobs will be submitted
        :param ttl: seconds from now for which they are counted on top of what the cluster reports
        """
        now = time.monotonic()
        self._claims = [claim for claim in self._claims if claim[0] > now - FORGET_AFTER]
        if jobs > 0:
            self._claims.append((now + ttl, jobs))

    def live(self, at: float) -> int:
        """
        Return the jobs to be counted on top of a look.

        :param at: when the look was made, by :func:`time.monotonic`
        """
        return sum(jobs for expires, jobs in self._claims if expires > at)

    def end(self) -> float:
        """Return the seconds until the last claim has expired."""
        return max(0.0, max((expires for expires, _ in self._claims), default=0.0) - time.monotonic())

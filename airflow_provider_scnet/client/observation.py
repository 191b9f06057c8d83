# SPDX-License-Identifier: Apache-2.0
"""What one poll of the cluster saw."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timezone
from typing import TYPE_CHECKING

from airflow_provider_scnet.client.errors import ErrorKind, ScnetError
from airflow_provider_scnet.client.job_counts import JobCounts
from airflow_provider_scnet.client.token_payload import local
from airflow_provider_scnet.event_loop import clock

if TYPE_CHECKING:
    from airflow_provider_scnet.client.job_lists import JobList


@dataclasses.dataclass(frozen=True)
class Observation:
    """
    What one poll saw: counts, or an error.

    :param counts: what the cluster reported, or None
    :param error: why there are no counts, or None
    :param queues: the counts of single queues, or why there are none, as far as somebody asked for them
    :param listed: the list of the jobs, or why there is no whole one; None: nobody asked
    :param account: the resolved (endpoint, user) it was about, and in the view of one queue that queue; None where
        it came to no request
    :param where: the connection and user it was about, for people
    :param doubt: why the counts, though well-formed, prove nothing; empty where they do
    :param notes: what a reader of the log should know once
    :param token_ends: when a token ends that only a person can renew; None where it does not say, or renews itself
    :param counted_after: seconds after which the cluster's counts include a submitted job
    :param condition: what has to hold for every gate of the connection; empty: nothing
    :param whole: in the view of one queue, the counts of all of them together
    :param observed_at: when, by the wall clock
    :param at: when the poll began, by :func:`.clock.now`, in seconds
    """

    counts: JobCounts | None = None
    error: ScnetError | None = None
    queues: Mapping[str, JobCounts | ScnetError] = dataclasses.field(default_factory=dict)
    listed: JobList | ScnetError | None = None
    account: tuple[str, ...] | None = None
    where: str = ""
    doubt: str = ""
    notes: tuple[str, ...] = ()
    token_ends: datetime | None = None
    counted_after: float = 0.0
    condition: str = ""
    whole: JobCounts | None = None
    observed_at: datetime = dataclasses.field(default_factory=lambda: datetime.now(timezone.utc))
    at: float = dataclasses.field(default_factory=clock.now)
    # Thousands of gates may ask for the same one.
    _views: dict[str, Observation] = dataclasses.field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for error in (*self._errors, *([self.listed] if isinstance(self.listed, ScnetError) else [])):
            # An observation is kept for all gates that wait. Its error must not keep frames, which hold the token.
            error.with_traceback(None).__context__ = None

    def has(self, queue: str | None) -> bool:
        """
        Tell whether it says something of a queue: an error says something of each.

        :param queue: the queue; None: all of them together
        """
        return queue is None or self.error is not None or queue in self.queues

    def error_about(self, states: Iterable[str]) -> ScnetError | None:
        """
        Return why it does not tell how many jobs are in some states; None where it does.

        :param states: their names, or ``total``
        """
        if self.error:
            return self.error
        try:
            (self.counts or JobCounts()).require(states)
        except ScnetError as error:
            error.where = self.where
            return error.with_traceback(None)
        return None

    def of(self, queue: str | None) -> Observation:
        """
        Return what was seen of one queue.

        :param queue: a queue that it says something of; None: all of them together
        """
        if queue is None:
            return self
        if queue not in self._views:
            self._views[queue] = self._view(queue)
        return self._views[queue]

    def _view(self, queue: str) -> Observation:
        account = (*self.account, queue) if self.account else None
        if self.error:
            return dataclasses.replace(self, account=account)
        seen = self.queues[queue]
        if isinstance(seen, ScnetError):
            return dataclasses.replace(self, account=account, counts=None, error=seen)
        return dataclasses.replace(self, account=account, counts=seen, whole=self.counts)

    @property
    def jobs(self) -> JobList | None:
        """The list of the jobs; None where there is none."""
        return None if isinstance(self.listed, ScnetError) else self.listed

    @functools.cached_property
    def by_list(self) -> Observation | None:
        """The same with counts as the list of the jobs has them; None where there is no list."""
        counts = None if self.jobs is None else self.jobs.counts(self.queue_name)
        if self.jobs is None or counts is None:
            return None
        whole = None if self.queue_name is None else self.jobs.counts(None)
        return dataclasses.replace(self, counts=counts, whole=whole)

    @property
    def user_name(self) -> str | None:
        """The cluster user whose jobs were counted."""
        return self.account[1] if self.account else None

    @property
    def pause(self) -> float:
        """Seconds for which the server asked not to be polled."""
        return max((error.retry_after or 0.0 for error in self._errors), default=0.0)

    @property
    def _errors(self) -> Iterator[ScnetError]:
        found = (self.error, *self.queues.values())
        return (each for each in found if isinstance(each, ScnetError))

    @property
    def queue_name(self) -> str | None:
        """The queue whose jobs were counted; None: all of them together."""
        return self.account[2] if self.account and len(self.account) > 2 else None

    def ends_within(self, seconds: float) -> tuple[str, ...]:
        """
        Return what to say where the token ends too soon for a gate that waits; nothing where it does not.

        :param seconds: how long the gate may wait
        """
        if self.token_ends is None or (self.token_ends - self.observed_at).total_seconds() >= seconds:
            return ()
        return (
            f"{self.where}: the token ends {local(self.token_ends)}, before this gate's timeout: "
            "paste a fresh one until then, or let access keys obtain it",
        )

    @property
    def fails_gates(self) -> bool:
        """Whether a gate fails if this is the first thing it sees."""
        return any(error.kind is not ErrorKind.TRANSIENT for error in self._errors)

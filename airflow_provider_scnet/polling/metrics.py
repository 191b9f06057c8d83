# SPDX-License-Identifier: Apache-2.0
"""What one triggerer tells of its accounts in figures, for people who watch them."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Collection
from typing import Protocol

from airflow_provider_scnet.client.job_counts import STATES
from airflow_provider_scnet.client.observation import Observation

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Whom:
    """
    Whom figures are about.

    :param scnet_conn_id: the connection's id
    :param user_name: the cluster user; None where it came to no account
    :param queue_name: the queue; None: all of them together
    """

    scnet_conn_id: str
    user_name: str | None
    queue_name: str | None = None


class Sink(Protocol):
    """Where figures go."""

    def gauge(self, name: str, whom: Whom, value: int) -> None:
        """Send what is so many by now."""

    def count(self, name: str, whom: Whom, number: int) -> None:
        """Send how often something has happened since it was sent last."""

    def duration(self, name: str, whom: Whom, seconds: float) -> None:
        """Send how long something took."""


class Metrics:
    """
    The metrics of one event loop. A sink that fails disturbs nobody; it is logged once.

    :param sink: where they go; None: nowhere
    """

    def __init__(self, sink: Sink | None = None) -> None:
        self._sink = sink
        self._has_failed = False

    def polled(
        self,
        whom: Whom,
        observation: Observation,
        seconds: float | None = None,
        queues: Collection[str] = (),
    ) -> None:
        """
        Tell what an observation saw.

        :param whom: whom it was about
        :param observation: the observation
        :param seconds: how long it took; None where it came to no request
        :param queues: the queues that somebody asks about
        """

        def send(sink: Sink) -> None:
            if seconds is not None:
                sink.duration("poll.duration", whom, seconds)
            for queue in (None, *(queues if observation.queues else ())):
                seen, of_queue = observation.of(queue), dataclasses.replace(whom, queue_name=queue)
                if seen.error:
                    sink.count(f"poll.failed.{seen.error.kind.name.lower()}", of_queue, 1)
                # What proves nothing to a gate must not look like an empty cluster either.
                if seen.counts and not seen.doubt:
                    for state in STATES:
                        if (number := getattr(seen.counts, state)) is not None:
                            sink.gauge(f"jobs.{state}", of_queue, number)

        self._send(send)

    def gates_decided(self, whom: Whom, waiting: int, passed: int, claimed: int) -> None:
        """
        Tell what the gates made of an observation.

        :param whom: whom it was about
        :param waiting: how many wait on
        :param passed: how many have passed since this was told last
        :param claimed: jobs that are counted on top of what the cluster reports
        """

        def send(sink: Sink) -> None:
            sink.gauge("gates.waiting", whom, waiting)
            sink.gauge("jobs.claimed", whom, claimed)
            if passed:
                sink.count("gates.passed", whom, passed)

        self._send(send)

    def _send(self, send: Callable[[Sink], None]) -> None:
        if self._sink is None:
            return
        try:
            send(self._sink)
        except Exception as error:
            if not self._has_failed:
                self._has_failed = True
                log.warning("figures get lost (%s: %s); gates go on", type(error).__name__, str(error)[:200])

# SPDX-License-Identifier: Apache-2.0
"""Who waits on this event loop: gates, each with a place at every cluster that it waits on, and watchers."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import math
import weakref
from collections.abc import Callable, Sequence
from typing import Any

from airflow_provider_scnet.claims.claim_terms import GateId, SubmissionTasks, Terms
from airflow_provider_scnet.client.observation import Observation
from airflow_provider_scnet.event_loop import clock
from airflow_provider_scnet.gate.clusters import SET_ASIDE, Clusters
from airflow_provider_scnet.gate.decision import Decision, Verdict, record
from airflow_provider_scnet.gate.evaluator import GateEvaluator
from airflow_provider_scnet.gate.gate import Gate
from airflow_provider_scnet.gate.reporter import Log

#: Seconds between two polls at the least, whatever interval is asked for.
SHORTEST_INTERVAL = 0.1
#: Seconds for which a gate that has just arrived asks no cluster that stands in its list behind one that has not
#: answered yet.
FIRST_ANSWER = 15.0

_arrivals = itertools.count()
# Thousands of gates may ask the same: what is decided for one object is decided for all.
_asked: weakref.WeakValueDictionary[Gate, Gate] = weakref.WeakValueDictionary()


class WaitingGate:
    """
    A gate that waits, on one cluster or on several of which one opens it.

    :param asks: what its author asked
    :param log: the gate's log
    :param conn_ids: the connections of its clusters, in the order of its author
    :param id: the gate as Airflow knows it; None where it does not, as in ``dag.test()``
    :param ttl: its ``claim_ttl``, in seconds
    :param tasks: the tasks that submit, and those before them
    :param priority: the weight that its author gave; the higher is first among the gates of this event loop
    :param waited: seconds for which it had waited before this event loop knew of it
    """

    def __init__(
        self,
        asks: Gate,
        log: Log,
        conn_ids: Sequence[str],
        *,
        id: GateId | None = None,
        ttl: float = 180.0,
        tasks: SubmissionTasks | None = None,
        priority: int = 1,
        waited: float = 0.0,
    ) -> None:
        self.asks = _asked.setdefault(asks, asks)
        self.id = id
        #: Its place among those that wait here: the urgent first, then who came first.
        self.order = (-priority, next(_arrivals))
        #: Since when it waits here, and when Airflow deferred it, by the wall clock.
        self.since = clock.wall(), clock.wall() - waited
        #: The cluster that is about to open it.
        self.opens_on: str | None = None
        self._terms = Terms(asks.submits, ttl, queue_name=asks.queue_name, tasks=tasks or SubmissionTasks())
        self._log = log
        self._clusters = Clusters(conn_ids)
        self._answered: dict[str, asyncio.Future[None]] = {conn_id: asyncio.Future() for conn_id in conn_ids}
        self._in_any_order_from = clock.now() + FIRST_ANSWER
        # What becomes of it, and what it leaves where it opens; None where its time is up.
        self._end: asyncio.Future[tuple[Decision, dict[str, Any]] | None] = asyncio.Future()
        self._withdraw: Callable[[], None] | None = None

    def terms(self, counted_after: float) -> Terms:
        """Return what it claims where the cluster counts a submitted job after so many seconds."""
        return dataclasses.replace(self._terms, counted_after=counted_after)

    def claims_from(self, queue_name: str | None) -> bool:
        """Tell whether it takes room that gates of a queue want; None stands for all queues together."""
        return self._terms.claims_from(queue_name)

    def reason_to_wait(self, conn_id: str) -> str:
        """Say why it must not open on a cluster although its condition holds there; empty where it may."""
        return f"{self.opens_on} is about to open it" if self.opens_on not in (None, conn_id) else ""

    def decided(self, conn_id: str, decision: Decision) -> bool:
        """Note what was decided on a cluster; return whether it waits for that no longer."""
        if not self._answered[conn_id].done():
            self._answered[conn_id].set_result(None)
        outcome = self._clusters.outcome(conn_id, decision)
        if outcome.verdict is not Verdict.WAIT:
            self.end((outcome, {}))
        elif decision.verdict is Verdict.FAIL:
            self._log.warning(SET_ASIDE, conn_id)
        return decision.verdict is Verdict.FAIL or self.has_ended

    def open(
        self,
        conn_id: str,
        seen: Observation,
        decision: Decision,
        claimed: int,
        withdraw: Callable[[], None] | None,
    ) -> bool:
        """
        Open it, unless it waits no longer; return whether it opens.

        :param conn_id: the cluster's connection
        :param seen: what it opens on
        :param decision: what was decided on that
        :param claimed: jobs of other gates that were counted on top
        :param withdraw: takes its own claim back, if it has one
        """
        if self.has_ended:
            if withdraw:
                withdraw()
            return False
        self._withdraw = withdraw
        left = {**record(self.asks.condition, seen, scnet_conn_id=conn_id), "claimed": claimed}
        self.end((self._clusters.outcome(conn_id, decision), left))
        return True

    def withdraw(self) -> None:
        """End the wait, and take its claim back if it has opened: Airflow was not told, and will not be."""
        self.end(None)
        if self._withdraw:
            self._withdraw()

    @property
    def has_ended(self) -> bool:
        """Whether it waits no longer."""
        return self._end.done()

    def end(self, outcome: tuple[Decision, dict[str, Any]] | None) -> None:
        """End the wait, if it has not ended: with a decision and what the gate leaves; None: its time is up."""
        if not self.has_ended:
            self._end.set_result(outcome)

    async def first_answer(self, conn_id: str) -> None:
        """Wait until a cluster has answered for the first time, if that does not take too long, or for the end."""
        left = max(0.0, self._in_any_order_from - clock.now())
        either: list[asyncio.Future[Any]] = [self._answered[conn_id], self._end]
        await asyncio.wait(either, timeout=left, return_when=asyncio.FIRST_COMPLETED)

    async def outcome(self) -> tuple[Decision, dict[str, Any]] | None:
        """Wait for the end: what becomes of the gate and what it leaves, or None where its time is up."""
        return await self._end


@dataclasses.dataclass(eq=False)
class Place:
    """
    The place of a gate among those that share a poll.

    :param gate: the gate
    :param conn_id: the connection's id
    :param interval: seconds after which an observation is too old for it
    :param evaluator: decides on what is seen through this connection
    :param seen_at: when the observation was made on which it decided last, by the event loop's clock
    """

    gate: WaitingGate
    conn_id: str
    interval: float
    evaluator: GateEvaluator
    seen_at: float = -math.inf

    def __post_init__(self) -> None:
        self.queue_name = self.gate.asks.queue_name


class Watcher:
    """
    Somebody who sees each observation, and claims nothing.

    :param interval: seconds after which an observation is too old for it
    :param queue_name: the queue that it asks about; None: all of them together
    """

    def __init__(self, interval: float, queue_name: str | None = None) -> None:
        self.interval = interval
        self.queue_name = queue_name
        self._unseen: asyncio.Queue[Observation] = asyncio.Queue()
        self._shown_at = -math.inf

    async def next_observation(self) -> Observation:
        """Wait for an observation that it has not seen; of several the last."""
        seen = await self._unseen.get()
        while not self._unseen.empty():
            seen = self._unseen.get_nowait()
        return seen

    def show(self, observation: Observation) -> None:
        """Show it an observation, which says something of its queue."""
        if observation.at > self._shown_at:
            self._shown_at = observation.at
            self._unseen.put_nowait(observation.of(self.queue_name))

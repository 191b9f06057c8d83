# SPDX-License-Identifier: Apache-2.0
"""The gates that wait on one event loop, as Airflow knows them."""

from __future__ import annotations

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Iterable, Iterator

from airflow_provider_scnet.claims.submission import Account, GateId, SubmissionTasks, Terms
from airflow_provider_scnet.event_loop import clock


@dataclasses.dataclass(eq=False)
class WaitingGate:
    """
    A gate that waits on this event loop, and what it will claim.

    One that waits on several clusters is one for each of them, and claims from the one that it opens on.

    :param gate: the gate; None where Airflow does not know it, as in ``dag.test()``
    :param jobs: how many jobs its submission submits
    :param ttl: seconds; the ``claim_ttl``
    :param tasks: the tasks that submit, and those before them
    :param asks: what its author asked; gates of a task that ask the same compete for the same room
    :param waited: seconds for which it had waited before this event loop knew of it
    :param priority: its priority weight; the higher is first among the gates of this event loop
    :param account: the account that it asks about, once that is known
    :param counted_after: seconds after which the cluster's counts include a submitted job
    :param since: when it began to wait here, by the event loop's clock
    """

    gate: GateId | None
    jobs: int
    ttl: float
    tasks: SubmissionTasks = dataclasses.field(default_factory=SubmissionTasks)
    asks: Hashable = None
    waited: float = 0.0
    priority: int = 0
    account: Account | None = None
    counted_after: float = 0.0
    since: float = dataclasses.field(default_factory=clock.now)

    @property
    def claims_by_airflow(self) -> bool:
        """Whether it will claim jobs, and Airflow shows what becomes of them."""
        return bool(self.jobs and self.gate and self.tasks.submit)

    def comes_before(self, other: WaitingGate) -> bool:
        """
        Tell whether it is shown an observation before another: the urgent first, then who came first.

        :param other: the other
        """
        return (-self.priority, self.since) < (-other.priority, other.since)

    def terms(self) -> Terms:
        """Return what it claims when it opens."""
        accounts = frozenset([self.account] if self.account else [])
        return Terms(self.jobs, self.ttl, self.counted_after, self.tasks, accounts)


class DagGates:
    """
    The gates of one DAG that wait and will claim something.

    :param gates: the gates
    """

    def __init__(self, gates: Iterable[WaitingGate]) -> None:
        #: Their tasks, by run.
        self.runs: dict[str, set[str]] = {}
        #: Their map indexes, by run and task.
        self.here: defaultdict[tuple[str, str], set[int]] = defaultdict(set)
        #: What a gate's task claims, by its id: the largest that any of its instances does, from all its accounts.
        self.terms: dict[str, Terms] = {}
        #: The longest time that one of them had waited before this event loop knew of it, in seconds.
        self.waited = 0.0
        for each in gates:
            if not each.jobs or each.gate is None:
                continue
            run_id, task_id = each.gate.run_id, each.gate.task_id
            self.runs.setdefault(run_id, set()).add(task_id)
            # A gate of several connections waits for each of them.
            self.here[run_id, task_id].add(each.gate.map_index)
            self.waited = max(self.waited, each.waited)
            if each.account:
                terms = each.terms()
                self.terms[each.gate.task_id] = self.terms.get(each.gate.task_id, terms).covering(terms)


class WaitingGates:
    """Which gates wait. What is known of a DAG's gates is gathered again only when one of them changes."""

    def __init__(self) -> None:
        self._by_dag: dict[str, dict[WaitingGate, None]] = {}
        self._gathered: dict[str, DagGates] = {}
        # A gate that was cleared may wait again before it has ceased to wait.
        self._ids: Counter[GateId] = Counter()

    def add(self, waiting: WaitingGate) -> None:
        """
        Note that a gate begins to wait.

        :param waiting: the gate
        """
        if waiting.gate:
            self._by_dag.setdefault(waiting.gate.dag_id, {})[waiting] = None
            self._ids[waiting.gate] += 1
            self._gathered.pop(waiting.gate.dag_id, None)

    def remove(self, waiting: WaitingGate) -> None:
        """
        Note that a gate has ceased to wait.

        :param waiting: the gate
        """
        if gate := waiting.gate:
            del self._by_dag[gate.dag_id][waiting]
            if not self._by_dag[gate.dag_id]:
                del self._by_dag[gate.dag_id]
            self._ids[gate] -= 1
            if not self._ids[gate]:
                del self._ids[gate]
            self._gathered.pop(gate.dag_id, None)

    def ask_about(self, waiting: WaitingGate, account: Account, counted_after: float) -> None:
        """
        Note which account a gate asks about.

        :param waiting: the gate
        :param account: the account
        :param counted_after: seconds after which the cluster's counts include a submitted job
        """
        if waiting.account != account or waiting.counted_after != counted_after:
            waiting.account, waiting.counted_after = account, counted_after
            if waiting.gate:
                self._gathered.pop(waiting.gate.dag_id, None)

    def of(self, dag_id: str) -> DagGates:
        """
        Return the gates of a DAG that wait.

        :param dag_id: the DAG
        """
        if dag_id not in self._gathered:
            if dag_id not in self._by_dag:
                return DagGates(())
            self._gathered[dag_id] = DagGates(self._by_dag[dag_id])
        return self._gathered[dag_id]

    def competing_with(self, waiting: WaitingGate) -> Iterator[WaitingGate]:
        """
        Yield the gates of a gate's task that ask the same, itself among them.

        :param waiting: the gate
        """
        if waiting.gate is None:
            return
        for each in self._by_dag.get(waiting.gate.dag_id, ()):
            if (
                each.gate is not None
                and each.gate.task_id == waiting.gate.task_id
                and each.account == waiting.account
                and each.asks == waiting.asks
            ):
                yield each

    @property
    def dags(self) -> Collection[str]:
        """The DAGs of which a gate waits."""
        return self._by_dag.keys()

    def __contains__(self, gate: GateId) -> bool:
        """Tell whether a gate waits."""
        return gate in self._ids

    def __bool__(self) -> bool:
        """Tell whether any gate waits that Airflow knows."""
        return bool(self._by_dag)

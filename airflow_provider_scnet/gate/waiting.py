# SPDX-License-Identifier: Apache-2.0
"""The gates that wait on one event loop, as Airflow knows them."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping

from airflow_provider_scnet.gate import clock
from airflow_provider_scnet.gate.submission import ALL_INSTANCES, Account, GateId, Places, Submission


@dataclasses.dataclass(eq=False)
class Waiting:
    """
    A gate that waits on this event loop, and what it will claim.

    :param gate: which one
    :param jobs: how many jobs the work behind it will submit
    :param ttl: seconds for which a claim holds at most once its submission runs
    :param submitted_by: ids of the tasks that submit; for each whether it is the instance with the gate's own map
        index rather than all of them
    :param asks: what its author asked; of gates of a task that ask the same, the first are the first to pass
    :param account: the account that it asks about, once it is known
    :param counted_after: seconds after which the cluster's counts include a submitted job
    :param since: when it began to wait, by :mod:`.clock`
    """

    gate: GateId
    jobs: int
    ttl: float
    submitted_by: Mapping[str, bool]
    asks: Hashable = None
    account: Account | None = None
    counted_after: float = 0.0
    since: float = dataclasses.field(default_factory=clock.now)


class Census:
    """
    What there is to know of the gates of one DAG that wait.

    :param waiting: the gates
    """

    def __init__(self, waiting: Iterable[Waiting]) -> None:
        #: Those that will claim something: their tasks, and the tasks behind them.
        self.tasks: set[str] = set()
        #: The same gates' tasks alone, by run.
        self.gates: dict[str, set[str]] = {}
        #: How many gates of a run and task wait here.
        self.here: Counter[tuple[str, str]] = Counter()
        #: What a gate's task claims, by its id: the largest that any of its instances does.
        self.terms: dict[str, Submission] = {}
        #: The accounts that they ask about.
        self.accounts: set[Account] = set()
        self._by_run: dict[str, list[Waiting]] = {}
        self._places: dict[str, Places] = {}
        for each in waiting:
            self._by_run.setdefault(each.gate.run_id, []).append(each)
            if each.jobs:
                self.tasks.update((each.gate.task_id, *each.submitted_by))
                self.gates.setdefault(each.gate.run_id, set()).add(each.gate.task_id)
                self.here[each.gate.run_id, each.gate.task_id] += 1
                if each.account:
                    self.accounts.add(each.account)
                    self._add_terms(each, each.account)

    def __contains__(self, run_id: str) -> bool:
        """Tell whether any gate of a run waits."""
        return run_id in self._by_run

    def places(self, run_id: str) -> Places:
        """
        Return the submissions that the gates of a run stand before, and the accounts that those ask about.

        :param run_id: the run
        """
        if run_id not in self._places:
            found: dict[tuple[str, Account], set[int]] = {}
            for each in self._by_run.get(run_id, ()):
                if each.account and each.jobs:
                    for task_id, is_own in each.submitted_by.items():
                        indexes = found.setdefault((task_id, each.account), set())
                        indexes.add(each.gate.map_index if is_own else ALL_INSTANCES)
            self._places[run_id] = found
        return self._places[run_id]

    def _add_terms(self, each: Waiting, account: Account) -> None:
        terms = self.terms.get(each.gate.task_id)
        if terms is None:
            terms = self.terms[each.gate.task_id] = Submission(
                gate=each.gate,
                jobs=0,
                ttl=0.0,
                counted_after=0.0,
                submitted_by=each.submitted_by,
                accounts=frozenset(),
                since=0.0,
                is_ours=False,
            )
        terms.jobs = max(terms.jobs, each.jobs)
        terms.ttl = max(terms.ttl, each.ttl)
        terms.counted_after = max(terms.counted_after, each.counted_after)
        terms.accounts |= {account}


class WaitingGates:
    """Which gates wait. What there is to know of a DAG's gates is gathered anew only when one of them changes."""

    def __init__(self) -> None:
        self._by_dag: dict[str, dict[Waiting, None]] = {}
        self._censuses: dict[str, Census] = {}
        # A gate that was cleared may wait anew before it has ceased to wait.
        self._ids: Counter[GateId] = Counter()

    def add(self, waiting: Waiting) -> None:
        """
        Note that a gate begins to wait.

        :param waiting: the gate
        """
        self._by_dag.setdefault(waiting.gate.dag_id, {})[waiting] = None
        self._ids[waiting.gate] += 1
        self._censuses.pop(waiting.gate.dag_id, None)

    def remove(self, waiting: Waiting) -> None:
        """
        Note that a gate has ceased to wait.

        :param waiting: the gate
        """
        gate = waiting.gate
        del self._by_dag[gate.dag_id][waiting]
        if not self._by_dag[gate.dag_id]:
            del self._by_dag[gate.dag_id]
        self._ids[gate] -= 1
        if not self._ids[gate]:
            del self._ids[gate]
        self._censuses.pop(gate.dag_id, None)

    def ask_about(self, waiting: Waiting, account: Account, counted_after: float) -> None:
        """
        Note which account a gate asks about.

        :param waiting: the gate
        :param account: the account
        :param counted_after: seconds after which the cluster's counts include a submitted job
        """
        if waiting.account != account or waiting.counted_after != counted_after:
            waiting.account, waiting.counted_after = account, counted_after
            self._censuses.pop(waiting.gate.dag_id, None)

    def census(self, dag_id: str) -> Census:
        """
        Return what there is to know of the gates of a DAG.

        :param dag_id: the DAG
        """
        if dag_id not in self._by_dag:
            return Census(())
        if dag_id not in self._censuses:
            self._censuses[dag_id] = Census(self._by_dag[dag_id])
        return self._censuses[dag_id]

    def that_compete_with(self, waiting: Waiting) -> Iterator[Waiting]:
        """
        Yield the gates of a gate's task that ask the same, itself among them.

        :param waiting: the gate
        """
        for each in self._by_dag.get(waiting.gate.dag_id, ()):
            if (
                each.gate.task_id == waiting.gate.task_id
                and each.account == waiting.account
                and each.asks == waiting.asks
            ):
                yield each

    @property
    def dags(self) -> Collection[str]:
        """The DAGs that they belong to."""
        return self._by_dag.keys()

    def __contains__(self, gate: GateId) -> bool:
        """Tell whether a gate waits."""
        return gate in self._ids

    def __bool__(self) -> bool:
        """Tell whether any gate waits."""
        return bool(self._by_dag)

# SPDX-License-Identifier: Apache-2.0
"""The second part of ``make demo``: jobs that go to whichever of two clusters has room, which fill in turn."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping

from airflow_provider_scnet.testing import ScnetSimulator
from airflow_provider_scnet.testing.cluster import Job
from demo.engine import Engine, EngineError

DAG = "scnet_any_cluster"
GATE = "gated_submission.wait_for_room"
QUEUE = "comp"
GATES = 8
#: "queued < 2" in the DAG: a gate opens where one is queued, so that two are.
MOST_QUEUED = 2
SLOTS = 1
#: Seconds that a job runs: longer than it takes until both clusters are full.
RUN_FOR = 8


@contextlib.contextmanager
def two_clusters(user: str, counted_after: float) -> Iterator[dict[str, ScnetSimulator]]:
    """
    Start two clusters.

    :param user: who has an account on both
    :param counted_after: seconds until a cluster counts a job
    """
    with contextlib.ExitStack() as stack:
        clusters = {
            name: stack.enter_context(ScnetSimulator(slots=SLOTS, run_for=RUN_FOR, counted_after=counted_after))
            for name in ("west", "east")
        }
        for each in clusters.values():
            each.add_user(user)
        yield clusters


class ClustersDemo:
    """
    What is shown while the gates of two clusters open.

    :param engine: the Airflow
    :param clusters: the clusters, by the names of their connections without ``scnet_``
    :param user: whose jobs they are
    :param say: prints a line
    """

    def __init__(
        self, engine: Engine, clusters: Mapping[str, ScnetSimulator], user: str, say: Callable[[str], None]
    ) -> None:
        self.engine = engine
        self.clusters = clusters
        self.user = user
        self.say = say
        self._line = ""

    def run(self) -> None:
        """Let the DAG run, and tell what happens."""
        self.say(f"{GATES} submissions go to whichever of two clusters has room")
        self.engine.trigger_dag(DAG, {"inputs": GATES})
        self.engine.wait_until(self._has_ended, 120, "the submissions to two clusters")

    def _has_ended(self) -> bool:
        states = self.engine.task_states(DAG)
        if failed := [f"{task}[{index}]" for (task, index), state in states.items() if state == "failed"]:
            raise EngineError(f"{', '.join(failed)} failed:\n{self.engine.log_of(DAG, GATE, 0)}")
        opened = sum(state == "success" for (task, index), state in states.items() if task == GATE and index >= 0)
        counts = {name: each.counts(self.user) for name, each in self.clusters.items()}
        line = f"opened {opened}" + "".join(
            f" | {name}: running {each['running']}, queued {each['queued']}" for name, each in counts.items()
        )
        if line != self._line:
            self._line = line
            self.say(line)
        return self.engine.run_state(DAG) in ("success", "failed")

    def summary(self) -> list[str]:
        """Print what came out, and return what is wrong with it."""
        jobs = {name: each.jobs(self.user) for name, each in self.clusters.items()}
        went = " and ".join(f"{len(found)} to {name}" for name, found in jobs.items())
        highest = {name: most_queued(found) for name, found in jobs.items()}
        print(
            f"{went}; at most {' and '.join(map(str, highest.values()))} queued, {MOST_QUEUED} are allowed",
            flush=True,
        )
        wrong = [
            f"{most} jobs were in the queue of {name}" for name, most in highest.items() if most > MOST_QUEUED
        ]
        wrong += [f"no job went to {name}" for name, found in jobs.items() if not found]
        if sum(map(len, jobs.values())) != GATES:
            wrong.append(f"{went} are not {GATES}")
        if self.engine.run_state(DAG) != "success":
            wrong.append(f"the DAG run is {self.engine.run_state(DAG)}")
        return wrong


def most_queued(jobs: list[Job]) -> int:
    """
    Return how many jobs were in the queue at most; it is longest when one has just come in.

    :param jobs: all jobs
    """
    return max(
        (
            sum(job.submitted_at <= at and (job.started_at is None or at < job.started_at) for job in jobs)
            for at in [job.submitted_at for job in jobs]
        ),
        default=0,
    )

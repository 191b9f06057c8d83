# SPDX-License-Identifier: Apache-2.0
"""What a gate claims when it opens, and which tasks submit behind it; in Airflow's terms."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

#: The states of a run's task instances, by task id and map index (-1 where the task is not mapped).
Instances = Mapping[str, Mapping[int, "str | None"]]


#: The XCom in which a task that submits leaves the id of its job.
JOB_ID_KEY = "job_id"


@dataclasses.dataclass(frozen=True)
class GateId:
    """
    A gate's task instance.

    :param dag_id: the DAG
    :param run_id: the DAG run
    :param task_id: the gate's task
    :param map_index: its map index; -1 where the task is not mapped
    """

    dag_id: str
    run_id: str
    task_id: str
    map_index: int = -1

    def __bool__(self) -> bool:
        """Tell whether Airflow knows it."""
        return bool(self.dag_id)

    @property
    def task(self) -> tuple[str, str]:
        """The DAG and the task."""
        return self.dag_id, self.task_id

    def __str__(self) -> str:
        index = f"[{self.map_index}]" if self.map_index >= 0 else ""
        return f"{self.task_id}{index} (DAG '{self.dag_id}', run '{self.run_id}')"


#: A gate that Airflow does not know, as in ``dag.test()``. It is false.
UNKNOWN_GATE = GateId("", "", "")


@dataclasses.dataclass(frozen=True)
class SubmissionTasks:
    """
    The tasks of a DAG that matter to a gate's submission.

    :param submit: the tasks that submit, by id; for each whether it is the instance with the gate's own map index
        rather than all of them
    :param upstream: the tasks right before these, likewise
    :param gates: ids of the gates that stand before these, directly or not
    :param after_past_runs: whether they wait for those of the run before, by ``depends_on_past``
    :param tell_job_id: ids of those that leave the id of their job as an XCom once they have submitted
    """

    submit: Mapping[str, bool] = dataclasses.field(default_factory=dict)
    upstream: Mapping[str, bool] = dataclasses.field(default_factory=dict)
    gates: tuple[str, ...] = ()
    after_past_runs: bool = False
    tell_job_id: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Terms:
    """
    What a gate claims when it opens.

    :param jobs: how many jobs its submission submits
    :param ttl: the gate's ``claim_ttl``, in seconds
    :param counted_after: seconds after which the cluster's counts include a submitted job
    :param queue_name: the queue from which the jobs are claimed; None: from all of the account together
    :param tasks: the tasks that submit, and those before them
    """

    jobs: int
    ttl: float
    counted_after: float = 0.0
    queue_name: str | None = None
    tasks: SubmissionTasks = SubmissionTasks()

    def __hash__(self) -> int:
        return hash((self.jobs, self.ttl, self.queue_name))

    def claims_from(self, queue_name: str | None) -> bool:
        """
        Tell whether gates that ask about a queue (None: about all together) count the jobs.

        Those of a single queue also count jobs of which the queue is not known; over-counting is safe.
        """
        return queue_name is None or self.queue_name in (None, queue_name)

# SPDX-License-Identifier: Apache-2.0
"""The simulator's counts of jobs: by state, and by queue and state."""

from __future__ import annotations

from airflow_provider_scnet.testing.access import Access
from airflow_provider_scnet.testing.cluster import STATES, Cluster
from airflow_provider_scnet.testing.server import Answer, Call

JOB_STATE_PATH = "/hpc/openapi/v2/view/jobs/state"
QUEUE_COUNTS_PATH = "/hpc/openapi/v2/view/queue/jobs"

#: The names of the states in the answer, in the documented order, which is that of ``STATES``.
REPORTED_NAMES = dict(zip(STATES, ("运行", "排队", "保留", "挂起", "其他"), strict=True))
METRICS = dict(zip(STATES, "RQHSO", strict=True))


class Counts:
    """
    What the cluster reports of a user's jobs.

    :param access: who may see whose
    :param cluster: the jobs
    """

    def __init__(self, access: Access, cluster: Cluster) -> None:
        self._access = access
        self._cluster = cluster

    def answer_by_state(self, call: Call) -> Answer:
        """Count by state, as ``GET /hpc/openapi/v2/view/jobs/state`` does."""
        user = self._access.owner(call, call.query.get("userName"))
        counts = self._cluster.reported(user) if user else dict.fromkeys(STATES, 0)
        data = [{"name": name, "y": counts[state]} for state, name in REPORTED_NAMES.items()]
        return Answer.envelope("0", "success", data)

    def answer_by_queue(self, call: Call) -> Answer:
        """Count by queue, as ``GET /hpc/openapi/v2/view/queue/jobs`` does; null where no queue has a job."""
        user = self._access.owner(call, call.query.get("userName"))
        queues = self._cluster.reported_by_queue(user) if user else {}
        data = [
            {
                "name": name,
                "values": [{"metricName": METRICS[state], "metricValue": counts[state]} for state in STATES],
            }
            for name, counts in queues.items()
        ]
        return Answer.envelope("0", "success", data or None)

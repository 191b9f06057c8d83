# SPDX-License-Identifier: Apache-2.0
"""The simulator's scheduler: its id, the queues that a user may use, and the user's limits."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import unquote

from airflow_provider_scnet.testing.access import Access, RefusedError, required
from airflow_provider_scnet.testing.cluster import Cluster
from airflow_provider_scnet.testing.server import Answer, Call

SCHEDULER_PATH = "/hpc/openapi/v2/cluster"
#: The user's name follows.
QUEUE_NAMES_PATH = "/hpc/openapi/v2/queuenames/users/"
LIMITS_PATH = "/hpc/openapi/v2/userquotas/userlimit"

SCHEDULER_ID = "1637646236"
UNLIMITED = "-1"


def check_scheduler(values: Mapping[str, object], name: str) -> None:
    """
    Refuse a call that does not name the scheduler.

    :param values: its parameters
    :param name: the one that has to be the scheduler's id
    """
    if required(values, name) != [SCHEDULER_ID]:
        raise RefusedError("10004", f"参数无效: {name}")


class Scheduler:
    """
    What a user learns of the scheduler.

    :param access: who may see whose
    :param cluster: its queues and users
    """

    def __init__(self, access: Access, cluster: Cluster) -> None:
        self._access = access
        self._cluster = cluster

    def answer_id(self, call: Call) -> Answer:
        """Name the region's only scheduler, as ``GET /hpc/openapi/v2/cluster`` does."""
        self._access.holder(call)
        data = [{"id": int(SCHEDULER_ID), "text": "模拟调度器", "JobManagerType": "SLURM"}]
        return Answer.envelope("0", "success", data)

    def answer_queue_names(self, call: Call) -> Answer:
        """Name the queues a user may use, as ``GET /hpc/openapi/v2/queuenames/users/{user}`` does."""
        user = self._access.owner(call, unquote(call.path.removeprefix(QUEUE_NAMES_PATH)))
        check_scheduler(call.query, "strJobManagerID")
        data = [
            {
                "queueName": name,
                "queueEnabled": enabled,
                # One job needs one node with one processor here.
                **{number: str(slots) for number in ("queNcpus", "queNodes")},
                **{number: str(free) for number in ("queFreeNcpus", "queFreeNodes")},
                "queMaxWalltime": UNLIMITED,
            }
            for name, (enabled, slots, free) in (self._cluster.queues(user) if user else {}).items()
        ]
        return Answer.envelope("0", "success", data)

    def answer_limits(self, call: Call) -> Answer:
        """Tell the limits of the token's user, as ``GET /hpc/openapi/v2/userquotas/userlimit`` does."""
        most_jobs = self._cluster.most_jobs(self._access.holder(call).name)
        check_scheduler(call.query, "strJobManagerID")
        # Whole numbers, as the limit of processors is documented (Long). What says "no limit" is not known.
        limit = int(UNLIMITED) if most_jobs is None else most_jobs
        return Answer.envelope("0", "success", [{"userMaxSubmitJob": limit, "userMaxRunJob": int(UNLIMITED)}])

# SPDX-License-Identifier: Apache-2.0
"""A cluster whose looks see what a test says, for gates and watchers on a loop of virtual time."""

from __future__ import annotations

import types
from typing import Any

from airflow_provider_scnet.client.errors import ErrorKind, ScnetError
from airflow_provider_scnet.client.job_counts import STATES, JobCounts
from airflow_provider_scnet.client.observation import Observation
from airflow_provider_scnet.event_loop import clock

#: An error that is waited out.
HEALS = ScnetError("no answer", kind=ErrorKind.TRANSIENT)


class Cluster:
    """
    What looks see, one after another; the last again and again.

    :param seen: jobs in the queue, or an error, or other counts, or a whole look
    """

    def __init__(self, *seen: Any) -> None:
        self.seen = list(seen)
        self.looks = 0

    def __call__(self, scnet_conn_id: str) -> Cluster:
        return self

    async def aread_settings(self, user_name: str | None = None) -> Any:
        return types.SimpleNamespace(account=("https://h", user_name or "alice"))

    async def awith_token(self, target: Any) -> Any:
        return target

    async def apoll(self, target: Any, queues: Any = ()) -> Observation:
        seen = self.seen[min(self.looks, len(self.seen) - 1)]
        self.looks += 1
        known: dict[str, Any] = {"account": target.account, "where": "connection 'x'", "at": clock.now()}
        if isinstance(seen, ScnetError):
            return Observation(error=seen, **known)
        if isinstance(seen, int):
            seen = {"counts": JobCounts(**dict.fromkeys(STATES, 0) | {"queued": seen})}
        elif isinstance(seen, JobCounts):
            seen = {"counts": seen}
        return Observation(**seen, **known)

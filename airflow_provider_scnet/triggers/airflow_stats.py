# SPDX-License-Identifier: Apache-2.0
"""Metrics through Airflow's own ``Stats``: StatsD or OpenTelemetry, whatever the deployment has switched on."""

from __future__ import annotations

import functools
import re

from airflow.providers.common.compat.sdk import Stats, conf

from airflow_provider_scnet.polling.metrics import Whom

#: What stands in the place of a user where it came to no account.
UNKNOWN = "unknown"


class AirflowStats:
    """
    Sends metrics as ``scnet.jobs.running``, tagged with ``scnet_conn_id`` and ``user_name``.

    Those of one queue have the tag ``queue_name`` besides.
    Plain StatsD drops tags, and one account would overwrite another; there the names hold both:
    ``scnet.scnet_default.alice.jobs.running``, ``scnet.scnet_default.alice.comp.jobs.running``.
    """

    def gauge(self, name: str, whom: Whom, value: int) -> None:
        """Send what is so many by now."""
        Stats.gauge(_name(name, whom), value, tags=_tags(whom))

    def count(self, name: str, whom: Whom, number: int) -> None:
        """Send how often something has happened since it was sent last."""
        Stats.incr(_name(name, whom), number, tags=_tags(whom))

    def duration(self, name: str, whom: Whom, seconds: float) -> None:
        """Send how long something took."""
        # In milliseconds: so each of Airflow's backends reads a number. A timedelta is seconds to some.
        Stats.timing(_name(name, whom), seconds * 1000, tags=_tags(whom))


def _name(name: str, whom: Whom) -> str:
    if not _tags_are_dropped():
        return f"scnet.{name}"
    parts = (re.sub(r"[^A-Za-z0-9_-]", "_", part) for part in _parts(whom).values())
    return f"scnet.{'.'.join(parts)}.{name}"


def _tags(whom: Whom) -> dict[str, str]:
    # Other characters mean something to the protocols.
    return {name: re.sub(r"[^\w.@+-]", "_", value) for name, value in _parts(whom).items()}


def _parts(whom: Whom) -> dict[str, str]:
    parts = {"scnet_conn_id": whom.scnet_conn_id, "user_name": whom.user_name or UNKNOWN}
    return parts if whom.queue_name is None else {**parts, "queue_name": whom.queue_name}


@functools.cache
def _tags_are_dropped() -> bool:
    """Tell whether Airflow sends metrics by a protocol without tags, in the order in which it chooses one."""

    def is_on(option: str, fallback: bool = False) -> bool:
        return bool(conf.getboolean("metrics", option, fallback=fallback))

    if is_on("statsd_datadog_enabled"):
        return not is_on("statsd_datadog_metrics_tags", fallback=True)
    return is_on("statsd_on") and not is_on("statsd_influxdb_enabled")

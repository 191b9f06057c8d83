# SPDX-License-Identifier: Apache-2.0
"""The simulator's files, as far as SCnet reads them page by page: what jobs wrote, and what a test puts there."""

from __future__ import annotations

import math
from urllib.parse import parse_qs

from airflow_provider_scnet.testing.access import Access, RefusedError, required
from airflow_provider_scnet.testing.cluster import Cluster
from airflow_provider_scnet.testing.server import Answer, Call

FILE_CONTENT_PATH = "/hpc/openapi/v2/file/content"
#: How many lines a page has.
LINES_A_PAGE = 1000


def form_of(call: Call) -> dict[str, str]:
    """Return the fields of a body that is a form; empty where it is something else."""
    if not call.headers.get("content-type", "").startswith("application/x-www-form-urlencoded"):
        return {}
    fields = parse_qs(call.body.decode("utf-8", "replace"), keep_blank_values=True)
    return {name: values[-1] for name, values in fields.items()}


class JobFiles:
    """
    The files of a cluster, by their paths.

    :param access: who may read
    :param cluster: the jobs that write
    """

    def __init__(self, access: Access, cluster: Cluster) -> None:
        self._access = access
        self._cluster = cluster
        self._written: dict[str, str] = {}

    def write(self, path: str, text: str) -> None:
        """Write a file, in place of what was there."""
        self._written[path] = text

    def answer_content(self, call: Call) -> Answer:
        """
        Show a page of a file, as ``POST /hpc/openapi/v2/file/content`` does.

        A file that does not exist reads as an empty one, with code ``0``.
        """
        user = self._access.holder(call).name
        path, page, direction = required(form_of(call), "dirPath", "triggerNum", "rollDirection")
        if not path.startswith("/") or not page.isdecimal() or page == "0" or direction not in ("UP", "DOWN"):
            raise RefusedError("10004", "参数无效: dirPath, triggerNum, rollDirection")
        lines = self._text(user, path).splitlines(keepends=True)
        first = (int(page) - 1) * LINES_A_PAGE
        if direction == "UP":
            shown = lines[max(len(lines) - first - LINES_A_PAGE, 0) : max(len(lines) - first, 0)]
        else:
            shown = lines[first : first + LINES_A_PAGE]
        data = {
            "data": "".join(shown),
            "totalTriggerTimes": math.ceil(len(lines) / LINES_A_PAGE),
            "allLineTotal": len(lines),
        }
        return Answer.envelope("0", "success", data)

    def _text(self, user: str, path: str) -> str:
        if path in self._written:
            return self._written[path]
        for job in reversed(self._cluster.jobs(user)):
            if job.started_at is not None or job.earlier_runs:
                if path == job.stdout:
                    return job.plan.output
                if path == job.stderr:
                    return job.plan.error_output
        return ""

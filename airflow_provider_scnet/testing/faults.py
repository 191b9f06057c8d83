# SPDX-License-Identifier: Apache-2.0
"""What can go wrong with an answer, as a value that a test orders."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

#: The code for a submission that Slurm's sbatch refuses.
REFUSED = "815007"

_FAILED = "Batch job submission failed: "
_POLICY = f"{_FAILED}Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"
#: What Slurm's sbatch says of a job that it does not take. After the first five nobody can be sure that there is
#: no job.
REFUSALS: dict[str, str] = {
    "no answer": f"{_FAILED}Unable to contact slurm controller (connect failure)",
    "time-out": f"{_FAILED}Socket timed out on send/recv operation",
    "no bytes": f"{_FAILED}Zero Bytes were transmitted or received",
    "unavailable": f"{_FAILED}Resource temporarily unavailable",
    "busy": "Slurm temporarily unable to accept job, sleeping and retrying",
    "user's limit": f"AssocMaxSubmitJobLimit\nsbatch: error: {_POLICY}",
    "account's limit": f"AssocGrpSubmitJobsLimit\nsbatch: error: {_POLICY}",
    "user's limit of the QOS": f"QOSMaxSubmitJobPerUserLimit\nsbatch: error: {_POLICY}",
    "limit of the QOS": f"QOSGrpSubmitJobsLimit\nsbatch: error: {_POLICY}",
    "policy": _POLICY,
    "no card asked for": f"QOSMinGRES\nsbatch: error: {_POLICY}",
    "queue": f"{_FAILED}Invalid partition name specified",
    "group": f"{_FAILED}User's group not permitted to use this partition",
    "account": f"{_FAILED}Invalid account or account/partition combination specified",
    "nodes": f"{_FAILED}Requested node configuration is not available",
    "wall time": f"{_FAILED}Requested time limit is invalid (missing or exceeds some limit)",
    "memory": f"{_FAILED}Memory required by task is not available",
    "cards": f"{_FAILED}Invalid generic resource (gres) specification",
}


def refusal_text(sbatch: str) -> str:
    """
    Return what SCnet says of a submission that was refused.

    :param sbatch: what sbatch said
    """
    return f"作业提交失败: {sbatch}"


@dataclass(frozen=True)
class Fault:
    """
    How one answer differs from the ordinary one.

    The request is recorded when it arrives and its answer is made then; what is slow is the way back. So a job
    whose submission gets no answer (``Fault(drop="before")``) is there.
    A fault that sets ``Content-Length`` or ``Transfer-Encoding`` ends the connection after its answer.

    :param status: the HTTP status
    :param body: bytes as they are, text as UTF-8, anything else as JSON; None: the ordinary body
    :param headers: set on top of the ordinary ones
    :param delay: seconds before anything is sent
    :param drip: seconds after each single byte of the body; None: all at once
    :param drip_headers: whether the status line and the headers drip as well
    :param drop: where the connection breaks: ``before`` anything is sent, after the ``headers``, or
        half-way through the ``body``
    :param unheard: whether what the request asks for does not happen, such as a submission; otherwise it
        happens, and only its answer differs
    """

    status: int = 200
    body: object = None
    headers: Mapping[str, str] = field(default_factory=dict)
    delay: float = 0.0
    drip: float | None = None
    drip_headers: bool = False
    drop: Literal["before", "headers", "body"] | None = None
    unheard: bool = False

    @classmethod
    def api(
        cls, code: str | int, msg: str, data: object = None, status: int = 200, *, unheard: bool = False
    ) -> Fault:
        """Answer with an error in SCnet's envelope, which mostly comes with HTTP 200."""
        return cls(status=status, body={"code": code, "msg": msg, "data": data}, unheard=unheard)

    @classmethod
    def lost(cls, *, taken: bool) -> Fault:
        """
        Lose the answer, of a submission or whatever else.

        :param taken: whether what was asked for happens all the same
        """
        return cls(drop="before", unheard=not taken)

    @classmethod
    def refusal(cls, text: str) -> Fault:
        """
        Refuse a submission; no job is taken.

        :param text: one of the names in :data:`REFUSALS`, or what sbatch says
        """
        return cls.api(REFUSED, refusal_text(f"sbatch: error: {REFUSALS.get(text, text)}"), unheard=True)

    @classmethod
    def redirect(cls, location: str, status: int = 302) -> Fault:
        """Send the client elsewhere."""
        return cls(status=status, body=b"", headers={"Location": location})

    @classmethod
    def html(cls, status: int, text: str) -> Fault:
        """Answer with a page, as a gateway or a login portal in between does."""
        return cls(status=status, body=text, headers={"Content-Type": "text/html; charset=utf-8"})

    @classmethod
    def gzip_bomb(cls, size: int) -> Fault:
        """Answer with a small body that unpacks to ``size`` bytes of white space."""
        gzip = zlib.compressobj(9, zlib.DEFLATED, 31)
        chunk = b" " * 2**20
        chunks, rest = divmod(size, len(chunk))
        body = b"".join(gzip.compress(chunk) for _ in range(chunks)) + gzip.compress(chunk[:rest])
        return cls(body=body + gzip.flush(), headers={"Content-Encoding": "gzip"})

    def encoded_body(self) -> bytes | None:
        """Return the body as it is sent; None for the ordinary one."""
        if self.body is None or isinstance(self.body, bytes):
            return self.body
        text = self.body if isinstance(self.body, str) else json.dumps(self.body, ensure_ascii=False)
        return text.encode()

# SPDX-License-Identifier: Apache-2.0
"""What can go wrong with an answer, as a value that a test orders."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


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

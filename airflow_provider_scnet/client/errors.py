# SPDX-License-Identifier: Apache-2.0
"""What can go wrong when one asks SCnet, and what a waiting gate makes of it."""

from __future__ import annotations

import enum
import re


class ErrorKind(enum.IntEnum):
    """
    What an error means for someone who waits; the larger, the worse.

    Where two sources disagree (the HTTP status and SCnet's code), the worse one stands.
    """

    TRANSIENT = 1  #: heals by itself: wait
    UNCLEAR = 2  #: may be a wrong address or a passing fault: fails a first poll, waited out after a good one
    CREDENTIALS = 3  #: the token is not accepted: fails the try
    PERMANENT = 4  #: no waiting will help: fails for good


#: SCnet's business codes: meaning, as documented, and kind for a gate.
#: Source: error table of ``/hpc/openapi/v2/view/jobs/state``; 911xxx as public clients met them.
CODES: dict[str, tuple[str, ErrorKind]] = {
    "10001": ("内部错误, internal error", ErrorKind.TRANSIENT),
    "10003": ("参数不全, parameters missing", ErrorKind.PERMANENT),
    "10004": ("参数无效, parameters invalid", ErrorKind.PERMANENT),
    "10007": ("用户已被冻结, user frozen", ErrorKind.PERMANENT),
    "10008": ("权限不足, insufficient permission", ErrorKind.CREDENTIALS),
    "10009": ("没有权限访问接口, no permission for this interface", ErrorKind.PERMANENT),
    "10010": ("文件校验失败, file check failed", ErrorKind.PERMANENT),
    "10011": ("文件过大, file too large", ErrorKind.PERMANENT),
    "10012": ("连接中断, connection broken", ErrorKind.TRANSIENT),
    "10013": ("操作超时, operation timed out", ErrorKind.TRANSIENT),
    "815005": ("作业提交失败, the scheduler did not answer", ErrorKind.TRANSIENT),
    "815007": ("作业提交失败, sbatch failed", ErrorKind.TRANSIENT),
    "911009": ("区域用户不存在, no such user in this region", ErrorKind.PERMANENT),
    "911404": ("the authentication service cannot be reached", ErrorKind.TRANSIENT),
    "911406": ("the token could not be resolved to a user", ErrorKind.CREDENTIALS),
}

_JWT = re.compile(r"eyJ[\w-]{5,}\.[\w-]+(\.[\w-]*)?")
_SHOWN_CHARACTERS = 200


def redacted(text: object, *secrets: str) -> str:
    """
    Return what a server said in a form that may be logged.

    On one line, cut at 200 characters, without the given secrets and without anything that looks like a JWT.

    :param text: what the server said
    :param secrets: texts that must not appear, e.g. the token of the connection
    """
    line = str(text)
    for secret in filter(None, secrets):
        line = line.replace(secret, "***")
    # Cut before anything that takes longer than the text is long.
    line = _JWT.sub("***", line[: 10 * _SHOWN_CHARACTERS])
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    return line if len(line) <= _SHOWN_CHARACTERS else f"{line[: _SHOWN_CHARACTERS - 1]}…"


class ScnetError(Exception):
    """
    Any failure to learn job counts from SCnet.

    :param message: what happened and what to do about it
    :param kind: what the error means for someone who waits; default: the class's own
    :param retry_after: seconds for which the server asked to be left alone
    """

    kind: ErrorKind = ErrorKind.UNCLEAR

    def __init__(self, message: str, *, kind: ErrorKind | None = None, retry_after: float | None = None):
        super().__init__(message)
        self.message = message
        self.retry_after = retry_after
        #: which connection and user it happened to; filled in by the hook
        self.where = ""
        #: what to do about it, where that depends on the connection; filled in likewise
        self.advice = ""
        if kind is not None:
            self.kind = kind

    def __str__(self) -> str:
        """Say where it happened, what, and what to do about it."""
        text = f"{self.where}: {self.message}" if self.where else self.message
        return f"{text}; {self.advice}" if self.advice else text


class ScnetConnectionError(ScnetError):
    """No answer came: refused, timed out, broken off, or a certificate that does not verify."""

    kind = ErrorKind.TRANSIENT


class ScnetResponseError(ScnetError):
    """An answer came that cannot be read as the documented one."""


class ScnetConfigError(ScnetError):
    """The Airflow connection, or an argument, lacks or contradicts something."""

    kind = ErrorKind.PERMANENT


class ScnetApiError(ScnetError):
    """
    SCnet answered with an error.

    :param code: SCnet's code, e.g. ``10001``, or the HTTP status where there is none
    :param msg: what SCnet said
    """

    def __init__(
        self,
        code: str,
        msg: str,
        *,
        kind: ErrorKind | None = None,
        retry_after: float | None = None,
    ):
        self.code = code
        self.msg = msg
        meaning, known = CODES.get(code, ("", ErrorKind.UNCLEAR))
        text = f"SCnet answered code {code}" + (f" ({meaning})" if meaning else "")
        if msg:
            text += f": {msg}"
        super().__init__(text, kind=kind or known, retry_after=retry_after)
        # What a copy, or another process, makes it of again.
        self.args = code, msg


class ScnetAuthError(ScnetApiError):
    """SCnet does not accept the token."""


def api_error(
    code: str, msg: str, *, kind: ErrorKind | None = None, retry_after: float | None = None
) -> ScnetApiError:
    """
    Return the error that stands for a code: a :class:`ScnetAuthError` where the token is at fault.

    :param code: SCnet's code, or an HTTP status
    :param msg: what SCnet said, already fit to be shown
    :param kind: where it is worse than the code alone would say
    :param retry_after: seconds for which the server asked to be left alone
    """
    kind = kind or CODES.get(code, ("", ErrorKind.UNCLEAR))[1]
    error_class = ScnetAuthError if kind is ErrorKind.CREDENTIALS else ScnetApiError
    return error_class(code, msg, kind=kind, retry_after=retry_after)

# SPDX-License-Identifier: Apache-2.0
"""What an HTTP status and a code of SCnet mean."""

from __future__ import annotations

import enum


class ErrorKind(enum.IntEnum):
    """
    What an error means for a gate that waits; the larger, the worse.

    Where two sources disagree (the HTTP status and SCnet's code), the worse one stands.
    """

    TRANSIENT = 1  #: goes away by itself: wait
    UNCLEAR = (
        2  #: a wrong address or a passing fault: fails a gate's first poll, is waited out after a good answer
    )
    CREDENTIALS = 3  #: the token is not accepted: fails the try
    PERMANENT = 4  #: waiting does not help: fails without a retry


#: SCnet's codes: the documented meaning, and the kind of error.
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


def kind_of_status(status: int) -> ErrorKind:
    """
    Return the kind of error that an HTTP status other than 200 stands for.

    :param status: the HTTP status
    """
    if status in (401, 403):
        return ErrorKind.CREDENTIALS
    if status in (408, 425, 429) or 500 <= status < 600:
        return ErrorKind.TRANSIENT
    if 300 <= status < 400:
        return ErrorKind.PERMANENT
    return ErrorKind.UNCLEAR

# SPDX-License-Identifier: Apache-2.0
"""The errors of requests to SCnet."""

from __future__ import annotations

# Code that catches an error finds its kinds here, too.
from airflow_provider_scnet.client.error_codes import CODES
from airflow_provider_scnet.client.error_codes import ErrorKind as ErrorKind


class ScnetError(Exception):
    """
    Any failure to learn something from SCnet, or to have it done.

    :param message: what happened and what to do about it
    :param kind: what the error means for a gate that waits; default: the class's own
    :param retry_after: seconds for which the server asked to be left alone
    :param where: which connection and user it happened to; often filled in later
    """

    kind: ErrorKind = ErrorKind.UNCLEAR

    def __init__(
        self, message: str, *, kind: ErrorKind | None = None, retry_after: float | None = None, where: str = ""
    ):
        super().__init__(message)
        self.message = message
        self.retry_after = retry_after
        self.where = where
        #: what to do about it, where that depends on the connection
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

    def __init__(self, code: str, msg: str, *, kind: ErrorKind | None = None):
        self.code = code
        self.msg = msg
        meaning, known = CODES.get(code, ("", ErrorKind.UNCLEAR))
        text = f"SCnet answered code {code}" + (f" ({meaning})" if meaning else "")
        if msg:
            text += f": {msg}"
        super().__init__(text, kind=kind or known)
        # A copy, or another process, makes the error again from these.
        self.args = code, msg


class ScnetAuthError(ScnetApiError):
    """SCnet does not accept the token."""


class ScnetSubmissionRefusedError(ScnetApiError):
    """
    It is certain that SCnet, or Slurm, did not take a job.

    :param code: SCnet's code
    :param msg: what SCnet said, with sbatch's own text
    """

    kind = ErrorKind.PERMANENT


class ScnetJobLimitError(ScnetSubmissionRefusedError):
    """It is certain that Slurm did not take a job: the limit of submitted jobs is met. Wait, and try again."""


class ScnetSubmissionUnknownError(ScnetError):
    """
    Nobody knows whether SCnet took a job: no answer came, or one that does not say.

    Ask whether the job is there, by its name, before it is submitted again.
    """

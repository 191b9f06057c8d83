# SPDX-License-Identifier: Apache-2.0
"""SCnet's answers, which share one form: ``{"code": "0", "msg": "success", "data": …}``."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, TypeVar

from airflow_provider_scnet.client.error_codes import CODES, ErrorKind, kind_of_status
from airflow_provider_scnet.client.errors import ScnetApiError, ScnetAuthError, ScnetError, ScnetResponseError
from airflow_provider_scnet.client.redaction import redacted, without

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Answer:
    """
    What came over the wire.

    :param status: the HTTP status
    :param body: the body after decompression
    :param location: where a redirect points
    :param retry_after: seconds for which the server asked to be left alone, 600 at most
    :param date: the server's time
    :param secrets: texts that must not appear in an error, nor in what is read
    """

    status: int
    # A server may put a token into the body or the location.
    body: bytes = dataclasses.field(repr=False)
    location: str = dataclasses.field(default="", repr=False)
    retry_after: float | None = None
    date: datetime | None = None
    secrets: tuple[str, ...] = dataclasses.field(default=(), repr=False)

    def parse(self) -> Any:
        """
        Decode the body's JSON, strictly: UTF-8, one document, no key twice.

        :raises ScnetResponseError: where it is anything else
        """
        if not self.body.strip():
            raise ScnetResponseError("the answer is empty")

        def read_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
            # json takes the last of two equal keys: {"y": 100, "y": 0} must not open a gate.
            if len(dict(pairs)) != len(pairs):
                raise ValueError("a key is given twice")
            return {name: cleaned(value) for name, value in pairs}

        def cleaned(value: Any) -> Any:
            if isinstance(value, list):
                return list(map(cleaned, value))
            return without(value, *self.secrets) if isinstance(value, str) else value

        try:
            return json.loads(self.body.decode("utf-8"), object_pairs_hook=read_object)
        # ValueError: no JSON, no UTF-8, a key twice, or a number of thousands of digits. RecursionError: nesting.
        except (ValueError, RecursionError):
            raise ScnetResponseError("the answer is not the documented JSON") from None


def _code_and_msg(body: Any) -> tuple[str | None, str]:
    """Return ``code`` and ``msg`` in a form that may be logged; None and an empty text where they are missing."""
    fields = body if isinstance(body, Mapping) else {}
    code, msg = fields.get("code"), fields.get("msg")
    # The code is documented as a string; some deployments send an integer.
    has_code = isinstance(code, str | int) and not isinstance(code, bool)
    return redacted(code) if has_code else None, redacted(msg) if isinstance(msg, str) else ""


def data_of(body: Any) -> Any:
    """
    Return the ``data`` of a successful answer.

    :param body: the decoded answer
    :raises ScnetApiError: where SCnet reports an error (:class:`ScnetAuthError` where the token is at fault)
    :raises ScnetResponseError: where the answer is no object or has no code
    """
    if not isinstance(body, Mapping):
        raise ScnetResponseError("the answer is not a JSON object")
    code, msg = _code_and_msg(body)
    if code is None:
        raise ScnetResponseError("the answer has no code: is the address right?")
    if code != "0":
        raise _api_error(code, msg)
    return body.get("data")


def read(answer: Answer, reader: Callable[[Any], T]) -> T:
    """
    Read the ``data`` of an answer; where its status and its body disagree, the worse one stands.

    :param answer: what came over the wire
    :param reader: converts the data
    :raises ScnetApiError: where SCnet reports an error
    :raises ScnetResponseError: where the answer is not the documented one
    """
    try:
        if answer.status != 200:
            raise _refusal(answer)
        return reader(data_of(answer.parse()))
    except ScnetError as error:
        error.retry_after = answer.retry_after
        raise


def _refusal(answer: Answer) -> ScnetError:
    try:
        body = answer.parse()
    except ScnetResponseError:
        body = None
    code, msg = _code_and_msg(body)
    status, kind = f"HTTP {answer.status}", kind_of_status(answer.status)
    # A code that the documentation does not list (gateways repeat the status there) adds nothing to the status.
    if code in CODES and CODES[code][1] >= kind:
        return _api_error(code, f"{msg} ({status})".strip())
    if kind is ErrorKind.CREDENTIALS:
        return _api_error(str(answer.status), msg or status, kind=kind)
    text = f"{status}: {msg}" if msg else status
    if answer.location:
        location = redacted(answer.location, *answer.secrets)
        text += f", a redirect to {location}, which is not followed: correct the address"
    return ScnetResponseError(text, kind=kind)


def _api_error(code: str, msg: str, *, kind: ErrorKind | None = None) -> ScnetApiError:
    """Return the error that a code, or an HTTP status, stands for; the kind may be worse than the code says."""
    error = ScnetApiError(code, msg, kind=kind)
    return ScnetAuthError(code, msg, kind=kind) if error.kind is ErrorKind.CREDENTIALS else error

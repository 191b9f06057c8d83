# SPDX-License-Identifier: Apache-2.0
"""The form that all of SCnet's answers share: ``{"code": "0", "msg": "success", "data": …}``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from airflow_provider_scnet.exceptions import ScnetResponseError, api_error, shown


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # The last of two equal keys would win silently: {"y": 100, "y": 0} must not open a gate.
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is given twice")
    return found


def parse(body: bytes) -> Any:
    """
    Decode an answer's JSON, strictly: UTF-8, one document, no key twice.

    :param body: what came over the wire
    :raises ScnetResponseError: where it is anything else
    """
    if not body.strip():
        raise ScnetResponseError("the answer is empty")
    try:
        return json.loads(body.decode("utf-8"), object_pairs_hook=_no_repeats)
    # ValueError: no JSON, no UTF-8, a key twice, or a number of thousands of digits. RecursionError: nesting.
    except (ValueError, RecursionError):
        raise ScnetResponseError("the answer is not the documented JSON") from None


def code_of(body: Any) -> str | None:
    """
    Return an answer's ``code`` as text, or None where there is none.

    The code is documented as a string; some deployments were seen to send the integer.

    :param body: the decoded answer
    """
    if not isinstance(body, Mapping):
        return None
    code = body.get("code")
    if isinstance(code, str) or (isinstance(code, int) and not isinstance(code, bool)):
        return shown(code)
    return None


def msg_of(body: Any, *secrets: str) -> str:
    """
    Return an answer's ``msg`` in a form that may be logged.

    :param body: the decoded answer
    :param secrets: texts that must not appear in it
    """
    msg = body.get("msg") if isinstance(body, Mapping) else None
    return shown(msg, *secrets) if isinstance(msg, str) else ""


def data_of(body: Any, *secrets: str) -> Any:
    """
    Return the ``data`` of a successful answer.

    :param body: the decoded answer
    :param secrets: texts that must not appear in an error
    :raises ScnetApiError: where SCnet reports an error (:class:`ScnetAuthError` where the token is at fault)
    :raises ScnetResponseError: where the answer is no object or has no code
    """
    if not isinstance(body, Mapping):
        raise ScnetResponseError("the answer is not a JSON object")
    code = code_of(body)
    if code is None:
        raise ScnetResponseError("the answer has no code: is the endpoint in the connection's host right?")
    if code != "0":
        raise api_error(shown(code, *secrets), msg_of(body, *secrets))
    return body.get("data")

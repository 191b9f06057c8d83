# SPDX-License-Identifier: Apache-2.0
"""Errors that nobody expected: what people are told, and where each of them was."""

from __future__ import annotations

import logging
import traceback

from airflow_provider_scnet.client.redaction import redacted

log = logging.getLogger(__name__)

_MOST_PLACES = 3
# By type and place: a mistake shows with every connection.
_logged: set[tuple[type, str]] = set()


def unexpected(error: BaseException, *secrets: str) -> str:
    """
    Name an error that nobody expected: its type, and what it said; and log where it was, once for each place.

    :param error: the error
    :param secrets: texts that must not appear; give all that the failed code knew, because the error may quote it
    """
    said, where = redacted(error, *secrets), _places(error)
    text = f"unexpected {type(error).__name__}" + (f": {said}" if said else "")
    if (type(error), where) not in _logged:
        _logged.add((type(error), where))
        log.warning("%s, at %s", text, where)
    return text


def _places(error: BaseException) -> str:
    # Nothing of what the calls knew: it may be a secret.
    calls = [(frame.f_code, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    return ", called from ".join(
        redacted(f"{code.co_filename}:{line} in {code.co_name}") for code, line in calls[: -_MOST_PLACES - 1 : -1]
    )

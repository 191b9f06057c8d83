# SPDX-License-Identifier: Apache-2.0
"""Texts that may be logged: short, on one line, and without secrets."""

from __future__ import annotations

import re
import traceback
from collections.abc import Sequence

_JWT = re.compile(r"eyJ[\w-]{5,}\.[\w-]+(\.[\w-]*)?")
_MOST_CHARACTERS = 200
_MOST_PLACES = 3


def redacted(text: object, *secrets: str) -> str:
    """
    Return a text in a form that may be logged.

    On one line, cut at 200 characters, without the given secrets and without anything that looks like a JWT.

    :param text: what a server, or a library, said
    :param secrets: texts that must not appear, e.g. the token of the connection
    """
    line = str(text)
    for secret in filter(None, secrets):
        line = line.replace(secret, "***")
    # Cut first: the steps below take time in proportion to the length.
    line = _JWT.sub("***", line[: 10 * _MOST_CHARACTERS])
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    return line if len(line) <= _MOST_CHARACTERS else f"{line[: _MOST_CHARACTERS - 1]}…"


def unexpected(error: BaseException, *secrets: str) -> str:
    """
    Name an error that nobody expected: its type, and what it said.

    :param error: the error
    :param secrets: texts that must not appear; give all that the failed code knew, because the error may quote it
    """
    said = redacted(error, *secrets)
    return f"unexpected {type(error).__name__}" + (f": {said}" if said else "")


def places(error: BaseException) -> str:
    """
    Tell where an error was: file, line and function of its innermost calls, and nothing that these knew.

    :param error: the error
    """
    calls = [(frame.f_code, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    return ", called from ".join(
        redacted(f"{code.co_filename}:{line} in {code.co_name}") for code, line in calls[: -_MOST_PLACES - 1 : -1]
    )


def listed(names: Sequence[object], most: int, total: int | None = None) -> str:
    """
    Return the first names of a list, and how many more there are: ``a, b and 3 more``.

    :param names: the names
    :param most: how many of them to show
    :param total: how many there are in all; default: as many as are given
    """
    more = (len(names) if total is None else total) - most
    return ", ".join(map(str, names[:most])) + (f" and {more} more" if more > 0 else "")

# SPDX-License-Identifier: Apache-2.0
"""Texts that may be logged: short, on one line, and without secrets."""

from __future__ import annotations

import re
from collections.abc import Sequence

_JWT = re.compile(r"eyJ[\w-]{5,}\.[\w-]+(\.[\w-]*)?")
_MOST_CHARACTERS = 200


def without(text: str, *secrets: str) -> str:
    """Return a text with stars in the place of secrets, e.g. the token of the connection."""
    for secret in filter(None, secrets):
        text = text.replace(secret, "***")
    return text


def redacted(text: object, *secrets: str) -> str:
    """
    Return a text in a form that may be logged.

    On one line, cut at 200 characters, without the given secrets and without anything that looks like a JWT.

    :param text: what a server, or a library, said
    :param secrets: texts that must not appear
    """
    # Cut first: the steps below take time in proportion to the length.
    line = _JWT.sub("***", without(str(text), *secrets)[: 10 * _MOST_CHARACTERS])
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    return line if len(line) <= _MOST_CHARACTERS else f"{line[: _MOST_CHARACTERS - 1]}…"


def listed(names: Sequence[object], most: int, total: int | None = None) -> str:
    """
    Return the first names of a list, and how many more there are: ``a, b and 3 more``.

    :param names: the names
    :param most: how many of them to show
    :param total: how many there are in all; default: as many as are given
    """
    more = (len(names) if total is None else total) - most
    return ", ".join(map(str, names[:most])) + (f" and {more} more" if more > 0 else "")

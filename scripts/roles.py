# SPDX-License-Identifier: Apache-2.0
"""For ``make docs``: a docstring's cross-references, such as ``:meth:`look```, as plain code."""

from __future__ import annotations

import re
from typing import Any

import griffe

_ROLE = re.compile(r":\w+:`[~.]?([^`]+)`")


class Roles(griffe.Extension):
    """Turns the roles that Sphinx knows into Markdown."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """
        Rewrite the docstring of an object that has one.

        :param obj: a class, function, attribute or module
        """
        if obj.docstring:
            obj.docstring.value = _ROLE.sub(r"`\1`", obj.docstring.value)

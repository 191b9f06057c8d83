# SPDX-License-Identifier: Apache-2.0
"""A log for gates that are only measured."""

from __future__ import annotations

import logging

#: Where gates say why they wait: a line is made, and goes nowhere. What a handler does with it is not ours.
NOWHERE = logging.getLogger("benchmarks.nowhere")
NOWHERE.addHandler(logging.NullHandler())
NOWHERE.setLevel(logging.INFO)
NOWHERE.propagate = False

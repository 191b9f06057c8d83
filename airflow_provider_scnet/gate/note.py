# SPDX-License-Identifier: Apache-2.0
"""What the reader of a log should know, said once and not at each poll."""

from __future__ import annotations


class Note(str):
    """
    A sentence for the log.

    :param text: the sentence
    :param key: what it is about, where the words vary from poll to poll; default: the sentence itself
    """

    key: str

    def __new__(cls, text: str, key: str = "") -> Note:
        """Make a note."""
        note = super().__new__(cls, text)
        note.key = key or text
        return note

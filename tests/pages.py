# SPDX-License-Identifier: Apache-2.0
"""The READMEs and the pages, as the tests read them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

ROOT = Path(__file__).parent.parent

#: Each page, and the same in the other language.
PAIRS = {
    ROOT / "README.md": ROOT / "README.zh-CN.md",
    **{page: ROOT / "docs" / "zh" / page.name for page in sorted((ROOT / "docs" / "en").glob("*.md"))},
}
PAGES = [*PAIRS, *PAIRS.values()]


@dataclass(frozen=True)
class Block:
    """A block of code, and where it stands."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"

    @property
    def without_comments(self) -> str:
        """Return what is the same in both languages."""
        return re.sub(r"(^|  )#.*$", "", self.text, flags=re.MULTILINE)


def tokens(page: Path) -> list[Token]:
    return MarkdownIt().enable("table").parse(page.read_text(encoding="utf-8"))


def blocks(page: Path) -> list[Block]:
    return [
        Block(page, token.map[0] + 1 if token.map else 0, token.info, token.content)
        for token in tokens(page)
        if token.type == "fence"
    ]


def tables(page: Path) -> list[list[list[str]]]:
    """Return a page's tables: rows of cells as they are written, the heading first."""
    found: list[list[list[str]]] = []
    for token, before in _with_previous(tokens(page)):
        if token.type == "table_open":
            found.append([])
        elif token.type == "tr_open":
            found[-1].append([])
        elif token.type == "inline" and before.type in ("th_open", "td_open"):
            found[-1][-1].append(token.content)
    return found


def headings(page: Path) -> list[tuple[str, str]]:
    """Return the levels and texts of a page's headings."""
    return [
        (before.tag, token.content)
        for token, before in _with_previous(tokens(page))
        if before.type == "heading_open"
    ]


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as hosting sites and ``make docs`` make them."""
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for _, text in headings(page)}


def inline(page: Path, kind: str) -> list[Token]:
    """Return all of one kind that stands within the text, such as links or pieces of code."""
    return [child for token in tokens(page) for child in token.children or () if child.type == kind]


def links(page: Path) -> list[str]:
    """Return where a page's links and pictures lead."""
    return [str(token.attrs["href"]) for token in inline(page, "link_open")] + [
        str(token.attrs["src"]) for token in inline(page, "image")
    ]


def codes(cell: str) -> list[str]:
    """Return the pieces of code in a cell of a table."""
    return re.findall(r"`([^`]+)`", cell)


def _with_previous(found: list[Token]) -> Iterator[tuple[Token, Token]]:
    return zip(found[1:], found, strict=False)

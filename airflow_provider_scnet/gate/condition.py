# SPDX-License-Identifier: Apache-2.0
"""
What the author asked: a condition over the reported states.

The grammar is a small part of Python's: comparisons of sums, differences and products of whole numbers and
states, joined by ``and``, ``or``, ``not``. The text is parsed with :mod:`ast` and walked; nothing is evaluated
by Python itself.
"""

from __future__ import annotations

import ast
import dataclasses
import itertools
import operator
import re
import unicodedata
from collections.abc import Callable, Iterator

from airflow_provider_scnet.client.job_counts import STATES, JobCounts

#: The names a condition may hold.
NAMES = (*STATES, "total")

# What people write who come from a scheduler's own words.
_ALIASES = {
    "pending": "queued",
    "pend": "queued",
    "waiting": "queued",
    "queue": "queued",
    "run": "running",
    "active": "running",
    "hold": "held",
    "hung": "suspended",
    "stopped": "suspended",
    "others": "other",
    "jobs": "total",
    "all": "total",
    "运行": "running",
    "排队": "queued",
    "保留": "held",
    "挂起": "suspended",
    "其他": "other",
}

_LONGEST = 1000
_DEEPEST = 50
_LARGEST = 10**9
# Conditions evaluated, times their length: a fraction of a second.
_MOST_WORK = 500_000

_COMPARISONS: dict[type[ast.cmpop], Callable[[int, int], bool]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_ARITHMETIC: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
}

_FOREIGN = re.compile(r"[^A-Za-z0-9_ ()<>=!+*-]")
_HINTS = {
    "&": "write 'and'",
    "|": "write 'or'",
    ".": "numbers are whole numbers of jobs",
    ",": "write 1000, without a separator",
    "/": "there are only + - *",
    "%": "there are only + - *",
    "#": "comments are not allowed",
    "'": "states are written without quotes",
    '"': "states are written without quotes",
}


class ConditionError(ValueError):
    """
    A text that is no condition.

    :param text: the text
    :param what: what is wrong with it, and what was perhaps meant
    :param place: where, as the number of a character from 1; None for the whole
    """

    def __init__(self, text: str, what: str, place: int | None = None):
        self.text = text
        self.place = place
        quoted = text if len(text) <= 80 else f"{text[:79]}…"
        at = "" if place is None else f", character {place}"
        super().__init__(f"condition {quoted!r}{at}: {what}")


class Condition:
    """
    A condition over the reported states, e.g. ``queued < 5 and running + queued < 20``.

    :param text: the expression
    :raises ConditionError: where it is outside the grammar
    """

    def __init__(self, text: str):
        if not isinstance(text, str):
            raise ConditionError(str(text), f"is no text but {type(text).__name__}")
        self.text = text
        self._root = _parse(text)
        #: the names that it mentions
        self.states: frozenset[str] = frozenset(
            node.id for node in ast.walk(self._root) if isinstance(node, ast.Name)
        )
        if not self.states:
            raise ConditionError(text, f"no state in it; the states are {', '.join(NAMES)}")

    def __repr__(self) -> str:
        return f"Condition({self.text!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Condition) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    def holds(self, counts: JobCounts) -> bool:
        """
        Tell whether it holds.

        :param counts: what the cluster reported
        :raises ScnetResponseError: where a state that it mentions was not reported
        """
        counts.require(self.states)
        return _holds(self._root, counts)

    def unmet(self, counts: JobCounts) -> str:
        """
        Return the clauses that keep it from holding, as text; empty where it holds.

        :param counts: what the cluster reported
        :raises ScnetResponseError: where a state that it mentions was not reported
        """
        counts.require(self.states)
        return " and ".join(ast.unparse(clause) for clause in _unmet(self._root, counts))

    def explain(self, counts: JobCounts) -> str:
        """
        Say in one line whether it holds, or which clause fails, with the numbers in it.

        :param counts: what the cluster reported
        :raises ScnetResponseError: where a state that it mentions was not reported
        """
        counts.require(self.states)
        failing = list(_unmet(self._root, counts))
        if not failing:
            return f"{self.text} holds ({_numbers(self._root, counts)})"
        return "needs " + " and ".join(f"{ast.unparse(clause)} ({_numbers(clause, counts)})" for clause in failing)

    def leaves_room_for(self, jobs: int) -> bool:
        """
        Tell whether a gate with this condition could ever open when it adds jobs of its own.

        False for a condition that holds on an empty cluster and for which no counts are found that let it hold
        with the jobs added: neither zero, nor a number that the condition itself names, nor its neighbours, nor
        very many.

        :param jobs: how many jobs are added before the condition has to hold
        """
        empty = JobCounts(running=0, queued=0, held=0, suspended=0, other=0)
        if jobs <= 0 or self.room_on(empty, jobs) or not _holds(self._root, empty):
            return True
        numbers = [node.value for node in ast.walk(self._root) if isinstance(node, ast.Constant)]
        near = {n + step for n in numbers if isinstance(n, int) for step in (-1, 0, 1)}
        worth = sorted({0, 10 * _LARGEST} | {n for n in near if n >= 0})
        states = STATES if "total" in self.states else [s for s in STATES if s in self.states]
        if len(worth) ** len(states) * len(self.text) > _MOST_WORK:
            return True
        return any(
            self.room_on(dataclasses.replace(empty, **dict(zip(states, case, strict=True))), jobs)  # type: ignore[arg-type]
            for case in itertools.product(worth, repeat=len(states))
        )

    def room_on(self, counts: JobCounts, jobs: int) -> bool:
        """
        Tell whether it holds on the counts, and with jobs added to the queue, and to the running ones.

        So added jobs can only ever close a gate, whatever the condition.

        :param counts: what the cluster reported
        :param jobs: how many jobs to add
        :raises ScnetResponseError: where a state that it mentions was not reported
        """
        counts.require(self.states)
        views = (counts, counts.plus(queued=jobs), counts.plus(running=jobs)) if jobs else (counts,)
        return all(_holds(self._root, view) for view in views)


def _parse(text: str) -> ast.expr:
    if len(text) > _LONGEST:
        raise ConditionError(text, f"longer than {_LONGEST} characters")
    # Line breaks and tabs, as a long string in a DAG file has them, are white space.
    line = re.sub(r"[\t\r\n]", " ", text)
    if not line.strip():
        raise ConditionError(text, "is empty; write e.g. 'queued < 5'")
    _refuse_foreign_characters(text, line)
    start = len(line) - len(line.lstrip())
    try:
        root = ast.parse(line.strip(), mode="eval").body
    except SyntaxError as e:
        # At the end of the text Python names no place.
        place = min((e.offset or len(line)) + start, len(text))
        raise ConditionError(text, _what_was_meant(line, place), place) from None
    except (ValueError, RecursionError, MemoryError):
        raise ConditionError(text, "is nested too deeply") from None
    _Check(text, line.strip(), start).truth(root, 1)
    return root


def _refuse_foreign_characters(text: str, line: str) -> None:
    found = _FOREIGN.search(line)
    if not found:
        return
    place, character = found.start() + 1, found.group()
    word = re.match(r"\w+", line[found.start() :])
    if word and word.group() in _ALIASES:
        raise ConditionError(text, f"did you mean '{_ALIASES[word.group()]}'?", place)
    plain = unicodedata.normalize("NFKC", character)
    if plain != character and plain.isascii() and plain.strip():
        raise ConditionError(text, f"full-width character {character!r}: write {plain!r}", place)
    hint = _HINTS.get(character)
    raise ConditionError(text, f"character {character!r} is not allowed" + (f": {hint}" if hint else ""), place)


def _what_was_meant(line: str, place: int) -> str:
    word = re.match(r"\w+", line[place - 1 :])
    if word and word.group().lower() in ("and", "or", "not") and not word.group().islower():
        return f"write {word.group().lower()!r} in small letters"
    if re.search(r"(?<![<>=!])=(?!=)", line):
        return "to compare, write '=='"
    if re.search(r"!(?!=)", line):
        return "for the opposite, write 'not'"
    if line.count("(") != line.count(")"):
        return "the parentheses do not match"
    return "cannot be read here; write e.g. 'queued < 5 and running + queued < 20'"


class _Check:
    """Walks a parsed text once and refuses what is outside the grammar."""

    def __init__(self, text: str, line: str, start: int):
        self.text = text
        self.line = line
        self.start = start

    def truth(self, node: ast.expr, depth: int) -> None:
        """Check a comparison, or comparisons joined by and, or, not."""
        self._depth(node, depth)
        match node:
            case ast.BoolOp(values=operands):
                for operand in operands:
                    self.truth(operand, depth + 1)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                self.truth(operand, depth + 1)
            case ast.Compare(left=left, ops=ops, comparators=others):
                if not all(type(op) in _COMPARISONS for op in ops):
                    self._refuse(node, "compare with < <= > >= == !=")
                for operand in (left, *others):
                    self.number(operand, depth + 1)
            case _:
                self.number(node, depth + 1)
                self._refuse(node, f"'{ast.unparse(node)}' is no comparison; write e.g. '{ast.unparse(node)} < 5'")

    def number(self, node: ast.expr, depth: int) -> None:
        """Check a sum, difference or product of whole numbers and states."""
        self._depth(node, depth)
        match node:
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
                self.number(left, depth + 1)
                self.number(right, depth + 1)
            case ast.Name(id=name):
                if name not in NAMES:
                    self._refuse(node, _unknown(name))
            case ast.Constant(value=int(value)) if not isinstance(value, bool):
                if not self.line[node.col_offset : node.end_col_offset].isdecimal():
                    self._refuse(node, "write numbers with the digits 0 to 9 alone")
                if value > _LARGEST:
                    self._refuse(node, f"a number above {_LARGEST}")
            case ast.UnaryOp(op=ast.USub()):
                self._refuse(node, "counts are never negative; write a difference, e.g. 'queued - running < 5'")
            case _:
                self._refuse(
                    node, "only whole numbers, states, + - * and comparisons joined by and, or, not are allowed"
                )

    def _depth(self, node: ast.expr, depth: int) -> None:
        if depth > _DEEPEST:
            self._refuse(node, "is nested too deeply")

    def _refuse(self, node: ast.expr, what: str) -> None:
        raise ConditionError(self.text, what, node.col_offset + self.start + 1)


def _unknown(name: str) -> str:
    import difflib  # only for somebody who made a mistake

    meant = _ALIASES.get(name.lower()) or next(iter(difflib.get_close_matches(name.lower(), NAMES, n=1)), None)
    hint = f" (did you mean '{meant}'?)" if meant else ""
    return f"unknown state '{name}'{hint}; the states are {', '.join(NAMES)}"


def _value(node: ast.expr, counts: JobCounts) -> int:
    match node:
        case ast.BinOp(left=left, op=op, right=right):
            return _ARITHMETIC[type(op)](_value(left, counts), _value(right, counts))
        case ast.Name(id=name):
            return int(getattr(counts, name))
        case ast.Constant(value=int(value)):
            return value
    raise AssertionError(ast.dump(node))  # the grammar was checked when the text was parsed


def _holds(node: ast.expr, counts: JobCounts) -> bool:
    return next(_unmet(node, counts), None) is None


def _unmet(node: ast.expr, counts: JobCounts) -> Iterator[ast.expr]:
    """Yield the smallest clauses that keep a truth from holding."""
    match node:
        case ast.BoolOp(op=ast.And(), values=operands):
            for operand in operands:
                yield from _unmet(operand, counts)
        case ast.BoolOp(values=operands):
            if not any(_holds(operand, counts) for operand in operands):
                yield node
        case ast.UnaryOp(operand=operand):
            if _holds(operand, counts):
                yield node
        case ast.Compare(left=left, ops=ops, comparators=others):
            values = [_value(operand, counts) for operand in (left, *others)]
            pairs = itertools.pairwise(values)
            if not all(_COMPARISONS[type(op)](a, b) for op, (a, b) in zip(ops, pairs, strict=True)):
                yield node


def _numbers(node: ast.expr, counts: JobCounts) -> str:
    parts = sorted(
        (part for part in ast.walk(node) if isinstance(part, ast.Name)), key=lambda part: part.col_offset
    )
    names = dict.fromkeys(part.id for part in parts)
    return ", ".join(f"{name} {getattr(counts, name)}" for name in names)

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

from airflow_provider_scnet.client.job_counts import NO_JOBS, REPORTED_NAMES, STATES, JobCounts

#: The names a condition may hold.
NAMES = (*STATES, "total")

# What people write who come from a scheduler's own words, or from SCnet's pages.
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
    **REPORTED_NAMES,
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

# What stands in no condition: another character, half of an operator, a word in capitals.
_FOREIGN = re.compile(r"[^A-Za-z0-9_ ()<>=!+*-]|(?<![<>=!])=(?!=)|!(?!=)|\b(?!and\b|or\b|not\b)(?i:and|or|not)\b")
_HINTS = {
    "&": "write 'and'",
    "|": "write 'or'",
    "!": "for the opposite, write 'not'",
    "=": "to compare, write '=='",
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

    :param text: the text, as a message shows it
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
        # Line breaks and tabs, as a long string in a DAG file has them, are white space.
        self.text = re.sub(r"[ \t\r\n]+", " ", text).strip(" ")
        self._root = self._parse()
        self._check_truth(self._root)
        #: the names that it mentions
        self.states = frozenset(NAMES).intersection(_words(self.text))
        if not self.states:
            raise ConditionError(self.text, f"no state in it; the states are {', '.join(NAMES)}")

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
        return " and ".join(self._failing(counts))

    def explain(self, counts: JobCounts) -> str:
        """
        Say in one line whether it holds, or which clause fails, with the numbers in it.

        :param counts: what the cluster reported
        :raises ScnetResponseError: where a state that it mentions was not reported
        """
        if failing := self._failing(counts):
            return "needs " + " and ".join(f"{clause} ({_numbers(clause, counts)})" for clause in failing)
        return f"{self.text} holds ({_numbers(self.text, counts)})"

    def _failing(self, counts: JobCounts) -> list[str]:
        counts.require(self.states)
        return [ast.unparse(clause) for clause in _unmet(self._root, counts)]

    def leaves_room_for(self, jobs: int) -> bool:
        """
        Tell whether a gate with this condition could ever open when it adds jobs of its own.

        False for a condition that holds on an empty cluster and for which no counts are found that let it hold
        with the jobs added: neither zero, nor a number that the condition itself names, nor its neighbours, nor
        very many.

        :param jobs: how many jobs are added before the condition has to hold
        """
        if self.room_on(NO_JOBS, jobs) or not self.holds(NO_JOBS):
            return True
        near = {max(int(number) + step, 0) for number in re.findall(r"\d+", self.text) for step in (-1, 0, 1)}
        worth = near | {0, 10 * _LARGEST}
        states = [state for state in STATES if state in self.states or "total" in self.states]
        if len(worth) ** len(states) * len(self.text) > _MOST_WORK:
            return True
        return any(
            self.room_on(dataclasses.replace(NO_JOBS, **dict(zip(states, case, strict=True))), jobs)  # type: ignore[arg-type]
            for case in itertools.product(worth, repeat=len(states))
        )

    def room_on(self, counts: JobCounts, jobs: int) -> bool:
        """
        Tell whether it holds on the counts, and with jobs added to the queue, and to the running ones.

        :param counts: what the cluster reported
        :param jobs: how many jobs to add
        :raises ScnetResponseError: where a state that it mentions was not reported
        """
        return all(map(self.holds, views(counts, jobs)))

    # How it is read

    def _parse(self) -> ast.expr:
        if len(self.text) > _LONGEST:
            raise ConditionError(self.text, f"longer than {_LONGEST} characters")
        if not self.text:
            raise ConditionError(self.text, "is empty; write e.g. 'queued < 5'")
        if foreign := _FOREIGN.search(self.text):
            what = _what_was_meant(foreign.group(), self.text[foreign.start() :])
            raise ConditionError(self.text, what, foreign.start() + 1)
        try:
            root = ast.parse(self.text, mode="eval").body
            is_deep = _depth(root) > _DEEPEST
        except SyntaxError as e:
            what = "cannot be read here; write e.g. 'queued < 5 and running + queued < 20'"
            if self.text.count("(") != self.text.count(")"):
                what = "the parentheses do not match"
            # At the end of the text Python names no place.
            place = min(e.offset or len(self.text), len(self.text))
            raise ConditionError(self.text, what, place) from None
        except (RecursionError, MemoryError):
            is_deep = True
        if is_deep:
            raise ConditionError(self.text, "is nested too deeply")
        return root

    def _check_truth(self, node: ast.expr) -> None:
        """Refuse what is neither a comparison nor comparisons joined by and, or, not."""
        match node:
            case ast.BoolOp(values=operands):
                for operand in operands:
                    self._check_truth(operand)
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                self._check_truth(operand)
            case ast.Compare(left=left, ops=ops, comparators=others):
                if not all(type(op) in _COMPARISONS for op in ops):
                    self._refuse(node, "compare with < <= > >= == !=")
                for operand in (left, *others):
                    self._check_number(operand)
            case _:
                self._check_number(node)
                self._refuse(node, f"'{ast.unparse(node)}' is no comparison; write e.g. '{ast.unparse(node)} < 5'")

    def _check_number(self, node: ast.expr) -> None:
        """Refuse what is no sum, difference or product of whole numbers and states."""
        match node:
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
                self._check_number(left)
                self._check_number(right)
            case ast.Name(id=name):
                if name not in NAMES:
                    self._refuse(node, _unknown(name))
            case ast.Constant(value=int(value)) if not isinstance(value, bool):
                if not self.text[node.col_offset : node.end_col_offset].isdecimal():
                    self._refuse(node, "write numbers with the digits 0 to 9 alone")
                if value > _LARGEST:
                    self._refuse(node, f"a number above {_LARGEST}")
            case ast.UnaryOp(op=ast.USub()):
                self._refuse(node, "counts are never negative; write a difference, e.g. 'queued - running < 5'")
            case _:
                self._refuse(
                    node, "only whole numbers, states, + - * and comparisons joined by and, or, not are allowed"
                )

    def _refuse(self, node: ast.expr, what: str) -> None:
        raise ConditionError(self.text, what, node.col_offset + 1)


def views(counts: JobCounts, *additions: int) -> Iterator[JobCounts]:
    """
    Yield the counts as reported, and for each number of jobs with them added to ``queued``, and to ``running``.

    So added jobs can only ever close a gate, whatever its condition.

    :param counts: what the cluster reported
    :param additions: how many jobs to add
    """
    yield counts
    for jobs in additions:
        if jobs > 0:
            yield counts.plus(queued=jobs)
            yield counts.plus(running=jobs)


def _what_was_meant(foreign: str, line: str) -> str:
    """Say what is wrong with a part that stands in no condition, at the begin of a line."""
    word = re.match(r"\w*", line)
    if word and word.group() in _ALIASES:
        return f"did you mean '{_ALIASES[word.group()]}'?"
    plain = unicodedata.normalize("NFKC", foreign)
    if plain != foreign and plain.isascii() and plain.strip():
        return f"full-width character {foreign!r}: write {plain!r}"
    if foreign.isascii() and foreign.isalpha():
        return f"write {foreign.lower()!r} in small letters"
    hint = _HINTS.get(foreign)
    return f"character {foreign!r} is not allowed" + (f": {hint}" if hint else "")


def _unknown(name: str) -> str:
    import difflib  # only for somebody who made a mistake

    meant = _ALIASES.get(name.lower()) or next(iter(difflib.get_close_matches(name.lower(), NAMES, n=1)), None)
    hint = f" (did you mean '{meant}'?)" if meant else ""
    return f"unknown state '{name}'{hint}; the states are {', '.join(NAMES)}"


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z]+", text)


def _depth(node: ast.AST) -> int:
    return 1 + max(map(_depth, ast.iter_child_nodes(node)), default=0)


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


def _numbers(clause: str, counts: JobCounts) -> str:
    names = dict.fromkeys(word for word in _words(clause) if word in NAMES)
    return ", ".join(f"{name} {getattr(counts, name)}" for name in names)

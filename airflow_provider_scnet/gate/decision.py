# SPDX-License-Identifier: Apache-2.0
"""The gate's decision: the same for a gate that waits in the triggerer and for one that pokes on a worker."""

from __future__ import annotations

import dataclasses
import enum
import re
from collections.abc import Callable, Collection, Iterable
from typing import Any, Protocol

from airflow_provider_scnet.client.errors import ErrorKind, ScnetError
from airflow_provider_scnet.client.job_counts import JobCounts
from airflow_provider_scnet.client.observation import Observation
from airflow_provider_scnet.gate.claims import NOTHING, Claimed
from airflow_provider_scnet.gate.clock import now
from airflow_provider_scnet.gate.condition import Condition, ConditionError, views

#: Seconds after which a gate that sees nothing new says again why it waits.
REPEAT_AFTER = 600.0


class Log(Protocol):
    """A task's own logger, whichever Airflow made it."""

    def info(self, message: str, /, *args: Any) -> Any:
        """Log what an operator may want to know."""

    def warning(self, message: str, /, *args: Any) -> Any:
        """Log what an operator should know."""


class Verdict(str, enum.Enum):
    """What becomes of a gate."""

    OPEN = "open"
    WAIT = "wait"
    RETRY = "retry"  #: the try fails; Airflow's ``retries`` apply
    FAIL = "fail"  #: fails for good
    TIMEOUT = "timeout"  #: its time is up


@dataclasses.dataclass(frozen=True)
class Decision:
    """
    What a gate makes of a look; prints itself in one line.

    :param verdict: what becomes of the gate
    :param reason: why, as a person reads it
    :param trouble: whether it rests on an error or a doubt rather than on counts
    :param shut_by: the claims that alone keep it shut, or None
    """

    verdict: Verdict
    reason: str
    trouble: bool = False
    shut_by: Claimed | None = dataclasses.field(default=None, compare=False)

    def __str__(self) -> str:
        if self.shut_by is None:
            return self.reason
        left = self.shut_by.seconds_left
        at_most = "" if left is None else f", for {left:.0f} s at most"
        return f"{self.reason}; only claims of gates that passed keep it shut{at_most}"


@dataclasses.dataclass(frozen=True)
class Gate:
    """
    What the author of a gate asked.

    :param condition: the state of the queue to wait for
    :param fail_when: what fails the gate for good, judged on reported counts only, before ``condition``
    :param submits: how many jobs the work behind the gate will submit
    """

    condition: Condition
    fail_when: Condition | None = None
    submits: int = 1

    @classmethod
    def of(cls, condition: str, fail_when: str | None = None, submits: int | str = 1) -> Gate:
        """
        Read what the author wrote, strictly.

        :param condition: the state of the queue to wait for
        :param fail_when: what fails the gate for good, or None
        :param submits: how many jobs the work behind the gate will submit, also as rendered text
        :raises ConditionError: where an expression is outside the grammar
        :raises ValueError: where ``submits`` is no number of jobs
        """
        guard = None if fail_when is None else Condition(fail_when)
        return cls(Condition(condition), guard, number_of_jobs(submits))

    def checked(self) -> Gate:
        """
        Return the gate, if it can open at all.

        :raises ConditionError: where the condition holds on an empty cluster but could never hold once the gate's
            own jobs are added
        """
        text, jobs = self.condition.text, self.submits
        if not self.condition.leaves_room_for(jobs - 1):
            raise ConditionError(text, f"could never hold with the {jobs} jobs that the gate submits")
        return self

    @property
    def states(self) -> frozenset[str]:
        """The names that have to be reported before the gate can decide."""
        return self.condition.states | (self.fail_when.states if self.fail_when else frozenset())

    def judge(self, counts: JobCounts, claimed: Claimed = NOTHING, hold: str = "") -> Decision:
        """
        Decide on counts, claims of other gates, and the gate's own jobs.

        The condition has to hold on the counts as reported, and with all but one of the gate's own jobs, and the
        claims, added to ``queued``, and with them added to ``running``. So claims can only ever close a gate.

        :param counts: what the cluster reported
        :param claimed: jobs of other gates that passed, to be counted on top
        :param hold: why it must not open yet, whatever the counts
        :raises ScnetResponseError: where a state that the gate needs was not reported
        """
        counts.require(self.states)
        seen = self._seen(counts, f"+{claimed.jobs} claimed" if claimed.jobs else "")
        if self.fail_when and self.fail_when.holds(counts):
            return Decision(
                Verdict.FAIL, f"{seen}: failed, because fail_when {self.fail_when.explain(counts)}", trouble=True
            )
        own = max(self.submits - 1, 0)
        # With its own jobs alone too: else a claim could open a gate whose condition says '!=' or '=='.
        for view in views(counts, own, own + claimed.jobs):
            if unmet := self.condition.unmet(view):
                break
        else:
            if hold:
                return Decision(Verdict.WAIT, f"{seen}: waiting, {hold}")
            return Decision(Verdict.OPEN, f"{seen}: passes, {self.condition.text}")
        shut_by = claimed if self.condition.room_on(counts, own) else None
        if shut_by:
            seen = self._seen(counts, str(claimed))
        reason = f"{seen}: waiting, needs {unmet}" + (f" with room for {self.submits}" if own else "")
        return Decision(Verdict.WAIT, reason, shut_by=shut_by)

    def _seen(self, counts: JobCounts, claimed: str) -> str:
        return listed(counts, self.states, claimed)


class Judge:
    """
    Decides for all gates that ask the same; once, where they see the same.

    :param gate: what their authors asked
    """

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self._counts: JobCounts | None = None
        self._claimed: Claimed | None = None
        self._decisions: dict[str, Decision] = {}

    def judge(self, counts: JobCounts, claimed: Claimed = NOTHING, hold: str = "") -> Decision:
        """
        Decide as the gate does.

        :param counts: what the cluster reported
        :param claimed: jobs of other gates that passed, to be counted on top
        :param hold: why it must not open yet, whatever the counts
        :raises ScnetResponseError: where a state that the gate needs was not reported
        """
        if self._counts is not counts or self._claimed is not claimed:
            self._counts, self._claimed, self._decisions = counts, claimed, {}
        decision = self._decisions.get(hold)
        if decision is None:
            decision = self._decisions[hold] = self.gate.judge(counts, claimed, hold)
        return decision


def listed(counts: JobCounts, states: Collection[str], claimed: str = "") -> str:
    """
    List what was reported: the states that matter, and every other one that holds jobs; and claims.

    :param counts: what the cluster reported
    :param states: the names that matter, besides ``running`` and ``queued``
    :param claimed: what is claimed, as a person reads it; empty where nothing is
    """
    matter = {*states, "running", "queued"}
    parts = []
    for name, number in counts.as_dict().items():
        if number is None or (name == "total" and name not in matter) or not (number or name in matter):
            continue
        parts.append(f"{name} {number}")
        if name == "queued" and claimed:
            parts[-1] += f" ({claimed})"
    if claimed and counts.queued is None:
        parts.append(claimed)
    return ", ".join(parts)


def number_of_jobs(submits: int | str) -> int:
    """
    Read a number of jobs to submit.

    :param submits: a whole number from 0 to 10⁹, also as rendered text
    :raises ValueError: where it is anything else
    """
    if isinstance(submits, str) and re.fullmatch(r"\s*[0-9]{1,10}\s*", submits):
        submits = int(submits)
    if isinstance(submits, bool) or not isinstance(submits, int) or not 0 <= submits <= 10**9:
        raise ValueError(f"submits is no number of jobs from 0 to 10⁹: {str(submits)[:80]!r}")
    return submits


class Reporter:
    """
    Says what is new, and once in a while what is not.

    :param log: where it is said
    :param clock: seconds that never jump
    :param name: who says it, where others use the log as well; empty where it is one's own
    """

    def __init__(self, log: Log, clock: Callable[[], float] = now, name: str = ""):
        self._log = log
        self._clock = clock
        self._name = f"{name}: " if name else ""
        self._said_at = 0.0
        self._noted: set[str] = set()
        #: The decision that was said last.
        self.last: Decision | None = None

    def has_news(self, decision: Decision, notes: Collection[str], at: float) -> bool:
        """
        Tell whether there is anything to say.

        :param decision: the decision
        :param notes: what a reader should know once
        :param at: a moment not long ago, such as that of the look
        """
        if decision != self.last or not self._noted.issuperset(notes):
            return True
        # The clock is dear where thousands ask: it is only looked at where it may say that it is time.
        return at - self._said_at >= REPEAT_AFTER / 2 and self._clock() - self._said_at >= REPEAT_AFTER

    def note(self, notes: Iterable[str]) -> None:
        """
        Say what a reader should know once.

        :param notes: each of them
        """
        for note in notes:
            if note not in self._noted:
                self._noted.add(note)
                self._log.warning("%s%s", self._name, note)

    def report(self, decision: Decision) -> None:
        """
        Say a decision where it is another than the last one, or that is long ago.

        :param decision: the decision
        """
        at = self._clock()
        if decision != self.last or at - self._said_at >= REPEAT_AFTER:
            self.last, self._said_at = decision, at
            say = self._log.warning if decision.trouble else self._log.info
            say("%s%s", self._name, decision)


class GateKeeper:
    """
    Stands at one gate: decides on each look, remembers whether one was good, and says why the gate waits.

    :param gate: what the author asked
    :param log: the task's own logger
    :param answered: whether an earlier process of the same wait had a good answer
    :param silent_fail: whether to wait on, too, where the try would fail: Airflow's parameter for sensors
    :param wait_for: seconds after which the gate's time is up; None where that is not known, or was said already
    :param clock: seconds that never jump
    :param judge: who decides for this gate and others that ask the same; default: one of its own
    """

    def __init__(
        self,
        gate: Gate,
        log: Log,
        *,
        answered: bool = False,
        silent_fail: bool = False,
        wait_for: float | None = None,
        clock: Callable[[], float] = now,
        judge: Judge | None = None,
    ):
        self.gate = gate
        self.answered = answered
        self.silent_fail = silent_fail
        self.clock = clock
        self._judge = judge or Judge(gate)
        self._end = None if wait_for is None else clock() + wait_for
        self._reporter = Reporter(log, clock)

    @property
    def last(self) -> Decision | None:
        """The decision that was said last."""
        return self._reporter.last

    def judge(self, look: Observation, claimed: Claimed = NOTHING, hold: str = "") -> Decision:
        """
        Decide on a look, and log what is new.

        :param look: what was seen
        :param claimed: jobs of other gates that passed, to be counted on top
        :param hold: why it must not open yet, whatever the counts
        """
        decision = self.decide(look, claimed, hold)
        self.say(look, decision)
        return decision

    def decide(self, look: Observation, claimed: Claimed = NOTHING, hold: str = "") -> Decision:
        """
        Decide on a look.

        :param look: what was seen
        :param claimed: jobs of other gates that passed, to be counted on top
        :param hold: why it must not open yet, whatever the counts
        """
        if look.error:
            return self._bear(look.error)
        counts = look.counts or JobCounts()
        try:
            if look.doubt:
                counts.require(self.gate.states)
                decision = Decision(Verdict.WAIT, f"waiting: {look.doubt}", trouble=True)
            else:
                decision = self._judge.judge(counts, claimed, hold)
        except ScnetError as error:
            error.where = look.where
            return self._bear(error)
        self.answered = True
        return decision

    def has_news(self, look: Observation, decision: Decision) -> bool:
        """
        Tell whether a decision is not to wait, or there is anything to say.

        :param look: what was seen
        :param decision: what was decided on it
        """
        if decision.verdict is not Verdict.WAIT:
            return True
        return self._reporter.has_news(decision, self._notes(look, decision), look.at)

    def say(self, look: Observation, decision: Decision) -> None:
        """
        Log what is new.

        :param look: what was seen
        :param decision: what was decided on it
        """
        self._reporter.note(self._notes(look, decision))
        self._reporter.report(decision)

    def _notes(self, look: Observation, decision: Decision) -> tuple[str, ...]:
        if decision.verdict is Verdict.WAIT and self._end is not None and look.token_ends:
            return look.notes + look.ends_within(self._end - self.clock())
        return look.notes

    def _bear(self, error: ScnetError) -> Decision:
        """Wait out what heals, fail at once on what does not."""
        kind = error.kind
        if kind is ErrorKind.PERMANENT:
            return Decision(Verdict.FAIL, str(error), trouble=True)
        if kind is ErrorKind.TRANSIENT or (kind is ErrorKind.UNCLEAR and self.answered) or self.silent_fail:
            return Decision(Verdict.WAIT, f"waiting: {error}", trouble=True)
        return Decision(Verdict.RETRY, str(error), trouble=True)


def record(gate: Gate, look: Observation, *, scnet_conn_id: str, claimed: int) -> dict[str, Any]:
    """
    Return the decision of a gate that opened as a JSON-native record.

    :param gate: what the author asked
    :param look: what it opened on
    :param scnet_conn_id: the connection it asked through
    :param claimed: jobs of other gates that were counted on top
    """
    return {**observed(gate.condition, look, scnet_conn_id=scnet_conn_id), "claimed": claimed}


def observed(condition: Condition, look: Observation, *, scnet_conn_id: str) -> dict[str, Any]:
    """
    Return what a condition was found to hold on as a JSON-native record.

    :param condition: the condition
    :param look: what it holds on
    :param scnet_conn_id: the connection that was asked through
    """
    return {
        "condition": condition.text,
        "user_name": look.user_name,
        "scnet_conn_id": scnet_conn_id,
        "counts": look.counts.as_dict() if look.counts else None,
        "observed_at": look.observed_at.isoformat(),
    }

# SPDX-License-Identifier: Apache-2.0
"""Room that is kept for a gate with several jobs, which later gates with room enough would overtake for ever."""

from __future__ import annotations

from airflow_provider_scnet.claims.submission import Account
from airflow_provider_scnet.claims.waiting import WaitingGate
from airflow_provider_scnet.gate.note import Note

#: Polls at which later gates may overtake one with several jobs, before they wait for it at as many.
MOST_OVERTAKEN = 10


class KeptRoom:
    """
    The gates for which there is room for some of their jobs, and those that overtake them.

    At each account room is kept for one gate at a time. If it does not open meanwhile, because jobs of others fill
    the queue or its room takes longer to come, the others may overtake it twice as often as before, and then wait
    twice as long: never at more than half of the polls, and in the end for long enough.
    """

    def __init__(self) -> None:
        self._accounts: dict[Account, _AccountRoom] = {}

    def note_short(self, waiting: WaitingGate, at: float) -> None:
        """
        Note that there is room for some of a gate's jobs, and not for all.

        :param waiting: the gate
        :param at: when the observation was made, by the event loop's clock
        """
        if waiting.account:
            self._accounts.setdefault(waiting.account, _AccountRoom()).note_short(waiting, at)

    def reason_to_wait(self, waiting: WaitingGate, at: float) -> str:
        """
        Say for which gate room is kept from one that would open; empty where it may open.

        :param waiting: the gate that would open
        :param at: when the observation was made, by the event loop's clock
        """
        for account, room in self._accounts.items():
            if waiting.terms().claims_from(account) and (kept_for := room.kept_before(waiting, at)):
                return f"room is kept for {_name(kept_for)}"
        return ""

    def forget(self, waiting: WaitingGate) -> None:
        """
        Forget a gate that has ceased to wait.

        :param waiting: the gate
        """
        self._accounts = {name: room for name, room in self._accounts.items() if not room.is_about(waiting)}

    def notes(self, account: Account) -> list[Note]:
        """
        Return what a reader of a gate's log should know.

        :param account: the account that the gates ask about, without a queue
        """
        return [
            Note(
                f"room is kept for the {gate.jobs} jobs of {_name(gate)}, which later gates overtook at "
                f"{room.most_overtaken} polls: they wait until it opens, for as many polls at most",
                key=f"kept room {name}",
            )
            for name, room in self._accounts.items()
            if name[: len(account)] == account and (gate := room.kept_for)
        ]


class _AccountRoom:
    """The room on one account, or in one queue of it."""

    def __init__(self) -> None:
        self.kept_for: WaitingGate | None = None
        self.most_overtaken = MOST_OVERTAKEN
        self._at = float("-inf")
        # The first gate that was short of room, and at which poll: the last one at which any was.
        self._short: WaitingGate | None = None
        self._short_at = float("-inf")
        # At how many polls such a gate was overtaken, and whether at this one; for how many room is still kept.
        self._overtaken = 0
        self._is_overtaken = False
        self._polls_left = 0

    def note_short(self, waiting: WaitingGate, at: float) -> None:
        self._begin(at)
        if self._short is None or self._short_at < self._at or waiting.comes_before(self._short):
            self._short, self._short_at = waiting, self._at

    def kept_before(self, waiting: WaitingGate, at: float) -> WaitingGate | None:
        """Return the gate for which room is kept from another that would open."""
        self._begin(at)
        is_short = self._short and self._short_at == self._at and self._short.comes_before(waiting)
        if is_short and not self.kept_for and not self._is_overtaken:
            if self._overtaken < self.most_overtaken:
                self._overtaken += 1
                self._is_overtaken = True
            else:
                self.kept_for, self._polls_left = self._short, self.most_overtaken
        return self.kept_for if self.kept_for and self.kept_for.comes_before(waiting) else None

    def is_about(self, waiting: WaitingGate) -> bool:
        return waiting is (self.kept_for or self._short)

    def _begin(self, at: float) -> None:
        # Through another connection, or late, a gate may decide on an older observation.
        if at <= self._at:
            return
        self._at, self._is_overtaken = at, False
        if self.kept_for:
            self._polls_left -= 1
            if not self._polls_left:
                self.kept_for, self._overtaken = None, 0
                self.most_overtaken *= 2


def _name(waiting: WaitingGate) -> str:
    if waiting.gate is None:
        return "a gate"
    index = f"[{waiting.gate.map_index}]" if waiting.gate.map_index >= 0 else ""
    return f"{waiting.gate.task_id}{index} (DAG '{waiting.gate.dag_id}', run '{waiting.gate.run_id}')"

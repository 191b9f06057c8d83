# SPDX-License-Identifier: Apache-2.0
"""Gates write their logs without holding up the event loop, which all that waits in a triggerer shares."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from typing import Any

import pytest

from airflow_provider_scnet.event_loop import log_thread
from airflow_provider_scnet.event_loop.log_thread import ThreadedLog
from airflow_provider_scnet.testing import ScnetSimulator
from airflow_provider_scnet.triggers.asset_watcher import ScnetJobCountEventTrigger
from airflow_provider_scnet.triggers.scnet import ScnetJobCountTrigger

from gates import INTERVAL, first_event

#: In whose name a line is written: a triggerer sorts lines into the tasks' logs by such a variable.
in_name_of: contextvars.ContextVar[str] = contextvars.ContextVar("in_name_of", default="nobody")


class NeedsTheLoop:
    """
    A log whose lines are written only when the loop has gone on.

    So is a triggerer's: its supervisor reads them, and does not while it hands over many gates, which the loop has
    to take.
    """

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.lines: list[tuple[str, str]] = []

    def info(self, message: str, *args: Any) -> None:
        has_gone_on = threading.Event()
        self.loop.call_soon_threadsafe(has_gone_on.set)
        assert has_gone_on.wait(5), "the loop is held up"
        self.lines.append((in_name_of.get(), message % args))

    warning = info


async def waited(trigger: Any, log: NeedsTheLoop, name: str) -> Any:
    """Wait in a name; return the event, and the lines there were when it was fired."""
    in_name_of.set(name)
    payload = (await first_event(trigger)).payload
    return payload, [line for whose, line in log.lines if whose == name]


@pytest.fixture
def gates_log(monkeypatch: pytest.MonkeyPatch):
    def needs_the_loop() -> NeedsTheLoop:
        log = NeedsTheLoop()
        for each in (ScnetJobCountTrigger, ScnetJobCountEventTrigger):
            monkeypatch.setattr(each, "log", log)
        return log

    return needs_the_loop


def test_the_loop_goes_on_while_lines_are_written_and_each_has_all_of_its_own_when_it_ends(
    scnet: ScnetSimulator, gates_log
):
    scnet.set_counts("alice", queued=5)

    async def scenario() -> list[Any]:
        log, polls = gates_log(), len(scnet.requests)
        gates = [
            asyncio.ensure_future(
                waited(ScnetJobCountTrigger(condition="queued < 5", poke_interval=INTERVAL, submits=0), log, name)
            )
            for name in "abc"
        ]
        while len({whose for whose, _ in log.lines}) < 3 or len(scnet.requests) < polls + 3:  # noqa: ASYNC110
            await asyncio.sleep(INTERVAL)
        scnet.set_counts("alice", queued=4)
        return await asyncio.gather(*gates)

    for payload, lines in asyncio.run(scenario()):
        assert payload["verdict"] == "open"
        assert lines == [
            "running 0, queued 5: waiting, needs queued < 5",
            "running 0, queued 4: passes, queued < 5",
        ]


def test_a_watcher_writes_so_too(scnet: ScnetSimulator, gates_log):
    scnet.set_counts("alice", queued=5)

    async def scenario() -> Any:
        log = gates_log()
        watcher = ScnetJobCountEventTrigger(condition="queued < 5", poke_interval=INTERVAL)
        fired = asyncio.ensure_future(waited(watcher, log, "watcher"))
        while not log.lines:  # noqa: ASYNC110
            await asyncio.sleep(INTERVAL)
        scnet.set_counts("alice", queued=4)
        return await fired

    payload, lines = asyncio.run(scenario())
    assert payload["counts"]["queued"] == 4
    assert "fires" in lines[-1]


def test_a_gate_that_is_cancelled_while_its_last_line_waits_does_not_lose_it():
    free, lines = threading.Event(), []

    class Waits:
        def info(self, message: str) -> None:
            free.wait(5)
            lines.append(message)

    async def scenario() -> None:
        log = ThreadedLog(Waits())
        for line in ("first", "last"):
            log.info(line)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(log.flush(), 0.01)
        free.set()
        await log.flush()

    asyncio.run(scenario())
    assert lines == ["first", "last"]


def test_a_gate_does_not_wait_for_ever_for_its_log(scnet: ScnetSimulator, monkeypatch: pytest.MonkeyPatch):
    free = threading.Event()

    class Hangs:
        def info(self, *args: Any) -> None:
            free.wait(30)

        warning = info

    monkeypatch.setattr(log_thread, "LONGEST_FLUSH", 0.01)
    monkeypatch.setattr(ScnetJobCountTrigger, "log", Hangs())
    try:
        event = asyncio.run(first_event(ScnetJobCountTrigger(condition="queued < 5")))
        assert not free.is_set()
        assert event.payload["verdict"] == "open"
    finally:
        free.set()


def test_a_log_that_fails_fails_no_gate(scnet: ScnetSimulator, monkeypatch: pytest.MonkeyPatch):
    class Fails:
        def info(self, *args: Any) -> None:
            raise BrokenPipeError

        warning = info

    monkeypatch.setattr(ScnetJobCountTrigger, "log", Fails())
    event = asyncio.run(first_event(ScnetJobCountTrigger(condition="queued < 5")))
    assert event.payload["verdict"] == "open"

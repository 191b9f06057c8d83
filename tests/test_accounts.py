# SPDX-License-Identifier: Apache-2.0
"""A hundred gates on one account: one look for all, room given out once, nobody lost."""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import re
import time
from typing import Any

import pytest

from airflow_provider_scnet.client.errors import ScnetError
from airflow_provider_scnet.client.unexpected_error import unexpected
from airflow_provider_scnet.event_loop import background, shielded_call
from airflow_provider_scnet.hooks import polled_connection
from airflow_provider_scnet.hooks.polled_connection import PolledConnection
from airflow_provider_scnet.polling import poller as poller_module
from airflow_provider_scnet.polling.accounts import Accounts
from airflow_provider_scnet.polling.poller import Poller
from airflow_provider_scnet.polling.waiting import Watcher
from airflow_provider_scnet.testing import Fault, ScnetSimulator
from airflow_provider_scnet.triggers import shared_accounts
from airflow_provider_scnet.triggers.scnet import ScnetJobCountTrigger

from gates import INTERVAL, claimed, first_event

GATES = 100


def trigger(condition: str = "queued < 5", **arguments: Any) -> ScnetJobCountTrigger:
    return ScnetJobCountTrigger(
        **{"condition": condition, "poke_interval": INTERVAL, "claim_ttl": 600, **arguments}
    )


def start(triggers: list[ScnetJobCountTrigger]) -> list[asyncio.Task]:
    return [asyncio.ensure_future(first_event(each)) for each in triggers]


def passed(tasks: list[asyncio.Task]) -> list[int]:
    """Return the places, in the order of arrival, of the gates that passed."""
    return [n for n, task in enumerate(tasks) if task.done() and task.result().payload["verdict"] == "open"]


async def requests(scnet: ScnetSimulator, more: int) -> None:
    """Wait for that many further requests, and for what the gates make of the answers before the last one."""
    await asyncio.to_thread(scnet.wait_for_requests, len(scnet.requests) + more)


async def end(tasks: list[asyncio.Task]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def test_a_hundred_gates_make_as_many_requests_as_one(scnet: ScnetSimulator, monkeypatch: pytest.MonkeyPatch):
    scnet.set_counts("alice", queued=9)
    looks = []
    poll = polled_connection.poll
    monkeypatch.setattr(polled_connection, "poll", lambda *asked: looks.append(poll(*asked)) or looks[-1])

    async def scenario() -> None:
        tasks = start([trigger() for _ in range(GATES)])
        await requests(scnet, 5)
        await end(tasks)

    asyncio.run(scenario())
    # Each look began no sooner than an interval after the one before: the gates together kept one gate's pace.
    assert len(looks) >= 4
    pauses = [later.at - earlier.at for earlier, later in itertools.pairwise(looks)]
    assert min(pauses) >= INTERVAL


def test_room_for_three_lets_three_pass_in_the_order_of_arrival(scnet: ScnetSimulator):
    scnet.set_counts("alice", queued=2)

    async def scenario() -> None:
        tasks = start([trigger() for _ in range(GATES)])
        await requests(scnet, 4)
        assert passed(tasks) == [0, 1, 2]
        await end(tasks)

    asyncio.run(scenario())


def test_admission_keeps_the_limit_exactly_while_jobs_come_and_are_counted_late(monkeypatch: pytest.MonkeyPatch):
    """60 gates, room for five in the queue; what passes is submitted at once, and counted only two looks later."""
    late = 2 * INTERVAL

    async def submit_behind(gate: ScnetJobCountTrigger, cluster: ScnetSimulator) -> None:
        await first_event(gate)
        cluster.submit("alice")

    async def scenario(cluster: ScnetSimulator) -> None:
        await asyncio.gather(*(submit_behind(trigger(claim_ttl=5 * late), cluster) for _ in range(60)))

    with ScnetSimulator(slots=4, run_for=late, counted_after=late) as cluster:
        cluster.add_user("alice")
        monkeypatch.setenv("AIRFLOW_CONN_SCNET_DEFAULT", cluster.connection_json("alice"))
        asyncio.run(scenario(cluster))
        totals = cluster.totals("alice")
    assert totals.submitted == 60
    assert totals.highest_queued <= 5


def test_a_gate_whose_condition_does_not_hold_holds_up_nobody_behind_it(scnet: ScnetSimulator):
    scnet.set_counts("alice", queued=3)

    async def scenario() -> None:
        tasks = start([trigger("queued < 1"), trigger("queued < 5", submits=5), trigger(), trigger(), trigger()])
        await requests(scnet, 3)
        assert passed(tasks) == [2, 3]
        await end(tasks)

    asyncio.run(scenario())


def test_a_gate_that_only_watches_claims_nothing(scnet: ScnetSimulator):
    scnet.set_counts("alice", queued=4)

    async def scenario() -> None:
        tasks = start([trigger(submits=0) for _ in range(GATES)])
        await asyncio.gather(*tasks)
        assert passed(tasks) == list(range(GATES))
        assert len(scnet.requests) == 1

    asyncio.run(scenario())


def test_claims_belong_to_the_account_whatever_the_connection_is_called(scnet: ScnetSimulator, connect):
    connect("scnet_other")
    scnet.set_counts("alice", queued=3)

    async def scenario() -> None:
        tasks = start([trigger(scnet_conn_id=c) for c in ("scnet_default", "scnet_other", "scnet_other")])
        await requests(scnet, 6)
        assert len(passed(tasks)) == 2
        await end(tasks)

    asyncio.run(scenario())


def test_claims_of_one_user_do_not_close_the_gates_of_another(scnet: ScnetSimulator):
    scnet.add_user("bob")

    async def scenario() -> None:
        await first_event(trigger(submits=5))
        assert claimed((scnet.url, "alice")) == 5
        assert claimed((scnet.url, "bob")) == 0

    asyncio.run(scenario())


def test_gates_that_name_the_same_user_in_different_ways_share_one_request(scnet: ScnetSimulator):
    scnet.set_counts("alice", queued=9)

    async def scenario() -> None:
        interval = 60
        tasks = start([trigger(user_name=name, poke_interval=interval) for name in (None, "alice", None, "alice")])
        await requests(scnet, 1)
        accounts = shared_accounts.accounts()
        looks = [await accounts.observe("scnet_default", name, interval) for name in (None, "alice")]
        assert looks[0] is looks[1]
        assert len(scnet.requests) == 1
        await end(tasks)

    asyncio.run(scenario())


def test_a_gate_that_has_just_arrived_uses_a_look_that_is_fresh_enough(scnet: ScnetSimulator):
    async def scenario() -> None:
        await first_event(trigger(poke_interval=60))
        await first_event(trigger(poke_interval=60))
        assert len(scnet.requests) == 1
        await asyncio.sleep(INTERVAL)
        await first_event(trigger(poke_interval=INTERVAL))
        assert len(scnet.requests) == 2

    asyncio.run(scenario())


def test_gates_with_different_intervals_share_the_shorter_ones_looks(scnet: ScnetSimulator):
    scnet.set_counts("alice", queued=9)

    async def scenario() -> None:
        slow, quick = start(
            [trigger("queued < 3", poke_interval=3600), trigger("queued < 1", poke_interval=INTERVAL)]
        )
        await requests(scnet, 2)
        scnet.set_counts("alice", queued=2)
        await slow
        assert not quick.done()
        await end([quick])

    asyncio.run(scenario())


def test_a_gate_with_a_shorter_interval_does_not_wait_for_the_longer_one(scnet: ScnetSimulator):
    scnet.set_counts("alice", queued=9)

    async def scenario() -> None:
        slow = start([trigger(poke_interval=3600)])
        await requests(scnet, 1)
        quick = start([trigger()])
        await requests(scnet, 3)
        await end(slow + quick)

    asyncio.run(scenario())


def test_every_gate_sees_a_failing_look_and_none_dies(scnet: ScnetSimulator, said: pytest.LogCaptureFixture):
    scnet.set_counts("alice", queued=9)

    async def scenario() -> None:
        tasks = start([trigger(submits=0) for _ in range(GATES)])
        await requests(scnet, 2)
        scnet.order(Fault(status=503, body=""), times=3)
        await requests(scnet, 5)
        assert not any(task.done() for task in tasks)
        scnet.set_counts("alice", queued=0)
        await asyncio.gather(*tasks)

    asyncio.run(scenario())
    # Each gate says once that it sees the failure, however many looks fail.
    assert sum("HTTP 503" in message for message in said.messages) == GATES
    assert sum("passes" in message for message in said.messages) == GATES


def test_a_first_look_that_is_not_accepted_fails_every_gate_with_one_request(scnet: ScnetSimulator):
    scnet.reject_token("alice")

    async def scenario() -> list[Any]:
        return await asyncio.gather(*start([trigger() for _ in range(GATES)]))

    events = asyncio.run(scenario())
    assert {event.payload["verdict"] for event in events} == {"retry"}
    assert len(scnet.requests) == 1


def test_a_token_that_was_pasted_meanwhile_is_used_by_gates_that_wait(scnet: ScnetSimulator, connect):
    scnet.set_counts("alice", queued=9)

    async def scenario() -> None:
        tasks = start([trigger(submits=0) for _ in range(GATES)])
        await requests(scnet, 2)
        old = scnet.token("alice")
        new = scnet.add_user("alice2", compute_user="alice")
        assert new != old
        connect(user="alice2")
        await requests(scnet, 3)
        assert scnet.requests[-1].headers["token"] == new
        await end(tasks)

    asyncio.run(scenario())


def test_a_gate_that_arrives_after_the_token_was_mended_is_not_failed_by_the_last_look(scnet, connect):
    scnet.reject_token("alice")

    async def scenario() -> None:
        event = await first_event(trigger(poke_interval=3600))
        assert event.payload["verdict"] == "retry"
        scnet.renew_token("alice")
        connect()
        event = await first_event(trigger(poke_interval=3600))
        assert event.payload["verdict"] == "open"

    asyncio.run(scenario())


def test_a_gate_that_arrives_after_the_connection_was_changed_sees_the_new_users_jobs(scnet, connect):
    scnet.add_user("bob")
    scnet.set_counts("bob", queued=16)

    async def scenario() -> None:
        await first_event(trigger(poke_interval=3600))
        connect(user="bob")
        tasks = start([trigger(poke_interval=3600)])
        await requests(scnet, 1)
        await asyncio.wait(tasks, timeout=5 * INTERVAL)
        assert scnet.requests[-1].query == {"userName": "bob"}
        assert passed(tasks) == []
        await end(tasks)

    asyncio.run(scenario())


def test_a_gate_that_arrives_later_does_not_fail_on_an_old_failure(scnet, monkeypatch: pytest.MonkeyPatch):
    scnet.order(Fault.api("10007", "frozen"))

    async def scenario() -> None:
        event = await first_event(trigger(poke_interval=3600))
        assert event.payload["verdict"] == "fail"
        monkeypatch.setattr(poller_module, "MENDED_AFTER", 0.0)
        event = await first_event(trigger(poke_interval=3600))
        assert event.payload["verdict"] == "open"

    asyncio.run(scenario())


def test_a_reading_of_the_connection_that_takes_too_long_is_met_again_and_never_cancelled(
    scnet, monkeypatch: pytest.MonkeyPatch
):
    """A request to Airflow's supervisor that is cancelled ends the trigger runner of 3.1.8."""
    monkeypatch.setattr(shielded_call, "LONGEST_ANSWER", 0.5)
    resolve = PolledConnection.aread_settings
    reads, handed_out = [], asyncio.Event()

    async def slow(connection: PolledConnection, user_name: str | None = None) -> Any:
        reads.append("asked")
        try:
            await handed_out.wait()
        except asyncio.CancelledError:
            reads.append("cancelled")
            raise
        return await resolve(connection, user_name)

    monkeypatch.setattr(PolledConnection, "aread_settings", slow)

    async def scenario() -> None:
        accounts = shared_accounts.accounts()
        with pytest.raises(ScnetError, match="did not hand it out"):
            await accounts.observe("scnet_default", None, 0.0)
        for attempt in range(2):
            looking = asyncio.ensure_future(accounts.observe("scnet_default", None, 0.0))
            await asyncio.sleep(0)
            if attempt == 0:
                # A gate that leaves takes nothing with it.
                await end([looking])
        handed_out.set()
        assert (await looking).counts

    asyncio.run(scenario())
    assert reads == ["asked"]


def test_a_connection_that_is_never_handed_out_holds_up_two_looks_only(scnet, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shielded_call, "LONGEST_ANSWER", 0.05)
    resolve = PolledConnection.aread_settings
    reads = []

    async def hang_at_first(connection: PolledConnection, user_name: str | None = None) -> Any:
        reads.append(user_name)
        if len(reads) == 1:
            await asyncio.Event().wait()
        return await resolve(connection, user_name)

    monkeypatch.setattr(PolledConnection, "aread_settings", hang_at_first)

    async def scenario() -> None:
        for event in await asyncio.gather(*start([trigger(submits=0) for _ in range(3)])):
            assert event.payload["verdict"] == "open"

    asyncio.run(scenario())
    assert len(reads) == 2


def test_a_poller_whose_task_was_ended_from_outside_is_started_again_and_says_so(
    scnet: ScnetSimulator, said: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(background, "RESTART_AFTER", INTERVAL)
    scnet.set_counts("alice", queued=9)

    async def scenario() -> None:
        tasks = start([trigger(submits=0) for _ in range(3)])
        await requests(scnet, 2)
        looking = shared_accounts.accounts().poller("scnet_default", None)._polling._task
        # Before Python 3.12 asyncio.wait_for() drops a cancelling that comes with the answer.
        while not looking.done():
            looking.cancel()
            await asyncio.sleep(0)
        scnet.set_counts("alice", queued=0)
        await asyncio.gather(*tasks)

    asyncio.run(scenario())
    assert sum("ended from outside, and was started again" in message for message in said.messages) == 3


def test_how_a_task_failed_is_not_logged_in_the_name_of_the_gate_that_started_it():
    gate_of_the_log, told = contextvars.ContextVar("gate_of_the_log", default=""), []

    async def fails() -> float | None:
        raise KeyError("a mistake")

    async def scenario() -> None:
        gate_of_the_log.set("the first one")
        task = background.BackgroundTask(fails, lambda error: told.append(gate_of_the_log.get()) or "")
        task.start()
        await asyncio.sleep(0.01)

    asyncio.run(scenario())
    assert told == [""]


def test_a_gate_that_comes_as_the_last_one_has_gone_is_told_of_no_end_from_outside(scnet: ScnetSimulator):
    async def scenario() -> None:
        await asyncio.gather(*start([trigger(submits=0)]))
        mine = shared_accounts.accounts().poller("scnet_default", None)
        before = mine._polling._task
        await asyncio.wait([before])
        watcher = Watcher(INTERVAL)
        mine.add(watcher)
        assert mine._polling._task is not before
        # What the event loop calls a turn after the task has ended.
        mine._polling._end(before)
        assert mine._polling.take_failure() == ""
        mine.remove(watcher)

    asyncio.run(scenario())


def test_looks_that_hang_hold_no_thread_that_others_need(scnet: ScnetSimulator, connect):
    """Airflow's triggerer itself takes one of :func:`asyncio.to_thread` to fire an event."""
    connect(timeout=60)
    scnet.order(Fault(delay=60), times=None)
    gates = 40

    async def all_ask() -> None:
        while len(scnet.requests) < gates:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        await asyncio.to_thread(int)

    async def scenario() -> None:
        tasks = start([trigger(user_name=f"user{number}") for number in range(gates)])
        await asyncio.wait_for(all_ask(), 50)
        await end(tasks)

    asyncio.run(scenario())


def test_the_gate_that_was_looking_may_be_cancelled(scnet: ScnetSimulator):
    scnet.order(Fault(delay=0.3))

    async def scenario() -> None:
        tasks = start([trigger(submits=0) for _ in range(GATES)])
        await requests(scnet, 1)
        await end(tasks[:1])
        await asyncio.gather(*tasks[1:])
        assert len(scnet.requests) == 1

    asyncio.run(scenario())


def test_all_gates_may_be_cancelled_while_a_look_is_under_way_and_others_come(scnet: ScnetSimulator):
    scnet.order(Fault(delay=0.3))

    async def scenario() -> None:
        tasks = start([trigger() for _ in range(3)])
        await requests(scnet, 1)
        await end(tasks)
        event = await first_event(trigger())
        assert event.payload["verdict"] == "open"

    asyncio.run(scenario())


def test_gates_that_are_cancelled_leave_no_claim(scnet: ScnetSimulator):
    scnet.set_counts("alice", queued=9)

    async def scenario() -> None:
        tasks = start([trigger() for _ in range(GATES)])
        await requests(scnet, 2)
        await end(tasks)
        assert claimed((scnet.url, "alice"), at=0.0) == 0

    asyncio.run(scenario())


def test_claims_expire_by_time_alone(scnet: ScnetSimulator):
    scnet.set_counts("alice", queued=4)

    async def scenario() -> None:
        first, second = start([trigger(claim_ttl=5 * INTERVAL), trigger(claim_ttl=5 * INTERVAL)])
        await first
        assert not second.done()
        before = len(scnet.requests)
        await second
        # It waited for a look that was made after the claim had expired.
        assert len(scnet.requests) > before

    asyncio.run(scenario())


def test_a_look_that_is_kept_is_weighed_with_the_claims_of_its_time(scnet: ScnetSimulator):
    scnet.set_counts("alice", queued=4)

    async def scenario() -> None:
        slow = {"poke_interval": 3600, "claim_ttl": INTERVAL}
        await first_event(trigger(**slow))
        await asyncio.sleep(2 * INTERVAL)
        tasks = start([trigger(**slow), trigger(**slow)])
        await asyncio.wait(tasks, timeout=10 * INTERVAL)
        # The claim has expired, but the only look is older than that: no room was seen for these.
        assert passed(tasks) == []
        assert len(scnet.requests) == 1
        await end(tasks)

    asyncio.run(scenario())


def test_a_gate_that_is_blocked_by_claims_alone_says_so(scnet: ScnetSimulator, said: pytest.LogCaptureFixture):
    scnet.set_counts("alice", running=1, queued=4)

    async def scenario() -> None:
        tasks = start([trigger(), trigger()])
        await requests(scnet, 2)
        await end(tasks)

    asyncio.run(scenario())
    line = (
        r"running 1, queued 4 \(\+1 claimed\): waiting, needs queued < 5; "
        r"only claims of gates that passed keep it shut, for [56]\d\d s at most"
    )
    assert any(re.fullmatch(line, message) for message in said.messages)


def test_retry_after_lengthens_the_pause_for_all_gates(scnet: ScnetSimulator):
    scnet.order(Fault(status=429, body="", headers={"Retry-After": "3600"}))

    async def scenario() -> None:
        accounts = shared_accounts.accounts()
        tasks = start([trigger() for _ in range(GATES)])
        await requests(scnet, 1)
        poller, watcher = accounts.poller("scnet_default", None), Watcher(3600)
        poller.add(watcher)
        seen = await watcher.next_observation()
        late = start([trigger(), trigger(user_name="alice")])
        await asyncio.sleep(10 * INTERVAL)
        assert seen.pause == 600.0
        assert len(scnet.requests) == 1
        poller.remove(watcher)
        await end(tasks + late)

    asyncio.run(scenario())


def test_a_wall_clock_that_jumps_changes_nothing(scnet: ScnetSimulator, connect, monkeypatch):
    # A token without an expiry: the simulator's own clock jumps too.
    scnet.add_user("timeless", token="token-without-an-expiry")
    connect(user="timeless")
    scnet.set_counts("timeless", queued=4)

    async def scenario() -> None:
        tasks = start([trigger(claim_ttl=600) for _ in range(3)])
        await requests(scnet, 2)
        for jump in (86_400.0, -86_400.0):
            wall = time.time
            monkeypatch.setattr(time, "time", lambda wall=wall, jump=jump: wall() + jump)
            await requests(scnet, 2)
        assert passed(tasks) == [0]
        await end(tasks)

    asyncio.run(scenario())


def test_an_event_loop_does_not_meet_what_another_one_left(scnet: ScnetSimulator):
    for _ in range(3):
        event = asyncio.run(first_event(trigger("queued < 1", poke_interval=3600)))
        assert event.payload["verdict"] == "open"
    assert len(scnet.requests) == 3
    assert len(Accounts._by_loop) <= 1


def test_a_mistake_of_ours_is_seen_by_every_gate_and_hangs_none(
    scnet: ScnetSimulator, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(polled_connection, "poll", lambda *asked: 1 / 0)

    async def scenario() -> list[Any]:
        return await asyncio.gather(*start([trigger() for _ in range(3)]))

    for event in asyncio.run(scenario()):
        assert event.payload["verdict"] == "retry"
        assert "unexpected ZeroDivisionError" in event.payload["message"]


def test_the_log_says_once_where_an_error_was_that_nobody_expected(
    scnet: ScnetSimulator, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    def fails(settings: Any, *asked: Any) -> Any:
        raise KeyError(settings.token)

    def fails_elsewhere(*asked: Any) -> Any:
        raise KeyError("other")

    async def scenario() -> None:
        for poll in (fails, fails, fails_elsewhere):
            monkeypatch.setattr(polled_connection, "poll", poll)
            await first_event(trigger())

    asyncio.run(scenario())
    told = [each for each in caplog.records if each.name == unexpected.__module__]
    assert [each.levelname for each in told] == ["WARNING", "WARNING"]
    first, second = (each.getMessage() for each in told)
    assert first.startswith("unexpected KeyError: ")
    assert f" at {__file__}:{fails.__code__.co_firstlineno + 1} in fails, called from " in first
    assert f" at {__file__}:{fails_elsewhere.__code__.co_firstlineno + 1} in fails_elsewhere, " in second
    assert "eyJ" not in caplog.text


def test_the_log_says_where_the_task_that_polls_failed(
    scnet: ScnetSimulator,
    said: pytest.LogCaptureFixture,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(background, "RESTART_AFTER", INTERVAL)
    poll, failures = Poller._poll, []

    async def fails_once(self: Any) -> None:
        if not failures:
            failures.append(1)
            raise KeyError(scnet.token("alice"))
        await poll(self)

    monkeypatch.setattr(Poller, "_poll", fails_once)
    asyncio.run(first_event(trigger()))
    (told,) = [each.getMessage() for each in caplog.records if each.name == unexpected.__module__]
    assert f" at {__file__}:{fails_once.__code__.co_firstlineno + 3} in fails_once, called from " in told
    assert any(
        "failed (unexpected KeyError: '***'), and was started again" in message for message in said.messages
    )
    assert "eyJ" not in caplog.text


def test_the_task_that_looks_ends_with_the_last_gate(scnet: ScnetSimulator):
    scnet.set_counts("alice", queued=9)

    async def scenario() -> None:
        tasks = start([trigger(poke_interval=3600)])
        await requests(scnet, 1)
        await end(tasks)
        ours = asyncio.current_task()
        await asyncio.wait_for(asyncio.gather(*(t for t in asyncio.all_tasks() if t is not ours)), 30)

    asyncio.run(scenario())

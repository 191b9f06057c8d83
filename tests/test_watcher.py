# SPDX-License-Identifier: Apache-2.0
"""A watcher fires when its condition becomes true, once; what it cannot see is neither true nor false."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_scnet.client.errors import ErrorKind, ScnetError
from airflow_provider_scnet.client.job_counts import JobCounts
from airflow_provider_scnet.event_loop import clock
from airflow_provider_scnet.gate.reporter import REPEAT_AFTER
from airflow_provider_scnet.polling.accounts import Accounts
from airflow_provider_scnet.testing import ScnetSimulator
from airflow_provider_scnet.triggers import asset_watcher as watchers
from airflow_provider_scnet.triggers import scnet as triggers
from airflow_provider_scnet.triggers.scnet import ScnetJobCountEventTrigger, ScnetJobCountTrigger
from airflow_provider_scnet.triggers.shared_accounts import RunningAirflow
from benchmarks import virtual_time

from gates import INTERVAL, claimed, first_event
from observations import HEALS, Cluster

MINUTE = 60.0


def watcher(condition: str = "queued < 5", **arguments: Any) -> ScnetJobCountEventTrigger:
    return ScnetJobCountEventTrigger(condition=condition, **arguments)


class Store:
    """An asset's state store, as Airflow hands it to a watcher."""

    def __init__(self, **known: Any) -> None:
        self.values: dict[str, Any] = {}
        self.error: Exception | None = None
        self.writes = 0

    async def aget(self, key: str, default: Any = None) -> Any:
        await asyncio.sleep(0.01)
        if self.error:
            raise self.error
        return self.values.get(key, default)

    async def aset(self, key: str, value: Any) -> None:
        await asyncio.sleep(0.01)
        if self.error:
            raise self.error
        self.writes += 1
        self.values[key] = json.loads(json.dumps(value))


async def first_looks(trigger: ScnetJobCountEventTrigger, cluster: Cluster, looks: int) -> list[int]:
    """Return the numbers of the looks, from 1, on which a watcher fires."""
    loop = asyncio.get_running_loop()
    Accounts._by_loop[loop] = Accounts(cluster, RunningAirflow())
    fired = []

    async def watch() -> None:
        async for event in trigger.run():
            assert isinstance(event, TriggerEvent)
            fired.append(cluster.looks)

    watching = asyncio.ensure_future(watch())
    await asyncio.sleep((looks - 0.5) * MINUTE)
    assert not watching.done()
    assert cluster.looks == looks
    watching.cancel()
    await asyncio.wait([watching])
    return fired


def fires(seen: Sequence[Any], store: Store | None = None, **arguments: Any) -> list[int]:
    """Let a watcher see that, a look a minute, and return the numbers of the looks, from 1, on which it fires."""
    trigger = watcher(**arguments)
    if store:
        trigger.asset_state_store = store
    return virtual_time.run(first_looks(trigger, Cluster(*seen), len(seen)))


def lines(said: pytest.LogCaptureFixture) -> list[str]:
    """Return what watchers and gates said."""
    return [record.getMessage() for record in said.records if record.name == "gate"]


FOR_GOOD = ScnetError("user frozen", kind=ErrorKind.PERMANENT)


@pytest.mark.parametrize(
    ("seen", "fired"),
    [
        ([9, 4], [2]),
        ([9, 4, 4, 3, 0], [2]),
        ([9, 4, 5, 4, 9, 0], [2, 4, 6]),
        # The first look only arms it.
        ([4, 4, 4], []),
        ([4, 9, 4], [3]),
        # What it cannot see is neither true nor false.
        ([9, HEALS, 4, FOR_GOOD, 4], [3]),
        ([FOR_GOOD, HEALS, 4, 9, FOR_GOOD, 4], [6]),
        ([9, 4, JobCounts(running=1), 4], [2]),
        ([9, JobCounts(running=1), 4], [3]),
        ([9, {"counts": JobCounts(0, 0, 0, 0, 0), "doubt": "nobody knows this user"}, 9], []),
        ([9, 4, {"counts": JobCounts(0, 9, 0, 0, 0), "doubt": "nobody knows this user"}, 4], [2]),
    ],
)
def test_it_fires_when_the_condition_becomes_true_and_again_only_after_it_was_seen_false(seen, fired):
    assert fires(seen) == fired


@pytest.mark.parametrize(
    ("seen", "fired"),
    [
        ([9, 4, 9, 4, 21, 4], [2, 6]),
        # Seen false is enough before it has fired for the first time.
        ([9, 4], [2]),
        # The second water mark may lie behind what was seen last.
        ([9, 4, 21, 9, 4], [2, 5]),
        ([4, 9, 4, 21, 9, 4], [6]),
    ],
)
def test_with_a_second_water_mark_it_fires_again_only_after_that_was_reached(seen, fired):
    assert fires(seen, rearm_when="queued > 20") == fired


def test_a_second_water_mark_that_holds_with_the_condition_does_not_fire_without_end():
    assert fires([9, 4, 4, 4, 9, 4, 4], rearm_when="queued >= 0") == [2, 6]


def test_a_state_that_only_the_second_water_mark_names_has_to_be_reported_too():
    unreported = JobCounts(queued=4)
    assert fires([9, unreported, 4], rearm_when="held > 0") == [3]


def test_on_airflow_3_3_it_remembers_across_restarts_whether_it_is_armed():
    store = Store()
    assert fires([9, 9], store) == []
    # The queue became short while nobody looked.
    assert fires([4, 4], store) == [1]
    assert fires([4, 9, 4], store) == [3]
    assert fires([4, 4], store) == []


def test_what_it_remembers_is_its_own_and_a_person_can_read_it():
    store = Store()
    assert fires([9, 9], store) == []
    assert fires([4, 4], store, rearm_when="queued > 20") == []
    assert fires([4, 4], store, user_name="bob") == []
    # An interval is no other question.
    assert [value for value in store.values.values() if value["armed"]] == [
        {
            "condition": "queued < 5",
            "rearm_when": None,
            "user_name": None,
            "scnet_conn_id": "scnet_default",
            "queue_name": None,
            "armed": True,
        }
    ]
    assert all(len(key) < 64 for key in store.values)


def test_it_keeps_what_has_changed_and_nothing_else():
    store = Store()
    fires([9, 9, 8, 7], store)
    assert store.writes == 1
    fires([9, 4, 4, 4, 9], store)
    assert store.writes == 3


def test_what_is_in_the_store_may_be_anybodys():
    store = Store()
    fires([9], store)
    (key,) = store.values
    store.values[key] = "armed"
    assert fires([4, 4], store) == []


def test_a_watcher_that_dies_before_its_event_is_stored_fires_again_rather_than_never():
    store = Store()

    async def die() -> None:
        trigger = watcher()
        trigger.asset_state_store = store
        Accounts._by_loop[asyncio.get_running_loop()] = Accounts(Cluster(9, 4), RunningAirflow())
        run = trigger.run()
        await anext(run)
        await run.aclose()

    virtual_time.run(die())
    assert fires([4, 4], store) == [1]


def test_while_the_store_does_not_answer_it_does_not_fire_and_then_goes_by_what_it_knew(said):
    store = Store()
    fires([9], store)

    class LateStore(Store):
        async def aget(self, key: str, default: Any = None) -> Any:
            if clock.now() < 1000 + 2.5 * MINUTE:
                raise RuntimeError("API_SERVER_ERROR")
            return await super().aget(key, default)

    late = LateStore()
    late.values = store.values
    assert fires([4, 4, 4, 4, 4], late) == [4]
    (line,) = [message for message in lines(said) if "API_SERVER_ERROR" in message]
    assert line.endswith(": it does not fire before it knows what it saw last")


def test_what_could_not_be_kept_is_kept_with_the_next_look(said):
    class Refusing(Store):
        async def aset(self, key: str, value: Any) -> None:
            if clock.now() < 1000 + 1.5 * MINUTE:
                raise RuntimeError("API_SERVER_ERROR")
            await super().aset(key, value)

    store = Refusing()
    assert fires([9, 9, 9], store) == []
    assert [value["armed"] for value in store.values.values()] == [True]
    assert sum("after a restart it goes by what was kept last" in message for message in lines(said)) == 1


def test_a_store_that_never_answers_ends_nothing_and_is_never_cancelled():
    cancelled = []

    class Mute(Store):
        async def aget(self, key: str, default: Any = None) -> Any:
            try:
                await asyncio.sleep(10 * MINUTE)
            except asyncio.CancelledError:
                cancelled.append(key)
                raise

    async def scenario() -> None:
        trigger = watcher()
        trigger.asset_state_store = Mute()
        assert await first_looks(trigger, Cluster(9, 4), 4) == []
        assert cancelled == []

    virtual_time.run(scenario())


def test_several_assets_with_the_very_same_watcher_have_no_memory_and_say_so(said):
    store = Store()
    store.error = ValueError("Task has 2 concrete inlets and outlets")
    assert fires([4, 9, 4], store) == [3]
    assert sum("several assets have this very watcher" in message for message in lines(said)) == 1


def test_it_says_why_it_does_not_fire_when_what_it_sees_changes(said):
    fires([9, 9, HEALS, HEALS, 4, 4, 9, 21], rearm_when="queued > 20")
    before = "watcher of 'queued < 5' (scnet_default): "
    assert lines(said) == [
        before + "running 0, queued 9: armed, needs queued < 5",
        before + "sees nothing, and looks again: no answer",
        before + "running 0, queued 4: fires, queued < 5",
        before
        + "running 0, queued 4: 'queued < 5' holds already, fires only after it was seen false while 'queued > 20'",
        before + "running 0, queued 9: not armed again yet, needs queued > 20",
        before + "running 0, queued 21: armed, needs queued < 5",
    ]


def test_it_says_so_again_every_ten_minutes(said):
    fires([9] * 25)
    assert len(lines(said)) == 3


@pytest.mark.parametrize("error", [FOR_GOOD, HEALS])
def test_an_error_is_looked_at_again_at_the_interval_and_said_once(said, error):
    # first_looks() holds the pace: a look a minute.
    assert fires([error] * 8) == []
    assert len(lines(said)) == 1
    assert said.records[-1].levelname == "WARNING"


WRONG = [
    ({"condition": "pending < 5"}, "unknown state 'pending'"),
    ({"rearm_when": "queued"}, "is no comparison"),
    ({"condition": None}, "is no text but NoneType"),
    ({"poke_interval": 0}, "poke_interval is no number of seconds above 0: '0'"),
    ({"poke_interval": float("nan")}, "poke_interval"),
    ({"poke_interval": "60"}, "poke_interval"),
    ({"user_name": 5.0}, "user_name is no text but float"),
    ({"user_name": ""}, "user_name is given but empty"),
    ({"scnet_conn_id": " "}, "scnet_conn_id is given but empty"),
    ({"scnet_conn_id": None}, "scnet_conn_id is given but empty"),
]


@pytest.mark.parametrize(("arguments", "message"), WRONG)
def test_a_wrong_parameter_neither_ends_the_watcher_nor_lets_it_loop(said, arguments, message):
    async def scenario() -> None:
        trigger = watcher(**arguments)
        events: AsyncIterator[TriggerEvent] = trigger.run()
        first = asyncio.ensure_future(anext(events))
        await asyncio.sleep(3.5 * REPEAT_AFTER)
        assert not first.done()
        first.cancel()

    virtual_time.run(scenario())
    assert len(lines(said)) == 4
    assert message in lines(said)[0]


def test_a_parameter_that_there_is_not_is_ignored_in_a_triggerer_which_may_be_of_another_version(said):
    assert fires([9, 4], rearm_above=20) == [2]
    assert "only another version of airflow-provider-scnet knows it: rearm_above" in said.text


@pytest.mark.parametrize(("arguments", "message"), [*WRONG, ({"rearm_wen": "x"}, "no parameter rearm_wen")])
def test_a_wrong_parameter_shows_where_airflow_serializes_the_dag(arguments, message):
    with pytest.raises(ValueError, match=message):
        watcher(**arguments).serialize()


@pytest.mark.parametrize(
    "arguments",
    [{}, {"rearm_when": "queued > 20", "user_name": "bob", "scnet_conn_id": "other", "poke_interval": 5}],
)
def test_what_airflow_stores_makes_the_very_same_watcher(arguments):
    path, kwargs = watcher(**arguments).serialize()
    assert path == "airflow_provider_scnet.triggers.scnet.ScnetJobCountEventTrigger"
    module, _, name = path.rpartition(".")
    assert module == triggers.__name__
    stored = json.loads(json.dumps(kwargs))
    assert stored == kwargs
    assert getattr(triggers, name)(**stored).serialize() == (path, kwargs)


def test_airflow_3_takes_it_for_a_watcher_and_puts_it_into_the_dag():
    try:
        from airflow.sdk import DAG, Asset, AssetWatcher
    except ImportError:
        # Airflow 2.11 has no watchers; there it can be imported, and that is all.
        assert issubclass(ScnetJobCountEventTrigger, BaseTrigger)
        return
    from airflow.serialization import serialized_objects

    serialization = getattr(serialized_objects, "DagSerialization", serialized_objects.SerializedDAG)

    def dag(condition: str) -> DAG:
        room = Asset("room", watchers=[AssetWatcher(name="queue", trigger=watcher(condition))])
        return DAG("watched", schedule=[room])

    text = json.dumps(serialization.to_dict(dag("queued < 5")))
    assert "triggers.scnet.ScnetJobCountEventTrigger" in text
    with pytest.raises(Exception, match="unknown state 'pending'"):
        serialization.to_dict(dag("pending < 5"))


def test_it_shares_its_looks_with_gates_and_other_watchers(scnet: ScnetSimulator):
    scnet.set_counts("alice", queued=9)

    async def scenario() -> None:
        fired = [asyncio.ensure_future(first_event(watcher(poke_interval=3600))) for _ in range(3)]
        # It came last, and so passes when all of them have seen what it sees.
        gate = ScnetJobCountTrigger(condition="queued == 9", poke_interval=3600)
        await first_event(gate)
        assert len(scnet.requests) == 1
        assert not any(task.done() for task in fired)
        for task in fired:
            task.cancel()

    asyncio.run(scenario())


def test_over_http_it_brings_what_it_saw_and_no_claim_keeps_it_from_firing(scnet: ScnetSimulator):
    scnet.set_counts("alice", running=1, queued=9)

    async def scenario() -> dict[str, Any]:
        fired = asyncio.ensure_future(first_event(watcher(poke_interval=INTERVAL)))
        await first_event(ScnetJobCountTrigger(condition="queued == 9", poke_interval=INTERVAL))
        assert claimed((scnet.url, "alice")) == 1
        scnet.set_counts("alice", running=1, queued=4)
        payload = (await fired).payload
        assert claimed((scnet.url, "alice")) == 1
        return payload

    payload = asyncio.run(scenario())
    assert json.loads(json.dumps(payload)) == payload
    assert payload.pop("observed_at").endswith("+00:00")
    assert payload == {
        "condition": "queued < 5",
        "user_name": "alice",
        "scnet_conn_id": "scnet_default",
        "counts": {"running": 1, "queued": 4, "held": 0, "suspended": 0, "other": 0, "total": 5},
    }


def test_an_event_is_stored_before_the_watcher_forgets_that_it_was_armed():
    store = Store()
    times = []

    class Timed(Store):
        async def aset(self, key: str, value: Any) -> None:
            times.append(clock.now())
            await super().aset(key, value)

    timed = Timed()
    timed.values = store.values
    assert fires([9, 4, 4], timed) == [2]
    armed, disarmed = times
    assert disarmed - armed >= MINUTE + watchers.STORED_AFTER - 1


def test_parsing_a_dag_with_a_watcher_brings_neither_the_hook_nor_what_it_asks_with_along():
    code = (
        "import sys; import airflow_provider_scnet.triggers.scnet as t;"
        "t.ScnetJobCountEventTrigger(condition='queued < 5').serialize();"
        "print([m for m in sys.modules if m.startswith('airflow_provider_scnet.hooks')"
        " or m == 'airflow_provider_scnet.client.transport'])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]"

# SPDX-License-Identifier: Apache-2.0
"""Who sees an observation first among the gates that share a poll."""

from __future__ import annotations

import asyncio
import contextlib
from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_scnet.claims.waiting import WaitingGate
from airflow_provider_scnet.client.observation import Observation
from airflow_provider_scnet.event_loop import clock
from airflow_provider_scnet.polling.accounts import Accounts
from airflow_provider_scnet.polling.waiter import Wake, first_observation
from airflow_provider_scnet.triggers.scnet import _priority_of
from benchmarks import virtual_time

from observations import HEALS, Cluster


@pytest.mark.parametrize(
    ("priorities", "order"),
    [([1, 1, 1], [0, 1, 2]), ([1, 3, 2], [1, 2, 0]), ([0, 5, 5], [1, 2, 0])],
)
def test_the_urgent_gates_come_first_and_then_those_that_came_first(priorities: list[int], order: list[int]):
    async def scenario() -> list[int]:
        accounts, seen = Accounts(Cluster(4), Airflow()), []
        poller = accounts.poller("scnet_default", None)
        with contextlib.ExitStack() as stack:
            for number, priority in enumerate(priorities):

                def wake_for(observation: Any, number: int = number) -> Wake:
                    seen.append(number)
                    return Wake.NEWS

                gate = WaitingGate(None, jobs=1, ttl=180.0, priority=priority)
                waiter = stack.enter_context(poller.waiter(60.0, None, gate, wake_for))
            await first_observation([waiter])
        return seen

    assert virtual_time.run(scenario()) == order


class Airflow:
    """Nobody asks it about gates that it does not know."""

    async def states(self, *asked: Any) -> Any:
        raise AssertionError(asked)

    count = ended = states


def test_nothing_is_shown_twice_to_a_gate_that_comes_back_for_the_next_observation():
    async def scenario() -> list[float]:
        accounts = Accounts(Cluster(4), Airflow())
        poller = accounts.poller("scnet_default", None)
        with poller.waiter(60.0, None, WaitingGate(None, jobs=1, ttl=180.0)) as waiter:
            found = [await first_observation([waiter]) for _ in range(3)]
        await asyncio.sleep(0)
        return [observation.at for _, observation in found]

    first, second, third = virtual_time.run(scenario())
    assert (second - first, third - second) == (60.0, 60.0)


def test_an_observation_has_the_time_by_which_the_gates_wait():
    async def scenario() -> tuple[float, float]:
        return Observation(error=HEALS).at, clock.now()

    at, now = virtual_time.run(scenario())
    assert at == now


@pytest.mark.parametrize(
    ("task_instance", "priority"),
    [
        (SimpleNamespace(priority_weight=7), 7),
        (SimpleNamespace(priority_weight=0, task=None), 0),
        (SimpleNamespace(), 0),
        (SimpleNamespace(task=None), 0),
        (SimpleNamespace(task=SimpleNamespace()), 0),
        (SimpleNamespace(task=SimpleNamespace(weight_rule=SimpleNamespace(get_weight=lambda ti: 23))), 23),
        (SimpleNamespace(task=SimpleNamespace(weight_rule=SimpleNamespace(get_weight=lambda ti: ti.nothing))), 0),
    ],
)
def test_the_priority_is_read_from_whichever_task_instance_a_triggerer_has(task_instance: Any, priority: int):
    assert _priority_of(task_instance) == priority

# SPDX-License-Identifier: Apache-2.0
"""Whose turn it is to decide: however slow messages are, whoever dies or sleeps, no two let gates through at once."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import dataclasses
import functools
import itertools
import random
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any
from unittest import mock

import pytest

from airflow_provider_scnet.claims.claim import Claim
from airflow_provider_scnet.claims.claim_terms import Terms
from airflow_provider_scnet.claims.ledger import MOST_TRIES, Ledger, NotDecidedError
from airflow_provider_scnet.claims.turn import GIVEN_BACK_WITHIN, LONGEST_SECTION, TAKEN_OVER_AFTER, WAIT
from airflow_provider_scnet.claims.variable_store import GIVEN_UP_AFTER, PAUSE_AFTER_FAILURE
from airflow_provider_scnet.event_loop import clock
from airflow_provider_scnet.event_loop.shielded_call import LONGEST_ANSWER
from benchmarks import virtual_time

from ledger_world import ACCOUNT, MESSAGE, Airflow, World, gate, now, opened, scenario

# Many processes, and all that can go wrong

#: Seconds for which one situation is simulated at most, and for how long after all room is taken: messages that are
#: late have landed by then, and whoever died has come back.
SPAN, AFTER_FULL = 1500.0, 150.0
#: How many situations are simulated, by the number of processes.
SEEDS = {2: 7, 4: 5, 16: 1}
#: A claim that does not end meanwhile, and of which nobody asks what became of it.
ENDLESS = Terms(1, 1e6)
#: For how many seconds the monotonic clock of the process that runs has stood still.
_asleep: contextvars.ContextVar[list[float]] = contextvars.ContextVar("asleep")
_asleep.set([0.0])


@dataclasses.dataclass(frozen=True)
class Situation:
    """
    What goes on.

    :param message: seconds that a message takes on average, each way
    :param late: the share of messages that take up to 21 s, each way: Airflow's own retries
    :param crash: the share of sections in which the process dies, to come back without what it knew
    :param sleep: the share of messages after which the process is suspended, with or without its monotonic clock
    """

    message: float = 0.02
    late: float = 0.0
    crash: float = 0.0
    sleep: float = 0.0


class Shared:
    """Airflow's Variables, and what came of them."""

    def __init__(self, situation: Situation, chance: random.Random) -> None:
        self.situation = situation
        self.chance = chance
        self.values: dict[str, str] = {}
        self.opened: list[Claim] = []
        self.stats: Counter[str] = Counter()
        self.end = now() + SPAN
        #: The sections in which gates were let through: whose, from when until when.
        self.sections: list[tuple[str, float, float]] = []

    def open(self, claims: list[Claim], room: int) -> None:
        was_full = len(self.opened) >= room
        self.opened.extend(claims)
        if len(self.opened) >= room and not was_full:
            self.end = now() + AFTER_FULL

    def delay(self) -> float:
        if self.chance.random() < self.situation.late:
            return self.chance.uniform(3.0, 21.0)
        return self.chance.expovariate(1 / self.situation.message)


class Connection:
    """One process's way to Airflow, which dies with it: what was sent by then may land yet."""

    def __init__(self, shared: Shared, asleep: list[float]) -> None:
        self.shared = shared
        self.asleep = asleep
        self.is_dead = False
        self.asked_at = 0.0

    async def get_variable(self, key: str) -> str | None:
        if key.startswith("scnet_turn"):
            self.asked_at = now()
        await self._send()
        value = self.shared.values.get(key)
        await self._come_back()
        return value

    async def set_variable(self, key: str, value: str, description: str) -> None:
        await self._send()
        self.shared.values[key] = value
        await self._come_back()

    async def _send(self) -> None:
        if self.is_dead:
            raise ConnectionError
        await asyncio.sleep(self.shared.delay())

    async def _come_back(self) -> None:
        await asyncio.sleep(self.shared.delay())
        if self.shared.chance.random() < self.shared.situation.sleep:
            seconds = self.shared.chance.uniform(0.3, 80.0)
            # The whole machine sleeps, and its monotonic clock with it; or the process alone is stopped.
            self.asleep[0] += seconds * self.shared.chance.choice((0, 1))
            await asyncio.sleep(seconds)


class Process:
    """One triggerer, which lets through what there is room for."""

    def __init__(self, name: str, shared: Shared, room: int) -> None:
        self.name = name
        self.shared = shared
        self.room = room
        self.numbers = itertools.count()
        self.interval = shared.chance.choice((2.0, 5.0, 10.0))
        self.asleep = [0.0]

    async def live(self) -> None:
        _asleep.set(self.asleep)
        chance = self.shared.chance
        while now() < self.shared.end:
            self.connection = Connection(self.shared, self.asleep)
            self.ledger = Ledger(ACCOUNT, self.connection)  # type: ignore[arg-type]
            dies = asyncio.Event()
            living = asyncio.ensure_future(self.poll(dies))
            dying = asyncio.ensure_future(dies.wait())
            await asyncio.wait([living, dying], return_when=asyncio.FIRST_COMPLETED)
            dying.cancel()
            if not living.done():
                self.shared.stats["crashes"] += 1
                self.connection.is_dead = True
                living.cancel()
                await asyncio.wait([living])
                await asyncio.sleep(chance.uniform(5.0, 40.0))
            else:
                living.result()

    async def poll(self, dies: asyncio.Event) -> None:
        chance, stats = self.shared.chance, self.shared.stats
        while now() < self.shared.end:
            await asyncio.sleep(chance.uniform(0.75, 1.25) * self.interval)
            await self.ledger.refresh(clock.now(), {})
            if self.claimed() >= self.room and not self.ledger.has_to_write:
                continue
            admitted: list[Claim] = []
            try:
                await self.ledger.decide(functools.partial(self.admit, admitted, dies))
            except NotDecidedError:
                stats["not decided"] += 1
            else:
                self.shared.open(admitted, self.room)
                if admitted:
                    self.shared.sections.append((self.name, self.connection.asked_at, now()))

    def admit(self, admitted: list[Claim], dies: asyncio.Event) -> list[Claim]:
        chance = self.shared.chance
        number = min(chance.randint(1, 3), max(0, self.room - self.claimed()))
        gates = [gate(next(self.numbers), task=self.name) for _ in range(number)]
        admitted[:] = [self.ledger.claim(each, ENDLESS) for each in gates]
        if chance.random() < self.shared.situation.crash:
            # Some time while what was decided is written, or right after.
            asyncio.get_running_loop().call_later(chance.expovariate(10.0), dies.set)
        return admitted

    def claimed(self) -> int:
        return self.ledger.totals(clock.now()).claimed().jobs


async def play(seed: int, processes: int, situation: Situation) -> tuple[int, Shared]:
    """Return how many were let through for whom there was no room, and more of what happened."""
    chance = random.Random(seed)
    random.seed(seed)
    shared, room = Shared(situation, chance), chance.choice((5, 20, 60))

    def monotonic() -> float:
        return now() - _asleep.get()[0]

    with mock.patch.object(clock, "now", monotonic), mock.patch.object(clock, "wall", now):
        await asyncio.gather(*(Process(f"p{number}", shared, room).live() for number in range(processes)))
    return len(shared.opened) - room, shared


def simulate(situation: Situation, seeds: dict[int, int]) -> tuple[int, int, int, Counter[str]]:
    """Return how many were let through in all, for how many of them was no room, and how often some was left."""
    opened = over = left = 0
    stats: Counter[str] = Counter()
    for processes, number in seeds.items():
        for seed in range(number):
            more, shared = virtual_time.run(play(1000 * processes + seed, processes, situation))
            opened, over, left = opened + len(shared.opened), over + max(more, 0), left + (more < 0)
            stats += shared.stats
    return opened, over, left, stats


def test_nobody_is_let_through_for_whom_there_is_no_room_and_no_room_is_left():
    opened, over, left, _ = simulate(Situation(), SEEDS)
    assert opened > 200
    assert (over, left) == (0, 0)


def test_nobody_is_let_through_for_whom_there_is_no_room_while_processes_die_and_some_messages_are_late():
    opened, over, _, stats = simulate(Situation(late=0.001, crash=0.05), SEEDS)
    assert opened > 200
    assert stats["crashes"] > 10
    assert over == 0


def test_nobody_is_let_through_for_whom_there_is_no_room_while_machines_sleep_and_processes_are_stopped():
    opened, over, _, stats = simulate(Situation(crash=0.02, sleep=0.02), SEEDS)
    assert opened > 200
    assert stats["not decided"] > 5
    assert over == 0


def test_where_one_message_in_twenty_is_late_hardly_anybody_is_let_through_for_whom_there_is_no_room():
    """A claim that lands when its section is long over is overwritten, or overwrites: nothing can exclude that."""
    opened, over, _, _ = simulate(Situation(late=0.05, crash=0.05), SEEDS)
    assert opened > 200
    assert over < opened / 100


@pytest.mark.parametrize("situation", [Situation(), Situation(message=0.1, late=0.02, crash=0.02, sleep=0.01)])
def test_no_two_sections_overlap(situation):
    seen = 0
    for seed in range(4):
        _, shared = virtual_time.run(play(seed, 4, situation))
        sections = sorted(shared.sections, key=lambda section: section[1])
        for (one, _, end), (other, begin, _) in itertools.pairwise(sections):
            # One process has several, and decides in one after another.
            assert end <= begin or one == other
            seen += one != other
    assert seen > 10


# One turn


def turn_key(airflow: Airflow) -> str:
    (key,) = (key for key in airflow.variables if key.startswith("scnet_turn_"))
    return key


async def seconds_until_open(world: World) -> float:
    since = now()
    while True:
        with contextlib.suppress(NotDecidedError):
            await world.open(gate(1))
            return now() - since


@scenario
async def test_a_turn_is_asked_for_written_read_back_and_given_back(world: World):
    await world.open(gate(0))
    turn, claims = turn_key(world.airflow), world.airflow.claims_key
    assert world.airflow.messages == [
        ("read", turn),
        ("written", turn),
        ("read", claims),
        ("read", turn),
        ("written", claims),
        ("written", turn),
    ]
    assert world.airflow.variables[turn] == "free"


@scenario
async def test_where_nothing_opens_in_a_turn_nothing_is_written_of_claims(world: World):
    await world.ledger.decide(tuple)
    assert not any(key.startswith("scnet_claims") for kind, key in world.airflow.messages if kind == "written")


@scenario
async def test_a_turn_that_somebody_holds_is_waited_for(world: World):
    await world.open(gate(0))
    key = turn_key(world.airflow)
    world.airflow.variables[key] = "somebody"
    opening = asyncio.ensure_future(world.open(gate(1)))
    await asyncio.sleep(30)
    assert not opening.done()
    assert world.airflow.variables[key] == "somebody"
    world.airflow.variables[key] = "free"
    await asyncio.sleep(3)
    assert opening.done()


@scenario
async def test_a_holder_that_does_not_change_is_taken_over_after_a_minute_and_not_before(world: World):
    await world.open(gate(0))
    world.airflow.variables[turn_key(world.airflow)] = "somebody who died"
    took = await seconds_until_open(world)
    assert TAKEN_OVER_AFTER <= took < TAKEN_OVER_AFTER + WAIT + 2
    assert TAKEN_OVER_AFTER == 60


@scenario
async def test_a_holder_that_changes_is_not_taken_over(world: World):
    await world.open(gate(0))
    key = turn_key(world.airflow)

    async def others() -> None:
        for number in range(20):
            world.airflow.variables[key] = f"another {number}"
            await asyncio.sleep(TAKEN_OVER_AFTER - 5)

    holding = asyncio.ensure_future(others())
    await asyncio.sleep(0)
    for _ in range(5):
        with pytest.raises(NotDecidedError, match="another triggerer decides, or died while it did"):
            await world.open(gate(1))
    holding.cancel()


@scenario
async def test_who_reads_another_name_back_lets_nobody_through(world: World):
    await world.open(gate(0))
    key = turn_key(world.airflow)
    opening = asyncio.ensure_future(world.open(gate(1)))
    admitted = len(world.airflow.rows)
    for _ in range(3):
        # It is read, written, waited for, and read back.
        await asyncio.sleep(WAIT)
        world.airflow.variables[key] = "somebody"
        await asyncio.sleep(2 * WAIT)
        world.airflow.variables[key] = "free"
    with pytest.raises(NotDecidedError, match="other triggerers decide at the same moment"):
        await asyncio.wait_for(opening, 30)
    assert len(world.airflow.rows) == admitted
    assert await world.jobs() == 1


@scenario
async def test_a_turn_that_takes_too_long_lets_nobody_through_and_its_claim_is_nobodys(world: World):
    await opened(world, "running")
    other = World(world.airflow)
    world.airflow.message_takes = LONGEST_SECTION / 2
    with pytest.raises(NotDecidedError, match=r"it took Airflow .* s to read the turn and write the claims"):
        await world.open(gate(1))
    world.airflow.message_takes = 0.0
    # It is written, and counts for whoever cannot know better; and not for whoever has made it.
    assert len(world.airflow.rows) == 2
    assert await other.jobs() == 2
    assert await world.jobs() == 1
    assert world.ledger.has_to_write
    # At the next turn it is taken out.
    await world.ledger.decide(tuple)
    assert len(world.airflow.rows) == 1
    assert await other.jobs() == 1
    assert not world.ledger.has_to_write


@scenario
async def test_a_turn_that_takes_a_little_less_lets_through(world: World):
    # Two messages, and all that they take is measured.
    world.airflow.message_takes = LONGEST_SECTION / 2 - 2 * MESSAGE - 0.01
    await world.open(gate(0))
    assert await world.jobs() == 1


@scenario
async def test_where_the_next_try_is_quick_the_gate_opens_and_only_its_last_claim_counts(world: World):
    world.airflow.message_takes = LONGEST_SECTION / 2
    set_variable = world.airflow.set_variable

    async def quick_from_then_on(key: str, *given: Any) -> None:
        await set_variable(key, *given)
        world.airflow.message_takes *= not key.startswith("scnet_claims")

    world.airflow.set_variable = quick_from_then_on  # type: ignore[method-assign]
    (claim,) = await world.open(gate(0))
    assert Counter(key for kind, key in world.airflow.messages if kind == "written")[world.airflow.claims_key] == 2
    assert [row[0] for row in world.airflow.rows] == [claim.id]
    assert await world.jobs() == await World(world.airflow).jobs() == 1


@pytest.mark.parametrize("stands_still", ["monotonic", "wall"])
def test_a_turn_in_which_the_machine_slept_lets_nobody_through(stands_still):
    """One of its clocks may have stood still meanwhile."""

    @scenario
    async def run(world: World) -> None:
        slept = 0.0

        def goes_on() -> float:
            return now() + slept

        with mock.patch.object(clock, "now" if stands_still == "wall" else "wall", goes_on):
            set_variable = world.airflow.set_variable

            async def sleep(key: str, *given: Any) -> None:
                nonlocal slept
                await set_variable(key, *given)
                slept += 30.0 * key.startswith("scnet_claims")

            world.airflow.set_variable = sleep  # type: ignore[method-assign]
            with pytest.raises(NotDecidedError):
                await world.open(gate(0))
            assert len(world.airflow.rows) == 1
            assert world.ledger.totals(clock.now()).claimed().jobs == 0
            assert world.ledger.has_to_write

    run()


@scenario
async def test_a_turn_that_took_more_than_twenty_seconds_is_not_given_back(world: World):
    """Somebody else may hold it by then."""
    get_variable, is_slow = world.airflow.get_variable, True

    async def slow(key: str) -> str | None:
        if is_slow and world.airflow.variables.get(key, "free") != "free":
            await asyncio.sleep(GIVEN_BACK_WITHIN)
        return await get_variable(key)

    world.airflow.get_variable = slow  # type: ignore[method-assign]
    with pytest.raises(NotDecidedError):
        await world.open(gate(0))
    holder = world.airflow.variables[turn_key(world.airflow)]
    assert holder != "free"
    turns = [key for kind, key in world.airflow.messages if kind == "written" and key.startswith("scnet_turn")]
    assert len(turns) == MOST_TRIES
    # It is its own, and is taken over like that of anybody else.
    is_slow = False
    other = World(world.airflow)
    assert TAKEN_OVER_AFTER <= await seconds_until_open(other) < TAKEN_OVER_AFTER + 5


@scenario
async def test_a_turn_that_took_a_little_less_is_given_back(world: World):
    get_variable = world.airflow.get_variable

    async def slow(key: str) -> str | None:
        if world.airflow.variables.get(key, "free") != "free":
            await asyncio.sleep(GIVEN_BACK_WITHIN - 1)
        return await get_variable(key)

    world.airflow.get_variable = slow  # type: ignore[method-assign]
    with pytest.raises(NotDecidedError):
        await world.open(gate(0))
    assert world.airflow.variables[turn_key(world.airflow)] == "free"


@scenario
async def test_a_turn_whose_wait_is_ended_is_given_back(world: World):
    """All gates of a poller may leave in that second; others must not wait a minute for that."""
    opening = asyncio.ensure_future(world.open(gate(0)))
    await asyncio.sleep(WAIT / 2)
    assert world.airflow.variables[turn_key(world.airflow)] != "free"
    opening.cancel()
    await asyncio.gather(opening, return_exceptions=True)
    assert world.airflow.variables[turn_key(world.airflow)] == "free"
    assert await seconds_until_open(World(world.airflow)) < 2 * WAIT


@scenario
async def test_what_is_decided_here_is_decided_one_after_another(world: World):
    """Several pollers of one account share its ledger."""
    claims = await asyncio.gather(*(world.open(gate(index)) for index in range(3)))
    assert len({claim.id for (claim,) in claims}) == 3
    assert await world.jobs() == len(world.airflow.rows) == 3


def test_two_ledgers_of_one_account_in_one_process_are_two_processes():
    """As with two event loops."""
    airflow: list[Airflow] = []

    def on_its_own_loop(test: Callable[[World], Coroutine[Any, Any, None]]) -> None:
        async def run() -> None:
            given = Airflow()
            if airflow:
                given.variables, given.found = airflow[0].variables, airflow[0].found
            airflow.append(given)
            await test(World(given))

        virtual_time.run(run())

    async def first(world: World) -> None:
        await world.open(gate(0))

    async def second(world: World) -> None:
        assert await world.jobs() == 1
        await world.open(gate(1))
        assert await world.jobs() == 2
        assert len({row[0] for row in world.airflow.rows}) == 2

    on_its_own_loop(first)
    on_its_own_loop(second)


@scenario
async def test_other_accounts_have_other_turns_and_claims(world: World):
    bob = World(world.airflow)
    bob.ledger = Ledger(("https://h", "bob"), world.airflow)
    await asyncio.gather(world.open(gate(0)), bob.open(gate(1)))
    assert await world.jobs() == await bob.jobs() == 1
    assert len(world.airflow.variables) == 4


def test_many_accounts_that_decide_at_the_same_moment_all_let_through():
    """Airflow answers one message after another: those of one turn must not wait for those of all others."""

    class Supervisor(Airflow):
        def __init__(self) -> None:
            super().__init__()
            self.answering = asyncio.Lock()

        async def _message(self, kind: str, key: str) -> None:
            async with self.answering:
                await asyncio.sleep(LONGEST_SECTION / 4)

    async def run() -> None:
        airflow, messages = Supervisor(), asyncio.Lock()
        ledgers = [Ledger(("https://h", f"user {number}"), airflow, messages) for number in range(20)]  # type: ignore[arg-type]

        async def poll(ledger: Ledger) -> None:
            await ledger.refresh(now(), {})
            await ledger.decide(lambda: [ledger.claim(gate(), ENDLESS)])
            await ledger.decide(lambda: [ledger.claim(gate(1), ENDLESS)])

        await asyncio.gather(*map(poll, ledgers))
        assert [ledger.totals(now()).claimed().jobs for ledger in ledgers] == [2] * 20

    virtual_time.run(run())


# Variables that cannot be used


@scenario
async def test_where_claims_cannot_be_written_nobody_is_let_through_and_nothing_is_written_for_a_minute(
    world: World,
):
    await opened(world, "running", ttl=1000)
    world.airflow.failures["written"] = RuntimeError("API_SERVER_ERROR")
    with pytest.raises(NotDecidedError, match=r"Variables cannot be written \(.*RuntimeError: API_SERVER_ERROR\)"):
        await world.open(gate(1))
    failed_at = now()
    world.airflow.failures.clear()
    while now() < failed_at + PAUSE_AFTER_FAILURE - 1:
        before = Counter(kind for kind, _ in world.airflow.messages)["written"]
        with pytest.raises(NotDecidedError, match="cannot be written"):
            await world.open(gate(1))
        assert Counter(kind for kind, _ in world.airflow.messages)["written"] == before
        # What is written is read all the same.
        assert await world.after(5) == 1
        assert world.notes() == ""
    await world.sleep(10)
    await world.open(gate(1))
    assert await world.jobs() == len(world.airflow.rows) == 2
    assert PAUSE_AFTER_FAILURE == 60


@scenario
async def test_the_first_answer_of_a_triggerers_life_may_take_a_minute(world: World):
    """Its supervisor builds a server first: seen to take 40 s where four Airflows shared two processors."""
    get_variable, seconds = world.airflow.get_variable, iter([60.0])

    async def slow(key: str) -> str | None:
        await asyncio.sleep(next(seconds, 0.0))
        return await get_variable(key)

    world.airflow.get_variable = slow  # type: ignore[method-assign]
    before = now()
    await world.open(gate(1))
    assert now() - before < 60 + PAUSE_AFTER_FAILURE / 2
    assert world.notes() == ""


@scenario
async def test_where_it_is_not_known_whether_claims_were_written_nobody_is_let_through(world: World):
    """Airflow does not answer, and the message lands later."""
    await opened(world, "running", ttl=10_000)
    lands, set_variable, late = asyncio.Event(), world.airflow.set_variable, True

    async def slow(key: str, *given: Any) -> None:
        if late and key.startswith("scnet_claims"):
            await lands.wait()
        await set_variable(key, *given)

    world.airflow.set_variable = slow  # type: ignore[method-assign]
    with pytest.raises(NotDecidedError, match=f"no answer within {LONGEST_ANSWER:.0f} s"):
        await world.open(gate(1))
    late = False
    lands.set()
    assert await world.after(1) == 1
    assert len(world.airflow.rows) == 2
    # Nor was the turn given back, which is taken over by and by.
    await seconds_until_open(world)
    assert await world.jobs() == len(world.airflow.rows) == 2


@scenario
async def test_where_claims_cannot_be_read_nobody_is_let_through_and_the_log_says_so(world: World):
    await opened(world, "running")
    world.airflow.failures["read"] = RuntimeError("API_SERVER_ERROR")
    assert await world.after(10) == 1
    assert "API_SERVER_ERROR); nothing opens that has to claim" in world.notes()
    with pytest.raises(NotDecidedError, match="cannot be read"):
        await world.open(gate(1))
    # Airflow's own retries hold up its supervisor: it is left alone for a while.
    reads = Counter(kind for kind, _ in world.airflow.messages)["read"]
    world.airflow.failures.clear()
    await world.poll()
    assert "API_SERVER_ERROR); nothing opens that has to claim" in world.notes()
    assert Counter(kind for kind, _ in world.airflow.messages)["read"] == reads
    await world.after(PAUSE_AFTER_FAILURE)
    assert world.notes() == ""


@scenario
async def test_while_variables_can_be_read_nothing_opens_that_cannot_be_written_down(world: World):
    """Others may be able to write: what they claim is known, and what is claimed here would not be."""
    await opened(world, "running", ttl=1000)
    world.airflow.failures["written"] = RuntimeError("API_SERVER_ERROR")
    for _ in range(10):
        with pytest.raises(NotDecidedError, match="cannot be written"):
            await world.open(gate(1))
        assert await world.after(PAUSE_AFTER_FAILURE) == 1


def test_after_five_minutes_in_which_no_variable_could_be_used_memory_alone_goes_on_and_the_log_says_what_that_means():
    @scenario
    async def run(world: World) -> None:
        await opened(world, "running", ttl=1000)
        world.airflow.failures |= dict.fromkeys(("read", "written"), RuntimeError("API_SERVER_ERROR"))
        since = now()
        while now() < since + GIVEN_UP_AFTER - 10:
            with pytest.raises(NotDecidedError):
                await world.open(gate(1))
            assert await world.after(5) == 1
            assert "this triggerer alone" not in world.notes()
        await world.sleep(since + GIVEN_UP_AFTER + 20 - now())
        await world.open(gate(1))
        assert await world.jobs() == 2
        assert (
            "gates go by what this triggerer alone has let through, so that several triggerers may submit more "
            "than the condition allows"
        ) in world.notes()
        assert GIVEN_UP_AFTER == 300
        # When Variables work again they are used, and what was claimed meanwhile is written.
        world.airflow.failures.clear()
        await world.sleep(PAUSE_AFTER_FAILURE)
        await world.poll()
        assert world.ledger.has_to_write
        await world.ledger.decide(tuple)
        await world.poll()
        assert world.notes() == ""
        assert len(world.airflow.rows) == 2
        assert await World(world.airflow).jobs() == 2

    run()


@scenario
async def test_two_failures_with_an_answer_between_them_are_no_five_minutes_of_failures(world: World):
    """While nothing would open nothing is written, and so nothing says that it would work."""
    await opened(world, "running", ttl=10_000)
    world.airflow.failures["written"] = RuntimeError("API_SERVER_ERROR")
    with pytest.raises(NotDecidedError):
        await world.open(gate(1))
    world.airflow.failures.clear()
    for _ in range(10):
        await world.after(60)
        assert world.notes() == ""
    world.airflow.failures["written"] = RuntimeError("API_SERVER_ERROR")
    with pytest.raises(NotDecidedError):
        await world.open(gate(1))


@scenario
async def test_a_message_is_never_cancelled_and_no_other_is_sent_beside_it(world: World):
    answers, under_way, cancelled = asyncio.Event(), 0, 0
    get_variable = world.airflow.get_variable

    async def counted(key: str) -> str | None:
        nonlocal under_way, cancelled
        under_way += 1
        assert under_way == 1
        try:
            await answers.wait()
            return await get_variable(key)
        except asyncio.CancelledError:
            cancelled += 1
            raise
        finally:
            under_way -= 1

    world.airflow.get_variable = counted  # type: ignore[method-assign]
    opening = asyncio.ensure_future(world.open(gate(0)))
    await asyncio.sleep(1)
    opening.cancel()
    await asyncio.wait([opening])
    with pytest.raises(NotDecidedError):
        await world.open(gate(0))
    assert under_way == 1
    answers.set()
    await asyncio.sleep(PAUSE_AFTER_FAILURE)
    await world.open(gate(0))
    assert cancelled == 0


@scenario
async def test_a_process_that_is_ended_while_it_decides_gives_its_turn_back(world: World):
    other = World(world.airflow)
    opening = asyncio.ensure_future(world.open(gate(0)))
    # It has read its name back, and reads what is claimed.
    await asyncio.sleep(WAIT + 7 * MESSAGE)
    opening.cancel()
    await asyncio.wait([opening])
    assert world.airflow.variables[turn_key(world.airflow)] == "free"
    assert await seconds_until_open(other) < 2 * WAIT

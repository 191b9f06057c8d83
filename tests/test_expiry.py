# SPDX-License-Identifier: Apache-2.0
"""
The table of phases is the whole rule: whatever its cells say, all that is derived from them follows.

Each test puts a row of its own into the table, brings a claim into that phase by what Airflow says, and looks at
what gates count, what is asked, what is said and what is written.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from airflow_provider_scnet.claims.claim import Claim
from airflow_provider_scnet.claims.expiry import LONGEST_PHASE, TABLE, Phase, Row, Scope, Span
from airflow_provider_scnet.claims.submission_follower import FOLLOW_EVERY

from ledger_world import COUNTED_AFTER, TTL, WITNESS, World, gate, now, scenario, terms

OWN = gate(1)


def but(*phases: Phase) -> list[Any]:
    """All phases but some of which a test can say nothing."""
    return [pytest.param(phase, id=phase.value) for phase in Phase if phase not in phases]


ALL = but()
LONGEST = 20_000.0
#: What the log says may be the matter.
HINT = "is it the weather?"

#: What Airflow says in each phase: of the gate, of the submission, of the task before it, and of the run.
SAYS: dict[Phase, tuple[str, str | None, str, str | None]] = {
    Phase.OPENING: ("deferred", None, "success", None),
    Phase.WAITS_UPSTREAM: ("success", None, "running", None),
    Phase.NOT_SCHEDULED: ("success", None, "success", None),
    Phase.RUN_QUEUED: ("success", None, "success", "queued"),
    Phase.PENDING: ("success", "scheduled", "success", None),
    Phase.STARTED: ("success", "running", "success", None),
    Phase.ENDED: ("success", "success", "success", None),
    Phase.RENAMED: ("success", "removed", "success", None),
    Phase.DROPPED: ("success", "skipped", "success", None),
}


@pytest.fixture
def put(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Row]:
    """Change cells of a row of the table; the others of this row are as in an empty one."""

    def change(phase: Phase, **cells: Any) -> Row:
        row = Row(**cells)
        monkeypatch.setitem(TABLE, phase, row)
        return row

    return change


def says(world: World, phase: Phase, map_index: int = 0) -> None:
    gate_state, submit, before, run = SAYS[phase]
    world.airflow.set(gate(map_index), gate_state, submit=submit, before=before)
    world.airflow.runs = {"run": run} if run else {}


async def enter(world: World, phase: Phase, **given: Any) -> Claim:
    """Let a gate open, and its claim come into a phase."""
    given = {"ttl": LONGEST, "upstream": {"before": True}, **given}
    says(world, phase)
    (claim,) = await world.open(gate(0), **given)
    await world.poll()
    assert claim.phase is phase
    return claim


def counted(world: World, at: float, *who: Any) -> list[int]:
    totals = world.ledger.totals(at)
    return [totals.claimed(each).jobs for each in who]


# Who counts it, and until when

SPANS = [
    Span(),
    Span(seconds=7),
    Span(claim_ttls=2),
    Span(claim_ttls=0.1, counted_afters=1, seconds=20),
    Span(seconds=5000),
]


@pytest.mark.parametrize("own_task", SPANS, ids=lambda span: f"own {span.of(terms()):g} s")
@pytest.mark.parametrize("everybody", SPANS, ids=lambda span: f"all {span.of(terms()):g} s")
@pytest.mark.parametrize("phase", ALL)
def test_whoever_the_table_says_counts_a_claim_for_as_long_as_it_says(put, phase, everybody, own_task):
    put(phase, everybody=everybody, own_task=own_task)

    @scenario
    async def run(world: World) -> None:
        # A claim of which nothing is heard would end a claim_ttl after the last answer: it is heard of all the time.
        claim = await enter(world, phase, ttl=TTL)
        begin = claim.opened_at if phase is Phase.OPENING else now()
        all_for, own_for = everybody.of(claim.terms), everybody.of(claim.terms)
        own_for = max(own_for, own_task.of(claim.terms))
        for seconds in sorted({0.1, all_for - 0.5, all_for + 0.5, own_for - 0.5, own_for + 0.5} - {-0.5}):
            while now() < begin + seconds:
                await world.sleep(min(TTL / 2, begin + seconds - now()))
                await world.poll()
            at = begin + seconds
            if at < now() - TTL:
                continue
            expected = [int(seconds < all_for), int(seconds < own_for)]
            assert counted(world, at, WITNESS, OWN) == expected
            scope = Scope.EVERYBODY if expected[0] else Scope.OWN_TASK if expected[1] else Scope.NOBODY
            assert claim.scope(at) is scope
        left = {Scope.EVERYBODY: all_for, Scope.OWN_TASK: own_for}
        # What never counts may have begun at any time.
        if own_for:
            for scope, lasts in left.items():
                end = begin + lasts
                if not claim.is_unended or lasts <= TTL:
                    assert claim.ends(scope) == pytest.approx(end, abs=0.1)

    run()


@pytest.mark.parametrize("phase", but(Phase.OPENING))
def test_what_never_counts_does_not_on_an_observation_either_that_was_made_before(put, phase):
    """But for its gate's opening itself, which is decided on such a one."""
    put(phase)

    @scenario
    async def run(world: World) -> None:
        at = now()
        world.airflow.takes = 0.2
        await enter(world, phase)
        assert counted(world, at, WITNESS, OWN) == [0, 0]

    run()


@pytest.mark.parametrize("of_dropped", [Span(), Span(claim_ttls=1)], ids=["never", "a claim_ttl"])
@pytest.mark.parametrize("phase", but(Phase.OPENING, Phase.DROPPED))
def test_a_row_goes_by_its_own_cells_whatever_the_row_of_what_is_dropped_says(put, phase, of_dropped):
    put(Phase.DROPPED, everybody=of_dropped, is_last=True)

    @scenario
    async def run(world: World) -> None:
        at = now()
        for span in (Span(claim_ttls=1), Span()):
            put(phase, everybody=span, own_task=span)
            other = World(world.airflow)
            await enter(other, phase)
            jobs = len(world.airflow.rows) if span.claim_ttls else 0
            assert counted(other, now(), WITNESS) == [jobs]
            assert counted(other, at, WITNESS) == [jobs]
            world.airflow.variables.clear()

    run()


@pytest.mark.parametrize("phase", ALL)
def test_no_claim_counts_for_more_than_a_day(put, phase):
    put(phase, everybody=Span(seconds=1e9), own_task=Span(seconds=1e9))

    @scenario
    async def run(world: World) -> None:
        claim = await enter(world, phase, ttl=1e9)
        assert claim.ends() == claim.ends(Scope.OWN_TASK) == claim.since + LONGEST_PHASE
        assert counted(world, claim.since + LONGEST_PHASE - 1, WITNESS, OWN) == [1, 1]
        assert counted(world, claim.since + LONGEST_PHASE + 1, WITNESS, OWN) == [0, 0]

    run()


@pytest.mark.parametrize("begins_anew", [False, True], ids=["from its phase on", "since the last start"])
@pytest.mark.parametrize("phase", ALL)
def test_spans_begin_anew_where_a_submission_of_the_same_task_starts_if_the_table_says_so(put, phase, begins_anew):
    put(phase, everybody=Span(seconds=100), own_task=Span(seconds=200), since_last_start=begins_anew)
    if phase is not Phase.STARTED:
        # It is counted by nobody, so that it is told from the other.
        put(Phase.STARTED)

    @scenario
    async def run(world: World) -> None:
        claim = await enter(world, phase)
        begin = claim.since
        await world.sleep(50)
        await world.open(gate(5, task="other"), gate(5))
        world.airflow.set(gate(5, task="other"), "success", submit="running")
        await world.sleep(begin + 59.5 - now())
        world.airflow.found["dag", "run", "gate", 5] = "success"
        await world.sleep(begin + 60.5 - now())
        started_at = now()
        await world.ledger.follow(started_at)
        later = started_at - begin if begins_anew else 0.0
        assert claim.ends() == pytest.approx(begin + 100 + later)
        assert claim.ends(Scope.OWN_TASK) == pytest.approx(begin + 200 + later)
        at = begin + 130
        assert claim.scope(at) is (Scope.EVERYBODY if begins_anew else Scope.OWN_TASK)
        assert claim.scope(begin + 230) is (Scope.OWN_TASK if begins_anew else Scope.NOBODY)

    run()


@pytest.mark.parametrize("exempts", [False, True], ids=["for all", "not for those upstream"])
@pytest.mark.parametrize("phase", ALL)
def test_gates_that_the_submission_waits_for_are_exempt_if_the_table_says_so(put, phase, exempts):
    put(phase, everybody=Span(seconds=100), own_task=Span(seconds=200), exempts_upstream=exempts)

    @scenario
    async def run(world: World) -> None:
        first, same = gate(3, task="first"), gate(3)
        claim = await enter(world, phase, gates=["first", "gate"])
        free = int(not exempts)
        other_run = gate(3, task="first", run="another")
        assert counted(world, now(), first, same, other_run, WITNESS) == [free, free, 1, 1]
        assert counted(world, now(), gate(3, run="another")) == [1]
        at = claim.since + 150
        assert counted(world, at, first, same, gate(3, run="another"), WITNESS) == [0, free, 1, 0]

    run()


@pytest.mark.parametrize("exempts", [False, True], ids=["for all", "not for those of the task"])
@pytest.mark.parametrize("phase", but(Phase.NOT_SCHEDULED, Phase.RUN_QUEUED))
def test_with_depends_on_past_gates_of_its_task_are_exempt_in_any_run_if_the_table_says_so(put, phase, exempts):
    put(phase, everybody=Span(seconds=100), own_task=Span(seconds=200), exempts_upstream=exempts)

    @scenario
    async def run(world: World) -> None:
        claim = await enter(world, phase, after_past_runs=True, gates=["gate"])
        free = int(not exempts)
        assert counted(world, now(), gate(3), gate(3, run="another"), WITNESS) == [free, free, 1]
        assert counted(world, claim.since + 150, gate(3), gate(3, run="another"), WITNESS) == [free, free, 0]

    run()


# Jobs that a list shows


@pytest.mark.parametrize("until_listed", [False, True], ids=["whatever is listed", "until it is listed"])
@pytest.mark.parametrize("phase", ALL)
def test_a_claim_does_not_count_once_a_list_shows_its_job_if_the_table_says_so(put, phase, until_listed):
    put(phase, everybody=Span(seconds=100), own_task=Span(seconds=200), until_listed=until_listed)

    @scenario
    async def run(world: World) -> None:
        claim = await enter(world, phase)
        claim.jobs["submit", 0] = "7"
        for at, who in ((now(), WITNESS), (claim.since + 150, OWN)):
            for listed, expected in (({"8"}, 1), ({"7", "8"}, int(not until_listed))):
                assert world.ledger.totals(at, listed=listed).claimed(who).jobs == expected
        assert world.ledger.knows_jobs is until_listed

    run()


# The end of a submission


@pytest.mark.parametrize("may_have", [False, True], ids=["cannot have submitted", "may have submitted"])
@pytest.mark.parametrize("phase", but(Phase.ENDED))
def test_the_end_of_a_submission_is_no_news_if_its_claim_had_expired_where_it_may_have_submitted(
    put, phase, may_have
):
    own_task = Span() if may_have else Span(seconds=200)
    put(phase, everybody=Span(seconds=100), own_task=own_task, may_have_submitted=may_have)

    @scenario
    async def run(world: World) -> None:
        # Before it expires it always is.
        for seconds, expected in ((50, 1), (150, int(not may_have)), (250, int(not may_have))):
            world.airflow.variables.clear()
            other = World(world.airflow)
            await enter(other, phase)
            await other.sleep(seconds)
            says(other, Phase.ENDED)
            await other.poll()
            assert counted(other, now(), WITNESS, OWN) == [expected, expected]
            await other.sleep(COUNTED_AFTER + 1)
            assert counted(other, now(), WITNESS, OWN) == [0, 0]

    run()


@pytest.mark.parametrize("grace", [Span(seconds=7), Span(claim_ttls=2), Span(counted_afters=0.5), Span()])
@pytest.mark.parametrize("phase", but(Phase.ENDED))
def test_after_the_end_of_a_submission_its_claim_counts_for_what_the_table_says_of_ended_ones(put, phase, grace):
    put(Phase.ENDED, everybody=grace, is_last=True)

    @scenario
    async def run(world: World) -> None:
        claim = await enter(world, phase, ttl=TTL)
        says(world, Phase.ENDED)
        await world.poll()
        seconds = grace.of(claim.terms)
        for after in (seconds - 0.5, seconds + 0.5) if seconds else (-10.0, 0.5):
            assert counted(world, now() + after, WITNESS, OWN) == [int(after < seconds and seconds > 0)] * 2

    run()


@pytest.mark.parametrize("grace", [Span(seconds=7), Span(counted_afters=2)])
def test_a_gate_that_was_cleared_leaves_a_claim_that_counts_for_what_the_table_says_of_ended_ones(put, grace):
    put(Phase.ENDED, everybody=grace, is_last=True)

    @scenario
    async def run(world: World) -> None:
        claim = await enter(world, Phase.STARTED, ttl=TTL)
        world.airflow.set(gate(0), "deferred")
        await world.poll()
        assert claim.ends() == pytest.approx(now() + grace.of(claim.terms), abs=0.1)

    run()


# What people are told, and when the next poll is due


@pytest.mark.parametrize("cells", [{}, {"may_have_submitted": True}, {"is_last": True}], ids=str)
@pytest.mark.parametrize("phase", ALL)
def test_what_the_log_says_is_left_of_a_claim_and_when_the_next_poll_is_due_follow(put, phase, cells):
    put(phase, everybody=Span(seconds=100), own_task=Span(seconds=200), **cells)

    @scenario
    async def run(world: World) -> None:
        claim = await enter(world, phase)
        for at, who, end in (
            (now(), WITNESS, claim.since + 100),
            (now(), OWN, claim.since + 100),
            (claim.since + 150, OWN, claim.since + 200),
        ):
            claimed = world.ledger.totals(at).claimed(who)
            assert world.ledger.next_end(at, {None}) == pytest.approx(end)
            # Nobody can tell where its submission may yet start.
            left = claimed.seconds_left
            assert left == (pytest.approx(end - now()) if cells else None)
            assert claimed.ended == int("is_last" in cells)
            assert claimed.unended == int("is_last" not in cells)
            assert bool(claimed.awaited) is ("is_last" not in cells)

    run()


@pytest.mark.parametrize(("hint", "is_last"), [(HINT, False), ("", False), (HINT, True)])
@pytest.mark.parametrize("phase", ALL)
def test_the_log_says_what_may_be_the_matter_once_everybody_has_ceased_to_count_it(put, phase, hint, is_last):
    put(phase, everybody=Span(seconds=100), own_task=Span(seconds=200), hint=hint, is_last=is_last)

    @scenario
    async def run(world: World) -> None:
        await enter(world, phase)
        assert world.notes() == ""
        await world.sleep(99)
        assert world.notes() == ""
        await world.sleep(2)
        for _ in range(2):
            assert world.notes().endswith(f": {HINT}" if hint and not is_last else "")
            assert bool(world.notes()) is bool(hint and not is_last)
            await world.sleep(150)

    run()


# What Airflow is asked


@pytest.mark.parametrize("is_last", [False, True], ids=["goes on", "is the last"])
@pytest.mark.parametrize("phase", ALL)
def test_airflow_is_asked_every_few_seconds_while_news_would_matter(put, phase, is_last):
    put(phase, everybody=Span(seconds=100), own_task=Span(seconds=200), is_last=is_last)

    @scenario
    async def run(world: World) -> None:
        claim = await enter(world, phase)
        assert world.ledger.follow_due == (math.inf if is_last else pytest.approx(now() + FOLLOW_EVERY, abs=0.1))
        for seconds, is_asked in ((50, True), (150, True), (250, not is_last)):
            await world.sleep(claim.since + seconds - now())
            # Nobody waits for the next answer where it would be no news to everybody.
            assert (world.ledger.follow_due < math.inf) is (not is_last and seconds < 100)
            world.airflow.questions.clear()
            await world.poll()
            assert bool(world.airflow.questions) is is_asked

    run()


@pytest.mark.parametrize("asks", [False, True], ids=["does not ask", "asks about its run"])
@pytest.mark.parametrize("phase", but(Phase.OPENING))
def test_the_state_of_a_run_is_asked_and_ends_a_claim_if_the_table_says_so(put, phase, asks):
    put(phase, everybody=Span(seconds=100), own_task=Span(seconds=200), asks_about_run=asks)
    if phase is Phase.RUN_QUEUED:
        # It is the state of its run that says so.
        put(Phase.NOT_SCHEDULED, asks_about_run=True)
        asks = True

    @scenario
    async def run(world: World) -> None:
        await enter(world, phase)
        assert bool(world.airflow.run_questions) is asks
        world.airflow.runs = {"run": "ended"}
        await world.sleep(10)
        await world.poll()
        assert counted(world, now(), WITNESS, OWN) == ([0, 0] if asks and phase is not Phase.DROPPED else [1, 1])

    run()


# What is written


@pytest.mark.parametrize("phase", ALL)
def test_another_process_counts_a_claim_by_the_same_table(put, phase):
    put(phase, everybody=Span(seconds=100), own_task=Span(seconds=200))

    @scenario
    async def run(world: World) -> None:
        claim = await enter(world, phase)
        end = claim.since + 100
        # Its phase is written with the next claim.
        await world.open(gate(0, dag="another"), submit={}, jobs=0)
        other = World(world.airflow)
        await other.poll()
        for each in (world, other):
            found = [counted(each, at, WITNESS, OWN) for at in (end - 1, end + 1, end + 99, end + 101)]
            assert found == [[1, 1], [0, 1], [0, 1], [0, 0]]

    run()


@pytest.mark.parametrize("phase", ALL)
def test_a_claim_is_written_for_ten_minutes_longer_than_it_counts(put, phase):
    put(phase, everybody=Span(seconds=100), own_task=Span(seconds=200), is_last=True)

    @scenario
    async def run(world: World) -> None:
        claim = await enter(world, phase)
        assert not claim.is_forgotten(claim.since + 799)
        assert claim.is_forgotten(claim.since + 801)

    run()


# The table itself


def test_the_table_says_what_the_contract_does():
    ttl, never = Span(claim_ttls=1), Span()
    cells = {
        phase: (row.everybody, row.own_task, row.since_last_start, row.exempts_upstream)
        for phase, row in TABLE.items()
    }
    assert cells == {
        Phase.OPENING: (ttl, never, False, False),
        Phase.WAITS_UPSTREAM: (ttl, Span(claim_ttls=3), False, True),
        Phase.NOT_SCHEDULED: (ttl, Span(seconds=86_400), False, False),
        Phase.RUN_QUEUED: (never, never, False, False),
        Phase.PENDING: (ttl, Span(claim_ttls=3), True, False),
        Phase.STARTED: (ttl, never, False, False),
        Phase.ENDED: (Span(counted_afters=1), never, False, False),
        Phase.RENAMED: (ttl, never, False, False),
        Phase.DROPPED: (never, never, False, False),
    }
    assert {phase for phase, row in TABLE.items() if row.may_have_submitted} == {Phase.STARTED, Phase.ENDED}
    assert {phase for phase, row in TABLE.items() if row.is_last} == {Phase.ENDED, Phase.DROPPED}
    assert {phase for phase, row in TABLE.items() if row.asks_about_run} == {Phase.NOT_SCHEDULED, Phase.RENAMED}
    stall = {Phase.WAITS_UPSTREAM, Phase.NOT_SCHEDULED, Phase.PENDING}
    assert {phase for phase, row in TABLE.items() if row.hint} == stall

# SPDX-License-Identifier: Apache-2.0
"""Claims follow Airflow's states of the tasks that submit; each row of the contract, with time that passes at once."""

from __future__ import annotations

import asyncio

import pytest

from airflow_provider_scnet.claims.expiry import LONGEST_PHASE, Scope
from airflow_provider_scnet.claims.submission_follower import FOLLOW_EVERY, LONGEST_PAUSE, PAUSE_PER_ANSWER
from airflow_provider_scnet.event_loop.shielded_call import LONGEST_ANSWER
from airflow_provider_scnet.gate.claimed import Claimed

from ledger_world import COUNTED_AFTER, TTL, WITNESS, World, gate, now, opened, scenario

DAY = 86_400.0

# The table of the contract


@pytest.mark.parametrize(
    ("state", "own_for"),
    [
        ("scheduled", 3 * TTL),
        ("queued", 3 * TTL),
        ("up_for_retry", 3 * TTL),
        ("restarting", 3 * TTL),
        (None, DAY),
    ],
)
def test_a_submission_that_does_not_start_claims_from_all_for_its_ttl_then_from_its_own_task_and_then_from_nobody(
    state, own_for
):
    @scenario
    async def run(world: World) -> None:
        await opened(world, state)
        assert await world.jobs(WITNESS) == 1
        since = now()
        for seconds in range(30, int(TTL), 30):
            await world.sleep(since + seconds - now())
            assert await world.jobs(WITNESS) == 1
            assert world.notes() == ""
        await world.sleep(since + TTL - now())
        assert await world.jobs(WITNESS) == 0
        assert "submit[0] of DAG 'dag', run 'run' does not start" in world.notes()
        # Gates of its own task, in whichever run.
        assert await world.jobs(gate(1)) == 1
        assert await world.jobs(gate(1, run="an earlier run")) == 1
        await world.sleep(since + own_for - 60 - now())
        assert await world.jobs(gate(1)) == 1
        assert await world.after(120, gate(1)) == 0

    run()


@scenario
async def test_a_claim_holds_while_submissions_of_its_gates_task_go_on_to_start(world: World):
    """A pool of one slot may take minutes a job."""
    await world.open(*map(gate, range(5)))
    for index in range(5):
        world.airflow.set(gate(index), "success", submit="scheduled")
    for index in range(5):
        for _ in range(2):
            assert await world.after(TTL / 2 - 1, WITNESS) >= 5 - index
        world.airflow.set(gate(index), "success", submit="running")
        await world.poll()
        world.airflow.set(gate(index), "success", submit="success")


@scenario
async def test_submissions_of_other_tasks_that_start_keep_no_claim_alive(world: World):
    await world.open(gate(0), gate(0, run="another"), gate(0, task="other"), submit={"submit": True})
    world.airflow.set(gate(0), "success", submit="scheduled")
    world.airflow.found["dag", "another", "gate", 0] = "deferred"
    assert await world.jobs(WITNESS) == 3
    await world.sleep(TTL - 10)
    world.airflow.set(gate(0, task="other"), "success")
    world.airflow.set(gate(0, dag="other"), "success")
    assert await world.jobs(WITNESS) == 3
    assert await world.after(15, WITNESS) == 1


@scenario
async def test_a_claim_that_weighed_no_longer_weighs_again_when_its_submission_goes_on(world: World):
    await opened(world)
    assert await world.jobs(WITNESS) == 1
    for _ in range(36):
        await world.after(7200)
    assert await world.jobs(gate(1)) == 0
    world.airflow.set(gate(0), "success", submit="scheduled")
    assert await world.jobs(WITNESS) == 1
    world.airflow.set(gate(0), "success", submit="running")
    assert await world.after(TTL - 1, WITNESS) == 1


@scenario
async def test_a_gate_upstream_of_a_submission_never_waits_for_it(world: World):
    """``prepare >> gate1 >> relax; gate2 >> static; relax >> static``: gate2 opens first."""
    gate1, gate2 = gate(-1, task="gate1"), gate(-1, task="gate2")
    await world.open(
        gate2, submit={"static": False}, upstream={"gate2": False, "relax": False}, gates=["gate1", "gate2"]
    )
    world.airflow.set(gate1, "deferred", relax=None, static=None)
    world.airflow.set(gate2, "success")
    assert await world.jobs(WITNESS) == 1
    assert await world.jobs(gate1) == 0
    assert await world.jobs(gate(-1, task="gate1", run="another")) == 1
    # It waits for something upstream, and so shuts its own task for no more than minutes.
    assert await world.after(TTL, gate(-1, task="gate2", run="another")) == 1
    assert "a task upstream of it, or the run before, has not ended" in world.notes()
    assert await world.after(2 * TTL, gate(-1, task="gate2", run="another")) == 0
    # When relax has ended, static is what everybody waits for again.
    world.airflow.set(gate1, "success", relax="skipped", static="scheduled")
    assert await world.jobs(WITNESS) == 1
    assert await world.jobs(gate1) == 1


@scenario
async def test_a_gate_upstream_of_another_gates_submission_does_not_wait_for_it_as_one_of_its_task(world: World):
    """``gate.expand(...) >> submit``: one gate opens, and the others find no room for long."""
    await world.open(gate(0), submit={"submit": False}, upstream={"gate": False}, gates=["gate"])
    world.airflow.set(gate(0), "success")
    world.airflow.set(gate(1), "deferred")
    world.airflow.found["dag", "run", "submit", -1] = None
    assert await world.jobs(WITNESS) == 1
    assert await world.jobs(gate(1)) == 0
    assert await world.after(TTL, gate(1)) == 0
    assert await world.jobs(gate(1, run="another")) == 1
    assert await world.jobs(WITNESS) == 0


@scenario
async def test_gates_that_stand_before_one_submission_do_not_wait_for_each_other(world: World):
    """``gate.expand() >> submit.expand()``: no submission starts before the last gate has opened."""
    await opened(world, submit={"submit": False}, upstream={"gate": False}, gates=["gate"])
    world.airflow.set(gate(1), "deferred")
    assert await world.after(1, gate(1)) == 0
    assert await world.after(1, WITNESS) == 1


@scenario
async def test_a_gate_does_not_wait_for_submissions_of_its_task_that_wait_for_the_run_before(world: World):
    """``depends_on_past``: the gate of a later run opens first, and nothing tells which runs are earlier."""
    await opened(world, after_past_runs=True, gates=["gate", "first"])
    assert await world.jobs(gate(0, run="an earlier run")) == 0
    assert await world.jobs(gate(0, run="a later run")) == 0
    assert await world.jobs(gate(1)) == 0
    assert await world.jobs(gate(0, task="first")) == 0
    assert await world.jobs(gate(0, task="first", run="an earlier run")) == 1
    assert await world.jobs(WITNESS) == 1
    assert await world.after(TTL, gate(0, run="an earlier run")) == 0
    assert await world.jobs(WITNESS) == 0
    assert "the run before" in world.notes()
    # Once it is scheduled it waits for nobody.
    world.airflow.set(gate(0), "success", submit="scheduled")
    assert await world.jobs(gate(0, run="an earlier run")) == 1


@scenario
async def test_what_did_not_start_before_its_run_ended_claims_nothing(world: World):
    await opened(world)
    assert await world.jobs(WITNESS) == 1
    world.airflow.runs = {"run": "ended"}
    assert await world.jobs(WITNESS) == 0
    assert await world.after(60, gate(5)) == 0


@scenario
async def test_what_waits_in_a_run_that_is_itself_queued_claims_nothing_until_the_run_goes_on(world: World):
    """``max_active_runs``: the run is queued behind another one, whose gate would wait for it."""
    world.airflow.runs = {"run": "queued"}
    await opened(world)
    assert await world.jobs(WITNESS) == 0
    assert await world.jobs(gate(1)) == 0
    assert await world.after(600, gate(0, run="another")) == 0
    world.airflow.runs = {}
    assert await world.jobs(WITNESS) == 1


@scenario
async def test_what_runs_when_somebody_marks_its_run_as_ended_may_have_submitted(world: World):
    await world.open(gate(0), gate(1))
    world.airflow.set(gate(0), "success", submit="running")
    world.airflow.set(gate(1), "success", submit=None)
    world.airflow.runs = {"run": "ended"}
    assert await world.after(10, WITNESS) == 1
    world.airflow.set(gate(0), "success", submit="failed")
    assert await world.after(10, WITNESS) == 1
    assert await world.after(COUNTED_AFTER, WITNESS) == 0


@pytest.mark.parametrize("state", ["running", "deferred", "up_for_reschedule", "a state of a later Airflow"])
def test_once_its_submission_runs_a_claim_holds_for_its_ttl(state):
    @scenario
    async def run(world: World) -> None:
        await opened(world)
        assert await world.after(60) == 1
        world.airflow.set(gate(0), "success", submit=state)
        assert await world.jobs() == 1
        assert await world.after(TTL - 6) == 1
        assert await world.after(12, gate(1)) == 0
        # What has expired does not come back with the end of the task: its job was counted long ago.
        world.airflow.set(gate(0), "success", submit="success")
        assert await world.after(10) == 0
        assert world.notes() == ""

    run()


@scenario
async def test_a_submission_that_waits_for_its_job_has_ended_for_its_claim_once_it_tells_the_jobs_id(world: World):
    await opened(world, tell_job_id=["submit"])
    world.airflow.set(gate(0), "success", submit="deferred")
    assert await world.after(COUNTED_AFTER + 6) == 1
    others = [("run", "submit", 1), ("another run", "submit", 0)]
    world.airflow.told = {("run", "submit", 0): "7", **dict.fromkeys(others, "8")}
    assert await world.jobs() == 1
    assert world.airflow.job_id_questions[-1] == {("run", "submit", 0)}
    # It goes on with the same try, and Airflow is not asked twice.
    questions = len(world.airflow.job_id_questions)
    for state in ("scheduled", "queued", "running", "deferred"):
        world.airflow.set(gate(0), "success", submit=state)
        assert await world.after(5) == 1
    assert await world.after(COUNTED_AFTER) == 0
    assert len(world.airflow.job_id_questions) == questions


@scenario
async def test_a_submission_that_failed_after_it_told_its_jobs_id_claims_again_for_its_next_try(world: World):
    await opened(world, tell_job_id=["submit"])
    world.airflow.told = {("run", "submit", 0): "7"}
    world.airflow.set(gate(0), "success", submit="deferred")
    assert await world.jobs() == 1
    world.airflow.set(gate(0), "success", submit="up_for_retry")
    for seconds in (5, COUNTED_AFTER):
        assert await world.after(seconds) == 1
    world.airflow.told = {}
    world.airflow.set(gate(0), "success", submit="deferred")
    assert await world.after(COUNTED_AFTER + 6) == 1


@scenario
async def test_each_submission_has_its_own_job_which_a_list_may_show(world: World):
    gates = [gate(0), gate(1), gate(0, run="another")]
    await world.open(*gates, tell_job_id=["submit"])
    for number, each in enumerate(gates):
        world.airflow.set(each, "success", submit="deferred")
        world.airflow.told[each.run_id, "submit", each.map_index] = f"job {number}"
    assert await world.jobs() == 3
    for listed, left in (((), 3), (["job 0"], 2), (["job 2", "another"], 2), (["job 0", "job 1", "job 2"], 0)):
        assert world.ledger.totals(now(), listed=listed).claimed().jobs == left


@scenario
async def test_of_several_jobs_of_a_gate_a_list_has_to_show_all(world: World):
    await world.open(gate(0), jobs=2, submit={"one": True, "two": True}, tell_job_id=["one", "two"])
    for told, known in (({}, False), ({("run", "one", 0): "1"}, False), ({("run", "two", 0): "2"}, True)):
        world.airflow.set(gate(0), "success", one="deferred", two="success" if known else "deferred")
        world.airflow.told.update(told)
        assert await world.jobs() == 2
        assert world.ledger.knows_jobs is known
    for listed, left in ((["1"], 2), (["2"], 2), (["1", "2"], 0)):
        assert world.ledger.totals(now(), listed=listed).claimed().jobs == left


# Somebody clears it, or it failed.
_TRIED_AGAIN = ["up_for_retry", "scheduled", "running"]
_CLEARED = [None, "scheduled", "running"]


@pytest.mark.parametrize("last", ["deferred", "success", "failed"])
@pytest.mark.parametrize(
    ("first", "between"),
    [
        ("deferred", _TRIED_AGAIN),
        ("deferred", _CLEARED),
        ("success", _CLEARED),
        # Its first states were not seen.
        ("success", ["running"]),
    ],
)
def test_a_job_that_is_listed_is_none_of_the_next_try(first, between, last):
    @scenario
    async def run(world: World) -> None:
        await opened(world, tell_job_id=["submit"])
        world.airflow.told = {("run", "submit", 0): "7"}
        world.airflow.set(gate(0), "success", submit=first)
        assert await world.jobs() == 1
        assert world.ledger.totals(now(), listed=["7"]).claimed().jobs == 0
        world.airflow.told = {}
        for state in between:
            world.airflow.set(gate(0), "success", submit=state)
            assert await world.jobs() == 1
            assert world.ledger.totals(now(), listed=["7"]).claimed().jobs == 1
        world.airflow.told = {("run", "submit", 0): "8"}
        world.airflow.set(gate(0), "success", submit=last)
        assert await world.jobs() == 1
        for listed, left in ((["7"], 1), (["8"], int(last == "failed"))):
            assert world.ledger.totals(now(), listed=listed).claimed().jobs == left

    run()


@scenario
async def test_where_gates_share_their_submissions_a_list_has_to_show_all_of_them(world: World):
    await world.open(gate(0), gate(1), submit={"submit": False}, tell_job_id=["submit"])
    for index in (0, 1):
        world.airflow.set(gate(index), "success", submit="deferred")
        world.airflow.told["run", "submit", index] = str(index)
    assert await world.jobs() == 2
    for listed, left in ((["0"], 2), (["1"], 2), (["0", "1"], 0)):
        assert world.ledger.totals(now(), listed=listed).claimed().jobs == left


@scenario
async def test_a_gate_that_was_cleared_with_its_submission_forgets_its_job(world: World):
    await opened(world, tell_job_id=["submit"])
    world.airflow.told = {("run", "submit", 0): "7"}
    world.airflow.set(gate(0), "success", submit="deferred")
    assert await world.jobs() == 1
    world.airflow.set(gate(0), None, submit=None)
    assert await world.jobs() == 1
    assert world.ledger.totals(now(), listed=["7"]).claimed().jobs == 1


@scenario
async def test_an_answer_that_comes_late_names_no_job_of_an_earlier_try(world: World):
    claim = await opened(world, tell_job_id=["submit"])
    found = {"gate": {0: "success"}, "submit": {0: "deferred"}}
    asked_at = now()
    claim.follow(found, None, asked_at, asked_at, {("submit", 0): "8"})
    claim.follow(found, None, asked_at - 1, asked_at, {("submit", 0): "7"})
    assert claim.jobs == {("submit", 0): "8"}


@scenario
async def test_of_a_task_that_submits_behind_its_own_gate_and_has_ended_at_once_the_job_is_known(world: World):
    await world.open(gate(0), **submits_itself())
    world.airflow.told = {("run", "gate", 0): "7"}
    await world.sleep(8)
    world.airflow.set(gate(0), "success")
    assert await world.jobs(WITNESS) == 1
    assert world.ledger.totals(now(), listed=["7"]).claimed(WITNESS).jobs == 0


def submits_itself() -> dict[str, object]:
    """What a task claims that waits for room, submits and waits for its job."""
    return {"submit": {"gate": True}, "tell_job_id": ["gate"]}


@scenario
async def test_a_task_that_submits_behind_its_own_gate_claims_until_it_tells_its_jobs_id(world: World):
    await world.open(gate(0), **submits_itself())
    for state in ("deferred", "scheduled", "queued", "running"):
        world.airflow.set(gate(0), state)
        assert await world.after(20, WITNESS) == 1
    # It waits for a job, or does not know yet whether there is one.
    world.airflow.set(gate(0), "deferred")
    assert await world.after(20, WITNESS) == 1
    world.airflow.told = {("run", "gate", 0): "7"}
    assert await world.jobs(WITNESS) == 1
    for state in ("scheduled", "running", "deferred"):
        world.airflow.set(gate(0), state)
        assert await world.after(5, WITNESS) == 1
    assert await world.after(COUNTED_AFTER - 10, WITNESS) == 0


@scenario
async def test_while_such_a_task_is_on_its_way_to_a_worker_airflow_is_not_asked_for_the_id_of_its_job(
    world: World,
):
    await world.open(gate(0), **submits_itself())
    assert await world.after(9, WITNESS) == 1
    assert world.airflow.job_id_questions == []
    assert await world.after(6, WITNESS) == 1
    assert {*world.airflow.job_id_questions[0]} == {("run", "gate", 0)}


@pytest.mark.parametrize("state", ["success", "failed", "up_for_retry", "restarting", None])
def test_the_claim_of_such_a_task_ends_like_that_of_a_submission(state):
    @scenario
    async def run(world: World) -> None:
        await world.open(gate(0), **submits_itself())
        world.airflow.set(gate(0), "running")
        assert await world.jobs(WITNESS) == 1
        world.airflow.set(gate(0), state)
        assert await world.after(6, WITNESS) == 1
        assert await world.after(COUNTED_AFTER, WITNESS) == 0

    run()


@pytest.mark.parametrize("state", ["skipped", "removed", "upstream_failed"])
def test_such_a_task_that_never_ran_claims_nothing(state):
    @scenario
    async def run(world: World) -> None:
        await world.open(gate(0), **submits_itself())
        world.airflow.set(gate(0), state)
        assert await world.jobs(WITNESS) == 0

    run()


@scenario
async def test_such_a_task_that_waits_for_room_again_may_have_submitted_before(world: World):
    await world.open(gate(0), **submits_itself())
    world.airflow.set(gate(0), "running")
    assert await world.after(10, WITNESS) == 1
    world.airflow.set(gate(0), "deferred")
    world.wait(gate(0))
    assert await world.after(5, WITNESS) == 1
    assert await world.after(COUNTED_AFTER, WITNESS) == 0


@scenario
async def test_tasks_of_other_kinds_are_not_asked_for_the_id_of_a_job(world: World):
    await opened(world)
    world.airflow.set(gate(0), "success", submit="deferred")
    assert await world.after(60) == 1
    assert world.airflow.job_id_questions == []


@pytest.mark.parametrize("state", ["success", "failed"])
def test_a_claim_counts_on_observations_made_before_the_cluster_counts_what_was_submitted(state):
    @scenario
    async def run(world: World) -> None:
        await opened(world, "running")
        assert await world.after(20) == 1
        world.airflow.set(gate(0), "success", submit=state)
        ended_at = now()
        assert await world.after(1) == 1
        assert await world.after(COUNTED_AFTER - 1) == 1
        assert await world.after(FOLLOW_EVERY + 1) == 0
        assert now() - ended_at <= COUNTED_AFTER + FOLLOW_EVERY + 2

    run()


@pytest.mark.parametrize("state", ["skipped", "upstream_failed"])
def test_a_claim_is_dropped_at_once_where_there_will_be_no_submission(state):
    @scenario
    async def run(world: World) -> None:
        await opened(world)
        assert await world.after(60) == 1
        world.airflow.set(gate(0), "success", submit=state)
        assert await world.jobs() == 0

    run()


@pytest.mark.parametrize("state", ["skipped", "upstream_failed"])
def test_it_is_dropped_from_the_observation_too_after_which_airflow_said_so(state):
    @scenario
    async def run(world: World) -> None:
        await opened(world)
        await world.poll()
        world.airflow.takes = 0.2
        world.airflow.set(gate(0), "success", submit=state)
        assert await world.after(10) == 0

    run()


@scenario
async def test_a_submission_whose_upstream_somebody_mends_claims_again(world: World):
    await opened(world)
    world.airflow.set(gate(0), "success", submit="upstream_failed")
    assert await world.after(60) == 0
    # What failed is cleared; the submission runs between two polls.
    world.airflow.set(gate(0), "success", submit="success")
    assert await world.after(60) == 1
    assert await world.after(COUNTED_AFTER + 1) == 0


@scenario
async def test_the_end_of_a_submission_whose_claim_expired_long_ago_brings_no_claim_back(world: World):
    await opened(world, "running")
    assert await world.after(20) == 1
    at = now()
    assert await world.after(TTL + 10) == 0
    world.airflow.takes = 0.2
    world.airflow.set(gate(0), "success", submit="success")
    assert await world.after(60) == 0
    # It is one still on an observation that may not show its jobs.
    assert world.ledger.totals(at).claimed().jobs == 1


@pytest.mark.parametrize("state", [None, "scheduled"])
def test_the_end_of_a_submission_that_had_not_started_when_its_claim_expired_is_news(state):
    @scenario
    async def run(world: World) -> None:
        await opened(world, state)
        await world.poll()
        assert await world.after(TTL + 1, WITNESS) == 0
        # It ran between two questions.
        world.airflow.set(gate(0), "success", submit="success")
        assert await world.jobs(WITNESS) == 1
        assert await world.after(COUNTED_AFTER + 1, WITNESS) == 0

    run()


@scenario
async def test_what_may_not_be_counted_in_an_observation_weighs_on_it_however_late_a_gate_decides_on_it(
    world: World,
):
    await opened(world, "success")
    await world.poll()
    at = now()
    await world.sleep(COUNTED_AFTER + 1)
    # A gate that arrives between two polls decides on the last observation.
    await world.ledger.refresh(at, {})
    assert world.ledger.totals(at).claimed(gate(run="later")).jobs == 1
    assert await world.jobs() == 0


@scenario
async def test_a_claim_is_dropped_with_its_run(world: World):
    await opened(world)
    assert await world.after(60) == 1
    world.airflow.found.clear()
    assert await world.jobs() == 0


@scenario
async def test_where_the_submission_was_renamed_in_the_dag_file_a_claim_holds_for_its_ttl_and_no_longer_than_its_run(
    world: World,
):
    await world.open(gate(0), gate(0, run="another"))
    for run_id in ("run", "another"):
        world.airflow.set(gate(0, run=run_id), "success", submit="removed")
    assert await world.jobs(WITNESS) == 2
    assert await world.after(TTL / 2, WITNESS) == 2
    world.airflow.runs = {"another": "ended"}
    assert await world.after(5, WITNESS) == 1
    assert await world.after(TTL / 2 - 10, WITNESS) == 1
    assert await world.after(10, gate(1)) == 0


@scenario
async def test_where_no_task_stands_behind_the_gate_a_claim_expires_by_time_and_nobody_is_asked(world: World):
    await opened(world, submit={})
    assert await world.after(TTL - 3) == 1
    assert await world.after(3) == 0
    assert world.airflow.questions == []


@pytest.mark.parametrize("phase", ["queued", "running", None])
def test_a_claim_of_which_nothing_is_heard_holds_for_its_ttl_from_the_last_answer(phase):
    @scenario
    async def run(world: World) -> None:
        await world.open(*map(gate, range(3)), ttl=1000.0)
        for index in range(3):
            world.airflow.set(gate(index), "success", submit=phase)
        assert await world.after(300, gate(5)) == 3
        world.airflow.error = RuntimeError("API_SERVER_ERROR")
        heard = now()
        assert await world.after(600, gate(5)) == 3
        assert "RuntimeError: API_SERVER_ERROR" in world.notes()
        # Not for more than its phase lasts, either.
        left = heard + 1000 - now() if phase != "running" else 100
        assert await world.after(left - 10, gate(5)) == 3
        assert await world.after(20, gate(5)) == 0
        world.airflow.error = None
        assert await world.after(1, gate(5)) == (0 if phase == "running" else 3)
        assert "RuntimeError" not in world.notes()

    run()


@scenario
async def test_no_claim_is_for_ever(world: World):
    await opened(world, "scheduled", ttl=1e9)
    await world.poll()
    for _ in range(23):
        await world.after(3600)
    assert await world.after(3500, WITNESS) == 1
    assert await world.after(200, WITNESS) == 0
    assert await world.jobs(gate(1)) == 0
    assert LONGEST_PHASE == DAY


@scenario
async def test_a_submission_that_does_not_start_while_others_of_its_task_do_claims_for_a_day_or_so(world: World):
    claim = await opened(world, "queued", ttl=3600)
    begin, seen = now(), []
    for number in range(1, 20):
        await world.open(gate(number))
        world.airflow.set(gate(number), "success", submit="running")
        await world.after(7200)
        seen.append((now() - begin, claim.scope(now()) > Scope.NOBODY))
        world.airflow.set(gate(number), "success", submit="success")
    assert all(counts for seconds, counts in seen if seconds < DAY)
    assert not any(counts for seconds, counts in seen if seconds > DAY + 3 * 3600)


@scenario
async def test_that_airflow_says_nothing_of_a_dag_is_told_although_it_speaks_of_another(world: World):
    states = world.airflow.states

    async def some_states(dag_id, *asked):
        if dag_id == "first":
            raise RuntimeError("API_SERVER_ERROR")
        return await states(dag_id, *asked)

    world.airflow.states = some_states
    await world.open(*(gate(dag=dag) for dag in ("first", "last")))
    world.airflow.set(gate(dag="last"), "success", submit="skipped")
    assert await world.jobs() == 1
    assert "RuntimeError: API_SERVER_ERROR" in world.notes()
    assert "claims of which nothing is heard expire" in world.notes()


@scenario
async def test_all_tasks_that_submit_have_to_have_ended(world: World):
    await opened(world, submit={"a": True, "b": True, "c": True})
    for a, b, c in [
        ("success", None, "success"),
        ("success", "running", "success"),
        ("success", "success", "skipped"),
    ]:
        world.airflow.set(gate(0), "success", a=a, b=b, c=c)
        assert await world.after(30) == 1
    assert await world.after(COUNTED_AFTER) == 0


@scenario
async def test_a_submission_that_is_retried_or_cleared_is_awaited_again(world: World):
    await opened(world)
    for state in ("running", "up_for_retry", "running", "success", None, "running"):
        world.airflow.set(gate(0), "success", submit=state)
        assert await world.after(30) == 1


@pytest.mark.parametrize("way", [("running", "up_for_reschedule"), ("up_for_reschedule", "scheduled", "queued")])
def test_a_submission_that_polls_for_its_job_in_reschedule_mode_claims_for_its_ttl(way):
    """It has run in this try, and so may have submitted, although it is scheduled and queued again."""

    @scenario
    async def run(world: World) -> None:
        await opened(world, "running")
        await world.poll()
        for _ in range(12 // len(way)):
            for state in way:
                world.airflow.set(gate(0), "success", submit=state)
                await world.after(TTL / 12)
        assert await world.jobs(gate(1)) == 0
        assert "does not start" not in world.notes()

    run()


@scenario
async def test_its_next_try_waits_for_a_slot_like_the_first(world: World):
    await opened(world, "up_for_reschedule")
    await world.poll()
    world.airflow.set(gate(0), "success", submit="up_for_retry")
    await world.after(30)
    world.airflow.set(gate(0), "success", submit="scheduled")
    await world.poll()
    assert await world.after(TTL + 1, WITNESS) == 0
    assert await world.jobs(gate(1)) == 1
    assert "does not start" in world.notes()


# What the log says


@scenario
async def test_the_log_names_what_does_not_start_its_state_and_what_may_be_the_matter_once_a_task(world: World):
    gates = [gate(index) for index in range(3)]
    await world.open(*gates)
    await world.open(gate(5, task="other"), submit={"last": True})
    for each in gates:
        world.airflow.set(each, "success", submit="queued")
    world.airflow.set(gate(5, task="other"), "success", last=None)
    await world.poll()
    await world.after(TTL + 1)
    assert [str(note) for note in world.ledger.notes()] == [
        "the submission submit[0] of DAG 'dag', run 'run' (and 2 more) does not start (state: queued); its claim "
        "keeps no gates of other tasks shut any longer: is its pool full (perhaps of gates, in a pool that "
        "includes deferred tasks), or is there no worker?",
        "the submission last[5] of DAG 'dag', run 'run' does not start (state: none); its claim keeps no gates of "
        "other tasks shut any longer: is the DAG paused, or was its file removed?",
    ]
    # When words vary from poll to poll, it is the same subject.
    assert len({note.key for note in world.ledger.notes()}) == 2
    keys = {note.key for note in world.ledger.notes()}
    world.airflow.set(gate(0), "success", submit="skipped")
    await world.poll()
    assert {note.key for note in world.ledger.notes()} == keys


# Which instances are meant


@scenario
async def test_the_instance_with_the_gates_own_map_index_is_meant_in_a_group(world: World):
    await opened(world, "skipped")
    world.airflow.set(gate(1), "deferred", submit="running")
    assert await world.jobs() == 0


@scenario
async def test_all_instances_are_meant_elsewhere(world: World):
    await opened(world, submit={"submit": False})
    world.airflow.found |= {("dag", "run", "submit", index): "skipped" for index in range(9)}
    world.airflow.found["dag", "run", "submit", 99] = None
    assert await world.after(60) == 1
    world.airflow.found["dag", "run", "submit", 99] = "skipped"
    assert await world.jobs() == 0


@scenario
async def test_a_mapped_task_that_is_not_expanded_yet_has_not_started(world: World):
    await opened(world)
    del world.airflow.found["dag", "run", "submit", 0]
    world.airflow.found["dag", "run", "submit", -1] = None
    assert await world.after(60) == 1
    assert await world.after(TTL, gate(1)) == 1


# The gate's own way to its end


@scenario
async def test_a_gate_that_ends_on_a_worker_claims_all_the_way(world: World):
    await opened(world)
    for state in ("deferred", "scheduled", "queued", "queued", "running"):
        world.airflow.set(gate(0), state)
        assert await world.after(30, WITNESS) == 1
    world.airflow.set(gate(0), "success", submit="skipped")
    assert await world.jobs() == 0


@scenario
async def test_a_gate_that_finds_no_worker_to_end_on_is_named(world: World):
    await opened(world)
    world.airflow.set(gate(0), "scheduled")
    await world.poll()
    assert await world.after(TTL + 1, WITNESS) == 0
    assert await world.jobs(gate(1)) == 1
    assert "the submission gate[0] of DAG 'dag', run 'run' does not start (state: scheduled)" in world.notes()


@scenario
async def test_a_gate_whose_event_got_lost_claims_for_its_ttl(world: World):
    await opened(world)
    world.airflow.set(gate(0), "deferred")
    assert await world.after(TTL - 3) == 1
    assert await world.after(3) == 0
    assert await world.jobs(gate(1)) == 0


@scenario
async def test_a_gate_that_was_marked_failed_after_it_passed_claims_what_the_tasks_behind_it_do(world: World):
    await opened(world)
    world.airflow.set(gate(0), "failed", submit=None)
    assert await world.after(1) == 1
    world.airflow.set(gate(0), "failed", submit="upstream_failed")
    assert await world.jobs() == 0


@scenario
async def test_a_gate_that_failed_on_its_worker_and_is_tried_again_drops_its_claim(world: World):
    await opened(world)
    world.airflow.set(gate(0), "running")
    assert await world.jobs() == 1
    world.airflow.set(gate(0), "up_for_retry")
    assert await world.after(10) == 0
    world.airflow.set(gate(0), "deferred")
    assert await world.after(10, gate(1)) == 0


@scenario
async def test_a_gate_that_was_tried_again_between_two_questions_drops_its_claim(world: World):
    await opened(world)
    world.airflow.set(gate(0), "queued")
    assert await world.jobs() == 1
    world.airflow.set(gate(0), "deferred")
    assert await world.after(10) == 0


@scenario
async def test_a_gate_that_was_cleared_and_waits_in_another_process_claims_only_what_may_not_be_counted(
    world: World,
):
    await opened(world, "running")
    assert await world.after(10) == 1
    world.airflow.set(gate(0), "deferred", submit=None)
    assert await world.jobs() == 1
    assert await world.after(COUNTED_AFTER - 1) == 1
    assert await world.after(2) == 0
    assert await world.after(10, gate(1)) == 0


@scenario
async def test_a_gate_that_is_cleared_and_passes_again_claims_again(world: World):
    await opened(world, "running")
    assert await world.after(10) == 1
    # Cleared with all behind it: what was submitted before may not be counted yet.
    world.airflow.set(gate(0), "deferred", submit=None)
    world.wait(gate(0))
    assert await world.after(COUNTED_AFTER - 1) == 1
    assert await world.after(FOLLOW_EVERY + 2) == 0
    await opened(world)
    assert await world.after(60) == 1


@scenario
async def test_what_was_submitted_before_a_gate_was_cleared_and_passed_again_may_not_be_counted_yet(world: World):
    await opened(world, "success")
    assert await world.after(10) == 1
    world.airflow.set(gate(0), "deferred", submit=None)
    world.wait(gate(0))
    assert await world.after(1) == 1
    await opened(world, "running")
    assert await world.after(1) == 2
    assert await world.after(COUNTED_AFTER) == 1


@scenario
async def test_a_gate_that_waits_again_in_the_same_deferral_drops_its_claim(world: World):
    """A triggerer was killed before Airflow took the gate's event: the gate has let nothing through."""
    deferred_at = now() - 20
    await world.open(gate(0), gate(1))
    await world.sleep(30)
    assert await world.jobs() == 2
    world.wait(gate(0), waited=now() - deferred_at)
    assert await world.jobs() == 1
    assert await world.after(10) == 1


@scenario
async def test_a_gate_that_waits_again_in_a_later_deferral_may_have_let_something_through(world: World):
    await world.open(gate(0))
    await world.sleep(30)
    # Airflow was not heard to call it anything but deferred: it passed, submitted and was cleared in between.
    world.wait(gate(0), waited=10)
    assert await world.jobs() == 1
    assert await world.after(COUNTED_AFTER - 1) == 1
    assert await world.after(2) == 0


@scenario
async def test_a_gate_that_waits_again_after_airflow_called_it_something_else_may_have_let_something_through(
    world: World,
):
    await opened(world)
    assert await world.after(10) == 1
    world.airflow.set(gate(0), "deferred")
    world.wait(gate(0), waited=600)
    assert await world.jobs() == 1
    assert await world.after(COUNTED_AFTER + 1) == 0


@scenario
async def test_a_gate_that_waits_since_before_it_opened_keeps_its_claim(world: World):
    """On its way out: it has opened, and is still among those that wait."""
    world.wait(gate(0))
    await world.sleep(1)
    since = world.waiting[gate(0)]
    await world.open(gate(0))
    world.waiting[gate(0)] = since
    assert await world.after(1) == 1
    assert await world.after(COUNTED_AFTER + 1) == 1


# What is asked


@scenario
async def test_one_question_a_dag_names_the_runs_of_claims_alone(world: World):
    await world.open(*(gate(0, run=f"run {number}") for number in range(20)))
    await world.open(gate(0, task="second"), submit={"other": True}, upstream={"before": False})
    await world.open(gate(0, dag="another"))
    for number in range(100):
        world.airflow.set(gate(0, run=f"of others {number}"), "deferred", submit=None)
    await world.poll()
    assert sorted(world.airflow.questions) == [
        ("another", {"run"}, {"gate", "submit"}),
        (
            "dag",
            {"run", *(f"run {number}" for number in range(20))},
            {"gate", "submit", "second", "other", "before"},
        ),
    ]
    assert world.airflow.run_questions == []


@scenario
async def test_nothing_is_asked_where_nothing_is_claimed(world: World):
    world.wait(gate(0))
    for _ in range(5):
        assert await world.after(60) == 0
    assert world.airflow.questions == []


@pytest.mark.parametrize("state", ["success", "failed"])
def test_nothing_is_asked_about_claims_that_are_over(state):
    @scenario
    async def run(world: World) -> None:
        await opened(world, state)
        assert await world.jobs() == 1
        assert await world.after(COUNTED_AFTER + 1) == 0
        world.airflow.questions.clear()
        for _ in range(5):
            await world.after(60)
        assert world.airflow.questions == []

    run()


@scenario
async def test_the_state_of_a_run_is_asked_only_where_it_tells_more(world: World):
    await world.open(*(gate(0, run=f"run {number}") for number in range(4)))
    for number, state in enumerate((None, "removed", "running", "scheduled")):
        world.airflow.set(gate(0, run=f"run {number}"), "success", submit=state)
    await world.poll()
    assert world.airflow.run_questions == [("dag", {"run 0", "run 1"})]


@scenario
async def test_an_answer_that_was_asked_for_earlier_changes_nothing_that_a_younger_one_said(world: World):
    await opened(world, "skipped")
    late = world.airflow.late = asyncio.Event()
    slow = asyncio.ensure_future(world.poll())
    # Two waits in vain, and the question is left alone.
    await asyncio.sleep(61)
    world.airflow.set(gate(0), "success", submit="queued")
    assert await world.jobs() == 1
    late.set()
    await slow
    assert await world.after(1) == 1
    assert world.ledger.totals(now()).claimed().jobs == 1


@scenario
async def test_an_answer_that_was_asked_for_before_a_gate_passed_takes_no_claim_away(world: World):
    """Such an answer still calls it deferred, as it does a gate that was cleared and waits anew."""
    await opened(world, "running")
    late = world.airflow.late = asyncio.Event()
    looking = asyncio.ensure_future(world.poll())
    await asyncio.sleep(1)
    world.airflow.set(gate(0), "deferred", submit=None)
    await world.open(gate(0))
    world.airflow.set(gate(0), "success", submit="queued")
    late.set()
    await looking
    assert world.ledger.totals(now()).claimed().jobs == 2


@scenario
async def test_what_was_heard_after_an_observation_was_made_is_not_asked_again_for_gates_that_arrive(
    world: World,
):
    await opened(world, "running")
    await world.poll()
    await asyncio.sleep(0.1)
    at = now()
    asked, read = len(world.airflow.questions), len(world.airflow.messages)
    await world.ledger.refresh(at, {})
    assert (len(world.airflow.questions), len(world.airflow.messages)) == (asked + 1, read + 1)
    for _ in range(5):
        await world.ledger.refresh(at, {})
    assert (len(world.airflow.questions), len(world.airflow.messages)) == (asked + 1, read + 1)
    # What was heard long ago is.
    await asyncio.sleep(FOLLOW_EVERY + 0.1)
    await world.ledger.refresh(at, {})
    assert (len(world.airflow.questions), len(world.airflow.messages)) == (asked + 2, read + 2)


@scenario
async def test_while_a_claim_waits_for_the_end_of_a_submission_it_is_asked_after_every_five_seconds(world: World):
    await opened(world, "running")
    await world.poll()
    before = len(world.airflow.questions)
    await world.sleep(60)
    assert len(world.airflow.questions) - before in (60 / FOLLOW_EVERY - 1, 60 / FOLLOW_EVERY)
    world.airflow.set(gate(0), "success", submit="success")
    await world.sleep(FOLLOW_EVERY)
    before = len(world.airflow.questions)
    await world.sleep(60)
    assert len(world.airflow.questions) == before


@scenario
async def test_where_answers_take_long_they_are_asked_for_less_often(world: World):
    await opened(world, "running", ttl=1e6)
    for takes in (FOLLOW_EVERY * 2 / PAUSE_PER_ANSWER, 2 * LONGEST_PAUSE / PAUSE_PER_ANSWER):
        pause = min(PAUSE_PER_ANSWER * takes, LONGEST_PAUSE)
        world.airflow.takes = takes
        await world.sleep(120)
        before, since = len(world.airflow.questions), now()
        await world.sleep(600)
        asked = len(world.airflow.questions) - before
        assert abs(asked - (now() - since) / (pause + takes)) <= 1


@scenario
async def test_a_question_is_never_cancelled_and_met_again_at_the_next_poll(world: World):
    await opened(world, "running")
    world.airflow.answers.clear()
    looking = asyncio.ensure_future(world.poll())
    await asyncio.sleep(1)
    looking.cancel()
    await asyncio.gather(looking, return_exceptions=True)
    assert await asyncio.wait_for(world.jobs(), 3600) == 1
    assert f"no answer within {LONGEST_ANSWER:g} s" in world.notes()
    assert len(world.airflow.questions) == 1
    world.airflow.answers.set()
    await world.poll()
    assert world.notes() == ""
    assert world.airflow.cancelled == 0


@scenario
async def test_a_question_that_is_never_answered_does_not_end_the_asking(world: World):
    await opened(world, "running")
    world.airflow.answers.clear()
    await world.poll()
    await world.poll()
    world.airflow.answers = asyncio.Event()
    world.airflow.answers.set()
    await world.poll()
    assert world.notes() == ""
    assert len(world.airflow.questions) == 2
    assert world.airflow.cancelled == 0


# How much work it is


@scenario
async def test_work_does_not_grow_with_gates_times_claims(world: World):
    number = 300
    await world.open(*map(gate, range(number)))
    for index in range(0, number, 3):
        world.airflow.set(gate(index), "success", submit="queued")
    await world.poll()
    await world.after(TTL + 1)
    added = 0
    plus = Claimed.plus

    def counted(self: Claimed, more: Claimed) -> Claimed:
        nonlocal added
        added += 1
        return plus(self, more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Claimed, "plus", counted)
        totals = world.ledger.totals(now())
        found = [totals.claimed(gate(index)) for index in range(1000)]
    assert found[0].jobs == number / 3
    # Those that count the same get one object, by which what they decide is known to be the same.
    assert len({id(each) for each in found}) == 1
    assert added <= 2 * number


@scenario
async def test_claims_that_are_over_are_forgotten(world: World):
    for number in range(30):
        each = gate(0, run=f"run {number}")
        await world.open(each)
        world.airflow.set(each, "success", submit="success")
        assert await world.after(60) <= 2
    assert not world.is_empty
    await world.after(1200)
    assert world.is_empty
    await world.open(gate(1))
    assert len(world.airflow.rows) == 1

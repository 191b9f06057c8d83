# SPDX-License-Identifier: Apache-2.0
"""Never knowingly twice: what is decided on what the cluster shows and what was written down."""

from __future__ import annotations

import pytest

from airflow_provider_scnet.client.job_state import JobState
from airflow_provider_scnet.client.reported_job import ReportedJob
from airflow_provider_scnet.operators import job_name
from airflow_provider_scnet.operators.job_name import JobName
from airflow_provider_scnet.operators.submit_once import (
    CANCELLED_WITHIN,
    HISTORY_LAG,
    LISTED_FOR,
    SETTLE,
    Decision,
    Intent,
    Seen,
    Step,
    Try,
    decide,
)

TASK = job_name.task_hash("airflow", "dag", "run", "task", -1)
#: When the try began; an hour after the first of all.
NOW = 3600.0


def name(number: int = 0, round: int = 0, task: str = TASK, readable: str = "run") -> str:
    return str(JobName(task, round, number, readable))


def job(
    state: JobState, number: int = 0, round: int = 0, id: str = "7", called: str = "", source: str = "detail"
) -> ReportedJob:
    return ReportedJob(id, called or name(number, round), state, source)  # type: ignore[arg-type]


def intent(number: int = 0, round: int = 0, at: float = 0.0, **given: object) -> Intent:
    return Intent(name(number, round), at, **given)  # type: ignore[arg-type]


def accepted(**given: object) -> Intent:
    return intent(**{"job_id": "7", "called": name(), **given})  # type: ignore[arg-type]


def asked(
    *jobs: ReportedJob,
    intent: Intent | None = None,
    at: float = NOW,
    trouble: str = "",
    round: int = 0,
    is_first: bool = False,
    began_at: float = NOW,
) -> Decision:
    this = Try(TASK, round, is_first, began_at, "run")
    return decide(this, Seen(jobs, at, trouble), intent)


def submits(decision: Decision) -> str:
    assert decision.step is Step.SUBMIT, decision
    return str(decision.name)


def takes(decision: Decision) -> str:
    assert decision.step is Step.TAKE, decision
    (taken,) = decision.jobs
    return taken.job_id


def fails(decision: Decision) -> str:
    assert decision.step is Step.FAIL, decision
    return decision.why


def looks_again(decision: Decision) -> float:
    assert decision.step is Step.LOOK_AGAIN, decision
    assert decision.why
    return decision.at


def cancels(decision: Decision) -> set[str]:
    assert decision.step is Step.CANCEL, decision
    return {job.job_id for job in decision.jobs}


UNFINISHED = [JobState.QUEUED, JobState.HELD, JobState.RUNNING, JobState.SUSPENDED]
FINAL = [
    JobState.COMPLETED,
    JobState.FAILED,
    JobState.CANCELLED,
    JobState.TIMED_OUT,
    JobState.OUT_OF_MEMORY,
]
MAY_COME_BACK = [JobState.NODE_FAILED, JobState.PREEMPTED, JobState.REQUEUED]


# Names


def test_a_name_can_be_read_back_and_is_short_enough():
    made = JobName(TASK, 12, 345, "a_long_readable_part_of_the_name")
    assert len(str(made)) <= job_name.LONGEST_NAME
    assert len(made.key) <= job_name.LONGEST_KEY
    found = JobName.read(str(made))
    assert found
    assert (found.key, found.round, found.number) == (made.key, 12, 345)
    assert str(made).startswith(f"{made.key}_a_l")


def test_a_name_that_was_cut_behind_its_key_is_the_same_job():
    made = JobName(TASK, 1, 2, "whatever")
    assert JobName.read(str(made)[: len(made.key)]) == JobName(TASK, 1, 2)
    assert JobName.read(str(made)[: len(made.key) + 3]) == JobName(TASK, 1, 2, "wh")


@pytest.mark.parametrize("other", ["", "run_1", TASK, f"{TASK}_1", f"x{TASK}_0_0", TASK.upper() + "_0_0"])
def test_a_name_of_somebody_elses_is_none(other):
    assert JobName.read(other) is None


def test_two_airflows_runs_tasks_and_map_indexes_have_different_names():
    identity = ["airflow", "dag", "run", "task", 3]
    others = [[*identity[:n], "other", *identity[n + 1 :]] for n in range(5)]
    assert len({job_name.task_hash(*each) for each in [identity, *others]}) == 6


# Whether there is a job


def test_the_first_try_submits_at_once():
    assert submits(asked(is_first=True)) == name(0)


def test_a_later_try_that_finds_nothing_written_believes_it_a_while_after_its_own_start():
    assert looks_again(asked(at=NOW + SETTLE - 1)) == NOW + SETTLE
    assert submits(asked(at=NOW + SETTLE)) == name(0)


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("at", [NOW, NOW + 9e6])
def test_a_list_that_may_lack_something_submits_nothing(is_first, at):
    looks_again(asked(trouble="it was cut", is_first=is_first, at=at))


@pytest.mark.parametrize("written", [None, intent(at=NOW), accepted(at=NOW), intent(at=NOW, said="busy")])
@pytest.mark.parametrize("state", UNFINISHED + FINAL)
@pytest.mark.parametrize("trouble", ["", "it was cut"])
def test_a_job_that_is_there_is_taken_whatever_its_state(written, state, trouble):
    assert takes(asked(job(state), intent=written, trouble=trouble)) == "7"


def test_jobs_of_other_tasks_are_nobodys_business():
    other = ReportedJob("9", name(task=job_name.task_hash("another")), JobState.RUNNING, "list")
    foreign = ReportedJob("8", "run_1", JobState.RUNNING, "list")
    assert submits(asked(other, foreign, is_first=True)) == name(0)


def test_of_two_of_the_same_number_the_one_that_goes_on_is_taken():
    jobs = [job(JobState.RUNNING, id="2"), job(JobState.FAILED, id="1")]
    assert takes(asked(*jobs)) == takes(asked(*reversed(jobs))) == "2"


def test_what_was_perhaps_submitted_is_asked_for_until_a_list_would_show_it():
    written = intent(at=NOW)
    assert looks_again(asked(intent=written, at=NOW + SETTLE - 1)) == NOW + SETTLE
    looks_again(asked(intent=written, at=NOW + SETTLE, trouble="it was cut"))
    assert submits(asked(intent=written, at=NOW + SETTLE)) == name(0)
    assert submits(asked(intent=written, at=NOW + LISTED_FOR)) == name(0)


def test_after_an_answer_that_said_nothing_clear_it_fails_with_that_answer():
    written = intent(at=NOW, said="code 10001, internal error")
    looks_again(asked(intent=written, at=NOW + SETTLE - 1))
    assert "code 10001, internal error" in fails(asked(intent=written, at=NOW + SETTLE))


def test_where_nobody_looked_while_the_list_showed_it_the_history_is_awaited():
    first = NOW + LISTED_FOR + 1
    decision = asked(intent=intent(at=NOW), at=first)
    looks_again(decision)
    assert decision.is_unclear
    written = intent(at=NOW, unclear_since=first)
    assert looks_again(asked(intent=written, at=first + HISTORY_LAG - 1)) == first + HISTORY_LAG
    assert submits(asked(intent=written, at=first + HISTORY_LAG)) == name(0)


@pytest.mark.parametrize("what", [accepted(), accepted(called="")])
def test_a_job_whose_id_is_known_and_that_nobody_shows_is_awaited_longer_and_never_submitted_again(what):
    decision = asked(intent=what)
    looks_again(decision)
    assert decision.is_unclear
    written = Intent(**{**what.written(), "unclear_since": NOW})
    last = NOW + SETTLE + HISTORY_LAG
    looks_again(asked(intent=written, at=last - 1))
    looks_again(asked(intent=written, at=last, trouble="it was cut"))
    assert "job 7" in fails(asked(intent=written, at=last))


# How it ended


def test_a_job_that_has_ended_nobody_knows_how_is_asked_about_until_the_history_knows():
    ended = job(JobState.ENDED)
    decision = asked(ended, intent=accepted())
    looks_again(decision)
    assert decision.is_unclear
    written, last = accepted(unclear_since=NOW, unclear_run="None"), NOW + SETTLE + HISTORY_LAG
    looks_again(asked(ended, intent=written, at=last - 1))
    assert "job 7" in fails(asked(ended, intent=written, at=last))


@pytest.mark.parametrize("state", MAY_COME_BACK)
def test_what_slurm_may_queue_again_has_not_failed_before_it_had_the_time(state):
    ended = job(state)
    assert asked(ended, intent=accepted()).is_unclear
    written = accepted(unclear_since=NOW, unclear_run="None")
    looks_again(asked(ended, intent=written, at=NOW + SETTLE - 1))
    assert takes(asked(ended, intent=written, at=NOW + SETTLE)) == "7"
    # Where only the history shows it, a later run may have ended as well.
    history = job(state, source="history")
    looks_again(asked(history, intent=written, at=NOW + SETTLE + HISTORY_LAG - 1))
    assert takes(asked(history, intent=written, at=NOW + SETTLE + HISTORY_LAG)) == "7"


def test_a_job_that_was_queued_again_meanwhile_has_its_time_anew():
    written = accepted(unclear_since=NOW - 9e6, unclear_run="an earlier run")
    for state in (JobState.ENDED, JobState.NODE_FAILED):
        assert asked(job(state), intent=written).is_unclear


@pytest.mark.parametrize("source", ["list", "detail"])
def test_a_job_that_is_there_by_a_name_that_may_mean_anything_is_not_given_up(source):
    there = job(JobState.UNKNOWN, source=source)
    decision = asked(there, intent=accepted(unclear_since=NOW, unclear_run="None"), at=NOW + 9e6)
    looks_again(decision)
    assert not decision.is_unclear


def test_a_job_of_which_the_history_does_not_say_how_it_ended_is_given_up_at_last():
    ended = job(JobState.UNKNOWN, source="history")
    assert asked(ended, intent=accepted()).is_unclear
    fails(asked(ended, intent=accepted(unclear_since=NOW, unclear_run="None"), at=NOW + SETTLE + HISTORY_LAG))


# After a failure


def test_after_a_proven_failure_the_next_number_is_submitted_at_once():
    failed = accepted(has_failed=True)
    assert submits(asked(job(JobState.FAILED), intent=failed)) == name(1)
    assert submits(asked(intent=failed)) == name(1)


def test_after_a_proven_failure_a_list_that_is_cut_submits_nothing():
    looks_again(asked(job(JobState.FAILED), intent=accepted(has_failed=True), trouble="it was cut"))


def test_a_failure_that_no_try_has_noted_is_taken_and_not_repeated():
    assert takes(asked(job(JobState.FAILED), intent=accepted())) == "7"


@pytest.mark.parametrize("state", [*UNFINISHED, JobState.COMPLETED])
def test_what_goes_on_after_all_is_taken_again(state):
    assert takes(asked(job(state), intent=accepted(has_failed=True))) == "7"


def test_what_perhaps_goes_on_after_all_is_looked_at_again():
    looks_again(asked(job(JobState.UNKNOWN, source="list"), intent=accepted(has_failed=True)))


def test_the_job_after_the_failed_one_is_taken():
    jobs = [job(JobState.FAILED), job(JobState.RUNNING, number=1, id="8")]
    assert takes(asked(*jobs, intent=accepted(has_failed=True))) == "8"
    assert takes(asked(*jobs)) == "8"


def test_the_job_of_the_number_that_was_written_is_awaited_and_not_an_older_one():
    looks_again(asked(job(JobState.FAILED), intent=intent(1, at=NOW)))


def test_what_the_task_itself_cancelled_is_cancelled_again_while_it_goes_on_and_then_taken():
    written = accepted(has_failed=True, cancelled_for="somebody ended the task", cancelled_at=NOW - 1)
    goes_on = job(JobState.RUNNING)
    assert cancels(asked(goes_on, intent=written, at=NOW + 9e6)) == {"7"}
    again = Intent(**{**written.written(), "cancelled_at": NOW})
    assert cancels(asked(goes_on, intent=again, at=NOW + CANCELLED_WITHIN - 1)) == {"7"}
    assert takes(asked(goes_on, intent=again, at=NOW + CANCELLED_WITHIN)) == "7"
    assert submits(asked(job(JobState.CANCELLED), intent=written)) == name(1)


# Names that the cluster changes


def test_a_job_of_another_name_is_followed_by_its_id_and_nothing_is_submitted_after_it():
    written = accepted(called="a_shorter_name")
    assert takes(asked(job(JobState.RUNNING, called="a_shorter_name"), intent=written)) == "7"
    failed = Intent(**{**written.written(), "has_failed": True})
    for seen in ([], [job(JobState.FAILED, called="a_shorter_name")]):
        assert "a_shorter_name" in fails(asked(*seen, intent=failed))


def test_a_name_of_which_only_the_readable_part_is_changed_is_the_same():
    assert not accepted(called=name(readable="other")).is_renamed
    assert not accepted(called=name()[:20]).is_renamed
    assert not accepted(called="").is_renamed
    assert accepted(called=name(1)).is_renamed
    assert accepted(called=name().upper()).is_renamed


# Rounds


@pytest.mark.parametrize("called", ["", name(), "another"])
@pytest.mark.parametrize("state", [*UNFINISHED, JobState.UNKNOWN])
def test_a_new_round_cancels_what_earlier_ones_left_and_waits_until_it_has_ended(called, state):
    left = job(state, source="list", called=called)
    if called != "another":
        assert cancels(asked(left, round=2, at=NOW + 9e6)) == {"7"}
    written = accepted(called=called, cancelled_at=NOW - 1)
    assert cancels(asked(left, intent=written, round=2, at=NOW + 9e6)) == {"7"}
    again = accepted(called=called, cancelled_at=NOW)
    assert "job 7" in fails(asked(left, intent=again, round=2, at=NOW + CANCELLED_WITHIN))


def test_a_new_round_cancels_everything_that_earlier_ones_left():
    jobs = [job(JobState.RUNNING, round=n, id=str(n)) for n in range(3)]
    assert cancels(asked(*jobs, round=3)) == {"0", "1", "2"}


@pytest.mark.parametrize("state", FINAL)
def test_a_new_round_submits_at_once_where_the_earlier_job_has_ended(state):
    assert submits(asked(job(state), intent=accepted(), round=2)) == name(0, round=2)
    assert submits(asked(job(state), intent=accepted(has_failed=True), round=2)) == name(0, round=2)


@pytest.mark.parametrize("state", [*MAY_COME_BACK, JobState.ENDED])
def test_a_new_round_waits_whether_the_earlier_job_is_queued_again(state):
    left = job(state)
    assert looks_again(asked(left, intent=accepted(), round=2)) <= NOW + SETTLE
    assert submits(asked(left, intent=accepted(), round=2, at=NOW + SETTLE)) == name(0, round=2)


@pytest.mark.parametrize("left", [intent(at=NOW), accepted(at=NOW), intent(at=NOW, said="busy")])
def test_a_new_round_waits_for_what_the_earlier_one_has_perhaps_submitted(left):
    looks_again(asked(intent=left, round=2, at=NOW + SETTLE - 1))
    looks_again(asked(intent=left, round=2, at=NOW + SETTLE, trouble="it was cut"))
    assert submits(asked(intent=left, round=2, at=NOW + SETTLE)) == name(0, round=2)


def test_a_new_round_of_which_nothing_is_written_believes_that_there_is_nothing_a_while_after_its_start():
    looks_again(asked(round=2, at=NOW + SETTLE - 1))
    assert submits(asked(round=2, at=NOW + SETTLE)) == name(0, round=2)


def test_a_new_round_takes_its_own_job_beside_an_earlier_one_that_has_ended():
    jobs = [job(JobState.CANCELLED), job(JobState.RUNNING, round=2, id="8")]
    assert takes(asked(*jobs, intent=intent(round=2, at=NOW), round=2)) == "8"


# What is written


def test_an_intent_comes_back_as_it_was_written():
    written = accepted(said="x", unclear_since=3.0, cancelled_for="y", has_failed=True)
    assert Intent.read(written.written()) == written


@pytest.mark.parametrize(
    "found", [None, {}, "text", 3, [], {"name": "run_1", "at": 1.0}, {"name": name(), "at": ""}]
)
def test_what_somebody_else_wrote_is_no_intent(found):
    assert Intent.read(found) is None

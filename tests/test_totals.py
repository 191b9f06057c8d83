# SPDX-License-Identifier: Apache-2.0
"""What is claimed on an account, and how it is said."""

from __future__ import annotations

import math

from airflow_provider_scnet.gate.claims import NOTHING, Claim, Claimed, Claims
from hypothesis import given
from hypothesis import strategies as st


def test_a_claim_weighs_on_every_look_that_was_made_before_it_expired():
    claims = Claims()
    claims.put("a", Claim(2, 1060.0))
    claims.put("b", Claim(0, 1060.0))
    claims.put("c", Claim(3, 1070.0))
    weights = {at: claims.weigh(at).jobs for at in (990.0, 1059.9, 1060.0, 1069.9, 1070.0)}
    assert weights == {990.0: 5, 1059.9: 5, 1060.0: 3, 1069.9: 3, 1070.0: 0}
    assert claims.weigh(990.0).end == 1070.0


def test_what_no_look_can_weigh_any_more_is_dropped():
    claims = Claims()
    claims.put("a", Claim(2, 1060.0))
    claims.put("b", Claim(3, 1070.0))
    claims.forget(1060.0)
    assert claims.weigh(0.0).jobs == 3
    claims.forget(1070.0)
    assert not claims
    claims.put("a", Claim(2, 1060.0))
    assert not claims


def test_a_claim_that_is_dropped_weighs_nothing_at_once():
    claims = Claims()
    claims.put("a", Claim(2, math.inf))
    assert claims.weigh(0.0).jobs == 2
    claims.drop("a")
    assert claims.weigh(0.0) == NOTHING


def test_a_later_claim_of_the_same_gate_takes_the_place_of_the_earlier():
    claims = Claims()
    claims.put("a", Claim(2, 1060.0))
    assert claims.weigh(0.0).jobs == 2
    claims.put("a", Claim(5, 1060.0))
    assert claims.weigh(0.0).jobs == 5


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 3), st.integers(0, 5), st.booleans())))
def test_what_was_weighed_before_changes_no_weight(steps):
    """The weight is kept from one gate to the next; it has to be what a fresh sum says."""
    claims, kept = Claims(), {}
    for name, jobs, expires, is_put in steps:
        if is_put:
            claims.put(name, Claim(jobs, float(expires)))
            kept[name] = (jobs, expires)
        else:
            claims.drop(name)
            kept.pop(name, None)
        for at in (2.0, 4.0):
            assert claims.weigh(at).jobs == sum(jobs for jobs, expires in kept.values() if expires > at)


def test_it_says_which_submissions_are_awaited():
    def said(*claims: Claim) -> str:
        claimed = NOTHING
        for claim in claims:
            claimed = claimed.plus(claim)
        return str(claimed)

    waits = [Claim(1, 9.0, holds=True, awaited=f"submit[{number}]") for number in (0, 3, 4, 5, 9)]
    ended = Claim(1, 9.0, has_ended=True)
    assert said(Claim(2, 9.0)) == "+2 claimed"
    assert said(waits[0]) == "+1 claimed: submit[0] has not ended"
    assert said(*waits[:2]) == "+2 claimed: submit[0] and submit[3] have not ended"
    assert said(*waits) == "+5 claimed: submit[0], submit[3] and 3 more have not ended"
    assert said(ended) == "+1 claimed: 1 ended, perhaps not counted yet"
    assert said(waits[0], ended, ended) == (
        "+3 claimed: submit[0] has not ended; 2 ended, perhaps not counted yet"
    )


def test_nobody_knows_when_a_claim_ends_that_waits_for_a_submission():
    assert NOTHING.plus(Claim(1, 9.0, holds=True)).seconds_left is None
    assert Claimed(1, end=0.0).seconds_left == 0.0


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abcdef"),
            st.sampled_from(["put", "drop", "look", "look back", "forget"]),
            st.integers(0, 3),
            st.integers(1, 40),
            st.booleans(),
            st.booleans(),
        ),
        max_size=60,
    )
)
def test_the_sums_are_those_of_a_fresh_addition_whatever_came_and_went(steps):
    claims, kept, at, oldest = Claims(), {}, 10.0, 0.0
    for name, what, jobs, number, holds, has_ended in steps:
        if what == "put":
            awaited = "" if has_ended or not holds else f"submit[{name}]"
            claim = Claim(jobs, at + number - 5, holds and not has_ended, awaited, has_ended)
            claims.put(name, claim)
            kept.pop(name, None)
            if claim.expires > oldest:
                kept[name] = claim
        elif what == "drop":
            claims.drop(name)
            kept.pop(name, None)
        elif what == "look":
            at += number / 4
        elif what == "forget":
            oldest = max(oldest, at - number)
            claims.forget(oldest)
            kept = {name: claim for name, claim in kept.items() if claim.expires > oldest}
        looked_at = max(oldest, at - number / 2) if what == "look back" else at
        claimed = claims.weigh(looked_at)
        fresh = NOTHING
        for claim in kept.values():
            if claim.jobs and claim.expires > looked_at:
                fresh = fresh.plus(claim)
        assert (claimed.jobs, claimed.unended, claimed.ended) == (fresh.jobs, fresh.unended, fresh.ended)
        assert claimed.end == fresh.end
        assert len(claimed.awaited) == len(fresh.awaited)

"""Observations that turn out to be others, or none: `revise_many` of every policy without context."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_policies_contract import bits, everyone, make, some

from bandit_serve.errors import InvalidInput
from bandit_serve.metrics import KINDS
from bandit_serve.policies import Exp3, FixedSplit, Thompson

NONE = math.nan


def dyadic(objective, rng, n):
    """Values of which every sum of a few thousand is exact, scaled to [0, 1] or not."""
    if KINDS[objective].two_valued:
        return rng.integers(0, 2, n).astype(float)
    if objective == "bounded":
        return rng.integers(0, 9, n) / 8.0
    return rng.integers(0, 64, n).astype(float)


@everyone
@given(seed=st.integers(0, 2**32))
@settings(max_examples=10, deadline=None)
def test_after_any_revisions_statistics_are_those_of_the_last_values(policy, objective, seed):
    bounds = {"low": 0.0, "high": 1.0} if objective == "bounded" else {}
    rng = np.random.default_rng(seed)
    n = int(rng.integers(1, 40))
    arms, chances = rng.integers(0, 3, n), rng.choice([0.125, 0.5, 1.0], n)
    revised, final = (policy(3, objective=objective, warmup=4, **bounds) for _ in range(2))
    values = np.full(n, NONE)
    for _ in range(int(rng.integers(1, 8))):
        some = rng.permutation(n)[: rng.integers(1, n + 1)]
        new = np.where(rng.random(len(some)) < 0.25, NONE, dyadic(objective, rng, len(some)))
        is_change = ~(np.isnan(new) & np.isnan(values[some]))
        some, new = some[is_change], new[is_change]
        revised.revise_many(arms[some], values[some], new, chances[some])
        values[some] = new
    there = ~np.isnan(values)
    final.update_many(arms[there], values[there], chances[there])
    expected = final.statistics()
    for name, column in revised.statistics().items():
        exact = name in ("n", "total", "gain")
        np.testing.assert_allclose(
            column, expected[name], rtol=0.0 if exact else 1e-9, atol=0.0 if exact else 1e-9
        )
    assert revised.observed.tolist() == final.observed.tolist()
    # Those of its own statistics: between arms of equal bounds rounding may choose.
    assert bits({"shares": revised.shares()}) == bits({"shares": policy.from_state(revised.state()).shares()})


@everyone
def test_an_observation_that_comes_by_a_revision_is_one_that_comes(policy, objective):
    one, other = (make(policy, objective, warmup=2, seed=3) for _ in range(2))
    arms, values = some(objective, 4, 200, seed=1)
    chances = np.full(200, 0.25)
    one.update_many(arms, values, chances)
    other.revise_many(arms, np.full(200, NONE), values, chances)
    assert bits(one.statistics()) == bits(other.statistics())
    assert one.observed.tolist() == other.observed.tolist()
    assert one.choose_many(50).tolist() == other.choose_many(50).tolist()


@everyone
def test_what_forgetting_has_left_is_what_changes(policy, objective):
    bounds = {"low": 0.0, "high": 1.0} if objective == "bounded" else {}
    policy = policy(1, objective=objective, **bounds)
    policy.update_many([0, 0], [1.0, 0.0], [0.5, 0.5])
    policy.forget(0.5)
    policy.update(0, 1.0, 0.5)
    policy.revise_many([0], [1.0], [0.0], [0.5], [0.5])
    assert policy.counts.tolist() == [2.0]
    assert policy.means.tolist() == [0.5]
    statistics = policy.statistics()
    if "m2" in statistics:
        assert statistics["m2"].tolist() == pytest.approx([0.5])
    policy.revise_many([0], [0.0], [NONE], [0.5], [0.5])
    assert policy.counts.tolist() == [1.5]
    assert policy.means.tolist() == pytest.approx([2 / 3])
    policy.revise_many([0], [NONE], [1.0], [0.5], [0.5])
    assert policy.counts.tolist() == [2.0]
    assert policy.means.tolist() == pytest.approx([0.75])
    assert policy.observed.tolist() == [3]


def test_time_since_an_observation_says_what_is_left_of_it():
    policy = Thompson(2, half_life="1s")
    assert policy.left_since(np.array([0, 5])).tolist() == [1.0, 1.0]
    policy.advance(10_000)
    assert policy.left_since(np.array([10_000, 9_000, 8_000, 11_000])).tolist() == [1.0, 0.5, 0.25, 1.0]
    assert 0.0 <= policy.left_since(np.array([-(2**53)]))[0] < 1e-300
    assert Thompson(2).left_since(np.array([0])).tolist() == [1.0]


@everyone
@given(seed=st.integers(0, 2**32))
@settings(max_examples=8, deadline=None)
def test_nothing_takes_statistics_out_of_their_ranges(policy, objective, seed):
    """Also revisions of what never was learned, with weights that it never had."""
    rng = np.random.default_rng(seed)
    kind = KINDS[objective]()
    wide = np.array(
        [0.0, 1.0] if not kind.unbounded else [0.0, 1.0, 3.0, 1e9, kind.ceiling, max(kind.floor, -1e80)]
    )
    policy = policy(2, objective=objective, warmup=3)
    for _ in range(60):
        n = int(rng.integers(1, 5))
        former, new = (np.where(rng.random(n) < 0.3, NONE, rng.choice(wide, n)) for _ in range(2))
        new = np.where(np.isnan(former) & np.isnan(new), 1.0, new)
        weights = rng.choice([0.0, 5e-324, 1e-101, 1e-9, 0.3, 1.0], n)
        policy.revise_many(rng.integers(0, 2, n), former, new, rng.choice([1e-200, 0.1, 1.0], n), weights)
        if rng.random() < 0.3:
            policy.forget(rng.choice([1e-30, 0.5, 0.999]))
        shares = policy.shares()
        assert np.isfinite(shares).all()
        assert shares.sum() == pytest.approx(1.0)
        assert (policy.observed >= 0).all()
        again = type(policy).from_state(policy.state())
        assert bits(again.statistics()) == bits(policy.statistics())


def test_the_only_observation_left_is_what_it_is_now():
    policy = Thompson(2, objective="continuous")
    policy.update(0, 1e20)
    policy.revise_many([0], [1e20], [0.1])
    assert policy.statistics()["mean"].tolist() == [0.1, 0.0]
    assert policy.statistics()["m2"].tolist() == [0.0, 0.0]


def test_a_warm_up_goes_on_where_an_observation_is_taken_back():
    policy = Thompson(2, warmup=2, seed=1)
    policy.update_many([0, 0, 1, 1], [1, 1, 0, 0])
    warm = policy.shares()
    assert warm[0] > 0.5
    policy.revise_many([1], [0], [NONE])
    assert policy.shares().tolist() == [0.0, 1.0]
    assert policy.choose() == 1
    policy.revise_many([1], [NONE], [0])
    assert policy.shares().tolist() == warm.tolist()


def test_gains_change_by_what_the_propensity_makes_of_it():
    policy = Exp3(2)
    policy.update_many([0, 1], [1.0, 1.0], [0.25, 0.5])
    policy.revise_many([0, 1], [1.0, 1.0], [0.0, NONE], [0.25, 0.5])
    assert policy.statistics()["gain"].tolist() == [0.0, 0.0]
    policy.revise_many([0], [0.0], [1.0], [0.125])
    assert policy.statistics()["gain"].tolist() == [8.0, 0.0]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (([2], [1.0], [0.0]), r"arms\[0\] must be from 0 to 1"),
        (([-1], [1.0], [0.0]), r"arms\[0\] must be from 0 to 1"),
        (([0], [0.5], [0.0]), r"formers\[0\]: a reward must be 0 or 1"),
        (([0, 0], [1.0, 1.0], [0.0, 7.0]), r"rewards\[1\]: a reward must be 0 or 1"),
        (([0], [NONE], [NONE]), r"formers\[0\] or rewards\[0\] must be a number"),
        (([0], [1.0], [math.inf]), r"rewards\[0\]: "),
        (([0], [1.0], [0.0], None, [1.5]), r"weights\[0\] must be from 0 to 1"),
        (([0], [1.0], [0.0], None, [NONE]), r"weights\[0\] must be from 0 to 1"),
        (([0], [1.0, 0.0], [0.0]), "vectors of the same length"),
        (([0], [1.0], [0.0], None, [1.0, 1.0]), "vectors of the same length"),
        (([[0]], [[1.0]], [[0.0]]), "vectors of the same length"),
        ((["a"], [1.0], [0.0]), "arms must be a vector of numbers"),
        (([0], ["a"], [0.0]), "formers must be a vector of numbers"),
    ],
)
def test_wrong_revisions_are_refused_and_change_nothing(arguments, said):
    policy = FixedSplit(2)
    policy.update_many([0, 1], [1, 0])
    before = bits(policy.statistics())
    with pytest.raises(InvalidInput, match=said):
        policy.revise_many(*arguments)
    assert bits(policy.statistics()) == before


def test_propensities_are_looked_at_by_those_who_weigh():
    with pytest.raises(InvalidInput, match="propensities must be above 0"):
        Exp3(2).revise_many([0], [NONE], [1.0], [0.0])
    policy = Exp3(2)
    policy.revise_many([0, 0], [NONE, 1.0], [1.0, 0.0])
    assert policy.counts.tolist() == [1.0, 0.0]

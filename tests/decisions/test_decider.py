"""Decisions of one experiment in one worker: the shares drawn from are the shares logged, and the holdout is apart."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import numpy as np
import pytest
from builders import eventually, experiment, record
from scipy.stats import chisquare

from bandit_serve.base.clock import now_ms
from bandit_serve.decisions.decider import Decider
from bandit_serve.decisions.draw import Draw
from bandit_serve.decisions.refresh import Refresher
from bandit_serve.errors import Conflict, InvalidInput
from bandit_serve.experiments.spec import Ramp, Standing
from bandit_serve.folds.experiment import LiveExperiment
from bandit_serve.folds.replica import Replica
from bandit_serve.log.events import HELD_OUT, Change, Changed, Exposed
from bandit_serve.log.offset import Offset
from bandit_serve.log.token import Keyring, new_key

N = 40_000
KEYRING = Keyring({0: new_key(0)}, 10**12)
ABC = [{"name": name} for name in "abc"]


def decider(standings: tuple[Standing, ...] = (), **fields: Any) -> Decider:
    about = record(experiment(**{"arms": ABC, "policy": {"kind": "fixed_split"}, **fields}))
    first = Changed(msgspec.structs.replace(about, standings=standings), Change("create", "test"))
    live = LiveExperiment(first)
    live.apply(Offset(1, 0), first)
    return Decider(live, 1)


def exposures(one: Decider) -> Exposed:
    waiting = one.exposures.first_waiting()
    assert waiting is not None
    return waiting[0]


SPLIT = {"kind": "fixed_split", "shares": {"a": 8, "b": 2, "c": 0}}


@pytest.mark.parametrize("unit", ["user", "request"])
@pytest.mark.parametrize("holdout", [0.0, 0.3, 1.0])
def test_what_is_drawn_is_what_is_logged_with_a_holdout(unit: str, holdout: float) -> None:
    one = decider(unit=unit, policy={**SPLIT, "holdout": holdout})
    expected = (1 - holdout) * np.array([0.8, 0.2, 0.0]) + holdout / 3
    np.testing.assert_allclose(one.draw.shares, expected, atol=1e-12)
    tokens, arms, propensities = one.decide_columns([f"u{i}" for i in range(N)], KEYRING, 5)
    counts = np.bincount(arms, minlength=3)
    drawn = expected > 0
    assert counts[~drawn].sum() == 0
    assert chisquare(counts[drawn], N * expected[drawn]).pvalue > 1e-5
    np.testing.assert_allclose(propensities, expected[arms], rtol=1e-12)
    logged = exposures(one).held_out_rows()
    flags = KEYRING.open(tokens, np.zeros(N))[0]["flags"]
    if holdout == 0.0:
        assert logged is None
        assert not flags.any()
        return
    assert logged is not None
    assert (flags == np.where(logged, HELD_OUT, 0)).all()
    assert abs(logged.mean() - holdout) <= 4 * np.sqrt(holdout * (1 - holdout) / N)
    of_holdout = np.bincount(np.array(arms)[logged], minlength=3)
    assert chisquare(of_holdout).pvalue > 1e-5, "the holdout is split evenly"
    if unit == "user":
        again = one.decide_columns([f"u{i}" for i in range(N)], KEYRING, 5)
        assert again[1] == arms


def test_one_by_one_is_as_in_columns() -> None:
    one = decider(unit="user", policy={**SPLIT, "holdout": 0.3})
    units = [f"u{i}" for i in range(2_000)]
    tokens, arms, _ = one.decide_columns(units, KEYRING, 5)
    choices = [one.choose(unit, None) for unit in units]
    assert [choice.arm for choice in choices] == arms
    singles = [one.record(choice, KEYRING, 5) for choice in choices]
    rows, again = KEYRING.open(tokens, np.zeros(2_000))[0], KEYRING.open(singles, np.zeros(2_000))[0]
    assert (rows["flags"] == again["flags"]).all()
    logged = exposures(one).held_out_rows()
    assert logged is not None
    assert (logged[:2_000] == logged[2_000:]).all()
    assert 0.2 < logged.mean() < 0.4


def test_chance_decides_about_the_holdout_of_requests() -> None:
    one = decider(policy={**SPLIT, "holdout": 0.3})
    choices = [one.choose("the same", None) for _ in range(4_000)]
    held_out = np.array([choice.held_out for choice in choices])
    assert abs(held_out.mean() - 0.3) < 0.03
    arms = np.array([choice.arm for choice in choices])
    assert set(arms[~held_out]) == {0, 1}
    assert set(arms[held_out]) == {0, 1, 2}


def test_a_vector_whose_holdout_is_all_that_an_arm_has_is_unmixed_without_it() -> None:
    shares = 0.7 * np.array([1.0, 0.0, 0.0]) + 0.3 * np.array([0.5, 0.5, 0.0])
    draw = Draw(shares, 0.3)
    np.testing.assert_allclose(draw._learned, [1.0, 0.0, 0.0], atol=1e-15)
    assert draw._learned.sum() == pytest.approx(1.0, abs=1e-15)
    assert draw._even.tolist() == [0.5, 0.5, 0.0]


def test_paused_and_removed_arms_get_nothing() -> None:
    one = decider((Standing(), Standing("paused"), Standing("removed")))
    assert one.draw.propensities == [1.0, 0.0, 0.0]
    assert one.choose(None, ["a", "b"]).propensity == 1.0
    with pytest.raises(Conflict, match="eligible"):
        one.choose(None, ["b", "c"])
    with pytest.raises(InvalidInput, match="nobody"):
        one.choose(None, ["nobody"])


def test_an_ejected_arm_gets_nothing_also_where_it_is_asked_for_unless_alone() -> None:
    one = decider()
    choice = one.choose(None, ["b"])
    assert not one.eject(choice), "no other was asked for"
    assert one.ejected == ["b"]
    assert one.draw.propensities == [0.5, 0.0, 0.5]
    assert {one.choose(None, ["a", "b"]).arm for _ in range(50)} == {0}
    assert one.choose(None, ["b"]).propensity == 1.0
    assert one.eject(next(c for c in iter(lambda: one.choose(None, None), None) if c.arm == 2))
    assert one.draw.propensities == [1.0, 0.0, 0.0]
    assert not one.eject(one.choose(None, None)), "the last one stays"
    assert one.ejected == ["b", "c"]
    assert one.ejections.count == 2
    assert one.moves_at_ms < now_ms() + 5_100


def test_shares_follow_a_ramp_without_any_news() -> None:
    policy = {"kind": "fixed_split", "refresh": "10ms"}
    ramp = Standing("active", Ramp(0.1, "2s"), now_ms())
    one = decider((Standing(), Standing(), ramp), policy=policy)
    seen = {one.draw.shares[2]}
    assert max(seen) < 0.3

    def done() -> bool:
        seen.add(one.draw.shares[2])
        return bool(one.draw.shares[2] > 1 / 3 - 1e-9)

    async def scenario() -> None:
        task = asyncio.create_task(Refresher({"e": one}, Replica()).run())
        try:
            await eventually(done)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(scenario())
    assert len(seen) > 5

"""Unit invariance: results for a·y + b are the results for y, times a, plus b."""

from __future__ import annotations

import numpy as np
import pytest
from simulated_results import START_MS, Play, Z, lognormal, record

from bandit_serve.experiments.policy_spec import PolicySpec
from bandit_serve.results import ResultsFold, report
from bandit_serve.results.metric_result import MetricTable

EVEN, UNEVEN = np.array([0.5, 0.5]), np.array([0.85, 0.15])
SCHEDULES = {
    "an even split": ("fixed_split", [EVEN] * 12),
    "an uneven split": ("fixed_split", [UNEVEN] * 12),
    "weights that changed": ("fixed_split", [EVEN] * 6 + [UNEVEN] * 6),
    "a bandit": ("thompson", [EVEN, UNEVEN, UNEVEN[::-1]] * 4),
    "a contextual bandit": ("lin_ts", [EVEN, UNEVEN, UNEVEN[::-1]] * 4),
    "a contextual bandit and its features": ("lin_ts", [EVEN, UNEVEN, UNEVEN[::-1]] * 4),
}


def played(schedule, unit, a, b, gain):
    """Reports on the way and the last table of two arms, the second worth `gain` more."""
    kind, shares = SCHEDULES[schedule]
    known = schedule.endswith("features")
    fields = {"unit": unit, "goal": "maximize" if a > 0 else "minimize", "context": (Z,) if known else ()}
    about = record(2, "continuous", PolicySpec(kind=kind), **fields)
    z = np.random.default_rng(12).normal(0.0, 1.0, (len(shares), 150))
    x = np.stack([np.ones_like(z), z, np.zeros_like(z)], axis=2)
    at = 0

    def draw(rng, k, n):
        # The first n of a step are the first arm's.
        mine = z[at, :n] if k == 0 else z[at, 150 - n :]
        return a * (lognormal(rng, k, n) + gain * k + (mine if known else 0.0)) + b

    play = Play(ResultsFold(about), np.random.default_rng(11), draw)
    reports: list = []
    for i, share in enumerate(shares):
        at = i
        arms = np.sort(np.searchsorted(np.cumsum(share)[:-1], play.rng.random(150), side="right"))
        play.play(arms, share, np.arange(150 * i, 150 * i + 150).astype(np.uint64), x[i] if known else None)
        if i % 3 == 2:
            reports.append(report(play.fold, about, {}, START_MS))
    return reports, MetricTable(play.fold, about, 0)


@pytest.mark.parametrize(("unit", "gain"), [("request", 1.0), ("user", 0.0)])
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(
    ("a", "b"), [(1.0, 210.0), (-3.0, 630.0), (1e-9, 0.0), (1e9, -1e12), (1.0, 1.7e9), (-1.0, 0.0)]
)
def test_results_of_a_y_plus_b_are_those_of_y(schedule, unit, a, b, gain):
    plain, table = played(schedule, unit, 1.0, 0.0, gain)
    moved, other = played(schedule, unit, a, b, gain)
    np.testing.assert_allclose(
        np.stack(other.evidence)[:: int(np.sign(a))], table.evidence, rtol=1e-5, atol=1e-6
    )
    near = {"rel": 1e-5, "abs": 1e-5 * abs(a) + 1e-12 * abs(b)}
    assert [one.winner for one in moved] == [one.winner for one in plain]
    assert (plain[-1].winner is not None) == (gain > 0)
    for one, two in zip(plain, moved, strict=True):
        for arm, same in zip(one.arms, two.arms, strict=True):
            mine, its = arm.metrics["m"], same.metrics["m"]
            assert its.mean == pytest.approx(a * mine.mean + b, **near)
            assert its.std == pytest.approx(abs(a) * mine.std, rel=1e-5)
            assert (its.interval is None) == (mine.interval is None)
            if mine.interval is not None:
                ends = sorted(a * end + b for end in mine.interval)
                assert its.interval == pytest.approx(tuple(ends), **near)
            assert (its.p_value is None) == (mine.p_value is None)
            if mine.p_value is not None:
                assert its.p_value == pytest.approx(mine.p_value, rel=1e-4)
                assert its.difference == pytest.approx(a * mine.difference, rel=1e-4, abs=1e-5 * abs(a))
                ends = sorted(a * end for end in mine.difference_interval)
                assert its.difference_interval == pytest.approx(tuple(ends), rel=1e-4, abs=1e-5 * abs(a))


def test_a_mean_a_hundred_times_its_spread_makes_no_winner():
    """The first decision scored around 0 named one in every such test."""
    named = 0
    for run in range(10):
        about = record(2, "continuous", PolicySpec(kind="thompson", min_share=0.05))
        play = Play(
            ResultsFold(about), np.random.default_rng([7, run]), lambda rng, k, n: rng.normal(100, 1, n)
        )
        for share in [EVEN, UNEVEN, UNEVEN[::-1]] * 4:
            play.step(share, 100)
            named += report(play.fold, about, {}, START_MS).winner is not None
    assert named == 0

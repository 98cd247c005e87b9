"""P(best) and expected loss once the shares have moved."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import norm
from simulated_results import Play, record

from bandit_serve.experiments.policy_spec import PolicySpec
from bandit_serve.metrics import Binary
from bandit_serve.results import MetricResult, ResultsFold, report
from bandit_serve.results.estimates import Sums, moving_shares

Floats = NDArray[np.float64]
DRAWS = 10_000


def ramped(
    seed: int,
    lift: float = 0.0,
    kind: str = "binary",
    steps: int = 12,
    policy: PolicySpec | None = None,
    n_arms: int = 2,
) -> tuple[Play, list[Floats]]:
    """Arms whose worth rises from .1 to .5 while control hands its traffic over to the others; b has `lift` more."""
    rng = np.random.default_rng([40, seed])
    play = Play(ResultsFold(record(n_arms, kind, policy=policy)), rng, lambda *_: np.zeros(0), n_arms)
    shares = []
    for step in range(steps):
        level = 0.1 + 0.4 * step / (steps - 1)

        def draw(rng: np.random.Generator, k: int, n: int, level: float = level) -> Floats:
            worth = level + (lift if k == 1 else 0.0)
            return rng.normal(worth, 0.5, n) if kind == "continuous" else (rng.random(n) < worth) * 1.0

        control = 0.9 - 0.8 * step / (steps - 1)
        shares.append(np.array([control, *[(1 - control) / (n_arms - 1)] * (n_arms - 1)]))
        play.draw = draw
        play.step(shares[-1], 400)
    return play, shares


def rows(play: Play) -> list[MetricResult]:
    return [arm.metrics["m"] for arm in report(play.fold, play.fold.record, {}, 0).arms]


def drawn(play: Play, shares: list[Floats], rng: np.random.Generator) -> Floats:
    """Draws from the posterior of b's effect, f8[DRAWS]: of each time its own, weighted by where both had traffic."""
    total, weights = np.zeros(DRAWS), 0.0
    for arms, values, e in zip(play.arms, play.values, shares, strict=True):
        weight = len(arms) * e[0] * e[1] / (e[0] + e[1])
        worth = []
        for k in (0, 1):
            mine = values[arms == k]
            spread = mine.std(ddof=1) / np.sqrt(len(mine))
            won = mine.sum()
            worth.append(
                rng.beta(won + 0.5, len(mine) - won + 0.5, DRAWS)
                if set(mine) <= {0.0, 1.0}
                else rng.normal(mine.mean(), spread, DRAWS)
            )
        total += weight * (worth[1] - worth[0])
        weights += weight
    return total / weights


@pytest.mark.parametrize("kind", ["binary", "continuous"])
@pytest.mark.parametrize("lift", [0.0, 0.04])
def test_it_is_that_of_a_posterior_that_knows_the_weights(kind: str, lift: float) -> None:
    """About: the scores are centred on what came before, where this knows each time's mean, so that of one play the two
    differ, and on average they must not.
    """
    off, loss_off, chances = [], [], []
    for seed in range(12):
        play, shares = ramped(seed, lift, kind)
        effect = drawn(play, shares, np.random.default_rng(seed))
        control, b = rows(play)
        chances.append(b.probability_best)
        off.append(b.probability_best - np.mean(effect > 0))
        loss_off.append(control.expected_loss - np.maximum(effect, 0).mean())
        assert control.probability_best + b.probability_best == pytest.approx(1.0, abs=1e-6)
        assert control.expected_loss - b.expected_loss == pytest.approx(b.difference, abs=1e-6)
    assert np.abs(off).mean() < 0.12
    assert abs(np.mean(off)) < 0.07
    assert abs(np.mean(loss_off)) < 0.004
    if lift == 0.0:
        # By the samples' means b would be best for certain in every play.
        assert 0.2 < np.mean(chances) < 0.8
        assert np.ptp(chances) > 0.4


@pytest.mark.parametrize("goal", ["maximize", "minimize"])
def test_of_two_arms_it_is_the_normal_chance_of_the_difference(goal: str) -> None:
    play, _ = ramped(3, 0.03)
    play.fold.record = record(2, goal=goal)
    sums = Sums.of(play.fold.sums, 0)
    difference = moving_shares(sums, Binary, 0, play.fold.evidence.peers).differences
    spread = np.sqrt(difference.variance_of_mean[1])
    z = difference.mean[1] / spread * (1 if goal == "maximize" else -1)
    control, b = rows(play)
    assert b.probability_best == pytest.approx(norm.cdf(z), abs=1e-3)
    assert control.expected_loss == pytest.approx(spread * (norm.pdf(z) + z * norm.cdf(z)), rel=0.02)


def test_of_many_arms_it_is_that_of_draws() -> None:
    play, _ = ramped(5, 0.03, n_arms=4)
    sums = Sums.of(play.fold.sums, 0)
    estimates = moving_shares(sums, Binary, 0, play.fold.evidence.peers)
    rng = np.random.default_rng(1)
    of_control = estimates.controls.variance_of_mean
    own = estimates.differences.variance_of_mean - of_control
    worth = rng.normal(0.0, np.sqrt(of_control[1:].mean()), (DRAWS, 1))
    others = rng.normal(estimates.differences.mean[1:], np.sqrt(own[1:]), (DRAWS, 3))
    worth = np.concatenate([worth, others], axis=1)
    best = np.bincount(worth.argmax(axis=1), minlength=4) / DRAWS
    logged = rows(play)
    np.testing.assert_allclose([row.probability_best for row in logged], best, atol=4 * 0.5 / DRAWS**0.5)
    loss = (worth.max(axis=1, keepdims=True) - worth).mean(axis=0)
    np.testing.assert_allclose([row.expected_loss for row in logged], loss, rtol=0.05, atol=1e-4)


def test_it_is_null_where_no_variance_is_known() -> None:
    bare = ramped(1, policy=PolicySpec(kind="thompson", min_share=0.0))[0]
    few = Play(ResultsFold(record(2)), np.random.default_rng(1), lambda rng, k, n: rng.random(n) * 0.0)
    few.step(np.array([0.5, 0.5]), 40)
    few.step(np.array([0.3, 0.7]), 40)
    for play in (bare, few):
        for row in rows(play):
            assert row.probability_best is row.expected_loss is None
    reason = report(bare.fold, bare.fold.record, {}, 0).reason
    assert "no interval, p-value or chance of being best is valid" in reason

"""Observations and days that are still to go."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from simulated_results import START_MS, Play, bernoulli, record
from test_horizon import to_horizon

from bandit_serve.experiments.stopping import Stopping
from bandit_serve.results import ResultsFold
from bandit_serve.results.fold import DAY_MS
from bandit_serve.results.planning import Design, Law, even_shares, plan
from bandit_serve.results.to_go import to_go

EVEN = np.array([0.5, 0.5])


def played(made, draw, *steps, seed=5):
    play = Play(ResultsFold(made), np.random.default_rng(seed), draw, len(made.experiment.arms))
    for n in steps:
        play.step(EVEN, n)
    return play


def test_what_is_decided_has_nothing_to_go():
    play = played(record(), bernoulli(0.1, 0.4), 2_000)
    assert to_go(play.fold, play.fold.record).samples == 0


def test_nothing_is_said_before_anything_is_compared_or_of_no_difference_at_all():
    assert to_go(ResultsFold(record()), record()) is None
    play = played(record(), bernoulli(0.1, 0.1), 60)
    assert to_go(play.fold, play.fold.record) is None
    same = played(record(), lambda rng, k, n: np.arange(n) % 2.0, 4_000)
    assert to_go(same.fold, same.fold.record) is None


def test_it_ends_about_when_a_plan_says_that_such_an_experiment_ends():
    made = record()
    play = played(made, bernoulli(0.1, 0.12), 400)
    stopping = Stopping(expected_samples=8_000)
    made = msgspec.structs.replace(
        made, experiment=msgspec.structs.replace(made.experiment, stopping=stopping)
    )
    still = to_go(play.fold, made, effect=0.02).samples
    planned = plan(Design(Law(0.1, 0.0, True), even_shares(2), tuned_for=8_000), difference=0.02)
    assert 400 + still == pytest.approx(planned.anytime.mean_n, rel=0.4)
    assert to_go(play.fold, made, effect=0.01).samples > 2.5 * still


def test_going_on_with_the_difference_seen_decides_it_then():
    """The same values again and again: the difference and the variance stay what they are."""
    play = played(record(), bernoulli(0.1, 0.13), 1_500)
    said = to_go(play.fold, play.fold.record).samples
    arms, values = play.arms[-1], play.values[-1]
    rounds = said / 1_500
    assert rounds > 0.5
    repeated = 0
    while to_go(play.fold, play.fold.record).samples > 0:
        repeated += 1
        play.draw = lambda rng, k, n: values[arms == k]
        play.play(arms, EVEN)
    assert repeated == pytest.approx(rounds, abs=1.2)


def test_no_fewer_than_the_least_that_a_winner_needs():
    made = record(min_samples=10_000)
    play = played(made, bernoulli(0.1, 0.4), 2_000)
    assert to_go(play.fold, made).samples == pytest.approx(18_000, rel=0.05)


def test_a_horizon_goes_on_to_its_end():
    play = played(to_horizon(1_000), bernoulli(0.1, 0.1), 210)
    assert to_go(play.fold, play.fold.record).samples == 790
    play.step(EVEN, 900)
    assert to_go(play.fold, play.fold.record).samples == 0


def test_days_are_those_of_the_traffic_so_far():
    play = played(to_horizon(100_000, started_ms=START_MS), bernoulli(0.1, 0.1))
    assert play.fold.a_day is None
    for day in range(5):
        play.now_ms = START_MS + day * DAY_MS
        play.step(EVEN, 400)
    assert play.fold.a_day == pytest.approx(2_000 / 4, rel=1e-4)
    left = to_go(play.fold, play.fold.record)
    assert left.samples == 98_000
    assert left.days == pytest.approx(left.samples / play.fold.a_day)


def test_with_missing_rewards_as_zero_the_last_window_has_to_close():
    made = to_horizon(100_000, missing="zero", window="7d", started_ms=START_MS)
    play = played(made, bernoulli(0.5, 0.5))
    for day in range(3):
        play.now_ms = START_MS + day * DAY_MS
        play.step(EVEN, 100)
    left = to_go(play.fold, play.fold.record)
    assert play.fold.pending == 300
    assert play.fold.a_day == pytest.approx(150, rel=1e-4)
    assert left.days == pytest.approx(7 + (100_000 - 300) / play.fold.a_day)


def test_there_are_no_days_before_there_has_been_a_minute():
    play = played(to_horizon(100_000, started_ms=START_MS), bernoulli(0.1, 0.1), 210)
    left = to_go(play.fold, play.fold.record)
    assert (left.samples, left.days) == (99_790, None)

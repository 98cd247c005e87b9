"""Observations and days to go, and the traffic they are reckoned by."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from simulated_results import START_MS, Play, bernoulli, record
from test_horizon import to_horizon

from bandit_serve.errors import UnreadableEntry
from bandit_serve.experiments.stopping import Stopping
from bandit_serve.log.offset import START
from bandit_serve.results import ResultsFold
from bandit_serve.results.planning import Design, Law, even_shares, plan
from bandit_serve.results.to_go import to_go
from bandit_serve.results.traffic import DAY_MS, MAX_DAYS, Traffic

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


def test_days_are_those_of_the_traffic_of_late():
    play = played(to_horizon(100_000), bernoulli(0.1, 0.1))
    for day in range(12):
        play.now_ms = START_MS + day * DAY_MS
        play.step(EVEN, 100 if day < 4 else 400)
    assert play.fold.a_day == pytest.approx(400, rel=0.15)
    left = to_go(play.fold, play.fold.record)
    assert left.days == pytest.approx(left.samples / play.fold.a_day)
    assert len(play.fold._columns()["traffic"]["since_ms"]) == MAX_DAYS
    assert ResultsFold.from_state(play.fold.offset, play.fold.state()).a_day == play.fold.a_day


def test_with_missing_rewards_as_zero_the_last_window_has_to_close():
    play = played(to_horizon(100_000, missing="zero", window="7d"), bernoulli(0.5, 0.5))
    for day in range(3):
        play.now_ms = START_MS + day * DAY_MS
        play.step(EVEN, 100)
    left = to_go(play.fold, play.fold.record)
    assert play.fold.pending == 300
    assert left.days == pytest.approx(7 + (100_000 - 300) / play.fold.a_day)


def test_there_is_no_rate_before_a_minute_or_after_a_week_of_nothing():
    traffic = Traffic.none()
    assert traffic.a_day(0, 0, 0) is None
    traffic.note(DAY_MS, 0, 0)
    assert traffic.a_day(DAY_MS + 59_000, 50, 0) is None
    assert traffic.a_day(DAY_MS + 3_600_000, 50, 0) == pytest.approx(24 * 50)
    assert traffic.a_day(DAY_MS + 3_600_000, 50, 20) == pytest.approx(24 * 20)
    assert traffic.a_day(9 * DAY_MS, 50, 20) is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"since_ms": np.array([2 * DAY_MS, DAY_MS])},
        {"since_ms": np.array([DAY_MS])},
        {"exposures": np.array([-1, 5])},
        {"analysed": np.array([0.0, 1.0])},
        dict.fromkeys(("since_ms", "exposures", "analysed"), np.arange(9) * DAY_MS),
    ],
)
def test_traffic_that_can_not_have_been_is_refused(wrong):
    play = played(record(), bernoulli(0.1, 0.4), 100)
    play.now_ms += DAY_MS
    play.step(EVEN, 100)
    vars(play.fold._traffic).update(wrong)
    with pytest.raises(UnreadableEntry):
        ResultsFold.from_state(START, play.fold.state())

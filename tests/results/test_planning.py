"""Plans against the known multiples, textbook sizes, and simulated experiments."""

from __future__ import annotations

import math

import numpy as np
import pytest
from msgspec import UNSET
from scale import scaled
from scipy.stats import norm

from bandit_serve.errors import InvalidInput
from bandit_serve.results.courses import anytime_course, horizon_course
from bandit_serve.results.planning import Design, Law, chances, even_shares, plan
from bandit_serve.results.sequence import mean_sequence

RATE = Design(Law(0.1, 0.0, two_valued=True), even_shares(2), traffic=1_000.0)
NUMBERS = Design(Law(700.0, 5.0), even_shares(2), traffic=250.0)


def test_the_known_multiples_of_the_fixed_test():
    found = plan(NUMBERS, difference=0.1)
    factor = (norm.isf(0.025) + norm.isf(0.2)) ** 2
    assert factor == pytest.approx(7.849, abs=1e-3)
    assert found.fixed.n == math.ceil(4 * factor * 25 / 0.01)
    assert 1.65 <= found.anytime.n / found.fixed.n <= 1.73
    assert found.anytime.mean_n / found.fixed.n == pytest.approx(1.12, abs=0.005)
    assert found.horizon.n / found.fixed.n == pytest.approx(1.03, abs=0.01)
    assert found.horizon.mean_n < found.fixed.n < found.anytime.mean_n
    assert found.cuped is UNSET


def test_two_proportions_have_variances_of_their_own():
    found = plan(RATE, difference=0.02)
    variances = 0.1 * 0.9 + 0.12 * 0.88
    assert found.fixed.n == math.ceil(2 * 7.848879734349 * variances / 0.02**2)
    assert found.fixed.effect.relative == pytest.approx(0.2)
    assert plan(RATE, difference=-0.02).fixed.n < found.fixed.n
    assert found.fixed.days == found.fixed.n / 1_000


def test_cuped_takes_one_minus_the_square_of_the_correlation():
    found = plan(NUMBERS, difference=0.1, correlation=0.8)
    assert found.cuped.n == pytest.approx(0.36 * found.fixed.n, abs=1)
    assert found.cuped.anytime.n == pytest.approx(0.36 * found.anytime.n, abs=2)
    assert found.cuped.horizon.n == pytest.approx(0.36 * found.horizon.n, abs=2)
    assert plan(NUMBERS, difference=0.1, correlation=0.0).cuped.n == found.fixed.n


@pytest.mark.parametrize(
    "design", [RATE, NUMBERS, NUMBERS._replace(tuned_for=5_000), RATE._replace(shares=even_shares(5))]
)
@pytest.mark.parametrize("test", ["fixed", "anytime", "horizon"])
def test_what_days_find_takes_those_days(design, test):
    within = getattr(plan(design, days=40.0), test)
    assert within.n == 40 * design.traffic
    back = getattr(plan(design, difference=within.effect.absolute), test)
    assert back.n == pytest.approx(within.n, rel=2e-3)
    assert back.days == pytest.approx(40.0, rel=2e-3)


def test_more_arms_and_uneven_shares_take_more():
    two, five = (
        plan(RATE, difference=0.02).fixed.n,
        plan(RATE._replace(shares=even_shares(5)), difference=0.02).fixed.n,
    )
    theta = norm.isf(0.025 / 4) + norm.isf(0.2)
    assert five == pytest.approx(two * 5 / 2 * theta**2 / 7.848879734, rel=1e-4)
    uneven = plan(NUMBERS._replace(shares=(0.9, 0.1)), difference=0.1).fixed.n
    assert uneven == pytest.approx(plan(NUMBERS, difference=0.1).fixed.n * (1 / 0.9 + 1 / 0.1) / 4, abs=2)


def test_a_test_that_is_tuned_for_another_number_takes_longer():
    tuned = plan(RATE, difference=0.01)
    assert tuned.anytime.expected_samples == pytest.approx(tuned.fixed.n, abs=1)
    assert tuned.horizon.expected_samples == tuned.horizon.n
    given = plan(RATE._replace(tuned_for=500), difference=0.01)
    assert given.anytime.expected_samples == 500
    assert given.anytime.n > 1.2 * tuned.anytime.n
    assert given.fixed.n == tuned.fixed.n


def test_what_an_experiment_has_counts():
    found = plan(RATE._replace(analysed=20_000), difference=0.01)
    assert found.analysed == 20_000
    assert found.fixed.n_to_go == found.fixed.n - 20_000
    assert found.fixed.days_to_go == found.fixed.n_to_go / 1_000
    assert plan(RATE._replace(analysed=200_000), difference=0.01).anytime.n_to_go == 0
    assert plan(RATE, difference=0.01).anytime.n_to_go is UNSET


def test_no_fewer_than_results_need():
    found = plan(NUMBERS, difference=50.0)
    assert found.fixed.n < 10
    assert found.anytime.n == found.horizon.n == 100
    assert found.horizon.mean_n == 100


@pytest.mark.parametrize(
    ("design", "asked", "at"),
    [
        (NUMBERS, {"difference": 1e-9}, "effect"),
        (NUMBERS, {"difference": 1e-200}, "effect"),
        (RATE, {"days": 0.09}, "days"),
        (RATE._replace(law=Law(1.0, 0.0, two_valued=True)), {"days": 5.0}, "days"),
        (RATE._replace(traffic=None), {"days": 5.0}, "traffic"),
    ],
)
def test_what_no_number_of_observations_does_is_said_at_its_field(design, asked, at):
    with pytest.raises(InvalidInput) as refused:
        plan(design, **asked)
    assert [error.at for error in refused.value.errors] == [at]


def test_without_traffic_there_are_no_days():
    found = plan(RATE._replace(traffic=None), difference=0.01)
    assert found.fixed.days is None
    assert found.anytime.mean_days is None


@pytest.mark.parametrize("test", ["fixed", "anytime", "horizon"])
def test_the_chances_reach_the_power_at_the_planned_end(test):
    points = chances(NUMBERS, test, 0.1)
    n, found = map(np.array, zip(*points, strict=True))
    assert (np.diff(n) > 0).all()
    assert (np.diff(found) >= 0).all()
    planned = getattr(plan(NUMBERS, difference=0.1), test).n
    assert np.interp(planned, n, found) == pytest.approx(0.8, abs=0.003)


@pytest.mark.parametrize(("comparisons", "tuned"), [(1, 1.0), (4, 0.25)])
def test_anytime_experiments_end_when_the_plan_says(comparisons, tuned):
    """Simulated experiments of the fixed test's length in 2,000 observations, looked at as the fold does."""
    runs, alpha, fixed_n = scaled(400, 4_000), 0.05, 2_000.0
    course = anytime_course(alpha, 0.8, comparisons, tuned)
    looks = [50.0]
    while looks[-1] < 8 * fixed_n:
        looks.append(looks[-1] + max(1, int(looks[-1] * 0.01)))
    n = np.array(looks)
    steps = np.diff(n, prepend=0.0)
    theta = norm.isf(alpha / comparisons / 2) + norm.isf(0.2)
    rng = np.random.default_rng(8)
    total = rng.normal(theta / math.sqrt(fixed_n) * steps, np.sqrt(steps), (runs, len(n))).cumsum(axis=1)
    log_e = mean_sequence(n, total / n, 1.0 / n, tuned * fixed_n).log_e_value(alpha)
    beyond = log_e >= math.log(comparisons / alpha)
    end = np.where(beyond.any(axis=1), n[beyond.argmax(axis=1)], np.inf) / fixed_n
    assert (end <= course.end(0.8)).mean() == pytest.approx(0.8, abs=3 * math.sqrt(0.16 / runs))
    assert end.mean() == pytest.approx(course.mean, abs=3 * end.std() / math.sqrt(runs))


@pytest.mark.parametrize("looks", [1, 2, 5, 20])
def test_a_horizon_ends_little_later_than_the_fixed_test(looks):
    course = horizon_course(0.05, 0.8, looks)
    assert len(course.t) == looks
    assert 1.0 <= course.t[-1] <= 1.05
    assert course.found[-1] == pytest.approx(0.8, abs=1e-6)
    assert course.mean <= course.t[-1]

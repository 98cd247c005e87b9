"""Best-arm stopping against known values, a search over the common mean, and worlds in which the best arm is known."""

from __future__ import annotations

import math

import msgspec
import numpy as np
import pytest
from scale import scaled
from scipy.optimize import minimize_scalar
from simulated_results import Play, bernoulli, record

from bandit_serve.experiments.policy_spec import PolicySpec
from bandit_serve.experiments.spec import Standing
from bandit_serve.results import ResultsFold
from bandit_serve.results.best_arm import (
    bernoulli_evidence,
    best_arm,
    normal_evidence,
    poisson_evidence,
    threshold,
)


def test_the_known_values():
    n, p = np.array([500, 600]), np.array([50 / 500, 72 / 600])
    z = bernoulli_evidence(700, 105 / 700, n, p)
    assert z == pytest.approx([3.3215498520466733, 1.244241419857718], abs=1e-9)
    assert threshold(1800, 0.05) == pytest.approx(5.135273822273903, abs=1e-9)


def searched(divergence, n_b, p_b, n_j, p_j):
    """The least that both arms can be at odds with one common mean."""
    total = minimize_scalar(
        lambda m: n_b * divergence(p_b, m) + n_j * divergence(p_j, m),
        bounds=(min(p_b, p_j), max(p_b, p_j)),
        method="bounded",
        options={"xatol": 1e-12},
    )
    return total.fun


@pytest.mark.parametrize(("p_b", "p_j"), [(0.3, 0.2), (0.9, 0.1), (0.011, 0.01)])
def test_the_evidence_is_the_least_over_common_means(p_b, p_j):
    def of_bernoulli(p, q):
        return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))

    def of_poisson(p, q):
        return p * math.log(p / q) - p + q

    def of_normal(p, q):
        return (p - q) ** 2 / (2 * 0.7)

    asked = 400, p_b, 300, p_j
    assert bernoulli_evidence(*asked) == pytest.approx(searched(of_bernoulli, *asked), rel=1e-9)
    assert poisson_evidence(*asked) == pytest.approx(searched(of_poisson, *asked), rel=1e-9)
    z = normal_evidence(p_b - p_j, 0.7 / 400 + 0.7 / 300)
    assert z == pytest.approx(searched(of_normal, *asked), rel=1e-9)


def test_the_ends_of_the_range_are_no_errors():
    assert bernoulli_evidence(10, 1.0, 10, 0.0) == pytest.approx(20 * math.log(2.0))
    assert bernoulli_evidence(10, 0.0, 7, 0.0) == 0.0
    assert bernoulli_evidence(10, 1.0, 7, 1.0) == 0.0
    assert poisson_evidence(10, 3.0, 10, 0.0) == pytest.approx(30 * math.log(2.0))


def played(draw, *, kind="binary", goal="maximize", n=3_000, n_arms=3, **about):
    play = Play(ResultsFold(record(n_arms, kind, goal=goal, **about)), np.random.default_rng(4), draw, n_arms)
    play.step(np.full(n_arms, 1 / n_arms), n)
    return play.fold


def test_the_arm_ahead_is_found_in_a_fold():
    fold = played(bernoulli(0.1, 0.12, 0.3))
    found = best_arm(fold, fold.record, 0.05)
    n, total = fold.sums.of_metric(0)["n"], fold.sums.of_metric(0)["total"]
    assert found.arm == 2
    assert found.decided
    assert math.isnan(found.z[2])
    assert found.z[:2] == pytest.approx(bernoulli_evidence(n[2], total[2] / n[2], n[:2], (total / n)[:2]))
    assert found.least == min(found.z[:2])
    assert found.threshold == threshold(3_000, 0.05)
    close = played(bernoulli(0.1, 0.12, 0.125))
    assert not best_arm(close, close.record, 0.05).decided


def test_where_less_is_better_the_smallest_mean_is_ahead():
    fold = played(bernoulli(0.3, 0.12, 0.28), goal="minimize")
    assert best_arm(fold, fold.record, 0.05).arm == 1


def test_a_removed_arm_is_no_rival_and_can_not_be_best():
    fold = played(bernoulli(0.1, 0.12, 0.3))
    without = msgspec.structs.replace(
        fold.record, standings=(Standing(), Standing(), Standing(status="removed"))
    )
    found = best_arm(fold, without, 0.05)
    assert found.arm == 1
    assert np.isnan(found.z).tolist() == [False, True, True]
    assert found.n == fold.sums.of_metric(0)["n"][:2].sum()


def test_any_numbers_are_compared_by_their_own_variances():
    def draw(rng, k, n):
        return rng.normal((0.0, 1.0, 5.0)[k], (1.0, 2.0, 20.0)[k], n)

    fold = played(draw, kind="continuous")
    found = best_arm(fold, fold.record, 0.05)
    assert found.arm == 2
    assert found.z[0] == pytest.approx(25 / (2 * (1 + 400) / 1000), rel=0.6)


def test_counts_that_vary_more_than_a_poisson_law_says_count_for_less():
    def orders(rng, k, n):
        return (rng.random(n) < 0.05) * (1.0 + rng.poisson((2.0, 2.0, 2.9)[k], n))

    fold = played(orders, kind="count", missing="ignore")
    found = best_arm(fold, fold.record, 0.05)
    n, total = fold.sums.of_metric(0)["n"], fold.sums.of_metric(0)["total"]
    rivals = [k for k in range(3) if k != found.arm]
    plain = poisson_evidence(n[found.arm], total[found.arm] / n[found.arm], n[rivals], (total / n)[rivals])
    assert (found.z[rivals] < plain / 2).all()


def test_nothing_is_said_of_few_observations_or_of_a_contextual_policy():
    assert best_arm(played(bernoulli(0.1, 0.1, 0.9), n=120), record(3), 0.05) is None
    policy = PolicySpec(kind="lin_ts", min_share=0.05)
    play = Play(ResultsFold(record(3, policy=policy)), np.random.default_rng(4), bernoulli(0.1, 0.1, 0.9), 3)
    for shares in ([0.2, 0.2, 0.6], [0.3, 0.3, 0.4]):
        play.step(np.array(shares), 500)
    assert best_arm(play.fold, play.fold.record, 0.05) is None
    constant = played(lambda rng, k, n: np.full(n, 2.0), kind="continuous")
    assert best_arm(constant, constant.record, 0.05) is None


def stops(evidence_enough, runs):
    """Counts of runs that stop, and that stop with another arm than the best: .10, .12, .135, looked at each 5 %."""
    wrong, stopped, means = 0, 0, np.array([0.10, 0.12, 0.135])
    rng = np.random.default_rng(5)
    n, won = np.zeros(3), np.zeros((runs, 3))
    undecided = np.ones(runs, bool)
    while n.sum() < 40_000:
        more = max(20, int(n[0] * 0.05))
        n += more
        won += rng.binomial(more, means, (runs, 3))
        p = won / n
        best = p.argmax(axis=1)
        z = bernoulli_evidence(n[0], np.take_along_axis(p, best[:, None], 1), n, p)
        np.put_along_axis(z, best[:, None], np.inf, 1)
        now = undecided & (z.min(axis=1) >= evidence_enough(n.sum())) & (n[0] >= 50)
        stopped += now.sum()
        wrong += (now & (best != 2)).sum()
        undecided &= ~now
    return stopped, wrong


def test_it_rarely_stops_with_another_arm():
    runs = scaled(300, 2_000)
    allowed = (0.1 + 2 * math.sqrt(0.09 / runs)) * runs
    stopped, wrong = stops(lambda n: threshold(n, 0.1), runs)
    assert stopped > 0.6 * runs
    assert wrong <= allowed
    # Evidence that is enough at one look is not enough at all of them.
    assert stops(lambda n: 0.5 * 1.2816**2, runs)[1] > allowed

"""CUPED and ratios against the values of the formulas, and against sums of the adjusted values themselves."""

from __future__ import annotations

import numpy as np
import pytest
from simulated_results import START_MS, exposed, record, revised, rewarded

from bandit_serve.experiments.metric import Metric
from bandit_serve.experiments.policy_spec import PolicySpec
from bandit_serve.log.events import Tick
from bandit_serve.log.offset import Offset
from bandit_serve.metrics import Binary, Continuous
from bandit_serve.results import ResultsFold, ratio
from bandit_serve.results.estimates import Sums
from bandit_serve.results.paired import LINEAR, Adjusted, MetricPair
from bandit_serve.results.sequence import mean_sequence, p_value


def lcg(n, seed):
    x, values = seed, []
    for _ in range(n):
        x = (1103515245 * x + 12345) % 2**31
        values.append((x >> 8) / 8388608)
    return np.array(values)


def users():
    """Data U: by user arm, pre, post, sessions, clicks."""
    a, b, c, d, e, f = lcg(2400, 2026).reshape(400, 6).T
    t = (a < 0.5).astype(int)
    pre = np.floor(20 * b**2)
    post = np.floor(0.7 * pre + 10 * c + 1.5 * t)
    sessions = 1 + np.floor(5 * d**2).astype(int)
    clicks = [
        sum((7.3 * e[i] * (j + 1) + f[i]) % 1 < 0.30 + 0.08 * t[i] for j in range(sessions[i]))
        for i in range(400)
    ]
    return t, pre, post, sessions.astype(float), np.array(clicks, float)


def folded(metrics, arms, values, x=None, shares=None, unit="request", policy=None, missing="ignore"):
    """Fold of one decision a row: `values` by metric, NaN for no reward; `shares` (n, K) it was drawn from."""
    n = len(arms)
    shares = np.full((n, 2), 0.5) if shares is None else shares
    about = record(shares.shape[1], metrics=metrics, unit=unit, policy=policy, missing=missing)
    fold = ResultsFold(about)
    units = np.arange(1, n + 1, dtype=np.uint64)
    fold.apply(Offset(START_MS, 1), exposed(0, arms, shares, [1] * n, units=units, x=x))
    for metric, of_metric in enumerate(values):
        if of_metric is None:
            continue
        has = ~np.isnan(of_metric)
        rows = rewarded(
            counter=np.flatnonzero(has).astype(np.uint64),
            unit=units[has],
            arm=arms[has],
            metric=metric,
            value=of_metric[has],
            propensity=shares[np.arange(n), arms][has],
            x=None if x is None else x[has],
        )
        fold.apply(Offset(START_MS, 2), rows)
    return fold


CUPED = (Metric(name="post", kind="continuous", covariate="pre"),)
CLICKS = (
    Metric(name="clicks", kind="count"),
    Metric(name="sessions", kind="count"),
    Metric(name="rate", kind="ratio", numerator="clicks", denominator="sessions"),
)


def pair_of(fold, metric, index=0):
    return MetricPair.of(Sums.of(fold.sums, metric), fold.pairs, index)


def test_cuped_has_the_values_of_the_formulas():
    t, pre, post, _, _ = users()
    fold = folded(CUPED, t, [post], pre[:, None])
    pair = pair_of(fold, 0)
    assert pair.y.n.tolist() == [184, 216]
    theta = pair.theta()
    assert theta == pytest.approx(0.701660416385878, abs=1e-9)
    plain, adjusted = pair.without(0.0, Continuous), pair.without(theta, Continuous)
    for sums, difference, variance in (
        (plain, 1.7938808373590973, 0.2756485983902508),
        (adjusted, 1.224558547010572, 0.08913182259019525),
    ):
        of_one = sums.sample_variance / sums.n
        assert sums.shifted_mean[1] - sums.shifted_mean[0] == pytest.approx(difference, abs=1e-9)
        assert of_one.sum() == pytest.approx(variance, abs=1e-9)
    sequence = mean_sequence(400, 1.224558547010572, 0.08913182259019525)
    half = float(sequence.half_width(0.05))
    assert sequence.mean - half == pytest.approx(0.004725696052445771, abs=1e-9)
    assert sequence.mean + half == pytest.approx(2.4443913979686984, abs=1e-9)
    assert p_value(sequence.log_e_value(0.05)) == pytest.approx(0.04875748455443022, abs=1e-9)


def test_a_ratio_has_the_values_of_the_formulas():
    t, _, _, sessions, clicks = users()
    fold = folded(CLICKS, t, [clicks, sessions], unit="user")
    pair = pair_of(fold, 2)
    _, n_var = ratio.ratios(pair)
    assert n_var.tolist() == pytest.approx([0.09347292216518112, 0.10724176328860893], abs=1e-9)
    found = ratio.estimates(pair, 0, np.array([2, 2]), 5_000.0, moving=False)
    assert found.arms.mean.tolist() == pytest.approx([0.25806451612903225, 0.40588235294117647], abs=1e-9)
    variance = (n_var / pair.y.n).sum()
    assert np.sqrt(variance) == pytest.approx(0.03169376368659866, abs=1e-9)
    sequence = mean_sequence(400, found.differences.mean[1], variance)
    half = float(sequence.half_width(0.05))
    assert sequence.mean - half == pytest.approx(0.01832142140075993, abs=1e-9)
    assert sequence.mean + half == pytest.approx(0.2773142522235285, abs=1e-9)
    assert p_value(sequence.log_e_value(0.05)) == pytest.approx(0.018725809348247666, abs=1e-9)


def moved_shares(rng, n, n_arms=3):
    shares = rng.dirichlet(np.full(n_arms, 4.0), n)
    return shares, np.array([rng.choice(n_arms, p=each) for each in shares])


@pytest.mark.parametrize("kind", ["fixed_split", "lin_ts"])
def test_adjusted_sums_are_those_of_the_adjusted_values(kind):
    rng = np.random.default_rng(5)
    n, theta = 300, 0.75
    shares, arms = moved_shares(rng, n)
    z = rng.integers(0, 64, n) / 8.0 + 3.0
    y = rng.integers(0, 64, n) / 8.0 + z
    policy = PolicySpec(kind=kind)
    fold = folded(CUPED, arms, [y], z[:, None], shares, policy=policy)
    found = pair_of(fold, 0).without(theta, Continuous)
    expected = Sums.of(
        folded((Metric(name="a", kind="continuous"),), arms, [y - theta * z], None, shares).sums, 0
    )
    names = [*LINEAR, "m2", "cube", "square", "residual", "residual_cube", "predicted_square", "inverse", "n"]
    if kind == "fixed_split":
        # A contextual policy weighs pairs evenly.
        names += ["pair_square", "pair_predicted_square", "pair_weight"]
    for name in names:
        if kind != "fixed_split" and name.startswith("pair"):
            continue
        np.testing.assert_allclose(
            getattr(found, name), getattr(expected, name), rtol=1e-9, atol=1e-7, err_msg=name
        )


def test_a_ratio_of_moved_shares_has_the_variance_of_its_scores():
    """Against the linearised scores, decision by decision."""
    rng = np.random.default_rng(8)
    n = 400
    shares, arms = moved_shares(rng, n)
    sessions = 1.0 + rng.poisson(3, n)
    clicks = rng.binomial(sessions.astype(int), 0.2 + 0.1 * arms).astype(float)
    fold = folded(CLICKS, arms, [clicks, sessions], None, shares, unit="user")
    pair = pair_of(fold, 2)
    one, y, z, c, d = 0, 1, 2, 3, 4
    at = {pair: place for place, pair in enumerate(zip(*np.triu_indices(5), strict=True))}
    joint = dict(zip(at, pair.products.joint.T, strict=True))
    for name, expected in {
        "pair_weight_square": joint[one, one],
        "pair_square_score": joint[one, y] - joint[one, c],
        "pair_square": joint[y, y] - 2 * joint[y, c] + joint[c, c],
    }.items():
        np.testing.assert_allclose(getattr(pair.y, name), expected, rtol=1e-9, atol=1e-9, err_msg=name)
    squares = joint[z, z] - 2 * joint[z, d] + joint[d, d]
    np.testing.assert_allclose(pair.z.pair_square, squares, rtol=1e-9, atol=1e-9)
    products = joint[y, z] - joint[y, d] - joint[z, c] + joint[c, d]
    np.testing.assert_allclose(pair.products.pair_product, products, rtol=1e-9, atol=1e-9)
    found = ratio.estimates(pair, 0, np.array([3, 3, 3]), 5_000.0, moving=True)
    true = 0.2 + 0.1 * np.arange(3)
    assert np.abs(found.arms.mean - true).max() < 0.1
    assert np.abs(found.differences.mean[1:] - (true[1:] - true[0])).max() < 0.12


@pytest.mark.parametrize("missing", ["ignore", "zero"])
def test_a_ratio_counts_0_for_what_a_unit_lacks(missing):
    clicks = np.array([2.0, np.nan, 1.0, np.nan, 4.0, 1.0])
    sessions = np.array([4.0, 3.0, np.nan, np.nan, 5.0, 2.0])
    arms = np.array([0, 0, 0, 0, 1, 1])
    fold = folded(CLICKS, arms, [clicks, sessions], unit="user", missing=missing)
    if missing == "zero":
        fold.apply(Offset(START_MS + 4_000_000, 0), Tick())
    pair = pair_of(fold, 2)
    assert pair.y.n.tolist() == [3 if missing == "ignore" else 4, 2]
    assert (pair.y.total.tolist(), pair.z.total.tolist()) == ([3.0, 5.0], [7.0, 7.0])
    assert pair.products.co_moment[0] == pytest.approx(
        np.sum(
            (np.nan_to_num(clicks[: pair.y.n[0]]) - 3 / pair.y.n[0])
            * (np.nan_to_num(sessions[: pair.y.n[0]]) - 7 / pair.y.n[0])
        )
    )


def test_a_ratio_follows_values_that_change_and_go():
    """With `ignore` and sums of events: a unit leaves with the last value of either part."""
    fold = ResultsFold(record(2, metrics=CLICKS, unit="user"))
    units = np.arange(1, 5, dtype=np.uint64)
    arms, shares = np.array([0, 0, 1, 1]), np.full((1, 2), 0.5)
    fold.apply(Offset(START_MS, 1), exposed(0, arms, shares, [4], units=units))
    columns = {"counter": units - 1, "arm": arms, "unit": units, "propensity": 0.5}
    at = 2

    def say(metric, value, **more):
        nonlocal at
        at += 1
        fold.apply(
            Offset(START_MS, at), revised(metric=metric, value=np.array(value, float), **columns, **more)
        )

    say(0, [1, 2, 3, 4])
    say(1, [10, 10, 10, 10])
    pair = pair_of(fold, 2)
    assert (pair.y.total.tolist(), pair.z.total.tolist()) == ([3.0, 7.0], [20.0, 20.0])
    say(1, [5, 6, 7, 9], former=10.0, since_ms=START_MS)
    pair = pair_of(fold, 2)
    assert (pair.y.n.tolist(), pair.z.total.tolist()) == ([2, 2], [11.0, 16.0])
    assert pair.products.co_moment.tolist() == pytest.approx([0.5, 1.0])
    say(0, [np.nan] * 4, former=np.array([1.0, 2, 3, 4]), since_ms=START_MS)
    pair = pair_of(fold, 2)
    assert (pair.y.n.tolist(), pair.y.total.tolist(), pair.z.total.tolist()) == ([2, 2], [0, 0], [11.0, 16.0])
    say(1, [np.nan] * 4, former=np.array([5.0, 6, 7, 9]), since_ms=START_MS)
    assert fold.sums.counts().tolist() == [0, 0, 0]
    assert not any(column.any() for column in fold.pairs.of_pair(0).values())


def test_an_arm_without_a_success_varies_all_the_same():
    rng = np.random.default_rng(3)
    arms, z = np.arange(400) % 2, rng.normal(size=400)
    y = np.where(arms == 0, 0.0, (rng.random(400) < 0.1) * 1.0)
    fold = folded((Metric(name="y", kind="binary", covariate="z"),), arms, [y], z[:, None])
    pair = pair_of(fold, 0)
    adjusted = Adjusted.of(pair, Binary, 0, np.array([2, 2]), 5_000.0, moving=False)
    variance = adjusted.sums.cautious_variance(Binary)
    assert variance[0] > 0.8 * pair.y.cautious_variance(Binary)[0]

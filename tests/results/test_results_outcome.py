"""Outcome model, by the features of decisions: the scores of contextual policies are centred on it."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from result_states import StateColumns, parts_of, state_of
from scale import scaled
from simulated_results import START_MS, Z, exposed, random_log, record, rewarded, with_arm

from bandit_serve.errors import UnreadableEntry
from bandit_serve.experiments.metric import Metric
from bandit_serve.experiments.policy_spec import PolicySpec
from bandit_serve.experiments.spec import Record
from bandit_serve.log.events import Change, Changed, Event, Exposed, Rewarded, Tick
from bandit_serve.log.offset import START, Offset
from bandit_serve.metrics import MAX_VALUE, Binary, Continuous
from bandit_serve.policies.context import ContextField
from bandit_serve.results import ResultsFold, kernels, report
from bandit_serve.results.estimates import Sums, moving_shares

METRICS = (Metric(name="hit", kind="binary"), Metric(name="worth", kind="continuous"))
MISSING = ["ignore", "zero"]
WINDOW_MS = 500
Floats = NDArray[np.float64]
Log = list[tuple[int, Event]]


def numbers(n: int) -> tuple[ContextField, ...]:
    """Fields with 1 + 2 n features in all: 1, and of each its value and whether it is missing."""
    return tuple(ContextField(name=f"z{i}", kind="numeric") for i in range(n))


def about(n_arms: int = 2, n_fields: int = 1, kind: str = "continuous", **fields: object) -> Record:
    policy = PolicySpec(kind="lin_ts", min_share=0.05)
    return record(n_arms, kind, policy, context=numbers(n_fields), **fields)


def features(z: Floats) -> Floats:
    """Of rows z [n, fields]."""
    x = np.zeros((len(z), 1 + 2 * z.shape[1]))
    x[:, 0], x[:, 1::2] = 1.0, z
    return x


@dataclass
class World:
    """Decisions of two arms by shares that follow z, and what they bring; `wild` of 1,000 values of z are no values."""

    seed: int
    kind: str = "continuous"
    noise: int = 0
    wild: int = 0
    rng: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)

    def rows(self, n: int) -> tuple[Floats, Floats, NDArray[np.int64], Floats]:
        """x, shares, arms and values of n decisions."""
        z = self.rng.normal(0.0, 1.0, (n, 1 + self.noise))
        if self.kind == "binary":
            z[:, 0] = np.sign(z[:, 0])
        first = 0.5 + 0.45 * np.sign(z[:, 0])
        shares = np.stack([first, 1.0 - first], axis=1)
        arms = (self.rng.random(n) >= first).astype(np.int64)
        towards = np.where(arms == 0, z[:, 0], -z[:, 0])
        if self.kind == "binary":
            values = (self.rng.random(n) < 0.5 + 0.4 * towards).astype(float)
        else:
            values = 1.0 + 0.5 * towards + self.rng.normal(0.0, 1.0, n)
        z[self.rng.random(n) < self.wild / 1_000, 0] = 1.7e6
        return features(z), shares, arms, values


def decide(
    into: ResultsFold, first: int, x: Floats | None, shares: Floats, arms: NDArray[np.int64], values: Floats
) -> None:
    """n decisions with shares of their own, and their rewards, at once."""
    n, at = len(arms), START_MS + first
    into.apply(Offset(at, 0), exposed(first, arms, shares, [1] * n, time_ms=at, x=x))
    own = shares[np.arange(n), arms]
    rows = rewarded(counter=first + np.arange(n), arm=arms, value=values, propensity=own, time_ms=at, x=x)
    into.apply(Offset(at, 0), rows)


def half_width(of: ResultsFold) -> float:
    low, high = report(of, of.record, {}, 0).arms[1].metrics["m"].difference_interval
    return (high - low) / 2


def with_and_without(world: World, n: int = 6_000) -> tuple[ResultsFold, ResultsFold]:
    """The same decisions, folded with their features and without."""
    same = about(n_fields=1 + world.noise, kind=world.kind)
    known, unknown = ResultsFold(same), ResultsFold(same)
    for first in range(0, n, 200):
        x, *rest = world.rows(200)
        decide(known, first, x, *rest)
        decide(unknown, first, None, *rest)
    assert known.sums.of_metric(0)["modelled"] == n
    assert unknown.sums.of_metric(0)["modelled"] == 0
    return known, unknown


# What is computed


def ridge(x: Floats, y: Floats, precision: Floats) -> Floats:
    return np.linalg.solve(x.T @ x + np.diag(precision), x.T @ y)


@dataclass
class Reference:
    """Scores around ridge regressions that are made anew for each decision, with λ = 1."""

    n_arms: int
    x: list[list[Floats]] = field(default_factory=list)
    y: list[list[float]] = field(default_factory=list)
    slope: list[list[float]] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.x, self.y = [[] for _ in range(self.n_arms)], [[] for _ in range(self.n_arms)]
        self.slope = [[0.0, 0.0] for _ in range(self.n_arms)]

    def centre(self, k: int) -> float:
        pooled = np.mean(self.values) if self.values else 0.0
        return float(np.sum(self.y[k]) + pooled) / (len(self.y[k]) + 1)

    def offset(self, k: int, x: Floats) -> float:
        if not self.y[k]:
            return 0.0
        c, known = self.centre(k), np.array(self.x[k])
        theta = ridge(known, np.array(self.y[k]) - c, np.ones(len(x)))
        return float(np.clip(c + x @ theta, min(self.values), max(self.values))) - c

    def expected(self, k: int, x: Floats) -> float:
        agreed, offered = self.slope[k]
        return self.centre(k) + (min(agreed / offered, 1.0) * self.offset(k, x) if agreed > 0.0 else 0.0)

    def learn(self, k: int, x: Floats, y: float) -> None:
        offset = self.offset(k, x)
        self.slope[k][0] += offset * (y - self.centre(k))
        self.slope[k][1] += offset**2
        self.x[k].append(x)
        self.y[k].append(y)
        self.values.append(y)


def test_scores_are_made_around_ridge_regressions_on_the_past():
    """To 1e-9; features are at most 1, so that λ is 1, and within their limits."""
    n_arms, n = 3, 700
    of = ResultsFold(about(n_arms, 2))
    rng = np.random.default_rng(1)
    x = features(rng.uniform(-1.0, 1.0, (n, 2))).astype(np.float32).astype(float)
    shares = 0.05 + 0.85 * rng.dirichlet(np.ones(n_arms), n)
    arms = np.array([rng.choice(n_arms, p=row / row.sum()) for row in shares])
    values = 3.0 + x[:, 1] * (arms - 1) + 0.3 * x[:, 3] + rng.normal(0.0, 0.5, n)
    decide(of, 0, x, shares, arms, values)
    reference, scores, expected, off = Reference(n_arms), [], [], [[] for _ in range(n_arms)]
    origin = values[0]
    for i in range(n):
        mu = np.array([reference.expected(k, x[i]) for k in range(n_arms)])
        if i:
            score = mu.copy()
            score[arms[i]] += (values[i] - origin - mu[arms[i]]) / shares[i, arms[i]]
            off[arms[i]].append(values[i] - origin - mu[arms[i]])
            scores.append(score)
            expected.append(mu)
        reference.learn(arms[i], x[i], values[i] - origin)
    sums, model = of.sums.of_metric(0), of.sums.model_state()
    near = {"rtol": 1e-9, "atol": 1e-9}
    np.testing.assert_allclose(sums["score"], np.sum(scores, axis=0), **near)
    np.testing.assert_allclose(sums["square"], np.sum(np.square(scores), axis=0), **near)
    np.testing.assert_allclose(sums["predicted"], np.sum(expected, axis=0), **near)
    np.testing.assert_allclose(sums["predicted_square"], np.sum(np.square(expected), axis=0), **near)
    np.testing.assert_allclose(sums["residual"], [np.sum(np.square(mine)) for mine in off], **near)
    np.testing.assert_allclose(sums["residual_cube"], [np.sum(np.power(mine, 3)) for mine in off], **near)
    apart = np.array(expected) - np.array(expected)[:, :1]
    weight = 0.5 / n_arms
    np.testing.assert_allclose(sums["pair_predicted"][1:], weight**2 * apart.sum(axis=0)[1:], **near)
    np.testing.assert_allclose(
        sums["pair_predicted_square"][1:], weight**2 * np.square(apart).sum(axis=0)[1:], **near
    )
    estimates = moving_shares(Sums.of(of.sums, 0), Continuous, 0, np.full(n_arms, n_arms))
    # Moved up towards that of all residuals by the weight of 1,000.
    of_all = sum(np.sum(np.square(mine)) for mine in off) / (n - 1)
    own = np.array([np.sum(np.square(mine)) / (np.sum(arms == k) - 1) for k, mine in enumerate(off)])
    count = np.bincount(arms)
    v = own + np.maximum(of_all - own, 0.0) * 1_000 / (count + 1_000)
    inverse = (1.0 / shares[1:]).sum(axis=0)
    around, differences = np.array(expected), np.array(scores) - np.array(scores)[:, :1]
    least = v * inverse + np.square(around - around.mean(axis=0)).sum(axis=0)
    np.testing.assert_allclose(
        estimates.arms.variance, np.maximum(least, np.var(scores, axis=0) * (n - 1)), **near
    )
    least = v * inverse + v[0] * inverse[0] + np.square(apart - apart.mean(axis=0)).sum(axis=0)
    most = weight**2 * np.maximum(least, np.var(differences, axis=0) * (n - 1))
    np.testing.assert_allclose(estimates.differences.variance[1:], most[1:], **near)
    np.testing.assert_allclose(estimates.differences.mean[1:], differences.mean(axis=0)[1:], **near)
    for k in range(n_arms):
        mine, y = np.array(reference.x[k]), np.array(reference.y[k])
        np.testing.assert_allclose(model["slope"][k][:5], ridge(mine, y, np.ones(5)), **near)
        np.testing.assert_allclose(model["share"][k][:5], ridge(mine, np.ones(len(y)), np.ones(5)), **near)


def test_an_arm_without_a_success_varies_all_the_same():
    """However well a model predicts that it has none: as if one success and one failure more had come."""
    of, n = ResultsFold(about(kind="binary")), 240
    z = np.resize([1.0, -1.0], n)
    arms, values = np.arange(n) // 2 % 2, np.zeros(n)
    values[(arms == 0) & (z > 0)] = 1.0
    decide(of, 0, features(z[:, None]), np.full((n, 2), 0.5), arms, values)
    sums = Sums.of(of.sums, 0)
    added = 122 * (1 / 122) * (121 / 122)
    residual, total = sums.residual[1], sums.residual.sum()
    assert residual < 2.0
    own = (residual + added) / 122
    assert own > 0.008
    np.testing.assert_allclose(
        sums.residual_variance(Binary)[1],
        own + max(total / (n - 1) - own, 0.0) * 1_000 / 1_120,
        rtol=1e-12,
    )
    assert sums.residual_variance(Binary)[1] < sums.cautious_variance(Binary)[1]


def test_large_features_are_shrunk_by_their_size():
    """λ is the mean square of what was learned when the inverse was made anew: here after 512 rows of the arm."""
    of, rng, n = ResultsFold(about(2, 2)), np.random.default_rng(2), 1_224
    # Within the narrowest limits that there are.
    x = features(np.clip(rng.normal(0.0, [3.0, 2.0], (n, 2)), -6.0, 6.0)).astype(np.float32).astype(float)
    arms, shares = np.arange(n) % 2, np.full((n, 2), 0.5)
    values = 2.0 + x[:, 1] - x[:, 3] + rng.normal(0.0, 1.0, n)
    decide(of, 0, x, shares, arms, values)
    model = of.sums.model_state()
    assert model["learned"].tolist() == [612, 612]
    precision = np.maximum(1.0, np.square(x[:1_024:2]).mean(axis=0))
    assert (precision[1::2] > 3.0).all()
    np.testing.assert_allclose(model["precision"][0, :5], precision, rtol=1e-9)
    slope = ridge(x[::2], values[::2] - values[0], precision)
    np.testing.assert_allclose(model["slope"][0, :5], slope, rtol=1e-9, atol=1e-12)


# What it is good for


def test_intervals_are_narrower_where_x_explains_much():
    """Measured .40 to .42 of the width in a world that swaps the arms, .80 to .82 in a linear one."""
    for kind, most in (("binary", 0.5), ("continuous", 0.86)):
        known, unknown = with_and_without(World(3, kind))
        assert half_width(known) < most * half_width(unknown)
        for of in (known, unknown):
            low, high = report(of, of.record, {}, 0).arms[1].metrics["m"].difference_interval
            assert low < 0.0 < high
            results = report(of, of.record, {}, 0)
            assert results.winner is None
            assert ("a regression on the context" in results.reason) == (of is known)


def test_features_that_tell_nothing_cost_next_to_nothing():
    for seed in range(3):
        world = World(seed, noise=30)
        known, unknown = ResultsFold(about(n_fields=31)), ResultsFold(about(n_fields=31))
        for first in range(0, 4_000, 200):
            x, shares, arms, _ = world.rows(200)
            values = world.rng.normal(1.0, 1.0, 200)
            decide(known, first, x, shares, arms, values)
            decide(unknown, first, None, shares, arms, values)
        assert half_width(known) < 1.03 * half_width(unknown)


@pytest.mark.parametrize("wild", [1, 20, 200])
def test_wild_values_cost_no_more_than_what_they_hide(wild):
    for kind in ("binary", "continuous"):
        known, unknown = with_and_without(World(4, kind, wild=wild))
        assert half_width(known) < (1.0 if wild < 200 else 1.02) * half_width(unknown)
        for column in (*known.sums.state().values(), *known.sums.model_state().values()):
            assert np.isfinite(column).all()


def test_numbers_at_the_end_of_their_range_are_no_end_of_results():
    of, rng = ResultsFold(about()), np.random.default_rng(5)
    largest = float(np.finfo(np.float32).max)
    for first in range(0, 2_000, 100):
        z = rng.choice([0.0, 1e-30, -1.0, 1e6, largest, -largest], (100, 1))
        arms = rng.integers(0, 2, 100)
        decide(
            of,
            first,
            features(z),
            np.full((100, 2), 0.5),
            arms,
            rng.choice([-MAX_VALUE, MAX_VALUE, 0.0], 100),
        )
    assert all(np.isfinite(column).all() for column in of.sums.model_state().values())
    assert ResultsFold.from_state(of.offset, of.state()).state() == of.state()
    assert msgspec.json.encode(report(of, of.record, {}, 0))


# What is kept


def x_of(incarnation: int, counters: NDArray[np.uint64], n_features: int) -> Floats:
    """Features that follow from which decision it is."""
    seeds = [zlib.crc32(f"{incarnation} {counter}".encode()) for counter in counters.tolist()]
    z = [np.random.default_rng(seed).normal(0.0, 1.0, (n_features - 1) // 2) for seed in seeds]
    return features(np.array(z).reshape(len(seeds), -1))


def with_x(event: Event, n_features: int = 3) -> Event:
    if isinstance(event, Exposed):
        counters = np.arange(event.first, event.first + len(event.arms) // 2, dtype=np.uint64)
        x = x_of(event.incarnation, counters, n_features).astype("<f4")
        return msgspec.structs.replace(event, x=x.tobytes())
    if isinstance(event, Rewarded):
        x = [x_of(int(row["incarnation"]), row["counter"].reshape(1), n_features) for row in event.rows]
        return Rewarded(event.rows, np.concatenate(x).astype("<f4"))
    return event


def bad_days(seed: int, n_arms: int = 3, steps: int = 40) -> Log:
    log = random_log(np.random.default_rng(seed), n_arms, 2, WINDOW_MS, steps=steps)
    return [(at, with_x(event)) for at, event in log]


def of_two_metrics(missing: str, n_arms: int = 3, **fields: object) -> Record:
    return about(n_arms, missing=missing, window=f"{WINDOW_MS}ms", metrics=METRICS, **fields)


def played(into: ResultsFold, log: Log) -> ResultsFold:
    for at, event in log:
        into.apply(Offset(at, 0), event)
    return into


@pytest.mark.slow
@pytest.mark.parametrize("missing", MISSING)
@given(seed=st.integers(0, 2**32), data=st.data())
@settings(max_examples=scaled(6, 40), deadline=None, derandomize=True)
def test_wherever_the_log_is_cut_the_state_is_the_same_bit_for_bit(missing, seed, data):
    log = bad_days(seed, steps=60)
    whole = played(ResultsFold(of_two_metrics(missing)), log)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(log)), min_size=1, max_size=6)))
    resumed, at = ResultsFold(of_two_metrics(missing)), 0
    for cut in [*cuts, len(log)]:
        played(resumed, log[at:cut])
        resumed, at = ResultsFold.from_state(resumed.offset, resumed.state()), cut
    assert (whole.sums.model_state()["learned"] > 0).all()
    assert resumed.state() == whole.state()
    end = log[-1][0] + 3 * WINDOW_MS
    for each in (whole, resumed):
        each.apply(Offset(end, 0), Tick())
        sums = each.sums.state()
        assert sums["modelled"].tolist() == sums["analysed"].tolist(), "every decision has its features"
    assert resumed.state() == whole.state()


@pytest.mark.parametrize("missing", MISSING)
def test_a_reward_before_its_exposure_is_learned_with_its_features(missing):
    of = ResultsFold(of_two_metrics(missing, 2))
    counters, arms, even = np.arange(4, dtype=np.uint64), np.array([0, 1, 0, 1]), np.full((1, 2), 0.5)
    x = x_of(1, counters, 3)
    early = rewarded(counter=counters, arm=arms, value=1.0, propensity=0.5, x=x, time_ms=START_MS)
    of.apply(Offset(START_MS, 0), early)
    of = ResultsFold.from_state(of.offset, of.state())
    # The exposure of the last two is lost with its worker.
    of.apply(Offset(START_MS + 1, 0), with_x(exposed(0, arms[:2], even, [2])))
    of = ResultsFold.from_state(of.offset, of.state())
    of.apply(Offset(START_MS + 20_000, 0), Tick())
    assert of.sums.of_metric(0)["modelled"] == 4
    own = x.astype("<f4").astype(float)
    for k in range(2):
        np.testing.assert_allclose(of.sums.model_state()["constant"][k, :3], own[arms == k].sum(axis=0))
    assert getattr(of._decisions, "n_x", 0) == 0


@pytest.mark.parametrize("missing", MISSING)
def test_an_arm_that_comes_has_a_model_and_the_others_keep_theirs(missing):
    first = of_two_metrics(missing, 2)
    of = played(ResultsFold(first), bad_days(8, 2))
    before = of.sums.model_state()
    assert (before["learned"] > 0).all()
    of.apply(Offset(of.now_ms, 0), Changed(with_arm(first, "c"), Change("add_arm", "me")))
    after = of.sums.model_state()
    for name in ("gram", "inverse", "slope", "share", "agreed"):
        by_arm = after[name].reshape(2, 3, -1)
        np.testing.assert_array_equal(by_arm[:, :2], before[name].reshape(2, 2, -1))
        assert not by_arm[:, 2].any()
    np.testing.assert_array_equal(after["centre"], before["centre"])
    later = [(at + 60_000, event) for at, event in bad_days(9, 3)]
    played(of, later)
    assert (of.sums.model_state()["learned"].reshape(2, 3)[:, 2] > 0).all()
    assert ResultsFold.from_state(of.offset, of.state()).state() == of.state()


def test_a_policy_that_becomes_contextual_has_a_model_from_then_on():
    before = about()
    plain = msgspec.structs.replace(
        before, experiment=msgspec.structs.replace(before.experiment, policy=PolicySpec(kind="thompson"))
    )
    of, world = ResultsFold(plain), World(6)
    x, *rest = world.rows(300)
    decide(of, 0, x, *rest)
    assert (of.sums.n_features, of.sums.of_metric(0)["modelled"]) == (0, 0)
    changed = msgspec.structs.replace(before, revision=before.revision + 1)
    of.apply(Offset(of.now_ms, 0), Changed(changed, Change("policy", "me")))
    assert of.sums.n_features == 3
    x, *rest = world.rows(300)
    decide(of, 300, x, *rest)
    assert of.sums.of_metric(0)["modelled"] == 300
    assert ResultsFold.from_state(of.offset, of.state()).state() == of.state()


# Bounds


def test_matrices_have_at_most_so_many_numbers_and_beyond_scores_are_made_around_means():
    """M K d²: 2 · 725² is beyond 2^20, of two arms. An arm that comes may be what makes a model too large."""

    def hashed(buckets: int) -> Record:
        field = ContextField(name="c", kind="categorical", buckets=buckets)
        return record(2, "continuous", PolicySpec(kind="lin_ts"), missing="zero", context=(field,))

    assert ResultsFold(hashed(722)).sums.n_features == 724
    assert ResultsFold(hashed(723)).sums.n_features == 0
    large, rng = hashed(700), np.random.default_rng(7)
    of, arms = ResultsFold(large), np.arange(20) % 2
    x = np.eye(702)[rng.integers(1, 701, 20)]
    decide(of, 0, x, np.full((20, 2), 0.5), arms, np.ones(20))
    assert of._decisions.n_x == 20
    of.apply(Offset(of.now_ms, 0), Changed(with_arm(large, "c"), Change("add_arm", "me")))
    assert of.sums.n_features == 0
    assert of._decisions.n_x == 0
    again = ResultsFold.from_state(of.offset, of.state())
    for each in (of, again):
        each.apply(Offset(START_MS + 4_000_000, 0), Tick())
        assert each.sums.of_metric(0)["modelled"] == 0
        assert each.sums.of_metric(0)["analysed"] == 20
    assert again.state() == of.state()


def test_features_of_open_decisions_are_kept_within_a_bound(monkeypatch):
    monkeypatch.setattr(kernels, "MAX_X_BYTES", 300 * 3 * 4)
    of, world = ResultsFold(of_two_metrics("zero", 2)), World(8)
    resumed = ResultsFold.from_state(of.offset, of.state())
    for number in range(10):
        x, shares, arms, _ = world.rows(100)
        at = START_MS + number
        for each in (of, resumed):
            each.apply(Offset(at, 0), exposed(100 * number, arms, shares, [1] * 100, time_ms=at, x=x))
        assert of._decisions.n_x == min(300, 100 * (number + 1))
        resumed = ResultsFold.from_state(resumed.offset, resumed.state())
    for at in (START_MS + WINDOW_MS + 2, START_MS + WINDOW_MS + 20):
        for each in (of, resumed):
            each.apply(Offset(at, 0), Tick())
        assert resumed.state() == of.state()
    assert of._decisions.n_x == 0
    assert of.sums.state()["analysed"].tolist() == [1_000, 1_000]
    assert of.sums.state()["modelled"].tolist() == [300, 300]


def test_a_unit_has_no_model():
    of = ResultsFold(record(2, policy=PolicySpec(kind="lin_ts"), context=(Z,), unit="user"))
    assert of.sums.n_features == 0


def test_a_policy_without_context_has_none():
    assert ResultsFold(record(2, policy=PolicySpec(kind="thompson"), context=(Z,))).sums.n_features == 0


# Snapshots

NEW_SUMS = (
    *("residual", "residual_cube", "predicted", "predicted_square"),
    *("pair_predicted", "pair_predicted_square", "modelled"),
)


def former(of: ResultsFold) -> bytes:
    """The state as builds wrote it that knew no features."""
    packed, parts = parts_of(of.state())
    del parts["outcome"]
    parts["sums"] = {name: column for name, column in parts["sums"].items() if name not in NEW_SUMS}
    for part, names in (("early", ("x", "widths")), ("decisions", ("x", "block_has_x", "held_has_x"))):
        for name in names:
            parts[part].pop(name, None)
    return state_of(packed, parts)


@pytest.mark.parametrize("missing", MISSING)
def test_a_snapshot_of_a_build_without_a_model_is_read_and_a_model_begins(missing):
    log = bad_days(11, steps=80)
    half = len(log) // 2
    of = played(ResultsFold(of_two_metrics(missing)), [(at, bare(event)) for at, event in log[:half]])
    again = ResultsFold.from_state(START, former(of))
    assert again.sums.n_features == 3
    mine, its = report(again, again.record, {}, 0), report(of, of.record, {}, 0)
    assert msgspec.json.encode(mine) == msgspec.json.encode(its)
    played(again, log[half:])
    again.apply(Offset(log[-1][0] + WINDOW_MS + 1, 0), Tick())
    sums = again.sums.state()
    assert (sums["modelled"] > 0).all()
    assert (sums["modelled"] < sums["analysed"]).all()
    assert ResultsFold.from_state(again.offset, again.state()).state() == again.state()


def bare(event: Event) -> Event:
    if isinstance(event, Exposed):
        return msgspec.structs.replace(event, x=b"")
    return Rewarded(event.rows) if isinstance(event, Rewarded) else event


@pytest.mark.parametrize("kind", ["binary", "continuous"])
def test_an_interval_goes_on_from_a_snapshot_without_a_model(kind):
    """As wide as without features while half of the sums are so, or less; and never off the truth by it."""
    world, known = World(12, kind), ResultsFold(about(kind=kind))
    unknown = ResultsFold(about(kind=kind))
    for first in range(0, 6_000, 200):
        x, *rest = world.rows(200)
        if first == 3_000:
            known = ResultsFold.from_state(START, former(known))
        decide(known, first, x if first >= 3_000 else None, *rest)
        decide(unknown, first, None, *rest)
    assert 0.5 * half_width(unknown) < half_width(known) < half_width(unknown)


def damaged(parts: StateColumns, part: str, name: str, column: NDArray[np.generic]) -> StateColumns:
    return parts | {part: parts[part] | {name: column}}


@pytest.mark.parametrize("missing", MISSING)
def test_a_snapshot_that_does_not_fit_together_is_refused(missing):
    of = played(ResultsFold(of_two_metrics(missing)), bad_days(13)[:60])
    packed, parts = parts_of(of.state())
    model, early, open_ = parts["outcome"], parts["early"], parts["decisions"]
    faults = [("outcome", name, column[:-1]) for name, column in model.items()]
    faults += [("outcome", name, column[..., None]) for name, column in model.items()]
    faults += [("sums", name, column[..., :-1]) for name, column in parts["sums"].items() if column.size > 1]
    faults += [
        ("outcome", name, np.full(column.shape, np.nan))
        for name, column in model.items()
        if name != "learned"
    ]
    faults += [
        ("outcome", "learned", -1 - model["learned"]),
        ("outcome", "spread", 0.0 * model["spread"]),
        ("early", "widths", np.append(early["widths"], 3)),
        ("early", "x", np.append(early["x"], np.float32(0.0))),
        ("early", "counts", early["counts"] + 1 if len(early["counts"]) else np.array([1])),
    ]
    if missing == "zero":
        assert len(open_["x"]) > 0
        nan = np.full_like(open_["x"], np.nan)
        faults += [
            ("decisions", "x", open_["x"][:-1]),
            ("decisions", "x", open_["x"][:, :-1]),
            ("decisions", "x", open_["x"].astype(np.float64)),
            ("decisions", "x", nan),
            ("decisions", "block_has_x", open_["block_has_x"][:-1]),
            ("decisions", "block_has_x", 0 * open_["block_has_x"]),
            ("decisions", "held_has_x", np.append(open_["held_has_x"], np.uint8(1))),
        ]
    for part, name, column in faults:
        with pytest.raises(UnreadableEntry):
            ResultsFold.from_state(START, state_of(packed, damaged(parts, part, name, column)))
    assert ResultsFold.from_state(START, state_of(packed, parts)).state() == of.state()

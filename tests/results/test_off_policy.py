"""Off-policy estimators: reference values, properties, and what is refused."""

from __future__ import annotations

import csv
import gzip
import math
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import norm

from bandit_serve.results import off_policy
from bandit_serve.results.off_policy import Estimate

Floats = NDArray[np.float64]
N_ITEMS, N_POSITIONS = 34, 3
TAU, LAM = 5.0, 25.0


class Case(NamedTuple):
    """Decisions of one log, and another policy: columns as the estimators take them."""

    reward: Floats
    propensity: Floats
    target: Floats
    q: Floats
    q_target: Floats
    position: NDArray[np.int64]

    def of(self, name: str) -> tuple[tuple[Floats, ...], dict[str, Any]]:
        """Columns and options of an estimator."""
        plain = name in ("ips", "snips")
        options = {"switch": {"tau": TAU}, "dros": {"lam": LAM}}.get(name, {})
        return self[:3] if plain else self[:5], options

    def terms(self, name: str) -> Floats:
        weight = self.target / self.propensity
        factor = {"switch": weight <= TAU, "dros": LAM / (weight**2 + LAM)}.get(name, 1.0)
        if name == "ips":
            return weight * self.reward
        return self.q_target + weight * factor * (self.reward - self.q)


def read_log(name: str) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats, Floats]:
    """Items, positions from 0, clicks and propensities of a log of the Open Bandit Dataset, men's campaign."""
    path = Path(os.environ.get("BANDIT_SERVE_TEST_DATA", ".")) / "obd-men" / f"{name}.csv.gz"
    if not path.is_file():
        pytest.skip(f"There is no {path}: BANDIT_SERVE_TEST_DATA names the folder of the data sets.")
    with gzip.open(path, "rt") as file:
        rows = [
            (int(row["item_id"]), int(row["position"]) - 1, int(row["click"]), float(row["propensity_score"]))
            for row in csv.DictReader(file)
        ]
    items, positions, clicks, propensities = zip(*rows, strict=True)
    return np.array(items), np.array(positions), np.array(clicks, float), np.array(propensities)


@cache
def thompson_from_random() -> Case:
    """The policy of one log, as its rows show it, from the log of the other."""
    items, positions, clicks, propensities = read_log("random")
    other_items, other_positions, _, _ = read_log("bts")
    policy = np.zeros((N_POSITIONS, N_ITEMS))
    np.add.at(policy, (other_positions, other_items), 1.0)
    policy /= policy.sum(axis=1, keepdims=True)
    gained, shown = np.zeros((2, N_POSITIONS, N_ITEMS))
    np.add.at(gained, (positions, items), clicks)
    np.add.at(shown, (positions, items), 1.0)
    q = (gained + 100 * clicks.mean()) / (shown + 100)
    q_target = (policy * q).sum(axis=1)
    return Case(
        clicks, propensities, policy[positions, items], q[positions, items], q_target[positions], positions
    )


REFERENCE = {
    "ips": (0.00565626670083546, 0.0013975995323738805, 0.002917021953, 0.008395511449),
    "snips": (0.005739864701951363, 0.0014152379700714762, 0.002966049251, 0.008513680153),
    "dr": (0.005703768613598665, 0.001389621163011912, 0.002980161182, 0.008427376045),
    "switch": (0.00582967865649874, 0.001152523130176991, 0.003570774830, 0.008088582483),
    "dros": (0.005485481966279187, 0.0008239282439749267, 0.003870612282, 0.007100351650),
}
BERNSTEIN = {
    "ips": (-0.004475260316, 0.015787793717),
    "dr": (-0.004429070129, 0.015836607356),
    "switch": (-0.002120086516, 0.013779443829),
    "dros": (0.000466758120, 0.010504205812),
}
BOOTSTRAP = {
    "ips": (0.0031340315, 0.0086308908),
    "snips": (0.0031803516, 0.0087584529),
    "dr": (0.0031457232, 0.0086532750),
    "switch": (0.0037701412, 0.0082085939),
    "dros": (0.0039602441, 0.0072158117),
}
TRUTH = 0.0069
ESTIMATORS: dict[str, Callable[..., Estimate]] = {
    name: getattr(off_policy, name) for name in (*REFERENCE, "sndr")
}


def close(value: float) -> Any:
    return pytest.approx(value, abs=1e-9, rel=0)


@pytest.mark.parametrize("name", REFERENCE)
def test_values_errors_and_normal_intervals_of_a_real_log(name: str) -> None:
    columns, options = thompson_from_random().of(name)
    estimate = ESTIMATORS[name](*columns, **options)
    assert (estimate.value, estimate.standard_error, *(estimate.interval or ())) == close(REFERENCE[name])


@pytest.mark.parametrize("name", BERNSTEIN)
def test_bernsteins_interval_of_a_real_log(name: str) -> None:
    case = thompson_from_random()
    columns, options = case.of(name)
    bound = float(np.ptp(case.terms(name)))
    estimate = ESTIMATORS[name](*columns, **options, interval="bernstein", bound=bound)
    assert estimate.interval == close(BERNSTEIN[name])


@pytest.mark.parametrize("name", BOOTSTRAP)
def test_the_bootstrap_of_a_real_log(name: str) -> None:
    columns, options = thompson_from_random().of(name)
    estimate = ESTIMATORS[name](*columns, **options, interval="bootstrap", seed=12345)
    assert estimate.interval == close(BOOTSTRAP[name])


@pytest.mark.parametrize("name", REFERENCE)
def test_the_anytime_interval_of_a_real_log_has_what_the_policy_earned_itself(name: str) -> None:
    columns, options = thompson_from_random().of(name)
    anytime = ESTIMATORS[name](*columns, **options, interval="anytime").interval
    fixed = ESTIMATORS[name](*columns, **options).interval
    assert anytime is not None
    assert fixed is not None
    assert anytime[0] < fixed[0] < fixed[1] < anytime[1]
    assert anytime[0] <= TRUTH <= anytime[1]


def test_the_direct_method_diagnostics_and_self_normalisation_of_a_real_log() -> None:
    case = thompson_from_random()
    direct = off_policy.dm(case.q_target)
    assert direct.value == close(0.00514992866102178)
    assert direct.standard_error == pytest.approx(6.62e-06, rel=1e-3)
    assert direct.interval is None
    assert off_policy.sndr(*case[:5]).value == close(0.0057119542094028215)
    weights = off_policy.diagnostics(case.propensity, case.target)
    assert weights.mean_weight == close(0.9854355450072748)
    assert weights.max_weight == close(7.484276729559749)
    assert weights.effective_sample_size == pytest.approx(2869.2752717879575, rel=1e-9)
    assert weights.warnings == []
    assert weights.refusal is None


def test_positions_of_a_real_log() -> None:
    case = thompson_from_random()
    plain = off_policy.per_position(off_policy.ips, case.position, *case[:3])
    values = [estimate.value for estimate in plain.positions.values()]
    assert values == close([0.003885173524131997, 0.006599011044136734, 0.006444203046144794])
    # Plain means pool to the plain mean.
    assert plain.pooled.value == close(REFERENCE["ips"][0])
    normalised = off_policy.per_position(off_policy.snips, case.position, *case[:3])
    values = [estimate.value for estimate in normalised.positions.values()]
    assert values == close([0.003831382477770032, 0.0068026132183179, 0.006624030648500015])
    assert normalised.pooled.value == close(0.005767428763886588)
    effective = [
        off_policy.diagnostics(case.propensity[at], case.target[at]).effective_sample_size
        for at in (case.position == place for place in normalised.positions)
    ]
    assert effective == pytest.approx([928.81, 909.57, 1045.20], abs=0.005)
    direct = off_policy.per_position(off_policy.dm, case.position, case.q_target)
    assert direct.pooled.interval is None


def made(n: int = 400, seed: int = 3) -> Case:
    random = np.random.default_rng(seed)
    propensity = random.choice([0.1, 0.3, 0.6], n)
    reward = (random.random(n) < 0.3).astype(float)
    q = random.random(n) / 2
    assert len(set(reward)) == 2
    return Case(reward, propensity, random.choice([0.2, 0.5], n), q, q + 0.1, random.integers(0, 3, n))


@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_logs_own_policy_has_its_mean(name: str) -> None:
    """With all weights 1 every estimator is the mean of rewards; with a model, of any model that has no bias."""
    case = made()
    own = case._replace(target=case.propensity, q_target=case.q)
    columns, options = own.of(name)
    if name == "dros":
        options = {"lam": 1e12}
    estimate = ESTIMATORS[name](*columns, **options)
    assert estimate.value == pytest.approx(case.reward.mean(), abs=1e-9)
    if name != "dros":
        assert estimate.standard_error == pytest.approx(
            case.reward.std() / math.sqrt(len(case.reward)), rel=2e-3
        )


def test_limits_of_the_shrinking_estimators() -> None:
    case = made()
    doubly = off_policy.dr(*case[:5])
    assert off_policy.switch(*case[:5], tau=1e9) == doubly
    assert off_policy.switch(*case[:5], tau=1e-9).value == off_policy.dm(case.q_target).value
    assert off_policy.dros(*case[:5], lam=1e-12).value == pytest.approx(case.q_target.mean(), abs=1e-9)
    nothing = np.zeros_like(case.q)
    assert off_policy.dr(*case[:3], nothing, nothing) == off_policy.ips(*case[:3])


@given(st.floats(-1e3, 1e3), st.sampled_from(["snips", "sndr"]))
def test_self_normalised_estimates_move_with_the_rewards(shift: float, name: str) -> None:
    case = made()
    columns, options = case.of(name)
    before = ESTIMATORS[name](*columns, **options)
    after = ESTIMATORS[name](columns[0] + shift, *columns[1:], **options)
    assert after.value == pytest.approx(before.value + shift, abs=1e-8)
    if name == "snips":
        assert after.standard_error == pytest.approx(before.standard_error, rel=1e-6)


def test_a_level_of_confidence() -> None:
    case = made()
    for alpha in (0.01, 0.2):
        estimate = off_policy.ips(*case[:3], alpha=alpha)
        assert estimate.interval is not None
        half = (estimate.interval[1] - estimate.interval[0]) / 2
        assert half == pytest.approx(norm.ppf(1 - alpha / 2) * estimate.standard_error, rel=1e-9)


def test_the_seed_decides_the_bootstrap() -> None:
    case = made()
    one, same, other = (
        off_policy.ips(*case[:3], interval="bootstrap", seed=seed).interval for seed in (1, 1, 2)
    )
    assert one == same != other


def test_of_rewards_that_never_varied_anytime_knows_nothing() -> None:
    estimate = off_policy.ips(np.zeros(50), np.full(50, 0.5), np.full(50, 0.5), interval="anytime")
    assert (estimate.value, estimate.interval) == (0.0, (-math.inf, math.inf))


def test_of_one_decision_nothing_is_known() -> None:
    alone = off_policy.ips([1.0], [0.5], [0.5])
    assert (alone.value, alone.standard_error, alone.interval) == (1.0, math.inf, (-math.inf, math.inf))
    assert off_policy.diagnostics([0.5], [0.5]).refusal is not None


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        (([], [], []), "reward: expected an array of at least one number"),
        (([[1.0]], [0.5], [0.5]), "reward: expected an array of at least one number"),
        (
            ([1.0, 0.0], [0.5], [0.5, 0.5]),
            "expected arrays of one length, not reward 2, propensity 1, target 2",
        ),
        (([math.nan], [0.5], [0.5]), "reward: expected finite numbers"),
        (([1.0], [math.inf], [0.5]), "propensity: expected finite numbers"),
        (([1.0], [0.5], [math.nan]), "target: expected finite numbers"),
        (([1.0], [0.0], [0.5]), "propensity: expected numbers above 0 and at most 1"),
        (([1.0], [1.0 + 1e-9], [0.5]), "propensity: expected numbers above 0 and at most 1"),
        (([1.0], [-0.5], [0.5]), "propensity: expected numbers above 0 and at most 1"),
        (([1.0], [0.5], [-1e-9]), "target: expected no negative number"),
        (([1.0], [1e-320], [1.0]), "propensity: expected numbers by which the targets can be divided"),
    ],
)
def test_columns_that_are_refused(columns: tuple[Any, ...], said: str) -> None:
    for name in ESTIMATORS:
        rest = () if name in ("ips", "snips") else (np.zeros(len(columns[0])),) * 2
        options = {"switch": {"tau": 1.0}, "dros": {"lam": 1.0}}.get(name, {})
        with pytest.raises(ValueError, match=said.partition(", not reward")[0]):
            ESTIMATORS[name](*columns, *rest, **options)
    if not said.startswith("reward"):
        with pytest.raises(ValueError, match=said.partition(", not reward")[0]):
            off_policy.diagnostics(*columns[1:])


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("ips", {"interval": "exact"}, "interval: expected one of normal, bootstrap, bernstein, anytime"),
        ("ips", {"interval": "bernstein"}, "bound: expected a positive number"),
        ("ips", {"interval": "bernstein", "bound": 0.0}, "bound: expected a positive number"),
        (
            "ips",
            {"interval": "bernstein", "bound": 1e-3},
            "bound: expected at least the largest weight x reward",
        ),
        ("snips", {"interval": "bernstein", "bound": 9.0}, "expected another than bernstein"),
        ("ips", {"alpha": 0.0}, "alpha: expected a number between 0 and 1"),
        ("dr", {"alpha": 1.0}, "alpha: expected a number between 0 and 1"),
        ("switch", {"tau": 0.0}, "tau: expected a number above 0"),
        ("dros", {"lam": -1.0}, "lam: expected a number above 0"),
    ],
)
def test_options_that_are_refused(name: str, options: dict[str, Any], said: str) -> None:
    columns, given_options = made().of(name)
    with pytest.raises(ValueError, match=said):
        ESTIMATORS[name](*columns, **{**given_options, **options})


def test_a_policy_that_the_log_has_nothing_of() -> None:
    case = made()
    nothing = np.zeros_like(case.target)
    with pytest.raises(ValueError, match="target: expected a number above 0"):
        off_policy.snips(case.reward, case.propensity, nothing)
    assert off_policy.diagnostics(case.propensity, nothing).refusal is not None
    one = nothing.copy()
    one[0] = 1.0
    assert "one of them has nearly all the weight" in str(
        off_policy.diagnostics(case.propensity, one).refusal
    )


def test_warnings() -> None:
    propensity = np.full(1000, 0.5)
    few = np.where(np.arange(1000) < 50, 10.0, 0.0)
    (said,) = off_policy.diagnostics(propensity, few).warnings
    assert "50.0 samples" in said
    (said,) = off_policy.diagnostics(propensity, np.full(1000, 0.25)).warnings
    assert "The mean weight is 0.5" in said


def test_what_the_log_gave_no_chance() -> None:
    shares = np.array([[0.5, 0.5, 0.0], [0.2, 0.5, 0.3]])
    rows = np.array([0, 0, 1, 1])
    found = off_policy.overlap(shares, np.array([0.4, 0.4, 0.2]), rows)
    assert (found.untried, found.by_arm) == (pytest.approx(0.1), (0.0, 0.0, pytest.approx(0.1)))
    assert "'c'" in str(found.refusal(["a", "b", "c"]))
    assert off_policy.overlap(shares, np.array([0.4, 0.6, 0.0]), rows).refusal(["a", "b", "c"]) is None

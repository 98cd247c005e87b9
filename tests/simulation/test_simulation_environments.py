"""Environments: rates as described, and one sequence of potential outcomes for a seed."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.random import SeedSequence, default_rng
from numpy.typing import NDArray
from scipy.special import expit

from bandit_serve.errors import InvalidInput, UsageError
from bandit_serve.simulation import ENVIRONMENTS, Environment, Simulation
from bandit_serve.simulation.worlds.context_free import ContextFree
from bandit_serve.simulation.worlds.environment import Block, spans
from bandit_serve.simulation.worlds.labelled_data_set import read_csv, shipped
from bandit_serve.simulation.worlds.walk import Walk

Vector = NDArray[np.float64]
CSV = "width,colour,kind\n1.0,red,a\n2.5,blue,b\n3.0,red,a\n,blue,b\n"


def described(tmp_path: Path) -> dict[str, dict[str, Any]]:
    """One of each kind."""
    file = tmp_path / "rows.csv"
    file.write_text(CSV)
    return {
        "bernoulli": {"arms": [0.1, 0.7, 0.0, 1.0]},
        "gaussian": {"arms": [-2.0, 0.0, 5.0], "sd": 3.0},
        "counts": {"arms": [0.0, 0.3, 12.0]},
        "linear": {"arms": 4, "features": 6, "noise": 0.7},
        "logistic": {"arms": 3, "features": 5, "signal": 2.0},
        "supervised": {"csv": str(file), "label": "kind"},
    }


def made(kind: str, **parameters: Any) -> Environment:
    return Simulation.of(
        {"environment": {"kind": kind, **parameters}, "policies": ["fixed_split"]}
    ).environment


def whole(environment: Environment, horizon: int, seed: int = 0) -> Block:
    blocks = list(environment.blocks(horizon, SeedSequence(seed)))
    contexts = None
    if environment.n_features:
        contexts = np.concatenate([block.contexts for block in blocks if block.contexts is not None])
    return Block(
        np.concatenate([block.means for block in blocks]),
        np.concatenate([block.rewards for block in blocks]),
        contexts,
    )


@pytest.mark.parametrize("kind", ENVIRONMENTS)
def test_rewards_have_the_means_that_are_said(kind: str, tmp_path: Path) -> None:
    whole_answer = whole(made(kind, **described(tmp_path)[kind]), 20_000)
    surplus = whole_answer.rewards - whole_answer.means
    error = surplus.std(axis=0) / math.sqrt(len(surplus))
    assert (np.abs(surplus.mean(axis=0)) <= 4.0 * error + 1e-12).all()
    assert kind == "supervised" or error.max() > 0.0


@pytest.mark.parametrize("kind", ENVIRONMENTS)
def test_one_seed_is_one_sequence(kind: str, tmp_path: Path) -> None:
    environment = made(kind, **described(tmp_path)[kind])
    first, again, other = (whole(environment, 5_000, seed) for seed in (1, 1, 2))
    assert np.array_equal(first.means, again.means)
    assert np.array_equal(first.rewards, again.rewards)
    if environment.n_features:
        assert first.contexts is not None
        assert again.contexts is not None
        assert np.array_equal(first.contexts, again.contexts)
    assert not np.array_equal(first.rewards, other.rewards)
    assert first.rewards.shape == (5_000, environment.n_arms)


def test_means_are_those_described() -> None:
    assert whole(made("bernoulli", arms=[0.1, 0.7]), 10).means.tolist() == [[0.1, 0.7]] * 10
    rewards = whole(made("gaussian", arms=[1.0, 2.0], sd=3.0), 40_000).rewards
    assert rewards.std(axis=0) == pytest.approx(3.0, rel=4.0 / math.sqrt(2 * 40_000))
    counts = whole(made("counts", arms=[4.0]), 40_000).rewards
    assert counts.var() == pytest.approx(4.0, rel=0.04)
    assert (counts == np.floor(counts)).all()


@pytest.mark.parametrize(
    ("kind", "expected"), [("linear", lambda z: z), ("logistic", lambda z: 1 / (1 + np.exp(-z)))]
)
def test_contextual_means_are_of_one_linear_score(kind: str, expected: Any) -> None:
    whole_answer = whole(made(kind, arms=3, features=5, signal=1.5), 6_000)
    assert whole_answer.contexts is not None
    assert (whole_answer.contexts[:, 0] == 1.0).all()
    scores = (
        whole_answer.means if kind == "linear" else np.log(whole_answer.means / (1.0 - whole_answer.means))
    )
    coefficients, *_ = np.linalg.lstsq(whole_answer.contexts, scores, rcond=None)
    assert np.allclose(expected(whole_answer.contexts @ coefficients), whole_answer.means, atol=1e-9)
    assert np.allclose(np.linalg.norm(coefficients, axis=0), 1.5)


def test_logistic_means_are_probabilities_for_any_score() -> None:
    scores = np.concatenate([np.linspace(-740.0, 740.0, 2_961), [-1e300, 1e300]])
    means = made("logistic", arms=3, features=5).expected(scores)
    assert means[scores > -700] == pytest.approx(expit(scores[scores > -700]), rel=2e-13)
    assert means == pytest.approx(expit(scores), rel=1e-12, abs=1e-300)


def test_a_change_comes_where_it_is_said() -> None:
    changes = [{"at": 5_000, "arms": [0.5, 0.2]}, {"at": 5_001, "arms": [0.3, 0.9]}]
    means = whole(made("bernoulli", arms=[0.1, 0.2], changes=changes), 9_000).means
    assert (means[:5_000] == [0.1, 0.2]).all()
    assert means[5_000].tolist() == [0.5, 0.2]
    assert (means[5_001:] == [0.3, 0.9]).all()
    linear = whole(made("linear", arms=2, features=1, changes=[100]), 200).means
    assert (linear[:100] == linear[0]).all()
    assert (linear[100:] == linear[100]).all()
    assert not np.array_equal(linear[99], linear[100])


def test_drift_is_as_far_as_it_is_said_and_stays_in_range() -> None:
    ends = [Walk(np.zeros(50), 0.3, default_rng(seed)).take(1_000)[-1] for seed in range(20)]
    spread = np.concatenate(ends).std()
    assert spread == pytest.approx(0.3, rel=4.0 / math.sqrt(2 * 1_000))
    means = whole(made("bernoulli", arms=[0.0, 1.0, 0.5], drift=0.8), 20_000).means
    assert 0.0 <= means.min() < 0.05
    assert 0.95 < means.max() <= 1.0
    assert np.abs(np.diff(means, axis=0)).max() < 0.2
    assert whole(made("counts", arms=[0.1], drift=1.0), 20_000).means.min() >= 0.0
    moving = whole(made("linear", arms=2, features=3, drift=0.5), 2_000)
    assert not np.array_equal(moving.means[0], moving.means[-1])


@pytest.mark.parametrize(
    ("arms", "constant"),
    [
        ([0.1, 0.1, 0.12], 20.066071680062706),
        ([0.05, *[0.04] * 9], 79.87888089296135),
        ([0.12, *[0.1] * 9], 90.29732256028217),
        ([0.9, 0.8], 2.252099698524528),
    ],
)
def test_growth_is_lai_and_robbins(arms: list[float], constant: float) -> None:
    environment = made("bernoulli", arms=arms)
    assert isinstance(environment, ContextFree)
    assert environment.lost_per_log() == pytest.approx(constant, rel=1e-9)


def test_growth_of_other_rewards_and_where_there_is_none() -> None:
    def growth(kind: str, **parameters: Any) -> float | None:
        environment = made(kind, **parameters)
        assert isinstance(environment, ContextFree)
        return environment.lost_per_log()

    assert growth("gaussian", arms=[0.0, 0.2]) == pytest.approx(0.2 / (0.5 * math.log(1.04)))
    assert growth("counts", arms=[1.0, 2.0]) == pytest.approx(1.0 / (math.log(0.5) + 1.0))
    assert growth("counts", arms=[0.0, 2.0]) == pytest.approx(1.0)
    assert growth("bernoulli", arms=[0.3, 0.3]) is None
    assert growth("bernoulli", arms=[0.3, 0.2], drift=0.1) is None
    assert growth("bernoulli", arms=[0.3, 0.2], changes=[{"at": 5, "arms": [0.1, 0.2]}]) is None
    assert growth("bernoulli", arms=[0.3, 1.0]) == 0.0


def test_spans_cover_everything_once_and_respect_cuts() -> None:
    lengths = list(spans(1_000, 300, (250, 0, 1_000, 999)))
    assert lengths == [(0, 250), (250, 550), (550, 850), (850, 999), (999, 1_000)]


@pytest.mark.parametrize(
    ("kind", "parameters", "words"),
    [
        ("bernoulli", {"arms": [0.1, 1.2]}, "numbers from 0 to 1"),
        ("bernoulli", {"arms": []}, "length"),
        ("bernoulli", {"arms": [0.1], "changes": [{"at": 5, "arms": [0.1, 0.2]}]}, "each of the 1 arms"),
        ("bernoulli", {"arms": [0.1], "changes": [{"at": 20_000, "arms": [0.2]}]}, "after the last"),
        ("bernoulli", {"arms": [0.1], "sd": 1.0}, "sd"),
        ("bernoulli", {"arms": [0.1], "drift": -1.0}, "drift"),
        ("gaussian", {"arms": [0.1], "sd": 0.0}, "sd"),
        ("gaussian", {"arms": [math.inf]}, "finite"),
        ("counts", {"arms": [-1.0]}, "at least 0"),
        ("linear", {"arms": 0}, "arms"),
        ("linear", {"changes": [5, 5]}, "one after another"),
        ("supervised", {}, "csv"),
        ("supervised", {"csv": "x.csv"}, "go together"),
        ("supervised", {"csv": "/nowhere/x.csv", "label": "y"}, "can not be read"),
        ("supervised", {"dataset": "boston"}, "digits"),
        ("roulette", {}, "bernoulli"),
    ],
)
def test_what_can_not_be_is_refused_in_one_sentence(
    kind: str, parameters: dict[str, Any], words: str
) -> None:
    with pytest.raises(InvalidInput, match=words):
        made(kind, **parameters)


def test_a_csv_becomes_arms_and_features(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text(CSV)
    data = read_csv(file, "kind")
    assert data.classes == ("a", "b")
    assert data.labels.tolist() == [0, 1, 0, 1]
    assert data.features.shape == (4, 4)  # the constant, width, and two colours
    assert (data.features[:, 0] == 1.0).all()
    assert np.allclose(data.features[:, 1:].mean(axis=0), 0.0)
    assert np.allclose(data.features[:, 1:].std(axis=0), 1.0)
    assert data.features[3, 1] == pytest.approx(0.0)  # a missing number is the mean
    block = whole(made("supervised", csv=str(file), label="kind"), 4)
    assert block.contexts is not None
    order = [int(np.flatnonzero((data.features == row).all(axis=1))[0]) for row in block.contexts]
    assert sorted(order) == [0, 1, 2, 3]
    assert block.rewards.argmax(axis=1).tolist() == data.labels[order].tolist()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "header"),
        ("a,kind\n1,x\n1,2,3\n", "Row 3"),
        ("a,b\n1,2\n", "no column 'kind'; it has a, b"),
        ("a,a,kind\n1,2,x\n", "two columns"),
        ("a,kind\n1,x\n2,x\n", "different labels"),
        ("a,kind\n" + "".join(f"t{i},{i % 2}\n" for i in range(100)), "100 different values"),
    ],
)
def test_a_csv_that_can_not_be_used_says_why(tmp_path: Path, content: str, words: str) -> None:
    file = tmp_path / "rows.csv"
    file.write_text(content)
    with pytest.raises(InvalidInput, match=words):
        read_csv(file, "kind")


def test_a_data_set_of_scikit_learn_or_how_to_get_it() -> None:
    try:
        import sklearn  # noqa: F401
    except ImportError:
        with pytest.raises(UsageError, match="pip install scikit-learn"):
            shipped("digits")
        return
    data = shipped("digits")
    assert data.features.shape == (1_797, 62)  # three of 64 pixels are always empty
    assert data.classes == tuple("0123456789")

"""Wild values of a context: learning goes on, from states of before too, and what was far outside is counted."""

from __future__ import annotations

import numpy as np
import pytest
from makers import created, experiment, exposed, rewards
from scale import scaled

from bandit_serve.folds.experiment import LiveExperiment
from bandit_serve.log.events import Rewarded
from bandit_serve.log.offset import Offset
from bandit_serve.policies import POLICIES, Features, LinUCB
from bandit_serve.policies.context import ContextField

CONTEXTUAL = [kind for kind, policy in POLICIES.items() if policy.contextual]
BEFORE, AFTER = 1_000, 1_000
MILLISECONDS = 3.6e6
FIELDS = {
    "declared": ContextField("hour", "numeric", mean=12.0, std=6.0),
    "not declared": ContextField("hour", "numeric"),
}
# Which of the first decisions have their hour in milliseconds.
WILD = {"none": [], "one": [500], "twenty": range(BEFORE - 20, BEFORE), "the first": [0]}


def best_arm_rate(kind: str, seed: int, field: ContextField, wild: list[int] | range) -> float:
    """Of the last `AFTER` decisions; the best of three arms depends on the hour and the device."""
    rng = np.random.default_rng([15, seed])
    features = Features([field, ContextField("device", "categorical", values=["ios", "web"])])
    policy = POLICIES[kind](3, features.n_features, seed=seed, min_share=0.02)
    best = 0
    for at in range(BEFORE + AFTER):
        hour, device = float(rng.uniform(0.0, 24.0)), str(rng.choice(["ios", "web"]))
        slope = 0.25 * (hour - 12.0)
        means = 1.0 / (1.0 + np.exp(-np.array([slope, -slope, 0.5 if device == "ios" else -0.5])))
        x = features.vector({"hour": hour * MILLISECONDS if at in wild else hour, "device": device})
        shares = policy.shares(x)
        arm = int(rng.choice(3, p=shares / shares.sum()))
        policy.update(arm, float(rng.random() < means[arm]), x)
        best += at >= BEFORE and means[arm] == means.max()
    return best / AFTER


@pytest.mark.parametrize("kind", CONTEXTUAL)
@pytest.mark.parametrize("declared", FIELDS)
def test_the_best_arm_is_found_again_within_a_thousand_good_decisions(kind: str, declared: str) -> None:
    seeds = scaled(2, 40)
    rates = {
        name: np.mean([best_arm_rate(kind, seed, FIELDS[declared], wild) for seed in range(seeds)])
        for name, wild in WILD.items()
        if name in ("none", "twenty") or seeds > 2
    }
    # Of two seeds the difference has a standard error of about .02 of its own.
    for rate in rates.values():
        assert rate >= rates["none"] - (0.03 if seeds > 2 else 0.06)
    assert rates["none"] > 0.8


@pytest.mark.parametrize("unit", [1.0, 1e3, 1e6])
@pytest.mark.parametrize("off", [0.0, 50.0])
def test_values_are_taken_as_they_are_unless_they_are_far_outside(unit: float, off: float) -> None:
    """A feature of any unit and any mean: six standard deviations are nothing, a thousand are none of the field's."""
    rng = np.random.default_rng(3)
    learner = LinUCB(2, 2, objective="continuous", seed=1)
    rows = np.column_stack([np.ones(600), unit * (off + rng.standard_normal(600))])
    for at, row in enumerate(rows):
        learner.update(at % 2, row[1] / unit, row)
    centre, spread = learner.limits
    assert centre[1] == pytest.approx(unit * off, abs=0.5 * unit)
    assert spread[1] == pytest.approx(1.15 * unit, rel=0.5)
    scores = {
        deviations: learner.scores_of([1.0, unit * (off + deviations)])[0] for deviations in (0, 5, 30, 1e4)
    }
    assert np.abs(scores[5] - scores[0]).min() > 1.0
    assert np.abs(scores[30] - scores[0]).min() > np.abs(scores[5] - scores[0]).min(), "as the farthest"
    assert np.abs(scores[1e4] - scores[0]).max() < 1.0, "as the centre"
    before = learner.statistics()["gram"]
    learner.update(0, 0.0, [1.0, unit * 1e6])
    assert np.abs(learner.statistics()["gram"] - before).max() <= (unit * (abs(off) + 12.0)) ** 2


def test_what_lasts_becomes_what_is_usual() -> None:
    rng = np.random.default_rng(4)
    learner = LinUCB(2, 2, objective="continuous", seed=1)
    for at in range(3_000):
        value = rng.standard_normal() * (1.0 if at < 1_000 else MILLISECONDS)
        learner.update(at % 2, 0.0, [1.0, value])
    assert learner.limits[1][1] == pytest.approx(1.15 * MILLISECONDS, rel=0.5)


def test_a_feature_that_is_rarely_there_keeps_its_values() -> None:
    """One of the categories of a field comes once in 300 rows."""
    learner = LinUCB(2, 3, seed=1)
    for at in range(3_000):
        there = float(at % 300 == 0)
        learner.update(at % 2, there, [1.0, there, 1.0 - there])
    rare = learner.scores_of([1.0, 1.0, 0.0])[0]
    assert (rare > learner.scores_of([1.0, 0.0, 1.0])[0] + 0.3).any()


@pytest.mark.parametrize("kind", CONTEXTUAL)
@pytest.mark.parametrize("rows", [0, 60, 127, 128, 129, 400])
def test_a_state_goes_on_identically_and_one_of_before_goes_on(kind: str, rows: int) -> None:
    rng = np.random.default_rng(5)
    x = rng.standard_normal((rows + 200, 3)) * 3.0
    x[::40, 1] = 1e6
    arms, values = rng.integers(0, 2, rows + 200), rng.integers(0, 2, rows + 200).astype(np.float64)
    learner = POLICIES[kind](2, 3, seed=1)
    learner.update_many(arms[:rows], values[:rows], x[:rows])
    state = learner.state()
    again = POLICIES[kind].from_state(state)
    limits = {"centre", "spread", "first_x", "first_arms", "first_rewards"}
    factors = {name: values for name, values in state["factors"].items() if name not in limits}
    former = POLICIES[kind].from_state({**state, "factors": factors})
    for each in (learner, again, former):
        for at in range(rows, rows + 200):
            each.update(arms[at], values[at], x[at])
    for name, array in learner.state()["factors"].items():
        assert array.tobytes() == again.state()["factors"][name].tobytes(), name
    assert former.limits is not None
    assert np.isfinite(former.shares(x[0])).all()


CONTEXT = [{"name": "hour", "kind": "numeric", "mean": 12.0, "std": 6.0}, {"name": "age", "kind": "numeric"}]


def test_they_are_counted_by_field_from_the_log_and_in_every_state() -> None:
    live = LiveExperiment(created(experiment(policy={"kind": "lin_ts"}, context=CONTEXT)))
    assert live.features is not None
    rng = np.random.default_rng(6)

    def play(at: int, n: int, hour: float | None = None, age: float | None = None) -> None:
        assert live.features is not None
        contexts = [
            {
                "hour": rng.uniform(0, 24) if hour is None else hour,
                "age": rng.uniform(18, 80) if age is None else age,
            }
            for _ in range(n)
        ]
        x = live.features.vectors(contexts)
        event = exposed(1_000 * at, [0, 1] * (n // 2), [at] * n)
        live.apply(Offset(at, 0), type(event)(**{**_fields(event), "x": x.tobytes()}))
        rows = rewards(range(1_000 * at, 1_000 * at + n), arms=[0, 1] * (n // 2))
        live.apply(Offset(at, 1), Rewarded(rows, x))

    play(1, 2, hour=1.7e12)
    assert live.far == {"hour": 2, "age": 0}, "it was declared"
    play(2, 200)
    play(3, 4, age=3e6)
    assert live.far == {"hour": 2, "age": 4}
    restored = LiveExperiment.from_state(live.offset, live.state())
    assert restored.far == live.far
    assert restored.digest() == live.digest()


def _fields(event: object) -> dict[str, object]:
    return {name: getattr(event, name) for name in type(event).__struct_fields__}  # type: ignore[attr-defined]

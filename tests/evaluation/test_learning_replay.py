"""Replays of learning policies have the values of fresh simulations of those policies."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray
from scale import scaled
from scipy.stats import t as student

from bandit_serve.policies import (
    KLUCB,
    UCB1,
    AnyPolicy,
    EpsilonGreedy,
    Exp3,
    FixedSplit,
    LinTS,
    LinUCB,
    LogisticTS,
    Softmax,
    SquareCB,
    Thompson,
    TopTwoThompson,
)
from bandit_serve.results.off_policy.learning import (
    Chances,
    LearningReplay,
    LoggedPart,
    ReplayOptions,
    replay,
)

Floats = NDArray[np.float64]
FULL = scaled(0, 1) == 1
HORIZON, RUNS, LOGS = scaled(25, 100), scaled(50, 100), scaled(1, 5)
FRESH = scaled(700, 5_000)
MAX_ERRORS = 3.5
"""Standard errors between two means, above which they differ; chance alone has one of 2,000 there."""
STEP = 25
WITH_CONTEXT = (LinUCB, LinTS, LogisticTS, SquareCB)


class Course(NamedTuple):
    """World, and the policy that makes decisions in it."""

    name: str
    world: Callable[[NDArray[np.float32], np.random.Generator], Floats]
    n_arms: int
    logging: Callable[[], AnyPolicy]
    objective: str = "binary"
    context: bool = False
    # Decisions for each that a run is to accept.
    length: float = 6.0

    def contexts(self, n: int, random: np.random.Generator) -> NDArray[np.float32]:
        if not self.context:
            return np.zeros((n, 0), np.float32)
        return np.stack([np.ones(n), random.normal(size=n)], axis=1).astype(np.float32)


def bernoulli(*rates: float) -> Callable[..., Floats]:
    return lambda x, random: (random.random((len(x), len(rates))) < np.array(rates)).astype(float)


def normal(*means: float) -> Callable[..., Floats]:
    return lambda x, random: random.normal(np.array(means), 1.0, (len(x), len(means)))


def crossing(x: NDArray[np.float32], random: np.random.Generator) -> Floats:
    """Rewards of two arms of which the first is better where the feature is low, and both where it is high."""
    z = np.tanh(x[:, 1].astype(float))
    rates = np.stack([0.4 - 0.05 * z, 0.35 + 0.3 * z], axis=1)
    return (random.random(rates.shape) < rates).astype(float)


COURSES = [
    Course("even", bernoulli(0.2, 0.5, 0.4), 3, lambda: FixedSplit(3)),
    Course(
        "uneven",
        normal(0.0, 0.6),
        2,
        lambda: FixedSplit(2, shares=[0.7, 0.3], objective="continuous"),
        "continuous",
    ),
    Course("thompson", bernoulli(0.15, 0.5), 2, lambda: Thompson(2, min_share=0.15), length=16.0),
    Course("lin_ucb", crossing, 2, lambda: LinUCB(2, 2, min_share=0.2), context=True, length=11.0),
]
POLICIES: dict[str, tuple[Callable[..., AnyPolicy], dict[str, Any]]] = {
    "thompson": (Thompson, {}),
    "top_two_thompson": (TopTwoThompson, {"holdout": 0.2}),
    "ucb1": (UCB1, {}),
    "kl_ucb": (KLUCB, {}),
    "epsilon_greedy": (EpsilonGreedy, {"epsilon": 0.2}),
    "softmax": (Softmax, {"temperature": 0.2}),
    "exp3": (Exp3, {"holdout": 0.2}),
    "lin_ucb": (LinUCB, {}),
    "lin_ts": (LinTS, {}),
    "logistic_ts": (LogisticTS, {}),
    "squarecb": (SquareCB, {}),
}
CELLS = [
    (course, name)
    for course in COURSES
    for name, (policy, _) in POLICIES.items()
    if course.objective in policy.objectives and (course.context or policy not in WITH_CONTEXT)  # type: ignore[attr-defined]
]
"""All policies in all courses where they can be; by default each policy and each course a few times."""
QUICK = {
    "even": ("thompson", "kl_ucb", "exp3"),
    "uneven": ("epsilon_greedy", "softmax"),
    "thompson": ("top_two_thompson", "ucb1", "epsilon_greedy"),
    "lin_ucb": ("epsilon_greedy", "lin_ucb", "lin_ts", "logistic_ts", "squarecb"),
}
if not FULL:
    CELLS = [(course, name) for course, name in CELLS if name in QUICK[course.name]]


def made(course: Course, name: str, seed: int = 0, **others: Any) -> AnyPolicy:
    policy, options = POLICIES[name]
    sizes = (course.n_arms, 2) if policy in WITH_CONTEXT else (course.n_arms,)
    return policy(*sizes, objective=course.objective, min_share=0.05, seed=seed, **(options | others))


def shares_of(policy: AnyPolicy, x: NDArray[np.float32]) -> Floats:
    if policy.contextual:
        return policy.shares_many(x)  # type: ignore[union-attr]
    return np.tile(policy.shares(), (len(x), 1))  # type: ignore[call-arg]


def learn(policy: AnyPolicy, arms: Any, values: Floats, shares: Floats, x: Any) -> None:
    if policy.contextual:
        policy.update_many(arms, values, x)
    else:
        policy.update_many(arms, values, shares)


def logged(course: Course, seed: Any, n: int) -> LoggedPart:
    """Log of an adaptive policy, whose shares follow what it learns every few decisions."""
    random, policy = np.random.default_rng(seed), course.logging()
    parts = []
    for _ in range(math.ceil(n / STEP)):
        x = course.contexts(STEP, random)
        shares = shares_of(policy, x)
        arms = (random.random((STEP, 1)) > np.cumsum(shares, axis=1)[:, :-1]).sum(axis=1)
        values = course.world(x, random)[np.arange(STEP), arms]
        learn(policy, arms, values, shares[np.arange(STEP), arms], x)
        parts.append(LoggedPart(arms.astype(np.intp), shares, values, x, np.zeros(STEP, np.int64)))
    return LoggedPart._make(np.concatenate(column) for column in zip(*parts, strict=True))


class Mean(NamedTuple):
    """Mean over independent runs, with its standard error."""

    value: float
    error: float

    @classmethod
    def of(cls, values: Any) -> Mean:
        array = np.asarray(values)
        return cls(float(array.mean()), float(array.std(ddof=1) / math.sqrt(len(array))))

    def errors_from(self, other: Mean) -> float:
        return (self.value - other.value) / math.hypot(self.error, other.error)


def fresh(course: Course, name: str) -> Mean:
    """Mean reward of the policy in runs of its own."""
    means = []
    for seed in range(FRESH):
        random, policy = np.random.default_rng([2, seed]), made(course, name, seed, holdout=0.0)
        holdout = POLICIES[name][1].get("holdout", 0.0)
        x = course.contexts(HORIZON, random)
        values, total = course.world(x, random), 0.0
        held_out, even = random.random(HORIZON) < holdout, random.integers(course.n_arms, size=HORIZON)
        for i, (row, rewards) in enumerate(zip(x, values, strict=True)):
            arm = policy.choose(row) if policy.contextual else policy.choose()  # type: ignore[arg-type, call-arg]
            if held_out[i]:
                total += rewards[even[i]]
                continue
            total += rewards[arm]
            if policy.contextual:
                policy.update(arm, rewards[arm], row)  # type: ignore[arg-type]
            else:
                policy.update(arm, rewards[arm])  # type: ignore[call-arg]
        means.append(total / HORIZON)
    return Mean.of(means)


def replayed(course: Course, name: str) -> dict[str, Mean]:
    """Means over the replays of several logs, by estimator."""
    found: dict[str, list[tuple[float, float]]] = {"replay": [], "dr": []}
    for seed in range(LOGS):
        log = logged(course, [seed, CELLS.index((course, name))], int(course.length * RUNS * HORIZON))
        replaying = LearningReplay(
            lambda: made(course, name),
            chances_of(log),
            ReplayOptions(runs=RUNS, horizon=HORIZON, seed=seed),
        )
        replaying.take(log)
        result = replaying.result()
        assert result.refusal is None, result.refusal
        assert (result.runs, result.horizon) == (RUNS, HORIZON)
        for method, estimate in result.estimates.items():
            found[method].append((estimate.value, estimate.standard_error))
    return {
        method: Mean(float(np.mean(each, axis=0)[0]), math.hypot(*(error for _, error in each)) / len(each))
        for method, each in found.items()
    }


def chances_of(log: LoggedPart) -> Chances:
    chances = Chances(log.shares.shape[1])
    chances.add(log)
    return chances


@pytest.mark.timeout(scaled(600, 14_400))
def test_a_replay_has_the_value_of_a_fresh_simulation() -> None:
    off: dict[tuple[str, str, str], float] = {}
    for course, name in CELLS:
        truth = fresh(course, name)
        for method, mean in replayed(course, name).items():
            off[course.name, name, method] = mean.errors_from(truth)
            print(
                f"{course.name:9} {name:17} {method:7} {truth.value:.4f} {mean.value:.4f} ± {mean.error:.4f}"
            )
    print({key: round(errors, 2) for key, errors in off.items()})
    assert {name for _, name in CELLS} == set(POLICIES)
    assert {key: errors for key, errors in off.items() if abs(errors) > MAX_ERRORS} == {}
    assert sum(abs(errors) > 2.0 for errors in off.values()) <= 0.1 * len(off)


def test_the_comparison_can_fail() -> None:
    """Were the shares of an adaptive log taken for even, what is accepted would be what that log was fond of."""
    course, name = COURSES[2], "epsilon_greedy"
    n = int(course.length * RUNS * HORIZON)
    # By then it is fond of the better arm.
    right = logged(course, 7, 2 * n).those(slice(n, None))
    wrong = right._replace(shares=np.full(right.shares.shape, 0.5))
    truth, off = fresh(course, name), []
    for log in (right, wrong):
        options = ReplayOptions(runs=RUNS, horizon=HORIZON)
        replaying = LearningReplay(lambda: made(course, name), chances_of(log), options)
        replaying.take(log)
        estimate = replaying.result().estimates["replay"]
        off.append(Mean(estimate.value, estimate.standard_error).errors_from(truth))
    assert abs(off[0]) < MAX_ERRORS
    assert off[1] > MAX_ERRORS


def by_feature(n: int, seed: int) -> LoggedPart:
    """Log that draws an arm seldom where rewards are .6, and evenly where they are .2, whatever the arm."""
    random = np.random.default_rng(seed)
    x = np.stack([np.ones(n), random.random(n) < 0.5], axis=1).astype(np.float32)
    shares = np.where(x[:, 1:] > 0.0, [[0.9, 0.1]], [[0.5, 0.5]])
    arms = (random.random(n) > shares[:, 0]).astype(np.intp)
    value = (random.random(n) < np.where(x[:, 1] > 0.0, 0.6, 0.2)).astype(float)
    return LoggedPart(arms, shares, value, x, np.zeros(n, np.int64))


def test_contexts_are_accepted_as_they_come() -> None:
    log = by_feature(20_000, 5)
    options = ReplayOptions(runs=10, horizon=200)
    right, wrong = chances_of(log), chances_of(log)
    # As if shares went by the past alone.
    wrong.in_context = False
    means = []
    for chances in (right, wrong):
        replaying = LearningReplay(lambda: FixedSplit(2), chances, options)
        replaying.take(log)
        means.append(replaying.result().estimates["replay"])
    assert abs(means[0].value - 0.4) < MAX_ERRORS * means[0].standard_error
    assert means[1].value < 0.4 - 2 * MAX_ERRORS * means[1].standard_error


def even_log(n: int, seed: int = 1) -> tuple[Floats, NDArray[np.intp], Floats]:
    """Rewards, arms and shares of an even split of two arms of rates .2 and .5."""
    random = np.random.default_rng(seed)
    arms = random.integers(2, size=n)
    return (random.random(n) < np.array([0.2, 0.5])[arms]).astype(float), arms, np.full((n, 2), 0.5)


def test_the_policy_that_was_logged_accepts_everything() -> None:
    reward, arms, shares = even_log(800)
    found = replay(lambda: FixedSplit(2), reward, arms, shares, runs=4)
    assert (found.accepted, found.offered) == (800, 800)
    # One digit and zeros, which the shortest run has.
    assert (found.horizon, found.least_accepted // 100) == (100, 1)
    assert found.estimates["replay"].value == pytest.approx(0.35, abs=0.08)
    assert found.curve is not None
    assert found.curve.decisions == (*range(1, 10), *range(10, 100, 10), 100)
    again = replay(lambda: FixedSplit(2), reward, arms, shares, runs=4)
    other = replay(lambda: FixedSplit(2), reward, arms, shares, runs=4, seed=1)
    assert again == found != other


def test_the_interval_is_students_over_the_runs() -> None:
    reward, arms, shares = even_log(2_000)
    found = replay(lambda: Thompson(2), reward, arms, shares, runs=5, horizon=50, alpha=0.1)
    for estimate in found.estimates.values():
        assert estimate.interval is not None
        half = (estimate.interval[1] - estimate.interval[0]) / 2
        assert half == pytest.approx(student.ppf(0.95, 4) * estimate.standard_error, rel=1e-9)


def test_arms_that_could_not_be_chosen_are_chosen_by_nobody() -> None:
    """An arm that came later, and one that was not eligible for every second request."""
    random, n = np.random.default_rng(2), 6_000
    shares = np.tile([0.4, 0.3, 0.3], (n, 1))
    shares[::2, 2] = 0.0
    shares[:1_000, 1:] = [0.6, 0.0]
    shares /= shares.sum(axis=1, keepdims=True)
    arms = (random.random((n, 1)) > np.cumsum(shares, axis=1)[:, :-1]).sum(axis=1)
    reward = (random.random(n) < np.array([0.2, 0.4, 0.6])[arms]).astype(float)
    found = replay(lambda: FixedSplit(3), reward, arms, shares, runs=5)
    masks = shares > 0.0
    truth = ((masks / masks.sum(axis=1, keepdims=True)) @ np.array([0.2, 0.4, 0.6])).mean()
    for estimate in found.estimates.values():
        assert abs(estimate.value - truth) < MAX_ERRORS * max(estimate.standard_error, 0.005)
    assert found.shares[2] < 0.25


def test_time_passes_at_the_pace_of_the_log() -> None:
    reward, arms, shares = even_log(1_000)
    seen: list[int] = []

    class Watched(Thompson):
        def advance(self, now_ms: int) -> bool:
            seen.append(now_ms)
            return super().advance(now_ms)

    times = 5_000_000 + 1_000 * np.arange(1_000)
    found = replay(
        lambda: Watched(2, half_life="1h"), reward, arms, shares, time_ms=times, runs=2, horizon=200
    )
    assert found.refusal is None
    # Of two runs in turns: the 200th decision is made 200 s from the first, however many were passed over.
    assert min(seen) >= 5_000_000
    assert max(seen) == pytest.approx(5_000_000 + 200 * 1_000, abs=5_000)


def test_what_a_log_can_not_answer() -> None:
    reward, arms, shares = even_log(60)
    found = replay(lambda: Thompson(2), reward, arms, shares, runs=4)
    assert found.estimates == {}
    assert found.curve is None
    assert "Too few decisions" in str(found.refusal)
    assert f"of {found.offered} decisions the 4 runs accepted {found.accepted}" in str(found.refusal)
    wanted = replay(lambda: Thompson(2), *even_log(400), runs=2, horizon=300)
    assert "too short for runs of 300 decisions" in str(wanted.refusal)
    few = replay(lambda: Thompson(2), *even_log(600), runs=4, horizon=30)
    assert few.refusal is None
    assert "30 decisions each" in few.warnings[0]


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"reward": [1.0, math.nan]}, "reward: expected finite"),
        ({"arms": [0]}, "arms: expected a number from 0 to 1"),
        ({"arms": [0, 2]}, "arms: expected a number from 0 to 1"),
        ({"shares": [[0.5, 0.5]]}, "shares: expected a row"),
        ({"shares": [[0.5, 0.5], [1.5, -0.5]]}, "shares: expected a row"),
        ({"shares": [[0.0, 1.0], [0.5, 0.5]]}, "shares: expected a share above 0"),
        ({"x": [[1.0], [math.inf]]}, "x: expected a row"),
        ({"time_ms": [2, 1]}, "time_ms: expected times in order"),
        ({"runs": 1}, "runs: expected a number from 2"),
        ({"horizon": 5}, "horizon: expected a number from 20"),
        ({"alpha": 1.0}, "alpha: expected"),
    ],
)
def test_columns_and_options_that_are_refused(changed: dict[str, Any], said: str) -> None:
    given: dict[str, Any] = {"reward": [1.0, 0.0], "arms": [0, 1], "shares": [[0.5, 0.5], [0.5, 0.5]]}
    with pytest.raises(ValueError, match=said):
        replay(lambda: Thompson(2), **(given | changed))

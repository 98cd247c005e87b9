"""Changes of what an arm is worth: rarely reported when there are none, soon when there are."""

from __future__ import annotations

import math
from collections.abc import Callable

import msgpack
import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from makers import created, experiment, exposed, rewards
from numpy.typing import NDArray
from scale import scaled
from scipy.special import betaln, gammaln, xlogy

from bandit_serve import alarms
from bandit_serve.alarms import BLOCK, CANDIDATES, LEVEL, MAX_ALARMS, REFERENCE, SPACING, ChangeAlarms
from bandit_serve.events import Change, Changed, Rewarded, Tick
from bandit_serve.experiment import Policy
from bandit_serve.live import LiveExperiment
from bandit_serve.store.offset import Offset

UNIT = (0.0, 1.0)
Draw = Callable[[np.random.Generator, int], NDArray[np.float64]]


def bernoulli(mean: float) -> Draw:
    return lambda rng, n: (rng.random(n) < mean).astype(np.float64)


def play(watch: ChangeAlarms, draw: Draw, seed: int, start: int, end: int, each: int = 40) -> None:
    """Observations `start` to `end` of arm 0, at that time in ms, until one is an alarm."""
    rng = np.random.default_rng([6, seed, start])
    for now in range(start + each, end + 1, each):
        watch.rewarded(np.zeros(each, np.intp), draw(rng, each), now)
        if watch.alarms:
            break


def false_alarms(draw: Draw, runs: int, n: int, bounds: tuple[float, float] | None = UNIT) -> int:
    count = 0
    for seed in range(runs):
        watch = ChangeAlarms(1, bounds)
        play(watch, draw, seed, 0, n)
        count += len(watch.alarms)
    return count


DRAWS: dict[str, tuple[Draw, tuple[float, float] | None]] = {
    "rare": (bernoulli(0.02), UNIT),
    "common": (bernoulli(0.5), UNIT),
    "bounded": (lambda rng, n: rng.beta(0.4, 1.0, n), UNIT),
    "counts": (lambda rng, n: rng.poisson(0.3, n).astype(np.float64), None),
    "heavy tails": (lambda rng, n: rng.lognormal(3.0, 1.5, n), None),
    "normal": (lambda rng, n: rng.normal(50.0, 1.0, n), None),
    "orders": (lambda rng, n: (rng.random(n) < 0.05) * (1.0 + rng.poisson(2.0, n)), None),
    "revenue": (lambda rng, n: (rng.random(n) < 0.01) * rng.lognormal(0.0, 1.5, n), None),
    "next to nothing": (lambda rng, n: rng.beta(0.05, 0.95, n), UNIT),
}


@pytest.mark.parametrize("kind", DRAWS)
def test_false_alarms_are_fewer_than_promised(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At a level of .1, 60 runs of 4,000, a look at every 40: 6 expected at most, 13 once in 300 times."""
    monkeypatch.setattr(alarms, "LEVEL", 0.1)
    draw, bounds = DRAWS[kind]
    assert false_alarms(draw, 60, 4_000, bounds) <= 12


def test_the_likelihood_over_the_prior_is_that_of_whole_numbers() -> None:
    """B(k + 1/2, m + 1/2) / pi is a fraction."""
    pairs = [(0, 0), (0, 1), (1, 0), (3, 4), (9, 2), (0, 40), (57, 300), (2_000, 1)]
    n = np.array([k + m for k, m in pairs], np.float64)
    total = np.array([k for k, _ in pairs], np.float64)
    expected = []
    for k, m in pairs:
        above = math.factorial(2 * k) * math.factorial(2 * m)
        below = 4 ** (k + m) * math.factorial(k) * math.factorial(m) * math.factorial(k + m)
        expected.append(math.log(above / below))
    assert alarms.log_marginal(n, total) == pytest.approx(expected, rel=1e-13, abs=1e-13)


@given(st.floats(0.0, 1e12), st.floats(0.0, 1.0))
def test_the_likelihood_over_the_prior_is_scipys(n: float, share: float) -> None:
    total = n * share
    expected = betaln(total + 0.5, n - total + 0.5) - betaln(0.5, 0.5)
    # SciPy's loses digits where one of the two is much the larger.
    room = 1e-15 * abs(float(gammaln(n + 1.0)))
    got = alarms.log_marginal(np.array([n]), np.array([total]))
    assert got == pytest.approx([expected], rel=1e-13, abs=1e-13 + room)


def test_the_largest_likelihood_is_scipys() -> None:
    n = np.array([1.0, 3.0, 3.0, 7.0, 1e9])
    total = np.array([0.0, 3.0, 1.2, 0.1, 3e8])
    expected = xlogy(total, total / n) + xlogy(n - total, 1.0 - total / n)
    assert alarms._log_largest(n, total) == pytest.approx(expected, rel=1e-14)
    past_the_ends = np.array([-1e-12, 3.0 + 1e-12])
    assert alarms._log_largest(n[:2], past_the_ends) == pytest.approx([0.0, 0.0], abs=1e-11)


def test_a_watch_that_forgets_that_it_looks_often_would_be_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """The likelihood at its maximum in place of its mean over the prior: a generalised likelihood ratio."""

    def at_its_maximum(n: NDArray[np.float64], total: NDArray[np.float64]) -> NDArray[np.float64]:
        mean = np.clip(total / n, 0.0, 1.0)
        return np.asarray(xlogy(total, mean) + xlogy(n - total, 1.0 - mean))

    monkeypatch.setattr(alarms, "LEVEL", 0.1)
    monkeypatch.setattr(alarms, "log_marginal", at_its_maximum)
    monkeypatch.setattr(alarms, "_log_weight", lambda look: 0.0 * look)
    assert false_alarms(bernoulli(0.5), 60, 4_000) > 20


@pytest.mark.parametrize(("before", "after"), [(0.05, 0.15), (0.15, 0.05)])
def test_a_change_is_noticed_soon_and_dated(before: float, after: float) -> None:
    changed, delays = 4_000, []
    for seed in range(15):
        watch = ChangeAlarms(1, UNIT)
        play(watch, bernoulli(before), seed, 0, changed)
        assert not watch.alarms
        play(watch, bernoulli(after), seed, changed, changed + 2_000)
        (alarm,) = watch.alarms
        delays.append(alarm.at_ms - changed)
        assert abs(alarm.since_ms - changed) < 400
        assert alarm.before == pytest.approx(before, abs=0.02)
        assert alarm.after == pytest.approx(after, abs=0.06)
    assert len(set(delays)) > 3
    assert np.mean(delays) < 650


# Laws of values that are not 0 or 1, with mean 0 or so and the standard deviation that a shift is measured in.
LAWS: dict[str, tuple[Draw, float]] = {
    "normal": (lambda rng, n: rng.normal(0.0, 1.0, n), 1.0),
    "t3": (lambda rng, n: rng.standard_t(3, n), 3.0**0.5),
    "counts": (lambda rng, n: rng.poisson(3.0, n).astype(np.float64), 3.0**0.5),
    "bounded": (lambda rng, n: 0.2 + 0.5 * rng.beta(2.0, 2.0, n), 0.5 * 0.05**0.5),
}


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_shift_of_three_tenths_of_a_deviation_is_noticed_within_a_thousand(law: str, sign: float) -> None:
    """ADWIN at .002 needs about 800 (benchmarks/README.md)."""
    draw, deviation = LAWS[law]
    bounds = UNIT if law == "bounded" else None
    delays = []
    for seed in range(scaled(5, 200)):
        watch = ChangeAlarms(1, bounds)
        play(watch, draw, seed, 0, 3_000)
        assert not watch.alarms
        shift = sign * 0.3 * deviation
        play(watch, lambda rng, n, by=shift: draw(rng, n) + by, seed, 3_000, 6_000)
        (alarm,) = watch.alarms
        delays.append(alarm.at_ms - 3_000)
    assert np.mean(delays) < 1_000


def test_a_state_that_knew_no_variance_goes_on_as_of_zeros_and_ones() -> None:
    watch = ChangeAlarms(1, UNIT)
    play(watch, bernoulli(0.2), 4, 0, 2_000)
    state = watch.state()
    (kept,) = state.pop("m2")
    restored = ChangeAlarms.from_state(state)
    assert restored.state()["m2"] == pytest.approx([kept])


def test_a_contextual_policy_s_arms_are_not_watched() -> None:
    """As it learns, other contexts come to an arm, and its mean changes in a world that does not."""
    context = [{"name": "z", "kind": "numeric", "mean": 0.0, "std": 1.0}]
    live = LiveExperiment(created(experiment(policy={"kind": "lin_ts"}, context=context)))
    assert live.alarms is None
    assert LiveExperiment.from_state(live.offset, live.state()).alarms is None
    record = msgspec.structs.replace(
        live.record, revision=2, experiment=live.experiment.with_policy(Policy(kind="thompson"))
    )
    live.apply(Offset(1, 0), Changed(record, Change("policy", "test")))
    assert live.alarms is not None
    rows = rewards(range(5))
    live.apply(Offset(2, 0), Rewarded(rows, np.ones((5, live.n_features), np.float32)))
    assert LiveExperiment.from_state(live.offset, live.state()).digest() == live.digest()


def test_a_shift_of_values_without_bounds_is_noticed_in_their_own_units() -> None:
    watch = ChangeAlarms(1, None)
    play(watch, lambda rng, n: rng.normal(1_000.0, 20.0, n), 1, 0, 3_000)
    assert not watch.alarms
    play(watch, lambda rng, n: rng.normal(1_020.0, 20.0, n), 1, 3_000, 4_500)
    (alarm,) = watch.alarms
    assert alarm.before == pytest.approx(1_000.0, abs=3.0)
    assert alarm.after == pytest.approx(1_020.0, abs=8.0)


def test_after_an_alarm_the_next_change_is_reported_and_the_first_one_not_again() -> None:
    watch = ChangeAlarms(1, UNIT)
    rng = np.random.default_rng(2)
    for now in range(0, 12_000, 50):
        mean = 0.05 if 4_000 <= now < 8_000 else 0.3
        watch.rewarded(np.zeros(50, np.intp), bernoulli(mean)(rng, 50), now)
    assert [(alarm.before > 0.2, alarm.after > 0.2) for alarm in watch.alarms] == [
        (True, False),
        (False, True),
    ]


def test_arms_are_told_apart() -> None:
    watch = ChangeAlarms(3, UNIT)
    rng = np.random.default_rng(3)
    for now in range(0, 6_000, 60):
        arms = rng.integers(0, 3, 60)
        means = np.array([0.1, 0.4 if now < 3_000 else 0.1, 0.4])
        watch.rewarded(arms, (rng.random(60) < means[arms]).astype(np.float64), now)
    assert [alarm.arm for alarm in watch.alarms] == [1]


def test_memory_has_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = ChangeAlarms(1, UNIT)
    play(watch, bernoulli(0.1), 1, 0, 20_000, BLOCK)
    state = watch.state()
    assert len(state["candidates"][0]) <= CANDIDATES
    looks, due = 0, BLOCK
    for n in range(BLOCK, 20_001, BLOCK):
        if n >= due:
            looks, due = looks + 1, n + max(BLOCK, n // SPACING)
    assert state["looks"] == [looks]
    assert looks < 200, "few, of 625 batches"
    newest = np.diff(state["candidates"][0][-5:, 0])
    assert (newest <= 20_000 / SPACING + BLOCK).all(), "the newest are close together"
    monkeypatch.setattr(alarms, "LEVEL", 1e9)
    for now in range(4 * MAX_ALARMS):
        watch.rewarded(np.zeros(BLOCK, np.intp), np.ones(BLOCK), now)
    assert len(watch.alarms) == MAX_ALARMS
    assert watch.alarms[-1].at_ms > 3 * MAX_ALARMS


@pytest.mark.parametrize("bounds", [UNIT, None])
def test_a_restored_watch_goes_on_identically_and_grows(bounds: tuple[float, float] | None) -> None:
    rng = np.random.default_rng(5)
    batches = [
        (rng.integers(0, 2, 30), rng.normal(0.3 if now < 60 else 0.6, 0.1, 30), now) for now in range(120)
    ]
    whole = ChangeAlarms(2, bounds)
    for batch in batches:
        whole.rewarded(*batch)
    assert {alarm.arm for alarm in whole.alarms} == {0, 1}
    for cut in (1, 6, 40, 75):
        half = ChangeAlarms(2, bounds)
        for batch in batches[:cut]:
            half.rewarded(*batch)
        restored = ChangeAlarms.from_state(half.state())
        grown = half.grown(3)
        for batch in batches[cut:]:
            restored.rewarded(*batch)
            grown.rewarded(*batch)
        assert packed(restored) == packed(whole)
        assert grown.alarms == whole.alarms
        grown.rewarded(np.full(BLOCK + REFERENCE, 2), np.zeros(BLOCK + REFERENCE), 200)
        assert len(grown.state()["n"]) == 3


def packed(watch: ChangeAlarms) -> bytes:
    return bytes(msgpack.packb(watch.state(), default=lambda array: array.tolist()))


# In an experiment


def test_where_a_missing_reward_is_ignored_rewards_are_watched_in_the_metrics_own_values() -> None:
    live = LiveExperiment(created(experiment(metrics=[{"name": "m", "kind": "binary", "goal": "minimize"}])))
    rng = np.random.default_rng(1)
    for i in range(400):
        values = bernoulli(0.1 if i < 250 else 0.5)(rng, 20)
        live.apply(
            Offset(i + 1, 0), Rewarded(rewards(range(20 * i, 20 * i + 20), values=values.tolist(), arms=1))
        )
    (alarm,) = live.alarms.alarms
    assert (alarm.arm, round(alarm.before, 1)) == (1, 0.1)
    assert 245 <= alarm.since_ms <= 260
    assert live.policy.counts.tolist() == [0, 8_000], "the policy knows nothing of it"
    restored = LiveExperiment.from_state(live.offset, live.state())
    assert restored.alarms.alarms == live.alarms.alarms
    assert restored.digest() == live.digest()


def test_where_it_counts_as_zero_conversions_are_watched_as_windows_close() -> None:
    """Rewards come at once and zeros a window later: watched as they come, that would look like a change."""
    live = LiveExperiment(created(experiment(attribution={"window": "2s", "missing": "zero"})))
    rng = np.random.default_rng(1)
    for i in range(600):
        now_ms, n = 1_000 + 20 * i, 20
        live.apply(Offset(now_ms, 0), exposed(n * i, [1] * n, [now_ms - 5] * n))
        won = np.flatnonzero(rng.random(n) < (0.5 if i < 300 else 0.25))
        # A reward of 0 is no conversion.
        values = np.where(np.arange(len(won)) % 5 == 0, 0.0, 1.0)
        rows = rewards((n * i + won).tolist(), values=values.tolist(), arms=1, times_ms=now_ms - 5)
        live.apply(Offset(now_ms + 1, 0), Rewarded(rows))
    for now_ms in range(13_100, 17_000, 100):
        live.apply(Offset(now_ms, 0), Tick())
    (alarm,) = live.alarms.alarms
    assert alarm.arm == 1
    assert alarm.before == pytest.approx(0.38, abs=0.03)
    assert abs(alarm.since_ms - (1_000 + 20 * 300 + 2_000)) < 400
    assert LEVEL < 0.01

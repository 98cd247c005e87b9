"""Guardrails: the one-sided sequences, verdicts, the evidence that is kept, and the harm that is listed."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET
from simulated_results import START_MS, exposed, random_log, record, rewarded, with_arm

from bandit_serve.errors import UnreadableEntry
from bandit_serve.experiments.metric import Margin, Metric
from bandit_serve.experiments.policy_spec import PolicySpec
from bandit_serve.experiments.spec import Record
from bandit_serve.log.events import Change, Changed
from bandit_serve.log.offset import Offset
from bandit_serve.results import MetricResult, ResultsFold, report
from bandit_serve.results.guardrail import Harm, harmed
from bandit_serve.results.sequence import mean_sequence, tuning
from bandit_serve.results.state import CODEC

EVEN = np.array([0.5, 0.5])
DIFFERENCE, ERROR = -0.00025, 0.002120167638482953


def guarded(
    margin: Margin | None = None, goal: str = "minimize", kind: str = "continuous", **fields: Any
) -> Record:
    metrics = (
        Metric(name="sale", kind="binary"),
        Metric(name="ms", kind=kind, goal=goal, role="guardrail", margin=margin or Margin(relative=0.05)),
    )
    return record(metrics=metrics, **fields)


def feed(fold: ResultsFold, values: np.ndarray, arms: np.ndarray, shares: np.ndarray = EVEN) -> None:
    """Decisions of `arms` with these `values` of the guardrail, a second later than all before."""
    n, now = len(arms), max(fold.now_ms, START_MS) + 1_000
    first = int(fold.exposures.sum())
    fold.apply(Offset(now, 0), exposed(first, arms, shares[None], [n], time_ms=now - 500))
    rows = rewarded(
        counter=first + np.arange(n),
        time_ms=now - 500,
        value=values,
        propensity=shares[arms],
        arm=arms,
        metric=1,
    )
    fold.apply(Offset(now, 1), rows)


def played(about: Record, *means: float, n: int = 2_000, step: int = 100, seed: int = 1) -> ResultsFold:
    """A fold of `n` decisions with normal values of these means and standard deviation 50, evenly split."""
    fold, rng, worth = ResultsFold(about), np.random.default_rng(seed), np.array(means)
    shares = np.full(len(means), 1 / len(means))
    for _ in range(n // step):
        arms = rng.integers(0, len(means), step)
        feed(fold, rng.normal(worth[arms], 50.0), arms, shares)
    return fold


def row_of(fold: ResultsFold, arm: int = 1) -> MetricResult:
    return report(fold, fold.record, {}, START_MS).arms[arm].metrics["ms"]


@pytest.mark.parametrize(
    ("tuned_for", "expected"), [(5_000.0, -0.006801712451679229), (80_000.0, -0.006143006035881455)]
)
def test_the_one_sided_end_is_that_of_the_formula(tuned_for: float, expected: float) -> None:
    sequence = mean_sequence(80_000, DIFFERENCE, ERROR**2, tuned_for)
    assert sequence.mean - sequence.one_sided_reach(0.05) == pytest.approx(expected, abs=1e-12)


@given(
    n=st.integers(100, 10**7), z=st.floats(-3.0, 9.0), alpha=st.floats(1e-6, 0.5), parts=st.integers(1, 20)
)
@settings(max_examples=100, deadline=None)
def test_evidence_is_enough_exactly_where_the_end_is_above_0(
    n: int, z: float, alpha: float, parts: int
) -> None:
    sequence = mean_sequence(n, z * 0.01, 0.01**2)
    end = float(sequence.mean - sequence.one_sided_reach(alpha, parts))
    enough = float(sequence.log_e_above(alpha)) - math.log(parts / alpha)
    assert abs(end) < 1e-9 or (end > 0) == (enough > 0)


@given(n=st.integers(100, 10**7), z=st.floats(-5.0, 30.0))
@settings(max_examples=100, deadline=None)
def test_evidence_is_at_most_that_of_the_half_normal_mixture(n: int, z: float) -> None:
    sequence = mean_sequence(n, z * 0.01, 0.01**2)
    rho2 = tuning(0.05) / float(sequence.tightest_at)
    q = float(sequence.variance) * rho2 + 1.0
    x = rho2 * float(sequence.total) ** 2 / (2.0 * q)
    mixture = math.log(2.0) - 0.5 * math.log(q) + x + math.log(0.5 * math.erfc(-math.sqrt(x) * np.sign(z)))
    assert float(sequence.log_e_above(0.05)) <= mixture + 1e-9


@pytest.mark.parametrize("goal", ["minimize", "maximize"])
def test_an_arm_that_is_worse_does_harm_and_one_that_is_better_does_not(goal: str) -> None:
    worse, better = (240.0, 160.0) if goal == "minimize" else (160.0, 240.0)
    about = guarded(goal=goal)
    fold = played(about, 200.0, worse)
    guardrail = row_of(fold).guardrail
    assert guardrail is not None
    assert guardrail is not UNSET
    assert guardrail.verdict == "harm"
    assert guardrail.margin == pytest.approx(10.0, rel=0.02)
    (harm,) = harmed(fold, about)
    sign = 1.0 if goal == "minimize" else -1.0
    assert (harm.arm, harm.metric, harm.n) == ("b", "ms", 2_000)
    assert sign * guardrail.bound > sign * harm.difference > sign * harm.bound > 0.0
    assert harm.sentence.startswith("ms of b is worse than that of a by ")
    assert f"beyond {harm.bound:.3g} at level 0.05" in harm.sentence
    fold = played(about, 200.0, better)
    assert row_of(fold).guardrail.verdict == "safe"
    assert harmed(fold, about) == []


def test_control_has_no_verdict_and_other_metrics_have_no_field() -> None:
    fold = played(guarded(), 200.0, 200.0)
    shown = msgspec.to_builtins(report(fold, fold.record, {}, START_MS))
    assert shown["arms"][0]["metrics"]["ms"]["guardrail"] is None
    assert all("guardrail" not in arm["metrics"]["sale"] for arm in shown["arms"])


@pytest.mark.parametrize(("margin", "verdict"), [(15.0, "safe"), (1.0, "undecided")])
def test_an_arm_is_safe_where_its_bound_is_within_the_margin(margin: float, verdict: str) -> None:
    fold = played(guarded(Margin(absolute=margin)), 200.0, 200.0)
    guardrail = row_of(fold).guardrail
    assert (guardrail.verdict, guardrail.margin) == (verdict, margin)
    assert (guardrail.bound < margin) == (verdict == "safe")


def test_a_bound_is_that_of_the_difference_by_hand() -> None:
    fold = played(guarded(Margin(absolute=15.0)), 200.0, 203.0)
    row = row_of(fold)
    n = fold.sums.of_metric(1)["n"]
    variance = fold.sums.of_metric(1)["m2"] / (n - 1)
    pooled = fold.sums.of_metric(1)["m2"].sum() / (n.sum() - 2)
    cautious = variance + np.maximum(pooled - variance, 0.0) * 1_000 / (n + 1_000)
    total, rho2 = n.sum(), tuning(0.05) / 5_000
    q = total * rho2 + 1
    reach = math.sqrt(
        2 * q / (total**2 * rho2) * math.log(1 + math.sqrt(q) / 0.1) * total * (cautious / n).sum()
    )
    assert row.guardrail.bound == pytest.approx(row.difference + reach, rel=1e-9)


def test_a_relative_margin_counts_in_that_controls_mean_is_estimated() -> None:
    """It is `m_b < (1 + r) m_a`, whose variance is v_b + (1 + r)^2 v_a."""
    fold = played(guarded(Margin(relative=0.5)), 200.0, 200.0)
    absolute = played(guarded(Margin(absolute=0.5 * 200.0)), 200.0, 200.0)
    relative_reach, reach = (
        row_of(each).guardrail.bound - row_of(each).difference for each in (fold, absolute)
    )
    assert relative_reach / reach == pytest.approx(math.sqrt((1 + 1.5**2) / 2), rel=0.02)


def test_a_margin_of_the_loss_itself_is_rarely_taken_for_safe() -> None:
    """At the margin, twelve looks at 40 experiments."""
    wrong = 0
    for seed in range(40):
        fold, rng = ResultsFold(guarded(Margin(relative=0.2))), np.random.default_rng([5, seed])
        ever = False
        for _ in range(12):
            arms = rng.integers(0, 2, 200)
            feed(fold, rng.normal(np.array([200.0, 240.0])[arms], 50.0), arms)
            ever |= row_of(fold).guardrail.verdict == "safe"
        wrong += ever
    assert wrong <= 4


@pytest.mark.parametrize("scale", [1e-78, 1e-3, 1e3, 1e77])
def test_verdicts_do_not_depend_on_the_unit(scale: float) -> None:
    """Nor do bounds, but for the unit."""
    plain, scaled = ResultsFold(guarded(Margin(relative=0.3))), ResultsFold(guarded(Margin(relative=0.3)))
    rng = np.random.default_rng(12)
    for _ in range(8):
        arms = rng.integers(0, 2, 100)
        values = rng.normal(np.array([200.0, 210.0])[arms], 50.0)
        feed(plain, values, arms)
        feed(scaled, values * scale, arms)
        one, other = row_of(plain).guardrail, row_of(scaled).guardrail
        assert one.verdict == other.verdict
        assert (one.bound is None) == (other.bound is None)
        if one.bound is not None:
            assert other.bound == pytest.approx(one.bound * scale, rel=1e-9)
            assert other.margin == pytest.approx(one.margin * scale, rel=1e-9)
    assert [harm.arm for harm in harmed(plain, plain.record)] == [
        harm.arm for harm in harmed(scaled, scaled.record)
    ]


@pytest.mark.parametrize("alpha", [5e-324, 1e-300, 0.999])
def test_any_level_has_a_bound_or_none(alpha: float) -> None:
    fold = played(guarded(alpha=alpha), 200.0, 240.0, n=400)
    guardrail = row_of(fold).guardrail
    assert guardrail.verdict == "undecided"
    assert math.isfinite(guardrail.bound)
    harmed(fold, fold.record)


def test_with_more_arms_each_needs_more_evidence() -> None:
    def first_look_with_harm(n_arms: int) -> int:
        """Decisions of one arm that is worse by the same, among others that are not, until it is found."""
        fold, rng = ResultsFold(guarded(n_arms=n_arms)), np.random.default_rng(3)
        for look in range(1, 200):
            arms = np.concatenate([np.arange(n_arms)] * 20)
            values = np.where(arms == 1, 212.0, 200.0) + np.repeat(rng.normal(0.0, 50.0, 20), n_arms)
            feed(fold, values, arms, np.full(n_arms, 1 / n_arms))
            if harmed(fold, fold.record):
                return look
        raise AssertionError("never")

    assert first_look_with_harm(2) < first_look_with_harm(8)


def test_harm_that_was_shown_stays_while_the_arm_looks_worse() -> None:
    fold = played(guarded(), 200.0, 260.0, n=400)
    assert row_of(fold).guardrail.verdict == "harm"
    rng = np.random.default_rng(8)
    while abs(row_of(fold).difference) > 4.0:
        arms = rng.integers(0, 2, 100)
        feed(fold, rng.normal(np.array([200.0, 180.0])[arms], 50.0), arms)
    row = row_of(fold)
    assert row.difference > 0.0
    (harm,) = harmed(fold, fold.record)
    assert harm.bound < 0.0
    assert "at an earlier look it was shown" in harm.sentence
    assert row.guardrail.verdict == "harm"
    while row_of(fold).difference > 0.0:
        arms = rng.integers(0, 2, 100)
        feed(fold, rng.normal(np.array([200.0, 180.0])[arms], 50.0), arms)
    assert row_of(fold).guardrail.verdict != "harm"
    assert harmed(fold, fold.record) == []


def test_harm_stays_when_the_shares_move_as_the_arm_is_paused() -> None:
    fold = played(guarded(n_arms=3), 200.0, 200.0, 240.0)
    before = harmed(fold, fold.record)
    assert [harm.arm for harm in before] == ["c"]
    rng = np.random.default_rng(4)
    arms = rng.integers(0, 2, 200)
    feed(fold, rng.normal(200.0, 50.0, 200), arms, np.array([0.5, 0.5, 0.0]))
    assert has_moved(fold)
    assert [harm.arm for harm in harmed(fold, fold.record)] == ["c"]


def has_moved(fold: ResultsFold) -> bool:
    return bool(fold.sums.of_metric(1)["moved"])


def test_a_removed_arm_does_no_harm_any_more() -> None:
    fold = played(guarded(), 200.0, 240.0)
    assert harmed(fold, fold.record)
    standing = msgspec.structs.replace(fold.record.standing(1), status="removed")
    removed = fold.record.with_standing(1, standing)
    assert harmed(fold, msgspec.structs.replace(removed, revision=3)) == []


def test_nothing_is_said_where_no_interval_is_valid() -> None:
    policy = PolicySpec(kind="thompson", min_share=0.0)
    fold = ResultsFold(guarded(policy=policy))
    rng = np.random.default_rng(2)
    for shares in (np.array([0.4, 0.6]), np.array([0.3, 0.7])):
        arms = rng.integers(0, 2, 500)
        feed(fold, rng.normal(np.array([200.0, 260.0])[arms], 50.0), arms, shares)
    guardrail = row_of(fold).guardrail
    assert (guardrail.verdict, guardrail.margin, guardrail.bound) == ("undecided", None, None)
    assert harmed(fold, fold.record) == []


def test_few_observations_say_nothing() -> None:
    fold = played(guarded(Margin(absolute=3.0)), 200.0, 500.0, n=60, step=10)
    guardrail = row_of(fold).guardrail
    assert (guardrail.verdict, guardrail.margin, guardrail.bound) == ("undecided", 3.0, None)


def test_errors_that_never_came_before_are_found_soon() -> None:
    """Of an arm where one request in five fails, beside control where none does."""
    fold = ResultsFold(guarded(Margin(absolute=0.01), kind="binary"))
    rng = np.random.default_rng(6)
    for _ in range(4):
        arms = rng.integers(0, 2, 100)
        feed(fold, (rng.random(100) < 0.2 * arms).astype(float), arms)
    (harm,) = harmed(fold, fold.record)
    assert "is worse than that of a by 0." in harm.sentence


def resumed(fold: ResultsFold) -> ResultsFold:
    return ResultsFold.from_state(fold.offset, fold.state())


def test_the_evidence_is_in_the_state() -> None:
    fold = played(guarded(), 200.0, 240.0)
    again = resumed(fold)
    assert again.state() == fold.state()
    assert harmed(again, again.record) == harmed(fold, fold.record)
    for each in (fold, again):
        each.apply(Offset(each.now_ms + 1, 0), Changed(with_arm(each.record, "c"), Change("add_arm", "me")))
        rng = np.random.default_rng(9)
        feed(each, rng.normal(200.0, 50.0, 90), np.arange(90) % 3, np.full(3, 1 / 3))
    assert again.state() == fold.state()
    assert fold.harm.fixed.shape == (2, 3)


def test_an_experiment_without_guardrails_keeps_no_such_evidence() -> None:
    fold = ResultsFold(record())
    assert "harm" not in CODEC.unpack(fold.state()).columns
    assert "harm" in CODEC.unpack(ResultsFold(guarded()).state()).columns


@pytest.mark.parametrize(
    "part",
    [{"fixed": np.zeros((2, 3))}, {"moving": np.zeros((2, 2), np.float32)}, {"else": np.zeros((2, 2))}],
    ids=["shape", "dtype", "name"],
)
def test_a_state_that_does_not_fit_is_refused(part: dict[str, Any]) -> None:
    fold = played(guarded(), 200.0, 240.0)
    state = CODEC.unpack(fold.state())
    state.columns["harm"].update(part)
    with pytest.raises(UnreadableEntry):
        ResultsFold.from_state(fold.offset, CODEC.pack(state))


@given(seed=st.integers(0, 2**32), n_arms=st.integers(2, 4), unit=st.sampled_from(["request", "user"]))
@settings(max_examples=15, deadline=None)
def test_any_log_has_a_verdict_and_a_state_that_goes_on(seed: int, n_arms: int, unit: str) -> None:
    rng = np.random.default_rng(seed)
    about = guarded(n_arms=n_arms, unit=unit, missing="zero", window="1s")
    whole, half = ResultsFold(about), ResultsFold(about)
    entries = random_log(rng, n_arms, 2, 1_000)
    for number, (time_ms, event) in enumerate(entries):
        whole.apply(Offset(time_ms, number), event)
        if number == len(entries) // 2:
            half = resumed(whole)
        elif number > len(entries) // 2:
            half.apply(Offset(time_ms, number), event)
    assert half.state() == whole.state()
    assert all(isinstance(each, Harm) for each in harmed(whole, about))
    for arm in range(1, n_arms):
        guardrail = row_of(whole, arm).guardrail
        assert all(each is None or math.isfinite(each) for each in (guardrail.margin, guardrail.bound))

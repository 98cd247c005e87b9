"""The report: its shape, what is null and why, who wins."""

from __future__ import annotations

import json
import math

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta, t
from simulated_results import START_MS, Play, bernoulli, exposed, normal, random_log, record, rewarded

from bandit_serve.events import Tick
from bandit_serve.experiment import Metric, Policy
from bandit_serve.results import Report, ResultsFold, report

EVEN = np.array([0.5, 0.5])
METRICS = (Metric(name="hit", kind="binary"), Metric(name="worth", kind="continuous"))


def counted(about, counts):
    """A fold of `counts`: arm -> (successes, n), all from one split in these proportions."""
    fold = ResultsFold(about)
    n = np.array([n for _, n in counts])
    arms = np.repeat(np.arange(len(counts)), n)
    values = np.concatenate([np.arange(n) < s for s, n in counts]).astype(float)
    shares = n / n.sum()
    order = np.random.default_rng(0).permutation(len(arms))
    arms, values = arms[order], values[order]
    fold.apply(START_MS, exposed(0, arms, shares[None], [len(arms)]))
    rows = rewarded(counter=np.arange(len(arms)), arm=arms, value=values, propensity=shares[arms])
    fold.apply(START_MS, rows)
    return fold


def metrics_of(fold, shares=None):
    return [arm.metrics["m"] for arm in report(fold, fold.record, shares or {}, START_MS).arms]


def test_the_known_values_come_out_of_a_log():
    control, treatment = metrics_of(counted(record(2), [(400, 4000), (470, 4100)]))
    assert (control.n, control.mean, treatment.n) == (4000, 0.1, 4100)
    assert control.std == pytest.approx(math.sqrt(0.09 * 4000 / 3999))
    assert treatment.difference == pytest.approx(470 / 4100 - 0.1, rel=1e-9)
    assert treatment.difference_interval == pytest.approx(
        (-0.006321422150146739, 0.03558971483307356), rel=1e-9
    )
    assert treatment.p_value == pytest.approx(0.45494430962357363, rel=1e-9)
    assert treatment.lift == pytest.approx(0.14634146341463405, rel=1e-9)
    assert treatment.lift_interval[0] < 0 < treatment.lift_interval[1]
    assert control.difference is control.difference_interval is control.lift is control.lift_interval is None
    assert control.p_value is None
    wins = beta(471, 3631).expect(lambda x: beta(401, 3601).cdf(x), lb=0.08, ub=0.16)
    assert treatment.probability_best == pytest.approx(wins, abs=1e-6)
    assert control.expected_loss > treatment.expected_loss > 0


def test_the_shape_is_that_of_the_contract():
    fold = counted(record(2), [(40, 400), (47, 410)])
    said = json.loads(msgspec.json.encode(report(fold, fold.record, {"a": 0.4, "b": 0.6}, START_MS)))
    assert set(said) == {
        "experiment", "status", "as_of", "arms", "srm", "pending", "crossovers", "winner", "reason",
    }  # fmt: skip
    assert said["as_of"] == "2023-11-14T22:13:20.000Z"
    assert [arm["name"] for arm in said["arms"]] == ["a", "b"]
    assert [arm["share"] for arm in said["arms"]] == [0.4, 0.6]
    assert [arm["exposures"] for arm in said["arms"]] == [400, 410]
    assert set(said["arms"][0]["metrics"]["m"]) == {
        "n", "mean", "std", "interval", "difference", "difference_interval", "lift", "lift_interval",
        "p_value", "probability_best", "expected_loss",
    }  # fmt: skip
    assert said["srm"] == {"p_value": 1.0, "verdict": "ok"}
    assert "Report" in msgspec.json.schema(Report)["$defs"]


def test_nothing_is_said_before_anything_is_known():
    fold = ResultsFold(record(2, "continuous"))
    said = report(fold, fold.record, {}, START_MS)
    assert said.srm.verdict == "insufficient"
    assert said.srm.p_value is None
    assert said.reason.startswith("Nothing has been analysed on m yet.")
    for row in metrics_of(fold):
        assert row.n == 0
        assert {getattr(row, name) for name in row.__struct_fields__ if name != "n"} == {None}


def test_an_arm_with_too_little_data_has_no_interval_and_the_reason_says_so():
    fold = counted(record(3), [(100, 1000), (160, 1000), (3, 49)])
    rows = metrics_of(fold)
    assert rows[1].difference_interval is not None
    assert rows[2].interval is rows[2].difference_interval is rows[2].p_value is None
    assert rows[2].difference == pytest.approx(3 / 49 - 0.1)
    assert "no interval for c: fewer than 50 observations" in report(fold, fold.record, {}, 0).reason


def test_values_without_variance_have_no_interval():
    fold = ResultsFold(record(2, "continuous"))
    play = Play(fold, np.random.default_rng(1), lambda rng, k, n: np.full(n, 2.0 + k))
    play.step(EVEN, 400)
    rows = metrics_of(fold)
    assert rows[1].difference == 1.0
    assert [row.interval for row in rows] == [None, None]
    assert rows[1].p_value is rows[1].probability_best is None


def test_an_arm_that_never_succeeded_still_has_an_interval():
    control, treatment = metrics_of(counted(record(2), [(0, 2000), (200, 2000)]))
    assert control.interval[0] == 0.0
    assert treatment.p_value < 1e-6
    assert treatment.lift is None


@pytest.mark.parametrize("unit", ["request", "user"])
@pytest.mark.parametrize("missing", ["ignore", "zero"])
def test_without_a_floor_there_is_no_interval_and_the_reason_says_so(unit, missing):
    bare = Policy(kind="thompson", min_share=0.0)
    about = record(2, policy=bare, unit=unit, missing=missing, window="1s")
    fold = ResultsFold(about)
    play = Play(fold, np.random.default_rng(1), bernoulli(0.3, 0.6))
    for i in range(10):
        play.step(np.array([0.3, 0.7]), 100, np.arange(100 * i, 100 * i + 100).astype(np.uint64))
    play.finish()
    said = report(fold, about, {}, play.now_ms)
    assert said.winner is None
    assert "without a floor" in said.reason
    for row in metrics_of(fold):
        assert row.interval is row.difference_interval is row.lift_interval is row.p_value is None
        assert row.mean is not None
    assert metrics_of(fold)[1].difference == pytest.approx(
        metrics_of(fold)[1].mean - metrics_of(fold)[0].mean
    )


def test_a_served_policy_that_names_no_floor_has_the_default_one():
    fold = ResultsFold(record(2, policy=Policy(kind="thompson")))
    play = Play(fold, np.random.default_rng(1), bernoulli(0.3, 0.6))
    play.step(np.array([0.3, 0.7]), 500)
    play.step(np.array([0.2, 0.8]), 500)
    control, treatment = metrics_of(fold)
    assert treatment.p_value < 1e-6
    assert control.interval[0] < 0.3 < control.interval[1]
    assert "AIPW" in report(fold, fold.record, {}, 0).reason


def test_moving_shares_weight_by_the_logged_share():
    fold = ResultsFold(record(2, "continuous", policy=Policy(kind="thompson", min_share=0.1)))
    play = Play(fold, np.random.default_rng(2), normal(1.0, 1.5))
    for shares in (EVEN, np.array([0.1, 0.9])) * 10:
        play.step(shares, 200)
    arms, values = np.concatenate(play.arms), np.concatenate(play.values)
    own = np.concatenate([np.full(200, share) for share in (0.5, 0.1) * 10])
    e = np.where(arms == 0, own, 1 - own)
    weighted = [np.mean((arms == k) * values / e) for k in (0, 1)]
    treatment = metrics_of(fold)[1]
    assert treatment.difference == pytest.approx(weighted[1] - weighted[0], abs=0.1)
    v = [values[arms == k].var(ddof=1) for k in (0, 1)]
    pooled = sum(((values[arms == k] - values[arms == k].mean()) ** 2).sum() for k in (0, 1)) / (
        len(arms) - 2
    )
    n = [(arms == k).sum() for k in (0, 1)]
    v = [v[k] + max(pooled - v[k], 0) * 1000 / (n[k] + 1000) for k in (0, 1)]
    variance = v[0] * (1 / own).sum() + v[1] * (1 / (1 - own)).sum()
    rho2 = (-2 * math.log(0.05) + math.log(1 - 2 * math.log(0.05))) / (10_000 * (v[0] + v[1]))
    q = variance * rho2 + 1
    half = math.sqrt(2 * q / rho2 * math.log(math.sqrt(q) / 0.05)) / len(arms)
    low, high = treatment.difference_interval
    assert (high - low) / 2 == pytest.approx(half, rel=1e-9)


def test_a_p_value_never_rises_again():
    fold = ResultsFold(record(2, policy=Policy(kind="thompson", min_share=0.1)))
    rng, seen = np.random.default_rng(3), []
    for means in [(0.1, 0.3)] * 8 + [(0.3, 0.1)] * 12:
        play = Play(fold, rng, bernoulli(*means), counter=len(seen) * 200, now_ms=START_MS + len(seen))
        play.step(EVEN, 200)
        seen.append(metrics_of(fold)[1].p_value)
    known = [p for p in seen if p is not None]
    assert known == sorted(known, reverse=True)
    assert min(known) < 0.01
    assert abs(metrics_of(fold)[1].difference) < 0.1


@pytest.mark.parametrize(
    ("counts", "goal", "winner"),
    [
        ([(100, 1000), (100, 1000), (200, 1000)], "maximize", "c"),
        ([(100, 1000), (250, 1000), (200, 1000)], "maximize", "b"),
        ([(300, 1000), (100, 1000), (120, 1000)], "maximize", "a"),
        ([(300, 1000), (100, 1000), (290, 1000)], "maximize", None),
        ([(300, 1000), (100, 1000), (290, 1000)], "minimize", "b"),
        ([(100, 1000), (300, 1000), (290, 1000)], "minimize", "a"),
        ([(100, 1000), (105, 1000), (95, 1000)], "maximize", None),
    ],
)
def test_the_winner_is_significantly_better_by_the_goal(counts, goal, winner):
    fold = counted(record(3, goal=goal), counts)
    said = report(fold, fold.record, {}, START_MS)
    assert said.winner == winner
    if winner is not None:
        assert said.reason.startswith(f"{winner} is better on m than")
        best = [arm.metrics["m"].probability_best for arm in said.arms]
        assert "abc"[int(np.argmax(best))] == winner


def test_no_winner_before_every_arm_has_its_samples():
    counts = [(100, 1000), (100, 999), (200, 1000)]
    for least, winner in ((999, "c"), (1000, None)):
        fold = counted(record(3, min_samples=least), counts)
        said = report(fold, fold.record, {}, START_MS)
        assert said.winner == winner
    assert said.reason.startswith("No winner is named before every arm has 1000 observations")


def test_a_stopped_experiment_has_the_winner_of_its_record():
    fold = counted(record(3), [(100, 1000), (100, 1000), (200, 1000)])
    stopped = msgspec.structs.replace(fold.record, status="stopped", winner="b")
    said = report(fold, stopped, {}, START_MS)
    assert (said.status, said.winner) == ("stopped", "b")
    assert said.reason.startswith("Stopped with b as the winner.")


def test_p_values_are_adjusted_over_the_arms():
    two = metrics_of(counted(record(2), [(100, 1000), (150, 1000)]))[1].p_value
    three = metrics_of(counted(record(3), [(100, 1000), (150, 1000), (100, 1000)]))[1].p_value
    assert three == pytest.approx(2 * two, rel=1e-9)


def test_a_level_of_its_own_widens_the_intervals():
    wide, narrow = (
        metrics_of(counted(record(2, alpha=alpha), [(400, 4000), (470, 4100)]))[1].difference_interval
        for alpha in (0.01, 0.1)
    )
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_aids_for_continuous_metrics_follow_the_goal():
    for goal, best in (("maximize", 1), ("minimize", 0)):
        fold = ResultsFold(record(2, "continuous", goal=goal))
        play = Play(fold, np.random.default_rng(4), normal(1.0, 1.2))
        play.step(EVEN, 400)
        rows = metrics_of(fold)
        assert rows[best].probability_best > 0.5
        assert rows[0].probability_best + rows[1].probability_best == pytest.approx(1.0, abs=1e-6)
        gap = t(rows[1].n - 1, rows[1].mean, rows[1].std / math.sqrt(rows[1].n))
        other = t(rows[0].n - 1, rows[0].mean, rows[0].std / math.sqrt(rows[0].n))
        above = gap.expect(other.cdf, lb=gap.ppf(1e-9), ub=gap.ppf(1 - 1e-9))
        assert rows[1].probability_best == pytest.approx(above if goal == "maximize" else 1 - above, abs=1e-5)


def test_intervals_stay_where_means_can_be():
    low, high = metrics_of(counted(record(2), [(1, 100), (99, 100)]))
    assert low.interval[0] == 0.0
    assert high.interval[1] == 1.0


def test_a_mismatch_is_said():
    fold = ResultsFold(record(2))
    play = Play(fold, np.random.default_rng(4), bernoulli(0.5, 0.5))
    play.play((np.arange(2000) % 5 > 1).astype(np.int64), EVEN)
    said = report(fold, fold.record, {}, START_MS)
    assert said.srm.verdict == "mismatch"
    assert said.srm.p_value <= 0.01
    assert "sample-ratio mismatch" in said.reason


def test_one_arm_alone_is_reported():
    fold = ResultsFold(record(1))
    Play(fold, np.random.default_rng(4), bernoulli(0.5), 1).step(np.array([1.0]), 100)
    said = report(fold, fold.record, {"a": 1.0}, START_MS)
    assert said.winner is None
    assert said.arms[0].metrics["m"].interval is not None


@pytest.mark.parametrize("unit", ["request", "user"])
@pytest.mark.parametrize("missing", ["ignore", "zero"])
@given(seed=st.integers(0, 2**32))
@settings(max_examples=8, deadline=None)
def test_every_number_is_finite_or_null_at_every_time(unit, missing, seed):
    fold = ResultsFold(record(3, unit=unit, missing=missing, window="500ms", metrics=METRICS))
    log = random_log(np.random.default_rng(seed), 3, 2, 500)
    for time_ms, event in [*log, (log[-1][0] + 2000, Tick())]:
        fold.apply(time_ms, event)
        if time_ms % 7 == 0:
            assert all_finite(msgspec.to_builtins(report(fold, fold.record, {}, time_ms)))


def all_finite(said) -> bool:
    if isinstance(said, dict):
        return all(all_finite(value) for value in said.values())
    if isinstance(said, list | tuple):
        return all(all_finite(value) for value in said)
    return not isinstance(said, float) or math.isfinite(said)

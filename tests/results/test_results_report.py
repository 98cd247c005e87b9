"""Report: its shape, null values and their reasons, the winner."""

from __future__ import annotations

import json
import math

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET
from scale import scaled
from scipy.stats import beta, t
from simulated_results import START_MS, Play, bernoulli, exposed, normal, random_log, record, rewarded

from bandit_serve.experiments.metric import Metric
from bandit_serve.experiments.policy_spec import PolicySpec
from bandit_serve.log.events import Tick
from bandit_serve.log.offset import Offset
from bandit_serve.results import Report, ResultsFold, report
from bandit_serve.results.sequence import mean_sequence

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
    fold.apply(Offset(START_MS, 0), exposed(0, arms, shares[None], [len(arms)]))
    rows = rewarded(counter=np.arange(len(arms)), arm=arms, value=values, propensity=shares[arms])
    fold.apply(Offset(START_MS, 0), rows)
    return fold


def cautious_sequence(counts):
    """The difference of two arms of 0/1 values: each variance is m(1 - m), m = (successes + 1)/(n + 2), moved up
    towards that of all by the weight of 1,000 observations.
    """
    (s_a, n_a), (s_b, n_b) = counts
    mean = (s_a + s_b) / (n_a + n_b)
    of = []
    for s, n in counts:
        m = (s + 1) / (n + 2)
        of.append((m * (1 - m) + max(mean * (1 - mean) - m * (1 - m), 0) * 1000 / (n + 1000)) / n)
    return mean_sequence(n_a + n_b, s_b / n_b - s_a / n_a, sum(of))


def metrics_of(fold, shares=None):
    return [arm.metrics["m"] for arm in report(fold, fold.record, shares or {}, START_MS).arms]


def test_the_known_values_come_out_of_a_log():
    control, treatment = metrics_of(counted(record(2), [(400, 4000), (470, 4100)]))
    assert (control.n, control.mean, treatment.n) == (4000, 0.1, 4100)
    assert control.std == pytest.approx(math.sqrt(0.09 * 4000 / 3999))
    assert treatment.difference == pytest.approx(470 / 4100 - 0.1, rel=1e-9)
    expected = cautious_sequence([(400, 4000), (470, 4100)])
    low, high = expected.mean - expected.half_width(0.05), expected.mean + expected.half_width(0.05)
    assert treatment.difference_interval == pytest.approx((float(low), float(high)), rel=1e-9)
    assert treatment.p_value == pytest.approx(float(np.exp(-expected.log_e_value(0.05))), rel=1e-9)
    # The sample variances alone would give -0.0063214 to 0.0355897 (tests/results/test_sequence.py).
    assert treatment.difference_interval == pytest.approx((-0.0063214, 0.0355897), abs=1e-4)
    assert treatment.lift == pytest.approx(0.14634146341463405, rel=1e-9)
    assert treatment.lift_interval[0] < 0 < treatment.lift_interval[1]
    assert control.difference is control.difference_interval is control.lift is control.lift_interval is None
    assert control.p_value is None
    wins = beta(471, 3631).expect(lambda x: beta(401, 3601).cdf(x), lb=0.08, ub=0.16)
    assert treatment.probability_best == pytest.approx(wins, abs=1e-6)
    assert control.expected_loss > treatment.expected_loss > 0


def test_the_shape_is_that_of_the_contract():
    fold = counted(record(2), [(40, 400), (47, 410)])
    document = json.loads(msgspec.json.encode(report(fold, fold.record, {"a": 0.4, "b": 0.6}, START_MS)))
    assert set(document) == {
        "experiment", "status", "as_of", "arms", "srm", "pending", "crossovers", "winner", "reason",
        "decision",
    }  # fmt: skip
    assert document["as_of"] == "2023-11-14T22:13:20.000Z"
    assert [arm["name"] for arm in document["arms"]] == ["a", "b"]
    assert [arm["share"] for arm in document["arms"]] == [0.4, 0.6]
    assert [arm["exposures"] for arm in document["arms"]] == [400, 410]
    assert set(document["arms"][0]["metrics"]["m"]) == {
        "n", "mean", "std", "interval", "difference", "difference_interval", "lift", "lift_interval",
        "p_value", "probability_best", "expected_loss", "preview",
    }  # fmt: skip
    assert document["srm"] == {"p_value": 1.0, "verdict": "ok"}
    assert "Report" in msgspec.json.schema(Report)["$defs"]


def test_nothing_is_said_before_anything_is_known():
    fold = ResultsFold(record(2, "continuous"))
    results = report(fold, fold.record, {}, START_MS)
    assert results.srm.verdict == "insufficient"
    assert results.srm.p_value is None
    assert results.reason.startswith("Nothing has been analysed on m yet.")
    for row in metrics_of(fold):
        assert row.n == 0
        assert {getattr(row, name) for name in row.__struct_fields__ if name != "n"} <= {None, UNSET}


def test_an_arm_with_too_little_data_is_not_compared_and_the_reason_says_so():
    fold = counted(record(3), [(100, 1000), (160, 1000), (3, 49)])
    rows = metrics_of(fold)
    assert rows[1].difference_interval is not None
    assert rows[2].difference_interval is rows[2].p_value is None
    assert rows[2].difference == pytest.approx(3 / 49 - 0.1)
    assert "no comparison with c: fewer than 50 observations" in report(fold, fold.record, {}, 0).reason
    fold = ResultsFold(record(3, "continuous"))
    play = Play(fold, np.random.default_rng(1), normal(1.0, 1.0, 1.0), 3)
    play.play(np.repeat([0, 1, 2], [100, 100, 49]), np.full(3, 1 / 3))
    rows = metrics_of(fold)
    assert rows[1].interval is not None
    assert rows[2].interval is rows[2].difference_interval is rows[2].p_value is None
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
    bare = PolicySpec(kind="thompson", min_share=0.0)
    about = record(2, policy=bare, unit=unit, missing=missing, window="1s")
    fold = ResultsFold(about)
    play = Play(fold, np.random.default_rng(1), bernoulli(0.3, 0.6))
    for i in range(10):
        play.step(np.array([0.3, 0.7]), 100, np.arange(100 * i, 100 * i + 100).astype(np.uint64))
    play.finish()
    results = report(fold, about, {}, play.now_ms)
    assert results.winner is None
    assert "without a floor" in results.reason
    for row in metrics_of(fold):
        assert row.interval is row.difference_interval is row.lift_interval is row.p_value is None
        assert row.mean is not None
    assert metrics_of(fold)[1].difference == pytest.approx(
        metrics_of(fold)[1].mean - metrics_of(fold)[0].mean
    )


def test_a_served_policy_that_names_no_floor_has_the_default_one():
    fold = ResultsFold(record(2, policy=PolicySpec(kind="thompson")))
    play = Play(fold, np.random.default_rng(1), bernoulli(0.3, 0.6))
    play.step(np.array([0.3, 0.7]), 500)
    play.step(np.array([0.2, 0.8]), 500)
    control, treatment = metrics_of(fold)
    assert treatment.p_value < 1e-6
    assert control.interval[0] < 0.3 < control.interval[1]
    assert "AIPW" in report(fold, fold.record, {}, 0).reason


@pytest.mark.parametrize("kind", ["thompson", "lin_ts"])
def test_moving_shares_weight_by_the_logged_share(kind):
    """Against sums over the decisions, one by one; a contextual policy's shares must not weight the differences."""
    fold = ResultsFold(record(2, "continuous", policy=PolicySpec(kind=kind, min_share=0.1)))
    play = Play(fold, np.random.default_rng(2), normal(1.0, 1.5))
    for shares in (EVEN, np.array([0.1, 0.9])) * 10:
        play.step(shares, 200)
    arms, values = np.concatenate(play.arms), np.concatenate(play.values)
    own = np.concatenate([np.full(200, share) for share in (0.5, 0.1) * 10])
    e = np.stack([own, 1 - own], axis=1)
    scores = np.zeros((len(arms), 2))
    for i in range(1, len(arms)):
        for k in (0, 1):
            mine = values[:i][arms[:i] == k]
            centre = (mine.sum() + values[:i].mean()) / (len(mine) + 1)
            scores[i, k] = centre + (arms[i] == k) * (values[i] - centre) / e[i, k]
    scores, e = scores[1:], e[1:]
    w = e[:, 0] * e[:, 1] / e.sum(axis=1) if kind == "thompson" else np.full(len(e), 0.25)
    d = scores[:, 1] - scores[:, 0]
    estimate = (w * d).sum() / w.sum()
    n = np.array([(arms == k).sum() for k in (0, 1)])
    v = np.array([values[arms == k].var(ddof=1) for k in (0, 1)])
    pooled = (v * (n - 1)).sum() / (len(arms) - 2)
    v += np.maximum(pooled - v, 0) * 1000 / (n + 1000)
    variance = max((v * (w[:, None] ** 2 / e).sum(axis=0)).sum(), (w**2 * (d - estimate) ** 2).sum())
    treatment = metrics_of(fold)[1]
    assert treatment.difference == pytest.approx(estimate, rel=1e-9)
    rho2 = (-2 * math.log(0.05) + math.log(1 - 2 * math.log(0.05))) / (5_000 / 8 * v.sum())
    q = variance * rho2 + 1
    half = math.sqrt(2 * q / rho2 * math.log(math.sqrt(q) / 0.05)) / w.sum()
    low, high = treatment.difference_interval
    assert (high - low) / 2 == pytest.approx(half, rel=1e-9)
    control = metrics_of(fold)[0]
    mean = scores[:, 0].mean()
    variance = max(v[0] * (1 / e[:, 0]).sum(), ((scores[:, 0] - mean) ** 2).sum())
    rho2 = (-2 * math.log(0.05) + math.log(1 - 2 * math.log(0.05))) / (20_000 * v[0])
    q = variance * rho2 + 1
    half = math.sqrt(2 * q / rho2 * math.log(math.sqrt(q) / 0.05)) / len(e)
    below, above = mean - control.interval[0], control.interval[1] - mean
    assert min(below, above) == pytest.approx(half, rel=1e-9)
    assert max(below, above) < 1.2 * half, (
        "longer on the side of the sample's skewness only, of which there is little"
    )


def test_a_p_value_never_rises_again():
    fold = ResultsFold(record(2, policy=PolicySpec(kind="thompson", min_share=0.1)))
    rng, seen = np.random.default_rng(3), []
    for means in [(0.1, 0.3)] * 8 + [(0.3, 0.1)] * 12:
        play = Play(fold, rng, bernoulli(*means), counter=len(seen) * 200, now_ms=START_MS + len(seen))
        play.step(EVEN, 200)
        seen.append(metrics_of(fold)[1].p_value)
    known = [p for p in seen if p is not None]
    assert known == sorted(known, reverse=True)
    assert min(known) < 0.01
    assert abs(metrics_of(fold)[1].difference) < 0.1


@pytest.mark.parametrize("goal", ["maximize", "minimize"])
@pytest.mark.parametrize("moving", [False, True])
def test_a_winner_needs_evidence_of_its_own_direction_that_still_stands(goal, moving):
    """The treatment is ahead, and shown to be; then it falls behind: it was shown to gain, and never to lose, until
    there is as much evidence for that.
    """
    policy = PolicySpec(kind="thompson", min_share=0.1) if moving else None
    fold = ResultsFold(record(2, policy=policy, goal=goal))
    rng, winners = np.random.default_rng(3), []
    loser = "b" if goal == "minimize" else "a"
    for i, means in enumerate([(0.3, 0.6)] * 6 + [(0.6, 0.3)] * 24):
        play = Play(fold, rng, bernoulli(*means), counter=i * 200, now_ms=START_MS + i)
        play.step(np.array([0.4, 0.6]) if moving and i % 2 else EVEN, 200)
        results = report(fold, fold.record, {}, START_MS)
        low, high = results.arms[1].metrics["m"].difference_interval
        winners.append(results.winner)
        shown = low > 0 or high < 0
        assert (results.winner is not None) <= shown
        once = results.arms[1].metrics["m"].p_value <= 0.05
        assert ("was shown before and is not any more: b" in results.reason) == (
            once and results.winner is None
        )
        if shown and results.winner is not None:
            assert (results.winner == "b") == ((low > 0) == (goal == "maximize"))
    first = "a" if goal == "minimize" else "b"
    assert winners[5] == first
    turned = [i for i, winner in enumerate(winners) if winner == loser]
    faded = [i for i, winner in enumerate(winners) if winner is None and i > 5]
    assert faded
    assert turned
    assert min(turned) > max(i for i, winner in enumerate(winners) if winner == first)


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
    results = report(fold, fold.record, {}, START_MS)
    assert results.winner == winner
    if winner is not None:
        assert results.reason.startswith(f"{winner} is better on m than")
        best = [arm.metrics["m"].probability_best for arm in results.arms]
        assert "abc"[int(np.argmax(best))] == winner


def test_no_winner_before_every_arm_has_its_samples():
    counts = [(100, 1000), (100, 999), (200, 1000)]
    for least, winner in ((999, "c"), (1000, None)):
        fold = counted(record(3, min_samples=least), counts)
        results = report(fold, fold.record, {}, START_MS)
        assert results.winner == winner
    assert results.reason.startswith("No winner is named before every arm has 1000 observations")


def test_a_stopped_experiment_has_the_winner_of_its_record():
    fold = counted(record(3), [(100, 1000), (100, 1000), (200, 1000)])
    stopped = msgspec.structs.replace(fold.record, status="stopped", winner="b")
    results = report(fold, stopped, {}, START_MS)
    assert (results.status, results.winner) == ("stopped", "b")
    assert results.reason.startswith("Stopped with b as the winner.")


def test_p_values_are_adjusted_over_the_arms():
    two = metrics_of(counted(record(2), [(100, 1000), (150, 1000)]))[1].p_value
    three = metrics_of(counted(record(3), [(100, 1000), (150, 1000), (125, 1000)]))[1].p_value
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
    results = report(fold, fold.record, {}, START_MS)
    assert results.srm.verdict == "mismatch"
    assert results.srm.p_value <= 0.01
    assert "sample-ratio mismatch" in results.reason


def test_one_arm_alone_is_reported():
    fold = ResultsFold(record(1))
    Play(fold, np.random.default_rng(4), bernoulli(0.5), 1).step(np.array([1.0]), 100)
    results = report(fold, fold.record, {"a": 1.0}, START_MS)
    assert results.winner is None
    assert results.arms[0].metrics["m"].interval is not None


@pytest.mark.parametrize("unit", ["request", "user"])
@pytest.mark.parametrize("missing", ["ignore", "zero"])
@given(seed=st.integers(0, 2**32))
@settings(max_examples=scaled(4, 30), deadline=None)
def test_every_number_is_finite_or_null_at_every_time(unit, missing, seed):
    fold = ResultsFold(record(3, unit=unit, missing=missing, window="500ms", metrics=METRICS))
    log = random_log(np.random.default_rng(seed), 3, 2, 500)
    for time_ms, event in [*log, (log[-1][0] + 2000, Tick())]:
        fold.apply(Offset(time_ms, 0), event)
        if time_ms % 7 == 0:
            assert all_finite(msgspec.to_builtins(report(fold, fold.record, {}, time_ms)))


def all_finite(part) -> bool:
    if isinstance(part, dict):
        return all(all_finite(value) for value in part.values())
    if isinstance(part, list | tuple):
        return all(all_finite(value) for value in part)
    return not isinstance(part, float) or math.isfinite(part)

"""Horizon mode: what the fold notes at each look, what results show of it, and its error and power by simulation."""

from __future__ import annotations

import dataclasses
import math

import msgspec
import numpy as np
import pytest
from scale import scaled
from scipy.stats import norm
from simulated_results import Play, bernoulli, lognormal, normal, orders, record, with_arm

from bandit_serve.errors import InvalidInput, UnreadableEntry
from bandit_serve.experiments.checks import validated
from bandit_serve.experiments.policy_spec import PolicySpec
from bandit_serve.experiments.stopping import Stopping
from bandit_serve.log.offset import START
from bandit_serve.metrics import KINDS
from bandit_serve.results import ResultsFold, report
from bandit_serve.results.estimates import Sums, fixed_split
from bandit_serve.results.group_sequential import bounds, even_fractions
from bandit_serve.results.horizon import HorizonLooks, level_bounds

EVEN = np.array([0.5, 0.5])


def to_horizon(expected, looks=5, n_arms=2, kind="binary", **about):
    made = record(n_arms, kind, **about)
    stopping = Stopping(mode="horizon", expected_samples=expected, looks=looks)
    return msgspec.structs.replace(
        made, experiment=validated(msgspec.structs.replace(made.experiment, stopping=stopping))
    )


def played(made, draw, seed=1):
    n_arms = len(made.experiment.arms)
    return Play(ResultsFold(made), np.random.default_rng(seed), draw, n_arms)


def shown(play):
    final = report(play.fold, play.fold.record, {}, play.now_ms)
    return final, final.arms[1].metrics["m"]


def test_nothing_is_compared_before_the_first_look():
    play = played(to_horizon(1_000), bernoulli(0.1, 0.9))
    play.step(EVEN, 199)
    final, row = shown(play)
    assert (row.difference, row.difference_interval, row.lift, row.lift_interval, row.p_value) == (None,) * 5
    assert row.mean is not None
    assert row.interval is not None
    assert final.winner is None
    assert final.reason.startswith("Arms are not compared on m before the first look.")
    assert "the first look is at 200 of 1,000 values of m" in final.reason


def test_between_looks_nothing_changes_and_the_sentence_says_when_the_next_is():
    play = played(to_horizon(1_000), bernoulli(0.1, 0.4))
    play.step(EVEN, 210)
    final, at_look = shown(play)
    arms, values = np.concatenate(play.arms), np.concatenate(play.values)
    difference = values[arms == 1].mean() - values[arms == 0].mean()
    assert at_look.difference == pytest.approx(difference)
    low, high = at_look.difference_interval
    assert 0.5 * (low + high) == pytest.approx(difference)
    variance = play.fold.looks.variance[0, 1]
    assert 0.5 * (high - low) == pytest.approx(bounds((0.21,), 0.05)[0] * math.sqrt(variance))
    play.step(EVEN, 100)
    later, row = shown(play)
    assert (row.difference, row.difference_interval, row.p_value) == (
        difference,
        (low, high),
        at_look.p_value,
    )
    assert row.n > at_look.n
    for each in (final, later):
        assert (
            "differences are those of the look at 210 values of m, the next is at 400 of 1,000" in each.reason
        )
    play.step(EVEN, 100)
    assert shown(play)[1].difference != difference


def test_the_end_is_the_last_look():
    play = played(to_horizon(1_000), bernoulli(0.1, 0.4))
    for _ in range(12):
        play.step(EVEN, 100)
    final, row = shown(play)
    assert play.fold.looks.n.tolist() == [200, 400, 600, 800, 1_000]
    assert "at 1,000 values of m, which was the last" in final.reason
    assert final.winner == "b"
    assert row.p_value < 1e-6
    assert play.fold.looks.due(play.fold.record.experiment.stopping) is None


@pytest.mark.parametrize(
    ("so_far", "due"),
    [
        ([], 200),
        ([200], 400),
        ([399], 600),
        ([340], 400),
        ([360], 600),
        ([199 + 201, 990], 1_000),
        ([1_000], None),
        ([2_500], None),
    ],
)
def test_a_look_that_came_late_takes_the_place_of_the_next(so_far, due):
    looks = HorizonLooks.none(1, 2)
    looks.n = np.array(so_far, np.int64)
    assert looks.due(Stopping(mode="horizon", expected_samples=1_000)) == due


def test_p_and_interval_agree_at_every_level():
    """p is the least level at which the interval leaves 0 out."""
    fractions, alpha = (0.2, 0.43, 0.6), 0.05
    for look, (at, nominal) in enumerate(level_bounds(fractions, alpha)):
        assert (np.diff(at) >= 0).all()
        of_alpha = bounds(fractions, alpha)[look]
        assert norm.sf(np.interp(of_alpha, at, nominal)) * 2 == pytest.approx(alpha, rel=1e-9)
        for level in (0.03, 0.004, 2e-6):
            between = np.interp(bounds(fractions, level)[look], at, nominal)
            assert norm.sf(between) * 2 == pytest.approx(level, rel=0.02)


def test_state_is_the_same_live_restored_and_replayed():
    made = to_horizon(1_000, n_arms=3)
    whole, cut = (played(made, bernoulli(0.1, 0.2, 0.3), seed=3) for _ in range(2))
    for step in range(9):
        for play in (whole, cut):
            play.step(np.full(3, 1 / 3), 130)
        cut.fold = ResultsFold.from_state(cut.fold.offset, cut.fold.state())
        assert cut.fold.state() == whole.fold.state(), step
    assert len(whole.fold.looks.n) == 5


def test_a_fold_without_looks_keeps_nothing_of_them():
    play = played(record(), bernoulli(0.1, 0.2))
    play.step(EVEN, 500)
    assert play.fold.looks is None
    assert "looks" not in play.fold._columns()
    assert "looks" not in ResultsFold(to_horizon(1_000))._columns()


@pytest.mark.parametrize(
    "wrong",
    [
        {"n": np.array([400, 200])},
        {"n": np.array([0, 200])},
        {"z": np.zeros((1, 1, 2))},
        {"variance": np.array([[np.nan, -1.0]])},
        {"variance": np.zeros(2)},
        {"control": np.zeros((1, 2), np.float32)},
    ],
)
def test_looks_that_can_not_have_been_are_refused(wrong):
    play = played(to_horizon(1_000), bernoulli(0.1, 0.4))
    play.step(EVEN, 210)
    play.step(EVEN, 210)
    vars(play.fold.looks).update(wrong)
    with pytest.raises(UnreadableEntry):
        ResultsFold.from_state(START, play.fold.state())


def test_looks_of_another_kind_of_experiment_are_refused():
    play = played(to_horizon(1_000), bernoulli(0.1, 0.4))
    play.step(EVEN, 210)
    play.fold.record = record()
    with pytest.raises(UnreadableEntry):
        ResultsFold.from_state(START, play.fold.state())


def test_an_arm_that_comes_later_is_compared_from_the_next_look_on():
    play = played(to_horizon(1_000), bernoulli(0.1, 0.4, 0.6))
    play.step(EVEN, 210)
    play.fold.looks.grow(3)
    assert np.isnan(play.fold.looks.z[0, 0, 2])
    assert with_arm(play.fold.record, "c").experiment.stopping.horizon


MISTAKES = [
    ({"mode": "horizon"}, {}, "stopping.expected_samples"),
    ({"mode": "horizon", "expected_samples": 900, "duration": "7d"}, {}, "stopping.duration"),
    ({"mode": "horizon", "expected_samples": 900}, {"policy": PolicySpec(kind="thompson")}, "stopping.mode"),
    ({"looks": 4}, {}, "stopping.looks"),
    ({"mode": "anytime", "looks": 5}, {}, "stopping.looks"),
]


@pytest.mark.parametrize(("stopping", "about", "at"), MISTAKES)
def test_what_a_horizon_needs(stopping, about, at):
    experiment = msgspec.structs.replace(record().experiment, stopping=Stopping(**stopping), **about)
    with pytest.raises(InvalidInput) as refused:
        validated(experiment)
    assert [error.at for error in refused.value.errors] == [at]


def test_defaults_are_not_written_and_a_given_end_is():
    assert msgspec.json.encode(Stopping(mode="anytime").written()) == msgspec.json.encode(Stopping())
    written = Stopping(mode="horizon", expected_samples=5_000, looks=5).written()
    assert msgspec.json.decode(msgspec.json.encode(written)).items() >= {
        ("mode", "horizon"),
        ("expected_samples", 5_000),
    }
    assert "looks" not in msgspec.json.decode(msgspec.json.encode(written))
    assert written.shown().looks == 5
    experiment = msgspec.structs.replace(record().experiment, stopping=written)
    assert validated(validated(experiment)).stopping == written


def side_by_side(values, arms):
    """Sums of experiments side by side, (2, R), of values (R, n) whose arms (R, n) are 0 and 1."""
    k = np.stack([arms == 0, arms == 1])
    n, total = k.sum(axis=2), np.where(k, values, 0.0).sum(axis=2)
    deviations = np.where(k, values - (total / n)[:, :, None], 0.0)
    none = {field.name: np.zeros(n.shape) for field in dataclasses.fields(Sums)}
    known = {"n": n, "total": total, "shifted": total, "m2": np.square(deviations).sum(axis=2)}
    known |= {"analysed": np.full(n.shape[1], values.shape[1])}
    flags = {"origin": 0.0, "modelled": 0, "dated": 0, "moved": False, "contextual": False}
    return Sums(**none | known | flags)


def looked_at(draw, kind, runs, looks=20, n=4_000, seed=11, share=0.5):
    """Parts of the runs in which a look shows a difference, and in which a fixed test at the end does."""
    rng, z = np.random.default_rng(seed), np.array(bounds(even_fractions(looks), 0.05))
    shown_by, fixed = np.zeros(runs, bool), np.zeros(runs, bool)
    for first in range(0, runs, 100):
        some = slice(first, first + 100)
        arms = (rng.random((100, n)) < share).astype(int)
        values = np.where(arms == 0, *(draw(rng, k, 100 * n).reshape(100, n) for k in (0, 1)))
        for look in range(looks):
            up_to = n * (look + 1) // looks
            sums = side_by_side(values[:, :up_to], arms[:, :up_to])
            differences = fixed_split(sums, KINDS[kind], 0).differences
            at_look = abs(differences.mean[1]) / np.sqrt(differences.variance_of_mean[1])
            shown_by[some] |= at_look >= z[look]
        error = np.sqrt((sums.sample_variance / sums.n).sum(axis=0))
        fixed[some] = abs(sums.mean[1] - sums.mean[0]) / error > norm.isf(0.025)
    return shown_by.mean(), fixed.mean()


RARE = {
    "bernoulli .1": ("binary", bernoulli(0.1, 0.1), 0.5),
    "bernoulli .5": ("binary", bernoulli(0.5, 0.5), 0.5),
    "bernoulli .1, 90/10": ("binary", bernoulli(0.1, 0.1), 0.1),
    "normal": ("continuous", normal(0.0, 0.0), 0.5),
    "lognormal": ("continuous", lognormal, 0.5),
    "orders": ("count", orders, 0.5),
}


@pytest.mark.parametrize("law", RARE)
def test_twenty_looks_at_equal_arms_rarely_show_a_difference(law):
    kind, draw, share = RARE[law]
    runs = scaled(100, 2_000)
    found, _ = looked_at(draw, kind, runs, share=share)
    assert found <= 0.05 + 2 * math.sqrt(0.05 * 0.95 / runs)


def test_a_difference_is_found_about_as_often_as_by_one_test_at_the_end():
    runs = scaled(200, 4_000)
    found, fixed = looked_at(bernoulli(0.1, 0.1282), "binary", runs)
    assert 0.7 < fixed < 0.9
    assert abs(found - fixed) <= 0.02 + 3 * math.sqrt(0.02 / runs)


def test_looks_after_the_shares_have_changed_go_on():
    play = played(to_horizon(1_000), bernoulli(0.1, 0.4))
    play.step(EVEN, 210)
    play.step(np.array([0.9, 0.1]), 400)
    row = shown(play)[1]
    assert play.fold.looks.n.tolist() == [210, 610]
    assert row.difference_interval[0] < 0.3 < row.difference_interval[1]


def test_the_bounds_by_themselves():
    """Type I and power of 20 looks, on paths."""
    runs = scaled(40_000, 1_000_000)
    fractions = even_fractions(20)
    z = np.array(bounds(fractions, 0.05))
    steps = np.random.default_rng(9).normal(0.0, math.sqrt(0.05), (runs, 20))
    for drift, expected in ((0.0, 0.05), (2.8016, 0.8)):
        paths = (steps + drift / 20).cumsum(axis=1) / np.sqrt(fractions)
        fixed = (abs(paths[:, -1]) >= norm.isf(0.025)).mean()
        found = (abs(paths) >= z).any(axis=1).mean()
        assert fixed == pytest.approx(expected, abs=0.006)
        assert found == pytest.approx(expected, abs=0.02 if drift else 0.004)

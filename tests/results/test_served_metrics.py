"""Served metrics in results: they are of the predictions that were made, whatever a missing reward means."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scale import scaled
from simulated_results import START_MS, exposed, random_log, record, rewarded

from bandit_serve.experiments.metric import Metric
from bandit_serve.experiments.policy_spec import PolicySpec
from bandit_serve.log.events import Tick
from bandit_serve.log.offset import Offset
from bandit_serve.results import ResultsFold, report
from bandit_serve.results._open_decisions import OpenDecisions
from bandit_serve.results._units import Units

WINDOW_MS = 500
HIT = Metric(name="hit", kind="binary")
LATENCY = Metric(name="latency_ms", kind="continuous", goal="minimize", source="served")
ERROR = Metric(name="error", kind="binary", goal="minimize", source="served")
OF_CLIENTS = (HIT, Metric(name="latency_ms", kind="continuous", goal="minimize"))


def about(unit, missing, metrics=(HIT, LATENCY), window_ms=WINDOW_MS, kind="fixed_split"):
    window = f"{window_ms}ms"
    return record(3, unit=unit, missing=missing, window=window, metrics=metrics, policy=PolicySpec(kind=kind))


def played(made, log):
    fold = ResultsFold(made)
    for time_ms, event in [*log, (log[-1][0] + 10 * WINDOW_MS, Tick())]:
        fold.apply(Offset(time_ms, 0), event)
    return fold


def same_metric(fold, other, m):
    ours, theirs = fold.sums.of_metric(m), other.sums.of_metric(m)
    for name, values in ours.items():
        np.testing.assert_array_equal(values, theirs[name], err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["request", "user"])
@pytest.mark.parametrize("kind", ["fixed_split", "lin_ts"])
@example(seed=20_085, window_ms=20)
@given(seed=st.integers(0, 2**32), window_ms=st.sampled_from([20, 150, WINDOW_MS]))
@settings(max_examples=scaled(5, 40), deadline=None, derandomize=True)
def test_with_zero_they_are_counted_as_with_ignore(unit, kind, seed, window_ms):
    """In windows so short that values come when their decisions are closed already, and before exposures, too."""
    log = random_log(np.random.default_rng(seed), 3, 2, WINDOW_MS)
    fold = played(about(unit, "zero", window_ms=window_ms, kind=kind), log)
    ignoring = played(about(unit, "ignore", OF_CLIENTS, window_ms, kind), log)
    clients = played(about(unit, "zero", OF_CLIENTS, window_ms, kind), log)
    ours, theirs = fold.sums.of_metric(1), ignoring.complete().sums.of_metric(1)
    if unit == "user":
        # Which exposure is the first is asked when a unit enters, and with `ignore` that is earlier.
        ours, theirs = ({name: each[name].sum() for name in ("n", "total")} for each in (ours, theirs))
    np.testing.assert_array_equal(ours["n"], theirs["n"])
    np.testing.assert_allclose(ours["total"], theirs["total"], rtol=1e-12, atol=1e-9)
    assert fold.sums.counts()[1] <= clients.sums.counts()[1] == fold.sums.counts()[0]
    same_metric(fold, clients, 0)
    assert fold.pending == clients.pending == 0


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["request", "user"])
@given(seed=st.integers(0, 2**32), cut=st.integers(0, 60), window_ms=st.sampled_from([60, WINDOW_MS]))
@settings(max_examples=scaled(5, 40), deadline=None)
def test_a_snapshot_and_the_rest_of_the_log_are_the_whole_log(unit, seed, cut, window_ms):
    log = random_log(np.random.default_rng(seed), 3, 2, WINDOW_MS, steps=60)
    made = about(unit, "zero", window_ms=window_ms)
    whole, resumed = ResultsFold(made), ResultsFold(made)
    for i, (time_ms, event) in enumerate(log):
        whole.apply(Offset(time_ms, 0), event)
        resumed.apply(Offset(time_ms, 0), event)
        if i == cut:
            resumed = ResultsFold.from_state(resumed.offset, resumed.state())
    assert resumed.state() == whole.state()
    ours, theirs = (msgspec.json.encode(report(each, each.record, {}, 0)) for each in (resumed, whole))
    assert ours == theirs


@pytest.mark.parametrize("unit", ["request", "user"])
def test_a_prediction_counts_and_a_decision_without_one_does_not(unit):
    made = about(unit, "zero", (HIT, LATENCY, ERROR))
    fold = ResultsFold(made)
    units, arms = np.array([11, 12, 13, 14], np.uint64), np.array([0, 1, 0, 1])
    even = np.full((1, 3), 1 / 3)
    fold.apply(Offset(START_MS, 0), exposed(0, arms, even, [4], units=units if unit == "user" else None))
    columns = {
        "counter": [0, 0, 1, 1],
        "arm": [0, 0, 1, 1],
        "metric": [1, 2, 1, 2],
        "value": [30.0, 1.0, 20.0, 0.0],
    }
    of_units = {"unit": units[[0, 0, 1, 1]]} if unit == "user" else {}
    fold.apply(Offset(START_MS, 1), rewarded(propensity=1 / 3, **columns, **of_units))
    shown = report(fold, made, {}, 0)
    assert [arm.metrics["latency_ms"].preview for arm in shown.arms] == [None] * 3
    assert shown.arms[0].metrics["hit"].preview.n == 2
    fold.apply(Offset(START_MS + 2 * WINDOW_MS, 0), Tick())
    n = {m.name: fold.sums.of_metric(i)["n"].tolist() for i, m in enumerate(made.experiment.metrics)}
    assert n == {"hit": [2, 2, 0], "latency_ms": [1, 1, 0], "error": [1, 1, 0]}
    shown = report(fold, made, {}, 0)
    assert [arm.metrics["latency_ms"].mean for arm in shown.arms] == [30.0, 20.0, None]
    assert [arm.metrics["error"].mean for arm in shown.arms] == [1.0, 0.0, None]


def test_a_mask_is_of_the_metrics_that_there_are():
    fold = ResultsFold(about("request", "zero"))
    mask = np.ones(3, np.uint8)
    with pytest.raises(ValueError, match="counts_missing of 2 metrics"):
        OpenDecisions(fold.sums, fold._shares, 1, 1, 0, mask)
    with pytest.raises(ValueError, match="counts_missing of 2 metrics"):
        Units(fold.sums, fold._shares, True, np.zeros(2, np.uint8), 0, mask)

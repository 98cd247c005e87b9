"""Notes of decisions and units: they come to what follows the sums, wherever a log is cut."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from simulated_results import START_MS, exposed, random_log, record, revised, with_arm

from bandit_serve.errors import UnreadableEntry
from bandit_serve.experiments.metric import Metric
from bandit_serve.experiments.policy_spec import PolicySpec
from bandit_serve.log.events import Change, Changed, Exposed, Revised, Rewarded, Tick
from bandit_serve.log.offset import Offset
from bandit_serve.policies.context import ContextField
from bandit_serve.results import ResultsFold, kernels
from bandit_serve.results.state import CODEC

WINDOW_MS = 500
MODES = [(unit, missing) for unit in ("request", "user") for missing in ("ignore", "zero")]
METRICS = (
    Metric(name="hit", kind="binary", covariate="visits"),
    Metric(name="plain", kind="continuous"),
    Metric(name="worth", kind="continuous", covariate="spent"),
)
CONTEXT = (ContextField(name="z", kind="numeric"),)


def about(unit="request", missing="ignore", context=(), policy="fixed_split"):
    return record(
        3,
        unit=unit,
        missing=missing,
        window=f"{WINDOW_MS}ms",
        metrics=METRICS,
        context=context,
        policy=PolicySpec(kind=policy),
    )


def spent(units, n_context=0):
    """Rows of the log: features, then two covariates that follow from the unit."""
    units = np.asarray(units, np.float64)
    context = [np.ones_like(units), units % 3, np.zeros_like(units)][:n_context]
    return np.stack([*context, units % 5, 10.0 * units], axis=1)


def noted(log, n_context=0):
    """The log with what each decision's unit says of it."""
    for time_ms, event in log:
        if isinstance(event, Exposed):
            x = spent(np.frombuffer(event.units, "<u8"), n_context)
            event = msgspec.structs.replace(event, x=x.astype("<f4").tobytes())
        elif isinstance(event, Rewarded | Revised):
            event = type(event)(event.rows, spent(event.rows["unit"], n_context).astype("<f4"))
        yield time_ms, event


def played(fold, log):
    for time_ms, event in log:
        fold.apply(Offset(time_ms, 0), event)
    return fold


def a_log(seed, n_context=0, steps=40):
    log = random_log(np.random.default_rng(seed), 3, 3, WINDOW_MS, steps=steps)
    return [*noted(log, n_context), (log[-1][0] + 3 * WINDOW_MS, Tick())]


@pytest.mark.parametrize("n_context", [0, 3])
@pytest.mark.parametrize("policy", ["fixed_split", "lin_ts"])
def test_a_metric_that_is_its_own_covariate_has_its_own_sums_as_companion(policy, n_context):
    """Products are then squares."""
    context = CONTEXT if n_context else ()
    for seed in range(4):
        fold = ResultsFold(about("request", "ignore", context, policy))
        assert fold.sums.note_width == 2
        log = []
        for time_ms, event in a_log(seed, n_context):
            if isinstance(event, Rewarded):
                rows = event.rows.copy()
                rows["value"] = np.where(rows["metric"] == 2, 10.0 * rows["unit"], rows["value"])
                event = Rewarded(rows, event.x)
            log.append((time_ms, event))
        played(fold, log)
        mine, its = fold.sums.of_metric(2), fold.pairs.companions.of_metric(1)
        assert mine["n"].sum() > 50
        for name in ("n", "total", "m2", "eligible", "inverse"):
            np.testing.assert_allclose(its[name], mine[name], rtol=1e-6, err_msg=name)
        products = fold.pairs.of_pair(1)
        squares = {"co_moment": "m2", "yyz": "cube", "yzz": "cube"}
        if not n_context or policy == "fixed_split":
            # A model of outcomes expects something else of values than a mean.
            squares |= {
                "residual_product": "residual",
                "residual_yyz": "residual_cube",
                "score_product": "square",
            }
            squares |= {"predicted_product": "predicted_square", "pair_product": "pair_square"}
            squares |= {"pair_predicted_product": "pair_predicted_square"}
        for name, square in squares.items():
            np.testing.assert_allclose(products[name], mine[square], rtol=1e-9, err_msg=name)


@pytest.mark.parametrize(("unit", "missing"), MODES)
def test_every_value_has_the_companion_of_its_unit(unit, missing):
    for seed in range(4):
        fold = played(ResultsFold(about(unit, missing)), a_log(seed))
        for pair, metric in enumerate((0, 2)):
            assert fold.pairs.metrics[pair] == metric
            n, its_n = fold.sums.of_metric(metric)["n"], fold.pairs.companions.of_metric(pair)["n"]
            assert n.tolist() == its_n.tolist()
            assert n.sum() > 10
        if unit == "user" and missing == "zero":
            units = exposed_units(seed) | rewarded_units(seed)
            total = fold.pairs.companions.of_metric(1)["total"].sum()
            assert total == pytest.approx(10.0 * sum(units))


def exposed_units(seed):
    events = [event for _, event in a_log(seed) if isinstance(event, Exposed)]
    return {unit for event in events for unit in np.frombuffer(event.units, "<u8").tolist()}


def rewarded_units(seed):
    return {u for _, e in a_log(seed) if isinstance(e, Rewarded) for u in e.rows["unit"].tolist()}


@pytest.mark.parametrize("policy", ["fixed_split", "lin_ts"])
@pytest.mark.parametrize(("unit", "missing"), MODES)
def test_a_snapshot_and_the_rest_of_the_log_are_the_whole_log_bit_for_bit(unit, missing, policy):
    log = a_log(7, 3)
    whole = played(ResultsFold(about(unit, missing, CONTEXT, policy)), log)
    resumed = ResultsFold(about(unit, missing, CONTEXT, policy))
    for at in range(0, len(log), 9):
        played(resumed, log[at : at + 9])
        resumed = ResultsFold.from_state(resumed.offset, resumed.state())
    assert resumed.state() == whole.state()
    assert whole.pairs.companions.counts().min() > 10


@pytest.mark.parametrize(("unit", "missing"), MODES)
def test_an_arm_that_comes_leaves_sums_of_pairs_as_they_were(unit, missing):
    log = a_log(3)
    fold, without = ResultsFold(about(unit, missing)), ResultsFold(about(unit, missing))
    played(fold, log[:30])
    fold.apply(Offset(fold.now_ms, 1), Changed(with_arm(fold.record, "d"), Change("add_arm", "a", arm="d")))
    played(fold, log[30:])
    played(without, log)
    for pair in range(2):
        for name, column in without.pairs.of_pair(pair).items():
            grown = fold.pairs.of_pair(pair)[name]
            assert (grown[:3] == column).all(), name
            assert not grown[3:].any()
    assert ResultsFold.from_state(fold.offset, fold.state()).state() == fold.state()


def test_late_and_revised_values_keep_their_companion():
    """With `ignore` and sums of events a value that goes takes its companion with it."""
    fold = ResultsFold(about())
    units = np.arange(8, dtype=np.uint64)
    arms, shares = np.arange(8) % 3, np.full((1, 3), 1 / 3)
    fold.apply(Offset(START_MS, 1), exposed(0, arms, shares, [8], units=units, x=spent(units)))
    columns = {
        "counter": units,
        "arm": arms,
        "unit": units,
        "propensity": 1 / 3,
        "metric": 2,
        "x": spent(units),
    }
    fold.apply(Offset(START_MS, 2), revised(value=np.arange(8.0), **columns))
    before = fold.pairs.companions.of_metric(1)
    assert before["total"].sum() == 10.0 * units.sum()
    changed = revised(value=np.arange(8.0) ** 2, former=np.arange(8.0), since_ms=START_MS, **columns)
    fold.apply(Offset(START_MS, 3), changed)
    after = fold.pairs.companions.of_metric(1)
    assert all((after[name] == before[name]).all() for name in before)
    gone = revised(value=np.nan, former=np.arange(8.0) ** 2, since_ms=START_MS, **columns)
    fold.apply(Offset(START_MS, 4), gone)
    assert fold.pairs.companions.of_metric(1)["n"].sum() == 0
    assert not any(column.any() for column in fold.pairs.of_pair(1).values())


def test_without_covariates_nothing_is_kept():
    fold = ResultsFold(record(3, context=CONTEXT))
    assert fold.pairs is None
    assert (fold.sums.note_width, fold.sums.followers) == (0, ())
    assert {"pairs", "companions"}.isdisjoint(fold._columns())
    assert "notes" not in fold._columns()["decisions"]


def test_notes_count_among_the_bytes_of_units(monkeypatch):
    monkeypatch.setattr(kernels, "MAX_UNIT_BYTES", 100 * (39 + 8 * 3 + 4))
    taken = []
    for names in ((), ("a", "b")):
        metrics = tuple(
            Metric(name=f"m{i}", kind="continuous", **({"covariate": names[i]} if i < len(names) else {}))
            for i in range(3)
        )
        fold = ResultsFold(record(2, unit="user", metrics=metrics))
        units = np.arange(150, dtype=np.uint64)
        x = np.zeros((150, 2)) if names else None
        fold.apply(
            Offset(START_MS, 0), exposed(0, np.zeros(150), np.full((1, 2), 0.5), [150], units=units, x=x)
        )
        taken.append(len(fold._decisions.vectors()))
    assert taken[1] < taken[0]


def test_notes_that_a_snapshot_lacks_are_refused():
    fold = played(ResultsFold(about("user", "zero")), a_log(1))
    state = CODEC.unpack(fold.state())
    for part, name in (("decisions", "notes"), ("pairs", "joint"), ("companions", "n")):
        columns = {key: dict(value) for key, value in state.columns.items()}
        columns[part][name] = columns[part][name][:-1]
        with pytest.raises(UnreadableEntry):
            ResultsFold.from_state(fold.offset, CODEC.pack(msgspec.structs.replace(state, columns=columns)))

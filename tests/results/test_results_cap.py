"""Caps: what is analysed is at most the cap of a decision's or unit's whole value, and the raw mean stands beside."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from result_states import parts_of, state_of
from simulated_results import START_MS, exposed, record, revised, rewarded, with_arm

from bandit_serve.changes.experiment_mistakes import every_mistake
from bandit_serve.errors import InvalidInput, UnreadableEntry
from bandit_serve.experiments.checks import validated
from bandit_serve.experiments.metric import Metric
from bandit_serve.experiments.spec import Experiment
from bandit_serve.log.events import FIRST, Change, Changed, Tick
from bandit_serve.log.offset import Offset
from bandit_serve.results import ResultsFold, report

CAP = 2.0
N = 40
MODES = [(unit, missing) for unit in ("request", "user") for missing in ("ignore", "zero")]
WINDOW_MS = 1_000
SHARES = np.array([[0.5, 0.25, 0.25], [0.2, 0.2, 0.6]])


def fold_of(unit: str, missing: str, cap: float | None = CAP) -> ResultsFold:
    capped = {} if cap is None else {"cap": cap}
    metrics = (Metric(name="hit", kind="binary"), Metric(name="worth", kind="continuous", **capped))
    return ResultsFold(record(3, unit=unit, missing=missing, window=f"{WINDOW_MS}ms", metrics=metrics))


def log_of(unit: str, seed: int, cap: float | None) -> list[tuple[int, Any]]:
    """Values that come, are corrected and are taken back, within the window and after it; cut before they are logged
    where there is a `cap`."""
    rng = np.random.default_rng(seed)
    arms = np.concatenate([rng.choice(3, N // 2, p=row) for row in SHARES])
    units = np.arange(1, N + 1).astype(np.uint64)
    shares = np.repeat(SHARES, N // 2, axis=0)
    log: list[tuple[int, Any]] = [
        (START_MS, exposed(0, arms, SHARES, [N // 2] * 2, units=units if unit == "user" else None))
    ]
    values = np.full(N, np.nan)
    for step in range(60):
        some = rng.choice(N, 3, replace=False)
        now = rng.integers(-3, 9, 3).astype(float)
        if step % 5 == 4:
            now[~np.isnan(values[some])] = np.nan
        former = values[some]
        values[some] = now
        of = {"counter": some, "arm": arms[some], "propensity": shares[some, arms[some]], "metric": 1}
        of |= {"unit": units[some], "value": np.minimum(now, cap or np.inf)}
        cut = np.minimum(former, cap or np.inf)
        since_ms = np.where(np.isnan(former), FIRST, START_MS)
        keep = ~(np.isnan(now) & np.isnan(former))
        event = revised(**of, former=cut, since_ms=since_ms)
        event = msgspec.structs.replace(event, rows=event.rows[keep])
        log.append((START_MS + 40 * step, event))
    log.append((START_MS + 10**8, Tick()))
    return log


def played(fold: ResultsFold, log: list[tuple[int, Any]]) -> ResultsFold:
    for time_ms, event in log:
        fold.apply(Offset(time_ms, 0), event)
    return fold


@pytest.mark.parametrize(("unit", "missing"), MODES)
@pytest.mark.parametrize("seed", range(4))
def test_sums_are_those_of_values_that_were_cut_before(unit: str, missing: str, seed: int) -> None:
    capped = played(fold_of(unit, missing), log_of(unit, seed, None))
    cut = played(fold_of(unit, missing, None), log_of(unit, seed, CAP))
    raw = played(fold_of(unit, missing, None), log_of(unit, seed, None))
    ours, theirs = capped.sums.of_metric(1), cut.sums.of_metric(1)
    for name, column in theirs.items():
        np.testing.assert_array_equal(ours[name], column, err_msg=name)
    assert ours["total"].sum() < raw.sums.of_metric(1)["total"].sum()
    np.testing.assert_array_equal(capped.sums.raw_total(1), raw.sums.of_metric(1)["total"])
    assert np.isfinite(capped.sums.raw_total(0)).all()


def test_the_whole_value_of_a_unit_is_cut_once() -> None:
    fold = fold_of("user", "ignore")
    units = np.array([1, 1, 2], np.uint64)
    arms = np.zeros(3, int)
    fold.apply(Offset(START_MS, 0), exposed(0, arms, SHARES[:1], [3], units=units))
    columns = {"counter": [0, 1, 2], "arm": arms, "value": [1.5, 1.5, 0.5], "unit": units, "metric": 1}
    fold.apply(Offset(START_MS, 1), rewarded(propensity=0.5, **columns))
    shown = report(fold, fold.record, {}, START_MS).arms[0].metrics["worth"]
    assert (shown.n, shown.mean, shown.raw_mean) == (2, (2.0 + 0.5) / 2, (3.0 + 0.5) / 2)


@pytest.mark.parametrize("unit", ["request", "user"])
def test_the_preview_is_cut_too(unit: str) -> None:
    fold = fold_of(unit, "zero")
    units = np.array([1, 2], np.uint64)
    fold.apply(Offset(START_MS, 0), exposed(0, np.zeros(2, int), SHARES[:1], [2], units=units))
    columns = {"counter": [0, 1], "arm": 0, "value": [9.0, 1.0], "unit": units, "metric": 1}
    fold.apply(Offset(START_MS, 1), rewarded(propensity=0.5, **columns))
    preview = report(fold, fold.record, {}, START_MS).arms[0].metrics["worth"].preview
    assert preview is not None
    assert preview.mean == 1.5


def test_a_large_value_that_was_corrected_takes_no_digits_along() -> None:
    fold = fold_of("request", "ignore")
    fold.apply(Offset(START_MS, 0), exposed(0, np.zeros(3, int), SHARES[:1], [3]))
    for former, value in ((np.nan, 1e30), (1e30, 0.1)):
        columns = {"counter": [1], "arm": [0], "value": [value], "metric": 1, "propensity": 0.5}
        first = FIRST if np.isnan(former) else START_MS
        fold.apply(Offset(START_MS, 1), revised(former=[former], since_ms=[first], **columns))
    shown = report(fold, fold.record, {}, START_MS).arms[0].metrics["worth"]
    assert shown.raw_mean == 0.1
    assert shown.mean == pytest.approx(0.1, rel=1e-12)


@pytest.mark.parametrize(("unit", "missing"), MODES)
def test_a_snapshot_and_the_rest_are_the_whole_log_and_arms_may_come(unit: str, missing: str) -> None:
    log = log_of(unit, 7, None)
    first = fold_of(unit, missing)
    grown = Changed(with_arm(first.record, "d"), Change("add_arm", "me"))
    log.insert(30, (log[29][0], grown))
    whole = played(first, log)
    resumed = fold_of(unit, missing)
    for time_ms, event in log:
        resumed.apply(Offset(time_ms, 0), event)
        resumed = ResultsFold.from_state(resumed.offset, resumed.state())
    assert resumed.state() == whole.state()
    assert len(whole.sums.raw_total(1)) == 4


def test_without_a_cap_nothing_of_it_is_kept_or_shown() -> None:
    fold = played(fold_of("request", "ignore", None), log_of("request", 1, None))
    assert "raw" not in parts_of(fold.state())[1]
    shown = msgspec.json.encode(report(fold, fold.record, {}, START_MS))
    assert b"raw_mean" not in shown
    assert b"cap" not in msgspec.json.encode(fold.record)


def test_a_state_of_other_arms_is_refused() -> None:
    about, columns = parts_of(played(fold_of("request", "ignore"), log_of("request", 1, None)).state())
    ResultsFold.from_state(Offset(1, 0), state_of(about, columns))
    columns["raw"]["expansions"] = columns["raw"]["expansions"][:, :1]
    with pytest.raises(UnreadableEntry):
        ResultsFold.from_state(Offset(1, 0), state_of(about, columns))


@pytest.mark.parametrize(
    ("metric", "detail"),
    [
        ({"kind": "binary", "cap": 0.5}, "takes no cap"),
        ({"kind": "count", "cap": 0}, "above 0"),
        ({"kind": "bounded", "low": -1, "high": 4, "cap": -1}, "above -1"),
        ({"kind": "continuous", "cap": 1e81}, "1e80"),
    ],
)
def test_what_can_not_be_capped_is_refused_at_its_field(metric: dict[str, Any], detail: str) -> None:
    document = {
        "id": "e",
        "arms": [{"name": "a"}, {"name": "b"}],
        "metrics": [{"name": "m", "kind": "binary"}, {"name": "v"} | metric],
        "attribution": {"missing": "ignore"},
    }
    (mistake,) = every_mistake(document)
    assert mistake.at == "metrics[1].cap"
    assert detail in mistake.detail.replace("e+80", "e80") or "<=" in mistake.detail
    if metric["cap"] < 1e80:
        with pytest.raises(InvalidInput, match="metrics"):
            validated(msgspec.convert(document, Experiment))

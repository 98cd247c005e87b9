"""Results on a quantile of a metric: from the log, at every mode, with corrections, snapshots and arms that come."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from result_states import parts_of, state_of
from simulated_results import START_MS, exposed, record, revised, rewarded, with_arm

from bandit_serve.changes.experiment_mistakes import every_mistake
from bandit_serve.errors import UnreadableEntry
from bandit_serve.experiments.metric import Metric
from bandit_serve.experiments.policy_spec import PolicySpec
from bandit_serve.log.events import FIRST, Change, Changed, Tick
from bandit_serve.log.offset import Offset
from bandit_serve.policies.context import ContextField
from bandit_serve.results import ResultsFold, report

METRICS = (
    Metric(name="hit", kind="binary"),
    Metric(name="latency_ms", kind="continuous", goal="minimize", quantile=0.5),
)
MODES = [(unit, missing) for unit in ("request", "user") for missing in ("ignore", "zero")]
SHARES = np.array([[0.5, 0.5], [0.2, 0.8]])
N = 2_000


def fold_of(unit: str = "request", missing: str = "ignore", **fields: Any) -> ResultsFold:
    return ResultsFold(record(2, unit=unit, missing=missing, window="1s", **({"metrics": METRICS} | fields)))


class Played:
    """Decisions with a latency each, of which some were corrected and some taken back, in the end `values`."""

    def __init__(self, unit: str, seed: int, factor: float = 1.0, both: np.ndarray = SHARES) -> None:
        rng = np.random.default_rng(seed)
        self.arms = np.concatenate([rng.choice(2, N // 2, p=row) for row in both])
        units = np.arange(1, N + 1).astype(np.uint64)
        self.values = rng.lognormal(3, 0.4, N) * np.where(self.arms == 1, factor, 1.0)
        shares = np.repeat(both, N // 2, axis=0)
        self.log: list[tuple[int, Any]] = [
            (START_MS, exposed(0, self.arms, both, [N // 2] * 2, units=units if unit == "user" else None))
        ]
        former, first = np.full(N, np.nan), True
        for wrong in (rng.lognormal(5, 3, N), self.values):
            for start in range(0, N, 200):
                some = np.arange(start, start + 200)
                of = {"counter": some, "arm": self.arms[some], "unit": units[some], "metric": 1}
                of |= {"propensity": shares[some, self.arms[some]], "value": wrong[some]}
                since_ms = FIRST if first else START_MS
                self.log.append((START_MS + 10, revised(**of, former=former[some], since_ms=since_ms)))
            former, first = wrong.copy(), False
        gone = np.arange(0, N, 10)
        of = {"counter": gone, "arm": self.arms[gone], "unit": units[gone], "metric": 1}
        of |= {"propensity": shares[gone, self.arms[gone]], "value": np.nan}
        self.log.append((START_MS + 20, revised(**of, former=former[gone], since_ms=START_MS)))
        self.log.append((START_MS + 10**7, Tick()))
        self.kept = np.ones(N, bool)
        self.kept[gone] = False

    def into(self, fold: ResultsFold) -> ResultsFold:
        for time_ms, event in self.log:
            fold.apply(Offset(time_ms, 0), event)
        return fold


@pytest.mark.parametrize(("unit", "missing"), MODES)
def test_the_quantile_is_that_of_the_values_in_the_end(unit: str, missing: str) -> None:
    play = Played(unit, 1, factor=1.5, both=SHARES[[0, 0]])
    fold = play.into(fold_of(unit, missing))
    shown = report(fold, fold.record, {}, START_MS)
    for arm in (0, 1):
        values = play.values[(play.arms == arm) & play.kept]
        if missing == "zero":
            values = np.concatenate([values, np.zeros(np.count_nonzero((play.arms == arm) & ~play.kept))])
        row = shown.arms[arm].metrics["latency_ms"]
        assert row.n == len(values)
        assert row.mean == pytest.approx(np.median(values), rel=0.01)
        assert row.interval is not None
        assert row.interval[0] < row.mean < row.interval[1]
        assert row.probability_best is row.expected_loss is row.preview is None
    other = shown.arms[1].metrics["latency_ms"]
    base = shown.arms[0].metrics["latency_ms"].mean
    assert base is not None
    assert other.mean is not None
    assert other.difference == other.mean - base
    assert other.difference_interval is not None
    assert other.difference_interval[0] > 0.0
    assert other.p_value is not None
    assert other.p_value < 0.05
    assert other.lift == pytest.approx(other.difference / base)
    assert other.lift_interval is not None
    assert other.lift_interval[0] < 0.5 < other.lift_interval[1]


def test_evidence_of_former_looks_stays() -> None:
    fold, rng, first, p_values = fold_of(), np.random.default_rng(3), 0, []
    for n, factor in ((3_000, 1.3), (12_000, 0.95)):
        arms = rng.choice(2, n)
        fold.apply(Offset(START_MS + first, 1), exposed(first, arms, np.array([[0.5, 0.5]]), [n]))
        values = rng.lognormal(3, 0.4, n) * np.where(arms == 1, factor, 1.0)
        columns = {"counter": first + np.arange(n), "arm": arms, "value": values, "metric": 1}
        fold.apply(Offset(START_MS + first, 2), rewarded(propensity=0.5, **columns))
        first += n
        p_values.append(report(fold, fold.record, {}, START_MS).arms[1].metrics["latency_ms"].p_value)
    assert p_values[0] < 1e-6
    assert p_values[1] == p_values[0]
    again = ResultsFold.from_state(fold.offset, fold.state())
    assert report(again, again.record, {}, START_MS).arms[1].metrics["latency_ms"].p_value == p_values[0]


@pytest.mark.parametrize(("unit", "missing"), MODES)
def test_a_snapshot_and_the_rest_are_the_whole_log_and_arms_may_come(unit: str, missing: str) -> None:
    log = Played(unit, 4).log
    first, resumed = fold_of(unit, missing), fold_of(unit, missing)
    log.insert(7, (log[6][0], Changed(with_arm(first.record, "d"), Change("add_arm", "me"))))
    for time_ms, event in log:
        first.apply(Offset(time_ms, 0), event)
        resumed.apply(Offset(time_ms, 0), event)
        resumed = ResultsFold.from_state(resumed.offset, resumed.state())
    assert resumed.state() == first.state()
    whole, again = (report(fold, fold.record, {}, START_MS) for fold in (first, resumed))
    assert msgspec.json.encode(whole) == msgspec.json.encode(again)


def test_a_contextual_policy_has_none_and_says_why() -> None:
    fold = fold_of(
        policy=PolicySpec(kind="lin_ts", min_share=0.1), context=(ContextField("hour", "numeric"),)
    )
    x = np.zeros((3, 1))
    fold.apply(Offset(START_MS, 0), exposed(0, np.zeros(3, int), SHARES[:1], [3], x=x))
    columns = {"counter": [0, 1, 2], "arm": 0, "value": [3.0, 4.0, 5.0], "metric": 1}
    fold.apply(Offset(START_MS, 1), rewarded(propensity=0.5, x=x, **columns))
    shown = report(fold, fold.record, {}, START_MS)
    row = shown.arms[0].metrics["latency_ms"]
    assert row.n == 3
    assert row.mean is row.interval is row.difference is row.p_value is None
    assert "no quantile of latency_ms: a contextual policy" in shown.reason


def test_a_state_of_other_arms_or_metrics_is_refused() -> None:
    about, columns = parts_of(Played("request", 1).into(fold_of()).state())
    ResultsFold.from_state(Offset(1, 0), state_of(about, columns))
    for name, spoiled in (
        ("counts", columns["quantiles"]["counts"][:, :1]),
        ("kept", 1 - columns["quantiles"]["kept"]),
    ):
        state = columns | {"quantiles": columns["quantiles"] | {name: spoiled}}
        with pytest.raises(UnreadableEntry):
            ResultsFold.from_state(Offset(1, 0), state_of(about, state))
    del columns["quantiles"]
    ResultsFold.from_state(Offset(1, 0), state_of(about, columns))


def test_without_a_quantile_nothing_of_it_is_kept() -> None:
    fold = fold_of(metrics=METRICS[:1])
    assert "quantiles" not in parts_of(fold.state())[1]
    assert b"quantile" not in msgspec.json.encode(fold.record)


@pytest.mark.parametrize(
    ("metric", "detail"),
    [
        ({"kind": "count", "quantile": 0.5}, "only a continuous metric"),
        ({"kind": "continuous", "quantile": 0.5, "cap": 3}, "cap or quantile"),
        ({"kind": "continuous", "quantile": 0.5, "role": "objective"}, "none of the objective"),
        ({"kind": "continuous", "quantile": 1}, "<"),
        ({"kind": "continuous", "quantile": 0}, ">"),
    ],
)
def test_what_can_not_be_is_refused_at_its_field(metric: dict[str, Any], detail: str) -> None:
    document = {
        "id": "e",
        "arms": [{"name": "a"}, {"name": "b"}],
        "metrics": [{"name": "m", "kind": "binary"}, {"name": "v"} | metric],
        "attribution": {"missing": "ignore"},
    }
    (mistake,) = every_mistake(document)
    assert mistake.at == "metrics[1].quantile"
    assert detail in mistake.detail

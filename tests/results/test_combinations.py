"""Parts of the results in all combinations that an experiment can ask for, and what once went wrong in some."""

from __future__ import annotations

import itertools
import math
from typing import Any

import msgspec
import numpy as np
import pytest
from msgspec import UNSET
from numpy.typing import NDArray
from simulated_results import START_MS, exposed, rewarded

from bandit_serve.experiments.checks import validated, with_metric
from bandit_serve.experiments.metric import Metric
from bandit_serve.experiments.spec import Experiment, Joined, Record
from bandit_serve.log.events import Change, Changed, Tick
from bandit_serve.log.offset import Offset
from bandit_serve.results import MetricResult, Report, ResultsFold, explanation, report
from bandit_serve.results.ending import ending

EVEN = (0.5, 0.5)
DEVICE = {"name": "device", "kind": "categorical", "values": ["a", "b"]}
METRICS: dict[str, list[dict[str, Any]]] = {
    "ratio": [
        {"name": "c", "kind": "continuous"},
        {"name": "d", "kind": "continuous"},
        {"name": "r", "kind": "ratio", "numerator": "c", "denominator": "d"},
    ],
    "guarded ratio": [
        {"name": "c", "kind": "count"},
        {"name": "d", "kind": "count"},
        {
            "name": "r",
            "kind": "ratio",
            "numerator": "c",
            "denominator": "d",
            "role": "guardrail",
            "margin": {"relative": 0.1},
            "on_harm": "pause_arm",
        },
    ],
    "quantile": [{"name": "q", "kind": "continuous", "quantile": 0.9}],
    "capped": [{"name": "v", "kind": "count", "cap": 3.0}],
    "adjusted": [{"name": "v", "kind": "continuous", "covariate": "before"}],
}
HORIZON = {"stopping": {"mode": "horizon", "expected_samples": 400, "looks": 4}}
ASKED: dict[str, dict[str, Any]] = {
    "at any time": {},
    "horizon": HORIZON,
    "segments": {"context": [DEVICE], "dimensions": ["device"]},
    "segments at looks": {"context": [DEVICE], "dimensions": ["device"], **HORIZON},
    "looked up": {"context": [DEVICE]},
}
VALUES = {"binary": lambda rng, n: rng.integers(0, 2, n), "count": lambda rng, n: rng.poisson(2.0, n)}


def described(**fields: Any) -> Record:
    metrics = [{"name": "m", "kind": "binary", "role": "objective"}, *fields.pop("others", [])]
    whole = {
        "id": "e",
        "arms": [{"name": "a"}, {"name": "b"}],
        "metrics": metrics,
        "policy": {"kind": "fixed_split"},
        "attribution": {"window": "1h", "missing": "ignore"},
        "unit": "user",
    }
    experiment = validated(msgspec.convert(whole | fields, Experiment))
    return Record(experiment, 7, "running", 2, created_ms=0, updated_ms=0, started_ms=START_MS - 1_000)


class Played:
    """Fold of an experiment that is played in steps of a second, with values of every metric unless they are given."""

    def __init__(self, record: Record, seed: int = 1, look_up: tuple[str, ...] = ()) -> None:
        self.fold = ResultsFold(record, look_up)
        self.rng, self.now_ms, self.n = np.random.default_rng(seed), START_MS, 0

    def arms(self, n: int, shares: tuple[float, ...] = EVEN) -> NDArray[np.int64]:
        return self.rng.choice(len(shares), n, p=shares)

    def step(
        self,
        arms: NDArray[np.int64],
        values: dict[int, Any] | None = None,
        shares: tuple[float, ...] = EVEN,
        units: NDArray[np.uint64] | None = None,
    ) -> None:
        record, n = self.fold.record, len(arms)
        experiment = record.experiment
        self.now_ms += 1_000
        names = np.arange(self.n + 1, self.n + n + 1, dtype=np.uint64) if units is None else units
        by_unit = names if experiment.unit == "user" else None
        width = self.fold.n_features
        x = self.rng.integers(0, 2, (n, width)).astype(float) if width else None
        about = {"time_ms": self.now_ms, "revision": record.revision}
        vectors = np.array([shares])
        self._apply(0, exposed(self.n, arms, vectors, [n], units=by_unit, x=x, **about))
        for index, given in (self._values(n) if values is None else values).items():
            columns = {"counter": self.n + np.arange(n), "value": given, "arm": arms, "metric": index}
            columns |= {"propensity": np.array(shares)[arms], "unit": 0 if by_unit is None else by_unit}
            self._apply(index + 1, rewarded(x=x, **columns, **about))
        self.n += n

    def _values(self, n: int) -> dict[int, Any]:
        metrics = enumerate(self.fold.record.experiment.metrics)
        return {
            index: VALUES.get(metric.kind, lambda rng, n: rng.exponential(2.0, n))(self.rng, n)
            for index, metric in metrics
            if not metric.is_ratio
        }

    def _apply(self, place: int, event: Any) -> None:
        self.fold.apply(Offset(self.now_ms, place), event)

    def change(self, record: Record) -> None:
        self.now_ms += 1_000
        self._apply(0, Changed(record, Change("change", "test")))

    def join(self, **metric: Any) -> None:
        """Adds a metric, of which decisions count from now on."""
        record = self.fold.record
        made = msgspec.convert(metric, Metric)
        joined = () if record.joined is UNSET else record.joined
        if record.status != "draft":
            record = msgspec.structs.replace(record, joined=(*joined, Joined(made.name, self.now_ms)))
        experiment = with_metric(record.experiment, made)
        self.change(msgspec.structs.replace(record, experiment=experiment, revision=record.revision + 1))

    def end(self) -> None:
        self.now_ms += 10**7
        self._apply(0, Tick())

    def report(self, by: str | None = None) -> Report:
        return report(self.fold, self.fold.record, {}, self.now_ms, by=by)

    def check(self, by: str | None = None) -> Report:
        """Report, of which all is finite, with an explanation; and the state is one that gives the same fold."""
        state, shown = self.fold.state(), self.report(by)
        again = ResultsFold.from_state(self.fold.offset, state, self.fold._look_up)
        assert again.state() == state
        assert report(again, again.record, {}, self.now_ms, by=by) == shown
        finite(msgspec.to_builtins(shown))
        assert explanation(self.fold, shown, []).would_decide
        ending(self.fold, self.fold.record, self.now_ms)
        return shown


def finite(value: Any) -> None:
    match value:
        case dict():
            finite(list(value.values()))
        case list():
            for each in value:
                finite(each)
        case float():
            assert math.isfinite(value)


def row(shown: Report, metric: str) -> MetricResult:
    return shown.arms[1].metrics[metric]


@pytest.mark.parametrize(("metrics", "asked"), list(itertools.product(METRICS, ASKED)))
def test_all_that_is_legal_together_has_results_at_every_time(metrics: str, asked: str) -> None:
    looked_up = ("device",) if asked == "looked up" else ()
    by = "device" if "context" in ASKED[asked] else None
    played = Played(described(others=METRICS[metrics], **ASKED[asked]), look_up=looked_up)
    played.check(by)
    for _ in range(6):
        played.step(played.arms(100))
        shown = played.check(by)
    assert all(arm.metrics[name].mean is not None for arm in shown.arms for name in arm.metrics)
    if "horizon" in asked or "looks" in asked:
        return
    played.join(name="later", kind="continuous")
    played.step(played.arms(100, (0.3, 0.7)), shares=(0.3, 0.7))
    assert row(played.check(by), "later").n > 0
    if by is not None:
        segments = played.report(by).segments
        assert segments is not UNSET
        counts = [each.arms[1].metrics["later"].n for each in segments.values]
        assert sum(counts) == row(played.report(), "later").n


def test_a_metric_joins_a_draft_of_any_layout_and_uploads_stay() -> None:
    asked = {**ASKED["segments at looks"], "others": METRICS["adjusted"]}
    played = Played(msgspec.structs.replace(described(**asked), status="draft", started_ms=None))
    played.fold._notes.uploads.units = np.array([1, 2], np.uint64)
    played.fold._notes.uploads.values = np.array([[1.0], [2.0]], np.float32)
    played.join(name="later", kind="continuous", quantile=0.5)
    running = msgspec.structs.replace(
        played.fold.record, status="running", started_ms=played.now_ms, revision=9
    )
    played.change(running)
    for _ in range(3):
        played.step(played.arms(150))
        played.check("device")
    assert row(played.report(), "later").n > 0
    assert played.fold._notes.uploads.units.tolist() == [1, 2]


def test_a_unit_of_before_a_metric_that_has_no_shares_any_more_stays_out_of_it() -> None:
    """Its shares are given up once it is in all metrics; a decision of the same moment came with it."""
    played = Played(described(policy={"kind": "lin_ts", "min_share": 0.1}, context=[DEVICE], unit="user"))
    arms, units = played.arms(50), np.arange(1, 51, dtype=np.uint64)
    played.step(arms, {0: np.ones(50)}, units=units)
    played.now_ms -= 500
    played.join(name="later", kind="continuous")
    played.now_ms -= 700
    played.step(arms, {1: np.ones(50)}, units=units)
    assert row(played.check(), "later").n == 0


# Horizons


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_a_guardrail_holds_at_any_time_and_in_any_unit_also_where_the_objective_has_looks(
    scale: float,
) -> None:
    found: dict[str, tuple[float, str]] = {}
    for mode, asked in (
        ("anytime", {"stopping": {"expected_samples": 8_000}}),
        ("horizon", {"stopping": {"mode": "horizon", "expected_samples": 8_000}}),
    ):
        guard = {
            "name": "ms",
            "kind": "continuous",
            "goal": "minimize",
            "role": "guardrail",
            "margin": {"absolute": 0.1 * scale},
            "on_harm": "pause_arm",
        }
        played = Played(described(others=[guard], unit="request", **asked))
        for _ in range(6):
            arms = played.arms(100)
            ms = scale * played.rng.normal(10.0 + 3.0 * arms, 1.0)
            played.step(arms, {0: np.ones(100), 1: ms})
        verdict = row(played.report(), "ms").guardrail
        assert verdict is not UNSET
        act = ending(played.fold, played.fold.record, played.now_ms)
        assert act is not None
        assert (act.what, act.arm) == ("pause_arm", "b")
        assert verdict.bound is not None
        found[mode] = verdict.bound / scale, verdict.verdict
    assert found["horizon"] == found["anytime"]


def test_a_decision_at_a_look_is_since_that_look() -> None:
    played = Played(
        described(unit="request", stopping={"mode": "horizon", "expected_samples": 400, "looks": 4})
    )
    since = set()
    for step in range(6):
        arms = np.arange(100) % 2
        played.step(arms, {0: (np.arange(100) % 10 < np.where(arms == 1, 6, 4)).astype(float)})
        decision = played.report().decision
        if decision.state == "winner":
            since.add(decision.since)
        elif since:
            pytest.fail(f"no decision any more at step {step}")
    assert len(since) == 1


# Shares that move


def test_once_shares_have_moved_arms_are_not_compared_by_quantiles() -> None:
    """A trend of both arms would be taken for a difference between them."""
    played = Played(described(others=METRICS["quantile"], unit="request"))
    for half, shares in enumerate(((0.95, 0.05), (0.5, 0.5))):
        arms = played.arms(2_000, shares)
        latency = played.rng.exponential(1.0, 2_000) * (1.0 + half)
        played.step(arms, {0: np.ones(2_000), 1: latency}, shares=shares)
        shown = row(played.report(), "q")
        assert shown.mean is not None
        assert (shown.difference is None) == (shown.p_value is None) == (shown.lift is None) == bool(half)
    assert "a quantile of q is of what the arm got" in played.report().reason


@pytest.mark.parametrize("sd", [0.5, 2.0])
@pytest.mark.parametrize(
    ("missing", "window", "pause_ms"), [("ignore", "1h", 0), ("zero", "1h", 0), ("zero", "2s", 5_000)]
)
def test_units_that_come_back_are_rarely_taken_for_a_difference(
    missing: str, window: str, pause_ms: int, sd: float
) -> None:
    """Users of six cohorts visit five times; shares move once. Each value grows from about 4 to about 20, in the last
    case after the window of the first visit, when it has been analysed.
    """
    left_out = 0
    attribution = {"window": window, "missing": missing}
    for seed in range(16):
        played = Played(
            described(others=[{"name": "v", "kind": "continuous"}], attribution=attribution), seed
        )
        for cohort in range(6):
            shares = (0.5, 0.5) if cohort < 3 else (0.3, 0.7)
            arms = played.arms(200, shares)
            units = np.arange(200 * cohort + 1, 200 * cohort + 201, dtype=np.uint64)
            for _ in range(5):
                played.step(arms, {1: played.rng.normal(4.0, sd, 200)}, shares, units)
                played.now_ms += pause_ms
        played.end()
        interval = row(played.report(), "v").difference_interval
        assert interval is not None
        left_out += not interval[0] <= 0.0 <= interval[1]
    assert left_out <= 2


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_ratios_whose_parts_come_one_after_the_other_are_rarely_taken_for_different(
    order: tuple[int, int],
) -> None:
    left_out = 0
    for seed in range(16):
        played = Played(described(others=METRICS["ratio"]), seed)
        for cohort in range(6):
            shares = (0.5, 0.5) if cohort < 3 else (0.3, 0.7)
            sessions = 20.0 + played.rng.lognormal(2.0, 1.0, 200)
            values = {1: 0.3 * sessions * played.rng.normal(1.0, 0.02, 200), 2: sessions}
            played.step(played.arms(200, shares), {index: values[index] for index in order}, shares)
        interval = row(played.report(), "r").difference_interval
        assert interval is not None
        left_out += not interval[0] <= 0.0 <= interval[1]
    assert left_out <= 2

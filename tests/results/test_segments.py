"""Sums by segment: they are those of an experiment of the segment's decisions alone, wherever a log is cut."""

from __future__ import annotations

import math
from collections.abc import Iterable

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from simulated_results import START_MS, exposed, random_log, record, revised, rewarded, with_arm

from bandit_serve.errors import UnreadableEntry
from bandit_serve.experiments.dimensions import MAX_SEGMENT_VALUES, Segment, dimensions_of
from bandit_serve.experiments.metric import Metric
from bandit_serve.experiments.policy_spec import PolicySpec
from bandit_serve.experiments.spec import Record
from bandit_serve.log.events import Change, Changed, Event, Exposed, Revised, Rewarded, Tick
from bandit_serve.log.offset import Offset
from bandit_serve.policies.context import ContextField
from bandit_serve.policies.features import Features
from bandit_serve.results import ResultsFold, report
from bandit_serve.results.state import CODEC

WINDOW_MS = 500
MODES = [(unit, missing) for unit in ("request", "user") for missing in ("ignore", "zero")]
METRICS = (Metric(name="hit", kind="binary"), Metric(name="worth", kind="continuous"))
CONTEXT = (
    ContextField(name="hour", kind="numeric"),
    ContextField(name="device", kind="categorical", values=["ios", "web"], interactions=["hour"]),
    ContextField(name="land", kind="categorical", values=[f"l{i}" for i in range(MAX_SEGMENT_VALUES + 3)]),
)
FEATURES = Features(CONTEXT)
DIMENSIONS = ("land", "device")
Log = list[tuple[int, Event]]


def about(
    unit: str = "request",
    missing: str = "ignore",
    policy: str = "fixed_split",
    dimensions: tuple[str, ...] | None = DIMENSIONS,
    n_arms: int = 3,
) -> Record:
    made = record(
        n_arms,
        unit=unit,
        missing=missing,
        window=f"{WINDOW_MS}ms",
        metrics=METRICS,
        context=CONTEXT,
        policy=PolicySpec(kind=policy),
    )
    if dimensions is None:
        return made
    return msgspec.structs.replace(
        made, experiment=msgspec.structs.replace(made.experiment, dimensions=dimensions)
    )


def context_of(unit: int) -> dict[str, float | str]:
    """Of a decision: it follows from the unit, so that an exposure and its rewards agree."""
    device = {0: "ios", 1: "web", 2: "palm"}.get(unit % 4)
    return {"hour": float(unit), "land": f"l{unit}"} | ({} if device is None else {"device": device})


def x_of(units: Iterable[int]) -> NDArray[np.float32]:
    return FEATURES.vectors([context_of(int(unit)) for unit in units])


def with_x(event: Event) -> Event:
    if isinstance(event, Exposed):
        return msgspec.structs.replace(event, x=x_of(np.frombuffer(event.units, "<u8")).tobytes())
    if isinstance(event, Rewarded | Revised):
        return type(event)(event.rows, x_of(event.rows["unit"]))
    return event


def a_log(seed: int, steps: int = 40) -> Log:
    log = random_log(np.random.default_rng(seed), 3, 2, WINDOW_MS, steps=steps)
    return [
        *((time_ms, with_x(event)) for time_ms, event in log),
        (log[-1][0] + 3 * WINDOW_MS, Tick()),
    ]


def played(fold: ResultsFold, log: Log) -> ResultsFold:
    for time_ms, event in log:
        fold.apply(Offset(time_ms, 0), event)
    return fold


def test_segments_are_the_first_values_the_rest_and_what_is_unknown() -> None:
    land, device = dimensions_of(CONTEXT, ("land", "device"))
    assert [segment.value for segment in land.segments[:-2]] == [f"l{i}" for i in range(MAX_SEGMENT_VALUES)]
    assert land.segments[-2:] == (Segment(None, "rest"), Segment(None, "unknown"))
    assert device.segments == (
        Segment("ios", "value"),
        Segment("web", "value"),
        Segment(None, "unknown"),
    )
    contexts: list[dict[str, float | str]] = [
        {"device": "ios", "land": "l0"},
        {"device": "web", "land": "l19"},
        {"device": "palm", "land": "l20"},
        {"land": "l22", "hour": 4.0},
        {"device": "ios", "land": "elsewhere"},
        {},
    ]
    x = FEATURES.vectors(contexts)
    assert device.codes(x).tolist() == [0, 1, 2, 2, 0, 2]
    assert land.codes(x).tolist() == [0, 19, 20, 20, 21, 21]


@pytest.mark.parametrize("policy", ["fixed_split", "lin_ts"])
@pytest.mark.parametrize(("unit", "missing"), MODES)
def test_those_of_a_dimension_add_up_to_those_of_all(unit: str, missing: str, policy: str) -> None:
    log = a_log(5)
    fold = played(ResultsFold(about(unit, missing, policy)), log)
    assert fold.segmented is not None
    counted = 0
    for d in range(len(DIMENSIONS)):
        for metric in range(len(METRICS)):
            of_all = fold.sums.of_metric(metric)
            sums = fold.segmented.sums.of_metrics(fold.segmented.rows(d, metric))
            for name in ("n", "total", "balance", "spread", "analysed"):
                together = sums[name].sum(axis=0)
                np.testing.assert_allclose(together, of_all[name], rtol=1e-9, atol=1e-9, err_msg=name)
            counted += np.count_nonzero(sums["analysed"])
    assert counted > 20


@pytest.mark.parametrize(("unit", "missing"), MODES)
def test_a_segment_has_the_values_of_its_decisions_and_units(unit: str, missing: str) -> None:
    rng = np.random.default_rng(2)
    n, shares = 400, np.array([0.5, 0.3, 0.2])
    arms, units = rng.choice(3, n, p=shares), np.arange(n, dtype=np.uint64)
    values = rng.normal(3.0, 1.0, n)
    fold = ResultsFold(about(unit, missing))
    fold.apply(Offset(START_MS, 0), exposed(0, arms, shares[None], [n], units=units, x=x_of(units)))
    columns = {
        "counter": units,
        "unit": units if unit == "user" else 0,
        "arm": arms,
        "propensity": shares[arms],
        "metric": 1,
    }
    fold.apply(Offset(START_MS, 1), rewarded(value=values, x=x_of(units), **columns))
    fold.apply(Offset(START_MS + 2 * WINDOW_MS, 0), Tick())
    if (unit, missing) == ("user", "zero"):
        late = {name: np.broadcast_to(column, n)[:40] for name, column in columns.items()}
        fold.apply(Offset(START_MS + 2 * WINDOW_MS, 1), rewarded(value=1.0, x=x_of(units[:40]), **late))
        values[:40] += 1.0
    assert fold.segmented is not None
    for d, dimension in enumerate(fold.segmented.dimensions):
        codes = dimension.codes(x_of(units))
        sums = fold.segmented.sums.of_metrics(fold.segmented.rows(d, 1))
        for code in range(len(dimension.segments)):
            for arm in range(3):
                those = (codes == code) & (arms == arm)
                assert sums["n"][code, arm] == np.count_nonzero(those)
                assert sums["total"][code, arm] == pytest.approx(values[those].sum())
                if np.count_nonzero(those) > 1:
                    squares = np.square(values[those] - values[those].mean()).sum()
                    assert sums["m2"][code, arm] == pytest.approx(squares)


def test_late_and_revised_values_stay_in_their_segment() -> None:
    units = np.arange(12, dtype=np.uint64)
    arms, shares = np.arange(12) % 3, np.full((1, 3), 1 / 3)
    columns = {"counter": units, "arm": arms, "unit": units, "propensity": 1 / 3, "metric": 1}
    fold = ResultsFold(about())
    assert fold.segmented is not None
    fold.apply(Offset(START_MS, 1), exposed(0, arms, shares, [12], units=units, x=x_of(units)))
    fold.apply(Offset(START_MS, 2), revised(value=np.arange(12.0), x=x_of(units), **columns))
    changed = revised(
        value=10.0 * np.arange(12.0), former=np.arange(12.0), since_ms=START_MS, x=x_of(units), **columns
    )
    fold.apply(Offset(START_MS, 3), changed)
    rows = fold.segmented.rows(1, 1)
    totals = fold.segmented.sums.of_metrics(rows)["total"].sum(axis=1)
    assert totals.tolist() == [10.0 * (0 + 4 + 8), 10.0 * (1 + 5 + 9), 10.0 * (2 + 3 + 6 + 7 + 10 + 11)]
    gone = revised(value=np.nan, former=10.0 * np.arange(12.0), since_ms=START_MS, x=x_of(units), **columns)
    fold.apply(Offset(START_MS, 4), gone)
    assert fold.segmented.sums.counts().sum() == 0


@pytest.mark.parametrize("policy", ["fixed_split", "lin_ts"])
@pytest.mark.parametrize(("unit", "missing"), MODES)
def test_a_snapshot_and_the_rest_of_the_log_are_the_whole_log_bit_for_bit(
    unit: str, missing: str, policy: str
) -> None:
    log = a_log(7)
    whole = played(ResultsFold(about(unit, missing, policy)), log)
    resumed = ResultsFold(about(unit, missing, policy))
    for at in range(0, len(log), 9):
        played(resumed, log[at : at + 9])
        resumed = ResultsFold.from_state(resumed.offset, resumed.state())
    assert resumed.state() == whole.state()
    assert whole.segmented is not None
    assert whole.segmented.next_look.max() > 10


def test_all_else_is_as_without_dimensions_bit_for_bit() -> None:
    for unit, missing in MODES:
        log = a_log(3)
        without = played(ResultsFold(about(unit, missing, dimensions=None)), log)
        split = played(ResultsFold(about(unit, missing)), log)
        here, there = split._columns(), without._columns()
        assert set(here) - set(there) == {"segments", "segment_sums", "segment_epochs"}
        for part, columns in there.items():
            # What waits for its exposure keeps the features that say its segment.
            for name, column in columns.items() if part != "early" else ():
                assert here[part][name].tobytes() == column.tobytes(), (part, name)


def test_without_dimensions_nothing_is_kept() -> None:
    fold = ResultsFold(about(dimensions=None))
    assert fold.segmented is None
    assert (fold.sums.note_width, fold.sums.followers) == (0, ())


def test_arms_that_come_have_room() -> None:
    fold = played(ResultsFold(about()), a_log(1))
    grown = with_arm(fold.record, "d")
    fold.apply(Offset(fold.now_ms + 1, 0), Changed(grown, Change("add_arm", "test")))
    resumed = ResultsFold.from_state(fold.offset, fold.state())
    assert resumed.state() == fold.state()
    segments = report(fold, grown, {}, 0, by="device").segments
    assert isinstance(segments, msgspec.Struct)
    assert [len(value.arms) for value in segments.values] == [4, 4, 4]


def test_a_field_is_looked_up_as_if_it_had_been_declared() -> None:
    for unit, missing in MODES:
        log = a_log(9, steps=60)
        declared = played(ResultsFold(about(unit, missing, dimensions=("device",))), log)
        looked_up = played(ResultsFold(about(unit, missing, dimensions=None), ("device",)), log)
        resumed = ResultsFold.from_state(looked_up.offset, looked_up.state(), ("device",))
        before, after, again = (
            report(fold, fold.record, {}, 0, by="device").segments for fold in (declared, looked_up, resumed)
        )
        assert after == again
        assert (before.declared, after.declared) == (True, False)
        assert before.values == after.values
        assert "looked up afterwards" in after.reason


@pytest.mark.parametrize(
    ("part", "name"),
    [("segments", "fixed"), ("segments", "next_look"), ("segment_sums", "n"), ("segment_epochs", "counts")],
)
def test_segments_that_a_snapshot_lacks_are_refused(part: str, name: str) -> None:
    fold = played(ResultsFold(about("user", "zero")), a_log(1))
    state = CODEC.unpack(fold.state())
    for columns in (
        {**state.columns, part: {**state.columns[part], name: state.columns[part][name][:-1]}},
        {**state.columns, part: {each: of for each, of in state.columns[part].items() if each != name}},
    ):
        with pytest.raises(UnreadableEntry):
            ResultsFold.from_state(fold.offset, CODEC.pack(msgspec.structs.replace(state, columns=columns)))


def a_reported(n: int = 6_000, effect: float = 1.0) -> ResultsFold:
    """Two arms over three devices, with an effect on iOS alone."""
    rng = np.random.default_rng(4)
    fold = ResultsFold(about(n_arms=2, dimensions=("device",)))
    units, arms = np.arange(n, dtype=np.uint64), rng.integers(0, 2, n)
    shares = np.array([0.5, 0.5])
    ios = units % 4 == 0
    values = rng.normal(5.0, 1.0, n) + effect * (ios & (arms == 1))
    for at in range(0, n, 500):
        rows = slice(at, at + 500)
        x = x_of(units[rows])
        time_ms = START_MS + at
        fold.apply(Offset(time_ms, 0), exposed(at, arms[rows], shares[None], [500], time_ms=time_ms, x=x))
        columns = {"counter": units[rows], "arm": arms[rows], "propensity": 0.5, "time_ms": time_ms}
        fold.apply(Offset(time_ms, 1), rewarded(value=values[rows], metric=1, x=x, **columns))
    return fold


def test_an_effect_in_one_segment_is_told_there_and_nowhere_else() -> None:
    fold = a_reported()
    segments = report(fold, fold.record, {}, 0, by="device").segments
    assert isinstance(segments, msgspec.Struct)
    assert (segments.field, segments.declared) == ("device", True)
    assert segments.level == pytest.approx(1 - 0.05 / 3)
    assert [(each.value, each.kind) for each in segments.values] == [
        ("ios", "value"),
        ("web", "value"),
        (None, "unknown"),
    ]
    ios, web, unknown = (each.arms[1].metrics["worth"] for each in segments.values)
    assert ios.p_value < 1e-6
    assert ios.difference_interval is not None
    assert ios.difference_interval[0] < 1.0 < ios.difference_interval[1]
    assert ios.lift == pytest.approx(ios.difference / 5.0, rel=0.05)
    for other in (web, unknown):
        assert other.p_value > 0.05
        assert other.difference_interval[0] < 0.0 < other.difference_interval[1]
    for each in segments.values:
        assert each.arms[0].metrics["worth"].difference is None
        assert each.arms[0].metrics["worth"].p_value is None
        assert each.arms[1].metrics["hit"].n == 0
        assert each.shrunk["b"]["hit"] is None
    shrunk = [each.shrunk["b"]["worth"] for each in segments.values]
    assert shrunk[0].weight > 0.9
    assert shrunk[0].difference < ios.difference
    assert shrunk[0].difference == pytest.approx(ios.difference, abs=0.05)
    assert {name for each in segments.values for name in each.shrunk} == {"b"}


def test_p_values_are_holms_over_segments() -> None:
    fold = a_reported(effect=0.12)
    segments = report(fold, fold.record, {}, 0, by="device").segments
    segmented = fold.segmented
    assert segmented is not None
    rows = segmented.rows(0, 1)
    raw = np.exp(-segmented.fixed[rows, 1])
    adjusted = np.array([each.arms[1].metrics["worth"].p_value for each in segments.values])
    order = np.argsort(raw)
    expected = np.minimum(np.maximum.accumulate(raw[order] * np.array([3, 2, 1])), 1.0)
    # A report adds the present to what was noted at looks.
    assert (adjusted[order] <= expected + 1e-12).all()
    assert adjusted[order] == pytest.approx(expected, rel=0.2)
    assert 0.0 < adjusted.min() < 0.9


def test_results_do_not_depend_on_the_unit_of_measurement() -> None:
    def scaled(event: Event, a: float, b: float) -> Event:
        if not isinstance(event, Rewarded):
            return event
        rows = event.rows.copy()
        rows["value"] = np.where(rows["metric"] == 1, a * rows["value"] + b, rows["value"])
        return Rewarded(rows, event.x)

    log = a_log(11, steps=400)
    plain = played(ResultsFold(about()), log)
    other = played(ResultsFold(about()), [(at, scaled(event, 1e6, 3e7)) for at, event in log])
    one, two = (report(fold, fold.record, {}, 0, by="device").segments for fold in (plain, other))
    compared = 0
    for before, after in zip(one.values, two.values, strict=True):
        for arm, scaled_arm in zip(before.arms, after.arms, strict=True):
            a, b = arm.metrics["worth"], scaled_arm.metrics["worth"]
            assert b.p_value == (None if a.p_value is None else pytest.approx(a.p_value, rel=1e-6))
            if a.difference is not None:
                assert b.difference == pytest.approx(1e6 * a.difference, rel=1e-6, abs=1e-3)
            if a.difference_interval is not None:
                compared += 1
                assert b.difference_interval == pytest.approx(
                    [1e6 * end for end in a.difference_interval], rel=1e-6
                )
        for name, of_metrics in before.shrunk.items():
            a, b = of_metrics["worth"], after.shrunk[name]["worth"]
            if a is not None:
                assert b.difference == pytest.approx(1e6 * a.difference, rel=1e-6, abs=1e-3)
    assert compared > 3


def test_levels_stay_above_zero() -> None:
    made = about()
    stopping = msgspec.structs.replace(made.experiment.stopping, alpha=math.ulp(0.0))
    made = msgspec.structs.replace(
        made, experiment=msgspec.structs.replace(made.experiment, stopping=stopping)
    )
    fold = played(ResultsFold(made), a_log(2))
    segments = report(fold, made, {}, 0, by="land").segments
    assert segments.level == 1.0


def test_ratios_are_left_out_and_said_so() -> None:
    made = about("user", n_arms=2, dimensions=("device",))
    metrics = (
        *made.experiment.metrics,
        Metric(name="spent", kind="count", role="secondary"),
        Metric(name="each", kind="ratio", role="secondary", numerator="worth", denominator="spent"),
    )
    experiment = msgspec.structs.replace(made.experiment, metrics=metrics)
    made = msgspec.structs.replace(made, experiment=experiment)
    segments = report(ResultsFold(made), made, {}, 0, by="device").segments
    assert set(segments.values[0].arms[0].metrics) == {"hit", "worth", "spent"}
    assert "ratios and quantiles are not split: each" in segments.reason

"""Metrics that join a running experiment: analysed on the decisions made since, as if there had been no others."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from result_states import parts_of
from simulated_results import START_MS, exposed, record, revised, rewarded

from bandit_serve.errors import UnreadableEntry
from bandit_serve.experiments.checks import with_metric
from bandit_serve.experiments.metric import Metric
from bandit_serve.experiments.policy_spec import PolicySpec
from bandit_serve.experiments.spec import Joined, Record
from bandit_serve.log.events import FIRST, Change, Changed, Tick
from bandit_serve.log.offset import Offset
from bandit_serve.policies.context import ContextField
from bandit_serve.results import ResultsFold, report

FIRST_METRICS = (Metric(name="hit", kind="binary"), Metric(name="worth", kind="continuous", cap=3.0))
LATE = {
    "plain": Metric(name="late", kind="continuous"),
    "cap": Metric(name="late", kind="continuous", cap=2.0),
    "quantile": Metric(name="late", kind="continuous", quantile=0.5),
    "binary": Metric(name="late", kind="binary"),
    "bounded": Metric(name="late", kind="bounded", low=-10.0, high=40.0),
}
MODES = [(unit, missing) for unit in ("request", "user") for missing in ("ignore", "zero")]
JOINS_MS = START_MS + 5_000
SHARES = np.array([[0.5, 0.5]])
N = 60


def joined(about: Record, metric: Metric, since_ms: int = JOINS_MS) -> Record:
    return msgspec.structs.replace(
        about,
        experiment=with_metric(about.experiment, metric),
        joined=(*(about.joined or ()), Joined(metric.name, since_ms)),
        revision=about.revision + 1,
    )


class Traffic:
    """Decisions of before and since, with rewards on the first metrics and on the one that joins."""

    def __init__(self, unit: str, metric: Metric, seed: int = 1, events: bool = False) -> None:
        rng = np.random.default_rng(seed)
        self.by_unit, self.metric, self.events = unit == "user", metric, events
        self.arms = rng.choice(2, 2 * N)
        self.units = np.arange(1, 2 * N + 1).astype(np.uint64)
        self.time_ms = np.repeat([START_MS, JOINS_MS + 10], N)
        whole = rng.integers(0, 2, 2 * N) if metric.kind == "binary" else rng.integers(-3, 9, 2 * N)
        self.values = np.array([rng.integers(0, 2, 2 * N), rng.normal(3, 2, 2 * N), whole], float)

    def exposure(self, first: int) -> Any:
        some = slice(first, first + N)
        return exposed(
            first,
            self.arms[some],
            SHARES,
            [N],
            time_ms=int(self.time_ms[first]),
            units=self.units[some] if self.by_unit else None,
        )

    def rewards(self, metric: int, some: Any) -> Any:
        columns = {"counter": some, "arm": self.arms[some], "unit": self.units[some]}
        columns |= {"value": self.values[metric][some], "time_ms": self.time_ms[some]}
        if self.events:
            return revised(former=np.nan, since_ms=FIRST, metric=metric, propensity=0.5, **columns)
        return rewarded(metric=metric, propensity=0.5, **columns)

    def log(self, change: Any, late: int, *, early: bool = True) -> list[tuple[int, Any]]:
        """`late`: index of the metric that joins. Without `early` there is nothing of before."""
        before, since, some = np.arange(N), N + np.arange(N), np.arange(0, 2 * N, 3)
        log: list[tuple[int, Any]] = []
        if early:
            log = [(START_MS, self.exposure(0)), (START_MS + 20, self.rewards(0, before[::2]))]
            log += [(START_MS + 30, self.rewards(1, before[::3]))]
        if change is not None:
            log.append((JOINS_MS, change))
        log.append((JOINS_MS + 10, self.exposure(N)))
        mine = some if early else some[some >= N]
        log.append((JOINS_MS + 30, self.of_late(late, mine)))
        if early:
            log.append((JOINS_MS + 35, self.rewards(0, since[::2])))
        log.append((JOINS_MS + 10**8, Tick()))
        return log

    def of_late(self, late: int, some: Any) -> Any:
        values = self.values
        self.values = np.array([values[2]] * 3)
        event = self.rewards(late, some)
        self.values = values
        return event


def played(fold: ResultsFold, log: list[tuple[int, Any]]) -> ResultsFold:
    for time_ms, event in log:
        fold.apply(Offset(time_ms, 0), event)
    return fold


@pytest.mark.parametrize("events", [False, True], ids=["plain", "events"])
@pytest.mark.parametrize("late", LATE)
@pytest.mark.parametrize(("unit", "missing"), MODES)
def test_it_is_as_if_there_had_been_no_decisions_before(
    unit: str, missing: str, late: str, events: bool
) -> None:
    metric, about = LATE[late], {"unit": unit, "missing": missing, "window": "4s"}
    traffic = Traffic(unit, metric, events=events)
    first = record(2, metrics=FIRST_METRICS, **about)
    fold = played(
        ResultsFold(first), traffic.log(Changed(joined(first, metric), Change("add_metric", "me")), 2)
    )
    alone = record(2, metrics=(Metric(name="hit", kind="binary"), metric), **about)
    expected = played(ResultsFold(alone), traffic.log(None, 1, early=False))
    ours, theirs = fold.sums.of_metric(2), expected.sums.of_metric(1)
    assert theirs["analysed"] == (N if missing == "zero" else N // 3)
    for name, column in theirs.items():
        np.testing.assert_array_equal(ours[name], column, err_msg=name)
    row, alike = (
        report(each, each.record, {}, START_MS).arms[1].metrics["late"] for each in (fold, expected)
    )
    assert row.since == "2023-11-14T22:13:25.000Z"
    assert msgspec.structs.replace(row, since=alike.since) == alike


@pytest.mark.parametrize("events", [False, True], ids=["plain", "events"])
@pytest.mark.parametrize(("unit", "missing"), MODES)
def test_the_metrics_that_were_there_are_as_without_it(unit: str, missing: str, events: bool) -> None:
    about = {"unit": unit, "missing": missing, "window": "4s"}
    traffic = Traffic(unit, LATE["plain"], events=events)
    first = record(2, metrics=FIRST_METRICS, **about)
    change = Changed(joined(first, LATE["plain"]), Change("add_metric", "me"))
    fold = played(ResultsFold(first), traffic.log(change, 2))
    log = [entry for entry in traffic.log(change, 2) if not (entry[0] == JOINS_MS + 30 or entry[1] is change)]
    without = played(ResultsFold(first), log)
    for metric in (0, 1):
        for name, column in without.sums.of_metric(metric).items():
            np.testing.assert_array_equal(fold.sums.of_metric(metric)[name], column, err_msg=name)
    assert fold.exposures.tolist() == without.exposures.tolist()


@pytest.mark.parametrize(("policy", "n_plain"), [("fixed_split", 0), ("lin_ts", 0), ("lin_ts", 3)])
@pytest.mark.parametrize("late", LATE)
@pytest.mark.parametrize(("unit", "missing"), MODES)
def test_a_snapshot_anywhere_and_the_rest_are_the_whole_log(
    unit: str, missing: str, late: str, policy: str, n_plain: int
) -> None:
    """After plain entries, units of a contextual policy that are in for all metrics have given their shares up."""
    metric = LATE[late]
    about = {"policy": PolicySpec(kind=policy, min_share=0.1 if policy == "lin_ts" else None)}
    if policy == "lin_ts":
        about |= {"context": (ContextField("f", "numeric"),)}
    plain, events = Traffic(unit, metric), Traffic(unit, metric, events=True)
    first = record(2, metrics=FIRST_METRICS, unit=unit, missing=missing, window="4s", **about)
    change = Changed(joined(first, metric), Change("add_metric", "me"))
    log = plain.log(change, 2)[:n_plain] + events.log(change, 2)[n_plain:]
    again = Changed(
        joined(change.record, Metric(name="later", kind="count"), JOINS_MS + 32), Change("add_metric", "me")
    )
    log.insert(-2, (JOINS_MS + 32, again))
    whole, resumed = ResultsFold(first), ResultsFold(first)
    for time_ms, event in log:
        whole.apply(Offset(time_ms, 0), event)
        resumed.apply(Offset(time_ms, 0), event)
        resumed = ResultsFold.from_state(resumed.offset, resumed.state())
    assert resumed.state() == whole.state()
    assert whole.sums.n_metrics == 4


@pytest.mark.parametrize("missing", ["ignore", "zero"])
@pytest.mark.parametrize("n_fields", [2, 74])
def test_a_model_of_outcomes_goes_on_or_is_given_up(missing: str, n_fields: int) -> None:
    """One of 149 features has room for 23 metrics and two arms, and of 24 none."""
    context = tuple(ContextField(f"f{i}", "numeric") for i in range(n_fields))
    metrics = (Metric(name="hit", kind="binary"), *(Metric(name=f"m{i}", kind="count") for i in range(21)))
    about = record(
        2, metrics=metrics, policy=PolicySpec(kind="lin_ts", min_share=0.1), missing=missing, context=context
    )
    fold, rng = ResultsFold(about), np.random.default_rng(1)
    d = fold.n_features
    assert fold.sums.n_features == d
    x = rng.normal(size=(20, d))
    fold.apply(Offset(START_MS, 0), exposed(0, rng.choice(2, 20), SHARES, [20], x=x))
    for name in ("a", "b", "c", "d"):
        about = joined(about, Metric(name=name, kind="continuous"))
        fold.apply(Offset(JOINS_MS, 0), Changed(about, Change("add_metric", "me")))
        assert ResultsFold.from_state(fold.offset, fold.state()).state() == fold.state()
    assert fold.sums.n_features == (d if n_fields == 2 else 0)
    fold.apply(Offset(JOINS_MS + 10**8, 0), Tick())


def test_a_log_without_one_has_nothing_of_it() -> None:
    first = record(2, metrics=FIRST_METRICS)
    fold = played(ResultsFold(first), Traffic("request", LATE["plain"]).log(None, 1, early=False))
    assert b"joined" not in msgspec.msgpack.encode(first)
    assert b"metric" not in msgspec.msgpack.encode(Change("create", "me"))
    assert "since" not in msgspec.to_builtins(report(fold, first, {}, 0).arms[0].metrics["hit"])
    assert "joined" not in parts_of(fold.state())[1]


def test_other_metrics_in_place_of_those_that_were_there_are_refused() -> None:
    first = record(2, metrics=FIRST_METRICS)
    other = record(2, metrics=(Metric(name="hit", kind="binary"), Metric(name="x", kind="count")))
    with pytest.raises(UnreadableEntry, match="the metrics that were there"):
        ResultsFold(first).apply(Offset(1, 0), Changed(other, Change("add_metric", "me")))

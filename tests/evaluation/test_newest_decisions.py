"""Collectors that keep the newest rows, however many come."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from bandit_serve.evaluation.decisions import DecisionCollector, LoggedDecisions
from bandit_serve.experiments.checks import validated
from bandit_serve.experiments.metric import Metric
from bandit_serve.experiments.spec import Arm, Attribution, Experiment
from bandit_serve.export.layout import RecordLayout
from bandit_serve.export.rows import ExportRows


def experiment(unit: str) -> Experiment:
    return validated(
        Experiment(
            id="newest",
            arms=(Arm("a"), Arm("b")),
            metrics=(Metric("click", kind="binary"),),
            unit=unit,  # type: ignore[arg-type]
            attribution=Attribution("1h", "ignore"),
        )
    )


def part(n: int, start: int) -> ExportRows:
    """Decisions of an even split for a unit each, one a millisecond, all rewarded."""
    number = start + np.arange(n)
    decisions = np.zeros(n, RecordLayout(0).decision)
    decisions["time_ms"], decisions["unit"], decisions["arm"] = number, number + 1, number % 2
    decisions["propensity"], decisions["n_shares"] = 0.5, 2
    values = (number % 3 == 0).astype(float)
    return ExportRows(decisions, np.full((n, 2), 0.5), values[None], np.zeros((1, n), np.int64))


def collected(unit: str, sizes: list[int], newest: int | None) -> LoggedDecisions:
    collector, start = DecisionCollector(experiment(unit), "click", newest), 0
    for n in sizes:
        collector.add(part(n, start), np.ones(n, np.bool_))
        start += n
    return collector.collected()


@pytest.mark.parametrize("unit", ["request", "user"])
@pytest.mark.parametrize("sizes", [[10], [3, 7], [4, 0, 3, 3], [1] * 10, [2, 8]])
def test_the_last_rows_are_kept(unit: str, sizes: list[int]) -> None:
    every = collected(unit, sizes, None)
    assert len(every.arms) == 10
    for newest in (1, 3, 4, 7, 10, 11):
        kept = collected(unit, sizes, newest)
        for column, whole in zip(kept, every, strict=True):
            np.testing.assert_array_equal(column, whole[-newest:])


def test_memory_does_not_grow_with_the_log() -> None:
    peaks = []
    for parts in (4, 40):
        tracemalloc.start()
        assert len(collected("user", [5_000] * parts, 12_345).arms) == 12_345
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.3 * peaks[0]

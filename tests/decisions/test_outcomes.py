"""Outcomes of predictions: the rewards that they become, row by row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from builders import experiment

from bandit_serve.decisions import exposures as exposures_module
from bandit_serve.decisions import outcomes as module
from bandit_serve.decisions.exposures import ExposureBuffer
from bandit_serve.decisions.outcomes import Outcome, ServedMetrics
from bandit_serve.log.events import HELD_OUT, REWARD, Rewarded, Shape, decode

LATENCY = {"name": "latency_ms", "kind": "continuous", "goal": "minimize", "source": "served"}
ERROR = {"name": "error", "kind": "binary", "goal": "minimize", "source": "served"}
CLICK = {"name": "click", "kind": "binary"}
BOTH = ServedMetrics(1, 2)
FIRST, SECOND = np.array([0.25, 0.75]), np.array([0.5, 0.5])


def rows_of(buffer: ExposureBuffer, n_features: int = 0) -> tuple[Any, Any]:
    """Rows, and their features, of all served metrics that wait in a buffer."""
    events = []
    while (waiting := buffer.first_waiting()) is not None:
        events += [decode(b"r", entry, n_features) for entry in waiting.served]
        buffer.done(waiting.exposed)
    assert all(isinstance(event, Rewarded) for event in events)
    x = [event.x for event in events if event.x is not None]
    rows = [event.rows for event in events]
    return np.concatenate(rows) if rows else np.zeros(0, REWARD), np.concatenate(x) if x else None


@pytest.mark.parametrize(
    ("metrics", "served"),
    [
        ([CLICK], ServedMetrics()),
        ([CLICK, LATENCY], ServedMetrics(1, None)),
        ([CLICK, ERROR, LATENCY], ServedMetrics(2, 1)),
        ([CLICK, {**LATENCY, "source": "client"}], ServedMetrics()),
    ],
)
def test_served_metrics_of_an_experiment(metrics: list[dict[str, Any]], served: ServedMetrics) -> None:
    found_here = ServedMetrics.of(experiment(metrics=metrics))
    assert found_here == served
    assert bool(found_here) == (served != (None, None))


def test_each_outcome_is_a_row_of_its_decision_and_metric() -> None:
    buffer = ExposureBuffer(9)
    buffer.served = BOTH
    buffer.add(1, 70, FIRST, 3, 1_000, outcome=Outcome(12.5, False))
    buffer.add(0, 71, FIRST, 3, 1_004, held_out=True)
    buffer.add(0, 72, FIRST, 3, 1_005, held_out=True, outcome=Outcome(0.25, True))
    buffer.add(1, 73, SECOND, 3, 1_009, outcome=Outcome(3.0, False))
    rows, x = rows_of(buffer)
    assert x is None
    assert rows["counter"].tolist() == [0, 0, 2, 2, 3, 3]
    assert rows["metric"].tolist() == [1, 2] * 3
    assert rows["value"].tolist() == [12.5, 0.0, 0.25, 1.0, 3.0, 0.0]
    assert rows["arm"].tolist() == [1, 1, 0, 0, 1, 1]
    assert rows["propensity"].tolist() == [0.75, 0.75, 0.25, 0.25, 0.5, 0.5]
    assert rows["time_ms"].tolist() == [1_000, 1_000, 1_005, 1_005, 1_009, 1_009]
    assert rows["unit"].tolist() == [70, 70, 72, 72, 73, 73]
    assert rows["flags"].tolist() == [0, 0, HELD_OUT, HELD_OUT, 0, 0]
    assert set(rows["incarnation"].tolist()) == {9}
    assert set(rows["revision"].tolist()) == {3}
    made = experiment(unit="user", metrics=[CLICK, LATENCY, ERROR], policy={"kind": "fixed_split"})
    Shape(made, 0).check(Rewarded(rows))


@pytest.mark.parametrize("served", [ServedMetrics(1, None), ServedMetrics(None, 1)])
def test_only_metrics_that_there_are_get_rows(served: ServedMetrics) -> None:
    buffer = ExposureBuffer(9)
    buffer.served = served
    buffer.add(1, 0, FIRST, 3, 1_000, outcome=Outcome(12.5, True))
    rows, _ = rows_of(buffer)
    assert rows["metric"].tolist() == [1]
    assert rows["value"].tolist() == [12.5 if served.error is None else 1.0]


def test_without_outcomes_or_metrics_there_are_none() -> None:
    buffer = ExposureBuffer(9)
    buffer.add(1, 0, FIRST, 3, 1_000, outcome=Outcome(12.5, True))
    assert len(rows_of(buffer)[0]) == 0
    buffer.served = BOTH
    buffer.add(1, 0, FIRST, 3, 1_000)
    assert len(rows_of(buffer)[0]) == 0


def test_features_go_with_their_decisions_and_entries_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ENTRY_ROWS", 7)
    buffer = ExposureBuffer(9)
    buffer.n_features = 4
    buffer.served = BOTH
    for i in range(20):
        outcome = Outcome(float(i), False) if i % 3 else None
        buffer.add(i % 2, 0, SECOND, 3, 1_000 + i, x=np.full(4, i, np.float32), outcome=outcome)
    waiting = buffer.first_waiting()
    assert waiting is not None
    assert [len(entry) // (REWARD.itemsize + 16) for entry in waiting.served] == [7, 7, 7, 5]
    rows, x = rows_of(buffer, 4)
    chosen = [i for i in range(20) if i % 3]
    assert rows["counter"].tolist() == [i for i in chosen for _ in range(2)]
    assert x.tolist() == [[float(i)] * 4 for i in chosen for _ in range(2)]


def test_places_begin_anew_with_each_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exposures_module, "MAX_BATCH_ROWS", 3)
    buffer = ExposureBuffer(9)
    buffer.served = BOTH
    for i in range(10):
        buffer.add(1, 0, SECOND, 3, 1_000, outcome=Outcome(float(i), False))
    rows, _ = rows_of(buffer)
    assert rows["counter"][::2].tolist() == list(range(10)) == rows["value"][::2].tolist()


def test_a_decision_that_could_not_be_added_leaves_no_outcome() -> None:
    buffer = ExposureBuffer(9)
    buffer.served = BOTH
    buffer.add(1, 0, SECOND, 3, 1_000, outcome=Outcome(1.0, False))
    with pytest.raises(AttributeError):
        buffer.add(1, 0, SECOND, 3, 1_000, x=object(), outcome=Outcome(2.0, False))  # type: ignore[arg-type]
    buffer.add(1, 0, SECOND, 3, 1_000, outcome=Outcome(3.0, False))
    rows, _ = rows_of(buffer)
    assert rows["counter"].tolist() == [0, 0, 1, 1]
    assert rows["value"].tolist() == [1.0, 0.0, 3.0, 0.0]


def test_what_waits_is_counted_with_its_outcomes() -> None:
    buffer = ExposureBuffer(9)
    buffer.served = BOTH
    for _ in range(100):
        buffer.add(1, 0, SECOND, 3, 1_000, outcome=Outcome(1.0, False))
    waiting = buffer.first_waiting()
    assert waiting is not None
    assert buffer._waiting_bytes > sum(map(len, waiting.served)) == 200 * REWARD.itemsize
    buffer.done(waiting.exposed)
    assert buffer._waiting_bytes == 0

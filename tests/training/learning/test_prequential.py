"""Prequential errors: their average, and the detection of a rise."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from scale import scaled

from bandit_serve.training.learning import prequential
from bandit_serve.training.learning.prequential import WINDOW, Prequential, PrequentialState


def test_errors_are_averaged_over_all_and_over_the_last():
    random, watch = np.random.default_rng(0), Prequential()
    errors, frozen = random.normal(0, 1, 1_500), random.normal(0, 2, 1_500)
    for error, other in zip(errors.tolist(), frozen.tolist(), strict=True):
        watch.add(error, other)
    metric_names = watch.metrics()
    assert metric_names["prequential.rmse"] == pytest.approx(math.sqrt(np.mean(errors**2)))
    assert metric_names["prequential.mae"] == pytest.approx(np.mean(np.abs(errors)))
    assert metric_names["window.rmse"] == pytest.approx(math.sqrt(np.mean(errors[-WINDOW:] ** 2)))
    assert metric_names["frozen.rmse"] == pytest.approx(math.sqrt(np.mean(frozen**2)))
    assert Prequential().metrics() == {}


def test_a_state_goes_on_as_if_it_had_not_stopped():
    random, whole, resumed = np.random.default_rng(1), Prequential(), Prequential()
    for _ in range(600):
        error = float(random.normal())
        whole.add(error, error)
        resumed = Prequential.from_state(resumed.state())
        resumed.add(error, error)
    assert resumed.state() == whole.state()


def alarms(errors: Iterable[float]) -> list[int]:
    watch, raised = Prequential(), []
    for error in errors:
        watch.add(error, 0.0)
        if watch.drift_at == watch.n:
            raised.append(watch.n)
    return raised


LAWS: dict[str, Callable[[np.random.Generator, int], NDArray[np.float64]]] = {
    "normal": lambda random, n: random.normal(size=n),
    "heavy tails": lambda random, n: random.standard_t(2, n),
    "ties": lambda random, n: random.integers(0, 3, n).astype(np.float64),
    "shrinking": lambda random, n: random.normal(size=n) / (1.0 + np.arange(n) / 500.0),
}


@pytest.mark.parametrize("law", LAWS)
def test_false_alarms_are_as_rare_as_they_say(law: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At a level of one in 1,000 ratings, over references that are cut again and again."""
    monkeypatch.setattr(prequential, "LEVEL", 1e-3)
    monkeypatch.setattr(prequential, "REFERENCES", (400, 2_000))
    n = scaled(20_000, 1_000_000)
    n_alarms = len(alarms(LAWS[law](np.random.default_rng(2), n).tolist()))
    assert n_alarms <= n * 1e-3 + 3.0 * math.sqrt(n * 1e-3)
    assert n_alarms > 0 or law != "normal", "the level can be reached"


def grown(before: NDArray[np.float64], factor: float, after: int, seed: int) -> int | None:
    """How long errors that grow by `factor` go unnoticed; the alarm's number less that of the change."""
    random = np.random.default_rng([3, seed])
    last = float(np.std(before[-500:]))
    raised = alarms([*before.tolist(), *(factor * last * random.normal(size=after)).tolist()])
    assert not raised or raised[0] > len(before)
    return raised[0] - len(before) if raised else None


@pytest.mark.parametrize(
    ("name", "before", "factor", "within"),
    [
        ("soon", lambda random: random.normal(size=1_000), 1.5, 600),
        ("after 18,000 steady ratings", lambda random: random.normal(size=18_000), 1.2, 2_500),
        (
            "while the model improves",
            lambda random: random.normal(size=8_000) * np.geomspace(2, 1, 8_000),
            1.5,
            900,
        ),
    ],
)
def test_a_drift_is_found(
    name: str, before: Callable[[np.random.Generator], NDArray[np.float64]], factor: float, within: int
) -> None:
    delays = []
    for seed in range(scaled(3, 20)):
        delay = grown(before(np.random.default_rng([4, seed])), factor, 4_000, seed)
        assert delay is not None
        delays.append(delay)
    assert np.median(delays) < within


def test_a_state_of_a_build_that_ranked_otherwise_begins_anew() -> None:
    former = msgspec.msgpack.encode([3, 1.0, 1.0, 1.0, [0.1, 0.2, 0.3], [0.3, 0.4, 0.5], [0.1] * 4, 2])
    restored = Prequential.from_state(msgspec.msgpack.decode(former, type=PrequentialState))
    assert (restored.n, restored.drift_at) == (3, 2)
    restored.add(0.5, 0.5)
    assert restored.state().lengths == [1, 1]

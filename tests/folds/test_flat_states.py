"""States stay as large as they are, however long a log grows: snapshots cost what is open, not what was."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from builders import created, experiment
from scale import scaled

from bandit_serve.experiments.logged import n_logged
from bandit_serve.folds.experiment import LiveExperiment
from bandit_serve.folds.unit_exposures import UnitExposures
from bandit_serve.log.events import REWARD, Exposed, Rewarded
from bandit_serve.log.offset import Offset
from bandit_serve.results import ResultsFold

SHORT = 1_600
LONG = SHORT * scaled(2, 32)
"""Entries of exposures, each with rewards, after which states are compared.

The course over time is full by the first, and leaves out every other point when it is full again: it is as full at
twice the length.
"""
ROWS = 20
UNITS = 100
EVERY_MS = 200
CONTEXT = [{"name": "hour", "kind": "numeric"}]
EXPERIMENTS: dict[str, dict[str, Any]] = {
    "thompson": {"policy": {"kind": "thompson"}},
    "exp3": {"policy": {"kind": "exp3", "min_share": 0.1}},
    "missing": {"attribution": {"window": "1s", "missing": "zero"}},
    "by unit": {"unit": "user", "attribution": {"window": "1s", "missing": "zero"}},
    "keeps arms": {"unit": "user", "keep_assigned": True},
    "contextual": {
        "policy": {"kind": "lin_ts", "min_share": 0.1},
        "context": CONTEXT,
        "attribution": {"window": "1s", "missing": "zero"},
    },
    "horizon": {
        "policy": {"kind": "fixed_split"},
        "stopping": {"mode": "horizon", "expected_samples": 10**6},
    },
    "quantile": {
        "metrics": [
            {"name": "click", "kind": "binary", "role": "objective"},
            {"name": "ms", "kind": "continuous", "quantile": 0.9},
        ]
    },
}


def sizes(described: dict[str, Any]) -> Iterator[list[int]]:
    """Yields the bytes of all states after `SHORT` and after `LONG` entries."""
    made = experiment(**{"attribution": {"window": "1s", "missing": "ignore"}, **described})
    first = created(made)
    folds: list[Any] = [LiveExperiment(first), ResultsFold(first.record)]
    if made.unit == "user":
        folds.append(UnitExposures(first.record))
    rng = np.random.default_rng(8)
    n_features = n_logged(made)
    for fold in folds:
        fold.apply(Offset(1, 0), first)
    for number in range(1, LONG + 1):
        now_ms = number * EVERY_MS
        arms = rng.integers(0, 2, ROWS).astype(np.uint16)
        units = rng.integers(1, UNITS, ROWS).astype(np.uint64)
        x = rng.normal(size=(ROWS, n_features)).astype(np.float32)
        shares = np.full(2, 0.5) + (number % 7) / 100 * np.array([1.0, -1.0])
        made_now = Exposed(
            incarnation=1,
            first=(number - 1) * ROWS,
            revision=1,
            time_ms=now_ms,
            arms=arms.tobytes(),
            ages_ms=np.zeros(ROWS, np.uint32).tobytes(),
            units=units.tobytes() if made.unit == "user" else b"",
            vectors=shares.tobytes(),
            runs=np.array([ROWS], np.uint32).tobytes(),
            x=x.tobytes(),
        )
        rows = np.zeros(ROWS // 2, REWARD)
        rows["incarnation"], rows["counter"] = 1, made_now.first + np.arange(ROWS // 2)
        rows["time_ms"], rows["value"] = now_ms, rng.integers(0, 2, ROWS // 2)
        rows["arm"], rows["propensity"], rows["revision"] = arms[: ROWS // 2], shares[arms[: ROWS // 2]], 1
        rows["unit"] = units[: ROWS // 2] if made.unit == "user" else 0
        rows["metric"] = rng.integers(0, len(made.metrics), ROWS // 2)
        for fold in folds:
            fold.apply(Offset(now_ms, 1), made_now)
            fold.apply(Offset(now_ms + 1, 0), Rewarded(rows, x[: ROWS // 2] if n_features else None))
        if number in (SHORT, LONG):
            yield [len(fold.state()) for fold in folds]


@pytest.mark.parametrize("described", EXPERIMENTS.values(), ids=EXPERIMENTS)
def test_states_of_a_long_log_are_as_large_as_of_a_short_one(described: dict[str, Any]) -> None:
    for short, long in zip(*sizes(described), strict=True):
        assert long < 1.1 * short, "a state has grown with its log"

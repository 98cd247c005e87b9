"""Decisions on disk, and memory of a replay over them."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from bandit_serve.errors import InvalidInput
from bandit_serve.evaluation.learning import LearningPolicy, evaluate_learning
from bandit_serve.evaluation.stored import StoredDecisions
from bandit_serve.experiments.checks import validated
from bandit_serve.experiments.metric import Metric
from bandit_serve.experiments.policy_spec import PolicySpec
from bandit_serve.experiments.spec import Arm, Attribution, Experiment
from bandit_serve.export.layout import RecordLayout
from bandit_serve.export.rows import ExportRows
from bandit_serve.results.off_policy.learning import ReplayOptions

A_PART = 20_000


def experiment(missing: str = "ignore") -> Experiment:
    return validated(
        Experiment(
            id="stored",
            arms=(Arm("a"), Arm("b")),
            metrics=(Metric("click", kind="binary"),),
            attribution=Attribution("1h", missing),  # type: ignore[arg-type]
        )
    )


def part(n: int, start: int) -> ExportRows:
    """Decisions of an even split, one a millisecond; of every third the reward is missing."""
    random = np.random.default_rng(start)
    decisions = np.zeros(n, RecordLayout(0).decision)
    decisions["time_ms"] = 1_000_000 + start + np.arange(n)
    decisions["arm"] = random.integers(2, size=n)
    decisions["propensity"], decisions["n_shares"] = 0.5, 2
    values = (random.random(n) < 0.3).astype(float)
    values[::3] = np.nan
    return ExportRows(decisions, np.full((n, 2), 0.5), values[None], np.zeros((1, n), np.int64))


def stored(folder: Path, n: int, of: Experiment) -> StoredDecisions:
    decisions = StoredDecisions(of, "click", folder)
    for start in range(0, n, A_PART):
        rows = part(min(A_PART, n - start), start)
        decisions.add(rows, np.ones(len(rows.decisions), np.bool_))
    decisions.finish()
    return decisions


def test_memory_of_a_replay_does_not_grow_with_the_log(tmp_path: Path) -> None:
    peaks = []
    asked, options = (
        LearningPolicy("even", PolicySpec(kind="fixed_split"), experiment()),
        ReplayOptions(horizon=50),
    )
    for n in (200_000, 800_000):
        folder = tmp_path / str(n)
        folder.mkdir()
        tracemalloc.start()
        found = evaluate_learning(experiment(), stored(folder, n, experiment()), [asked], options)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert found.n == pytest.approx(n * 2 / 3, rel=1e-3)
        assert found.policies[0].refusal is None
    # The larger log takes 20 MB on disk.
    assert peaks[1] < peaks[0] + 2 * 2**20


def test_decisions_that_count_are_stored_as_results_have_them(tmp_path: Path) -> None:
    rows = part(3_000, 0)
    for missing, n, mean in (
        ("ignore", 2_000, np.nanmean(rows.values[0])),
        ("zero", 3_000, np.nan_to_num(rows.values[0]).mean()),
    ):
        folder = tmp_path / missing
        folder.mkdir()
        decisions = stored(folder, 3_000, experiment(missing))
        assert (decisions.n, decisions.total / decisions.n) == (n, pytest.approx(mean))
        twice = [np.concatenate([each.value for each in decisions]) for _ in range(2)]
        assert (twice[0] == twice[1]).all()
        assert twice[0].mean() == pytest.approx(mean)
        assert (decisions.first_ms, decisions.last_ms) == (
            1_000_001 if missing == "ignore" else 1_000_000,
            1_002_999,
        )


def test_lost_exposures_are_left_out_and_told(tmp_path: Path) -> None:
    rows, of = part(3_000, 0), experiment()
    rows.shares[100:200] = np.nan
    rows.decisions["n_shares"][100:200] = 0
    decisions = StoredDecisions(of, "click", tmp_path)
    decisions.add(rows, np.ones(3_000, np.bool_))
    lost = int((~np.isnan(rows.values[0, 100:200])).sum())
    assert (decisions.n, decisions.n_lost) == (2_000 - lost, lost)
    asked = LearningPolicy("even", PolicySpec(kind="fixed_split"), of)
    (found,) = evaluate_learning(of, decisions, [asked], ReplayOptions()).policies
    assert f"Of {lost} decisions the shares are lost" in found.warnings[-1]


def test_decisions_out_of_order_are_refused(tmp_path: Path) -> None:
    decisions = StoredDecisions(experiment(), "click", tmp_path)
    for start in (200_000, 0):
        rows = part(1_000, start)
        if start:
            decisions.add(rows, np.ones(1_000, np.bool_))
        else:
            with pytest.raises(InvalidInput, match="in the order of time"):
                decisions.add(rows, np.ones(1_000, np.bool_))
    assert decisions.n == pytest.approx(667, abs=1)

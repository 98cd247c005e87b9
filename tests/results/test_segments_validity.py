"""Error rates of results by segment, in experiments without a difference in any: run through the real fold."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from scale import scaled
from scipy.stats import norm
from simulated_results import Draw, Play, bernoulli, orders, record

from bandit_serve.experiments.policy_spec import PolicySpec
from bandit_serve.policies.context import ContextField
from bandit_serve.policies.features import Features
from bandit_serve.results import ResultsFold, report

VALUES = [f"v{i}" for i in range(8)]
FIELD = ContextField(name="by", kind="categorical", values=VALUES)
OF_VALUE = Features([FIELD]).vectors([{"by": value} for value in VALUES])
RUNS, STEPS, EACH = scaled(24, 300), scaled(10, 20), 400
LAWS: dict[str, tuple[str, Draw]] = {
    "Bernoulli .3": ("binary", bernoulli(0.3, 0.3)),
    "orders": ("count", orders),
}


def played(run: int, law: str, difference: float = 0.0) -> tuple[list[float], bool]:
    """Corrected p-values of all segments at the end, and whether a z-test of any showed a difference at any look."""
    kind, draw = LAWS[law]
    rng = np.random.default_rng([12, run])
    made = record(kind=kind, policy=PolicySpec(kind="fixed_split"), context=(FIELD,))
    made = msgspec.structs.replace(
        made, experiment=msgspec.structs.replace(made.experiment, dimensions=("by",))
    )
    play, ever = Play(ResultsFold(made), rng, draw), False
    sums = np.zeros((3, len(VALUES), 2))
    for _ in range(STEPS):
        segments = rng.integers(0, len(VALUES), EACH)
        arms = rng.integers(0, 2, EACH)
        play.draw = lambda rng, k, n, of=difference: np.maximum(draw(rng, k, n), rng.random(n) < of * k)
        play.play(arms, np.array([0.5, 0.5]), x=OF_VALUE[segments])
        values = play.values[-1]
        for total, of_one in zip(sums, (np.ones(EACH), values, values**2), strict=True):
            np.add.at(total, (segments, arms), of_one)
        n, total, squares = sums
        mean = total / n
        error = np.sqrt(np.maximum(((squares / n - mean**2) / n).sum(axis=1), 1e-9))
        ever |= bool((2 * norm.sf(np.abs(mean[:, 1] - mean[:, 0]) / error) <= 0.05).any())
    segments_of = report(play.fold, play.fold.record, {}, play.now_ms, by="by").segments
    assert isinstance(segments_of, msgspec.Struct)
    rows = [each.arms[1].metrics["m"] for each in segments_of.values[:-1]]
    for row in rows:
        # What an interval shows the p-value shows, too.
        low, high = row.difference_interval
        assert row.p_value <= 0.05 or low <= 0.0 <= high
    return [row.p_value for row in rows], ever


@pytest.mark.parametrize("law", LAWS)
def test_any_segment_ever_shows_a_difference_in_at_most_alpha_of_experiments_without_one(law: str) -> None:
    outcomes = [played(run, law) for run in range(RUNS)]
    told = sum(min(p) <= 0.05 for p, _ in outcomes)
    by_tests = sum(ever for _, ever in outcomes)
    bound = RUNS * (0.05 + 2 * (0.05 * 0.95 / RUNS) ** 0.5)
    assert told <= bound
    # The same data, tested segment by segment at every look, are another matter.
    assert by_tests > 2 * bound


def test_a_large_difference_is_told_in_every_segment() -> None:
    p, _ = played(0, "Bernoulli .3", difference=0.5)
    assert max(p) < 0.001

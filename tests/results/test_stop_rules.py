"""Rules that end experiments: what is said at the stop is wrong no more often than is stated."""

from __future__ import annotations

import numpy as np
import pytest
from scale import scaled
from simulated_stops import RUNS, SET_UPS, allowed, any_winner, bernoulli, plays

from bandit_serve.results import ending as module
from bandit_serve.results.ending import Ending

N_RUNS, MOST, STEP = scaled(30, RUNS), scaled(1_500, 10_000), scaled(1.3, 1.25)


@pytest.mark.timeout(1_200)
@pytest.mark.parametrize("name", SET_UPS)
def test_what_is_said_at_the_stop_is_wrong_no_more_often_than_stated(name: str) -> None:
    play, stated = SET_UPS[name]
    stops = play(runs=N_RUNS, most=MOST, growth=STEP)
    print(f"{name}: {stops}")
    assert stops.wrong / stops.runs <= allowed(stated, stops.runs)


def test_a_rule_that_looks_at_plain_p_values_would_be_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of equal arms, one of 0.05 at each of many looks names a winner far more often than that."""

    def by_z(fold, record, objective):  # type: ignore[no-untyped-def]
        table = objective.table
        n, mean = table.sums.n, table.sums.mean
        z = (mean[1] - mean[0]) / np.sqrt(0.09 / n[0] + 0.09 / n[1])
        return Ending("stop", "stopping", 2, "", {}, "b") if abs(z) > 1.96 else None

    monkeypatch.setattr(module, "_by_rule", by_z)
    stops = plays("winner", bernoulli(0.1, 0.1), (0.1, 0.1), any_winner, runs=N_RUNS, most=4_000, growth=1.1)
    assert stops.wrong / stops.runs > allowed(0.05, stops.runs)

"""Traffic within a bound: regret against the best mixture, and by how much the bound is passed.

`simulated_tradeoffs.py` plays it at full size, beside other ways to keep a bound.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import simulated_tradeoffs as simulated
from scale import scaled

from bandit_serve.policies.mixtures import Bound, Tradeoff, best_mixture

pytestmark = pytest.mark.slow

RUNS, HORIZON = scaled(5, 30), scaled(4_000, 20_000)
MOST_REGRET = 0.5
"""Of the root of arms times decisions."""
MOST_PASSED = 2.0
"""Of the deviation of one cost times the root of the decisions."""


def excess(values: simulated.Floats, bound: float) -> float:
    """How many standard errors the mean of `values`, (n,), is above a bound."""
    return float((values.mean() - bound) / max(values.std(ddof=1) / math.sqrt(len(values)), 1e-9))


@pytest.mark.parametrize("name", simulated.WORLDS)
def test_neither_regret_nor_what_is_passed_grows_with_the_traffic(name: str) -> None:
    of = simulated.WORLDS[name]
    found = simulated.runs(simulated.Served, of, HORIZON, RUNS)
    regret, passed = found[:, 1].T
    assert excess(regret, MOST_REGRET * math.sqrt(len(of.rewards) * HORIZON)) < 3.0
    assert excess(passed, MOST_PASSED * of.noise * math.sqrt(HORIZON)) < 3.0
    # A decision's part shrinks.
    early = np.maximum(found[:, 0], 0.0) / (HORIZON // 4)
    late = (found[:, 1] - found[:, 0]) / (HORIZON - HORIZON // 4)
    for part, unit in ((0, 1.0), (1, of.noise)):
        assert excess(late[:, part] - early[:, part], 0.02 * unit) < 3.0


@pytest.mark.parametrize("name", ["the best arm passes it", "only a mixture is best"])
def test_a_policy_that_passes_the_bound_would_not_pass(name: str) -> None:
    of = simulated.WORLDS[name]
    unbound = of._replace(limit=1_000.0)

    class Unbound(simulated.Served):
        def __init__(self, world: simulated.World, horizon: int) -> None:
            super().__init__(unbound, horizon)

    passed = simulated.runs(Unbound, of, HORIZON, 3)[:, 1, 1]
    assert excess(passed, MOST_PASSED * of.noise * math.sqrt(HORIZON)) > 3.0


@pytest.mark.parametrize("name", simulated.WORLDS)
def test_the_best_mixture_is_that_of_the_kernel(name: str) -> None:
    of = simulated.WORLDS[name]
    tradeoff = Tradeoff(np.array([1.0, 0.0]), (Bound(1, 1.0, of.limit),))
    even = of.floor * len(of.rewards)
    mixture = best_mixture(tradeoff, np.array([of.rewards, of.costs]), even)
    best = simulated.best(of)
    assert mixture.shares @ of.rewards == pytest.approx(best.reward, abs=1e-9)
    assert mixture.shares @ of.costs <= best.cost + 1e-9 * of.limit

"""Cost of simulations for others: bounded before anything of them is made."""

from __future__ import annotations

import time
from typing import Any

import pytest

from bandit_serve.errors import InvalidInput
from bandit_serve.simulation.cost import MAX_COST_S, bounded, estimated_cost_s
from bandit_serve.simulation.description import Simulation
from bandit_serve.simulation.trials import run_trials

SMALL: dict[str, Any] = {
    "environment": {"kind": "bernoulli", "arms": [0.1, 0.2]},
    "horizon": 1_000,
    "seeds": 2,
}
LINEAR = {"kind": "linear", "arms": 5, "features": 8}


@pytest.mark.parametrize(
    ("changes", "at"),
    [
        ({"environment": {"kind": "bernoulli", "arms": [0.1] * 51}}, "environment.arms"),
        ({"environment": {**LINEAR, "arms": 10**9}}, "environment.arms"),
        ({"environment": {**LINEAR, "features": 10**9}}, "environment.features"),
        ({"environment": {"kind": "supervised", "csv": "/etc/passwd", "label": "x"}}, "environment.kind"),
        ({"environment": {"kind": ["bernoulli"]}}, "environment.kind"),
        ({"policies": ["thompson"] * 17}, "policies"),
    ],
)
def test_sizes_are_refused_at_their_place(changes: dict[str, Any], at: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        bounded({**SMALL, **changes})
    assert [error.at for error in raised.value.errors] == [at]


@pytest.mark.parametrize(
    "changes",
    [
        {"horizon": 10**9},
        {"seeds": 100_000},
        {"delay": {"mean": 5, "refresh": 1}, "horizon": 10_000},
        {"environment": {**LINEAR, "arms": 50, "features": 64}, "horizon": 100_000},
    ],
)
def test_what_takes_too_long_is_refused(changes: dict[str, Any]) -> None:
    assert estimated_cost_s(bounded(SMALL)) < MAX_COST_S
    with pytest.raises(InvalidInput, match="s of a core, and at most 10 s"):
        bounded({**SMALL, **changes})


@pytest.mark.parametrize("environment", [{}, [], "bernoulli", {"kind": "bernoulli", "arms": "many"}])
def test_what_is_no_description_is_refused(environment: Any) -> None:
    with pytest.raises(InvalidInput):
        bounded({**SMALL, "environment": environment})


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"horizon": 20_000},
        {"environment": LINEAR, "horizon": 5_000},
        {"environment": {**LINEAR, "arms": 20, "features": 64}, "horizon": 500},
        {"delay": {"mean": 50}},
    ],
)
def test_the_estimate_is_not_far_below_what_it_takes(changes: dict[str, Any]) -> None:
    simulation = Simulation.of({**SMALL, **changes})
    began_s = time.process_time()
    run_trials(simulation, 1)
    # A slower machine takes longer, but not so much longer.
    assert time.process_time() - began_s < 10 * estimated_cost_s(simulation) + 0.5

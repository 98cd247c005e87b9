"""Cost of a simulation, estimated before it begins, for those who run it for others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bandit_serve.errors import FieldError, InvalidInput
from bandit_serve.simulation.contender import Contender
from bandit_serve.simulation.description import Simulation

MAX_ARMS, MAX_FEATURES, MAX_POLICIES = 50, 64, 16
MAX_COST_S = 10.0
KINDS = ("bernoulli", "gaussian", "poisson", "linear", "logistic")
"""Environments that read no file."""

# Seconds of a core, about twice of what was measured.
DECISION_S, ARM_S, FEATURE_S, SQUARE_S = 4e-6, 0.5e-6, 0.04e-6, 0.03e-6
LATE_S, BLOCK_S = 80e-6, 2e-3


def bounded(document: Mapping[str, Any]) -> Simulation:
    """Simulation that is described, if it takes at most `MAX_COST_S` of a core; raises `InvalidInput`.

    Sizes are looked at before anything of them is made.
    """
    environment, policies = document.get("environment"), document.get("policies", ())
    if isinstance(environment, Mapping):
        if environment.get("kind") not in KINDS:
            raise _mistake("environment.kind", f"expected one of {', '.join(KINDS)}")
        arms = environment.get("arms", 0)
        _at_most("environment.arms", len(arms) if isinstance(arms, list) else arms, MAX_ARMS, "arms")
        _at_most("environment.features", environment.get("features", 0), MAX_FEATURES, "features")
    if isinstance(policies, list):
        _at_most("policies", len(policies), MAX_POLICIES, "policies")
    simulation = Simulation.of(document)
    cost_s = estimated_cost_s(simulation)
    if cost_s > MAX_COST_S:
        raise InvalidInput(
            f"This may take {cost_s:,.0f} s of a core, and at most {MAX_COST_S:g} s are spent here: take fewer "
            "decisions, seeds or policies, or run bandit-serve simulate."
        )
    return simulation


def estimated_cost_s(simulation: Simulation) -> float:
    """Seconds of a core that all trials take, about."""
    decisions = simulation.horizon * simulation.seeds
    return decisions * sum(_decision_s(simulation, contender) for contender in simulation.contenders)


def _decision_s(simulation: Simulation, contender: Contender) -> float:
    world = simulation.environment
    cost_s = DECISION_S + ARM_S * world.n_arms + FEATURE_S * world.n_arms * world.n_features
    if contender.contextual:
        cost_s += SQUARE_S * world.n_features**2
    if simulation.delay is not None:
        cost_s += LATE_S + BLOCK_S * (1.0 + world.n_arms / 32) / simulation.delay.refresh
    return cost_s


def _at_most(at: str, size: Any, most: int, noun: str) -> None:
    if isinstance(size, int) and size > most:
        raise _mistake(at, f"expected at most {most} {noun}")


def _mistake(at: str, detail: str) -> InvalidInput:
    return InvalidInput(f"{at}: {detail}.", [FieldError(at, detail)])

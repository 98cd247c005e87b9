"""Report of a simulation: means over seeds for each policy, and their standard errors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from bandit_serve.simulation.contender import Contender
from bandit_serve.simulation.description import Simulation
from bandit_serve.simulation.trial import SimulatedTrial, checkpoints
from bandit_serve.simulation.worlds.context_free import ContextFree


class MeanOverSeeds(Struct, frozen=True):
    """Mean over seeds; `se`, its standard error, is None for a single seed."""

    mean: float
    se: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> MeanOverSeeds:
        array = np.array(values)
        return cls(float(array.mean()), _error(array) if len(array) > 1 else None)

    def __str__(self) -> str:
        """Mean and error, rounded to the digits that the error leaves meaningful."""
        if self.se is None:
            return f"{self.mean:,.{_places(abs(self.mean) / 100)}f}"
        places = _places(self.se)
        return f"{self.mean:,.{places}f} ± {self.se:,.{places}f}"


def _places(error: float) -> int:
    """Decimal places: none for an error of 10 or more, one for 0.1 or more, else two significant digits."""
    if error >= 9.5 or error == 0.0:
        return 0
    return 1 if error >= 0.095 else min(12, 1 - math.floor(math.log10(error)))


class PolicySummary(Struct, frozen=True):
    """Results of one policy.

    min_share: floor under each arm's share. regret: at the end. behind: regret minus that of the best policy, on the
    same seeds, so its error is small. reward: mean of a decision. best_share, late_best_share: share of decisions for
    an arm that was the best at the time, of all decisions and of the last quarter. curve, curve_se: cumulative regret
    at the report's `decisions`.
    """

    name: str
    policy: dict[str, Any]
    learns: bool
    min_share: float
    regret: MeanOverSeeds
    behind: MeanOverSeeds
    reward: MeanOverSeeds
    best_share: MeanOverSeeds
    late_best_share: MeanOverSeeds
    curve: list[float]
    curve_se: list[float] | None


class SimulationReport(Struct, frozen=True):
    """Results of a simulation; `policies` are in the order given.

    growth: C of the Lai–Robbins growth C·ln t, or None if the environment has none.
    """

    environment: dict[str, Any]
    delay: dict[str, Any] | None
    summary: str
    horizon: int
    seeds: int
    seed: int
    growth: float | None
    change_points: list[int]
    decisions: list[int]
    policies: list[PolicySummary]

    @property
    def ranked(self) -> list[PolicySummary]:
        """Policies by regret, the least first."""
        return sorted(self.policies, key=lambda standing: standing.regret.mean)


def simulation_report(simulation: Simulation, trials: Sequence[Sequence[SimulatedTrial]]) -> SimulationReport:
    """Summarises `trials[contender][seed]`."""
    ends = [np.array([float(trial.regret[-1]) for trial in each]) for each in trials]
    lead = ends[min(range(len(ends)), key=lambda i: float(ends[i].mean()))]
    standings = [
        _standing(contender, contender.min_share(simulation.environment), each, end - lead)
        for contender, each, end in zip(simulation.contenders, trials, ends, strict=True)
    ]
    environment = simulation.environment
    growth = environment.lost_per_log() if isinstance(environment, ContextFree) else None
    return SimulationReport(
        environment={"kind": environment.kind, **_plain(environment)},
        delay=None if simulation.delay is None else _plain(simulation.delay),
        summary=simulation.summary(),
        horizon=simulation.horizon,
        seeds=simulation.seeds,
        seed=simulation.seed,
        growth=growth if growth is None or math.isfinite(growth) else None,
        change_points=list(environment.change_points),
        decisions=checkpoints(simulation.horizon).tolist(),
        policies=standings,
    )


def _standing(
    contender: Contender, min_share: float, trials: Sequence[SimulatedTrial], behind: NDArray[np.float64]
) -> PolicySummary:
    curves = np.array([trial.regret for trial in trials])
    return PolicySummary(
        name=contender.name,
        policy=contender.summary(),
        learns=contender.learns,
        min_share=min_share,
        regret=MeanOverSeeds.of([float(curve[-1]) for curve in curves]),
        behind=MeanOverSeeds.of(behind.tolist()),
        reward=MeanOverSeeds.of([trial.reward for trial in trials]),
        best_share=MeanOverSeeds.of([trial.best for trial in trials]),
        late_best_share=MeanOverSeeds.of([trial.late_best for trial in trials]),
        curve=curves.mean(axis=0).tolist(),
        curve_se=None if len(trials) == 1 else [_error(column) for column in curves.T],
    )


def _error(values: NDArray[np.float64]) -> float:
    return float(values.std(ddof=1) / math.sqrt(len(values)))


def _plain(value: Struct) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(value)
    return plain

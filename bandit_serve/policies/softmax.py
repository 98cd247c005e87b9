"""Softmax: shares that rise exponentially with the arms' means (Boltzmann exploration)."""

from __future__ import annotations

from typing import ClassVar, Unpack

import numpy as np
from numpy.typing import NDArray

from bandit_serve.experiments.metrics import KINDS
from bandit_serve.policies import _softmax
from bandit_serve.policies._arms import deviation
from bandit_serve.policies.policy import UNBOUNDED, Common, Policy, mean_rewards, positive
from bandit_serve.policies.shares import Vector

# Temperatures where none is given: in the range of a bounded objective, and in standard deviations.
BOUNDED, DEVIATIONS = 0.05, 0.1
AUTO = "auto"


class Softmax(Policy):
    """Shares in proportion to exp(mean / temperature) (Sutton & Barto 1998, equation 2.2). `Policy` says the rest.

    The means are those of rewards scaled to [0, 1] where the objective has bounds, otherwise of rewards in their
    own units. Arms without observations come first, evenly.

    temperature: above 0, in the unit of the means. Differences between means that are well below it are hardly acted
        on, and arms that lie far more below the best are all but dropped, whether they deserve it or had bad luck: it
        should be near the smallest difference that matters. "auto", the default, is 0.05 where the objective has
        bounds, and otherwise a tenth of the standard deviation within arms that the eligible arms have shown, which
        is as much for a binary objective of mean 1/2.
    """

    kind: ClassVar[str] = "softmax"
    objectives: ClassVar[frozenset[str]] = frozenset(KINDS)
    parameters: ClassVar[tuple[str, ...]] = ("temperature",)

    def __init__(self, n_arms: int, *, temperature: float | str = AUTO, **common: Unpack[Common]) -> None:
        self.temperature = AUTO if temperature == AUTO else positive("temperature", temperature)
        super().__init__(
            n_arms,
            {"temperature": self.temperature},
            chooser=_softmax.CHOOSER,
            constants=self._temperature(common.get("objective") in UNBOUNDED),
            **common,
        )

    def _temperature(self, unbounded: bool) -> tuple[float, bool]:
        """A number, and whether it is in standard deviations."""
        if not isinstance(self.temperature, str):
            return self.temperature, False
        return (DEVIATIONS, True) if unbounded else (BOUNDED, False)

    def raw_shares(self, statistics: dict[str, Vector], arms: NDArray[np.intp]) -> Vector:
        untried = statistics["n"] == 0.0
        if untried.any():
            return np.asarray(untried, dtype=np.float64)
        mean = mean_rewards(statistics)
        temperature, in_deviations = self._temperature(self.unbounded)
        if in_deviations:
            temperature *= deviation(**statistics)
        return np.asarray(np.exp((mean - mean.max()) / temperature))

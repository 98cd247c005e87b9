"""Softmax: shares that rise exponentially with the arms' means (Boltzmann exploration)."""

from __future__ import annotations

from typing import ClassVar, Unpack

import numpy as np
from numpy.typing import NDArray

from bandit_serve import _softmax
from bandit_serve.policies.policy import RANGES, Common, Policy, mean_rewards, positive
from bandit_serve.policies.shares import Vector


class Softmax(Policy):
    """Shares in proportion to exp(mean / temperature) (Sutton & Barto 1998, equation 2.2). `Policy` says the rest.

    The means are those of rewards scaled to [0, 1] where the objective has bounds, otherwise of rewards in their
    own units. Arms without observations come first, evenly.

    temperature: above 0, in the unit of the means; default 0.05. Differences between means that are well below it
        are hardly acted on, and arms that lie far more below the best are all but dropped, whether they deserve
        it or had bad luck: it should be near the smallest difference that matters.
    """

    kind: ClassVar[str] = "softmax"
    objectives: ClassVar[frozenset[str]] = frozenset(RANGES)
    parameters: ClassVar[tuple[str, ...]] = ("temperature",)

    def __init__(self, n_arms: int, *, temperature: float = 0.05, **common: Unpack[Common]) -> None:
        self.temperature = positive("temperature", temperature)
        super().__init__(
            n_arms,
            {"temperature": self.temperature},
            chooser=_softmax.CHOOSER,
            constants=(self.temperature,),
            **common,
        )

    def raw_shares(self, statistics: dict[str, Vector], arms: NDArray[np.intp]) -> Vector:
        untried = statistics["n"] == 0.0
        if untried.any():
            return np.asarray(untried, dtype=np.float64)
        mean = mean_rewards(statistics)
        return np.asarray(np.exp((mean - mean.max()) / self.temperature))

"""Thompson sampling: each arm is chosen with the probability that it is the best (Thompson 1933)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, NamedTuple, Unpack

import numpy as np
from numpy.typing import NDArray

from bandit_serve import _beta, _normal
from bandit_serve._best_arm import beta_best, student_best
from bandit_serve.errors import InvalidInput
from bandit_serve.policies.policy import Common, Policy, finite
from bandit_serve.policies.shares import Vector


class Likelihood(NamedTuple):
    """What the rewards of a kind of objective are taken to be: the default prior and the sampler in C."""

    prior: dict[str, float]
    chooser: object


BETA = Likelihood({"alpha": 1.0, "beta": 1.0}, _beta.CHOOSER)
NORMAL = Likelihood({"mean": 0.0, "kappa": 1e-4, "alpha": 1.0, "beta": 1.0}, _normal.CHOOSER)
LIKELIHOODS = {"binary": BETA, "bounded": BETA, "continuous": NORMAL}

# Beyond these, posteriors leave what the quadrature of the shares is tested on.
LEAST_WEIGHT, MOST_WEIGHT = 1e-6, 1e9


class Thompson(Policy):
    """P(arm is best) under the posteriors of the arms' means. `Policy` says the rest.

    The likelihood follows the objective:

    - binary: Bernoulli; `prior` is the Beta's, {"alpha": 1.0, "beta": 1.0} (uniform).
    - bounded: the same with fractional counts, alpha += r and beta += 1 - r for r scaled to [0, 1].
    - continuous: Normal, mean and variance unknown; `prior` is the Normal-inverse-gamma's.

    `choose` draws once from each posterior and takes the largest; `shares` integrates. They are the same
    distribution.
    """

    kind: ClassVar[str] = "thompson"
    objectives: ClassVar[frozenset[str]] = frozenset(LIKELIHOODS)
    parameters: ClassVar[tuple[str, ...]] = ("prior",)

    def __init__(
        self, n_arms: int, *, prior: Mapping[str, float] | None = None, **common: Unpack[Common]
    ) -> None:
        likelihood = LIKELIHOODS.get(common.get("objective", "binary"), BETA)
        self.prior = checked_prior(likelihood.prior, {} if prior is None else prior)
        super().__init__(
            n_arms,
            {"prior": self.prior},
            chooser=likelihood.chooser,
            constants=tuple(self.prior.values()),
            **common,
        )

    def raw_shares(self, statistics: dict[str, Vector], arms: NDArray[np.intp]) -> Vector:
        if "total" in statistics:
            n, total = statistics["n"], statistics["total"]
            return beta_best(self.prior["alpha"] + total, self.prior["beta"] + (n - total))
        prior = np.array(tuple(self.prior.values()))
        return student_best(*_normal.posterior(**statistics, prior=prior))


def checked_prior(default: dict[str, float], given: Mapping[str, float]) -> dict[str, float]:
    """`default` with what is `given`, in the order of `default`; InvalidInput for what no prior can be."""
    if not isinstance(given, Mapping) or not set(given) <= set(default):
        raise InvalidInput(f"prior must be a mapping of {', '.join(default)}, not {given!r}")
    prior = {name: finite(f"prior.{name}", given.get(name, value)) for name, value in default.items()}
    for name, value in prior.items():
        if name != "mean" and not LEAST_WEIGHT <= value <= MOST_WEIGHT:
            raise InvalidInput(f"prior.{name} must be from {LEAST_WEIGHT:g} to {MOST_WEIGHT:g}, not {value}")
    return prior

"""Thompson sampling: each arm is chosen with the probability that it is the best (Thompson 1933)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, NamedTuple, Unpack

import numpy as np
from numpy.typing import NDArray

from bandit_serve import _beta, _normal
from bandit_serve._best_arm import beta_best, student_best
from bandit_serve.errors import InvalidInput
from bandit_serve.experiment import LARGEST_VALUE
from bandit_serve.policies.policy import Common, Policy, finite
from bandit_serve.policies.shares import Vector


class Parameter(NamedTuple):
    """A number of a prior: its default, and the range within which the shares' quadrature is tested."""

    default: float
    least: float
    most: float


class Likelihood(NamedTuple):
    """How rewards of a kind of objective are modelled: the prior, in its order, and the sampler in C."""

    prior: dict[str, Parameter]
    chooser: object


BETA = Likelihood({"alpha": Parameter(1.0, 1e-6, 1e9), "beta": Parameter(1.0, 1e-6, 1e9)}, _beta.CHOOSER)
NORMAL = Likelihood(
    {
        "mean": Parameter(0.0, -LARGEST_VALUE, LARGEST_VALUE),
        "kappa": Parameter(1e-4, 1e-9, 1e9),
        "alpha": Parameter(0.5, 0.05, 1e9),
        "beta": Parameter(1.0, 1e-30, 1e30),
    },
    _normal.CHOOSER,
)
LIKELIHOODS = {"binary": BETA, "bounded": BETA, "continuous": NORMAL}


class Thompson(Policy):
    """P(arm is best) under the posteriors of the arms' means. `Policy` says the rest.

    The likelihood follows the objective:

    - binary: Bernoulli; `prior` is the Beta's, {"alpha": 1.0, "beta": 1.0} (uniform).
    - bounded: the same with fractional counts, alpha += r and beta += 1 - r for r scaled to [0, 1].
    - continuous: Normal, mean and variance unknown; `prior` is the Normal-inverse-gamma's,
      {"mean": 0.0, "kappa": 1e-4, "alpha": 0.5, "beta": 1.0}: one observation outweighs it, and its Cauchy
      tails leave untried arms their chance against means in the hundreds. It supposes that rewards of one arm
      have a standard deviation of about 1, within a factor of 3. Scale others, or give a `beta` of about
      their variance: with one far above it exploration takes longer, with one far below it a first unlucky
      reward can put an arm aside for long, unless `min_share` is above 0.

    A part of `prior` that is not given has its default. `choose` draws once from each posterior and takes
    the largest; `shares` integrates. They are the same distribution.
    """

    kind: ClassVar[str] = "thompson"
    objectives: ClassVar[frozenset[str]] = frozenset(LIKELIHOODS)
    parameters: ClassVar[tuple[str, ...]] = ("prior",)

    def __init__(
        self, n_arms: int, *, prior: Mapping[str, float] | None = None, **common: Unpack[Common]
    ) -> None:
        # What is no objective of this policy is refused below, where its sentence stands.
        likelihood = LIKELIHOODS.get(str(common.get("objective", "binary")), BETA)
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


def checked_prior(parameters: dict[str, Parameter], given: Mapping[str, float]) -> dict[str, float]:
    """What is `given` and the other defaults, in the order of `parameters`; InvalidInput out of range."""
    if not isinstance(given, Mapping) or not set(given) <= set(parameters):
        raise InvalidInput(f"prior must be a mapping of {', '.join(parameters)}, not {given!r}")
    prior = {}
    for name, (default, least, most) in parameters.items():
        prior[name] = finite(f"prior.{name}", given.get(name, default))
        if not least <= prior[name] <= most:
            raise InvalidInput(f"prior.{name} must be from {least:g} to {most:g}, not {prior[name]:g}")
    return prior

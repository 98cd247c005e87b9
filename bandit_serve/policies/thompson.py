"""Thompson sampling: each arm is chosen with the probability that it is the best (Thompson 1933)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple, TypeAlias, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bandit_serve import _beta, _normal, _poisson
from bandit_serve._arms import arm_count
from bandit_serve._best_arm import beta_best, gamma_best, student_best
from bandit_serve.errors import InvalidInput
from bandit_serve.experiment import LARGEST_VALUE
from bandit_serve.policies.policy import Common, Policy, by_arm
from bandit_serve.policies.shares import Vector


class Parameter(NamedTuple):
    """A number of a prior: its default, and the range within which the shares' quadrature is tested."""

    default: float
    least: float
    most: float


# The shapes of Gamma posteriors between which their quadrature is tested.
SMALLEST_SHAPE, LARGEST_SHAPE = 1e-6, 1e15

Prior: TypeAlias = Mapping[str, float | ArrayLike]


class Likelihood(NamedTuple):
    """How rewards of a kind of objective are modelled.

    prior: its numbers, in their order. chooser: the sampler in C. best: from the statistics of E arms and their
    priors, (E, P), to the probability that each is the best.
    """

    prior: dict[str, Parameter]
    chooser: object
    best: Callable[[dict[str, Vector], NDArray[np.float64]], Vector]


def beta_shares(statistics: dict[str, Vector], prior: NDArray[np.float64]) -> Vector:
    n, total = statistics["n"], statistics["total"]
    return beta_best(prior[:, 0] + total, prior[:, 1] + (n - total))


def gamma_shares(statistics: dict[str, Vector], prior: NDArray[np.float64]) -> Vector:
    shape = prior[:, 0] + statistics["n"] * statistics["mean"]
    rate = prior[:, 1] + statistics["n"]
    # What is sharper than that is taken to be as sharp, at the same mean. The product may be rounded past it.
    sharpest = np.minimum(1.0, LARGEST_SHAPE / shape)
    return gamma_best(np.clip(shape * sharpest, SMALLEST_SHAPE, LARGEST_SHAPE), rate * sharpest)


def student_shares(statistics: dict[str, Vector], prior: NDArray[np.float64]) -> Vector:
    return student_best(*_normal.posterior(**statistics, prior=np.ascontiguousarray(prior)))


BETA = Likelihood(
    {"alpha": Parameter(1.0, 1e-6, 1e9), "beta": Parameter(1.0, 1e-6, 1e9)}, _beta.CHOOSER, beta_shares
)
NORMAL = Likelihood(
    {
        "mean": Parameter(0.0, -LARGEST_VALUE, LARGEST_VALUE),
        "kappa": Parameter(1e-4, 1e-9, 1e9),
        "alpha": Parameter(0.5, 0.05, 1e9),
        "beta": Parameter(1.0, 1e-30, 1e30),
    },
    _normal.CHOOSER,
    student_shares,
)
POISSON = Likelihood(
    {"alpha": Parameter(1.0, 1e-6, 1e9), "beta": Parameter(1e-6, 1e-30, 1e9)}, _poisson.CHOOSER, gamma_shares
)
LIKELIHOODS = {"binary": BETA, "bounded": BETA, "count": POISSON, "continuous": NORMAL}


class Thompson(Policy):
    """P(arm is best) under the posteriors of the arms' means. `Policy` says the rest.

    The likelihood follows the objective:

    - binary: Bernoulli; `prior` is the Beta's, {"alpha": 1.0, "beta": 1.0} (uniform).
    - bounded: the same with fractional counts, alpha += r and beta += 1 - r for r scaled to [0, 1].
    - count: Poisson; `prior` is the Gamma's of shape alpha and rate beta, {"alpha": 1.0, "beta": 1e-6}: next to flat,
      so that one observation outweighs it and untried arms come first as long as means are below a million.
    - continuous: Normal, mean and variance unknown; `prior` is the Normal-inverse-gamma's,
      {"mean": 0.0, "kappa": 1e-4, "alpha": 0.5, "beta": 1.0}: one observation outweighs it, and its Cauchy
      tails leave untried arms their chance against means in the hundreds. It supposes that rewards of one arm
      have a standard deviation of about 1, within a factor of 3. Scale others, or give a `beta` of about
      their variance: with one far above it exploration takes longer, with one far below it a first unlucky
      reward can put an arm aside for long, unless `min_share` is above 0.

    A part of `prior` that is not given has its default; one that is given is a number, or one for each arm, (K,).
    `choose` draws once from each posterior and takes the largest; `shares` integrates. They are the same
    distribution.
    """

    kind: ClassVar[str] = "thompson"
    objectives: ClassVar[frozenset[str]] = frozenset(LIKELIHOODS)
    parameters: ClassVar[tuple[str, ...]] = ("prior",)

    def __init__(
        self,
        n_arms: int,
        *,
        prior: Prior | None = None,
        leading: float = 1.0,
        **common: Unpack[Common],
    ) -> None:
        """`leading` is for subclasses: see `_arms.Arms`."""
        # What is no objective of this policy is refused below, where its sentence stands.
        self.likelihood = LIKELIHOODS.get(str(common.get("objective", "binary")), BETA)
        n_arms = arm_count(n_arms)
        self.prior = checked_prior(self.likelihood.prior, {} if prior is None else prior, n_arms)
        self.by_arm = prior_by_arm(self.prior, n_arms)
        super().__init__(
            n_arms,
            {"prior": self.prior},
            chooser=self.likelihood.chooser,
            constants=self.by_arm,
            leading=leading,
            **common,
        )

    def raw_shares(self, statistics: dict[str, Vector], arms: NDArray[np.intp]) -> Vector:
        return self.likelihood.best(statistics, self.by_arm[arms])

    def grown_parameters(self, more: int) -> dict[str, Any]:
        return {"prior": grown_prior(self.likelihood.prior, self.prior, more)}


def checked_prior(
    parameters: dict[str, Parameter], given: Prior, n_arms: int
) -> dict[str, float | list[float]]:
    """What is `given` and the other defaults, in the order of `parameters`; InvalidInput out of range."""
    if not isinstance(given, Mapping) or not set(given) <= set(parameters):
        raise InvalidInput(f"prior must be a mapping of {', '.join(parameters)}, not {given!r}")
    prior: dict[str, float | list[float]] = {}
    for name, (default, least, most) in parameters.items():
        value = given.get(name, default)
        array = by_arm(f"prior.{name}", value, n_arms)
        outside = array[(array < least) | (array > most)]
        if outside.size:
            raise InvalidInput(f"prior.{name} must be from {least:g} to {most:g}, not {outside[0]:g}")
        prior[name] = float(array[0]) if np.ndim(value) == 0 else array.tolist()
    return prior


def prior_by_arm(prior: Mapping[str, float | list[float]], n_arms: int) -> NDArray[np.float64]:
    """(n_arms, P) from a checked prior."""
    return np.column_stack([np.broadcast_to(value, n_arms) for value in prior.values()]).astype(np.float64)


def grown_prior(
    parameters: dict[str, Parameter], prior: Mapping[str, float | list[float]], more: int
) -> dict[str, float | list[float]]:
    """`prior` with the defaults for `more` arms wherever it is by arm."""
    return {
        name: [*value, *[parameters[name].default] * more] if isinstance(value, list) else value
        for name, value in prior.items()
    }

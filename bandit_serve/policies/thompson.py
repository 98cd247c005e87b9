"""Thompson sampling: each arm is chosen with the probability that it is the best (Thompson 1933)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple, TypeAlias, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bandit_serve.errors import InvalidInput
from bandit_serve.experiments.metrics import KINDS, LARGEST_VALUE, Binary, names_of
from bandit_serve.policies import _beta, _normal, _poisson
from bandit_serve.policies._arms import arm_count
from bandit_serve.policies._best_arm import beta_best, gamma_best, student_best
from bandit_serve.policies.policy import Common, Policy, by_arm
from bandit_serve.policies.shares import Vector


class Parameter(NamedTuple):
    """A number of a prior: its default, None where it is what the rewards show, and the range within which the shares'
    quadrature is tested.
    """

    default: float | None
    least: float
    most: float


# The shapes of Gamma posteriors between which their quadrature is tested.
SMALLEST_SHAPE, LARGEST_SHAPE = 1e-6, 1e15
# How far behind the best, and how much narrower than the widest, a Student posterior is at most taken to be.
FURTHEST = 1e100

Prior: TypeAlias = Mapping[str, float | ArrayLike | None]
# By the names of its numbers; None where the rewards show it.
Checked: TypeAlias = dict[str, float | list[float | None] | None]


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
    shape, rate = _poisson.posterior(**statistics, prior=np.ascontiguousarray(prior))
    # What is sharper than that is taken to be as sharp, at the same mean. The product may be rounded past it.
    sharpest = np.minimum(1.0, LARGEST_SHAPE / shape)
    return gamma_best(np.clip(shape * sharpest, SMALLEST_SHAPE, LARGEST_SHAPE), rate * sharpest)


def student_shares(statistics: dict[str, Vector], prior: NDArray[np.float64]) -> Vector:
    loc, scale, df = _normal.posterior(**statistics, prior=np.ascontiguousarray(prior))
    # Which is best does not depend on the unit and the zero, and is integrated in the same ones.
    unit = scale.max()
    behind, width = (loc - loc.max()) / unit, scale / unit
    return student_best(np.maximum(behind, -FURTHEST), np.maximum(width, 1.0 / FURTHEST), df)


BETA = Likelihood(
    {"alpha": Parameter(1.0, 1e-6, 1e9), "beta": Parameter(1.0, 1e-6, 1e9)}, _beta.CHOOSER, beta_shares
)
NORMAL = Likelihood(
    {
        "mean": Parameter(None, -LARGEST_VALUE, LARGEST_VALUE),
        "kappa": Parameter(1e-4, 1e-9, 1e9),
        "alpha": Parameter(0.5, 0.05, 1e9),
        "beta": Parameter(None, 1e-30, 1e30),
    },
    _normal.CHOOSER,
    student_shares,
)
POISSON = Likelihood(
    {"alpha": Parameter(1.0, 1e-6, 1e9), "beta": Parameter(1e-6, 1e-30, 1e9)}, _poisson.CHOOSER, gamma_shares
)
LIKELIHOODS = {"bernoulli": BETA, "poisson": POISSON, "normal": NORMAL}


class Thompson(Policy):
    """P(arm is best) under the posteriors of the arms' means. `Policy` says the rest.

    The likelihood follows the objective:

    - binary: Bernoulli; `prior` is the Beta's, {"alpha": 1.0, "beta": 1.0} (uniform).
    - bounded: the same with fractional counts, alpha += r and beta += 1 - r for r scaled to [0, 1].
    - count: Poisson, where counts vary as Poisson's do; `prior` is the Gamma's of shape alpha and rate beta,
      {"alpha": 1.0, "beta": 1e-6}: next to flat, so that one observation outweighs it and untried arms come first as
      long as means are below a million. Of counts whose variance is more than their mean, both of what was observed
      are divided by how much more it is (`_poisson`), so that the posterior is as wide as it should be.
    - continuous: Normal, mean and variance unknown; `prior` is the Normal-inverse-gamma's,
      {"mean": None, "kappa": 1e-4, "alpha": 0.5, "beta": None}: one observation outweighs it, and its Cauchy tails
      leave untried arms their chance. A mean of None is the mean of all rewards of the eligible arms, a beta of None
      their variance within arms, as far as they have shown them: shares are the same whatever the unit and the
      zero of the rewards. Given as numbers they are in the rewards' own units.

    A part of `prior` that is not given has its default; one that is given is a number, or one for each arm, (K,).
    `choose` draws once from each posterior and takes the largest; `shares` integrates. They are the same
    distribution.
    """

    kind: ClassVar[str] = "thompson"
    objectives: ClassVar[frozenset[str]] = names_of(lambda kind: kind.likelihood in LIKELIHOODS)
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
        objective = str(common.get("objective"))
        self.likelihood = likelihood_of(objective if objective in self.objectives else Binary.name)
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


def likelihood_of(objective: str) -> Likelihood:
    """Likelihood of the rewards of a kind of objective."""
    return LIKELIHOODS[KINDS[objective].likelihood]


def checked_prior(parameters: dict[str, Parameter], given: Prior, n_arms: int) -> Checked:
    """What is `given` and the other defaults, in the order of `parameters`; InvalidInput out of range."""
    if not isinstance(given, Mapping) or not set(given) <= set(parameters):
        raise InvalidInput(f"prior must be a mapping of {', '.join(parameters)}, not {given!r}")
    return {name: _checked(name, parameters[name], given.get(name), n_arms) for name in parameters}


def _checked(
    name: str, parameter: Parameter, given: float | ArrayLike | None, n_arms: int
) -> float | list[float | None] | None:
    default, least, most = parameter
    value = default if given is None else given
    if value is None:
        return None
    if default is None and isinstance(value, list | tuple):
        # Of some arms it is known, of the others it is what the rewards show.
        shown = [each is None for each in value]
        array = by_arm(f"prior.{name}", [least if each is None else each for each in value], n_arms)
    else:
        array = by_arm(f"prior.{name}", value, n_arms)
        shown = [False] * n_arms
    outside = array[(array < least) | (array > most)]
    if outside.size:
        raise InvalidInput(f"prior.{name} must be from {least:g} to {most:g}, not {outside[0]:g}")
    if np.ndim(value) == 0:
        return float(array[0])
    return [None if each else number for each, number in zip(shown, array.tolist(), strict=True)]


def prior_by_arm(prior: Checked, n_arms: int) -> NDArray[np.float64]:
    """(n_arms, P) from a checked prior; NaN where the rewards show it."""
    columns = [np.broadcast_to(np.array(value, dtype=np.float64), n_arms) for value in prior.values()]
    return np.column_stack(columns)


def grown_prior(parameters: dict[str, Parameter], prior: Checked, more: int) -> Checked:
    """`prior` with the defaults for `more` arms wherever it is by arm."""
    return {
        name: [*value, *[parameters[name].default] * more] if isinstance(value, list) else value
        for name, value in prior.items()
    }

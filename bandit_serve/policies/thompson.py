"""Thompson sampling: each arm is chosen with the probability that it is the best (Thompson 1933)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NamedTuple, Unpack

import msgspec
import numpy as np
from msgspec import Meta, Struct
from numpy.typing import ArrayLike, NDArray

from bandit_serve.metrics import KINDS, MAX_VALUE, names_of
from bandit_serve.policies import _beta, _normal, _poisson
from bandit_serve.policies._best_arm import beta_best, gamma_best, student_best
from bandit_serve.policies.context_free import ContextFreePolicy, Rule, Statistics
from bandit_serve.policies.numbers import Vector
from bandit_serve.policies.parameters import Parts, PartsByName, parts_schema, read_parts
from bandit_serve.policies.policy import Terms

if TYPE_CHECKING:
    from bandit_serve.policies.keywords import ThompsonKeywords

# The shapes of Gamma posteriors between which their quadrature is tested.
MIN_SHAPE, MAX_SHAPE = 1e-6, 1e15
# Bounds how far behind the best, and how much narrower than the widest, a Student posterior is taken to be.
MAX_SEPARATION = 1e100
# How much wider than its scale a Student posterior is taken to be.
MAX_WIDENING = 3.0

Shape = Annotated[float, Meta(ge=1e-6, le=1e9)]


class BetaPrior(Struct, frozen=True):
    """Prior of a probability. Ranges of priors are those within which the shares' quadrature is tested."""

    alpha: Shape = 1.0
    beta: Shape = 1.0


class GammaPrior(Struct, frozen=True):
    """Prior of a rate."""

    alpha: Shape = 1.0
    beta: Annotated[float, Meta(ge=1e-30, le=1e9)] = 1e-6


class NormalPrior(Struct, frozen=True):
    """Prior of a mean and a variance, the Normal-inverse-gamma's. None is estimated from the rewards."""

    mean: Annotated[float, Meta(ge=-MAX_VALUE, le=MAX_VALUE)] | None = None
    kappa: Annotated[float, Meta(ge=1e-9, le=1e9)] = 1e-4
    alpha: Annotated[float, Meta(ge=0.05, le=1e9)] = 0.5
    beta: Annotated[float, Meta(ge=1e-30, le=1e30)] | None = None


class Likelihood(NamedTuple):
    """Model of rewards of a kind of objective.

    prior: its numbers, in their order. chooser: the sampler in C. best: from the statistics of E arms and their
    priors, (E, P), to the probability that each is the best. moments: from the same to the posteriors' means and
    standard deviations, (E,) each, of rewards scaled to [0, 1] where they have bounds.
    """

    prior: type[Struct]
    chooser: object
    best: Callable[[Statistics, NDArray[np.float64]], Vector]
    moments: Callable[[Statistics, NDArray[np.float64]], tuple[Vector, Vector]]


def beta_shares(statistics: Statistics, prior: NDArray[np.float64]) -> Vector:
    n, total = statistics["n"], statistics["total"]
    return beta_best(prior[:, 0] + total, prior[:, 1] + (n - total))


def gamma_shares(statistics: Statistics, prior: NDArray[np.float64]) -> Vector:
    shape, rate = _poisson.posterior(**statistics, prior=np.ascontiguousarray(prior))
    # What is sharper than that is taken to be as sharp, at the same mean. The product may be rounded past it.
    sharpest = np.minimum(1.0, MAX_SHAPE / shape)
    return gamma_best(np.clip(shape * sharpest, MIN_SHAPE, MAX_SHAPE), rate * sharpest)


def student_shares(statistics: Statistics, prior: NDArray[np.float64]) -> Vector:
    loc, scale, df = _normal.posterior(**statistics, prior=np.ascontiguousarray(prior))
    # Which is best does not depend on the unit and the zero, and is integrated in the same ones.
    unit = scale.max()
    behind, width = (loc - loc.max()) / unit, scale / unit
    return student_best(np.maximum(behind, -MAX_SEPARATION), np.maximum(width, 1.0 / MAX_SEPARATION), df)


def beta_moments(statistics: Statistics, prior: NDArray[np.float64]) -> tuple[Vector, Vector]:
    n, total = statistics["n"], statistics["total"]
    alpha, beta = prior[:, 0] + total, prior[:, 1] + (n - total)
    size = alpha + beta
    return alpha / size, np.sqrt((alpha / size) * (beta / size) / (size + 1.0))


def gamma_moments(statistics: Statistics, prior: NDArray[np.float64]) -> tuple[Vector, Vector]:
    shape, rate = _poisson.posterior(**statistics, prior=np.ascontiguousarray(prior))
    return shape / rate, np.sqrt(shape) / rate


def student_moments(statistics: Statistics, prior: NDArray[np.float64]) -> tuple[Vector, Vector]:
    loc, scale, df = _normal.posterior(**statistics, prior=np.ascontiguousarray(prior))
    # With 2 degrees of freedom or fewer there is no standard deviation.
    return loc, scale * np.sqrt(df / np.maximum(df - 2.0, df / MAX_WIDENING**2))


BETA = Likelihood(BetaPrior, _beta.CHOOSER, beta_shares, beta_moments)
POISSON = Likelihood(GammaPrior, _poisson.CHOOSER, gamma_shares, gamma_moments)
NORMAL = Likelihood(NormalPrior, _normal.CHOOSER, student_shares, student_moments)
LIKELIHOODS = {"bernoulli": BETA, "poisson": POISSON, "normal": NORMAL}


def _modelled_by(likelihood: str) -> str:
    return ", ".join(name for name, kind in KINDS.items() if kind.likelihood == likelihood)


class ThompsonParameters(Struct, frozen=True):
    prior: (
        Annotated[
            PartsByName,
            Meta(
                description=f"{_modelled_by('bernoulli')}: `alpha` and `beta` (default: 1, 1); "
                f"{_modelled_by('poisson')}: `alpha` and `beta` (1, 1e-6); {_modelled_by('normal')}: `mean`, "
                "`kappa`, `alpha`, `beta` (the rewards', 1e-4, 0.5, the rewards')",
                extra_json_schema=parts_schema(BetaPrior, GammaPrior, NormalPrior, by_arm=True),
            ),
        ]
        | None
    ) = None


class Thompson(ContextFreePolicy):
    """P(arm is best) under the posteriors of the arms' means. `Policy` says the rest.

    The likelihood follows the objective:

    - binary: Bernoulli; `prior` is the Beta's, {"alpha": 1.0, "beta": 1.0} (uniform).
    - bounded: the same with fractional counts, alpha += r and beta += 1 - r for r scaled to [0, 1].
    - count: Poisson, where counts vary as Poisson's do; `prior` is the Gamma's of shape alpha and rate beta,
      {"alpha": 1.0, "beta": 1e-6}: next to flat, so that one observation outweighs it and untried arms come first as
      long as means are below a million. Counts may vary more than Poisson's, with a variance above the mean: then
      number and sum of observations are divided by that ratio (`_poisson`), so that the posterior is as wide as it
      should be.
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
    Parameters: ClassVar[type[Struct]] = ThompsonParameters
    in_unit: ClassVar[str | None] = "prior"

    if TYPE_CHECKING:

        def __init__(self, n_arms: int, **given: Unpack[ThompsonKeywords]) -> None: ...

    @classmethod
    def checked(cls, own: Any, terms: Terms, n_arms: int) -> Any:
        prior = read_parts(
            "prior", likelihood_of(terms.objective).prior, {} if own.prior is None else own.prior, n_arms
        )
        return msgspec.structs.replace(own, prior=prior)

    @classmethod
    def rule_of(cls, own: Any, objective: str) -> Rule:
        likelihood, prior = likelihood_of(objective), prior_by_arm(own.prior)

        def shares(statistics: Statistics, arms: NDArray[np.intp]) -> Vector:
            return likelihood.best(statistics, _of_arms(prior, arms))

        return Rule(shares, likelihood.chooser, prior)

    def moments(
        self, arms: NDArray[np.intp], pending: ArrayLike | None = None, pending_value: float = 0.0
    ) -> tuple[Vector, Vector]:
        """Means and standard deviations, (E,) each, of the posteriors of the mean rewards of `arms`, intp (E,).

        They are in the rewards' own units. pending, pending_value: as in `shares`.
        """
        statistics = {name: values[arms] for name, values in self.statistics(pending, pending_value).items()}
        prior = _of_arms(prior_by_arm(self.given.prior), arms)
        means, deviations = likelihood_of(self.objective).moments(statistics, prior)
        reward = self.reward
        if reward.unbounded:
            return means, deviations
        width = reward.ceiling - reward.floor
        return reward.floor + width * means, width * deviations


def _of_arms(prior: NDArray[np.float64], arms: NDArray[np.intp]) -> NDArray[np.float64]:
    return prior[arms] if len(prior) > 1 else np.repeat(prior, arms.size, axis=0)


def likelihood_of(objective: str) -> Likelihood:
    """Likelihood of the rewards of a kind of objective."""
    return LIKELIHOODS[KINDS[objective].likelihood]


def prior_by_arm(prior: Parts) -> NDArray[np.float64]:
    """(K, P) of a prior that is by arm, else (1, P); NaN where the rewards show it."""
    columns = np.broadcast_arrays(*(np.array(value, dtype=np.float64, ndmin=1) for value in prior.values()))
    return np.column_stack(columns)

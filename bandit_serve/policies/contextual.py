"""Policies that learn which arm is best for which features, from rewards and the features of their decisions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, NamedTuple, Self

import msgspec
import numpy as np
from msgspec import Meta, Struct
from numpy.typing import ArrayLike, NDArray

from bandit_serve.errors import InvalidInput
from bandit_serve.policies._arms import eligible_arms
from bandit_serve.policies._best_arm import student_best
from bandit_serve.policies._linear import Linear
from bandit_serve.policies.arguments import masks_of
from bandit_serve.policies.numbers import Vector
from bandit_serve.policies.parameters import PartsByName, parts_schema, read_parts
from bandit_serve.policies.policy import STATED, Policy, Terms

# The statistics of each arm that policies without context have, too.
TALLIES = frozenset({"n", "total", "mean", "m2"})
# Statistics with a row for each model.
OF_MODELS = frozenset({"gram", "moment", "updates", "inverse", "coefficients"})
# Student's t is the normal distribution at so many degrees of freedom, to more digits than the shares have.
NORMAL = 1e9


class ScoreRule(NamedTuple):
    """Rule of a kind from the arms' scores to shares, as arguments of `_linear.Linear`, where it runs in C.

    logistic: whether scores are log odds.
    """

    rule: str
    strength: float
    optimism: float = 0.0
    logistic: bool = False


class CoefficientPrior(Struct, frozen=True):
    """Normal prior, of mean 0, of each coefficient."""

    precision: Annotated[float, Meta(ge=1e-6, le=1e9)] = 1.0


class ContextualParameters(Struct, frozen=True, kw_only=True):
    """Parameters of every contextual kind, after its own."""

    prior: (
        Annotated[
            PartsByName,
            Meta(
                description="`precision`: the least precision of the prior of each coefficient (default: 1)",
                extra_json_schema=parts_schema(CoefficientPrior, by_arm=False),
            ),
        ]
        | None
    ) = None


class ContextualPolicy(Policy, Linear):
    """Policy whose statistics are linear models of the reward, over vectors x of features.

    n_features: d, the length of the vectors x that `choose`, `shares` and `update` take. They are rounded to float32
        before they are used. An intercept is a feature that is always 1; `Features` adds one. A value
        far outside of a feature's values so far counts as the farthest of them, or as their centre: so a wild value,
        or a run of them, does not spoil the models. `_feature_limits` has the limits.
    `Terms` as other policies. Binary and bounded rewards are scaled to [0, 1]. Forgetting happens when at least 1/64
        of the half-life has passed since it last did, so that models are not made anew at each step of the clock.
    prior: {"precision": 1.0}, the least precision of the Normal prior, of mean 0, of each coefficient. The prior's
        precision for feature j is that times max(1, p / 4) · max(1, s_j), s_j the mean square of x_j in what was
        learned and p = Σ min(1, s_j), the number of features present in a row: so large features need no scaling,
        and x as a whole matters as much beforehand whatever its length. It is the same for all arms, and read when
        the number of updates is a power of two and when something is forgotten; so replay gives the same.
    arm_features: (K, m), features of the arms. Without, each arm has coefficients of its own for x, so D = d. With
        them there is one model for all arms over x, the arm's features a, and every product of one of x and one of
        a, so D = d + m + d · m: what is learned on one arm holds for others like it.
    """

    contextual: ClassVar[bool] = True
    sizes: ClassVar[tuple[str, ...]] = ("n_arms", "n_features")
    learned: ClassVar[Mapping[str, str]] = {"statistics": "restore", "factors": "restore_factors"}
    stated: ClassVar[tuple[str, ...]] = tuple(sorted(STATED))
    extras: ClassVar[Mapping[str, Any]] = {"arm_features": None, **Policy.extras}
    # Each time, every model is made anew from its sums.
    least_fading: ClassVar[float] = 1 / 64
    logit: ClassVar[bool] = False

    def __init__(
        self,
        n_arms: int,
        n_features: int,
        *,
        arm_features: ArrayLike | None = None,
        seed: int | None = None,
        **given: Any,
    ) -> None:
        bounds = self.settle(n_arms, given)
        Linear.__init__(
            self,
            n_arms,
            n_features,
            **bounds,
            **self.rule_of(self.given)._asdict(),
            arm_features=arm_features,
            precision=self.given.prior["precision"],
            seed=seed,
        )

    @classmethod
    def arm_parameters(cls) -> tuple[str, ...]:
        return ("arm_features",)

    @classmethod
    def checked(cls, own: Any, terms: Terms, n_arms: int) -> Any:
        prior = read_parts("prior", CoefficientPrior, own.prior or {})
        return msgspec.structs.replace(own, prior=prior)

    @classmethod
    def rule_of(cls, own: Any) -> ScoreRule:
        """Rule of the kind, to be overridden: with the parameters `own`, as `checked` returns them."""
        raise NotImplementedError

    def shares(
        self,
        x: ArrayLike,
        eligible: ArrayLike | None = None,
        *,
        decided: ArrayLike | None = None,
        ramps: ArrayLike | None = None,
    ) -> Vector:
        """Probability, float64 (K,), with which each arm is to be chosen now for the features x, numbers (d,).

        eligible: bool (K,); the shares are the policy's over those arms alone, and 0 for the others.
        decided, ramps: as in `ContextFreePolicy.shares`.
        """
        arms = eligible_arms(eligible, self.n_arms)
        raw = self.raw_shares(x, arms)
        if self.warmup and (cold := self.cold(arms, decided)) is not None:
            raw = cold
        return self.bounded(raw, arms, ramps)

    def effects(self) -> NDArray[np.float64] | None:
        """Effects of the features, float64 (K, d): how far the score of each arm moves when a feature moves by its
        spread, within which three of four of its values lie; when it is there, for one that is 0 or 1.

        Scores are rewards, scaled to [0, 1] where they are binary or bounded, or log odds. None until the spreads are
        known.
        """
        limits = self.limits
        if limits is None:
            return None
        coefficients, own = self.coefficients, self.arm_features
        if own is None:
            return coefficients * limits[1]
        d, m = self.n_features, own.shape[1]
        crossed = coefficients[0, d + m :].reshape(m, d)
        return (coefficients[0, :d] + own.astype(np.float64) @ crossed) * limits[1]

    def shares_many(
        self,
        x: ArrayLike,
        eligible: ArrayLike | None = None,
        *,
        decided: ArrayLike | None = None,
        ramps: ArrayLike | None = None,
    ) -> NDArray[np.float64]:
        """`shares` for each row of x, (N, d): float64 (N, K). eligible: bool (K,) for all rows, or (N, K)."""
        try:
            rows = np.asarray(x)
        except ValueError as error:
            raise InvalidInput(f"x must be rows of {self.n_features} numbers: {error}") from None
        if rows.ndim != 2:
            raise InvalidInput(f"x must be rows of {self.n_features} numbers, not of shape {rows.shape}")
        masks = masks_of(eligible, len(rows), self.n_arms)
        out = np.empty((len(rows), self.n_arms))
        for i, row in enumerate(rows):
            mask = None if masks is None else masks[i]
            out[i] = self.shares(row, mask, decided=decided, ramps=ramps)
        return out

    def raw_shares(self, x: ArrayLike, arms: NDArray[np.intp]) -> Vector:
        """Shares that the rule gives the eligible `arms`, intp (E,), before all bounds: (E,), of any sum."""
        raw = self.raw_shares_of(x, arms)
        # Normal scores: the chance to draw the largest is what their quadrature says.
        if isinstance(raw, tuple):
            locations, scales = raw
            return student_best(locations, scales, np.full(arms.size, NORMAL))
        return np.asarray(raw)

    def grown(self, n_arms: int, arm_features: ArrayLike | None = None) -> Self:
        """Policy with arms up to `n_arms` and the same state; nothing was observed on the new ones.

        arm_features: those of all `n_arms` arms, where the policy has such.
        """
        more = self.more_arms(n_arms)
        if self.arm_features is None:
            if arm_features is not None:
                raise InvalidInput("arm_features belong to a policy that was made with them")
            return self.with_arms(n_arms, {})
        if not more:
            return self.with_arms(n_arms, {})
        table = np.asarray([] if arm_features is None else arm_features)
        if len(table) != n_arms or not np.array_equal(
            table[: self.n_arms].astype(np.float32), self.arm_features
        ):
            raise InvalidInput(
                "arm_features must be those of all arms, as they were for those that were there"
            )
        return self.with_arms(n_arms, {"arm_features": table})

    def is_by_arm(self, name: str) -> bool:
        return name in TALLIES or (name in OF_MODELS and self.arm_features is None)

    def learn_from(self, former: Policy) -> None:
        """Takes over the models of a policy with models of the same features and kind; of others only the counts and
        means of the arms and, of one of the same features, their limits, and the models start anew.
        """
        kin = (
            former if isinstance(former, ContextualPolicy) and former.n_features == self.n_features else None
        )
        same = (
            kin is not None
            and kin.logit == self.logit
            and (kin.arm_features is None) == (self.arm_features is None)
            and kin.order == self.order
        )
        statistics, theirs = self.statistics(), former.statistics()
        for name in set(statistics) & set(theirs):
            if same or name in TALLIES:
                statistics[name][: len(theirs[name])] = theirs[name]
        self.restore(statistics)
        # The rows that limits are yet to come of are those of its models.
        if kin is not None and (same or kin.limits is not None):
            self.restore_limits(kin.limits_state())

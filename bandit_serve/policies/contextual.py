"""What every contextual policy is: linear models of rewards (in C, `_linear.Linear`) and a map to shares."""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import deepcopy
from typing import Any, ClassVar, Self, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bandit_serve.errors import InvalidInput
from bandit_serve.policies._arms import arm_count, eligible_arms
from bandit_serve.policies._best_arm import student_best
from bandit_serve.policies._linear import Linear
from bandit_serve.policies.arguments import masks_of
from bandit_serve.policies.policy import (
    RANGES,
    Policy,
    Range,
    bounds,
    finite,
    positive_ms,
    share_of_all,
    times,
    weights,
)
from bandit_serve.policies.shares import Vector, check_bounds, final_shares

# What was learned is made to fade this often in a half-life: each time every model is made anew from its sums.
FADINGS = 64
# The statistics of each arm that policies without context have, too.
TALLIES = frozenset({"n", "total", "mean", "m2"})
# Student's t is the normal distribution at so many degrees of freedom, to more digits than the shares have.
NORMAL = 1e9


class ContextualCommon(TypedDict, total=False):
    """The keyword parameters that every contextual policy takes."""

    objective: str
    low: float | None
    high: float | None
    min_share: float
    max_share: float
    warmup: int
    half_life: str | None
    refresh: str
    holdout: float
    prior: Mapping[str, float] | None
    arm_features: ArrayLike | None
    seed: int | None


class ContextualPolicy(Linear):
    """A policy over `n_arms` arms, known by their indices, that learns which is best for which features.

    n_features: d, the length of the vectors x that `choose`, `shares` and `update` take. They are rounded to float32
        before they are used. An intercept is a feature that is always 1; `Features` adds one. What lies far outside
        of a feature's values so far is taken as the farthest that they are, or as their centre (`_feature_limits`
        says how far), so that one wild value, or a run of them, does not spoil what was learned.
    objective, low, high, min_share, max_share, warmup, half_life, refresh, holdout, seed: as `Policy` has them.
        Binary and bounded rewards are scaled to [0, 1]. Forgetting happens when at least 1/64 of the half-life has
        passed since it last did, so that models are not made anew at each step of the clock.
    prior: {"precision": 1.0}, the least precision of the Normal prior, of mean 0, of each coefficient. The prior's
        precision for feature j is that times max(1, p / 4) · max(1, s_j), s_j the mean square of x_j in what was
        learned and p = Σ min(1, s_j), the number of features present in a row: so large features need no scaling,
        and x as a whole matters as much beforehand whatever its length. It is the same for all arms, and read when
        the number of updates is a power of two and when something is forgotten; so replay gives the same.
    arm_features: (K, m), features of the arms. Without, each arm has coefficients of its own for x, so D = d. With
        them there is one model for all arms over x, the arm's features a, and every product of one of x and one of
        a, so D = d + m + d · m: what is learned on one arm holds for others like it.

    Rewards change the shares by what `update` and `update_many` learn; `choose` and `choose_many` choose arms with
    the probabilities that `shares` gives. Wrong arguments are InvalidInput, and then nothing has been learned.
    """

    kind: ClassVar[str]
    objectives: ClassVar[frozenset[str]]
    parameters: ClassVar[tuple[str, ...]] = ("prior", "arm_features")
    jumps: ClassVar[bool] = False
    contextual: ClassVar[bool] = True
    learns: ClassVar[bool] = True
    weighs: ClassVar[bool] = False
    # The rule of `_linear.Linear` by which scores become shares, and whether the models are logistic.
    rule: str
    choice: ClassVar[str]
    logit: ClassVar[bool] = False

    def __init__(
        self,
        n_arms: int,
        n_features: int,
        own: Mapping[str, Any],
        strength: float,
        *,
        optimism: float = 0.0,
        objective: str = "binary",
        low: float | None = None,
        high: float | None = None,
        min_share: float = 0.0,
        max_share: float = 1.0,
        warmup: int = 0,
        half_life: str | None = None,
        refresh: str = "50ms",
        holdout: float = 0.0,
        prior: Mapping[str, float] | None = None,
        arm_features: ArrayLike | None = None,
        seed: int | None = None,
    ) -> None:
        """For subclasses: `own` are their parameters, `strength` and `optimism` what `_linear.Linear` says."""
        n_arms = arm_count(n_arms)
        check_bounds(n_arms, min_share, max_share)
        self.half_life_ms = None if half_life is None else positive_ms("half_life", half_life)
        self.half_life = half_life
        positive_ms("refresh", refresh)
        self.prior = checked_prior({} if prior is None else prior)
        reward = reward_range(self.kind, self.objectives, objective, low, high)
        super().__init__(
            n_arms,
            n_features,
            arm_features=arm_features,
            precision=self.prior["precision"],
            rule=self.choice,
            strength=strength,
            optimism=optimism,
            logistic=self.logit,
            low=reward.low,
            high=reward.high,
            whole=reward.whole,
            unbounded=reward.unbounded,
            seed=seed,
            min_share=min_share,
            max_share=max_share,
            holdout=share_of_all("holdout", holdout),
            warmup=times("warmup", warmup),
        )
        self.clock_ms: int | None = None
        self.objective = objective
        self.low = reward.low if objective == "bounded" else None
        self.high = reward.high if objective == "bounded" else None
        self.own = dict(own)

    def shares(
        self,
        x: ArrayLike,
        eligible: ArrayLike | None = None,
        *,
        decided: ArrayLike | None = None,
        ramps: ArrayLike | None = None,
    ) -> Vector:
        """The probability, float64 (K,), with which each arm is to be chosen now for the features x, numbers (d,).

        eligible: bool (K,); the shares are the policy's over those arms alone, and 0 for the others.
        decided, ramps: as in `Policy.shares`.
        """
        arms = eligible_arms(eligible, self.n_arms)
        most = None if ramps is None else weights("ramps", ramps, self.n_arms)
        raw = self.raw_shares(x, arms)
        if self.warmup:
            seen = self.observed if decided is None else weights("decided", decided, self.n_arms)
            short = seen[arms] < self.warmup
            if short.any():
                raw = short.astype(np.float64)
        return final_shares(raw, arms, self.n_arms, self.min_share, self.max_share, most, self.holdout)

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
        """The policy itself: shares (E,) of the eligible `arms`, indices (E,). They need not sum to 1 exactly."""
        raw = self.raw_shares_of(x, arms)
        # Normal scores: the chance to draw the largest is what their quadrature says.
        if isinstance(raw, tuple):
            locations, scales = raw
            return student_best(locations, scales, np.full(arms.size, NORMAL))
        return np.asarray(raw)

    def advance(self, now_ms: int) -> bool:
        """Lets what was learned fade from the last fading to `now_ms`, Unix milliseconds; whether it did.

        It waits until 1/64 of the half-life has passed. The first call only sets the clock, and a time before the
        last fading's is passed over. Without `half_life` nothing happens.
        """
        if self.half_life_ms is None:
            return False
        if self.clock_ms is None:
            self.clock_ms = now_ms
        elapsed_ms = now_ms - self.clock_ms
        if elapsed_ms * FADINGS < self.half_life_ms or elapsed_ms <= 0:
            return False
        self.clock_ms = now_ms
        # 2^-1000 is less than what `forget` keeps of any weight.
        self.forget(math.exp2(-min(elapsed_ms / self.half_life_ms, 1000.0)))
        return True

    def grown(self, n_arms: int, arm_features: ArrayLike | None = None) -> Self:
        """The same policy with arms up to `n_arms`: nothing was observed on the new ones.

        arm_features: those of all `n_arms` arms, where the policy has such.
        """
        more = arm_count(n_arms) - self.n_arms
        if more < 0:
            raise InvalidInput(f"n_arms must be at least {self.n_arms}, not {n_arms}")
        state = self.state()
        if self.arm_features is None:
            if arm_features is not None:
                raise InvalidInput("arm_features belong to a policy that was made with them")
            by_arm = {"gram", "moment", "updates", "inverse", "coefficients"}
        else:
            if more:
                table = np.asarray([] if arm_features is None else arm_features)
                if len(table) != n_arms or not np.array_equal(
                    table[: self.n_arms].astype(np.float32), self.arm_features
                ):
                    raise InvalidInput(
                        "arm_features must be those of all arms, as they were for those that were there"
                    )
                state["parameters"]["arm_features"] = table
            by_arm = set()
        for part in ("statistics", "factors"):
            for name, values in state[part].items():
                if name in by_arm or name in TALLIES:
                    state[part][name] = np.pad(values, [(0, more), *[(0, 0)] * (values.ndim - 1)])
        observed = np.pad(state["observed"], (0, more))
        return type(self).from_state({**state, "n_arms": int(n_arms), "observed": observed})

    def take_over(self, former: Policy | ContextualPolicy) -> None:
        """Goes on from what `former`, a policy over as many arms or fewer, has observed of the same rewards.

        The models are taken over from a policy with models of the same features and kind; from others only the
        counts and means of the arms and, from one of the same features, their limits, and the models start anew.
        """
        statistics = self.statistics()
        theirs = former.statistics()
        same = (
            isinstance(former, ContextualPolicy)
            and former.logit == self.logit
            and former.n_features == self.n_features
            and (former.arm_features is None) == (self.arm_features is None)
            and former.order == self.order
        )
        for name in set(statistics) & set(theirs):
            if same or name in TALLIES:
                if np.shape(theirs[name])[0] > len(statistics[name]):
                    raise InvalidInput(f"a policy over {self.n_arms} arms can not go on from one over more")
                statistics[name][: len(theirs[name])] = theirs[name]
        self.restore(statistics)
        # The rows that limits are yet to come of are those of its models.
        if (
            isinstance(former, ContextualPolicy)
            and former.n_features == self.n_features
            and (same or former.limits is not None)
        ):
            self.restore_limits(former.limits_state())
        self.observed = np.pad(former.observed, (0, self.n_arms - former.n_arms))
        self.clock_ms = former.clock_ms

    def state(self) -> dict[str, Any]:
        """All that this policy is, as plain values and arrays: with `from_state` it goes on identically.

        What was learned is in `statistics`, apart from priors and other parameters; `factors` is what follows from
        them but for the last bits, and what can not be made again as the rows are gone.
        """
        return {
            "kind": self.kind,
            "n_arms": self.n_arms,
            "n_features": self.n_features,
            **{name: getattr(self, name) for name in sorted(COMMON)},
            "parameters": {
                **deepcopy(self.own),
                "prior": dict(self.prior),
                "arm_features": self.arm_features,
            },
            "statistics": self.statistics(),
            "factors": self.factors(),
            "observed": self.observed,
            "clock_ms": self.clock_ms,
            "randomness": self.randomness,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """The policy that `state` is of. InvalidInput when it is not a state of this kind of policy."""
        if not isinstance(state, Mapping) or set(state) != STATE:
            raise InvalidInput(f"a policy's state must hold {', '.join(sorted(STATE))} and nothing else")
        if state["kind"] != cls.kind:
            raise InvalidInput(f"the state is of a policy of kind {state['kind']!r}, not {cls.kind!r}")
        own = state["parameters"]
        if not isinstance(own, Mapping) or set(own) != set(cls.parameters):
            raise InvalidInput(f"the parameters in a state of {cls.kind} must be {list(cls.parameters)}")
        policy = cls(state["n_arms"], state["n_features"], **own, **{name: state[name] for name in COMMON})
        policy.restore(state["statistics"])
        policy.restore_factors(state["factors"])
        policy.observed = state["observed"]
        clock_ms = state["clock_ms"]
        policy.clock_ms = None if clock_ms is None else times("clock_ms", clock_ms)
        policy.randomness = state["randomness"]
        return policy

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).from_state, (self.state(),)


COMMON = frozenset({"objective", "low", "high", "min_share", "max_share", "warmup", "half_life", "holdout"})
STATE = COMMON | {
    "kind",
    "n_arms",
    "n_features",
    "parameters",
    "statistics",
    "factors",
    "observed",
    "clock_ms",
    "randomness",
}
LEAST_PRECISION, MOST_PRECISION = 1e-6, 1e9


def checked_prior(given: Mapping[str, float]) -> dict[str, float]:
    """What is `given` and the default; InvalidInput out of range."""
    if not isinstance(given, Mapping) or not set(given) <= {"precision"}:
        raise InvalidInput(f"prior must be a mapping of precision, not {given!r}")
    precision = finite("prior.precision", given.get("precision", 1.0))
    if not LEAST_PRECISION <= precision <= MOST_PRECISION:
        raise InvalidInput(
            f"prior.precision must be from {LEAST_PRECISION:g} to {MOST_PRECISION:g}, not {precision:g}"
        )
    return {"precision": precision}


def reward_range(
    kind: str, objectives: frozenset[str], objective: str, low: float | None, high: float | None
) -> Range:
    """The range of the rewards of an objective; InvalidInput when a policy of `kind` does not take it."""
    if not isinstance(objective, str) or objective not in objectives:
        raise InvalidInput(f"{kind} takes an objective of {', '.join(sorted(objectives))}, not {objective!r}")
    if objective != "bounded":
        if low is not None or high is not None:
            raise InvalidInput(f"low and high belong to a bounded objective, not to a {objective} one")
        return RANGES[objective]
    return Range(*bounds(low, high))


def positive(name: str, value: object) -> float:
    """`value` as a float; InvalidInput, naming `name`, unless it is from 1e-9 to 1e9."""
    number = finite(name, value)
    if not 1e-9 <= number <= 1e9:
        raise InvalidInput(f"{name} must be from 1e-9 to 1e9, not {value!r}")
    return number

"""Policies that learn which arm is best whatever the context, from rewards alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, NamedTuple, TypeAlias

import numpy as np
from msgspec import Meta, Struct
from numpy.typing import ArrayLike, NDArray

from bandit_serve.metrics import MAX_VALUE
from bandit_serve.policies._arms import Arms, eligible_arms
from bandit_serve.policies.numbers import Vector, by_arm, refusal
from bandit_serve.policies.parameters import declared, require_within
from bandit_serve.policies.policy import Policy

# Fewer observations than this are none, as where they are forgotten: of less, quotients lose their digits.
MIN_WEIGHT = 1e-100

# n and total (and gain where it weighs), or n, mean and m2, by name, (E,) each.
Statistics: TypeAlias = dict[str, Vector]


class Rule(NamedTuple):
    """Rule of a kind: shares from statistics, and the same distribution as a sampler in C.

    shares: from the statistics of E eligible arms and their indices, intp (E,), to shares that are not bounded yet,
        (E,), not negative, of any sum; all 0 is even.
    chooser, constants, leading: the sampler, as `_arms.Arms` describes it. Without it arms are drawn from the shares.
    """

    shares: Callable[[Statistics, NDArray[np.intp]], Vector]
    chooser: object = None
    constants: ArrayLike = ()
    leading: float = 1.0


class PseudoHistory(Struct, frozen=True):
    """Observations to start with as if they had been made, each number for all arms or by arm."""

    # More would count for nothing beside them.
    n: Annotated[float, Meta(ge=0.0, le=1e12, description="observations")]
    mean: Annotated[float, Meta(description="their mean, within the objective's range")]
    std: Annotated[float, Meta(ge=-MAX_VALUE, le=MAX_VALUE, description="their standard deviation")] = 0.0


class ContextFreePolicy(Policy, Arms):
    """Policy whose statistics are sums over all rewards of each arm.

    pseudo_history: what to start with as if it had been observed, each a number or one an arm, (K,): `n`, of at
        least 0, its `mean`, and for unbounded rewards its standard deviation `std` (default 0). It counts as
        observations do and fades as they do; for the warm-up it does not count.
    """

    contextual: ClassVar[bool] = False
    extras: ClassVar[Mapping[str, Any]] = {"pseudo_history": None, **Policy.extras}

    def __init__(
        self,
        n_arms: int,
        *,
        pseudo_history: Mapping[str, Any] | None = None,
        seed: int | None = None,
        **given: Any,
    ) -> None:
        bounds = self.settle(n_arms, given)
        self.rule = self.rule_of(self.given, self.objective)
        Arms.__init__(
            self,
            n_arms,
            **bounds,
            seed=seed,
            learns=self.learns,
            weighs=self.weighs,
            chooser=self.rule.chooser,
            parameters=self.rule.constants,
            leading=self.rule.leading,
        )
        if pseudo_history is not None:
            self.restore(self._pseudo_statistics(pseudo_history))
            self.observed = np.zeros(n_arms, dtype=np.int64)

    @classmethod
    def rule_of(cls, own: Any, objective: str) -> Rule:
        """Rule of the kind, to be overridden: with the parameters `own`, as `checked` returns them, for `objective`."""
        raise NotImplementedError

    def shares(
        self,
        *,
        eligible: ArrayLike | None = None,
        pending: ArrayLike | None = None,
        pending_value: float = 0.0,
        decided: ArrayLike | None = None,
        ramps: ArrayLike | None = None,
    ) -> Vector:
        """Probability, float64 (K,), with which each arm is to be chosen now.

        eligible: bool (K,); the shares are the policy's over those arms alone, and 0 for the others.
        pending: numbers (K,) of at least 0: the weight of observations of `pending_value` that are not
            counted yet and to be reckoned with this time.
        decided: numbers (K,) of at least 0: the decisions for each arm that `warmup` is to go by, where they are
            known; otherwise it goes by `observed`.
        ramps: shares (K,): the most that each arm may have for now, before the holdout.
        """
        arms = eligible_arms(eligible, self.n_arms)
        statistics = self.statistics(pending, pending_value)
        raw = self.cold(arms, decided)
        if raw is None:
            raw = self.rule.shares({name: values[arms] for name, values in statistics.items()}, arms)
        return self.bounded(raw, arms, ramps)

    def learn_from(self, former: Policy) -> None:
        """Takes over the sums of each arm.

        A policy that weighs rewards takes the sums of one that does not as if arms had been drawn evenly.
        """
        theirs = former.statistics()
        shared = set(theirs) & set(self.statistics())
        more = self.n_arms - former.n_arms
        statistics = {name: np.pad(theirs[name], (0, more)) for name in shared}
        gain = statistics.pop("gain", None)
        if self.weighs:
            statistics["gain"] = self.n_arms * statistics["total"] if gain is None else gain
        self.restore(statistics)

    def _pseudo_statistics(self, history: Mapping[str, Any]) -> Statistics:
        reward, parts = self.reward, declared(PseudoHistory)
        names = [name for name in parts if name != "std" or reward.unbounded]
        if not isinstance(history, Mapping) or not {"n", "mean"} <= set(history) <= set(names):
            raise refusal(
                "pseudo_history", f"pseudo_history must be a mapping of {', '.join(names)}, not {history!r}"
            )
        given = {
            name: by_arm(f"pseudo_history.{name}", history.get(name, 0.0), self.n_arms) for name in names
        }
        n, mean = given["n"], given["mean"]
        for name, values in given.items():
            require_within(f"pseudo_history.{name}", values.tolist(), parts[name].number)
        n = np.where(n >= MIN_WEIGHT, n, 0.0)
        if isinstance(history["mean"], Mapping):
            unknown = [arm for arm in np.flatnonzero(n).tolist() if arm not in history["mean"]]
            if unknown:
                at = "pseudo_history.mean"
                raise refusal(at, f"{at} must have arm {unknown[0]}, too, which has observations")
        low, high = reward.floor, reward.ceiling
        if ((n > 0.0) & ((mean < low) | (mean > high))).any():
            at = "pseudo_history.mean"
            raise refusal(at, f"{at} must be from {low:g} to {high:g}")
        if reward.unbounded:
            return {"n": n, "mean": np.where(n > 0.0, mean, 0.0), "m2": n * given["std"] ** 2}
        total = np.where(n > 0.0, np.clip(n * ((mean - low) / (high - low)), 0.0, n), 0.0)
        # As if each pseudo-observation had come with the propensity 1/K.
        return {"n": n, "total": total, **({"gain": self.n_arms * total} if self.weighs else {})}


def mean_rewards(statistics: Statistics) -> Vector:
    """Mean rewards (E,) of each arm, scaled to [0, 1] where they have bounds; 0 where nothing was observed."""
    if "mean" in statistics:
        return statistics["mean"]
    n = statistics["n"]
    return np.divide(statistics["total"], n, out=np.zeros(n.size), where=n > 0.0)

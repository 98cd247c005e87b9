"""What every policy is: statistics of K arms (in C, `_arms.Arms`) and a map from them to shares."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any, ClassVar, NamedTuple, Self, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bandit_serve._arms import Arms, arm_count, eligible_arms
from bandit_serve.errors import InvalidInput
from bandit_serve.experiment import LARGEST_VALUE
from bandit_serve.policies.shares import Vector, check_bounds, final_shares


class Range(NamedTuple):
    """The rewards of a kind of objective: from `low` to `high`, and how their statistics are kept."""

    low: float
    high: float
    whole: bool = False
    unbounded: bool = False


RANGES = {
    "binary": Range(0.0, 1.0, whole=True),
    "bounded": Range(0.0, 1.0),
    "count": Range(0.0, LARGEST_VALUE, unbounded=True),
    "continuous": Range(-LARGEST_VALUE, LARGEST_VALUE, unbounded=True),
}


class Common(TypedDict, total=False):
    """The keyword parameters that every policy takes."""

    objective: str
    low: float | None
    high: float | None
    min_share: float
    max_share: float
    seed: int | None


class Policy(Arms):
    """A policy over `n_arms` arms, which are known by their indices.

    objective: the kind of reward: `binary` (0 or 1), `bounded` (from `low` to `high`, 0 and 1 if not given),
        `count` (at least 0) or `continuous`; a policy supports those in `objectives`. More is better.
    min_share: the least share of every eligible arm, by a mixture with the even split; K · min_share <= 1.
    max_share: the most of any arm; what exceeds it goes to the others. Relaxed to 1/K if it cannot be kept.
    seed: an int of at least 0 makes all choices repeatable; without it, the system's entropy.

    `update`, `update_many` and `update_counts` count rewards; `choose` and `choose_many` choose arms with the
    probabilities `shares`; wrong arguments are InvalidInput, and then nothing has been counted.
    """

    kind: ClassVar[str]
    objectives: ClassVar[frozenset[str]]
    # The names of the parameters that only this kind takes.
    parameters: ClassVar[tuple[str, ...]] = ()
    # Whether shares jump between 0 and 1, which no sticky assignment can follow.
    jumps: ClassVar[bool] = False
    contextual: ClassVar[bool] = False
    # Whether rewards change the shares.
    learns: ClassVar[bool] = True

    def __init__(
        self,
        n_arms: int,
        own: Mapping[str, Any],
        *,
        chooser: object = None,
        constants: tuple[float, ...] = (),
        objective: str = "binary",
        low: float | None = None,
        high: float | None = None,
        min_share: float = 0.0,
        max_share: float = 1.0,
        seed: int | None = None,
    ) -> None:
        """For subclasses: `own` are their parameters, `chooser` and `constants` what `_arms.Arms` says."""
        n_arms = arm_count(n_arms)
        check_bounds(n_arms, min_share, max_share)
        reward = self._range(objective, low, high)
        super().__init__(
            n_arms,
            low=reward.low,
            high=reward.high,
            whole=reward.whole,
            unbounded=reward.unbounded,
            seed=seed,
            min_share=min_share,
            max_share=max_share,
            learns=self.learns,
            chooser=chooser,
            parameters=constants,
        )
        self.objective = objective
        self.low = reward.low if objective == "bounded" else None
        self.high = reward.high if objective == "bounded" else None
        self.own = dict(own)

    @classmethod
    def _range(cls, objective: str, low: float | None, high: float | None) -> Range:
        if not isinstance(objective, str) or objective not in cls.objectives:
            raise InvalidInput(
                f"{cls.kind} takes an objective of {', '.join(sorted(cls.objectives))}, not {objective!r}"
            )
        if objective != "bounded":
            if low is not None or high is not None:
                raise InvalidInput(f"low and high belong to a bounded objective, not to a {objective} one")
            return RANGES[objective]
        return Range(*bounds(low, high))

    def raw_shares(self, statistics: dict[str, Vector], arms: NDArray[np.intp]) -> Vector:
        """The policy itself, for subclasses: shares (E,) of the eligible `arms`, indices (E,).

        `statistics`: n and total, or n, mean and m2, (E,) each. Shares need not sum to 1 exactly.
        """
        raise NotImplementedError

    def shares(
        self,
        *,
        eligible: ArrayLike | None = None,
        pending: ArrayLike | None = None,
        pending_value: float = 0.0,
    ) -> Vector:
        """The probability, float64 (K,), with which each arm is to be chosen now.

        eligible: bool (K,); the shares are the policy's over those arms alone, and 0 for the others.
        pending: numbers (K,) of at least 0: the weight of observations of `pending_value` that are not
            counted yet and to be reckoned with this time.
        """
        arms = eligible_arms(eligible, self.n_arms)
        statistics = self.statistics(pending, pending_value)
        raw = self.raw_shares({name: values[arms] for name, values in statistics.items()}, arms)
        return final_shares(raw, arms, self.n_arms, self.min_share, self.max_share)

    def state(self) -> dict[str, Any]:
        """All that this policy is, as plain values and arrays: with `from_state` it goes on identically.

        What was learned is in `statistics`, apart from priors and other parameters.
        """
        return {
            "kind": self.kind,
            "n_arms": self.n_arms,
            "objective": self.objective,
            "low": self.low,
            "high": self.high,
            "min_share": self.min_share,
            "max_share": self.max_share,
            "parameters": deepcopy(self.own),
            "statistics": self.statistics(),
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
        common = {name: state[name] for name in COMMON}
        policy = cls(state["n_arms"], **own, **common)
        policy.restore(state["statistics"])
        policy.randomness = state["randomness"]
        return policy

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).from_state, (self.state(),)


COMMON = frozenset({"objective", "low", "high", "min_share", "max_share"})
STATE = COMMON | {"kind", "n_arms", "parameters", "statistics", "randomness"}


def bounds(low: float | None, high: float | None) -> tuple[float, float]:
    """Of a bounded objective: 0 and 1 where not given; InvalidInput for what no reward can be scaled by."""
    least = finite("low", 0.0 if low is None else low)
    most = finite("high", 1.0 if high is None else high)
    if not -LARGEST_VALUE <= least < most <= LARGEST_VALUE:
        raise InvalidInput(
            f"low must be below high and both within ±{LARGEST_VALUE:g}, not {low!r} and {high!r}"
        )
    return least, most


def finite(name: str, value: object) -> float:
    """`value` as a float; InvalidInput, naming `name`, unless it is a finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not np.isfinite(value):
        raise InvalidInput(f"{name} must be a finite number, not {value!r}")
    return float(value)


def weights(name: str, values: ArrayLike, n_arms: int) -> NDArray[np.float64]:
    """`values` as float64 (n_arms,); InvalidInput, naming `name`, unless they are numbers of at least 0."""
    try:
        array = np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"{name} must be {n_arms} numbers: {error}") from None
    if array.shape != (n_arms,) or not np.isfinite(array).all() or (array < 0.0).any():
        raise InvalidInput(f"{name} must be {n_arms} finite numbers of at least 0")
    return array

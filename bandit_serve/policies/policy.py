"""Base of all policies. From a reward to an arm, a policy has three parts:

    statistics    `_arms.Arms`, or with features `_linear.Linear`: what was learned, in C; update, forget
        │
      rule        of its kind: statistics → posterior or scores → shares that are still free
        │
     bounds       `shares.final_shares`: warm-up, floor, cap, ramps, holdout → shares
        │
      draw        in C, by the rule's own sampler, or from the table of the shares where bounds forbid that

The statistics are a base of the class, as what is called for each decision and each reward (`choose`, `update`) is
then found in the class itself: kept in an attribute, a single update takes a quarter longer. Rule and bounds are held.
All else is here, once for all kinds: what parameters there are, time, states, growth, and succession.
"""

from __future__ import annotations

import inspect
import math
import sys
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Self

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import ArrayLike, NDArray

from bandit_serve.errors import InvalidInput
from bandit_serve.metrics import Binary
from bandit_serve.policies._arms import arm_count
from bandit_serve.policies.numbers import Vector, finite, milliseconds, weights, whole
from bandit_serve.policies.objectives import objective_kind
from bandit_serve.policies.parameters import CommonParameters, declared, read
from bandit_serve.policies.shares import check_bounds, final_shares


@dataclass(frozen=True, kw_only=True)
class Terms:
    """Keyword parameters that every policy's constructor takes.

    objective: the kind of reward: `binary` (0 or 1), `bounded` (from `low` to `high`, 0 and 1 if not given),
        `count` (at least 0) or `continuous`; a policy supports those in `objectives`. More is better.
    min_share: the least share of every eligible arm, by a mixture with the even split; K · min_share <= 1.
    max_share: the most of any arm; what exceeds it goes to the others. Relaxed to 1/K if it cannot be kept.
    warmup: while an eligible arm was observed less often than this, all is split evenly among such arms.
    half_life: a duration like "24h": `advance` makes what was learned weigh half after each. None: nothing fades.
    refresh: a duration: how often shares follow what is learned where the policy is served; here they always do.
    holdout: the share that is split evenly among the eligible arms whatever was learned, from 0 to 1.
    """

    objective: str = Binary.name
    low: float | None = None
    high: float | None = None
    min_share: float = 0.0
    max_share: float = 1.0
    warmup: int = 0
    half_life: str | None = None
    refresh: str = "50ms"
    holdout: float = 0.0


TERMS = tuple(field.name for field in fields(Terms))
# Terms in a state. `refresh` is not: it concerns the service and not the policy.
STATED = tuple(name for name in TERMS if name != "refresh")


class Policy:
    """Policy over `n_arms` arms, which are known by their indices.

    `update` and `update_many` learn from rewards; `choose` and `choose_many` choose arms with the probabilities
    `shares`. Wrong arguments are `InvalidInput`, and then nothing has been learned. `Terms` says what every policy
    takes, `Parameters` what its kind takes beside; `seed`, an int of at least 0, makes all choices repeatable.
    """

    kind: ClassVar[str]
    objectives: ClassVar[frozenset[str]]
    # Parameters of this kind alone, as they are configured, and their names.
    Parameters: ClassVar[type[Struct]]
    parameters: ClassVar[tuple[str, ...]]
    # The parameter that is in the unit of the rewards, where they have no bounds.
    in_unit: ClassVar[str | None] = None
    # Whether shares jump between 0 and 1, which no sticky assignment can follow.
    jumps: ClassVar[bool] = False
    contextual: ClassVar[bool]
    # Whether rewards change the shares.
    learns: ClassVar[bool] = True
    # Whether a reward is weighed by the propensity of its arm, which updates should then be given.
    weighs: ClassVar[bool] = False

    # Sizes in a state, and the learned parts of it, each with the name of the method that restores it.
    sizes: ClassVar[tuple[str, ...]] = ("n_arms",)
    learned: ClassVar[Mapping[str, str]] = {"statistics": "restore"}
    # Terms in the order in which a state has them.
    stated: ClassVar[tuple[str, ...]] = STATED
    # Further keywords of the constructor, with their defaults.
    extras: ClassVar[Mapping[str, Any]] = {"seed": None}
    # Part of a half-life that must pass before the learned statistics fade again.
    least_fading: ClassVar[float] = 0.0

    if TYPE_CHECKING:
        # Method of the statistics: arrays by name. Its arguments differ.
        statistics: Any

        @property
        def n_arms(self) -> int: ...
        @property
        def min_share(self) -> float: ...
        @property
        def max_share(self) -> float: ...
        @property
        def holdout(self) -> float: ...
        @property
        def warmup(self) -> int: ...
        @property
        def observed(self) -> NDArray[np.int64]: ...
        @observed.setter
        def observed(self, counts: ArrayLike) -> None: ...
        @property
        def randomness(self) -> NDArray[np.uint64]: ...
        @randomness.setter
        def randomness(self, words: ArrayLike) -> None: ...
        def forget(self, factor: float) -> None: ...
        def restore(self, statistics: Mapping[str, ArrayLike]) -> None: ...

    def __init_subclass__(cls) -> None:
        if "Parameters" in vars(cls):
            cls.parameters = (*declared(cls.Parameters), *cls.arm_parameters())
            cls.__signature__ = _signature(cls)  # type: ignore[attr-defined]

    @classmethod
    def summary(cls) -> str:
        """Sentence about the kind: the first of its module's docstring."""
        return (sys.modules[cls.__module__].__doc__ or "").partition("\n\n")[0].replace("\n", " ")

    @classmethod
    def arm_parameters(cls) -> tuple[str, ...]:
        """Parameters that the constructor takes in addition to `Parameters`; they are configured with the arms."""
        return ()

    @classmethod
    def checked(cls, own: Any, terms: Terms, n_arms: int) -> Any:
        """Parameters `own` as a state has them, to be overridden; `InvalidInput` for errors beyond their types."""
        return own

    def settle(self, n_arms: object, given: Mapping[str, Any]) -> dict[str, Any]:
        """Takes all parameters but those of the statistics; returns what the statistics take of them."""
        count = arm_count(n_arms)
        terms = Terms(**{name: value for name, value in given.items() if name in TERMS})
        own = read(self.Parameters, {name: value for name, value in given.items() if name not in TERMS})
        reward = objective_kind(self.kind, self.objectives, terms.objective, terms.low, terms.high)
        check_bounds(count, terms.min_share, terms.max_share)
        milliseconds("refresh", terms.refresh)
        self.half_life_ms = None if terms.half_life is None else milliseconds("half_life", terms.half_life)
        self.half_life = terms.half_life
        self.clock_ms: int | None = None
        self.objective, self.reward = terms.objective, reward
        self.low = reward.floor if reward.takes_bounds else None
        self.high = reward.ceiling if reward.takes_bounds else None
        self.given = self.checked(own, terms, count)
        return {
            "low": reward.floor,
            "high": reward.ceiling,
            "whole": reward.two_valued,
            "unbounded": reward.unbounded,
            "min_share": terms.min_share,
            "max_share": terms.max_share,
            "holdout": read(
                CommonParameters, {"kind": self.kind, "holdout": finite("holdout", terms.holdout)}
            ).holdout,
            "warmup": whole("warmup", terms.warmup),
        }

    @property
    def own(self) -> dict[str, Any]:
        """Parameters of this kind by name, defaults included."""
        return deepcopy(msgspec.structs.asdict(self.given))

    def cold(self, arms: NDArray[np.intp], decided: ArrayLike | None) -> Vector | None:
        """1 for each of the eligible `arms`, (E,), that is short of its warm-up, else 0; None where none is."""
        seen = self.observed if decided is None else weights("decided", decided, self.n_arms)
        short = seen[arms] < self.warmup
        return short.astype(np.float64) if short.any() else None

    def bounded(self, raw: Vector, arms: NDArray[np.intp], ramps: ArrayLike | None) -> Vector:
        """Final shares, float64 (K,), from the rule's `raw` shares, (E,), of the eligible `arms`, intp (E,)."""
        most = None if ramps is None else weights("ramps", ramps, self.n_arms)
        return final_shares(raw, arms, self.n_arms, self.min_share, self.max_share, most, self.holdout)

    def advance(self, now_ms: int) -> bool:
        """Lets what was learned fade from when it last did to `now_ms`, Unix milliseconds; whether it did.

        The first call only sets the clock, and a time before the last one's is passed over. Without `half_life`
        nothing happens.
        """
        if self.half_life_ms is None:
            return False
        if self.clock_ms is None:
            self.clock_ms = now_ms
        elapsed_ms = now_ms - self.clock_ms
        if elapsed_ms <= 0 or elapsed_ms < self.least_fading * self.half_life_ms:
            return False
        self.clock_ms = now_ms
        # 2^-1000 is less than what `forget` keeps of any weight.
        self.forget(math.exp2(-min(elapsed_ms / self.half_life_ms, 1000.0)))
        return True

    def left_since(self, times_ms: NDArray[np.int64]) -> Vector:
        """Parts, float64 (N,), that `half_life` has left of observations made at `times_ms`, Unix milliseconds (N,).

        Supposed is that it was the half-life all the time since.
        """
        if self.half_life_ms is None or self.clock_ms is None:
            return np.ones(len(times_ms))
        ages_ms = np.maximum(self.clock_ms - times_ms, 0).tolist()
        return np.array([math.exp2(-min(age_ms / self.half_life_ms, 1000.0)) for age_ms in ages_ms])

    def state(self) -> dict[str, Any]:
        """State of the policy as plain values and arrays: with `from_state` it goes on identically.

        What was learned is in `statistics`, apart from priors and other parameters. Where there are `factors`, they are
        what follows from it but for the last bits, and what can not be made again as the rows are gone.
        """
        return {
            "kind": self.kind,
            **{name: getattr(self, name) for name in (*self.sizes, *self.stated)},
            "parameters": {**self.own, **{name: getattr(self, name) for name in self.arm_parameters()}},
            **{part: getattr(self, part)() for part in self.learned},
            "observed": self.observed,
            "clock_ms": self.clock_ms,
            "randomness": self.randomness,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """Policy with this `state`; `InvalidInput` unless it is a state of this kind of policy."""
        expected = {
            *cls.sizes,
            *cls.stated,
            *cls.learned,
            *("kind", "parameters", "observed", "clock_ms", "randomness"),
        }
        if not isinstance(state, Mapping) or set(state) != expected:
            raise InvalidInput(f"a policy's state must hold {', '.join(sorted(expected))} and nothing else")
        if state["kind"] != cls.kind:
            raise InvalidInput(f"the state is of a policy of kind {state['kind']!r}, not {cls.kind!r}")
        own = state["parameters"]
        if not isinstance(own, Mapping) or set(own) != set(cls.parameters):
            raise InvalidInput(f"the parameters in a state of {cls.kind} must be {list(cls.parameters)}")
        policy = cls(
            *(state[name] for name in cls.sizes), **own, **{name: state[name] for name in cls.stated}
        )
        for part, restore in cls.learned.items():
            getattr(policy, restore)(state[part])
        policy.observed = state["observed"]
        clock_ms = state["clock_ms"]
        policy.clock_ms = None if clock_ms is None else whole("clock_ms", clock_ms)
        policy.randomness = state["randomness"]
        return policy

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).from_state, (self.state(),)

    def grown(self, n_arms: int) -> Self:
        """Policy with arms up to `n_arms` and the same state; new arms have no observations and default parameters."""
        return self.with_arms(n_arms, {})

    def more_arms(self, n_arms: object) -> int:
        """Number of arms that `n_arms` adds; `InvalidInput` if it is less than the present number."""
        more = arm_count(n_arms) - self.n_arms
        if more < 0:
            raise InvalidInput(f"n_arms must be at least {self.n_arms}, not {n_arms}")
        return more

    def with_arms(self, n_arms: int, arm_parameters: dict[str, Any]) -> Self:
        """Policy as from `grown`, with the parameters `arm_parameters` of all arms."""
        more, state = self.more_arms(n_arms), self.state()
        for part in self.learned:
            for name, values in state[part].items():
                if self.is_by_arm(name):
                    state[part][name] = np.pad(values, [(0, more), *[(0, 0)] * (values.ndim - 1)])
        parameters = {name: _by_index(value) for name, value in state["parameters"].items()} | arm_parameters
        observed = np.pad(state["observed"], (0, more))
        return type(self).from_state(
            {**state, "n_arms": int(n_arms), "parameters": parameters, "observed": observed}
        )

    def is_by_arm(self, name: str) -> bool:
        """Return whether the learned array of this name has a row for each arm."""
        return True

    def take_over(self, former: Policy) -> None:
        """Goes on from what `former`, a policy over as many arms or fewer, has observed of the same rewards."""
        more = self.n_arms - former.n_arms
        if more < 0:
            raise InvalidInput(f"a policy over {self.n_arms} arms can not go on from one over more")
        self.learn_from(former)
        self.observed = np.pad(former.observed, (0, more))
        self.clock_ms = former.clock_ms

    def learn_from(self, former: Policy) -> None:
        """Takes over what `former` has learned, as far as this policy goes by it."""
        raise NotImplementedError


def _by_index(value: Any) -> Any:
    """Numbers by arm as mappings from indices, which more arms than those may have."""
    if isinstance(value, list):
        return dict(enumerate(value))
    return {part: _by_index(each) for part, each in value.items()} if isinstance(value, dict) else value


def _signature(kind: type[Policy]) -> inspect.Signature:
    """Signature of the constructor, which itself takes the parameters of any kind."""
    own = {name: field.default for name, field in declared(kind.Parameters).items()}
    defaults = {**own, **{field.name: field.default for field in fields(Terms)}, **kind.extras}
    return inspect.Signature(
        [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD) for name in kind.sizes]
        + [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=value)
            for name, value in defaults.items()
        ]
    )

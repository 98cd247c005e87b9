"""What every policy is: statistics of K arms (in C, `_arms.Arms`) and a map from them to shares."""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import deepcopy
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypedDict

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bandit_serve.base.durations import parse_duration_ms
from bandit_serve.errors import InvalidInput
from bandit_serve.experiments.metrics import KINDS, LARGEST_VALUE, Binary, MetricKind, names_of
from bandit_serve.policies._arms import Arms, arm_count, eligible_arms
from bandit_serve.policies.shares import Vector, check_bounds, final_shares

if TYPE_CHECKING:
    from bandit_serve.policies.contextual import ContextualPolicy


UNBOUNDED = tuple(names_of(lambda kind: kind.unbounded))


class Common(TypedDict, total=False):
    """The keyword parameters that every policy takes."""

    objective: str
    low: float | None
    high: float | None
    min_share: float
    max_share: float
    warmup: int
    half_life: str | None
    refresh: str
    holdout: float
    pseudo_history: Mapping[str, float | ArrayLike] | None
    seed: int | None


class Policy(Arms):
    """A policy over `n_arms` arms, which are known by their indices.

    objective: the kind of reward: `binary` (0 or 1), `bounded` (from `low` to `high`, 0 and 1 if not given),
        `count` (at least 0) or `continuous`; a policy supports those in `objectives`. More is better.
    min_share: the least share of every eligible arm, by a mixture with the even split; K · min_share <= 1.
    max_share: the most of any arm; what exceeds it goes to the others. Relaxed to 1/K if it cannot be kept.
    warmup: while an eligible arm was observed less often than this, all is split evenly among such arms.
    half_life: a duration like "24h": `advance` makes what was learned weigh half after each. None: nothing fades.
    refresh: a duration: how often shares follow what is learned where the policy is served; here they always do.
    holdout: the share that is split evenly among the eligible arms whatever was learned, from 0 to 1.
    pseudo_history: what to start with as if it had been observed, each a number or one an arm, (K,): `n`, of at
        least 0, its `mean`, and for unbounded rewards its standard deviation `std` (default 0). It counts as
        observations do and fades as they do; for the warm-up it does not count.
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
    # Whether a reward is weighed by the propensity of its arm, which updates should then be given.
    weighs: ClassVar[bool] = False

    def __init__(
        self,
        n_arms: int,
        own: Mapping[str, Any],
        *,
        chooser: object = None,
        constants: ArrayLike = (),
        leading: float = 1.0,
        objective: str = Binary.name,
        low: float | None = None,
        high: float | None = None,
        min_share: float = 0.0,
        max_share: float = 1.0,
        warmup: int = 0,
        half_life: str | None = None,
        refresh: str = "50ms",
        holdout: float = 0.0,
        pseudo_history: Mapping[str, float | ArrayLike] | None = None,
        seed: int | None = None,
    ) -> None:
        """For subclasses: `own` are their parameters; `chooser`, `constants` and `leading` what `_arms.Arms` says."""
        n_arms = arm_count(n_arms)
        check_bounds(n_arms, min_share, max_share)
        self.half_life_ms = None if half_life is None else positive_ms("half_life", half_life)
        self.half_life = half_life
        positive_ms("refresh", refresh)
        reward = reward_kind(self.kind, self.objectives, objective, low, high)
        super().__init__(
            n_arms,
            low=reward.floor,
            high=reward.ceiling,
            whole=reward.two_valued,
            unbounded=reward.unbounded,
            seed=seed,
            min_share=min_share,
            max_share=max_share,
            holdout=share_of_all("holdout", holdout),
            warmup=times("warmup", warmup),
            learns=self.learns,
            weighs=self.weighs,
            leading=leading,
            chooser=chooser,
            parameters=constants,
        )
        self.clock_ms: int | None = None
        self.objective = objective
        self.unbounded = reward.unbounded
        self.reward_range = (reward.floor, reward.ceiling)
        self.low = reward.floor if reward.takes_bounds else None
        self.high = reward.ceiling if reward.takes_bounds else None
        self.own = dict(own)
        if pseudo_history is not None:
            self.restore(self._pseudo_statistics(pseudo_history))
            self.observed = np.zeros(n_arms, dtype=np.int64)

    def raw_shares(self, statistics: dict[str, Vector], arms: NDArray[np.intp]) -> Vector:
        """The policy itself, for subclasses: shares (E,) of the eligible `arms`, indices (E,).

        `statistics`: n and total (and gain where it weighs), or n, mean and m2, (E,) each. Shares
        need not sum to 1 exactly.
        """
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
        """The probability, float64 (K,), with which each arm is to be chosen now.

        eligible: bool (K,); the shares are the policy's over those arms alone, and 0 for the others.
        pending: numbers (K,) of at least 0: the weight of observations of `pending_value` that are not
            counted yet and to be reckoned with this time.
        decided: numbers (K,) of at least 0: the decisions for each arm that `warmup` is to go by, where they are
            known; otherwise it goes by `observed`.
        ramps: shares (K,): the most that each arm may have for now, before the holdout.
        """
        arms = eligible_arms(eligible, self.n_arms)
        seen = self.observed if decided is None else weights("decided", decided, self.n_arms)
        most = None if ramps is None else weights("ramps", ramps, self.n_arms)
        short = seen[arms] < self.warmup
        statistics = self.statistics(pending, pending_value)
        if short.any():
            raw = short.astype(np.float64)
        else:
            raw = self.raw_shares({name: values[arms] for name, values in statistics.items()}, arms)
        return final_shares(raw, arms, self.n_arms, self.min_share, self.max_share, most, self.holdout)

    def advance(self, now_ms: int) -> bool:
        """Lets what was learned fade from the last call's time to `now_ms`, Unix milliseconds; whether it did.

        The first call only sets the clock, and a time before the last one's is passed over. Without `half_life`
        nothing happens.
        """
        if self.half_life_ms is None:
            return False
        if self.clock_ms is None:
            self.clock_ms = now_ms
        elapsed_ms = now_ms - self.clock_ms
        if elapsed_ms <= 0:
            return False
        self.clock_ms = now_ms
        # 2^-1000 is less than what `forget` keeps of any weight.
        self.forget(math.exp2(-min(elapsed_ms / self.half_life_ms, 1000.0)))
        return True

    def grown(self, n_arms: int) -> Self:
        """The same policy with arms up to `n_arms`: nothing was observed on the new ones."""
        more = arm_count(n_arms) - self.n_arms
        if more < 0:
            raise InvalidInput(f"n_arms must be at least {self.n_arms}, not {n_arms}")
        state = self.state()
        statistics = {name: np.pad(values, (0, more)) for name, values in state["statistics"].items()}
        return type(self).from_state(
            {
                **state,
                "n_arms": int(n_arms),
                "parameters": self.grown_parameters(more),
                "statistics": statistics,
                "observed": np.pad(state["observed"], (0, more)),
            }
        )

    def take_over(self, former: Policy | ContextualPolicy) -> None:
        """Goes on from what `former`, a policy over as many arms or fewer, has observed of the same rewards.

        A policy that weighs takes the rewards of one that does not as of arms that were drawn evenly.
        """
        more = self.n_arms - former.n_arms
        theirs = former.statistics()
        shared = set(theirs) & set(self.statistics())
        statistics = {name: np.pad(theirs[name], (0, more)) for name in shared}
        gain = statistics.pop("gain", None)
        if self.weighs:
            statistics["gain"] = self.n_arms * statistics["total"] if gain is None else gain
        self.restore(statistics)
        self.observed = np.pad(former.observed, (0, more))
        self.clock_ms = former.clock_ms

    def grown_parameters(self, more: int) -> dict[str, Any]:
        """The parameters of this kind, for subclasses: those by arm have the defaults for `more` arms at the end."""
        return deepcopy(self.own)

    def _pseudo_statistics(self, history: Mapping[str, float | ArrayLike]) -> dict[str, Vector]:
        names = ["n", "mean", "std"] if self.unbounded else ["n", "mean"]
        if not isinstance(history, Mapping) or not {"n", "mean"} <= set(history) <= set(names):
            raise InvalidInput(f"pseudo_history must be a mapping of {', '.join(names)}, not {history!r}")
        given = {
            name: by_arm(f"pseudo_history.{name}", history.get(name, 0.0), self.n_arms) for name in names
        }
        n, mean = given["n"], given["mean"]
        if (n < 0.0).any() or (n > MOST_PSEUDO).any():
            raise InvalidInput(f"pseudo_history.n must be from 0 to {MOST_PSEUDO:g}")
        n = np.where(n >= LEAST_WEIGHT, n, 0.0)
        low, high = self.reward_range
        if ((n > 0.0) & ((mean < low) | (mean > high))).any():
            raise InvalidInput(f"pseudo_history.mean must be from {low:g} to {high:g}")
        if self.unbounded:
            if (np.abs(given["std"]) > LARGEST_VALUE).any():
                raise InvalidInput(f"pseudo_history.std must be from 0 to {LARGEST_VALUE:g}")
            return {"n": n, "mean": np.where(n > 0.0, mean, 0.0), "m2": n * given["std"] ** 2}
        total = np.where(n > 0.0, np.clip(n * ((mean - low) / (high - low)), 0.0, n), 0.0)
        # As if each pseudo-observation had come with the propensity 1/K.
        return {"n": n, "total": total, **({"gain": self.n_arms * total} if self.weighs else {})}

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
            "warmup": self.warmup,
            "half_life": self.half_life,
            "holdout": self.holdout,
            "parameters": deepcopy(self.own),
            "statistics": self.statistics(),
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
        common = {name: state[name] for name in COMMON}
        policy = cls(state["n_arms"], **own, **common)
        policy.restore(state["statistics"])
        policy.observed = state["observed"]
        clock_ms = state["clock_ms"]
        policy.clock_ms = None if clock_ms is None else times("clock_ms", clock_ms)
        policy.randomness = state["randomness"]
        return policy

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).from_state, (self.state(),)


COMMON = frozenset({"objective", "low", "high", "min_share", "max_share", "warmup", "half_life", "holdout"})
STATE = COMMON | {"kind", "n_arms", "parameters", "statistics", "observed", "clock_ms", "randomness"}
# Fewer observations than this are none, as where they are forgotten: of less, quotients lose their digits.
LEAST_WEIGHT = 1e-100
# More pseudo-observations than this are refused: beside them nothing that is observed would count.
MOST_PSEUDO = 1e12


def reward_kind(
    kind: str, objectives: frozenset[str], objective: str, low: float | None, high: float | None
) -> MetricKind:
    """Kind of an objective's rewards; InvalidInput when a policy of `kind` does not take it."""
    if not isinstance(objective, str) or objective not in objectives:
        raise InvalidInput(f"{kind} takes an objective of {', '.join(sorted(objectives))}, not {objective!r}")
    of_objective = KINDS[objective]
    if of_objective.takes_bounds:
        return of_objective(*bounds(low, high))
    if low is not None or high is not None:
        takers = " or ".join(sorted(names_of(lambda each: each.takes_bounds)))
        raise InvalidInput(f"low and high belong to a {takers} objective, not to a {objective} one")
    return of_objective()


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


def mean_rewards(statistics: dict[str, Vector]) -> Vector:
    """The mean rewards (E,) that the statistics of `Policy.raw_shares` hold; 0 where nothing was observed."""
    if "mean" in statistics:
        return statistics["mean"]
    n = statistics["n"]
    return np.divide(statistics["total"], n, out=np.zeros(n.size), where=n > 0.0)


def positive(name: str, value: object) -> float:
    """`value` as a float; InvalidInput, naming `name`, unless it is from 1e-12 to the largest reward."""
    number = finite(name, value)
    if not 1e-12 <= number <= LARGEST_VALUE:
        raise InvalidInput(f"{name} must be from 1e-12 to {LARGEST_VALUE:g}, not {value!r}")
    return number


def share_of_all(name: str, value: object) -> float:
    """`value` as a float; InvalidInput, naming `name`, unless it is a number from 0 to 1."""
    share = finite(name, value)
    if not 0.0 <= share <= 1.0:
        raise InvalidInput(f"{name} must be a number from 0 to 1, not {value!r}")
    return share


def times(name: str, value: object) -> int:
    """`value` as an int; InvalidInput, naming `name`, unless it is a whole number from 0 to 2^53."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not 0 <= value <= 2**53:
        raise InvalidInput(f"{name} must be a whole number of at least 0, not {value!r}")
    return int(value)


def positive_ms(name: str, duration: object) -> int:
    """The milliseconds of a duration like "24h"; InvalidInput, naming `name`, unless they are above 0."""
    try:
        milliseconds = parse_duration_ms(duration) if isinstance(duration, str) else 0
    except InvalidInput as error:
        raise InvalidInput(f"{name}: {error}") from None
    if milliseconds <= 0:
        raise InvalidInput(f'{name} must be a duration above 0 like "24h", not {duration!r}')
    return milliseconds


def by_arm(name: str, value: object, n_arms: int) -> Vector:
    """`value`, a number for all arms or one for each, as float64 (n_arms,); InvalidInput unless all are finite."""
    if np.ndim(value) == 0:  # type: ignore[arg-type]
        return np.full(n_arms, finite(name, value))
    try:
        array = np.array(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"{name} must be a number or {n_arms} numbers: {error}") from None
    if array.shape != (n_arms,) or not np.isfinite(array).all():
        raise InvalidInput(f"{name} must be a finite number, or {n_arms} of them")
    return array


def weights(name: str, values: ArrayLike, n_arms: int) -> NDArray[np.float64]:
    """`values` as float64 (n_arms,); InvalidInput, naming `name`, unless they are numbers of at least 0."""
    try:
        array = np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"{name} must be {n_arms} numbers: {error}") from None
    if array.shape != (n_arms,) or not np.isfinite(array).all() or (array < 0.0).any():
        raise InvalidInput(f"{name} must be {n_arms} finite numbers of at least 0")
    return array

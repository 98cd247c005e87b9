"""Random histories of valid experiments, with every number drawn close to a bound of the code.

A history is drawn from choices alone (`Choices`), so the same code serves a fast random run, by seed, and Hypothesis,
which makes a failing history small.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, TypeVar

import msgspec
import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from bandit_serve.changes.experiments import servable
from bandit_serve.errors import InvalidInput
from bandit_serve.experiments.checks import with_arm, with_metric, with_policy
from bandit_serve.experiments.metric import Metric
from bandit_serve.experiments.policy_spec import PolicySpec
from bandit_serve.experiments.spec import Experiment, Joined, Ramp, Record, Standing
from bandit_serve.folds.experiment import LiveExperiment
from bandit_serve.log.events import (
    CHANGED,
    EXPOSED,
    FIRST,
    HELD_OUT,
    REVISED,
    REVISION,
    REWARD,
    REWARDED,
    TICK,
    Change,
    Changed,
    Exposed,
    encode,
    pack_rewards,
)
from bandit_serve.log.offset import Offset
from bandit_serve.metrics import KINDS, MAX_COUNT, MAX_VALUE
from bandit_serve.policies import POLICIES

T = TypeVar("T")

Entry = tuple[Offset, bytes, bytes]
Decision = tuple[int, int, int, int, float, int, int, bytes]
"""Worker, number, time, arm, propensity, unit, flags, features."""


class Choices(Protocol):
    """Source of random choices: an element of a sequence, or an integer from `low` to `high`."""

    def one_of(self, things: Sequence[T]) -> T: ...

    def integer(self, low: int, high: int) -> int: ...


class RandomChoices:
    """Choices by a seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def one_of(self, things: Sequence[T]) -> T:
        return self._random.choice(things)

    def integer(self, low: int, high: int) -> int:
        return self._random.randint(low, high)


def chance(choices: Choices, percent: int) -> bool:
    return choices.integer(1, 100) <= percent


TINY = math.ulp(0.0)
BELOW_ONE = math.nextafter(1.0, 0.0)
ABOVE_ONE = math.nextafter(1.0, 2.0)
MAX_EXACT_FLOAT = 2.0**53

WINDOWS = ["10ms", "11ms", "999ms", "1s", "1h", "90d"]
HALF_LIVES = ["1ms", "7ms", "1s", "1h", "90d", "999999999d"]
# Of a bounded objective: as wide and as narrow as there are, and where both are rounded most.
RANGES = [
    (0.0, 1.0),
    (-1.0, 2.0),
    (0.1, 0.3),
    (-MAX_VALUE, MAX_VALUE),
    (0.0, MAX_VALUE),
    (-MAX_VALUE, 0.0),
    (math.nextafter(MAX_VALUE, 0.0), MAX_VALUE),
    (-MAX_VALUE, math.nextafter(-MAX_VALUE, 0.0)),
    (1.0, ABOVE_ONE),
    (BELOW_ONE, 1.0),
    (0.0, TINY),
    (-TINY, TINY),
    (-TINY, 0.0),
    (0.0, 1e-300),
    (-1e-300, MAX_VALUE),
    (0.1, math.nextafter(0.1, 1.0)),
    (1e15, 1e15 + 0.125),
    (-(2.0**53), 2.0**53),
]
CONTINUOUS = [
    0.0,
    -0.0,
    1.0,
    14.5,
    3.2,
    0.1,
    -0.1,
    0.3,
    1e-9,
    TINY,
    -TINY,
    1e-300,
    1e-160,
    1e-80,
    1e15,
    1e15 + 1.0,
    MAX_EXACT_FLOAT,
    1e16,
    1e40,
    MAX_VALUE,
    -MAX_VALUE,
    math.nextafter(MAX_VALUE, 0.0),
    -1e40,
]
COUNTS = [0.0, 1.0, 2.0, 3.0, 7.0, 1000.0, 65_537.0, MAX_COUNT - 1.0, float(MAX_COUNT)]
# Rewards that logs of former versions may hold.
FORMER_COUNTS = [1795892426485000.0, 1e15, MAX_EXACT_FLOAT, 1e16, 1e40, MAX_VALUE, 999999999999999.0]
# In the unit of the experiment's half-life and of its window.
GAPS = [0.0, 0.0, 0.0, 0.01, 1 / 64, 0.02, 0.5, 1.0, 1.0, 2.0, 16.0, 50.0, 64.0, 300.0, 332.0, 340.0, 1000.0]
PSEUDO = [0.0, TINY, 1e-300, 1e-100, 1e-99, 1e-16, 0.5, 1.0, 1e6, 1e12]
SHARES = [0.0, TINY, 1e-300, 1e-17, 1e-9, 0.01, 0.1, 0.5, BELOW_ONE, 1.0]
POSITIVE = [1e-12, 1e-9, 1e-3, 0.05, 1.0, 1e3, 1e9, MAX_VALUE]
CONTEXTUAL_POSITIVE = [1e-9, 1e-3, 0.1, 1.0, 1e3, 1e9]
PRIORS: dict[str, dict[str, list[float]]] = {
    "bernoulli": {"alpha": [1e-6, 1.0, 0.5, 1e9], "beta": [1e-6, 1.0, 3.0, 1e9]},
    "poisson": {"alpha": [1e-6, 1.0, 1e9], "beta": [1e-30, 1e-6, 1.0, 1e9]},
    "normal": {
        "mean": [0.0, -MAX_VALUE, MAX_VALUE, 1e-300, 7.0],
        "kappa": [1e-9, 1e-4, 1.0, 1e9],
        "alpha": [0.05, 0.5, 1.0, 1e9],
        "beta": [1e-30, 1.0, 1e30],
    },
    "linear": {"precision": [1e-6, 1.0, 1e9]},
}
NUMBERS = [0.0, 1.0, -1.0, 1e-6, 1e6, -1e6, 1e5, 0.5, 3.0, TINY, 1e-30]
FEATURES = [0.0, 1.0, -1.0, 1e-9, 1e9, -1e9, 0.5, 1e-45]
COVARIATES = [0.0, 1.0, -1.0, 3.5, 1e12, -1e12, 1e-40]
WORKERS = [1, 2, 2**64 - 1]
# In the year 6429: times of answers are written with four digits of the year.
LATEST_MS = 2**47


class History:
    """Random history: `written()` yields the entries of its log one by one, in their wire form.

    Decisions are drawn from the shares of `live`, the fold of the entries so far. former: whether rewards occur that
    only a former version would have accepted. revising: whether values come that are sums of events. analysed: whether
    experiments ask for more of their results: covariates, ratios, quantiles, caps, guardrails, dimensions, horizons,
    lists that are interleaved, and metrics that come later. trading: whether policies go by several metrics.
    """

    def __init__(
        self,
        choices: Choices,
        *,
        former: bool = False,
        revising: bool = False,
        analysed: bool = False,
        trading: bool = False,
    ) -> None:
        self._choices = choices
        self._trading = trading
        self._analysed = analysed
        self._former = former
        self._revising = revising
        self._time_ms = choices.one_of([1_000, 1_700_000_000_000, LATEST_MS // 2])
        self._sequence = 0
        self._counters = dict.fromkeys(WORKERS, 0)
        # Those that rewards may come for.
        self._decisions: list[Decision] = []
        # The store lets a reward of a metric in once for each decision. Its value by worker, number and metric, NaN
        # where it is gone, and when it first had one.
        self._given: dict[tuple[int, int, int], tuple[Decision, float, int]] = {}
        self.live = self._first()

    # -- experiments

    def _first(self) -> LiveExperiment:
        for _ in range(1_000):
            try:
                made = servable(msgspec.convert(self._description(), Experiment))
                live = LiveExperiment(Changed(self._record(made), Change("create", "test")))
            except InvalidInput:
                continue
            live.offset = Offset(self._time_ms, 0)
            return live
        raise AssertionError("no legal experiment came up")

    @staticmethod
    def _record(made: Experiment) -> Record:
        return Record(made, 7, "running", 1, created_ms=1, updated_ms=1)

    def _description(self) -> dict[str, Any]:
        choices = self._choices
        n_arms = choices.one_of([1, 2, 2, 3, 3, 4, 7])
        objective = self._metric("objective")
        others = [self._metric(f"m{i}") for i in range(choices.one_of([0, 0, 0, 1, 2]))]
        metrics = [*others, {**objective, "role": "objective"}]
        context: list[dict[str, Any]] = []
        if chance(choices, 40):
            context = self._context()
        described = {
            "id": "e",
            "arms": [{"name": f"a{k}"} for k in range(n_arms)],
            "control": choices.one_of([None, f"a{n_arms - 1}"]),
            "metrics": metrics,
            "unit": choices.one_of(["request", "request", "user"]),
            "attribution": {
                "window": choices.one_of(WINDOWS),
                "missing": choices.one_of(["zero", "ignore"]),
            },
            "policy": self._policy(n_arms, objective, bool(context)),
            "context": context,
            "stopping": {"alpha": choices.one_of([0.05, TINY, 1e-9, BELOW_ONE])},
        }
        if self._analysed:
            self._ask_for_more(described)
        if self._trading:
            self._trade(described)
        contextual = POLICIES[described["policy"]["kind"]].contextual
        if described["unit"] == "user" and not contextual and chance(choices, 50):
            described["keep_assigned"] = True
        if context and chance(choices, 30):
            m = choices.one_of([1, 2])
            for arm in described["arms"]:
                arm["features"] = [choices.one_of(FEATURES) for _ in range(m)]
        return described

    def _ask_for_more(self, described: dict[str, Any]) -> None:
        choices = self._choices
        if chance(choices, 15):
            described |= {
                "arms": [{"name": f"a{k}", "model": "m", "version": f"v{k}"} for k in range(2)],
                "control": choices.one_of(["a0", "a1"]),
                "mode": "interleave",
                "unit": "request",
                "context": [],
                "policy": {"kind": "fixed_split"},
            }
        metrics = described["metrics"]
        others = [metric for metric in metrics if "role" not in metric]
        for metric in metrics:
            if chance(choices, 25):
                metric["covariate"] = choices.one_of(["before", "before", "earlier"])
            if chance(choices, 25):
                metric["cap"] = choices.one_of([TINY, 0.5, 1.0, 1e6, 1e40])
        for metric in others:
            if chance(choices, 25):
                metric["quantile"] = choices.one_of([TINY, 0.5, 0.99, BELOW_ONE])
            if chance(choices, 40):
                metric["role"] = "guardrail"
                metric["margin"] = {
                    choices.one_of(["absolute", "relative"]): choices.one_of([0.0, TINY, 0.1, 1_000.0])
                }
                metric["on_harm"] = choices.one_of(["report", "pause_arm", "stop"])
        if chance(choices, 25):
            served = {"kind": "continuous", "goal": "minimize", "source": "served"}
            metrics.append({"name": "latency_ms", **served})
        if described["unit"] == "user" and chance(choices, 60):
            parts = [{"name": f"p{i}", "kind": choices.one_of(["count", "continuous"])} for i in range(2)]
            metrics += [*parts, {"name": "r", "kind": "ratio", "numerator": "p0", "denominator": "p1"}]
        named = [field["name"] for field in described["context"] if field["kind"] == "categorical"]
        if named and chance(choices, 70):
            described["dimensions"] = named
        stopping = described["stopping"]
        if chance(choices, 50):
            stopping["expected_samples"] = choices.one_of([50, 51, 1_000, 10**12])
        if described["policy"]["kind"] == "fixed_split" and chance(choices, 50):
            stopping |= {"mode": "horizon", "looks": choices.one_of([1, 2, 5, 50])}
            stopping["expected_samples"] = choices.one_of([50, 51, 100])
        if chance(choices, 30):
            rules = ["winner", {"precision": 0.1}, {"futility": 0.1}, {"best_arm": 0.05}]
            stopping["rule"] = choices.one_of(rules)

    def _trade(self, described: dict[str, Any]) -> None:
        """Gives a description weights or constraints, of metrics beside those that it has."""
        choices, metrics = self._choices, described["metrics"]
        others = [self._metric(f"t{i}") for i in range(choices.one_of([1, 1, 2, 3]))]
        if chance(choices, 30):
            others.append(
                {"name": "latency_ms", "kind": "continuous", "goal": "minimize", "source": "served"}
            )
        metrics[:] = [metric for metric in metrics if metric["name"] != "latency_ms"] + others
        described["stopping"].pop("rule", None)
        weighted = chance(choices, 50)
        if weighted:
            described["weights"] = {
                metric["name"]: choices.one_of([1e-12, 0.001, 1.0, 1e9])
                * (1.0 if metric["goal"] == "maximize" else -1.0)
                for metric in [metrics[0], *others]
                if metric["name"] == others[0]["name"] or chance(choices, 50)
            }
        if not weighted or chance(choices, 50):
            described["constraints"] = [self._constraint(metric) for metric in others]

    def _constraint(self, metric: dict[str, Any]) -> dict[str, Any]:
        limits = self._values(msgspec.convert(metric, Metric))
        side = self._choices.one_of(["at_most", "at_least"])
        return {"metric": metric["name"], side: self._choices.one_of(limits)}

    def _metric(self, name: str) -> dict[str, Any]:
        choices = self._choices
        kind = choices.one_of(list(KINDS))
        metric = {"name": name, "kind": kind, "goal": choices.one_of(["maximize", "minimize"])}
        if KINDS[kind].takes_bounds:
            metric["low"], metric["high"] = choices.one_of(RANGES)
        return metric

    def _context(self) -> list[dict[str, Any]]:
        choices = self._choices
        numeric = {
            "name": "x",
            "kind": "numeric",
            "std": choices.one_of([None, 1.0, 1e-6, MAX_VALUE, TINY]),
        }
        category = {"name": "c", "kind": "categorical", "values": ["p", "q"]}
        other = {"name": "y", "kind": "numeric", "mean": choices.one_of([None, 1e6, -MAX_VALUE])}
        chosen = choices.one_of([[numeric], [category], [numeric, category], [numeric, other]])
        if len(chosen) > 1 and chance(choices, 50):
            chosen[0] = {**chosen[0], "interactions": [chosen[1]["name"]]}
        return chosen

    def _policy(self, n_arms: int, objective: dict[str, Any], context: bool) -> dict[str, Any]:
        choices = self._choices
        modelled = KINDS[objective["kind"]].learned_as(objective["goal"]).name
        kinds = [
            kind
            for kind, policy in POLICIES.items()
            if modelled in policy.objectives and policy.contextual <= context
        ]
        contextual = [kind for kind in kinds if POLICIES[kind].contextual]
        kind = choices.one_of(contextual if contextual and chance(choices, 70) else kinds)
        if self._trading:
            kind = "thompson"
        policy: dict[str, Any] = {"kind": kind}
        if chance(choices, 60):
            policy["min_share"] = choices.one_of([*SHARES, 1.0 / n_arms, 0.5 / n_arms])
        if chance(choices, 25):
            policy["max_share"] = choices.one_of([*SHARES[1:], 1.0 / n_arms])
        if chance(choices, 25):
            policy["warmup"] = choices.one_of([0, 1, 2, 5, 2**53])
        if chance(choices, 60):
            policy["half_life"] = choices.one_of(HALF_LIVES)
        if chance(choices, 25):
            policy["holdout"] = choices.one_of(SHARES)
        for name in POLICIES[kind].parameters:
            if name not in ("prior", "shares", "arm_features") and chance(choices, 50):
                policy[name] = choices.one_of(self._values_of(name, kind))
        if kind == "fixed_split" and chance(choices, 50):
            policy["shares"] = {f"a{k}": choices.one_of([*SHARES, MAX_VALUE]) for k in range(n_arms)}
        if "prior" in POLICIES[kind].parameters and chance(choices, 50):
            policy["prior"] = self._prior(n_arms, kind, modelled)
        if not POLICIES[kind].contextual and chance(choices, 40):
            policy["pseudo_history"] = self._pseudo_history(n_arms, objective)
        return policy

    @staticmethod
    def _values_of(name: str, kind: str) -> list[float]:
        if name == "decay":
            return [0.0, TINY, 1e-3, 1.0, 1e9]
        if name in ("epsilon", "gamma", "beta") and not POLICIES[kind].contextual:
            return SHARES
        return CONTEXTUAL_POSITIVE if POLICIES[kind].contextual else POSITIVE

    def _prior(self, n_arms: int, kind: str, modelled: str) -> dict[str, Any]:
        likelihood = KINDS[modelled].likelihood
        return {
            name: self._by_arm(n_arms, values)
            for name, values in PRIORS["linear" if POLICIES[kind].contextual else likelihood].items()
            if chance(self._choices, 60)
        }

    def _by_arm(self, n_arms: int, values: Sequence[float]) -> Any:
        if chance(self._choices, 50):
            return self._choices.one_of(values)
        return {f"a{k}": self._choices.one_of(values) for k in range(n_arms) if chance(self._choices, 80)}

    def _pseudo_history(self, n_arms: int, objective: dict[str, Any]) -> dict[str, Any]:
        metric = msgspec.convert(objective, Metric)
        means = self._values(metric)
        if not metric.traits.unbounded:
            means = [*means, metric.traits.floor + (metric.traits.ceiling - metric.traits.floor) * 0.3]
        history = {"n": self._by_arm(n_arms, PSEUDO), "mean": self._by_arm(n_arms, means)}
        if metric.traits.unbounded and chance(self._choices, 50):
            history["std"] = self._by_arm(n_arms, [0.0, TINY, 1.0, 1e40, MAX_VALUE])
        return history

    def _values(self, metric: Metric) -> list[float]:
        traits = metric.traits
        low, high = traits.floor, traits.ceiling
        if traits.two_valued:
            return [low, high]
        if traits.unbounded:
            values = [*filter(traits.takes, CONTINUOUS if traits.takes(0.1) else COUNTS)]
            former = [value for value in FORMER_COUNTS if low <= value <= high and not traits.takes(value)]
            return [*values, *former] if self._former else values
        middle = low + (high - low) * self._choices.one_of([0.5, 0.1, 1 / 3, 0.9, 1e-17])
        near = [math.nextafter(low, high), math.nextafter(high, low), middle]
        return [*filter(traits.takes, [low, high, *near, min(max(0.0, low), high)])]

    # -- entries

    def written(self, n_entries: int) -> Iterator[Entry]:
        """Yields entries; the caller applies each to `live` before it asks for the next."""
        yield self._entry(CHANGED, encode(Changed(self.live.record, Change("create", "test"))))
        choices = self._choices
        for _ in range(n_entries):
            self._pass_time()
            what = choices.integer(1, 100)
            if what <= 35:
                yield self._entry(EXPOSED, encode(self._exposed()))
            elif what <= 75:
                yield self._revised() if self._revising and chance(choices, 60) else self._rewarded()
            elif what <= 85:
                yield self._entry(TICK, b"")
            else:
                changed = self._changed()
                if changed is not None:
                    yield self._entry(CHANGED, encode(changed))

    def _entry(self, kind: bytes, data: bytes) -> Entry:
        return Offset(self._time_ms, self._sequence), kind, data

    def _pass_time(self) -> None:
        live, choices = self.live, self._choices
        unit_ms = choices.one_of(
            [live.experiment.attribution.window_ms, live.policy.half_life_ms or 1_000, 1]
        )
        gap_ms = min(int(choices.one_of(GAPS) * unit_ms), 2**50)
        if chance(choices, 5):
            gap_ms = -choices.one_of([1, 7, 1_000])
        if gap_ms and 0 < self._time_ms + gap_ms < LATEST_MS:
            self._time_ms += gap_ms
            self._sequence = 0
        else:
            self._sequence += 1

    def x(self) -> NDArray[np.float32] | None:
        """Features of a random context; None if the experiment has no context."""
        if self.live.features is None:
            return None
        context: dict[str, Any] = {}
        for field in self.live.features.fields:
            if chance(self._choices, 85):
                context[field.name] = self._choices.one_of(
                    NUMBERS if field.kind == "numeric" else ["p", "q", "r"]
                )
        return self.live.features.vector(context)

    def logged(self, x: NDArray[np.float32] | None) -> NDArray[np.float32] | None:
        """What the log has of a decision for features x: random covariates stand behind them."""
        names = self.live.experiment.covariates
        if not names:
            return x
        covariates = np.array([self._choices.one_of(COVARIATES) for _ in names], np.float32)
        return covariates if x is None else np.concatenate([x, covariates])

    def _rewarded_metric(self) -> int:
        """Index of a metric that has rewards, the objective most often."""
        metrics = self.live.experiment.metrics
        if chance(self._choices, 80):
            return metrics.index(self.live.experiment.objective)
        if not self._analysed:
            return self._choices.integer(0, len(metrics) - 1)
        return self._choices.one_of([i for i, metric in enumerate(metrics) if not metric.is_ratio])

    def mask(self) -> NDArray[np.bool_]:
        """Random eligible arms: at least one of the active ones."""
        active = self.live.active
        some = np.array([bool(there) and chance(self._choices, 70) for there in active])
        return some if some.any() else active

    def _exposed(self) -> Exposed:
        choices, live = self._choices, self.live
        worker, revision = choices.one_of(WORKERS), live.record.revision
        if chance(choices, 10):
            # Its flush was lost.
            self._counters[worker] += choices.one_of([1, 3, 2**16])
        first = self._counters[worker]
        sticky = live.experiment.unit == "user" or live.experiment.interleaves
        time_ms = max(self._time_ms - choices.one_of([0, 0, 1, 100, 10_000]), 1)
        arms, ages, units, held, vectors, runs, xs = [], [], [], [], [], [], []
        age = 0
        for _ in range(choices.one_of([1, 1, 2, 3])):
            x = self.x()
            vector = live.shares(self.mask(), self._time_ms, x)
            vectors.append(vector)
            n = choices.one_of([1, 1, 2, 5, 70]) if x is None else 1
            runs.append(n)
            drawn = np.flatnonzero(vector > 0.0).tolist()
            for _ in range(n):
                arm = choices.one_of(drawn)
                age += choices.one_of([0, 0, 1, 50])
                unit = choices.integer(1, 6) if sticky else 0
                flag = HELD_OUT if live.policy.holdout and chance(choices, 30) else 0
                arms.append(arm)
                ages.append(age)
                held.append(flag)
                if sticky:
                    units.append(unit)
                logged = self.logged(x)
                packed = b"" if logged is None else logged.tobytes()
                xs.append(packed)
                self._decisions.append(
                    (
                        worker,
                        first + len(arms) - 1,
                        time_ms + age,
                        arm,
                        float(vector[arm]),
                        unit,
                        flag,
                        packed,
                    )
                )
        self._counters[worker] += len(arms)
        return Exposed(
            incarnation=worker,
            first=first,
            revision=revision,
            time_ms=time_ms,
            arms=np.array(arms, "<u2").tobytes(),
            ages_ms=np.array(ages, "<u4").tobytes(),
            units=np.array(units, "<u8").tobytes(),
            vectors=b"".join(vector.tobytes() for vector in vectors),
            runs=np.array(runs, "<u4").tobytes(),
            held_out=np.packbits(np.array(held, np.uint8), bitorder="little").tobytes() if any(held) else b"",
            x=b"".join(xs),
        )

    def _orphan(self, x: NDArray[np.float32] | None, vector: NDArray[np.float64]) -> Decision:
        """Decision for features x, drawn from `vector`, whose exposure is never logged."""
        choices, live = self._choices, self.live
        arm = choices.one_of(np.flatnonzero(vector > 0.0).tolist())
        worker = choices.one_of(WORKERS)
        number, self._counters[worker] = self._counters[worker], self._counters[worker] + 1
        sticky = live.experiment.unit == "user" or live.experiment.interleaves
        unit = choices.integer(1, 6) if sticky else 0
        logged = self.logged(x)
        packed = b"" if logged is None else logged.tobytes()
        return worker, number, self._time_ms, arm, float(vector[arm]), unit, 0, packed

    def _rewarded(self) -> Entry:
        choices, live = self._choices, self.live
        metrics = live.experiment.metrics
        n = choices.one_of([1, 1, 1, 1, 2, 2, 5, 40, 150])
        rows = np.zeros(n, REWARD)
        xs = []
        orphans_x = self.x()
        orphans_vector = live.shares(self.mask(), self._time_ms, orphans_x)
        # Some histories have one value only, or but a few.
        few = chance(choices, 30)
        for i in range(n):
            decision = (
                choices.one_of(self._decisions)
                if self._decisions and chance(choices, 90)
                else self._orphan(orphans_x, orphans_vector)
            )
            metric = self._rewarded_metric()
            if (*decision[:2], metric) in self._given:
                decision = self._orphan(orphans_x, orphans_vector)
            values = self._values(metrics[metric])
            value = choices.one_of(values[:2] if few else values)
            assert self._former or metrics[metric].refuses(value) is None
            self._given[*decision[:2], metric] = decision, value, self._time_ms
            worker, number, time_ms, arm, propensity, unit, flags, x = decision
            rows[i] = (worker, number, time_ms, value, propensity, unit, 1, arm, metric, flags)
            xs.append(x)
        if live.n_logged == 0:
            return self._entry(REWARDED, rows.tobytes())
        x = np.frombuffer(b"".join(xs), "<f4").reshape(n, live.n_logged)
        return self._entry(REWARDED, pack_rewards(rows, x))

    def _revised(self) -> Entry:
        choices, live = self._choices, self.live
        metrics = live.experiment.metrics
        n = choices.one_of([1, 1, 2, 5, 40])
        rows = np.zeros(n, REVISION)
        xs = []
        orphans_x = self.x()
        orphans_vector = live.shares(self.mask(), self._time_ms, orphans_x)
        for i in range(n):
            metric = self._rewarded_metric()
            known = [key for key in self._given if key[2] == metric]
            if known and chance(choices, 70):
                decision, former, since_ms = self._given[choices.one_of(known)]
            else:
                decision, former, since_ms = self._orphan(orphans_x, orphans_vector), math.nan, FIRST
                if self._decisions and chance(choices, 90):
                    decision = choices.one_of(self._decisions)
                    former, since_ms = self._given.get((*decision[:2], metric), (decision, math.nan, FIRST))[
                        1:
                    ]
            gone = not math.isnan(former) and chance(choices, 30)
            value = math.nan if gone else choices.one_of(self._values(metrics[metric]))
            worker, number, time_ms, arm, propensity, unit, flags, x = decision
            began_ms = self._time_ms if since_ms == FIRST else since_ms
            self._given[worker, number, metric] = decision, value, began_ms
            rows[i] = (
                *(worker, number, time_ms, value, propensity, unit, 1, arm, metric, flags),
                *(former, since_ms),
            )
            xs.append(x)
        if live.n_logged == 0:
            return self._entry(REVISED, rows.tobytes())
        x = np.frombuffer(b"".join(xs), "<f4").reshape(n, live.n_logged)
        return self._entry(REVISED, pack_rewards(rows, x))

    def _changed(self) -> Changed | None:
        choices, record = self._choices, self.live.record
        experiment = record.experiment
        names = experiment.arm_names
        objective = msgspec.to_builtins(experiment.objective)
        changes = ["policy", "policy", "arm", "pause", "resume", "remove", "ramp"]
        what = choices.one_of([*changes, "metric", "metric"] if self._analysed else changes)
        try:
            match what:
                case "policy":
                    policy = self._policy(len(names), objective, bool(experiment.context))
                    settings = msgspec.convert(policy, PolicySpec)
                    record = msgspec.structs.replace(record, experiment=with_policy(experiment, settings))
                case "metric" if len(experiment.metrics) < 9:
                    record = self._with_metric(record)
                case "arm" if len(names) < 9 and not experiment.stopping.horizon:
                    like = msgspec.structs.replace(experiment.arms[0], name=f"a{len(names)}")
                    record = msgspec.structs.replace(record, experiment=with_arm(experiment, like))
                case _:
                    record = self._with_standing(what, record)
            servable(record.experiment)
        except InvalidInput:
            return None
        record = msgspec.structs.replace(record, revision=record.revision + 1)
        return Changed(record, Change(what, "test", "why", names[0]))

    def _with_metric(self, record: Record) -> Record:
        experiment = record.experiment
        if experiment.stopping.horizon or experiment.interleaves:
            return record
        name = f"n{len(experiment.metrics)}"
        metric = self._metric(name)
        if chance(self._choices, 30):
            metric["quantile"] = 0.5
        experiment = with_metric(experiment, msgspec.convert(metric, Metric))
        former = () if record.joined is UNSET else record.joined
        since_ms = self._time_ms + self._choices.one_of([0, 0, -5])
        return msgspec.structs.replace(
            record, experiment=experiment, joined=(*former, Joined(name, max(since_ms, 1)))
        )

    def _with_standing(self, what: str, record: Record) -> Record:
        choices = self._choices
        arm = choices.integer(0, len(record.experiment.arms) - 1)
        standing = record.standing(arm)
        if standing.status == "removed":
            return record
        if what == "ramp":
            ramp = Ramp(
                choices.one_of([TINY, 1e-300, 0.01, BELOW_ONE, 1.0]), choices.one_of(["0ms", "1ms", "90d"])
            )
            return record.with_standing(arm, Standing(standing.status, ramp, self._time_ms))
        if what in ("pause", "remove") and arm == record.experiment.control_arm:
            return record
        status = {"pause": "paused", "remove": "removed", "resume": "active"}.get(what, "active")
        return record.with_standing(arm, msgspec.structs.replace(standing, status=status))

"""Many experiments in parallel, run through the real fold with real events, and looked at together.

A look asks `fixed_split` and `moving_shares` about the sums of all folds at once, as a report asks them about one; some
plays are asked for their whole report now and then.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields

import msgspec
import numpy as np
from numpy.typing import NDArray

from bandit_serve.experiments.checks import validated
from bandit_serve.experiments.metric import Metric
from bandit_serve.experiments.policy_spec import PolicySpec
from bandit_serve.experiments.spec import Arm, Attribution, Experiment, Record
from bandit_serve.experiments.stopping import Stopping
from bandit_serve.log.events import REVISION, REWARD, Event, Exposed, Revised, Rewarded
from bandit_serve.log.offset import Offset
from bandit_serve.metrics import KINDS
from bandit_serve.policies.context import ContextField
from bandit_serve.results import Report, ResultsFold
from bandit_serve.results.estimates import Estimates, Sums, fixed_split, moving_shares
from bandit_serve.results.evidence import directed
from bandit_serve.results.harm_evidence import log_e_of_harm
from bandit_serve.results.sequence import Sequence, holm, p_value

ALPHA = 0.05
START_MS = 1_700_000_000_000
STEP_MS = 1_000
NEVER = 2**62
FIRST_LOOK = 100

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def record(
    kinds: list[str],
    n_arms: int = 2,
    policy: PolicySpec | None = None,
    unit: str = "request",
    missing: str = "ignore",
    window: str = "1h",
    context: tuple[ContextField, ...] = (),
) -> Record:
    """Record of a running experiment with a metric of each of `kinds`."""
    bounds = {"low": 0.0, "high": 1.0}
    experiment = Experiment(
        id="e",
        arms=tuple(Arm(name) for name in "abcdefgh"[:n_arms]),
        metrics=tuple(
            Metric(name=f"m{i}", kind=kind, **(bounds if kind == "bounded" else {}))
            for i, kind in enumerate(kinds)
        ),
        unit=unit,
        policy=policy or PolicySpec(kind="fixed_split"),
        attribution=Attribution(window=window, missing=missing),
        context=context,
        stopping=Stopping(alpha=ALPHA, min_samples=0),
    )
    return Record(
        experiment=validated(experiment), uid=7, status="running", revision=2, created_ms=0, updated_ms=0
    )


@dataclass(frozen=True)
class Scale:
    """`runs` experiments of `total` observations, with looks from `FIRST_LOOK` on at each `growth`."""

    runs: int = 300
    total: int = 20_000
    growth: float = 0.01


def blocks(scale: Scale) -> list[int]:
    """Yields the number of observations before each look."""
    sizes, so_far, total = [FIRST_LOOK], FIRST_LOOK, scale.total
    while so_far < total:
        sizes.append(min(max(1, math.ceil(so_far * scale.growth)), total - so_far))
        so_far += sizes[-1]
    return sizes


def drawn(rng: np.random.Generator, shares: Floats) -> Ints:
    """Draws an arm for each row of `shares`, float64 (n, K)."""
    below = rng.random(len(shares))[:, None] >= np.cumsum(shares, axis=1)
    return np.minimum(below.sum(axis=1), shares.shape[1] - 1)


@dataclass(frozen=True)
class Visits:
    """n decisions whose values change: `paths`, float64 (S, M, n), has them after so many steps, NaN for none.

    counters, arms, propensities: (n,). since_ms: when they first had values, a step after they were made.
    """

    counters: Ints
    arms: Ints
    propensities: Floats
    since_ms: int
    paths: Floats


@dataclass
class Play:
    """One running experiment. Its fold keeps no evidence: the looks keep it for all experiments."""

    fold: ResultsFold
    rng: np.random.Generator
    counter: int = 0
    now_ms: int = START_MS

    @classmethod
    def of(cls, about: Record, rng: np.random.Generator) -> Play:
        fold = ResultsFold(about)
        fold.evidence.next_look[:] = NEVER
        return cls(fold, rng)

    def step(
        self,
        shares: Floats,
        arms: Ints,
        values: Floats,
        *,
        is_rewarded: NDArray[np.bool_] | None = None,
        units: NDArray[np.uint64] | None = None,
        waits_ms: Ints | None = None,
        x: Floats | None = None,
    ) -> list[tuple[int, Rewarded]]:
        """Makes n decisions and rewards them.

        arms: (n,), drawn from `shares`, (K,) or (n, K). values: (M, n), the rewards. is_rewarded: bool (M, n), by
        default all True. waits_ms: (n,); with it the rewards are returned, each with its time, instead of being
        applied. x: (n, d), the decisions' features.
        """
        n = len(arms)
        vectors = np.atleast_2d(shares)
        runs = np.ones(n, "<u4") if len(vectors) == n > 1 else np.array([n], "<u4")
        exposure = Exposed(
            incarnation=1,
            first=self.counter,
            revision=2,
            time_ms=self.now_ms,
            arms=arms.astype("<u2").tobytes(),
            ages_ms=np.zeros(n, "<u4").tobytes(),
            units=b"" if units is None else units.astype("<u8").tobytes(),
            vectors=np.ascontiguousarray(vectors, "<f8").tobytes(),
            runs=runs.tobytes(),
            x=b"" if x is None else x.astype("<f4").tobytes(),
        )
        self.apply(exposure)
        own = np.broadcast_to(vectors, (n, vectors.shape[1]))[np.arange(n), arms]
        metric, which = np.nonzero(np.ones(values.shape, bool) if is_rewarded is None else is_rewarded)
        rows = np.zeros(len(which), REWARD)
        rows["incarnation"], rows["revision"], rows["time_ms"] = 1, 2, self.now_ms
        rows["counter"], rows["arm"], rows["propensity"] = self.counter + which, arms[which], own[which]
        rows["metric"], rows["value"] = metric, values[metric, which]
        if units is not None:
            rows["unit"] = units[which]
        own_x = None if x is None else x[which].astype("<f4")

        def rewarded(those: NDArray[np.bool_]) -> Rewarded:
            return Rewarded(rows[those], None if own_x is None else own_x[those])

        later = []
        if waits_ms is None:
            if len(rows):
                self.apply(rewarded(np.ones(len(rows), bool)))
        else:
            later = [
                (self.now_ms + int(wait), rewarded(waits_ms[which] == wait))
                for wait in np.unique(waits_ms[which])
            ]
        self.counter += n
        self.now_ms += STEP_MS
        return later

    def revise(self, visits: Visits, formers: Floats, values: Floats, since_ms: int) -> None:
        """Gives decisions other values, of sums of events; `values` (M, n) that are the `formers` are no change."""
        changed = ~((formers == values) | (np.isnan(formers) & np.isnan(values)))
        metric, which = np.nonzero(changed)
        rows = np.zeros(len(which), REVISION)
        rows["incarnation"], rows["revision"], rows["time_ms"] = 1, 2, visits.since_ms - STEP_MS
        rows["counter"], rows["arm"] = visits.counters[which], visits.arms[which]
        rows["propensity"], rows["since_ms"] = visits.propensities[which], since_ms
        rows["metric"], rows["value"], rows["former"] = metric, values[changed], formers[changed]
        if len(rows):
            self.apply(Revised(rows))

    def apply(self, event: Event, at_ms: int | None = None) -> None:
        self.fold.apply(Offset(self.now_ms if at_ms is None else at_ms, 0), event)


def sums_by_metric(plays: list[Play], n_metrics: int) -> list[Sums]:
    """Sums of each metric over all plays, arrays (K, R)."""
    states = [play.fold.sums.state() for play in plays]
    stacked = {name: np.stack([state[name] for state in states], axis=-1) for name in states[0]}
    contextual = plays[0].fold.sums.contextual
    return [
        Sums(
            **{of.name: stacked[of.name][m] for of in fields(Sums) if of.name != "contextual"},
            contextual=contextual,
        )
        for m in range(n_metrics)
    ]


@dataclass
class Watch:
    """Events that any look has shown for one metric, bool (R,) by run, or (K, R) by arm and run.

    rejected: an adjusted p-value was at most .05. missed_mean, missed_difference: an interval left the truth out.
    harmed: bool (2, R), an arm was shown to be worse on a guardrail that is to be large, and on one that is to be
    small. spoke, spoke_mean: there was an interval of a difference, and one of each arm's mean. widths: float64 (R,),
    half widths of the last interval of the first difference. of_split: half width of an even split's interval, for
    comparison.
    """

    n: int
    means: Floats
    differences: Floats
    of_split: float | None = None
    rejected: NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        self.rejected = np.zeros(self.n, bool)
        self.harmed = np.zeros((2, self.n), bool)
        self.missed_mean, self.missed_difference = np.zeros((2, len(self.means), self.n), bool)
        self.spoke = np.zeros(self.n, bool)
        self.spoke_mean = np.zeros(self.n, bool)
        self.widths = np.full(self.n, np.nan)
        shape = (0, self.n)
        self.largest_e = {moving: (np.zeros(shape), np.zeros(shape)) for moving in (False, True)}
        self.harm = {goal: np.zeros(shape) for goal in ("maximize", "minimize")}

    def look(self, plays: list[Play], metric: int, sums: Sums) -> None:
        experiment = plays[0].fold.record.experiment
        kind, control = KINDS[experiment.metrics[metric].kind], experiment.control_arm
        peers = plays[0].fold.evidence.peers
        added = len(peers) - len(self.largest_e[True][0])
        self.largest_e = {
            by: (np.pad(above, ((0, added), (0, 0))), np.pad(below, ((0, added), (0, 0))))
            for by, (above, below) in self.largest_e.items()
        }
        moved = np.asarray(sums.moved, bool)
        estimates_by: dict[bool, Estimates] = {True: moving_shares(sums, kind, control, peers)}
        if not moved.all():
            estimates_by[False] = fixed_split(sums, kind, control)
        for moving, estimates in estimates_by.items():
            for largest, now in zip(self.largest_e[moving], directed(estimates, ALPHA), strict=True):
                np.maximum(largest, now, out=largest, where=np.ones(self.n, bool) if moving else ~moved)
        self._look_at_harm(estimates_by, moved, experiment.metrics[metric], peers)
        for moving, estimates in estimates_by.items():
            if (moved == moving).any():
                self._note(estimates, moving, moved == moving, control)

    def _look_at_harm(
        self, by: dict[bool, Estimates], moved: NDArray[np.bool_], metric: Metric, peers: Ints
    ) -> None:
        """Keeps the evidence that verdicts are of: that by sample means until the shares move, then the larger."""
        enough = np.log(np.maximum(peers - 1, 1) / ALPHA)[:, None]
        for which, (goal, largest) in enumerate(self.harm.items()):
            largest = np.pad(largest, ((0, len(peers) - len(largest)), (0, 0)))
            for moving, estimates in by.items():
                now = log_e_of_harm(estimates, msgspec.structs.replace(metric, goal=goal), ALPHA)
                np.maximum(largest, now, out=largest, where=moved == moving)
            self.harm[goal] = largest
            self.harmed[which] |= (largest >= enough).any(axis=0)

    def _note(self, estimates: Estimates, moving: bool, of: NDArray[np.bool_], control: int) -> None:
        others = np.arange(len(estimates.usable)) != control
        p = p_value(np.maximum(*self.largest_e[moving]))
        raw = np.where(estimates.comparable, p, np.nan)[others]
        if (raw <= ALPHA).any():
            least = np.stack([holm(column) for column in raw.T], axis=1)
            self.rejected |= of & (least <= ALPHA).any(axis=0)
        differences = estimates.differences
        half = differences.half_width(ALPHA)
        below, above = estimates.reach(ALPHA)
        has = estimates.usable & estimates.tame
        self.missed_mean[: len(has)] |= of & _misses(estimates.arms, below, above, self.means, has)
        self.missed_difference[: len(has)] |= of & _misses(
            differences, half, half, self.differences, estimates.comparable
        )
        self.spoke_mean |= of & has.all(axis=0)
        self.spoke |= of & estimates.comparable.any(axis=0)
        first = int(np.flatnonzero(others)[0])
        self.widths = np.where(of & estimates.comparable[first], half[first], self.widths)

    def note(self, report: Report, run: int, metric: str) -> None:
        """Adds the intervals of one play's report."""
        for k, arm in enumerate(report.arms):
            row = arm.metrics[metric]
            if row.interval is not None:
                low, high = row.interval
                self.missed_mean[k, run] |= bool(self.means[k] < low or self.means[k] > high)
            if row.difference_interval is not None:
                low, high = row.difference_interval
                self.missed_difference[k, run] |= bool(
                    self.differences[k] < low or self.differences[k] > high
                )


def _misses(
    sequence: Sequence, below: Floats, above: Floats, truth: Floats, has: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """bool (K, R): True where an interval does not contain the truth; NaN is in all intervals."""
    off = truth[: len(has), None] - sequence.mean
    wrong: NDArray[np.bool_] = ((off > above) | (off < -below)) & has
    return wrong

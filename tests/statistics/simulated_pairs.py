"""Experiments with covariates and ratios, run through `ResultsFold` with real events: error rates, widths, coverage.

`python tests/statistics/simulated_pairs.py` plays each at full size and prints what it found.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from simulated_results import START_MS, drawn_shares, exposed, record, rewarded

from bandit_serve.experiments.metric import Metric
from bandit_serve.experiments.policy_spec import PolicySpec
from bandit_serve.log.offset import Offset
from bandit_serve.results import MetricResult, ResultsFold, report
from bandit_serve.results.metric_result import AdjustedResult
from bandit_serve.results.sequence import mean_sequence

Floats = NDArray[np.float64]
Law = Callable[[np.random.Generator, int], Floats]


def _revenue(rng: np.random.Generator, n: int, zeros: float) -> Floats:
    return np.where(rng.random(n) < zeros, 0.0, rng.lognormal(0.0, 1.5, n))


LAWS: dict[str, Law] = {
    "normal": lambda rng, n: rng.normal(size=n),
    "t3": lambda rng, n: rng.standard_t(3, n),
    "lognormal 1": lambda rng, n: rng.lognormal(0.0, 1.0, n),
    "revenue .95": lambda rng, n: _revenue(rng, n, 0.95),
    "poisson .1": lambda rng, n: rng.poisson(0.1, n).astype(np.float64),
    "bernoulli .1": lambda rng, n: (rng.random(n) < 0.1).astype(np.float64),
    "far from 0": lambda rng, n: 700.0 + 5.0 * rng.normal(size=n),
}
EVEN = np.array([0.5, 0.5])


@dataclass
class Found:
    """What came of many runs: whether one ever rejected by the adjusted values, and by the plain ones; the width of the
    adjusted interval in those of the plain one, at the end.
    """

    adjusted: list[bool] = field(default_factory=list)
    plain: list[bool] = field(default_factory=list)
    widths: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        n = len(self.adjusted)
        return (
            f"ever rejected {np.mean(self.adjusted):.3f} (plain {np.mean(self.plain):.3f}) of {n}, "
            f"width × {np.mean(self.widths):.3f} (largest {np.max(self.widths):.3f})"
        )


def cuped(
    runs: int,
    law: str = "normal",
    *,
    thompson: bool = False,
    correlation: float = 0.8,
    looks: int = 12,
    each: int = 400,
    seed: int = 0,
) -> Found:
    """Two arms that are alike, y = rho z + sqrt(1 - rho^2) u with z and u of one law; looked at after each step.

    `thompson`: shares by Thompson-like draws with a floor of .05, in place of an even split.
    """
    found, draw = Found(), LAWS[law]
    policy = PolicySpec(kind="thompson", min_share=0.05) if thompson else PolicySpec(kind="fixed_split")
    metrics = (Metric(name="y", kind="continuous", covariate="z"),)
    for run in range(runs):
        rng = np.random.default_rng([seed, run])
        fold = ResultsFold(record(metrics=metrics, policy=policy))
        tried, total, squares, shares = np.zeros(2), np.zeros(2), np.zeros(2), EVEN
        ever = {"adjusted": False, "plain": False}
        for step in range(looks):
            if thompson and step:
                seen = np.maximum(tried, 1.0)
                spread = np.sqrt(np.maximum(squares / seen - (total / seen) ** 2, 1e-9) / seen)
                shares = drawn_shares(rng, total / seen, spread, 0.05)
            arms = np.searchsorted(np.cumsum(shares)[:-1], rng.random(each), side="right")
            z = draw(rng, each)
            y = correlation * z + np.sqrt(1.0 - correlation**2) * draw(rng, each)
            play(fold, step * each, arms, shares, y, z)
            tried += np.bincount(arms, minlength=2)
            total += np.bincount(arms, y, minlength=2)
            squares += np.bincount(arms, y**2, minlength=2)
            row = report(fold, fold.record, {}, START_MS).arms[1].metrics["y"]
            for name, of in (("plain", row), ("adjusted", row.adjusted)):
                ever[name] |= is_off(of, 0.0) or (of.p_value is not None and of.p_value <= 0.05)
        found.adjusted.append(ever["adjusted"])
        found.plain.append(ever["plain"])
        if row.difference_interval is not None:
            found.widths.append(
                np.diff(row.adjusted.difference_interval)[0] / np.diff(row.difference_interval)[0]
            )
    return found


def is_off(result: AdjustedResult | MetricResult, truth: float) -> bool:
    """Whether the interval of a difference leaves the truth out."""
    interval = result.difference_interval
    return interval is not None and not interval[0] <= truth <= interval[1]


def play(
    fold: ResultsFold, first: int, arms: NDArray[np.int64], shares: Floats, y: Floats, z: Floats
) -> None:
    n = len(arms)
    at = fold.offset.time_ms + 1 if fold.offset.time_ms > 0 else START_MS
    x = z[:, None]
    fold.apply(Offset(at, 0), exposed(first, arms, shares[None], [n], x=x))
    numbers = np.arange(first, first + n, dtype=np.uint64)
    fold.apply(Offset(at, 1), rewarded(counter=numbers, arm=arms, value=y, propensity=shares[arms], x=x))


RATIO = (
    Metric(name="clicks", kind="count"),
    Metric(name="sessions", kind="count"),
    Metric(name="rate", kind="ratio", numerator="clicks", denominator="sessions"),
)


def ratio(
    runs: int, *, users: int = 4_000, lift: float = 0.0, moved: bool = False, seed: int = 1
) -> tuple[float, ...]:
    """Coverage of the difference of clicks a session at the end: by unit, and as if sessions were independent.

    Users differ in how often they come and how often they click. `moved`: shares of 90/10, then 50/50.
    """
    truth = [0.25, 0.25 + lift]
    by_unit, independent = [], []
    for run in range(runs):
        rng = np.random.default_rng([seed, run])
        fold = ResultsFold(record(metrics=RATIO, unit="user"))
        half = users // 2
        seen = {name: np.zeros(2) for name in ("clicks", "sessions")}
        for step, shares in enumerate([np.array([0.9, 0.1]), EVEN] if moved else [EVEN, EVEN]):
            arms = np.searchsorted(np.cumsum(shares)[:-1], rng.random(half), side="right")
            sessions = 1.0 + rng.geometric(0.1, half)
            # Of a mean of .25; a lift is of those that do not click.
            rates = rng.beta(0.5, 1.5, half)
            rates += (1.0 - rates) / 0.75 * np.array([0.0, lift])[arms]
            clicks = rng.binomial(sessions.astype(np.int64), rates).astype(np.float64)
            units = np.arange(step * half + 1, (step + 1) * half + 1, dtype=np.uint64)
            at = START_MS + step
            fold.apply(Offset(at, 0), exposed(step * half, arms, shares[None], [half], units=units))
            for metric, values in enumerate((clicks, sessions)):
                columns = {"counter": units - 1, "unit": units, "arm": arms, "propensity": shares[arms]}
                fold.apply(Offset(at, metric + 1), rewarded(metric=metric, value=values, **columns))
                seen[RATIO[metric].name] += np.bincount(arms, values, minlength=2)
        row = report(fold, fold.record, {}, START_MS).arms[1].metrics["rate"]
        by_unit.append(not is_off(row, truth[1] - truth[0]))
        p, n = seen["clicks"] / seen["sessions"], seen["sessions"]
        naive = mean_sequence(n.sum(), p[1] - p[0], (p * (1 - p) / n).sum())
        independent.append(abs(float(naive.mean) - lift) <= float(naive.half_width(0.05)))
    return float(np.mean(by_unit)), float(np.mean(independent))


def main(n: int = 300) -> None:
    for moved in (False, True):
        for lift in (0.0, 0.05):
            by_unit, independent = ratio(n, lift=lift, moved=moved)
            what = f"ratio, {'moved shares' if moved else 'even split'}, lift {lift}"
            print(f"{what}: coverage {by_unit:.3f}, as if independent {independent:.3f}", flush=True)
    for law in LAWS:
        for thompson in (False, True):
            found = cuped(n, law, thompson=thompson)
            print(f"cuped {law}, {'Thompson' if thompson else 'even split'}: {found}", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))

"""Alarms of changed means against river's ADWIN and Page–Hinkley: rate of false alarms, delay, rate of misses.

    python benchmarks/alarms_table.py
    python benchmarks/alarms_table.py --detector ours --runs 0 --steady-runs 10000 [--stretched]
    python benchmarks/alarms_table.py --every --level 1e-5 --steady 100000 --steady-runs 100

Each run is a sequence of one arm's rewards from one law. For false alarms it has `--steady` rewards without a change.
For delays it has `--before` rewards, then `--after` with a mean `--shift` standard deviations higher or lower, and runs
with an alarm before the change are left out. A missed change counts as a delay of `--after`.

A shift keeps to the values that a law can have. For laws of values from 0 on it changes the share of zeros, or scales
all values; a shift down of more than half the mean goes to half of it. All detectors read the same values, but
Page–Hinkley gets them in standard deviations, as it has no scale of its own. River's detectors are left out if it is
not installed.
"""

from __future__ import annotations

import argparse
import math
import zlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bandit_serve.folds import alarms
from bandit_serve.folds.alarms import ChangeAlarms

try:
    from river import drift
except ImportError:
    drift = None

Values = NDArray[np.float64]
# Of arms' values (R, n), their law's standard deviation and whether 0 and 1 are bounds: after how many each had its
# first alarm, (R,); 0 where it had none.
Detector = Callable[[Values, float, bool], NDArray[np.int64]]
Random = np.random.Generator
# What is read at a time, as from a log; and how many arms are watched at once.
BATCH, ARMS = 20, 50


class Law(NamedTuple):
    """Law of rewards; `draw(random, n, mean)` draws n values with that mean."""

    draw: Callable[[Random, int, float], Values]
    mean: float
    deviation: float
    # Whether the mean cannot be 0 or less.
    positive: bool = True
    # Whether 0 and 1 are known to be bounds.
    bounded: bool = False

    def shifted(self, deviations: float) -> float:
        mean = self.mean + deviations * self.deviation
        return max(mean, self.mean / 2.0) if self.positive else mean


def bernoulli(mean: float) -> Law:
    return Law(lambda random, n, m: (random.random(n) < m) * 1.0, mean, (mean - mean**2) ** 0.5, bounded=True)


def poisson(mean: float) -> Law:
    return Law(lambda random, n, m: random.poisson(m, n) * 1.0, mean, mean**0.5)


def lognormal(sigma: float) -> Law:
    mean, deviation = math.exp(sigma**2 / 2), (math.exp(sigma**2) * math.expm1(sigma**2)) ** 0.5
    return Law(lambda random, n, m: m / mean * random.lognormal(0.0, sigma, n), mean, deviation)


def amounts(amount: Callable[[Random, int], Values], mean: float, square: float, share: float) -> Law:
    """Draws amounts with this mean and mean square for a `share` of all values, and 0 for the others."""
    deviation = (share * square - (share * mean) ** 2) ** 0.5
    return Law(
        lambda random, n, m: (random.random(n) < m / mean) * amount(random, n), share * mean, deviation
    )


def revenue(share: float) -> Law:
    return amounts(lambda random, n: random.lognormal(0.0, 1.5, n), math.exp(1.125), math.exp(4.5), share)


LAWS = {
    "Bernoulli .5": bernoulli(0.5),
    "Bernoulli .1": bernoulli(0.1),
    "Bernoulli .01": bernoulli(0.01),
    "Bernoulli .001": bernoulli(0.001),
    "Poisson .1": poisson(0.1),
    "Poisson 3": poisson(3.0),
    "orders": amounts(lambda random, n: 1.0 + random.poisson(2.0, n), 3.0, 11.0, 0.05),
    "normal": Law(lambda random, n, m: random.normal(m, 1.0, n), 0.0, 1.0, positive=False),
    "t3": Law(lambda random, n, m: m + random.standard_t(3, n), 0.0, 3.0**0.5, positive=False),
    "lognormal σ=1": lognormal(1.0),
    "lognormal σ=2": lognormal(2.0),
    "revenue 95 %": revenue(0.05),
    "revenue 99 %": revenue(0.01),
    "bounded β(.05, .95)": Law(
        lambda random, n, m: random.beta(m, 1.0 - m, n), 0.05, (0.05 * 0.95 / 2.0) ** 0.5, bounded=True
    ),
    "bounded β(2, 2)": Law(
        lambda random, n, m: m - 0.25 + 0.5 * random.beta(2.0, 2.0, n), 0.45, 0.5 * 0.05**0.5, bounded=True
    ),
    "700 ± 5": Law(
        lambda random, n, m: np.round(random.normal(m, 5.0, n)), 700.0, (25.0 + 1.0 / 12.0) ** 0.5, False
    ),
}


def alarms_of(values: Values, bounded: bool) -> Iterator[tuple[int, int]]:
    """Of arms with values (R, n): which had an alarm, and after how many values."""
    for first in range(0, len(values), ARMS):
        some = values[first : first + ARMS]
        watch = ChangeAlarms(len(some), (0.0, 1.0) if bounded else None)
        for start in range(0, values.shape[1], BATCH):
            batch = some[:, start : start + BATCH]
            arms = np.repeat(np.arange(len(some)), batch.shape[1])
            end = start + batch.shape[1]
            watch.rewarded(arms, batch.ravel(), end)
            yield from [(first + alarm.arm, end) for alarm in watch.alarms]
            watch.alarms.clear()


def ours(values: Values, deviation: float, bounded: bool) -> NDArray[np.int64]:
    first_alarms = np.zeros(len(values), np.int64)
    for arm, end in alarms_of(values, bounded):
        first_alarms[arm] = first_alarms[arm] or end
    return first_alarms


def of_river(name: str) -> Detector:
    def first(values: list[float]) -> int:
        detector = drift.ADWIN(delta=0.002) if name == "ADWIN" else drift.PageHinkley()
        for at, value in enumerate(values, 1):
            detector.update(value)
            if detector.drift_detected:
                return at
        return 0

    def detect(values: Values, deviation: float, bounded: bool) -> NDArray[np.int64]:
        scaled = values / deviation if name == "PageHinkley" else values
        return np.array([first(each.tolist()) for each in scaled], np.int64)

    return detect


class Found(NamedTuple):
    """Share of runs with an alarm before the change, mean delay, its standard error, and share of missed changes."""

    early: float
    delay: float
    error: float
    missed: float


class Table:
    """Results of the detectors on one law."""

    def __init__(self, options: argparse.Namespace, law: Law, seed: list[int]) -> None:
        self._options, self._law, self._seed = options, law, seed
        self._steady = [(options.steady, law.mean)]

    def _drawn(self, run: int, means: list[tuple[int, float]]) -> Values:
        """Draws one arm's values: so many of each mean, in turn."""
        random, law = np.random.default_rng([*self._seed, run]), self._law
        values = np.concatenate([law.draw(random, n, mean) for n, mean in means])
        return 300.0 * law.deviation - 3.0 * values if self._options.stretched else values

    def _alarms(self, detector: Detector, runs: int, means: list[tuple[int, float]]) -> NDArray[np.int64]:
        first_alarms, stretched = [np.zeros(0, np.int64)], self._options.stretched
        for start in range(0, runs, ARMS):
            values = np.stack([self._drawn(run, means) for run in range(start, min(start + ARMS, runs))])
            deviation = (3.0 if stretched else 1.0) * self._law.deviation
            first_alarms.append(detector(values, deviation, self._law.bounded and not stretched))
        return np.concatenate(first_alarms)

    def false(self, detector: Detector) -> int:
        """Number of steady runs with an alarm."""
        return int((self._alarms(detector, self._options.steady_runs, self._steady) > 0).sum())

    def every(self) -> int:
        """Number of our alarms in steady runs, later alarms of an arm included."""
        counted: list[int] = []

        def counts(values: Values, deviation: float, bounded: bool) -> NDArray[np.int64]:
            counted.append(sum(1 for _ in alarms_of(values, bounded)))
            return np.zeros(len(values), np.int64)

        self._alarms(counts, self._options.steady_runs, self._steady)
        return sum(counted)

    def shift(self, detector: Detector, deviations: float) -> Found:
        before, after = self._options.before, self._options.after
        means = [(before, self._law.mean), (after, self._law.shifted(deviations))]
        first_alarms = self._alarms(detector, self._options.runs, means)
        early = (first_alarms > 0) & (first_alarms <= before)
        delays = np.where(first_alarms[~early] > 0, first_alarms[~early] - before, after)
        if not len(delays):
            return Found(1.0, math.nan, math.nan, math.nan)
        error = float(delays.std() / len(delays) ** 0.5)
        return Found(
            float(early.mean()), float(delays.mean()), error, float((first_alarms[~early] == 0).mean())
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=200, help="of each shift")
    parser.add_argument("--steady-runs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=12)
    parser.add_argument("--steady", type=int, default=10_000)
    parser.add_argument("--before", type=int, default=3_000)
    parser.add_argument("--after", type=int, default=4_000)
    parser.add_argument("--shift", type=float, default=0.3)
    parser.add_argument("--level", type=float, default=alarms.LEVEL)
    parser.add_argument("--law", action="append", choices=list(LAWS))
    parser.add_argument("--detector", action="append", choices=["ours", "ADWIN", "PageHinkley"])
    parser.add_argument(
        "--stretched", action="store_true", help="read −3 y + 300 deviations of y in place of y"
    )
    parser.add_argument(
        "--every",
        action="store_true",
        help="count every false alarm of ours, in parts of what the level allows",
    )
    options = parser.parse_args()
    alarms.LEVEL = options.level
    if options.every:
        allowed = options.level * options.steady_runs * options.steady
        for law in options.law or LAWS:
            n_alarms = Table(options, LAWS[law], [options.seed, zlib.crc32(law.encode())]).every()
            print(
                f"| {law} | {n_alarms} | {n_alarms / allowed:.2f} ± {n_alarms**0.5 / allowed:.2f} |",
                flush=True,
            )
        return
    detectors = {"ours": ours}
    if drift is not None:
        detectors |= {"ADWIN": of_river("ADWIN"), "PageHinkley": of_river("PageHinkley")}
    detectors = {name: each for name, each in detectors.items() if name in (options.detector or detectors)}
    print(f"| law | {' | '.join(f'{name}: false, up, down' for name in detectors)} | ours / ADWIN |")
    print("|---" * (2 + len(detectors)) + "|")
    for law in options.law or LAWS:
        table, cells, delays = Table(options, LAWS[law], [options.seed, zlib.crc32(law.encode())]), [], {}
        for name, detector in detectors.items():
            shifts = (
                [table.shift(detector, sign * options.shift) for sign in (1.0, -1.0)] if options.runs else []
            )
            delays[name] = [each.delay for each in shifts]
            by_shift = [
                f"{each.delay:,.0f} ± {each.error:.0f}"
                + (f" ({each.missed:.2f} missed)" if each.missed else "")
                + (f" ({each.early:.2f} before)" if each.early else "")
                for each in shifts
            ]
            cells.append(", ".join([f"{table.false(detector)} of {options.steady_runs}", *by_shift]))
        ratios = zip(delays.get("ours", []), delays.get("ADWIN", []), strict=False)
        cells.append(", ".join(f"{one / other:.2f}" for one, other in ratios))
        print(f"| {law} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()

"""Alarms of changed means beside river's ADWIN and Page–Hinkley: how often false, how late, how often missed.

    python benchmarks/alarms_table.py --runs 200 [--level 0.001]

Each run is one arm's rewards of one law: `--steady` of them without a change for the false alarms; and `--before`, then
a shift of the mean by `--shift` standard deviations up or down, for the delays, of runs without an alarm before it.
The detectors read the same values. Those of river, which is not needed otherwise, are left out where it is not
installed; Page–Hinkley gets values in standard deviations, which it would have to be told, the others any.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from bandit_serve import alarms
from bandit_serve.alarms import ChangeAlarms

try:
    from river import drift
except ImportError:
    drift = None

Values = NDArray[np.float64]
# What is read at a time, as from a log.
BATCH = 20
LAWS: dict[str, tuple[Callable[[np.random.Generator, int], Values], float]] = {
    "normal": (lambda rng, n: rng.normal(size=n), 1.0),
    "t3": (lambda rng, n: rng.standard_t(3, n), 3.0**0.5),
    "lognormal σ=1": (lambda rng, n: rng.lognormal(0.0, 1.0, n), (np.e * (np.e - 1.0)) ** 0.5),
    "lognormal σ=2": (lambda rng, n: rng.lognormal(0.0, 2.0, n), (np.exp(4.0) * (np.exp(4.0) - 1.0)) ** 0.5),
    "Poisson .1": (lambda rng, n: rng.poisson(0.1, n).astype(np.float64), 0.1**0.5),
    "Poisson 3": (lambda rng, n: rng.poisson(3.0, n).astype(np.float64), 3.0**0.5),
    "orders": (lambda rng, n: (rng.random(n) < 0.05) * (1.0 + rng.poisson(2.0, n)), 0.728),
    "revenue 95 %": (lambda rng, n: (rng.random(n) < 0.05) * rng.lognormal(0.0, 1.5, n), 2.113),
    "revenue 99 %": (lambda rng, n: (rng.random(n) < 0.01) * rng.lognormal(0.0, 1.5, n), 0.946),
    "bounded β(.05, .95)": (lambda rng, n: rng.beta(0.05, 0.95, n), (0.05 * 0.95 / 2.0) ** 0.5),
    "bounded β(2, 2)": (lambda rng, n: 0.2 + 0.5 * rng.beta(2.0, 2.0, n), 0.5 * 0.05**0.5),
    "700 ± 5": (lambda rng, n: np.round(rng.normal(700.0, 5.0, n)), 5.0),
}


def ours(values: Values, deviation: float, bounded: bool) -> Iterator[int]:
    """After how many values each alarm came."""
    watch, seen = ChangeAlarms(1, (0.0, 1.0) if bounded else None), 0
    for start in range(0, len(values), BATCH):
        some = values[start : start + BATCH]
        watch.rewarded(np.zeros(len(some), np.intp), some, start)
        if len(watch.alarms) > seen:
            seen = len(watch.alarms)
            yield start + len(some)


def of_river(name: str) -> Callable[[Values, float, bool], Iterator[int]]:
    def found(values: Values, deviation: float, bounded: bool) -> Iterator[int]:
        detector = drift.ADWIN(delta=0.002) if name == "ADWIN" else drift.PageHinkley()
        scaled = values / deviation if name == "PageHinkley" else values
        for at, value in enumerate(scaled.tolist(), 1):
            detector.update(value)
            if detector.drift_detected:
                yield at

    return found


def measured(
    detector: Callable[[Values, float, bool], Iterator[int]], law: str, options: argparse.Namespace
) -> tuple[float, float, float]:
    """The share of steady runs with an alarm, the mean delay, and the share of shifts that were missed."""
    draw, deviation = LAWS[law]
    bounded, false, delays, missed, tried = law.startswith("bounded"), 0, [], 0, 0
    for run in range(options.runs):
        rng = np.random.default_rng([options.seed, run])
        false += next(detector(draw(rng, options.steady), deviation, bounded), None) is not None
        shift = options.shift * deviation * (1.0 if run % 2 else -1.0)
        values = draw(rng, options.before + options.after)
        values[options.before :] += shift
        first = next(detector(values, deviation, bounded), None)
        if first is None or first > options.before:
            tried += 1
            missed += first is None
            delays += [] if first is None else [first - options.before]
    late = float(np.mean(delays)) if delays else float("nan")
    return false / options.runs, late, missed / max(tried, 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=12)
    parser.add_argument("--steady", type=int, default=10_000)
    parser.add_argument("--before", type=int, default=3_000)
    parser.add_argument("--after", type=int, default=4_000)
    parser.add_argument("--shift", type=float, default=0.3)
    parser.add_argument("--level", type=float, default=alarms.LEVEL)
    parser.add_argument("--law", action="append", choices=list(LAWS))
    options = parser.parse_args()
    alarms.LEVEL = options.level
    detectors = {f"ours, {options.level:g}": ours}
    if drift is not None:
        detectors |= {"ADWIN .002": of_river("ADWIN"), "Page–Hinkley": of_river("PageHinkley")}
    print(f"| law | {' | '.join(f'{name}: false, delay, missed' for name in detectors)} |")
    print("|---" * (1 + len(detectors)) + "|")
    for law in options.law or LAWS:
        cells = []
        for detector in detectors.values():
            false, late, missed = measured(detector, law, options)
            cells.append(f"{false:.3f}, {late:,.0f}, {missed:.2f}")
        print(f"| {law} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()

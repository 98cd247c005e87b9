"""Table of laws: how often a guardrail shows harm where there is none, and where an arm is 20 % worse, and how soon.

    python benchmarks/guardrails_table.py                                    all laws and splits
    python benchmarks/guardrails_table.py --law "orders" --split 90/10       some

By fixed splits, from sums as the fold has them; `validity_table.py` has moving shares, through the fold. A row: split,
law, runs; how many ever showed harm of an arm that is as good as control in 20,000 observations, on a guardrail that is
to be large, and on one that is to be small. Then, of experiments whose second arm is 20 % worse, the total of the fixed
test of power .8 (two-sided, level .05; at least so many that both arms are compared); how many found it within four
times that, and within one time; the mean number of observations until then, in fixed totals (those without are counted
with four); and how many ever took the arm for safe within a margin of .2, which its loss is. Laws without a mean are
worse by .2 standard deviations, with that as an absolute margin. Totals above `MAX_TOTAL` are not played.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
import time
import zlib

import msgspec
import numpy as np
from numpy.typing import NDArray
from validity_laws import LAWS, Law
from validity_runs import ALPHA, Scale, blocks

from bandit_serve.experiments.metric import Margin, Metric
from bandit_serve.metrics import KINDS
from bandit_serve.results.estimates import MIN_OBSERVATIONS, Estimates, Sums, fixed_split
from bandit_serve.results.harm_evidence import log_e_of_harm
from bandit_serve.results.non_inferiority import Guard

Floats = NDArray[np.float64]

WORSE = 0.2
MAX_TIMES = 4
Z_SQUARED = 7.849
"""(z of .975 + z of .8) squared."""
SPLITS = {
    "even": (0.5, 0.5),
    "90/10": (0.9, 0.1),
    "99/1": (0.99, 0.01),
    "80/5/5/5/5": (0.8, 0.05, 0.05, 0.05, 0.05),
}
MAX_TOTAL = 3_000_000
MAX_DRAWN = 4_000_000
"""Values that are drawn at a time."""


def fixed_total(law: Law, shares: tuple[float, ...]) -> int:
    """Observations of all arms that the fixed test of the first two needs."""
    effect = WORSE * (abs(law.mean) or law.sd)
    worse_variance = law.sd**2
    if law.kind in ("binary", "count"):
        kept = 1.0 - WORSE
        worse_variance = kept**2 * law.sd**2 + kept * WORSE * law.mean
    elif law.mean:
        worse_variance *= (1.0 - WORSE) ** 2
    variance = law.sd**2 / shares[0] + worse_variance / shares[1]
    return max(math.ceil(Z_SQUARED * variance / effect**2), math.ceil(1.5 * MIN_OBSERVATIONS / min(shares)))


class Runs:
    """Experiments side by side by one law and a fixed split: their sums, as those of `Sums`, arrays (K, R)."""

    def __init__(self, law: Law, shares: tuple[float, ...], worse: bool, runs: int, seed: str) -> None:
        self.law, self.worse = law, worse
        self.bounds = np.cumsum(shares)[:-1]
        self.rng = np.random.default_rng(zlib.crc32(seed.encode()))
        self.n, self.first, self.second = np.zeros((3, len(shares), runs))

    def step(self, size: int) -> None:
        runs = self.n.shape[1]
        at_once = max(1, min(size, MAX_DRAWN // runs))
        for low in range(0, size, at_once):
            shape = runs, min(at_once, size - low)
            arms = np.searchsorted(self.bounds, self.rng.random(shape), side="right")
            values = self.law.draw(self.rng, math.prod(shape)).reshape(shape)
            if self.worse:
                values = worsened(self.law, values, arms == 1, self.rng)
            values -= self.law.mean
            for arm in range(len(self.n)):
                mine = arms == arm
                of_arm = np.where(mine, values, 0.0)
                self.n[arm] += mine.sum(axis=1)
                self.first[arm] += of_arm.sum(axis=1)
                self.second[arm] += np.square(of_arm).sum(axis=1)

    def keep(self, those: NDArray[np.bool_]) -> None:
        self.n, self.first, self.second = (each[:, those] for each in (self.n, self.first, self.second))

    def estimates(self) -> Estimates:
        n = self.n.astype(np.int64)
        some = np.maximum(self.n, 1.0)
        none: dict[str, object] = {field.name: np.zeros_like(self.n) for field in dataclasses.fields(Sums)}
        sums = Sums(
            **none
            | {
                "n": n,
                "total": self.first + self.n * self.law.mean,
                "shifted": self.first,
                "m2": np.maximum(self.second - np.square(self.first) / some, 0.0),
                "analysed": n.sum(axis=0),
                "modelled": np.zeros(n.shape[1]),
                "dated": np.zeros(n.shape[1]),
                "origin": self.law.mean,
                "moved": False,
                "contextual": False,
            }  # type: ignore[arg-type]
        )
        return fixed_split(sums, KINDS[self.law.kind], 0)


def without_harm(name: str, split: str, scale: Scale) -> list[float]:
    """Rates of runs that ever showed harm where there is none, for either goal."""
    law, shares = LAWS[name], SPLITS[split]
    runs = Runs(law, shares, False, scale.runs, f"same {name} {split}")
    metric = Metric(name="m", kind=law.kind)
    enough = math.log((len(shares) - 1) / ALPHA)
    ever = np.zeros((2, scale.runs), bool)
    for size in blocks(scale):
        runs.step(size)
        estimates = runs.estimates()
        for seen, goal in zip(ever, ("maximize", "minimize"), strict=True):
            log_e = log_e_of_harm(estimates, msgspec.structs.replace(metric, goal=goal), ALPHA)
            seen |= (log_e >= enough).any(axis=0)
    return [float(rate) for rate in ever.mean(axis=1)]


def with_harm(name: str, split: str, n_runs: int, growth: float) -> str:
    """Columns of the experiments in which an arm is worse."""
    law, shares = LAWS[name], SPLITS[split]
    n = fixed_total(law, shares)
    if n > MAX_TOTAL:
        return f"{n} | – | – | – | –"
    goal = "maximize" if law.mean >= 0.0 else "minimize"
    margin = Margin(relative=WORSE) if law.mean else Margin(absolute=WORSE * law.sd)
    metric = Metric(name="m", kind=law.kind, role="guardrail", goal=goal, margin=margin)
    runs = Runs(law, shares, True, n_runs, f"worse {name} {split}")
    found_at, safe = np.full(n_runs, np.inf), np.zeros(n_runs, bool)
    left, so_far = np.arange(n_runs), 0
    for size in blocks(Scale(n_runs, MAX_TIMES * n, growth)):
        so_far += size
        runs.step(size)
        peers = np.full(len(shares), len(shares))
        guard = Guard(metric, runs.estimates(), True, np.zeros(runs.n.shape), peers, ALPHA)
        safe[left] |= guard.safe[1]
        found_at[left[guard.harm[1]]] = so_far
        left = left[~guard.harm[1]]
        runs.keep(~guard.harm[1])
        if not len(left):
            break
    within = [float((found_at <= times * n).mean()) for times in (MAX_TIMES, 1)]
    mean = float(np.minimum(found_at, MAX_TIMES * n).mean()) / n
    return f"{n} | {within[0]:.3f} | {within[1]:.3f} | {mean:.2f} | {safe.mean():.3f}"


def worsened(law: Law, values: Floats, worse: NDArray[np.bool_], rng: np.random.Generator) -> Floats:
    """Values of which those that are `worse` are less: fewer of 0 and 1 and of counts, else smaller ones."""
    if law.kind in ("binary", "count"):
        some = np.flatnonzero(worse & (values > 0.0))
        values.flat[some] = rng.binomial(values.flat[some].astype(np.int64), 1.0 - WORSE)
        return values
    if not law.mean:
        return values - worse * WORSE * law.sd
    return values * np.where(worse, 1.0 - WORSE, 1.0)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--growth", type=float, default=0.01, help="a look at each")
    parser.add_argument("--split", action="append", choices=list(SPLITS), help="repeatable; by default all")
    parser.add_argument("--law", action="append", choices=list(LAWS), help="repeatable; by default all")
    options = parser.parse_args()
    columns = (
        "split",
        "law",
        "runs",
        "harm of less",
        "harm of more",
        "fixed total",
        "found in 4 ×",
        "in 1 ×",
        "mean ×",
    )
    print(f"| {' | '.join((*columns, 'wrongly safe'))} |\n{'|---' * (len(columns) + 1)}|", flush=True)
    for split in options.split or list(SPLITS):
        began = time.process_time()
        for law in options.law or list(LAWS):
            none = without_harm(law, split, Scale(options.runs, 20_000, options.growth))
            shown = " | ".join(f"{rate:.3f}" for rate in none)
            of_worse = with_harm(law, split, options.runs, options.growth)
            print(f"| {split} | {law} | {options.runs} | {shown} | {of_worse} |", flush=True)
        print(f"{split}: {time.process_time() - began:.0f} s of CPU", file=sys.stderr)


if __name__ == "__main__":
    main()

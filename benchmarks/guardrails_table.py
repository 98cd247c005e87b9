"""Table of laws: how often a guardrail finds an arm that is 20 % worse, and how soon.

    python benchmarks/guardrails_table.py                                    all laws, which takes an hour
    python benchmarks/guardrails_table.py --law "orders" --split 90/10       some

A row is printed when it is known: split, law, the total of the fixed test of power .8 (two-sided, level .05), runs; how
many found harm within four times that, and within one time; the mean number of observations until then, in fixed totals
(of all runs, those without are counted with four); and how many ever took the arm for safe within a margin of .2, which
its loss is. Laws without a mean are worse by .2 standard deviations, with that as an absolute margin. No fixed total is
below what gives both arms the observations from which they are compared.
"""

from __future__ import annotations

import argparse
import math

import numpy as np
from validity_laws import LAWS, Law
from validity_runs import ALPHA, Play, Scale, blocks, drawn, record, sums_by_metric
from validity_set_ups import generators

from bandit_serve.experiments.metric import Margin, Metric
from bandit_serve.experiments.policy_spec import PolicySpec
from bandit_serve.metrics import KINDS
from bandit_serve.results.estimates import MIN_OBSERVATIONS, fixed_split
from bandit_serve.results.non_inferiority import Guard

WORSE = 0.2
MAX_TIMES = 4
Z_SQUARED = 7.849
"""(z of .975 + z of .8) squared."""
SPLITS = {"even": (0.5, 0.5), "90/10": (0.9, 0.1)}


def fixed_total(law: Law, shares: tuple[float, float]) -> int:
    """Observations of both arms that the fixed test needs."""
    effect = WORSE * (abs(law.mean) or law.sd)
    worse_variance = law.sd**2
    if law.kind in ("binary", "count"):
        kept = 1.0 - WORSE
        worse_variance = kept**2 * law.sd**2 + kept * WORSE * law.mean
    elif law.mean:
        worse_variance *= (1.0 - WORSE) ** 2
    variance = law.sd**2 / shares[0] + worse_variance / shares[1]
    return max(math.ceil(Z_SQUARED * variance / effect**2), math.ceil(1.5 * MIN_OBSERVATIONS / min(shares)))


def play(name: str, split: str, runs: int, growth: float) -> str:
    law, shares = LAWS[name], SPLITS[split]
    n = fixed_total(law, shares)
    goal = "maximize" if law.mean >= 0.0 else "minimize"
    margin = Margin(relative=WORSE) if law.mean else Margin(absolute=WORSE * law.sd)
    metric = Metric(name="m0", kind=law.kind, role="guardrail", goal=goal, margin=margin)
    about = record(
        [law.kind], policy=PolicySpec(kind="fixed_split", shares=dict(zip("ab", shares, strict=True)))
    )
    plays = [Play.of(about, rng) for rng in generators(f"worse {name} {split}", runs)]
    found_at, safe = np.full(runs, np.inf), np.zeros(runs, bool)
    left, so_far = np.arange(runs), 0
    for size in blocks(Scale(runs, MAX_TIMES * n, growth)):
        so_far += size
        for run in left:
            each = plays[run]
            arms = drawn(each.rng, np.broadcast_to(np.array(shares), (size, 2)))
            each.step(np.array(shares), arms, worsened(law, law.draw(each.rng, size), arms, each.rng)[None])
        (sums,) = sums_by_metric([plays[run] for run in left], 1)
        estimates = fixed_split(sums, KINDS[law.kind], 0)
        none = np.zeros(sums.n.shape)
        guard = Guard(metric, estimates, True, none, plays[0].fold.evidence.peers, ALPHA)
        safe[left] |= guard.safe[1]
        found_at[left[guard.harm[1]]] = so_far
        left = left[~guard.harm[1]]
        if not len(left):
            break
    within = [float((found_at <= times * n).mean()) for times in (MAX_TIMES, 1)]
    mean = float(np.minimum(found_at, MAX_TIMES * n).mean()) / n
    shown = " | ".join(f"{rate:.3f}" for rate in within)
    return f"| {split} | {name} | {n} | {runs} | {shown} | {mean:.2f} | {safe.mean():.3f} |"


def worsened(law: Law, values: np.ndarray, arms: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Values of which the second arm's are worse: fewer of 0 and 1 and of counts, else smaller ones."""
    worse = arms == 1
    if law.kind in ("binary", "count"):
        thinned = rng.binomial(values.astype(np.int64), 1.0 - WORSE)
        return np.where(worse, thinned, values)
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
    columns = "split", "law", "fixed total", "runs", "found in 4 ×", "in 1 ×", "mean ×", "wrongly safe"
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|", flush=True)
    for split in options.split or list(SPLITS):
        for law in options.law or list(LAWS):
            print(play(law, split, options.runs, options.growth), flush=True)


if __name__ == "__main__":
    main()

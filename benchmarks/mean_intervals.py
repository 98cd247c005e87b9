"""How often the interval of an arm's mean is ever wrong, from the exact one by betting to the asymptotic one after it.

    python benchmarks/mean_intervals.py                          1,000 experiments of two equal arms a row
    python benchmarks/mean_intervals.py --law "Bernoulli .001" --runs 2000 --set-up even

Intervals are those of `report`. An exact one that has left a mean out does so for good, so its last one is looked at
(and some before); asymptotic ones at each 2 % of growth. Printed are the parts of the arms whose exact interval ever
missed, whose asymptotic one did, and for which either did: at most alpha = .05, and two standard errors.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass, field

import numpy as np
from validity_laws import LAWS, Law
from validity_runs import ALPHA, NEVER, Floats, Play, drawn, record

from bandit_serve.experiments.policy_spec import PolicySpec
from bandit_serve.policies import Thompson
from bandit_serve.results import report

OF = ("Bernoulli .5", "Bernoulli .1", "Bernoulli .01", "Bernoulli .001", "bounded beta")
MOST_EXACT = 1_000
FIRST_LOOKS = (4, 30, 100, 300)


@dataclass
class Missed:
    """bool [R, 2] each: of the experiments' arms."""

    exact: list[Floats] = field(default_factory=list)
    after: list[Floats] = field(default_factory=list)
    spoke: list[Floats] = field(default_factory=list)


def play(law: Law, set_up: str, seed: list[int], total: int, growth: float, missed: Missed) -> None:
    """One experiment of two arms alike, with an even split or Thompson of floor .05 for shares."""
    policy = (
        PolicySpec(kind="fixed_split") if set_up == "even" else PolicySpec(kind="thompson", min_share=0.05)
    )
    about, rng = record([law.kind], 2, policy), np.random.default_rng(seed)
    played = Play.of(about, rng)
    played.fold.evidence.next_look[:] = NEVER
    bandit = (
        Thompson(n_arms=2, seed=seed[-1], min_share=0.05, objective=law.kind) if set_up != "even" else None
    )
    wrong, spoke, so_far, n = np.zeros((2, 2), bool), np.zeros(2, bool), 0, np.zeros(2, np.int64)
    while so_far < total:
        size = min(max(4, int(so_far * growth)), total - so_far)
        # Not beyond the last exact interval of either arm without a look at it.
        if (open_ := n[n < MOST_EXACT]).size:
            size = max(1, min(size, MOST_EXACT - int(open_.max())))
        shares = np.full(2, 0.5) if bandit is None else np.asarray(bandit.shares())
        arms = drawn(rng, np.broadcast_to(shares, (size, 2)))
        values = law.draw(rng, size)
        played.step(shares, arms, values[None])
        if bandit is not None:
            bandit.update_many(arms, values)
        before, n = n, n + np.bincount(arms, minlength=2)
        so_far += size
        due = (n == MOST_EXACT) | (n > MOST_EXACT) | (so_far >= total)
        due |= np.any([(before < at) & (n >= at) for at in FIRST_LOOKS], axis=0)
        if not due.any():
            continue
        said = report(played.fold, about, {}, 0)
        for k in np.flatnonzero(due):
            interval = said.arms[k].metrics["m0"].interval
            if interval is not None:
                spoke[k] |= n[k] > MOST_EXACT
                wrong[int(n[k] > MOST_EXACT), k] |= not interval[0] <= law.mean <= interval[1]
    missed.exact.append(wrong[0])
    missed.after.append(wrong[1])
    missed.spoke.append(spoke)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=1_000, help="experiments, of two arms each")
    parser.add_argument("--total", type=int, default=20_000, help="observations of an experiment")
    parser.add_argument("--growth", type=float, default=0.02)
    parser.add_argument("--law", action="append", choices=OF, help="repeatable; by default all")
    parser.add_argument("--set-up", action="append", choices=("even", "thompson"), help="repeatable")
    options = parser.parse_args()
    columns = ("set-up", "law", "arms", "exact missed", "asymptotic missed", "either", "spoke after")
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|", flush=True)
    for set_up in options.set_up or ("even", "thompson"):
        for law in options.law or OF:
            missed, began = Missed(), time.process_time()
            for run in range(options.runs):
                seed = [OF.index(law), len(set_up), run]
                play(LAWS[law], set_up, seed, options.total, options.growth, missed)
            exact, after, spoke = (np.array(each) for each in (missed.exact, missed.after, missed.spoke))
            either = exact | after
            mark = (
                " **fails**" if either.mean() > ALPHA + 2 * (ALPHA * (1 - ALPHA) / either.size) ** 0.5 else ""
            )
            print(
                f"| {set_up} | {law} | {either.size} | {exact.mean():.4f} | {after.mean():.4f} | {either.mean():.4f}"
                f" | {spoke.mean():.2f}{mark} |  <!-- {time.process_time() - began:.0f} s -->",
                flush=True,
            )


if __name__ == "__main__":
    main()

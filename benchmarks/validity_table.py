"""Table of laws × set-ups: how often a true null is ever rejected, and an interval is ever wrong.

    python benchmarks/validity_table.py                                    every cell, which takes hours
    python benchmarks/validity_table.py --set-up "99/1" --law "orders" --growth .03        some, at fewer looks
    python benchmarks/validity_table.py --guardrails        how many ever showed harm on a guardrail where there is none

Each row is printed when it is known: set-up, law, runs; how many ever rejected, ever missed with an arm's mean, ever
missed with a difference; how many had intervals of all means and of a difference at some time; and the mean half width
of the first difference at the end, under a contextual policy also in that of an even split with a fixed n.
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np
from validity_runs import ALPHA, Scale, Watch
from validity_set_ups import SET_UPS


def bound(runs: int) -> float:
    """Level plus two standard errors."""
    return ALPHA + 2 * (ALPHA * (1 - ALPHA) / runs) ** 0.5


def guardrail_row(set_up: str, law: str, watch: Watch) -> str:
    rates = watch.harmed.mean(axis=1)
    mark = " **fails**" if rates.max() > bound(watch.n) else ""
    return f"| {set_up} | {law} | {watch.n} | {rates[0]:.3f} | {rates[1]:.3f} |{mark}"


def row(set_up: str, law: str, watch: Watch) -> str:
    rates = [watch.rejected.mean(), watch.missed_mean.mean(), watch.missed_difference[1:].mean()]
    mark = " **fails**" if max(rates) > bound(watch.n) else ""
    shown = " | ".join(f"{rate:.3f}" for rate in rates)
    finite = np.isfinite(watch.widths)
    width = f"{watch.widths[finite].mean():.4g}" if finite.any() else "none"
    if finite.any() and watch.of_split is not None:
        width += f", {watch.widths[finite].mean() / watch.of_split:.2f} × a split's"
    spoke = f"{watch.spoke_mean.mean():.2f}, {watch.spoke.mean():.2f}"
    return f"| {set_up} | {law} | {watch.n} | {shown} | {spoke} | {width}{mark} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--total", type=int, default=20_000, help="observations of a run")
    parser.add_argument("--growth", type=float, default=0.01, help="a look at each")
    parser.add_argument("--set-up", action="append", choices=list(SET_UPS), help="repeatable; by default all")
    parser.add_argument("--law", action="append", choices=None, help="repeatable; by default all that fit")
    parser.add_argument("--guardrails", action="store_true", help="print how many ever showed harm instead")
    options = parser.parse_args()
    scale = Scale(options.runs, options.total, options.growth)
    columns = (
        "set-up",
        "law or world",
        "runs",
        "rejected",
        "mean missed",
        "difference missed",
        "spoke",
        "half width",
    )
    if options.guardrails:
        columns = (*columns[:3], "harm of less", "harm of more")
    print(f"| {' | '.join(columns)} |\n{'|---' * len(columns)}|", flush=True)
    for name in options.set_up or list(SET_UPS):
        set_up, began = SET_UPS[name], time.process_time()
        laws = [law for law in set_up.laws if not options.law or law in options.law]
        if not laws:
            continue
        for some in [laws] if set_up.together else [[law] for law in laws]:
            for law, watch in set_up.play(some, scale).items():
                print((guardrail_row if options.guardrails else row)(name, law, watch), flush=True)
        print(f"{name}: {time.process_time() - began:.0f} s of CPU", file=sys.stderr)


if __name__ == "__main__":
    main()

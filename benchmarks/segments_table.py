"""Table of laws × set-ups: how often results by segment ever tell a difference where there is none in any segment.

    python benchmarks/segments_table.py                                          every cell, which takes hours
    python benchmarks/segments_table.py --runs 100 --set-up "90/10" --law "orders"          some

Eight segments of unequal traffic (1, 1/2, … 1/8) and one of unknown values, in experiments that are run through the
real fold and looked at together at each 2 % of growth. Each row: set-up, law, runs; how many ever had a corrected
p-value of at most .05; how many had an interval of a difference at the end that leaves 0 out; and how many comparisons
there were.
"""

from __future__ import annotations

import argparse
from dataclasses import fields

import msgspec
import numpy as np
from scipy.stats import norm
from validity_laws import LAWS
from validity_runs import ALPHA, NEVER, Floats, Ints, Play, Scale, blocks, drawn, record
from validity_set_ups import generators, steps

from bandit_serve.experiments.policy_spec import PolicySpec
from bandit_serve.metrics import KINDS
from bandit_serve.policies.context import ContextField
from bandit_serve.policies.features import Features
from bandit_serve.results.estimates import Sums
from bandit_serve.results.room import State
from bandit_serve.results.segment_report import SegmentReport, segment_report
from bandit_serve.results.segments import SegmentedSums

N_VALUES = 8
VALUES = [f"v{i}" for i in range(N_VALUES)]
FIELD = ContextField(name="by", kind="categorical", values=VALUES)
OF_VALUE = Features([FIELD]).vectors([{"by": value} for value in VALUES] + [{}])
TRAFFIC = np.append(1.0 / np.arange(1, N_VALUES + 1), 0.05)
TRAFFIC /= TRAFFIC.sum()
SHARES = {
    "even": steps((0.0, (0.5, 0.5))),
    "90/10": steps((0.0, (0.9, 0.1))),
    "80/5/5/5/5": steps((0.0, (0.8, 0.05, 0.05, 0.05, 0.05))),
    "changed once": steps((0.0, (0.5, 0.5)), (0.5, (0.8, 0.2))),
    "ramp": steps((0.0, (0.99, 0.01)), (0.25, (0.95, 0.05)), (0.5, (0.8, 0.2)), (0.75, (0.5, 0.5))),
}
THOMPSON = {"thompson .05": 0.05, "thompson .02": 0.02}
OF_THOMPSON = ("Bernoulli .1", "normal", "orders", "lognormal 1")


def plays_of(name: str, laws: list[str], n_arms: int, runs: int, policy: PolicySpec) -> list[Play]:
    """Experiments with a metric of each law, whose evidence is kept by the looks alone."""
    about = record([LAWS[law].kind for law in laws], n_arms, policy, context=(FIELD,))
    experiment = msgspec.structs.replace(about.experiment, dimensions=("by",))
    plays = [
        Play.of(msgspec.structs.replace(about, experiment=experiment), rng) for rng in generators(name, runs)
    ]
    for play in plays:
        segmented_of(play).next_look[:] = NEVER
    return plays


def segmented_of(play: Play) -> SegmentedSums:
    assert play.fold.segmented is not None
    return play.fold.segmented


def step(play: Play, laws: list[str], shares: Floats, n: int) -> tuple[Ints, Floats]:
    """Makes n decisions; returns their arms, (n,), and their values, (M, n)."""
    x = OF_VALUE[play.rng.choice(len(TRAFFIC), n, p=TRAFFIC)]
    values = np.stack([LAWS[law].draw(play.rng, n) for law in laws])
    arms = drawn(play.rng, np.broadcast_to(shares, (n, len(shares))))
    play.step(shares, arms, values, x=x)
    return arms, values


def look(plays: list[Play], n_metrics: int) -> None:
    """Notes the evidence of all segments of all plays."""
    first = segmented_of(plays[0])
    experiment = plays[0].fold.record.experiment
    states = [segmented_of(play).sums.state() for play in plays]
    for metric in range(n_metrics):
        rows, kind = first.rows(0, metric), KINDS[experiment.metrics[metric].kind]
        sums = side_by_side(states, rows, first.sums.contextual)
        for moving in (True, False):
            fit = ~sums.lost(kind, moving).any(axis=0) & (moving | ~np.asarray(sums.moved))
            if fit.any():
                _, log_e = first.estimates(sums, moving, 0, metric, experiment)
                by_play = np.where(fit, log_e, 0.0).T.reshape(len(plays), len(rows), -1)
                for play, now in zip(plays, by_play, strict=True):
                    so_far = segmented_of(play).moving if moving else segmented_of(play).fixed
                    so_far[rows] = np.maximum(so_far[rows], now)


def side_by_side(states: list[State], rows: Ints, contextual: bool) -> Sums:
    """Sums of the same rows of R experiments, arrays (K, R S), given the states of theirs."""
    stacked = {
        of.name: np.concatenate([state[of.name][rows] for state in states]).T
        for of in fields(Sums)
        if of.name != "contextual"
    }
    return Sums(**stacked | {"moved": stacked["moved"] > 0}, contextual=contextual)


def told(reports: list[SegmentReport], metric: str) -> tuple[float, float, float]:
    """Parts of the plays with a corrected p-value, and with an interval, that tells a difference; segments compared."""
    by_p, by_interval, compared = [], [], []
    for report in reports:
        rows = [arm.metrics[metric] for each in report.values for arm in each.arms]
        by_p.append(any(row.p_value is not None and row.p_value <= ALPHA for row in rows))
        ends = [row.difference_interval for row in rows if row.difference_interval is not None]
        by_interval.append(any(low > 0.0 or high < 0.0 for low, high in ends))
        compared.append(len(ends))
    return float(np.mean(by_p)), float(np.mean(by_interval)), float(np.mean(compared))


def scheduled(set_up: str, laws: list[str], scale: Scale) -> list[Play]:
    shares_at = SHARES[set_up]
    n_arms, so_far = len(shares_at(0.0)), 0
    plays = plays_of(set_up, laws, n_arms, scale.runs, PolicySpec(kind="fixed_split"))
    for size in blocks(scale):
        for play in plays:
            step(play, laws, shares_at(so_far / scale.total), size)
        so_far += size
        look(plays, len(laws))
    return plays


def thompson(set_up: str, law: str, scale: Scale) -> list[Play]:
    """Shares of two arms as Thompson sampling with normal posteriors has them, above a floor."""
    floor = THOMPSON[set_up]
    plays = plays_of(set_up, [law], 2, scale.runs, PolicySpec(kind="thompson", min_share=floor))
    sums = np.zeros((scale.runs, 3, 2))
    for size in blocks(scale):
        for play, (n, total, squares) in zip(plays, sums, strict=True):
            mean = total / np.maximum(n, 1.0)
            variance = np.maximum(squares / np.maximum(n, 1.0) - mean**2, 0.01) / np.maximum(n, 1.0)
            best = norm.cdf((mean[1] - mean[0]) / np.sqrt(variance.sum()))
            arms, (values,) = step(
                play, [law], floor + (1.0 - 2.0 * floor) * np.array([1 - best, best]), size
            )
            for column, of_one in zip((n, total, squares), (np.ones(size), values, values**2), strict=True):
                column += np.bincount(arms, of_one, minlength=2)
        look(plays, 1)
    return plays


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--total", type=int, default=20_000, help="observations of a run")
    parser.add_argument("--growth", type=float, default=0.02, help="a look at each")
    parser.add_argument("--set-up", action="append", choices=[*SHARES, *THOMPSON], help="repeatable")
    parser.add_argument("--law", action="append", choices=list(LAWS), help="repeatable")
    options = parser.parse_args()
    scale = Scale(options.runs, options.total, options.growth)
    print(
        "| set-up | law | runs | told by p | told by interval | compared |\n|---|---|---|---|---|---|",
        flush=True,
    )
    for set_up in options.set_up or [*SHARES, *THOMPSON]:
        laws = options.law or list(LAWS if set_up in SHARES else OF_THOMPSON)
        groups = [laws] if set_up in SHARES else [[law] for law in laws]
        for group in groups:
            plays = scheduled(set_up, group, scale) if set_up in SHARES else thompson(set_up, group[0], scale)
            reports = [
                segment_report(segmented_of(play), play.fold.record, 0, declared=True) for play in plays
            ]
            for metric, law in enumerate(group):
                by_p, by_interval, compared = told(reports, f"m{metric}")
                bound = ALPHA + 2 * (ALPHA * (1 - ALPHA) / scale.runs) ** 0.5
                mark = " **fails**" if max(by_p, by_interval) > bound else ""
                shown = f"{by_p:.3f} | {by_interval:.3f} | {compared:.1f}{mark}"
                print(f"| {set_up} | {law} | {scale.runs} | {shown} |", flush=True)


if __name__ == "__main__":
    main()

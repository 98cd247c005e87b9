"""Regret of the policies in environments with known arms, against textbook implementations in the same run.

`PYTHONPATH=tests/reference python tests/statistics/simulated_regret.py` plays all at full size and prints the tables,
with standard errors.
`--policy KIND` plays one policy only, `--runs N` fewer runs, `--skip-growth` leaves out the long runs.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial

import numpy as np
import reference_policies as reference
from numpy.typing import NDArray

from bandit_serve.policies import POLICIES, Policy

Floats = NDArray[np.float64]

BERNOULLI = {
    "[.05, .04 x 9]": (0.05, *[0.04] * 9),
    "[.12, .1 x 9]": (0.12, *[0.1] * 9),
    "[.5, .4 x 9]": (0.5, *[0.4] * 9),
    "[.9, .8]": (0.9, 0.8),
}
NORMAL = {"Normal [.2, 0 x 4]": (0.2, 0.0, 0.0, 0.0, 0.0)}
TEXTBOOKS: dict[str, type[reference.Textbook]] = {
    "thompson": reference.Thompson,
    "ucb1": reference.UCB1,
    "kl_ucb": reference.KLUCB,
    "epsilon_greedy": reference.EpsilonGreedy,
    "softmax": reference.Softmax,
    "top_two_thompson": reference.TopTwoThompson,
    "exp3": reference.Exp3,
}
NORMAL_TEXTBOOKS: dict[str, type[reference.Textbook]] = {
    **{kind: TEXTBOOKS[kind] for kind in ("ucb1", "epsilon_greedy", "softmax")},
    "thompson": reference.NormalThompson,
    "top_two_thompson": reference.NormalTopTwoThompson,
}


def lai_robbins(means: Sequence[float]) -> float:
    best = max(means)
    return sum(
        (best - p) / (p * math.log(p / best) + (1 - p) * math.log((1 - p) / (1 - best)))
        for p in means
        if p < best
    )


def played(policy: Policy, means: Sequence[float], places: Sequence[float], at: Sequence[int]) -> list[float]:
    """The regret of one run after each number of steps in `at`.

    places: what chance says at each step, whichever arm is chosen: uniform in [0, 1), or for a continuous objective
    how far the reward is from its mean.
    """
    binary = policy.objective == "binary"
    choose, update, best = policy.choose, policy.update, max(means)
    regret, chosen, start = 0.0, [], 0
    for end in at:
        for place in places[start:end]:
            arm = choose()
            mean = means[arm]
            update(arm, place < mean if binary else mean + place)
            regret += best - mean
        chosen.append(regret)
        start = end
    return chosen


def run(make: Callable[..., Policy], means: Sequence[float], at: Sequence[int], seed: int) -> list[float]:
    rng = np.random.default_rng([seed, 1])
    policy = make(len(means), seed=seed)
    draw = rng.random if policy.objective == "binary" else rng.standard_normal
    return played(policy, means, draw(at[-1]).tolist(), at)


def regrets(
    make: Callable[..., Policy], means: Sequence[float], horizon: int, runs: int, seed: int = 0
) -> Floats:
    """(runs,): each run's regret at the horizon."""
    return np.array([run(make, means, [horizon], seed + i)[0] for i in range(runs)])


def growth(
    make: Callable[..., Policy], means: Sequence[float], at: tuple[int, int], runs: int, seed: int = 0
) -> Floats:
    """(runs,): by how much each run's regret grew between the two horizons `at`."""
    return np.array([np.ptp(run(make, means, at, seed + i)) for i in range(runs)])


def share_after_change(make: Callable[..., Policy], horizon: int, seed: int) -> float:
    """Of the last quarter, the share of the arm that became the best of three, .05 -> .15, at half time.

    Each step takes a second of the policy's time. Until then the best is another arm of .10.
    """
    places = np.random.default_rng([seed, 2]).random(horizon).tolist()
    policy = make(3, seed=seed)
    means, late = [0.05, 0.10, 0.05], 0
    for step, place in enumerate(places):
        if step == horizon // 2:
            means[2] = 0.15
        policy.advance(1_000 * step)
        arm = policy.choose()
        policy.update(arm, place < means[arm])
        late += arm == 2 and step >= horizon - horizon // 4
    return late / (horizon // 4)


def policies_of(objective: str) -> dict[str, Callable[..., Policy]]:
    return {
        kind: partial(policy, objective=objective)
        for kind, policy in POLICIES.items()
        if objective in policy.objectives and policy.learns and not policy.contextual
    }


def summary(values: Floats) -> str:
    return f"{values.mean():8.1f} ± {values.std(ddof=1) / math.sqrt(len(values)):4.1f}"


def row(kind: str, world: str, runs: int, horizon: int = 10_000) -> str:
    normal = world in NORMAL
    means = NORMAL[world] if normal else BERNOULLI[world]
    ours = regrets(policies_of("continuous" if normal else "binary")[kind], means, horizon, runs)
    textbook = (NORMAL_TEXTBOOKS if normal else TEXTBOOKS)[kind]
    theirs = reference.regrets(textbook, means, horizon, max(runs, 200), 1, 1.0 if normal else None)
    ratio = ours.mean() / theirs.mean()
    return f"{kind:17} {world:19} {summary(ours)}   textbook {summary(theirs)}   ratio {ratio:.3f}"


def growth_row(world: str, runs: int) -> str:
    bound = lai_robbins(BERNOULLI[world]) * math.log(10)
    grown = growth(policies_of("binary")["thompson"], BERNOULLI[world], (10_000, 100_000), runs)
    return f"thompson {world:15} from 1e4 to 1e5: {summary(grown)}   {grown.mean() / bound:.3f} x C ln 10"


def change_row(half_life: str | None, runs: int, kind: str = "thompson") -> str:
    make = partial(POLICIES[kind], half_life=half_life)
    shares = np.array([share_after_change(make, 20_000, seed) for seed in range(runs)])
    error = shares.std(ddof=1) / math.sqrt(runs)
    return (
        f"{kind:17} half_life {half_life!s:5}: new best in the last quarter {shares.mean():.3f} ± {error:.3f}"
    )


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    arguments.add_argument("--policy", choices=sorted(TEXTBOOKS))
    arguments.add_argument("--runs", type=int, default=200)
    arguments.add_argument("--skip-growth", action="store_true")
    given = arguments.parse_args()
    with ProcessPoolExecutor() as pool:
        rows = [
            pool.submit(row, kind, world, given.runs)
            for worlds, books in ((BERNOULLI, TEXTBOOKS), (NORMAL, NORMAL_TEXTBOOKS))
            for kind in ([given.policy] if given.policy in books else [] if given.policy else books)
            for world in worlds
        ]
        if not given.skip_growth:
            rows += [
                pool.submit(growth_row, world, max(given.runs, 200))
                for world in ("[.12, .1 x 9]", "[.5, .4 x 9]")
            ]
        rows += [pool.submit(change_row, half_life, min(given.runs, 100)) for half_life in CHANGES]
        for done in rows:
            print(done.result(), flush=True)


# A step of `share_after_change` is a second.
CHANGES = (None, "15m", "30m", "45m", "60m")

if __name__ == "__main__":
    main()

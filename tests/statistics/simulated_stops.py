"""Experiments that end by their rule, looked at all the time: how often what is said at the stop is wrong.

`python tests/statistics/simulated_stops.py` plays each at full size and prints what it found.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray
from simulated_results import Draw, Play, bernoulli, beta_shares, drawn_shares, record

from bandit_serve.experiments.policy_spec import PolicySpec
from bandit_serve.experiments.stopping import Stopping, StoppingRule
from bandit_serve.results import ResultsFold
from bandit_serve.results.ending import Ending, ending

FIRST, GROWTH, ALL, RUNS = 100, 1.25, 10_000, 300
FLOOR = 0.05


class Stops(NamedTuple):
    """What became of many experiments: how many ended by their rule, how many of these with something wrong said.

    `n` is the mean number of decisions at the stop.
    """

    runs: int
    ended: int
    wrong: int
    n: float

    def __str__(self) -> str:
        return f"{self.ended} of {self.runs} ended after {self.n:,.0f} on average; wrong {self.wrong / self.runs:.3f}"


IsWrong = Callable[[Ending, tuple[float, ...]], bool]
Rule = str | StoppingRule


def plays(
    rule: Rule,
    draw: Draw,
    means: tuple[float, ...],
    is_wrong: IsWrong,
    *,
    kind: str = "binary",
    thompson: bool = False,
    runs: int = RUNS,
    most: int = ALL,
    growth: float = GROWTH,
    seed: int = 0,
) -> Stops:
    """Plays `runs` experiments with arms of these means until their rule ends them, or they have `most` decisions.

    Arms share evenly, or, with `thompson`, by their chances of being the best, over a floor.
    """
    ended, wrong, n = 0, 0, 0
    for run in range(runs):
        policy = PolicySpec(kind="thompson", min_share=FLOOR) if thompson else None
        about = record(len(means), kind, policy=policy)
        experiment = msgspec.structs.replace(about.experiment, stopping=Stopping(rule=rule))
        about = msgspec.structs.replace(about, experiment=experiment)
        play = Play(ResultsFold(about), np.random.default_rng([seed, run]), draw, n_arms=len(means))
        found, at = None, 0
        while found is None and at < most:
            step = max(FIRST, int(at * (growth - 1.0)))
            play.step(shares(play, len(means), thompson), step)
            at += step
            found = ending(play.fold, about, play.now_ms)
        n += at
        ended += found is not None
        wrong += found is not None and is_wrong(found, means)
    return Stops(runs, ended, wrong, n / runs)


def shares(play: Play, n_arms: int, thompson: bool) -> NDArray[np.float64]:
    if not thompson or not play.arms:
        return np.full(n_arms, 1.0 / n_arms)
    arms, values = np.concatenate(play.arms), np.concatenate(play.values)
    n = np.bincount(arms, minlength=n_arms).astype(np.float64)
    total = np.bincount(arms, values, minlength=n_arms)
    if n_arms == 2 and set(np.unique(values)) <= {0.0, 1.0}:
        return beta_shares(total, n, FLOOR)
    mean = total / np.maximum(n, 1.0)
    return drawn_shares(play.rng, mean, values.std() / np.sqrt(np.maximum(n, 1.0)), FLOOR)


def any_winner(found: Ending, means: tuple[float, ...]) -> bool:
    """Whether a winner is named, of arms that are equal."""
    return found.winner is not None


def misses(found: Ending, means: tuple[float, ...]) -> bool:
    """Whether the interval of the second arm's difference to the first does not hold it."""
    low, high = found.evidence["arms"]["b"]["difference_interval"]
    return not low <= means[1] - means[0] <= high


def at_all(found: Ending, means: tuple[float, ...]) -> bool:
    """Whether it ended, where it never should."""
    return True


def not_the_best(found: Ending, means: tuple[float, ...]) -> bool:
    return found.winner != "abcdefgh"[int(np.argmax(means))]


def normal(*means: float) -> Draw:
    return lambda rng, k, n: rng.normal(means[k], 1.0, n)


def revenue(*parts: float) -> Draw:
    """Values of which a part is not 0, and those lognormal."""
    return lambda rng, k, n: np.where(rng.random(n) < parts[k], rng.lognormal(0.0, 1.5, n), 0.0)


SET_UPS: dict[str, tuple[Callable[..., Stops], float]] = {
    "winner, equal arms": (
        lambda **o: plays("winner", bernoulli(0.1, 0.1), (0.1, 0.1), any_winner, **o),
        0.05,
    ),
    "winner, equal arms, Thompson": (
        lambda **o: plays("winner", bernoulli(0.1, 0.1), (0.1, 0.1), any_winner, thompson=True, **o),
        0.05,
    ),
    "winner, three equal arms": (
        lambda **o: plays("winner", bernoulli(0.5, 0.5, 0.5), (0.5, 0.5, 0.5), any_winner, **o),
        0.05,
    ),
    "winner, equal normal arms, Thompson": (
        lambda **o: plays("winner", normal(0, 0), (0, 0), any_winner, kind="continuous", thompson=True, **o),
        0.05,
    ),
    "winner, equal revenue": (
        lambda **o: plays("winner", revenue(0.05, 0.05), (0, 0), any_winner, kind="continuous", **o),
        0.05,
    ),
    "precision": (
        lambda **o: plays(StoppingRule(precision=0.03), bernoulli(0.1, 0.12), (0.1, 0.12), misses, **o),
        0.05,
    ),
    "precision, Thompson": (
        lambda **o: plays(
            StoppingRule(precision=0.06), bernoulli(0.1, 0.12), (0.1, 0.12), misses, thompson=True, **o
        ),
        0.05,
    ),
    "futility at the least gain": (
        lambda **o: plays(StoppingRule(futility=0.03), bernoulli(0.1, 0.13), (0.1, 0.13), at_all, **o),
        0.05,
    ),
    "futility at the least gain, Thompson": (
        lambda **o: plays(
            StoppingRule(futility=0.03), bernoulli(0.1, 0.13), (0.1, 0.13), at_all, thompson=True, **o
        ),
        0.05,
    ),
    "best of three, of two that are near": (
        lambda **o: plays(
            StoppingRule(best_arm=0.1), bernoulli(0.1, 0.13, 0.14), (0.1, 0.13, 0.14), not_the_best, **o
        ),
        0.1,
    ),
    "best of three, Thompson": (
        lambda **o: plays(
            StoppingRule(best_arm=0.1),
            bernoulli(0.1, 0.13, 0.14),
            (0.1, 0.13, 0.14),
            not_the_best,
            thompson=True,
            **o,
        ),
        0.1,
    ),
}
"""Set-ups by name, with the error that is stated for each."""


def allowed(stated: float, runs: int) -> float:
    """Error rate that as many runs may show: the stated one and two standard errors."""
    return stated + 2.0 * float(np.sqrt(stated * (1.0 - stated) / runs))


if __name__ == "__main__":
    for name in sys.argv[1:] or SET_UPS:
        play, stated = SET_UPS[name]
        stops = play()
        print(f"{name}: {stops}, stated {stated:g}, allowed {allowed(stated, stops.runs):.3f}", flush=True)

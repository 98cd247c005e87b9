"""Experiments with a guardrail, run through `ResultsFold` with real events: how often harm is listed, and how soon.

`python tests/statistics/simulated_guardrails.py` plays each at full size and prints what it found.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from simulated_results import STEP_MS, beta_shares, exposed, record, rewarded

from bandit_serve.experiments.metric import Margin, Metric
from bandit_serve.experiments.policy_spec import PolicySpec
from bandit_serve.log.offset import Offset
from bandit_serve.results import ResultsFold
from bandit_serve.results.guardrail import harmed

Floats = NDArray[np.float64]
Law = Callable[[np.random.Generator, Floats], Floats]
"""What the guardrail brings beside the objective's values, float64 (n,), with a mean that is not 0."""
FLOOR = 0.02


def latency(rng: np.random.Generator, sales: Floats) -> Floats:
    """Lognormal, and longer where something is sold."""
    return rng.lognormal(0.0, 0.5, len(sales)) * (1.0 + 2.0 * sales)


def refunds(rng: np.random.Generator, sales: Floats) -> Floats:
    """Some of what is sold comes back, of lognormal worth."""
    return sales * (rng.random(len(sales)) < 0.3) * rng.lognormal(0.0, 1.0, len(sales))


def ramp(step: int, steps: int, won: Floats, n: Floats) -> Floats:
    share = (0.01, 0.05, 0.2, 0.5)[min(4 * step // steps, 3)]
    return np.array([1.0 - share, share])


def even(step: int, steps: int, won: Floats, n: Floats) -> Floats:
    return np.array([0.5, 0.5])


def thompson(step: int, steps: int, won: Floats, n: Floats) -> Floats:
    return beta_shares(won, n, FLOOR)


SHARES: dict[str, Callable[[int, int, Floats, Floats], Floats]] = {
    "even": even,
    "ramp": ramp,
    "thompson": thompson,
}
LAWS: dict[str, Law] = {"latency": latency, "refunds": refunds}


def ever_harmed(
    n: int,
    shares: str,
    law: str,
    *,
    worse: float = 1.0,
    sales: tuple[float, float] = (0.1, 0.1),
    steps: int = 40,
    each: int = 200,
) -> list[int | None]:
    """Number of decisions after which harm of the second arm is first listed, of `n` experiments; None for never.

    The second arm has `worse` times the guardrail, which is to be small. `sales` are the rates of the objective; where
    they are the same and `worse` is 1, so are the means of the guardrail.
    """
    found: list[int | None] = []
    guardrail = Metric(
        name="g", kind="continuous", goal="minimize", role="guardrail", margin=Margin(relative=0.1)
    )
    policy = PolicySpec(kind="thompson", min_share=FLOOR) if shares == "thompson" else None
    about = record(metrics=(Metric(name="sale", kind="binary"), guardrail), policy=policy)
    for run in range(n):
        rng, fold = np.random.default_rng([7, run]), ResultsFold(about)
        won, tried, now_ms = np.zeros(2), np.zeros(2), 1_700_000_000_000
        found.append(None)
        for step in range(steps):
            split = SHARES[shares](step, steps, won, tried)
            arms = (rng.random(each) < split[1]).astype(np.int64)
            sold = (rng.random(each) < np.array(sales)[arms]).astype(np.float64)
            brought = LAWS[law](rng, sold) * np.where(arms == 1, worse, 1.0)
            first = step * each
            fold.apply(Offset(now_ms + STEP_MS, 0), exposed(first, arms, split[None], [each], time_ms=now_ms))
            rows = rewarded(
                counter=np.tile(first + np.arange(each), 2),
                time_ms=now_ms,
                value=np.concatenate([sold, brought]),
                propensity=np.tile(split[arms], 2),
                arm=np.tile(arms, 2),
                metric=np.repeat([0, 1], each),
            )
            fold.apply(Offset(now_ms + STEP_MS, 1), rows)
            now_ms += STEP_MS
            won += np.bincount(arms, sold, minlength=2)
            tried += np.bincount(arms, minlength=2)
            if harmed(fold, about):
                found[-1] = first + each
                break
    return found


def at_full_size() -> None:
    for shares in SHARES:
        for law in LAWS:
            for worse in (1.0, 1.2):
                found = ever_harmed(300, shares, law, worse=worse)
                when = [each for each in found if each is not None]
                print(
                    f"{shares}, {law} times {worse:g}: {len(when)} of {len(found)} ever harmed"
                    f"{f', after {np.mean(when):.0f} decisions on average' if when else ''}",
                    flush=True,
                )
    found = ever_harmed(300, "thompson", "latency", sales=(0.1, 0.1), worse=1.2, steps=80)
    print(f"thompson, 80 steps, latency times 1.2: {sum(each is not None for each in found)} of 300")


if __name__ == "__main__":
    at_full_size()

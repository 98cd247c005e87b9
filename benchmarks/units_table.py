"""Regret, in standard deviations, of policies in several units: with defaults, and with parameters that have a unit.

    python benchmarks/units_table.py --runs 20

Five arms with Normal rewards, the best `--gap` standard deviations above 0 and the others at 0, 1/3, 2/3 and 0 of
that; the same outcomes in each unit, one decision after another. Counts: orders of one item or of many, in orders.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np

from bandit_serve.policies import POLICIES

UNITS = ((0.01, 0.0), (1.0, 0.0), (100.0, 0.0), (1.0, 100.0))
CONTENDERS: dict[str, tuple[str, dict[str, Any]]] = {
    "thompson": ("thompson", {}),
    '… with `prior` {"mean": 0, "beta": 1}': ("thompson", {"prior": {"mean": 0.0, "beta": 1.0}}),
    "softmax": ("softmax", {}),
    "… with `temperature` .05": ("softmax", {"temperature": 0.05}),
    "ucb1": ("ucb1", {}),
    "… with `sigma` 1": ("ucb1", {"sigma": 1.0}),
}
SIZES = (1.0, 20.0, 200.0)


def normal_regret(contender: str, unit: float, zero: float, seed: int, options: argparse.Namespace) -> float:
    means = options.gap * np.array([0.0, 1.0, 1.0 / 3.0, 2.0 / 3.0, 0.0])
    noise = np.random.default_rng([options.seed, seed]).standard_normal((options.horizon, 5))
    kind, parameters = CONTENDERS[contender]
    policy, lost = POLICIES[kind](5, objective="continuous", seed=seed, **parameters), 0.0
    for row in unit * (zero + means + noise):
        arm = policy.choose()
        policy.update(arm, row[arm])
        lost += options.gap - means[arm]
    return float(lost)


def count_regret(size: float, seed: int, options: argparse.Namespace) -> float:
    rates = np.array([0.02, 0.03, 0.02])
    rng = np.random.default_rng([options.seed, seed])
    placed = rng.random((options.horizon, 3)) < rates
    counts = placed * np.maximum(1.0, np.round(size * rng.exponential(1.0, placed.shape)))
    policy, lost = POLICIES["thompson"](3, objective="count", seed=seed), 0.0
    for row in counts:
        arm = policy.choose()
        policy.update(arm, row[arm])
        lost += rates.max() - rates[arm]
    return float(lost)


def cell(regrets: list[float]) -> str:
    return f"{np.mean(regrets):.1f} ± {np.std(regrets, ddof=1) / len(regrets) ** 0.5:.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--seed", type=int, default=13)
    parser.add_argument("--horizon", type=int, default=5_000)
    parser.add_argument("--gap", type=float, default=0.3)
    options = parser.parse_args()
    print("| | sd .01 | sd 1 | sd 100 | sd 1, mean 100 sd away |\n|---|---|---|---|---|")
    for name in CONTENDERS:
        cells = [
            cell([normal_regret(name, unit, zero, run, options) for run in range(options.runs)])
            for unit, zero in UNITS
        ]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    print("\n| | orders of 1 | of 20 | of 200 |\n|---|---|---|---|")
    cells = [cell([count_regret(size, run, options) for run in range(options.runs)]) for size in SIZES]
    print(f"| thompson, counts | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()

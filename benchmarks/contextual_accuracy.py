"""Accuracy of coefficients after 10 million updates, against a fresh solve, for all four contextual policies.

python benchmarks/contextual_accuracy.py [--updates 10000000] [--features 64]
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from bandit_serve.policies import LinTS, LinUCB, LogisticTS, SquareCB

ROWS = 1 << 16


def deviation(policy: LinUCB | LinTS | LogisticTS | SquareCB) -> float:
    """Largest relative difference of a coefficient from the solution of the sums."""
    factors, statistics, order = policy.factors(), policy.statistics(), policy.order
    upper = np.zeros((order, order))
    upper[np.triu_indices(order)] = statistics["gram"][0]
    hessian = upper + np.triu(upper, 1).T + np.diag(factors["precision"])
    fresh = np.linalg.solve(hessian, statistics["moment"][0])
    return float(np.abs(factors["coefficients"][0] / fresh - 1).max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--updates", type=int, default=10_000_000)
    parser.add_argument("--features", type=int, default=64)
    given = parser.parse_args()
    rng = np.random.default_rng(1)
    x = rng.standard_normal((ROWS, given.features)).astype(np.float32)
    rewards = (rng.random(ROWS) < 1 / (1 + np.exp(-x[:, 0]))).astype(float)
    arms = np.zeros(ROWS, dtype=np.int64)
    for kind in (LinUCB, LinTS, SquareCB, LogisticTS):
        policy = kind(1, given.features)
        start, left = time.perf_counter(), given.updates
        while left:
            n = min(ROWS, left)
            policy.update_many(arms[:n], rewards[:n], x[:n])
            left -= n
        took = time.perf_counter() - start
        print(
            f"{policy.kind}: {given.updates:,} updates at d = {given.features} in {took:.1f} s, "
            f"coefficients within {deviation(policy):.1e} of a fresh solve"
        )


if __name__ == "__main__":
    main()

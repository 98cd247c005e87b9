"""Rewards a second, and milliseconds until their answer, with and without replicas that confirm them.

    python benchmarks/confirmed_rewards.py

One master and two replicas behind sentinels, `appendfsync everysec`. 16 experiments append at the same time, each the
next group when the last was answered.
"""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from builders import experiment, rewards
from sentinel_sets import ThrowawaySentinels

from bandit_serve.rewards.appender import RewardAppender
from bandit_serve.store.store import Store

EXPERIMENTS = 16
GROUPS = (1, 50)
SECONDS = 3.0


async def measured(url: str, replicas: int, group: int) -> tuple[float, float]:
    """Rewards a second, and the median of milliseconds until an append was answered."""
    store = Store(url, namespace=f"confirmed-{replicas}-{group}", timeout_s=10, replicas=replicas)
    now_ms = await store.time_ms()
    until_s = time.monotonic() + SECONDS
    took: list[float] = []

    async def send(number: int) -> None:
        appender = RewardAppender(store, f"e{number}", experiment(id=f"e{number}"))
        counter = 0
        while time.monotonic() < until_s:
            rows = rewards(range(counter, counter + group), times_ms=now_ms)
            counter += group
            begun_s = time.perf_counter()
            letters = await appender.append(rows)
            took.append(time.perf_counter() - begun_s)
            assert letters == b"a" * group

    await asyncio.gather(*(send(number) for number in range(EXPERIMENTS)))
    await store.close()
    return len(took) * group / SECONDS, 1_000 * float(np.median(took))


def main() -> None:
    print("| rewards in an append | none confirms | one confirms | two confirm |\n|---|---|---|---|")
    with ThrowawaySentinels(appendfsync="everysec") as servers:
        for group in GROUPS:
            cells = []
            for replicas in (0, 1, 2):
                rate, median_ms = asyncio.run(measured(servers.url, replicas, group))
                cells.append(f"{rate:,.0f}/s, {median_ms:.1f} ms")
            print(f"| {group} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()

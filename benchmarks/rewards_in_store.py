"""Rewards in the store: its CPU time for each, the longest scripts, and the bytes that it keeps of each for its window.

    python benchmarks/rewards_in_store.py

CPU time is the server's own (INFO cpu), a script's time is that of SLOWLOG, and bytes are those of MEMORY USAGE over
the keys that count rewards, with their index of expiries and without the log.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from stores import ThrowawayStore, server_binaries

from bandit_serve.experiments.checks import validated
from bandit_serve.experiments.spec import Experiment
from bandit_serve.log.events import REWARD
from bandit_serve.rewards.appender import RewardAppender
from bandit_serve.store.store import Store

OWNER = "checkout"
METRICS = [
    {"name": "paid", "kind": "binary"},
    {"name": "stars", "kind": "bounded", "low": 1, "high": 5},
    {"name": "items", "kind": "count"},
    {"name": "revenue", "kind": "continuous"},
]
PAID, STARS, ITEMS, REVENUE = range(4)
GROUPS = (1, 10, 500)
BLOCK = 65_536


def taking(unit: str) -> Experiment:
    described = {
        "id": OWNER,
        "arms": [{"name": "a"}, {"name": "b"}],
        "unit": unit,
        "metrics": METRICS,
        "policy": {"kind": "fixed_split"},
        "attribution": {"window": "24h", "missing": "ignore"},
    }
    return validated(msgspec.convert(described, Experiment))


def rows_of(counters: NDArray[np.int64], metric: int, now_ms: int, seed: int) -> NDArray[np.void]:
    """Rewards of these decisions, `REWARD` (n,), each of a unit of its own."""
    rng = np.random.default_rng(seed)
    rows = np.zeros(len(counters), REWARD)
    rows["incarnation"], rows["counter"], rows["time_ms"], rows["metric"] = (
        2**63 + 1,
        counters,
        now_ms,
        metric,
    )
    rows["unit"] = counters.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    rows["propensity"], rows["revision"] = 0.5, 1
    rows["value"] = {
        PAID: rng.integers(0, 2, len(rows)),
        STARS: rng.integers(1, 3, len(rows)) / 2 + 0.5,
        ITEMS: rng.integers(0, 9, len(rows)),
        REVENUE: rng.uniform(0, 100, len(rows)).round(2),
    }[metric]
    return rows


async def send(
    appender: RewardAppender,
    rows: NDArray[np.void],
    events: NDArray[np.uint64] | None,
    group: int,
    expected: bytes = b"a",
) -> None:
    for start in range(0, len(rows), group):
        some = slice(start, start + group)
        if events is None:
            letters = await appender.append(rows[some])
        else:
            letters = await appender.append_events(rows[some], events[some])
        assert letters == expected * len(letters), letters[:20]


def events_of(n: int, seed: int = 0) -> NDArray[np.uint64]:
    return np.random.default_rng(seed).integers(1, 2**63, n, np.uint64)


async def cpu_us(
    server: ThrowawayStore, unit: str, metric: int, group: int, *, by_event: bool, after_plain: bool
) -> float:
    """Microseconds of the server's CPU for a reward, the smallest of three runs.

    `after_plain`: each decision has a plain reward already, so that a plain one is a duplicate.
    """
    n = {1: 2_000, 10: 5_000}.get(group, 20_000)
    expected = b"d" if after_plain and not by_event else b"a"
    runs = []
    for seed in range(3):
        server.flush()
        store = Store(server.url, timeout_s=10)
        appender = RewardAppender(store, OWNER, taking(unit))
        rows = rows_of(np.arange(n), metric, await store.time_ms(), seed)
        if after_plain:
            await send(appender, rows, None, 2_000)
        with server.client() as client:
            before: Any = client.info("cpu")
            await send(appender, rows, events_of(n) if by_event else None, group, expected)
            after: Any = client.info("cpu")
        used = sum(after[name] - before[name] for name in ("used_cpu_user", "used_cpu_sys"))
        runs.append(1e6 * used / n)
        await store.close()
    return float(min(runs))


async def longest_ms(
    server: ThrowawayStore, unit: str, counters: NDArray[np.int64], *, before: bool, by_event: bool
) -> float:
    """Milliseconds of the longest script for one bulk of rewards: the smallest of five runs.

    `before`: each decision of the bulk has a plain reward already, and so do its neighbours.
    """
    runs = []
    for seed in range(5):
        server.flush()
        store = Store(server.url, timeout_s=10)
        appender = RewardAppender(store, OWNER, taking(unit))
        rows = rows_of(counters, REVENUE, await store.time_ms(), seed)
        if counters[0] == counters[-1]:
            rows["unit"] = 1
        if before:
            full = np.unique(np.concatenate([counters, np.arange(200_000)]))
            some = rows_of(full, REVENUE, int(rows["time_ms"][0]), seed)
            some["value"][np.searchsorted(full, counters)] = rows["value"]
            await send(appender, some, None, 5_000)
        with server.client() as client:
            client.config_set("slowlog-log-slower-than", 100)
            client.config_set("slowlog-max-len", 10_000)
            client.slowlog_reset()
            if by_event:
                await appender.append_events(rows, events_of(len(rows)))
            else:
                await appender.append(rows)
            slow: Any = client.slowlog_get(10_000)
        runs.append(max(entry["duration"] for entry in slow if entry["command"].startswith(b"EVALSHA")) / 1e3)
        await store.close()
    return min(runs)


async def kept_bytes(server: ThrowawayStore, unit: str, metric: int, rate: float, n_events: int) -> float:
    """Bytes that are kept for each reward where the share `rate` of decisions has `n_events` (0: a plain reward)."""
    server.flush()
    store = Store(server.url, timeout_s=10)
    appender = RewardAppender(store, OWNER, taking(unit))
    n_decisions = BLOCK if rate == 1.0 else 4 * BLOCK
    counters = np.flatnonzero(np.random.default_rng(7).random(n_decisions) < rate)
    rows = rows_of(counters, metric, await store.time_ms(), 0)
    rows["value"] /= max(n_events, 1) if metric == STARS else 1
    for seed in range(max(n_events, 1)):
        await send(appender, rows, events_of(len(rows), seed) if n_events else None, 2_000)
    await store.close()
    with server.client() as client:
        keys = {*client.keys("*:seen:*"), *client.keys("*:values:*"), *client.keys("*:events:*")}
        keys.add(store.keys.expiries(OWNER).encode())
        total: Any = sum(client.memory_usage(key, samples=0) for key in keys)
    return float(total / (len(rows) * max(n_events, 1)))


def table(title: str, head: list[str], lines: list[list[str]]) -> None:
    print(f"\n{title}\n\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for line in lines:
        print(f"| {' | '.join(line)} |")


def main() -> None:
    with ThrowawayStore(appendfsync="everysec") as server:

        def run(measure: Callable[..., Any], *given: Any, **named: Any) -> float:
            return float(asyncio.run(measure(server, *given, **named)))

        cases = [
            ("plain, binary", "request", PAID, False, False),
            ("plain, continuous", "request", REVENUE, False, False),
            ("duplicate, binary", "request", PAID, False, True),
            ("duplicate, continuous", "request", REVENUE, False, True),
            ("event, binary", "request", PAID, True, False),
            ("event, continuous", "request", REVENUE, True, False),
            ("event after a plain reward, continuous", "request", REVENUE, True, True),
            ("event, continuous, by unit", "user", REVENUE, True, False),
        ]
        lines = []
        for name, unit, metric, by_event, after_plain in cases:
            figures = [
                run(cpu_us, unit, metric, group, by_event=by_event, after_plain=after_plain)
                for group in GROUPS
            ]
            lines.append([name, *(f"{figure:.1f}" for figure in figures)])
        table("Microseconds of the store's CPU for a reward", ["in groups of", *map(str, GROUPS)], lines)
        n = 10_000
        lines = []
        for name, counters, before, by_event in [
            ("new, of consecutive decisions", np.arange(n), False, False),
            ("new, a bitmap each", np.arange(n) * BLOCK, False, False),
            ("duplicates among 200,000", np.random.default_rng(0).permutation(200_000)[:n], True, False),
            ("duplicates, a block each", np.arange(n) * 512, True, False),
            ("events of consecutive decisions", np.arange(n), False, True),
            ("events, a bitmap each", np.arange(n) * BLOCK, False, True),
            ("events after plain rewards", np.random.default_rng(0).permutation(200_000)[:n], True, True),
            ("events of one decision", np.zeros(n, np.int64), False, True),
        ]:
            figures = [
                run(longest_ms, unit, counters, before=before, by_event=by_event)
                for unit in ("request", "user")
            ]
            lines.append([name, *(f"{figure:.0f}" for figure in figures)])
        table("Milliseconds of the longest script for 10,000 rewards", ["unit", "request", "user"], lines)
        lines = []
        for name, unit, metric, n_events in [
            ("plain, binary", "request", PAID, 0),
            ("plain, bounded", "request", STARS, 0),
            ("plain, count", "request", ITEMS, 0),
            ("plain, continuous", "request", REVENUE, 0),
            *((f"{n} event{'s' * (n > 1)} a decision", "request", REVENUE, n) for n in (1, 3)),
            *((f"{n} event{'s' * (n > 1)} a decision, by unit", "user", REVENUE, n) for n in (1, 3)),
        ]:
            figures = [run(kept_bytes, unit, metric, rate, n_events) for rate in (0.01, 0.1, 1.0)]
            lines.append([name, *(f"{figure:.1f}" for figure in figures)])
        table("Bytes for a reward", ["of all decisions", "1 %", "10 %", "100 %"], lines)
    print(f"\n{server_binaries()[0].name}, appendfsync everysec")


if __name__ == "__main__":
    main()

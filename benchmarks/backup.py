"""Rate and memory of `bandit-serve backup` and `restore`, by the size of a log.

python benchmarks/backup.py --rewards 100000 1000000

Each row: rewards in the log of one experiment, bytes of the store's log, size of the file, entries a second and MiB of
log a second of each command, and the most memory that it had. A backup of nothing is the first row: what the commands
need by themselves.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bandit_serve.experiments.metric import Metric
from bandit_serve.experiments.spec import Arm, Experiment
from bandit_serve.log.events import REWARD
from bandit_serve.node import Node
from bandit_serve.rewards.appender import RewardAppender
from bandit_serve.settings import Settings
from bandit_serve.store import PrivateServer

ROWS = 500
"""Rewards of an entry: those of a service under load."""


class Ran(NamedTuple):
    """Seconds that a command took, and the most memory that it had, in bytes."""

    seconds: float
    peak: int


def run(*arguments: object) -> Ran:
    began_s = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "bandit_serve", *map(str, arguments)], stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, arguments
    return Ran(time.monotonic() - began_s, usage.ru_maxrss * 1024)


async def fill(url: str, data: Path, n_rewards: int) -> int:
    """Makes an experiment with so many rewards of as many decisions; returns the bytes of its entries."""
    node = Node(Settings(data=str(data), store_timeout="30s"), url)
    await node.tail.load()
    following = asyncio.create_task(node.tail.run())
    made = Experiment(id="e", arms=(Arm("a"), Arm("b")), metrics=(Metric(name="m", kind="continuous"),))
    live = await node.experiment_changes.create(made, "benchmark")
    appender, now_ms = RewardAppender(node.store, "e", live.experiment), await node.store.time_ms()
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    rng = np.random.default_rng(0)
    for first in range(0, n_rewards, ROWS):
        rows = np.zeros(ROWS, REWARD)
        rows["incarnation"], rows["counter"], rows["time_ms"] = 1, first + np.arange(ROWS), now_ms
        rows["value"], rows["arm"], rows["propensity"] = rng.random(ROWS), rng.integers(0, 2, ROWS), 0.5
        rows["revision"] = 1
        await appender.append(rows)
    await node.store.close()
    return n_rewards * REWARD.itemsize


def measure(folder: Path, n_rewards: int) -> str:
    data, file = folder / "d", folder / "f"
    with PrivateServer.start_or_adopt(data) as server:
        size = asyncio.run(fill(server.url, data, n_rewards))
        backup = run("backup", "--data", data, "--out", file)
    restore = run("restore", file, "--data", folder / "r")
    cells = [f"{n_rewards:,}", f"{size / 2**20:,.0f} MiB", f"{file.stat().st_size / 2**20:,.1f} MiB"]
    for ran in (backup, restore):
        cells += [f"{ran.seconds:.1f} s", f"{n_rewards / ran.seconds:,.0f}", f"{ran.peak / 2**20:.0f} MiB"]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rewards", type=int, nargs="+", default=[100_000, 1_000_000])
    counts = parser.parse_args().rewards
    print("| rewards | log | file | backup | rewards/s | peak | restore | rewards/s | peak |")
    print("|---|---|---|---|---|---|---|---|---|")
    for n_rewards in (0, *counts):
        with tempfile.TemporaryDirectory() as folder:
            print(measure(Path(folder), n_rewards), flush=True)


if __name__ == "__main__":
    main()

"""Rate and memory of `bandit-serve export`, by the size of a log.

python benchmarks/export.py --decisions 1000000 10000000

Each row: decisions in the log of one experiment with five arms, of which 70 % have a reward; the command's time, on the
clock and on the CPU, its most memory, and the size of the files. Rates are without the first row, an export of nothing.
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
from bandit_serve.experiments.spec import Arm, Attribution, Experiment
from bandit_serve.log.events import EXPOSED, REWARD, REWARDED, Exposed, encode
from bandit_serve.node import Node
from bandit_serve.settings import Settings
from bandit_serve.store import PrivateServer

ARMS = 5
ROWS = 2_000
"""Decisions of an entry: those of a worker that makes 20,000 a second."""
REWARDED_PART = 0.7
WORKERS = 4


class Ran(NamedTuple):
    """Seconds that a command took, those of CPU, the most memory that it had, in bytes, and the bytes that it wrote."""

    seconds: float
    cpu: float
    peak: int
    written: int


def run(data: Path, out: Path, *options: str) -> Ran:
    began_s = time.monotonic()
    words = ["export", "e", "--data", str(data), "--out", str(out), *options]
    process = subprocess.Popen([sys.executable, "-m", "bandit_serve", *words], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0
    files = [out] if out.is_file() else [path for path in out.rglob("*") if path.is_file()]
    seconds, cpu = time.monotonic() - began_s, usage.ru_utime + usage.ru_stime
    return Ran(seconds, cpu, usage.ru_maxrss * 1024, sum(path.stat().st_size for path in files))


async def fill(url: str, data: Path, n_decisions: int) -> None:
    """Makes an experiment with so many decisions, and a reward of most of them, each some entries later."""
    node = Node(Settings(data=str(data), store_timeout="30s"), url)
    await node.tail.load()
    following = asyncio.create_task(node.tail.run())
    made = Experiment(
        id="e",
        arms=tuple(Arm(name) for name in "abcde"[:ARMS]),
        metrics=(Metric(name="click", kind="binary", role="objective"),),
        attribution=Attribution(window="1h", missing="zero"),
    )
    live = await node.experiment_changes.create(made, "benchmark")
    live = await node.experiment_changes.start("e", "benchmark")
    now_ms = await node.store.time_ms()
    generator = np.random.default_rng(7)
    behind: list[bytes] = []
    for number in range(n_decisions // ROWS):
        worker, turn = number % WORKERS + 1, number // WORKERS
        shares = generator.dirichlet(np.full(ARMS, 4.0)) * 0.9 + 0.1 / ARMS
        arms = generator.choice(ARMS, ROWS, p=shares).astype(np.uint16)
        ages = np.sort(generator.integers(0, 100, ROWS)).astype(np.uint32)
        exposed = Exposed(
            incarnation=worker * 7919,
            first=turn * ROWS,
            revision=live.record.revision,
            time_ms=now_ms + 100 * turn,
            arms=arms.tobytes(),
            ages_ms=ages.tobytes(),
            units=b"",
            vectors=shares.tobytes(),
            runs=np.array([ROWS], np.uint32).tobytes(),
        )
        chosen = np.flatnonzero(generator.random(ROWS) < REWARDED_PART)
        rows = np.zeros(len(chosen), REWARD)
        rows["incarnation"], rows["counter"] = exposed.incarnation, exposed.first + chosen
        rows["time_ms"], rows["arm"] = exposed.time_ms + ages[chosen].astype(np.int64), arms[chosen]
        rows["propensity"], rows["revision"] = shares[arms[chosen]], exposed.revision
        rows["value"] = generator.random(len(chosen)) < 0.1
        await node.store.append(live.owner, EXPOSED, encode(exposed))
        behind.append(rows.tobytes())
        if len(behind) > 3 * WORKERS:
            await node.store.append(live.owner, REWARDED, behind.pop(0))
    for rewards in behind:
        await node.store.append(live.owner, REWARDED, rewards)
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    await node.store.close()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--decisions", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--format", choices=("parquet", "jsonl", "csv"), default="parquet")
    parser.add_argument("--keep", type=Path, help="a folder in which the files are left")
    given = parser.parse_args()
    nothing = Ran(0.0, 0.0, 0, 0)
    print(
        "| decisions | s | decisions/s | CPU s | decisions/CPU s | most memory, MiB | beyond nothing | file, MB |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for n_decisions in (0, *given.decisions):
        with tempfile.TemporaryDirectory() as folder:
            data, out = Path(folder) / "data", (given.keep or Path(folder)) / f"export-{n_decisions}"
            with PrivateServer.start_or_adopt(data) as server:
                asyncio.run(fill(server.url, data, n_decisions))
                ran = run(data, out, "--format", given.format)
            nothing = ran if not n_decisions else nothing
            rate = n_decisions / max(ran.seconds - nothing.seconds, 1e-9)
            print(
                f"| {n_decisions:,} | {ran.seconds:.1f} | {rate:,.0f} | {ran.cpu:.1f} | "
                f"{n_decisions / max(ran.cpu - nothing.cpu, 1e-9):,.0f} | {ran.peak / 2**20:,.0f} | "
                f"{(ran.peak - nothing.peak) / 2**20:,.0f} | {ran.written / 1e6:,.1f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()

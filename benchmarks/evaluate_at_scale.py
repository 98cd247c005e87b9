"""Rate and memory of `bandit-serve evaluate` over a Parquet export, by its size and by engine.

python benchmarks/evaluate_at_scale.py --decisions 1000000 100000000 --threads 1

The exports are written by DuckDB: decisions of five arms by drifting shares, of which 70 % have a reward, in files of
ten million. Each row: decisions in the export and the size of its files; the command's time for three policies with
all estimators, on the clock and on the CPU; its most memory. `memory` reads exports of `--in-memory` decisions at most;
where both read, they have to agree to nine digits.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import duckdb

from bandit_serve.experiments.checks import validated
from bandit_serve.experiments.metric import Metric
from bandit_serve.experiments.policy_spec import PolicySpec
from bandit_serve.experiments.spec import Arm, Attribution, Experiment
from bandit_serve.export.tables import about

ARMS = ("a", "b", "c", "d", "e")
A_FILE = 10_000_000
REWARDED_PART = 0.7
POLICIES = ("a=1", "a=0.2,b=0.2,c=0.2,d=0.2,e=0.2", "b=0.7,c=0.3")
MAX_APART = 1e-9


class Ran(NamedTuple):
    """Seconds that a command took, those of CPU, the most memory that it had, in bytes, and what it printed."""

    seconds: float
    cpu: float
    peak: int
    found: Any


def write(folder: Path, n: int, threads: int) -> int:
    """Writes an export of n decisions; returns its bytes."""
    experiment = validated(
        Experiment(
            id="scale",
            arms=tuple(map(Arm, ARMS)),
            metrics=(Metric("click", kind="binary"),),
            policy=PolicySpec(kind="thompson", min_share=0.05),
            attribution=Attribution("1h", "ignore"),
        )
    )
    metadata = ", ".join(f"'{name}': {quoted(text)}" for name, text in about(experiment, []).items())
    written = 0
    with duckdb.connect(config={"threads": threads, "memory_limit": "1GB"}) as database:
        database.execute("SELECT setseed(0.5)")
        for start in range(0, n, A_FILE):
            path = folder / f"part-{start // A_FILE}.parquet"
            rows = decisions(start, min(n, start + A_FILE))
            database.execute(f"COPY ({rows}) TO '{path}' (FORMAT parquet, KV_METADATA {{{metadata}}})")
            written += path.stat().st_size
    return written


def decisions(start: int, end: int) -> str:
    """Query of the decisions with these numbers, as an export has them."""
    places = range(len(ARMS))
    chances = ", ".join(f"1 + 0.9 * sin(range / 5e4 + {k})" for k in places)
    rows = f"SELECT range AS i, random() AS drawn, random() AS liked, [{chances}] AS c FROM range({start}, {end})"
    rows = (
        f"SELECT i, drawn, liked, list_transform(c, lambda each: each / list_sum(c)) AS shares FROM ({rows})"
    )
    drawn = " ".join(f"WHEN drawn < list_sum(shares[1:{k + 1}]) THEN {k + 1}" for k in places[:-1])
    rows = f"SELECT *, CASE {drawn} ELSE {len(ARMS)} END AS place FROM ({rows})"
    return (
        "SELECT epoch_ms(1700000000000 + i)::TIMESTAMP_MS AS decided_at, (1 + i // 1000000)::INTEGER AS revision, "
        "printf('%016x', 1 + i % 4) AS incarnation, i AS number, NULL::VARCHAR AS unit, "
        f"{list(ARMS)}[place] AS arm, shares[place] AS propensity, shares, false AS holdout, CASE WHEN liked < "
        f"{REWARDED_PART} THEN (liked < {REWARDED_PART} * (0.02 + 0.01 * place))::INTEGER::DOUBLE END AS reward_click, "
        f"true AS closed FROM ({rows})"
    )


def quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def run(folder: Path, *options: str) -> Ran:
    words = ["evaluate", f"{folder}/", "--json", *options]
    for policy in POLICIES:
        words += ["--policy", policy]
    with tempfile.TemporaryFile() as out:
        began_s = time.monotonic()
        process = subprocess.Popen([sys.executable, "-m", "bandit_serve", *words], stdout=out)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - began_s
        process.returncode = os.waitstatus_to_exitcode(status)
        assert status == 0, process.returncode
        out.seek(0)
        return Ran(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024, json.load(out))


def apart(one: Any, other: Any) -> float:
    """Largest relative difference between the numbers of two documents."""
    if isinstance(one, dict):
        return max((apart(one[name], other[name]) for name in one), default=0.0)
    if isinstance(one, list):
        return max((apart(*pair) for pair in zip(one, other, strict=True)), default=0.0)
    if isinstance(one, float):
        return abs(one - other) / max(abs(one), abs(other), 1e-300)
    assert one == other, (one, other)
    return 0.0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--decisions", type=int, nargs="+", default=[1_000_000])
    parser.add_argument("--in-memory", type=int, default=2_000_000)
    parser.add_argument("--memory", default="1GB")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    print(
        f"{'decisions':>12} {'files':>9} {'engine':>8} {'seconds':>9} {'CPU':>8} {'decisions/s CPU':>16} {'peak':>9}"
    )
    for n in given.decisions:
        with tempfile.TemporaryDirectory(dir=given.folder) as name:
            folder = Path(name)
            size = write(folder, n, given.threads)
            found: list[Any] = []
            engines = ["duckdb", "memory"] if n <= given.in_memory else ["duckdb"]
            for engine in engines:
                options = (
                    ["--memory", given.memory, "--threads", str(given.threads)] if engine == "duckdb" else []
                )
                ran = run(folder, "--engine", engine, *options)
                found.append(ran.found)
                print(
                    f"{n:>12,} {size / 1e6:>6,.0f} MB {engine:>8} {ran.seconds:>9.1f} {ran.cpu:>8.1f} "
                    f"{n / ran.cpu:>16,.0f} {ran.peak / 1e6:>6,.0f} MB",
                    flush=True,
                )
            if len(found) == 2:
                difference = apart(*found)
                assert difference <= MAX_APART, difference
                print(f"{'':>12} the largest relative difference of the two is {difference:.1e}")


if __name__ == "__main__":
    main()

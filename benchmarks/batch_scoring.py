"""Rows a second of `bandit-serve score` on one core, beside NumPy that does the same.

python benchmarks/batch_scoring.py --rows 1000000 --users 20000

Each row: pairs, or users with their 10 best items, of a matrix factorization of 32 factors. The baseline reads the same
Parquet file with pyarrow, finds the rows of ids in dicts, scores float32 rows with `einsum` (pairs) or a matrix product
of 512 users and `argpartition` (best items), and writes the same columns. Time is that of the CPU; that of a run about
one row, imports among it, is taken off. The most memory is the command's.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bandit_serve.models import MatrixFactorization

FACTORS = 32
K = 10
BLOCK_USERS = 512
# What the system counts for a child begins with the memory of its parent.
CODE = """
import sys
from bandit_serve.cli.main import run
try:
    run()
finally:
    print(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0], file=sys.stderr)
"""


class Ran(NamedTuple):
    """Seconds of CPU that a command took, and the most memory that it had, in bytes."""

    cpu: float
    peak: int


def run(source: Path, model: Path, out: Path, *options: str) -> Ran:
    words = ["score", str(source), "--model-file", str(model), "--out", str(out), "--overwrite", *options]
    process = subprocess.Popen(
        [sys.executable, "-c", CODE, *words], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    peak = int(process.stderr.read())
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0
    return Ran(usage.ru_utime + usage.ru_stime, peak * 1024)


def made(folder: Path, n_users: int, n_items: int) -> MatrixFactorization:
    chance = np.random.default_rng(1)
    users, items = chance.integers(n_users, size=4 * n_users), chance.integers(n_items, size=4 * n_users)
    users[:n_users], items[:n_items] = np.arange(n_users), np.arange(n_items)
    model = MatrixFactorization(n_factors=FACTORS, n_epochs=2, seed=0)
    model.fit(users, items, chance.normal(size=len(users)))
    model.save(folder / "model.safetensors")
    return model


class Baseline:
    """Scores of a model's parameters by NumPy."""

    def __init__(self, model: MatrixFactorization) -> None:
        self._model = model
        self._users = {model.user_ids.name(row): row for row in range(model.n_users)}
        self._items = {model.item_ids.name(row): row for row in range(model.n_items)}
        self._names = np.array(list(self._items))

    def pairs(self, source: Path, out: Path) -> float:
        began_s, model = time.process_time(), self._model
        table = pq.read_table(source)
        users, items = table["user_id"].to_pylist(), table["item_id"].to_pylist()
        u = np.array([self._users[user] for user in users])
        i = np.array([self._items[item] for item in items])
        scores = np.einsum("nf,nf->n", model.user_factors[u], model.item_factors[i]).astype(np.float64)
        scores += model.mean + model.user_biases[u] + model.item_biases[i]
        pq.write_table(table.append_column("prediction", pa.array(scores)), out, compression="zstd")
        return time.process_time() - began_s

    def best(self, source: Path, out: Path) -> float:
        began_s, model = time.process_time(), self._model
        users = pq.read_table(source)["user_id"].to_pylist()
        u = np.array([self._users[user] for user in users])
        ranked, scores = [], []
        for start in range(0, len(u), BLOCK_USERS):
            block = u[start : start + BLOCK_USERS]
            all_scores = model.user_factors[block] @ model.item_factors.T + model.item_biases
            top = np.argpartition(all_scores, -K, axis=1)[:, -K:]
            values = np.take_along_axis(all_scores, top, axis=1)
            order = np.argsort(-values, axis=1)
            ranked.append(np.take_along_axis(top, order, axis=1))
            scores.append(np.take_along_axis(values, order, axis=1) + model.user_biases[block, None])
        columns = {
            "user_id": pa.array(np.repeat(users, K)),
            "rank": pa.array(np.tile(np.arange(1, K + 1, dtype=np.int32), len(u))),
            "item_id": pa.array(self._names[np.concatenate(ranked).ravel()]),
            "score": pa.array(np.concatenate(scores).ravel().astype(np.float64) + model.mean),
        }
        pq.write_table(pa.table(columns), out, compression="zstd")
        return time.process_time() - began_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--items", type=int, default=20_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, chance = made(folder, 50_000, options.items), np.random.default_rng(2)
        path, out, own = folder / "model.safetensors", folder / "out", folder / "baseline"
        baseline = Baseline(model)
        pairs = pa.table(
            {
                "user_id": pa.array(chance.integers(50_000, size=options.rows)).cast(pa.string()),
                "item_id": pa.array(chance.integers(options.items, size=options.rows)).cast(pa.string()),
            }
        )
        users = pa.table({"user_id": pa.array(np.arange(options.users)).cast(pa.string())})
        for what, table, flags, compared in (
            ("pairs", pairs, (), baseline.pairs),
            (f"best {K} of {options.items:,}", users, ("--k", str(K)), baseline.best),
        ):
            source, one = folder / "rows.parquet", folder / "one.parquet"
            pq.write_table(table, source, row_group_size=100_000)
            pq.write_table(table.slice(0, 1), one)
            start = run(one, path, out, *flags)
            ran = run(source, path, out, *flags)
            rate = table.num_rows / (ran.cpu - start.cpu)
            numpy_rate = table.num_rows / compared(source, own)
            print(
                f"{what}: {rate:,.0f} rows a second of CPU, NumPy {numpy_rate:,.0f} ({rate / numpy_rate:.2f}); start "
                f"{start.cpu:.1f} s; at most {ran.peak / 2**20:,.0f} MiB"
            )


if __name__ == "__main__":
    main()

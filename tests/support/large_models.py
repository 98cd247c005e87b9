"""Model files that are too large to train in a test: random factors with the norms of trained ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bandit_serve.models import MatrixFactorization
from bandit_serve.models import artifact as artifacts
from bandit_serve.models._ids import IdTable
from bandit_serve.models.ids import id_tensors


def write_large(path: Path, n_users: int, n_items: int, n_factors: int) -> int:
    """Writes a model file with users `u0` … and items `i0` …; returns its size in bytes."""
    random = np.random.default_rng(0)

    def factors(n: int) -> NDArray[np.float32]:
        directions = random.standard_normal((n, n_factors), np.float32)
        return directions * random.lognormal(-2.0, 0.5, (n, 1)).astype(np.float32)

    model = MatrixFactorization(n_factors)
    tensors = {"mean": np.array([3.5])}
    for side, n in (("user", n_users), ("item", n_items)):
        tensors |= {
            f"{side}_factors": factors(n),
            f"{side}_biases": 0.2 * random.standard_normal(n, np.float32),
            f"{side}_counts": np.ones(n, np.int32),
            **id_tensors(IdTable.of([f"{side[0]}{number}" for number in range(n)]), side),
        }
    artifacts.write(path, model.family, model.parameters, tensors)
    # Saved again, as a model that was fitted would be.
    MatrixFactorization.load(path).save(path)
    return path.stat().st_size


def proportional_bytes(pid: int) -> int:
    """Proportional set size of a process in bytes: shared memory counts in part."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no Pss")

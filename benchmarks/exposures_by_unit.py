"""Cost of the exposures that rewards by unit are joined to: bytes of an open unit, and time of an exposure.

    python benchmarks/exposures_by_unit.py [--units 1000000]

Each unit is exposed once, then again. The log's entries are decoded beforehand.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from bandit_serve.experiments.checks import validated
from bandit_serve.experiments.metric import Metric
from bandit_serve.experiments.spec import Arm, Attribution, Experiment, Record
from bandit_serve.folds.unit_exposures import UnitExposures
from bandit_serve.log.events import Exposed
from bandit_serve.log.offset import Offset

BATCH = 5_000


def exposed(first: int, units: np.ndarray, rng: np.random.Generator) -> Exposed:
    n = len(units)
    return Exposed(
        incarnation=1,
        first=first,
        revision=1,
        time_ms=0,
        arms=rng.integers(0, 2, n).astype(np.uint16).tobytes(),
        ages_ms=np.arange(n, dtype=np.uint32).tobytes(),
        units=units.tobytes(),
        vectors=np.full(2, 0.5).tobytes(),
        runs=np.array([n], np.uint32).tobytes(),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--units", type=int, default=1_000_000)
    n = parser.parse_args().units // BATCH * BATCH
    rng = np.random.default_rng(0)
    made = Experiment(
        id="e",
        arms=(Arm("a"), Arm("b")),
        metrics=(Metric("click", "binary"),),
        unit="user",
        attribution=Attribution(window="1h", missing="ignore"),
    )
    fold = UnitExposures(Record(validated(made), 7, "running", 1, created_ms=1, updated_ms=1))
    units = rng.integers(1, 2**63, n, dtype=np.uint64)
    entries = [exposed(i, units[i : i + BATCH], rng) for i in range(0, n, BATCH)]
    for what in ("new unit", "known unit"):
        started_s = time.perf_counter()
        for k, entry in enumerate(entries):
            fold.apply(Offset(BATCH + k, 0), entry)
        print(f"exposure of a {what}: {(time.perf_counter() - started_s) / n * 1e9:.0f} ns")
    print(f"kept exposure: {fold.nbytes / len(fold):.0f} bytes of {len(fold):,} in memory")
    started_s = time.perf_counter()
    state = fold.state()
    print(f"snapshot: {len(state) / len(fold):.1f} bytes each, {time.perf_counter() - started_s:.2f} s")
    started_s = time.perf_counter()
    UnitExposures.from_state(fold.offset, state)
    print(f"restored in {time.perf_counter() - started_s:.2f} s")
    at_ms = np.full(n, 10**6)
    started_s = time.perf_counter()
    assert fold.in_force(units, at_ms).matched.all()
    print(f"look-up: {(time.perf_counter() - started_s) / n * 1e9:.0f} ns")


if __name__ == "__main__":
    main()

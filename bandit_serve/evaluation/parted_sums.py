"""Sums over a Parquet export by the workers of a dask cluster, each of a part of it, and how parts add up.

Each worker reads its part as `ParquetSums` does, so all of them need the files at the same paths, and this library with
the extra `duckdb`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from bandit_serve.base.extras import require
from bandit_serve.errors import BanditServeError, UsageError
from bandit_serve.evaluation.parquet_sums import (
    ArmSums,
    FilesRead,
    ParquetSums,
    PolicySums,
    SumsOptions,
    TargetsAsked,
    TargetSums,
)
from bandit_serve.experiments.metric import Metric
from bandit_serve.export.reading import TimeSpan
from bandit_serve.results.off_policy.estimate import Moments

EXTRA = "dask"
PARTS_A_WORKER = 2
T = TypeVar("T")


class PartedSums:
    """As `ParquetSums`, by the workers of the scheduler in `options`, or of a cluster on this machine without one."""

    def __init__(
        self, read: FilesRead, metric: Metric, span: TimeSpan, seed: int, options: SumsOptions
    ) -> None:
        self._distributed = require("distributed", EXTRA)
        try:
            self._client = self._distributed.Client(options.scheduler)
        except (OSError, ValueError) as error:
            raise UsageError(f"--scheduler: there is none at {options.scheduler}: {error}.") from None
        parts = read.parts(PARTS_A_WORKER * max(1, len(self._client.nthreads())))
        self._parts = [(part, metric, span, seed, options) for part in parts]

    def __enter__(self) -> PartedSums:
        return self

    def __exit__(self, *error: object) -> None:
        self._client.close()

    def of_arms(self) -> list[ArmSums]:
        return merged_arms(row for rows in self._each(_arms_of) for row in rows)

    def of_targets(self, asked: TargetsAsked) -> PolicySums:
        return merged_policies(self._each(_targets_of, asked))

    def _each(self, read: Callable[..., T], *arguments: Any) -> list[T]:
        futures = [self._client.submit(read, part, *arguments, pure=False) for part in self._parts]
        try:
            results: list[T] = self._client.gather(futures)
        except self._distributed.KilledWorker as error:
            raise BanditServeError(
                f"A part ended its worker several times, maybe for its memory: {error}"
            ) from None
        return results


def _arms_of(part: tuple[Any, ...]) -> list[ArmSums]:
    with ParquetSums(*part) as sums:
        return sums.of_arms()


def _targets_of(part: tuple[Any, ...], asked: TargetsAsked) -> PolicySums:
    with ParquetSums(*part) as sums:
        return sums.of_targets(asked)


def merged_arms(rows: Iterable[ArmSums]) -> list[ArmSums]:
    """Rows of all parts, one for each revision, fold and arm."""
    merged: dict[tuple[int, int, int], list[ArmSums]] = {}
    for row in rows:
        merged.setdefault((row.revision, row.fold, row.arm), []).append(row)
    return [
        ArmSums(
            *key,
            sum(row.n for row in some),
            math.fsum(row.total for row in some),
            min(row.first_ms for row in some),
            max(row.last_ms for row in some),
            _added([row.given for row in some]),
            _added([row.denied for row in some]),
        )
        for key, some in sorted(merged.items())
    ]


def merged_policies(parts: Sequence[PolicySums]) -> PolicySums:
    return PolicySums(
        merged_moments([part.values for part in parts]),
        _added([part.closed for part in parts]),
        [_merged_targets(some) for some in zip(*(part.targets for part in parts), strict=True)],
    )


def _merged_targets(some: Sequence[TargetSums]) -> TargetSums:
    return TargetSums(
        sum(each.n for each in some),
        _summed([each.shares for each in some]),
        _summed([each.untried for each in some]),
        {name: merged_moments([each.moments[name] for each in some]) for name in some[0].moments},
        _summed([each.squares for each in some]),
        max(each.reach for each in some),
        [sum(n or 0 for n in ns) for ns in zip(*(each.folds for each in some), strict=True)],
    )


def merged_moments(some: Sequence[Moments]) -> Moments:
    """Moments of all terms from those of the parts (Chan, Golub & LeVeque 1983)."""
    there = [each for each in some if each.n]
    n = sum(each.n for each in there)
    if not there:
        return Moments(0, 0.0, 0.0, 0.0, 0.0)
    mean = math.fsum(each.n * each.mean for each in there) / n
    squares = math.fsum((each.n - 1) * each.variance + each.n * (each.mean - mean) ** 2 for each in there)
    return Moments(
        n,
        mean,
        squares / (n - 1) if n > 1 else 0.0,
        min(each.least for each in there),
        max(each.most for each in there),
    )


def _added(rows: Sequence[Sequence[int]]) -> list[int]:
    return [sum(column) for column in zip(*rows, strict=True)]


def _summed(rows: Sequence[Sequence[float]]) -> list[float]:
    return [math.fsum(column) for column in zip(*rows, strict=True)]

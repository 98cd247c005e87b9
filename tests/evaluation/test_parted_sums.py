"""Sums of the parts of an export, as the workers of a dask cluster make them: together those of the whole."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from commands import bandit_serve
from dask_clusters import dask_cluster
from hypothesis import given
from hypothesis import strategies as st
from test_evaluate_at_scale import OPTIONS, PER_FILE, READING, SPLITS, N, experiment, exported, require_equal

from bandit_serve.evaluation import at_scale
from bandit_serve.evaluation.at_scale import evaluate_export
from bandit_serve.evaluation.candidates import of_policy
from bandit_serve.evaluation.parquet_sums import FilesRead, ParquetSums, TargetsAsked
from bandit_serve.evaluation.parted_sums import merged_arms, merged_moments, merged_policies
from bandit_serve.evaluation.sources import ParquetExport, metric_of
from bandit_serve.experiments.policy_spec import PolicySpec
from bandit_serve.experiments.spec import Attribution
from bandit_serve.export.reading import TimeSpan
from bandit_serve.results.off_policy.estimate import Moments


class Parts:
    """The parts one by one, in this process."""

    def __init__(self, n: int) -> None:
        self._n = n

    def __call__(self, read: FilesRead, *arguments: Any) -> Parts:
        self._all = [ParquetSums(part, *arguments) for part in read.parts(self._n)]
        return self

    def __enter__(self) -> Parts:
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._all:
            each.close()

    def of_arms(self) -> Any:
        return merged_arms(row for each in self._all for row in each.of_arms())

    def of_targets(self, asked: TargetsAsked) -> Any:
        return merged_policies([each.of_targets(asked) for each in self._all])


def asked(export: ParquetExport) -> list[Any]:
    return [
        of_policy(name, PolicySpec(kind="fixed_split", shares=shares), export.experiment)
        for name, shares in SPLITS.items()
    ]


@pytest.mark.parametrize("n", [1, 2, 7])
@pytest.mark.parametrize(
    ("unit", "missing", "metric", "interval"),
    [
        ("request", "ignore", "click", "anytime"),
        ("request", "zero", "spent", "bernstein"),
        ("user", "zero", "click", "bernstein"),
        ("user", "ignore", "spent", "normal"),
    ],
)
def test_parts_add_up_to_the_whole(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    unit: Any,
    missing: Any,
    metric: str,
    interval: Any,
    n: int,
) -> None:
    export = exported(tmp_path / "e", experiment(unit=unit, attribution=Attribution("1h", missing)))
    chosen, options = (
        metric_of(export.experiment, metric),
        msgspec.structs.replace(OPTIONS, interval=interval),
    )
    span = TimeSpan(None, 1_700_000_000_000 + 37 * (N - 100))
    whole = evaluate_export(export, chosen, span, asked(export), options, READING)
    monkeypatch.setattr(at_scale, "PartedSums", Parts(n))
    by_parts = msgspec.structs.replace(READING, engine="dask")
    parted = evaluate_export(export, chosen, span, asked(export), options, by_parts)
    require_equal(msgspec.to_builtins(whole), msgspec.to_builtins(parted))


def test_no_decision_is_in_two_parts(tmp_path: Path) -> None:
    export = exported(tmp_path / "e", experiment())
    n_files = math.ceil(N / PER_FILE)
    parts = FilesRead.of(export, "dask").parts(100)
    assert len(parts) == n_files
    assert sorted(file for part in parts for file in part.files) == sorted(map(os.path.abspath, export.files))
    by_unit = exported(tmp_path / "u", experiment(unit="user"))
    assert len(FilesRead.of(by_unit, "dask").parts(100)) == 100


terms = st.lists(st.floats(-1e6, 1e6), min_size=0, max_size=40)


def moments_of(values: list[float]) -> Moments:
    if not values:
        return Moments(0, 0.0, 0.0, 0.0, 0.0)
    variance = float(np.var(values, ddof=1)) if len(values) > 1 else 0.0
    return Moments(len(values), float(np.mean(values)), variance, min(values), max(values))


@given(st.lists(terms, min_size=1, max_size=6))
def test_moments_of_parts_are_those_of_all(parts: list[list[float]]) -> None:
    together = [value for part in parts for value in part]
    merged, expected = merged_moments([moments_of(part) for part in parts]), moments_of(together)
    size = max(map(abs, together), default=0.0)
    assert merged.n == expected.n
    assert (merged.least, merged.most) == (expected.least, expected.most)
    assert merged.mean == pytest.approx(expected.mean, rel=1e-12, abs=1e-12 * size)
    assert merged.variance == pytest.approx(expected.variance, rel=1e-9, abs=1e-11 * size**2)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("unit", ["request", "user"])
def test_a_cluster_gives_what_one_process_gives(tmp_path: Path, unit: Any) -> None:
    exported(tmp_path / "e", experiment(unit=unit), hostile=False)
    command = (
        "evaluate",
        tmp_path / "e",
        "--policy",
        "c=1",
        "--policy",
        "a=0.5,b=0.5",
        "--json",
        "--memory",
        "256MB",
    )
    alone = bandit_serve(*command, "--engine", "duckdb")
    with dask_cluster(n_workers=2, threads_per_worker=1) as cluster:
        address = str(cluster.scheduler_address)
        together = bandit_serve(*command, "--engine", "dask", "--scheduler", address)
    assert (alone.status, together.status) == (0, 0), (alone.err, together.err)
    require_equal(json.loads(alone.out), json.loads(together.out))


def test_wrong_usage_is_a_sentence(tmp_path: Path) -> None:
    exported(tmp_path / "e", experiment())
    no_engine = bandit_serve("evaluate", tmp_path / "e", "--policy", "a=1", "--scheduler", "tcp://h:1")
    assert (no_engine.status, "only --engine dask has it" in no_engine.err) == (2, True)
    learns = bandit_serve("evaluate", tmp_path / "e", "--policy", "thompson", "--engine", "dask")
    assert (learns.status, "--engine dask takes policies that never change" in learns.err) == (2, True)
    nobody = bandit_serve(
        "evaluate", tmp_path / "e", "--policy", "a=1", "--engine", "dask", "--scheduler", "tcp://127.0.0.1:1"
    )
    assert (nobody.status, "--scheduler: there is none at tcp://127.0.0.1:1" in nobody.err) == (2, True)

"""Evaluation by sums of DuckDB: what decisions in memory give, on the same export."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import bandit_serve
from scale import scaled

from bandit_serve.evaluation.at_scale import evaluate_export
from bandit_serve.evaluation.candidates import of_policy
from bandit_serve.evaluation.decision_folds import decision_keys, fold_in_sql, folds_of
from bandit_serve.evaluation.evaluation import Evaluation, EvaluationOptions, evaluate
from bandit_serve.evaluation.parquet_sums import SumsOptions
from bandit_serve.evaluation.sources import ParquetExport, metric_of
from bandit_serve.experiments.checks import validated
from bandit_serve.experiments.metric import Metric
from bandit_serve.experiments.policy_spec import PolicySpec
from bandit_serve.experiments.spec import Arm, Attribution, Experiment
from bandit_serve.export.reading import TimeSpan
from bandit_serve.export.tables import Tables
from bandit_serve.results.off_policy import ArmMean

duckdb = pytest.importorskip("duckdb", reason="needs the extra duckdb")

ARMS = ("a", "b", "c", "d")
N = scaled(4_000, 400_000)
PER_FILE = N // 3
CLICK = Metric("click", kind="binary")
SPENT = Metric("spent", kind="bounded", low=0.0, high=50.0)
SPLITS = {
    "always c": {"a": 0.0, "b": 0.0, "c": 1.0, "d": 0.0},
    "always d": {"a": 0.0, "b": 0.0, "c": 0.0, "d": 1.0},
    "even": {"a": 0.25, "b": 0.25, "c": 0.25, "d": 0.25},
    "mostly a": {"a": 0.9, "b": 0.1, "c": 0.0, "d": 0.0},
}
OPTIONS = EvaluationOptions(tau=3.0)
READING = SumsOptions(memory="256MB", threads=1)


def experiment(**others: Any) -> Experiment:
    about = Experiment(
        id="scaled",
        arms=tuple(map(Arm, ARMS)),
        metrics=(CLICK, SPENT),
        policy=PolicySpec(kind="thompson", min_share=0.05),
        attribution=Attribution("1h", "ignore"),
    )
    return validated(msgspec.structs.replace(about, **others))


def exported(folder: Path, about: Experiment, *, hostile: bool = True, seed: int = 3) -> ParquetExport:
    """Export of drifting shares by four workers, in files of which the 10th comes after the 9th.

    hostile: some exposures are lost, arms came later, could not be chosen by anybody, or were withheld in a revision.
    """
    random = np.random.default_rng(seed)
    shares = random.dirichlet([2.0, 2.0, 1.0, 3.0], N) * 0.8 + 0.05
    revision = 1 + np.arange(N) * 4 // N
    widths = np.full(N, 4)
    if hostile:
        shares[revision == 1, 3] = 0.0
        widths[revision == 1] = 3
        shares[random.random(N) < 0.1, 1] = 0.0
        if about.policy.kind != "thompson":
            shares[revision == 3, 0] = 0.0
    shares /= shares.sum(axis=1, keepdims=True)
    arm = (shares.cumsum(axis=1) < random.random(N)[:, None]).sum(axis=1).clip(max=3)
    propensity = shares[np.arange(N), arm]
    lost = (random.random(N) < 0.02) & hostile
    rates = np.array([0.1, 0.3, 0.2, 0.05])[arm]
    click = np.where(random.random(N) < 0.2, np.nan, (random.random(N) < rates).astype(float))
    spent = np.where(np.isnan(click), np.nan, 20.0 + click * random.gamma(2.0, 3.0, N).clip(max=30.0))
    unit = random.integers(0, N // 3, N)
    schema = Tables(about).schema
    workers = random.integers(0, 2**64, 4, dtype=np.uint64, endpoint=False)
    worker = random.integers(0, 4, N)
    columns = {
        "decided_at": (1_700_000_000_000 + np.arange(N) * 37).tolist(),
        "revision": revision.tolist(),
        "incarnation": [f"{each:016x}" for each in workers[worker].tolist()],
        "number": (np.arange(N) * 7 + 2**33 * (np.arange(N) % 3)).tolist(),
        "unit": [f"u{each}" for each in unit.tolist()] if about.unit == "user" else [None] * N,
        "arm": [ARMS[each] for each in arm.tolist()],
        "propensity": propensity.tolist(),
        "shares": [
            None if gone else row[:width]
            for row, width, gone in zip(shares.tolist(), widths.tolist(), lost.tolist(), strict=True)
        ],
        "holdout": (random.random(N) < 0.1).tolist(),
        "reward_click": [None if np.isnan(each) else each for each in click.tolist()],
        "rewarded_at_click": [None] * N,
        "reward_spent": [None if np.isnan(each) else each for each in spent.tolist()],
        "rewarded_at_spent": [None] * N,
        "closed": (np.arange(N) < 0.9 * N).tolist(),
    }
    if "x" in schema.names:
        columns["x"] = random.normal(size=(N, 2)).astype(np.float32).tolist()
    table = pa.table(
        {field.name: pa.array(columns[field.name], field.type) for field in schema}, schema=schema
    )
    folder.mkdir()
    for place, start in enumerate(range(0, N, PER_FILE)):
        pq.write_table(
            table.slice(start, PER_FILE), folder / f"part-{place + 8}.parquet", row_group_size=1_000
        )
    return ParquetExport(str(folder))


def both(
    export: ParquetExport,
    metric: str,
    splits: dict[str, dict[str, float]],
    options: EvaluationOptions = OPTIONS,
    span: TimeSpan = TimeSpan(),  # noqa: B008
) -> tuple[Evaluation, Evaluation]:
    chosen = metric_of(export.experiment, metric)
    asked = [
        of_policy(name, PolicySpec(kind="fixed_split", shares=shares), export.experiment)
        for name, shares in splits.items()
    ]
    alone = evaluate(export.experiment, chosen, export.decisions(metric, span), asked, options)
    return alone, evaluate_export(export, chosen, span, asked, options, READING)


def require_equal(one: Any, other: Any, at: str = "") -> None:
    """Requires two documents to be the same, their numbers to nine digits."""
    if isinstance(one, dict):
        assert one.keys() == other.keys(), at
        for name in one:
            require_equal(one[name], other[name], f"{at}.{name}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), at
        for place, (mine, yours) in enumerate(zip(one, other, strict=True)):
            require_equal(mine, yours, f"{at}[{place}]")
    elif isinstance(one, float):
        assert one == pytest.approx(other, rel=1e-9, abs=1e-15), at
    else:
        assert one == other, at


@pytest.mark.parametrize(
    ("unit", "missing", "metric", "interval"),
    [
        ("request", "ignore", "click", "anytime"),
        ("request", "zero", "spent", "bernstein"),
        ("request", "ignore", "spent", "normal"),
        ("user", "zero", "click", "bernstein"),
        ("user", "ignore", "spent", "anytime"),
    ],
)
def test_sums_give_what_decisions_give(
    tmp_path: Path, unit: Any, missing: Any, metric: str, interval: Any
) -> None:
    export = exported(tmp_path / "e", experiment(unit=unit, attribution=Attribution("1h", missing)))
    alone, sums = both(export, metric, SPLITS, msgspec.structs.replace(OPTIONS, interval=interval))
    require_equal(msgspec.to_builtins(alone), msgspec.to_builtins(sums))
    assert all(each.estimates for each in sums.policies)
    said = "\n".join(said for each in sums.policies for said in each.warnings)
    assert "had no chance, and count as not there" in said
    assert "none of its arms could be chosen" in said


@pytest.mark.parametrize("seed", [0, 1, 2**32 - 1])
def test_the_folds_of_decisions_are_the_same(seed: int) -> None:
    random = np.random.default_rng(seed)
    workers = random.integers(0, 2**64, 10_000, dtype=np.uint64, endpoint=False)
    numbers = np.concatenate([np.arange(5_000), random.integers(0, 2**47, 5_000)])
    folds = folds_of(decision_keys(workers, numbers.astype(np.uint64)), seed)
    decisions = pa.table({"incarnation": [f"{each:016x}" for each in workers.tolist()], "number": numbers})
    with duckdb.connect() as database:
        database.register("decisions", decisions)
        found = database.execute(fold_in_sql("SELECT * FROM decisions", seed)).fetchnumpy()["fold"]
    np.testing.assert_array_equal(found, folds)
    # Five even folds: within five standard errors of a fifth.
    assert np.abs(np.bincount(folds, minlength=5) / len(folds) - 0.2).max() < 5 * 0.4 / len(folds) ** 0.5


def test_what_a_revision_withheld_is_refused(tmp_path: Path) -> None:
    policy = PolicySpec(kind="fixed_split", shares=SPLITS["even"])
    export = exported(tmp_path / "e", experiment(policy=policy))
    alone, sums = both(
        export, "click", {"all a": {"a": 1.0, "b": 0.0, "c": 0.0, "d": 0.0}, "even": SPLITS["even"]}
    )
    require_equal(msgspec.to_builtins(alone), msgspec.to_builtins(sums))
    assert "what the log gave no chance" in str(sums.policies[0].refusal)


def test_units_that_keep_their_arms_and_a_span(tmp_path: Path) -> None:
    policy = PolicySpec(kind="fixed_split", shares=SPLITS["even"])
    export = exported(tmp_path / "e", experiment(unit="user", keep_assigned=True, policy=policy))
    span = TimeSpan(1_700_000_000_000 + 37 * (N // 5), 1_700_000_000_000 + 37 * (N // 2))
    alone, sums = both(export, "click", SPLITS, span=span)
    require_equal(msgspec.to_builtins(alone), msgspec.to_builtins(sums))
    assert sums.n < N // 2


def test_a_context_with_the_means_of_arms(tmp_path: Path) -> None:
    fields = msgspec.convert([{"name": "p", "kind": "numeric"}, {"name": "q", "kind": "numeric"}], Any)
    about = msgspec.json.decode(
        msgspec.json.encode({**msgspec.to_builtins(experiment()), "context": fields}), type=Experiment
    )
    export = exported(tmp_path / "e", validated(about))
    assert export.has_context
    alone, sums = both(export, "click", SPLITS, msgspec.structs.replace(OPTIONS, model=ArmMean))
    require_equal(msgspec.to_builtins(alone), msgspec.to_builtins(sums))
    refused = bandit_serve("evaluate", tmp_path / "e", "--policy", "a=1", "--engine", "duckdb")
    assert (refused.status, "--outcome: expected mean" in refused.err) == (2, True)


def test_a_log_without_an_answer(tmp_path: Path) -> None:
    export = exported(tmp_path / "e", experiment())
    span = TimeSpan(1_700_000_000_000, 1_700_000_000_000 + 37 * 50)
    alone, sums = both(export, "click", {"all d": {"a": 0.0, "b": 0.0, "c": 0.0, "d": 1.0}}, span=span)
    require_equal(msgspec.to_builtins(alone), msgspec.to_builtins(sums))
    assert sums.policies[0].refusal == "None of its arms ever had a chance."


def test_the_command(tmp_path: Path) -> None:
    exported(tmp_path / "e", experiment(), hostile=False)
    asked = ("evaluate", tmp_path / "e", "--policy", "c=1", "--policy", "a=0.5,b=0.5", "--json")
    alone, sums = bandit_serve(*asked), bandit_serve(*asked, "--engine", "duckdb", "--memory", "256MB")
    assert (alone.status, sums.status) == (0, 0), (alone.err, sums.err)
    require_equal(json.loads(alone.out), json.loads(sums.out))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--policy", "thompson"), "thompson learns"),
        (("--policy", "a=1", "--interval", "bootstrap"), "--interval"),
        (("--policy", "a=1", "--search"), "--search"),
        (("--policy", "a=1", "--memory", "much"), "--memory"),
        (("--policy", "a=1", "--memory", "100KB"), "Out of Memory"),
    ],
)
def test_what_sums_can_not_answer_is_refused(tmp_path: Path, options: tuple[str, ...], said: str) -> None:
    exported(tmp_path / "e", experiment())
    ran = bandit_serve("evaluate", tmp_path / "e", *options, "--engine", "duckdb")
    assert ran.status != 0
    assert said in ran.err


def test_the_engine_needs_an_export_and_memory_needs_the_engine(tmp_path: Path) -> None:
    no_export = bandit_serve("evaluate", "checkout", "--policy", "a=1", "--engine", "duckdb")
    assert (no_export.status, "expected a Parquet export" in no_export.err) == (2, True)
    no_engine = bandit_serve("evaluate", tmp_path / "e", "--policy", "a=1", "--memory", "1GB")
    assert (no_engine.status, "only --engine duckdb and dask have it" in no_engine.err) == (2, True)


@pytest.mark.parametrize("engine", [(), ("--engine", "duckdb")])
def test_files_that_were_written_with_words_are_read_beside_others(
    tmp_path: Path, engine: tuple[str, ...]
) -> None:
    """Files of former builds have words of a dictionary where others have texts."""
    exported(tmp_path / "e", experiment())
    command = ("evaluate", tmp_path / "e", "--policy", "a=1", *engine, "--json")
    before = bandit_serve(*command).document
    first = min((tmp_path / "e").rglob("*.parquet"))
    table = pq.read_table(first)
    assert pa.types.is_dictionary(table.schema.field("arm").type)
    with pq.ParquetWriter(first, table.schema, store_schema=False) as writer:
        writer.write_table(table)
        writer.add_key_value_metadata(table.schema.metadata)
    assert pa.types.is_string(pq.read_schema(first).field("arm").type)
    after = bandit_serve(*command).document
    (now,), (then,) = after["policies"], before["policies"]
    assert now["decisions"] == then["decisions"] > N // 2
    for name, estimate in then["estimates"].items():
        assert now["estimates"][name]["value"] == pytest.approx(estimate["value"], rel=1e-9), name

"""Sources of decisions: an experiment's log, or a Parquet export of one."""

from __future__ import annotations

import asyncio
import re
import tempfile
from hashlib import blake2b
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from bandit_serve.base.extras import require
from bandit_serve.errors import InvalidInput, NotFound
from bandit_serve.evaluation.decisions import DecisionCollector, DecisionSink, LoggedDecisions
from bandit_serve.evaluation.withholding import Masks, Withholding
from bandit_serve.experiments.metric import Metric
from bandit_serve.experiments.spec import Experiment
from bandit_serve.export.layout import RecordLayout
from bandit_serve.export.reading import TimeSpan, rows_of
from bandit_serve.export.rows import ExportRows
from bandit_serve.export.tables import DEFINITION, EXTRA
from bandit_serve.folds.experiment import LiveExperiment
from bandit_serve.node import Node

A_BATCH = 131_072


def metric_of(experiment: Experiment, name: str | None) -> Metric:
    """Metric of a name, by default the objective. Raises `NotFound`, and `InvalidInput` for a ratio."""
    metric = next(
        (each for each in experiment.metrics if each.name == (name or experiment.objective.name)), None
    )
    if metric is None:
        raise NotFound(f"{experiment.id} has no metric {str(name)[:128]!r}.")
    if metric.is_ratio:
        raise InvalidInput(
            f"{metric.name} is a ratio, which no decision has a value of: name one of its parts."
        )
    return metric


async def from_log(
    node: Node, live: LiveExperiment, metric: str, span: TimeSpan, newest: int | None = None
) -> LoggedDecisions:
    """Decisions of an experiment's log. newest: the most rows that they are made of, the last ones; None: all."""
    collector = DecisionCollector(live.experiment, metric, newest)
    known = await read_log(node, live, span, collector)
    return await asyncio.to_thread(_settled, live.experiment, collector, known)


async def read_log(node: Node, live: LiveExperiment, span: TimeSpan, sink: DecisionSink) -> Masks:
    """Gives the rows of an experiment's log to a sink, in a thread; returns what its revisions withheld, if known."""
    withheld: Masks = {}
    end = await node.results.end_of(live)
    closed_before_ms = end.time_ms - live.experiment.attribution.window_ms
    with tempfile.TemporaryDirectory(prefix="bandit-serve-evaluate.") as folder:
        async for reading, rows in rows_of(node, live, Path(folder), span, end):
            withheld = reading.withheld
            await asyncio.to_thread(sink.add, rows, rows.decisions["time_ms"] < closed_before_ms)
    return withheld


def _settled(experiment: Experiment, collector: DecisionCollector, known: Masks) -> LoggedDecisions:
    withholding, decisions = Withholding(experiment, known), collector.collected()
    withholding.add(decisions)
    return withholding.settled(decisions)


class ParquetExport:
    """Parquet export at a path, or at a URL that fsspec opens. Raises `InvalidInput` where there is none.

    `files` are in the order of time. `has_context`: whether decisions have features.
    """

    def __init__(self, at: str) -> None:
        self._pa = require("pyarrow", EXTRA)
        dataset = require("pyarrow.dataset", EXTRA)
        files, path = None, at
        if "://" in at:
            files, path = require("fsspec", EXTRA).core.url_to_fs(at)
        try:
            self._dataset = dataset.dataset(
                path, format="parquet", filesystem=files, partitioning="hive", ignore_prefixes=[".", "_"]
            )
            fragments = sorted(self._dataset.get_fragments(), key=lambda fragment: _in_order(fragment.path))
            schemas = [fragment.physical_schema for fragment in fragments]
        except (OSError, self._pa.ArrowInvalid) as error:
            raise InvalidInput(f"There is no Parquet export at {at}: {str(error).splitlines()[0]}.") from None
        definitions = [_definition(schema) for schema in schemas]
        if not definitions or None in definitions or len({each.id for each in definitions if each}) > 1:
            raise InvalidInput(f"At {at} there are not the files of one export of an experiment.")
        # Arms and metrics are added behind those that are there.
        self.experiment: Experiment = max(
            (each for each in definitions if each), key=lambda each: (len(each.arms), len(each.metrics))
        )
        self._schema = self._pa.unify_schemas([*map(_of_texts, schemas), _of_texts(self._dataset.schema)])
        self.files = [fragment.path for fragment in fragments]
        self.is_local = files is None
        self.has_context = "x" in self._schema.names
        self._dataset = dataset.FileSystemDataset(
            fragments, self._schema, self._dataset.format, self._dataset.filesystem
        )

    def decisions(self, metric: str, span: TimeSpan) -> LoggedDecisions:
        collector = DecisionCollector(self.experiment, metric)
        self.read(metric, span, collector)
        return _settled(self.experiment, collector, {})

    def read(self, metric: str, span: TimeSpan, sink: DecisionSink) -> None:
        """Gives the rows, with what they have of a metric, to a sink."""
        place = [each.name for each in self.experiment.metrics].index(metric)
        named = [
            "decided_at",
            "revision",
            "incarnation",
            "number",
            "unit",
            "arm",
            "propensity",
            "shares",
            "holdout",
            "closed",
            f"reward_{metric}",
        ]
        features = ["x"] if self.has_context else []
        scanner = self._dataset.scanner(columns=[*named, *features], batch_size=A_BATCH)
        for batch in scanner.to_batches():
            if batch.num_rows:
                rows = self._rows(batch, f"reward_{metric}", place)
                kept = span.mask(rows.decisions["time_ms"])
                sink.add(rows.those(kept), _flags(batch.column("closed"))[kept])

    def _rows(self, batch: Any, reward: str, place: int) -> ExportRows:
        pa, n = self._pa, batch.num_rows
        column = {name: batch.column(name) for name in batch.schema.names}
        x = _matrix(column["x"], n) if "x" in column else np.zeros((n, 0))
        decisions = np.zeros(n, RecordLayout(x.shape[1]).decision)
        decisions["time_ms"] = column["decided_at"].cast(pa.int64()).to_numpy()
        places = {arm: place for place, arm in enumerate(self.experiment.arm_names)}
        decisions["arm"] = [places[arm] for arm in column["arm"].to_pylist()]
        decisions["revision"] = column["revision"].to_numpy()
        decisions["incarnation"] = _workers(column["incarnation"])
        decisions["counter"] = column["number"].to_numpy()
        decisions["propensity"] = column["propensity"].to_numpy()
        decisions["held_out"] = _flags(column["holdout"])
        decisions["unit"] = [_number(unit) for unit in column["unit"].to_pylist()]
        decisions["n_shares"] = column["shares"].value_lengths().fill_null(0).to_numpy()
        if x.shape[1]:
            decisions["x"] = x
        values = np.full((len(self.experiment.metrics), n), np.nan)
        values[place] = column[reward].fill_null(np.nan).to_numpy()
        return ExportRows(decisions, _matrix(column["shares"], n), values, np.zeros(values.shape, np.int64))


def _definition(schema: Any) -> Experiment | None:
    """Experiment that a file's metadata describes; None where they describe none."""
    content = (schema.metadata or {}).get(DEFINITION.encode())
    if content is None:
        return None
    try:
        return msgspec.json.decode(content, type=Experiment)
    except msgspec.MsgspecError:
        return None


def _of_texts(schema: Any) -> Any:
    """Schema with texts in place of words of a dictionary, as files of former builds have them."""
    for place, field in enumerate(schema):
        if hasattr(field.type, "value_type") and hasattr(field.type, "index_type"):
            schema = schema.set(place, field.with_type(field.type.value_type))
    return schema


def _in_order(path: str) -> list[str | int]:
    """Key by which part-10 comes behind part-9, as it does in time."""
    return [int(piece) if piece.isdigit() else piece for piece in re.split(r"(\d+)", path)]


def _number(unit: str | None) -> int:
    """Number that stands for a unit, by its name or by its hash."""
    return 0 if unit is None else int.from_bytes(blake2b(unit.encode(), digest_size=8).digest(), "little")


def _workers(column: Any) -> NDArray[np.uint64]:
    """Numbers of workers, which the column has as 16 hex digits."""
    if hasattr(column, "dictionary_encode"):
        column = column.dictionary_encode()
    known = np.array([int(worker, 16) for worker in column.dictionary.to_pylist()], np.uint64)
    workers: NDArray[np.uint64] = known[column.indices.to_numpy()]
    return workers


def _flags(column: Any) -> NDArray[np.bool_]:
    flags: NDArray[np.bool_] = column.to_numpy(zero_copy_only=False).astype(np.bool_)
    return flags


def _matrix(column: Any, n: int) -> NDArray[np.float64]:
    """Lists of numbers as rows, padded with 0."""
    lengths = column.value_lengths().fill_null(0).to_numpy()
    matrix = np.zeros((n, int(lengths.max(initial=0))))
    matrix[np.arange(matrix.shape[1]) < lengths[:, None]] = column.flatten().to_numpy()
    return matrix

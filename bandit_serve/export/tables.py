"""Tables of rows, as Arrow has them: the columns of an export, with their types."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from bandit_serve.base.extras import require
from bandit_serve.experiments.spec import Experiment
from bandit_serve.export.rows import ExportRows, distinct
from bandit_serve.policies.features import Features

EXTRA = "export"
DEFINITION = "bandit_serve.definition"
_HEX = np.array([f"{byte:02x}".encode() for byte in range(256)], "S2").view("<u2")


class Tables:
    """Makes Arrow tables of an experiment's rows.

    Metrics that other metrics are ratios of have no rewards of their own, so no columns.
    """

    def __init__(self, experiment: Experiment) -> None:
        self._pa = pa = require("pyarrow", EXTRA)
        self._experiment = experiment
        self._metrics = [
            (place, metric.name) for place, metric in enumerate(experiment.metrics) if not metric.is_ratio
        ]
        words, at = pa.dictionary(pa.int32(), pa.string()), pa.timestamp("ms", "UTC")
        fields = [
            pa.field("decided_at", at, False),
            pa.field("revision", pa.int32(), False),
            pa.field("incarnation", words, False),
            pa.field("number", pa.int64(), False),
            pa.field("unit", pa.string()),
            pa.field("arm", words, False),
            pa.field("propensity", pa.float64(), False),
            pa.field("shares", pa.list_(pa.float64())),
            pa.field("holdout", pa.bool_(), False),
        ]
        self._features = feature_names(experiment)
        if self._features:
            fields.append(pa.field("x", pa.list_(pa.float32()), False))
        for _, name in self._metrics:
            fields += [pa.field(f"reward_{name}", pa.float64()), pa.field(f"rewarded_at_{name}", at)]
        fields.append(pa.field("closed", pa.bool_(), False))
        self.schema: Any = pa.schema(fields, metadata=about(experiment, self._features))

    def table(self, rows: ExportRows, closed_before_ms: int) -> Any:
        """Table (n rows) of rows; those that were decided before `closed_before_ms` are closed."""
        pa, decisions = self._pa, rows.decisions
        at, real = pa.timestamp("ms", "UTC"), pa.float64()
        columns = [
            self._numbers(at, decisions["time_ms"]),
            self._numbers(pa.int32(), decisions["revision"].astype(np.int32)),
            self._workers(decisions["incarnation"]),
            self._numbers(pa.int64(), decisions["counter"].astype(np.int64)),
            self._units(decisions["unit"], decisions["name"]),
            self._words(decisions["arm"].astype(np.int32), self._experiment.arm_names),
            self._numbers(real, decisions["propensity"]),
            self._shares(rows),
            self._flags(decisions["held_out"]),
        ]
        if self._features:
            x = decisions["x"]
            numbers = self._numbers(pa.float32(), x.reshape(-1))
            columns.append(self._lists(numbers, np.full(len(x), x.shape[1])))
        for place, _ in self._metrics:
            values = rows.values[place]
            nothing = np.isnan(values)
            columns.append(self._numbers(real, values, nothing))
            columns.append(self._numbers(at, rows.rewarded_ms[place], nothing))
        columns.append(self._flags(decisions["time_ms"] < closed_before_ms))
        return pa.Table.from_arrays(columns, schema=self.schema)

    def _numbers(self, kind: Any, numbers: NDArray[Any], nothing: NDArray[np.bool_] | None = None) -> Any:
        """Array of numbers as they are in memory, null where a number is nothing."""
        content = self._pa.py_buffer(np.ascontiguousarray(numbers))
        return self._pa.Array.from_buffers(kind, len(numbers), [self._valid(nothing), content])

    def _flags(self, flags: NDArray[np.bool_]) -> Any:
        content = self._pa.py_buffer(np.packbits(flags, bitorder="little"))
        return self._pa.Array.from_buffers(self._pa.bool_(), len(flags), [None, content])

    def _valid(self, nothing: NDArray[np.bool_] | None) -> Any:
        if nothing is None or not nothing.any():
            return None
        return self._pa.py_buffer(np.packbits(~nothing, bitorder="little"))

    def _words(self, codes: NDArray[np.int32], words: Sequence[str]) -> Any:
        pa = self._pa
        return pa.DictionaryArray.from_arrays(self._numbers(pa.int32(), codes), pa.array(list(words)))

    def _workers(self, incarnations: NDArray[np.uint64]) -> Any:
        known = distinct(incarnations)
        codes = np.searchsorted(known, incarnations).astype(np.int32)
        return self._words(codes, [f"{each:016x}" for each in known.tolist()])

    def _units(self, hashes: NDArray[np.uint64], names: NDArray[np.bytes_]) -> Any:
        """Names of units where they were kept, hashes of others, and null where the unit is the request."""
        hexed = self._hex(hashes, hashes == 0)
        named = names != b""
        if not named.any():
            return hexed
        pairs = zip(names.tolist(), hexed.to_pylist(), strict=True)
        return self._pa.array([name.decode() if name else other for name, other in pairs], self._pa.string())

    def _hex(self, numbers: NDArray[np.uint64], nothing: NDArray[np.bool_]) -> Any:
        """Strings of 16 hex digits, null where a number is nothing."""
        pa, n = self._pa, len(numbers)
        digits = _HEX[np.ascontiguousarray(numbers, ">u8").view(np.uint8)]
        ends = pa.py_buffer(np.arange(0, 16 * (n + 1), 16, dtype=np.int32))
        return pa.StringArray.from_buffers(n, ends, pa.py_buffer(digits), self._valid(nothing))

    def _shares(self, rows: ExportRows) -> Any:
        exposed, widths = rows.exposed, rows.decisions["n_shares"].astype(np.int64)
        if rows.shares.shape[1] == 0 or (widths == rows.shares.shape[1]).all():
            flat = rows.shares.reshape(-1)
        else:
            flat = rows.shares[np.arange(rows.shares.shape[1]) < widths[:, None]]
        return self._lists(self._numbers(self._pa.float64(), flat), widths, ~exposed)

    def _lists(
        self, numbers: Any, widths: NDArray[np.integer], nothing: NDArray[np.bool_] | None = None
    ) -> Any:
        pa = self._pa
        ends = np.concatenate([[0], np.cumsum(widths)]).astype(np.int32)
        kind = pa.list_(numbers.type)
        buffers = [self._valid(nothing), pa.py_buffer(ends)]
        return pa.Array.from_buffers(kind, len(widths), buffers, children=[numbers])


def feature_names(experiment: Experiment) -> list[str]:
    """Names of the numbers x that the log has of each decision: features of the context, then covariates."""
    context = list(Features(experiment.context).names) if experiment.context else []
    return [*context, *experiment.covariates]


def about(experiment: Experiment, features: list[str]) -> dict[str, str]:
    """Metadata of a file: among it the experiment without the payloads of its arms."""
    arms = tuple(msgspec.structs.replace(arm, payload=None) for arm in experiment.arms)
    definition = msgspec.structs.replace(experiment, arms=arms)
    return {
        "bandit_serve.experiment": experiment.id,
        "bandit_serve.arms": json.dumps(experiment.arm_names),
        "bandit_serve.features": json.dumps(features),
        DEFINITION: msgspec.json.encode(definition).decode(),
    }

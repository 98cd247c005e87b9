"""Decisions on disk, which can be gone through several times, and of which only a part is ever in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bandit_serve.errors import InvalidInput
from bandit_serve.evaluation.decisions import DecisionCollector, LoggedDecisions
from bandit_serve.evaluation.withholding import Withholding
from bandit_serve.experiments.logged import n_context_features
from bandit_serve.experiments.spec import Experiment
from bandit_serve.export.rows import ExportRows
from bandit_serve.results.off_policy.learning import Chances, LoggedPart

MAX_PART_BYTES = 2**21
MAX_BACK_MS = 60_000
"""Time by which a decision may come behind a later one."""


class StoredDecisions:
    """Decisions of an experiment with a value of a metric, in the order of time, in a file of `folder`.

    Those that `DecisionCollector` collects, but for decisions whose exposure is lost: of those nobody knows the shares.
    `chances` are those that the arms had, and `withholding` says where the policies were the cause that one had none.
    `n` counts decisions, and `n_lost` those that were left out. Of units (`unit: user`) all are in memory until
    `finish`, as each may go on to the end of the log.
    """

    def __init__(self, experiment: Experiment, metric: str, folder: Path) -> None:
        n_arms, self._n_context = len(experiment.arms), n_context_features(experiment)
        self._experiment, self._metric = experiment, metric
        self._path = folder / "decisions"
        self._record = np.dtype(
            [
                ("time_ms", "<i8"),
                ("value", "<f8"),
                ("shares", "<f8", (n_arms,)),
                ("x", "<f4", (self._n_context,)),
                ("arm", "<u2"),
            ]
        )
        self._collector = DecisionCollector(experiment, metric)
        self.chances = Chances(n_arms, by_request=experiment.keeps_assigned)
        self.withholding = Withholding(experiment, {})
        self.n_lost = 0
        self.total = 0.0
        self.squares = 0.0
        self.first_ms = self.last_ms = 0

    @property
    def n(self) -> int:
        return self.chances.n

    def add(self, rows: ExportRows, closed: NDArray[np.bool_]) -> None:
        """Adds n rows, of which those are `closed`, bool (n,), whose windows are."""
        self._collector.add(rows, closed)
        if self._experiment.unit != "user":
            self.finish()

    def finish(self) -> None:
        """Writes what was added. Raises `InvalidInput` where it is not in the order of time."""
        collected = self._collector.collected()
        self._collector = DecisionCollector(self._experiment, self._metric)
        known = np.flatnonzero(~np.isnan(collected.shares).any(axis=1))
        self.n_lost += len(collected.arms) - len(known)
        if len(known):
            self._write(collected.those(known))

    def _write(self, decisions: LoggedDecisions) -> None:
        times = decisions.time_ms
        before = np.concatenate([[self.last_ms if self.n else times[0]], times[:-1]])
        if (before - times).max() > MAX_BACK_MS:
            raise InvalidInput(
                "A learning replay needs the decisions in the order of time, as an export writes them."
            )
        records = np.zeros(len(times), self._record)
        records["time_ms"], records["value"], records["arm"] = times, decisions.value, decisions.arms
        records["shares"] = decisions.shares
        if self._n_context:
            records["x"] = decisions.x[:, : self._n_context]
        if not self.n:
            self.first_ms = int(times[0])
        self.last_ms = int(times[-1])
        with self._path.open("ab") as file:
            records.tofile(file)
        self.chances.add(self._decided(records))
        self.withholding.add(decisions)
        self.total += float(decisions.value.sum())
        self.squares += float(decisions.value @ decisions.value)

    def __iter__(self) -> Iterator[LoggedPart]:
        """Goes through all, in parts."""
        count = max(1, MAX_PART_BYTES // self._record.itemsize)
        for start in range(0, self.n, count):
            yield self._decided(
                np.fromfile(self._path, self._record, count=count, offset=start * self._record.itemsize)
            )

    def _decided(self, records: NDArray[np.void]) -> LoggedPart:
        return LoggedPart(
            arms=records["arm"].astype(np.intp),
            shares=records["shares"],
            value=records["value"],
            x=records["x"],
            time_ms=records["time_ms"],
        )

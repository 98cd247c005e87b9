"""Exposures of units: a fold of the log of one experiment with `unit: user`, that rewards by unit are joined to."""

from __future__ import annotations

from typing import NamedTuple

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from bandit_serve.experiments.logged import n_logged
from bandit_serve.experiments.spec import Record
from bandit_serve.folds._kept_exposures import KeptExposures
from bandit_serve.log.events import (
    MAX_COUNTER,
    MAX_TIME_MS,
    REWARD,
    Changed,
    Event,
    Exposed,
    Shape,
    is_another_draft,
)
from bandit_serve.log.offset import START, Offset
from bandit_serve.log.repairs import LeftOut
from bandit_serve.log.snapshot import Codec, Layout, reading
from bandit_serve.log.times import GRACE_MS

MAX_BYTES = 128 * 2**20
"""Bytes of an experiment's kept exposures, at `ROW_BYTES` and the features each."""
ROW_BYTES = 64

EXPOSURES = "an experiment's exposures"


class UnitExposuresState(Struct, frozen=True, forbid_unknown_fields=True):
    """State of `UnitExposures`: n rows in the order of the log, x having d columns; `record` as MessagePack."""

    record: bytes
    omitted: int
    dropped: int
    unit: NDArray[np.uint64]
    incarnation: NDArray[np.uint64]
    counter: NDArray[np.uint64]
    time_ms: NDArray[np.int64]
    propensity: NDArray[np.float64]
    revision: NDArray[np.uint32]
    arm: NDArray[np.uint16]
    flags: NDArray[np.uint8]
    x: NDArray[np.float32]


_CODEC = Codec(UnitExposuresState, EXPOSURES, layout=Layout.DEFLATED)


class InForce(NamedTuple):
    """Decisions in force for n units: `events.REWARD` (n,) without values and metrics, their features, float32 (n, d),
    and bool (n,), whether there was one.
    """

    rows: NDArray[np.void]
    x: NDArray[np.float32]
    matched: NDArray[np.bool_]


class UnitExposures:
    """Exposures that were in force for their units, until their windows have closed by log time.

    `n_features` is d of the vectors x that the log has, 0 without context and covariates; `omitted` counts the
    omissions met (`repairs.py`). Exposures are kept for `GRACE_MS` after their window, so that a reward that is late is
    known to be.
    """

    def __init__(self, record: Record) -> None:
        experiment = record.experiment
        self.record = record
        self.n_features = n_logged(experiment)
        self.offset = START
        self.omitted = 0
        self._shape = Shape(experiment, self.n_features)
        self._kept_ms = experiment.attribution.window_ms + GRACE_MS
        max_rows = MAX_BYTES // (ROW_BYTES + 4 * self.n_features)
        self._kept = KeptExposures(experiment.attribution.window_ms, self.n_features, max_rows)

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def dropped(self) -> int:
        """Exposures that were dropped before their time, as more came than are kept."""
        return self._kept.dropped

    @property
    def nbytes(self) -> int:
        """Bytes of the kept exposures in memory."""
        return self._kept.nbytes

    def in_force(self, units: NDArray[np.uint64], at_ms: NDArray[np.int64]) -> InForce:
        """Decisions in force for n units. units: their hashes; at_ms: Unix milliseconds, one for each."""
        rows, x = np.zeros(len(units), REWARD), np.zeros((len(units), self.n_features), np.float32)
        return InForce(rows, x, self._kept.in_force(units, at_ms, rows, x))

    def apply(self, offset: Offset, event: Event | LeftOut) -> None:
        """Folds the log's entry at `offset`.

        Raises `UnreadableEntry` for an entry that does not fit the experiment, and has changed nothing then.
        """
        match event:
            case LeftOut():
                self.omitted, self.offset = event.met, offset
                return
            case Exposed():
                self._expose(offset, event)
            case Changed():
                self._change(event)
            case _:
                self._shape.check(event)
        self._kept.close(offset.time_ms - self._kept_ms)
        self.offset = offset

    def go_on_from(self, offset: Offset, record: Record, omitted: int) -> None:
        """Goes on behind entries that are missing, through `offset`, with a record from after them."""
        self.offset, self.omitted = offset, omitted
        self._follow(record)

    def _expose(self, offset: Offset, event: Exposed) -> None:
        columns = self._shape.columns(event)
        if not len(columns.units):
            return
        held_out = event.held_out_rows()
        self._kept.expose(
            event.incarnation,
            event.first,
            event.revision,
            event.time_ms,
            columns.arms,
            columns.ages_ms,
            columns.units,
            columns.vectors,
            columns.runs,
            None if held_out is None else held_out.view(np.uint8),
            np.frombuffer(event.x, "<f4").reshape(-1, self.n_features) if self.n_features else None,
            offset.time_ms - self._kept_ms,
        )

    def _change(self, event: Changed) -> None:
        former = self.record
        if event.record.status == "draft" and event.record.revision < former.revision:
            return  # a draft that was replaced before this fold's record was made
        event = event.whole(former)
        if is_another_draft(former, event):
            omitted = self.omitted
            vars(self).update(vars(UnitExposures(event.record)), omitted=omitted)
            return
        self._shape.check(event)
        self._follow(event.record)

    def _follow(self, record: Record) -> None:
        if record.revision >= self.record.revision:
            self.record = record
            self._shape = Shape(record.experiment, self.n_features)

    def state(self) -> bytes:
        """Whole state, in its one encoding."""
        record = self.record.packed()
        return _CODEC.pack(UnitExposuresState(record, self.omitted, self.dropped, **self._kept.state()))

    @classmethod
    def from_state(cls, offset: Offset, state: bytes) -> UnitExposures:
        """Fold that had this `state` at `offset`. Raises `UnreadableEntry` for any other bytes."""
        fields = _CODEC.unpack(state)
        with reading(EXPOSURES):
            fold = cls(msgspec.msgpack.decode(fields.record, type=Record))
            _check(fields, len(fold.record.experiment.arms), fold.n_features)
            columns = {name: getattr(fields, name) for name in fold._kept.state()}
            fold._kept.restore(columns, fields.dropped)
        fold.offset, fold.omitted = offset, fields.omitted
        return fold


def _check(state: UnitExposuresState, n_arms: int, n_features: int) -> None:
    """Raises ValueError for rows that no log's entries make: they would go into the log with a reward."""
    columns = (state.incarnation, state.counter, state.time_ms, state.propensity, state.revision, state.arm)
    shapes = {column.shape for column in (state.unit, *columns, state.flags)}
    n = len(state.unit) if state.unit.ndim == 1 else -1
    if shapes != {(n,)} or state.x.shape != (n, n_features):
        raise ValueError("its columns are not of the same rows")
    if not ((state.propensity > 0.0) & (state.propensity <= 1.0 + 1e-9)).all():
        raise ValueError("propensities are above 0, at most 1")
    times_fit = ((state.time_ms > -MAX_TIME_MS) & (state.time_ms < MAX_TIME_MS)).all()
    if not times_fit or not (state.counter < MAX_COUNTER).all():
        raise ValueError("numbers of decisions have 42 bits, and times are in milliseconds")
    if not (state.arm < n_arms).all() or not np.isfinite(state.x).all():
        raise ValueError("arms are the experiment's, and features are finite")

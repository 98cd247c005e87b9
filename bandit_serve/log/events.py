"""Events of a log, and their wire form.

An entry of a stream has one field. Its name is the kind of the event, its value the event:

    c  Changed   MessagePack   a configuration change, with what is new in the record as it is from then on
    x  Exposed   MessagePack   decisions of one worker, as columns
    r  Rewarded  rows          rewards, `REWARD` records one after another, each with its decision's features
                               behind it where the experiment has context (the append script drops rows without
                               decoding them, so they have a fixed width)
    v  Revised   rows          values of decisions that are sums of events, from then on: `REVISION` records, each with
                               its decision's features behind it, as in `r`
    t  Tick      empty         time passed
    u  Covariates MessagePack  a part of an upload of covariates by unit, before the start; only results read it
    q  Census    MessagePack   every worker is asked for a digest of its state at this offset

The registry's stream has kinds of its own (`registry/registry.py`). Numbers are little-endian.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec
import numpy as np
from msgspec import UNSET, Struct, UnsetType
from numpy.typing import NDArray

from bandit_serve.errors import UnreadableEntry
from bandit_serve.experiments.spec import Arm, Experiment, Record
from bandit_serve.log._rewards import misfit, undrawable

REWARD = np.dtype(
    [
        ("incarnation", "<u8"),  # of the worker that decided
        ("counter", "<u8"),  # the decision's number in it
        ("time_ms", "<i8"),  # when it was decided, Unix time of the deciding worker
        ("value", "<f8"),
        ("propensity", "<f8"),
        ("unit", "<u8"),  # hash of the unit; 0 where `unit` is `request`
        ("revision", "<u4"),  # of the experiment, when it was decided
        ("arm", "<u2"),
        ("metric", "u1"),  # index into the experiment's metrics
        ("flags", "u1"),  # of the token: `HELD_OUT` or 0
    ]
)

REVISION = np.dtype(
    [
        *((name, REWARD[name]) for name in REWARD.names or ()),
        ("former", "<f8"),  # the decision's value on the metric before this entry; NaN where it had none
        ("since_ms", "<i8"),  # log time at which it first had one; `FIRST` where this row gives it
    ]
)
"""Record of a decision's value on a metric, from now on: a `REWARD` whose `value` is NaN where it has none any more."""
FIRST = -1

# The decision was one of the holdout: analysed like every other, but the policy learns nothing from it.
HELD_OUT = 1
# Of `ages_ms`: 49.7 days.
MAX_AGE_MS = 2**32 - 1
MAX_TIME_MS = 2**53
# A decision's number stays below it: a token has 42 bits for it.
MAX_COUNTER = 2**42
# Decisions from this number on are exposures on demand: the log has only those that somebody asked for, each before its
# rewards. So a gap in such numbers is no loss.
ON_DEMAND = 2**41


class Change(Struct, frozen=True, forbid_unknown_fields=True):
    """Author, subject and reason of a configuration change.

    `what` is `create`, `start`, `pause`, `stop` or `policy`; `layer` for another share of it; `put` for a draft that
    was replaced; `delete` for an experiment that is stopped to be deleted; or `add_arm`, `hold_arm`, `pause_arm`,
    `resume_arm` or `remove_arm`, with the arm's name in `arm`; or `add_metric`, with the metric's name in `metric`.

    The service's own changes are by `schedule`, `stopping` or `guardrail`. They alone have `evidence`: names and
    numbers, as JSON.
    """

    what: str
    who: str
    reason: str | None = None
    arm: str | None = None
    evidence: dict[str, Any] | UnsetType = UNSET
    metric: str | UnsetType = UNSET


class Changed(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Configuration change, with the record from then on.

    Arms and context never change once they are there, and may be large. So the first `kept_arms` arms, those of the
    record before, are here by name only, and the context is left out if the record before has one. `whole` puts them
    back.
    """

    record: Record
    change: Change
    kept_arms: int = 0

    def without(self, former: Record) -> Changed:
        """Same event without what the record before it, `former`, already has."""
        now, before = self.record.experiment, former.experiment
        kept = 0
        while kept < min(len(now.arms), len(before.arms)) and now.arms[kept] is before.arms[kept]:
            kept += 1
        if kept == 0 or now.context != before.context:
            return self
        names = tuple(Arm(arm.name) for arm in now.arms[:kept])
        shorter = msgspec.structs.replace(now, arms=(*names, *now.arms[kept:]), context=())
        return Changed(msgspec.structs.replace(self.record, experiment=shorter), self.change, kept)

    def whole(self, former: Record | None) -> Changed:
        """Same event with its complete record, given the one before. Raises `UnreadableEntry` if that lacks a part."""
        kept = self.kept_arms
        if kept == 0:
            return self
        if former is None or len(former.experiment.arms) < kept:
            raise UnreadableEntry("The log holds a change of an experiment whose arms it does not hold.")
        now, before = self.record.experiment, former.experiment
        experiment = msgspec.structs.replace(
            now, arms=(*before.arms[:kept], *now.arms[kept:]), context=before.context
        )
        return Changed(msgspec.structs.replace(self.record, experiment=experiment), self.change)


def is_another_draft(former: Record, event: Changed) -> bool:
    """Whether the change replaces a draft, for which no decision was made: nothing of it need remain."""
    return event.change.what == "put" and former.status == "draft" and event.record.status == "draft"


class Pair(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """User, item and features of the prediction that is decision number `first` + `place`."""

    place: int
    user: str
    item: str
    features: dict[str, Any] | None = None


class Exposed(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Decisions of one worker, numbered `first` … `first + n − 1` in their order.

    `arms` uint16 (n,); `ages_ms` uint32 (n,), milliseconds after `time_ms`; `units` uint64 (n,), or empty where `unit`
    is `request`. `vectors` float64 (V, K) has the shares that were drawn from, K being the number of arms at
    `revision`; `runs` uint32 (V,), sum n, says for how many decisions in turn each row holds. `held_out`: a bit for
    each decision, lowest value first (NumPy's `little`), 1 in the holdout; empty without any. `x` float32 (n, d): the
    decisions' features, empty without context. `pairs`: subjects of predictions of one item, where the service keeps
    them for learning.
    """

    incarnation: int
    first: int
    revision: int
    time_ms: int
    arms: bytes
    ages_ms: bytes
    units: bytes
    vectors: bytes
    runs: bytes
    held_out: bytes = b""
    x: bytes = b""
    pairs: tuple[Pair, ...] = ()

    def held_out_rows(self) -> NDArray[np.bool_] | None:
        """Mask, bool (n,), of the decisions in the holdout; None where none is."""
        if not self.held_out:
            return None
        bits = np.frombuffer(self.held_out, np.uint8)
        return np.unpackbits(bits, count=len(self.arms) // 2, bitorder="little").astype(np.bool_)


class NamedExposed(Exposed, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Decisions with the `names` of their units, n texts, "" where a decision has none; or no text at all.

    Only export reads them. A service that keeps none writes `Exposed`, which builds without the names can read.
    """

    names: tuple[str, ...] = ()


class Columns(NamedTuple):
    """Columns of an `Exposed`, as arrays: `arms` uint16 (n,), `ages_ms` uint32 (n,), `units` uint64 (n,) or uint64
    (0,), `vectors` float64 (V, K), `runs` uint32 (V,).
    """

    arms: NDArray[np.uint16]
    ages_ms: NDArray[np.uint32]
    units: NDArray[np.uint64]
    vectors: NDArray[np.float64]
    runs: NDArray[np.uint32]


def columns_of(event: Exposed, n_features: int | None) -> Columns:
    """Columns of `event`. Raises `UnreadableEntry` when they do not fit together.

    `n_features` is d of the experiment; None skips the check of `x`.
    """
    n, n_runs = len(event.arms) // 2, len(event.runs) // 4
    _require(len(event.arms) == 2 * n, "whole items in arms")
    _require(len(event.ages_ms) == 4 * n, "as many ages as arms")
    _require(len(event.units) in (0, 8 * n), "as many units as arms, or none")
    _require(len(event.held_out) in (0, (n + 7) // 8), "as many bits of the holdout as arms, or none")
    _require(n_features is None or len(event.x) == 4 * n * n_features, "the features of every decision")
    _require(len(event.runs) == 4 * n_runs, "whole items in runs")
    n_arms = len(event.vectors) // (8 * max(n_runs, 1))
    _require(len(event.vectors) == 8 * n_runs * n_arms, "as many share vectors as runs")
    _require(0 <= event.incarnation < 2**64, "an incarnation of 64 bits")
    _require(0 <= event.first <= MAX_COUNTER - n, "counters of at most 42 bits")
    _require(0 <= event.revision < 2**32, "a revision of 32 bits")
    _require(abs(event.time_ms) < MAX_TIME_MS, "a time in milliseconds")
    _require(all(0 <= pair.place < n for pair in event.pairs), "pairs of decisions that are there")
    columns = Columns(
        np.frombuffer(event.arms, "<u2"),
        np.frombuffer(event.ages_ms, "<u4"),
        np.frombuffer(event.units, "<u8"),
        np.frombuffer(event.vectors, "<f8").reshape(n_runs, n_arms),
        np.frombuffer(event.runs, "<u4"),
    )
    fault = undrawable(columns.arms, columns.runs, columns.vectors)
    _require(fault is None, str(fault))
    return columns


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise UnreadableEntry(f"The log holds an entry that this build can not fold: expected {what}.")


class Rewarded(Struct, frozen=True):
    """Rewards: n `REWARD` records and, where the experiment has context, their decisions' features, float32 (n, d)."""

    rows: NDArray[np.void]
    x: NDArray[np.float32] | None = None


def pack_rewards(rows: NDArray[np.void], x: NDArray[np.float32]) -> bytes:
    """Wire form of n `REWARD` or `REVISION` records with features float32 (n, d), row by row."""
    _require(x.ndim == 2 and len(x) == len(rows), "the features of every reward")
    return np.hstack([_bytes_of(rows), _bytes_of(x)]).tobytes()


class Revised(Struct, frozen=True):
    """Values of decisions from now on: n `REVISION` records, in the order in which they came to be, and features as in
    `Rewarded`.
    """

    rows: NDArray[np.void]
    x: NDArray[np.float32] | None = None


def _unpacked(
    data: bytes, record: np.dtype[np.void], n_features: int
) -> tuple[NDArray[np.void], NDArray[np.float32] | None]:
    width = record.itemsize + 4 * n_features
    _require(len(data) % width == 0, f"whole rows of {width} bytes")
    if n_features == 0:
        return np.frombuffer(data, record), None
    both = np.frombuffer(data, np.uint8).reshape(-1, width)
    return (
        np.ascontiguousarray(both[:, : record.itemsize]).view(record)[:, 0],
        np.ascontiguousarray(both[:, record.itemsize :]).view("<f4"),
    )


def _bytes_of(rows: NDArray[Any]) -> NDArray[np.uint8]:
    """Bytes of each row, uint8 (n, bytes in a row)."""
    return np.ascontiguousarray(rows).view(np.uint8).reshape(len(rows), -1)


def rewards_of(revisions: NDArray[np.void], name: str = "value") -> NDArray[np.void]:
    """`REWARD` records of n `REVISION` records, with the value of the column `name`."""
    rewards = np.zeros(len(revisions), REWARD)
    for column in REWARD.names or ():
        rewards[column] = revisions[name if column == "value" else column]
    return rewards


class Tick(Struct, frozen=True):
    pass


class Census(Struct, frozen=True, forbid_unknown_fields=True):
    """Request for a digest of every worker's state. `key` is the hash in the store that takes the answers."""

    key: str


class Covariates(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Part `part`, from 0, of the `parts` of an upload, a random number, of covariates by unit.

    `names` (c,) are those of the covariates; `units` uint64 (n,) hashes; `values` float32 (n, c).
    """

    upload: int
    part: int
    parts: int
    names: tuple[str, ...]
    units: bytes
    values: bytes

    def columns(self) -> tuple[NDArray[np.uint64], NDArray[np.float32]]:
        """Units and values as arrays. Raises `UnreadableEntry` when they do not fit together."""
        n = len(self.units) // 8
        _require(len(self.units) == 8 * n, "whole items in units")
        _require(len(self.values) == 4 * n * len(self.names), "a value of every covariate and unit")
        _require(0 <= self.part < self.parts, "a part of those that there are")
        _require(0 <= self.upload < 2**63, "a number of an upload")
        values = np.frombuffer(self.values, "<f4").reshape(n, len(self.names))
        _require(bool(np.isfinite(values).all()), "finite covariates")
        return np.frombuffer(self.units, "<u8"), values


Event = Changed | Exposed | Rewarded | Revised | Tick | Covariates | Census

CHANGED, EXPOSED, REWARDED, REVISED, TICK, COVARIATES, CENSUS = b"c", b"x", b"r", b"v", b"t", b"u", b"q"

encode = msgspec.msgpack.Encoder().encode
_changed = msgspec.msgpack.Decoder(Changed).decode
_exposed = msgspec.msgpack.Decoder(Exposed).decode
_named_exposed = msgspec.msgpack.Decoder(NamedExposed).decode
_NAMED = bytes([0x90 + len(NamedExposed.__struct_fields__)])
"""First byte of a `NamedExposed`: MessagePack's, of an array with so many items."""
_covariates = msgspec.msgpack.Decoder(Covariates).decode
_census = msgspec.msgpack.Decoder(Census).decode


def decode(kind: bytes, data: bytes, n_features: int = 0) -> Event:
    """Event of an entry's kind and value; `n_features` is d of the experiment's context, 0 without one.

    Raises `UnreadableEntry` for a kind or field that this build does not know, and for columns that do not fit
    together.
    """
    try:
        if kind == REWARDED:
            return Rewarded(*_unpacked(data, REWARD, n_features))
        if kind == REVISED:
            return Revised(*_unpacked(data, REVISION, n_features))
        if kind == EXPOSED:
            if data.startswith(_NAMED):
                return _with_names(_named_exposed(data), n_features)
            event = _exposed(data)
            columns_of(event, n_features)
            return event
        if kind == TICK:
            _require(not data, "a tick without content")
            return Tick()
        if kind == CHANGED:
            return _changed(data)
        if kind == COVARIATES:
            uploaded = _covariates(data)
            uploaded.columns()
            return uploaded
        if kind == CENSUS:
            return _census(data)
    except msgspec.MsgspecError as error:
        raise UnreadableEntry(
            f"The log holds an entry of kind {kind!r} that this build does not know: {error}."
        ) from error
    raise UnreadableEntry(f"The log holds an entry of a kind that this build does not know: {kind!r}.")


def _with_names(event: NamedExposed, n_features: int) -> NamedExposed:
    columns_of(event, n_features)
    _require(len(event.names) in (0, len(event.arms) // 2), "as many names of units as arms, or none")
    return event


class Shape:
    """Shape of an experiment at one revision, which the entries of its log have to fit. `n_features` as in `decode`."""

    def __init__(self, experiment: Experiment, n_features: int | None) -> None:
        self._experiment = experiment
        self._n_features = n_features
        self._n_arms = len(experiment.arms)
        kinds = [metric.traits for metric in experiment.metrics]
        self._low, self._high = np.array([(kind.floor, kind.ceiling) for kind in kinds]).T.copy()
        self._whole = np.array([kind.two_valued for kind in kinds], np.uint8)

    def check(self, event: Event) -> None:
        """Raises `UnreadableEntry` for an event that can not be folded as a whole, before any of it is folded."""
        match event:
            case Exposed():
                self.columns(event)
            case Rewarded():
                self._check_rows(event.rows, REWARD, event.x)
                self._check_values(event.rows)
            case Revised():
                self._check_revisions(event)
            case Changed():
                self._check_change(event)
            case Covariates():
                event.columns()

    def columns(self, event: Exposed) -> Columns:
        """Columns of `event`, checked against the shape."""
        columns = columns_of(event, self._n_features)
        finite = not event.x or bool(np.isfinite(np.frombuffer(event.x, "<f4")).all())
        _require(finite, "finite features")
        _require(columns.vectors.shape[1] <= self._n_arms, "share vectors of arms that are there")
        _require(len(columns.units) > 0 or self._experiment.unit != "user", "as many units as arms")
        return columns

    def _check_rows(
        self, rows: NDArray[np.void], record: np.dtype[np.void], x: NDArray[np.float32] | None
    ) -> None:
        is_row = (rows.dtype is record or rows.dtype == record) and rows.ndim == 1
        _require(is_row, "rewards in a row of records")
        if self._n_features is not None:
            there = x is not None and x.shape == (len(rows), self._n_features)
            _require(there or (x is None and not self._n_features), "the features of every reward")
        _require(x is None or bool(np.isfinite(x).all()), "finite features")

    def _check_values(self, rows: NDArray[np.void]) -> None:
        fault = misfit(rows, self._n_arms, self._low, self._high, self._whole)
        _require(fault is None, str(fault))

    def _check_revisions(self, event: Revised) -> None:
        rows = event.rows
        self._check_rows(rows, REVISION, event.x)
        gone, new, since_ms = np.isnan(rows["value"]), np.isnan(rows["former"]), rows["since_ms"]
        _require(not (gone & new).any(), "a value before or after each revision")
        first = since_ms == FIRST
        _require(bool((new | ~first).all()), "no value before the first one")
        _require(bool((first | ((since_ms >= 0) & (since_ms < MAX_TIME_MS))).all()), "times in milliseconds")
        for name, there in (("value", ~gone), ("former", ~new)):
            self._check_values(rewards_of(rows[there], name))

    def _check_change(self, event: Changed) -> None:
        here, there = self._experiment, event.record.experiment
        n_both = min(self._n_arms, len(there.arms))
        same = there.arm_names[:n_both] == here.arm_names[:n_both]
        _require(same, "the arms that were there, in no other order")
        n_both = min(len(here.metrics), len(there.metrics))
        same = here.metrics[:n_both] == there.metrics[:n_both]
        _require(same, "the metrics that were there, in no other order")
        same = here.unit == there.unit and here.context == there.context
        _require(same and here.attribution == there.attribution, "unit, context and attribution as they were")
        _require(here.dimensions == there.dimensions, "the dimensions that were declared")
        same = here.weights == there.weights and here.constraints == there.constraints
        _require(same, "weights and constraints as they were")
        _require(here.slots == there.slots, "slots as they were")
        _require(0 <= event.record.revision < 2**32, "a revision of 32 bits")

"""What the log holds, and its wire form.

An entry of a stream has one field. Its name is the kind of the event, its value the event:

    c  Changed   MessagePack   a configuration change, with what is new in the record as it is from then on
    x  Exposed   MessagePack   decisions of one worker, as columns
    r  Rewarded  rows          rewards, `REWARD` records one after another, each with its decision's features
                               behind it where the experiment has context (the append script drops rows without
                               decoding them, so they have a fixed width)
    t  Tick      empty         time passed
    q  Census    MessagePack   every worker is asked for a digest of its state at this offset

The registry's stream has kinds of its own (`models/registry.py`). Numbers are little-endian.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from bandit_serve.experiment import Arm, Record

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


# The decision was one of the holdout: analysed like every other, but the policy learns nothing from it.
HELD_OUT = 1


class Change(Struct, frozen=True):
    """Who changed what, and why.

    `what` is `create`, `start`, `pause`, `stop` or `policy`, or `add_arm`, `pause_arm`, `resume_arm` or `remove_arm`
    and then `arm` its name.
    """

    what: str
    who: str
    reason: str | None = None
    arm: str | None = None


class Changed(Struct, frozen=True, omit_defaults=True):
    """The record as it is from then on.

    Arms and context never change once they are there, and may be large. So of the first `kept_arms` arms, which are
    those of the record before, only the names are here, and of the context nothing where there are any; `after` fills
    it in.
    """

    record: Record
    change: Change
    kept_arms: int = 0

    def without(self, former: Record) -> Changed:
        """The same without what `former`, the record before, has already."""
        now, before = self.record.experiment, former.experiment
        kept = 0
        while kept < min(len(now.arms), len(before.arms)) and now.arms[kept] is before.arms[kept]:
            kept += 1
        if kept == 0 or now.context != before.context:
            return self
        names = tuple(Arm(arm.name) for arm in now.arms[:kept])
        shorter = msgspec.structs.replace(now, arms=(*names, *now.arms[kept:]), context=())
        return Changed(msgspec.structs.replace(self.record, experiment=shorter), self.change, kept)

    def after(self, former: Record | None) -> Record:
        """The whole record, given the one before; `ValueError` where that does not have what is left out here."""
        kept = self.kept_arms
        if kept == 0:
            return self.record
        if former is None or len(former.experiment.arms) < kept:
            raise ValueError("the log holds a change of an experiment whose arms it does not hold")
        now, before = self.record.experiment, former.experiment
        whole = msgspec.structs.replace(
            now, arms=(*before.arms[:kept], *now.arms[kept:]), context=before.context
        )
        return msgspec.structs.replace(self.record, experiment=whole)


class Pair(Struct, frozen=True, array_like=True):
    """What the prediction of a decision was about: decision number `first` + `place`."""

    place: int
    user: str
    item: str
    features: dict[str, Any] | None = None


class Exposed(Struct, frozen=True, array_like=True):
    """n decisions of one worker, numbered `first` … `first + n − 1`, in that order.

    `arms` u2[n]; `ages_ms` u4[n], milliseconds after `time_ms`; `units` u8[n], or empty where `unit` is
    `request`. Row i was drawn from the row of `vectors` (f8[V, K]) that `runs` (u4[V], sum n) gives it:
    the first `runs[0]` decisions from `vectors[0]`, and so on. K is the number of arms at `revision`.
    `held_out`: a bit for each decision, of the lowest value first (NumPy's `little`), 1 for one of the holdout; empty
    where there is none. `x` f4[n, d]: the decisions' features, empty where the experiment has no context. `pairs`: of
    the decisions that were predictions of one item, where the service keeps them for learning.
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
        """bool (n,): which decisions are of the holdout; None where none is."""
        if not self.held_out:
            return None
        bits = np.frombuffer(self.held_out, np.uint8)
        return np.unpackbits(bits, count=len(self.arms) // 2, bitorder="little").astype(np.bool_)


class Rewarded(Struct, frozen=True):
    """n `REWARD` records, and the features of their decisions, f4[n, d], where the experiment has context."""

    rows: NDArray[np.void]
    x: NDArray[np.float32] | None = None


def pack_rewards(rows: NDArray[np.void], x: NDArray[np.float32]) -> bytes:
    """The wire form of n `REWARD` records with features f4[n, d], row by row."""
    return np.hstack([_bytes_of(rows), _bytes_of(x)]).tobytes()


def _unpack_rewards(data: bytes, n_features: int) -> Rewarded:
    if n_features == 0:
        return Rewarded(np.frombuffer(data, REWARD))
    both = np.frombuffer(data, np.uint8).reshape(-1, REWARD.itemsize + 4 * n_features)
    return Rewarded(
        np.ascontiguousarray(both[:, : REWARD.itemsize]).view(REWARD)[:, 0],
        np.ascontiguousarray(both[:, REWARD.itemsize :]).view("<f4"),
    )


def _bytes_of(rows: NDArray[Any]) -> NDArray[np.uint8]:
    """u1[n, bytes in a row]."""
    return np.ascontiguousarray(rows).view(np.uint8).reshape(len(rows), -1)


class Tick(Struct, frozen=True):
    pass


class Census(Struct, frozen=True):
    """`key` is the hash in the store that takes each worker's digest."""

    key: str


Event = Changed | Exposed | Rewarded | Tick | Census

CHANGED, EXPOSED, REWARDED, TICK, CENSUS = b"c", b"x", b"r", b"t", b"q"

encode = msgspec.msgpack.Encoder().encode
_changed = msgspec.msgpack.Decoder(Changed).decode
_exposed = msgspec.msgpack.Decoder(Exposed).decode
_census = msgspec.msgpack.Decoder(Census).decode


def decode(kind: bytes, data: bytes, n_features: int = 0) -> Event:
    """The event of an entry's field and value; `n_features` is d of the experiment's context, 0 without."""
    match kind:
        case b"r":
            return _unpack_rewards(data, n_features)
        case b"x":
            return _exposed(data)
        case b"t":
            return Tick()
        case b"c":
            return _changed(data)
        case b"q":
            return _census(data)
    raise ValueError(f"the log holds an event of a kind that this build does not know: {kind!r}")

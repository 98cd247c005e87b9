"""Layout of an experiment's decisions and rewards while they wait to be joined: records of one width."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bandit_serve.log.events import (
    HELD_OUT,
    REVISION,
    REWARD,
    Columns,
    Exposed,
    NamedExposed,
    Revised,
    Rewarded,
)
from bandit_serve.results.sequence import Floats

Records = NDArray[np.void]


class RecordLayout:
    """Records of an experiment's log. `n_features` is the width of the vectors x that it has of decisions.

    `decision` begins with the record's time and has its place in `shares`, the float64 array that goes with the
    records: `n_shares` numbers from `shares_at` on. Its `name`, UTF-8, is as wide as the log needs. `reward` has the
    columns of `REWARD`, and when it was logged.
    """

    def __init__(self, n_features: int) -> None:
        self.n_features = n_features
        features = [("x", "<f4", (n_features,))] if n_features else []
        self.decision = np.dtype(
            [
                ("time_ms", "<i8"),
                ("incarnation", "<u8"),
                ("counter", "<u8"),
                ("unit", "<u8"),
                ("propensity", "<f8"),
                ("shares_at", "<i8"),
                ("revision", "<u4"),
                ("n_shares", "<u4"),
                ("arm", "<u2"),
                ("held_out", "?"),
                ("name", "S1"),
                *features,
            ]
        )
        self.reward = np.dtype(
            [*((name, REWARD[name]) for name in REWARD.names or ()), ("logged_ms", "<i8"), *features]
        )

    def decisions(self, event: Exposed, columns: Columns) -> tuple[Records, Floats]:
        """Records (n,) of exposures, and the shares that they point into."""
        n, (n_vectors, n_arms) = len(columns.arms), columns.vectors.shape
        names = _names(event)
        records = np.zeros(n, self.decision if names is None else self._named(names.dtype))
        if names is not None:
            records["name"] = names
        vector = np.repeat(np.arange(n_vectors), columns.runs)
        records["time_ms"] = event.time_ms + columns.ages_ms.astype(np.int64)
        records["incarnation"] = event.incarnation
        records["counter"] = np.arange(event.first, event.first + n, dtype=np.uint64)
        if len(columns.units):
            records["unit"] = columns.units
        records["propensity"] = columns.vectors[vector, columns.arms]
        records["shares_at"] = vector * n_arms
        records["revision"] = event.revision
        records["n_shares"] = n_arms
        records["arm"] = columns.arms
        held_out = event.held_out_rows()
        if held_out is not None:
            records["held_out"] = held_out
        if self.n_features:
            records["x"] = np.frombuffer(event.x, "<f4").reshape(n, self.n_features)
        return records, columns.vectors.reshape(-1)

    def _named(self, name: np.dtype[Any]) -> np.dtype[np.void]:
        """`decision` with names of this width."""
        of = self.decision
        return np.dtype([(each, name if each == "name" else of[each]) for each in of.names or ()])

    def rewards(self, event: Rewarded | Revised, logged_ms: int) -> Records:
        """Records (n,) of rewards, or of values that were revised; a value that is gone is NaN."""
        rows = event.rows
        assert rows.dtype in (REWARD, REVISION)
        records = np.zeros(len(rows), self.reward)
        for name in REWARD.names or ():
            records[name] = rows[name]
        records["logged_ms"] = logged_ms
        if self.n_features and event.x is not None:
            records["x"] = event.x
        return records

    def orphans(self, rewards: Records) -> Records:
        """Decisions (n,) of which only a reward is known, without shares."""
        records = np.zeros(len(rewards), self.decision)
        for name in ("time_ms", "incarnation", "counter", "unit", "propensity", "revision", "arm"):
            records[name] = rewards[name]
        records["held_out"] = rewards["flags"] & HELD_OUT != 0
        if self.n_features:
            records["x"] = rewards["x"]
        return records


def _names(event: Exposed) -> NDArray[np.bytes_] | None:
    """Names of units, UTF-8 (n,), empty where there is none; None without any."""
    if not isinstance(event, NamedExposed) or not event.names:
        return None
    return np.array([name.encode() for name in event.names])

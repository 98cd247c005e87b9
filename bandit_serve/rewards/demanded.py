"""Exposures on demand of one experiment: decisions that are logged when somebody saw them, or rewarded them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bandit_serve.api.rewards import RewardVerdict
from bandit_serve.base.turns import Turn
from bandit_serve.errors import UnreadableEntry
from bandit_serve.folds.experiment import LiveExperiment
from bandit_serve.log import events
from bandit_serve.log.events import HELD_OUT, ON_DEMAND, Exposed, Shape
from bandit_serve.store.store import Store

UNKNOWN = ord("u")
EXPOSURE_VERDICTS: dict[int, RewardVerdict] = {
    ord("a"): "accepted",
    ord("d"): "duplicate",
    ord("l"): "late",
    UNKNOWN: "unknown",
}
BLOCK_BITS = 16
"""Decisions in a bitmap, `Keys.demanded`, as a power of 2."""
CHECK = np.dtype([("bitmap", "<u2"), ("bit", "<u2"), ("deadline_ms", "<u8")])
"""As append_demanded.lua reads it."""
MAX_ENTRIES = 500
"""Entries of one script, which keeps the store for some milliseconds."""


class DemandedExposures:
    """Appends exposures on demand to an experiment's log, each once.

    window_ms: the attribution window. n_features: d of the vectors x of its decisions, 0 without any.
    """

    def __init__(self, store: Store, owner: str, window_ms: int, n_features: int = 0) -> None:
        self._store = store
        self._owner = owner
        self._window_ms = window_ms
        self._x_bytes = 4 * n_features

    async def append(self, rows: NDArray[np.void], behind: Sequence[bytes], live: LiveExperiment) -> bytes:
        """Appends exposures; returns, when they are in the log, one letter each: `a`ccepted, `d`uplicate, `l`ate, or
        `UNKNOWN` for arms that `live` does not have.

        rows: `events.REWARD` (n,), of which metric and value do not matter. behind: by row, the features and the shares
        that its token holds. Raises `StoreUnavailable` when it is unknown whether they were appended: a retry appends
        each at most once.
        """
        letters = bytearray([UNKNOWN]) * len(rows)
        shape, turn = Shape(live.experiment, live.n_logged), Turn()
        places: list[int] = []
        exposures: list[bytes] = []
        for i, data in enumerate(behind):
            exposure = self._exposure(rows[i], data, live)
            try:
                shape.check(exposure)
            except UnreadableEntry:
                # A repair may have left out the addition of an arm.
                continue
            places.append(i)
            exposures.append(events.encode(exposure))
            if len(places) == MAX_ENTRIES:
                await self._append_some(rows, places, exposures, letters)
                places, exposures = [], []
            if turn.over:
                await turn.give_way()
        if places:
            await self._append_some(rows, places, exposures, letters)
        return bytes(letters)

    async def _append_some(
        self, rows: NDArray[np.void], places: list[int], exposures: list[bytes], letters: bytearray
    ) -> None:
        blocks, checks = _checks(rows[places], self._window_ms)
        keys = [self._store.keys.demanded(self._owner, *block) for block in blocks]
        appended = await self._store.append_demanded(self._owner, keys, checks, exposures)
        for i, letter in zip(places, appended, strict=True):
            letters[i] = letter

    def _exposure(self, row: NDArray[np.void], behind: bytes, live: LiveExperiment) -> Exposed:
        x, shares = behind[: self._x_bytes], behind[self._x_bytes :]
        return Exposed(
            incarnation=int(row["incarnation"]),
            first=int(row["counter"]),
            revision=int(row["revision"]),
            time_ms=int(row["time_ms"]),
            arms=row["arm"].tobytes(),
            ages_ms=bytes(4),
            units=row["unit"].tobytes() if row["unit"] else b"",
            vectors=shares or _likely_shares(row, live).tobytes(),
            runs=np.array([1], np.uint32).tobytes(),
            held_out=bytes([1]) if row["flags"] & HELD_OUT else b"",
            x=x,
        )


def on_demand(rows: NDArray[np.void]) -> NDArray[np.bool_]:
    """Mask, bool (n,), of those `events.REWARD` rows whose decisions are exposures on demand."""
    mask: NDArray[np.bool_] = rows["counter"] >= ON_DEMAND
    return mask


def _checks(rows: NDArray[np.void], window_ms: int) -> tuple[list[tuple[int, int]], bytes]:
    """Blocks of decisions, (incarnation, block) each, and for each of n `events.REWARD` rows what the script checks."""
    blocks: dict[tuple[int, int], int] = {}
    checks = np.zeros(len(rows), CHECK)
    decided_in = zip(rows["incarnation"].tolist(), (rows["counter"] >> BLOCK_BITS).tolist(), strict=True)
    checks["bitmap"] = [blocks.setdefault(block, len(blocks)) for block in decided_in]
    checks["bit"] = rows["counter"] & ((1 << BLOCK_BITS) - 1)
    checks["deadline_ms"] = rows["time_ms"] + window_ms
    return list(blocks), checks.tobytes()


def _likely_shares(row: NDArray[np.void], live: LiveExperiment) -> NDArray[np.float64]:
    """Shares, float64 (K,), of a decision whose token had no room for them.

    Its own propensity is exact; the other arms have what is left in the proportions of their shares now.
    """
    arm, propensity = int(row["arm"]), min(float(row["propensity"]), 1.0)
    shares = live.current_shares(live.offset.time_ms).copy()
    if arm >= len(shares):
        return shares
    shares[arm] = 0.0
    rest = float(shares.sum())
    if rest > 0.0:
        shares *= (1.0 - propensity) / rest
    else:
        shares[:] = (1.0 - propensity) / max(len(shares) - 1, 1)
    shares[arm] = propensity
    return shares

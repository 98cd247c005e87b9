"""Spool: decisions and rewards that wait for each other, in order of their decisions' times, on disk beyond a bound."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bandit_serve.export.layout import RecordLayout, Records
from bandit_serve.results.sequence import Floats

MAX_BUFFER_BYTES = 32 * 2**20
"""Bytes of one kind of records in memory, above which they become a run on disk."""
INDEXED = 1024
"""Records of a run, of which the first one's time is kept in memory."""
NO_SHARES = np.zeros(0)


class Slice(NamedTuple):
    """Consecutive records of a run, and the shares that those point into."""

    records: Records
    shares: Floats


class _Run:
    """Records in order of their times, `left` of which have not been taken."""

    def __init__(self, path: Path, records: Records, shares: Floats) -> None:
        records.tofile(path)
        self._path = path
        self._shares = path.with_suffix(".shares")
        shares.tofile(self._shares)
        self._dtype = records.dtype
        self._index = records["time_ms"][::INDEXED].copy()
        self._n = len(records)
        self._taken = 0
        self._next_ms = int(records["time_ms"][0])

    def times(self) -> list[int]:
        """Time of about every `INDEXED`-th record that was not taken."""
        return [self._next_ms, *self._index[self._taken // INDEXED + 1 :].tolist()]

    @property
    def is_over(self) -> bool:
        return self._taken == self._n

    def take(self, before_ms: int) -> Slice | None:
        """Takes the records of before a time; None where there are none."""
        if self.is_over or self._next_ms >= before_ms:
            return None
        end = min(self._n, int(np.searchsorted(self._index, before_ms)) * INDEXED + 1)
        records = np.fromfile(
            self._path, self._dtype, count=end - self._taken, offset=self._taken * self._dtype.itemsize
        )
        n = int(np.searchsorted(records["time_ms"], before_ms))
        self._taken += n
        if n < len(records):
            self._next_ms = int(records["time_ms"][n])
        elif not self.is_over:
            self._next_ms = int(np.fromfile(self._path, self._dtype, 1, offset=self._at)["time_ms"][0])
        return Slice(records[:n], self._shares_of(records[:n]))

    @property
    def _at(self) -> int:
        return self._taken * self._dtype.itemsize

    def _shares_of(self, records: Records) -> Floats:
        """Shares of these records alone; their places are moved to them."""
        if "shares_at" not in (records.dtype.names or ()) or not len(records):
            return NO_SHARES
        first = int(records["shares_at"].min())
        end = int((records["shares_at"] + records["n_shares"]).max())
        records["shares_at"] -= first
        return np.fromfile(self._shares, np.float64, count=end - first, offset=8 * first)

    def remove(self) -> None:
        self._path.unlink()
        self._shares.unlink()


class _Sorted:
    """Records of one kind: a buffer in memory and runs on disk."""

    def __init__(self, folder: Path, name: str) -> None:
        self._paths = (folder / f"{name}-{number}" for number in itertools.count())
        self._records: list[Records] = []
        self._shares: list[Floats] = []
        self._is_settled = True
        self._n_shares = 0
        self._nbytes = 0
        self._runs: list[_Run] = []

    def add(self, records: Records, shares: Floats) -> None:
        if not len(records):
            return
        if len(shares):
            if self._shares and np.array_equal(shares, self._shares[-1]):
                records["shares_at"] += self._n_shares - len(shares)
            else:
                records["shares_at"] += self._n_shares
                self._shares.append(shares)
                self._n_shares += len(shares)
                self._nbytes += shares.nbytes
        self._records.append(records)
        self._is_settled = False
        self._nbytes += records.nbytes
        if self._nbytes >= MAX_BUFFER_BYTES:
            records, shares = self._settled()
            self._runs.append(_Run(next(self._paths), records, shares))
            self._keep(records[:0], NO_SHARES)

    def _settled(self) -> Slice:
        """Everything in memory, in order of time."""
        if not self._is_settled:
            records = np.concatenate(self._records)
            times = records["time_ms"]
            if (times[1:] < times[:-1]).any():
                records = records[np.argsort(times, kind="stable")]
            self._keep(records, np.concatenate(self._shares) if self._shares else NO_SHARES)
        return Slice(self._records[0], self._shares[0] if self._shares else NO_SHARES)

    def _keep(self, records: Records, shares: Floats) -> None:
        if not len(records):
            shares = NO_SHARES
        self._records, self._shares = [records], [shares] if len(shares) else []
        self._n_shares, self._nbytes = len(shares), records.nbytes + shares.nbytes
        self._is_settled = True

    def times(self) -> list[int]:
        """Time of about every `INDEXED`-th record."""
        times = [time for run in self._runs for time in run.times()]
        return [*times, *self._settled().records["time_ms"][::INDEXED].tolist()] if self._records else times

    def take(self, before_ms: int) -> list[Slice]:
        taken = [part for run in self._runs if (part := run.take(before_ms)) is not None]
        for run in self._runs:
            if run.is_over:
                run.remove()
        self._runs = [run for run in self._runs if not run.is_over]
        if self._records:
            records, shares = self._settled()
            if not len(records):
                return taken
            n = int(np.searchsorted(records["time_ms"], before_ms))
            if n:
                taken.append(Slice(records[:n], shares))
                self._keep(records[n:], shares)
        return taken


class SpooledBatch(NamedTuple):
    """Decisions and rewards of one span of time, each in the order of the log where times are equal."""

    decisions: list[Slice]
    rewards: list[Slice]


class Spool:
    """Waiting decisions and rewards, in files of `folder`, with at most 64 MiB in memory and in a batch about `rows`.

    All decisions of one millisecond, and all their rewards, are in one batch.
    """

    def __init__(self, folder: Path, layout: RecordLayout, rows: int) -> None:
        self.layout = layout
        self._rows = rows
        self._decisions = _Sorted(folder, "decisions")
        self._rewards = _Sorted(folder, "rewards")

    def decide(self, records: Records, shares: Floats) -> None:
        self._decisions.add(records, shares)

    def reward(self, records: Records) -> None:
        self._rewards.add(records, NO_SHARES)

    def take(self, before_ms: int) -> Iterator[SpooledBatch]:
        """Takes out what was decided before a time, in the order of time."""
        times = np.sort(np.array([*self._decisions.times(), *self._rewards.times()], np.int64))
        step = max(1, self._rows // INDEXED)
        ends = [int(time) + 1 for time in times[step::step] if time + 1 < before_ms]
        for end in (*dict.fromkeys(ends), before_ms):
            batch = SpooledBatch(self._decisions.take(end), self._rewards.take(end))
            if batch.decisions or batch.rewards:
                yield batch

    @property
    def first_ms(self) -> int | None:
        """Earliest time of a decision that waits; None without any."""
        return min([*self._decisions.times(), *self._rewards.times()], default=None)

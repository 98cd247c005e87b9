"""Buffer of decisions that are not in the log yet: columns in memory, flushed in the background."""

from __future__ import annotations

import logging
from array import array
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from bandit_serve.decisions.outcomes import Outcome, Outcomes, ServedMetrics
from bandit_serve.errors import UnreadableEntry
from bandit_serve.log.events import MAX_AGE_MS, Exposed, NamedExposed, Pair, columns_of

log = logging.getLogger(__name__)

MAX_BATCH_ROWS = 50_000
MAX_BATCH_VECTOR_BYTES = 4 * 2**20
PAIR_BYTES = 80
"""About the memory that a pair takes beyond its texts."""
MAX_WAITING_ROWS = 1_000_000
MAX_WAITING_BYTES = 64 * 2**20


class WaitingBatch(NamedTuple):
    """Exposures that wait for their append, how many, and the entries with the served metrics of those predictions."""

    exposed: Exposed
    n_rows: int
    served: tuple[bytes, ...] = ()


class ExposureBuffer:
    """Exposures of one experiment in one worker. `next` is the number of its next decision.

    `n_features` is d of what the experiment logs of each decision. `served` says which metrics the service measures for
    it; without any, outcomes are not kept. With `keeps_names` the names of units are logged, too.

    The buffer is bounded: during a long outage the oldest exposures are dropped and counted in `lost`, and decisions go
    on. A row that can not be added leaves no trace in any column. A batch that no fold could read is not logged.
    """

    def __init__(self, incarnation: int) -> None:
        self._incarnation = incarnation
        self.next = 0
        self.lost = 0
        self.n_features = 0
        self.served = ServedMetrics()
        self.keeps_names = False
        self.on_begin: Callable[[], None] = _ignore
        """Called when a batch is begun."""
        self._waiting: deque[WaitingBatch] = deque()
        self._waiting_rows = 0
        self._waiting_bytes = 0
        self._open()

    @property
    def logged(self) -> int:
        """Decisions that are in the log."""
        return self._first - self._waiting_rows - self.lost

    def _open(self) -> None:
        self._first = self.next
        self._time_ms = 0
        self._revision = 0
        self._arms = array("H")
        self._ages_ms = array("I")
        self._units = array("Q")
        self._held_out = bytearray()
        self._x = bytearray()
        self._pairs: list[Pair] = []
        self._pair_bytes = 0
        self._names: list[str] = []
        self._outcomes = Outcomes()
        self._vectors: list[bytes] = []
        self._vector_bytes = 0
        self._runs = array("I")
        self._vector: NDArray[np.float64] | None = None

    def add(
        self,
        arm: int,
        unit: int,
        vector: NDArray[np.float64],
        revision: int,
        time_ms: int,
        held_out: bool = False,
        x: NDArray[np.float32] | None = None,
        pair: tuple[str, str, dict[str, Any] | None] | None = None,
        outcome: Outcome | None = None,
        name: str | None = None,
    ) -> None:
        """Adds one decision.

        vector: the shares that it was drawn from, float64 (K,), compared by identity, so it must not change. x: its
        features, float32 (d,). pair: the user, the item and the features of its prediction. outcome: what became of
        that, where the experiment has served metrics. name: the unit's, which is logged where names are kept.
        """
        age_ms = time_ms - self._time_ms
        if self._vector is not vector or revision != self._revision or not 0 <= age_ms <= MAX_AGE_MS:
            self._turn(vector, revision, time_ms)
            age_ms = time_ms - self._time_ms
        try:
            self._arms.append(arm)
            self._ages_ms.append(age_ms)
            if unit:
                self._units.append(unit)
            self._held_out.append(held_out)
            if pair is not None:
                self._pairs.append(Pair(self.next - self._first, *pair))
                self._pair_bytes += PAIR_BYTES + len(pair[0]) + len(pair[1]) + 16 * len(pair[2] or ())
            if outcome is not None:
                self._outcomes.add(self.next - self._first, outcome)
            if self.keeps_names:
                self._keep_names([name or ""])
            if x is not None:
                self._x += x.tobytes()
        except Exception:
            self._take_back()
            raise
        self._runs[-1] += 1
        self.next += 1
        self._close_if_large()

    def _take_back(self) -> None:
        """Cuts all columns to the number of counted decisions. Features are added last, so they never need it."""
        n_rows = self.next - self._first
        for column in (self._arms, self._ages_ms, self._units, self._held_out):
            del column[n_rows:]
        self._pairs = [pair for pair in self._pairs if pair.place < n_rows]
        self._outcomes.cut(n_rows)
        del self._names[n_rows:]

    def _keep_names(self, names: Sequence[str]) -> None:
        """Adds names behind those of all decisions before, of which some may have come while none were kept."""
        missing = self.next - self._first - len(self._names)
        self._names += [*[""] * missing, *names]
        self._pair_bytes += sum(map(len, names))

    def _close_if_large(self) -> None:
        nbytes = self._vector_bytes + len(self._x) + self._pair_bytes
        if len(self._arms) >= MAX_BATCH_ROWS or nbytes >= MAX_BATCH_VECTOR_BYTES:
            self._close()

    def add_many(
        self,
        arms: NDArray[np.uint16],
        units: NDArray[np.uint64],
        vector: NDArray[np.float64],
        revision: int,
        time_ms: int,
        held_out: NDArray[np.bool_] | None = None,
        x: NDArray[np.float32] | None = None,
        names: Sequence[str] = (),
    ) -> None:
        """Adds n decisions that were drawn from one vector at one time.

        units: uint64 (n,), or empty if the unit is a request. held_out: bool (n,), the decisions in the holdout;
        without it, none are. x: their features, float32 (n, d). names: of their units, n or none, which are logged
        where names are kept.
        """
        if not len(arms):
            return
        if (
            self._vector is not vector
            or revision != self._revision
            or not 0 <= time_ms - self._time_ms <= MAX_AGE_MS
        ):
            self._turn(vector, revision, time_ms)
        try:
            self._arms.frombytes(arms.tobytes())
            self._ages_ms.frombytes(np.full(len(arms), time_ms - self._time_ms, np.uint32).tobytes())
            self._units.frombytes(units.tobytes())
            self._held_out += bytes(len(arms)) if held_out is None else held_out.tobytes()
            if self.keeps_names and names:
                self._keep_names(names)
            if x is not None:
                self._x += x.tobytes()
        except Exception:
            self._take_back()
            raise
        self._runs[-1] += len(arms)
        self.next += len(arms)
        self._close_if_large()

    def _turn(self, vector: NDArray[np.float64], revision: int, time_ms: int) -> None:
        shares = vector.tobytes()
        if self._arms and (revision != self._revision or not 0 <= time_ms - self._time_ms <= MAX_AGE_MS):
            self._close()
        if not self._arms:
            # An empty run may be left over from a decision that could not be added.
            self._open()
            self._time_ms, self._revision = time_ms, revision
            self.on_begin()
        self._vector = vector
        self._vectors.append(shares)
        self._vector_bytes += len(shares)
        self._runs.append(0)

    def _close(self) -> None:
        n_rows = len(self._arms)
        exposed = Exposed(
            incarnation=self._incarnation,
            first=self._first,
            revision=self._revision,
            time_ms=self._time_ms,
            arms=self._arms.tobytes(),
            ages_ms=self._ages_ms.tobytes(),
            units=self._units.tobytes(),
            vectors=b"".join(self._vectors),
            runs=self._runs.tobytes(),
            held_out=_bits(self._held_out),
            x=bytes(self._x),
            pairs=tuple(self._pairs),
        )
        if any(self._names):
            self._keep_names(())
            exposed = NamedExposed(**msgspec.structs.asdict(exposed), names=tuple(self._names))
        try:
            columns = columns_of(exposed, self.n_features)
        except UnreadableEntry as error:
            log.error("%d decisions are not logged: %s", n_rows, error)
            self.lost += n_rows
        else:
            waiting = WaitingBatch(exposed, n_rows, self._outcomes.entries(exposed, columns, self.served))
            self._waiting.append(waiting)
            self._waiting_rows += n_rows
            self._waiting_bytes += _nbytes(waiting)
        while self._waiting_rows > MAX_WAITING_ROWS or self._waiting_bytes > MAX_WAITING_BYTES:
            self.lost += self._drop_oldest()
        self._open()

    def _drop_oldest(self) -> int:
        waiting = self._waiting.popleft()
        self._waiting_rows -= waiting.n_rows
        self._waiting_bytes -= _nbytes(waiting)
        return waiting.n_rows

    def first_waiting(self, end: int | None = None) -> WaitingBatch | None:
        """Oldest batch, if it has decisions before number `end`; the same one until `done` is called."""
        end = self.next if end is None else end
        if not self._waiting and self._first < min(end, self.next):
            self._close()
        return self._waiting[0] if self._waiting and self._waiting[0].exposed.first < end else None

    def done(self, batch: Exposed) -> None:
        """Drops a batch that was appended or is lost."""
        if self._waiting and self._waiting[0].exposed is batch:
            self._drop_oldest()


def _ignore() -> None:
    pass


def _bits(flags: bytearray) -> bytes:
    """Packs bytes of 0 or 1 into bits; empty if all are 0."""
    return np.packbits(np.frombuffer(flags, np.uint8), bitorder="little").tobytes() if 1 in flags else b""


def _nbytes(waiting: WaitingBatch) -> int:
    batch = waiting.exposed
    columns = (batch.arms, batch.ages_ms, batch.units, batch.vectors, batch.runs, batch.held_out, batch.x)
    pairs = sum(PAIR_BYTES + len(pair.user) + len(pair.item) for pair in batch.pairs)
    names = sum(map(len, batch.names)) if isinstance(batch, NamedExposed) else 0
    return sum(map(len, (*columns, *waiting.served))) + pairs + names

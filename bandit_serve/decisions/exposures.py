"""Buffer of decisions that are not in the log yet: columns in memory, flushed in the background."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from bandit_serve.decisions._exposure_columns import ExposureColumns
from bandit_serve.decisions.outcomes import Outcome, Outcomes, ServedMetrics
from bandit_serve.errors import UnreadableEntry
from bandit_serve.log.events import Exposed, NamedExposed, Pair, columns_of

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


class ExposureBuffer(ExposureColumns):
    """Exposures of one experiment in one worker. `next` is the number of its next decision.

    Its columns are those of the batch that is open, and what few decisions have stands beside them.

    `n_features` is d of what the experiment logs of each decision. `served` says which metrics the service measures for
    it; without any, outcomes are not kept. With `keeps_names` the names of units are logged, too.

    The buffer is bounded: during a long outage the oldest exposures are dropped and counted in `lost`, and decisions go
    on. A row that can not be added leaves no trace in any column. A batch that no fold could read is not logged.
    """

    def __init__(self, incarnation: int) -> None:
        self._incarnation = incarnation
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
        return self.first - self._waiting_rows - self.lost

    def _open(self, time_ms: int = 0, revision: int = 0) -> None:
        self.begin(time_ms, revision, MAX_BATCH_ROWS)
        self._x = bytearray()
        self._pairs: list[Pair] = []
        self._pair_bytes = 0
        self._names: list[str] = []
        self._outcomes = Outcomes()
        self._vectors: list[bytes] = []
        self._vector_bytes = 0

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
        plain = x is None and pair is None and outcome is None and not self.keeps_names
        if plain and self.add_plain(arm, unit, vector, revision, time_ms, held_out):
            return
        if not self.goes_on(vector, revision, time_ms):
            self._turn(vector, revision, time_ms)
        n_bytes = len(self._x)
        try:
            if pair is not None:
                self._pairs.append(Pair(self.next - self.first, *pair))
                self._pair_bytes += PAIR_BYTES + len(pair[0]) + len(pair[1]) + 16 * len(pair[2] or ())
            if outcome is not None:
                self._outcomes.add(self.next - self.first, outcome)
            if self.keeps_names:
                self._keep_names([name or ""])
            if x is not None:
                self._x += x.tobytes()
            self.add_row(arm, unit, time_ms, held_out)
        except Exception:
            self._take_back(n_bytes)
            raise
        self._close_if_large()

    def _take_back(self, n_bytes: int) -> None:
        """Takes away what stands beside decisions that were not added; `n_bytes` of features were there before."""
        del self._x[n_bytes:]
        n_rows = self.next - self.first
        self._pairs = [pair for pair in self._pairs if pair.place < n_rows]
        self._outcomes.cut(n_rows)
        del self._names[n_rows:]

    def _keep_names(self, names: Sequence[str]) -> None:
        """Adds names behind those of all decisions before, of which some may have come while none were kept."""
        missing = self.next - self.first - len(self._names)
        self._names += [*[""] * missing, *names]
        self._pair_bytes += sum(map(len, names))

    def _close_if_large(self) -> None:
        nbytes = self._vector_bytes + len(self._x) + self._pair_bytes
        if self.next - self.first >= MAX_BATCH_ROWS or nbytes >= MAX_BATCH_VECTOR_BYTES:
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
        if not self.goes_on(vector, revision, time_ms):
            self._turn(vector, revision, time_ms)
        n_bytes = len(self._x)
        try:
            if self.keeps_names and names:
                self._keep_names(names)
            if x is not None:
                self._x += x.tobytes()
            self.add_rows(arms, units, time_ms, None if held_out is None else held_out.view(np.uint8))
        except Exception:
            self._take_back(n_bytes)
            raise
        self._close_if_large()

    def _turn(self, vector: NDArray[np.float64], revision: int, time_ms: int) -> None:
        shares = vector.tobytes()
        if self.next > self.first and not self.takes(revision, time_ms):
            self._close()
        if self.next == self.first:
            # An empty run may be left over from a decision that could not be added.
            self._open(time_ms, revision)
            self.on_begin()
        self.begin_run(vector)
        self._vectors.append(shares)
        self._vector_bytes += len(shares)

    def _close(self) -> None:
        n_rows = self.next - self.first
        exposed = Exposed(
            incarnation=self._incarnation,
            first=self.first,
            revision=self.revision,
            time_ms=self.time_ms,
            arms=self.arms,
            ages_ms=self.ages_ms,
            units=self.units,
            vectors=b"".join(self._vectors),
            runs=self.runs,
            held_out=_bits(self.held_out),
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
        if not self._waiting and self.first < min(end, self.next):
            self._close()
        return self._waiting[0] if self._waiting and self._waiting[0].exposed.first < end else None

    def done(self, batch: Exposed) -> None:
        """Drops a batch that was appended or is lost."""
        if self._waiting and self._waiting[0].exposed is batch:
            self._drop_oldest()


def _ignore() -> None:
    pass


def _bits(flags: bytes) -> bytes:
    """Packs bytes of 0 or 1 into bits; empty if all are 0."""
    return np.packbits(np.frombuffer(flags, np.uint8), bitorder="little").tobytes() if 1 in flags else b""


def _nbytes(waiting: WaitingBatch) -> int:
    batch = waiting.exposed
    columns = (batch.arms, batch.ages_ms, batch.units, batch.vectors, batch.runs, batch.held_out, batch.x)
    pairs = sum(PAIR_BYTES + len(pair.user) + len(pair.item) for pair in batch.pairs)
    names = sum(map(len, batch.names)) if isinstance(batch, NamedExposed) else 0
    return sum(map(len, (*columns, *waiting.served))) + pairs + names

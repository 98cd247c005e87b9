"""History of an experiment's results: points that its fold keeps as it goes, so that a trimmed log takes none away.

Log time is cut into cells of one length. A point is the state at the last entry of a cell, and is kept when an entry of
a later cell comes. When there would be too many, cells become twice as long, and again until a quarter of the points
has room again: so the points are those that such cells would have given from the beginning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bandit_serve.results._drawn_shares import add_shares
from bandit_serve.results.room import State, first_rows, longer
from bandit_serve.results.sequence import Floats

if TYPE_CHECKING:
    from bandit_serve.log.events import Columns

MAX_POINTS = 500
"""Points that are kept of an experiment."""
MAX_POINT_ROWS = 100_000
"""Points times metrics times arms: with more than 200 arms and metrics, multiplied, fewer points are kept."""
MIN_CELL_MS = 1_000
MAX_DOUBLINGS = 43
"""Doublings of a cell after which it is as long as times in a log can be."""
ROUNDING = 1e-3
"""Part of their number by which the sum of shares may exceed it."""

BY_METRIC = (
    "mean",
    "low",
    "high",
    "difference",
    "difference_low",
    "difference_high",
    "p_value",
    "log_e",
)


class Drawn(NamedTuple):
    """Sum of the share vectors, (K,), that so many decisions were drawn from."""

    shares: Floats
    decisions: int


class Point(NamedTuple):
    """State of the results at `at_ms`, log time: the last entry's.

    exposures: int64 (K,). drawn: of all decisions so far. n: int64 (M, K). numbers: float64 (M, K) by the names of
    `BY_METRIC`, NaN where a report has null. regret: upper bound of the regret so far, NaN where there is none.
    """

    at_ms: int
    exposures: NDArray[np.int64]
    drawn: Drawn
    n: NDArray[np.int64]
    numbers: dict[str, Floats]
    regret: float

    def cells(self) -> dict[str, Any]:
        """Its row of each column of a `PastResults`."""
        return {
            "at_ms": self.at_ms,
            "decisions": self.drawn.decisions,
            "exposures": self.exposures,
            "drawn": self.drawn.shares,
            "n": self.n,
            "regret": self.regret,
            **self.numbers,
        }


class PastResults:
    """Points in their order, `count` of them, in columns.

    at_ms, decisions: int64 (P,). exposures: int64 (P, K). drawn: float64 (P, K). n: int64 (P, M, K). regret: float64
    (P,). Those of `BY_METRIC`: float64 (P, M, K). `so_far` is the sum of shares up to now.
    """

    def __init__(self, n_metrics: int, n_arms: int) -> None:
        self._n_metrics = n_metrics
        self._n_arms = n_arms
        self._cell_ms = MIN_CELL_MS
        self.count = 0
        self.so_far = Drawn(np.zeros(n_arms), 0)
        self._columns: State = {
            name: np.zeros((0, *shape), dtype) for name, (shape, dtype) in self._kinds().items()
        }

    def _kinds(self) -> dict[str, tuple[tuple[int, ...], type[np.generic]]]:
        """Shape of a row and dtype of each column."""
        by_arm, by_metric = (self._n_arms,), (self._n_metrics, self._n_arms)
        return {
            "at_ms": ((), np.int64),
            "decisions": ((), np.int64),
            "exposures": (by_arm, np.int64),
            "drawn": (by_arm, np.float64),
            "n": (by_metric, np.int64),
            "regret": ((), np.float64),
            **dict.fromkeys(BY_METRIC, (by_metric, np.float64)),
        }

    @property
    def max_points(self) -> int:
        return max(1, min(MAX_POINTS, MAX_POINT_ROWS // (self._n_metrics * self._n_arms)))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._columns)

    def column(self, name: str) -> NDArray[Any]:
        """One column, a row for each point."""
        return self._columns[name][: self.count]

    def draw(self, columns: Columns, low: int, high: int) -> None:
        """Counts the decisions `low` … `high - 1` of an exposure's columns."""
        add_shares(self.so_far.shares, columns.vectors, columns.runs, low, high)
        self.so_far = Drawn(self.so_far.shares, self.so_far.decisions + high - low)

    def is_due(self, before_ms: int, now_ms: int) -> bool:
        """Whether a point is to be kept of the state at `before_ms` when an entry of `now_ms` comes."""
        return self.so_far.decisions > 0 and now_ms // self._cell_ms > before_ms // self._cell_ms

    def keep(self, point: Point) -> None:
        """Keeps a point that is later than all others. Metrics and arms that came after it have nothing in it."""
        if self.count and self._cell(self.count - 1) == point.at_ms // self._cell_ms:
            self.count -= 1
        row = self.count
        room = len(self._columns["at_ms"])
        if row == room:
            room = min(max(2 * room, 8), self.max_points + 1)
            self._columns = {name: longer(column, room) for name, column in self._columns.items()}
        for name, value in point.cells().items():
            column = self._columns[name][row : row + 1]
            column[...] = _nothing(name)
            column[(slice(None), *(slice(n) for n in np.shape(value)))] = value
        self.count += 1
        self._thin()

    def _thin(self) -> None:
        if self.count <= self.max_points:
            return
        at_ms = self.column("at_ms")
        kept = np.arange(self.count)
        while len(kept) > 3 * self.max_points // 4 and len(kept) > 1:
            self._cell_ms *= 2
            cells = at_ms[kept] // self._cell_ms
            kept = kept[np.append(cells[1:] != cells[:-1], True)]
        self._columns = {name: column[kept] for name, column in self._columns.items()}
        self.count = len(kept)

    def _cell(self, row: int) -> int:
        return int(self._columns["at_ms"][row]) // self._cell_ms

    def grow(self, n_metrics: int, n_arms: int) -> None:
        """Makes room for metrics and arms that have come."""
        self.so_far = Drawn(np.pad(self.so_far.shares, (0, n_arms - self._n_arms)), self.so_far.decisions)
        self._n_metrics, self._n_arms = n_metrics, n_arms
        for name, (shape, _) in self._kinds().items():
            column = self._columns[name]
            added = [(0, wanted - there) for wanted, there in zip(shape, column.shape[1:], strict=True)]
            self._columns[name] = np.pad(column, [(0, 0), *added], constant_values=_nothing(name))
        self._thin()

    def state(self) -> State:
        return {
            "cell_ms": np.array([self._cell_ms]),
            "so_far": self.so_far.shares.copy(),
            "decided": np.array([self.so_far.decisions]),
            **{name: first_rows(column, self.count) for name, column in self._columns.items()},
        }

    @classmethod
    def from_state(cls, state: State, n_metrics: int, n_arms: int, now_ms: int) -> PastResults:
        """History of a state at `now_ms`; `ValueError` for one that there can not be."""
        history = cls(n_metrics, n_arms)
        kinds = history._kinds()
        numbers = {
            "cell_ms": ((1,), np.int64),
            "so_far": ((n_arms,), np.float64),
            "decided": ((1,), np.int64),
        }
        if set(state) != {*kinds, *numbers}:
            raise ValueError("the snapshot's history has other columns than points have")
        count = len(state["at_ms"])
        shapes = numbers | {name: ((count, *shape), dtype) for name, (shape, dtype) in kinds.items()}
        for name, (shape, dtype) in shapes.items():
            if (state[name].shape, state[name].dtype) != (shape, np.dtype(dtype)):
                raise ValueError(
                    f"the snapshot's history has a column {name} that does not fit its experiment"
                )
        at_ms, cell_ms, decided = state["at_ms"], int(state["cell_ms"][0]), int(state["decided"][0])
        if cell_ms not in [MIN_CELL_MS << doublings for doublings in range(MAX_DOUBLINGS + 1)]:
            raise ValueError("the snapshot's history has cells of a length that there can not be")
        if count > history.max_points or (at_ms < 0).any() or (np.diff(at_ms, append=now_ms) <= 0).any():
            raise ValueError("the snapshot's history has points that there can not be")
        if not 0 <= decided < 2**53 or not _are_shares(state["so_far"], decided):
            raise ValueError("the snapshot's history has shares that there can not be")
        history._cell_ms, history.count = cell_ms, count
        history.so_far = Drawn(state["so_far"].copy(), decided)
        history._columns = {name: state[name].copy() for name in kinds}
        return history


def _nothing(name: str) -> float:
    """Number in a column for an arm or a metric that is not there yet."""
    return np.nan if name in BY_METRIC else 0


def _are_shares(total: Floats, decisions: int) -> bool:
    with np.errstate(invalid="ignore"):
        return bool(((total >= 0.0) & (total <= (1.0 + ROUNDING) * decisions)).all())

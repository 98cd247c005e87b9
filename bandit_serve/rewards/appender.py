"""Appends of one experiment's rewards: plain ones by one script, those whose values are sums of events by another."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from bandit_serve.api.rewards import RewardVerdict
from bandit_serve.base.spans import child_span
from bandit_serve.errors import UnreadableEntry
from bandit_serve.experiments.spec import Experiment
from bandit_serve.log._rewards import counting_places, event_places
from bandit_serve.log.events import REWARD, pack_rewards
from bandit_serve.log.owner import name_of
from bandit_serve.log.times import COUNTED_MS
from bandit_serve.rewards.event_ids import NO_EVENT
from bandit_serve.rewards.group_commit import Batch, GroupCommit, Rows
from bandit_serve.store.store import CountedRows, Store

# Bounds of one script, which takes the store tens of milliseconds at most (docs/rewards-by-event.md). An event takes
# about ten times as long as a plain reward, and so does a key.
MAX_GROUP_ROWS = 5_000
MAX_GROUP_EVENTS = 500
MAX_GROUP_KEYS = 1_000
# Numbers of a model that an entry's rows change. Within this bound an entry is folded in some tens of milliseconds.
MAX_GROUP_NUMBERS = 2**26
MAX_EVENTS = 10_000
"""Events of a decision on a metric, those that were taken back included."""
MAX_HASH_FIELDS = 2**18
"""Fields of a hash of events in the store: those of a unit in one period, or of a block of decisions."""

VERDICTS: dict[int, RewardVerdict] = {
    ord("a"): "accepted",
    ord("d"): "duplicate",
    ord("c"): "corrected",
    ord("r"): "retracted",
    ord("x"): "conflict",
    ord("l"): "late",
    ord("u"): "unmatched",
    ord("i"): "invalid",
}
"""Verdicts by the letters of the store's scripts."""
BY_EVENTS = ord("e")
"""Letter of a plain reward whose decision has a value already, by events or by one that a former build counted."""


def beyond_bounds(metric: str) -> str:
    """Expectation that an event fails which the store has refused as `invalid`."""
    return f"expected at most {MAX_EVENTS:,} events of a decision, with which its value stays one that {metric} takes"


class RewardAppender:
    """Appends the rewards of one experiment to its log, in groups.

    n_features: d of the vectors x of decisions, 0 without any. order: the number of coefficients of the model that
    learns from a row, 0 without one.
    """

    def __init__(
        self, store: Store, owner: str, experiment: Experiment, n_features: int = 0, order: int = 0
    ) -> None:
        self._store = store
        self._owner = owner
        self._about = {"db.system.name": "redis", "bandit_serve.experiment": name_of(owner)}
        self.learn(experiment)
        self._window_ms = experiment.attribution.window_ms
        self._by_unit = experiment.unit == "user"
        self._row_bytes = REWARD.itemsize + 4 * n_features
        max_rows = max(1, MAX_GROUP_NUMBERS // max(order * order, 1))
        self._max_rows = min(MAX_GROUP_ROWS, max_rows)
        self._max_events = min(MAX_GROUP_EVENTS, max_rows)
        self._rewards = GroupCommit(self._append_rewards, self._max_rows, f"rewards of {owner}")
        self._events = GroupCommit(self._append_events, self._max_events, f"events of {owner}")
        self._new_events = GroupCommit(
            partial(self._append_events, only_new=True), self._max_events, f"new events of {owner}"
        )

    def learn(self, experiment: Experiment) -> None:
        """Appends rewards of metrics that have joined, too."""
        self._metrics = tuple(metric.name for metric in experiment.metrics)
        kinds = [metric.traits for metric in experiment.metrics]
        self._two_valued = np.array([kind.two_valued for kind in kinds], np.uint8)
        self._high = np.array([kind.ceiling for kind in kinds])
        self._rules = b"".join(
            struct.pack("<BBdd", kind.takes_max, kind.two_valued, *kind.value_limits) for kind in kinds
        )

    @property
    def idle(self) -> bool:
        """Whether no append is under way."""
        return self._rewards.idle and self._events.idle and self._new_events.idle

    async def append(self, rows: Rows, x: NDArray[np.float32] | None = None) -> bytes:
        """Appends plain rewards; returns, when they are in the log, one letter of `VERDICTS` for each.

        rows: `events.REWARD` (n,). x: the features of their decisions, float32 (n, d), where there is a context.
        Raises `UnreadableEntry`, and appends nothing, for rows that no fold of this experiment could read, and
        `Overloaded` where too many wait. Raises `StoreUnavailable` when it is unknown whether they were appended: a
        retry counts each of them at most once.
        """
        self._check(rows, x)
        with child_span("append rewards", "client", **self._about):
            letters = await self._rewards.submit([*self._batches(rows, x, self._max_rows)])
        if BY_EVENTS not in letters:
            return letters
        verdicts = np.frombuffer(letters, np.uint8).copy()
        rest = np.flatnonzero(verdicts == BY_EVENTS)
        none = np.full(len(rest), NO_EVENT, np.uint64)
        taken = await self.append_events(rows[rest], none, None if x is None else x[rest])
        verdicts[rest] = np.frombuffer(taken, np.uint8)
        return verdicts.tobytes()

    async def append_events(
        self,
        rows: Rows,
        events: NDArray[np.uint64],
        x: NDArray[np.float32] | None = None,
        *,
        only_new: bool = False,
    ) -> bytes:
        """Appends rewards by event; returns, when they are in the log, one letter of `VERDICTS` for each.

        rows: `events.REWARD` (n,), each with its decision, as a token gives it, and the event's own value; NaN takes
        the event back. events: uint64 (n,), `event_ids.hash_event` of each, or `NO_EVENT` for a plain reward. x: as in
        `append`. An event that the store knows already stays with the decision that it was first joined to, whichever
        one is in the row: an event is known by decision and metric, or, where the experiment's unit is the user, by
        unit and metric. An entry has rows for those values that change, and there is none where none does.

        With `only_new` an event that the store knows stays as it is, and is a duplicate: what was sent long ago must
        not replace what was sent since.

        `invalid` here are values that would take the decision's value out of what its metric takes, and events over
        the bounds; values that the metric itself refuses must not come here. Raises as `append`.
        """
        self._check(rows, x)
        commit = self._new_events if only_new else self._events
        with child_span("append events", "client", **self._about):
            return await commit.submit([*self._batches(rows, x, self._max_events, events)])

    def _check(self, rows: Rows, x: NDArray[np.float32] | None) -> None:
        row_bytes = rows.itemsize if x is None else rows.itemsize + x.itemsize * x.shape[1]
        if row_bytes != self._row_bytes:
            raise UnreadableEntry(f"Rewards of {self._owner} take {self._row_bytes} bytes each in its log.")

    def _batches(
        self, rows: Rows, x: NDArray[np.float32] | None, most: int, events: NDArray[np.uint64] | None = None
    ) -> Iterator[Batch]:
        for start in range(0, max(len(rows), 1), most):
            some = slice(start, start + most)
            packed = rows[some].tobytes() if x is None else pack_rewards(rows[some], x[some])
            yield Batch(rows[some], packed, b"" if events is None else events[some].tobytes())

    async def _append_rewards(self, batch: Batch) -> bytes:
        counted = self._counted(batch)
        if len(batch.rows) > 1 and counted.n_keys > MAX_GROUP_KEYS:
            return b"".join([await self._append_rewards(half) for half in batch.halves()])
        return await self._store.append_rewards(self._owner, counted)

    async def _append_events(self, batch: Batch, *, only_new: bool = False) -> bytes:
        counted = self._counted(batch)
        first = 3 + counted.n_keys
        period_ms = self._window_ms + COUNTED_MS if self._by_unit else 0
        places, places_of_rows = event_places(batch.rows, period_ms, first)
        if len(batch.rows) > 1 and counted.n_keys + len(places) > MAX_GROUP_KEYS:
            return b"".join([await self._append_events(half, only_new=only_new) for half in batch.halves()])
        arguments = (
            batch.events,
            places_of_rows,
            int(self._by_unit),
            self._window_ms,
            self._rules,
            MAX_EVENTS,
            MAX_HASH_FIELDS,
            int(only_new),
        )
        return await self._store.append_events(self._owner, counted, self._hashes(places), arguments)

    def _counted(self, batch: Batch) -> CountedRows:
        bitmaps, values, checks = counting_places(batch.rows, self._window_ms, self._two_valued, self._high)
        keys = self._store.keys
        return CountedRows(
            batch.packed,
            self._row_bytes,
            checks,
            [keys.seen(self._owner, self._metrics[metric], *place) for metric, *place in bitmaps],
            [keys.plain(self._owner, self._metrics[metric], *place) for metric, *place in values],
        )

    def _hashes(self, places: Sequence[tuple[int, ...]]) -> list[str]:
        keys = self._store.keys
        if self._by_unit:
            return [keys.unit_events(self._owner, *place) for place in places]
        return [keys.events(self._owner, self._metrics[metric], *place) for metric, *place in places]

"""Group commit of rewards: those that arrive during an append, or soon after it began, share the next one."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bandit_serve.api.rewards import RewardVerdict
from bandit_serve.errors import NotBuilt, Overloaded, StoreUnavailable, UnreadableEntry
from bandit_serve.log._rewards import seen_bits
from bandit_serve.log.events import REWARD, pack_rewards
from bandit_serve.store.store import Store

MAX_GROUP_ROWS = 20_000
MAX_WAITING_ROWS = 200_000
# The same bounds in bytes, as a row with features may have two kilobytes.
MAX_GROUP_BYTES = 4 * 2**20
MAX_WAITING_BYTES = 64 * 2**20
# Numbers of a model that an entry's rows change. Within this bound an entry is folded in some tens of milliseconds.
MAX_GROUP_NUMBERS = 2**26
# Time between two appends. An append costs about as much as four requests, and every worker reads every entry.
PACE_S = 0.001

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

Rows = NDArray[np.void]


class _Waiting(NamedTuple):
    rows: Rows
    packed: bytes
    verdicts: asyncio.Future[bytes]


class RewardAppender:
    """Appends the rewards of one experiment to its log, in groups.

    window_ms: the attribution window. n_features: d of the experiment's context, 0 without one. order: the number of
    coefficients of the model that learns from a row, 0 without one.
    """

    def __init__(
        self,
        store: Store,
        owner: str,
        metrics: tuple[str, ...],
        window_ms: int,
        n_features: int = 0,
        order: int = 0,
    ) -> None:
        self._max_group_rows = max(1, min(MAX_GROUP_ROWS, MAX_GROUP_NUMBERS // max(order * order, 1)))
        self._store = store
        self._owner = owner
        self._metrics = metrics
        self._window_ms = window_ms
        self._row_bytes = REWARD.itemsize + 4 * n_features
        self._waiting: deque[_Waiting] = deque()
        self._waiting_rows = 0
        self._waiting_bytes = 0
        self._running: asyncio.Task[None] | None = None
        self._next_s = 0.0

    @property
    def idle(self) -> bool:
        """Whether no append is under way."""
        return self._running is None

    async def append(self, rows: Rows, x: NDArray[np.float32] | None = None) -> bytes:
        """Appends rewards; returns, when they are in the log, one letter each: `a`ccepted, `d`uplicate or `l`ate.

        rows: `events.REWARD` (n,). x: the features of their decisions, float32 (n, d), where there is a context.
        Raises `UnreadableEntry`, and appends nothing, for rows that no fold of this experiment could read, and
        `Overloaded` where too many wait. Raises `StoreUnavailable` when it is unknown whether they were appended: a
        retry counts each of them at most once.
        """
        if self._waiting_rows + len(rows) > MAX_WAITING_ROWS:
            raise Overloaded(f"More than {MAX_WAITING_ROWS} rewards wait for the store.")
        row_bytes = rows.itemsize if x is None else rows.itemsize + x.itemsize * x.shape[1]
        if row_bytes != self._row_bytes:
            raise UnreadableEntry(f"Rewards of {self._owner} take {self._row_bytes} bytes each in its log.")
        if self._waiting and self._waiting_bytes + len(rows) * row_bytes > MAX_WAITING_BYTES:
            raise Overloaded(f"More than {MAX_WAITING_BYTES} bytes of rewards wait for the store.")
        parts = []
        for start in range(0, max(len(rows), 1), self._max_group_rows):
            some = slice(start, start + self._max_group_rows)
            parts.append(self._wait(rows[some], None if x is None else x[some]))
        if self._running is None:
            self._running = asyncio.create_task(self._run(), name=f"rewards of {self._owner}")
        if len(parts) == 1:
            return await parts[0]
        return b"".join(await asyncio.gather(*parts))

    async def append_events(
        self, rows: Rows, events: NDArray[np.uint64], x: NDArray[np.float32] | None = None
    ) -> bytes:
        """Appends rewards by event; returns, when they are in the log, one letter of `VERDICTS` for each.

        rows: `events.REWARD` (n,), each with its decision, as a token gives it, and the event's own value; NaN takes
        the event back. events: (n,), `event_ids.hash_event` of each. x: as in `append`. An event that the store knows
        already stays with the decision that it was first joined to, whichever one is in the row: an event is known by
        decision and metric, in experiments whose unit is the user by unit and metric.

        `invalid` here are values that would take the decision's value out of what its metric takes, and events over
        the bounds; values that the metric itself refuses must not come here. Raises as `append`.
        """
        raise NotBuilt("Rewards by event are not built yet.")

    def _wait(self, rows: Rows, x: NDArray[np.float32] | None) -> asyncio.Future[bytes]:
        packed = rows.tobytes() if x is None else pack_rewards(rows, x)
        verdicts = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(rows, packed, verdicts))
        self._waiting_rows += len(rows)
        self._waiting_bytes += len(packed)
        return verdicts

    async def _run(self) -> None:
        group: list[_Waiting] = []
        try:
            while self._waiting:
                await self._pace()
                group = self._take_group()
                try:
                    verdicts = await self._append_group(group)
                except Exception as error:
                    for waiting in group:
                        _fail(waiting.verdicts, error)
                else:
                    start = 0
                    for waiting in group:
                        end = start + len(waiting.rows)
                        if not waiting.verdicts.done():
                            waiting.verdicts.set_result(verdicts[start:end])
                        start = end
        finally:
            self._running = None
            for waiting in (*group, *self._waiting):
                _fail(waiting.verdicts, StoreUnavailable("The service is stopping."))
            self._waiting.clear()
            self._waiting_rows = self._waiting_bytes = 0

    async def _pace(self) -> None:
        """Waits until `PACE_S` have passed since the last append began."""
        loop = asyncio.get_running_loop()
        wait_s = self._next_s - loop.time()
        if wait_s > 0.0:
            await asyncio.sleep(wait_s)
        # Requests that have arrived are included: one turn of the loop reads them, the next brings their rewards here.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        self._next_s = loop.time() + PACE_S

    def _take_group(self) -> list[_Waiting]:
        group = [self._waiting.popleft()]
        n_rows, n_bytes = len(group[0].rows), len(group[0].packed)
        while (
            self._waiting
            and n_rows + len(self._waiting[0].rows) <= self._max_group_rows
            and n_bytes + len(self._waiting[0].packed) <= MAX_GROUP_BYTES
        ):
            group.append(self._waiting.popleft())
            n_rows += len(group[-1].rows)
            n_bytes += len(group[-1].packed)
        self._waiting_rows -= n_rows
        self._waiting_bytes -= n_bytes
        return group

    async def _append_group(self, group: list[_Waiting]) -> bytes:
        # Joined as bytes: concatenating structured arrays compares their fields, at ten times the cost.
        rows = np.frombuffer(b"".join(waiting.rows.tobytes() for waiting in group), REWARD)
        packed = b"".join(waiting.packed for waiting in group)
        bitmaps, checks = self._checks(rows)
        return await self._store.append_rewards(
            self._owner, bitmaps, packed, checks, len(packed) // len(rows)
        )

    def _checks(self, rows: Rows) -> tuple[list[str], bytes]:
        """Keys of the bitmaps that the rows refer to, and 12 bytes a row for the script to check."""
        bitmaps, checks = seen_bits(rows, self._window_ms)
        seen = self._store.keys.seen
        return [seen(self._owner, self._metrics[metric], *place) for metric, *place in bitmaps], checks


def _fail(verdicts: asyncio.Future[bytes], error: Exception) -> None:
    if not verdicts.done():
        verdicts.set_exception(error)

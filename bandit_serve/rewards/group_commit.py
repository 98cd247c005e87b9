"""Group commit: rows that arrive during an append, or soon after it began, share the next one."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bandit_serve.errors import Overloaded, StoreUnavailable

MAX_GROUP_BYTES = 4 * 2**20
MAX_WAITING_ROWS = 200_000
MAX_WAITING_BYTES = 64 * 2**20
# Time between two appends. An append costs about as much as four requests, and every worker reads every entry.
PACE_S = 0.001

Rows = NDArray[np.void]


class Batch(NamedTuple):
    """Rows that are appended by one call, as an array and as the log has them; and their events, 8 bytes each."""

    rows: Rows
    packed: bytes
    events: bytes = b""

    def halves(self) -> tuple[Batch, Batch]:
        """Its first rows and its last ones."""
        n = len(self.rows)
        half, row_bytes, event_bytes = n // 2, len(self.packed) // n, len(self.events) // n
        return (
            Batch(self.rows[:half], self.packed[: half * row_bytes], self.events[: half * event_bytes]),
            Batch(self.rows[half:], self.packed[half * row_bytes :], self.events[half * event_bytes :]),
        )


class _Waiting(NamedTuple):
    batch: Batch
    verdicts: asyncio.Future[bytes]


class GroupCommit:
    """Queue of batches for `append`, which takes several at once and returns one letter a row.

    max_rows: rows of a group, unless one batch alone has more. `MAX_GROUP_BYTES` bounds it as well, as a row with
    features may have two kilobytes. `name` is the task's.
    """

    def __init__(self, append: Callable[[Batch], Awaitable[bytes]], max_rows: int, name: str) -> None:
        self._append = append
        self._max_rows = max_rows
        self._name = name
        self._waiting: deque[_Waiting] = deque()
        self._waiting_rows = 0
        self._waiting_bytes = 0
        self._running: asyncio.Task[None] | None = None
        self._next_s = 0.0

    @property
    def idle(self) -> bool:
        """Whether no append is under way."""
        return self._running is None

    async def submit(self, batches: Sequence[Batch]) -> bytes:
        """Returns the letters of all batches, in their order, when each is appended.

        Raises `Overloaded`, and appends nothing, where too many rows or bytes wait. Raises `StoreUnavailable` when it
        is unknown whether they were appended.
        """
        n_rows = sum(len(batch.rows) for batch in batches)
        n_bytes = sum(len(batch.packed) for batch in batches)
        if self._waiting_rows + n_rows > MAX_WAITING_ROWS:
            raise Overloaded(f"More than {MAX_WAITING_ROWS} rewards wait for the store.")
        if self._waiting and self._waiting_bytes + n_bytes > MAX_WAITING_BYTES:
            raise Overloaded(f"More than {MAX_WAITING_BYTES} bytes of rewards wait for the store.")
        loop = asyncio.get_running_loop()
        waiting = [_Waiting(batch, loop.create_future()) for batch in batches]
        self._waiting += waiting
        self._waiting_rows += n_rows
        self._waiting_bytes += n_bytes
        if self._running is None:
            self._running = loop.create_task(self._run(), name=self._name)
        if len(waiting) == 1:
            return await waiting[0].verdicts
        return b"".join(await asyncio.gather(*(each.verdicts for each in waiting)))

    async def _run(self) -> None:
        group: list[_Waiting] = []
        try:
            while self._waiting:
                await self._pace()
                group = self._take_group()
                try:
                    verdicts = await self._append(_joined(group))
                except Exception as error:
                    for waiting in group:
                        _fail(waiting.verdicts, error)
                else:
                    start = 0
                    for waiting in group:
                        end = start + len(waiting.batch.rows)
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
        n_rows, n_bytes = len(group[0].batch.rows), len(group[0].batch.packed)
        while (
            self._waiting
            and n_rows + len(self._waiting[0].batch.rows) <= self._max_rows
            and n_bytes + len(self._waiting[0].batch.packed) <= MAX_GROUP_BYTES
        ):
            group.append(self._waiting.popleft())
            n_rows += len(group[-1].batch.rows)
            n_bytes += len(group[-1].batch.packed)
        self._waiting_rows -= n_rows
        self._waiting_bytes -= n_bytes
        return group


def _joined(group: Sequence[_Waiting]) -> Batch:
    # Joined as bytes: concatenating structured arrays compares their fields, at ten times the cost.
    rows = b"".join(waiting.batch.rows.tobytes() for waiting in group)
    return Batch(
        np.frombuffer(rows, group[0].batch.rows.dtype),
        b"".join(waiting.batch.packed for waiting in group),
        b"".join(waiting.batch.events for waiting in group),
    )


def _fail(verdicts: asyncio.Future[bytes], error: Exception) -> None:
    if not verdicts.done():
        verdicts.set_exception(error)

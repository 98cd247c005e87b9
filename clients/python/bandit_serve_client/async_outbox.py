"""Outbox of an event loop: rewards are queued at once, and sent by a task."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence

from bandit_serve_client.backlog import Backlog, OutboxSettings, report_rejected
from bandit_serve_client.rewards import AnyReward, RewardsReport

AsyncSend = Callable[[Sequence[AnyReward], float], Awaitable[RewardsReport]]


class AsyncOutbox:
    """Queue, and a task that empties it and lives while there is something in it.

    `send` sends a batch within seconds. A loop that ends before `close` takes what is queued with it, and says so.
    """

    def __init__(self, send: AsyncSend, timeout_s: float, settings: OutboxSettings) -> None:
        self._send = send
        self._timeout_s = timeout_s
        self._settings = settings
        self._backlog = Backlog(settings)
        self._task: asyncio.Task[None] | None = None
        self._hurry = asyncio.Event()
        self._flushes: list[tuple[int, asyncio.Future[bool]]] = []
        self._close_until_s: float | None = None

    @property
    def counts(self) -> Counter[str]:
        """Counts of verdicts, and of rewards `refused` at the bound and `lost` at the end."""
        return self._backlog.counts.copy()

    def __len__(self) -> int:
        return len(self._backlog)

    def put(self, reward: AnyReward) -> bool:
        """Queues a reward without waiting; False where the queue is full or closed."""
        if self._close_until_s is not None:
            return self._backlog.refuse("the client is closed")
        if self._task is None:
            self._task = asyncio.create_task(self._work(), name="bandit-serve-outbox")
        queued = self._backlog.add(reward)
        if len(self._backlog) >= self._settings.flush_at:
            self._hurry.set()
        return queued

    async def flush(self, timeout: float | None = None) -> bool:
        """Waits until all that is queued now has its verdict.

        False where `timeout`, in seconds, was too short, or where some of it was lost by the end of the client.
        """
        if not len(self._backlog):
            return True
        flushed: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._flushes.append((self._backlog.n_added, flushed))
        self._hurry.set()
        try:
            async with asyncio.timeout(timeout):
                return await flushed
        except TimeoutError:
            return False

    async def close(self) -> None:
        """Sends what is queued, within `close_timeout`; what is left then is counted as `lost`, and logged."""
        if self._close_until_s is None:
            self._close_until_s = time.monotonic() + self._settings.close_timeout
            self._backlog.end_pause()
        self._hurry.set()
        if (task := self._task) is not None:
            await asyncio.wait([task], timeout=max(0.0, self._close_until_s - time.monotonic()))
            task.cancel()
            await asyncio.wait([task])

    async def _work(self) -> None:
        try:
            while len(self._backlog) and await self._until_due():
                await self._send_batch()
        finally:
            self._backlog.abandon()
            for _, flushed in self._flushes:
                if not flushed.done():
                    flushed.set_result(False)
            self._flushes.clear()
            self._task = None

    async def _send_batch(self) -> None:
        batch = self._backlog.batch()
        try:
            report = await self._send(batch, self._allowed_s())
        except Exception as error:
            rejected = self._backlog.put_off(batch, error)
        else:
            rejected = self._backlog.settle(batch, report)
        report_rejected(rejected, self._settings.on_rejected)
        self._settle_flushes()

    async def _until_due(self) -> bool:
        """Waits until a batch is due; False where the outbox is closed before."""
        while True:
            self._hurry.clear()
            closing = self._close_until_s is not None
            due_in_s = self._backlog.due_in_s(hurry=closing or bool(self._flushes))
            if closing and self._allowed_s() <= due_in_s:
                return False
            if due_in_s <= 0:
                return True
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(due_in_s):
                    await self._hurry.wait()

    def _settle_flushes(self) -> None:
        settled = self._backlog.n_settled
        for up_to, flushed in self._flushes:
            if up_to <= settled and not flushed.done():
                flushed.set_result(True)
        self._flushes = [pair for pair in self._flushes if not pair[1].done()]

    def _allowed_s(self) -> float:
        if self._close_until_s is None:
            return self._timeout_s
        return min(self._timeout_s, self._close_until_s - time.monotonic())

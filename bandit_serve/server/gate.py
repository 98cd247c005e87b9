"""Gate of a tenant: which of its requests are let in, and how slowly it is told that others are not."""

from __future__ import annotations

import asyncio
import contextlib
import time

from bandit_serve.errors import LimitReached, RateExceeded, TooLarge
from bandit_serve.server.metrics import Counters
from bandit_serve.server.rate import SharedNumber, TokenBucket
from bandit_serve.settings import TenantLimits

QUICK_REFUSALS = 50
"""Refusals a second that a worker answers at once. Those of a tenant that sends more are answered later and later."""
PAUSE_S = 0.01
MAX_PAUSE_S = 10.0


class RequestGate:
    """Limits of a tenant's requests in one worker. `counters` are the tenant's."""

    def __init__(self, limits: TenantLimits, memory: SharedNumber, counters: Counters) -> None:
        self._limits = limits
        self._counters = counters
        self._bucket = (
            None if limits.requests is None else TokenBucket(memory, limits.requests, limits.burst_requests)
        )
        self._refused = 0.0
        self._refused_s = 0.0
        self._opened = asyncio.Event()

    def admit(self) -> None:
        """Lets a request in. Raises `RateExceeded` for one too many."""
        if self._bucket is None:
            return
        wait_s = self._bucket.take()
        if wait_s > 0.0:
            raise RateExceeded(
                f"You may send {self._limits.requests:g} requests a second, and have sent more.",
                "requests",
                wait_s,
            )

    def admit_batch(self, n_entries: int) -> None:
        """Lets a batch in, whose request was. Its other entries count as requests, which later ones wait for.

        Raises `TooLarge` for a batch that is larger than any may be.
        """
        most = self._limits.batch
        if most is not None and n_entries > most:
            self._counters.add("limited_batch")
            raise TooLarge(
                f"The batch has {n_entries} entries of {most} that it may have here; send fewer at once."
            )
        if self._bucket is not None and n_entries > 1:
            self._bucket.owe(n_entries - 1)

    def count(self, error: LimitReached) -> None:
        self._counters.add(f"limited_{error.limit}")

    def pause_s(self) -> float:
        """Counts a refusal; returns how long its answer should wait.

        Each connection has one request under way. So a tenant's refusals settle at `QUICK_REFUSALS` a second, however
        quickly it sends, as long as it has no more connections than are refused in `MAX_PAUSE_S`.
        """
        now_s = time.monotonic()
        most = QUICK_REFUSALS + MAX_PAUSE_S / PAUSE_S
        left = max(0.0, self._refused - (now_s - self._refused_s) * QUICK_REFUSALS)
        self._refused, self._refused_s = min(left + 1.0, most), now_s
        return max(0.0, (self._refused - QUICK_REFUSALS) * PAUSE_S)

    async def pause(self, pause_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await self._opened.wait()

    def open(self) -> None:
        """Ends all pauses, as when the worker leaves."""
        self._opened.set()

"""Beats of the workers' event loops: the time of the last one in a slot of memory that the supervisor reads."""

from __future__ import annotations

import asyncio
import mmap
import os
import time

BEAT_S = 0.5
_BYTES = 8


class Beats:
    """Array of `n_slots` times in the shared file `fd`, in seconds of the monotonic clock."""

    def __init__(self, n_slots: int, fd: int) -> None:
        os.ftruncate(fd, n_slots * _BYTES)
        self._map = mmap.mmap(fd, n_slots * _BYTES)
        self._times_s = memoryview(self._map).cast("d")

    def last_s(self, slot: int) -> float:
        return self._times_s[slot]

    def beat_from_now_on(self, slot: int, loop: asyncio.AbstractEventLoop) -> None:
        """Writes the time every `BEAT_S`, from the event loop: a blocked loop stops beating."""
        self._times_s[slot] = time.monotonic()
        loop.call_later(BEAT_S, self.beat_from_now_on, slot, loop)

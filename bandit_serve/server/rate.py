"""Rate of a tenant's requests: a token bucket in memory that all workers of a machine share."""

from __future__ import annotations

import contextlib
import fcntl
import time
from collections.abc import Iterator

NUMBER_BYTES = 8


class SharedNumber:
    """Number in memory that processes share, at the place `at` of the file `fd`; without a file, of this one alone."""

    def __init__(self, memory: memoryview[float], fd: int = -1, at: int = 0) -> None:
        self._memory = memory
        self._fd = fd
        self._at = at

    @property
    def value(self) -> float:
        return self._memory[0]

    @value.setter
    def value(self, value: float) -> None:
        self._memory[0] = value

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Context in which no other process has it: one that was stopped between its reading and its writing would undo
        what others had written.
        """
        if self._fd < 0:
            yield
            return
        fcntl.lockf(self._fd, fcntl.LOCK_EX, NUMBER_BYTES, self._at)
        try:
            yield
        finally:
            fcntl.lockf(self._fd, fcntl.LOCK_UN, NUMBER_BYTES, self._at)


class TokenBucket:
    """Bucket of `burst` tokens, which refills at `rate` a second.

    Its state is when it will be full again, by the machine's monotonic clock.
    """

    def __init__(self, full_at_s: SharedNumber, rate: float, burst: float) -> None:
        self._full_at_s = full_at_s
        self._rate = rate
        self._fills_in_s = burst / rate

    def take(self) -> float:
        """Takes one token; returns 0, or the seconds until there will be one."""
        with self._full_at_s.locked():
            now_s = time.monotonic()
            until_s = max(self._full_at_s.value, now_s) + 1.0 / self._rate
            wait_s = until_s - now_s - self._fills_in_s
            # Sums of many thirds do not end where they should.
            if wait_s <= 1e-9 / self._rate + 1e-9:
                self._full_at_s.value = until_s
                return 0.0
            return wait_s

    def owe(self, n_tokens: int) -> None:
        """Takes tokens that may not be there yet: the next have to wait for them."""
        with self._full_at_s.locked():
            self._full_at_s.value = max(self._full_at_s.value, time.monotonic()) + n_tokens / self._rate

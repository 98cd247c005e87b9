"""Outages of the store, as the last read and the last write have shown them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from bandit_serve.errors import StoreUnavailable
from bandit_serve.store.failures import OF_WRITES

Access = Literal["read", "write"]

UNKNOWN_AFTER_S = 10.0
"""Age of a failed write to a bucket after which nothing is known: perhaps nobody writes there any more."""


class _Failure(NamedTuple):
    error: StoreUnavailable
    failed_s: float


class Outages:
    """Present outages. The tail reads and the heartbeat writes all the time, so they are at most seconds old.

    In a cluster each bucket of keys has its own: `where` is its hash tag, and empty for the store as a whole.
    """

    def __init__(self) -> None:
        self._failures: dict[tuple[Access, str], _Failure] = {}
        self._listener: Callable[[Sequence[StoreUnavailable]], None] | None = None

    @property
    def now(self) -> list[StoreUnavailable]:
        """Present outages, one of each kind."""
        return list({failure.error.what: failure.error for failure in self._failures.values()}.values())

    @property
    def readable(self) -> bool:
        """Whether a read is likely to be answered."""
        return all(failure.error.what in OF_WRITES for failure in self._failures.values())

    @property
    def writes_fail(self) -> bool:
        """Whether a write has failed, and none is known to have succeeded since."""
        return any(access == "write" for access, _ in self._failures)

    def present(self, access: Access, where: str = "") -> StoreUnavailable | None:
        failure = self._failures.get((access, where))
        return None if failure is None else failure.error

    def on_change(self, listener: Callable[[Sequence[StoreUnavailable]], None]) -> None:
        """Has `listener(now)` called whenever an outage begins, ends or becomes another."""
        self._listener = listener

    def failed(self, access: Access, error: StoreUnavailable, where: str = "") -> None:
        """Records that a read or a write has failed."""
        before = self._failures.get((access, where))
        self._failures[access, where] = _Failure(error, time.monotonic())
        if before is None or before.error.what != error.what:
            self._notify()

    def passed(self, access: Access, where: str = "") -> None:
        """Records that a read or a write has succeeded. A bucket that can be read is not away for writes, either."""
        if not self._failures:
            return
        over = [(access, where)] if (access, where) in self._failures else []
        long_ago_s = time.monotonic() - UNKNOWN_AFTER_S
        for (failed, at), failure in self._failures.items():
            if failed != "write" or not at or (failed, at) == (access, where):
                continue
            if failure.failed_s < long_ago_s or (at == where and failure.error.what not in OF_WRITES):
                over.append((failed, at))
        for key in over:
            del self._failures[key]
        if over:
            self._notify()

    def _notify(self) -> None:
        if self._listener is not None:
            self._listener(self.now)

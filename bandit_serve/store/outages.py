"""Outages of the store, as the last read and the last write have shown them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from bandit_serve.errors import StoreUnavailable
from bandit_serve.store.failures import OF_WRITES

Access = Literal["read", "write"]


class Outages:
    """Present outages. The tail reads and the heartbeat writes all the time, so they are at most seconds old."""

    def __init__(self) -> None:
        self._by_access: dict[Access, StoreUnavailable] = {}
        self._listener: Callable[[Sequence[StoreUnavailable]], None] | None = None

    @property
    def now(self) -> list[StoreUnavailable]:
        """Present outages, one of each kind."""
        return list({error.what: error for error in self._by_access.values()}.values())

    @property
    def readable(self) -> bool:
        """Whether a read is likely to be answered."""
        return all(error.what in OF_WRITES for error in self._by_access.values())

    def on_change(self, listener: Callable[[Sequence[StoreUnavailable]], None]) -> None:
        """Has `listener(now)` called whenever an outage begins, ends or becomes another."""
        self._listener = listener

    def failed(self, access: Access, error: StoreUnavailable) -> None:
        """Records that a read or a write has failed."""
        before = self._by_access.get(access)
        self._by_access[access] = error
        if before is None or before.what != error.what:
            self._notify()

    def passed(self, access: Access) -> None:
        """Records that a read or a write has succeeded."""
        if access in self._by_access:
            del self._by_access[access]
            self._notify()

    def _notify(self) -> None:
        if self._listener is not None:
            self._listener(self.now)

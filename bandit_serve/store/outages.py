"""Why the store can not be read or written now, as the last try each way has shown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from bandit_serve.errors import StoreUnavailable
from bandit_serve.store.failures import OF_WRITES

Access = Literal["read", "write"]


class Outages:
    """Both ways are tried all the time, by the tail and by the heartbeat, so what stands here is true now."""

    def __init__(self) -> None:
        self._by_way: dict[Access, StoreUnavailable] = {}
        self._listener: Callable[[Sequence[StoreUnavailable]], None] | None = None

    @property
    def now(self) -> list[StoreUnavailable]:
        """One of each kind."""
        return list({error.what: error for error in self._by_way.values()}.values())

    @property
    def readable(self) -> bool:
        """Whether a read may be expected to be answered."""
        return all(error.what in OF_WRITES for error in self._by_way.values())

    def on_change(self, listener: Callable[[Sequence[StoreUnavailable]], None]) -> None:
        """`listener(now)` is called when an outage has begun, has become another, or is over."""
        self._listener = listener

    def failed(self, way: Access, error: StoreUnavailable) -> None:
        before = self._by_way.get(way)
        self._by_way[way] = error
        if before is None or before.what != error.what:
            self._tell()

    def passed(self, way: Access) -> None:
        if way in self._by_way:
            del self._by_way[way]
            self._tell()

    def _tell(self) -> None:
        if self._listener is not None:
            self._listener(self.now)

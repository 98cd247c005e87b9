"""Memory for models without live traffic, shared by all parts of a worker that have models."""

from __future__ import annotations

from typing import Protocol


class Holder(Protocol):
    """Part of a worker that has models in memory."""

    @property
    def idle_bytes(self) -> int:
        """Bytes of the models that may be evicted."""
        ...

    def evict_one(self) -> None:
        """Evicts the model that was unused for longest."""
        ...


class ModelMemory:
    """`max_bytes` for the idle models of all holders together.

    Over it, the holder with the most gives way. So one that has less than an equal part never does, and what some
    leave free the others may use.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._holders: list[Holder] = []

    def take_in(self, holder: Holder) -> None:
        self._holders.append(holder)

    def forget(self, holder: Holder) -> None:
        self._holders.remove(holder)

    def make_room(self) -> None:
        """Evicts models until the rest fits."""
        while True:
            sizes = [holder.idle_bytes for holder in self._holders]
            if sum(sizes) <= self._max_bytes or not any(sizes):
                return
            self._holders[sizes.index(max(sizes))].evict_one()

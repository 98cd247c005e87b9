"""Stub of the kernel `ext/server/counter_row.pyx`."""

from array import array

from typing_extensions import disjoint_base

@disjoint_base
class CounterRow:
    def __init__(
        self,
        row: memoryview[float],
        scalars: dict[str, int],
        routes: dict[str, int],
        appends: int,
        bounds: array[float],
    ) -> None: ...
    def add(self, scalar: str, amount: float = 1.0) -> None: ...
    def set(self, scalar: str, value: float) -> None: ...
    def request(self, route: str, status: int, seconds: float) -> None: ...
    def append(self, seconds: float) -> None: ...

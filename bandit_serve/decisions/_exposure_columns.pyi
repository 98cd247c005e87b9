"""Stub of the kernel `ext/decisions/exposure_columns.pyx`."""

import numpy as np
from numpy.typing import NDArray
from typing_extensions import disjoint_base

@disjoint_base
class ExposureColumns:
    first: int
    next: int
    time_ms: int
    revision: int
    def begin(self, time_ms: int, revision: int, most_rows: int) -> None: ...
    def begin_run(self, vector: NDArray[np.float64]) -> None: ...
    def takes(self, revision: int, time_ms: int) -> bool: ...
    def goes_on(self, vector: NDArray[np.float64], revision: int, time_ms: int) -> bool: ...
    def add_plain(
        self,
        arm: int,
        unit: int,
        vector: NDArray[np.float64],
        revision: int,
        time_ms: int,
        held_out: bool,
    ) -> bool: ...
    def add_row(self, arm: int, unit: int, time_ms: int, held_out: bool) -> None: ...
    def add_rows(
        self,
        arms: NDArray[np.uint16],
        units: NDArray[np.uint64],
        time_ms: int,
        held_out: NDArray[np.uint8] | None = None,
    ) -> None: ...
    @property
    def arms(self) -> bytes: ...
    @property
    def ages_ms(self) -> bytes: ...
    @property
    def units(self) -> bytes: ...
    @property
    def held_out(self) -> bytes: ...
    @property
    def runs(self) -> bytes: ...

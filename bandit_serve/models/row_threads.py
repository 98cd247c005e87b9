"""Threads that share the rows of a computation, in which a row comes out the same whoever computes it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")

# Multiplications below which threads cost more than they bring.
MIN_WORK = 4_000_000
# So that threads whose rows are heavier than others' do not keep all waiting.
PARTS_EACH = 8
# Rows that are summed on their own, whatever the number of threads: sums of sums depend on how rows are grouped.
ROWS_A_SUM = 4_096


def n_processors() -> int:
    """Processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class RowThreads:
    """Threads for one fit. `n_threads`: 1 or more."""

    def __init__(self, pool: ThreadPoolExecutor | None, n_threads: int) -> None:
        self._pool = pool
        self._n_threads = n_threads

    def each(self, n_rows: int, work: float, call: Callable[[int, int], object]) -> None:
        """Calls `call(begin, end)` for parts of the rows that make up all of them; `work`: multiplications in all."""
        if self._pool is None or work < MIN_WORK:
            call(0, n_rows)
            return
        step = max(1, -(-n_rows // (PARTS_EACH * self._n_threads)))
        begins = range(0, n_rows, step)
        for _ in self._pool.map(call, begins, (min(begin + step, n_rows) for begin in begins)):
            pass

    def sums(self, n_rows: int, call: Callable[[int, int], T]) -> Iterator[T]:
        """Results of `call(begin, end)` for groups of rows, which do not depend on the number of threads, in order."""
        begins = range(0, n_rows, ROWS_A_SUM)
        ends = [min(begin + ROWS_A_SUM, n_rows) for begin in begins]
        return map(call, begins, ends) if self._pool is None else self._pool.map(call, begins, ends)


@contextmanager
def row_threads(n_threads: int | None = None) -> Iterator[RowThreads]:
    """Threads, `n_threads` of them or one a processor, until the block ends."""
    n = n_processors() if n_threads is None else n_threads
    if n == 1:
        yield RowThreads(None, 1)
        return
    with ThreadPoolExecutor(n, "rows") as pool:
        yield RowThreads(pool, n)

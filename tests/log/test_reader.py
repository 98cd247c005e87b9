"""Pages of a log: all entries once, in order, and a word where some were trimmed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from bandit_serve.errors import UnreadableEntry
from bandit_serve.log.entry import Entry
from bandit_serve.log.events import TICK, Tick
from bandit_serve.log.offset import START, Offset
from bandit_serve.log.reader import LogPage, event_of, gap_behind, pages
from bandit_serve.log.repairs import LeftOut, Repaired, Repairs


def entry(number: int) -> Entry:
    return Entry(Offset(number, 0), TICK, b"")


class Log:
    """One in memory; `then` is called after each read, and may trim it."""

    def __init__(self, n: int, then: Callable[[Log], None] = lambda log: None) -> None:
        self.entries = [entry(number) for number in range(1, n + 1)]
        self.gone = START
        self.n_reads = 0
        self._then = then

    def trim(self, number: int) -> None:
        self.gone = Offset(number, 0)
        self.entries = [each for each in self.entries if each.offset > self.gone]

    async def read(self, owner: str, after: Offset, count: int) -> list[Entry]:
        read = [each for each in self.entries if each.offset > after][:count]
        self.n_reads += 1
        self._then(self)
        return read

    async def trimmed(self, owner: str) -> Offset:
        return self.gone


def read(log: Log, after: int = 0, through: int | None = None, count: int = 4) -> list[LogPage]:
    async def run() -> list[LogPage]:
        until = None if through is None else Offset(through, 0)
        return [page async for page in pages(log, "e", Offset(after, 0), until, count)]

    return asyncio.run(run())


def numbers(read: list[LogPage]) -> list[int]:
    return [each.offset.time_ms for page in read for each in page.entries]


@pytest.mark.parametrize("n", [0, 1, 3, 4, 5, 8, 11])
def test_every_entry_comes_once_in_order(n: int) -> None:
    pages_read = read(Log(n))
    assert numbers(pages_read) == list(range(1, n + 1))
    assert all(page.gap is None and 1 <= len(page.entries) <= 4 for page in pages_read)
    assert numbers(read(Log(n), after=2)) == list(range(3, n + 1))


@pytest.mark.parametrize("through", [0, 1, 4, 6, 11, 20])
def test_nothing_comes_behind_the_end_that_is_asked_for(through: int) -> None:
    log = Log(11)
    assert numbers(read(log, through=through)) == list(range(1, min(through, 11) + 1))
    if through == 0:
        assert log.n_reads == 0


def test_a_log_that_was_trimmed_before_says_so_once() -> None:
    log = Log(11)
    log.trim(5)
    pages_read = read(log)
    assert [page.gap for page in pages_read] == [Offset(5, 0), None]
    assert numbers(pages_read) == list(range(6, 12))
    assert [page.gap for page in read(log, after=5)] == [None, None]


def test_a_log_of_which_nothing_is_left_says_so() -> None:
    log = Log(11)
    log.trim(11)
    assert read(log) == [LogPage([], Offset(11, 0))]


def test_a_trim_behind_the_reader_is_no_gap_and_one_before_it_is() -> None:
    pages_read = read(Log(11, lambda log: log.trim(min(4 * log.n_reads - 1, 11))))
    assert [page.gap for page in pages_read] == [Offset(3, 0), Offset(7, 0), Offset(11, 0)]
    assert numbers(pages_read) == [4, 8], (
        "what was read of what was trimmed is not taken for all that there was"
    )
    pages_read = read(Log(11, lambda log: log.trim(min(4 * (log.n_reads - 1), 11))))
    assert numbers(pages_read) == list(range(1, 12))
    assert all(page.gap is None for page in pages_read)


def test_a_gap_lies_behind_a_place() -> None:
    log = Log(5)
    log.trim(3)
    for after, gap in [(0, 3), (2, 3), (3, None), (5, None)]:
        through = asyncio.run(gap_behind(log, "e", Offset(after, 0)))
        assert through == (None if gap is None else Offset(gap, 0))


def test_an_entry_is_an_event_or_left_out() -> None:
    repairs = Repairs()
    repairs.apply(Offset(9, 0), Repaired("e", "leave_out", "test", None, (("2-0", "3-0"),)))
    repairs.apply(Offset(10, 0), Repaired("e", "leave_out", "test", None, (("5-0", "5-0"),)))
    assert event_of(entry(1), "e", repairs, 0) == Tick()
    for number, met in ((2, 1), (3, 1), (5, 2)):
        event = event_of(Entry(Offset(number, 0), b"?", b"damaged"), "e", repairs, 0)
        assert isinstance(event, LeftOut)
        assert event.met == met
        assert event.omission.has(Offset(number, 0))
    assert event_of(entry(2), "f", repairs, 0) == Tick()
    with pytest.raises(UnreadableEntry):
        event_of(Entry(Offset(4, 0), b"?", b"damaged"), "e", repairs, 0)

"""Reader of logs: one loop over the pages of a log, and one way from an entry to its event."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import NamedTuple, Protocol

from bandit_serve.log.entry import Entry
from bandit_serve.log.events import Event, decode
from bandit_serve.log.offset import Offset
from bandit_serve.log.repairs import LeftOut, Repairs

READ_COUNT = 500


class LogSource(Protocol):
    """Part of a store's interface that reads logs."""

    async def read(self, owner: str, after: Offset, count: int) -> list[Entry]: ...

    async def trimmed(self, owner: str) -> Offset: ...


class LogPage(NamedTuple):
    """Consecutive entries. With `gap`, the log was trimmed through that offset, so entries before these are missing."""

    entries: list[Entry]
    gap: Offset | None = None


async def pages(
    source: LogSource, owner: str, after: Offset, through: Offset | None = None, count: int = READ_COUNT
) -> AsyncIterator[LogPage]:
    """Reads a log after `after`, up to and with `through`, by default to its end, in pages of at most `count` entries.

    After a page with a gap, reading goes on behind that gap.
    """
    while through is None or after < through:
        entries = await source.read(owner, after, count)
        gap = await gap_behind(source, owner, after)
        if gap is not None:
            entries = [entry for entry in entries if entry.offset > gap]
        if through is not None and entries and entries[-1].offset > through:
            entries = [entry for entry in entries if entry.offset <= through]
        if not entries and gap is None:
            return
        yield LogPage(entries, gap)
        after = entries[-1].offset if entries else gap or after


async def gap_behind(source: LogSource, owner: str, after: Offset) -> Offset | None:
    """Offset through which a log was trimmed, if that is past `after`; None if not.

    Ask after a read, before its entries are used: the trim may have come in between.
    """
    trimmed = await source.trimmed(owner)
    return trimmed if trimmed > after else None


def event_of(entry: Entry, owner: str, repairs: Repairs, n_features: int) -> Event | LeftOut:
    """Decodes an entry for a fold, or returns a `LeftOut` where a repair leaves it out.

    Raises `UnreadableEntry` as `events.decode` does.
    """
    omission = repairs.omission(owner, entry.offset)
    if omission is not None:
        return LeftOut(omission, repairs.omitted_before(owner, entry.offset))
    return decode(entry.kind, entry.data, n_features)

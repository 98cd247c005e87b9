"""Marks in the store of what was sent last of events that may wait for their exposure, for all workers to see.

A value that waits in one worker counts only while its own mark is the last one. Whoever sends another value that waits,
or takes the event back, leaves a mark before looking for the exposure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bandit_serve.base.shared_calls import SharedCalls
from bandit_serve.base.turns import Turn
from bandit_serve.log.times import UNMATCHED_MS
from bandit_serve.store.store import Store

MARK_MS = 2 * UNMATCHED_MS
"""Life of a mark: longer than what it marks waits."""
MARKS_A_CALL = 100
TAKEN_BACK = b"-"

EventOfUnit = tuple[int, int, int]
"""Hash of the unit, metric, and hash of the event's id."""


class LastSent:
    """Marks of the events of all experiments. Methods raise `StoreUnavailable`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._writes: SharedCalls[Mapping[str, bytes], None] = SharedCalls(
            self._write, "marks of what was sent last"
        )

    async def mark(self, owner: str, events: Sequence[EventOfUnit], marks: Sequence[bytes]) -> None:
        """Marks events of one experiment, each as `marks` say; of an event that is there twice the later one counts."""
        turn, key_of = Turn(), self._store.keys.last_sent
        for start in range(0, len(events), MARKS_A_CALL):
            some = slice(start, start + MARKS_A_CALL)
            marked = zip(events[some], marks[some], strict=True)
            await self._writes.ask(owner, {key_of(owner, *event): mark for event, mark in marked})
            if turn.over:
                await turn.give_way()

    async def _write(self, group: Sequence[Mapping[str, bytes]]) -> list[None]:
        marks: dict[str, bytes] = {}
        for some in group:
            marks |= some
        await self._store.write_marks(marks, MARK_MS)
        return [None] * len(group)

    async def read(self, owner: str, events: Sequence[EventOfUnit]) -> list[bytes | None]:
        """Marks of events of one experiment; None where there is none."""
        marks: list[bytes | None] = []
        for start in range(0, len(events), MARKS_A_CALL):
            some = events[start : start + MARKS_A_CALL]
            marks += await self._store.read_marks(
                [self._store.keys.last_sent(owner, *event) for event in some]
            )
        return marks

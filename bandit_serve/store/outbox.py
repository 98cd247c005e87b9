"""Outbox: notices that are still to be delivered, and under what names notices were told, so that each is told once.

Any worker puts notices in, the one with the lease delivers them. All writes may be made twice.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence

from bandit_serve.store import scripts
from bandit_serve.store.store import Store

MAX_NOTICES = 10_000
FOR_EVER = "+inf"
N_FIELDS = 200


class Outbox:
    """Notices as bytes, by id, at most `MAX_NOTICES`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def tell(self, told: str, id: str, notice: bytes, now_ms: int, until_ms: int | None) -> bool | None:
        """Puts a notice in, unless one was told under the name `told` and is not to be told again yet.

        until_ms: log time from which it may be told again; None for never. One that was told stays so until then at
        least. Returns whether it was put in; None where there is no room now.
        """
        keys = [self._store.keys.notices, self._store.keys.told]
        until = FOR_EVER if until_ms is None else str(until_ms)
        reply = await self._store.run(
            scripts.TELL_NOTICE, keys, [str(now_ms), told, until, MAX_NOTICES, id, notice]
        )
        return None if reply < 0 else bool(reply)

    async def some(self, cursor: int) -> tuple[int, dict[str, bytes]]:
        """Some notices that are to be delivered, by id; the cursor is 0 at the beginning, and again at the end."""
        cursor, fields = await self._store.scan_fields(self._store.keys.notices, cursor, N_FIELDS)
        pairs = zip(fields[::2], fields[1::2], strict=True)
        return cursor, {id.decode(): notice for id, notice in pairs}

    async def count(self) -> int:
        """Number of notices that are still to be delivered."""
        return await self._store.count_fields(self._store.keys.notices)

    async def change(self, id: str, notice: bytes | None) -> None:
        """Replaces a notice that is still there; takes it out with None."""
        await self._store.run(scripts.CHANGE_NOTICE, [self._store.keys.notices], [id, notice or b""])

    async def forget(self, before_ms: int) -> None:
        """Forgets what was told and may be told again since before a log time."""
        await self._store.forget_scores(self._store.keys.told, before_ms)

    async def told(self) -> AsyncIterator[list[tuple[str, float]]]:
        """Reads what was told, some names at a time, with the log time from which each may be told again."""
        cursor = 0
        while True:
            cursor, scored = await self._store.scan_scores(self._store.keys.told, cursor, N_FIELDS)
            yield [(name.decode(), score) for name, score in scored]
            if cursor == 0:
                return

    async def remember(self, names: Sequence[tuple[str, float]]) -> None:
        """Has these names told, as `told` gave them."""
        await self._store.set_scores(self._store.keys.told, dict(names))

    async def put_back(self, notices: Mapping[str, bytes]) -> None:
        """Has these notices delivered, by id, as `some` gave them."""
        await self._store.set_fields(self._store.keys.notices, notices)

    async def told_for_ever(self) -> list[str]:
        """Names of what is never told again."""
        return await self._store.endless_scores(self._store.keys.told)

    async def forget_at(self, told: str, until_ms: int) -> None:
        """Has `forget` forget a name from a log time on."""
        await self._store.set_score(self._store.keys.told, told, until_ms)

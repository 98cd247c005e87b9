"""XREAD of many logs, packed in turns.

redis-py packs a command in one piece, which takes it tens of milliseconds with the names of ten thousand logs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bandit_serve.base.turns import Turn
from bandit_serve.log.entry import Entry
from bandit_serve.log.offset import Offset
from bandit_serve.store.keys import Keys
from bandit_serve.store.news import raw_entries_of

MIN_KEPT = 1_000
"""Packed names that are kept, beside as many again as the last command had."""


class Xread:
    """XREAD on connections of a pool of redis-py's, one at a time. It keeps the packed names for the next one."""

    def __init__(self, pool: Any, keys: Keys) -> None:
        self._pool = pool
        self._key_of = keys.log
        self._names: dict[str, bytes] = {}
        self._owners: dict[bytes, str] = {}

    async def read(self, after: Mapping[str, Offset], count: int, block_ms: int) -> dict[str, list[Entry]]:
        """Up to `count` entries a log after each offset; waits up to `block_ms` for the first.

        Raises redis-py's errors.
        """
        command = await self._packed(after, count, block_ms)
        connection = await self._pool.get_connection()
        try:
            await connection.send_packed_command(command)
            reply = await connection.read_response()
        finally:
            await self._pool.release(connection)
        return {self._owners[key]: raw_entries_of(entries) for key, entries in reply or ()}

    async def _packed(self, after: Mapping[str, Offset], count: int, block_ms: int) -> list[bytes]:
        if len(self._names) > MIN_KEPT + 2 * len(after):
            self._names.clear()
            self._owners.clear()
        names, offsets, turn = [], [], Turn()
        for owner, offset in list(after.items()):
            names.append(self._names.get(owner) or self._name(owner))
            offsets.append(_bulk(b"%d-%d" % offset))
            if turn.over:
                await turn.give_way()
        words = (b"XREAD", b"COUNT", b"%d" % count, b"BLOCK", b"%d" % block_ms, b"STREAMS")
        head = b"*%d\r\n" % (len(words) + len(names) + len(offsets))
        return [head, *map(_bulk, words), b"".join(names), b"".join(offsets)]

    def _name(self, owner: str) -> bytes:
        key = self._key_of(owner).encode()
        self._owners[key] = owner
        self._names[owner] = name = _bulk(key)
        return name


def _bulk(text: bytes) -> bytes:
    """Bulk string of the store's protocol."""
    return b"$%d\r\n%b\r\n" % (len(text), text)

"""Lua scripts: operations that must happen in the store as a whole or not at all."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from redis.exceptions import NoScriptError

Argument = str | bytes | int


class Script:
    """Script from the `.lua` file of that name in this folder, preceded by the source in `front`."""

    def __init__(self, name: str, front: str = "") -> None:
        self.source = front + _text(name)
        self._sha = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()

    async def run(self, client: Any, keys: Sequence[str], arguments: Sequence[Argument]) -> Any:
        """Runs EVALSHA. A store that does not know the script, as after a restart, is sent its source."""
        try:
            return await client.execute_command("EVALSHA", self._sha, len(keys), *keys, *arguments)
        except NoScriptError:
            return await client.execute_command("EVAL", self.source, len(keys), *keys, *arguments)


def _text(name: str) -> str:
    return files(__package__).joinpath(f"{name}.lua").read_text()


APPENDING = _text("appending")
APPEND = Script("append", APPENDING)
COUNTING = APPENDING + _text("counting")
APPEND_REWARDS = Script("append_rewards", COUNTING)
APPEND_EVENTS = Script("append_events", COUNTING)
APPEND_CHANGE = Script("append_change", APPENDING)
APPEND_EXPOSURES = Script("append_exposures", APPENDING)
APPEND_DEMANDED = Script("append_demanded", APPENDING)
READ_CLOCK = Script("read_clock")
SWEEP = Script("sweep")
TRIM = Script("trim")
KEEP_SNAPSHOT = Script("keep_snapshot")
DROP_SNAPSHOTS = Script("drop_snapshots")
FIND_LOST = Script("find_lost")
HOLD_LEASE = Script("hold_lease")

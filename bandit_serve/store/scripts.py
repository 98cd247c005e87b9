"""The Lua scripts: what must happen in the store at once or not at all."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from redis.exceptions import NoScriptError

Argument = str | bytes | int


class Script:
    """A script by the name of its `.lua` file beside this module, with what has to be in `front` of it."""

    def __init__(self, name: str, front: str = "") -> None:
        self.source = front + _text(name)
        self._sha = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()

    async def run(self, client: Any, keys: Sequence[str], arguments: Sequence[Argument]) -> Any:
        """One EVALSHA; a store that was restarted and forgot the script is sent its source."""
        try:
            return await client.execute_command("EVALSHA", self._sha, len(keys), *keys, *arguments)
        except NoScriptError:
            return await client.execute_command("EVAL", self.source, len(keys), *keys, *arguments)


def _text(name: str) -> str:
    return files(__package__).joinpath(f"{name}.lua").read_text()


APPENDING = _text("appending")
APPEND = Script("append", APPENDING)
APPEND_REWARDS = Script("append_rewards", APPENDING)
APPEND_CHANGE = Script("append_change", APPENDING)
APPEND_EXPOSURES = Script("append_exposures", APPENDING)
READ_CLOCK = Script("read_clock")
SWEEP = Script("sweep")
TRIM = Script("trim")
KEEP_SNAPSHOT = Script("keep_snapshot")
DROP_SNAPSHOTS = Script("drop_snapshots")
FIND_LOST = Script("find_lost")
HOLD_LEASE = Script("hold_lease")

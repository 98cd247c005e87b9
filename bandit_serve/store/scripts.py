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

    def command(self, keys: Sequence[str], arguments: Sequence[Argument]) -> tuple[Argument, ...]:
        """EVALSHA, for a caller that sends it with others."""
        return ("EVALSHA", self._sha, len(keys), *keys, *arguments)

    async def run(self, client: Any, keys: Sequence[str], arguments: Sequence[Argument]) -> Any:
        """Runs EVALSHA. A store that does not know the script, as after a restart, is sent its source."""
        try:
            return await client.execute_command(*self.command(keys, arguments))
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
CONFIRM = Script("confirm")
SET_STRINGS = Script("set_strings")
READ_CLOCK = Script("read_clock")
SWEEP = Script("sweep")
TRIM = Script("trim")
KEEP_SNAPSHOT = Script("keep_snapshot")
KEEP_FILE = Script("keep_file")
DROP_SNAPSHOTS = Script("drop_snapshots")
FIND_LOST = Script("find_lost")
HOLD_LEASE = Script("hold_lease")
DROP_LEASE = Script("drop_lease")
READING_MARKS = _text("reading_marks")
READ_MARKS = Script("read_marks", READING_MARKS)
READ_ON = Script("read_on", READING_MARKS)
WRITE_ENTRIES = Script("write_entries")
WRITE_MARKS = Script("write_marks")
FINISH_LOG = Script("finish_log")
TELL_NOTICE = Script("tell_notice")
CHANGE_NOTICE = Script("change_notice")
MEASURE_LOG = Script("measure_log")
READ_BEGINNING = Script("read_beginning")

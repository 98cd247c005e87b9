"""Entries that no fold can read, each of another kind, as another build or a fault may leave them."""

from __future__ import annotations

from typing import NamedTuple

import msgspec
import numpy as np
from builders import exposed, revisions, rewards

from bandit_serve.log import events
from bandit_serve.log.entry import Entry


class BadEntry(NamedTuple):
    """Kind and data of an entry."""

    kind: bytes
    data: bytes


def later_change(entry: Entry) -> bytes:
    """Encodes the change of `entry` as a later build may: with one more field in its record."""
    change = msgspec.msgpack.decode(entry.data)
    change["record"]["experiment"]["forecast"] = {"name": "search", "share": 0.5}
    return msgspec.msgpack.encode(change)


BAD_ENTRIES: dict[str, BadEntry] = {
    "an unknown kind": BadEntry(b"z", b"\x80"),
    "no MessagePack where exposures are": BadEntry(events.EXPOSED, b"\xc1"),
    "another type where exposures are": BadEntry(events.EXPOSED, msgspec.msgpack.encode([1, "two", 3])),
    "exposures with a column more": BadEntry(
        events.EXPOSED, msgspec.msgpack.encode([*msgspec.to_builtins(exposed(0, [0, 1], [5, 6])), 1])
    ),
    "columns of unequal length": BadEntry(
        events.EXPOSED,
        events.encode(msgspec.structs.replace(exposed(0, [0, 1, 0], [5, 6, 7]), ages_ms=b"\0" * 8)),
    ),
    "exposures of an arm that never was": BadEntry(events.EXPOSED, events.encode(exposed(0, [0, 9], [5, 6]))),
    "half a reward": BadEntry(events.REWARDED, rewards([1, 2]).tobytes()[:-7]),
    "a reward of an arm that never was": BadEntry(events.REWARDED, rewards([1], arms=700).tobytes()),
    "a reward of a metric that never was": BadEntry(events.REWARDED, rewards([1], metric=200).tobytes()),
    "a reward that is no number": BadEntry(events.REWARDED, rewards([1], values=np.nan).tobytes()),
    "half a revision": BadEntry(events.REVISED, revisions([1], np.nan, 1.0).tobytes()[:-7]),
    "a revision of nothing": BadEntry(events.REVISED, revisions([1], np.nan, np.nan).tobytes()),
    "a change that is none": BadEntry(events.CHANGED, msgspec.msgpack.encode({"record": None})),
}

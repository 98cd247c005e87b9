"""Entries that a log can not be folded with: each of another kind, as another build or a fault may leave them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
import numpy as np
from makers import exposed, rewards

from bandit_serve.log import events
from bandit_serve.log.entry import Entry


class Poison(NamedTuple):
    kind: bytes
    data: bytes


def with_more(event: Any, **more: Any) -> bytes:
    """A struct as a later build may write it: with a field that this one does not know."""
    return msgspec.msgpack.encode({**msgspec.to_builtins(event), **more})


def later_change(entry: Entry) -> bytes:
    """The change of `entry` as a later build may write it: its record has a field more."""
    change = msgspec.msgpack.decode(entry.data)
    change["record"]["experiment"]["layer"] = {"name": "search", "share": 0.5}
    return msgspec.msgpack.encode(change)


POISONS: dict[str, Poison] = {
    "an unknown kind": Poison(b"z", b"\x80"),
    "no MessagePack where exposures are": Poison(events.EXPOSED, b"\xc1"),
    "another type where exposures are": Poison(events.EXPOSED, msgspec.msgpack.encode([1, "two", 3])),
    "exposures with a column more": Poison(
        events.EXPOSED, msgspec.msgpack.encode([*msgspec.to_builtins(exposed(0, [0, 1], [5, 6])), 1])
    ),
    "columns of unequal length": Poison(
        events.EXPOSED,
        events.encode(msgspec.structs.replace(exposed(0, [0, 1, 0], [5, 6, 7]), ages_ms=b"\0" * 8)),
    ),
    "exposures of an arm that never was": Poison(events.EXPOSED, events.encode(exposed(0, [0, 9], [5, 6]))),
    "half a reward": Poison(events.REWARDED, rewards([1, 2]).tobytes()[:-7]),
    "a reward of an arm that never was": Poison(events.REWARDED, rewards([1], arms=700).tobytes()),
    "a reward of a metric that never was": Poison(events.REWARDED, rewards([1], metric=200).tobytes()),
    "a reward that is no number": Poison(events.REWARDED, rewards([1], values=np.nan).tobytes()),
    "a change that is none": Poison(events.CHANGED, msgspec.msgpack.encode({"record": None})),
}

OF_A_LATER_BUILD: dict[str, Callable[[Entry], bytes]] = {"a change with a field more": later_change}

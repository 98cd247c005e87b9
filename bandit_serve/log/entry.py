"""Entry of a log, as the store holds it."""

from __future__ import annotations

from typing import NamedTuple

from bandit_serve.log.offset import Offset


class Entry(NamedTuple):
    """Entry at an offset: `kind` names the event, `data` is its wire form (`events.py`)."""

    offset: Offset
    kind: bytes
    data: bytes

"""News from other workers: log entries that are read before a request is refused."""

from __future__ import annotations

import contextlib

from bandit_serve.errors import Unavailable
from bandit_serve.replication.tail import Tail


async def read_news(tail: Tail, *owners: str) -> None:
    """Reads new entries of the owners' logs: another worker may know what this one does not.

    Nothing is raised, and nothing waited for, while the store is away.
    """
    for owner in owners:
        with contextlib.suppress(Unavailable):
            await tail.refresh(owner)

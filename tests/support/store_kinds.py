"""A running store of each kind, for tests that have to hold on all of them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from clusters import ThrowawayCluster
from sentinel_sets import ThrowawaySentinels
from stores import ThrowawayStore

KINDS: dict[str, Callable[[], Any]] = {
    "single": lambda: ThrowawayStore(appendfsync="no"),
    "sentinel": lambda: ThrowawaySentinels(appendfsync="no"),
    "cluster": lambda: ThrowawayCluster(appendfsync="no"),
}


@contextlib.contextmanager
def store_of(kind: str) -> Iterator[str]:
    """Yields the URL of a fresh store."""
    with KINDS[kind]() as running:
        yield running.url

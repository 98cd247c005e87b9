"""Access of a command to the store that its settings name, and to the state in it."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import socket
from collections.abc import AsyncIterator, Iterator

from bandit_serve.node import Node
from bandit_serve.settings import Settings
from bandit_serve.store import PrivateServer, parse_store_url


def store_name(settings: Settings) -> str:
    """Store that the settings mean, for a sentence."""
    if settings.store is None:
        return f"the private store of {settings.data_dir.absolute()}"
    return f"the store {parse_store_url(settings.store)}, namespace {settings.namespace}"


@contextlib.contextmanager
def store_url(settings: Settings) -> Iterator[str]:
    """Store that the settings name, or the data directory's own, which runs during the block."""
    if settings.store is not None:
        yield settings.store
        return
    with PrivateServer.start_or_adopt(settings.data_dir) as server:
        yield server.url


@contextlib.asynccontextmanager
async def connected(settings: Settings, url: str) -> AsyncIterator[Node]:
    """A node whose store may be used, and of which nothing is read yet. `StoreUnavailable` or `StoreRefused`."""
    node = Node(settings, url)
    try:
        await node.store.check()
        yield node
    finally:
        await node.store.close()


@contextlib.asynccontextmanager
async def following(settings: Settings, url: str) -> AsyncIterator[Node]:
    """A node that has the state as it is now, and follows the logs until the block ends."""
    async with connected(settings, url) as node:
        await node.tail.load()
        running = asyncio.create_task(node.tail.run())
        try:
            yield node
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


def actor() -> str:
    """Who is asking, for the history."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "unknown"
    return f"cli:{user}@{socket.gethostname()}"

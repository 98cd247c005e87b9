"""Access of commands to the store that their settings name, and to its state."""

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
    """Name of the store in the settings, for a sentence."""
    if settings.store is None:
        return f"the private store of {settings.data_dir.absolute()}"
    return f"the store {parse_store_url(settings.store)}, namespace {settings.namespace}"


@contextlib.contextmanager
def store_url(settings: Settings) -> Iterator[str]:
    """Yields the URL of the settings' store, or of the data directory's private one, which runs during the block."""
    if settings.store is not None:
        yield settings.store
        return
    with PrivateServer.start_or_adopt(settings.data_dir) as server:
        yield server.url


@contextlib.asynccontextmanager
async def connected(settings: Settings, url: str) -> AsyncIterator[Node]:
    """Yields a node with a usable store and nothing read. Raises `StoreUnavailable` or `StoreRefused`."""
    node = Node(settings, url)
    try:
        await node.store.check()
        yield node
    finally:
        await node.upstreams.close()
        await node.store.close()


@contextlib.asynccontextmanager
async def following(settings: Settings, url: str) -> AsyncIterator[Node]:
    """Yields a node that has loaded the state, and that follows the logs until the block ends."""
    async with connected(settings, url) as node:
        await node.tail.load()
        running = asyncio.create_task(node.tail.run())
        try:
            yield node
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


def actor() -> str:
    """Name of the user, for the history."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "unknown"
    return f"cli:{user}@{socket.gethostname()}"

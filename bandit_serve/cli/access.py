"""Access of commands to the store that their settings name, and to its state."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import socket
from collections.abc import AsyncIterator, Iterator

from bandit_serve.changes.models import require_name
from bandit_serve.errors import NotFound
from bandit_serve.node import Node
from bandit_serve.registry.tenants import settings_of
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
async def connected(settings: Settings, url: str, tenant: str | None = None) -> AsyncIterator[Node]:
    """Yields a node, of a tenant or of the service itself, with a usable store and nothing read.

    Raises `StoreUnavailable`, `StoreRefused`, and `NotFound` for a tenant that there is not.
    """
    node = await node_of(settings, url, tenant)
    try:
        await node.store.check()
        yield node
    finally:
        await node.upstreams.close()
        await node.store.close()


@contextlib.asynccontextmanager
async def following(settings: Settings, url: str, tenant: str | None = None) -> AsyncIterator[Node]:
    """Yields a node that has loaded the state, and that follows the logs until the block ends."""
    async with connected(settings, url, tenant) as node:
        await node.tail.load()
        running = asyncio.create_task(node.tail.run())
        try:
            yield node
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


async def node_of(settings: Settings, url: str, tenant: str | None) -> Node:
    """Makes the node of a tenant, or of the service itself. Raises `NotFound` for a tenant that there is not."""
    node = Node(settings, url)
    if tenant is None:
        return node
    try:
        await _require_tenant(node, tenant)
    finally:
        await node.store.close()
    return Node(settings_of(settings, tenant), url, settings.limits_of(tenant))


async def _require_tenant(node: Node, tenant: str) -> None:
    """Raises `NotFound` for a tenant that has no key, no limits and no data."""
    require_name("tenant", tenant)
    await node.store.check()
    keys = (await node.read_registry()).keys
    if tenant in node.settings.tenant_limits or any(key.tenant == tenant for key in keys.values()):
        return
    own = node.of_tenant(tenant)
    try:
        if await own.store.has_data():
            return
    finally:
        await own.store.close()
    raise NotFound(
        f"There is no tenant {tenant!r}; a tenant begins with its first key (keys create --tenant)."
    )


def actor() -> str:
    """Name of the user, for the history."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "unknown"
    return f"cli:{user}@{socket.gethostname()}"

"""Namespaces of a backup: that of the service, and those of its tenants."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from bandit_serve.node import Node


@contextlib.asynccontextmanager
async def node_beside(node: Node, tenant: str) -> AsyncIterator[Node]:
    """Yields the node of a tenant, over the connections of that of its service."""
    own = node.of_tenant(tenant)
    try:
        yield own
    finally:
        await own.upstreams.close()
        await own.store.close()

"""Gauges of a tenant say how its part of a worker is now, and nothing of one that has ended."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from stores import ThrowawayStore

from bandit_serve.node import Node
from bandit_serve.server.admission import Admission
from bandit_serve.server.authentication import Authentication
from bandit_serve.server.metrics import GAUGES, Counters
from bandit_serve.server.routes import ROUTE_LABELS
from bandit_serve.server.service import Service
from bandit_serve.server.site import Site, make_site
from bandit_serve.server.tenants import Tenants
from bandit_serve.settings import Settings


def test_a_tenant_s_gauges_go_with_its_part_of_the_worker(store: ThrowawayStore, tmp_path: Path) -> None:
    settings = Settings(data=str(tmp_path / "data"), store=store.url, tenants='{"shop": {}}')

    async def scenario(fd: int) -> None:
        node = Node(settings, store.url)
        service = Service(node, Counters(ROUTE_LABELS, n_slots=2, fd=fd))
        await service.load()
        service.start()
        admission = Admission(settings, loopback=True)
        authentication = Authentication(node.replica, node.store.clock.now_ms, required=False)

        def site_of(of: Service) -> Site:
            return make_site(of, admission, authentication, {})

        tenants = Tenants(service, site_of)
        try:
            await tenants.start()
            counters = service.tenants["shop"].counters
            for gauge in GAUGES:
                counters.set(gauge, 3.0)
            counters.add("decisions", 3.0)
        finally:
            await tenants.stop()
            await service.stop()
        assert [counters.total(gauge) for gauge in GAUGES] == [0.0] * len(GAUGES)
        assert counters.total("decisions") == 3.0

    with tempfile.TemporaryFile() as counters:
        asyncio.run(scenario(counters.fileno()))

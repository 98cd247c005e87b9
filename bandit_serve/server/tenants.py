"""Tenants of a worker: each with a key, or limits in the settings, has a site of its own while that is so.

One that can not be loaded, or whose log was lost, is loaded again and again, and nobody else notices.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from bandit_serve.base.log_fields import LOG_FIELDS
from bandit_serve.base.secrets import concealed
from bandit_serve.errors import NotBegun, StoreUnavailable, in_full
from bandit_serve.registry.api_keys import tenants_of
from bandit_serve.server.backoff import Backoff
from bandit_serve.server.ending import end
from bandit_serve.server.gate import RequestGate
from bandit_serve.server.service import Service, Tenancy
from bandit_serve.server.site import Site
from bandit_serve.server.tenant_slots import TenantSlots
from bandit_serve.settings import OF_ALL_TENANTS
from bandit_serve.store.keys import COMMON

log = logging.getLogger(__name__)

LOOK_S = 5.0
"""Time between two looks for keys that have expired."""
PATIENCE_S = 3.0
"""How long a request waits for its tenant to be loaded."""
LOADED_AT_ONCE = 4
STOP_S = 10.0
WELL_S = 60.0

MakeSite = Callable[[Service], Site]


class Tenants:
    """Sites of the tenants, by name.

    `sites` has those that are loaded, and is empty where there are no tenants.
    """

    def __init__(self, root: Service, make_site: MakeSite) -> None:
        self.sites: dict[str, Site] = {}
        self._root = root
        self._make_site = make_site
        self._slots = TenantSlots(root.counters)
        self._configured = frozenset(root.settings.tenant_limits) - {OF_ALL_TENANTS}
        self._kept: dict[str, _Kept] = {}
        self._loading = asyncio.Semaphore(LOADED_AT_ONCE)
        self._ending: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Begins with all tenants that there are, and returns when each was loaded or not for once."""
        self._root.node.replica.on_change(self._folded)
        self._follow()
        await asyncio.gather(*(kept.tried.wait() for kept in self._kept.values()))

    async def run(self) -> None:
        """Follows the tenants until cancelled: keys expire without an event."""
        while True:
            await asyncio.sleep(LOOK_S)
            self._follow()

    async def site(self, tenant: str) -> Site:
        """Site of a tenant. Raises `NotBegun` where its state is not loaded, and will not be at once."""
        site, kept = self.sites.get(tenant), self._kept.get(tenant)
        if site is None and kept is not None and not kept.tried.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE_S):
                    await kept.tried.wait()
            site = self.sites.get(tenant)
        if site is None:
            raise NotBegun("The first state is not loaded yet.")
        return site

    def drain(self) -> None:
        """Has every tenant's connections closed with their next answer."""
        for kept in self._kept.values():
            kept.drain()

    async def stop(self) -> None:
        """Ends all tenants' services."""
        for tenant in list(self._kept):
            self._end(tenant)
        await asyncio.gather(*self._ending)

    def _folded(self, owner: str) -> None:
        if owner == COMMON:
            self._follow()

    def _follow(self) -> None:
        keys, now_ms = self._root.node.replica.registry.keys, self._root.node.store.clock.now_ms()
        wanted = tenants_of(keys, now_ms) | self._configured
        for tenant in wanted - self._kept.keys():
            self._begin(tenant, wanted)
        for tenant in self._kept.keys() - wanted:
            self._end(tenant)

    def _begin(self, tenant: str, present: set[str]) -> None:
        kept = _Kept(tenant)
        self._kept[tenant] = kept
        kept.task = asyncio.create_task(self._keep(kept, present), name=f"tenant {tenant}")

    def _end(self, tenant: str) -> None:
        kept = self._kept.pop(tenant)
        ending = asyncio.create_task(self._stop_one(kept), name=f"end of tenant {tenant}")
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)

    async def _stop_one(self, kept: _Kept) -> None:
        kept.drain()
        kept.over.set()
        assert kept.task is not None
        await asyncio.wait({kept.task}, timeout=STOP_S)
        await end([kept.task])
        kept.tried.set()

    async def _keep(self, kept: _Kept, present: set[str]) -> None:
        """Serves one tenant until cancelled, again from the beginning whenever that fails.

        All that its tasks log has its name.
        """
        LOG_FIELDS.set({"tenant": kept.tenant})
        backoff, loop = Backoff(), asyncio.get_running_loop()
        while not kept.over.is_set():
            began_s = loop.time()
            try:
                await self._serve(kept, present)
            except StoreUnavailable as error:
                log.warning("the tenant %s is not loaded: %s", kept.tenant, in_full(error))
            except Exception as error:  # whatever a log, a disk or a setting can cause
                log.error("the tenant %s failed: %s", kept.tenant, concealed(in_full(error)), exc_info=error)
            kept.tried.set()
            if loop.time() - began_s >= WELL_S:
                backoff.ran_well()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(backoff.failed()):
                    await kept.over.wait()

    async def _serve(self, kept: _Kept, present: set[str]) -> None:
        """Loads a tenant's state and serves it, until that is over or its service can not go on."""
        root, tenant = self._root, kept.tenant
        slot = self._slots.claim(tenant, present | self._kept.keys())
        node = root.node.of_tenant(tenant)
        ended: list[asyncio.Task[None]] = []

        def leave(task: asyncio.Task[None]) -> None:
            ended.append(task)
            failed.set()

        failed = asyncio.Event()
        gate = RequestGate(node.limits, slot.bucket, slot.counters)
        service = Service(node, slot.counters, Tenancy(tenant, root, gate, leave))
        try:
            async with self._loading:
                if not await _unless(kept.over, _load(service)):
                    return
                service.start()
            kept.service = service
            if root.draining:
                kept.drain()
            self.sites[tenant] = self._make_site(service)
            root.tenants[tenant] = service
            kept.tried.set()
            await _unless(kept.over, failed.wait())
            for task in ended:
                task.result()
        finally:
            self.sites.pop(tenant, None)
            root.tenants.pop(tenant, None)
            kept.service = None
            # Whoever follows one of its pages is not to follow it for ever.
            service.draining = True
            gate.open()
            await _stop(service)
            slot.counters.leave()


class _Kept:
    """Tenant that is to be served. `tried` is set when it was loaded, or not, for once; `over` when it goes."""

    def __init__(self, tenant: str) -> None:
        self.tenant = tenant
        self.tried = asyncio.Event()
        self.over = asyncio.Event()
        self.task: asyncio.Task[None] | None = None
        self.service: Service | None = None

    def drain(self) -> None:
        if self.service is not None:
            self.service.draining = True
            if self.service.gate is not None:
                self.service.gate.open()


async def _unless(over: asyncio.Event, work: Coroutine[Any, Any, Any]) -> bool:
    """Awaits work, which is cancelled when something is over; returns whether it was done."""
    working, waiting = asyncio.create_task(work), asyncio.create_task(over.wait())
    try:
        await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            return False
        working.result()
        return True
    finally:
        await end([working, waiting])


async def _load(service: Service) -> None:
    try:
        await service.load()
    except StoreUnavailable:
        if not await service.load_without_store():
            raise


async def _stop(service: Service) -> None:
    """Ends a service, and what it had opened when it was not even loaded."""
    if service.ready:
        await service.stop()
        return
    await service.tasks.end()
    await service.node.models.close()
    await service.node.upstreams.close()
    service.local.close()
    await service.node.store.close()

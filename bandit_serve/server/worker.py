"""Worker process: loads the state, accepts and answers, and leaves without dropping a request.

The supervisor forks it. So workers share the memory of what is imported, and one that follows another serves in a
fraction of a second.
"""

from __future__ import annotations

import asyncio
import faulthandler
import functools
import gc
import logging
import math
import os
import socket
import sys
from typing import Any

import uvloop
from aiohttp import web

from bandit_serve.base.process_log import log_to_stderr
from bandit_serve.base.turns import HANDOVER_S
from bandit_serve.errors import StoreRefused, StoreUnavailable, UsageError, in_full
from bandit_serve.node import Node
from bandit_serve.processes.parent import end_with_parent
from bandit_serve.server.access_log import AccessLog
from bandit_serve.server.admission import Admission, is_loopback
from bandit_serve.server.app import make_app
from bandit_serve.server.assignment import (
    DRAINING,
    READY,
    SAID_EVERY_S,
    SAY_STACKS,
    Assignment,
    ending_signals,
    store_advice,
)
from bandit_serve.server.authentication import Authentication
from bandit_serve.server.beats import Beats
from bandit_serve.server.certificate import FollowedCertificate, certificate_files
from bandit_serve.server.connection import Connection
from bandit_serve.server.connections import Connections, raise_file_limit
from bandit_serve.server.ending import end
from bandit_serve.server.entrance import Connect, Entrance, PlainEntrance, SecureEntrance
from bandit_serve.server.lane import Lane, LaneProtocol
from bandit_serve.server.metrics import Counters
from bandit_serve.server.openapi import document
from bandit_serve.server.routes import ROUTE_LABELS, ROUTES
from bandit_serve.server.service import Service
from bandit_serve.server.site import Site, make_site
from bandit_serve.server.tenants import Tenants
from bandit_serve.server.tracing import Tracing
from bandit_serve.store.failures import READ_ONLY

log = logging.getLogger(__name__)

LOAD_RETRY_S = 0.2
LOAD_QUIETLY_S = 3.0
MAX_LAST_ACCEPTS = 4_096
# How long the rest of a body that was refused is still read, so that its sender gets to read why.
LINGER_S = 1.0
COLLECTED_AT = 10_000
# How long a worker waits for its tenants before it says that it is ready; later ones answer 503 until they are loaded.
TENANTS_S = 10.0


class Worker:
    def __init__(self, assignment: Assignment) -> None:
        self._assignment = assignment
        self._settings = assignment.settings
        self._listener = socket.socket(fileno=assignment.listen_fd)
        self._beats = Beats(assignment.n_slots, assignment.beats_fd)
        counters = Counters(
            ROUTE_LABELS, n_slots=assignment.n_slots, slot=assignment.slot, fd=assignment.counters_fd
        )
        self._service = Service(Node(assignment.settings, assignment.store_url), counters)
        self._connections = Connections(assignment.settings, raise_file_limit(), counters)
        collector = assignment.collector
        self._tracing = None if collector is None else Tracing(collector, counters)
        self._certificate = self._followed_certificate(counters)
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        self._beats.beat_from_now_on(self._assignment.slot, loop)
        for number in ending_signals():
            loop.add_signal_handler(number, self._stopping.set)
        stopping = asyncio.create_task(self._stopping.wait())
        if not await self._is_certified(stopping):
            return
        loopback = is_loopback(str(self._listener.getsockname()[0]))
        admission = Admission(self._settings, loopback=loopback)
        if admission.proxies:
            self._service.tasks.repeated("look_up_of_proxies", admission.proxies.run)
        node = self._service.node
        authentication = Authentication(
            node.replica, node.store.clock.now_ms, required=not (loopback or self._settings.insecure)
        )
        description = document(ROUTES)

        def site_of(service: Service) -> Site:
            return make_site(service, admission, authentication, description, self._tracing)

        own = site_of(self._service)
        self._tenants = Tenants(self._service, site_of)
        own.lane.sites = self._tenants.sites
        app = make_app(own, self._tenants, admission, authentication, self._tracing)
        if self._tracing is not None:
            self._tracing.start()
        runner = web.AppRunner(
            app,
            handle_signals=False,
            shutdown_timeout=self._settings.seconds("drain"),
        )
        await runner.setup()
        loading = asyncio.create_task(self._load())
        await asyncio.wait({loading, stopping}, timeout=LOAD_QUIETLY_S, return_when=asyncio.FIRST_COMPLETED)
        # While the store is away at the start, callers are told so instead of waiting in the socket's queue.
        entrance = self._entrance(self._connection_factory(runner, own.lane))
        self._connections.review()
        await entrance.open(self._listener)
        await asyncio.wait({loading, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if loading.done():
            loading.result()
            self._service.start()
            await self._begin_with_tenants(stopping)
            say_lack_of_keys = functools.partial(authentication.say_lack_of_keys, node.troubles)
            self._service.tasks.repeated("look_for_keys", say_lack_of_keys)
            self._tell(READY)
            await stopping
        await self._leave(runner, entrance)
        await end([loading])

    def _followed_certificate(self, counters: Counters) -> FollowedCertificate | None:
        files = certificate_files(self._settings)
        if files is None:
            return None
        tell = functools.partial(counters.set, "tls_expiry_s")
        return FollowedCertificate(files, self._service.node.troubles, tell)

    def _connection_factory(self, runner: web.AppRunner, lane: Lane) -> Connect:
        """Makes connections: with a lane, or plain where every request goes into the access log."""
        server = runner.server
        assert server is not None
        options: dict[str, Any] = {
            "loop": asyncio.get_running_loop(),
            "keepalive_timeout": self._settings.seconds("keepalive_timeout"),
            "lingering_time": LINGER_S,
        }
        if self._settings.access_log:
            access_log = logging.getLogger("bandit_serve.access")
            options |= {"access_log": access_log, "access_log_class": AccessLog}
            return lambda: Connection(self._connections, server, **options)
        return lambda: LaneProtocol(lane, self._connections, server, access_log=None, **options)

    async def _is_certified(self, stopping: asyncio.Task[Any]) -> bool:
        """Waits for the certificate where the settings name one; False if the worker is to stop before there is one."""
        if self._certificate is None:
            return True
        loading = asyncio.create_task(self._certificate.load())
        await asyncio.wait({loading, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not loading.done():
            await end([loading])
            return False
        loading.result()
        self._service.tasks.repeated("certificate", self._certificate.follow)
        return True

    def _entrance(self, connect: Connect) -> Entrance:
        if self._certificate is None:
            return PlainEntrance(connect)
        patience_s = self._settings.seconds("header_timeout")
        return SecureEntrance(connect, self._connections, self._certificate, patience_s)

    async def _load(self) -> None:
        """Returns when decisions can be served, from the store's state or, in an outage, from this host's files."""
        loop, settings, quiet_s = asyncio.get_running_loop(), self._settings, self._assignment.quiet_s
        # Where this worker is to be quiet for a while, the store was missing a moment ago.
        waited, says_at_s = bool(quiet_s), math.inf if quiet_s is None else loop.time() + quiet_s
        while True:
            try:
                await self._service.load()
                if waited and quiet_s is not None:
                    log.warning("the store is back")
                return
            except StoreUnavailable as error:
                if isinstance(error, StoreRefused) and error.what != READ_ONLY:
                    raise
                waited = True
                if loop.time() >= says_at_s:
                    says_at_s = loop.time() + SAID_EVERY_S
                    log.warning("waiting for the store: %s %s", in_full(error), store_advice(settings))
                if await self._service.load_without_store():
                    return
                await asyncio.sleep(LOAD_RETRY_S)

    async def _begin_with_tenants(self, stopping: asyncio.Task[Any]) -> None:
        """Returns when the tenants are loaded, or will take longer."""
        beginning = asyncio.create_task(self._tenants.start())
        await asyncio.wait({beginning, stopping}, timeout=TENANTS_S, return_when=asyncio.FIRST_COMPLETED)
        self._service.tasks.repeated("look_at_tenants", self._tenants.run)

    async def _leave(self, runner: web.AppRunner, entrance: Entrance) -> None:
        """Leaves: stops accepting, answers all accepted requests, flushes."""
        self._service.draining = True
        self._tenants.drain()
        self._tell(DRAINING)
        entrance.close()
        await self._accept_the_last(entrance)
        self._listener.close()
        await self._until_idle()
        await runner.cleanup()
        await self._tenants.stop()
        if self._service.ready:
            await self._service.stop()
        if self._tracing is not None:
            await asyncio.to_thread(self._tracing.stop)
        self._service.counters.leave()

    async def _accept_the_last(self, entrance: Entrance) -> None:
        """Accepts all connections in the socket's queue, which would be reset when its last owner closes it."""
        self._listener.setblocking(False)
        for _ in range(MAX_LAST_ACCEPTS):
            try:
                connection, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                continue
            connection.setblocking(False)
            await entrance.admit(connection)

    async def _until_idle(self) -> None:
        """Waits until each kept connection has sent a last request, whose answer closes it, or stays silent."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + self._settings.seconds("idle_grace")
        while len(self._connections) and loop.time() < until_s:
            await asyncio.sleep(0.01)

    def _tell(self, status: bytes) -> None:
        try:
            os.write(self._assignment.status_fd, status)
        except BrokenPipeError:
            self._stopping.set()


def collect_less() -> None:
    """Makes Python's garbage collector run seldom, and never through imported modules.

    Rewards that wait for their append are many objects at a time. With Python's default threshold of 700, each burst
    would be searched repeatedly, at a quarter of the cost of a reward. A search of 10,000 objects takes a seventh of a
    millisecond. What is frozen before a fork also stays shared, as the collector writes into what it searches.
    """
    gc.freeze()
    gc.set_threshold(COLLECTED_AT)


def run_worker(assignment: Assignment) -> None:
    """Runs a worker until it is told to leave, in a process of its own."""
    end_with_parent(assignment.parent)
    faulthandler.register(SAY_STACKS, file=assignment.stacks_fd, all_threads=True)
    settings = assignment.settings
    log_to_stderr(f"worker {os.getpid()}", settings.log_level, settings.log_format)
    sys.setswitchinterval(HANDOVER_S)
    try:
        uvloop.run(_run(assignment))
    except (StoreRefused, UsageError) as error:
        log.critical("%s", in_full(error))
        sys.exit(1)


async def _run(assignment: Assignment) -> None:
    await Worker(assignment).run()

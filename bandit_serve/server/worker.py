"""Worker process: loads the state, accepts and answers, and leaves without dropping a request.

The supervisor forks it. So workers share the memory of what is imported, and one that follows another serves in a
fraction of a second.
"""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import logging
import math
import os
import socket
import sys
from collections.abc import Callable
from typing import Any

import uvloop
from aiohttp import web

from bandit_serve.base.process_log import log_to_stderr
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
from bandit_serve.server.connection import Connection
from bandit_serve.server.connections import Connections, raise_file_limit
from bandit_serve.server.ending import end
from bandit_serve.server.lane import Lane, LaneProtocol
from bandit_serve.server.listening import BACKLOG
from bandit_serve.server.metrics import Counters
from bandit_serve.server.routes import ROUTE_LABELS
from bandit_serve.server.service import Service
from bandit_serve.store.failures import READ_ONLY

log = logging.getLogger(__name__)

ProtocolFactory = Callable[[], asyncio.Protocol]

LOAD_RETRY_S = 0.2
LOAD_QUIETLY_S = 3.0
MAX_LAST_ACCEPTS = 4_096
# How long the rest of a body that was refused is still read, so that its sender gets to read why.
LINGER_S = 1.0
COLLECTED_AT = 10_000


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
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        self._beats.beat_from_now_on(self._assignment.slot, loop)
        for number in ending_signals():
            loop.add_signal_handler(number, self._stopping.set)
        loopback = is_loopback(str(self._listener.getsockname()[0]))
        admission = Admission(self._settings, loopback=loopback)
        node = self._service.node
        authentication = Authentication(
            node.replica, node.store.clock.now_ms, required=not (loopback or self._settings.insecure)
        )
        app, lane = make_app(self._service, admission, authentication)
        runner = web.AppRunner(
            app,
            handle_signals=False,
            shutdown_timeout=self._settings.seconds("drain"),
        )
        await runner.setup()
        loading = asyncio.create_task(self._load())
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait({loading, stopping}, timeout=LOAD_QUIETLY_S, return_when=asyncio.FIRST_COMPLETED)
        # While the store is away at the start, callers are told so instead of waiting in the socket's queue.
        connect = self._protocol_factory(runner, lane)
        self._connections.review()
        server = await loop.create_server(connect, sock=self._listener.dup(), backlog=BACKLOG)
        await asyncio.wait({loading, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if loading.done():
            loading.result()
            self._service.start()
            self._tell(READY)
            await stopping
        await self._leave(runner, server, connect)
        await end([loading])

    def _protocol_factory(self, runner: web.AppRunner, lane: Lane) -> ProtocolFactory:
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

    async def _leave(
        self, runner: web.AppRunner, server: asyncio.AbstractServer, connect: ProtocolFactory
    ) -> None:
        """Leaves: stops accepting, answers all accepted requests, flushes."""
        self._service.draining = True
        self._tell(DRAINING)
        server.close()
        await self._accept_the_last(connect)
        self._listener.close()
        await self._until_idle(runner)
        await runner.cleanup()
        if self._service.ready:
            await self._service.stop()

    async def _accept_the_last(self, connect: ProtocolFactory) -> None:
        """Accepts all connections in the socket's queue, which would be reset when its last owner closes it."""
        loop = asyncio.get_running_loop()
        self._listener.setblocking(False)
        for _ in range(MAX_LAST_ACCEPTS):
            try:
                connection, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                continue
            connection.setblocking(False)
            await loop.connect_accepted_socket(connect, connection)

    async def _until_idle(self, runner: web.AppRunner) -> None:
        """Waits until each kept connection has sent a last request, whose answer closes it, or stays silent."""
        assert runner.server is not None
        loop = asyncio.get_running_loop()
        until_s = loop.time() + self._settings.seconds("idle_grace")
        while runner.server.connections and loop.time() < until_s:
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
    faulthandler.register(SAY_STACKS, all_threads=True)
    settings = assignment.settings
    log_to_stderr(f"worker {os.getpid()}", settings.log_level, settings.log_format)
    try:
        uvloop.run(_run(assignment))
    except (StoreRefused, UsageError) as error:
        log.critical("%s", in_full(error))
        sys.exit(1)


async def _run(assignment: Assignment) -> None:
    await Worker(assignment).run()

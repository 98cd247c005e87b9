"""Supervisor of the workers: binds the socket once and keeps the store and the workers alive."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import select
import signal
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import FrameType
from typing import BinaryIO, cast

from bandit_serve.base.build import build
from bandit_serve.base.private_files import own_folder
from bandit_serve.base.process_log import STACKS
from bandit_serve.base.secrets import concealed
from bandit_serve.base.terminal import print_line
from bandit_serve.deployments.bundle import register_bundle
from bandit_serve.errors import BanditServeError, StoreRefused, StoreUnavailable, in_full
from bandit_serve.node import Node
from bandit_serve.processes.forked import ForkedProcess
from bandit_serve.replication.local_snapshots import LocalSnapshots
from bandit_serve.server.assignment import (
    DRAINING,
    ENDING_SIGNALS,
    READY,
    SAID_EVERY_S,
    SAY_STACKS,
    Assignment,
    ending_signals,
    store_advice,
)
from bandit_serve.server.backoff import Backoff
from bandit_serve.server.beats import Beats
from bandit_serve.server.certificate import Certificate, certificate_files
from bandit_serve.server.companions import Companions
from bandit_serve.server.listening import bind, is_reachable_by_others, require_keys, turn_away
from bandit_serve.server.tracing import collector_of
from bandit_serve.server.worker import collect_less, run_worker
from bandit_serve.settings import Settings
from bandit_serve.store import PrivateServer
from bandit_serve.store.failures import READ_ONLY
from bandit_serve.store.survey import Survey

log = logging.getLogger(__name__)

POLL_S = 0.1
QUICK_DEATH_S = 2.0
RESTART_PAUSE_S = 0.5
KILL_AFTER_S = 5.0
# A stalled worker has so long to say where it is.
STACKS_S = 1.0
OVERSLEPT_S = 5.0
MAX_STACKS_BYTES = 256 * 1024
# A worker that turns no loop yet.
FIRST_BEAT_S = 60.0
# Before each new attempt to register the model of an image, while the store is slow or away.
BUNDLE_PAUSES_S = (0.5, 1.0, 2.0, 5.0)
# Between two starts of a private store that ended; from the first again once it ran for longer than the last.
STORE_PAUSES_S = (0.0, 0.0, 0.5, 1.0, 2.0, 5.0, 10.0)


class _Child:
    """Worker process, its slot in the shared memory, and the pipe for its status."""

    def __init__(self, process: ForkedProcess, slot: int, status_fd: int, stacks: BinaryIO) -> None:
        self.process = process
        self.slot = slot
        self.status_fd = status_fd
        self._stacks = stacks
        self.started_s = time.monotonic()
        self.ready = False
        self.draining = False
        self.kill_at_s: float | None = None

    def stacks(self) -> str:
        """Stacks that it has written, when it was asked for them; empty if it could not."""
        self._stacks.seek(0)
        return self._stacks.read(MAX_STACKS_BYTES).decode(errors="replace").rstrip()

    def close(self) -> None:
        os.close(self.status_fd)
        self._stacks.close()

    def listen(self) -> None:
        with contextlib.suppress(BlockingIOError):
            for status in os.read(self.status_fd, 64):
                if status == READY[0]:
                    self.ready = True
                elif status == DRAINING[0]:
                    self.draining = True


class Supervisor:
    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._children: list[_Child] = []
        self._private: PrivateServer | None = None
        self._stopping = False
        self._announced = False
        self._restart_at_s = 0.0
        self._failed_s = -math.inf
        self._store_missing = False
        # None: nobody knows yet, and workers ask for keys wherever others can reach them.
        self._has_keys: bool | None = None
        self._backoff = Backoff()
        self._looked_s = self._watching_since_s = time.monotonic()
        self._store_at_s = 0.0
        self._store_backoff = Backoff(STORE_PAUSES_S)
        self._n_slots = 2 * settings.workers

    def run(self) -> int:
        """Serves until SIGTERM, SIGINT or SIGHUP; returns the exit status."""
        settings = self._settings
        by_others = is_reachable_by_others(settings.host)
        if (files := certificate_files(settings)) is not None:
            Certificate.load(files)
        self._collector = collector_of(settings)
        own_folder(settings.data_dir)
        listener = bind(settings.host, settings.port)
        try:
            self._store_url = self._find_store()
            facts = self._check_store()
            if by_others and not settings.insecure and self._has_keys is False:
                require_keys(settings.host)
            with (
                tempfile.TemporaryFile() as counters,
                tempfile.TemporaryFile() as beats,
                _wakeup() as wakeup,
            ):
                self._listener, self._counters_fd = listener, counters.fileno()
                self._beats_fd = beats.fileno()
                self._beats = Beats(self._n_slots, self._beats_fd)
                self._companions = Companions(settings, self._store_url)
                # The name of what is imported now, whatever an upgrade writes over it while this runs.
                build()
                collect_less()
                while not self._stopping:
                    self._keep_workers()
                    self._end_stalled()
                    self._keep_store()
                    self._announce(facts)
                    if self._announced:
                        self._companions.keep()
                    self._wait(wakeup)
                    if self._lost_for_good():
                        return 1
                return self._stop(wakeup)
        finally:
            listener.close()
            if self._private is not None:
                self._private.stop()

    def _find_store(self) -> str:
        settings = self._settings
        if settings.store is not None:
            return settings.store
        self._private = PrivateServer.start_or_adopt(settings.data_dir)
        return self._private.url

    def _check_store(self) -> Survey | None:
        """Refuses an unfit store before any worker starts; waits for one that is away.

        A replica is refused on a host that never worked with this store. On others it may be in the middle of a
        failover.
        """

        async def check() -> Survey:
            node = Node(self._settings, self._store_url)
            try:
                facts = await node.store.check()
                if self._settings.bundle is not None:
                    await _register_bundle(node, self._settings.bundle)
                self._has_keys = await _has_keys(node)
                return facts
            finally:
                await node.store.close()

        settings, pauses_s = self._settings, list(BUNDLE_PAUSES_S)
        while True:
            try:
                return asyncio.run(check())
            except StoreUnavailable as error:
                known = LocalSnapshots(settings.data_dir, settings.namespace).exist()
                if isinstance(error, StoreRefused) and not (error.what == READ_ONLY and known):
                    raise
                if settings.bundle is not None and not pauses_s:
                    # Whoever restarts an image that serves a model does so until the store is back.
                    raise
                log.warning("waiting for the store: %s %s", in_full(error), store_advice(settings))
                if settings.bundle is None:
                    self._store_missing = True
                    return None
            time.sleep(pauses_s.pop(0))

    def _keep_workers(self) -> None:
        for child in list(self._children):
            child.listen()
            status = child.process.poll()
            if status is not None:
                self._bury(child, status)
        serving = [child for child in self._children if not child.draining]
        # A slot that a draining worker still has is free again when it has left.
        for _ in range(min(self._settings.workers - len(serving), self._n_slots - len(self._children))):
            if time.monotonic() >= self._restart_at_s:
                self._spawn()

    def _bury(self, child: _Child, status: int) -> None:
        """Removes a worker that has ended. If it ended before it was ready, or soon after, the next start waits longer.

        Workers that started before the last failure share its cause, and so do not lengthen the pause again.
        """
        self._children.remove(child)
        child.close()
        now_s = time.monotonic()
        quick = now_s - child.started_s < QUICK_DEATH_S
        if child.ready and not quick:
            self._backoff.ran_well()
        elif child.ready and (status <= 0 or child.draining):
            self._restart_at_s = max(self._restart_at_s, now_s + RESTART_PAUSE_S)
        elif child.started_s >= self._failed_s:
            self._put_off(now_s)
        if not child.draining:
            pause_s = max(self._restart_at_s - now_s, 0.0)
            when = f"in {pause_s:g} s" if pause_s else "now"
            log.warning("worker %d ended with status %d; another starts %s", child.process.pid, status, when)

    def _put_off(self, now_s: float) -> None:
        """Has the next start wait longer than after the last failure."""
        self._failed_s = now_s
        self._restart_at_s = max(self._restart_at_s, now_s + self._backoff.failed())

    def _end_stalled(self) -> None:
        """Kills workers whose event loop stands still, after they have logged their stacks."""
        now_s = time.monotonic()
        if now_s - self._looked_s > OVERSLEPT_S:
            # This process stood still itself, and perhaps all of them did.
            self._watching_since_s = now_s
        self._looked_s = now_s
        stall_s = self._settings.seconds("stall_timeout")
        for child in self._children:
            beat_s = self._beats.last_s(child.slot)
            last_s = max(beat_s, child.started_s, self._watching_since_s)
            allowed_s = stall_s if beat_s > child.started_s else max(stall_s, FIRST_BEAT_S)
            if child.kill_at_s is None and now_s - last_s > allowed_s:
                log.error("worker %d has not turned for %g s and is ended", child.process.pid, now_s - last_s)
                child.process.send_signal(SAY_STACKS)
                child.kill_at_s = now_s + STACKS_S
            elif child.kill_at_s is not None and now_s >= child.kill_at_s:
                if stacks := child.stacks():
                    log.error("worker %d stood here", child.process.pid, extra={STACKS: stacks})
                child.process.send_signal(signal.SIGKILL)
                child.kill_at_s = math.inf

    def _lost_for_good(self) -> bool:
        """Whether all first workers ended before one was ready: then restarts do not help."""
        return not self._announced and not self._children and self._restart_at_s > time.monotonic()

    def _spawn(self) -> None:
        taken = {child.slot for child in self._children}
        slot = next(slot for slot in range(self._n_slots) if slot not in taken)
        status_read, status_write = os.pipe()
        os.set_blocking(status_read, False)
        stacks = cast(BinaryIO, tempfile.TemporaryFile())  # noqa: SIM115 # it is the child's
        fds = (self._listener.fileno(), status_write, self._counters_fd, self._beats_fd, stacks.fileno())
        quiet_s: float | None = 0.0
        if self._store_missing and not self._announced:
            # This process has just said it, and one worker says it again for all.
            quiet_s = SAID_EVERY_S if slot == 0 else None
        assignment = Assignment(
            self._settings, self._store_url, os.getpid(), *fds, self._n_slots, slot, quiet_s, self._collector
        )
        try:
            process = ForkedProcess(
                partial(run_worker, assignment), fds=fds, handled=(*ENDING_SIGNALS, signal.SIGCHLD)
            )
        except OSError as error:
            os.close(status_read)
            stacks.close()
            log.error("no worker can be started now: %s", error.strerror)
            self._put_off(time.monotonic())
            return
        finally:
            os.close(status_write)
        self._children.append(_Child(process, slot, status_read, stacks))

    def _keep_store(self) -> None:
        """Starts the private store again when it has ended; after each failure, as on a full disk, it waits longer."""
        now_s = time.monotonic()
        if self._private is None or now_s < self._store_at_s or self._private.alive():
            return
        if now_s > self._store_at_s + STORE_PAUSES_S[-1]:
            self._store_backoff.ran_well()
        pause_s = self._store_backoff.failed()
        try:
            if self._private.ensure():
                log.warning("the private store had ended; it runs again")
        except BanditServeError as error:
            log.error("the private store can not be started: %s", in_full(error))
        self._store_at_s = time.monotonic() + pause_s

    def _announce(self, facts: Survey | None) -> None:
        ready = sum(child.ready for child in self._children)
        if self._announced or ready < self._settings.workers:
            return
        self._announced = True
        host, port = self._listener.getsockname()[:2]
        scheme = "http" if self._settings.tls_cert is None else "https"
        address = f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
        workers = "1 worker" if ready == 1 else f"{ready} workers"
        store = "private store" if self._private is not None else "store"
        durability = f" ({facts.durability})" if facts is not None else ""
        warning = {
            True: "; callers need a key",
            False: "; open to anyone who can reach it, as no keys are configured",
            None: "",
        }[self._has_keys]
        # Its reader may have gone, or its disk be full.
        with contextlib.suppress(OSError):
            print_line(f"bandit-serve is ready on {address} with {workers}, {store}{durability}{warning}")

    def _wait(self, wakeup: int) -> None:
        fds = [wakeup, *(child.status_fd for child in self._children)]
        readable, _, _ = select.select(fds, [], [], POLL_S)
        if wakeup in readable:
            numbers = os.read(wakeup, 64)
            if any(number in numbers for number in ENDING_SIGNALS):
                self._stopping = True

    def _stop(self, wakeup: int) -> int:
        """Ends the workers, which first answer all connections in the socket's queue; returns the exit status."""
        self._companions.terminate()
        turn_away(self._listener)
        self._listener.close()
        for child in self._children:
            child.process.send_signal(signal.SIGTERM)
        until_s = time.monotonic() + self._settings.seconds("drain") + KILL_AFTER_S
        for child in self._children:
            try:
                child.process.wait(max(0.0, until_s - time.monotonic()))
            except TimeoutError:
                log.error("worker %d did not leave in time", child.process.pid)
                child.process.send_signal(signal.SIGKILL)
                child.process.wait(math.inf)
        self._companions.wait()
        return 0


async def _register_bundle(node: Node, folder: str) -> None:
    await node.tail.load()
    following = asyncio.create_task(node.tail.run())
    try:
        await register_bundle(node, Path(folder))
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


async def _has_keys(node: Node) -> bool | None:
    """Whether callers need a key; None where the registry can not be read, which a worker says and bears."""
    try:
        return bool((await node.read_registry()).keys)
    except StoreUnavailable:
        raise
    except Exception as error:  # whatever bytes that somebody changed in the common log can cause
        log.warning("the registry can not be read: %s", concealed(in_full(error)))
        return None


@contextlib.contextmanager
def _wakeup() -> Iterator[int]:
    """Yields a file descriptor from which the numbers of received signals can be read."""
    read, write = os.pipe()
    os.set_blocking(read, False)
    os.set_blocking(write, False)

    def note(number: int, frame: FrameType | None) -> None:
        pass

    former = {number: signal.signal(number, note) for number in (*ending_signals(), signal.SIGCHLD)}
    former_fd = signal.set_wakeup_fd(write)
    try:
        yield read
    finally:
        signal.set_wakeup_fd(former_fd)
        for number, handler in former.items():
            signal.signal(number, handler)
        os.close(read)
        os.close(write)

"""Connections of a worker: at most as many as it has room for, with room kept for health checks."""

from __future__ import annotations

import asyncio
import heapq
import logging
import resource
from collections import Counter

from bandit_serve.server.connection import Connection
from bandit_serve.server.handshake import Handshake
from bandit_serve.server.metrics import Counters
from bandit_serve.settings import Settings

log = logging.getLogger(__name__)

REVIEW_S = 1.0
QUICKEST_REVIEW_S = 0.05
# What a worker opens beside callers' connections (to the store, model files, spools), and as many for callers that
# are told that there is no room.
MAX_SPARE = 256
# When there is no room, this share of the connections is closed at a time, so that looking for them costs little each.
CLOSED_AT_ONCE = 1 / 16


class Connections:
    """Open connections of a worker, `most` at most, with those whose TLS handshake is under way.

    When all are taken, those that wait longest for their callers are closed, of the tenant that has most of them. If
    that makes no room, up to `spare` more callers get one answer each (`Connection.crowded`); others are cut off at
    once.
    """

    def __init__(self, settings: Settings, files: int, counters: Counters) -> None:
        self._counters = counters
        self._head_patience_s = settings.seconds("header_timeout")
        self._reading_patience_s = settings.seconds("body_timeout")
        self._spare = min(MAX_SPARE, files // 4)
        self.most = min(settings.max_connections, files - 2 * self._spare)
        self._open: set[Connection | Handshake] = set()
        self._leaving: set[Connection | Handshake] = set()
        self._crowded = False
        patience_s = min(self._head_patience_s, self._reading_patience_s)
        self._every_s = max(QUICKEST_REVIEW_S, min(REVIEW_S, patience_s / 4))

    def __len__(self) -> int:
        return len(self._open)

    def take_in(self, connection: Connection | Handshake) -> bool:
        """Adds a connection, crowded if it is one too many; False if there is no room even for a refusal."""
        if len(self._open) - len(self._leaving) >= self.most:
            self._make_room()
        if len(self._open) >= self.most + self._spare:
            self._counters.add("connections_crowded")
            return False
        connection.crowded = len(self._open) - len(self._leaving) >= self.most
        self._open.add(connection)
        return True

    def forget(self, connection: Connection | Handshake) -> None:
        self._open.discard(connection)
        self._leaving.discard(connection)
        if self._crowded and len(self._open) < self.most // 2:
            self._crowded = False

    def handshake_failed(self, *, late: bool) -> None:
        self._counters.add("connections_late" if late else "connections_handshake")

    def review(self) -> None:
        """Reviews all connections regularly, until the loop ends."""
        loop = asyncio.get_running_loop()
        loop.call_later(self._every_s, self.review)
        now_s = loop.time()
        for connection in list(self._open):
            why = connection.review(now_s, self._head_patience_s, self._reading_patience_s)
            if why is not None:
                self._counters.add(f"connections_{why}")
        self._counters.set("connections", len(self._open))

    def _make_room(self) -> None:
        if not self._crowded:
            self._crowded = True
            log.warning("%d connections are open, the most; those that wait longest are closed", self.most)
        waiting = [each for each in self._open - self._leaving if each.waits]
        holders = Counter(each.tenant for each in waiting)
        if len(holders) > 1:
            ((most, _),) = holders.most_common(1)
            waiting = [each for each in waiting if each.tenant == most]
        n_closed = max(1, int(self.most * CLOSED_AT_ONCE))
        for connection in heapq.nsmallest(n_closed, waiting, key=lambda each: each.quiet_since_s):
            self._leaving.add(connection)
            self._counters.add("connections_crowded")
            connection.force_close()


def raise_file_limit() -> int:
    """Raises the limit of open files as far as allowed, and returns it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (ValueError, OSError) as error:
            log.warning("the limit of open files stays at %d: %s", soft, error)
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 2**20 if soft == resource.RLIM_INFINITY else soft

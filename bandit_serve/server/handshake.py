"""TLS handshake of a new connection."""

from __future__ import annotations

import asyncio
import socket
import ssl
from typing import TYPE_CHECKING

from bandit_serve.server.connection import Connection

if TYPE_CHECKING:
    from bandit_serve.server.connections import Connections

SHUTDOWN_S = 5.0
"""How long a caller may take to answer that the connection is closed."""


class Handshake:
    """Handshake on a socket. It has a place among the connections until `connection` takes over."""

    crowded = False
    waits = True
    tenant: str | None = None

    def __init__(self, connections: Connections, wire: socket.socket, connection: Connection) -> None:
        self._connections = connections
        self._wire = wire
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self.quiet_since_s = self._loop.time()
        self._shaking: asyncio.Task[None] | None = None

    def begin(self, context: ssl.SSLContext, patience_s: float) -> None:
        """Begins, if there is room. A caller that takes longer than `patience_s` is cut off."""
        if self._connections.take_in(self):
            self._shaking = self._loop.create_task(self._shake_hands(context, patience_s))
            self._shaking.add_done_callback(self._leave)
        else:
            self._wire.close()

    def review(self, now_s: float, head_patience_s: float, reading_patience_s: float) -> None:
        """Does nothing: a handshake has a time-out of its own."""

    def force_close(self) -> None:
        assert self._shaking is not None
        self._shaking.cancel()

    async def _shake_hands(self, context: ssl.SSLContext, patience_s: float) -> None:
        try:
            await self._loop.connect_accepted_socket(
                self._hand_on,
                self._wire,
                ssl=context,
                ssl_handshake_timeout=patience_s,
                ssl_shutdown_timeout=SHUTDOWN_S,
            )
        except OSError as error:
            # This is asyncio's word for a handshake that takes too long.
            self._connections.handshake_failed(late=isinstance(error, ConnectionAbortedError))

    def _leave(self, shaking: asyncio.Task[None]) -> None:
        self._connections.forget(self)
        # A task that is cancelled before its first step has done nothing about its socket.
        if shaking.cancelled():
            self._wire.close()

    def _hand_on(self) -> Connection:
        return self._connection

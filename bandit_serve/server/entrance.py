"""Entrance of a worker: where connections are accepted, with a TLS handshake or without."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Protocol

from bandit_serve.server.certificate import FollowedCertificate
from bandit_serve.server.connection import Connection
from bandit_serve.server.connections import Connections
from bandit_serve.server.handshake import Handshake
from bandit_serve.server.listening import BACKLOG

Connect = Callable[[], Connection]

MAX_ACCEPTS = 64
"""Connections that are accepted before others have a turn."""
NO_FILES_PAUSE_S = 0.1


class Entrance(Protocol):
    async def open(self, listener: socket.socket) -> None:
        """Accepts the connections of a listening socket from now on."""

    async def admit(self, accepted: socket.socket) -> None:
        """Takes a connection that was accepted elsewhere; its socket does not block."""

    def close(self) -> None:
        """Accepts no more."""


class PlainEntrance:
    """Entrance for HTTP without TLS."""

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._server: asyncio.Server | None = None

    async def open(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._connect, sock=listener.dup(), backlog=BACKLOG)

    async def admit(self, accepted: socket.socket) -> None:
        await asyncio.get_running_loop().connect_accepted_socket(self._connect, accepted)

    def close(self) -> None:
        if self._server is not None:
            self._server.close()


class SecureEntrance:
    """Entrance for TLS, whose handshakes are among the connections.

    A server of the event loop's own would show a connection only when its handshake is done, so that nobody would count
    those that stall.
    """

    def __init__(
        self, connect: Connect, connections: Connections, certificate: FollowedCertificate, patience_s: float
    ) -> None:
        self._connect = connect
        self._connections = connections
        self._certificate = certificate
        self._patience_s = patience_s
        self._loop = asyncio.get_running_loop()
        self._listener: socket.socket | None = None

    async def open(self, listener: socket.socket) -> None:
        self._listener = listener.dup()
        self._listener.setblocking(False)
        self._loop.add_reader(self._listener, self._accept)

    async def admit(self, accepted: socket.socket) -> None:
        self._begin(accepted)

    def close(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            self._loop.remove_reader(listener)
            listener.close()

    def _accept(self) -> None:
        assert self._listener is not None
        for _ in range(MAX_ACCEPTS):
            try:
                accepted, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionError:
                continue
            except OSError:
                # There are no files left. The listener stays readable, so nothing else would have a turn.
                self._loop.remove_reader(self._listener)
                self._loop.call_later(NO_FILES_PAUSE_S, self._accept_again)
                return
            accepted.setblocking(False)
            self._begin(accepted)

    def _accept_again(self) -> None:
        if self._listener is not None:
            self._loop.add_reader(self._listener, self._accept)

    def _begin(self, accepted: socket.socket) -> None:
        handshake = Handshake(self._connections, accepted, self._connect())
        handshake.begin(self._certificate.context, self._patience_s)

"""HTTP server for tests that answers as it is told: late, in part, never, or not in HTTP."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple, Self


class Received(NamedTuple):
    """Request as it came; `connection` numbers its connection from 0."""

    connection: int
    head: bytes
    body: bytes

    @property
    def line(self) -> str:
        return self.head.split(b"\r\n", 1)[0].decode()


class Script(NamedTuple):
    """Bytes to be sent, and whether the connection is closed, or kept open without another word, after them.

    `then` is sent a moment later, when a client has read the first.
    """

    sent: bytes = b""
    closes: bool = False
    hangs: bool = False
    then: bytes = b""


def answer(content: bytes = b"{}", status: int = 200, *headers: str) -> Script:
    lines = "".join(f"{header}\r\n" for header in headers)
    head = f"HTTP/1.1 {status} Said\r\nContent-Length: {len(content)}\r\n{lines}\r\n"
    return Script(head.encode() + content)


CLOSE = Script(closes=True)
HANG = Script(hangs=True)


class ScriptedServer:
    """Server on the loopback. `script(request, number)` says what becomes of the request with this number, from 0."""

    def __init__(self, script: Callable[[Received, int], Script]) -> None:
        self.received: list[Received] = []
        self.n_sent = 0
        self._script = script
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._connections: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    @property
    def n_connections(self) -> int:
        return len(self._connections)

    def drop_connections(self) -> None:
        """Closes all connections, as a service does that ends."""
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        self._listener.close()
        self.drop_connections()
        for thread in self._threads[1:]:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._serve, args=(connection, len(self._connections)))
            self._connections.append(connection)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket, number: int) -> None:
        with connection, contextlib.suppress(OSError):
            while (request := _read(connection, number)) is not None:
                with self._lock:
                    script = self._script(request, len(self.received))
                    self.received.append(request)
                connection.sendall(script.sent)
                if script.then:
                    time.sleep(0.05)
                    connection.sendall(script.then)
                self.n_sent += 1
                if script.hangs:
                    connection.recv(1)
                if script.closes or script.hangs:
                    return


def _read(connection: socket.socket, number: int) -> Received | None:
    data = b""
    while b"\r\n\r\n" not in data:
        part = connection.recv(65_536)
        if not part:
            return None
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", head)
    missing = int(length[1]) - len(body) if length else 0
    while missing > 0:
        part = connection.recv(missing)
        if not part:
            return None
        body, missing = body + part, missing - len(part)
    return Received(number, head, body)

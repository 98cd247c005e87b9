"""Proxy in front of a container engine that kills a process at one request of it, before or after the engine's work."""

from __future__ import annotations

import os
import re
import socket
import tempfile
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

REQUEST = re.compile(rb"(GET|POST|PUT|DELETE|HEAD) (\S+) HTTP/1.1\r\n")


class KillingProxy:
    """At the first request that `at` matches (`POST /containers/create`), calls `kill` and forwards nothing any more.

    With `after` the engine does what it was asked for, and nobody hears of it. `met` says whether that request came.
    """

    def __init__(self, engine: str, at: str, after: bool, kill: Callable[[], None]) -> None:
        self._engine = engine.removeprefix("unix://")
        self._at = re.compile(at)
        self._after = after
        self._kill = kill
        self.met = False
        self._folder = tempfile.TemporaryDirectory()
        self._path = os.path.join(self._folder.name, "engine.sock")
        self._listener = socket.socket(socket.AF_UNIX)

    @property
    def address(self) -> str:
        return f"unix://{self._path}"

    def __enter__(self) -> Self:
        self._listener.bind(self._path)
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._folder.cleanup()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as engine:
            engine.connect(self._engine)
            answering = threading.Thread(target=self._answer, args=(engine, client), daemon=True)
            answering.start()
            try:
                while content := client.recv(2**16):
                    if self._is_it(content):
                        if self._after:
                            engine.sendall(content)
                            # The answer comes when the work is done; it goes nowhere.
                            self._answered.wait(60)
                        self._kill()
                        return
                    engine.sendall(content)
            except OSError:
                return

    def _is_it(self, content: bytes) -> bool:
        request = REQUEST.match(content)
        if self.met or request is None:
            return False
        path = re.sub(rb"^/v[0-9.]+", b"", request[2].partition(b"?")[0])
        if not self._at.fullmatch(f"{request[1].decode()} {path.decode()}"):
            return False
        self._answered = threading.Event()
        self.met = True
        return True

    def _answer(self, engine: socket.socket, client: socket.socket) -> None:
        try:
            while content := engine.recv(2**16):
                if self.met:
                    self._answered.set()
                    continue
                client.sendall(content)
        except OSError:
            return

"""Latency for another caller: a process that sends small requests to `/health/live`, one after another.

    python benchmarks/health_prober.py HOST PORT

For each line on its standard input it prints the longest latency since the last one, in milliseconds.
"""

from __future__ import annotations

import socket
import sys
import threading
import time

PAUSE_S = 0.002
REQUEST = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Neighbour:
    def __init__(self, host: str, port: int) -> None:
        self._address = host, port
        self._longest_s = 0.0
        self._began_s: float | None = None
        self._lock = threading.Lock()

    def run(self) -> None:
        connection = socket.create_connection(self._address)
        while True:
            with self._lock:
                self._began_s = time.perf_counter()
            connection.sendall(REQUEST)
            if not connection.recv(65_536):
                raise SystemExit("the service closed the connection")
            with self._lock:
                self._take(self._began_s)
                self._began_s = None
            time.sleep(PAUSE_S)

    def _take(self, began_s: float) -> None:
        self._longest_s = max(self._longest_s, time.perf_counter() - began_s)

    def longest_ms(self) -> float:
        """Longest latency; a request that still waits counts with its time so far."""
        with self._lock:
            if self._began_s is not None:
                self._take(self._began_s)
            longest_s, self._longest_s = self._longest_s, 0.0
        return longest_s * 1000


def main() -> None:
    neighbour = Neighbour(sys.argv[1], int(sys.argv[2]))
    threading.Thread(target=neighbour.run, daemon=True).start()
    for _ in sys.stdin:
        print(neighbour.longest_ms(), flush=True)


if __name__ == "__main__":
    main()

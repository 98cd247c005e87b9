"""Cost of connections that only wait: latency of decisions with 2,000 of them, and with none.

    python benchmarks/waiting_connections.py [--waiting 2000] [--decisions 2000] [--rounds 5]

In each round one caller decides over a kept connection, first with nobody else there and then with a third of the
waiting connections silent, a third within a head and a third within a body. The figures are medians over rounds of each
round's 50th and 99th percentile, and of their ratio; memory is the worker's, for each waiting connection.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import socket
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))
from http_calls import running
from services import ThrowawayService

from bandit_serve.server.connections import raise_file_limit

HEAD = (
    "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 12\r\n\r\n"
)
PATIENCE = ("--header-timeout", "10m", "--body-timeout", "10m", "--keepalive-timeout", "10m")


def latencies_ms(port: int, request: bytes, n: int) -> list[float]:
    latencies = []
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(n):
            began = time.perf_counter()
            connection.sendall(request)
            answer = connection.recv(65_536)
            latencies.append((time.perf_counter() - began) * 1e3)
            if not answer.startswith(b"HTTP/1.1 200"):
                raise SystemExit(f"a decision failed: {answer[:200]!r}")
    return sorted(latencies)


def resident_kb(pid: int) -> int:
    return int(Path(f"/proc/{pid}/status").read_text().partition("VmRSS:")[2].split()[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--waiting", type=int, default=2_000)
    parser.add_argument("--decisions", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    raise_file_limit()
    rows = []
    with tempfile.TemporaryDirectory() as data, ThrowawayService(Path(data), *PATIENCE) as service:
        whole = HEAD.format(path=f"/v1/experiments/{running(service)}/decide").encode() + b'{"unit":"u"}'
        beginnings = [b"", whole[:40], whole[:-3]]
        (worker,) = service.worker_pids()
        latencies_ms(service.port, whole, options.decisions)
        for _ in range(options.rounds):
            alone, before_kb = latencies_ms(service.port, whole, options.decisions), resident_kb(worker)
            with contextlib.ExitStack() as open_:
                for i in range(options.waiting):
                    waiting = open_.enter_context(socket.create_connection(("127.0.0.1", service.port)))
                    waiting.sendall(beginnings[i % 3])
                crowded, after_kb = latencies_ms(service.port, whole, options.decisions), resident_kb(worker)
            rows.append((alone, crowded, (after_kb - before_kb) / options.waiting))
    for share in (0.5, 0.99):
        at = int(share * options.decisions)
        pairs = [(alone[at], crowded[at]) for alone, crowded, _ in rows]
        ratio = statistics.median(crowded / alone for alone, crowded in pairs)
        alone_ms, crowded_ms = (statistics.median(column) for column in zip(*pairs, strict=True))
        print(
            f"p{share * 100:g}: alone {alone_ms:.3f} ms, beside {options.waiting} {crowded_ms:.3f} ms, "
            f"ratio {ratio:.2f}"
        )
    print(json.dumps({"kb_each": round(max(kb for _, _, kb in rows), 1)}))


if __name__ == "__main__":
    main()

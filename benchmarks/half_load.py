"""Tails at half load: p50, p99 and p99.9 of a request while snapshots, trims and results go on.

    python benchmarks/half_load.py [--seconds 60] [--connections 64] [--route reward]

One worker. Each route is loaded as fast as its answers come for some seconds, and then at half of that rate. Meanwhile
results are asked for every 5 s and `/metrics` is read every 15 s; snapshots, and the trims behind them, come once a
minute. `echo` is uvloop with a protocol that answers and does nothing else, at the rate of decisions: what is in its
tail is of the machine, of its load, and of the loop. `bound` is 2 × p50 + 0.2 ms.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator

import http_load
import latency
from http_load import JSON
from services import ThrowawayService

RESULTS_EVERY_S, METRICS_EVERY_S = 5.0, 15.0
FIRST_S = 4.0
ECHO = """
import asyncio, uvloop
answer = b"HTTP/1.1 200 OK\\r\\nContent-Type: application/json\\r\\nContent-Length: 200\\r\\n\\r\\n" + b"x" * 200
class Echo(asyncio.Protocol):
    def connection_made(self, transport): self.write = transport.write
    def data_received(self, data): self.write(answer)
async def main():
    server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
uvloop.run(main())
"""


@contextlib.contextmanager
def echo() -> Iterator[str]:
    command = [sys.executable, "-c", ECHO]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}/"
        finally:
            process.kill()


@contextlib.contextmanager
def readers(service: ThrowawayService) -> Iterator[None]:
    """Asks for results and metrics meanwhile."""
    over = threading.Event()
    refused: list[str] = []

    def ask(path: str, every_s: float) -> None:
        while not over.wait(every_s):
            answer = service.call("GET", path)
            if answer.status != 200:
                refused.append(f"{path}: {answer.body}")

    threads = [
        threading.Thread(target=ask, args=("/v1/experiments/bench/results", RESULTS_EVERY_S)),
        threading.Thread(target=ask, args=("/metrics", METRICS_EVERY_S)),
    ]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert not refused, refused


def bodies_of(service: ThrowawayService, route: str, n: int) -> list[bytes]:
    if route == "reward":
        tokens = http_load.tokens(service, n)
        return [json.dumps({"decision_id": token, "value": i % 2}).encode() for i, token in enumerate(tokens)]
    if route == "predict":
        return [
            json.dumps({"user_id": str(i % 600), "item_id": str(i % 9_000)}).encode() for i in range(2_000)
        ]
    return [json.dumps({"unit": f"user-{i}"}).encode() for i in range(2_000)]


def show(name: str, rate: float, measured: latency.Latencies) -> None:
    bound_ms = 2.0 * measured.p50_ms + 0.2
    print(
        f"{name:10}{rate:10,.0f}{measured.p50_ms:10.3f}{measured.p99_ms:10.3f}{measured.p999_ms:10.3f}{bound_ms:10.3f}"
        f"{measured.errors:8}",
        flush=True,
    )


def run(routes: list[str], seconds: float, connections: int) -> None:
    print(f"{'':10}{'a second':>10}{'p50 ms':>10}{'p99 ms':>10}{'p99.9 ms':>10}{'bound ms':>10}{'errors':>8}")
    rates: dict[str, float] = {}
    with http_load.serving(1) as service:
        paths = {"reward": "/v1/rewards"} | {
            name: f"/v1/experiments/bench/{name}" for name in ("decide", "predict")
        }
        for route in routes:
            url = service.url + paths[route]
            saturated = latency.measure(
                url, bodies_of(service, route, int(50_000 * FIRST_S)), JSON, FIRST_S, connections=connections
            )
            rates[route] = rate = saturated.per_s / 2.0
            bodies = bodies_of(service, route, int(rate * seconds) + 1_000)
            with readers(service):
                measured = latency.measure(url, bodies, JSON, seconds, connections=connections, rate=rate)
            show(route, rate, measured)
    with echo() as url:
        rate = max(rates.values())
        body = [json.dumps({"unit": "user-1"}).encode()]
        show("echo", rate, latency.measure(url, body, JSON, seconds, connections=connections, rate=rate))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--route", action="append", choices=["decide", "predict", "reward"])
    arguments = parser.parse_args()
    run(arguments.route or ["decide", "predict", "reward"], arguments.seconds, arguments.connections)


if __name__ == "__main__":
    main()

"""Dashboard: first paint of the list, and what open pages cost a service that decides.

    python benchmarks/dashboard.py [--experiments 1000] [--pages 100] [--rounds 4] [--seconds 4]

First paint is Chromium's own figure (`first-contentful-paint`), the median of five loads of `/` while the other pages
are open. A round measures decisions, one every 5 ms on one connection, with the open pages and without them, in turns
of either order: half of the pages are the list and half an experiment, which decides meanwhile. The cost of 50 open
pages is the worker's CPU time in ten seconds as a share of one core, less that without them: while nothing happens,
and while one experiment decides 200 times a second.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))
from browsers import chromium
from http_calls import decide_many, reward_many
from http_load import cpu_s
from services import ThrowawayService

EVERY_S = 0.005
IDLE_S = 10.0
SETTLE_S = 4.0
LOADS = 5
BUSY = "bench-0000"


class Latencies(NamedTuple):
    """Latencies of decisions, in milliseconds."""

    p50: float
    p99: float


def begin(service: ThrowawayService, experiments: int) -> None:
    """Makes experiments that run, every tenth with decisions and rewards."""

    def make(number: int) -> None:
        name = f"bench-{number:04}"
        body = {
            "id": name,
            "arms": [{"name": "control"}, {"name": "challenger"}],
            "metrics": [{"name": "click", "kind": "binary"}],
            "policy": {"kind": "thompson", "min_share": 0.05},
            "attribution": {"missing": "ignore"},
            "owner": f"owner-{number % 17}",
        }
        # A busy machine's store may be too slow for once; a change that was made all the same is a conflict.
        until(lambda: service.call("POST", "/v1/experiments", body).status in (201, 409))
        until(lambda: service.call("POST", f"/v1/experiments/{name}/start").status in (200, 409))
        if number % 10 == 0:
            tokens = decide_many(service, name, [f"u{k}" for k in range(400)])["decision_ids"]
            reward_many(service, tokens, [float(k % 5 == 0) for k in range(400)])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(make, range(experiments)))


def until(done: Callable[[], bool]) -> None:
    while not done():
        time.sleep(0.5)


def decisions(service: ThrowawayService, seconds: float) -> Latencies:
    body = b'{"unit": "u"}'
    head = f"POST /v1/experiments/{BUSY}/decide HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    asked, latencies = head.encode() + b"Content-Length: %d\r\n\r\n%b" % (len(body), body), []
    with socket.create_connection(("127.0.0.1", service.port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        due_s = time.perf_counter()
        until_s = due_s + seconds
        while due_s < until_s:
            time.sleep(max(0.0, due_s - time.perf_counter()))
            began_s = time.perf_counter()
            connection.sendall(asked)
            assert connection.recv(65_536).startswith(b"HTTP/1.1 200")
            latencies.append((time.perf_counter() - began_s) * 1000)
            due_s = max(due_s + EVERY_S, time.perf_counter())
    cuts = statistics.quantiles(latencies, n=100)
    return Latencies(cuts[49], cuts[98])


@contextlib.contextmanager
def pages(service: ThrowawayService, count: int) -> Iterator[list[int]]:
    """So many open pages: their streams, as a browser holds them. Yields the bytes of each so far."""
    received = [0] * count
    streams = []
    for number in range(count):
        path = "/live" if number % 2 else f"/experiments/{BUSY}/live"
        stream = socket.create_connection(("127.0.0.1", service.port))
        stream.sendall(
            f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n".encode()
        )
        streams.append(stream)

    def read(number: int) -> None:
        with contextlib.suppress(OSError):
            while got := len(streams[number].recv(1 << 20)):
                received[number] += got

    threads = [threading.Thread(target=read, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield received
    finally:
        for stream in streams:
            stream.shutdown(socket.SHUT_RDWR)
            stream.close()
        for thread in threads:
            thread.join(5.0)


def first_paint_ms(service: ThrowawayService) -> list[float]:
    found = []
    with chromium() as browser:
        for _ in range(LOADS):
            page = browser.new_context().new_page()
            page.goto(service.url + "/")
            page.wait_for_function("() => performance.getEntriesByName('first-contentful-paint').length > 0")
            found.append(page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime"))
            page.context.close()
    return found


def share_of_core(pid: int, busy: ThrowawayService | None) -> float:
    began_s, before = time.perf_counter(), cpu_s([pid])
    if busy is None:
        time.sleep(IDLE_S)
    else:
        decisions(busy, IDLE_S)
    return (cpu_s([pid]) - before) / (time.perf_counter() - began_s)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--experiments", type=int, default=1_000)
    parser.add_argument("--pages", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=4.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as data, ThrowawayService(Path(data)) as service:
        begin(service, options.experiments)
        pid = worker(service)
        print(f"{options.experiments} experiments, load of the machine {os.getloadavg()[0]:.1f}", flush=True)
        with pages(service, options.pages) as received:
            time.sleep(SETTLE_S)
            paints = first_paint_ms(service)
            assert all(received)
        print(
            f"first paint of / with {options.pages} pages open: {statistics.median(paints):.0f} ms, "
            f"of {', '.join(f'{paint:.0f}' for paint in paints)}",
            flush=True,
        )
        ratios = []
        for number in range(options.rounds):
            found = {}
            for opened in (False, True) if number % 2 else (True, False):
                with pages(service, options.pages if opened else 0):
                    time.sleep(SETTLE_S if opened else 0.5)
                    found[opened] = decisions(service, options.seconds)
            ratios.append(found[True].p99 / found[False].p99)
            print(f"round {number}: without {found[False]}, with {found[True]}", flush=True)
        print(
            f"p99 of a decision with pages / without, median of {options.rounds}: {statistics.median(ratios):.2f}"
        )
        for busy, words in ((None, "nothing happens"), (service, "200 decisions a second")):
            without = share_of_core(pid, busy)
            with pages(service, 50):
                time.sleep(SETTLE_S)
                opened_share = share_of_core(pid, busy)
            print(
                f"50 pages while {words}: {opened_share - without:.2%} of a core "
                f"({opened_share:.2%}, without {without:.2%})",
                flush=True,
            )


def worker(service: ThrowawayService) -> int:
    [view] = service.call("GET", "/v1/stats").body["workers"]
    return int(view["pid"])


if __name__ == "__main__":
    main()

"""Latency of one tenant while another floods, and the cost of tenants that do nothing.

    python benchmarks/tenants.py [--rounds 6] [--seconds 5] [--connections 64] [--idle 0,10,50]

A round measures the quiet tenant's decisions, one every 5 ms, without and with the flood, in turns of either order. The
flood sends decisions over many connections, each the next after its answer, with a limit of 200 requests a second.
Idle cost is CPU of the worker over ten seconds, as a share of one core, its memory and its open files.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from http_load import EXPERIMENT, cpu_s

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))
from services import ThrowawayService
from tenancy import Caller, Made, make

PLAIN = EXPERIMENT | {"arms": [{"name": "control"}, {"name": "challenger"}]}
EVERY_S = 0.005
IDLE_S = 10.0
SETTLE_S = 15.0


def request(key: str) -> bytes:
    body = b'{"unit": "u"}'
    head = (
        f"POST /v1/experiments/bench/decide HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Course(NamedTuple):
    """Latencies of requests in milliseconds, and how many of them failed."""

    p50: float
    p99: float
    failed: int


def quiet(port: int, key: str, seconds: float) -> Course:
    asked, latencies, failed = request(key), [], 0
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        due_s = time.perf_counter()
        until_s = due_s + seconds
        while due_s < until_s:
            time.sleep(max(0.0, due_s - time.perf_counter()))
            began_s = time.perf_counter()
            connection.sendall(asked)
            failed += not connection.recv(65_536).startswith(b"HTTP/1.1 200")
            latencies.append((time.perf_counter() - began_s) * 1000)
            due_s = max(due_s + EVERY_S, time.perf_counter())
    cuts = statistics.quantiles(latencies, n=100)
    return Course(cuts[49], cuts[98], failed)


async def flood(port: int, key: str, connections: int) -> None:
    """Sends until it is terminated; prints how often it was let in and refused."""
    asked, outcomes = request(key), {200: 0, 429: 0}

    async def one() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while True:
            writer.write(asked)
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
            await reader.readexactly(length)
            outcomes[int(head[9:12])] += 1

    tasks = [asyncio.create_task(one()) for _ in range(connections)]
    await asyncio.to_thread(sys.stdin.read)
    for task in tasks:
        task.cancel()
    print(json.dumps(outcomes))


def begun(caller: Caller) -> None:
    assert caller.call("POST", "/v1/experiments", PLAIN).status == 201
    assert caller.call("POST", "/v1/experiments/bench/start").status == 200


def neighbours(rounds: int, seconds: float, connections: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        data, config = Path(folder) / "d", Path(folder) / "c.toml"
        config.write_text("[tenants.flood]\nrequests = 200\n")
        made = {tenant: make(data, "--scope", "admin", "--tenant", tenant) for tenant in ("quiet", "flood")}
        with ThrowawayService(data, "--config", str(config)) as service:
            for key in made.values():
                begun(Caller(service, key))
            quiet(service.port, made["quiet"].key, seconds)
            ratios = []
            for number in range(rounds):
                courses = {
                    flooded: round_of(service, made, seconds, connections if flooded else 0)
                    for flooded in ((False, True) if number % 2 else (True, False))
                }
                ratios.append(courses[True].p99 / courses[False].p99)
                print(f"round {number}: without {courses[False]}, with {courses[True]}", flush=True)
            print(f"p99 with the flood / without, median of {rounds}: {statistics.median(ratios):.3f}")


def round_of(service: ThrowawayService, made: dict[str, Made], seconds: float, connections: int) -> Course:
    if not connections:
        return quiet(service.port, made["quiet"].key, seconds)
    command = [sys.executable, __file__, "--flood", str(service.port), made["flood"].key, str(connections)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as flooding:
        time.sleep(2.0)
        course = quiet(service.port, made["quiet"].key, seconds)
        assert flooding.stdin is not None
        assert flooding.stdout is not None
        flooding.stdin.close()
        print(f"  the flood of {connections} connections: {flooding.stdout.read().strip()}", flush=True)
    return course


def idle(n_tenants: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "c.toml"
        config.write_text("".join(f"[tenants.t{i}]\n" for i in range(n_tenants)))
        with ThrowawayService(Path(folder) / "d", "--config", str(config)) as service:
            time.sleep(SETTLE_S)
            (worker,) = service.worker_pids()
            before, began_s = cpu_s([worker]), time.monotonic()
            time.sleep(IDLE_S)
            share = (cpu_s([worker]) - before) / (time.monotonic() - began_s)
            status = Path(f"/proc/{worker}/status").read_text().partition("VmRSS:")[2].split()[0]
            files = len(list(Path(f"/proc/{worker}/fd").iterdir()))
        print(
            f"{n_tenants} tenants: {share:.2%} of a core, {int(status) / 1024:.0f} MiB, {files} open files",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--idle", default="0,10,50")
    parser.add_argument("--flood", nargs=3, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.flood:
        port, key, connections = chosen.flood
        asyncio.run(flood(int(port), key, int(connections)))
        return
    if chosen.rounds:
        neighbours(chosen.rounds, chosen.seconds, chosen.connections)
    for n_tenants in filter(None, chosen.idle.split(",")):
        idle(int(n_tenants))


if __name__ == "__main__":
    main()

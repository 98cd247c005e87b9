"""The service beside other servers over HTTP, in one run: CPU a request, and latencies at half load and at saturation.

    python benchmarks/http_peers.py [--rounds 7] [--seconds 4] [--python DIR/bin/python …] [--svg FILE]

Servers of other projects do nothing but read JSON and answer as much of it (`peer_servers.py`); the service decides,
scores, signs and logs. Each `--python` is an environment in which some of them are installed, as they do not all go
into one; a server that no environment has is a gap. Each round loads every server in turn: closed loops of 32
connections, and then half of that rate. CPU is that of all processes of a server; the store and the load have theirs.
`× bare` is the bare aiohttp handler's CPU over the server's, in the same round. Rewards stand beside redis-py, which
appends one a call, or 32 by a pipeline, to a stream: CPU of the client's process.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import http_load
import latency
import redis
from peer_servers import SERVERS

from bandit_serve.pictures.intervals import Row, intervals
from bandit_serve.pictures.report_picture import alone

JSON = "application/json"
START_S = 120.0
HALF = 0.5
PIPELINED = 32
PREDICT = [json.dumps({"user_id": str(i % 600), "item_id": str(i % 9_000)}).encode() for i in range(2_000)]
OPEN_INFERENCE = [
    json.dumps(
        {
            "inputs": [
                {"name": "user_id", "shape": [1], "datatype": "BYTES", "data": [str(i % 600)]},
                {"name": "item_id", "shape": [1], "datatype": "BYTES", "data": [str(i % 9_000)]},
            ]
        }
    ).encode()
    for i in range(200)
]


class Figures(NamedTuple):
    cpu_us: float
    saturated: latency.Latencies
    half: latency.Latencies


class Server(NamedTuple):
    url: str
    pids: Callable[[], Sequence[int]]
    bodies: Callable[[float], Sequence[bytes]]


def members(root: int) -> list[int]:
    """A server's process with all that descend from it."""
    parents: dict[int, int] = {}
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            with contextlib.suppress(OSError):
                parents[int(process.name)] = int((process / "stat").read_text().rpartition(")")[2].split()[1])
    found = [root] if root in parents else []
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found


@contextlib.contextmanager
def peer(name: str, pythons: Sequence[str], store: str) -> Iterator[Server | None]:
    """Runs a server in the first environment that has it; None where there is none."""
    bodies = OPEN_INFERENCE if name == "mlserver" else PREDICT
    port, script = http_load.free_port(), str(Path(__file__).with_name("peer_servers.py"))
    for python in pythons:
        with tempfile.TemporaryDirectory() as directory:
            process = subprocess.Popen(
                [python, script, name, str(port), store],
                cwd=directory,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            try:
                url = f"http://127.0.0.1:{port}{SERVERS[name][1]}"
                if answers(url, bodies[0], process):
                    yield Server(url, lambda group=process.pid: members(group), lambda _: bodies)
                    return
            finally:
                started = members(process.pid)
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(10)
                for pid in started:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                process.wait()
    yield None


def answers(url: str, body: bytes, process: subprocess.Popen[bytes]) -> bool:
    """Whether a server answers in time; it may be that it can not even be imported."""
    until_s = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < until_s:
        with contextlib.suppress(OSError, ValueError):
            if latency.measure(url, [body], JSON, 0.1, connections=1).per_s > 0:
                return True
        time.sleep(0.2)
    return False


def figures(server: Server, seconds: float) -> Figures:
    bodies = server.bodies(seconds)
    before_s = http_load.cpu_s(server.pids())
    saturated = latency.measure(server.url, bodies, JSON, seconds)
    cpu_us = (http_load.cpu_s(server.pids()) - before_s) / max(1.0, saturated.per_s * seconds) * 1e6
    bodies = server.bodies(seconds)
    half = latency.measure(server.url, bodies, JSON, seconds, rate=max(1.0, HALF * saturated.per_s))
    if saturated.errors or half.errors:
        raise SystemExit(f"{saturated.errors + half.errors} requests to {server.url} failed")
    return Figures(cpu_us, saturated, half)


@contextlib.contextmanager
def servers(pythons: Sequence[str]) -> Iterator[dict[str, Server | None]]:
    """All servers, each waiting for requests."""
    with contextlib.ExitStack() as stack:
        service = stack.enter_context(http_load.serving(1))
        bare, url = http_load.bare(300)
        stack.callback(bare.wait)
        stack.callback(bare.kill)
        experiment = f"{service.url}/v1/experiments/bench"

        def rewards(seconds: float) -> list[bytes]:
            n = int(45_000 * seconds)
            return [
                json.dumps({"decision_id": token, "value": i % 2}).encode()
                for i, token in enumerate(http_load.tokens(service, n))
            ]

        decide = [json.dumps({"unit": f"user-{i}"}).encode() for i in range(2_000)]
        found: dict[str, Server | None] = {
            "bare aiohttp": Server(url, lambda: [bare.pid], lambda _: PREDICT),
            "bandit_serve decide": Server(f"{experiment}/decide", service.worker_pids, lambda _: decide),
            "bandit_serve predict": Server(f"{experiment}/predict", service.worker_pids, lambda _: PREDICT),
            "bandit_serve reward": Server(f"{service.url}/v1/rewards", service.worker_pids, rewards),
        }
        store = stack.enter_context(http_load.ThrowawayStore(tcp=True, appendfsync="everysec"))
        for name in SERVERS:
            found[name] = stack.enter_context(peer(name, pythons, f"redis://127.0.0.1:{store.port}/0"))
        yield found


def redis_us(seconds: float) -> dict[str, float]:
    """CPU of a client of redis-py for one reward that is appended."""
    entry, spent = {"r": b"x" * 56}, {}
    with http_load.ThrowawayStore(appendfsync="everysec") as store, redis.Redis.from_url(store.url) as client:
        for name, n in (("redis-py, one a call", 1), (f"redis-py, {PIPELINED} by a pipeline", PIPELINED)):
            count, began_s, until_s = 0, time.process_time(), time.monotonic() + seconds
            while time.monotonic() < until_s:
                if n == 1:
                    client.xadd("rewards", entry)
                else:
                    pipeline = client.pipeline(transaction=False)
                    for _ in range(n):
                        pipeline.xadd("rewards", entry)
                    pipeline.execute()
                count += n
            spent[name] = (time.process_time() - began_s) / count * 1e6
    return spent


def show(rounds: dict[str, list[Figures]], gaps: Sequence[str]) -> None:
    print(f"{'':22}{'CPU µs':>9}{'(range)':>14}{'× bare':>8}{'a second':>10}", end="")
    print(f"{'p50 ms':>9}{'p99 ms':>9}{'half: p50':>11}{'p99':>8}")
    for name, measured in rounds.items():
        cpu = [each.cpu_us for each in measured]
        ratios = [
            bare.cpu_us / each.cpu_us for bare, each in zip(rounds["bare aiohttp"], measured, strict=True)
        ]
        columns = [
            (
                each.saturated.per_s,
                each.saturated.p50_ms,
                each.saturated.p99_ms,
                each.half.p50_ms,
                each.half.p99_ms,
            )
            for each in measured
        ]
        per_s, p50, p99, half50, half99 = (statistics.median(column) for column in zip(*columns, strict=True))
        spread = f"{min(cpu):.1f}–{max(cpu):.1f}"
        print(f"{name:22}{statistics.median(cpu):9.1f}{spread:>14}{statistics.median(ratios):8.2f}", end="")
        print(f"{per_s:10,.0f}{p50:9.2f}{p99:9.2f}{half50:11.2f}{half99:8.2f}")
    for name in gaps:
        print(f"{name:22} in none of the environments")


def picture(rounds: dict[str, list[Figures]]) -> str:
    """Latencies at half load: a dot for the median, and a line up to p99."""
    rows = []
    for i, (name, measured) in enumerate(rounds.items()):
        p50 = statistics.median(each.half.p50_ms for each in measured)
        p99 = statistics.median(each.half.p99_ms for each in measured)
        rows.append(Row(name.removeprefix("bandit_serve "), i % 8, p50, (p50, p99)))
    return alone(intervals(rows, "Milliseconds to an answer at half load: median, and to p99", zero=True))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--python", action="append", default=[], help="interpreter of a further environment")
    parser.add_argument("--svg", type=Path, help="where to write the picture of latencies")
    arguments = parser.parse_args()
    rounds: dict[str, list[Figures]] = {}
    appended: dict[str, list[float]] = {}
    with servers([sys.executable, *arguments.python]) as found:
        for number in range(arguments.rounds):
            for name, server in found.items():
                if server is not None:
                    rounds.setdefault(name, []).append(figures(server, arguments.seconds))
            for name, cpu_us in redis_us(arguments.seconds / 2).items():
                appended.setdefault(name, []).append(cpu_us)
            print(f"round {number + 1} of {arguments.rounds}", file=sys.stderr, flush=True)
    show(rounds, [name for name, server in found.items() if server is None])
    for name, all_us in appended.items():
        print(f"{name:28}{statistics.median(all_us):6.1f} µs a reward, of the client's process")
    if arguments.svg is not None:
        arguments.svg.write_text(picture(rounds))


if __name__ == "__main__":
    main()

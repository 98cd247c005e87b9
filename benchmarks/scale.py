"""Cost of experiments that are there: start of a worker, its memory and its CPU, and the store's, by their number.

    python benchmarks/scale.py [--experiments 0,1000,10000] [--cluster] [--seconds 60] [--busy 100] [--pages 0]

Each of the experiments runs and has met 20 decisions of which 10 are rewarded. A service of one worker is started on
their logs, settles, rests, and then decides `--busy` times a second for one experiment. It is started once more when
all have snapshots. CPU is user and system time as a share of one core; memory is resident, and the private part of it.
Bytes of the store are those of INFO memory beside an empty one.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import secrets
import selectors
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import redis
from http_load import cpu_s

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))
import services
from builders import exposed, rewards
from clusters import ThrowawayCluster
from services import ThrowawayService
from stores import ThrowawayStore

from bandit_serve.experiments.checks import validated
from bandit_serve.experiments.spec import Experiment, Record
from bandit_serve.log import events
from bandit_serve.log.fold import POLICY_FOLD
from bandit_serve.registry.registry import ANNOUNCED, ExperimentAnnounced
from bandit_serve.store.keys import BY_BUCKET, COMMON, Keys

EXPERIMENT = validated(
    msgspec.convert(
        {
            "id": "e",
            "arms": [{"name": "control"}, {"name": "challenger"}],
            "metrics": [{"name": "click", "kind": "binary"}],
            "policy": {"kind": "thompson"},
            "attribution": {"window": "1h", "missing": "ignore"},
        },
        Experiment,
    )
)
services.START_S = 600.0
N_DECISIONS = 20
AT_ONCE = 100


@contextlib.contextmanager
def connected(url: str) -> Iterator[tuple[Any, Keys]]:
    """Client of a server or cluster, and the names of its keys."""
    if not url.startswith("redis+cluster"):
        with redis.Redis.from_url(url) as client:
            yield client, Keys()
        return
    keys = Keys(layout=BY_BUCKET)
    with redis.RedisCluster.from_url(url.partition(",")[0].replace("redis+cluster", "redis")) as cluster:
        cluster.set(keys.layout_mark, str(keys.layout))
        yield cluster, keys


def fill(url: str, n: int) -> None:
    """Writes the logs of `n` running experiments, as the service would."""
    with connected(url) as (client, keys):
        for start in range(0, n, AT_ONCE):
            pipeline = client.pipeline(transaction=False)
            for number in range(start, min(start + AT_ONCE, n)):
                write_one(pipeline, keys, f"e{number}")
            pipeline.execute()


def write_one(pipeline: Any, keys: Keys, name: str) -> None:
    now_ms = time.time_ns() // 1_000_000
    experiment = msgspec.structs.replace(EXPERIMENT, id=name)
    record = Record(experiment, secrets.randbits(63), "draft", 1, now_ms, now_ms)
    started = msgspec.structs.replace(record, status="running", revision=2, started_ms=now_ms)
    pipeline.xadd(keys.log(COMMON), {ANNOUNCED: events.encode(ExperimentAnnounced(name))})
    created = events.Changed(record, events.Change("create", "benchmark"))
    running = events.Changed(started, events.Change("start", "benchmark")).without(record)
    for event in (created, running):
        pipeline.xadd(keys.log(name), {events.CHANGED: events.encode(event)})
    pipeline.set(keys.head(name), 2)
    arms = [number % 2 for number in range(N_DECISIONS)]
    made = exposed(0, arms, [now_ms] * N_DECISIONS)
    pipeline.xadd(keys.log(name), {events.EXPOSED: events.encode(made)})
    counters = range(0, N_DECISIONS, 2)
    rows = rewards(counters, values=[1.0] * len(counters), times_ms=now_ms, arms=arms[::2])
    pipeline.xadd(keys.log(name), {events.REWARDED: rows.tobytes()})


class Course(NamedTuple):
    """CPU of the worker and of the store, as shares of one core."""

    worker: float
    store: float

    def __str__(self) -> str:
        return f"worker {self.worker:.2%}, store {self.store:.2%}"


class Bench(NamedTuple):
    """Service on a store of `n` experiments."""

    n: int
    service: ThrowawayService
    stores: list[ThrowawayStore]

    def course(self, seconds: float) -> Course:
        began_s, before = time.monotonic(), self._cpu_s()
        time.sleep(seconds)
        took_s, after = time.monotonic() - began_s, self._cpu_s()
        return Course(*((now - then) / took_s for now, then in zip(after, before, strict=True)))

    def _cpu_s(self) -> tuple[float, float]:
        return cpu_s(self.service.worker_pids()), cpu_s([store.pid for store in self.stores])

    def tell(self, what: str, value: object) -> None:
        print(f"{self.n:>6} experiments, {what}: {value}", flush=True)

    def tell_memory(self) -> None:
        (pid,) = self.service.worker_pids()
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
        kib = {line.split(":")[0]: int(line.split()[1]) for line in lines}
        private = kib["Private_Clean"] + kib["Private_Dirty"]
        self.tell("worker's memory", f"{kib['Rss'] / 1024:.0f} MiB resident, {private / 1024:.0f} of its own")


def used_bytes(stores: list[ThrowawayStore]) -> int:
    total = 0
    for store in stores:
        with store.client() as client:
            if client.info("replication")["role"] == "master":
                total += client.info("memory")["used_memory"]
    return total


@contextlib.contextmanager
def started(bench: Bench, how: str) -> Iterator[None]:
    began_s = time.monotonic()
    with bench.service:
        took_s = time.monotonic() - began_s
        cpu = cpu_s(bench.service.worker_pids())
        bench.tell(f"start from {how}", f"{took_s:.1f} s until it is ready, {cpu:.1f} s of the worker's CPU")
        yield


def rest(bench: Bench, url: str, limit_s: float) -> None:
    """Returns when the last experiment has a snapshot, and the worker does little."""
    until_s, began_s = time.monotonic() + limit_s, time.monotonic()
    with connected(url) as (client, keys):
        newest = keys.snapshots(f"e{bench.n - 1}", POLICY_FOLD)
        while bench.n and not client.exists(newest):
            if time.monotonic() > until_s:
                bench.tell("not all have snapshots after", f"{limit_s:.0f} s")
                break
            time.sleep(1.0)
    bench.tell("first snapshots of all", f"{time.monotonic() - began_s:.0f} s after the start")
    time.sleep(5.0)


@contextlib.contextmanager
def deciding(service: ThrowawayService, per_second: int) -> Iterator[None]:
    ends = threading.Event()

    def decide() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", service.port)
        while not ends.wait(1.0 / per_second):
            connection.request(
                "POST", "/v1/experiments/e0/decide", b"{}", {"Content-Type": "application/json"}
            )
            connection.getresponse().read()

    thread = threading.Thread(target=decide)
    thread.start()
    try:
        yield
    finally:
        ends.set()
        thread.join()


@contextlib.contextmanager
def watching(service: ThrowawayService, pages: int) -> Iterator[None]:
    """Context in which so many pages of one experiment are open, each followed by a connection of its own."""
    with contextlib.ExitStack() as opened, contextlib.ExitStack() as reading:
        selector = opened.enter_context(selectors.DefaultSelector())
        for _ in range(pages):
            connection = opened.enter_context(socket.create_connection(("127.0.0.1", service.port)))
            connection.sendall(b"GET /experiments/e0/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
            selector.register(connection, selectors.EVENT_READ)
        ends = threading.Event()

        def read() -> None:
            while not ends.is_set():
                for key, _ in selector.select(0.2):
                    assert isinstance(key.fileobj, socket.socket)
                    key.fileobj.recv(2**20)

        thread = threading.Thread(target=read)
        reading.callback(thread.join)
        reading.callback(ends.set)
        thread.start()
        yield


def measure(n: int, arguments: argparse.Namespace) -> None:
    with contextlib.ExitStack() as running:
        folder = Path(running.enter_context(tempfile.TemporaryDirectory()))
        server = running.enter_context(
            ThrowawayCluster(replicas=0) if arguments.cluster else ThrowawayStore()
        )
        stores = server.nodes if isinstance(server, ThrowawayCluster) else [server]
        empty = used_bytes(stores)
        fill(server.url, n)
        bench = Bench(n, ThrowawayService(folder, store=server.url), stores)
        bench.tell("logs in the store", f"{(used_bytes(stores) - empty) / 2**20:.1f} MiB")
        with started(bench, "logs"):
            bench.tell_memory()
            rest(bench, server.url, arguments.patience)
            bench.tell("with snapshots in the store", f"{(used_bytes(stores) - empty) / 2**20:.1f} MiB")
            bench.tell_memory()
            bench.tell("at rest", bench.course(arguments.seconds))
            with deciding(bench.service, arguments.busy):
                at = f"at {arguments.busy} decisions a second"
                bench.tell(at, bench.course(arguments.seconds / 2))
                if n and arguments.pages:
                    with watching(bench.service, arguments.pages):
                        bench.tell(
                            f"{at} and {arguments.pages} open pages", bench.course(arguments.seconds / 2)
                        )
                        bench.tell_memory()
        with started(bench, "snapshots"):
            bench.tell_memory()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--experiments", default="0,1000,10000")
    parser.add_argument("--cluster", action="store_true", help="three masters in place of one server")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long the service is watched at rest")
    parser.add_argument("--patience", type=float, default=120.0, help="longest wait for the first snapshots")
    parser.add_argument("--busy", type=int, default=100, help="decisions a second for one experiment")
    parser.add_argument("--pages", type=int, default=0, help="pages of that experiment that are open then")
    arguments = parser.parse_args()
    for n in map(int, arguments.experiments.split(",")):
        measure(n, arguments)


if __name__ == "__main__":
    main()

"""Large model: time to load, memory, and the delay that scoring causes on the event loop.

    python benchmarks/large_model.py [--items 1220000] [--factors 128] [--workers 2]

The file has one user for four items, random factors with the norms of trained ones, and is in the page cache. Memory is
the proportional set size (Linux), of all workers together and over what they had before. The event loop is of the
workers' kind. Another process writes the time to it every millisecond: how much later it reads that, alone and while 16
clients ask for the ten best of all items, each for other users, so that no answer is cached. (A task that sleeps would
measure the loop's timers, too, which count whole milliseconds.) On few processors the loop also
waits for one while others run: what is left without that is how long its own process held it up.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import uvloop

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))
from large_models import proportional_bytes, write_large
from services import ThrowawayService, clean_environment
from stores import wait_until

from bandit_serve.api.decisions import ScoreRequest
from bandit_serve.models import Artifact, MatrixFactorization, load_model
from bandit_serve.server.worker import collect_less
from bandit_serve.serving.family_version import FamilyVersion
from bandit_serve.serving.top_k_cache import TopKCache

TICKER = """
import os, struct, time
while True:
    time.sleep(0.001)
    os.write(1, struct.pack("d", time.perf_counter()))
"""
CLIENTS = 16


def loading(path: Path) -> None:
    took, ranked = [], []
    for number in range(7):
        start = time.perf_counter()
        model = load_model(Artifact.map(path))
        took.append(time.perf_counter() - start)
        start = time.perf_counter()
        model.top_k(f"u{number}", 10)
        ranked.append(time.perf_counter() - start)
    print(f"load, page cache warm: {statistics.median(took):.3f} s (slowest {max(took):.3f})")
    print(f"the first top-10 after it: {statistics.median(ranked) * 1e3:.1f} ms")


def memory(path: Path, workers: int) -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        ThrowawayService(Path(folder) / "d", workers=workers) as service,
    ):
        command = [sys.executable, "-m", "bandit_serve", "models", "register", "large", str(path)]
        subprocess.run(
            [*command, "--data", str(service.data)],
            check=True,
            env=clean_environment(),
            stdout=subprocess.DEVNULL,
        )
        pids = service.worker_pids()
        before = sum(map(proportional_bytes, pids))
        versions = "/v1/models/large/versions/v1"
        assert service.call("POST", f"{versions}/status", {"status": "production"}).status == 200
        wait_until(lambda: len(service.call("GET", f"{versions}/load").body["workers"]) == workers, 60)
        for user in range(20 * workers):
            asked = service.call("POST", "/v1/models/large/predict", {"user_id": f"u{user}", "k": 10})
            assert asked.status == 200, asked
        taken = sum(map(proportional_bytes, pids)) - before
    print(
        f"memory of {workers} workers: {taken / 1e6:,.0f} MB ({taken / path.stat().st_size:.2f} of the file)"
    )


def waited_s() -> float:
    """Seconds that this thread was ready to run but had to wait for a processor (Linux)."""
    return int(Path("/proc/thread-self/schedstat").read_text().split()[1]) * 1e-9


@contextlib.contextmanager
def probed() -> Iterator[list[tuple[float, float]]]:
    """Seconds until the running loop reads a message, and the same without waits for a processor."""
    latencies: list[tuple[float, float]] = []
    with subprocess.Popen([sys.executable, "-c", TICKER], stdout=subprocess.PIPE) as ticker:
        assert ticker.stdout is not None
        pipe = ticker.stdout.fileno()
        before_s = waited_s()

        def read() -> None:
            nonlocal before_s
            now_s, now_waited_s = time.perf_counter(), waited_s()
            for (probed_s,) in struct.iter_unpack("d", os.read(pipe, 65_536)):
                late_s = now_s - probed_s
                latencies.append((late_s, max(0.0, late_s - (now_waited_s - before_s))))
            before_s = now_waited_s

        loop = asyncio.get_running_loop()
        loop.add_reader(pipe, read)
        try:
            yield latencies
        finally:
            loop.remove_reader(pipe)
            ticker.kill()


async def loop_latency(path: Path, seconds: float) -> None:
    version = FamilyVersion(MatrixFactorization.load(path), "sha", TopKCache(None, lifetime_s=60.0))

    async def ask(client: int, until: float) -> int:
        await asyncio.sleep(client / 100)
        n = 0
        while time.perf_counter() < until:
            request = ScoreRequest(user_id=f"u{client + CLIENTS * n}", k=10)
            answer = version.score(request)
            assert not isinstance(answer, dict)
            await answer
            n += 1
        return n

    for name, clients in (("alone", 0), (f"{CLIENTS} clients", CLIENTS)):
        with probed() as latencies:
            until = time.perf_counter() + seconds
            asked = await asyncio.gather(*(ask(client, until) for client in range(clients)))
            await asyncio.sleep(max(0.0, until - time.perf_counter()))
        late, held = np.sort(np.array(latencies) * 1e3, axis=0).T
        print(
            f"event loop, {name}: late by {np.median(late):.2f} ms, p99 {np.quantile(late, 0.99):.2f}, at most "
            f"{late[-1]:.2f}, or {held[-1]:.2f} without its waits for a processor; "
            f"{sum(asked) / seconds:,.0f} searches a second"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--items", type=int, default=1_220_000)
    parser.add_argument("--factors", type=int, default=128)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=5.0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.safetensors"
        size = write_large(path, given.items // 4, given.items, given.factors)
        print(f"{given.items:,} items, {given.factors} factors: a file of {size / 1e6:,.0f} MB")
        loading(path)
        memory(path, given.workers)
        collect_less()
        uvloop.run(loop_latency(path, given.seconds))


if __name__ == "__main__":
    main()

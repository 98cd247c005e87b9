"""Python client: CPU of a decision beside other HTTP clients, of a queued reward, its import and its installation.

    python benchmarks/client.py [--decisions 1000] [--rounds 7] [--install]

The figures are this process's CPU time (user and system) a call, the smallest of the rounds, each of which plays all
clients in turn against one service; in brackets the ratio to the bare client: `http.client` with `json` for threads,
aiohttp's for asyncio. Import is the CPU time that an interpreter takes with it, less that of one without; the median.
`--install` makes a wheel and a virtual environment and installs it there, its dependencies from the package index.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))
import aiohttp
import httpx
import urllib3
from bandit_serve_client import Client, OutboxSettings, Reward, SyncClient
from http_calls import running
from services import ThrowawayService, clean_environment

ROOT = Path(__file__).resolve().parent.parent
JSON = {"Content-Type": "application/json"}
BODY = {"unit": "ann"}
QUEUED = 10_000


def of_threads(url: str, port: int, path: str, experiment: str) -> dict[str, Callable[[], Any]]:
    """Calls that decide once, by the name of the client; the bare one first."""
    bare = http.client.HTTPConnection("127.0.0.1", port)
    pool, session, client = urllib3.PoolManager(), httpx.Client(), SyncClient(url)

    def ask_bare() -> Any:
        bare.request("POST", path, json.dumps(BODY), JSON)
        return json.loads(bare.getresponse().read())

    return {
        "http.client": ask_bare,
        "SyncClient": lambda: client.decide(experiment, unit="ann"),
        "urllib3": lambda: pool.request("POST", url + path, json=BODY).json(),
        "httpx": lambda: session.post(url + path, json=BODY).json(),
    }


async def of_loop(url: str, path: str, experiment: str, play: Callable[..., Awaitable[None]]) -> None:
    async with aiohttp.ClientSession() as bare, httpx.AsyncClient() as session, Client(url) as client:

        async def ask_bare() -> Any:
            async with bare.post(url + path, json=BODY) as response:
                return await response.json()

        async def ask_httpx() -> Any:
            return (await session.post(url + path, json=BODY)).json()

        await play(
            {
                "aiohttp": ask_bare,
                "Client": lambda: client.decide(experiment, unit="ann"),
                "httpx, asyncio": ask_httpx,
            }
        )


def show(figures: dict[str, list[float]]) -> None:
    bare_us = min(next(iter(figures.values())))
    for name, times in figures.items():
        print(f"{name:16} {min(times):7.0f} µs CPU a decision ({min(times) / bare_us:.2f})")


def measure_decisions(service: ThrowawayService, n: int, rounds: int) -> None:
    experiment = running(service)
    path = f"/v1/experiments/{experiment}/decide"
    calls = of_threads(service.url, service.port, path, experiment)
    figures: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            began = time.process_time()
            for _ in range(n):
                call()
            figures[name].append((time.process_time() - began) / n * 1e6)
    show(figures)

    async def play(calls: dict[str, Callable[[], Awaitable[Any]]]) -> None:
        figures: dict[str, list[float]] = {name: [] for name in calls}
        for _ in range(rounds):
            for name, call in calls.items():
                began = time.process_time()
                for _ in range(n):
                    await call()
                figures[name].append((time.process_time() - began) / n * 1e6)
        show(figures)

    asyncio.run(of_loop(service.url, path, experiment, play))


def measure_rewards(service: ThrowawayService) -> None:
    """A reward's way into the queue, and the queue's way to the service."""
    experiment = running(service)
    settings = OutboxSettings(max_queued=QUEUED, flush_every=3600.0, flush_at=1_000)
    with SyncClient(service.url) as client:
        tokens = [client.decide(experiment).decision_id or "" for _ in range(1_000)]
    with SyncClient(service.url, outbox=settings) as client:
        rewards = [Reward(tokens[i % 1_000], 1.0) for i in range(999)]
        began = time.perf_counter()
        for reward in rewards:
            client.queue(reward)
        print(f"{'queue':16} {(time.perf_counter() - began) / len(rewards) * 1e6:7.2f} µs a reward")
        for i in range(QUEUED - len(rewards)):
            client.queue(Reward(tokens[i % 1_000], 1.0))
        began, cpu = time.perf_counter(), time.process_time()
        n = client.n_queued
        assert client.flush(60)
        took_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu
        print(f"{'background':16} {cpu_s / n * 1e6:7.2f} µs CPU a reward, {n / took_s:,.0f} rewards a second")


def cpu_s(code: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", code], env=clean_environment(), check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure_import(rounds: int) -> None:
    pairs = [(cpu_s("pass"), cpu_s("import bandit_serve_client")) for _ in range(rounds)]
    bare_s, with_s = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(
        f"{'import':16} {(with_s - bare_s) * 1e3:7.0f} ms CPU, beside {bare_s * 1e3:.0f} ms of an interpreter"
    )


def measure_installation() -> None:
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        source = work / "client"
        subprocess.run(["cp", "-rL", str(ROOT / "clients" / "python"), str(source)], check=True)
        build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder]
        subprocess.run([*build, str(source)], check=True)
        (wheel,) = work.glob("*.whl")
        subprocess.run([sys.executable, "-m", "venv", str(work / "venv")], check=True)
        site = next((work / "venv" / "lib").glob("python*/site-packages"))
        before = size_of(site)
        began = time.perf_counter()
        pip = [str(work / "venv" / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, str(wheel)], check=True)
        took_s = time.perf_counter() - began
        mb = (size_of(site) - before) / 1e6
        print(f"{'pip install':16} {took_s:7.2f} s, {mb:.2f} MB with dependencies and byte code")


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--decisions", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--install", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as data, ThrowawayService(Path(data)) as service:
        measure_decisions(service, options.decisions, options.rounds)
        measure_rewards(service)
    measure_import(options.rounds)
    if options.install:
        measure_installation()


if __name__ == "__main__":
    main()

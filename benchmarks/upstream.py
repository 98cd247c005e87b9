"""CPU of a prediction that an upstream makes, beside a decision and a bare aiohttp client call, in one run.

    python benchmarks/upstream.py [--rounds 7] [--seconds 3] [--json FILE]

Each round measures, one after another and with as many requests under way at a time: CPU a call of a bare process that
posts the same question with aiohttp's client and reads the answer; CPU a request of the service for decisions; and for
predictions of one item whose arms are asked at the same upstream. The figure is the median over rounds of what the last
costs above the sum of the other two. The upstream is a process of its own, and its CPU is in none of them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import aiohttp
import http_load
import uvloop
from aiohttp import web
from http_load import JSON, Measured, cpu_s, free_port, measure, show
from services import ThrowawayService
from stores import ThrowawayStore

MAX_MORE_US = 35.0
CONNECTIONS = 32
ANSWER = json.dumps({"prediction": 0.123456789}).encode()
EXPERIMENT = http_load.EXPERIMENT
SERVED = [
    {"name": "latency_ms", "kind": "continuous", "goal": "minimize", "source": "served"},
    {"name": "error", "kind": "binary", "goal": "minimize", "source": "served"},
]


async def answer(port: int) -> None:
    """Serves the upstream."""

    async def handler(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(body=ANSWER, content_type="application/json")

    app = web.Application()
    app.router.add_post("/predict", handler)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    print("ready", flush=True)
    await asyncio.Event().wait()


async def call(url: str) -> None:
    """Calls the upstream with a bare client, for as many seconds as each line says, and writes how often it did."""
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    async with aiohttp.ClientSession() as session:
        while line := await lines.readline():
            until_s = loop.time() + float(line)

            async def caller(first: int, until_s: float = until_s) -> int:
                n_calls = 0
                while loop.time() < until_s:
                    number = first + CONNECTIONS * n_calls
                    body = json.dumps({"user_id": str(number % 600), "item_id": str(number % 9_000)}).encode()
                    async with session.post(url, data=body, headers={"Content-Type": JSON}) as response:
                        await response.read()
                    n_calls += 1
                return n_calls

            print(sum(await asyncio.gather(*map(caller, range(CONNECTIONS)))), flush=True)


def started(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def called(process: subprocess.Popen[str], seconds: float) -> Measured:
    assert process.stdin is not None
    assert process.stdout is not None
    before = cpu_s([process.pid])
    process.stdin.write(f"{seconds}\n")
    process.stdin.flush()
    n_calls = int(process.stdout.readline())
    return Measured((cpu_s([process.pid]) - before) / n_calls * 1e6, n_calls / seconds)


def run(rounds: int, seconds: float) -> dict[str, list[Measured]]:
    port = free_port()
    url = f"http://127.0.0.1:{port}/predict"
    upstream, client = started("--answer", str(port)), started("--call", url)
    assert upstream.stdout is not None
    assert upstream.stdout.readline().strip() == "ready"
    by_name: dict[str, list[Measured]] = {}
    with (
        tempfile.TemporaryDirectory() as directory,
        ThrowawayStore(appendfsync="everysec") as store,
        ThrowawayService(Path(directory), "--upstreams", url, store=store.url) as service,
    ):
        for version in ("v1", "v2"):
            described = {"version": version, "remote": {"url": url, "protocol": "json", "timeout": "5s"}}
            assert service.call("POST", "/v1/models/ranker/versions", described).status == 201
        for name, more in (("bench", []), ("measured", SERVED)):
            experiment = {**EXPERIMENT, "id": name, "metrics": [*EXPERIMENT["metrics"], *more]}
            assert service.call("POST", "/v1/experiments", experiment).status == 201
            assert service.call("POST", f"/v1/experiments/{name}/start").status == 200
        pids = service.worker_pids()
        units = [json.dumps({"unit": f"user-{i}"}).encode() for i in range(2_000)]
        pairs = [
            json.dumps({"user_id": str(i % 600), "item_id": str(i % 9_000)}).encode() for i in range(2_000)
        ]

        def asked(experiment: str, route: str, bodies: Sequence[bytes]) -> Measured:
            path = f"{service.url}/v1/experiments/{experiment}/{route}"
            return measure(pids, path, bodies, JSON, seconds, CONNECTIONS)

        try:
            for number in range(rounds):
                for name, figure in (
                    ("client call", called(client, seconds)),
                    ("decide", asked("bench", "decide", units)),
                    ("predict", asked("bench", "predict", pairs)),
                    ("predict, measured", asked("measured", "predict", pairs)),
                ):
                    by_name.setdefault(name, []).append(figure)
                    show(number, name, figure)
        finally:
            for process in (client, upstream):
                process.kill()
                process.communicate()
    return by_name


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--answer", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--call", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.answer is not None:
        uvloop.run(answer(arguments.answer))
    elif arguments.call is not None:
        uvloop.run(call(arguments.call))
    else:
        report(run(arguments.rounds, arguments.seconds), arguments.json)


def report(by_name: dict[str, list[Measured]], file: Path | None) -> None:
    rows = {name: statistics.median(each.cpu_us for each in figures) for name, figures in by_name.items()}
    sums = [
        call.cpu_us + decide.cpu_us
        for call, decide in zip(by_name["client call"], by_name["decide"], strict=True)
    ]
    for name in ("predict", "predict, measured"):
        more = [figure.cpu_us - base for figure, base in zip(by_name[name], sums, strict=True)]
        rows[f"{name}: more than both"] = statistics.median(more)
    for name, figure in rows.items():
        print(f"{name:34} {figure:10.1f} µs")
    print(f"bound for what a prediction costs more: {MAX_MORE_US} µs")
    if file is not None:
        file.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()

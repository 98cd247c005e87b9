"""ONNX versions: requests a second over HTTP, and how late the event loop is beside their runs.

    python benchmarks/onnx_serving.py [--rounds 3] [--seconds 5] [--rate 1000]

Both are measured in one run with a random forest of 100 trees over 20 features, exported by skl2onnx. Over HTTP, one
worker answers `predict` of an experiment with two such arms; beside it a bare aiohttp handler takes and gives as many
bytes. CPU is the worker's own. In one process, clients ask a version at `--rate` requests a second while another
process writes to a pipe: the loop is late by the time from a message's writing to its reading. That is said twice, also
without the time that the thread waited for a processor, which other work on the machine adds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
from http_load import JSON, Measured, bare, measure
from large_model import probed

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))
from graphs import random_forest
from http_calls import upload
from services import ThrowawayService
from stores import ThrowawayStore

from bandit_serve.api.decisions import ScoreRequest
from bandit_serve.models.onnx.admission import admit_onnx
from bandit_serve.models.onnx.file import OnnxFile
from bandit_serve.models.onnx.session import Session
from bandit_serve.serving.onnx_version import OnnxVersion
from bandit_serve.serving.servable import Scores

CONNECTIONS = 32
EXPERIMENT = {
    "id": "bench",
    "arms": [
        {"name": "control", "model": "forest", "version": "v1"},
        {"name": "challenger", "model": "forest", "version": "v2"},
    ],
    "policy": {"kind": "thompson", "min_share": 0.02},
    "metrics": [{"name": "click", "kind": "binary"}],
    "attribution": {"window": "1h", "missing": "ignore"},
}


def over_http(rounds: int, seconds: float) -> None:
    rows = random_forest().features
    bodies = [
        json.dumps({"unit": f"user-{i}", "features": rows[i % len(rows)]}).encode() for i in range(2_000)
    ]
    with (
        tempfile.TemporaryDirectory() as directory,
        ThrowawayStore(appendfsync="everysec") as store,
        ThrowawayService(Path(directory), store=store.url) as service,
    ):
        for seed in (0, 1):
            assert upload(service, "forest", random_forest(seed).content, {}).status == 201
        assert service.call("POST", "/v1/experiments", EXPERIMENT).status == 201
        assert service.call("POST", "/v1/experiments/bench/start").status == 200
        path = "/v1/experiments/bench/predict"
        answer = service.call("POST", path, json.loads(bodies[0])).body
        process, bare_url = bare(len(json.dumps(answer, separators=(",", ":"))))
        try:
            figures: dict[str, list[Measured]] = {"bare handler": [], "predict": []}
            for _ in range(rounds):
                for name, url, pids in (
                    ("bare handler", bare_url, [process.pid]),
                    ("predict", service.url + path, service.worker_pids()),
                ):
                    figures[name].append(measure(pids, url, bodies, JSON, seconds, CONNECTIONS))
        finally:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
    for name, measured in figures.items():
        cpu_us, per_s = (statistics.median(column) for column in zip(*measured, strict=True))
        print(f"HTTP, {name}: {per_s:,.0f} requests a second, {cpu_us:,.0f} µs of CPU each")


async def loop_latency(seconds: float, rate: float) -> None:
    exported = random_forest()
    version = OnnxVersion(Session(exported.content, admit_onnx(OnnxFile(exported.content))))
    requests = [ScoreRequest(features=row) for row in exported.features]

    async def ask(until: float) -> list[float]:
        """Asks at the rate, whether earlier requests were answered or not; returns the seconds of each."""
        latencies: list[float] = []

        def answered(asked_s: float, scores: asyncio.Future[Scores]) -> None:
            latencies.append(time.perf_counter() - asked_s)

        asked = 0
        started = time.perf_counter()
        while (now := time.perf_counter()) < until:
            while asked < (now - started) * rate:
                scores = version.score(requests[asked % len(requests)])
                scores.add_done_callback(partial(answered, time.perf_counter()))
                asked += 1
            await asyncio.sleep(0.0005)
        while len(latencies) < asked:
            await asyncio.sleep(0.01)
        return latencies

    for name, asking in (("alone", False), (f"{rate:,.0f} requests a second", True)):
        answers: list[float] = []
        with probed() as latencies:
            until = time.perf_counter() + seconds
            if asking:
                answers = await ask(until)
            await asyncio.sleep(max(0.0, until - time.perf_counter()))
        late, held = np.sort(np.array(latencies) * 1e3, axis=0).T
        print(
            f"event loop, {name}: late by {np.median(late):.2f} ms, p99 {np.quantile(late, 0.99):.2f}, at most "
            f"{late[-1]:.2f}, or p99 {np.quantile(held, 0.99):.2f}, at most {held[-1]:.2f} without its waits for a "
            f"processor; {len(answers) / seconds:,.0f} answers a second"
            + (f", median {np.median(answers) * 1e3:.2f} ms" if answers else "")
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rate", type=float, default=1_000.0)
    given = parser.parse_args()
    over_http(given.rounds, given.seconds)
    asyncio.run(loop_latency(given.seconds, given.rate))


if __name__ == "__main__":
    main()

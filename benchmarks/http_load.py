"""CPU per request of the service and of a bare aiohttp handler, in one run.

    python benchmarks/http_load.py [--rounds 5] [--seconds 3] [--json FILE]

Each round loads the bare handler and each route of the service in turn; the figure is the median over rounds of the
ratio in a round (bare / ours: 1.0 is as cheap as the bare handler). CPU is the worker's own user and system time:
deciding, flushing and reading the log are in it, the store's process and the load generator are not.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import load
import msgpack
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))
from services import ThrowawayService
from stores import ThrowawayStore

from bandit_serve.models import MatrixFactorization

JSON, MSGPACK = "application/json", "application/msgpack"
TICK_S = 1.0 / os.sysconf("SC_CLK_TCK")
EXPERIMENT = {
    "id": "bench",
    "arms": [
        {"name": "control", "model": "ranker", "version": "v1"},
        {"name": "challenger", "model": "ranker", "version": "v2"},
    ],
    "policy": {"kind": "thompson", "min_share": 0.02},
    "metrics": [{"name": "click", "kind": "binary"}],
    "attribution": {"window": "1h", "missing": "ignore"},
}


class Measured(NamedTuple):
    cpu_us: float
    per_s: float


def cpu_s(pids: Sequence[int]) -> float:
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks * TICK_S


def measure(
    pids: Sequence[int],
    url: str,
    bodies: Sequence[bytes],
    content_type: str,
    seconds: float,
    connections: int,
) -> Measured:
    before = cpu_s(pids)
    by_route = load.run(url, bodies, content_type=content_type, seconds=seconds, connections=connections)
    spent = cpu_s(pids) - before
    if by_route.errors:
        raise SystemExit(f"{by_route.errors} of {by_route.requests} requests to {url} failed")
    return Measured(spent / by_route.requests * 1e6, by_route.requests / by_route.seconds)


def register_models(service: ThrowawayService, directory: Path) -> None:
    rng = np.random.default_rng(0)
    for seed, version in enumerate(["v1", "v2"]):
        model = MatrixFactorization(64, seed=seed, n_epochs=1)
        model.fit(rng.integers(0, 600, 20_000), rng.integers(0, 9_000, 20_000), rng.uniform(0.5, 5.0, 20_000))
        model.save(directory / "model.safetensors")
        metadata = json.dumps({"version": version}).encode()
        parts = [("metadata", metadata), ("artifact", (directory / "model.safetensors").read_bytes())]
        body = b"".join(
            b'--cut\r\nContent-Disposition: form-data; name="%s"; filename="f"\r\n\r\n%s\r\n'
            % (name.encode(), part)
            for name, part in parts
        )
        headers = {"Content-Type": "multipart/form-data; boundary=cut"}
        answer = service.call("POST", "/v1/models/ranker/versions", body + b"--cut--\r\n", headers)
        assert answer.status == 201, answer


def tokens(service: ThrowawayService, n: int) -> list[str]:
    by_route: list[str] = []
    body = msgpack.packb({"units": [f"u{i}" for i in range(10_000)]})
    while len(by_route) < n:
        answer = service.call("POST", "/v1/experiments/bench/decide/batch", body, {"Content-Type": MSGPACK})
        by_route += msgpack.unpackb(answer.body)["decision_ids"]
    return by_route[:n]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def bare(size: int) -> tuple[subprocess.Popen[str], str]:
    port = free_port()
    command = [sys.executable, str(Path(__file__).with_name("bare_handler.py")), str(port), str(size)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "ready"
    return process, f"http://127.0.0.1:{port}/bare"


def routes(
    service: ThrowawayService, seconds: float, connections: int = 32
) -> dict[str, Callable[[], Measured]]:
    base, pids = service.url, service.worker_pids()
    decide = [json.dumps({"unit": f"user-{i}"}).encode() for i in range(2_000)]
    predict = [
        json.dumps({"user_id": str(i % 600), "item_id": str(i % 9_000)}).encode() for i in range(2_000)
    ]
    units = msgpack.packb({"units": [f"user-{i}" for i in range(1_000)]})

    def single_rewards() -> Measured:
        bodies = [
            json.dumps({"decision_id": token, "value": i % 2}).encode()
            for i, token in enumerate(tokens(service, int(45_000 * seconds)))
        ]
        return measure(pids, f"{base}/v1/rewards", bodies, JSON, seconds, connections)

    def reward_batches() -> Measured:
        all_tokens = tokens(service, int(120_000 * seconds))
        bodies = [
            msgpack.packb(
                {"rewards": [{"decision_id": token, "value": 1.0} for token in all_tokens[i : i + 1_000]]}
            )
            for i in range(0, len(all_tokens), 1_000)
        ]
        return measure(pids, f"{base}/v1/rewards", bodies, MSGPACK, seconds, 4)

    return {
        "decide": lambda: measure(
            pids, f"{base}/v1/experiments/bench/decide", decide, JSON, seconds, connections
        ),
        "predict": lambda: measure(
            pids, f"{base}/v1/experiments/bench/predict", predict, JSON, seconds, connections
        ),
        "reward": single_rewards,
        "decide/batch": lambda: measure(
            pids, f"{base}/v1/experiments/bench/decide/batch", [units], MSGPACK, seconds, 4
        ),
        "rewards/batch": reward_batches,
    }


@contextlib.contextmanager
def serving(workers: int) -> Iterator[ThrowawayService]:
    """Runs a service with a running experiment, on a store of its own."""
    with (
        tempfile.TemporaryDirectory() as directory,
        ThrowawayStore(appendfsync="everysec") as store,
        ThrowawayService(Path(directory), store=store.url, workers=workers) as service,
    ):
        register_models(service, Path(directory))
        assert service.call("POST", "/v1/experiments", EXPERIMENT).status == 201
        assert service.call("POST", "/v1/experiments/bench/start").status == 200
        yield service


def run(rounds: int, seconds: float, workers: int) -> dict[str, Any]:
    by_route: dict[str, list[Measured]] = {}
    with serving(workers) as service:
        answer = service.call("POST", "/v1/experiments/bench/decide", {"unit": "user-1"})
        process, url = bare(len(json.dumps(answer.body, separators=(",", ":"))))
        bodies = [json.dumps({"unit": f"user-{i}"}).encode() for i in range(2_000)]
        try:
            for number in range(rounds):
                measured = {"bare": measure([process.pid], url, bodies, JSON, seconds, 32)}
                for name, route in routes(service, seconds).items():
                    measured[name] = route()
                for name, figure in measured.items():
                    by_route.setdefault(name, []).append(figure)
                    show(number, name, figure)
        finally:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
    return summary(by_route)


def show(number: int, name: str, figure: Measured) -> None:
    print(f"round {number + 1} {name:18} {figure.cpu_us:10.1f} µs {figure.per_s:10.0f}/s", flush=True)


def summary(by_route: dict[str, list[Measured]]) -> dict[str, Any]:
    rows: dict[str, Any] = {}
    for name, figures in by_route.items():
        rows[name] = {
            "cpu_us": statistics.median(f.cpu_us for f in figures),
            "per_s": statistics.median(f.per_s for f in figures),
            "bare/ours": statistics.median(
                base.cpu_us / ours.cpu_us for base, ours in zip(by_route["bare"], figures, strict=True)
            ),
        }
    for name in ("decide/batch", "rewards/batch"):
        rows[name]["entries_per_core_s"] = 1_000 / rows[name]["cpu_us"] * 1e6
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = run(arguments.rounds, arguments.seconds, arguments.workers)
    print(
        f"\nmedians of {arguments.rounds} rounds, {arguments.workers} worker(s), load from {load.generator()}"
    )
    for name, row in rows.items():
        more = f"  {row['entries_per_core_s']:12,.0f} entries/core s" if "entries_per_core_s" in row else ""
        print(
            f"{name:14} {row['cpu_us']:10.1f} µs  {row['per_s']:10,.0f}/s  bare/ours {row['bare/ours']:.2f}{more}"
        )
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()

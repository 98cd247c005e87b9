"""Worst requests of every route: their cost for the worker, and the latency that another caller sees.

    python benchmarks/worst_requests.py [--only TEXT …] [--experiments 600] [--versions 60] [--changes 300]

A service of one worker gets the largest experiments and models that are legal; then each route gets the worst bodies
that its limits allow, or that were worst before there were limits. For each: bytes in, status, bytes out, CPU seconds
of the worker until it rests again, the longest answer to a small request beside it, and the worker's resident memory
before, at its peak and after. A route of the service without a row here is an error.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgpack
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))
from http_calls import upload
from large_models import write_large
from services import ThrowawayService

from bandit_serve.server.routes import ROUTES

JSON, MSGPACK = "application/json", "application/msgpack"
TICK_S = 1.0 / os.sysconf("SC_CLK_TCK")
TIMEOUT_S = 600.0
# A worker that spends less than this in a tenth of a second does only its background work.
RESTING_S = 0.02
PAYLOAD = "x" * 65_534
REASON = "\u0001" * 1_000
METRICS = [{"name": "m", "kind": "continuous"}]
IGNORE = {"window": "1h", "missing": "ignore"}
N = 10_000


class Worst(NamedTuple):
    """Request to measure; its path has no placeholders left."""

    label: str
    what: str
    method: str
    path: str
    body: bytes = b""
    content_type: str = JSON


class Measured(NamedTuple):
    status: int
    out: int
    cpu_s: float
    stall_ms: float
    before_mb: float
    peak_mb: float
    after_mb: float


class Worker:
    """Measures the only worker of a service from outside."""

    def __init__(self, service: ThrowawayService, prober: subprocess.Popen[str]) -> None:
        self.service = service
        self.pid = service.worker_pids()[0]
        self._prober = prober

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) * TICK_S

    def memory_mb(self, field: str) -> float:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) / 1024
        raise SystemExit(f"the worker has no {field}")

    def longest_ms(self) -> float:
        assert self._prober.stdin is not None
        assert self._prober.stdout is not None
        self._prober.stdin.write("\n")
        self._prober.stdin.flush()
        return float(self._prober.stdout.readline())

    def rest(self) -> None:
        """Returns when the worker is idle, and has been for longer than it may have waited for a processor."""
        quiet = 0
        for _ in range(round(TIMEOUT_S / 0.1)):
            before = self.cpu_s()
            self.service.call("GET", "/health/live", timeout_s=TIMEOUT_S)
            time.sleep(0.1)
            quiet = quiet + 1 if self.cpu_s() - before <= RESTING_S else 0
            if quiet == 5:
                return

    def measure(self, worst: Worst) -> Measured:
        self.rest()
        self.longest_ms()
        before_s, before_mb = self.cpu_s(), self.memory_mb("VmRSS")
        # Forgets the peak.
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")
        status, out = send(self.service.url, worst)
        self.rest()
        spent_s = self.cpu_s() - before_s
        return Measured(
            status,
            out,
            spent_s,
            self.longest_ms(),
            before_mb,
            self.memory_mb("VmHWM"),
            self.memory_mb("VmRSS"),
        )


def send(url: str, worst: Worst) -> tuple[int, int]:
    host, _, port = url.removeprefix("http://").partition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=TIMEOUT_S)
    headers = {"Content-Type": worst.content_type} if worst.body else {}
    # Refused before all of it was read, the answer is there.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        connection.request(worst.method, worst.path, worst.body or None, headers)
    try:
        response = connection.getresponse()
        out = 0
        while chunk := response.read(2**20):
            out += len(chunk)
    except (ConnectionResetError, http.client.BadStatusLine):
        return 0, 0
    finally:
        connection.close()
    return response.status, out


class World:
    """Largest experiments and models that the service accepts."""

    def __init__(self, service: ThrowawayService, directory: Path, arguments: argparse.Namespace) -> None:
        self.service = service
        artifact = directory / "model.safetensors"
        write_large(artifact, 1_000, 20_000, 16)
        self.artifact = artifact.read_bytes()
        note = "x" * 60_000
        for i in range(arguments.versions):
            done = upload(service, "ranker", self.artifact, {"version": f"v{i}", "metadata": {"note": note}})
            self.need(done.status == 201, done)
        self.do("POST", "/v1/models/ranker/versions/v0/status", {"status": "production"})
        self.make("heavy", arms=[{"name": "a", "payload": PAYLOAD}, {"name": "b", "payload": PAYLOAD}])
        model = {"model": "ranker", "version": "v0", "payload": PAYLOAD}
        self.make("scored", arms=[{"name": "a", **model}, {"name": "b", **model}])
        self.wide_arms = [f"arm-{i}" for i in range(1_000)]
        binary = [{"name": "m", "kind": "binary"}]
        arms = [{"name": name} for name in self.wide_arms]
        self.make("wide", arms=arms, metrics=binary, policy={"kind": "thompson"})
        context = [{"name": "c", "kind": "categorical", "buckets": 508}, {"name": "n", "kind": "numeric"}]
        names = [f"arm-{i}" for i in range(30)]
        for name, missing in (("contextual", "ignore"), ("waiting", "zero")):
            attribution = {"window": "5s", "missing": missing} if missing == "zero" else IGNORE
            arms = [{"name": each} for each in names]
            policy = {"kind": "lin_ucb"}
            self.make(name, arms=arms, context=context, policy=policy, attribution=attribution)
        self.bulk = self.rewards("contextual", 4_500, wild=True)
        self.calm = self.rewards("contextual", 4_500, wild=False)
        # One shared model of the largest order that is taken here.
        arms = [{"name": each, "features": [float(i)]} for i, each in enumerate(names)]
        for buckets in (508, 252):
            context = [{"name": "c", "kind": "categorical", "buckets": buckets}]
            try:
                self.make("shared", arms=arms, context=context, policy={"kind": "lin_ts"})
                break
            except SystemExit:
                continue
        self.shared = self.rewards("shared", 1_000, wild=False)
        self.make("users", unit="user", metrics=[{"name": "m", "kind": "continuous"}])
        self.tokens = self.of_users(N)
        for i in range(300):
            arms = [{"name": f"arm-{k}", "payload": PAYLOAD[:1_000]} for k in range(2)]
            self.make(f"flag-{i}", unit="user", arms=arms)
        self.flags = self.evaluated()
        for i in range(arguments.experiments):
            self.draft(f"listed-{i}", arms=[{"name": "a", "payload": PAYLOAD}])
        self.make("changed")
        for i in range(arguments.changes):
            move = "start" if i % 2 else "pause"
            self.do("POST", f"/v1/experiments/changed/{move}", {"reason": REASON})

    def need(self, condition: bool, observed: Any) -> None:
        if not condition:
            raise SystemExit(f"the world can not be made: {str(observed)[:300]}")

    def do(self, method: str, path: str, body: Any = None) -> Any:
        answer = self.service.call(method, path, body, timeout_s=120.0)
        self.need(answer.status < 300, answer)
        return answer.body

    def draft(self, name: str, **changes: Any) -> None:
        plain = {"arms": [{"name": "a"}, {"name": "b"}], "metrics": METRICS, "attribution": IGNORE}
        self.do(
            "POST", "/v1/experiments", {"id": name, "policy": {"kind": "fixed_split"}, **plain, **changes}
        )

    def make(self, name: str, **changes: Any) -> None:
        self.draft(name, **changes)
        self.do("POST", f"/v1/experiments/{name}/start")

    def decide(self, name: str, n: int, *, wild: bool) -> list[str]:
        """Makes n decisions and returns their tokens; `wild` contexts differ as much as they may."""
        random = np.random.default_rng(0)
        tokens: list[str] = []
        for start in range(0, n, 500):
            requests = [
                {"context": {"c": i, "n": float(random.normal() * (1e6 if wild else 1.0))}}
                for i in range(start, min(start + 500, n))
            ]
            answer = self.do("POST", f"/v1/experiments/{name}/decide/batch", {"requests": requests})
            tokens += [each["decision_id"] for each in answer["responses"]]
        return tokens

    def of_users(self, n: int) -> list[str]:
        """Tokens of n decisions in `users`, of a user each."""
        requests = [{"unit": f"u{i}"} for i in range(n)]
        answer = self.do("POST", "/v1/experiments/users/decide/batch", {"requests": requests})
        return [each["decision_id"] for each in answer["responses"]]

    def evaluated(self) -> list[str]:
        """Tokens of 10,000 decisions that are no exposures yet."""
        tokens: list[str] = []
        for i in range(N):
            if len(tokens) >= N:
                break
            answer = self.do("POST", "/ofrep/v1/evaluate/flags", {"context": {"targetingKey": f"u{i}"}})
            given = [flag["metadata"].get("decision_id") for flag in answer["flags"]]
            tokens += [token for token in given if token is not None]
        return tokens[:N]

    def rewards(self, name: str, n: int, *, wild: bool) -> bytes:
        rewards = [{"decision_id": token, "value": 1.0} for token in self.decide(name, n, wild=wild)]
        return json.dumps({"rewards": rewards}).encode()


def packed(body: Any) -> bytes:
    packed_body: bytes = msgpack.packb(body)
    return packed_body


def as_json(body: Any) -> bytes:
    return json.dumps(body).encode()


def worst_requests(world: World) -> Iterator[Worst]:
    def route(method: str, path: str, **named: str) -> Callable[..., Worst]:
        real = path
        for name, value in named.items():
            real = real.replace("{" + name + "}", value)

        def made(what: str, body: bytes = b"", content_type: str = JSON, query: str = "") -> Worst:
            return Worst(f"{method} {path}", what, method, real + query, body, content_type)

        return made

    for path in ("/health/live", "/health/ready", "/openapi.json", "/"):
        yield route("GET", path)("as it is")
    yield route("GET", "/metrics")("all these experiments")
    yield route("GET", "/v1/stats")("all these experiments")

    rewards = route("POST", "/v1/rewards")
    yield rewards(
        "10,000 of 4,096 characters each, none ours",
        as_json({"rewards": [{"decision_id": "A" * 1_500, "value": 1.0}] * N}),
    )
    yield rewards("16 MB of entries that are none", b'{"rewards":[' + b"1," * 8_000_000 + b"1]}")
    yield rewards("4,500 with 512 features", world.calm)
    yield rewards("4,500 with 512 features, far apart", world.bulk)
    yield rewards("1,000 for one model of all arms", world.shared)

    events = [
        {"decision_id": token, "value": 0.1, "event_id": f"order-{i}"} for i, token in enumerate(world.tokens)
    ]
    yield rewards("10,000 events of a user each", as_json({"rewards": events}))
    one_user = [{**each, "decision_id": world.tokens[0]} for each in events]
    yield rewards("10,000 events of one decision", as_json({"rewards": one_user}))
    by_unit = [
        {"experiment": "users", "unit": f"u{i}", "value": 0.1, "event_id": f"call-{i}"} for i in range(N)
    ]
    yield rewards("10,000 by unit", as_json({"rewards": by_unit}))
    strangers = [{**each, "unit": f"stranger-{i}"} for i, each in enumerate(by_unit)]
    yield rewards("10,000 of units that were not seen", as_json({"rewards": strangers}))
    exposures = route("POST", "/v1/exposures")
    yield exposures("10,000 on demand", as_json({"decision_ids": world.flags}))
    yield exposures(
        "10,000 of 4,096 characters each, none ours", as_json({"decision_ids": ["A" * 1_500] * N})
    )

    flags = "/ofrep/v1/evaluate/flags"
    context = {"targetingKey": "u", **{f"f{i}": "x" * 100 for i in range(2_000)}}
    yield route("POST", flags)("300 of them, and 240 kB of context", as_json({"context": context}))
    yield route("POST", flags + "/{experiment}", experiment="flag-1")(
        "240 kB of context", as_json({"context": context})
    )

    decide = "/v1/experiments/{experiment}/decide"
    wide = route("POST", decide, experiment="wide")
    yield wide("a subset of 1,000 arms", as_json({"eligible": world.wide_arms[:997]}))
    yield wide("16 MB of eligible", b'{"eligible":[' + b'"a",' * 4_000_000 + b'"a"]}')
    yield wide(
        "a million values in MessagePack",
        b"\x81" + packed("eligible") + b"\xdd\x00\x0f\x00\x00" + b"\xa1a" * 983_040,
        MSGPACK,
    )
    yield route("POST", decide, experiment="contextual")("30 models of 512", as_json({"context": {"n": 3.0}}))
    yield route("POST", decide, experiment="shared")("one model of all arms", as_json({"context": {"c": 3}}))

    batch = route("POST", decide + "/batch", experiment="heavy")
    yield batch("40 kB, payloads of 64 kB", b'{"requests":[' + b"{}," * (N - 1) + b"{}]}")
    yield batch("16 MB of requests", b'{"requests":[' + b"{}," * 5_000_000 + b"{}]}")
    wide_batch = route("POST", decide + "/batch", experiment="wide")
    subsets = [{"eligible": world.wide_arms[i : i + 900]} for i in range(100)]
    yield wide_batch("100 subsets of 1,000 arms", as_json({"requests": subsets}))
    context_batch = route("POST", decide + "/batch", experiment="contextual")
    contexts = [{str(j): None for j in range(60)} for _ in range(N)]
    yield context_batch(
        "10,000 contexts, in columns", packed({"units": ["u"] * N, "contexts": contexts}), MSGPACK
    )
    waiting = route("POST", decide + "/batch", experiment="waiting")
    yield waiting("10,000 that wait 5 s for rewards", as_json({"requests": [{"context": {"n": 1.0}}] * N}))

    item_ids = [f"i{i}".ljust(256, "x") for i in range(N)]
    one = {"user_id": "u1"}
    predict = "/v1/experiments/{experiment}/predict"
    scored = route("POST", predict, experiment="scored")
    yield scored("10,000 items", as_json({**one, "item_ids": item_ids}))
    yield scored("1,000 of 20,000 items, without 10,000", as_json({**one, "k": 1_000, "exclude": item_ids}))
    scored_batch = route("POST", predict + "/batch", experiment="scored")
    yield scored_batch("10,000 of k = 1,000", as_json({"requests": [{**one, "k": 1_000}] * N}))
    yield scored_batch("400 of k = 250", as_json({"requests": [{**one, "k": 250}] * 400}))
    for path in ("/v1/models/{model}/predict", "/v1/models/{model}/versions/{version}/predict"):
        score = route("POST", path, model="ranker", version="v1")
        yield score("10,000 items", as_json({**one, "item_ids": item_ids}))
        yield score("1,000 of 20,000 items", as_json({**one, "k": 1_000}))

    users = {"name": "user_id", "datatype": "BYTES", "shape": [N], "data": ["u1"] * N}
    items = {"name": "item_id", "datatype": "BYTES", "shape": [N], "data": item_ids}
    named = {"model": "ranker", "version": "v1"}
    for path in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
        infer = route("POST", path + "/infer", **named)
        yield infer("10,000 pairs", as_json({"inputs": [users, items]}))
        best = {"inputs": [{**users, "shape": [100], "data": ["u1"] * 100}], "parameters": {"k": 1_000}}
        yield infer("1,000 of 20,000 items for 100 users", as_json(best))
        yield route("GET", path, **named)("as it is")
        yield route("GET", path + "/ready", **named)("as it is")
    routed = route("POST", "/v2/models/{model}/infer", model="scored")
    yield routed("10,000 decisions", as_json({"inputs": [users, items]}))
    yield routed(
        "16 MB of numbers",
        b'{"inputs":[{"name":"x","datatype":"FP64","shape":[4000000],"data":[' + b"1," * 3_999_999 + b"1]}]}",
    )
    yield route("POST", "/v2/repository/index")("all experiments and models", b"{}")
    for path in ("/v2", "/v2/health/live", "/v2/health/ready"):
        yield route("GET", path)("as it is")

    create = route("POST", "/v1/experiments")
    plain = {"id": "new", "arms": [{"name": "a"}], "metrics": METRICS, "policy": {"kind": "lin_ucb"}}
    fields = [f"f{i}" for i in range(3)]
    context: list[Any] = [
        {"name": name, "kind": "categorical", "buckets": 1_000, "interactions": fields[i + 1 :]}
        for i, name in enumerate(fields)
    ]
    yield create("3 million features in 400 bytes", as_json({**plain, "context": context}))
    context = [{"name": f"field{i}", "kind": "numeric"} for i in range(25_000)]
    yield create("25,000 context fields", as_json({**plain, "context": context}))
    context = [{"name": "n", "kind": "numeric", "interactions": [f"o{i}" for i in range(20_000)]}]
    yield create("20,000 interactions", as_json({**plain, "context": context}))
    tiny = b"[" + b"[]," * 20_000 + b"1]"
    arms = b",".join(b'{"name":"a%d","payload":%b}' % (i, tiny) for i in range(200))
    head = b'{"id":"tiny","metrics":[{"name":"m","kind":"continuous"}],"arms":['
    yield create("12 MB of tiny containers", head + arms + b"]}")
    arms_of_size = [{"name": f"a{i}", "payload": PAYLOAD} for i in range(240)]
    split = {**plain, "id": "sized", "policy": {"kind": "fixed_split"}}
    yield create("16 MB of payloads", as_json({**split, "arms": arms_of_size}))
    sized = as_json({**split, "arms": arms_of_size[:16]})
    yield create("1 MB of payloads", sized)
    yield route("GET", "/v1/experiments")("all of them")
    show = "/v1/experiments/{experiment}"
    yield route("GET", show, experiment="sized")("1 MB of payloads")
    yield route("PUT", show, experiment="sized")("1 MB of payloads", sized)
    yield route("PUT", show + "/policy", experiment="contextual")(
        "another policy for 30 models of 512", as_json({"kind": "lin_ts"})
    )
    yield route("PUT", show + "/policy", experiment="sized")(
        "with 1 MB of payloads", as_json({"kind": "thompson"})
    )
    shares = {f"arm-{i}": 1.0 for i in range(60_000)}
    yield route("PUT", show + "/policy", experiment="wide")(
        "1 MB of shares", as_json({"kind": "fixed_split", "shares": shares})
    )
    yield route("POST", show + "/arms", experiment="contextual")(
        "one arm more with 512 coefficients", as_json({"name": "more", "payload": PAYLOAD})
    )
    reason = as_json({"reason": REASON})
    arm = show + "/arms/{arm}"
    yield route("POST", arm + "/pause", experiment="wide", arm="arm-7")("a reason", reason)
    yield route("POST", arm + "/resume", experiment="wide", arm="arm-7")("a reason", reason)
    yield route("DELETE", arm, experiment="wide", arm="arm-7")("a reason", reason)
    yield route("POST", show + "/pause", experiment="sized")("a draft", reason)
    yield route("POST", show + "/start", experiment="sized")("with 1 MB of payloads", reason)
    yield route("POST", show + "/pause", experiment="sized")("with 1 MB of payloads", reason)
    yield route("GET", show + "/results", experiment="contextual")("after all that")
    yield route("GET", show + "/results", experiment="wide")("1,000 arms")
    yield route("GET", show + "/history", experiment="changed")("all changes")
    yield route("POST", show + "/stop", experiment="sized")(
        "16 MB of reason", as_json({"reason": "x" * 16_000_000})
    )
    yield route("POST", show + "/stop", experiment="sized")("with 1 MB of payloads", reason)
    yield route("DELETE", show, experiment="sized")("with 1 MB of payloads", reason)

    model, version = "/v1/models/{model}", "/v1/models/{model}/versions/{version}"
    ranker = {"model": "ranker", "version": "v1"}
    yield route("GET", "/v1/models")("all of them")
    yield route("GET", model, **ranker)("all versions")
    yield route("GET", model + "/versions", **ranker)("a text in each", query="?limit=1000&text=xxxxy")
    yield route("GET", model + "/versions", **ranker)("a page of 1,000", query="?limit=1000")
    yield route("GET", model + "/compare", **ranker)("two versions", query="?a=v1&b=v2")
    yield route("GET", version, **ranker)("60 kB of metadata")
    yield route("GET", version + "/agreement", **ranker)("as it is")
    yield route("GET", version + "/load", **ranker)("as it is")
    yield route("POST", version + "/load", **ranker)("a model of 20,000 items")
    metrics = {f"m{i}": 1.5 for i in range(4_000)}
    yield route("PATCH", version, **ranker)("60 kB of metrics", as_json({"metrics": metrics}))
    yield route("PATCH", version, **ranker)(
        "16 MB of metadata", as_json({"metadata": {"x": "x" * 16_000_000}})
    )
    yield route("POST", version + "/status", **ranker)(
        "a reason", as_json({"status": "production", "reason": REASON})
    )
    yield route("POST", model + "/rollback", **ranker)("a reason", reason)
    boundary = b"b" * 32
    part = b"--" + boundary + b'\r\nContent-Disposition: form-data; name="metadata"\r\n\r\n'
    form = part + as_json({"metadata": {"x": "x" * 70_000}}) + b"\r\n--" + boundary + b"--\r\n"
    yield route("POST", model + "/versions", **ranker)(
        "metadata above its bound", form, f"multipart/form-data; boundary={boundary.decode()}"
    )


def check_all_routes(rows: list[Worst]) -> None:
    missing = {route.label for route in ROUTES} - {worst.label for worst in rows}
    if missing:
        raise SystemExit(f"no worst request for {', '.join(sorted(missing))}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="*", help="rows whose route or description has one of these texts")
    parser.add_argument("--experiments", type=int, default=600, help="in the list, of 64 kB each")
    parser.add_argument("--versions", type=int, default=60, help="of the model, with 60 kB of metadata each")
    parser.add_argument("--changes", type=int, default=300, help="in the history")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        with ThrowawayService(directory / "data") as service:
            world = World(service, directory, arguments)
            rows = list(worst_requests(world))
            check_all_routes(rows)
            host, _, port = service.url.removeprefix("http://").partition(":")
            with subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("health_prober.py")), host, port],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            ) as prober:
                try:
                    print_table(Worker(service, prober), rows, arguments.only)
                finally:
                    prober.terminate()


def print_table(worker: Worker, rows: list[Worst], only: list[str] | None) -> None:
    print("| route | worst | bytes in | status | bytes out | CPU s | stall ms | MB before, peak, after |")
    print("|---|---|---|---|---|---|---|---|")
    for worst in rows:
        if only is None or any(text in f"{worst.label} {worst.what}" for text in only):
            got = worker.measure(worst)
            memory = f"{got.before_mb:.0f}, {got.peak_mb:.0f}, {got.after_mb:.0f}"
            print(
                f"| `{worst.label}` | {worst.what} | {len(worst.body):,} | {got.status} | {got.out:,} "
                f"| {got.cpu_s:.2f} | {got.stall_ms:.0f} | {memory} |",
                flush=True,
            )


if __name__ == "__main__":
    main()

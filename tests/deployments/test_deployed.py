"""Deployments in a real engine: images, containers, and the versions that they serve."""

from __future__ import annotations

import fcntl
import http.client
import json
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import graphs
import numpy as np
import pytest
from commands import Finished, bandit_serve
from engines import TestEngine, service_image, test_engine
from killing_proxy import KillingProxy
from scale import scaled
from services import ThrowawayService, clean_environment
from stores import ThrowawayStore, wait_until

from bandit_serve.deployments.image import LABEL
from bandit_serve.models import MatrixFactorization

MB = 10**6
KEYS = {"name", "container_id", "image", "status", "health", "url", "exit_code"}


@pytest.fixture(scope="module")
def engine() -> Iterator[TestEngine]:
    with test_engine() as found:
        yield found


@pytest.fixture(scope="module")
def image(engine: TestEngine) -> str:
    return service_image(engine)


@pytest.fixture(autouse=True)
def alone(request: pytest.FixtureRequest) -> Iterator[None]:
    """Has the engine to itself, as other processes test, too; and nothing of a test is left in it."""
    if "engine" not in request.fixturenames:
        yield
        return
    with open(Path(tempfile.gettempdir(), "bandit-serve-test-engine.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
        left = request.getfixturevalue("engine").containers()
        names = [each.name for each in left]
        for each in left:
            each.remove(force=True, v=True)
        assert not names or request.session.testsfailed, names


class Shop(NamedTuple):
    """Registry in a store of its own, with versions of a model, and commands on it."""

    engine: TestEngine
    store: ThrowawayStore
    data: Path
    docker: str | None = None

    def flags(self) -> list[str]:
        return ["--store", self.store.url, "--data", str(self.data)]

    def run(self, *arguments: str) -> Finished:
        environment = {"DOCKER_HOST": self.docker or self.engine.address}
        return bandit_serve("deploy", *arguments, *self.flags(), environment=environment)

    def done(self, *arguments: str) -> Any:
        ran = self.run(*arguments, "--json")
        assert ran.status == 0, ran.err
        return ran.document

    def status(self, version: str) -> dict[str, Any]:
        shown = bandit_serve("models", "show", "m", version, *self.flags(), "--json")
        assert shown.status == 0, shown.err
        document: dict[str, Any] = shown.document
        return document


@pytest.fixture
def shop(engine: TestEngine, store: ThrowawayStore, tmp_path: Path) -> Shop:
    made = Shop(engine, store, tmp_path / "data")
    generator = np.random.default_rng(3)
    for version in ("v1", "v2"):
        users, items = generator.integers(0, 30, 600), generator.integers(0, 20, 600)
        model = MatrixFactorization()
        model.fit(users, items, generator.integers(1, 6, 600).astype(np.float64))
        model.save(tmp_path / version)
        file = str(tmp_path / version)
        ran = bandit_serve("models", "register", "m", file, "--version", version, *made.flags())
        assert ran.status == 0, ran.err
    return made


def free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return str(listener.getsockname()[1])


def call(url: str, path: str, body: Any = None) -> Any:
    request = urllib.request.Request(
        url + path,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.loads(response.read() or b"null")


def container(engine: TestEngine, name: str) -> Any:
    return engine.client.containers.get(name)


INFER = {
    "inputs": [
        {"name": "user_id", "shape": [1], "datatype": "BYTES", "data": ["1"]},
        {"name": "item_id", "shape": [1], "datatype": "BYTES", "data": ["2"]},
    ]
}


def test_an_image_is_safe_to_run_and_not_large(engine: TestEngine, image: str) -> None:
    found = engine.client.images.get(image)
    base = engine.client.images.get(engine.base)
    # With a base of 125 MB, as the slim ones are, less than 250 MB.
    assert found.attrs["Size"] - base.attrs["Size"] < 125 * MB
    config = found.attrs["Config"]
    assert config["User"] == "10001:10001"
    assert config["Volumes"] == {"/data": {}}
    assert config["StopSignal"] == "SIGTERM"
    assert config["Healthcheck"]["Test"][0] == "CMD"
    assert config["Labels"][LABEL] == "1"
    assert config["Labels"]["org.opencontainers.image.version"]
    assert config["Entrypoint"] == ["bandit-serve"]


def test_a_deployment_from_its_start_to_its_end(shop: Shop, image: str) -> None:
    port = free_port()
    ran = shop.done("run", "shop", "--tag", image, "--port", port, "--memory", "700m", "--cpus", "1.5")
    assert ran.keys() - {"ready"} == KEYS
    assert (ran["name"], ran["image"], ran["status"], ran["health"]) == ("shop", image, "running", "healthy")
    assert (ran["url"], ran["exit_code"]) == (f"http://127.0.0.1:{port}", None)
    assert call(ran["url"], "/health/ready")["status"] == "ready"
    assert shop.done("status", "shop") == {**ran, "ready": True}
    assert shop.done("list")["deployments"] == [{key: ran[key] for key in KEYS}]
    assert any("is ready on" in line for line in shop.done("logs", "shop")["lines"])
    running = container(shop.engine, "shop")
    host = running.attrs["HostConfig"]
    assert running.labels["bandit_serve.deployment"] == "shop"
    assert (host["Memory"], host["NanoCpus"]) == (700 * 2**20, 1_500_000_000)
    assert host["Init"] is True
    assert host["ReadonlyRootfs"] is True
    assert host["CapDrop"] == ["ALL"]
    assert host["RestartPolicy"]["Name"] == "unless-stopped"
    assert host["PortBindings"] == {"8000/tcp": [{"HostIp": "127.0.0.1", "HostPort": port}]}
    taken = shop.run("run", "shop", "--tag", image, "--port", free_port())
    assert (taken.status, "already" in taken.err) == (1, True)
    port_taken = shop.run("run", "other", "--tag", image, "--port", port)
    assert (port_taken.status, "is taken" in port_taken.err) == (1, True)
    stopped = shop.done("stop", "shop", "--timeout", "20s")
    assert (stopped["status"], stopped["exit_code"]) == ("removed", 0)
    assert shop.done("list") == {"deployments": []}
    for command in ("status", "logs", "stop"):
        gone = shop.run(command, "shop")
        assert (gone.status, "There is no deployment 'shop'" in gone.err) == (1, True)


def test_it_serves_traffic_as_a_user_who_can_write_nowhere_else(shop: Shop, image: str) -> None:
    url = shop.done("run", "shop", "--tag", image, "--port", free_port())["url"]
    body = {
        "id": "e",
        "arms": [{"name": "a"}, {"name": "b"}],
        "metrics": [{"name": "click", "kind": "binary"}],
        "policy": {"kind": "thompson"},
        "attribution": {"missing": "ignore"},
    }
    call(url, "/v1/experiments", body)
    call(url, "/v1/experiments/e/start", {})
    for i in range(200):
        decided = call(url, "/v1/experiments/e/decide", {"unit": f"u{i}"})
        counted = call(url, "/v1/rewards", {"decision_id": decided["decision_id"], "value": i % 2})
        assert counted["accepted"] == 1
    wait_until(lambda: sum(arm["n"] for arm in _arms(call(url, "/v1/experiments/e/results"))) == 200)
    running = container(shop.engine, "shop")
    assert running.exec_run(["id", "-u"]).output.strip() == b"10001"
    for place in ("/here", "/opt/bandit-serve/here", "/etc/passwd"):
        assert running.exec_run(["touch", place]).exit_code != 0
    assert running.exec_run(["touch", "/tmp/here", "/data/here"]).exit_code == 0
    assert running.exec_run(["sh", "-c", "command -v gcc cc"]).exit_code != 0
    shop.done("stop", "shop")


def _arms(results: Any) -> list[dict[str, Any]]:
    arms = results["arms"]
    return [each["metrics"]["click"] for each in (arms.values() if isinstance(arms, dict) else arms)]


def test_sigterm_drains_a_request_that_is_under_way(shop: Shop, image: str) -> None:
    url = shop.done("run", "shop", "--tag", image, "--port", free_port())["url"]
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=60)
    body = json.dumps({"experiments": []}).encode()
    connection.putrequest("POST", "/v1/plan")
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body[:5])
    running = container(shop.engine, "shop")
    ending = threading.Thread(target=running.stop, kwargs={"timeout": 30})
    ending.start()
    # It refuses others when it drains.
    wait_until(lambda: not _accepts(url))
    connection.send(body[5:])
    assert connection.getresponse().status == 400
    ending.join()
    shown = shop.done("status", "shop")
    assert (shown["status"], shown["exit_code"], shown["ready"]) == ("exited", 0, False)
    assert shop.done("stop", "shop")["exit_code"] == 0


def _accepts(url: str) -> bool:
    try:
        call(url, "/health/ready")
    except OSError:
        return False
    return True


def test_sigterm_in_the_first_second_is_heeded(engine: TestEngine, image: str) -> None:
    for after_s in (0.0, 0.2, 0.5):
        running = engine.client.containers.run(image, ["serve", "--insecure"], detach=True, init=True)
        try:
            time.sleep(after_s)
            running.stop(timeout=30)
            running.reload()
            assert running.attrs["State"]["ExitCode"] in (0, 143), after_s
        finally:
            running.remove(force=True, v=True)


KILL_FIRST_CHILD = """
import os, signal
for pid in filter(str.isdigit, os.listdir("/proc")):
    stat = open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()
    if stat[1] == "1" and b"bandit-serve" in open(f"/proc/{pid}/cmdline", "rb").read():
        os.kill(int(pid), signal.SIGKILL)
"""


def test_what_is_killed_starts_again_with_its_data(shop: Shop, image: str) -> None:
    url = shop.done("run", "shop", "--tag", image, "--port", free_port())["url"]
    body = {"id": "kept", "arms": [{"name": "a"}], "metrics": [{"name": "x", "kind": "count"}]}
    body["attribution"] = {"missing": "zero"}
    call(url, "/v1/experiments", body)
    running = container(shop.engine, "shop")
    began = running.attrs["State"]["StartedAt"]
    running.exec_run(["python", "-c", KILL_FIRST_CHILD])
    wait_until(lambda: _state(running)["StartedAt"] != began and _accepts(url), 120.0)
    assert call(url, "/v1/experiments/kept")["id"] == "kept"
    shop.done("stop", "shop")


def _state(running: Any) -> dict[str, Any]:
    running.reload()
    state: dict[str, Any] = running.attrs["State"]
    return state


def test_a_version_and_its_status_follow_the_deployment(shop: Shop, image: str) -> None:
    port = free_port()
    served = ("--model", "m", "--version", "v1", "--environment", "staging")
    upstream = f"http://127.0.0.1:{port}"
    shown = shop.done("run", "ranker", "--tag", image, "--port", port, *served, "--upstreams", upstream)
    assert (shown["model"], shown["version"], shown["environment"]) == ("m", "v1", "staging")
    version = shop.status("v1")
    assert (version["status"], version["remote"]["url"]) == ("staged", upstream)
    (output,) = call(upstream, "/v2/models/m/infer", INFER)["outputs"]
    model = MatrixFactorization.load(shop.data.parent / "v1")
    assert output["data"] == pytest.approx([float(model.predict(1, 2))], abs=1e-6)
    again = shop.run("run", "second", "--tag", image, "--port", free_port(), *served)
    assert (again.status, "is served by the deployment ranker" in again.err) == (1, True)
    shop.done("stop", "ranker")
    version = shop.status("v1")
    assert version["status"] == "retired"
    assert "remote" not in version
    assert len(shop.engine.client.images.list(filters={"dangling": True, "label": LABEL})) == 0


def test_a_version_that_does_not_become_ready_has_failed(shop: Shop, image: str) -> None:
    flags = ("--model", "m", "--version", "v1", "--environment", "production", "--wait", "1ms")
    ran = shop.run("run", "ranker", "--tag", image, "--port", free_port(), *flags)
    assert (ran.status, "was not ready within 1ms" in ran.err) == (1, True)
    version = shop.status("v1")
    assert version["status"] == "failed"
    assert "was not ready" in version["reason"]
    assert shop.done("list") == {"deployments": []}
    broken = ("--model", "m", "--version", "v2", "--env", "BANDIT_SERVE_WORKERS=none")
    ran = shop.run("run", "ranker", "--tag", image, "--port", free_port(), *broken)
    assert (ran.status, "ended with status 2" in ran.err, "workers" in ran.err) == (1, True, True)


def test_what_can_not_be_started_leaves_the_registry_as_it_was(shop: Shop, image: str) -> None:
    before = shop.status("v1")
    served = ("--model", "m", "--version", "v1", "--environment", "production")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = str(listener.getsockname()[1])
        ran = shop.run("run", "ranker", "--tag", image, "--port", port, *served)
    assert (ran.status, "is taken" in ran.err) == (1, True)
    ran = shop.run("run", "ranker", "--tag", "no-such-image:1", "--port", port, *served)
    assert (ran.status, "no image" in ran.err) == (1, True)
    away = shop._replace(docker="unix:///nowhere/docker.sock")
    ran = away.run("run", "ranker", "--tag", image, "--port", port, *served)
    assert (ran.status, "No container engine answers" in ran.err) == (1, True)
    assert shop.run("run", "ranker", "--tag", image, "--port", port, "--model", "m").status == 2
    unknown = ("--model", "m", "--version", "v9")
    ran = shop.run("run", "ranker", "--tag", image, "--port", port, *unknown)
    assert (ran.status, "upstreams" in ran.err) == (1, True)
    assert shop.status("v1") == before
    assert shop.done("list") == {"deployments": []}


RUN_POINTS = [
    (f"POST {path}", after)
    for path in (
        "/containers/create",
        "/containers/[0-9a-f]+/start",
        "/containers/[0-9a-f]+/update",
        "/containers/[0-9a-f]+/rename",
    )
    for after in (False, True)
]
STOP_POINTS = [
    (at, after)
    for at in (
        "POST /containers/[0-9a-f]+/rename",
        "POST /containers/[0-9a-f]+/stop",
        "DELETE /containers/[0-9a-f]+",
    )
    for after in (False, True)
]


def killed_at(shop: Shop, at: str, after: bool, *arguments: str) -> None:
    """Runs a command of `deploy` and kills it at one request to the engine."""
    started: list[subprocess.Popen[bytes]] = []
    with KillingProxy(shop.engine.address, at, after, lambda: started[0].kill()) as proxy:
        command = [sys.executable, "-m", "bandit_serve", "deploy", *arguments, *shop.flags()]
        started.append(
            subprocess.Popen(
                [*command, "--docker", proxy.address], env=clean_environment(), stderr=subprocess.PIPE
            )
        )
        _, said = started[0].communicate(timeout=300)
        assert (proxy.met, started[0].returncode) == (True, -9), said


SHADOW = ("--model", "m", "--version", "v1", "--environment", "shadow")


@pytest.mark.parametrize(("at", "after"), RUN_POINTS[:: scaled(3, 1)])
def test_a_start_that_is_killed_is_finished_or_undone(shop: Shop, image: str, at: str, after: bool) -> None:
    killed_at(shop, at, after, "run", "ranker", "--tag", image, "--port", free_port(), *SHADOW)
    deployments = shop.done("list")["deployments"]
    status = shop.status("v1")["status"]
    if not deployments:
        assert (status, shop.engine.containers()) == ("staged", [])
        # The version is served at once as if nothing had been.
        shop.done("run", "ranker", "--tag", image, "--port", free_port(), *SHADOW)
    else:
        (only,) = deployments
        assert (only["name"], only["status"], status) == ("ranker", "running", "shadow")
        assert call(only["url"], "/v2/models/m/infer", INFER)["model_version"] == "v1"
    # Only after the registry's event there is something to finish.
    assert bool(deployments) == ("rename" in at or "update" in at)
    shop.done("stop", "ranker")
    assert shop.status("v1")["status"] == "retired"


@pytest.mark.parametrize(("at", "after"), STOP_POINTS[:: scaled(3, 1)])
def test_a_stop_that_is_killed_is_finished(shop: Shop, image: str, at: str, after: bool) -> None:
    shop.done("run", "ranker", "--tag", image, "--port", free_port(), *SHADOW)
    killed_at(shop, at, after, "stop", "ranker")
    deployments = shop.done("list")["deployments"]
    status = shop.status("v1")["status"]
    if "rename" in at and not after:
        (only,) = deployments
        assert (only["name"], only["status"], status) == ("ranker", "running", "shadow")
        shop.done("stop", "ranker")
    else:
        assert (deployments, status, shop.engine.containers()) == ([], "retired", [])


def test_what_needs_the_registry_is_listed_as_unfinished_without_it(shop: Shop, image: str) -> None:
    served = ("--model", "m", "--version", "v1")
    killed_at(
        shop,
        "POST /containers/[0-9a-f]+/start",
        True,
        "run",
        "ranker",
        "--tag",
        image,
        "--port",
        free_port(),
        *served,
    )
    environment = {"DOCKER_HOST": shop.engine.address}
    listed = bandit_serve("deploy", "list", "--json", "--data", shop.data / "none", environment=environment)
    assert [each["status"] for each in listed.document["deployments"]] == ["unfinished"]
    assert shop.done("list") == {"deployments": []}


def predicted(service: ThrowawayService, name: str, i: int) -> Any:
    answer = service.call("POST", f"/v1/experiments/{name}/predict", {"user_id": str(i % 30), "item_id": "2"})
    assert answer.status == 200, answer
    return answer.body


def test_a_canary_that_fails_is_rolled_back_by_itself(shop: Shop, image: str) -> None:
    port = free_port()
    upstream = f"http://127.0.0.1:{port}"
    allowed = ("--upstreams", upstream)
    served = ("--model", "m", "--version", "v2", "--environment", "staging")
    shop.done("run", "candidate", "--tag", image, "--port", port, *served, *allowed)
    with ThrowawayService(shop.data, *allowed, store=shop.store.url) as service:
        body = {
            "id": "models",
            "arms": [{"name": "now", "model": "m", "version": "v1"}],
            "metrics": [{"name": "click", "kind": "binary"}],
            "policy": {"kind": "fixed_split"},
            "attribution": {"missing": "ignore"},
        }
        assert service.call("POST", "/v1/experiments", body).status == 201
        assert service.call("POST", "/v1/experiments/models/start").status == 200
        canary = ("canary", "m", "v2", "--experiment", "models", "--ramp", "0.3:1s", *allowed)
        shown = shop.done(*canary)
        assert (shown["arm"], shown["paused"]) == ("canary-v2", False)
        assert shop.done(*canary) == shown
        arms = {predicted(service, "models", i)["arm"] for i in range(60)}
        assert arms == {"now", "canary-v2"}
        container(shop.engine, "candidate").stop(timeout=10)
        numbers = iter(range(10**9))

        def rolled_back() -> bool:
            for _ in range(20):
                predicted(service, "models", next(numbers))
            record = service.call("GET", "/v1/experiments/models").body
            return bool(record["arm_status"]["canary-v2"] == "paused")

        wait_until(rolled_back, 300.0)
        assert {predicted(service, "models", i)["arm"] for i in range(60)} == {"now"}
        (last,) = service.call("GET", "/v1/experiments/models/history").body["history"][-1:]
        assert (last["what"], last["who"], last["arm"]) == ("pause_arm", "guardrail", "canary-v2")
    shop.done("stop", "candidate", *allowed)


def test_it_is_the_same_over_http(shop: Shop, image: str) -> None:
    with ThrowawayService(shop.data, "--docker", shop.engine.address, store=shop.store.url) as service:
        port = int(free_port())
        serving = {"model": "m", "version": "v1", "environment": "shadow"}
        body = {"name": "ranker", "tag": image, "port": port, "serving": serving}
        made = service.call("POST", "/v1/deployments", body, timeout_s=200)
        assert (made.status, made.body["status"]) == (201, "running"), made
        assert service.call("POST", "/v1/deployments", body).status == 409
        assert service.call("GET", "/v1/deployments/ranker").body == {**made.body, "ready": True}
        (listed,) = service.call("GET", "/v1/deployments").body["deployments"]
        assert listed["container_id"] == made.body["container_id"]
        assert service.call("GET", "/v1/deployments/ranker/logs?lines=5").body["lines"]
        assert shop.status("v1")["status"] == "shadow"
        stopped = service.call("POST", "/v1/deployments/ranker/stop", {"timeout": "20s"}, timeout_s=100)
        assert (stopped.status, stopped.body["exit_code"]) == (200, 0)
        assert shop.status("v1")["status"] == "retired"
        assert service.call("GET", "/v1/deployments/ranker").status == 404
        assert service.call("POST", "/v1/deployments", {**body, "tag": "none:1"}).status == 404


@pytest.mark.skipif(not scaled(0, 1), reason="an image with onnxruntime is built at full scale")
def test_an_onnx_version_gets_an_image_that_can_serve_it(shop: Shop) -> None:
    file = shop.data.parent / "graph.onnx"
    file.write_bytes(graphs.arithmetic())
    assert bandit_serve("models", "register", "g", file, "--version", "v1", *shop.flags()).status == 0
    tag, port = "bandit-serve-test-onnx:1", free_port()
    served = ("--model", "g", "--version", "v1")
    environment = {"DOCKER_HOST": shop.engine.address}
    words = ["--tag", tag, "--base", shop.engine.base, "--network", "host", *served, *shop.flags(), "--json"]
    built = subprocess.run(
        [sys.executable, "-m", "bandit_serve", "deploy", "build", *words],
        env=clean_environment() | environment,
        check=True,
        capture_output=True,
    )
    assert json.loads(built.stdout)["version"] == "v1"
    try:
        url = shop.done("run", "sums", "--tag", tag, "--port", port, *served)["url"]
        inputs = [
            {"name": name, "shape": [1, 1], "datatype": "FP32", "data": [value]}
            for name, value in (("a", 1.5), ("b", 2.25))
        ]
        (output,) = call(url, "/v2/models/g/infer", {"inputs": inputs})["outputs"]
        assert output["data"] == [3.75]
        shop.done("stop", "sums")
    finally:
        shop.engine.client.images.remove(tag, force=True)

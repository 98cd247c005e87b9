"""Refused uploads leave no file behind, and remove no file that another version uses."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import socket
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from commands import bandit_serve, save_model
from http_calls import check_problem, new_name, upload
from services import ThrowawayService
from stores import ThrowawayStore, wait_until

from bandit_serve.errors import Conflict, InvalidArtifact, InvalidInput
from bandit_serve.models import artifact as artifacts_module
from bandit_serve.node import Node
from bandit_serve.registry.registry import Version
from bandit_serve.settings import Settings

NO_METRICS: dict[str, Any] = {"metrics": {}, "metadata": {}}


def files(service: ThrowawayService) -> set[str]:
    return {path.name for path in (Path(service.data) / "artifacts").iterdir()}


def test_a_refused_upload_leaves_nothing(service: ThrowawayService, tmp_path: Path) -> None:
    taken = new_name("model")
    kept = save_model(tmp_path / "kept", (3.0, 1.0)).read_bytes()
    assert upload(service, taken, kept, {"version": "v1"}).status == 201
    before = files(service)
    other = save_model(tmp_path / "other", (2.0, 5.0, 1.0)).read_bytes()
    path = f"/v1/models/{taken}/versions"
    refused = [
        (upload(service, taken, other, {"version": "v1"}), 409),
        (upload(service, taken, other, {"version": "v2", "status": "retired"}), 409),
        (upload(service, taken, other, {"version": "v2", "metadata": {"n": 2**70}}), 400),
        (upload(service, taken, other, {"version": "../v"}), 400),
        (upload(service, taken, other, {"version": "v2", "unknown": 1}), 400),
        (upload(service, taken, other, b"no json"), 400),
        (upload(service, taken, b"no model", {"version": "v2"}), 400),
        (upload(service, taken, other[:-1], {"version": "v2"}), 400),
        (upload(service, taken, None, {"version": "v2"}), 400),
        # Content that a version has: its file stays.
        (upload(service, taken, kept, {"version": "v1"}), 409),
    ]
    for answer, status in refused:
        check_problem(answer, status)
    assert files(service) == before
    boundary = b"b"
    head = b'--b\r\nContent-Disposition: form-data; name="artifact"\r\n\r\n' + other
    with socket.create_connection(("127.0.0.1", service.port)) as caller:
        caller.sendall(
            b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=%s\r\n"
            b"Content-Length: 9999999\r\n\r\n%s" % (path.encode(), boundary, head)
        )
        caller.settimeout(0.3)
        with contextlib.suppress(TimeoutError):
            caller.recv(1)
    wait_until(lambda: files(service) == before)
    assert service.call("GET", f"/v1/models/{taken}").body["versions"][0]["version"] == "v1"
    ran = bandit_serve(
        "models", "register", taken, tmp_path / "other", "--version", "v1", "--data", service.data
    )
    assert (ran.status, files(service)) == (1, before)


@pytest.fixture(params=["local", "store", "fsspec"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str | None:
    if request.param == "fsspec":
        pytest.importorskip("fsspec")
    return {"local": None, "store": "store", "fsspec": f"file://{tmp_path}/shared"}[request.param]


def with_nodes(
    store: ThrowawayStore,
    tmp_path: Path,
    place: str | None,
    work: Callable[[Node, Node], Coroutine[Any, Any, None]],
) -> None:
    """Two sets of parts as on two machines, with a data directory each if files are kept elsewhere, or a shared one."""

    async def run() -> None:
        nodes = []
        for name in ("one", "two") if place else ("one", "one"):
            settings = Settings(data=str(tmp_path / name), artifacts=place, namespace="n", store_timeout="5s")
            nodes.append(Node(settings, store.url))
        following = []
        for node in nodes:
            await node.tail.load()
            following.append(asyncio.create_task(node.tail.run()))
        try:
            await work(*nodes)
        finally:
            for task in following:
                task.cancel()
            await asyncio.gather(*following, return_exceptions=True)
            for node in nodes:
                await node.store.close()

    asyncio.run(run())


def everywhere(store: ThrowawayStore, tmp_path: Path) -> list[str]:
    left = [path.name for path in tmp_path.rglob("*") if path.is_file() and path.name != "model"]
    with store.client() as client:
        return left + [str(key) for key in client.scan_iter("*artifact*")]


def test_of_uploads_of_one_content_at_once_the_registered_ones_keep_it(
    store: ThrowawayStore, tmp_path: Path, place: str | None
) -> None:
    """One in two is refused after its file was placed, as another took the name meanwhile."""
    path = save_model(tmp_path / "model")

    async def work(one: Node, two: Node) -> None:
        for round_number in range(6):
            name = f"m{round_number}"
            tries = [
                node.model_changes.register(name, path, "me", version=f"v{k // 4}", **NO_METRICS)
                for k, node in enumerate([one, two] * 4)
            ]
            results = await asyncio.gather(*tries, return_exceptions=True)
            made = [each for each in results if isinstance(each, Version)]
            assert {each.version for each in made} == {"v0", "v1"}
            assert all(isinstance(each, Version | Conflict) for each in results), results
            for node in (one, two):
                assert node.artifacts.open(made[0].sha256).sha256 == made[0].sha256
            for node in (one, two):
                names = [each.name for each in node.artifacts.root.iterdir()]
                assert names == [f"{made[0].sha256}.safetensors"]

    with_nodes(store, tmp_path, place, work)


@pytest.mark.parametrize(
    "fault", [{"metadata": {"n": 2**70}}, {"version": "taken"}, {"status": "retired"}, {"check": True}]
)
def test_what_is_refused_at_any_step_is_nowhere(
    store: ThrowawayStore, tmp_path: Path, place: str | None, fault: dict[str, Any]
) -> None:
    path = tmp_path / "model"

    async def work(one: Node, two: Node) -> None:
        await one.model_changes.register("m", save_model(path), "me", version="taken", **NO_METRICS)
        before = sorted(everywhere(store, tmp_path))
        save_model(path, (1.0, 2.0, 3.0, 4.0))
        wishes = {**NO_METRICS, **fault}
        if wishes.pop("check", False):
            path.write_bytes(path.read_bytes()[:-3])
        with pytest.raises((Conflict, InvalidInput, InvalidArtifact)):
            await one.model_changes.register("m", path, "me", **wishes)
        assert sorted(everywhere(store, tmp_path)) == before

    with_nodes(store, tmp_path, place, work)


def test_what_a_process_that_died_left_is_taken_back_a_day_later(
    store: ThrowawayStore, tmp_path: Path, place: str | None
) -> None:
    path = tmp_path / "model"

    async def work(one: Node, two: Node) -> None:
        artifacts = one.artifacts
        used = await one.model_changes.register("m", save_model(path), "me", **NO_METRICS)
        before = sorted(everywhere(store, tmp_path))
        # As far as a process may come: placed, and nobody registers it; or registered, and the copy is still there.
        save_model(path, (1.0, 2.0, 3.0, 4.0))
        lost = await asyncio.to_thread(artifacts.receive, path)
        again = await asyncio.to_thread(artifacts.receive, save_model(tmp_path / "model"))
        for received in (lost, again):
            await asyncio.to_thread(artifacts.place, received)
        (artifacts.root / f"{artifacts_module.PUT}half").write_bytes(b"half")
        await one.model_changes.sweep()
        assert sorted(everywhere(store, tmp_path)) != before, "what came lately may still be registered"
        long_ago = lost.copy.stat().st_mtime - artifacts_module.ABANDONED_AFTER_S - 60
        for left in artifacts.root.glob(".*"):
            os.utime(left, (long_ago, long_ago))
        await one.model_changes.sweep()
        assert sorted(everywhere(store, tmp_path)) == before
        assert (await asyncio.to_thread(two.artifacts.open, used.sha256)).sha256 == used.sha256

    with_nodes(store, tmp_path, place, work)


def test_files_of_others_in_the_folder_are_never_swept(store: ThrowawayStore, tmp_path: Path) -> None:
    """Another installation may keep its files in the same folder: only what our uploads left is ours to take."""

    async def work(one: Node, two: Node) -> None:
        await one.model_changes.register("m", save_model(tmp_path / "model"), "me", **NO_METRICS)
        theirs = one.artifacts.path("a" * 64)
        theirs.write_bytes(b"theirs")
        os.utime(theirs, (1.0, 1.0))
        await one.model_changes.sweep()
        assert theirs.read_bytes() == b"theirs"

    with_nodes(store, tmp_path, None, work)


def test_a_model_that_is_missing_is_said_and_asked_for_again(tmp_path: Path) -> None:
    """As the control, as the only arm, without an experiment, at the start of a worker; then its file comes back."""
    with ThrowawayService(tmp_path / "data") as service:
        for version, ratings in (("v1", (4.0, 5.0)), ("v2", (1.0, 2.0, 3.0))):
            artifact = save_model(tmp_path / version, ratings).read_bytes()
            assert upload(service, "m", artifact, {"version": version}).status == 201
        status = {"status": "production"}
        assert service.call("POST", "/v1/models/m/versions/v1/status", status).status == 200
        both = [{"name": name, "model": "m", "version": f"v{k + 1}"} for k, name in enumerate(["a", "b"])]
        for name, arms in (("only", both[:1]), ("both", both)):
            experiment = {"id": name, "arms": arms, "metrics": [{"name": "r", "kind": "continuous"}]}
            assert service.call("POST", "/v1/experiments", experiment).status == 201
            assert service.call("POST", f"/v1/experiments/{name}/start").status == 200
        service.stop()
        digest = hashlib.sha256((tmp_path / "v1").read_bytes()).hexdigest()
        file, hidden = tmp_path / "data" / "artifacts" / f"{digest}.safetensors", tmp_path / "hidden"
        file.rename(hidden)
        service.start()
        ask = {"user_id": "0", "item_id": "0"}

        def reasons() -> list[str]:
            answer = service.call("GET", "/health/ready")
            assert answer.status == 200
            return [each["what"] for each in answer.body.get("reasons", [])]

        assert reasons() == ["model_missing"]
        for path in ("/v1/experiments/only/predict", "/v1/models/m/predict"):
            for _ in range(3):
                answer = service.call("POST", path, ask)
                check_problem(answer, 503)
                assert answer.headers["Retry-After"]
        decided = [service.call("POST", "/v1/experiments/both/decide", {}).body for _ in range(30)]
        assert {(each["arm"], each["propensity"]) for each in decided} == {("b", 1.0)}
        predicted = [service.call("POST", "/v1/experiments/both/predict", ask) for _ in range(30)]
        assert {(each.status, each.body["arm"]) for each in predicted} == {(200, "b")}
        assert service.call("POST", "/v1/experiments/only/decide", {}).body["arm"] == "a"
        batch = service.call("POST", "/v1/experiments/only/predict/batch", {"requests": [ask]})
        assert batch.body["responses"][0]["status"] == 503
        lines = [line for line in service.output if "missing or damaged" in line and "ERROR" in line]
        assert len(lines) == 2, "the model once, and once that the service is degraded"
        hidden.rename(file)
        wait_until(lambda: reasons() == [])
        assert service.call("POST", "/v1/experiments/only/predict", ask).status == 200
        wait_until(lambda: service.call("POST", "/v1/experiments/both/predict", ask).body["arm"] == "a")

"""Full disk: reported, answered with 503, nothing half-written left, and normal operation once there is room."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from commands import bandit_serve, save_model
from http_calls import check_problem, decide, new_name, running, upload
from services import ThrowawayService, clean_environment
from stores import ThrowawayStore, wait_until

from bandit_serve.base.private_files import own_folder
from bandit_serve.errors import DiskFull
from bandit_serve.models import MatrixFactorization
from bandit_serve.models.artifact import ArtifactStore
from bandit_serve.training.learning.learner import ContinuousLearner

MIB = 2**20


@contextmanager
def small_disk(path: Path, size: int) -> Iterator[Path]:
    """A file system of `size` bytes in memory; skips where it may not be mounted."""
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", str(path)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount")
    if done.returncode != 0:
        pytest.skip(f"no file system may be mounted: {done.stderr.strip()}")
    try:
        yield path
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


def fill(disk: Path) -> Path:
    """Takes all the room that is left."""
    path = disk / "filling"
    with open(path, "wb", buffering=0) as file:
        try:
            while file.write(bytes(4096)) == 4096:
                pass
        except OSError:
            pass
    return path


def large_model(path: Path) -> Path:
    """More than 2 MiB."""
    rng = np.random.default_rng(0)
    users, items = np.arange(9_000), rng.integers(0, 50, 9_000)
    model = MatrixFactorization(n_factors=64, n_epochs=1, seed=0)
    model.fit(users, items, rng.uniform(1, 5, 9_000)).save(path)
    assert path.stat().st_size > 2 * MIB
    return path


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return large_model(tmp_path_factory.mktemp("large") / "model")


def test_what_finds_no_room_is_not_half_there(tmp_path: Path, large: Path) -> None:
    with small_disk(tmp_path / "disk", MIB) as disk:
        store = ArtifactStore(disk / "artifacts")
        with pytest.raises(DiskFull, match="no room left on the disk"):
            store.put(large)
        assert list(store.root.iterdir()) == []
        model = MatrixFactorization.load(large)
        with pytest.raises(DiskFull):
            model.save(disk / "saved")
        folder = own_folder(disk / "learn")
        with pytest.raises(DiskFull):
            ContinuousLearner(model, model, []).save(folder)
        assert [path for path in disk.rglob("*") if path.is_file()] == []


def test_an_upload_that_finds_no_room_is_503_and_the_service_says_so(tmp_path: Path, large: Path) -> None:
    with (
        ThrowawayStore() as store,
        small_disk(tmp_path / "disk", 2 * MIB) as disk,
        ThrowawayService(disk / "data", store=store.url) as service,
    ):
        model = new_name("model")
        before = sorted((disk / "data").rglob("*"))
        for _ in range(2):
            refused = upload(service, model, large.read_bytes())
            assert "no room left" in check_problem(refused, 503)["detail"]
            assert str(disk) not in str(refused.body)
            assert refused.headers["Retry-After"] == "30"
        assert sorted((disk / "data").rglob("*")) == before
        health = service.call("GET", "/health/ready")
        assert (health.status, health.body["status"]) == (200, "degraded")
        assert "disk_full" in [each["what"] for each in health.body["reasons"]]
        decide(service, running(service))
        ran = bandit_serve("models", "register", "m", large, "--data", disk / "data", "--store", store.url)
        assert (ran.status, ran.out) == (1, "")
        assert ran.err.startswith("error: There is no room left on the disk.")
        subprocess.run(["mount", "-o", "remount,size=200m", str(disk)], check=True)
        assert upload(service, model, large.read_bytes()).status == 201
        wait_until(lambda: service.call("GET", "/health/ready").body["status"] == "ready")
        wait_until(lambda: any("no longer degraded (disk_full)" in line for line in service.output))
        assert sum("disk_full" in line for line in service.output) == 2


def test_a_private_store_whose_disk_is_full_is_not_started_over_and_over(tmp_path: Path) -> None:
    """Decisions go on, rewards are 503, and count once there is room."""
    path = Path("/tmp") / f"disk-{os.getpid()}"  # short, for a socket
    with small_disk(path, 12 * MIB) as disk, ThrowawayService(disk / "data") as service:
        name = running(service)
        tokens = [decide(service, name)["decision_id"] for _ in range(3)]
        assert service.call("POST", "/v1/rewards", {"decision_id": tokens[0], "value": 1.0}).status == 200
        filling = fill(disk)

        def refused() -> bool:
            reward = {"decision_id": tokens[1], "value": 1.0}
            return service.call("POST", "/v1/rewards", reward).status == 503

        wait_until(refused)
        for _ in range(60):
            assert service.call("POST", f"/v1/experiments/{name}/decide", {}).status == 200
            service.call("POST", "/v1/rewards", {"decision_id": tokens[2], "value": 1.0})
        starts = [line for line in service.output if "private store" in line]
        assert len(starts) < 30, starts
        filling.unlink()
        wait_until(
            lambda: (
                service.call("POST", "/v1/rewards", {"decision_id": tokens[1], "value": 1.0}).status == 200
            ),
            30.0,
        )
        body = service.call("GET", f"/v1/experiments/{name}/results").body
        assert sum(arm["metrics"]["click"]["n"] for arm in body["arms"]) in (2, 3)
    path.rmdir()


def test_a_command_says_so_in_a_sentence(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", MIB) as disk:
        fill(disk)
        saved = save_model(tmp_path / "m")
        ran = bandit_serve(
            "models", "register", "m", saved, "--data", disk / "data", "--store", "unix:///nowhere"
        )
        assert ran.status != 0
        assert ran.err.startswith("error: ")
        assert ran.err.count("\n") == 1


def test_a_log_that_takes_nothing_more_does_not_end_the_service(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "bandit_serve", "serve", "--data", str(tmp_path), "--port", str(port)]
    with (
        open("/dev/full", "wb") as full,
        subprocess.Popen(
            [*command, "--log-level", "debug"], stdout=full, stderr=full, env=clean_environment()
        ) as process,
    ):
        service = ThrowawayService(tmp_path)
        service.url = f"http://127.0.0.1:{port}"

        def ready() -> bool:
            assert process.poll() is None
            try:
                return service.call("GET", "/health/ready").status == 200
            except OSError:
                return False

        try:
            wait_until(ready)
            assert decide(service, running(service))["decision_id"]
        finally:
            process.terminate()
            assert process.wait(30) == 0

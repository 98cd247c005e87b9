"""Container engine for tests, and an image of this checkout in it. `tests/support/engine.sh` brings one up.

It is the one at DOCKER_HOST; BANDIT_SERVE_TEST_BASE names the image to build on (default: python:3.x-slim).
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import distribution
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import bandit_serve
from bandit_serve.deployments.image import BASE, WantedImage, build

PACKAGE = Path(bandit_serve.__file__).parent


class TestEngine(NamedTuple):
    """Engine of a test: its address, a client, and the base of its images."""

    __test__ = False

    address: str
    client: Any
    base: str

    def containers(self) -> list[Any]:
        """Containers of our deployments."""
        found: list[Any] = self.client.containers.list(all=True, filters={"label": "bandit_serve.deployment"})
        return found


@contextmanager
def test_engine() -> Iterator[TestEngine]:
    """Yields the engine; skips the test where there is none, or no base image to build on."""
    docker = pytest.importorskip("docker", reason="the Docker SDK is not installed (extra `docker`)")
    address = os.environ.get("DOCKER_HOST")
    if not address:
        pytest.skip("DOCKER_HOST names no container engine; tests/support/engine.sh brings one up")
    base = os.environ.get("BANDIT_SERVE_TEST_BASE", BASE)
    client = docker.DockerClient(base_url=address, timeout=120)
    try:
        if not client.images.list(name=base):
            pytest.skip(f"the engine has no image {base}; `tests/support/engine.sh base {base}` makes one")
        yield TestEngine(address, client, base)
    finally:
        client.close()


test_engine.__test__ = False  # type: ignore[attr-defined]


def service_image(engine: TestEngine) -> str:
    """Name of an image of the package as it is now, which is built once, whoever asks."""
    digest = hashlib.sha256((distribution("bandit-serve").read_text("METADATA") or "").encode())
    for file in sorted(PACKAGE.rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts:
            digest.update(file.read_bytes())
    name = f"bandit-serve-test:{digest.hexdigest()[:12]}"
    with open(Path(tempfile.gettempdir(), "bandit-serve-test-image.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not engine.client.images.list(name=name):
            for old in engine.client.images.list(name="bandit-serve-test"):
                for tag in old.tags:
                    engine.client.images.remove(tag)
            build(engine.address, WantedImage(name, base=engine.base, network="host"))
    return name

"""Memory of a large model that several workers serve."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from commands import bandit_serve
from http_calls import new_name
from large_models import proportional_bytes, write_large
from scale import scaled
from services import ThrowawayService
from stores import wait_until

from bandit_serve.models import Artifact, MatrixFactorization, load_model

WORKERS = 2


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells the shares of memory on Linux only")
def test_workers_share_a_model_and_what_its_searches_need(tmp_path: Path) -> None:
    """At full scale: a file of 1 GB, less than 1.3 GB in all workers together."""
    items = scaled(100_000, 1_220_000)
    size = write_large(tmp_path / "m.safetensors", scaled(25_000, 305_000), items, 128)
    with ThrowawayService(tmp_path / "d", workers=WORKERS) as service:
        name = new_name("large")
        put = bandit_serve("models", "register", name, tmp_path / "m.safetensors", "--data", service.data)
        assert put.status == 0, put.err
        pids = service.worker_pids()
        before = sum(map(proportional_bytes, pids))
        path = f"/v1/models/{name}/versions"
        promoted = service.call("POST", f"{path}/v1/status", {"status": "production"})
        assert promoted.status == 200, promoted
        wait_until(lambda: len(service.call("GET", f"{path}/v1/load").body["workers"]) == WORKERS, 60)
        ranked = set()
        for user in range(40):
            answer = service.call("POST", f"/v1/models/{name}/predict", {"user_id": f"u{user}", "k": 10})
            assert answer.status == 200, answer
            ranked.add(answer.body["items"][0]["item_id"])
        assert len(ranked) > 3
        taken = sum(map(proportional_bytes, pids)) - before
    print(f"{size / 1e6:,.0f} MB of file, {taken / 1e6:,.0f} MB in {WORKERS} workers")
    assert size * 0.9 < taken < 1.3 * size


def test_a_file_without_what_searches_need_ranks_the_same(tmp_path: Path) -> None:
    write_large(tmp_path / "m.safetensors", 20, 40_000, 16)
    artifact = Artifact.map(tmp_path / "m.safetensors")
    assert "top_k_codes" in artifact.tensors
    model = load_model(artifact)
    del artifact.tensors["top_k_order"]
    other = load_model(artifact)
    assert isinstance(model, MatrixFactorization)
    for user in range(20):
        assert model.top_k(f"u{user}", 25) == other.top_k(f"u{user}", 25)

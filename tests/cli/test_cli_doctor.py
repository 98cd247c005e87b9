"""`bandit-serve doctor`: an installation without problems, and each problem that it reports."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from commands import Finished, bandit_serve, save_model
from services import ThrowawayService
from stores import ThrowawayStore

from bandit_serve.base.build import build
from bandit_serve.store.store import Store

NAMES = {
    "python",
    "packages",
    "server",
    "extension",
    "settings",
    "data",
    "store",
    "durability",
    "clock",
    "memory",
    "artifacts",
    "experiments",
    "workers",
}
EXPERIMENT = {
    "id": "e",
    "arms": [{"name": "a"}, {"name": "b", "model": "m", "version": "v1"}],
    "metrics": [{"name": "click", "kind": "binary"}],
    "attribution": {"missing": "ignore"},
}


def check(finished: Finished, name: str) -> dict[str, Any]:
    """The worst of the checks of this name."""
    checks = [each for each in finished.document["checks"] if each["name"] == name]
    return max(checks, key=lambda each: ("ok", "warning", "problem").index(each["verdict"]))


def test_a_fresh_set_up_is_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here, where no other data directory is near that could be meant."""
    monkeypatch.chdir(tmp_path)
    ran = bandit_serve("doctor", "--json", "--data", tmp_path / "data")
    assert ran.status == 0, ran
    assert {each["name"]: each["verdict"] for each in ran.document["checks"]} == dict.fromkeys(NAMES, "ok")
    assert "disk" in check(ran, "durability")["detail"]
    table = bandit_serve("doctor", "--data", tmp_path / "data")
    assert (table.status, "no problems, no warnings" in table.out) == (0, True)


def test_a_model_that_is_gone_or_changed_under_a_running_experiment(tmp_path: Path) -> None:
    data = tmp_path / "data"
    where = ("--data", data)
    model = save_model(tmp_path / "m.safetensors")
    file = tmp_path / "e.json"
    file.write_text(json.dumps(EXPERIMENT))
    assert bandit_serve("models", "register", "m", model, *where).status == 0
    assert bandit_serve("experiments", "apply", file, *where).status == 0
    assert bandit_serve("experiments", "start", "e", *where).status == 0
    well = bandit_serve("doctor", "--json", *where)
    assert (well.status, check(well, "workers")["verdict"]) == (0, "warning")

    (artifact,) = (data / "artifacts").glob("*.safetensors")
    artifact.chmod(0o644)
    content = bytearray(artifact.read_bytes())
    content[-1] ^= 1
    artifact.write_bytes(content)
    changed = bandit_serve("doctor", "--json", *where)
    assert changed.status == 1
    assert "SHA-256" in check(changed, "artifacts")["detail"]
    assert check(changed, "experiments")["verdict"] == "problem"
    artifact.unlink()
    gone = bandit_serve("doctor", *where)
    assert gone.status == 1
    assert "The artifact is not there" in gone.out
    assert "register the model again" in gone.out


def test_beside_a_service_its_workers_are_seen(tmp_path: Path) -> None:
    with ThrowawayService(tmp_path, workers=2) as service:
        service.wait_for_workers(2)
        ran = bandit_serve("doctor", "--json", "--data", tmp_path)
        assert ran.status == 0, ran
        assert all(str(pid) in check(ran, "workers")["detail"] for pid in service.worker_pids())
        assert service.call("GET", "/health/ready").status == 200


def test_workers_of_two_builds_are_told_apart(store: ThrowawayStore, tmp_path: Path) -> None:
    where = ("--json", "--store", store.url, "--data", tmp_path)
    former = {"incarnation": 1, "pid": 7, "host": "far", "started_ms": 0}

    async def announce() -> None:
        client = Store(store.url)
        await client.announce(msgspec.msgpack.encode(former), 60_000)
        await client.close()

    with ThrowawayService(tmp_path, store=store.url) as service:
        service.wait_for_workers(1)
        of_one = check(bandit_serve("doctor", *where), "workers")
        assert (of_one["verdict"], of_one["detail"].endswith(f"; of {build()}")) == ("ok", True)
        asyncio.run(announce())
        of_two = check(bandit_serve("doctor", *where), "workers")
        assert of_two["verdict"] == "warning"
        assert of_two["detail"].endswith(f"; 1 of {build()}, 1 of an older build")
        assert "set" in of_two["advice"]


def test_a_store_that_may_lose_or_evict_or_is_away(tmp_path: Path) -> None:
    where = ("--data", tmp_path)
    with ThrowawayStore(appendonly=False) as forgetful:
        ran = bandit_serve("doctor", "--json", "--store", forgetful.url, *where)
        assert (ran.status, check(ran, "durability")["verdict"]) == (0, "warning")
    with ThrowawayStore(maxmemory_policy="allkeys-lru") as evicting:
        ran = bandit_serve("doctor", "--json", "--store", evicting.url, *where)
        assert (ran.status, check(ran, "store")["verdict"]) == (1, "problem")
        assert "noeviction" in check(ran, "store")["advice"]
    with ThrowawayStore() as full:
        with full.client() as client:
            client.set("filling", b"x" * 20_000_000)
            client.config_set("maxmemory", 22_000_000)
        ran = bandit_serve("doctor", "--json", "--store", full.url, *where)
        assert check(ran, "memory")["verdict"] in ("warning", "problem")
    away = bandit_serve("doctor", "--json", "--store", "unix:///nowhere/s", *where)
    assert (away.status, check(away, "store")["verdict"]) == (1, "problem")


def test_a_snapshot_that_can_not_be_read_is_a_problem(store: ThrowawayStore, tmp_path: Path) -> None:
    where = ("--store", store.url, "--data", tmp_path)
    file = tmp_path / "e.json"
    file.write_text(json.dumps({**EXPERIMENT, "arms": [{"name": "a"}]}))
    assert bandit_serve("experiments", "apply", file, *where).status == 0
    with store.client() as client:
        client.hset("bandit_serve:{e}:snapshots:policy", "1-1", b"\x93not a state")
    ran = bandit_serve("doctor", "--json", *where)
    assert (ran.status, check(ran, "state")["verdict"]) == (1, "problem")


def test_settings_as_serve_would_take_them(tmp_path: Path) -> None:
    open_to_all = bandit_serve("doctor", "--json", "--host", "0.0.0.0", "--data", tmp_path)
    assert (open_to_all.status, check(open_to_all, "settings")["verdict"]) == (1, "problem")
    insecure = bandit_serve("doctor", "--json", "--host", "0.0.0.0", "--insecure", "--data", tmp_path)
    assert (insecure.status, check(insecure, "settings")["verdict"]) == (0, "warning")
    occupied = tmp_path / "file"
    occupied.write_text("")
    no_directory = bandit_serve("doctor", "--json", "--data", occupied)
    assert (no_directory.status, check(no_directory, "data")["verdict"]) == (1, "problem")

"""Store that stands still or whose connections are cut: decisions go on, rewards count once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from consistency_checks import (
    assert_counted,
    assert_states_equal_replay,
    counted_in,
    make_experiment,
    wait_until_all_serve,
)
from cutting_proxy import CuttingProxy
from load import Load
from scale import scaled
from services import ThrowawayService
from stores import ThrowawayStore, wait_until

from bandit_serve.models import Popularity

WORKERS = 2
QUICK_MS = 250.0
REWARD_LIMIT_S = 8.0
"""Behind one append that times out, then its own: connecting and the reply take at most `store_timeout` (1 s) each."""


@pytest.fixture
def store() -> Iterator[ThrowawayStore]:
    with ThrowawayStore(tcp=True) as running:
        yield running


def register_popularity(service: ThrowawayService, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    Popularity().fit(["u", "u", "v"], ["a", "b", "b"], [1.0, 2.0, 3.0]).save(path)
    head = b'--edge\r\nContent-Disposition: form-data; name="artifact"; filename="m"\r\n\r\n'
    made = service.call(
        "POST",
        "/v1/models/popular/versions",
        head + path.read_bytes() + b"\r\n--edge--\r\n",
        {"Content-Type": "multipart/form-data; boundary=edge"},
    )
    assert made.status == 201, made.body
    version = made.body["version"]
    moved = service.call("POST", f"/v1/models/popular/versions/{version}/status", {"status": "production"})
    assert moved.status == 200, moved.body


@pytest.mark.timeout(300)
def test_decisions_go_on_while_the_store_stands_still(tmp_path: Path, store: ThrowawayStore) -> None:
    with ThrowawayService(tmp_path / "data", store=store.url, workers=WORKERS) as service:
        wait_until_all_serve(service, WORKERS)
        make_experiment(service, "paused")
        register_popularity(service, tmp_path / "artifact" / "m.safetensors")
        with Load(service.port, "paused", clients=16, pause_s=0.02) as load:
            load.wait_for_visits(300)
            # Rewards wait while the store does, so those that only decide are clients of their own.
            with Load(service.port, "paused", clients=4, pause_s=0.01, seed=1, rewarded=0.0) as deciding:
                paused_s = time.monotonic()
                store.pause()
                try:
                    look_around_without_store(service)
                    wait_until(lambda: time.monotonic() > paused_s + scaled(4, 8))
                finally:
                    store.resume()
                resumed_s = time.monotonic()
                took_ms = deciding.tally.decision_p99_ms(paused_s, resumed_s)
            load.wait_for_visits(300)
            wait_until(lambda: service.call("GET", "/health/ready").body["status"] == "ready")
        print(f"p99 of a decision in {resumed_s - paused_s:.1f} s without the store: {took_ms:.1f} ms")
        assert took_ms < QUICK_MS
        assert not deciding.tally.failures
        tries = [tried for tried in load.tally.rewards if paused_s <= tried[0] <= resumed_s]
        longest_s = max(seconds for _, seconds, _ in tries)
        print(f"longest wait of a reward: {longest_s:.2f} s, statuses {load.tally.statuses}")
        assert longest_s < REWARD_LIMIT_S
        unanswered = [reply for _, _, reply in tries if reply.status == 503]
        assert unanswered
        assert all(int(reply.headers["retry-after"]) >= 1 for reply in unanswered)
        wait_until_all_serve(service, WORKERS)
        with store.client() as client:
            assert_counted(service, client, "paused", load.tally)
            assert_states_equal_replay(client, "paused", WORKERS)
        assert counted_in(service, "paused") == len(load.tally.acknowledged)
        assert service.call("GET", "/v1/stats").body["exposures_lost"] == 0


def look_around_without_store(service: ThrowawayService) -> None:
    """Health, top-k, reading and changing, by a caller who is there while the store stands still."""
    wait_until(lambda: service.call("GET", "/health/ready").body["status"] == "degraded")
    assert service.call("GET", "/health/ready").status == 200
    for i in range(20):
        started_s = time.monotonic()
        top = service.call("POST", "/v1/models/popular/predict", {"user_id": f"u{i}", "k": 2})
        assert [item["item_id"] for item in top.body["items"]] == ["b", "a"]
        assert 1000 * (time.monotonic() - started_s) < QUICK_MS
    shown = service.call("GET", "/v1/experiments/paused")
    assert (shown.status, shown.body["status"]) == (200, "running")
    for method, path, body in (
        ("POST", "/v1/experiments/paused/pause", {}),
        ("PUT", "/v1/experiments/paused/policy", {"kind": "ucb1"}),
        ("POST", "/v1/models/popular/rollback", {}),
        ("GET", "/v1/experiments/paused/results", None),
    ):
        answer = service.call(method, path, body, timeout_s=REWARD_LIMIT_S)
        assert answer.status == 503, (path, answer.body)
        assert int(answer.headers["Retry-After"]) >= 1


@pytest.mark.timeout(300)
def test_rewards_count_once_while_replies_of_the_store_are_cut(tmp_path: Path, store: ThrowawayStore) -> None:
    with (
        CuttingProxy(store.port) as proxy,
        ThrowawayService(tmp_path, store=f"redis://127.0.0.1:{proxy.port}/0", workers=WORKERS) as service,
    ):
        wait_until_all_serve(service, WORKERS)
        make_experiment(service, "cut")
        with Load(service.port, "cut") as load:
            for _ in range(scaled(20, 200)):
                load.wait_for_visits(20)
                proxy.cut_next_appends(2)
            wait_until(lambda: proxy.to_cut == 0)
            load.wait_for_visits(100)
        assert proxy.cut_after_append >= scaled(20, 200)
        assert load.tally.statuses[503] > 0
        assert load.tally.verdicts["duplicate"] > 0
        wait_until_all_serve(service, WORKERS)
        with store.client() as client:
            assert_counted(service, client, "cut", load.tally)
            assert_states_equal_replay(client, "cut", WORKERS)
        assert counted_in(service, "cut") == len(load.tally.acknowledged)


@pytest.mark.timeout(300)
def test_a_store_that_stops_letting_us_in_ends_no_worker(tmp_path: Path, store: ThrowawayStore) -> None:
    with ThrowawayService(tmp_path / "data", store=store.url, workers=WORKERS) as service:
        wait_until_all_serve(service, WORKERS)
        make_experiment(service, "refused")
        workers = service.worker_pids()
        with Load(service.port, "refused") as load:
            load.wait_for_visits(100)
            with store.client() as client:
                client.execute_command("ACL", "SETUSER", "default", "-@all", "+acl", "+client")
                try:
                    wait_until(lambda: service.call("GET", "/health/ready").body["status"] == "degraded")
                    wait_until(lambda: load.tally.statuses[503] > 100)
                    decided = service.call("POST", "/v1/experiments/refused/decide", {})
                    assert decided.status == 200
                finally:
                    client.execute_command("ACL", "SETUSER", "default", "+@all")
            wait_until(lambda: service.call("GET", "/health/ready").body["status"] == "ready")
            load.wait_for_visits(100)
        assert service.worker_pids() == workers
        with store.client() as client:
            assert_counted(service, client, "refused", load.tally)
            assert_states_equal_replay(client, "refused", WORKERS)


@pytest.mark.timeout(300)
def test_workers_start_over_when_the_store_has_lost_what_they_know(tmp_path: Path) -> None:
    with (
        ThrowawayStore(tcp=True, appendonly=False) as store,
        ThrowawayService(tmp_path / "data", store=store.url, workers=WORKERS) as service,
    ):
        wait_until_all_serve(service, WORKERS)
        make_experiment(service, "forgotten")
        workers = set(service.worker_pids())
        with Load(service.port, "forgotten") as load:
            load.wait_for_visits(50)
        with store.client() as client:
            client.save()
        saved = len(load.tally.acknowledged)
        with Load(service.port, "forgotten", seed=1) as load:
            load.wait_for_visits(50)
        with store.client() as client:
            # A worker that has not read what will be lost has no reason to start over.
            assert_states_equal_replay(client, "forgotten", WORKERS)
        store.kill()
        store.start()
        wait_until(lambda: not workers & set(service.worker_pids()))
        wait_until_all_serve(service, WORKERS)
        with store.client() as client:
            assert_states_equal_replay(client, "forgotten", WORKERS)
        assert counted_in(service, "forgotten") == saved

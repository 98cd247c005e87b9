"""`bandit-serve replay`: every worker's state equals the replay after any traffic, and differs after a changed bit."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import bandit_serve
from services import ThrowawayService
from stores import ThrowawayStore, wait_until

from bandit_serve.folds.experiment import LiveExperiment
from bandit_serve.log.offset import Offset
from bandit_serve.store.keys import Keys

KEYS = Keys()
LEARNING = {
    "id": "learning",
    "arms": [{"name": "a"}, {"name": "b"}, {"name": "c"}],
    "policy": {"kind": "thompson", "min_share": 0.02, "refresh": "10ms"},
    "metrics": [{"name": "click", "kind": "binary"}],
    "attribution": {"window": "1s", "missing": "zero"},
}
MEASURING = {
    "id": "measuring",
    "unit": "user",
    "arms": [{"name": "a"}, {"name": "b"}],
    "policy": {"kind": "thompson"},
    "metrics": [{"name": "spent", "kind": "continuous"}],
}


def start_experiments(service: ThrowawayService) -> None:
    for experiment in (LEARNING, MEASURING):
        assert service.call("POST", "/v1/experiments", experiment).status == 201
        assert service.call("POST", f"/v1/experiments/{experiment['id']}/start").status == 200


def send_traffic(service: ThrowawayService, visits: int) -> None:
    """Makes decisions in both experiments; some are rewarded, some late, some never."""
    for i in range(visits):
        learning = decide(service, "learning", {})
        measuring = decide(service, "measuring", {"unit": f"user-{i % 7}"})
        rewards = [{"decision_id": measuring["decision_id"], "value": 0.1 * i}]
        if i % 3:
            rewards.append({"decision_id": learning["decision_id"], "value": float(learning["arm"] == "b")})
        answer = service.call("POST", "/v1/rewards", {"rewards": rewards * (1 + i % 2)})
        assert answer.body["accepted"] == len(rewards), answer.body


def decide(service: ThrowawayService, experiment: str, body: dict[str, Any]) -> dict[str, Any]:
    answer = service.call("POST", f"/v1/experiments/{experiment}/decide", body)
    assert answer.status == 200, answer.body
    results: dict[str, Any] = answer.body
    return results


def pending(service: ThrowawayService, experiment: str = "learning") -> int:
    return int(service.call("GET", f"/v1/experiments/{experiment}/results").body["pending"])


def logged(store: ThrowawayStore, kind: bytes) -> int:
    with store.client() as client:
        return sum(kind in fields for _, fields in client.xrange(KEYS.log("learning")))


def snapshots(store: ThrowawayStore) -> list[Offset]:
    with store.client() as client:
        return sorted(map(Offset.parse, client.hkeys(KEYS.snapshots("learning", "policy"))))


@pytest.fixture
def busy(store: ThrowawayStore, tmp_path: Path) -> Iterator[ThrowawayService]:
    """Service with two workers, a snapshot every second, and traffic with closed windows and a change of policy."""
    flags = ("--snapshot-every", "1s")
    with ThrowawayService(tmp_path, *flags, store=store.url, workers=2) as service:
        service.wait_for_workers(2)
        start_experiments(service)
        send_traffic(service, 40)
        changed = service.call(
            "PUT", "/v1/experiments/learning/policy", {"kind": "thompson", "min_share": 0.1}
        )
        assert changed.status == 200
        send_traffic(service, 20)
        wait_until(lambda: pending(service) == 0)
        send_traffic(service, 10)
        wait_until(lambda: logged(store, b"t") > 0)
        wait_until(lambda: len(snapshots(store)) > 0)
        yield service


def test_the_log_makes_the_state_of_every_worker(
    busy: ThrowawayService, store: ThrowawayStore, tmp_path: Path
) -> None:
    where = ("--store", store.url, "--data", tmp_path)
    ran = bandit_serve("replay", "--json", *where)
    assert ran.status == 0, ran
    report = ran.document
    assert report["equal"] is True
    assert [each["experiment"] for each in report["experiments"]] == ["learning", "measuring"]
    for each in report["experiments"]:
        assert each["start"] is None
        assert each["entries"] > 50
        assert [worker["result"] for worker in each["workers"]] == ["equal", "equal"]
        assert {worker["digest"] for worker in each["workers"]} == {each["digest"]}
        assert {worker["pid"] for worker in each["workers"]} == set(busy.worker_pids())
        assert {snapshot["result"] for snapshot in each["snapshots"]} == {"equal"}
    table = bandit_serve("replay", "learning", *where)
    assert table.status == 0
    assert "2 equal" in table.out

    # What workers have applied and the log does not say any more.
    with store.client() as client:
        log = KEYS.log("learning")
        reward = next(at for at, fields in client.xrange(log) if b"r" in fields)
        client.xdel(log, reward)
    lost = bandit_serve("replay", "learning", "--json", *where)
    assert lost.status == 1
    results = [worker["result"] for worker in lost.document["experiments"][0]["workers"]]
    assert results == ["different", "different"]


def test_arms_that_come_and_go_a_ramp_forgetting_and_late_rewards_are_replayed(
    store: ThrowawayStore, tmp_path: Path
) -> None:
    """Bit for bit in both workers, from the beginning and from every snapshot on the way."""
    policy = {
        "kind": "thompson",
        "min_share": 0.02,
        "refresh": "10ms",
        "half_life": "2s",
        "holdout": 0.1,
        "warmup": 5,
    }
    attribution = {"window": "5s", "missing": "zero"}
    churning = {**LEARNING, "id": "churning", "policy": policy, "attribution": attribution}
    path = "/v1/experiments/churning"
    with ThrowawayService(tmp_path, "--snapshot-every", "1s", store=store.url, workers=2) as service:
        service.wait_for_workers(2)
        assert service.call("POST", "/v1/experiments", churning).status == 201
        assert service.call("POST", f"{path}/start").status == 200
        kept: list[tuple[str, str]] = []
        served: set[str] = set()

        def visit(n: int, *eligible: str) -> None:
            for i in range(n):
                decision = decide(service, "churning", {} if i % 4 else {"eligible": eligible})
                served.add(decision["arm"])
                if i % 3:
                    reward(decision["decision_id"], decision["arm"] in "bd")
                else:
                    kept.append((decision["arm"], decision["decision_id"]))

        def reward(token: str, won: bool) -> None:
            answer = service.call("POST", "/v1/rewards", {"decision_id": token, "value": float(won)})
            assert answer.status == 200, answer.body

        def change(method: str, at: str, body: Any = None) -> None:
            answer = service.call(method, path + at, body)
            assert answer.status == 200, answer.body

        visit(40, "a", "b")
        change("POST", "/arms", {"name": "d", "ramp": {"from": 0.1, "over": "2s"}})
        visit(40, "b", "d")
        change("POST", "/arms/c/pause")
        change("DELETE", "/arms/b", {"reason": "enough of it"})
        late = [token for arm, token in kept[-14:] if arm == "b"]
        assert late
        for token in late:
            reward(token, True)
        change("PUT", "/policy", {**policy, "half_life": "5s", "warmup": 0})
        change("POST", "/arms/c/resume")
        visit(40, "a", "b", "d")
        change("PUT", "/policy", {"kind": "ucb1", "min_share": 0.05})
        visit(10, "c", "d")
        wait_until(lambda: pending(service, "churning") == 0)
        assert served == set("abcd")
        finished = bandit_serve("replay", "churning", "--json", "--store", store.url, "--data", tmp_path)
    assert finished.status == 0, finished
    (replayed,) = finished.document["experiments"]
    assert (replayed["start"], replayed["equal"]) == (None, True)
    assert [worker["result"] for worker in replayed["workers"]] == ["equal", "equal"]
    assert replayed["snapshots"]
    assert {snapshot["result"] for snapshot in replayed["snapshots"]} == {"equal"}


def test_a_killed_worker_and_the_one_in_its_place_are_no_inequality(
    busy: ThrowawayService, store: ThrowawayStore, tmp_path: Path
) -> None:
    killed = busy.worker_pids()[0]
    os.kill(killed, signal.SIGKILL)
    wait_until(lambda: killed not in busy.worker_pids())
    busy.wait_for_workers(2)
    send_traffic(busy, 10)
    ran = bandit_serve("replay", "learning", "--json", "--store", store.url, "--data", tmp_path)
    assert ran.status == 0, ran
    results = {worker["pid"]: worker["result"] for worker in ran.document["experiments"][0]["workers"]}
    assert results.pop(killed, "ended") == "ended"
    assert set(results.values()) == {"equal"}


def test_without_workers_a_snapshot_is_compared_and_a_changed_one_is_found(
    busy: ThrowawayService, store: ThrowawayStore, tmp_path: Path
) -> None:
    newest = Offset.parse(newest_entry(store))
    wait_until(lambda: snapshots(store)[-1] >= newest)
    busy.stop()
    where = ("--store", store.url, "--data", tmp_path)
    ran = bandit_serve("replay", "learning", "--json", *where)
    assert ran.status == 0, ran
    replayed = ran.document["experiments"][0]
    assert (replayed["workers"], replayed["equal"]) == ([], True)
    assert "no worker runs; compared with the newest snapshot" in replayed["reason"]

    key = KEYS.snapshots("learning", "policy")
    at = snapshots(store)[-1]
    with store.client() as client:
        live = LiveExperiment.from_state(at, client.hget(key, str(at)))
        live.policy.update(0, 1.0)
        client.hset(key, str(at), live.state())
    changed = bandit_serve("replay", "learning", "--json", *where)
    assert changed.status == 1
    assert changed.document["experiments"][0]["snapshots"][-1] == {"offset": str(at), "result": "different"}
    assert changed.document["equal"] is False
    ran = bandit_serve("replay", *where)
    assert (ran.status, "DIFFERENT" in ran.out) == (1, True)


def test_a_trimmed_log_is_replayed_from_its_oldest_snapshot(store: ThrowawayStore, tmp_path: Path) -> None:
    flags = ("--snapshot-every", "1s", "--retention-time", "2s")
    where = ("--store", store.url, "--data", tmp_path)
    with ThrowawayService(tmp_path, *flags, store=store.url, workers=2) as service:
        service.wait_for_workers(2)
        start_experiments(service)

        def trimmed() -> bool:
            send_traffic(service, 5)
            with store.client() as client:
                return client.exists(KEYS.trimmed("learning")) == 1

        wait_until(trimmed)
        ran = bandit_serve("replay", "learning", "--json", *where)
    assert ran.status == 0, ran
    replayed = ran.document["experiments"][0]
    assert replayed["start"] is not None
    assert [worker["result"] for worker in replayed["workers"]] == ["equal", "equal"]

    with store.client() as client:
        key = KEYS.snapshots("learning", "policy")
        for at in client.hkeys(key):
            client.hset(key, at, b"\x00not a state")
    unreadable = bandit_serve("replay", "learning", "--json", *where)
    assert unreadable.status == 1
    assert "can not be read" in unreadable.document["experiments"][0]["reason"]


def newest_entry(store: ThrowawayStore) -> bytes:
    with store.client() as client:
        (at, _), *_ = client.xrevrange(KEYS.log("learning"), count=1)
    snapshot: bytes = at
    return snapshot


def test_nothing_to_compare_with_is_said(tmp_path: Path) -> None:
    file = tmp_path / "e.json"
    file.write_text(json.dumps(LEARNING))
    data = tmp_path / "data"
    assert bandit_serve("experiments", "apply", file, "--data", data).status == 0
    ran = bandit_serve("replay", "--json", "--data", data)
    assert (ran.status, ran.document["experiments"][0]["equal"]) == (0, None)
    assert bandit_serve("replay", "nobody", "--data", data).status == 1

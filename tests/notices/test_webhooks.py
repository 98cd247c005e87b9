"""Webhooks of a real service: each kind of event is told once, whatever the receiver, the store and the workers do."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from builders import exposed, rewards
from commands import bandit_serve
from http_calls import upload
from scale import scaled
from scripted_server import answer
from services import ThrowawayService
from stores import ThrowawayStore, wait_until
from upstreams import ThrowawayUpstream
from webhook_receiver import SECRET, WebhookReceiver, unreliable

from bandit_serve.log import events
from bandit_serve.models import MatrixFactorization
from bandit_serve.store.keys import Keys
from bandit_serve.training.ratings import synthetic_ratings
from bandit_serve.webhook import EVENTS

KEYS = Keys()
KILLS = scaled(4, 20)


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOOK_SECRET", SECRET)


@pytest.fixture
def receiver() -> Iterator[WebhookReceiver]:
    with WebhookReceiver(unreliable) as running:
        yield running
    assert not running.faults


def flags(*receivers: WebhookReceiver, told: tuple[str, ...] = EVENTS) -> tuple[str, ...]:
    return "--webhooks", json.dumps([each.webhook(*told) for each in receivers])


def make(service: ThrowawayService, name: str, **fields: Any) -> None:
    described = {
        "id": name,
        "arms": [{"name": "control"}, {"name": "other"}],
        "metrics": [{"name": "click", "kind": "binary"}],
        "policy": {"kind": "fixed_split"},
        "attribution": {"window": "1h", "missing": "ignore"},
        **fields,
    }
    made = service.call("POST", "/v1/experiments", described)
    assert made.status == 201, made.body
    assert service.call("POST", f"/v1/experiments/{name}/start").status == 200


def win(service: ThrowawayService, name: str) -> str:
    """Stops an experiment with a winner; returns the id of its notice."""
    stopped = service.call("POST", f"/v1/experiments/{name}/stop", {"winner": "other"})
    assert stopped.status == 200, stopped.body
    return f"winner:{name}:{stopped.body['revision']}"


def log_decisions(
    store: ThrowawayStore, name: str, first: int, arms: list[int], values: dict[int, list[float]]
) -> None:
    """Appends decisions that were drawn with equal shares, whatever arms they got, and their rewards by metric."""
    with store.client() as client:
        seconds, microseconds = client.time()
        now_ms = seconds * 1000 + microseconds // 1000
        made = exposed(first, arms, [now_ms] * len(arms))
        log = KEYS.log(name)
        client.xadd(log, {events.EXPOSED: events.encode(made)})
        for metric, each in values.items():
            numbers = range(first, first + len(arms))
            rows = rewards(numbers, values=each, times_ms=now_ms, arms=arms, metric=metric)
            client.xadd(log, {events.REWARDED: rows.tobytes()})


@pytest.mark.timeout(600)
def test_each_kind_of_event_is_told_once(
    receiver: WebhookReceiver, store: ThrowawayStore, tmp_path: Path
) -> None:
    guard = {
        "name": "error",
        "kind": "binary",
        "goal": "minimize",
        "role": "guardrail",
        "margin": {"absolute": 0.01},
    }
    clicks = {"name": "click", "kind": "binary", "role": "objective"}
    with (
        ThrowawayUpstream() as well,
        ThrowawayUpstream() as upstream,
        ThrowawayService(
            tmp_path,
            "--upstreams",
            f"{well.url},{upstream.url}",
            *flags(receiver),
            store=store.url,
            workers=2,
        ) as service,
    ):
        for model, each in (("well", well), ("m", upstream)):
            remote = {"url": each.url, "protocol": "json", "timeout": "500ms"}
            path = f"/v1/models/{model}/versions"
            assert service.call("POST", path, {"version": "v1", "remote": remote}).status == 201
        for name in ("won", "moved", "skewed", "broken"):
            make(service, name)
        make(service, "harmed", metrics=[clicks, guard])
        make(
            service,
            "ejected",
            arms=[
                {"name": "control", "model": "well", "version": "v1"},
                {"name": "other", "model": "m", "version": "v1"},
            ],
        )

        expected = {win(service, "won")}
        n = 4_000
        halves = [number % 2 for number in range(n)]
        log_decisions(store, "moved", 0, halves, {0: [0.0] * n})
        log_decisions(store, "moved", n, halves, {0: [1.0] * n})
        log_decisions(store, "skewed", 0, [0] * n, {0: [0.0] * n})
        log_decisions(store, "harmed", 0, halves, {0: [0.0] * n, 1: [float(arm) for arm in halves]})
        with store.client() as client:
            bad = client.xadd(KEYS.log("broken"), {b"z": b"\x80"})
        upstream.mode = "500"
        users = itertools.count()
        wait_until(
            lambda: (
                service.call(
                    "POST", "/v1/experiments/ejected/predict", {"user_id": f"u{next(users)}", "item_id": "i"}
                )
                and service.call("GET", "/v1/stats").body["ejections"] > 0
            )
        )
        expected |= {"srm:skewed", "harm:harmed:other:error", f"set_aside:broken:{bad.decode()}"}
        wait_until(lambda: expected <= set(receiver.bodies), 120)
        wait_until(lambda: len(receiver.of("alarm")) >= 2 and len(receiver.of("ejection")) == 1, 120)

        store.kill()
        wait_until(lambda: service.call("GET", "/health/ready").body["status"] == "degraded")
        store.start()
        wait_until(lambda: "store_away" in {each["data"]["what"] for each in receiver.of("degraded")}, 120)
        metrics = service.call("GET", "/metrics").body.decode()
        assert 'bandit_serve_webhooks_total{result="delivered"}' in metrics

        told = {body["event"] for body in receiver.bodies.values()}
        # Promotions and drift have tests of their own.
        assert told == set(EVENTS) - {"drift", "promotion"}
        by_event = {
            event: len(receiver.of(event)) for event in ("winner", "srm", "harm", "set_aside", "ejection")
        }
        assert by_event == {"winner": 1, "srm": 1, "harm": 1, "set_aside": 1, "ejection": 1}
        assert receiver.of("winner")[0]["data"]["winner"] == "other"
        assert receiver.of("harm")[0]["data"]["arm"] == "other"
        assert receiver.of("ejection")[0]["data"]["arm"] == "other"
        assert {body["experiment"] for body in receiver.of("alarm")} == {"moved"}
        output = "".join(service.output)
        assert SECRET not in output
        assert "token-of-the-path" not in output


def wait_for_holder(service: ThrowawayService, client: redis.Redis) -> int:
    """Process of a live worker that has the lease."""
    found: list[int] = []

    def has_one() -> bool:
        has = client.get(KEYS.lease)
        try:
            workers = service.call("GET", "/v1/stats").body["workers"]
        except (OSError, http.client.HTTPException):
            return False
        pids = {worker["id"]: worker["pid"] for worker in workers}
        pid = 0 if has is None else pids.get(has.decode(), 0)
        if pid in service.worker_pids():
            found.append(pid)
        return bool(found)

    wait_until(has_one)
    return found[0]


@pytest.mark.timeout(1_200)
def test_no_event_is_lost_when_the_one_that_delivers_is_killed(
    receiver: WebhookReceiver, store: ThrowawayStore, tmp_path: Path
) -> None:
    chance = random.Random(3)
    told = ("winner",)
    with ThrowawayService(tmp_path, *flags(receiver, told=told), store=store.url, workers=2) as service:
        names = [f"e{number}" for number in range(2 * KILLS)]
        for name in names:
            make(service, name)
        expected = set()
        with store.client() as client:
            for number in range(KILLS):
                pid = wait_for_holder(service, client)
                expected.add(win(service, names[2 * number]))
                time.sleep(chance.uniform(0.0, 2.5))
                os.kill(pid, signal.SIGKILL)
                expected.add(win(service, names[2 * number + 1]))
            wait_until(lambda: expected <= set(receiver.bodies), 120)
            wait_until(lambda: client.hlen(KEYS.notices) == 0, 60)
        assert set(receiver.tries) == expected


@pytest.mark.timeout(600)
def test_a_learner_whose_errors_grow_is_told(tmp_path: Path) -> None:
    ratings = synthetic_ratings(seed=5, n_users=60, n_items=80, n_ratings=1_000)
    with WebhookReceiver() as receiver:
        with ThrowawayService(
            tmp_path / "d", "--learners", "films", *flags(receiver, told=("drift",))
        ) as service:
            path = tmp_path / "m.safetensors"
            MatrixFactorization(4, n_epochs=3).fit(ratings.users, ratings.items, ratings.values).save(path)
            upload(service, "films", path.read_bytes(), {"status": "staged"})
            promoted = service.call("POST", "/v1/models/films/versions/v1/status", {"status": "production"})
            assert promoted.status == 200
            arms = [{"name": arm, "model": "films", "version": "v1"} for arm in ("control", "other")]
            make(service, "stars", arms=arms, metrics=[{"name": "stars", "kind": "continuous"}])
            pairs = list(zip(ratings.users, ratings.items, ratings.values.tolist(), strict=True))
            for first, added in ((0, 0.0), (500, 40.0)):
                some = pairs[first : first + 500]
                requests = [{"user_id": str(user), "item_id": str(item)} for user, item, _ in some]
                decided = service.call("POST", "/v1/experiments/stars/predict/batch", {"requests": requests})
                tokens = [each["decision_id"] for each in decided.body["responses"]]
                values = [value + added for _, _, value in some]
                sent = [
                    {"decision_id": token, "value": value}
                    for token, value in zip(tokens, values, strict=True)
                ]
                answered = service.call("POST", "/v1/rewards", {"rewards": sent})
                assert set(answered.body["verdicts"]) == {"accepted"}
            wait_until(lambda: bool(receiver.of("drift")), 200)
        assert not receiver.faults
        notice = receiver.of("drift")[0]
        assert notice["id"] == f"drift:films:v1:{notice['data']['rating']}"
        assert 500 < notice["data"]["rating"] <= 1_000


def test_notices_wait_for_a_receiver_through_a_restart(store: ThrowawayStore, tmp_path: Path) -> None:
    open_for_business = False
    script = lambda number: answer() if open_for_business else answer(status=503)  # noqa: E731
    with WebhookReceiver(script) as receiver:
        with ThrowawayService(tmp_path, *flags(receiver), store=store.url) as service:
            make(service, "e")
            expected = win(service, "e")
            wait_until(lambda: receiver.tries.get(expected, 0) >= 2)
            service.kill()
        open_for_business = True
        with ThrowawayService(tmp_path, *flags(receiver), store=store.url), store.client() as client:
            wait_until(lambda: expected in receiver.bodies, 120)
            wait_until(lambda: client.hlen(KEYS.notices) == 0)
        assert not receiver.faults
        assert set(receiver.of("winner")[0]["data"]) == {"winner", "who", "reason"}


def test_a_receiver_that_is_down_holds_up_no_other(store: ThrowawayStore, tmp_path: Path) -> None:
    with WebhookReceiver(lambda number: answer(status=500)) as down, WebhookReceiver() as well:
        settings = flags(down, well, told=("winner",))
        with ThrowawayService(tmp_path, *settings, store=store.url) as service:
            names = [f"e{number}" for number in range(10)]
            for name in names:
                make(service, name)
            expected = {win(service, name) for name in names}
            wait_until(lambda: set(well.bodies) == expected)
            assert set(well.tries.values()) == {1}
            with store.client() as client:
                assert client.hlen(KEYS.notices) == len(names)


def test_nothing_is_kept_where_no_webhook_is_configured(store: ThrowawayStore, tmp_path: Path) -> None:
    with ThrowawayService(tmp_path, store=store.url) as service:
        make(service, "e")
        win(service, "e")
        with store.client() as client:
            wait_until(lambda: client.get(KEYS.lease) is not None)
            assert not client.exists(KEYS.notices, KEYS.told)


def test_webhooks_can_be_tried(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    with WebhookReceiver() as receiver, WebhookReceiver(lambda number: answer(status=403)) as other:
        config.write_text(
            f'[[webhooks]]\nurl = "{receiver.url}"\nevents = ["winner", "srm"]\nsecret = "env:HOOK_SECRET"\n'
            f'[[webhooks]]\nurl = "{other.url}"\nevents = ["harm"]\nsecret = "env:NOT_THERE"\n'
        )
        done = bandit_serve(
            "webhooks", "test", "--config", config, "--json", environment={"HOOK_SECRET": SECRET}
        )
        assert done.status == 1
        first, second = done.document["webhooks"]
        assert first["delivered"]
        assert not second["delivered"]
        assert "NOT_THERE is not set" in second["problem"]
        assert receiver.bodies[done.document["id"]]["event"] == "test"
        assert not receiver.faults
        assert not other.tries
        shown = bandit_serve("config", "show", "--config", config)
        assert "token-of-the-path" not in shown.out

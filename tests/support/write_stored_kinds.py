"""Writes what this build stores of every kind: `python tests/support/write_stored_kinds.py tests/stored/NAME.keys`.

Each part of what a store may keep is there, as `stored_parts.py` lists them. test_stored_kinds.py fails for a new part
that no sample has: leave a use of it here, and write another file.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import graphs
from bad_entries import BAD_ENTRIES
from commands import bandit_serve, save_model
from http_calls import decide_many, experiment, reward_many, upload
from scripted_server import answer
from services import Answer, ThrowawayService
from stored_folds import fold_all
from stored_keys import save
from stores import ThrowawayStore, wait_until
from tenancy import Caller, Made, make
from upstreams import ThrowawayUpstream
from webhook_receiver import WebhookReceiver

from bandit_serve.cli.access import following
from bandit_serve.log.fold import POLICY_FOLD, REGISTRY_FOLD, RESULTS_FOLD
from bandit_serve.log.owner import successor
from bandit_serve.settings import Settings
from bandit_serve.store.keys import COMMON, OF_TENANT, Keys
from bandit_serve.upstreams.upstream import Upstream
from bandit_serve.webhook import EVENTS

CLICK = {"name": "click", "kind": "binary", "role": "objective"}
ERROR = {"name": "error", "kind": "binary", "goal": "minimize", "role": "guardrail"}
LATENCY = {"name": "latency_ms", "kind": "continuous", "goal": "minimize", "source": "served"}
DEVICE = {"name": "device", "kind": "categorical", "values": ["ios", "web"]}
COUNTRY = {"name": "country", "kind": "categorical", "buckets": 8}
FILMS = [{"name": version, "model": "films", "version": version} for version in ("v1", "v2")]
IGNORED = {"window": "1s", "missing": "ignore"}
AUDIENCE = {
    "any": [
        {
            "all": [
                {"field": "plan", "in": ["free", "paid"]},
                {"field": "orders", "ge": 1, "lt": 90},
                {"not": {"field": "employee", "eq": True}},
            ]
        },
        {"field": "orders", "gt": 100, "le": 1_000},
        {"field": "plan", "ne": "gone"},
        {"field": "left", "exists": False},
    ]
}
TENANT = "shop"
ASK = {"user_id": "1", "item_id": "1", "features": {"hour": 9}}


def in_time(**later: float) -> str:
    return (datetime.now(UTC) + timedelta(**later)).isoformat()


def experiments() -> Iterator[dict[str, Any]]:
    """Experiments, each with what others do not have."""
    yield {
        "id": "described",
        "description": "The day of delivery is shown.",
        "owner": "checkout@shop.example",
        "tags": ["checkout"],
        "hypothesis": "Who knows the day pays more often.",
        "arms": [{"name": "control"}, {"name": "shown", "payload": {"day": True}}, {"name": "gone"}],
        "unit": "user",
        "context": [DEVICE, COUNTRY],
        "dimensions": ["device"],
        "audience": AUDIENCE,
        "layer": {"name": "checkout-page", "share": 0.5},
        "keep_assigned": True,
        "policy": {"kind": "thompson", "max_share": 0.9, "prior": {"alpha": 2, "beta": 3}, "refresh": "1s"},
        "attribution": {"window": "1s", "missing": "zero"},
        "stopping": {"alpha": 0.01, "min_samples": 10, "end_at": in_time(days=900), "duration": "900d"},
    }
    yield {"id": "lists", "arms": FILMS, "mode": "interleave"}
    yield {
        "id": "predicted",
        "arms": FILMS,
        "metrics": [CLICK, LATENCY, ERROR | {"source": "served", "margin": {"absolute": 0.5}}],
        "stopping": {"rule": {"futility": 1e-9}},
    }
    yield {"id": "harmed", "metrics": [CLICK, ERROR | {"margin": {"absolute": 0.01}, "on_harm": "pause_arm"}]}
    yield {"id": "stopped", "metrics": [CLICK, ERROR | {"margin": {"relative": 0.5}, "on_harm": "stop"}]}
    yield {"id": "watched", "metrics": [CLICK, ERROR | {"margin": {"absolute": 0.01}, "on_harm": "report"}]}
    yield {"id": "won", "stopping": {"rule": "winner"}, "metrics": [CLICK]}
    yield {
        "id": "promoted",
        "arms": [{"name": "a", "model": "books", "version": "v1"}, *FILMS[1:]],
        "stopping": {"rule": "winner", "promote_winner": True, "expected_samples": 400},
    }
    yield {"id": "scheduled", "stopping": {"start_at": in_time(seconds=8), "rule": {"precision": 1e-6}}}
    yield {"id": "horizon", "stopping": {"mode": "horizon", "looks": 3, "expected_samples": 300}}
    yield {
        "id": "covaried",
        "unit": "user",
        "metrics": [
            CLICK,
            {"name": "paid", "kind": "continuous", "covariate": "before", "cap": 9.0},
            {"name": "items", "kind": "count"},
            {"name": "each", "kind": "ratio", "numerator": "paid", "denominator": "items"},
            {"name": "slowest", "kind": "continuous", "quantile": 0.9},
        ],
    }
    yield {"id": "optimist", "policy": {"kind": "squarecb", "optimism": 0.5}, "context": [DEVICE]}
    yield traded()
    yield slotted()
    yield {"id": "moved", "stopping": {"rule": {"best_arm": 1e-6}}}
    yield {"id": "given-up"}
    yield {"id": "again"}


def traded() -> dict[str, Any]:
    """Experiment whose policy goes by several metrics."""
    return {
        "id": "traded",
        "policy": {"kind": "thompson"},
        "metrics": [CLICK, LATENCY | {"source": "client"}, {"name": "items", "kind": "count"}],
        "attribution": {"window": "1s", "missing": "zero"},
        "weights": {"items": 0.1},
        "constraints": [{"metric": "latency_ms", "at_most": 150.0}, {"metric": "items", "at_least": 1.0}],
    }


def slotted() -> dict[str, Any]:
    """Experiment that draws lists."""
    arms = [{"name": name} for name in "abcd"]
    return {"id": "shelf", "arms": arms, "slots": 2, "policy": {"kind": "thompson", "min_share": 0.05}}


def visit_slotted(service: ThrowawayService) -> None:
    for number in range(60):
        places = require(service.call("POST", "/v1/experiments/shelf/decide", {}))["slots"]
        rewards = [
            {"decision_id": each["decision_id"], "value": float(each["arm"] == "a")} for each in places
        ]
        require(service.call("POST", "/v1/rewards", {"rewards": rewards[: 1 + number % 2]}))


def visit_traded(service: ThrowawayService) -> None:
    visit(service, "traded", 60, lambda number, arm: float(arm == "challenger"))
    visit(service, "traded", 60, lambda number, arm: 200.0 if arm == "challenger" else 90.0, "latency_ms")
    visit(service, "traded", 60, lambda number, arm: float(number % 4), "items")


def require(given: Answer) -> Any:
    assert given.status < 300, given
    return given.body


def make_experiments(service: ThrowawayService) -> None:
    for about in experiments():
        name = about["id"]
        described = {"metrics": [CLICK], "attribution": IGNORED, **about}
        require(service.call("POST", "/v1/experiments", experiment(**described)))
        if name == "described":
            require(service.call("PUT", f"/v1/experiments/{name}", experiment(**described)))
        if name == "covaried":
            units = [f"u{n}" for n in range(40)]
            uploaded = {"unit": units, "covariates": {"before": [float(n % 7) for n in range(40)]}}
            require(service.call("PUT", f"/v1/experiments/{name}/covariates", uploaded))
        if name != "scheduled":
            require(service.call("POST", f"/v1/experiments/{name}/start"))


def visit(
    service: ThrowawayService, name: str, n: int, value_of: Callable[[int, str], float], metric: str = "click"
) -> None:
    """Decides `n` times and rewards each decision with what `value_of` makes of its number and its arm."""
    columns = decide_many(service, name, [f"u{number}" for number in range(n)])
    arms = [columns["arm_names"][arm] for arm in columns["arms"]]
    values = [value_of(number, arm) for number, arm in enumerate(arms)]
    if metric == "click":
        reward_many(service, columns["decision_ids"], values)
        return
    pairs = zip(columns["decision_ids"], values, strict=True)
    rewards = [{"decision_id": token, "value": value, "metric": metric} for token, value in pairs]
    require(service.call("POST", "/v1/rewards", {"rewards": rewards}))


def visit_all(service: ThrowawayService, chance: random.Random) -> None:
    requests = [
        {
            "unit": f"u{n}",
            "context": {
                "device": chance.choice(["ios", "web", "tv"]),
                "country": chance.choice(["de", "at"]),
                "plan": "free",
                "orders": n,
            },
        }
        for n in range(80)
    ]
    rewards = []
    for name, sent in (
        ("described", requests),
        ("optimist", [{"context": {"device": each["context"]["device"]}} for each in requests]),
        ("covaried", [{"unit": f"u{n % 60}", "covariates": {"before": float(n % 5)}} for n in range(80)]),
    ):
        decided = require(service.call("POST", f"/v1/experiments/{name}/decide/batch", {"requests": sent}))
        for each in decided["responses"]:
            if each.get("decision_id") is not None and chance.random() < 0.7:
                rewards.append({"decision_id": each["decision_id"], "value": 1, "metric": "click"})
                if name == "covaried":
                    for metric, value in (("paid", 5.5), ("items", 3), ("slowest", 100 * chance.random())):
                        rewards.append({"decision_id": each["decision_id"], "value": value, "metric": metric})
    for n in range(30):
        one = require(
            service.call("POST", "/v1/experiments/predicted/predict", ASK | {"user_id": str(n % 3)})
        )
        rewards.append({"decision_id": one["decision_id"], "value": n % 2})
        listed = require(service.call("POST", "/v1/experiments/lists/predict", {"user_id": "1", "k": 2}))
        chosen = listed["items"][0]
        rewards.append({"decision_id": chosen["decision_id"], "value": 1})
    require(service.call("POST", "/v1/rewards", {"rewards": rewards}))
    visit_traded(service)
    visit_slotted(service)
    visit(service, "moved", 400, lambda number, arm: float(number < 200))
    for name in ("won", "promoted"):
        visit(service, name, 600, lambda number, arm: float(arm in ("challenger", "v2")))
    visit(service, "horizon", 320, lambda number, arm: float(number % 3 == 0))
    for name in ("harmed", "stopped", "watched"):
        visit(service, name, 300, lambda number, arm: float(arm == "challenger"), "error")


def change_experiments(service: ThrowawayService) -> None:
    def change(method: str, path: str, body: Any = None) -> None:
        require(service.call(method, f"/v1/experiments/{path}", body))

    def arm_of(name: str) -> str:
        statuses = service.call("GET", f"/v1/experiments/{name}").body["arm_status"]
        return str(statuses["challenger"])

    change("POST", "covaried/metrics", {"name": "later", "kind": "count"})
    change("DELETE", "described/arms/gone")
    change("PUT", "described/layer", {"share": 0.6})
    change("POST", "again/stop", {})
    change("DELETE", "again")
    require(service.call("POST", "/v1/experiments", experiment(id="again", attribution=IGNORED)))
    change("POST", "again/start")
    visit(service, "again", 20, lambda number, arm: 1.0)
    wait_until(lambda: arm_of("harmed") == "paused", 60)
    change("POST", "harmed/arms/challenger/resume", {"reason": "It was a fault of the test."})
    for name in ("stopped", "won", "promoted"):
        wait_until(lambda name=name: status_of(service, name) == "stopped", 60)
    wait_until(lambda: status_of(service, "scheduled") == "running", 60)
    for name in ("scheduled", "given-up"):
        visit(service, name, 20, lambda number, arm: 1.0)


def status_of(service: ThrowawayService, name: str) -> str:
    return str(service.call("GET", f"/v1/experiments/{name}").body["status"])


def define_metrics(service: ThrowawayService) -> None:
    texts = {"description": "What is paid.", "owner": "shop@shop.example"}
    definitions: dict[str, dict[str, Any]] = {
        "clicked": {"kind": "binary", "goal": "minimize"},
        "paid": {"kind": "continuous", "cap": 9.0, "covariate": "before", **texts},
        "stars": {"kind": "bounded", "low": 1, "high": 5},
        "items": {"kind": "count"},
        "each": {"kind": "ratio", "numerator": "paid", "denominator": "items"},
        "slowest": {"kind": "continuous", "quantile": 0.9},
        "latency_ms": {"kind": "continuous", "goal": "minimize", "source": "served"},
        "gone": {"kind": "count"},
    }
    for name, definition in definitions.items():
        require(service.call("PUT", f"/v1/metrics/{name}", definition))
    require(service.call("DELETE", "/v1/metrics/gone"))


def register_models(service: ThrowawayService, folder: Path, upstream: ThrowawayUpstream) -> None:
    def move(model: str, version: str, status: str) -> None:
        body = {"status": status, "reason": "to have it"}
        require(service.call("POST", f"/v1/models/{model}/versions/{version}/status", body))

    for model in ("films", "books"):
        for version, ratings in (("v1", (4.0, 5.0, 3.0)), ("v2", (1.0, 2.0, 5.0)), ("v3", (1.0, 1.0, 5.0))):
            path = save_model(folder / f"{model}-{version}.safetensors", ratings)
            about = {"version": version, "metrics": {"auc": 0.8}, "metadata": {"by": "team"}}
            require(upload(service, model, path.read_bytes(), about))
            move(model, version, "production")
    require(service.call("POST", "/v1/models/films/rollback"))
    require(service.call("PATCH", "/v1/models/films/versions/v1", {"metrics": {"auc": 0.9}}))
    move("films", "v3", "staged")
    move("films", "v3", "shadow")
    for version, ratings in (("v1", 5 * (3.0,)), ("v2", 7 * (3.0,))):
        path = save_model(folder / f"trained-{version}.safetensors", ratings)
        require(upload(service, "trained", path.read_bytes(), {"version": version, "status": "training"}))
    move("trained", "v1", "failed")
    for version, content in (("v1", graphs.arithmetic()), ("v2", graphs.of_one_row())):
        require(upload(service, "graph", content, {"version": version}))
    for protocol, more in (("json", {"headers": {}}), ("open-inference", {"model": "there"})):
        remote = {"url": upstream.base if more.get("model") else upstream.url, "protocol": protocol, **more}
        about = {"version": protocol, "remote": remote | {"timeout": "500ms"}}
        require(service.call("POST", "/v1/models/remote/versions", about))


async def deploy(store: ThrowawayStore, folder: Path, upstream: ThrowawayUpstream) -> None:
    """Has a deployment serve a version, and ends it, as `bandit-serve deploy` does."""
    settings = Settings(store=store.url, data=str(folder), upstreams=upstream.base)
    remote = Upstream(upstream.url, "json", headers={"Authorization": "env:TOKEN_OF_THE_UPSTREAM"})
    async with following(settings, store.url) as node:
        changes = node.model_changes
        await changes.deploy(
            "films", "deployed", "production", "sample", remote=remote, reason="runs", because="deploy:1"
        )
        await changes.undeploy(
            "films", "deployed", "retired", "sample", reason="was stopped", because="undeploy:1"
        )


def mend(store: ThrowawayStore, folder: Path) -> None:
    """Has a bad entry given up, then taken out of the log by hand, and another one left out."""
    bad_entry = BAD_ENTRIES["columns of unequal length"]
    log = Keys().log("given-up")

    def repair(*way: str) -> None:
        repaired = bandit_serve("repair", "given-up", *way, "--store", store.url, "--data", folder)
        assert repaired.status == 0, (way, repaired)

    with store.client() as client:
        bad = client.xadd(log, {bad_entry.kind: bad_entry.data})
        repair("--stop", "--reason", "Nobody knows what it says.")
        client.xdel(log, bad)
        repair("--try-again")
        client.xadd(log, {bad_entry.kind: bad_entry.data})
        repair("--leave-out", "--reason", "It was cut.")


def make_keys(service: ThrowawayService, folder: Path, store: ThrowawayStore) -> Made:
    """Makes keys of all scopes, and a tenant with an experiment; returns an admin's key."""
    root = Caller(service, make(folder, "--scope", "admin", "--store", store.url))
    for body in (
        {"scope": "read", "name": "board", "expires": "30d"},
        {"scope": "serve", "name": "front"},
        {"scope": "admin", "name": "shop", "tenant": TENANT},
    ):
        made = require(root.call("POST", "/v1/keys", body))
        if body["scope"] == "serve":
            require(root.call("DELETE", f"/v1/keys/{made['id']}"))
    shop = Caller(service, Made(**made))
    require(shop.call("POST", "/v1/experiments", experiment(id="prices", attribution=IGNORED)))
    require(shop.call("POST", "/v1/experiments/prices/start"))
    for _ in range(20):
        one = require(shop.call("POST", "/v1/experiments/prices/decide", {}))
        require(shop.call("POST", "/v1/rewards", {"decision_id": one["decision_id"], "value": 1}))
    return root.made


def wait_for_snapshots(store: ThrowawayStore) -> None:
    """Returns when each log has snapshots of both folds, and the registry has one of its last entry."""
    names = [about["id"] for about in experiments() if about["id"] != "again"]
    owners = [(Keys(), name) for name in (*names, successor("again"))]
    owners.append((Keys(f"bandit_serve{OF_TENANT}{TENANT}"), "prices"))
    wanted = [keys.snapshots(owner, fold) for keys, owner in owners for fold in (POLICY_FOLD, RESULTS_FOLD)]
    registry = Keys().snapshots(COMMON, REGISTRY_FOLD)
    with store.client() as client:
        wait_until(lambda: all(client.exists(key) for key in wanted), 90)
        (last, _), *_ = client.xrevrange(Keys().log(COMMON), count=1)
        wait_until(lambda: client.hexists(registry, last), 60)


def main() -> None:
    path = Path(sys.argv[1])
    with ExitStack() as running:
        folder = Path(running.enter_context(tempfile.TemporaryDirectory()))
        store = running.enter_context(ThrowawayStore())
        upstream = running.enter_context(ThrowawayUpstream())
        hears = running.enter_context(WebhookReceiver(secret=None))
        refuses = running.enter_context(WebhookReceiver(lambda number: answer(status=503), secret=None))
        webhooks = json.dumps([each.webhook(*EVENTS) for each in (hears, refuses)])
        flags = (
            "--artifacts",
            "store",
            "--snapshot-every",
            "2s",
            "--learn",
            "--keep-units",
            "--webhooks",
            webhooks,
        )
        os.environ["TOKEN_OF_THE_UPSTREAM"] = "a-token"
        service = ThrowawayService(folder, *flags, "--upstreams", upstream.base, store=store.url, workers=2)
        with service:
            register_models(service, folder, upstream)
            define_metrics(service)
            asyncio.run(deploy(store, folder, upstream))
            make_experiments(service)
            visit_all(service, random.Random(19))
            change_experiments(service)
            visit(service, "moved", 400, lambda number, arm: 0.0)
            mend(store, folder)
            where = ("--store", store.url, "--data", folder, "--artifacts", "store")
            pruned = bandit_serve("models", "prune", "--keep", "0", *where)
            assert pruned.status == 0, pruned
            key = make_keys(service, folder, store)
            wait_for_snapshots(store)
            root = Caller(service, key)
            require(root.call("POST", "/v1/experiments", experiment(id="never")))
            require(root.call("DELETE", "/v1/experiments/never"))
        with store.client() as client:
            save(path, client, {})
        expected = asyncio.run(fold_all(store.url))
        with store.client() as client:
            save(path, client, expected, key.key)
    print(f"{path}: {path.stat().st_size} bytes, {len(expected)} logs")


if __name__ == "__main__":
    main()

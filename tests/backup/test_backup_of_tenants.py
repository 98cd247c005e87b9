"""Backups of a service with tenants: all that each has comes back, its own and nobody else's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis
from commands import bandit_serve, save_model
from http_calls import decide, running, upload
from scripted_server import answer
from services import ThrowawayService
from store_kinds import KINDS, store_of
from stores import ThrowawayStore, wait_until
from tenancy import Caller, keys_of, make
from webhook_receiver import WebhookReceiver

from bandit_serve.notices.notice import Delivery
from bandit_serve.store.keys import Keys

TENANTS = ("alpha", "Beta", "gone", "idle")
"""Two with an experiment of one name, one whose keys are revoked, and one that has done nothing."""
COUNTS: dict[str | None, int] = {None: 30, "alpha": 50, "Beta": 70, "gone": 20}


class Taken:
    """Backup of a service that has ended: keys and rewards by tenant, digests of `same`, notices that waited."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "backup"
        self.callers: dict[str | None, Any] = {}
        self.rewards: dict[str | None, list[dict[str, Any]]] = {}
        self.digests: dict[str | None, str] = {}
        self.waiting: dict[str | None, dict[str, bytes]] = {}
        self.told: dict[str | None, dict[bytes, float]] = {}


def namespace(tenant: str | None, of: str = "bandit_serve") -> Keys:
    return Keys(of if tenant is None else f"{of}/{tenant}")


def flag(tenant: str | None) -> tuple[str, ...]:
    return () if tenant is None else ("--tenant", tenant)


def digest(tenant: str | None, *where: str | Path) -> str:
    done = bandit_serve("replay", "same", *flag(tenant), *where, "--json")
    assert done.status == 0, done.out + done.err
    (replayed,) = done.document["experiments"]
    return str(replayed["digest"])


def bodies(client: redis.Redis, keys: Keys) -> dict[str, bytes]:
    """Bodies of the notices that wait, by id."""
    decode = msgspec.msgpack.Decoder(Delivery).decode
    return {id.decode(): decode(packed).body for id, packed in client.hgetall(keys.notices).items()}


def told(client: redis.Redis, keys: Keys) -> dict[bytes, float]:
    return dict(client.zrange(keys.told, 0, -1, withscores=True))


def count(caller: Any, n: int) -> list[dict[str, Any]]:
    """Runs `same` with a model, sends so many rewards, and ends another experiment with a winner."""
    running(
        caller,
        id="same",
        policy={"kind": "thompson"},
        arms=[{"name": "control"}, {"name": "other", "model": "m", "version": "v1"}],
        attribution={"window": "1h", "missing": "ignore"},
    )
    rewards = [
        {"decision_id": decide(caller, "same")["decision_id"], "value": float(i % 2)} for i in range(n)
    ]
    said = caller.call("POST", "/v1/rewards", {"rewards": rewards}).body["verdicts"]
    assert set(said) == {"accepted"}
    running(caller, id="won")
    stopped = caller.call("POST", "/v1/experiments/won/stop", {"winner": "challenger"})
    assert stopped.status == 200, stopped
    return rewards


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> Taken:
    folder = tmp_path_factory.mktemp("tenants")
    made, taken = make(folder / "d", "--scope", "admin"), Taken(folder)
    with WebhookReceiver(lambda number: answer(status=503), secret=None) as receiver:
        webhooks = ("--webhooks", json.dumps([receiver.webhook("winner")]))
        with ThrowawayService(folder / "d", "--snapshot-every", "1s", *webhooks, workers=2) as service:
            root = Caller(service, made)
            taken.callers[None] = root
            for tenant in TENANTS:
                taken.callers[tenant] = Caller(service, keys_of(root, tenant)["admin"])
            for number, (tenant, n) in enumerate(COUNTS.items()):
                caller = taken.callers[tenant]
                wait_until(lambda caller=caller: caller.call("GET", "/v1/experiments").status == 200)
                model = save_model(folder / f"m{number}", (4.0 - number, 5.0, 3.0)).read_bytes()
                assert upload(caller, "m", model, {"version": "v1", "status": "staged"}).status == 201
                promoted = caller.call("POST", "/v1/models/m/versions/v1/status", {"status": "production"})
                assert promoted.status == 200, promoted
                taken.rewards[tenant] = count(caller, n)
            with redis.Redis(unix_socket_path=str(service.data / "store.sock")) as client:
                for tenant in COUNTS:
                    keys = namespace(tenant)
                    wait_until(lambda keys=keys: len(bodies(client, keys)) == 1)
                    taken.waiting[tenant], taken.told[tenant] = bodies(client, keys), told(client, keys)
            for key in root.call("GET", "/v1/keys").body["keys"]:
                if key["tenant"] == "gone":
                    assert root.call("DELETE", f"/v1/keys/{key['id']}").status in (200, 204)
            done = bandit_serve("backup", "--data", service.data, "--out", taken.file, "--json")
            assert done.status == 0, done.err
            assert (done.document["tenants"], done.document["missing"]) == (len(TENANTS), [])
            # The models are four, and each namespace has a registry and, but one, two experiments.
            assert (done.document["artifacts"], done.document["logs"]) == (4, 5 + 2 * 4)
        for tenant in COUNTS:
            taken.digests[tenant] = digest(tenant, "--data", service.data)
    return taken


def assert_counts(service: ThrowawayService, taken: Taken) -> None:
    """Every reward of before is a duplicate for whom it was sent, and no token of anybody else's."""
    root = Caller(service, taken.callers[None].made)
    for tenant in COUNTS:
        again = tenant == "gone"
        made = keys_of(root, tenant)["admin"] if again else taken.callers[tenant].made
        caller = Caller(service, made)
        wait_until(lambda caller=caller: caller.call("GET", "/v1/experiments").status == 200)
        for owner, rewards in taken.rewards.items():
            said = caller.call("POST", "/v1/rewards", {"rewards": rewards}).body["verdicts"]
            assert set(said) == ({"duplicate"} if owner == tenant else {"invalid"})
        listed = caller.call("GET", "/v1/experiments/same/results").body
        assert sum(arm["metrics"]["click"]["n"] for arm in listed["arms"]) == COUNTS[tenant]
        asked = {"user_id": "0", "item_ids": ["0"]}
        predicted = caller.call("POST", "/v1/models/m/predict", asked)
        assert predicted.status == 200, predicted


def test_each_tenant_comes_back_with_what_it_has(taken: Taken, store: ThrowawayStore, tmp_path: Path) -> None:
    """From a private store into another namespace of a named one, and from there into a private one again."""
    where = ("--store", store.url, "--namespace", "other", "--data", tmp_path / "files")
    done = bandit_serve("restore", taken.file, *where)
    assert done.status == 0, done.err
    assert "those of 4 tenants among them" in done.out
    with store.client() as client:
        assert {key.split(b":")[0].decode() for key in client.scan_iter()} == {
            "other",
            *(f"other/{tenant}" for tenant in TENANTS),
        }
        for tenant in COUNTS:
            keys = namespace(tenant, "other")
            assert (bodies(client, keys), told(client, keys)) == (taken.waiting[tenant], taken.told[tenant])
            assert digest(tenant, *where) == taken.digests[tenant]
    again = tmp_path / "again"
    done = bandit_serve("backup", *where, "--out", again, "--json")
    assert done.status == 0, done.err
    assert (done.document["tenants"], done.document["artifacts"]) == (len(TENANTS), 4)
    back = tmp_path / "back"
    assert bandit_serve("restore", again, "--data", back).status == 0
    with WebhookReceiver(secret=None) as receiver:
        webhooks = ("--webhooks", json.dumps([receiver.webhook("winner")]))
        with ThrowawayService(back, *webhooks, workers=2) as service:
            assert_counts(service, taken)
            # That of `gone` waits until it has a key again.
            wait_until(lambda: len(receiver.bodies) == len(COUNTS))
            expected = {json.loads(body)["id"] for each in taken.waiting.values() for body in each.values()}
            assert set(receiver.bodies) == expected
    for tenant in COUNTS:
        assert digest(tenant, "--data", back) == taken.digests[tenant]


@pytest.mark.parametrize("kind", KINDS)
def test_tenants_are_found_in_stores_of_each_kind(taken: Taken, kind: str, tmp_path: Path) -> None:
    with store_of(kind) as url:
        where = ("--store", url, "--data", tmp_path / "files")
        done = bandit_serve("restore", taken.file, *where, "--json")
        assert done.status == 0, done.err
        assert done.document["tenants"] == len(TENANTS)
        done = bandit_serve("backup", *where, "--out", tmp_path / "again", "--json")
        assert done.status == 0, done.err
        assert done.document["tenants"] == len(TENANTS)
        assert digest("Beta", *where) == taken.digests["Beta"]


def test_where_a_tenant_has_something_nothing_is_restored(
    taken: Taken, store: ThrowawayStore, tmp_path: Path
) -> None:
    left = namespace("left").token_keys
    with store.client() as client:
        client.hset(left, "1", b"x")
        done = bandit_serve("restore", taken.file, "--store", store.url, "--data", tmp_path / "files")
        assert done.status == 1
        assert "has something in the namespace 'bandit_serve' already" in done.err
        assert list(client.scan_iter("bandit_serve*:token-keys")) == [left.encode()]
    (tmp_path / "d" / "tenants").mkdir(parents=True)
    done = bandit_serve("restore", taken.file, "--data", tmp_path / "d")
    assert done.status == 1
    assert "has a store already" in done.err

"""Deletion of experiments: they are gone everywhere and for good, and a namesake inherits nothing."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest
from commands import bandit_serve
from http_calls import check_problem, decide, draft, experiment, new_name, reward_many, running
from msgspec import Struct
from services import ThrowawayService
from stores import ThrowawayStore, wait_until

from bandit_serve.log.events import encode
from bandit_serve.log.offset import Offset
from bandit_serve.log.repairs import deletion
from bandit_serve.registry.registry import ExperimentAnnounced, Registry, decode_registry_event
from bandit_serve.store.keys import Keys
from bandit_serve.store.store import Store

EVERY = ("--snapshot-every", "1s")


class Place:
    """Two services on one store, each with a worker and a data directory of its own."""

    def __init__(self, store: ThrowawayStore, here: ThrowawayService, there: ThrowawayService) -> None:
        self.store = store
        self.here = here
        self.there = there


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with ThrowawayStore() as store:
        datas = [tmp_path_factory.mktemp(name) for name in ("here", "there")]
        services = [ThrowawayService(data, *EVERY, store=store.url) for data in datas]
        with services[0] as here, services[1] as there:
            yield Place(store, here, there)


def exposures(service: ThrowawayService, path: str) -> int:
    return sum(arm["exposures"] for arm in service.call("GET", f"{path}/results").body["arms"])


def stopped(service: ThrowawayService) -> tuple[str, list[str]]:
    """Stopped experiment with decisions and rewards, and the tokens of decisions without a reward."""
    name = running(service)
    tokens = [decide(service, name, unit=f"u{i}")["decision_id"] for i in range(20)]
    assert set(reward_many(service, tokens[:10], [1.0] * 10)) == {"accepted"}
    assert service.call("POST", f"/v1/experiments/{name}/stop").status == 200
    return name, tokens


def test_a_draft_and_one_that_is_stopped_can_be_deleted_and_no_other(place: Place) -> None:
    service = place.here
    for steps, status in {
        (): 204,
        ("start",): 409,
        ("start", "pause"): 409,
        ("start", "stop"): 204,
        ("start", "pause", "stop"): 204,
    }.items():
        name = draft(service)
        path = f"/v1/experiments/{name}"
        for step in steps:
            assert service.call("POST", f"{path}/{step}").status == 200
        before = service.call("GET", path)
        check_problem(service.call("DELETE", path, headers={"If-Match": '"999"'}), 412)
        answer = service.call("DELETE", path, headers={"If-Match": before.headers["ETag"]})
        assert answer.status == status
        for other in (place.here, place.there):
            if status == 204:
                check_problem(other.call("GET", path), 404)
            else:
                assert other.call("GET", path).body == before.body
    check_problem(service.call("DELETE", f"/v1/experiments/{new_name()}"), 404)


def test_nothing_knows_it_any_more(place: Place) -> None:
    name, tokens = stopped(place.here)
    path = f"/v1/experiments/{name}"
    assert place.here.call("DELETE", path, {"reason": "tidying up"}).status == 204
    for service in (place.here, place.there):
        for method, rest, body in [
            ("GET", "", None),
            ("GET", "/results", None),
            ("GET", "/history", None),
            ("POST", "/decide", {"unit": "u"}),
            ("POST", "/start", {}),
            ("PUT", "/policy", {"kind": "thompson"}),
            ("PUT", "", experiment(id=name)),
            ("DELETE", "", None),
        ]:
            check_problem(service.call(method, path + rest, body), 404)
        listed = service.call("GET", "/v1/experiments").body["experiments"]
        assert name not in [each["id"] for each in listed]
        assert name not in service.call("GET", "/v1/stats").body["experiments"]
        assert name not in service.call("GET", "/metrics").body.decode()
        check_problem(service.call("POST", "/v1/rewards", {"decision_id": tokens[15], "value": 1.0}), 404)
        assert set(reward_many(service, tokens, [1.0] * 20)) == {"unknown"}
        assert service.call("GET", "/health/ready").body["status"] == "ready"


def test_a_namesake_has_nothing_of_it(place: Place) -> None:
    name, tokens = stopped(place.here)
    path = f"/v1/experiments/{name}"
    etags = set()
    for generation in range(3):
        shown = place.there.call("GET", path)
        etags.add(shown.headers["ETag"])
        assert place.here.call("DELETE", path).status == 204
        # Not even its shape.
        body = experiment(
            id=name,
            arms=[{"name": "a"}, {"name": "b"}, {"name": "c"}],
            metrics=[{"name": "m", "kind": "count"}],
        )
        made = place.there.call("POST", "/v1/experiments", body)
        assert (made.status, made.body["revision"]) == (201, 1)
        assert made.headers["ETag"] not in etags
        check_problem(place.here.call("POST", "/v1/experiments", body), 409)
        for service in (place.here, place.there):
            assert service.call("GET", path).body == made.body
            history = service.call("GET", f"{path}/history").body["history"]
            assert [entry["what"] for entry in history] == ["create"]
        assert place.here.call("POST", f"{path}/start").status == 200
        mine = [decide(place.here, name, unit=f"u{i}")["decision_id"] for i in range(20)]
        assert set(reward_many(place.there, tokens, [1.0] * 20)) == {"unknown"}
        assert set(reward_many(place.there, mine, [3.0] * 20)) == {"accepted"}
        assert set(reward_many(place.here, mine, [3.0] * 20)) == {"duplicate"}
        for service in (place.here, place.there):
            arms = service.call("GET", f"{path}/results").body["arms"]
            assert sum(arm["metrics"]["m"]["n"] for arm in arms) == 20
            wait_until(
                lambda service=service: (
                    sum(each["exposures"] for each in service.call("GET", f"{path}/results").body["arms"])
                    == 20
                )
            )
        replayed = bandit_serve("replay", name, "--store", place.store.url, "--json")
        assert (replayed.status, replayed.document["equal"]) == (0, True), generation
        assert place.here.call("POST", f"{path}/stop").status == 200
        tokens = mine


def test_one_that_has_not_heard_writes_into_no_namesake(place: Place) -> None:
    """A worker stands still while an experiment is deleted and created again; then it flushes, and goes on."""
    name = running(place.here)
    path = f"/v1/experiments/{name}"
    pid = place.there.worker_pids()[0]
    tokens = []
    try:
        tokens += [decide(place.there, name, unit=f"u{i}")["decision_id"] for i in range(50)]
        os.kill(pid, signal.SIGSTOP)
        assert place.here.call("POST", f"{path}/stop").status == 200
        assert place.here.call("DELETE", path).status == 204
        assert place.here.call("POST", "/v1/experiments", experiment(id=name)).status == 201
        assert place.here.call("POST", f"{path}/start").status == 200
        mine = [decide(place.here, name, unit=f"n{i}")["decision_id"] for i in range(10)]
    finally:
        os.kill(pid, signal.SIGCONT)
    # Once it knows of the deletion, rewards of the old experiment are unknown.
    wait_until(lambda: set(reward_many(place.there, tokens, [1.0] * 50)) == {"unknown"})
    assert set(reward_many(place.there, mine, [1.0] * 10)) == {"accepted"}
    for service in (place.there, place.here):
        arms = service.call("GET", f"{path}/results").body["arms"]
        assert sum(arm["metrics"]["click"]["n"] for arm in arms) == 10
        wait_until(lambda service=service: exposures(service, path) == 10)
    assert place.there.call("GET", "/health/ready").body["status"] == "ready"


def test_of_a_start_and_a_deletion_one_wins(place: Place) -> None:
    outcomes = set()
    with ThreadPoolExecutor(2) as pool:
        for _ in range(12):
            name = draft(place.here)
            path = f"/v1/experiments/{name}"
            start = pool.submit(place.here.call, "POST", f"{path}/start")
            delete = pool.submit(place.there.call, "DELETE", path)
            statuses = start.result().status, delete.result().status
            outcomes.add(statuses)
            shown = place.here.call("GET", path)
            if statuses[1] == 204:
                assert statuses[0] in (404, 409)
                assert shown.status == 404
            else:
                assert statuses == (200, 409)
                assert shown.body["status"] == "running"
    assert outcomes


def test_what_it_had_in_the_store_and_in_files_is_freed(place: Place) -> None:
    name, _ = stopped(place.here)
    path = f"/v1/experiments/{name}"
    keys = Keys()
    with place.store.client() as client:

        def keys_of(owner: str) -> set[str]:
            pattern = keys.log(owner).removesuffix("log") + "*"
            names = {key.decode().removeprefix(pattern[:-1]) for key in client.scan_iter(pattern)}
            # Answers of workers, which stay for a minute.
            return {name for name in names if not name.startswith(("heard:", "census:"))}

        file = place.here.data / "snapshots" / "bandit_serve" / f"{name}.snapshot"
        wait_until(lambda: "snapshots:policy" in keys_of(name) and file.exists())
        assert any(key.startswith("seen:") for key in keys_of(name))
        assert place.here.call("DELETE", path).status == 204
        body = experiment(id=name)
        assert place.here.call("POST", "/v1/experiments", body).status == 201
        # Its head stays, so that nobody begins its log anew, and what says that it was trimmed.
        wait_until(lambda: keys_of(name) == {"head", "trimmed"} and not file.exists())
        # A worker that does not know yet writes again.
        client.xadd(keys.log(name), {"t": ""})
        client.set(keys.seen(name, "click", 7, 0), "x")
        client.zadd(keys.expiries(name), {keys.seen(name, "click", 7, 0): 4e12})
        wait_until(lambda: keys_of(name) == {"head", "trimmed"})
        assert {"log", "head"} <= keys_of(f"{name}@2")
    assert place.here.call("GET", path).body["status"] == "draft"


def test_a_start_without_the_store_knows_no_deleted_one(tmp_path: Path) -> None:
    with ThrowawayStore() as store:
        with ThrowawayService(tmp_path, *EVERY, store=store.url) as service:
            name, _ = stopped(service)
            path = f"/v1/experiments/{name}"
            assert service.call("DELETE", path).status == 204
            body = experiment(id=name, arms=[{"name": "other"}])
            assert service.call("POST", "/v1/experiments", body).status == 201
            assert service.call("POST", f"{path}/start").status == 200
            folder = tmp_path / "snapshots" / "bandit_serve"
            wait_until(lambda: [file.name for file in folder.glob(f"{name}*")] == [f"{name}@2.snapshot"])
            service.kill()
        store.kill()
        with ThrowawayService(tmp_path, *EVERY, store=store.url) as service:
            assert decide(service, name, unit="u")["arm"] == "other"
            store.start()
            wait_until(lambda: service.call("GET", f"{path}/results").status == 200)
            assert service.call("GET", path).body["status"] == "running"


class FormerRepaired(Struct, frozen=True, forbid_unknown_fields=True):
    """`Repaired` as in builds that do not know deletions."""

    experiment: str
    way: str
    who: str
    reason: str | None = None
    omitted: tuple[tuple[str, str], ...] = ()


def test_builds_that_know_of_no_deletion_take_it_for_given_up() -> None:
    data = encode(deletion("e", "somebody", None))
    former = msgspec.msgpack.decode(data, type=FormerRepaired)
    assert (former.experiment, former.way) == ("e", "stop")
    registry = Registry()
    registry.apply(Offset(1, 0), ExperimentAnnounced("e"))
    registry.apply(Offset(2, 0), decode_registry_event(b"f", data))
    assert (registry.experiments, registry.owner("e"), "e" in registry.repairs.given_up) == ({}, "e@2", True)
    # Such a build keeps the experiment in its list, and its snapshot is read all the same.
    state = msgspec.msgpack.decode(registry.state())
    state["experiments"] = ["e", "other"]
    again = Registry.from_state(Offset(2, 0), msgspec.msgpack.encode(state))
    assert (list(again.experiments), again.owner("e")) == (["other"], "e@2")
    # A late announcement is of one that is gone.
    again.apply(Offset(3, 0), ExperimentAnnounced("e"))
    assert "e" not in again.experiments


def test_no_key_of_a_namesake_is_another_ones() -> None:
    keys = Keys()
    made = {
        key
        for owner in ("e", "e@2", "e@11", "e2", "e-2", "e.2")
        for key in (
            keys.log(owner), keys.head(owner), keys.trimmed(owner), keys.seen(owner, "m", 1, 0),
            keys.exposed(owner, 1), keys.snapshots(owner, "policy"), keys.expiries(owner),
        )
    }  # fmt: skip
    assert len(made) == 6 * 7
    assert all(key.startswith("bandit_serve:{e}") for key in made if "{e}" in key)


def test_one_that_was_given_up_can_be_deleted(store: ThrowawayStore, tmp_path: Path) -> None:
    with ThrowawayService(tmp_path, store=store.url) as service:
        name = running(service)
        path = f"/v1/experiments/{name}"
        with store.client() as client:
            client.xadd(Keys().log(name), {"z": b"what no build knows"})
        wait_until(lambda: "set_aside" in service.call("GET", path).body)
        check_problem(service.call("DELETE", path), 503)
        assert bandit_serve("repair", name, "--stop", "--store", store.url).status == 0
        assert service.call("DELETE", path).status == 204
        check_problem(service.call("GET", path), 404)
        assert service.call("POST", "/v1/experiments", experiment(id=name)).status == 201


def test_freeing_is_done_once_and_finds_what_came_since(store: ThrowawayStore) -> None:
    async def run() -> None:
        sweeper = Store(store.url)
        try:
            for owner in ("a", "b@2"):
                await sweeper.append(owner, b"t", b"")
            assert await sweeper.find_present(["a", "b@2", "c"]) == ["a", "b@2"]
            await sweeper.free("a", ("policy", "results"))
            assert await sweeper.find_present(["a", "b@2", "c"]) == ["b@2"]
            assert await sweeper.trimmed("a") > Offset(0, 0)
            await sweeper.free("a", ("policy", "results"))
            await sweeper.append("a", b"t", b"")
            assert await sweeper.find_present(["a"]) == ["a"]
        finally:
            await sweeper.close()

    asyncio.run(run())

"""`bandit-serve repair`: the diagnosis of an experiment that is set aside, and each remedy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bad_entries import BAD_ENTRIES, BadEntry, later_change
from commands import Finished, bandit_serve
from consistency_checks import KEYS, make_experiment, wait_until_all_serve
from services import ThrowawayService
from stores import ThrowawayStore, wait_until

from bandit_serve.log import events
from bandit_serve.log.entry import Entry
from bandit_serve.log.offset import Offset

UNKNOWN = BAD_ENTRIES["an unknown kind"]


@pytest.fixture
def service(store: ThrowawayStore, tmp_path: Path) -> Iterator[ThrowawayService]:
    with ThrowawayService(tmp_path, store=store.url, workers=2) as running:
        wait_until_all_serve(running, 2)
        yield running


@pytest.fixture
def where(store: ThrowawayStore, tmp_path: Path) -> tuple[str | Path, ...]:
    return "--store", store.url, "--data", tmp_path


def visit(service: ThrowawayService, name: str, n: int = 1) -> None:
    """`n` decisions, each rewarded."""
    for _ in range(n):
        token = service.call("POST", f"/v1/experiments/{name}/decide", {}).body["decision_id"]
        given = service.call("POST", "/v1/rewards", {"decision_id": token, "value": 1})
        assert given.status == 200, given.body


def put(store: ThrowawayStore, name: str, bad_entry: BadEntry) -> str:
    with store.client() as client:
        at: Any = client.xadd(KEYS.log(name), {bad_entry.kind: bad_entry.data})
    return str(Offset.parse(at))


def set_aside(service: ThrowawayService, name: str) -> bool:
    shown = [service.call("GET", f"/v1/experiments/{name}").body for _ in range(4)]
    return all("set_aside" in each for each in shown)


def rewards_of(service: ThrowawayService, name: str) -> int:
    return sum(
        arm["metrics"]["click"]["n"]
        for arm in service.call("GET", f"/v1/experiments/{name}/results").body["arms"]
    )


def replayed(where: tuple[str | Path, ...]) -> Finished:
    return bandit_serve("replay", "--json", *where)


def test_what_is_wrong_is_said_and_nothing_changed(
    service: ThrowawayService, store: ThrowawayStore, where: tuple[str | Path, ...]
) -> None:
    make_experiment(service, "e")
    visit(service, "e", 2)
    assert bandit_serve("repair", "e", "--json", *where).document["condition"] == "well"
    offset = put(store, "e", UNKNOWN)
    second = put(store, "e", BAD_ENTRIES["half a reward"])
    wait_until(lambda: set_aside(service, "e"))
    ran = bandit_serve("repair", "e", "--json", *where)
    assert ran.status == 0
    document = ran.document
    assert document["condition"] == "set_aside"
    assert [(fault["offset"], fault["kind"]) for fault in document["faults"]] == [
        (offset, "z"),
        (second, "r"),
    ]
    spoken = bandit_serve("repair", "e", *where)
    for text in (offset, second, "--try-again", "--leave-out", "--from-snapshot", "--stop"):
        assert text in spoken.out
    assert set_aside(service, "e")
    doctor = bandit_serve("doctor", "--json", *where)
    assert doctor.status == 1
    assert any("bandit-serve repair e" in (check["advice"] or "") for check in doctor.document["checks"])
    assert bandit_serve("repair", "nobody", *where).status == 1
    assert bandit_serve("repair", "e", "--stop", "--leave-out", *where).status == 2


def test_entries_are_left_out_in_every_fold_and_for_good(
    service: ThrowawayService, store: ThrowawayStore, where: tuple[str | Path, ...]
) -> None:
    make_experiment(service, "e")
    visit(service, "e", 3)
    held = service.call("POST", "/v1/experiments/e/decide", {}).body["decision_id"]
    put(store, "e", UNKNOWN)
    wait_until(lambda: set_aside(service, "e"))
    put(store, "e", BAD_ENTRIES["no MessagePack where exposures are"])
    done = bandit_serve("repair", "e", "--leave-out", "--reason", "another build", "--json", *where)
    assert done.status == 0, done
    assert (done.document["left_out"]["entries"], done.document["taken_up"]) == (2, 2)
    assert not set_aside(service, "e")
    assert service.call("GET", "/health/ready").body == {"status": "ready"}
    assert service.call("POST", "/v1/rewards", {"decision_id": held, "value": 1}).body["accepted"] == 1
    visit(service, "e", 2)
    assert rewards_of(service, "e") == 6
    history = service.call("GET", "/v1/experiments/e/history").body["history"]
    assert [(each["what"], each["reason"]) for each in history[-2:]] == [("leave_out", "another build")] * 2
    assert service.call("POST", "/v1/experiments/e/pause").status == 200
    assert replayed(where).document["equal"] is True
    assert service.stop() == 0
    assert replayed(where).status == 0
    service.start()
    assert service.call("GET", "/health/ready").body == {"status": "ready"}
    assert rewards_of(service, "e") == 6


def test_a_change_of_a_later_build_is_left_out_and_changes_go_on(
    service: ThrowawayService, store: ThrowawayStore, where: tuple[str | Path, ...]
) -> None:
    """The revision that changes are compared with goes back to the one that the fold has."""
    make_experiment(service, "e")
    with store.client() as client:
        (at, fields), *_ = client.xrevrange(KEYS.log("e"), count=1)
        later = later_change(Entry(Offset.parse(at), events.CHANGED, fields[events.CHANGED]))
        client.xadd(KEYS.log("e"), {events.CHANGED: later})
        client.incr(KEYS.head("e"))
    wait_until(lambda: set_aside(service, "e"))
    assert service.call("GET", "/v1/experiments/e").body["status"] == "running"
    done = bandit_serve("repair", "e", "--leave-out", "--json", *where)
    assert done.status == 0, done
    assert done.document["left_out"]["changes"] == 1
    assert service.call("POST", "/v1/experiments/e/pause").status == 200
    assert service.call("POST", "/v1/experiments/e/start").status == 200
    visit(service, "e")
    assert replayed(where).document["equal"] is True


def test_an_experiment_starts_over_from_a_snapshot(
    store: ThrowawayStore, tmp_path: Path, where: tuple[str | Path, ...]
) -> None:
    with ThrowawayService(tmp_path, "--snapshot-every", "1s", store=store.url) as service:
        make_experiment(service, "e")
        visit(service, "e", 4)
        with store.client() as client:
            wait_until(lambda: client.hlen(KEYS.snapshots("e", "policy")) > 0)
            wait_until(lambda: client.hlen(KEYS.snapshots("e", "results")) > 0)
        put(store, "e", UNKNOWN)
        wait_until(lambda: set_aside(service, "e"))
        (newest, *_) = bandit_serve("repair", "e", "--json", *where).document["snapshots"]
        assert bandit_serve("repair", "e", "--from-snapshot", "1-1", *where).status == 1
        done = bandit_serve("repair", "e", "--from-snapshot", newest["offset"], "--json", *where)
        assert done.status == 0, done
        assert done.document["left_out"]["entries"] >= 1
        visit(service, "e", 3)
        assert replayed(where).document["equal"] is True


def test_an_experiment_is_given_up_and_taken_up_again(
    service: ThrowawayService, store: ThrowawayStore, where: tuple[str | Path, ...]
) -> None:
    make_experiment(service, "e")
    token = service.call("POST", "/v1/experiments/e/decide", {}).body["decision_id"]
    put(store, "e", UNKNOWN)
    wait_until(lambda: set_aside(service, "e"))
    assert bandit_serve("repair", "e", "--stop", *where).status == 0
    assert service.call("GET", "/health/ready").body == {"status": "ready"}
    assert service.call("GET", "/v1/experiments/e").body["status"] == "stopped"
    decided = service.call("POST", "/v1/experiments/e/decide", {}).body
    assert (decided["arm"], decided["decision_id"]) == ("control", None)
    assert service.call("POST", "/v1/rewards", {"decision_id": token, "value": 1}).status == 404
    again = bandit_serve("repair", "e", "--try-again", *where)
    assert again.status == 1, "this build can still not fold it"
    assert set_aside(service, "e")
    assert bandit_serve("repair", "e", "--leave-out", *where).status == 0
    visit(service, "e")


def test_an_entry_of_the_common_log_is_left_out(
    service: ThrowawayService, store: ThrowawayStore, where: tuple[str | Path, ...]
) -> None:
    put(store, ".common", UNKNOWN)
    wait_until(lambda: service.call("GET", "/health/ready").body["status"] == "degraded")
    make_experiment(service, "e")
    visit(service, "e")
    assert [
        fault["kind"] for fault in bandit_serve("repair", ".common", "--json", *where).document["faults"]
    ] == ["z"]
    assert bandit_serve("repair", ".common", "--stop", *where).status == 2
    explained = bandit_serve("repair", ".common", *where).out
    assert "bandit-serve repair .common --leave-out" in " ".join(explained.split())
    left_out = bandit_serve("repair", ".common", "--leave-out", *where)
    assert left_out.status == 0
    assert "2 of 2" in left_out.out
    wait_until(lambda: service.call("GET", "/health/ready").body == {"status": "ready"})
    assert service.stop() == 0
    service.start()
    assert service.call("GET", "/health/ready").body == {"status": "ready"}

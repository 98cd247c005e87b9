"""Slots through a service: lists, their rewards by place, and what is told of them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bandit_serve_client import SyncClient, place_rewards
from commands import bandit_serve
from http_calls import call_msgpack, check_problem, draft, running
from services import ThrowawayService
from stores import wait_until

APPEAL = {"a": 0.5, "b": 0.35, "c": 0.2, "d": 0.05, "e": 0.05}
ARMS = [{"name": name, "payload": {"teaser": name}} for name in APPEAL]
SHELF = {
    "arms": ARMS,
    "control": "c",
    "slots": 3,
    "unit": "request",
    "policy": {"kind": "thompson", "min_share": 0.02, "refresh": "5ms"},
    "metrics": [{"name": "click", "kind": "binary"}],
    "attribution": {"window": "1h", "missing": "ignore"},
}


def decide(service: ThrowawayService, name: str, **body: Any) -> dict[str, Any]:
    answer = service.call("POST", f"/v1/experiments/{name}/decide", body)
    assert answer.status == 200, answer
    found: dict[str, Any] = answer.body
    return found


def test_readers_of_a_cascade_teach_it_what_to_place(service: ThrowawayService) -> None:
    name, rng = running(service, **SHELF), np.random.default_rng(3)
    late: Counter[str] = Counter()
    looked: Counter[str] = Counter()
    with SyncClient(service.url) as client:
        for turn in range(1_500):
            decision = client.decide(name)
            assert decision.slots is not None
            assert len({place.arm for place in decision.slots}) == 3
            assert (decision.arm, decision.decision_id) == (
                decision.slots[0].arm,
                decision.slots[0].decision_id,
            )
            assert decision.slots[1].payload == {"teaser": decision.slots[1].arm}
            clicked = next(
                (i for i, place in enumerate(decision.slots) if rng.random() < APPEAL[place.arm]), None
            )
            rewards = place_rewards(decision, () if clicked is None else {clicked})
            assert client.rewards(rewards).rejected == 0
            looked.update(place.arm for place in decision.slots[: len(rewards)])
            if turn >= 1_000:
                late.update(place.arm for place in decision.slots)
    assert {arm for arm, _ in late.most_common(3)} == {"a", "b", "c"}
    assert min(late[arm] for arm in "abc") > 400

    def arms() -> dict[str, Any]:
        body = service.call("GET", f"/v1/experiments/{name}/results").body
        return {arm["name"]: arm for arm in body["arms"]}

    wait_until(lambda: sum(arm["exposures"] for arm in arms().values()) == 4_500)
    for arm, found in arms().items():
        assert found["metrics"]["click"]["n"] == looked[arm]
        click = found["metrics"]["click"]
        # Five standard deviations: an interval of 95 % may miss.
        assert abs(click["mean"] - APPEAL[arm]) < 5 * (0.25 / click["n"]) ** 0.5
        assert click["n"] < 50 or click["interval"][0] < click["interval"][1]


def test_a_batch_has_a_list_for_each_request(service: ThrowawayService) -> None:
    name = running(service, **SHELF)
    body = {"requests": [{}, {"eligible": ["d", "e"]}, {"eligible": ["nobody"]}]}
    in_json = service.call("POST", f"/v1/experiments/{name}/decide/batch", body).body["responses"]
    in_msgpack = call_msgpack(service, f"/v1/experiments/{name}/decide/batch", body).body["responses"]
    for answers in (in_json, in_msgpack):
        assert [len(each.get("slots", ())) for each in answers] == [3, 2, 0]
        assert sorted(place["arm"] for place in answers[1]["slots"]) == ["d", "e"]
        assert answers[1]["slots"][1]["propensity"] == 1.0
        assert answers[2]["status"] == 400


def test_what_is_for_one_arm_is_refused(service: ThrowawayService) -> None:
    name = running(service, **SHELF)
    path = f"/v1/experiments/{name}"
    check_problem(service.call("POST", f"{path}/predict", {"user_id": "u", "k": 3}), 409)
    check_problem(service.call("POST", f"{path}/decide/batch", {"units": ["u1", "u2"]}), 409)
    flag = service.call("POST", f"/ofrep/v1/evaluate/flags/{name}", {"context": {"targetingKey": "u"}})
    assert flag.status == 404, flag
    assert service.call("GET", f"/v2/models/{name}").status == 404
    assert service.call("POST", f"{path}/decide/batch", {"requests": [{}]}).status == 200


def test_they_are_created_shown_applied_paused_and_stopped(service: ThrowawayService, tmp_path: Path) -> None:
    name = draft(service, **SHELF)
    path = f"/v1/experiments/{name}"
    assert service.call("GET", path).body["slots"] == 3
    file = tmp_path / "shelf.json"
    file.write_text(json.dumps({"id": name, **SHELF}))
    applied = bandit_serve("experiments", "apply", file, "--json", "--data", service.data)
    assert [each["result"] for each in applied.document["experiments"]] == ["unchanged"]
    assert service.call("POST", f"{path}/start").status == 200
    file.write_text(json.dumps({"id": name, **SHELF, "slots": 2}))
    refused = bandit_serve("experiments", "apply", file, "--json", "--data", service.data)
    assert refused.status != 0, "they stay as they are once it has started"
    assert service.call("POST", f"{path}/arms/a/pause").status == 200
    wait_until(lambda: "a" not in {place["arm"] for place in decide(service, name)["slots"]})
    assert service.call("POST", f"{path}/pause").status == 200
    wait_until(lambda: decide(service, name)["decision_id"] is None)
    assert [place["arm"] for place in decide(service, name)["slots"]] == ["c", "b", "d"]
    assert service.call("POST", f"{path}/stop", {"winner": "e"}).status == 200
    wait_until(lambda: decide(service, name)["arm"] == "e")
    assert [place["arm"] for place in decide(service, name)["slots"]] == ["e", "b", "c"]
    assert {place["propensity"] for place in decide(service, name)["slots"]} == {1.0}


def test_an_export_has_whole_lists_in_their_order(service: ThrowawayService, tmp_path: Path) -> None:
    name = running(service, **SHELF)
    placed = [[place["arm"] for place in decide(service, name)["slots"]] for _ in range(20)]
    results = f"/v1/experiments/{name}/results"
    wait_until(lambda: sum(arm["exposures"] for arm in service.call("GET", results).body["arms"]) == 60)
    out = tmp_path / "rows.jsonl"
    exported = bandit_serve("export", name, "--out", out, "--format", "jsonl", "--data", service.data)
    assert exported.status == 0, exported
    rows = sorted((json.loads(line) for line in out.read_text().splitlines()), key=lambda row: row["number"])
    lists: dict[Any, list[str]] = {}
    for row in rows:
        lists.setdefault(row["unit"], []).append(row["arm"])
    assert sorted(lists.values()) == sorted(placed)
    for row in rows:
        assert row["propensity"] == pytest.approx(
            row["shares"][[arm["name"] for arm in ARMS].index(row["arm"])]
        )


def test_replay_gives_the_same_state(service: ThrowawayService) -> None:
    name = running(service, **SHELF)
    with SyncClient(service.url) as client:
        for i in range(50):
            client.rewards(place_rewards(client.decide(name), {i % 3}))
    replayed = bandit_serve("replay", name, "--json", "--data", service.data)
    assert replayed.status == 0, replayed

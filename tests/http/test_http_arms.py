"""Changes of arms over HTTP: permissions of each status, shares, and results."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from commands import save_model
from http_calls import (
    call_msgpack,
    check_problem,
    decide,
    decide_many,
    draft,
    reward_many,
    running,
    upload,
)
from services import Answer, ThrowawayService
from stores import wait_until

ABC = [{"name": name} for name in "abc"]
LEARNING = {"kind": "thompson", "min_share": 0.02, "refresh": "1ms"}


def add(service: ThrowawayService, name: str, arm: str, **more: Any) -> Answer:
    return service.call("POST", f"/v1/experiments/{name}/arms", {"name": arm, **more})


def remove(service: ThrowawayService, name: str, arm: str) -> Answer:
    return service.call("DELETE", f"/v1/experiments/{name}/arms/{arm}")


def move(service: ThrowawayService, name: str, arm: str, what: str) -> Answer:
    return service.call("POST", f"/v1/experiments/{name}/arms/{arm}/{what}")


def shares(service: ThrowawayService, name: str) -> dict[str, float]:
    current: dict[str, float] = service.call("GET", "/v1/stats").body["experiments"][name]["shares"]
    return current


def test_an_arm_comes_pauses_goes_on_and_goes(service: ThrowawayService) -> None:
    name = running(service)
    added = add(service, name, "third", payload={"n": 3}, reason="a new idea")
    assert added.status == 200
    assert added.headers["ETag"] == '"3"'
    assert [arm["name"] for arm in added.body["arms"]] == ["control", "challenger", "third"]
    assert added.body["arm_status"] == dict.fromkeys(["control", "challenger", "third"], "active")
    assert decide(service, name, eligible=["third"])["payload"] == {"n": 3}
    assert shares(service, name) == pytest.approx(
        {"control": 1 / 3, "challenger": 1 / 3, "third": 1 / 3}, abs=1e-9
    )

    paused = move(service, name, "third", "pause")
    assert paused.body["arm_status"]["third"] == "paused"
    assert shares(service, name) == {"control": 0.5, "challenger": 0.5, "third": 0.0}
    assert decide(service, name, eligible=["third", "challenger"])["arm"] == "challenger"
    assert (
        check_problem(service.call("POST", f"/v1/experiments/{name}/decide", {"eligible": ["third"]}), 409)[
            "detail"
        ].count("eligible")
        == 1
    )
    assert move(service, name, "third", "resume").status == 200
    assert decide(service, name, eligible=["third"])["propensity"] == 1.0

    gone = service.call("DELETE", f"/v1/experiments/{name}/arms/challenger", {"reason": "too slow"})
    assert gone.body["arm_status"]["challenger"] == "removed"
    assert shares(service, name) == {"control": 0.5, "challenger": 0.0, "third": 0.5}
    assert set(decide_many(service, name, ["u"] * 200)["arms"]) == {0, 2}
    history = service.call("GET", f"/v1/experiments/{name}/history").body["history"]
    assert [(each["what"], each["arm"], each["reason"]) for each in history[2:]] == [
        ("add_arm", "third", "a new idea"),
        ("pause_arm", "third", None),
        ("resume_arm", "third", None),
        ("remove_arm", "challenger", "too slow"),
    ]


def test_arms_of_drafts_and_of_paused_experiments_change_too(service: ThrowawayService) -> None:
    name = draft(service)
    assert add(service, name, "third").status == 200
    assert remove(service, name, "challenger").status == 200
    service.call("POST", f"/v1/experiments/{name}/start")
    assert set(decide_many(service, name, ["u"] * 200)["arms"]) == {0, 2}
    service.call("POST", f"/v1/experiments/{name}/pause")
    assert add(service, name, "fourth").status == 200
    assert decide(service, name)["arm"] == "control"
    service.call("POST", f"/v1/experiments/{name}/start")
    assert set(decide_many(service, name, ["u"] * 200)["arms"]) == {0, 2, 3}


def test_what_is_refused(service: ThrowawayService) -> None:
    name = running(service)
    add(service, name, "third")
    remove(service, name, "third")
    check_problem(add(service, name, "third"), 409)
    check_problem(add(service, name, "control"), 409)
    check_problem(remove(service, name, "control"), 409)
    check_problem(move(service, name, "control", "pause"), 409)
    check_problem(move(service, name, "control", "resume"), 409)
    check_problem(move(service, name, "third", "resume"), 409)
    check_problem(remove(service, name, "third"), 409)
    check_problem(remove(service, name, "nobody"), 404)
    check_problem(remove(service, "nothing", "control"), 404)
    check_problem(add(service, name, "x", model="m"), 400)
    check_problem(add(service, name, "x", model="m", version="v"), 400, "version")
    check_problem(add(service, name, "x", ramp={"from": 0, "over": "1h"}), 400, "ramp.from")
    check_problem(add(service, name, "x", ramp={"from": 0.1}), 400)
    check_problem(add(service, name, "x", weight=3), 400)
    stale = service.call("POST", f"/v1/experiments/{name}/arms", {"name": "x"}, {"If-Match": '"1"'})
    check_problem(stale, 412)
    stop = f"/v1/experiments/{name}/stop"
    check_problem(service.call("POST", stop, {"winner": "third"}), 400, "winner")
    assert service.call("POST", stop).status == 200
    check_problem(add(service, name, "late"), 409)
    floored = running(service, policy={"kind": "thompson", "min_share": 0.5})
    check_problem(add(service, floored, "third"), 400, "policy.min_share")


def test_a_ramp_lets_an_arm_in_little_by_little(service: ThrowawayService) -> None:
    name = running(service)
    added = add(service, name, "third", ramp={"from": 0.02, "over": "15s"})
    ramp = added.body["ramps"]["third"]
    assert (ramp["from"], ramp["over"]) == (0.02, "15s")
    assert ramp["since"] == added.body["updated_at"]
    first = shares(service, name)
    assert 0.02 <= first["third"] < 0.2
    assert first["control"] == first["challenger"] == pytest.approx((1.0 - first["third"]) / 2)
    wait_until(lambda: first["third"] + 0.05 < shares(service, name)["third"] < 1 / 3)
    wait_until(lambda: shares(service, name)["third"] == pytest.approx(1 / 3))


def test_the_ramp_of_a_draft_begins_with_its_start(service: ThrowawayService) -> None:
    name = draft(service)
    assert (
        add(service, name, "third", ramp={"from": 0.02, "over": "1h"}).body["ramps"]["third"]["since"] is None
    )
    time.sleep(0.05)
    started = service.call("POST", f"/v1/experiments/{name}/start").body
    assert started["ramps"]["third"]["since"] == started["started_at"]
    assert shares(service, name)["third"] == pytest.approx(0.02, abs=0.001)


def test_rewards_of_a_removed_arm_still_count(service: ThrowawayService) -> None:
    name = running(service, arms=ABC)
    columns = decide_many(service, name, ["u"] * 600)
    tokens = [t for t, arm in zip(columns["decision_ids"], columns["arms"], strict=True) if arm == 1]
    assert remove(service, name, "b").status == 200
    assert set(reward_many(service, tokens, [1.0] * len(tokens))) == {"accepted"}
    body = service.call("GET", f"/v1/experiments/{name}/results").body
    of_b = body["arms"][1]
    assert (of_b["name"], of_b["share"]) == ("b", 0.0)
    assert of_b["metrics"]["click"]["n"] == len(tokens)
    assert of_b["metrics"]["click"]["probability_best"] is None
    assert "b was removed" in body["reason"]
    wait_until(
        lambda: service.call("GET", "/v1/stats").body["experiments"][name]["rewards"]["b"] == len(tokens)
    )


def test_users_move_to_an_arm_that_comes_and_nowhere_else(service: ThrowawayService) -> None:
    name = running(service, unit="user")
    users = [f"user-{i}" for i in range(8_000)]
    before = np.array(decide_many(service, name, users)["arms"])
    assert add(service, name, "third").status == 200
    after = np.array(decide_many(service, name, users)["arms"])
    moved = after != before
    assert (after[moved] == 2).all()
    assert 0.31 < moved.mean() < 0.355
    assert remove(service, name, "third").status == 200
    assert (np.array(decide_many(service, name, users)["arms"]) == before).all(), (
        "all go back where they were"
    )


def test_the_holdout_of_users_stays_and_is_split_evenly(service: ThrowawayService) -> None:
    split = {"kind": "fixed_split", "shares": {"control": 9, "challenger": 1}, "holdout": 0.2}
    name = running(service, unit="user", policy=split)
    users = [f"user-{i}" for i in range(10_000)]
    columns = decide_many(service, name, users)
    assert sorted(set(columns["propensities"])) == pytest.approx([0.18, 0.82])
    before = np.array(columns["arms"])
    assert abs(before.mean() - 0.18) < 4 * np.sqrt(0.18 * 0.82 / 10_000)
    assert (np.array(decide_many(service, name, users)["arms"]) == before).all()
    split = {"kind": "fixed_split", "shares": {"control": 1, "challenger": 9}, "holdout": 0.2}
    assert service.call("PUT", f"/v1/experiments/{name}/policy", split).status == 200
    moved = np.array(decide_many(service, name, users)["arms"]) != before
    assert abs(moved.mean() - 0.8 * 0.8) < 0.02, "the holdout stays where it was"


def test_propensities_are_exact_with_a_holdout_eligibility_and_a_ramp(service: ThrowawayService) -> None:
    """While learning: for every arm, the mean of 1{A = k}/p over the decisions it was eligible for is 1."""
    n_decisions, batch = 20_000, 40
    rng = np.random.default_rng(5)
    worth = {"a": 0.1, "b": 0.12, "c": 0.05, "d": 0.2}
    name = running(service, arms=ABC, policy={**LEARNING, "holdout": 0.1})
    wishes: list[list[str] | None] = [None, ["a", "b", "c", "d"], ["b", "d"], ["a", "c", "d"]]
    names: list[str] = []
    propensities: list[float] = []
    was_eligible: list[set[str]] = []
    for start in range(0, n_decisions, batch):
        if start == n_decisions // 4:
            assert add(service, name, "d", ramp={"from": 0.05, "over": "5s"}).status == 200
        there = set("abc") if start < n_decisions // 4 else set("abcd")
        wished = [wishes[i] for i in rng.integers(0, 4, batch)]
        asked = [subset and [arm for arm in subset if arm in there] for subset in wished]
        body = {"requests": [{} if subset is None else {"eligible": subset} for subset in asked]}
        responses = call_msgpack(service, f"/v1/experiments/{name}/decide/batch", body).body["responses"]
        was_eligible += [there if subset is None else set(subset) for subset in asked]
        names += [each["arm"] for each in responses]
        propensities += [each["propensity"] for each in responses]
        values = [float(rng.random() < worth[each["arm"]]) for each in responses]
        assert set(reward_many(service, [each["decision_id"] for each in responses], values)) == {"accepted"}
    for arm in "abcd":
        mine = np.array([arm in eligible for eligible in was_eligible])
        hit = np.array([chosen == arm for chosen in names])
        inverse = np.where(hit, 1.0 / np.array(propensities), 0.0)[mine]
        assert abs(inverse.mean() - 1.0) < 4 * inverse.std() / np.sqrt(len(inverse)), arm
    assert len(set(propensities)) > 100
    assert min(propensities) >= 0.1 / 4


def test_a_holdout_is_analysed_and_never_learned_from(service: ThrowawayService) -> None:
    name = running(service, policy={**LEARNING, "holdout": 1.0})
    columns = decide_many(service, name, ["u"] * 2_000)
    values = [float(arm) for arm in columns["arms"]]
    assert set(reward_many(service, columns["decision_ids"], values)) == {"accepted"}
    body = service.call("GET", f"/v1/experiments/{name}/results").body
    assert body["arms"][1]["metrics"]["click"]["mean"] == 1.0
    assert body["winner"] == "challenger"
    assert service.call("PUT", f"/v1/experiments/{name}/policy", LEARNING).status == 200
    assert shares(service, name) == pytest.approx({"control": 0.5, "challenger": 0.5}, abs=1e-6)


def test_a_warm_up_is_even_over_the_arms_that_are_short(service: ThrowawayService) -> None:
    name = running(service, policy={**LEARNING, "warmup": 300})
    columns = decide_many(service, name, ["u"] * 200)
    values = [float(arm) for arm in columns["arms"]]
    reward_many(service, columns["decision_ids"], values)
    time.sleep(0.3)
    assert shares(service, name) == pytest.approx({"control": 0.5, "challenger": 0.5}, abs=1e-9)
    decide_many(service, name, ["u"] * 600)
    wait_until(lambda: shares(service, name)["challenger"] > 0.9)
    assert add(service, name, "third").status == 200
    assert shares(service, name)["third"] == pytest.approx(0.96)
    decide_many(service, name, ["u"] * 400)
    wait_until(lambda: shares(service, name)["third"] < 0.9)


@pytest.fixture
def own_service(tmp_path: Any) -> Iterator[ThrowawayService]:
    with ThrowawayService(tmp_path) as running:
        yield running


def test_an_arm_whose_model_does_not_load_is_left_out_until_it_does(
    own_service: ThrowawayService, tmp_path: Any
) -> None:
    service = own_service
    for version, ratings in (("v1", (4.0, 5.0)), ("v2", (1.0, 2.0, 3.0))):
        artifact = save_model(tmp_path / f"{version}.safetensors", ratings).read_bytes()
        assert upload(service, "m", artifact, {"version": version}).status == 201
    arms = [{"name": name, "model": "m", "version": f"v{i + 1}"} for i, name in enumerate(["a", "b"])]
    name = running(service, arms=arms)
    sha = service.call("GET", "/v1/models/m/versions/v2").body["sha256"]
    (file,) = (tmp_path / "artifacts").glob(f"{sha}*")
    service.stop()
    whole = file.read_bytes()
    file.unlink()
    file.write_bytes(b"no model")
    service.start()
    predicted = [
        service.call("POST", f"/v1/experiments/{name}/predict", {"user_id": f"{i}", "item_id": "0"})
        for i in range(60)
    ]
    assert {each.status for each in predicted} == {200}
    assert {each.body["arm"] for each in predicted} == {"a"}
    assert predicted[-1].body["propensity"] == 1.0
    stats = service.call("GET", "/v1/stats").body
    assert stats["experiments"][name]["ejected"] == ["b"]
    assert stats["experiments"][name]["shares"] == {"a": 1.0, "b": 0.0}
    assert stats["ejections"] == 1
    metrics = service.call("GET", "/metrics").body.decode()
    assert "bandit_serve_ejections_total 1.0" in metrics
    assert "bandit_serve_ejected_arms 1.0" in metrics
    alone = service.call(
        "POST", f"/v1/experiments/{name}/predict", {"user_id": "1", "item_id": "0", "eligible": ["b"]}
    )
    check_problem(alone, 503)
    assert alone.headers["Retry-After"] == "3"
    health = service.call("GET", "/health/ready").body
    assert health["status"] == "degraded"
    assert [each["what"] for each in health["reasons"]] == ["model_missing"]
    file.unlink()
    file.write_bytes(whole)
    wait_until(lambda: shares(service, name)["b"] == 0.5)


def test_paused_and_stopped_answer_whatever_is_eligible(service: ThrowawayService) -> None:
    name = running(service, arms=[{"name": "a"}, {"name": "b"}, {"name": "c"}])
    path = f"/v1/experiments/{name}"
    assert service.call("DELETE", f"{path}/arms/b").status == 200
    check_problem(service.call("POST", f"{path}/decide", {"eligible": ["b"]}), 409)
    for move, body, arm in (("pause", {}, "a"), ("stop", {"winner": "c"}, "c")):
        assert service.call("POST", f"{path}/{move}", body).status == 200
        answer = service.call("POST", f"{path}/decide", {"eligible": ["b"]})
        assert (answer.status, answer.body["arm"], answer.body["decision_id"]) == (200, arm, None)
        check_problem(service.call("POST", f"{path}/decide", {"eligible": ["nobody"]}), 400, "eligible")

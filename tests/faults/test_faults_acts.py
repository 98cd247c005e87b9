"""What the service does by itself, with real processes: soon after the reward that decided it, and once when killed."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from commands import bandit_serve, save_model
from consistency_checks import (
    assert_states_equal_replay,
    lease_holder,
    log,
    private_store,
    wait_until_all_serve,
)
from http_calls import call_msgpack, experiment, new_name
from scale import scaled
from services import ThrowawayService
from stores import gone, wait_until

from bandit_serve.experiments.policy import context_features
from bandit_serve.log import events
from bandit_serve.log.events import Changed
from bandit_serve.results import ResultsFold
from bandit_serve.results.guardrail import harmed

WORKERS = 2
SOON_MS = scaled(10_000, 2_000)
"""Time within which an arm is paused after the reward that decided it: 2 s, but for a machine that does all else."""
GUARDED = [
    {"name": "click", "kind": "binary"},
    {
        "name": "error",
        "kind": "binary",
        "goal": "minimize",
        "role": "guardrail",
        "margin": {"relative": 0.1},
        "on_harm": "pause_arm",
    },
]
POLICIES: dict[str, dict[str, Any]] = {
    "fixed_split": {"policy": {"kind": "fixed_split", "shares": {"control": 8, "challenger": 2}}},
    "thompson": {"policy": {"kind": "thompson", "min_share": 0.1}},
    "exp3": {"policy": {"kind": "exp3", "min_share": 0.1}},
    "zeros": {
        "policy": {"kind": "thompson", "min_share": 0.1},
        "attribution": {"missing": "zero", "window": "300ms"},
    },
    "lin_ts": {
        "policy": {"kind": "lin_ts", "min_share": 0.1},
        "context": [{"name": "hour", "kind": "numeric", "mean": 12, "std": 6}],
    },
}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThrowawayService]:
    with ThrowawayService(tmp_path_factory.mktemp("data"), workers=WORKERS) as running:
        yield running


def visit(
    service: ThrowawayService, name: str, n: int, rates: dict[str, list[float]], chance: random.Random
) -> Counter[str]:
    """Decides n times, and rewards each decision on each metric at the rate of its arm; returns the arms drawn."""
    body: dict[str, Any] = {"units": [f"u{i}" for i in range(n)]}
    if service.call("GET", f"/v1/experiments/{name}").body["context"]:
        body["contexts"] = [{"hour": chance.randrange(24)} for _ in range(n)]
    answer = call_msgpack(service, f"/v1/experiments/{name}/decide/batch", body)
    assert answer.status == 200, answer
    rewards = [
        {"decision_id": token, "metric": metric, "value": float(chance.random() < of_arms[arm])}
        for token, arm in zip(answer.body["decision_ids"], answer.body["arms"], strict=True)
        for metric, of_arms in rates.items()
    ]
    answered = call_msgpack(service, "/v1/rewards", {"rewards": rewards})
    assert answered.status == 200, answered
    return Counter(answer.body["arm_names"][arm] for arm in answer.body["arms"])


def own_changes(service: ThrowawayService, name: str) -> list[dict[str, Any]]:
    history = service.call("GET", f"/v1/experiments/{name}/history").body["history"]
    return [entry for entry in history if "evidence" in entry]


def arm_status(service: ThrowawayService, name: str, arm: str) -> str:
    return str(service.call("GET", f"/v1/experiments/{name}").body["arm_status"][arm])


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", POLICIES)
def test_an_arm_that_does_harm_is_paused_soon_after_the_reward_that_decided_it(
    service: ThrowawayService, kind: str
) -> None:
    body = experiment(metrics=GUARDED, **POLICIES[kind])
    name, chance = body["id"], random.Random(kind)
    assert service.call("POST", "/v1/experiments", body).status == 201
    assert service.call("POST", f"/v1/experiments/{name}/start").status == 200
    rates = {"click": [0.2, 0.2], "error": [0.05, 0.5]}
    for _ in range(200):
        visit(service, name, 40, rates, chance)
        if arm_status(service, name, "challenger") == "paused":
            break
    wait_until(lambda: arm_status(service, name, "challenger") == "paused", 60)
    (entry,) = own_changes(service, name)
    assert (entry["what"], entry["who"], entry["arm"]) == ("pause_arm", "guardrail", "challenger")
    assert entry["evidence"]["harms"][0]["metric"] == "error"
    assert visit(service, name, 200, rates, chance)["challenger"] == 0
    with private_store(service) as client:
        decided_ms, paused_ms = times_of(log(client, name))
        assert_states_equal_replay(client, name, WORKERS)
    print(f"{kind}: paused {paused_ms - decided_ms} ms after the reward that decided it")
    assert decided_ms <= paused_ms <= decided_ms + SOON_MS
    path = f"/v1/experiments/{name}/arms/challenger/resume"
    refused = service.call("POST", path)
    assert (refused.status, refused.body["errors"][0]["at"]) == (400, "reason")
    assert service.call("POST", path, {"reason": "it was a test"}).status == 200
    view = service.call("GET", f"/v1/experiments/{name}").body
    assert view["overridden"] == {"challenger": ["error"]}
    assert "bandit_serve_automatic_changes_total" in service.call("GET", "/metrics").body.decode()
    assert service.call("POST", f"/v1/experiments/{name}/stop").status == 200


def times_of(entries: list[Any]) -> tuple[int, int]:
    """Log times of the entry from which on an arm was shown to do harm, and of the pause."""
    fold: ResultsFold | None = None
    decided_ms = None
    for entry in entries:
        n_features = 0 if fold is None else fold.n_features
        event = events.decode(entry.kind, entry.data, n_features)
        if fold is None:
            assert isinstance(event, Changed)
            context_features(event.record.experiment)
            fold = ResultsFold(event.record)
        if isinstance(event, Changed) and event.change.who == "guardrail":
            assert decided_ms is not None
            return decided_ms, entry.offset.time_ms
        fold.apply(entry.offset, event)
        if not harmed(fold, fold.record):
            decided_ms = None
        elif decided_ms is None:
            decided_ms = entry.offset.time_ms
    raise AssertionError("nothing was paused")


@pytest.mark.timeout(1_200)
def test_a_stop_happens_once_while_the_worker_that_makes_it_is_killed(tmp_path: Path) -> None:
    """One stop event and one promotion, with SIGKILL of the lease's holder about the moment of the stop."""
    chance = random.Random(20)
    n = scaled(2, 20)
    with ThrowawayService(tmp_path / "data", workers=WORKERS) as service:
        for i in range(n + 1):
            file = save_model(tmp_path / f"v{i}", ratings=(4.0, 5.0, 3.0 + i / 50))
            ran = bandit_serve("models", "register", "m", file, "--version", f"v{i}", "--data", service.data)
            assert ran.status == 0, ran
        outcomes = Counter[str]()
        for i in range(1, n + 1):
            name = start_with_model(service, f"v{i}")
            visit(service, name, 450, {"click": [0.1, 0.5]}, chance)
            victim = lease_holder(service)
            # With these both arms have the samples without which nothing is decided.
            visit(service, name, 350, {"click": [0.1, 0.5]}, chance)
            time.sleep(chance.uniform(0.0, 1.5))
            killed = datetime.now(UTC).isoformat()
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
            wait_until(lambda victim=victim: gone(victim))
            wait_until_all_serve(service, WORKERS)
            wait_until(lambda name=name: status(service, name) == "stopped", 40)
            wait_until(lambda i=i: production(service) == f"v{i}", 40)
            stopped = own_changes(service, name)[0]["at"]
            promoted = service.call("GET", "/v1/models/m").body["history"][-1]["at"]
            outcomes[
                "before the stop"
                if killed < stopped
                else "before the promotion"
                if killed < promoted
                else "after both"
            ] += 1
        print(dict(outcomes))
        with private_store(service) as client:
            for name in (each["id"] for each in service.call("GET", "/v1/experiments").body["experiments"]):
                made = [
                    events.decode(each.kind, each.data) for each in log(client, name) if each.kind == b"c"
                ]
                stops = [each for each in made if isinstance(each, Changed) and each.change.what == "stop"]
                assert len(stops) == 1, name
                assert_states_equal_replay(client, name, WORKERS)
        history = service.call("GET", "/v1/models/m").body["history"]
        promoted = Counter(each["version"] for each in history if each["status"] == "production")
        assert promoted == {f"v{i}": 1 for i in range(1, n + 1)}


def start_with_model(service: ThrowawayService, version: str) -> str:
    body = experiment(
        id=new_name("killed"),
        arms=[{"name": "control"}, {"name": "challenger", "model": "m", "version": version}],
        stopping={"rule": "winner", "promote_winner": True, "min_samples": 300},
    )
    assert service.call("POST", "/v1/experiments", body).status == 201
    assert service.call("POST", f"/v1/experiments/{body['id']}/start").status == 200
    return str(body["id"])


def status(service: ThrowawayService, name: str) -> str:
    return str(service.call("GET", f"/v1/experiments/{name}").body["status"])


def production(service: ThrowawayService) -> str | None:
    version: str | None = service.call("GET", "/v1/models/m").body["production"]
    return version

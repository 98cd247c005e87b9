"""SIGKILL of workers and of the store around exposures on demand: each is logged once, and before its rewards."""

from __future__ import annotations

import http.client
import os
import random
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from consistency_checks import (
    assert_states_equal_replay,
    log,
    make_experiment,
    private_store,
    wait_until_all_serve,
)
from scale import scaled
from services import Answer, ThrowawayService
from stores import gone, wait_until

from bandit_serve.log import events
from bandit_serve.log.events import EXPOSED, REWARD, REWARDED, Exposed

WORKERS = 2
ROUNDS = scaled(2, 30)


@pytest.fixture
def service(tmp_path: Path) -> Iterator[ThrowawayService]:
    with ThrowawayService(tmp_path, workers=WORKERS) as running:
        yield running


def call_until_answered(service: ThrowawayService, path: str, body: Any) -> Answer:
    """Sends the same request until it is answered with 200."""
    answers: list[Answer] = []

    def answered() -> bool:
        try:
            answers.append(service.call("POST", path, body))
        except (OSError, http.client.HTTPException):
            return False
        return answers[-1].status == 200

    wait_until(answered, 60.0)
    return answers[-1]


def kill_one(service: ThrowawayService, chance: random.Random) -> None:
    victim = chance.choice(service.worker_pids())
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: gone(victim))


@pytest.mark.timeout(600)
def test_what_was_evaluated_before_a_crash_is_exposed_once_after_it(service: ThrowawayService) -> None:
    make_experiment(service, "demanded", unit="user", missing="zero")
    chance = random.Random(11)
    rewarded: list[str] = []
    exposed: list[str] = []
    for number in range(ROUNDS):
        tokens = []
        for i in range(12):
            body = {"context": {"targetingKey": f"u{number}-{i}"}}
            (flag,) = call_until_answered(service, "/ofrep/v1/evaluate/flags", body).body["flags"]
            tokens.append(flag["metadata"]["decision_id"])
        if number % 2:
            with private_store(service) as client:
                server = int(client.info("server")["process_id"])
            os.kill(server, signal.SIGKILL)
        else:
            for _ in range(WORKERS):
                kill_one(service, chance)
        rewards = [{"decision_id": token, "value": 1} for token in tokens[:6]]
        verdicts = call_until_answered(service, "/v1/rewards", {"rewards": rewards}).body["verdicts"]
        assert set(verdicts) <= {"accepted", "duplicate"}
        kill_one(service, chance)
        verdicts = call_until_answered(service, "/v1/exposures", {"decision_ids": tokens[3:9]}).body[
            "verdicts"
        ]
        assert set(verdicts) <= {"accepted", "duplicate"}
        assert verdicts[:3] == ["duplicate"] * 3, "a reward has made them exposures"
        rewarded += tokens[:6]
        exposed += tokens[:9]
        wait_until_all_serve(service, WORKERS)
    assert len(set(exposed)) == 9 * ROUNDS
    with private_store(service) as client:
        entries = log(client, "demanded")
        assert_states_equal_replay(client, "demanded", WORKERS)
    order: list[tuple[str, tuple[int, int]]] = []
    for entry in entries:
        if entry.kind == REWARDED:
            rows = np.frombuffer(entry.data, REWARD)
            decisions = zip(rows["incarnation"].tolist(), rows["counter"].tolist(), strict=True)
            order += [("reward", decision) for decision in decisions]
        elif entry.kind == EXPOSED:
            event = events.decode(entry.kind, entry.data)
            assert isinstance(event, Exposed)
            order.append(("exposure", (event.incarnation, event.first)))
    assert set(Counter(order).values()) == {1}, "each once"
    assert len([kind for kind, _ in order if kind == "exposure"]) == len(exposed)
    assert len([kind for kind, _ in order if kind == "reward"]) == len(rewarded)
    for place, (kind, decision) in enumerate(order):
        assert kind == "exposure" or order.index(("exposure", decision)) < place

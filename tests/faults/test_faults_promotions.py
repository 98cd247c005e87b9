"""Promotions while the worker that goes through their steps is killed: each happens once, and loses nothing."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from consistency_checks import (
    assert_states_equal_replay,
    lease_holder,
    log,
    private_store,
    wait_until_all_serve,
)
from http_calls import call_msgpack, running
from promoting import ENDS, begin, make_model, promotion_of, statuses
from scale import scaled
from services import ThrowawayService
from stores import gone, wait_until

from bandit_serve.registry.registry import PROMOTION, PromotionMoved
from bandit_serve.store.keys import COMMON

WORKERS = 2
STEPS = ("offline", "shadow", "ramp", "end")
KILLS = scaled(4, 20)
ASK = {"user_id": "1", "item_id": "1"}
PLAN = {
    "offline": "rmse < current.rmse",
    "shadow": {"requests": 10, "gate": "errors == 0"},
    "ramp": {"steps": [0.2, 0.5], "each": "1s"},
}


def traffic(service: ThrowawayService, model: str, experiment: str) -> None:
    """Asks the model and the experiment; workers that are killed meanwhile may leave some unanswered."""
    with contextlib.suppress(OSError):
        for _ in range(4):
            service.call("POST", f"/v1/models/{model}/predict", ASK)
        units = {"units": [f"u{number}" for number in range(100)]}
        decided = call_msgpack(service, f"/v1/experiments/{experiment}/decide/batch", units)
        if decided.status == 200:
            tokens = enumerate(decided.body["decision_ids"])
            rewards = [{"decision_id": token, "value": float(number % 2)} for number, token in tokens]
            call_msgpack(service, "/v1/rewards", {"rewards": rewards})


def has_reached(view: dict[str, Any], step: str) -> bool:
    if step == "end":
        return view["state"] in ENDS
    return view["state"] in ENDS or any(each["step"] == step for each in view["steps"])


@pytest.mark.timeout(scaled(600, 2_400))
def test_a_promotion_happens_once_while_the_worker_that_makes_it_is_killed(tmp_path: Path) -> None:
    chance = random.Random(21)
    with ThrowawayService(tmp_path / "data", workers=WORKERS) as service:
        made: dict[str, tuple[str, str]] = {}
        for number in range(KILLS):
            step = STEPS[number % len(STEPS)]
            model = f"m{number}"
            make_model(service, tmp_path, model)
            arms = [{"name": "control", "model": model, "version": "v1"}]
            experiment = running(service, arms=arms, unit="request")
            victim = lease_holder(service)
            id = begin(service, model, {**PLAN, "experiment": experiment})
            made[model] = (id, experiment)

            def goes_on(
                step: str = step, model: str = model, experiment: str = experiment, id: str = id
            ) -> bool:
                traffic(service, model, experiment)
                return has_reached(promotion_of(service, model, id), step)

            if step != "offline":
                wait_until(goes_on, 120)
            time.sleep(chance.uniform(0.0, 0.6))
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
            wait_until(lambda victim=victim: gone(victim), 60)
            wait_until_all_serve(service, WORKERS)
            wait_until(lambda: goes_on("end"), 120)
        for model, (id, experiment) in made.items():
            view = promotion_of(service, model, id)
            assert view["state"] == "production", view
            assert [each["step"] for each in view["steps"]] == [
                *("offline", "shadow", "ramp", "ramp", "production")
            ]
            assert all(each["passed"] and each["reason"] for each in view["steps"])
            assert statuses(service, model) == {"v1": "retired", "v2": "production"}
            history = service.call("GET", f"/v1/models/{model}").body["history"]
            promoted = Counter(each["version"] for each in history if each["status"] == "production")
            assert promoted == {"v1": 1, "v2": 1}

            def is_settled(experiment: str = experiment) -> bool:
                return "held" not in service.call("GET", f"/v1/experiments/{experiment}").body

            wait_until(is_settled, 60)
            changes = service.call("GET", f"/v1/experiments/{experiment}/history").body["history"]
            own = [each["what"] for each in changes if each["who"] == f"promotion:{model}/{id}"]
            assert own == ["add_arm", "hold_arm", "hold_arm"]
        with private_store(service) as client:
            moved = [
                msgspec.msgpack.decode(each.data, type=PromotionMoved).promotion
                for each in log(client, COMMON)
                if each.kind == PROMOTION
            ]
            for model, (_, experiment) in made.items():
                states = [each for each in moved if each.model == model]
                # Each event is another state of it: none was appended twice.
                assert len(set(map(msgspec.json.encode, states))) == len(states)
                assert Counter(each.state for each in states)["production"] <= 2
                assert_states_equal_replay(client, experiment, WORKERS)

"""Promotions of models that were trained on ratings: what held-out ratings say decides which version is served."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from http_calls import call_msgpack, new_name, running, upload
from numpy.typing import NDArray
from promoting import at_step, begin, ended, promotion_of, statuses
from services import ThrowawayService
from stores import wait_until

from bandit_serve.models import Bias, MatrixFactorization
from bandit_serve.models.model import Model
from bandit_serve.training.ratings import read_ratings, synthetic_ratings

REAL = Path(os.environ.get("BANDIT_SERVE_TEST_DATA", ".")) / "ml-latest-small" / "ratings.csv"
A_BATCH = 200
LIKED = 4.0


class HeldOut(NamedTuple):
    """Pairs of items that users have rated, (n,) each: one that they liked and one that they liked less."""

    users: NDArray[np.str_]
    liked: NDArray[np.str_]
    others: NDArray[np.str_]


class World(NamedTuple):
    models: dict[str, Model]
    rmse: dict[str, float]
    held_out: HeldOut


@pytest.fixture(scope="module")
def world() -> World:
    """Models of most ratings: of the biases, of a factorization, and of the biases of ratings that are upside down."""
    ratings = (
        read_ratings(REAL)
        if REAL.exists()
        else synthetic_ratings(7, n_users=300, n_items=300, n_ratings=25_000)
    )
    random = np.random.default_rng(21)
    chosen = random.random(len(ratings.values)) < 0.8
    users, items, values = ratings.users[chosen], ratings.items[chosen], ratings.values[chosen]
    models: dict[str, Model] = {
        "v1": Bias().fit(users, items, values),
        "better": MatrixFactorization(n_factors=8, seed=0).fit(users, items, values),
        "worse": Bias().fit(users, items, values.min() + values.max() - values),
    }
    seen = np.isin(ratings.users, users) & np.isin(ratings.items, items) & ~chosen
    users, items, values = ratings.users[seen], ratings.items[seen], ratings.values[seen]
    rmse = {
        name: float(np.sqrt(np.mean((model.predict_many(users, items) - values) ** 2)))
        for name, model in models.items()
    }
    pairs = []
    for user in np.unique(users):
        own = users == user
        for one, other in zip(items[own & (values >= LIKED)], items[own & (values < LIKED)], strict=False):
            pairs.append((user, one, other))
    columns = (np.array(column) for column in zip(*pairs, strict=True))
    return World(models, rmse, HeldOut(*columns))


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThrowawayService]:
    with ThrowawayService(tmp_path_factory.mktemp("data"), workers=2) as started:
        yield started


def served(service: ThrowawayService, world: World, folder: Path) -> tuple[str, str]:
    """Model with the biases in production, and an experiment whose control serves them."""
    model = new_name("trained")
    for version, each in world.models.items():
        path = folder / f"{version}.safetensors"
        each.save(path)
        about = {"version": version, "metrics": {"rmse": world.rmse[version]}}
        assert upload(service, model, path.read_bytes(), about).status == 201
    moved = service.call("POST", f"/v1/models/{model}/versions/v1/status", {"status": "production"})
    assert moved.status == 200
    arms = [{"name": "control", "model": model, "version": "v1"}]
    return model, running(service, arms=arms, metrics=[{"name": "right", "kind": "binary"}])


def visit(service: ThrowawayService, experiment: str, held_out: HeldOut, random: np.random.Generator) -> None:
    """Asks which of two items a user likes more, and rewards the answers that are right."""
    places = random.integers(len(held_out.users), size=A_BATCH)
    requests: list[dict[str, Any]] = [
        {"user_id": str(held_out.users[k]), "item_ids": [str(held_out.liked[k]), str(held_out.others[k])]}
        for k in places
    ]
    answer = call_msgpack(service, f"/v1/experiments/{experiment}/predict/batch", {"requests": requests})
    assert answer.status == 200, answer
    rewards = [
        {"decision_id": each["decision_id"], "value": float(each["predictions"][0] > each["predictions"][1])}
        for each in answer.body["responses"]
    ]
    assert call_msgpack(service, "/v1/rewards", {"rewards": rewards}).status == 200


def visit_until_ended(
    service: ThrowawayService, model: str, id: str, experiment: str, held_out: HeldOut
) -> dict[str, Any]:
    random = np.random.default_rng(3)

    def is_over() -> bool:
        visit(service, experiment, held_out, random)
        return promotion_of(service, model, id)["state"] in ("production", "stopped")

    wait_until(is_over, 180)
    return promotion_of(service, model, id)


@pytest.mark.timeout(400)
def test_the_better_model_reaches_production_and_the_worse_one_does_not(
    service: ThrowawayService, world: World, tmp_path: Path
) -> None:
    assert world.rmse["better"] < world.rmse["v1"] < world.rmse["worse"]
    model, experiment = served(service, world, tmp_path)
    view = ended(service, model, begin(service, model, {"offline": "rmse < current.rmse"}, "worse"))
    assert (view["state"], view["steps"][-1]["step"]) == ("stopped", "offline")
    assert view["steps"][-1]["evidence"]["metrics"]["rmse"] == pytest.approx(world.rmse["worse"])
    # Without the offline step it is the traffic that shows it.
    plan = {"ramp": {"steps": [0.5], "each": "1h"}, "experiment": experiment}
    id = begin(service, model, plan, "worse")
    view = visit_until_ended(service, model, id, experiment, world.held_out)
    assert (view["state"], view["steps"][-1]["step"]) == ("stopped", "ramp")
    evidence = view["steps"][-1]["evidence"]
    assert evidence["mean"] < evidence["control_mean"]
    assert "right of" in view["reason"]
    better = {
        "offline": "rmse < current.rmse",
        "shadow": {"requests": 30, "gate": "errors == 0 and correlation > 0.2"},
        "ramp": {"steps": [0.05, 0.5], "each": "1s", "guardrails": ["error=0.05"]},
        "experiment": experiment,
    }
    id = begin(service, model, better, "better")
    at_step(service, model, id, "shadow")
    for k in range(40):
        asked = {"user_id": str(world.held_out.users[k]), "item_id": str(world.held_out.liked[k])}
        assert service.call("POST", f"/v1/models/{model}/predict", asked).status == 200
    view = visit_until_ended(service, model, id, experiment, world.held_out)
    assert view["state"] == "production", view
    assert [each["step"] for each in view["steps"]] == ["offline", "shadow", "ramp", "ramp", "production"]
    assert statuses(service, model) == {"v1": "retired", "better": "production", "worse": "staged"}

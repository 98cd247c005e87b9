"""Service that keeps its models learning: real processes, killed and stopped."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from commands import bandit_serve
from http_calls import new_name, upload
from services import ThrowawayService
from stores import ThrowawayStore, gone, wait_until

from bandit_serve.errors import UsageError
from bandit_serve.models import MatrixFactorization
from bandit_serve.server.companions import Companions
from bandit_serve.settings import Settings, load_settings
from bandit_serve.training.ratings import synthetic_ratings

RATINGS = synthetic_ratings(seed=5, n_users=60, n_items=80, n_ratings=1_500)


def learner_arguments(data: Path, model: str) -> dict[int, list[bytes]]:
    """By pid, of the processes that learn a model of a data directory."""
    learners = {}
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                arguments = (process / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"learn" in arguments and model.encode() in arguments and str(data).encode() in arguments:
                learners[int(process.name)] = arguments
    return learners


def learner_pids(data: Path, model: str) -> list[int]:
    return list(learner_arguments(data, model))


def learned(data: Path, model: str) -> int:
    ran = bandit_serve("learn", model, "--data", data, "--status", "--json")
    return int(ran.document["learned"]) if ran.status == 0 else 0


def send(service: ThrowawayService, experiment: str, n: int) -> None:
    for row in range(n):
        ask = {"user_id": str(RATINGS.users[row]), "item_id": str(RATINGS.items[row])}
        decided = service.call("POST", f"/v1/experiments/{experiment}/predict", ask)
        assert decided.status == 200, decided
        reward = {"decision_id": decided.body["decision_id"], "value": float(RATINGS.values[row])}
        assert service.call("POST", "/v1/rewards", reward).status == 200


def test_it_learns_what_is_rewarded_is_started_again_and_ends_with_the_service(tmp_path: Path) -> None:
    data, model, experiment = tmp_path / "d", "films", new_name()
    with ThrowawayService(data, "--learners", model) as service:
        path = tmp_path / "m.safetensors"
        MatrixFactorization(4, n_epochs=3).fit(RATINGS.users, RATINGS.items, RATINGS.values).save(path)
        assert upload(service, model, path.read_bytes(), {"status": "staged"}).status == 201
        promoted = service.call("POST", f"/v1/models/{model}/versions/v1/status", {"status": "production"})
        assert promoted.status == 200
        body = {
            "id": experiment,
            "arms": [{"name": arm, "model": model, "version": "v1"} for arm in ("control", "challenger")],
            "metrics": [{"name": "stars", "kind": "continuous"}],
            "policy": {"kind": "fixed_split"},
            "attribution": {"missing": "ignore", "window": "1h"},
        }
        assert service.call("POST", "/v1/experiments", body).status == 201
        assert service.call("POST", f"/v1/experiments/{experiment}/start").status == 200
        send(service, experiment, 30)
        wait_until(lambda: learned(data, model) == 30, 60)
        (first,) = learner_pids(data, model)
        os.kill(first, signal.SIGKILL)
        send(service, experiment, 20)
        wait_until(lambda: learned(data, model) == 50, 60)
        (second,) = learner_pids(data, model)
        assert second != first
    wait_until(lambda: gone(second))
    assert learner_pids(data, model) == []


def test_without_its_model_it_is_tried_again_and_it_ends_with_a_supervisor_that_is_killed(
    tmp_path: Path,
) -> None:
    data = tmp_path / "d"
    with ThrowawayService(data, "--learners", "none") as service:
        sentence = "learning none ended with status 1; it starts again in"
        wait_until(lambda: sum(sentence in line for line in service.output) == 2, 60)
        wait_until(lambda: learner_pids(data, "none") != [])
        service.process.kill()
        service.process.wait()
        wait_until(lambda: learner_pids(data, "none") == [])


def test_the_stores_password_is_in_no_arguments_of_learners(tmp_path: Path) -> None:
    data, secret = tmp_path / "d", "pass-word-of-the-store"
    with ThrowawayStore(options={"requirepass": secret}) as store:
        named = f"{store.url}?password={secret}"
        with ThrowawayService(data, "--learners", "none", store=named) as service:
            arguments: dict[int, list[bytes]] = {}
            wait_until(lambda: arguments.update(learner_arguments(data, "none")) or arguments)
            assert not [
                argument for own in arguments.values() for argument in own if secret.encode() in argument
            ]
            wait_until(
                lambda: any("learning none ended with status 1" in line for line in service.output), 30
            )
            assert any("There is no model 'none'" in line for line in service.output), service.output


def test_which_models_learn_is_a_list_of_names() -> None:
    settings = load_settings({"learners": "films,books,films"}, environ={})
    assert settings.models_that_learn == ["films", "books"]
    assert settings.keeps_pairs
    assert not Settings().keeps_pairs
    assert len(Companions(settings, "unix:///none")._companions) == 2
    for wrong in ("films,", "a b", ",", "films;books"):
        with pytest.raises(UsageError, match="learners"):
            load_settings({"learners": wrong}, environ={})

"""Offline steps that ask an experiment's log: on which decisions, how many of them, and what if it is gone."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from http_calls import decide_many, new_name, reward_many, running
from promoting import begin, ended, make_model
from services import ThrowawayService
from stores import wait_until


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThrowawayService]:
    with ThrowawayService(tmp_path_factory.mktemp("data")) as started:
        yield started


def visit(service: ThrowawayService, experiment: str, n: int, rate: float, chance: random.Random) -> None:
    """Decides n times, and rewards each decision at a rate that is that of every arm."""
    decided = decide_many(service, experiment, [f"u{chance.randrange(10**9)}" for _ in range(n)])
    values = [float(chance.random() < rate) for _ in range(n)]
    assert set(reward_many(service, decided["decision_ids"], values)) == {"accepted"}


def exposures(service: ThrowawayService, experiment: str) -> int:
    arms = service.call("GET", f"/v1/experiments/{experiment}/results").body["arms"]
    return sum(arm["exposures"] for arm in arms)


def test_versions_are_compared_on_the_decisions_that_both_could_have_had(
    service: ThrowawayService, tmp_path: Path
) -> None:
    """The level has drifted before the version had an arm, which is no merit of it."""
    model, chance = new_name("late"), random.Random(3)
    make_model(service, tmp_path, model)
    arms = [{"name": "v1", "model": model, "version": "v1"}, {"name": "other"}]
    experiment = running(service, arms=arms, policy={"kind": "thompson", "min_share": 0.1})
    visit(service, experiment, 4_000, 0.2, chance)
    late = {"name": "v2", "model": model, "version": "v2"}
    assert service.call("POST", f"/v1/experiments/{experiment}/arms", late).status in (200, 201)
    visit(service, experiment, 4_000, 0.8, chance)
    wait_until(lambda: exposures(service, experiment) == 8_000)
    plan = {"offline": "off_policy.gain_lower > 0", "experiment": experiment}
    view = ended(service, model, begin(service, model, plan))
    assert view["state"] == "stopped", view
    found = view["steps"][0]["evidence"]["off_policy"]
    assert found["n"] <= 4_000
    versions = found["versions"]
    assert versions["v1"]["decisions"] == versions["v2"]["decisions"] == found["n"]
    for each in versions.values():
        assert each["value"] == pytest.approx(0.8, abs=0.1)
        assert 0 < each["diagnostics"]["effective_sample_size"] <= found["n"]
        assert isinstance(each["warnings"], list)

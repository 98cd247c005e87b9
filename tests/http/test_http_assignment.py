"""Assignment over HTTP: splits, stickiness, and propensities that match the frequencies."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import numpy as np
import pytest
from http_calls import decide_many, reward_many, running
from numpy.typing import NDArray
from scipy.stats import chi2_contingency, chisquare
from services import ThrowawayService
from stores import wait_until

from bandit_serve.policies import Thompson

N_USERS = 12_000
USERS = [f"user-{i}" for i in range(N_USERS)]
SPLIT = {"a": 50, "b": 30, "c": 20}
ARMS = [{"name": name} for name in SPLIT]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThrowawayService]:
    with ThrowawayService(tmp_path_factory.mktemp("data"), workers=2) as running:
        yield running


def incarnation(token: str) -> bytes:
    """Of the worker that decided."""
    return base64.urlsafe_b64decode(token)[10:18]


def assigned(service: ThrowawayService, name: str) -> dict[bytes, NDArray[np.intp]]:
    """Each worker's arms of all users. A call is a connection of its own, which either of the two takes."""
    half = N_USERS // 2
    parts: dict[bytes, dict[int, list[int]]] = {}
    for turn in range(400):
        first = (turn % 2) * half
        columns = decide_many(service, name, USERS[first : first + half])
        parts.setdefault(incarnation(columns["decision_ids"][0]), {})[first] = columns["arms"]
        if len(parts) == 2 and all(len(part) == 2 for part in parts.values()):
            return {worker: np.array(part[0] + part[half]) for worker, part in parts.items()}
    raise AssertionError("one of the two workers got no connection in 400")


@pytest.fixture(scope="module")
def experiments(service: ThrowawayService) -> list[str]:
    policy = {"kind": "fixed_split", "shares": SPLIT}
    return [running(service, arms=ARMS, unit="user", policy=policy) for _ in range(2)]


def test_users_are_split_as_told_independently_and_stay(
    service: ThrowawayService, experiments: list[str]
) -> None:
    before = [assigned(service, name) for name in experiments]
    arms = [next(iter(of_workers.values())) for of_workers in before]
    for of_workers, mine in zip(before, arms, strict=True):
        assert all((other == mine).all() for other in of_workers.values()), "the same in every worker"
        counts = np.bincount(mine, minlength=3)
        assert chisquare(counts, N_USERS * np.array(list(SPLIT.values())) / 100).pvalue > 1e-5
    table = np.zeros((3, 3), int)
    np.add.at(table, (arms[0], arms[1]), 1)
    assert chi2_contingency(table).pvalue > 1e-5

    service.stop()
    service.start()
    for name, of_workers, mine in zip(experiments, before, arms, strict=True):
        after = assigned(service, name)
        assert not set(after) & set(of_workers), "these are other workers"
        assert all((other == mine).all() for other in after.values()), "the same after a restart"


def test_moving_a_tenth_of_the_share_moves_a_tenth_of_the_users(service: ThrowawayService) -> None:
    def split(one: int) -> dict[str, object]:
        return {"kind": "fixed_split", "shares": {"control": one, "challenger": 100 - one}}

    name = running(service, unit="user", policy=split(50))
    before = next(iter(assigned(service, name).values()))
    changed = service.call("PUT", f"/v1/experiments/{name}/policy", split(40))
    assert changed.status == 200

    def both_know() -> bool:
        batches = [decide_many(service, name, USERS[:100]) for _ in range(16)]
        workers = {incarnation(each["decision_ids"][0]) for each in batches}
        return len(workers) == 2 and all(max(each["propensities"]) == pytest.approx(0.6) for each in batches)

    wait_until(both_know)
    moved = {worker: arms != before for worker, arms in assigned(service, name).items()}
    for each in moved.values():
        assert 0.085 < each.mean() < 0.11
        assert (before[each] == 0).all(), "none moves to the arm that shrinks"


def test_a_propensity_is_the_probability_with_which_the_arm_was_drawn(service: ThrowawayService) -> None:
    """A bandit that learns, so shares move: the mean of 1{arm = k} / propensity is 1 for every arm k."""
    n_decisions, batch = 20_000, 40
    rng = np.random.default_rng(11)
    worth = np.array([0.1, 0.1, 0.12])
    policy = {"kind": "thompson", "min_share": 0.02, "refresh": "1ms"}
    name = running(service, arms=ARMS, policy=policy)
    arms, propensities = np.empty(n_decisions, np.intp), np.empty(n_decisions)
    best_share = []
    counts = np.zeros((2, 3), np.int64)
    for start in range(0, n_decisions, batch):
        columns = decide_many(service, name, [f"{start + i}" for i in range(batch)])
        chosen = np.array(columns["arms"])
        arms[start : start + batch], propensities[start : start + batch] = chosen, columns["propensities"]
        values = (rng.random(batch) < worth[chosen]).astype(float)
        assert set(reward_many(service, columns["decision_ids"], values.tolist())) == {"accepted"}
        np.add.at(counts, (values.astype(int), chosen), 1)
        best_share += [p for arm, p in zip(columns["arms"], columns["propensities"], strict=True) if arm == 2]
    for k in range(3):
        inverse = np.where(arms == k, 1.0 / propensities, 0.0)
        assert abs(inverse.mean() - 1.0) < 4 * inverse.std() / np.sqrt(n_decisions)
    assert len(np.unique(propensities)) > 100
    assert propensities.min() >= 0.02 - 1e-12
    assert max(best_share) > 0.6

    offline = Thompson(3, min_share=0.02)
    for value in (0, 1):
        offline.update_counts(counts[value], value)
    wait_until(lambda: shares(service, name) == pytest.approx(offline.shares().tolist(), abs=1e-9))


def shares(service: ThrowawayService, name: str) -> list[float]:
    return [arm["share"] for arm in service.call("GET", f"/v1/experiments/{name}/results").body["arms"]]

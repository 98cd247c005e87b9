"""Decisions of bulk evaluation: exposures once somebody saw or rewarded them, each once, with the exact shares."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from consistency_checks import assert_states_equal_replay, log, private_store
from http_calls import call_msgpack, check_problem, decide, reward_many, running
from services import Answer, ThrowawayService
from stores import wait_until

from bandit_serve.log import events
from bandit_serve.log.events import EXPOSED, ON_DEMAND, Exposed

ARMS = [{"name": "control"}, {"name": "second"}, {"name": "third"}]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThrowawayService]:
    with ThrowawayService(tmp_path_factory.mktemp("data"), workers=2) as both:
        yield both


def flags_for(service: ThrowawayService, name: str, n: int, **context: Any) -> list[dict[str, Any]]:
    """Metadata of an experiment's flags in n bulk evaluations, one a unit, and its arm."""
    flags = []
    for i in range(n):
        body = {"context": {"targetingKey": f"u{i}", **context}}
        answer = service.call("POST", "/ofrep/v1/evaluate/flags", body)
        (flag,) = [flag for flag in answer.body["flags"] if flag["key"] == name]
        flags.append({**flag["metadata"], "arm": flag["variant"]})
    return flags


def expose(service: ThrowawayService, tokens: list[Any]) -> Answer:
    return service.call("POST", "/v1/exposures", {"decision_ids": tokens})


def exposures(service: ThrowawayService, name: str, n_features: int = 0) -> list[Exposed]:
    with private_store(service) as client:
        entries = log(client, name)
    made = [events.decode(entry.kind, entry.data, n_features) for entry in entries if entry.kind == EXPOSED]
    return [event for event in made if isinstance(event, Exposed)]


def counts(service: ThrowawayService, name: str, metric: str = "click") -> tuple[list[int], list[int]]:
    """Exposures, and n of a metric, by arm."""
    arms = service.call("GET", f"/v1/experiments/{name}/results").body["arms"]
    return [arm["exposures"] for arm in arms], [arm["metrics"][metric]["n"] for arm in arms]


def test_a_bulk_evaluation_logs_nothing_until_somebody_saw_it(service: ThrowawayService) -> None:
    name = running(service, unit="user", arms=ARMS)
    flags = flags_for(service, name, 20)
    decide(service, name, unit="other")
    wait_until(lambda: len(exposures(service, name)) == 1)
    assert exposures(service, name)[0].first < ON_DEMAND, "that of the decision, and no other"
    seen = [flag["decision_id"] for flag in flags[:12]]
    assert expose(service, seen).body == {
        "accepted": 12, "duplicates": 0, "rejected": 0, "verdicts": ["accepted"] * 12,
    }  # fmt: skip
    assert expose(service, seen[::-1]).body["verdicts"] == ["duplicate"] * 12
    assert reward_many(service, seen[:5], [1.0] * 5) == ["accepted"] * 5
    assert reward_many(service, [flag["decision_id"] for flag in flags[10:14]], [0.0] * 4) == ["accepted"] * 4
    exposed = {flag["decision_id"]: flag["arm"] for flag in flags[:14]}
    expected = [list(exposed.values()).count(arm["name"]) for arm in ARMS]
    others = [0, 0, 0]
    others[[arm["name"] for arm in ARMS].index(decide(service, name, unit="other")["arm"])] = 2
    wait_until(lambda: counts(service, name)[0] == [a + b for a, b in zip(expected, others, strict=True)])
    assert sum(counts(service, name)[1]) == 9
    with private_store(service) as client:
        assert_states_equal_replay(client, name, 2)


def test_exposures_have_the_shares_that_they_were_drawn_from(service: ThrowawayService) -> None:
    """The vector is that of the draw, not of the time when it was logged, and has the flag's propensity."""
    name = running(
        service, unit="user", arms=ARMS, policy={"kind": "thompson", "min_share": 0.1, "holdout": 0.2}
    )
    flags = []
    for start in range(3):
        some = flags_for(service, name, 12)
        flags += some
        values = [float(flag["arm"] == ARMS[start]["name"]) for flag in some[:8]]
        before = {flag["propensity"] for flag in some}
        reward_many(service, [flag["decision_id"] for flag in some[:8]], values)
        wait_until(lambda before=before: flags_for(service, name, 1)[0]["propensity"] not in before)
    assert len({flag["propensity"] for flag in flags}) > 3, "the shares moved"
    assert set(expose(service, [flag["decision_id"] for flag in flags]).body["verdicts"]) == {
        "accepted",
        "duplicate",
    }
    drawn = []
    for event in exposures(service, name):
        columns = events.columns_of(event, 0)
        assert (len(columns.arms), columns.vectors.shape) == (1, (1, 3))
        drawn.append((int(columns.arms[0]), columns.vectors[0]))
        assert np.isclose(columns.vectors.sum(), 1.0, atol=1e-12)
        assert event.units
    by_arm = [(ARMS[arm]["name"], vector[arm]) for arm, vector in drawn]
    assert sorted(by_arm) == sorted((flag["arm"], flag["propensity"]) for flag in flags)


def test_features_and_shares_are_both_kept(service: ThrowawayService) -> None:
    name = running(
        service,
        unit="user",
        arms=ARMS,
        metrics=[{"name": "click", "kind": "bounded", "low": 0, "high": 1}],
        policy={"kind": "squarecb", "min_share": 0.05},
        context=[{"name": "hour", "kind": "numeric"}],
    )
    flags = flags_for(service, name, 5, hour=7)
    tokens = [flag["decision_id"] for flag in flags]
    assert reward_many(service, tokens[:2], [1.0, 0.5]) == ["accepted"] * 2
    assert expose(service, tokens).body["verdicts"] == ["duplicate"] * 2 + ["accepted"] * 3
    made = exposures(service, name, 3)
    assert len(made) == 5
    for event in made:
        columns = events.columns_of(event, 3)
        assert np.frombuffer(event.x, "<f4").tolist() == [1.0, 7.0, 0.0]
        arm = int(columns.arms[0])
        assert (ARMS[arm]["name"], columns.vectors[0][arm]) in [
            (flag["arm"], flag["propensity"]) for flag in flags
        ]
    assert sum(counts(service, name)[1]) == 2


def test_a_token_without_room_for_the_shares_has_its_own_propensity(service: ThrowawayService) -> None:
    arms = [{"name": f"a{i}"} for i in range(300)]
    name = running(
        service, unit="user", arms=arms, policy={"kind": "fixed_split", "shares": {"a0": 600, "a7": 300}}
    )
    flags = flags_for(service, name, 40)
    assert {flag["arm"] for flag in flags} == {"a0", "a7"}
    assert expose(service, [flag["decision_id"] for flag in flags]).body["accepted"] == 40
    for event in exposures(service, name):
        columns = events.columns_of(event, 0)
        arm = int(columns.arms[0])
        assert columns.vectors[0][arm] == pytest.approx({0: 2 / 3, 7: 1 / 3}[arm], rel=1e-12)
        assert columns.vectors[0].sum() == pytest.approx(1.0)


def test_missing_rewards_of_exposures_on_demand_are_zeros_once(service: ThrowawayService) -> None:
    """Out of order and with gaps, as they come: the policy's fold counts none as lost."""
    name = running(
        service,
        unit="user",
        policy={"kind": "thompson", "min_share": 0.2},
        attribution={"missing": "zero", "window": "3s"},
    )
    flags = flags_for(service, name, 40)
    tokens = [flag["decision_id"] for flag in flags]
    assert reward_many(service, [tokens[31]], [1.0]) == ["accepted"]
    assert expose(service, [tokens[3], tokens[17]]).body["accepted"] == 2
    assert reward_many(service, [tokens[17], tokens[5], tokens[2]], [1.0] * 3) == ["accepted"] * 3
    exposed = [flags[i]["arm"] for i in (31, 3, 17, 5, 2)]
    expected = [exposed.count("control"), exposed.count("challenger")]
    wait_until(lambda: counts(service, name)[1] == expected)
    late = expose(service, [tokens[0], tokens[3]])
    assert late.body["verdicts"] == ["late", "late"]
    check_problem(service.call("POST", "/v1/rewards", {"decision_id": tokens[1], "value": 1}), 410)
    stats = service.call("GET", "/v1/stats").body["experiments"][name]
    assert [stats["exposures"][arm] for arm in ("control", "challenger")] == expected
    with private_store(service) as client:
        assert_states_equal_replay(client, name, 2)
    successes = [[flags[i]["arm"] for i in (31, 17, 5, 2)].count(arm) for arm in ("control", "challenger")]
    for arm, successful, n in zip(("control", "challenger"), successes, expected, strict=True):
        # Thompson's prior for a binary objective is Beta(1, 1); means are those of what was learned.
        assert stats["means"][arm] == (pytest.approx(successful / n) if n else None)


def test_a_decision_that_is_an_exposure_already_is_a_duplicate(service: ThrowawayService) -> None:
    name = running(service, unit="user")
    token = decide(service, name, unit="u")["decision_id"]
    assert expose(service, [token]).body["verdicts"] == ["duplicate"]
    wait_until(lambda: sum(counts(service, name)[0]) == 1)


def test_each_is_judged_by_itself(service: ThrowawayService) -> None:
    name, gone = running(service, unit="user"), running(service, unit="user")
    good = flags_for(service, name, 1)[0]["decision_id"]
    unknown = flags_for(service, gone, 1)[0]["decision_id"]
    assert service.call("POST", f"/v1/experiments/{gone}/stop").status == 200
    assert service.call("DELETE", f"/v1/experiments/{gone}").status == 204
    forged = good[:-1] + ("A" if good[-1] != "A" else "B")
    tokens = [good, forged, "", "x" * 5_000, 3, None, unknown, good]
    answer = expose(service, tokens)
    verdicts = ["accepted", "invalid", "invalid", "invalid", "invalid", "invalid", "unknown", "duplicate"]
    assert answer.body == {"accepted": 1, "duplicates": 1, "rejected": 6, "verdicts": verdicts}
    packed = call_msgpack(service, "/v1/exposures", {"decision_ids": [good]})
    assert packed.body["verdicts"] == ["duplicate"]
    assert expose(service, []).body == {"accepted": 0, "duplicates": 0, "rejected": 0, "verdicts": []}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({}, 400),
        ({"decision_ids": "x"}, 400),
        ({"decision_ids": {}}, 400),
        ({"decision_ids": ["x"] * 10_001}, 413),
        ({"decision_ids": [], "more": 1}, 400),
        ([], 400),
    ],
)
def test_what_is_no_list_of_decisions_is_refused(service: ThrowawayService, body: Any, status: int) -> None:
    assert service.call("POST", "/v1/exposures", body).status in (status, 400)


def test_ten_thousand_at_once(service: ThrowawayService) -> None:
    name = running(service, unit="user")
    tokens = [flag["decision_id"] for flag in flags_for(service, name, 60)]
    answer = expose(service, (tokens * 167)[:10_000])
    assert answer.status == 200
    assert (answer.body["accepted"], answer.body["duplicates"]) == (60, 9_940)
    assert sum(counts(service, name)[0]) == 60

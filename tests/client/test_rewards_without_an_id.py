"""Rewards of decisions that were not drawn: `unmatched` whichever way they go, and never sent."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from bandit_serve_client import OutboxSettings, Reward, SyncClient, UnitReward
from bandit_serve_client.decisions import Decision
from bandit_serve_client.open_decision import OpenDecision
from both_clients import CLIENTS
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted_server import Received, Script, ScriptedServer, answer

Make = Callable[..., Any]


@pytest.fixture(params=CLIENTS)
def client_of(request: pytest.FixtureRequest) -> Make:
    made: Make = CLIENTS[request.param]
    return made


def all_accepted(request: Received, _: int = 0) -> Script:
    given = json.loads(request.body).get("rewards", [None])
    report = {"accepted": len(given), "duplicates": 0, "rejected": 0, "verdicts": ["accepted"] * len(given)}
    return answer(json.dumps(report).encode())


def sent(server: ScriptedServer) -> list[str]:
    return [
        reward["decision_id"] for request in server.received for reward in json.loads(request.body)["rewards"]
    ]


def test_all_ways_agree(client_of: Make) -> None:
    rejected: list[tuple[Any, str]] = []
    outbox = OutboxSettings(on_rejected=lambda *pair: rejected.append(pair))
    without = Reward(None, 1.0)
    with ScriptedServer(all_accepted) as server, client_of(server.url, outbox=outbox) as client:
        assert client.reward(None, 1.0) == "unmatched"
        report = client.rewards([without, without])
        assert (report.accepted, report.rejected, report.verdicts) == (0, 2, ("unmatched", "unmatched"))
        assert client.queue(without)
        assert client.flush(20)
        assert client.counts == {"unmatched": 1}
        assert rejected == [(without, "unmatched")]
        assert server.received == []


@pytest.mark.parametrize("is_without", [[True, False, True, True, False], [False, True], [False], [True]])
def test_those_beside_them_are_sent_in_their_order(client_of: Make, is_without: list[bool]) -> None:
    rewards = [Reward(None if without else f"t{i}", 1.0) for i, without in enumerate(is_without)]
    expected = ["unmatched" if without else "accepted" for without in is_without]
    ids = [reward.decision_id for reward in rewards if reward.decision_id is not None]
    with ScriptedServer(all_accepted) as server, client_of(server.url) as client:
        report = client.rewards(rewards)
        assert report.verdicts == tuple(expected)
        assert (report.accepted, report.rejected) == (len(ids), expected.count("unmatched"))
        assert sent(server) == ids
        for reward in rewards:
            client.queue(reward)
        assert client.flush(20)
        assert client.counts == Counter(expected)
        assert sent(server) == ids * 2


def test_an_empty_list_is_asked_as_before(client_of: Make) -> None:
    with ScriptedServer(all_accepted) as server, client_of(server.url) as client:
        assert client.rewards([]).verdicts == ()
        assert len(server.received) == 1


def test_what_is_no_number_is_refused_here_too(client_of: Make) -> None:
    with ScriptedServer(all_accepted) as server, client_of(server.url) as client:
        for value in (float("nan"), None):
            with pytest.raises(ValueError, match="value"):
                client.reward(None, value)
        assert client.reward(None, None, event_id="order") == "unmatched"
        assert server.received == []


def test_an_open_decision_says_that_it_takes_none() -> None:
    queued: list[Any] = []
    for decision_id in (None, "t"):
        decision = Decision(decision_id, "e", "a", 1.0, None, None)
        opened = OpenDecision.of(decision, lambda reward: not queued.append(reward))
        assert opened.reward(1.0) is (decision_id is not None)
    assert queued == [Reward("t", 1.0)]


@settings(deadline=None, max_examples=25)
@given(st.lists(st.sampled_from(["decision", "none", "unit"]), max_size=12))
def test_each_reward_has_its_verdict(kinds: list[str]) -> None:
    made = {
        "decision": Reward("t", 1.0),
        "none": Reward(None, 1.0),
        "unit": UnitReward(experiment="e", unit="u", value=1.0),
    }
    with ScriptedServer(all_accepted) as server, SyncClient(server.url) as client:
        verdicts = client.rewards([made[kind] for kind in kinds]).verdicts
    assert verdicts == tuple("unmatched" if kind == "none" else "accepted" for kind in kinds)

"""Metrics that clients send, and the values that each takes."""

from __future__ import annotations

import math
from typing import Any

import pytest
from builders import experiment, record

from bandit_serve.api.rewards import DecisionReward, Reward
from bandit_serve.rewards.client_metrics import ClientMetrics

METRICS = [
    {"name": "latency_ms", "kind": "continuous", "goal": "minimize", "source": "served"},
    {"name": "click", "kind": "binary", "role": "objective"},
    {"name": "error", "kind": "binary", "goal": "minimize", "source": "served"},
    {"name": "stars", "kind": "bounded", "low": 1, "high": 5},
]


@pytest.mark.parametrize(
    ("fields", "index", "at"),
    [
        ({"value": 1}, 1, None),
        ({"value": True}, 1, None),
        ({"value": 0.5}, None, "value"),
        ({"value": math.nan}, None, "value"),
        ({"value": None}, None, "value"),
        ({"value": None, "event_id": "o"}, 1, None),
        ({"value": 1, "event_id": ""}, None, "event_id"),
        ({"value": 1, "event_id": "é" * 65}, None, "event_id"),
        ({"value": 4.5, "metric": "stars"}, 3, None),
        ({"value": 5.5, "metric": "stars"}, None, "value"),
        ({"value": 1, "metric": "clicks"}, None, "metric"),
        ({"value": 1, "metric": "latency_ms"}, None, "metric"),
        ({"value": 1, "metric": "error", "event_id": "o"}, None, "metric"),
        ({"value": None, "metric": "error", "event_id": "o"}, None, "metric"),
    ],
)
def test_a_reward_has_an_index_or_a_mistake(
    fields: dict[str, Any], index: int | None, at: str | None
) -> None:
    metrics = ClientMetrics(record(experiment(metrics=METRICS)))
    given = {"metric": None, "event_id": None, **fields}
    for reward in (DecisionReward("t", **given), Reward("t", **given)):
        assert metrics.index_of(reward) == index
        mistake = metrics.mistake(reward)
        assert (None if mistake is None else mistake.at) == at


def test_names_are_those_that_are_sent() -> None:
    metrics = ClientMetrics(record(experiment(metrics=METRICS)))
    assert [name in metrics for name in ("click", "stars", "latency_ms", "error", "other")] == [
        True,
        True,
        False,
        False,
        False,
    ]

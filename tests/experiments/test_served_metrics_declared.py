"""Served metrics in a configuration: which may be declared, how they are written, and what is learned from them."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest
from builders import created, experiment, exposed, rewards

from bandit_serve.changes.experiment_mistakes import every_mistake
from bandit_serve.errors import InvalidInput
from bandit_serve.experiments.spec import Experiment
from bandit_serve.folds.experiment import LiveExperiment
from bandit_serve.log.events import Rewarded
from bandit_serve.log.offset import Offset

LATENCY = {"name": "latency_ms", "kind": "continuous", "goal": "minimize", "source": "served"}
ERROR = {"name": "error", "kind": "binary", "goal": "minimize", "source": "served"}
CLICK = {"name": "click", "kind": "binary"}


@pytest.mark.parametrize(
    "metrics",
    [
        [CLICK, LATENCY, ERROR],
        [CLICK, {**ERROR, "role": "secondary"}],
        [LATENCY | {"role": "secondary"}, CLICK],
        [ERROR, {**CLICK, "role": "objective"}],
        [CLICK, {**LATENCY, "source": "client"}],
        [CLICK, {"name": "latency_ms", "kind": "count"}],
        [{"name": "error", "kind": "binary", "goal": "minimize"}],
    ],
)
def test_what_is_taken(metrics: list[dict[str, Any]]) -> None:
    made = experiment(metrics=metrics)
    assert [metric.served for metric in made.metrics] == [each.get("source") == "served" for each in metrics]
    assert not made.objective.served


@pytest.mark.parametrize(
    ("metrics", "place"),
    [
        ([CLICK, {**LATENCY, "name": "latency"}], 1),
        ([CLICK, {**LATENCY, "kind": "binary"}], 1),
        ([CLICK, {**LATENCY, "kind": "count"}], 1),
        ([CLICK, {**LATENCY, "goal": "maximize"}], 1),
        ([CLICK, {name: LATENCY[name] for name in ("name", "kind", "source")}], 1),
        ([CLICK, {**ERROR, "kind": "continuous"}], 1),
        ([CLICK, {**ERROR, "name": "click2"}], 1),
        ([LATENCY], 0),
        ([ERROR], 0),
        ([LATENCY, CLICK], 0),
        ([CLICK, {**ERROR, "role": "objective"}], 1),
    ],
)
def test_what_is_refused_is_named(metrics: list[dict[str, Any]], place: int) -> None:
    with pytest.raises(InvalidInput) as refused:
        experiment(metrics=metrics)
    assert [error.at for error in refused.value.errors] == [f"metrics[{place}].source"]
    document = {"id": "e", "arms": [{"name": "a"}], "metrics": metrics}
    assert msgspec.convert(document, Experiment)
    assert f"metrics[{place}].source" in [each.at for each in every_mistake(document)]


def test_the_default_is_not_written() -> None:
    for source in ({}, {"source": "client"}):
        made = experiment(metrics=[{**CLICK, **source}])
        assert "source" not in msgspec.json.encode(made).decode()
        assert experiment(metrics=[CLICK]) == made
    written = msgspec.json.decode(msgspec.json.encode(experiment(metrics=[CLICK, LATENCY])))
    assert [each.get("source") for each in written["metrics"]] == [None, "served"]


@pytest.mark.parametrize("missing", ["zero", "ignore"])
def test_a_policy_learns_nothing_from_them(missing: str) -> None:
    made = experiment(metrics=[CLICK, LATENCY, ERROR], attribution={"window": "1h", "missing": missing})
    folds = [LiveExperiment(created(made)) for _ in range(2)]
    for fold, measured in zip(folds, (False, True), strict=True):
        fold.apply(Offset(1, 0), created(made))
        fold.apply(Offset(1_000, 0), exposed(0, [0, 1, 0], [900, 950, 960]))
        fold.apply(Offset(1_000, 1), Rewarded(rewards([0], times_ms=900)))
        if measured:
            for metric, value in ((1, 12.5), (2, 1.0)):
                rows = rewards(
                    [0, 1, 2], values=value, times_ms=[900, 950, 960], arms=[0, 1, 0], metric=metric
                )
                fold.apply(Offset(1_000, 1 + metric), Rewarded(rows))
    without, with_them = folds
    np.testing.assert_array_equal(without.policy.counts, with_them.policy.counts)
    np.testing.assert_array_equal(without.policy.means, with_them.policy.means)
    assert without.rewards.tolist() == with_them.rewards.tolist() == [1, 0]
    assert without.shares().tolist() == with_them.shares().tolist()

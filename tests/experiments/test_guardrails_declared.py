"""Guardrails in a configuration: which may be declared, how they are written, and what is refused."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from builders import experiment

from bandit_serve.changes.guardrails import missing_guardrail
from bandit_serve.errors import Conflict, InvalidInput
from bandit_serve.experiments.spec import Experiment

CLICK = {"name": "click", "kind": "binary"}
MS = {
    "name": "ms",
    "kind": "continuous",
    "goal": "minimize",
    "role": "guardrail",
    "margin": {"relative": 0.1},
}
SERVED = {**MS, "name": "latency_ms", "source": "served"}


@pytest.mark.parametrize(
    "metrics",
    [
        [CLICK, MS],
        [MS, CLICK],
        [CLICK, SERVED],
        [CLICK, {**MS, "margin": {"absolute": 0}}],
        [CLICK, {**MS, "margin": {"absolute": 12.5}, "on_harm": "stop"}, {**SERVED, "on_harm": "pause_arm"}],
    ],
    ids=str,
)
def test_what_is_taken(metrics: list[dict[str, Any]]) -> None:
    made = experiment(metrics=metrics)
    assert made.objective.name == "click"
    assert [metric.is_guardrail for metric in made.metrics] == ["margin" in each for each in metrics]


@pytest.mark.parametrize(
    ("metrics", "at"),
    [
        ([CLICK, {**MS, "margin": {}}], "metrics[1].margin"),
        ([CLICK, {**MS, "margin": {"relative": 0.1, "absolute": 1}}], "metrics[1].margin"),
        ([CLICK, {name: MS[name] for name in ("name", "kind", "role")}], "metrics[1].margin"),
        ([CLICK, {**MS, "role": "secondary"}], "metrics[1].margin"),
        ([{**CLICK, "margin": {"relative": 0.1}}], "metrics[0].margin"),
        ([CLICK, {"name": "n", "kind": "count", "on_harm": "report"}], "metrics[1].on_harm"),
        ([MS], "metrics"),
    ],
    ids=str,
)
def test_what_is_refused_is_named(metrics: list[dict[str, Any]], at: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        experiment(metrics=metrics)
    assert [error.at for error in refused.value.errors] == [at]


@pytest.mark.parametrize(
    "margin",
    [{"absolute": -1}, {"relative": -0.1}, {"relative": 1_001}, {"relative": None}, {"part": 1}, 0.1],
)
def test_a_margin_is_a_number_in_its_range(margin: Any) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert([{**MS, "margin": margin}], list[type(experiment().metrics[0])])


def test_what_is_not_used_is_not_written() -> None:
    plain = msgspec.to_builtins(experiment(metrics=[CLICK]))["metrics"]
    assert set(plain[0]) == {"name", "kind", "goal", "role", "low", "high"}
    written = msgspec.to_builtins(experiment(metrics=[CLICK, {**MS, "on_harm": "report"}]))["metrics"][1]
    assert written["margin"] == {"relative": 0.1}
    assert "on_harm" not in written
    read = msgspec.convert(msgspec.to_builtins(experiment(metrics=[CLICK, MS])), Experiment)
    assert read == experiment(metrics=[CLICK, MS])


@pytest.mark.parametrize(
    ("there", "asked", "kept"),
    [
        ({"absolute": 0.05}, "error=0.05", True),
        ({"absolute": 0.01}, "error=0.05", True),
        ({"absolute": 0.0500001}, "error=0.05", False),
        ({"absolute": 0.5}, "error=0.01", False),
        ({"relative": 0.05}, "error=0.05", False),
        ({"relative": 0.05}, "error=5%", True),
        ({"relative": 0.2}, "error=5%", False),
    ],
)
def test_a_guardrail_that_is_there_does_for_another_that_is_no_stricter(
    there: dict[str, float], asked: str, kept: bool
) -> None:
    error = {**SERVED, "name": "error", "kind": "binary", "margin": there, "on_harm": "pause_arm"}
    made = experiment(metrics=[CLICK, error])
    if kept:
        assert missing_guardrail(made, asked) is None
    else:
        with pytest.raises(Conflict, match="looser than"):
            missing_guardrail(made, asked)

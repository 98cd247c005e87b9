"""Results in a terminal: guardrails and the decision."""

from __future__ import annotations

import numpy as np
import pytest
from simulated_results import Play, normal, record

from bandit_serve.cli.results_table import print_results
from bandit_serve.experiments.metric import Margin, Metric
from bandit_serve.results import ResultsFold, report

METRICS = (
    Metric(name="ms", kind="continuous", goal="minimize", role="guardrail", margin=Margin(relative=0.1)),
    Metric(name="sale", kind="binary", role="objective"),
)


def printed(worse: float, steps: int, capsys: pytest.CaptureFixture[str]) -> str:
    play = Play(ResultsFold(record(metrics=METRICS)), np.random.default_rng(4), normal(20.0, 20.0 + worse))
    for _ in range(steps):
        play.step(np.array([0.5, 0.5]), 200)
    print_results(report(play.fold, play.fold.record, {}, play.now_ms), play.fold.record.experiment)
    return capsys.readouterr().out


def test_a_guardrail_has_a_table_of_verdicts(capsys: pytest.CaptureFixture[str]) -> None:
    shown = printed(0.0, 6, capsys)
    assert "Guardrail: safe where the worst" in shown
    (row,) = (line for line in shown.splitlines() if "safe" in line and line.strip().startswith("b"))
    assert row.split()[:2] == ["b", "safe"]
    assert "Decision: undecided." in shown
    assert all(len(line) <= 80 for line in shown.splitlines() if not line.startswith("Winner"))


def test_harm_is_the_decision_with_its_arm_and_time(capsys: pytest.CaptureFixture[str]) -> None:
    shown = printed(5.0, 6, capsys)
    assert "Decision: harm, b, since 2023-11-14T" in shown
    assert "ms of b is worse by 2" in shown

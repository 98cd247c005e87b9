"""Results in a terminal: what the report says, in 80 columns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from full_results import full_fold, full_record
from simulated_results import Play, normal, record

from bandit_serve.base import terminal
from bandit_serve.cli.results_table import print_results
from bandit_serve.cli.segments_table import print_segments
from bandit_serve.experiments.metric import Margin, Metric
from bandit_serve.results import AdjustedResult, Decision, Report, ResultsFold, SegmentReport, report

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


NARROW = 80


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., list[str]]:
    """Prints a report in 80 columns, with its segments, and returns the lines."""
    monkeypatch.setattr(terminal, "PIPED_WIDTH", NARROW)

    def lines(fold: ResultsFold, made: Report) -> list[str]:
        print_results(made, fold.record.experiment)
        if isinstance(made.segments, SegmentReport):
            print_segments(made.segments, fold.record.experiment)
        return [line.rstrip() for line in capsys.readouterr().out.splitlines()]

    return lines


def full_report(fold: ResultsFold) -> Report:
    shares = dict.fromkeys(fold.record.experiment.arm_names, 1 / len(fold.record.experiment.arms))
    return report(fold, fold.record, shares, fold.now_ms, by="device")


def rows_of(lines: list[str], head: str) -> list[list[str]]:
    """First lines of the rows of the first table whose titles are `head`."""
    start = next(i for i, line in enumerate(lines) if line.split() == head.split())
    rows = []
    for line in lines[start + 2 :]:
        if not line:
            return rows
        if not line.startswith(" " * 3):
            rows.append(line.split())
    raise AssertionError("a table ends with an empty line")


def test_twelve_arms_with_long_names_fit_a_terminal(narrow: Callable[..., list[str]]) -> None:
    names = ["control", *(f"variant-{i}" for i in range(1, 12))]
    fold = full_fold(12, 6, names=names)
    made = full_report(fold)
    lines = narrow(fold, made)
    sentences = (made.reason, "p all: ", "Adjusted by ", "By device", "Shrunk: ", "device was ", "Decision: ")
    tables = [line for line in lines if not any(sentence in line for sentence in sentences)]
    assert max(map(len, tables)) <= NARROW
    assert len(tables) > 200
    for head in (
        "Arm Share Decisions",
        "Arm n Mean To control p p all",
        "Arm Std Lift P(best) Loss",
        "Arm Verdict Margin At worst",
    ):
        rows = rows_of(lines, head)
        assert [row[0] for row in rows][-11:] == names[1:], head
    assert sum(line.strip() in ("ios", "android", "web", "unknown") for line in lines) == 4 * 3
    # Nothing is cut: numbers of a column that has no room would end so.
    assert "…" not in "".join(lines)


def test_tables_have_the_numbers_of_the_report(narrow: Callable[..., list[str]]) -> None:
    fold = full_fold(2, 20)
    made = full_report(fold)
    lines = narrow(fold, made)
    arm = made.arms[1]
    done, spent, ms = (arm.metrics[name] for name in ("done", "spent", "ms"))
    assert rows_of(lines, "Arm Share Decisions")[1] == ["b", "0.500", str(arm.exposures)]
    assert rows_of(lines, "Arm n Mean To control p p all")[1] == [
        "b",
        str(done.n),
        f"{done.mean:.4g}",
        f"{done.difference:+.4g}",
        f"{done.p_value:.3f}",
        f"{done.p_value_corrected:.3f}",
    ]
    assert rows_of(lines, "Arm Std Lift P(best) Loss No cap")[1] == [
        "b",
        f"{spent.std:.4g}",
        f"{100 * spent.lift:+.3g}",
        "%",
        f"{spent.probability_best:.3f}",
        f"{spent.expected_loss:.3g}",
        f"{spent.raw_mean:.4g}",
    ]
    adjusted = spent.adjusted
    assert isinstance(adjusted, AdjustedResult)
    start = next(i for i, line in enumerate(lines) if line.startswith("Adjusted by spent_before (CUPED)"))
    assert f"theta {adjusted.theta:.4g}" in lines[start]
    (raw,) = (line.split() for line in lines[start:] if line.split()[:2] == ["b", "raw"])
    assert raw[2:] == [f"{spent.mean:.4g}", f"{spent.difference:+.4g}", f"{spent.p_value:.3f}"]
    values = [line.split() for line in lines[start:] if line.split()[:1] == ["adjusted"]]
    assert values[1][1:] == [f"{adjusted.mean:.4g}", f"{adjusted.difference:+.4g}", "<0.001"]
    assert values[0][1:] == [f"{made.arms[0].metrics['spent'].adjusted.mean:.4g}", "control", "–"]
    assert rows_of(lines, "Arm Verdict Margin At worst") == [
        ["b", ms.guardrail.verdict, f"{ms.guardrail.margin:.4g}", f"{ms.guardrail.bound:+.4g}"]
    ]


def test_segments_have_the_weight_of_their_own_data(narrow: Callable[..., list[str]]) -> None:
    fold = full_fold(2, 6)
    made = full_report(fold)
    assert isinstance(made.segments, SegmentReport)
    lines = narrow(fold, made)
    assert next(line for line in lines if line.startswith("By device")).startswith(
        "By device, declared before the start; intervals of"
    )
    start = lines.index(" ios")
    shrunk = made.segments.values[0].shrunk["b"]["done"]
    assert shrunk is not None
    (row,) = (line for line in lines[start : start + 6] if line.split()[:1] == ["b"])
    assert row.split()[-1] == f"{shrunk.difference:+.4g}"
    assert lines[lines.index(row) + 1].endswith(f"of {shrunk.weight:.2f}")


def test_long_numbers_leave_room_for_names(narrow: Callable[..., list[str]]) -> None:
    """Intervals break between their ends, and neither a name nor a number is cut into letters."""
    fold = full_fold(2, 6, names=("control-shop", "variant-name"))
    made = full_report(fold)
    long = {
        "n": 1_234_567_890,
        "mean": -1.2345e-05,
        "interval": (-1.234e-05, -1.236e-05),
        "difference": -1.2345e-05,
        "difference_interval": (-1.236e-05, 1.237e-05),
        "p_value": 1e-9,
    }
    assert isinstance(made.segments, SegmentReport)
    replace = msgspec.structs.replace

    def lengthened(arms: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(
            replace(arm, metrics={name: replace(of, **long) for name, of in arm.metrics.items()})
            for arm in arms
        )

    values = tuple(replace(each, arms=lengthened(each.arms)) for each in made.segments.values)
    segments = replace(made.segments, values=values)
    lines = narrow(fold, replace(made, arms=lengthened(made.arms), segments=segments))
    rows = [line for line in lines if "1234567890" in line]
    assert len(rows) == 2 * 3 + 2 * 4 * 3
    assert max(map(len, rows)) <= NARROW
    assert all(line.split()[0] in ("control-shop", "variant-name") for line in rows)
    assert any(line.split() == ["[-1.23e-05,", "[-1.24e-05,"] for line in lines)


def test_what_is_to_go_is_told(narrow: Callable[..., list[str]]) -> None:
    fold = ResultsFold(full_record(2))
    made = report(fold, fold.record, {}, 0)
    decision = Decision("undecided", samples_to_go=4_200, days_to_go=2.5)
    lines = narrow(fold, msgspec.structs.replace(made, decision=decision))
    assert "To go: about 4,200 observations, 2.5 days at the traffic so far." in lines
    assert not any(line.startswith("To go") for line in narrow(fold, made))

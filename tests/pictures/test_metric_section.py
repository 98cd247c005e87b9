"""Section of a metric: what the report says of it, guardrails, covariates and caps included."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import msgspec
import pytest
from full_results import full_page
from page_tables import SVG, picture, section_of, tables_in
from simulated_results import START_MS, record

from bandit_serve.pictures.metric_section import metric_section
from bandit_serve.pictures.shown import Shown, shown_of
from bandit_serve.results import AdjustedResult, GuardrailResult, MetricResult, ResultsFold


@pytest.fixture(scope="module")
def two() -> Shown:
    return full_page(2)


@pytest.fixture(scope="module")
def twelve() -> Shown:
    return full_page(12, 6)


def section(shown: Shown, name: str) -> ElementTree.Element:
    (metric,) = (metric for metric in shown.metrics if metric.name == name)
    return section_of(metric_section(shown, metric))


def of(shown: Shown, arm: int, metric: str) -> MetricResult:
    return shown.report.arms[arm].metrics[metric]


def with_ends(value: float, ends: tuple[float, float], form: str) -> str:
    return f"{value:{form}}|{ends[0]:{form}} to {ends[1]:{form}}"


def test_a_comparison_has_the_numbers_of_the_report(two: Shown) -> None:
    (control, row), *_ = tables_in(section(two, "spent"))
    result = of(two, 1, "spent")
    assert None not in (result.interval, result.difference_interval, result.lift_interval)
    assert row == {
        "arm": "b",
        "n": f"{result.n:,}",
        "mean": with_ends(result.mean, result.interval, ".4g"),
        "to a": with_ends(result.difference, result.difference_interval, "+.4g"),
        "lift": with_ends(result.lift, result.lift_interval, "+.1%"),
        "p": f"{result.p_value:.3f}",
        "p, all metrics": f"{result.p_value_corrected:.3f}",
        "P(best)": f"{result.probability_best:.3f}",
        "loss": f"{result.expected_loss:.3g}",
        "std": f"{result.std:.4g}",
        "uncapped": f"{result.raw_mean:.4g}",
    }
    assert result.p_value != result.p_value_corrected
    assert result.raw_mean > result.mean
    assert (control["to a"], control["p"], control["lift"]) == ("control", "–", "–")
    assert "uncapped" not in tables_in(section(two, "done"))[0][0]


def test_adjusted_results_stand_beside_the_raw_ones(two: Shown) -> None:
    about = section(two, "spent")
    (control, row) = tables_in(about)[1]
    raw = of(two, 1, "spent")
    adjusted = raw.adjusted
    assert isinstance(adjusted, AdjustedResult)
    assert raw.p_value > 0.05 > 0.001 > adjusted.p_value
    assert row["raw mean"] == with_ends(raw.mean, raw.interval, ".4g")
    assert row["adjusted mean"] == with_ends(adjusted.mean, adjusted.interval, ".4g")
    assert row["raw, to a"] == with_ends(raw.difference, raw.difference_interval, "+.4g")
    assert row["adjusted, to a"] == with_ends(adjusted.difference, adjusted.difference_interval, "+.4g")
    assert (row["raw p"], row["adjusted p"]) == (f"{raw.p_value:.3f}", "< 0.001")
    (low, high), (below, above) = adjusted.difference_interval, raw.difference_interval
    assert row["width"] == f"× {(high - low) / (above - below):.2f}"
    assert control["raw, to a"] == control["adjusted, to a"] == "control"
    assert f"θ = {adjusted.theta:.4g}" in "".join(about.itertext())
    drawn = picture(about, "Difference to a, raw and adjusted")
    ends = [float(each.attrib["x2"]) - float(each.attrib["x1"]) for each in reaches(drawn)]
    assert ends[1] / ends[0] == pytest.approx((high - low) / (above - below), abs=0.01)
    assert [each.text for each in drawn.iter(f"{SVG}text")].count("adjusted") == 1


def reaches(drawn: ElementTree.Element) -> list[ElementTree.Element]:
    return [each for each in drawn.iter(f"{SVG}line") if each.get("class") == "reach"]


@pytest.mark.parametrize("name", ["done", "ms"])
def test_a_metric_without_a_covariate_has_nothing_adjusted(two: Shown, name: str) -> None:
    assert "adjusted" not in "".join(section(two, name).itertext())


def test_guardrails_have_their_verdict_bound_and_margin(twelve: Shown) -> None:
    about = section(twelve, "ms")
    rows = tables_in(about)[1]
    assert [row["arm"] for row in rows] == list("bcdefghijkl")
    for arm, row in enumerate(rows, 1):
        result = of(twelve, arm, "ms")
        guard = result.guardrail
        assert isinstance(guard, GuardrailResult)
        assert row["verdict"] == guard.verdict
        assert row["at worst"] == f"{guard.bound:+.4g}"
        assert row["margin"] == f"{guard.margin:.4g}"
        assert row["difference"] == f"{result.difference:+.4g}"
    assert {row["verdict"] for row in rows} == {"safe", "harm"}
    drawn = picture(about, "At worst, and the margin")
    marks = [float(each.attrib["x1"]) for each in drawn.iter(f"{SVG}line") if each.get("class") == "mark"]
    dots = [float(each.attrib["cx"]) for each in drawn.iter(f"{SVG}circle")]
    assert len(marks) == len(dots) == 11
    # To the right of its margin is the arm that does harm, and no other.
    assert [dot > mark for dot, mark in zip(dots, marks, strict=True)] == [
        row["verdict"] == "harm" for row in rows
    ]


def test_the_margin_of_what_is_maximized_is_below_zero(two: Shown) -> None:
    (guard,) = (metric for metric in two.metrics if metric.name == "ms")
    about = section_of(metric_section(two, msgspec.structs.replace(guard, goal="maximize")))
    drawn = picture(about, "At worst, and the margin")
    (mark,) = (each for each in drawn.iter(f"{SVG}line") if each.get("class") == "mark")
    (zero,) = (each for each in drawn.iter(f"{SVG}line") if each.get("class") == "zero")
    assert float(mark.attrib["x1"]) < float(zero.attrib["x1"])


def test_a_section_without_traffic_has_no_numbers() -> None:
    fold = ResultsFold(record(3, status="draft"))
    shown = shown_of(fold, fold.record, {}, [], START_MS)
    (rows,) = tables_in(section(shown, "m"))
    assert [(row["arm"], row["n"], row["to a"]) for row in rows] == [
        ("a", "0", "control"),
        ("b", "0", "–"),
        ("c", "0", "–"),
    ]
    assert set(rows[1]) == {"arm", "n", "to a", "P(best)", "loss"}
    empty = full_page(2, 0)
    _, (guarded,) = tables_in(section(empty, "ms"))
    assert guarded == {"arm": "b", "verdict": "undecided"}

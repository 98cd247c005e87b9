"""Section of a field: every segment's numbers, corrected and shrunk, and how the field came to be looked at."""

from __future__ import annotations

import msgspec
import pytest
from full_results import CONTEXT, METRICS, full_fold, full_page
from page_tables import SVG, picture, section_of, tables_in

from bandit_serve.pictures import segment_section as module
from bandit_serve.pictures.segment_section import segment_section
from bandit_serve.pictures.shown import Shown
from bandit_serve.policies.context import ContextField
from bandit_serve.results import SegmentReport, report


@pytest.fixture(scope="module")
def two() -> Shown:
    return full_page(2)


@pytest.fixture(scope="module")
def twelve() -> Shown:
    return full_page(12, 6)


def test_every_segment_and_arm_has_the_numbers_of_the_report(twelve: Shown) -> None:
    (segments,) = twelve.segments
    section = section_of(segment_section(twelve, segments))
    tables = tables_in(section)
    assert [len(rows) for rows in tables] == [4 * 12] * 3
    shrunk_apart = 0
    for metric, rows in zip(("done", "spent", "ms"), tables, strict=True):
        of = [(each, arm) for each in segments.values for arm in each.arms]
        for row, (segment, arm) in zip(rows, of, strict=True):
            result = arm.metrics[metric]
            assert row["segment"] == (segment.value or "unknown")
            assert (row["arm"], row["n"]) == (arm.name, f"{result.n:,}")
            if arm.name == "a":
                assert (row["to a"], row["p"], row["shrunk"], row["weight"]) == ("control", "–", "–", "–")
                continue
            shrunk = segment.shrunk[arm.name][metric]
            assert shrunk is not None
            assert result.difference_interval is not None
            low, high = result.difference_interval
            assert row["to a"] == f"{result.difference:+.4g}|{low:+.4g} to {high:+.4g}"
            assert row["p"] == ("< 0.001" if result.p_value < 0.001 else f"{result.p_value:.3f}")
            assert row["shrunk"] == f"{shrunk.difference:+.4g}|± {shrunk.standard_error:.2g}"
            assert row["weight"] == f"{shrunk.weight:.2f}"
            shrunk_apart += shrunk.weight > 0.1
    assert shrunk_apart > 4
    assert "declared before the start" in (section.findtext("h2/small") or "")
    assert segments.reason in "".join(section.itertext())
    assert f"of level {segments.level:.4g}." in "".join(section.itertext())


def test_a_field_that_was_looked_up_is_marked_so() -> None:
    fold = full_fold(2, 6, look_up=("land",))
    looked_up = report(fold, fold.record, {}, fold.now_ms, by="land").segments
    assert isinstance(looked_up, SegmentReport)
    assert not looked_up.declared
    section = section_of(segment_section(full_page(2, 6), looked_up))
    (small,) = section.findall("h2/small")
    assert (small.text, small.get("class")) == ("looked up afterwards", "flag")
    assert "to be confirmed by another experiment" in "".join(section.itertext())


def test_a_picture_has_a_dot_and_a_tick_for_each_segment(two: Shown) -> None:
    (segments,) = two.segments
    section = section_of(segment_section(two, segments))
    drawn = list(section.iter(f"{SVG}svg"))
    assert len(drawn) == 3
    (zero,) = (each for each in drawn[0].iter(f"{SVG}line") if each.get("class") == "zero")
    dots = [float(each.attrib["cx"]) - float(zero.attrib["x1"]) for each in drawn[0].iter(f"{SVG}circle")]
    ticks = [
        float(each.attrib["x1"]) - float(zero.attrib["x1"])
        for each in drawn[0].iter(f"{SVG}line")
        if each.get("class") == "mark"
    ]
    differences = [each.arms[1].metrics["done"].difference for each in segments.values]
    differences.append(two.report.arms[1].metrics["done"].difference)
    assert len(set(differences)) == 5
    scale = dots[0] / differences[0]
    assert dots == pytest.approx([scale * each for each in differences], abs=0.2)
    shrunk = [each.shrunk["b"]["done"].difference for each in segments.values]
    assert ticks == pytest.approx([scale * each for each in shrunk], abs=0.2)


def test_pictures_and_rows_have_a_bound(twelve: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    (segments,) = twelve.segments
    section = section_of(segment_section(twelve, segments))
    assert len(list(section.iter(f"{SVG}svg"))) == 11
    assert picture(section, "l: difference to a") is not None
    assert "left out" not in "".join(section.itertext())
    monkeypatch.setattr(module, "MAX_ROWS", 53)
    monkeypatch.setattr(module, "MAX_PICTURES", 2)
    section = section_of(segment_section(twelve, segments))
    assert [len(rows) for rows in tables_in(section)] == [48, 5]
    assert "91 rows are left out" in "".join(section.itertext())
    assert len(list(section.iter(f"{SVG}svg"))) == 2


def test_segments_without_traffic_have_rows_without_numbers() -> None:
    empty = full_page(2, 0)
    (segments,) = empty.segments
    section = section_of(segment_section(empty, segments))
    assert list(section.iter(f"{SVG}svg")) == []
    rows = tables_in(section)[0]
    assert len(rows) == 8
    assert set(rows[1].values()) == {"ios", "b", "0", "–"}


def test_names_are_text() -> None:
    shown = full_page(
        2,
        6,
        names=("<b>a", "b&\"'"),
        metrics=tuple(
            msgspec.structs.replace(metric, name=name)
            for metric, name in zip(METRICS, ("<i>", "do&ne", "m's"), strict=True)
        ),
        dimensions=("<u>",),
        context=(ContextField(name="<u>", kind="categorical", values=["<x>", "</table>"]), CONTEXT[1]),
    )
    (segments,) = shown.segments
    html = segment_section(shown, segments)
    for tag in ("<b>", "<u>", "<x>"):
        assert tag not in html
    rows = tables_in(section_of(html))[0]
    assert {row["segment"] for row in rows} == {"<x>", "</table>", "unknown"}
    assert {row["arm"] for row in rows} == {"<b>a", "b&\"'"}
    assert "to <b>a" in rows[0]

"""Page and picture of an experiment: well-formed, nothing to load, and marks at the places of the numbers."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np
import pytest
from full_results import full_page
from page_tables import section_of, tables_in
from simulated_results import START_MS, Play, bernoulli, record

from bandit_serve.base.clock import rfc3339
from bandit_serve.experiments.metric import Metric
from bandit_serve.pictures import course
from bandit_serve.pictures.course import CourseOfArm, TimeMark, lines, stacked
from bandit_serve.pictures.intervals import LABELS, VALUES, WIDTH, Row, intervals
from bandit_serve.pictures.report_page import report_page
from bandit_serve.pictures.report_picture import report_png, report_svg
from bandit_serve.pictures.shapes import amount, shortened
from bandit_serve.pictures.shown import Shown, shown_of
from bandit_serve.pictures.theme import PALETTES
from bandit_serve.results import Decision, ResultsFold, TimelineChange

SVG = "{http://www.w3.org/2000/svg}"
VOID = {"meta"}


def shown(n_arms: int, steps: int = 20) -> Shown:
    metrics = (
        Metric(name="spent", kind="continuous", role="secondary"),
        Metric("done", "binary", role="objective"),
    )
    about = record(n_arms, metrics=metrics)
    fold = ResultsFold(about)
    play = Play(fold, np.random.default_rng(1), bernoulli(*np.linspace(0.1, 0.2, n_arms)), n_arms)
    for _ in range(steps):
        before = fold.now_ms
        play.step(np.full(n_arms, 1 / n_arms), 60 * n_arms)
        assert fold.now_ms > before
    changes = [TimelineChange(rfc3339(START_MS + 9_000), "pause_arm", "<ann>", "b", "it was <b>slow</b>")]
    return shown_of(
        fold, fold.record, dict.fromkeys(about.experiment.arm_names, 1 / n_arms), changes, START_MS
    )


class Reader(HTMLParser):
    """Refuses elements that are not closed in their order, and whatever would be fetched or run."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.data = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = dict(attrs)
        assert not {"src", "href", "srcset"} & set(names), tag
        assert not any(name.startswith("on") for name in names), tag
        assert tag != "script" or names["type"] == "application/json"
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.data += data


def pictures_in(html: str) -> list[ElementTree.Element]:
    return [ElementTree.fromstring(text) for text in re.findall(r"<svg.*?</svg>", html, re.S)]


@pytest.mark.parametrize("n_arms", [1, 2, 12])
def test_a_page_is_one_well_formed_file_with_the_report(n_arms: int) -> None:
    about = shown(n_arms)
    html = report_page(about)
    reader = Reader()
    reader.feed(html)
    reader.close()
    assert reader.open == []
    assert "http" not in re.sub(r'xmlns="[^"]*"', "", html)
    assert "@import" not in html
    assert json.loads(reader.data) == msgspec.json.decode(msgspec.json.encode(about.report))
    assert "<b>slow" not in html
    assert n_arms == 1 or "&lt;b&gt;slow" in html
    assert html.index("<h2>done") < html.index("<h2>spent")
    ids = re.findall(r'id="([^"]*)"', html)
    assert len(ids) == len(set(ids)) > 1
    assert len(pictures_in(html)) == (7 if n_arms > 1 else 4)
    assert 'data-theme="dark"' in report_page(about, "dark")


def test_a_page_without_traffic_has_no_course() -> None:
    fold = ResultsFold(record(2, status="draft"))
    html = report_page(shown_of(fold, fold.record, {}, [], START_MS))
    assert "Over time" not in html
    assert "has decided nothing yet" in html
    assert "no winner yet" in html


@pytest.mark.parametrize("n_arms", [2, 12])
def test_a_full_page_has_every_part_and_is_one_well_formed_file(n_arms: int) -> None:
    about = full_page(n_arms, 4)
    reader = Reader()
    reader.feed(report_page(about))
    reader.close()
    assert reader.open == []
    html = report_page(about)
    headings = re.findall(r"<h[23]>(.*?)(?: <small.*?)?</h[23]>", html)
    for heading in ("done", "spent", "ms", "Guardrail", "Adjusted by spent_before (CUPED)", "By device"):
        assert heading in headings
    assert headings.index("By device") > headings.index("ms")
    told = re.sub(r"<[^>]*>", "", html)
    assert "Decision" in told
    assert f"{about.report.pending:,} whose window has not closed" in told


def test_open_windows_are_a_table_of_previews() -> None:
    about = full_page(2, 4)
    (section,) = re.findall(r"<section><h2>Open windows.*?</section>", report_page(about), re.S)
    (rows,) = tables_in(section_of(section))
    for arm, row in zip(about.report.arms, rows, strict=True):
        assert row.pop("arm") == arm.name
        previews = {name: arm.metrics[name].preview for name in row}
        assert None not in previews.values()
        assert row == {name: f"{of.mean:.4g}|of {of.n:,}" for name, of in previews.items() if of}
    assert "Open windows" not in report_page(shown(2, 2))


def test_traffic_is_that_of_the_report() -> None:
    about = full_page(3, 4)
    (section,) = re.findall(r"<section><h2>Traffic.*?</section>", report_page(about), re.S)
    (rows,) = tables_in(section_of(section))
    assert rows == [
        {"arm": arm.name, "share now": "33.3%", "decisions": f"{arm.exposures:,}"}
        for arm in about.report.arms
    ]


def test_the_page_of_a_winner_tells_since_when() -> None:
    about = full_page(2, 4)
    decision = Decision("winner", "<b>", "2026-01-02T03:04:05.000Z")
    made = msgspec.structs.replace(about.report, decision=decision, winner="<b>")
    html = report_page(about._replace(report=made))
    assert "<dt>Decision</dt><dd>winner, &lt;b&gt;, since 2026-01-02T03:04:05.000Z</dd>" in html
    assert "<dt>Winner</dt><dd>&lt;b&gt;</dd>" in html


@pytest.mark.parametrize(
    ("name", "most", "short"),
    [
        ("variant-10", 10, "variant-10"),
        ("variant-10", 8, "varia…10"),
        ("variant-10", 3, "va…"),
        ("ab", 1, "…"),
    ],
)
def test_names_are_shortened_where_they_do_not_differ(name: str, most: int, short: str) -> None:
    assert shortened(name, most) == short


def attributes(picture: ElementTree.Element, tag: str, look: str) -> list[dict[str, Any]]:
    return [each.attrib for each in picture.iter(f"{SVG}{tag}") if each.get("class") == look]


def test_dots_and_intervals_are_where_their_numbers_are() -> None:
    rows = [
        Row("a", 0, 0.5, (0.0, 1.0)),
        Row("b & c", 1, 0.25, None, mark=0.75),
        Row("d", 9, None, None, label="e"),
    ]
    picture = ElementTree.fromstring(intervals(rows, "of <m>", zero=True, signed=True))
    dots = [float(each["cx"]) for each in attributes(picture, "circle", "dot")]
    (reach,) = attributes(picture, "line", "reach")
    (zero,) = attributes(picture, "line", "zero")
    low, high = float(reach["x1"]), float(reach["x2"])
    assert zero["x1"] == reach["x1"]
    assert LABELS < low < high < WIDTH - VALUES
    assert dots == pytest.approx([(low + high) / 2, low + (high - low) / 4], abs=0.1)
    (mark,) = attributes(picture, "line", "mark")
    assert float(mark["x1"]) == pytest.approx(low + 0.75 * (high - low), abs=0.1)
    texts = [text.text for text in picture.iter(f"{SVG}text")]
    assert {"of <m>", "a", "b & c", "+0.5", "+0.25", "e", "–"} <= set(texts)
    assert "d" not in texts
    assert picture.get("aria-label") == "of <m>. a: 0.5, between 0 and 1; b & c: 0.25; d: not known"
    assert "s1 dashed" in {each.get("class") for each in picture.iter(f"{SVG}g")}


@pytest.mark.parametrize("scale", [1e-9, 1.0, 123_456.0, 7e15])
def test_marks_do_not_run_into_each_other(scale: float) -> None:
    rows = [Row("a", 0, scale, (0.9 * scale, 1.07 * scale))]
    picture = ElementTree.fromstring(intervals(rows, "m"))
    marks = [each for each in picture.iter(f"{SVG}text") if each.get("text-anchor") == "middle"]
    reach = [(float(each.attrib["x"]), 6.6 * len(each.text or "")) for each in marks]
    assert all(b - a >= (wide + wider) / 2 for (a, wide), (b, wider) in pairwise(reach))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.125, "0.125"),
        (-12_500, "-12.5k"),
        (2e6, "2M"),
        (3.1e9, "3.1G"),
        (1.23e-7, "1.2e-07"),
        (1e13, "1e+13"),
    ],
)
def test_amounts_are_short(value: float, text: str) -> None:
    assert amount(value) == text


def points_of(path: str) -> list[tuple[float, float]]:
    return [tuple(map(float, each.split())) for each in re.split("[ML]", path.rstrip("Z"))[1:]]  # type: ignore[misc]


def test_stacked_shares_fill_the_frame() -> None:
    at_ms = [START_MS, START_MS + 1_000, START_MS + 4_000]
    shares = [CourseOfArm("a", 0, [0.5, 0.25, 0.25]), CourseOfArm("b", 1, [0.5, 0.75, 0.75])]
    picture = ElementTree.fromstring(
        stacked(at_ms, shares, "Share", [TimeMark(START_MS + 2_000), TimeMark(0)])
    )
    below, above = (points_of(each["d"]) for each in attributes(picture, "path", "area"))
    base, top, height = course.HEIGHT - course.BOTTOM, course.TOP, course.HEIGHT - course.BOTTOM - course.TOP
    assert [y for _, y in below[:3]] == pytest.approx(
        [base - height * each for each in (0.5, 0.25, 0.25)], abs=0.1
    )
    assert [y for _, y in above[:3]] == [top] * 3
    assert above[3:] == below[2::-1]
    right = course.WIDTH - course.RIGHT
    assert [x for x, _ in below[:3]] == pytest.approx(
        [course.LEFT, course.LEFT + (right - course.LEFT) / 4, right], abs=0.1
    )
    (change,) = attributes(picture, "line", "change")
    assert float(change["x1"]) == pytest.approx((course.LEFT + right) / 2, abs=0.1)


def test_lines_begin_where_something_is_known() -> None:
    at_ms = list(range(START_MS, START_MS + 10_000, 1_000))
    values: list[float | None] = [None, None, *(0.1 * i for i in range(8))]
    none: list[float | None] = [None] * 10
    few = [CourseOfArm("a", 0, values, values, values), CourseOfArm("b", 1, none)]
    picture = ElementTree.fromstring(lines(at_ms, few, "m", name="x"))
    (line,) = attributes(picture, "path", "line")
    assert len(points_of(line["d"])) == 8
    assert len(attributes(picture, "path", "band")) == 1
    many = [CourseOfArm(str(k), k, values, values, values) for k in range(course.MAX_BANDS + 1)]
    picture = ElementTree.fromstring(lines(at_ms, many, "m", name="x"))
    assert attributes(picture, "path", "band") == []


@pytest.mark.parametrize("span_ms", [1, 900, 50_000, 3_000_000, 40 * 86_400_000, 10**14])
def test_few_times_are_marked(span_ms: int) -> None:
    at_ms = [START_MS, START_MS + span_ms]
    picture = ElementTree.fromstring(lines(at_ms, [CourseOfArm("a", 0, [1.0, 1.0])], "m", name="x"))
    marks = [each for each in picture.iter(f"{SVG}text") if each.get("text-anchor") == "middle"]
    assert len(marks) <= course.MARKS + 1


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_picture_has_its_colours_in_it(theme: Any) -> None:
    svg = report_svg(shown(2), theme)
    assert "var(" not in svg
    assert PALETTES[theme]["s1"] in svg
    picture = ElementTree.fromstring(svg)
    assert len(picture.findall(f"{SVG}svg")) == 5
    ends = [
        (
            float(each.attrib["x"]) + float(each.attrib["width"]),
            float(each.attrib["y"]) + float(each.attrib["height"]),
        )
        for each in picture.findall(f"{SVG}svg")
    ]
    assert max(x for x, _ in ends) <= float(picture.attrib["width"])
    assert max(y for _, y in ends) <= float(picture.attrib["height"])


def test_a_png_is_twice_as_large_as_its_svg() -> None:
    pytest.importorskip("resvg_py")
    about = shown(3)
    png, picture = report_png(about), ElementTree.fromstring(report_svg(about))
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    size = int.from_bytes(png[16:20]), int.from_bytes(png[20:24])
    assert size == (2 * int(picture.attrib["width"]), 2 * int(picture.attrib["height"]))

"""Page with the plot: well-formed, nothing to load, and curves that match the numbers."""

from __future__ import annotations

import json
import re
import shutil
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from bandit_serve.errors import UsageError
from bandit_serve.pictures.picture import BROWSERS, save_picture
from bandit_serve.pictures.scale import Scale
from bandit_serve.pictures.shapes import spread
from bandit_serve.simulation import Simulation, SimulationReport, run_trials, simulation_report
from bandit_serve.simulation.plot.chart import HEIGHT, LEFT, LOG_STARTS, chart
from bandit_serve.simulation.plot.page import page, picture_page
from bandit_serve.simulation.report import MeanOverSeeds

SVG = "{http://www.w3.org/2000/svg}"
Values = NDArray[np.float64]
VOID = {"meta", "input", "br"}


def made(**changed: Any) -> SimulationReport:
    document = {
        "environment": {"kind": "bernoulli", "arms": [0.9, 0.7, 0.6]},
        "policies": ["thompson", "ucb1", "fixed_split"],
        "horizon": 2_000,
        "seeds": 3,
    }
    simulation = Simulation.of({**document, **changed})
    return simulation_report(simulation, run_trials(simulation, 1))


@pytest.fixture(scope="module")
def report() -> SimulationReport:
    return made()


class Reader(HTMLParser):
    """Refuses elements that are not closed in their order, and whatever would be fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.data = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert not {"src", "href", "srcset"} & {name for name, _ in attrs}, tag
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            self.data += data


def read(html: str) -> Any:
    """The report in a page that is well-formed."""
    reader = Reader()
    reader.feed(html)
    reader.close()
    assert reader.open == []
    assert "url(http" not in html
    assert "@import" not in html
    return json.loads(reader.data)


def test_the_page_is_well_formed_and_holds_the_report(report: SimulationReport) -> None:
    data = read(page(report))
    assert [each["name"] for each in data["policies"]] == ["thompson", "ucb1", "fixed_split"]
    for each, standing in zip(data["policies"], report.policies, strict=True):
        assert each["curve"] == standing.curve
        assert each["curve_se"] == standing.curve_se
    assert data["decisions"] == report.decisions
    assert data["growth"] == report.growth


def test_names_can_not_break_out_of_the_page() -> None:
    name = "</script><b onclick=\"alert('x')\">&amp;"
    hostile = made(policies=[{"kind": "thompson", "name": name}, "ucb1"])
    html = page(hostile)
    assert "<b " not in html
    assert read(html)["policies"][0]["name"] == name
    assert name in "".join(ElementTree.fromstring(chart(hostile, "linear")).itertext())


class Drawn(NamedTuple):
    """A line as it is drawn: decisions and values read back from the places in the picture."""

    decisions: Values
    values: Values
    # What half a tenth of a unit of the picture is in values.
    rounding: float


def drawn(root: ElementTree.Element, name: str, kind: str, horizon: int) -> Drawn:
    """The line of the group whose title begins with `name`; marks and grid of the axes say what places mean."""
    group = next(
        group
        for group in root.iter(f"{SVG}g")
        if (title := group.find(f"{SVG}title")) is not None and (title.text or "").startswith(name)
    )
    line = next(path for path in group.iter(f"{SVG}path") if path.get("class") == "line")
    x, y = np.array([point.split() for point in re.split("[ML]", line.attrib["d"])[1:]], dtype=float).T
    marks = {
        float(text.text.replace(",", "")): float(text.attrib["y"])
        for text in root.iter(f"{SVG}text")
        if text.get("text-anchor") == "end" and text.get("class") == "mark" and text.text
    }
    (low, bottom), (high, top) = min(marks.items()), max(marks.items())
    values = low + (y - bottom) / (top - bottom) * (high - low)
    right = next(float(each.attrib["x2"]) for each in root.iter(f"{SVG}line") if each.get("class") == "grid")
    part = (x - LEFT) / (right - LEFT)
    decisions = part * horizon if kind == "linear" else LOG_STARTS * (horizon / LOG_STARTS) ** part
    return Drawn(decisions, values, 0.2 * (high - low) / (bottom - top))


@pytest.mark.parametrize("kind", ["linear", "log"])
def test_a_curve_is_its_numbers(report: SimulationReport, kind: Any) -> None:
    root = ElementTree.fromstring(chart(report, kind))
    for standing in report.policies:
        line = drawn(root, f"{standing.name}:", kind, 2_000)
        n = len(line.values)
        assert n > 100
        assert line.values == pytest.approx(standing.curve[-n:], abs=line.rounding)
        assert line.decisions == pytest.approx(np.array(report.decisions[-n:]), rel=0.002, abs=0.3)


@pytest.mark.parametrize("kind", ["linear", "log"])
def test_the_guide_grows_as_it_says_and_ends_where_the_best_does(report: SimulationReport, kind: Any) -> None:
    assert report.growth is not None
    guide = drawn(ElementTree.fromstring(chart(report, kind)), "C ln t", kind, 2_000)
    expected = report.ranked[0].curve[-1] + report.growth * np.log(guide.decisions / 2_000)
    late = guide.decisions > 100
    assert late.sum() > 100
    assert guide.values[late] == pytest.approx(expected[late], abs=3 * guide.rounding)
    assert guide.values[-1] == pytest.approx(report.ranked[0].curve[-1], abs=guide.rounding)


def test_no_guide_where_there_is_no_growth() -> None:
    assert "growth" not in chart(made(environment={"kind": "bernoulli", "arms": [0.5, 0.5]}), "log")


def test_the_even_split_leaves_a_picture_that_it_would_flatten() -> None:
    far = made(environment={"kind": "bernoulli", "arms": [0.9, 0.1]}, policies=["thompson", "fixed_split"])
    root = ElementTree.fromstring(chart(far, "linear"))
    texts = ["".join(text.itertext()) for text in root.iter(f"{SVG}text")]
    assert any(text.startswith("fixed_split ↑") for text in texts)
    assert any(text.startswith("thompson ") and "↑" not in text for text in texts)


@pytest.mark.parametrize(
    "changed",
    [
        {"horizon": 1},
        {"seeds": 1},
        {"horizon": 12},
        {"policies": ["fixed_split"]},
        {"policies": ["thompson", *({"kind": "ucb1", "name": f"u{i}"} for i in range(19))], "horizon": 50},
        {"environment": {"kind": "bernoulli", "arms": [1.0, 1.0]}},
        {"environment": {"kind": "bernoulli", "arms": [0.2], "changes": [{"at": 9, "arms": [0.1]}]}},
        {"environment": {"kind": "gaussian", "arms": [1e12, -1e12]}, "policies": ["thompson"]},
        {"environment": {"kind": "gaussian", "arms": [1e-9, 0.0]}, "policies": ["thompson"]},
    ],
)
def test_extremes_make_a_picture(changed: dict[str, Any]) -> None:
    extreme = made(**changed)
    read(page(extreme))
    for kind in ("linear", "log"):
        text = chart(extreme, kind)  # type: ignore[arg-type]
        ElementTree.fromstring(text)
        assert "nan" not in text.lower().replace("tenan", "")
        assert "inf" not in text.lower()


def test_labels_keep_their_distance_and_stay_close() -> None:
    generator = np.random.default_rng(0)
    for n in range(1, 20):
        wanted = np.sort(generator.uniform(0.0, 500.0, n)).tolist()
        places = spread(wanted, 19.0, 14.0, 500.0)
        assert (np.diff(places) >= 19.0 - 1e-6).all()
        assert min(places) >= 14.0 - 1e-6
        assert max(places) <= 500.0 + 1e-6
    assert spread([100.0, 200.0], 19.0, 0.0, 500.0) == [100.0, 200.0]
    assert spread([100.0, 100.0], 20.0, 0.0, 500.0) == [90.0, 110.0]
    crowded = spread([5.0] * 100, 19.0, 14.0, 500.0)
    assert crowded == pytest.approx(np.linspace(14.0, 500.0, 100).tolist())


def test_marks_are_round() -> None:
    assert Scale("linear", 0.0, 320.0, 0.0, 1.0).marks(6) == [0.0, 100.0, 200.0, 300.0]
    assert Scale("linear", 0.0, 10_000.0, 0.0, 1.0).marks(6)[1] == 2_000.0
    assert Scale("log", 10.0, 20_000.0, 0.0, 1.0).marks(6) == [10.0, 100.0, 1_000.0, 10_000.0]
    log = Scale("log", 10.0, 1_000.0, 0.0, 100.0)
    assert (log(10.0), log(100.0), log(1_000.0)) == (0.0, pytest.approx(50.0), pytest.approx(100.0))


@pytest.mark.parametrize(
    ("mean", "se", "text"),
    [
        (131.53, 6.88, "131.5 ± 6.9"),
        (1_549.2, 72.1, "1,549 ± 72"),
        (0.10716, 0.0011, "0.1072 ± 0.0011"),
        (0.0, 0.0, "0 ± 0"),
        (59.6, None, "59.6"),
        (1_234.5, None, "1,234"),
        (0.0, None, "0"),
    ],
)
def test_an_estimate_has_the_digits_that_its_error_leaves(mean: float, se: float | None, text: str) -> None:
    assert str(MeanOverSeeds(mean, se)) == text


def test_a_picture_needs_a_browser(
    report: SimulationReport, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "regret.png"
    html = picture_page(report, "linear", "dark")
    read(html.replace("</body>", '<script type="application/json">{}</script></body>'))
    if any(map(shutil.which, BROWSERS)):
        save_picture(html, path)
        content = path.read_bytes()
        assert content.startswith(b"\x89PNG\r\n")
        width, height = (int.from_bytes(content[i : i + 4], "big") for i in (16, 20))
        assert (width, height) == (2_240, 1_360)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match="needs Chromium"):
        save_picture(html, path)


def test_the_picture_is_within_its_frame(report: SimulationReport) -> None:
    root = ElementTree.fromstring(chart(report, "linear"))
    for text in root.iter(f"{SVG}text"):
        assert 0.0 <= float(text.attrib["x"]) <= 1_000.0
        assert 0.0 <= float(text.attrib["y"]) <= HEIGHT

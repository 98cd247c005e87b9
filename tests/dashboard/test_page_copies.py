"""Copies of an experiment's page: each figure and table as CSV, SVG, PNG and link, with the numbers of the API."""

from __future__ import annotations

import csv
import io
import json
import random
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
from browsers import Watched, chromium
from http_calls import decide, new_name, reward_many, running
from services import ThrowawayService
from stores import wait_until

DEVICES = ["ios", "we<b>"]
METRICS = [{"name": "click", "kind": "binary"}, {"name": "money", "kind": "continuous", "role": "secondary"}]

COPIED = """async () => {
  const [item] = await navigator.clipboard.read();
  if (!item?.types.includes("image/png")) return null;
  const picture = await createImageBitmap(await item.getType("image/png"));
  return [item.types, picture.width, picture.height];
}"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as launched:
        yield launched


@pytest.fixture(scope="module")
def name(service: ThrowawayService) -> str:
    """An experiment with a declared dimension and traffic at several times."""
    made = running(
        service,
        id=new_name("copied"),
        metrics=METRICS,
        context=[{"name": "device", "kind": "categorical", "values": DEVICES}],
        dimensions=["device"],
        policy={"kind": "fixed_split"},
    )
    chance = random.Random(5)
    for _ in range(4):
        for _ in range(60):
            token = decide(service, made, context={"device": chance.choice(DEVICES)})["decision_id"]
            reward_many(service, [token], [float(chance.random() < 0.4)])

    def is_long_enough() -> bool:
        token = decide(service, made, context={"device": chance.choice(DEVICES)})["decision_id"]
        reward_many(service, [token], [float(chance.random() < 0.4)])
        history = service.call("GET", f"/v1/experiments/{made}/results/history").body
        return len(history["at"]) > 4

    wait_until(is_long_enough)
    assert service.call("POST", f"/v1/experiments/{made}/pause", {"reason": '=1+1, "so"'}).status == 200
    return made


def rows_of(service: ThrowawayService, name: str, of: str) -> list[dict[str, str]]:
    answer = service.call("GET", f"/experiments/{name}/table?of={of}")
    assert answer.status == 200, answer
    return list(csv.DictReader(io.StringIO(answer.body.decode())))


def number(text: str) -> float | None:
    return float(text) if text else None


def test_figures_over_time_are_the_history_of_the_api(service: ThrowawayService, name: str) -> None:
    def history_now() -> dict[str, Any]:
        return dict(service.call("GET", f"/v1/experiments/{name}/results/history").body)

    def shown() -> list[str]:
        return [row["at"] for row in rows_of(service, name, "shares")]

    # What was decided last may still be on its way into the log.
    wait_until(lambda: shown() == history_now()["at"])
    history = history_now()
    arms = history["arms"]
    shares = rows_of(service, name, "shares")
    assert len(shares) > 2
    for arm, known in arms.items():
        assert [number(row[arm]) for row in shares] == known["share"]
        means = rows_of(service, name, "mean-0")
        assert [number(row[arm]) for row in means] == known["metrics"]["click"]["mean"]
        lows = [None if each is None else each[0] for each in known["metrics"]["click"]["interval"]]
        assert [number(row[f"{arm} low"]) for row in means] == lows
    [*differences] = rows_of(service, name, "difference-0")
    assert "control" not in differences[0]
    assert [number(row["challenger"]) for row in differences] == arms["challenger"]["metrics"]["click"][
        "difference"
    ]


def test_rates_sum_to_what_was_decided(service: ThrowawayService, name: str) -> None:
    history = service.call("GET", f"/v1/experiments/{name}/results/history").body
    rows = rows_of(service, name, "decisions")
    starts = [datetime.fromisoformat(row["from"]).timestamp() for row in rows]
    span_s = (datetime.fromisoformat(history["at"][-1]).timestamp() - starts[0]) / len(rows)
    for arm, known in history["arms"].items():
        decided = known["exposures"][-1] - known["exposures"][0]
        assert sum(float(row[arm]) for row in rows) * span_s == pytest.approx(decided, rel=1e-3)


def test_tables_are_the_results_and_the_history(service: ThrowawayService, name: str) -> None:
    results = service.call("GET", f"/v1/experiments/{name}/results?by=device").body
    for place, metric in enumerate(METRICS):
        rows = rows_of(service, name, f"results-{place}")
        for row, arm in zip(rows, results["arms"], strict=True):
            of = arm["metrics"][metric["name"]]
            assert (row["arm"], int(row["n"]), number(row["mean"])) == (arm["name"], of["n"], of["mean"])
            assert number(row["difference"]) == of["difference"]
    segments = rows_of(service, name, "segments&by=device")
    assert {row["segment"] for row in segments} == {*DEVICES, "unknown"}
    [some] = [row for row in segments if (row["segment"], row["arm"]) == ("ios", "challenger")]
    [ios] = [each for each in results["segments"]["values"] if each["value"] == "ios"]
    assert int(some["n"]) == ios["arms"][1]["metrics"]["click"]["n"]
    allocation = rows_of(service, name, "allocation-0")
    assert [int(row["control"]) for row in allocation if row["device"] == "ios"] == [
        ios["arms"][0]["metrics"]["click"]["n"]
    ]
    history = service.call("GET", f"/v1/experiments/{name}/history").body["history"]
    copied = rows_of(service, name, "history")
    assert [row["what"] for row in copied] == [each["what"] for each in history]
    assert copied[-1]["reason"] == '\'=1+1, "so"', "a spreadsheet takes it for text"


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_figure_of_the_page_is_an_svg_of_its_own(
    service: ThrowawayService, name: str, theme: str
) -> None:
    page = service.call("GET", f"/experiments/{name}", headers={"Accept": "text/html"}).body.decode()
    figures = re.findall(r'<figure id="([^"]+)"', page)
    assert {
        "shares",
        "mean-0",
        "difference-0",
        "decisions",
        "observations",
        "belief-0",
        "allocation-0",
    } <= set(figures)
    assert len(set(figures)) == len(figures)
    for of in figures:
        answer = service.call("GET", f"/experiments/{name}/picture?of={of}&theme={theme}")
        assert answer.headers["Content-Type"] == "image/svg+xml"
        assert f"{name}-{of}.svg" in answer.headers["Content-Disposition"]
        picture = ElementTree.fromstring(answer.body)
        assert "var(" not in answer.body.decode()
        assert list(picture.iter("{http://www.w3.org/2000/svg}path")) or of.startswith("allocation")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("picture?of=none", 404),
        ("table?of=results-7", 404),
        ("table?of=results-%D9%A0", 404),
        ("picture?theme=red", 400),
    ],
)
def test_what_is_not_there_is_said(service: ThrowawayService, name: str, path: str, status: int) -> None:
    assert service.call("GET", f"/experiments/{name}/{path}").status == status


def test_a_picture_goes_to_the_clipboard_and_a_link_leads_to_its_figure(
    browser: Any, service: ThrowawayService, name: str
) -> None:
    seen = Watched(browser, permissions=["clipboard-read", "clipboard-write"])
    page = seen.page
    page.goto(f"{service.url}/experiments/{name}")
    figure = page.locator("#mean-0")
    figure.hover()
    figure.get_by_role("button", name="Copy Mean of click as PNG").click()
    wait_until(lambda: page.evaluate(COPIED) is not None)
    types, width, height = page.evaluate(COPIED)
    assert "image/png" in types
    assert (width, height) == (2 * 412, 2 * 282)
    figure.hover()
    figure.get_by_role("link", name="Link to Mean of click").click()
    wait_until(
        lambda: page.evaluate("navigator.clipboard.readText()") == f"{service.url}/experiments/{name}#mean-0"
    )
    page.get_by_role("link", name="Copy link").click()
    wait_until(lambda: page.evaluate("navigator.clipboard.readText()") == f"{service.url}/experiments/{name}")
    assert seen.said == []
    seen.close()


def test_a_place_of_a_picture_says_the_values_of_its_time(
    browser: Any, service: ThrowawayService, name: str
) -> None:
    seen = Watched(browser)
    page = seen.page
    page.goto(f"{service.url}/experiments/{name}")
    history = service.call("GET", f"/v1/experiments/{name}/results/history").body
    picture = page.locator("#mean-0 svg")
    picture.scroll_into_view_if_needed()
    _left, right, *_ = map(int, str(picture.get_attribute("data-frame")).split())
    box = picture.bounding_box()
    scale = box["width"] / 380
    page.mouse.move(box["x"] + right * scale + 2, box["y"] + 90 * scale)
    page.locator("#tip").wait_for(state="visible")
    told = page.locator("#tip").inner_text()
    for arm, known in history["arms"].items():
        value = known["metrics"]["click"]["mean"][-1]
        low, high = known["metrics"]["click"]["interval"][-1]
        [shown] = re.findall(rf"{arm} ([\d.]+) ([\d.]+) to ([\d.]+)", told)
        for text, exact in zip(shown, (value, low, high), strict=True):
            assert float(text) == pytest.approx(exact, rel=5.1e-4)
    assert history["at"][-1][:19].replace("T", " ") in told
    page.mouse.move(2, 2)
    page.locator("#tip").wait_for(state="hidden")
    assert seen.said == []
    seen.close()


def test_keys_walk_through_the_times_of_a_picture(browser: Any, service: ThrowawayService, name: str) -> None:
    seen = Watched(browser)
    page = seen.page
    page.goto(f"{service.url}/experiments/{name}")
    at = [
        each[:19].replace("T", " ")
        for each in service.call("GET", f"/v1/experiments/{name}/results/history").body["at"]
    ]
    assert len(at) > 2
    picture, tip = page.locator("#mean-0 svg"), page.locator("#tip")
    picture.focus()
    tip.get_by_text(at[-1]).wait_for()
    for key, wanted in [
        ("ArrowLeft", at[-2]),
        ("ArrowRight", at[-1]),
        ("ArrowRight", at[-1]),
        ("Home", at[0]),
        ("ArrowLeft", at[0]),
        ("ArrowRight", at[1]),
        ("End", at[-1]),
    ]:
        page.keyboard.press(key)
        tip.get_by_text(wanted).wait_for()
        assert picture.locator(".crosshair").count() == 1
    page.keyboard.press("Escape")
    tip.wait_for(state="hidden")
    page.keyboard.press("Home")
    tip.get_by_text(at[0]).wait_for()
    page.keyboard.press("Tab")
    tip.get_by_text(at[0]).wait_for(state="hidden")
    assert seen.said == []
    seen.close()


def test_a_page_on_paper_has_no_buttons_and_is_light(
    browser: Any, service: ThrowawayService, name: str
) -> None:
    seen = Watched(browser, color_scheme="dark")
    page = seen.page
    page.goto(f"{service.url}/experiments/{name}")
    page.emulate_media(media="print", color_scheme="dark")
    for selector in (".top", ".actions", "#change", "figcaption", ".by", ".copies"):
        assert not page.locator(selector).first.is_visible(), selector
    colour = page.evaluate("getComputedStyle(document.body).color")
    assert max(map(int, re.findall(r"\d+", colour))) < 60
    assert page.pdf(format="A4")[:5] == b"%PDF-"
    seen.close()


def test_assets_are_small(browser: Any, service: ThrowawayService, name: str) -> None:
    """All that a page loads beside itself, as it is sent."""
    seen = Watched(browser)
    sizes: dict[str, int] = {}
    seen.page.on(
        "response", lambda each: sizes.__setitem__(each.url, int(each.headers.get("content-length", "0")))
    )
    seen.page.goto(f"{service.url}/experiments/{name}")
    seen.page.get_by_text("live", exact=True).wait_for()
    own = {url: size for url, size in sizes.items() if "/login/" in url}
    assert len(own) >= 4
    assert all(own.values())
    assert sum(own.values()) < 150_000
    assert json.dumps([url for url in sizes if not url.startswith(service.url)]) == "[]"
    seen.close()

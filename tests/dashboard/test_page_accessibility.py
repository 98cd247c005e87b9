"""Every page for everybody: axe-core finds nothing, keys reach all, phones scroll one way, no other host is asked."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest
from browsers import Watched, chromium
from dashboard_world import CONTEXTUAL, EXPERIMENT, GUARDED, MANY, MODEL, World
from npm_packages import npm_folder
from services import ThrowawayService

SIMULATED = {"environment": {"kind": "bernoulli", "arms": [0.1, 0.3]}, "horizon": 100, "seeds": 2}
PAGES = [
    "/",
    f"/experiments/{EXPERIMENT}",
    f"/experiments/{GUARDED}",
    f"/experiments/{CONTEXTUAL}?by=device",
    f"/experiments/{MANY}",
    "/experiments/price-hint",
    "/experiments/banner-colour",
    "/experiments/none",
    "/models",
    f"/models/{MODEL}?a=v1&b=v3",
    f"/simulator?world={quote(json.dumps(SIMULATED))}",
    "/service",
    "/new",
    "/login",
]
IN_ALL = """options => {
  for (const each of document.querySelectorAll("details")) each.open = true;
  return axe.run({ resultTypes: ["violations"], ...options });
}"""
COLOURS = ["color-contrast", "link-in-text-block"]
HELD_AS_MOVED = """() => {
  const held = document.createElement("style");
  held.textContent = ".moved { animation-duration: 1000s !important; animation-delay: 0s !important }";
  document.head.append(held);
  const values = document.querySelectorAll("[data-value]");
  for (const each of values) each.classList.add("moved");
  return values.length;
}"""
FOCUSED = """() => {
  const e = document.activeElement;
  if (!e || e === document.body) return null;
  const box = e.getBoundingClientRect(), style = getComputedStyle(e);
  return { name: e.outerHTML.slice(0, 80), visible: box.width > 0 && box.height > 0,
           outlined: style.outlineStyle !== "none" };
}"""
MAX_STOPS = 400


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as launched:
        yield launched


@pytest.fixture(scope="module")
def url(service: ThrowawayService) -> str:
    """Address of a service with something on every page."""
    world = World(service, random.Random(8))
    world.begin()
    for _ in range(5):
        world.visit()
    world.end()
    return service.url


@pytest.fixture(scope="module")
def axe() -> str:
    return (npm_folder() / "node_modules" / "axe-core" / "axe.min.js").read_text("utf-8")


@pytest.mark.parametrize("path", PAGES)
def test_axe_finds_nothing_in_light_or_dark(browser: Any, url: str, axe: str, path: str) -> None:
    seen = Watched(browser, color_scheme="light")
    seen.page.goto(url + path)
    seen.page.evaluate(axe)
    assert violations(seen, {}) == []
    seen.page.emulate_media(color_scheme="dark")
    # The other rules look at what is the same in both.
    assert violations(seen, {"runOnly": COLOURS}) == []
    # A page that is not there is said to be so in the console, by the browser itself.
    assert seen.said == [] or path == "/experiments/none"
    assert {asked for asked in seen.asked if not asked.startswith((url, "data:"))} == set()
    seen.close()


def violations(seen: Watched, options: dict[str, Any]) -> list[str]:
    return [
        f"{each['id']}: {each['nodes'][0]['html'][:200]} {each['nodes'][0]['failureSummary']}"
        for each in seen.page.evaluate(IN_ALL, options)["violations"]
    ]


@pytest.mark.parametrize("path", ["/", f"/experiments/{EXPERIMENT}", f"/experiments/{GUARDED}", "/service"])
def test_what_has_just_moved_can_be_read(browser: Any, url: str, axe: str, path: str) -> None:
    seen = Watched(browser, bypass_csp=True, color_scheme="light")
    seen.page.route("**/live*", lambda route: route.abort())
    seen.page.goto(url + path)
    seen.page.evaluate(axe)
    assert seen.page.evaluate(HELD_AS_MOVED) > 3
    assert violations(seen, {"runOnly": COLOURS}) == []
    seen.page.emulate_media(color_scheme="dark")
    assert violations(seen, {"runOnly": COLOURS}) == []
    seen.close()


@pytest.mark.parametrize("path", PAGES)
def test_a_phone_scrolls_down_only(browser: Any, url: str, path: str) -> None:
    seen = Watched(browser, viewport={"width": 390, "height": 844})
    seen.page.goto(url + path)
    seen.page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true; })")
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= 390
    seen.close()


@pytest.mark.parametrize("path", ["/", f"/experiments/{EXPERIMENT}", f"/models/{MODEL}", "/simulator"])
def test_keys_reach_everything_and_show_where_they_are(browser: Any, url: str, path: str) -> None:
    # Nothing follows, so that nothing is replaced meanwhile.
    seen = Watched(browser, java_script_enabled=True)
    seen.page.route("**/live*", lambda route: route.abort())
    seen.page.goto(url + path)
    wanted = seen.page.locator(
        "a[href]:visible, button:visible, summary:visible, input:visible, select:visible, textarea:visible"
    ).count()
    stops: dict[str, None] = {}
    count = 0
    for _ in range(MAX_STOPS):
        seen.page.keyboard.press("Tab")
        focused = seen.page.evaluate(FOCUSED)
        if focused is None:
            break
        assert focused["outlined"], focused
        assert focused["visible"], focused
        stops[focused["name"]] = None
        count += 1
    assert next(iter(stops)).startswith('<a class="skip"')
    assert count >= wanted
    seen.close()


@pytest.mark.parametrize("path", PAGES)
def test_a_page_reads_without_a_script(browser: Any, url: str, path: str) -> None:
    seen = Watched(browser, java_script_enabled=False)
    seen.page.goto(url + path)
    assert seen.page.locator("h1").inner_text()
    assert len(seen.page.inner_text("main")) > 60
    seen.close()

"""Overview in a browser: what needs somebody first, every number as in `/results`, search, order and empty states."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browsers import Watched, chromium
from dashboard_world import CONTEXTUAL, EXPERIMENT, GUARDED, MANY, World
from http_calls import running
from services import ThrowawayService
from stores import wait_until

from bandit_serve.dashboard.numbers import leaves
from bandit_serve.dashboard.overview import finding_of


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as launched:
        yield launched


@pytest.fixture(scope="module")
def world(service: ThrowawayService) -> World:
    """World without models, in which the guardrail of one experiment is harmed."""
    made = World(service, random.Random(5))
    made.begin(models=False)
    for _ in range(6):
        made.visit()
    made.end()
    return made


def differs(seen: Watched, service: ThrowawayService, name: str) -> list[str]:
    """What of an experiment's row is not in its results as it is, or not to its digits."""
    expected = dict(leaves(service.call("GET", f"/v1/experiments/{name}/results").body))
    row = seen.page.locator("tr[data-part]", has=seen.page.get_by_role("link", name=name, exact=True))
    shown = row.locator("[data-name]").evaluate_all(
        "all => all.map(e => [e.dataset.name, e.dataset.value, e.textContent.trim()])"
    )
    wrong = []
    for path, value, text in shown:
        if path not in expected or json.loads(value) != expected[path]:
            wrong.append(f"{path} is {value}, and {expected.get(path)} in the results")
        elif isinstance(expected[path], float) and abs(float(text) - expected[path]) > 0.00050001:
            wrong.append(f"{path} is shown as {text}")
    decisions = sum(value for path, value in expected.items() if path.endswith(".exposures"))
    if row.locator("data").get_attribute("value") != str(decisions):
        wrong.append(f"not {decisions} decisions")
    # The sentence is looked at every few seconds.
    if expected["reason"].partition(".")[0] not in row.locator(".found").inner_text():
        wrong.append(f"not the sentence {expected['reason']}")
    return wrong if shown else ["no number"]


def test_rows_have_the_numbers_of_the_results_and_follow(
    browser: Any, service: ThrowawayService, world: World
) -> None:
    seen = Watched(browser)
    seen.page.goto(service.url + "/")
    seen.page.evaluate("window.notReloaded = true")
    for _ in range(2):
        for name in (EXPERIMENT, GUARDED, CONTEXTUAL, MANY, "banner-colour"):
            wait_until(lambda name=name: not differs(seen, service, name))
        world.visit()
    assert seen.page.evaluate("window.notReloaded")
    assert seen.said == []
    assert {url for url in seen.asked if not url.startswith(service.url)} == set()
    seen.close()


@pytest.mark.usefixtures("world")
def test_what_is_harmed_stands_first(browser: Any, service: ThrowawayService) -> None:
    seen = Watched(browser)
    seen.page.goto(service.url + "/")
    seen.page.locator(".warnings li", has_text=GUARDED).get_by_text("harm").wait_for()
    rows = seen.page.locator("tr[data-part] th a")
    wait_until(lambda: rows.first.inner_text() == GUARDED)
    seen.page.get_by_role("link", name="warnings 1").click()
    wait_until(lambda: rows.all_inner_texts() == [GUARDED])
    seen.close()


@pytest.mark.usefixtures("world")
def test_search_order_and_status(browser: Any, service: ThrowawayService) -> None:
    seen = Watched(browser, java_script_enabled=False)
    rows = seen.page.locator("tr[data-part] th a")
    for query, expected in (
        ("?q=KATHERINE", [MANY]),
        ("?q=checkout&sort=name", ["banner-colour", EXPERIMENT, "price-hint"]),
        ("?status=draft", ["price-hint"]),
        ("?status=stopped&sort=decisions", ["banner-colour"]),
    ):
        seen.page.goto(f"{service.url}/{query}")
        assert rows.all_inner_texts() == expected
    seen.page.goto(f"{service.url}/?sort=owner")
    assert rows.all_inner_texts()[0] == EXPERIMENT
    seen.page.goto(f"{service.url}/?q=nothing-like-it")
    assert "Nothing fits." in seen.page.inner_text("main")
    seen.page.get_by_label("Name, owner or tag").fill("feed")
    seen.page.get_by_role("button", name="Show").click()
    assert rows.all_inner_texts() == [CONTEXTUAL]
    seen.page.goto(f"{service.url}/?sort=luck")
    assert "expected one of" in seen.page.inner_text("main")
    seen.close()


def test_a_new_service_says_how_to_begin_and_then_follows(browser: Any, tmp_path: Path) -> None:
    with ThrowawayService(tmp_path / "d") as service:
        seen = Watched(browser)
        seen.page.goto(service.url + "/")
        assert "bandit-serve experiments apply experiment.toml" in seen.page.inner_text("main")
        assert not seen.page.locator("table.list").is_visible()
        seen.page.get_by_text("live", exact=True).wait_for()
        name = running(service)
        seen.page.get_by_role("link", name=name, exact=True).wait_for()
        assert "There is no experiment yet" not in seen.page.inner_text("main")
        for path, command in (
            ("/models", "bandit-serve train ratings.csv"),
            ("/service", "no container engine"),
        ):
            seen.page.goto(service.url + path)
            assert command in seen.page.inner_text("main")
        seen.close()


def test_the_finding_is_the_first_sentence_of_a_reason() -> None:
    finding = "v1.2 is better on click than control, at level 0.05; seconds of b. is worse by 19 %."
    assert finding_of(f"{finding} Everything is conditional on a reward.") == finding
    assert finding_of(finding) == finding
    assert finding_of("") == ""

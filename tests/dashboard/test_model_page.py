"""Page of a model: versions, what they were trained on, and changes of their status by its forms."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest
from browsers import Watched, chromium
from dashboard_world import MODEL, World
from services import ThrowawayService
from stores import wait_until


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as launched:
        yield launched


@pytest.fixture(scope="module")
def page_url(service: ThrowawayService) -> str:
    World(service, random.Random(6)).begin()
    return f"{service.url}/models/{MODEL}"


def statuses(service: ThrowawayService) -> dict[str, str]:
    versions = service.call("GET", f"/v1/models/{MODEL}").body["versions"]
    return {version["version"]: version["status"] for version in versions}


def test_two_versions_are_compared_and_their_training_is_told(
    browser: Any, service: ThrowawayService, page_url: str
) -> None:
    versions = {each["version"]: each for each in service.call("GET", f"/v1/models/{MODEL}").body["versions"]}
    record = versions["v3"]["metadata"]["training"]
    seen = Watched(browser, java_script_enabled=False)
    seen.page.goto(f"{page_url}?a=v1&b=v3")
    row = seen.page.get_by_role("region", name="Comparison").locator("tr", has_text="ndcg@10").first
    shown = [float(text) for text in row.locator("td").all_inner_texts()]
    values = [versions[name]["metrics"]["ndcg@10"] for name in ("v1", "v3")]
    assert shown == pytest.approx([*values, values[1] - values[0]], rel=0.006)
    newest = seen.page.locator("details.record").first
    assert record["reason"] in newest.inner_text()
    assert record["trials"] == len(record["search"]) == newest.locator("svg.parallel path.line").count()
    assert record["search"][0]["value"] == min(each["value"] for each in record["search"])
    best = newest.locator("svg.parallel g.best title").evaluate("e => e.textContent")
    assert f"rmse {record['search'][0]['value']:.4g}" in best
    seen.close()


def test_a_version_is_promoted_and_rolled_back_with_reasons(
    browser: Any, service: ThrowawayService, page_url: str
) -> None:
    seen = Watched(browser)
    seen.page.goto(page_url)
    promote = seen.page.locator("form", has=seen.page.get_by_role("heading", name="Promote"))
    promote.get_by_label("Version").select_option("v3")
    promote.get_by_label("Reason").fill("agrees with v2")
    promote.get_by_role("button", name="Promote").click()
    wait_until(lambda: statuses(service) == {"v1": "retired", "v2": "retired", "v3": "production"})
    seen.page.get_by_role("region", name="History").get_by_text("agrees with v2").wait_for()
    back = seen.page.locator("form", has=seen.page.get_by_role("heading", name="Roll back"))
    back.get_by_label("Reason").fill("slower")
    back.get_by_role("button", name="Roll back to v2").click()
    wait_until(lambda: statuses(service)["v2"] == "production")
    assert seen.said == []
    seen.close()


def test_a_status_that_can_not_be_is_refused_on_the_page(browser: Any, page_url: str) -> None:
    seen = Watched(browser)
    seen.page.goto(page_url)
    form = seen.page.locator("form", has=seen.page.get_by_role("heading", name="Set a status"))
    form.get_by_label("Version").select_option("v1")
    form.get_by_label("Status").select_option("shadow")
    form.get_by_label("Reason").fill("to see")
    form.get_by_role("button", name="Set status").click()
    assert "retired version can not become shadow" in seen.page.get_by_role("alert").inner_text()
    seen.close()


def test_metadata_of_others_is_text(browser: Any, service: ThrowawayService, page_url: str) -> None:
    hostile = '<img src=x onerror="window.harmed=1"></script><script>window.harmed=1</script>'
    at = f"/v1/models/{MODEL}/versions/v1"
    answer = service.call("PATCH", at, {"metadata": {"training": {"family": hostile, "reason": hostile}}})
    assert answer.status == 200
    seen = Watched(browser)
    seen.page.goto(page_url)
    assert seen.page.evaluate("window.harmed") is None
    assert hostile in seen.page.content() or "&lt;img" in seen.page.content()
    assert seen.page.locator("main img").count() == 0
    assert seen.said == []
    seen.close()

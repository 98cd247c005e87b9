"""Unknown addresses: a page says so to a browser, a problem says so to a program."""

from __future__ import annotations

import pytest
from services import ThrowawayService

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
PROBLEM = "application/problem+json"


@pytest.mark.parametrize("path", ["/nothing", "/experiments", "/experiments/e/nothing", "/favicon.ico"])
def test_a_browser_is_shown_a_page(service: ThrowawayService, path: str) -> None:
    answer = service.call("GET", path, headers={"Accept": BROWSER})
    assert (answer.status, answer.headers["Content-Type"]) == (404, "text/html; charset=utf-8")
    assert b'role="alert"' in answer.body
    assert b'<a href="/">' in answer.body
    for accept in ("application/json", "*/*"):
        answer = service.call("GET", path, headers={"Accept": accept})
        assert (answer.status, answer.headers["Content-Type"]) == (404, PROBLEM)


@pytest.mark.parametrize(
    ("path", "media"),
    [
        ("/v1/nothing", PROBLEM),
        ("/health/nothing", PROBLEM),
        ("/v2/nothing", "application/json"),
        ("/ofrep/nothing", PROBLEM),
    ],
)
def test_an_address_of_the_api_is_a_programs(service: ThrowawayService, path: str, media: str) -> None:
    answer = service.call("GET", path, headers={"Accept": BROWSER})
    assert (answer.status, answer.headers["Content-Type"]) == (404, media)


def test_what_would_change_something_is_answered_with_a_problem(service: ThrowawayService) -> None:
    answer = service.call("POST", "/nothing", {}, headers={"Accept": BROWSER})
    assert (answer.status, answer.headers["Content-Type"]) == (404, PROBLEM)

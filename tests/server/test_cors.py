"""Cross-origin requests: pages of named origins may use flags, rewards and exposures, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from http_calls import running
from services import ThrowawayService

from bandit_serve.server.cors import PATHS, PREFIX
from bandit_serve.server.routes import ROUTES

SHOP, OTHER, STRANGER = "https://shop.test", "http://localhost:3000", "https://evil.test"
COVERED = sorted(
    re.sub(r"\{\w+\}", "nothing", route.path)
    for route in ROUTES
    if route.path in PATHS or route.path.startswith(PREFIX)
)
CLOSED = sorted({re.sub(r"\{\w+\}", "nothing", route.path) for route in ROUTES} - set(COVERED))


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThrowawayService]:
    with ThrowawayService(tmp_path_factory.mktemp("data"), "--cors-origins", f"{SHOP},{OTHER}") as named:
        yield named


def asked(origin: str, method: str = "POST") -> dict[str, str]:
    return {
        "Origin": origin,
        "Sec-Fetch-Site": "cross-site",
        "Sec-Fetch-Mode": "cors",
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": "authorization,content-type,if-none-match",
    }


def permissions(headers: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in headers.items() if name.startswith("Access-Control")}


def test_these_are_the_routes() -> None:
    assert COVERED == [
        "/ofrep/v1/evaluate/flags", "/ofrep/v1/evaluate/flags/nothing", "/v1/exposures", "/v1/rewards",
    ]  # fmt: skip


@pytest.mark.parametrize("origin", [SHOP, OTHER])
@pytest.mark.parametrize("path", COVERED)
def test_a_named_origin_is_told_what_it_may(service: ThrowawayService, path: str, origin: str) -> None:
    answer = service.call("OPTIONS", path, None, asked(origin))
    assert (answer.status, answer.body) == (204, b"")
    assert answer.headers["Vary"] == "Origin"
    allowed = permissions(answer.headers)
    assert allowed["Access-Control-Allow-Origin"] == origin
    assert allowed["Access-Control-Allow-Methods"] == "POST"
    headers = {name.strip() for name in allowed["Access-Control-Allow-Headers"].split(",")}
    assert headers == {"content-type", "if-none-match", "authorization"}
    assert "Access-Control-Allow-Credentials" not in allowed
    assert "*" not in "".join(allowed.values())


@pytest.mark.parametrize("path", COVERED)
def test_its_answers_may_be_read_whatever_they_are(service: ThrowawayService, path: str) -> None:
    for body in ({}, b"{"):
        answer = service.call("POST", path, body, {"Origin": SHOP, "Sec-Fetch-Site": "cross-site"})
        assert answer.status in (400, 404)
        assert permissions(answer.headers) == {
            "Access-Control-Allow-Origin": SHOP,
            "Access-Control-Expose-Headers": "ETag",
        }
        assert answer.headers["Vary"] == "Origin"
        text = service.call("POST", path, b"{}", {"Origin": SHOP, "Content-Type": "text/plain"})
        assert text.status == 403, "what a browser would not have asked for first"


def test_a_page_evaluates_and_rewards(service: ThrowawayService) -> None:
    name = running(service, unit="user")
    page = {"Origin": SHOP, "Sec-Fetch-Site": "cross-site"}
    body = {"context": {"targetingKey": "u"}}
    answer = service.call("POST", "/ofrep/v1/evaluate/flags", body, page)
    assert answer.status == 200
    etag = answer.headers["ETag"]
    unchanged = service.call("POST", "/ofrep/v1/evaluate/flags", body, {**page, "If-None-Match": etag})
    assert unchanged.status == 304
    assert permissions(unchanged.headers)["Access-Control-Allow-Origin"] == SHOP
    (flag,) = [flag for flag in answer.body["flags"] if flag["key"] == name]
    token = flag["metadata"]["decision_id"]
    for path, content in (
        ("/v1/exposures", {"decision_ids": [token]}),
        ("/v1/rewards", {"decision_id": token, "value": 1}),
    ):
        done = service.call("POST", path, content, page)
        assert (done.status, done.body["verdicts"]) == (200, ["accepted"])
        assert permissions(done.headers)["Access-Control-Allow-Origin"] == SHOP


@pytest.mark.parametrize("path", COVERED)
@pytest.mark.parametrize(
    "origin",
    [STRANGER, "null", "", "https://shop.test.evil.test", "http://shop.test", "https://shop.test:444", "*"],
)
def test_others_are_told_nothing(service: ThrowawayService, path: str, origin: str) -> None:
    for method, headers in (("OPTIONS", asked(origin)), ("POST", {"Origin": origin})):
        answer = service.call(method, path, None if method == "OPTIONS" else {}, headers)
        assert answer.status == 403
        assert not permissions(answer.headers)
        assert answer.headers["Vary"] == "Origin"


@pytest.mark.parametrize("path", CLOSED)
def test_other_routes_stay_closed(service: ThrowawayService, path: str) -> None:
    for method in ("POST", "GET", "DELETE", "PUT", "PATCH"):
        answer = service.call("OPTIONS", path, None, asked(SHOP, method))
        assert answer.status in (404, 405)
        assert not permissions(answer.headers)
    for method in ("GET", "POST"):
        answer = service.call(method, path, {} if method == "POST" else None, {"Origin": SHOP})
        assert not permissions(answer.headers)


def test_without_an_origin_nothing_is_said(service: ThrowawayService) -> None:
    answer = service.call("POST", "/v1/exposures", {"decision_ids": []})
    assert not permissions(answer.headers)
    bare = service.call("OPTIONS", "/v1/exposures", None, {"Origin": SHOP})
    assert bare.status == 405, "this asks for nothing"

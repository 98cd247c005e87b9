"""Admission: requests from pages of other sites, or under foreign host names, are refused on every route."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator

import pytest
from http_calls import check_problem, check_refusal, experiment, new_name, running
from raw_http import read_answer
from services import ThrowawayService

from bandit_serve.errors import Forbidden
from bandit_serve.server.admission import Admission
from bandit_serve.server.routes import ROUTES
from bandit_serve.settings import Settings

SHOP = "https://shop.example"
PLACES = sorted({(route.method, re.sub(r"\{\w+\}", "nothing", route.path)) for route in ROUTES})
UNKNOWN = [("GET", "/nothing/here"), ("OPTIONS", "/v1/rewards"), ("PUT", "/health/live")]
FOREIGN = {
    "origin": {"Origin": "http://evil.test"},
    "other port": {"Origin": "http://localhost:3000", "Sec-Fetch-Site": "same-site"},
    "other scheme": {"Origin": "file://127.0.0.1:PORT"},
    "null origin": {"Origin": "null"},
    "empty origin": {"Origin": ""},
    "cross-site": {"Sec-Fetch-Site": "cross-site"},
    "host": {"Host": "evil.test"},
    "rebound": {"Host": "evil.test:PORT", "Origin": "http://evil.test:PORT", "Sec-Fetch-Site": "same-origin"},
    "rebound read": {"Host": "evil.test:PORT", "Sec-Fetch-Site": "same-origin"},
    "host like ours": {"Host": "localhost.evil.test"},
}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThrowawayService]:
    flags = ("--cors-origins", SHOP, "--allowed-hosts", "box,bandits.internal:81")
    with ThrowawayService(tmp_path_factory.mktemp("data"), *flags) as running:
        yield running


@pytest.mark.parametrize("headers", FOREIGN.values(), ids=FOREIGN)
@pytest.mark.parametrize(("method", "path"), [*PLACES, *UNKNOWN], ids=lambda part: part)
def test_no_route_answers_a_foreign_caller(
    service: ThrowawayService, method: str, path: str, headers: dict[str, str]
) -> None:
    sent = {name: value.replace("PORT", str(service.port)) for name, value in headers.items()}
    refused = service.call(method, path, b"{}" if method != "GET" else None, sent)
    check_refusal(path, refused, 403)
    assert not any(name.startswith("Access-Control") for name in refused.headers)


@pytest.mark.parametrize("headers", FOREIGN.values(), ids=FOREIGN)
def test_the_lane_admits_no_foreign_caller(service: ThrowawayService, headers: dict[str, str]) -> None:
    """On a connection that a good request has used before, and whose next is answered again."""
    path = f"/v1/experiments/{running(service)}/decide"

    def post(**changed: str) -> bytes:
        lines = {"Host": f"localhost:{service.port}", "Content-Length": "0", **changed}
        head = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in lines.items()), "", ""]
        return "\r\n".join(head).encode()

    foreign = {name: value.replace("PORT", str(service.port)) for name, value in headers.items()}
    with (
        socket.create_connection(("127.0.0.1", service.port), timeout=60) as connection,
        connection.makefile("rb") as reading,
    ):
        statuses = []
        for request in (post(), post(**foreign), post(), post(**foreign)):
            connection.sendall(request)
            statuses.append(read_answer(reading)[0])
    assert statuses == [200, 403, 200, 403]


def test_what_is_refused_changes_nothing(service: ThrowawayService) -> None:
    name = running(service)
    check_problem(
        service.call("POST", f"/v1/experiments/{name}/stop", {"winner": "control"}, FOREIGN["origin"]), 403
    )
    assert service.call("GET", f"/v1/experiments/{name}").body["status"] == "running"
    body = experiment()
    check_problem(service.call("POST", "/v1/experiments", body, FOREIGN["cross-site"]), 403)
    check_problem(service.call("GET", f"/v1/experiments/{body['id']}"), 404)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Host": "localhost"},
        {"Host": "LOCALHOST:99"},
        {"Host": "localhost."},
        {"Host": "shop.localhost:8000"},
        {"Host": "127.0.0.1"},
        {"Host": "127.9.9.9:1"},
        {"Host": "[::1]:8000"},
        {"Host": "box:8000"},
        {"Host": "BOX"},
        {"Host": "bandits.internal:81"},
        {"Origin": SHOP, "Sec-Fetch-Site": "cross-site"},
        {"Host": "localhost:1", "Origin": "http://localhost:1", "Sec-Fetch-Site": "same-origin"},
        {"Host": "localhost:1", "Origin": "https://localhost:1"},
        {"Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
    ],
    ids=str,
)
def test_what_is_ours_is_admitted(service: ThrowawayService, headers: dict[str, str]) -> None:
    name = running(service)
    assert service.call("POST", f"/v1/experiments/{name}/decide", {}, headers).status == 200
    assert service.call("GET", "/v1/stats", None, headers).status == 200


@pytest.mark.parametrize(
    "host", ["bandits.internal", "bandits.internal:82", "box.evil.test", "", "[", "[::2]"]
)
def test_a_name_that_is_not_listed_as_it_is_called_is_refused(service: ThrowawayService, host: str) -> None:
    check_problem(service.call("GET", "/health/live", None, {"Host": host}), 403)


def test_nothing_is_promised_for_other_routes_to_a_browser_that_asks_first(service: ThrowawayService) -> None:
    headers = {"Origin": SHOP, "Access-Control-Request-Method": "POST", "Content-Type": ""}
    answer = service.call("OPTIONS", "/v1/experiments", None, headers)
    check_problem(answer, 405)
    assert not any(name.startswith("Access-Control") for name in answer.headers)


def test_a_page_of_the_same_site_may_look_without_an_origin_and_change_nothing() -> None:
    admission = Admission(Settings(), loopback=True)
    same_site = {"Host": "localhost:8000", "Sec-Fetch-Site": "same-site"}
    admission.check("GET", same_site)
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        with pytest.raises(Forbidden):
            admission.check(method, same_site)


def test_another_address_is_called_by_any_name_and_still_by_no_other_site() -> None:
    admission = Admission(Settings(), loopback=False)
    admission.check("POST", {"Host": "bandits.example"})
    admission.check("POST", {"Host": "bandits.example", "Origin": "https://bandits.example"})
    with pytest.raises(Forbidden):
        admission.check("POST", {"Host": "bandits.example", "Origin": "https://shop.example"})


def test_an_old_client_without_a_host_is_admitted(service: ThrowawayService) -> None:
    name = new_name()
    with socket.create_connection(("127.0.0.1", service.port), timeout=60) as connection:
        connection.sendall(f"POST /v1/experiments/{name}/decide HTTP/1.0\r\n\r\n".encode())
        assert b" 404 " in connection.recv(65_536).partition(b"\r\n")[0]

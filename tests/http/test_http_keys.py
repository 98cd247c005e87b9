"""Keys over HTTP: every route with every key, everywhere that a key could hide, and whom the history names."""

from __future__ import annotations

import http.client
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from commands import bandit_serve
from http_calls import experiment
from services import Answer, ThrowawayService
from stores import wait_until

from bandit_serve.registry.api_keys import SECRET_CHARS
from bandit_serve.server.authentication import GRANTS
from bandit_serve.server.route import Route
from bandit_serve.server.routes import ROUTES

LOOKS = 20
ALWAYS_ANSWERED = {"/health/live", "/health/ready"}


class Made(NamedTuple):
    id: str
    key: str


def make(data: Path, *flags: str) -> Made:
    ran = bandit_serve("keys", "create", *flags, "--data", data, "--json")
    assert ran.status == 0, ran.err
    return Made(**ran.document)


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


class Keyed(NamedTuple):
    service: ThrowawayService
    keys: dict[str, Made]

    def call(self, method: str, path: str, who: str, body: Any = None) -> Answer:
        return self.service.call(method, path, body, bearer(self.keys[who].key))


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyed]:
    """A service of two workers whose first key was made before it started, and the others beside it."""
    data = tmp_path_factory.mktemp("keys") / "d"
    keys = {"admin": make(data, "--scope", "admin", "--name", "ops")}
    with ThrowawayService(data, "--access-log", "--log-level", "debug", workers=2) as service:
        keys |= {scope: make(data, "--scope", scope, "--name", f"of-{scope}") for scope in ("serve", "read")}
        keys["revoked"] = make(data, "--scope", "admin")
        assert bandit_serve("keys", "revoke", keys["revoked"].id, "--data", data).status == 0
        keys["expired"] = make(data, "--scope", "admin", "--expires", "1ms")
        keys["confused"] = Made("", keys["admin"].key[:-SECRET_CHARS] + keys["serve"].key[-SECRET_CHARS:])
        keys["forged"] = Made("", f"bsk_{'a' * 16}_{'A' * 43}")
        yield Keyed(service, keys)


def path_of(route: Route) -> str:
    return re.sub(r"\{\w+\}", "none", route.path)


def is_open(route: Route) -> bool:
    return route.path in ALWAYS_ANSWERED


def needed(route: Route) -> str:
    """Scope that the contract gives to a route."""
    path = route.path
    if is_open(route):
        return "nothing"
    if path.endswith("/infer") or path.startswith("/ofrep/") or path in ("/v1/rewards", "/v1/exposures"):
        return "serve"
    if path.startswith("/v1/deployments"):
        return "admin"
    if path.startswith("/v2"):
        return "any"
    if re.search(r"/(decide|predict)(/batch)?$", path):
        return "serve"
    return "read" if route.method == "GET" else "admin"


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.label)
def test_every_route_asks_for_the_key_that_the_contract_names(keyed: Keyed, route: Route) -> None:
    assert route.needs == needed(route)
    methods = (route.method, "HEAD") if route.method == "GET" else (route.method,)
    body = b"{}" if route.takes is not None else None
    for method in methods:
        path = path_of(route)
        for who in ("revoked", "expired", "confused", "forged"):
            answer = keyed.service.call(method, path, body, bearer(keyed.keys[who].key))
            assert (answer.status == 401) != is_open(route), (method, who)
        answer = keyed.service.call(method, path, body)
        assert (answer.status == 401) != is_open(route)
        if not is_open(route):
            assert answer.headers["WWW-Authenticate"] == "Bearer"
        for who in ("serve", "read", "admin"):
            status = keyed.service.call(method, path, body, bearer(keyed.keys[who].key)).status
            assert status != 401, (method, who)
            assert (status == 403) != (route.needs in GRANTS[who]), (method, who, status)


@pytest.mark.parametrize("path", ["/none", "/v1/experiments/e/none", "/%2e%2e/v1/models", "//v1/models"])
@pytest.mark.parametrize("method", ["GET", "POST", "TRACE", "OPTIONS"])
def test_what_is_not_there_says_nothing_without_a_key(keyed: Keyed, method: str, path: str) -> None:
    assert keyed.service.call(method, path).status == 401
    assert keyed.call(method, path, "serve").status in (404, 405)


def test_a_problem_says_what_is_needed(keyed: Keyed) -> None:
    none = keyed.service.call("GET", "/v1/experiments")
    assert none.headers["Content-Type"] == "application/problem+json"
    assert none.body["type"] == "urn:bandit-serve:problem:unauthenticated"
    small = keyed.call("GET", "/v1/experiments", "serve")
    assert (small.status, small.body["type"]) == (403, "urn:bandit-serve:problem:forbidden")
    assert "scope read" in small.body["detail"]
    flag = keyed.service.call("POST", "/ofrep/v1/evaluate/flags/e", {"context": {}})
    assert (flag.status, flag.body["errorCode"]) == (401, "GENERAL")
    assert set(keyed.service.call("GET", "/v2").body) == {"error"}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (["Authorization: Bearer KEY"], 200),
        (["authorization: bearer KEY"], 200),
        (["Authorization: BEARER  KEY"], 200),
        (["Authorization: KEY"], 401),
        (["Authorization: Basic KEY"], 401),
        (["Authorization: Token KEY"], 401),
        (["Authorization: Bearer KEY,KEY"], 401),
        (["Authorization: Bearer KEY KEY"], 401),
        (["Authorization: Bearer KEY", "Authorization: Bearer KEY"], 401),
        (["Authorization: Bearer KEY", "Authorization: Bearer none"], 401),
        (["Authorization: Bearer"], 401),
        (["Authorization: Bearer 'KEY'"], 401),
        (["X-API-Key: KEY"], 401),
        (["Cookie: key=KEY; session=KEY; Authorization=KEY"], 401),
        (["Proxy-Authorization: Bearer KEY"], 401),
    ],
)
@pytest.mark.parametrize("path", ["/v1/rewards", "/v1/rewards?key=KEY", "/v1/experiments"])
def test_only_a_bearer_is_heeded(keyed: Keyed, headers: list[str], status: int, path: str) -> None:
    """In the lane, beside it because of a query, and on an ordinary route."""
    method, body = ("GET", "") if path == "/v1/experiments" else ("POST", '{"rewards": []}')
    lines = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{keyed.service.port}", *headers]
    lines += ["Content-Type: application/json", f"Content-Length: {len(body)}", "Connection: close"]
    text = "\r\n".join([*lines, "", body]).replace("KEY", keyed.keys["admin"].key)
    with socket.create_connection(("127.0.0.1", keyed.service.port), timeout=60) as connection:
        connection.sendall(text.encode())
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        if "?" in path and status == 200:
            assert answer.status == 400, "a key in a query is no parameter of ours"
        else:
            assert answer.status == status


def test_the_lane_takes_a_key_that_serves_and_no_other(keyed: Keyed) -> None:
    assert keyed.call("POST", "/v1/experiments", "admin", experiment(id="lane")).status == 201
    assert keyed.call("POST", "/v1/experiments/lane/start", "admin", {}).status == 200
    connection = http.client.HTTPConnection("127.0.0.1", keyed.service.port, timeout=60)
    outcomes = []
    for who in ("serve", "read", "serve", "forged", "admin", "revoked"):
        headers = {"Content-Type": "application/json", **bearer(keyed.keys[who].key)}
        connection.request("POST", "/v1/experiments/lane/decide", b'{"unit": "u"}', headers)
        answer = connection.getresponse()
        answer.read()
        outcomes.append(answer.status)
    connection.close()
    assert outcomes == [200, 403, 200, 401, 200, 401]


def test_the_history_names_the_key(keyed: Keyed) -> None:
    assert keyed.call("POST", "/v1/experiments", "admin", experiment(id="named")).status == 201
    history = keyed.call("GET", "/v1/experiments/named/history", "read").body["history"]
    assert [entry["who"] for entry in history] == ["ops"]


def test_a_new_key_and_a_revoked_one_are_known_to_every_worker_at_once(keyed: Keyed) -> None:
    made = make(keyed.service.data, "--scope", "read", "--name", "short")
    statuses = [keyed.service.call("GET", "/v1/stats", headers=bearer(made.key)).status for _ in range(LOOKS)]
    assert set(statuses) == {200}
    assert bandit_serve("keys", "revoke", made.id, "--data", keyed.service.data).status == 0
    statuses = [keyed.service.call("GET", "/v1/stats", headers=bearer(made.key)).status for _ in range(LOOKS)]
    assert set(statuses) == {401}


def test_a_key_ends_while_it_is_in_use(keyed: Keyed) -> None:
    made = make(keyed.service.data, "--scope", "read", "--expires", "3s")
    assert keyed.service.call("GET", "/v1/stats", headers=bearer(made.key)).status == 200
    wait_until(lambda: keyed.service.call("GET", "/v1/stats", headers=bearer(made.key)).status == 401)
    listed = bandit_serve("keys", "list", "--data", keyed.service.data, "--json").document["keys"]
    assert {each["id"]: each["status"] for each in listed}[made.id] == "expired"


def test_keys_hold_after_a_restart_and_never_open_again(tmp_path: Path) -> None:
    data = tmp_path / "d"
    made = make(data, "--scope", "admin")
    for _ in range(2):
        with ThrowawayService(data) as service:
            assert "callers need a key" in "".join(service.output)
            assert service.call("GET", "/v1/stats", headers=bearer(made.key)).status == 200
    assert bandit_serve("keys", "revoke", made.id, "--data", data).status == 0
    with ThrowawayService(data) as service:
        assert service.call("GET", "/v1/stats").status == 401
        assert service.call("GET", "/v1/stats", headers=bearer(made.key)).status == 401


def test_others_may_reach_a_service_that_has_keys(tmp_path: Path) -> None:
    refused = bandit_serve("serve", "--host", "0.0.0.0", "--port", "0", "--data", tmp_path / "d")
    assert refused.status == 2
    assert "no keys are configured" in refused.err
    made = make(tmp_path / "d", "--scope", "serve")
    with ThrowawayService(tmp_path / "d", "--host", "0.0.0.0") as service:
        url = f"http://127.0.0.1:{service.port}"
        service.url = url
        assert service.call("POST", "/v1/rewards", {"rewards": []}).status == 401
        assert service.call("POST", "/v1/rewards", {"rewards": []}, bearer(made.key)).status == 200


def test_no_key_is_seen_anywhere(keyed: Keyed) -> None:
    secrets = [made.key[-SECRET_CHARS:] for made in keyed.keys.values() if made.id]
    paths = ("/metrics", "/v1/stats", "/openapi.json", "/health/ready", "/v1/experiments")
    seen = ["".join(keyed.service.output), *(str(keyed.call("GET", path, "admin").body) for path in paths)]
    seen.append(bandit_serve("keys", "list", "--data", keyed.service.data, "--json").out)
    seen.append(bandit_serve("doctor", "--data", keyed.service.data).out)
    seen += [path.read_bytes().decode("latin-1") for path in keyed.service.data.rglob("*") if path.is_file()]
    assert len(secrets) >= 4
    for secret in secrets:
        assert not any(secret in text for text in seen)


def test_the_description_says_which_key_an_operation_takes(keyed: Keyed) -> None:
    described = keyed.call("GET", "/openapi.json", "read").body
    assert described["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    for route in ROUTES:
        operation = described["paths"][route.path][route.method.lower()]
        scopes = {"nothing": [], "any": [{"key": []}]}.get(route.needs, [{"key": [route.needs]}])
        assert operation["security"] == scopes
        assert ("401" in operation["responses"]) == (route.needs != "nothing")

"""Sessions over HTTP: a key becomes a cookie that reads, and changes only from its own pages with their token."""

from __future__ import annotations

import http.client
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest
from commands import bandit_serve
from services import ThrowawayService
from stores import wait_until

FORM = "application/x-www-form-urlencoded"


class Reply:
    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status, self.headers, self.text = response.status, response.headers, response.read().decode()


def send(
    service: ThrowawayService, method: str, path: str, form: dict[str, str] | None = None, **headers: str
) -> Reply:
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    body = None if form is None else urlencode(form)
    connection.request(method, path, body, {"Accept": "text/html", "Content-Type": FORM, **named})
    reply = Reply(connection.getresponse())
    connection.close()
    return reply


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ThrowawayService, Path]]:
    data = tmp_path_factory.mktemp("sessions") / "d"
    assert bandit_serve("keys", "create", "--scope", "admin", "--data", data).status == 0
    with ThrowawayService(data) as service:
        yield service, data


def make(data: Path, scope: str) -> dict[str, str]:
    return dict(bandit_serve("keys", "create", "--scope", scope, "--data", data, "--json").document)


def sign_in(service: ThrowawayService, key: str) -> str:
    reply = send(service, "POST", "/login", {"key": key})
    assert reply.status == 303
    cookie = reply.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert key not in cookie
    return str(cookie.partition(";")[0])


def test_a_session_changes_only_with_its_origin_and_token(keyed: tuple[ThrowawayService, Path]) -> None:
    service, data = keyed
    cookie, origin = sign_in(service, make(data, "admin")["key"]), f"http://127.0.0.1:{service.port}"
    page = send(service, "GET", "/new", Cookie=cookie)
    found = re.search(r'name="token" value="([^"]+)"', page.text)
    assert found is not None
    document = '{"id": "made", "arms": [{"name": "a"}, {"name": "b"}], "metrics": [{"name": "m", "kind": "binary"}], '
    form = {"document": document + '"attribution": {"missing": "zero"}}', "token": found[1]}
    assert send(service, "POST", "/new", form, Cookie=cookie).status == 403
    assert (
        send(service, "POST", "/new", {**form, "token": "none"}, Cookie=cookie, Origin=origin).status == 403
    )
    assert send(service, "POST", "/new", form, Cookie=cookie, Origin="http://evil.test").status == 403
    assert send(service, "POST", "/new", form, Cookie=cookie, Origin=origin).status == 303
    start = {"do": "start", "reason": "now", "revision": "1", "token": found[1]}
    path = "/experiments/made/change"
    assert send(service, "POST", path, {**start, "reason": " "}, Cookie=cookie, Origin=origin).status == 400
    assert send(service, "POST", path, start, Cookie=cookie, Origin=origin).status == 303
    stale = send(service, "POST", path, {**start, "do": "pause"}, Cookie=cookie, Origin=origin)
    assert stale.status == 412
    assert 'role="alert"' in stale.text
    start_by_api = send(service, "POST", "/v1/experiments/made/pause", {}, Cookie=cookie, Origin=origin)
    assert start_by_api.status == 403


def test_a_session_ends_with_its_key(keyed: tuple[ThrowawayService, Path]) -> None:
    service, data = keyed
    key = make(data, "read")
    cookie = sign_in(service, key["key"])
    page = send(service, "GET", "/", Cookie=cookie)
    assert page.status == 200
    assert "unsafe" not in page.headers["Content-Security-Policy"]
    assert send(service, "GET", "/v1/experiments", Cookie=cookie).status == 200
    assert send(service, "GET", "/", Cookie=cookie[:-1] + ("A" if cookie[-1] != "A" else "B")).status == 401
    assert bandit_serve("keys", "revoke", key["id"], "--data", data).status == 0
    wait_until(lambda: send(service, "GET", "/", Cookie=cookie).status == 401)


@pytest.mark.parametrize("scope", ["serve", "none"])
def test_a_key_that_can_not_read_gets_no_session(keyed: tuple[ThrowawayService, Path], scope: str) -> None:
    service, data = keyed
    key = "bsk_none" if scope == "none" else make(data, scope)["key"]
    reply = send(service, "POST", "/login", {"key": key})
    assert reply.status == (401 if scope == "none" else 403)
    assert "Set-Cookie" not in reply.headers

"""Sessions of tenants: each reads and changes the pages of its own tenant, and nothing of another or of the service."""

from __future__ import annotations

import http.client
import re
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import urlencode

import pytest
from commands import save_model
from http_calls import draft, running, upload
from services import ThrowawayService
from stores import wait_until
from tenancy import Caller, make

FORM = "application/x-www-form-urlencoded"
TENANTS = (None, "alpha", "beta")
OTHERS = {"alpha": ("own-of-beta", "own-of-None"), "beta": ("own-of-alpha", "own-of-None")}


class Seen(NamedTuple):
    status: int
    text: str
    location: str


class Guest(NamedTuple):
    """Browser with a session: its cookie, and the origin of the pages that it got."""

    service: ThrowawayService
    cookie: str

    def call(self, method: str, path: str, form: dict[str, str] | None = None, **headers: str) -> Seen:
        connection = http.client.HTTPConnection("127.0.0.1", self.service.port, timeout=60)
        sent = {
            "Accept": "text/html",
            "Content-Type": FORM,
            "Cookie": self.cookie,
            "Origin": f"http://127.0.0.1:{self.service.port}",
            **headers,
        }
        connection.request(method, path, None if form is None else urlencode(form), sent)
        response = connection.getresponse()
        seen = Seen(response.status, response.read().decode(), response.headers.get("Location", ""))
        connection.close()
        return seen

    def fields(self, path: str) -> dict[str, str]:
        """Token and revision of the forms of a page."""
        text = self.call("GET", path).text
        found = dict(re.findall(r'<input type="hidden" name="(token|revision)" value="([^"]*)"', text))
        assert found["token"]
        return found


class House(NamedTuple):
    service: ThrowawayService
    callers: dict[str | None, Caller]

    def guest(self, tenant: str | None, scope: str = "admin") -> Guest:
        return self.signed_in(tenant, scope)[0]

    def signed_in(self, tenant: str | None, scope: str) -> tuple[Guest, str]:
        """A guest with a session, and the id of the key that it is of."""
        body = {"scope": scope, **({} if tenant is None else {"tenant": tenant})}
        made = self.callers[None].call("POST", "/v1/keys", body).body
        connection = http.client.HTTPConnection("127.0.0.1", self.service.port, timeout=60)
        connection.request("POST", "/login", urlencode({"key": made["key"]}), {"Content-Type": FORM})
        response = connection.getresponse()
        assert (response.status, response.read()) == (303, b"")
        connection.close()
        return Guest(self.service, response.headers["Set-Cookie"].partition(";")[0]), made["id"]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A service of two workers; it and two tenants have an experiment and a model of one name, and one of their own."""
    folder = tmp_path_factory.mktemp("sessions-of-tenants")
    first = make(folder / "d", "--scope", "admin")
    with ThrowawayService(folder / "d", workers=2) as service:
        callers: dict[str | None, Caller] = {None: Caller(service, first)}
        for tenant in TENANTS[1:]:
            made = callers[None].call("POST", "/v1/keys", {"scope": "admin", "tenant": tenant}).body
            callers[tenant] = callers[None]._replace(made=type(first)(made["id"], made["key"]))
        for number, tenant in enumerate(TENANTS):
            caller = callers[tenant]
            running(caller, id="same", arms=[{"name": "control"}, {"name": f"arm-of-{tenant}"}])
            draft(caller, id=f"own-of-{tenant}")
            model = save_model(folder / f"m{number}").read_bytes()
            assert upload(caller, f"model-of-{tenant}", model, {"version": "v1"}).status == 201
        yield House(service, callers)


def state(house: House, tenant: str | None, name: str) -> tuple[str, int]:
    body = house.callers[tenant].call("GET", f"/v1/experiments/{name}").body
    return body["status"], body["revision"]


@pytest.mark.parametrize("tenant", TENANTS)
@pytest.mark.parametrize("scope", ["read", "admin"])
def test_a_session_reads_the_pages_of_its_tenant_only(house: House, tenant: str | None, scope: str) -> None:
    guest = house.guest(tenant, scope)
    others = [other for other in TENANTS if other != tenant]
    for path in ("/", "/models", "/service", "/experiments/same"):
        seen = guest.call("GET", path)
        assert seen.status == 200, path
        for other in others:
            assert f"-of-{other}" not in seen.text, (path, other)
    assert f"own-of-{tenant}" in guest.call("GET", "/").text
    assert f"model-of-{tenant}" in guest.call("GET", "/models").text
    page = guest.call("GET", "/experiments/same").text
    assert f"arm-of-{tenant}" in page
    assert ('id="change"' in page) is (scope == "admin")
    assert f"arm-of-{tenant}" in guest.call("GET", "/experiments/same/table").text
    for other in others:
        for path in (
            f"/experiments/own-of-{other}",
            f"/experiments/own-of-{other}/live",
            f"/experiments/own-of-{other}/picture",
            f"/experiments/own-of-{other}/table",
            f"/models/model-of-{other}",
            f"/v1/experiments/own-of-{other}",
        ):
            assert guest.call("GET", path).status == 404, path


@pytest.mark.parametrize("tenant", TENANTS)
def test_a_session_changes_what_is_its_tenants_only(house: House, tenant: str | None) -> None:
    guest = house.guest(tenant)
    form = {**guest.fields("/experiments/same"), "do": "pause", "reason": f"of {tenant}"}
    others = [other for other in TENANTS if other != tenant]
    before = {other: state(house, other, "same") for other in others}
    assert guest.call("POST", "/experiments/same/change", form).status == 303
    assert state(house, tenant, "same")[0] == "paused"
    assert {other: state(house, other, "same") for other in others} == before
    resumed = {**form, **guest.fields("/experiments/same"), "do": "start"}
    assert guest.call("POST", "/experiments/same/change", resumed).status == 303
    for other in others:
        started = {**form, "do": "start", "revision": "1"}
        assert guest.call("POST", f"/experiments/own-of-{other}/change", started).status == 404
        assert state(house, other, f"own-of-{other}") == ("draft", 1)
        promote = {
            "token": form["token"],
            "reason": "x",
            "version": "v1",
            "status": "production",
            "do": "status",
        }
        assert guest.call("POST", f"/models/model-of-{other}/change", promote).status == 404
    history = house.callers[tenant].call("GET", "/v1/experiments/same/history").body["history"]
    assert [each["reason"] for each in history[-2:]] == [f"of {tenant}"] * 2


def test_what_a_session_makes_is_its_tenants(house: House) -> None:
    guest = house.guest("alpha")
    document = (
        '{"id": "made", "arms": [{"name": "a"}, {"name": "b"}], "metrics": [{"name": "m", "kind": "binary"}], '
        '"attribution": {"missing": "zero"}}'
    )
    form = {"token": guest.fields("/new")["token"], "document": document}
    assert guest.call("POST", "/new", form).status == 303
    found = {tenant: house.callers[tenant].call("GET", "/v1/experiments/made").status for tenant in TENANTS}
    assert found == {None: 404, "alpha": 200, "beta": 404}


def test_the_token_of_another_session_changes_nothing(house: House) -> None:
    """Forms with the cookie of one tenant and the token of another, of two sessions of one key, and with none."""
    alpha, again, beta = house.guest("alpha"), house.guest("alpha"), house.guest("beta")
    form = {**alpha.fields("/experiments/same"), "do": "pause", "reason": "forged"}
    before = {tenant: state(house, tenant, "same") for tenant in TENANTS}
    for token in (beta.fields("/experiments/same")["token"], again.fields("/experiments/same")["token"], ""):
        assert alpha.call("POST", "/experiments/same/change", {**form, "token": token}).status == 403
    assert beta.call("POST", "/experiments/same/change", form).status == 403
    elsewhere = alpha.call("POST", "/experiments/same/change", form, Origin="http://evil.test")
    assert elsewhere.status == 403
    stranger = alpha._replace(cookie="bandit_serve_session=none")
    assert stranger.call("POST", "/experiments/same/change", form).status == 401
    two = alpha._replace(cookie=f"{alpha.cookie}; {beta.cookie}")
    assert two.call("POST", "/experiments/same/change", form).status == 401
    assert {tenant: state(house, tenant, "same") for tenant in TENANTS} == before


def test_a_key_beside_a_session_decides_whose_the_form_is(house: House) -> None:
    """A form of the session of alpha with the key of beta is beta's, and without alpha's token it may be sent."""
    alpha = house.guest("alpha")
    form = {"do": "pause", "reason": "by key", "token": "", "revision": str(state(house, "beta", "same")[1])}
    before = state(house, "alpha", "same")
    key = house.callers["beta"].made.key
    answer = alpha.call("POST", "/experiments/same/change", form, Authorization=f"Bearer {key}")
    assert answer.status == 303
    assert state(house, "beta", "same")[0] == "paused"
    assert state(house, "alpha", "same") == before
    form |= {"do": "start", "revision": str(state(house, "beta", "same")[1])}
    assert alpha.call("POST", "/experiments/same/change", form, Authorization=f"Bearer {key}").status == 303
    assert alpha.call("POST", "/experiments/same/change", form, Authorization="Bearer bsk_none").status == 401


def test_a_reader_of_a_tenant_changes_nothing(house: House) -> None:
    reader = house.guest("alpha", "read")
    token = re.search(r'name="token" value="([^"]+)"', reader.call("GET", "/experiments/same").text)
    assert token is not None
    form = {
        "do": "pause",
        "reason": "x",
        "token": token[1],
        "revision": str(state(house, "alpha", "same")[1]),
    }
    before = state(house, "alpha", "same")
    assert reader.call("POST", "/experiments/same/change", form).status == 403
    assert state(house, "alpha", "same") == before


def test_a_tenants_session_ends_with_its_key_in_every_worker(house: House) -> None:
    guest, key = house.signed_in("alpha", "read")
    assert guest.call("GET", "/experiments/same").status == 200
    assert house.callers[None].call("DELETE", f"/v1/keys/{key}").status < 300
    wait_until(lambda: all(guest.call("GET", "/experiments/same").status == 401 for _ in range(8)))

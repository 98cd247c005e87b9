"""Every route and page with every key, session and tenant, and any number of keys that are none: nobody gets in."""

from __future__ import annotations

import http.client
import random
import re
import string
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple
from urllib.parse import urlencode

import pytest
from commands import bandit_serve
from http_calls import running
from scale import scaled
from services import ThrowawayService
from stores import wait_until
from tenancy import SCOPES, Caller, Made, bearer, keys_of, make

from bandit_serve.dashboard.templates import ASSETS
from bandit_serve.registry.api_keys import ID_CHARS, PREFIX, SECRET_CHARS
from bandit_serve.server.authentication import GRANTS
from bandit_serve.server.route import FORM, Route
from bandit_serve.server.routes import ROUTES
from bandit_serve.server.routes.pages import PAGES
from bandit_serve.server.sessions import COOKIE, TOKEN_HEADER

N_WRONG = scaled(2_000, 100_000)
AT_ONCE = 8
HIDDEN = ("zeta", "hidden-experiment")
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
# It says whether the key in its form is right.
SIGN_IN = "POST /login"
OPEN_PAGES = {"/login", "/logout", f"{ASSETS}{{asset}}"}
ENGINE_OF_THE_MACHINE = "/v1/deployments"


class Session(NamedTuple):
    cookie: str
    token: str


class House(NamedTuple):
    service: ThrowawayService
    made: dict[tuple[str | None, str], Made]
    sessions: dict[tuple[str | None, str], Session]
    ended: dict[str, Made]

    def of(self, tenant: str | None, scope: str = "admin") -> Any:
        return Caller(self.service, self.made[tenant, scope])


class Reply(NamedTuple):
    status: int
    headers: dict[str, str]
    text: str


def send(service: ThrowawayService, method: str, path: str, body: str | None = None, **headers: str) -> Reply:
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, body, {"Accept": "text/html", **named})
    answer = connection.getresponse()
    # A page that is followed goes on for ever.
    is_endless = answer.headers.get_content_type() == "text/event-stream"
    content = answer.read1() if is_endless and method != "HEAD" else answer.read()
    reply = Reply(answer.status, dict(answer.headers), content.decode("utf-8", "replace"))
    connection.close()
    return reply


def form(**fields: str) -> dict[str, str]:
    return {"body": urlencode(fields), "Content_Type": FORM}


def sign_in(service: ThrowawayService, key: str) -> Session:
    reply = send(service, "POST", "/login", **form(key=key))
    assert reply.status == 303, reply
    cookie = reply.headers["Set-Cookie"].partition(";")[0]
    page = send(service, "GET", "/new", Cookie=cookie)
    assert page.status == 200
    found = re.search(r'name="token" value="([^"]+)"', page.text)
    return Session(cookie, "" if found is None else found[1])


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """Service of two workers with the tenants `alpha` and `zeta`, sessions of those who may have one, and ended keys.

    Only zeta has what is in `HIDDEN`. A container engine is named, which is not there.
    """
    data = tmp_path_factory.mktemp("matrix") / "d"
    first = make(data, "--scope", "admin")
    with ThrowawayService(data, "--docker", "unix:///nowhere/docker.sock", workers=2) as service:
        root = Caller(service, first)
        tenants = (None, "alpha", "zeta")
        made = {(tenant, scope): key for tenant in tenants for scope, key in keys_of(root, tenant).items()}
        sessions = {
            whose: sign_in(service, key.key) for whose, key in made.items() if "read" in GRANTS[whose[1]]
        }
        ended = {
            "revoked": make(data, "--scope", "admin"),
            "revoked of a tenant": make(data, "--scope", "admin", "--tenant", "zeta"),
            "expired": make(data, "--scope", "admin", "--expires", "1ms"),
            "expired of a tenant": make(data, "--scope", "admin", "--tenant", "zeta", "--expires", "1ms"),
        }
        for what, key in ended.items():
            if what.startswith("revoked"):
                assert bandit_serve("keys", "revoke", key.id, "--data", data).status == 0
        house = House(service, made, sessions, ended)
        running(house.of("zeta"), id="hidden-experiment")
        yield house


def path_of(route: Route) -> str:
    names = {"experiment": "hidden-experiment"}
    return re.sub(r"\{(\w+)\}", lambda name: names.get(name[1], "none"), route.path)


def needed(page: Route) -> str:
    """Scope that a page asks for in the end: a form asks for its key itself."""
    if page.path in OPEN_PAGES:
        return "nothing"
    return "read" if page.method == "GET" else "admin"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.label)
def test_every_page_asks_for_the_key_that_it_needs(house: House, page: Route) -> None:
    """By key and by session; what is another tenant's is not there, and not named."""
    path, needs, service = path_of(page), needed(page), house.service
    sent = form(do="pause", reason="r", revision="0", document="{}", version="v", status="x")
    body: dict[str, str] = sent if page.method == "POST" else {}
    for method in (page.method, "HEAD") if page.method == "GET" else (page.method,):
        if page.label == SIGN_IN:
            assert send(service, method, path, **body).status == 401
            return
        refused = send(service, method, path, **body)
        assert (refused.status == 401) == (needs != "nothing"), refused
        for key in house.ended.values():
            status = send(service, method, path, **body, **bearer(key.key)).status
            assert (status == 401) == (needs != "nothing")
        for tenant in (None, "alpha"):
            for scope in SCOPES:
                answer = send(service, method, path, **body, **bearer(house.made[tenant, scope].key))
                check(page, needs, scope, answer)
                if (tenant, scope) not in house.sessions:
                    continue
                session = house.sessions[tenant, scope]
                origin = f"http://127.0.0.1:{service.port}"
                fields = {**body}
                if page.method == "POST":
                    fields["body"] = f"{body['body']}&{urlencode({'token': session.token})}"
                    fields["Origin"] = origin
                if page.path == "/logout":
                    continue
                check(page, needs, scope, send(service, method, path, **fields, Cookie=session.cookie))


def check(page: Route, needs: Any, scope: Any, answer: Reply) -> None:
    said = answer.text.replace("hidden-experiment", "") if "{experiment}" in page.path else answer.text
    assert not [name for name in HIDDEN if name in said], answer
    if needs not in GRANTS[scope]:
        assert answer.status == 403, (scope, answer)
    elif "{experiment}" in page.path:
        assert answer.status == 404, (scope, answer)
    else:
        assert answer.status not in (401, 403, 500), (scope, answer)


def test_a_session_of_one_tenant_acts_in_it_alone(house: House) -> None:
    """A cookie with another's token, a changed name of the key, and a change from elsewhere are all refused."""
    service, alpha, zeta = house.service, house.sessions["alpha", "admin"], house.sessions["zeta", "admin"]
    origin = f"http://127.0.0.1:{service.port}"
    path = "/experiments/hidden-experiment/change"
    fields = {"do": "pause", "reason": "r", "revision": "0"}
    own_page = send(service, "GET", "/experiments/hidden-experiment", Cookie=zeta.cookie)
    assert own_page.status == 200
    for session, token, came_from, status in (
        (zeta, alpha.token, origin, 403),
        (alpha, zeta.token, origin, 403),
        (zeta, "", origin, 403),
        (zeta, zeta.token, "http://elsewhere.example", 403),
        (alpha, alpha.token, origin, 404),
    ):
        sent = form(**fields, token=token)
        answer = send(service, "POST", path, **sent, Cookie=session.cookie, Origin=came_from)
        assert answer.status == status, (token, came_from, answer)
    name, _, text = zeta.cookie.partition("=")
    other_key = f"{house.made['alpha', 'admin'].id}.{text.partition('.')[2]}"
    for forged in (other_key, text[:-1] + ("A" if text[-1] != "A" else "B"), text + ".x", "", text * 2):
        assert send(service, "GET", "/", Cookie=f"{name}={forged}").status == 401
    assert send(service, "GET", "/", Cookie=f"{zeta.cookie}; {alpha.cookie}").status == 401
    status = house.of("zeta").call("GET", "/v1/experiments/hidden-experiment").body["status"]
    assert status == "running"


@pytest.mark.parametrize("route", [*ROUTES, *PAGES], ids=lambda route: route.label)
def test_no_method_of_any_path_is_open(house: House, route: Route) -> None:
    """Without a key, and with an ended one, every method is refused, also those that the path does not have."""
    if route.path.startswith("/health/") or route.path in OPEN_PAGES:
        return
    for method in METHODS:
        for headers in ({}, bearer(house.ended["revoked of a tenant"].key)):
            # A browser asks with OPTIONS, without a key, whether it may send one.
            assert send(house.service, method, path_of(route), **headers).status == 401, (method, headers)


def test_no_tenant_owns_the_machine(house: House) -> None:
    """Containers are of whoever runs the service: for all admins of tenants deployments are off."""
    deployments = [route for route in ROUTES if route.path.startswith(ENGINE_OF_THE_MACHINE)]
    assert len(deployments) >= 6
    bodies: dict[str, Any] = {
        "deployments.build": {"tag": "x:1"},
        "deployments.run": {"name": "shop", "tag": "x:1", "port": 8123},
        "deployments.canary": {"model": "m", "version": "v", "experiment": "e"},
    }
    for route in deployments:
        path, body = path_of(route), bodies.get(route.handler, {} if route.takes is not None else None)
        off = house.of("alpha").call(route.method, path, body)
        # A canary is an arm of an experiment, and needs no engine.
        expected = 404 if route.handler == "deployments.canary" else 501
        assert off.status == expected, (route.label, off)
        assert "nowhere" not in str(off.body)
        own = house.of(None).call(route.method, path, body)
        assert own.status != 501 or route.handler == "deployments.canary", (
            "the service's own admin has an engine"
        )


class Keys:
    """Endless texts that are no valid keys, most of them nearly one."""

    def __init__(self, house: House, seed: int) -> None:
        self._random = random.Random(seed)
        self._valid = [made.key for made in house.made.values()]
        self._ended = [made.key for made in house.ended.values()]

    def next(self) -> str:
        key, other = self._random.sample(self._valid, 2)
        match self._random.randrange(8):
            case 0:
                return PREFIX + self._text(ID_CHARS) + "_" + self._text(SECRET_CHARS)
            case 1:
                return key[:-SECRET_CHARS] + self._text(SECRET_CHARS)
            case 2:
                at = self._random.randrange(len(key))
                changed = self._random.choice((string.ascii_letters + "-.~").replace(key[at], ""))
                return key[:at] + changed + key[at + 1 :]
            case 3:
                return key[:-SECRET_CHARS] + other[-SECRET_CHARS:]
            case 4:
                return self._random.choice(self._ended)
            case 5:
                return key[: self._random.randrange(len(key))] or "x"
            case 6:
                return key + self._text(1 + self._random.randrange(3))
            case _:
                return self._random.choice([key.swapcase(), key[::-1], f"{key},{other}", f"{key} {other}"])

    def _text(self, length: int) -> str:
        return "".join(self._random.choices(string.ascii_letters + string.digits + "-_", k=length))


def test_any_number_of_wrong_keys_lets_nobody_in(house: House) -> None:
    """Forged, cut, mixed, revoked and expired ones, in the lane and beside it, and other tenants' valid ones."""
    ordinary = "/v1/experiments/hidden-experiment"
    targets = [
        ("POST", f"{ordinary}/decide", '{"unit": "u"}'),
        ("POST", "/v1/rewards", '{"rewards": []}'),
        ("GET", ordinary, None),
        ("GET", "/experiments/hidden-experiment", None),
    ]

    def attack(number: int) -> dict[int, int]:
        keys, seen = Keys(house, number), dict.fromkeys((401, 404), 0)
        connection = http.client.HTTPConnection("127.0.0.1", house.service.port, timeout=60)
        for i in range(N_WRONG // AT_ONCE):
            method, path, body = targets[i % len(targets)]
            is_other = i % 16 == 2
            key = house.made["alpha", "read"].key if is_other else keys.next()
            headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            text = answer.read()
            assert answer.status == (404 if is_other else 401), (key, answer.status, text)
            seen[answer.status] += 1
        connection.close()
        return seen

    before = house.of("zeta").call("GET", "/v1/stats").body["decisions"]
    with ThreadPoolExecutor(AT_ONCE) as attackers:
        seen = list(attackers.map(attack, range(AT_ONCE)))
    assert sum(each[401] + each[404] for each in seen) == N_WRONG // AT_ONCE * AT_ONCE
    assert house.of("zeta").call("GET", "/v1/stats").body["decisions"] == before


def test_a_session_follows_its_key_when_that_is_revoked(house: House) -> None:
    """A session of a tenant, and a page that it follows, end with the tenant's last key."""
    root = house.of(None)
    made = Made(**root.call("POST", "/v1/keys", {"scope": "admin", "tenant": "brief"}).body)
    session = sign_in(house.service, made.key)
    connection = http.client.HTTPConnection("127.0.0.1", house.service.port, timeout=60)
    connection.request("GET", "/live", headers={"Cookie": session.cookie})
    followed = connection.getresponse()
    assert followed.status == 200
    assert root.call("DELETE", f"/v1/keys/{made.id}").status == 204
    wait_until(lambda: send(house.service, "GET", "/", Cookie=session.cookie).status == 401)
    followed.read()  # to its end, which comes
    connection.close()
    assert COOKIE in session.cookie
    for headers in ({"Cookie": session.cookie}, {"Cookie": session.cookie, TOKEN_HEADER: session.token}):
        answer = house.service.call("POST", "/v1/experiments", {"id": "x"}, headers)
        assert answer.status == 401

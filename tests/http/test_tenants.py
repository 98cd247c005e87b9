"""Tenants over HTTP: every route with every other's key, equal names apart, and what none sees of another."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import redis
from commands import bandit_serve, save_model
from http_calls import check_problem, decide, draft, experiment, running, upload
from services import Answer, ThrowawayService
from stores import ThrowawayStore, wait_until
from tenancy import SCOPES, Caller, Made, bearer, keys_of, make

from bandit_serve.server.authentication import GRANTS
from bandit_serve.server.route import Route
from bandit_serve.server.routes import ROUTES

HIDDEN = (
    "zeta",
    "hidden-experiment",
    "hidden-model",
    "hidden-metric",
    "hidden-arm",
    "hidden-layer",
    "v-hidden",
)
"""Names that only the tenant zeta has."""
ASKED = {
    "experiment": "hidden-experiment",
    "model": "hidden-model",
    "metric": "hidden-metric",
    "arm": "hidden-arm",
    "version": "v-hidden",
    "deployment": "none",
    "promotion": "p1",
}


class House(NamedTuple):
    service: ThrowawayService
    made: dict[tuple[str | None, str], Made]

    def of(self, tenant: str | None, scope: str = "admin") -> Any:
        return Caller(self.service, self.made[tenant, scope])


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A service of two workers with the tenants `alpha`, `Beta` and `zeta`, whose names are in `HIDDEN`."""
    folder = tmp_path_factory.mktemp("tenants")
    data = folder / "d"
    tenants = (None, "alpha", "Beta", "zeta")
    first = make(data, "--scope", "admin")
    with ThrowawayService(data, "--access-log", workers=2) as service:
        root = Caller(service, first)
        made = {(tenant, scope): key for tenant in tenants for scope, key in keys_of(root, tenant).items()}
        house = House(service, made)
        zeta = house.of("zeta")
        model = save_model(folder / "m").read_bytes()
        assert upload(zeta, "hidden-model", model, {"version": "v-hidden"}).status == 201
        path = "/v1/models/hidden-model/versions/v-hidden/status"
        assert zeta.call("POST", path, {"status": "production"}).status == 200
        assert upload(zeta, "hidden-model", model, {"version": "v-hidden-next"}).status == 201
        plan = {"shadow": {"requests": 10_000, "gate": "errors == 0"}}
        promoted = {"version": "v-hidden-next", "plan": plan}
        assert zeta.call("POST", "/v1/models/hidden-model/promotions", promoted).status == 202
        assert zeta.call("PUT", "/v1/metrics/hidden-metric", {"kind": "binary"}).status == 201
        running(
            zeta,
            id="hidden-experiment",
            arms=[
                {"name": "control"},
                {"name": "hidden-arm", "model": "hidden-model", "version": "v-hidden"},
            ],
            layer={"name": "hidden-layer", "share": 0.5},
        )
        yield house


def path_of(route: Route, house: House) -> str:
    """Path that names only what zeta has."""
    names = ASKED | {"key": house.made["zeta", "read"].id}
    return re.sub(r"\{(\w+)\}", lambda name: names[name[1]], route.path)


def said(answer: Answer, path: str) -> str:
    """All that an answer says, without the names that were asked for."""
    text = f"{answer.body!r} {answer.headers!r}"
    for name in path.split("/"):
        text = text.replace(name, "") if name in HIDDEN else text
    return text


BODIES: dict[str, Any] = {
    "rewards.reward": {"rewards": []},
    "rewards.expose": {"decision_ids": []},
    "experiments.create": {"id": "x"},
    "inference.infer": {"inputs": [{"name": "unit", "shape": [1], "datatype": "BYTES", "data": ["u"]}]},
    "flags.evaluate": {"context": {"targetingKey": "u"}},
    "flags.evaluate_all": {"context": {"targetingKey": "u"}},
    "decisions.predict": {"user_id": "1", "item_id": "1"},
    "keys.create": {"scope": "read", "tenant": "zeta"},
    "deployments.run": {"name": "d1", "tag": "image:1", "port": 9000},
    "deployments.build": {"tag": "image:1"},
}


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.label)
def test_no_route_lets_another_tenant_through(house: House, route: Route) -> None:
    """Scope by method by tenant: what is another's is not there, whoever asks, also for the service's own keys."""
    path = path_of(route, house)
    # The service's own admin makes keys for all.
    callers = ["alpha", "Beta"] if route.handler == "keys.create" else [None, "alpha", "Beta"]
    body = BODIES.get(route.handler, {}) if route.takes is not None else None
    named = "{" in route.path
    for method in (route.method, "HEAD") if route.method == "GET" else (route.method,):
        for tenant in callers:
            for scope in SCOPES:
                if (tenant, route.handler) == (None, "keys.revoke"):
                    continue
                answer = house.of(tenant, scope).call(method, path, body)
                # The service's own keys see which tenants there are, and their series and keys.
                if tenant is not None or route.handler not in ("keys.list_all", "operations.metrics"):
                    text = said(answer, path)
                    known = tenant is None or route.handler == "keys.create"
                    assert not [name for name in HIDDEN if name in text and not (known and name == "zeta")]
                if route.needs not in GRANTS[scope]:
                    assert answer.status == 403
                elif route.path.startswith("/v1/deployments") and route.handler != "deployments.canary":
                    assert answer.status == 501, (method, tenant, scope, answer)
                elif named or route.handler == "keys.create":
                    assert answer.status in (400, 404, 415), (method, tenant, scope, answer)
                else:
                    assert answer.status != 401, (method, tenant, scope, answer)
    own = house.of("zeta", "admin").call(route.method, path, body).status if route.method == "GET" else 200
    assert own in (200, 400, 501), "the owner would have been answered"


def test_equal_names_are_apart(house: House, tmp_path: Path) -> None:
    """Each of three has an experiment, a model and a metric of one name, and counts and history of its own."""
    counts = {None: 5, "alpha": 7, "Beta": 11}
    for number, (tenant, n) in enumerate(counts.items()):
        caller = house.of(tenant)
        model = save_model(tmp_path / f"{tenant}", (4.0 - number, 5.0, 3.0)).read_bytes()
        assert upload(caller, "same", model, {"version": "v1", "metadata": {"of": str(tenant)}}).status == 201
        assert caller.call(
            "PUT", "/v1/metrics/buys", {"kind": "bounded", "low": 0, "high": number + 1}
        ).status in (200, 201)
        running(caller, id="same", arms=[{"name": "control"}, {"name": f"arm-{number}"}])
        for i in range(n):
            token = decide(caller, "same", unit=f"u{i}")["decision_id"]
            reward = caller.call("POST", "/v1/rewards", {"decision_id": token, "value": 1})
            assert reward.status == 200
    for number, (tenant, n) in enumerate(counts.items()):
        caller = house.of(tenant)

        def shown(caller: Any = caller) -> int:
            arms = caller.call("GET", "/v1/experiments/same/results").body["arms"]
            return sum(arm["exposures"] for arm in arms)

        wait_until(lambda shown=shown, n=n: shown() == n)  # type: ignore[misc]
        report = caller.call("GET", "/v1/experiments/same/results").body
        assert [arm["name"] for arm in report["arms"]] == ["control", f"arm-{number}"]
        history = caller.call("GET", "/v1/experiments/same/history").body["history"]
        assert {entry["who"] for entry in history} == {f"{tenant or 'root'}-admin"}
        view = caller.call("GET", "/v1/models/same").body
        assert [version["metadata"] for version in view["versions"]] == [{"of": str(tenant)}]
        assert caller.call("GET", "/v1/metrics/buys").body["high"] == number + 1
        stats = caller.call("GET", "/v1/stats").body
        assert stats["decisions"] >= n
        assert stats["experiments"]["same"]["rewards"] == {
            arm["name"]: arm["metrics"]["click"]["n"] for arm in report["arms"]
        }


def test_a_decision_of_another_is_none(house: House) -> None:
    alpha, beta = house.of("alpha"), house.of("Beta")
    name = running(alpha)
    running(beta, id=name)
    token = decide(alpha, name, unit="u")["decision_id"]
    refused = beta.call("POST", "/v1/rewards", {"decision_id": token, "value": 1})
    check_problem(refused, 400)
    assert house.of(None).call("POST", "/v1/rewards", {"rewards": [{"decision_id": token, "value": 1}]}).body[
        "verdicts"
    ] == ["invalid"]
    assert alpha.call("POST", "/v1/rewards", {"decision_id": token, "value": 1}).status == 200


def test_metrics_and_statistics_show_each_its_own(house: House) -> None:
    running(house.of("alpha"), id="seen-by-alpha")
    decide(house.of("alpha"), "seen-by-alpha")
    whole = house.of(None, "read").call("GET", "/metrics").body.decode()
    own = house.of("alpha", "read").call("GET", "/metrics").body.decode()
    other = house.of("Beta", "read").call("GET", "/metrics").body.decode()
    label = 'tenant="alpha"'
    assert re.search(rf'bandit_serve_arm_share\{{[^}}]*experiment="seen-by-alpha"[^}}]*{label}', whole)
    assert label in own
    assert label not in other
    assert not [name for name in HIDDEN if name in own or name in other]
    series = [line for line in own.splitlines() if line and not line.startswith("#")]
    assert series
    assert all(label in line for line in series)
    assert "process_" not in own
    assert "bandit_serve_build_info" in whole
    # Names stand together, once each, as the format wants.
    types = [line for line in whole.splitlines() if line.startswith("# TYPE")]
    assert len(types) == len(set(types))
    stats = house.of(None, "read").call("GET", "/v1/stats").body
    assert set(stats["tenants"]) >= {"alpha", "Beta", "zeta"}
    assert stats["tenants"]["zeta"]["experiments"] == 1
    assert "tenants" not in house.of("alpha", "read").call("GET", "/v1/stats").body
    health = house.service.call("GET", "/health/ready")
    assert (health.status, set(health.body)) == (200, {"status"})


def test_a_tenant_has_the_keys_of_its_own(house: House) -> None:
    admin, read = house.of("alpha"), house.of("alpha", "read")
    ours = {key.id for (tenant, _), key in house.made.items() if tenant == "alpha"}
    assert {each["id"] for each in read.call("GET", "/v1/keys").body["keys"]} >= ours
    listed = house.of("Beta").call("GET", "/v1/keys").body["keys"]
    assert {each["tenant"] for each in listed} == {"Beta"}
    made = admin.call("POST", "/v1/keys", {"scope": "read", "name": "short", "expires": "1h"})
    assert made.status == 201
    key = Caller(house.service, Made(**made.body))
    assert key.call("GET", "/v1/experiments").status == 200
    mine = next(each for each in admin.call("GET", "/v1/keys").body["keys"] if each["id"] == key.made.id)
    assert (mine["tenant"], mine["created_by"], mine["status"]) == ("alpha", "alpha-admin", "valid")
    assert house.of("Beta").call("DELETE", f"/v1/keys/{key.made.id}").status == 404
    assert house.of("alpha", "read").call("DELETE", f"/v1/keys/{key.made.id}").status == 403
    assert key.call("GET", "/v1/experiments").status == 200
    assert admin.call("DELETE", f"/v1/keys/{key.made.id}").status == 204
    assert key.call("GET", "/v1/experiments").status == 401
    assert admin.call("POST", "/v1/keys", {"scope": "read", "tenant": "Beta"}).status == 404
    check_problem(admin.call("POST", "/v1/keys", {"scope": "all"}), 400, "scope")
    root = house.of(None).call("POST", "/v1/keys", {"scope": "read", "tenant": "Beta"})
    assert root.status == 201
    assert house.of(None).call("DELETE", f"/v1/keys/{root.body['id']}").status == 204
    assert {each["tenant"] for each in house.of(None).call("GET", "/v1/keys").body["keys"]} >= {None, "zeta"}


def test_a_tenant_begins_and_ends_with_its_keys(house: House) -> None:
    """What it had is there again with its next key, and nobody else notices."""
    root, alpha = house.of(None), house.of("alpha")
    first = root.call("POST", "/v1/keys", {"scope": "admin", "tenant": "brief"})
    brief: Any = Caller(house.service, Made(**first.body))
    name = running(brief)
    token = decide(brief, name, unit="u")["decision_id"]
    assert brief.call("POST", "/v1/rewards", {"decision_id": token, "value": 1}).status == 200
    assert root.call("DELETE", f"/v1/keys/{brief.made.id}").status == 204
    assert {brief.call("GET", f"/v1/experiments/{name}").status for _ in range(10)} == {401}
    wait_until(lambda: "brief" not in root.call("GET", "/v1/stats").body["tenants"])
    assert alpha.call("GET", "/v1/experiments").status == 200
    again: Any = Caller(house.service, make(house.service.data, "--scope", "admin", "--tenant", "brief"))
    results = again.call("GET", f"/v1/experiments/{name}/results")
    assert results.status == 200
    assert sum(arm["metrics"]["click"]["n"] for arm in results.body["arms"]) == 1
    assert again.call("POST", "/v1/rewards", {"decision_id": token, "value": 1}).status == 200


def test_commands_work_on_a_tenant(house: House) -> None:
    alpha, data = house.of("alpha"), house.service.data
    name = running(alpha)
    token = decide(alpha, name, unit="u")["decision_id"]
    assert alpha.call("POST", "/v1/rewards", {"decision_id": token, "value": 1}).status == 200
    where = ("--data", data, "--tenant", "alpha")
    listed = bandit_serve("experiments", "list", "--json", *where).document["experiments"]
    assert name in {each["id"] for each in listed}
    results = bandit_serve("experiments", "results", name, "--json", *where).document
    assert sum(arm["metrics"]["click"]["n"] for arm in results["arms"]) == 1
    assert bandit_serve("experiments", "show", name, "--data", data).status == 1
    planned = bandit_serve("plan", name, "--effect", "0.1", "--json", *where)
    assert "no experiment" not in planned.err
    other = bandit_serve("plan", name, "--effect", "0.1", "--data", data)
    assert (other.status, "experiment" in other.err) == (1, True)
    nobodys = bandit_serve("plan", "--rate", "0.1", "--effect", "5%", "--traffic", "100", "--tenant", "alpha")
    assert nobodys.status == 2
    assert bandit_serve("experiments", "show", name, "--data", data, "--tenant", "Beta").status == 1
    paused = bandit_serve("experiments", "pause", name, *where)
    assert paused.status == 0, paused.err
    assert alpha.call("GET", f"/v1/experiments/{name}").body["status"] == "paused"
    assert bandit_serve("replay", name, *where).status == 0
    examined = bandit_serve("doctor", *where)
    assert examined.status == 0, examined.out
    unknown = bandit_serve("experiments", "list", "--data", data, "--tenant", "nobody")
    assert unknown.status == 1
    assert "no tenant 'nobody'" in unknown.err
    listed = bandit_serve("keys", "list", "--data", data, "--tenant", "Beta", "--json").document["keys"]
    assert {each["tenant"] for each in listed} == {"Beta"}
    other = bandit_serve("keys", "revoke", house.made["alpha", "read"].id, "--data", data, "--tenant", "Beta")
    assert other.status == 1


def test_all_is_there_after_a_restart(tmp_path: Path) -> None:
    data = tmp_path / "d"
    made = {tenant: make(data, "--scope", "admin", "--tenant", tenant) for tenant in ("one", "two")}
    with ThrowawayService(data) as service:
        one: Any = Caller(service, made["one"])
        assert service.call("GET", "/v1/experiments").status == 401
        name = running(one)
        token = decide(one, name, unit="u")["decision_id"]
    with ThrowawayService(data) as service:
        one, two = (Caller(service, made[tenant]) for tenant in ("one", "two"))
        assert one.call("POST", "/v1/rewards", {"decision_id": token, "value": 1}).status == 200
        assert two.call("GET", f"/v1/experiments/{name}").status == 404
        assert two.call("GET", "/v1/experiments").body["experiments"] == []
        arms = one.call("GET", f"/v1/experiments/{name}/results").body["arms"]
        assert sum(arm["metrics"]["click"]["n"] for arm in arms) == 1
        assert "tenant" not in "".join(service.output)


def test_one_whose_state_is_lost_answers_503_alone(tmp_path: Path) -> None:
    """Its data directory is no directory: it can not be loaded, and says so only to its own callers."""
    data = tmp_path / "d"
    made = {tenant: make(data, "--scope", "admin", "--tenant", tenant) for tenant in ("good", "bad")}
    (data / "tenants").mkdir()
    (data / "tenants" / "bad").write_text("")
    with ThrowawayService(data) as service:
        good: Any = Caller(service, made["good"])
        bad: Any = Caller(service, made["bad"])
        refused = bad.call("GET", "/v1/experiments")
        check_problem(refused, 503)
        assert int(refused.headers["Retry-After"]) >= 1
        assert str(data) not in str(refused.body)
        assert decide(good, running(good))["arm"]
        assert service.call("GET", "/health/ready").body == {"status": "ready"}
        (data / "tenants" / "bad").unlink()
        wait_until(lambda: bad.call("GET", "/v1/experiments").status == 200)


def test_one_that_is_not_loaded_gets_nothing_of_the_services_own(tmp_path: Path) -> None:
    """No tenant's state is loaded, and each hot path answers 503 instead of acting in the service's own part."""
    data = tmp_path / "d"
    root, lost = make(data, "--scope", "admin"), make(data, "--scope", "admin", "--tenant", "lost")
    (data / "tenants").mkdir()
    (data / "tenants" / "lost").write_text("")
    with ThrowawayService(data) as service:
        own: Any = Caller(service, root)
        name = running(own)
        token = decide(own, name, unit="u")["decision_id"]
        caller = Caller(service, lost)
        for route in (each for each in ROUTES if each.hot):
            path = route.path.replace("{experiment}", name)
            body = {"decision_id": token, "value": 1} if route.handler == "rewards.reward" else {"unit": "v"}
            for _ in range(2):
                assert caller.call("POST", path, body).status == 503, path
        (arms,) = [own.call("GET", f"/v1/experiments/{name}/results").body["arms"]]
        assert sum(arm["metrics"]["click"]["n"] for arm in arms) == 0


def test_a_log_that_is_lost_is_loaded_again_for_its_tenant_alone(tmp_path: Path) -> None:
    data = tmp_path / "d"
    made = {tenant: make(data, "--scope", "admin", "--tenant", tenant) for tenant in ("kept", "lost")}
    with ThrowawayService(data) as service:
        kept: Any = Caller(service, made["kept"])
        lost: Any = Caller(service, made["lost"])
        name = running(lost)
        other = running(kept)
        workers = service.worker_pids()
        store = redis.Redis(unix_socket_path=str(data / "store.sock"))
        for key in store.scan_iter("bandit_serve/lost:*"):
            store.delete(key)
        store.close()
        wait_until(lambda: lost.call("GET", f"/v1/experiments/{name}").status == 404)
        assert decide(kept, other)["arm"]
        assert service.worker_pids() == workers
        assert draft(lost, **experiment())


def test_one_that_nobody_writes_to_is_well_again_after_an_outage(tmp_path: Path) -> None:
    """Its last write has failed, and nobody tries another: yet it is known that the store is back."""
    with ThrowawayStore(tcp=True) as store, ThrowawayService(tmp_path / "d", store=store.url) as service:
        where = ("--store", store.url, "--data", tmp_path, "--json")
        made = bandit_serve("keys", "create", "--scope", "admin", "--tenant", "idle", *where)
        idle: Any = Caller(service, Made(**made.document))
        token = decide(idle, running(idle), unit="u")["decision_id"]
        store.kill()
        reward = {"decision_id": token, "value": 1}
        assert idle.call("POST", "/v1/rewards", reward).status == 503
        wait_until(lambda: idle.call("GET", "/v1/stats").body["status"] == "degraded")
        store.start()
        wait_until(lambda: idle.call("GET", "/v1/stats").body["status"] == "ready")
        assert idle.call("POST", "/v1/rewards", reward).status == 200


def test_keys_of_tenants_with_capitals_have_folders_of_their_own(house: House) -> None:
    folders = {path.name for path in (house.service.data / "tenants").iterdir()}
    assert {"alpha", "^beta", "zeta"} <= folders


def test_others_keys_are_refused_in_any_number(house: House) -> None:
    """Revoked ones of a tenant, and a secret of one under the id of another."""
    alpha, beta = house.made["alpha", "admin"].key, house.made["Beta", "admin"].key
    mixed = alpha[: -len(beta.split("_", 2)[2])] + beta.split("_", 2)[2]
    for key in (mixed, alpha[:-1] + ("A" if alpha[-1] != "A" else "B"), f"alpha/{alpha}"):
        assert house.service.call("GET", "/v1/experiments", headers=bearer(key)).status == 401

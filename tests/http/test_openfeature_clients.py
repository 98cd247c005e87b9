"""OpenFeature's own clients, unmodified, for Python, Node and browsers: a flag is an experiment."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from browsers import chromium
from http_calls import draft, running
from npm_packages import npm_folder, run_node
from openfeature import api
from openfeature.contrib.provider.ofrep import OFREPProvider
from openfeature.evaluation_context import EvaluationContext
from openfeature.exception import ErrorCode
from openfeature.flag_evaluation import Reason
from services import ThrowawayService

ARMS = [
    {"name": "control", "payload": {"colour": "grey"}},
    {"name": "challenger", "payload": {"colour": "green"}},
]
SHOP = "shop.test"
RESOLVED = f"--host-resolver-rules=MAP {SHOP} 127.0.0.1"


@pytest.fixture(scope="module")
def shop() -> Iterator[tuple[str, list[bytes]]]:
    """Origin of a shop's web server, and its script, to be filled."""
    script = [b""]

    class Pages(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            is_script = self.path.endswith(".js")
            content = (
                script[0]
                if is_script
                else b"<!doctype html><title>shop</title><script src=/flags.js></script>"
            )
            self.send_response(200)
            self.send_header("Content-Type", "text/javascript" if is_script else "text/html")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://{SHOP}:{server.server_address[1]}", script
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def service(
    tmp_path_factory: pytest.TempPathFactory, shop: tuple[str, list[bytes]]
) -> Iterator[ThrowawayService]:
    with ThrowawayService(tmp_path_factory.mktemp("data"), "--cors-origins", shop[0]) as named:
        yield named


def reward(service: ThrowawayService, token: str) -> list[str]:
    verdicts: list[str] = service.call("POST", "/v1/rewards", {"decision_id": token, "value": 1}).body[
        "verdicts"
    ]
    return verdicts


def test_python(service: ThrowawayService) -> None:
    name = running(service, unit="user", arms=ARMS)
    number = running(service, unit="user", arms=[{"name": "control", "payload": 2.0}])
    api.set_provider(OFREPProvider(service.url))
    try:
        client = api.get_client()
        values = set()
        for i in range(20):
            details = client.get_object_details(name, {}, EvaluationContext(f"u{i}", {"country": "de"}))
            assert (details.reason, details.error_code) == (Reason.SPLIT, None)
            assert details.value == {arm["name"]: arm["payload"] for arm in ARMS}[details.variant]
            assert details.flag_metadata["propensity"] == 0.5
            assert reward(service, str(details.flag_metadata["decision_id"])) == ["accepted"]
            values.add(details.variant)
        assert values == {"control", "challenger"}
        user = EvaluationContext("u")
        assert client.get_float_details(number, 0.0, user).value == 2.0
        assert client.get_string_details(name, "d", user).error_code == ErrorCode.TYPE_MISMATCH
        for flag, context, code in (
            (name, EvaluationContext(), ErrorCode.TARGETING_KEY_MISSING),
            (draft(service), user, ErrorCode.FLAG_NOT_FOUND),
            ("nobody", user, ErrorCode.FLAG_NOT_FOUND),
            (name, EvaluationContext("x" * 300), ErrorCode.INVALID_CONTEXT),
        ):
            details = client.get_object_details(flag, {"is": "default"}, context)
            assert (details.value, details.error_code) == ({"is": "default"}, code)
            assert details.error_message
        assert service.call("POST", f"/v1/experiments/{name}/pause").status == 200
        details = client.get_object_details(name, {}, user)
        assert (details.variant, details.reason) == ("control", Reason.DISABLED)
        assert service.call("POST", f"/v1/experiments/{name}/stop", {"winner": "challenger"}).status == 200
        details = client.get_object_details(name, {}, user)
        assert (details.variant, details.reason) == ("challenger", Reason.STATIC)
    finally:
        api.shutdown()
        api.clear_providers()


@pytest.mark.timeout(400)
def test_node(service: ThrowawayService) -> None:
    name, plain = running(service, unit="user", arms=ARMS), running(service)
    user = {"targetingKey": "u1", "nested": {"of": [1]}}
    asked: list[dict[str, Any]] = [
        {"kind": "Object", "flag": name, "fallback": {}, "context": user},
        {"kind": "String", "flag": plain, "fallback": "d", "context": {}},
        {"kind": "Object", "flag": name, "fallback": {"is": "default"}, "context": {}},
        {"kind": "Object", "flag": "nobody", "fallback": {"is": "default"}, "context": user},
        {
            "kind": "Object",
            "flag": name,
            "fallback": {"is": "default"},
            "context": {"targetingKey": "x" * 300},
        },
    ]
    split, string, *refused = json.loads(run_node("server.mjs", service.url, json.dumps(asked)))
    assert split["reason"] == string["reason"] == "SPLIT"
    assert split["value"] == {arm["name"]: arm["payload"] for arm in ARMS}[split["variant"]]
    assert string["value"] == string["variant"]
    assert split["flagMetadata"]["experiment"] == name
    for details in (split, string):
        assert reward(service, details["flagMetadata"]["decision_id"]) == ["accepted"]
    codes = [details["errorCode"] for details in refused]
    assert codes == ["TARGETING_KEY_MISSING", "FLAG_NOT_FOUND", "INVALID_CONTEXT"]
    assert all(details["value"] == {"is": "default"} for details in refused)


START = """async ([url, name]) => {
    const { OpenFeature, OFREPWebProvider } = flags;
    await OpenFeature.setContext({ targetingKey: 'u1' });
    const provider = new OFREPWebProvider({ baseUrl: url, pollInterval: 100, cacheMode: 'disabled' });
    await OpenFeature.setProviderAndWait(provider);
    return OpenFeature.getClient().getObjectDetails(name, {});
}"""
READ = "name => flags.OpenFeature.getClient().getObjectDetails(name, {})"
SEND = """async ([url, path, body]) => {
    const answer = await fetch(url + path, {
        method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(body) });
    return answer.json();
}"""


@pytest.mark.timeout(400)
def test_a_page(service: ThrowawayService, shop: tuple[str, list[bytes]]) -> None:
    """Bulk evaluation across origins, 304 while nothing changes, an exposure and a reward from the page."""
    origin, script = shop
    bundle = npm_folder() / "flags.js"
    run_node(
        "node_modules/esbuild/bin/esbuild", "web.mjs", "--bundle", "--format=iife", "--global-name=flags",
        f"--outfile={bundle}",
    )  # fmt: skip
    script[0] = bundle.read_bytes()
    name = running(service, unit="user", arms=ARMS)
    with chromium(RESOLVED) as browser:
        page = browser.new_page()
        statuses: list[int] = []
        page.on(
            "response",
            lambda response: statuses.append(response.status) if "/ofrep/" in response.url else None,
        )
        page.goto(f"{origin}/")
        details = page.evaluate(START, [service.url, name])
        assert details["reason"] == "SPLIT"
        assert details["value"] == {arm["name"]: arm["payload"] for arm in ARMS}[details["variant"]]
        token = details["flagMetadata"]["decision_id"]
        for _ in range(100):
            if 304 in statuses:
                break
            page.wait_for_timeout(50)
        assert 304 in statuses, statuses
        assert page.evaluate(READ, name)["flagMetadata"]["decision_id"] == token, "kept with its flag"
        exposed = page.evaluate(SEND, [service.url, "/v1/exposures", {"decision_ids": [token]}])
        assert exposed["verdicts"] == ["accepted"]
        rewarded = page.evaluate(SEND, [service.url, "/v1/rewards", {"decision_id": token, "value": 1}])
        assert rewarded["verdicts"] == ["accepted"]
        assert service.call("POST", f"/v1/experiments/{name}/pause").status == 200
        for _ in range(100):
            if page.evaluate(READ, name)["reason"] == "DISABLED":
                break
            page.wait_for_timeout(50)
        assert page.evaluate(READ, name)["variant"] == "control"
        refused = (
            "async url => { try { return (await fetch(url + '/v1/stats')).status } catch { return null } }"
        )
        assert page.evaluate(refused, service.url) is None, "other routes stay closed"
    results = service.call("GET", f"/v1/experiments/{name}/results").body["arms"]
    assert sum(arm["exposures"] for arm in results) == 1
    assert sum(arm["metrics"]["click"]["n"] for arm in results) == 1

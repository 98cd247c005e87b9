"""Log in JSON of a service with tenants: what is of one has its name, and nothing else has."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from http_calls import running
from scripted_server import answer
from services import ThrowawayService
from stores import wait_until
from tenancy import Caller, bearer, keys_of, make
from upstreams import ThrowawayUpstream
from webhook_receiver import WebhookReceiver


def records(service: ThrowawayService) -> list[dict[str, Any]]:
    return [json.loads(line) for line in list(service.output) if line.startswith("{")]


@pytest.mark.parametrize("access_log", [True, False], ids=["application", "lane"])
def test_records_of_requests_and_of_tasks_name_the_tenant(tmp_path: Path, access_log: bool) -> None:
    """A model of a tenant fails in requests, and its webhook in a task, while the service itself is well."""
    made = make(tmp_path / "d", "--scope", "admin")
    with (
        WebhookReceiver(lambda number: answer(status=503), secret=None) as receiver,
        ThrowawayUpstream() as upstream,
        ThrowawayService(
            tmp_path / "d",
            *("--log-format", "json", "--upstreams", upstream.url),
            *("--webhooks", json.dumps([receiver.webhook("winner")])),
            *(("--access-log",) if access_log else ()),
        ) as service,
        contextlib.closing(http.client.HTTPConnection("127.0.0.1", service.port, timeout=60)) as connection,
    ):
        root = Caller(service, made)
        keys = {tenant: keys_of(root, tenant)["admin"] for tenant in ("shop", "Beta")}
        shop: Any = Caller(service, keys["shop"])
        wait_until(lambda: shop.call("GET", "/v1/experiments").status == 200)
        remote = {"url": upstream.url, "protocol": "json", "timeout": "500ms"}
        described = {"version": "v1", "remote": remote}
        arms = [{"name": name, "model": "m", "version": "v1"} for name in ("control", "other")]
        for caller, name in ((root, "own"), (shop, "theirs")):
            assert caller.call("POST", "/v1/models/m/versions", described).status == 201
            running(caller, id=name, arms=arms)
        upstream.mode = "500"

        def said(what: str) -> list[dict[str, Any]]:
            return [each for each in records(service) if what in each["message"]]

        users = itertools.count()

        def fail() -> bool:
            for key, name in ((keys["shop"].key, "theirs"), (made.key, "own")):
                body = {"user_id": f"u{next(users)}", "item_id": "i"}
                ask(connection, key, "POST", f"/v1/experiments/{name}/predict", body)
            return all(said(f"of {name}: ") for name in ("own", "theirs"))

        wait_until(fail)
        won = running(shop)
        assert shop.call("POST", f"/v1/experiments/{won}/stop", {"winner": "challenger"}).status == 200
        wait_until(lambda: bool(said("does not take a notice")))
        for what, whose in (("of theirs: ", "shop"), ("of own: ", None), ("a notice", "shop")):
            assert {each.get("tenant") for each in said(what)} == {whose}, said(what)
        if access_log:
            for key in (keys["shop"].key, made.key, keys["Beta"].key, made.key):
                assert ask(connection, key, "GET", "/v1/models") == 200
            wait_until(lambda: len(asked(service)) == 4)
            assert asked(service) == ["shop", None, "Beta", None]


def ask(connection: http.client.HTTPConnection, key: str, method: str, path: str, body: Any = None) -> int:
    headers = {**bearer(key), "Content-Type": "application/json"}
    connection.request(method, path, None if body is None else json.dumps(body), headers)
    response = connection.getresponse()
    response.read()
    return response.status


def asked(service: ThrowawayService) -> list[str | None]:
    """Tenants of the access log's records of the list of models, in their order."""
    return [each.get("tenant") for each in records(service) if each.get("route") == "/v1/models"]

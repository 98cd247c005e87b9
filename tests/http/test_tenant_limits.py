"""Limits of tenants over HTTP: what is refused, in the form of each path, and that nobody else is."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from commands import save_model
from http_calls import check_problem, check_refusal, decide, draft, experiment, running, upload
from services import ThrowawayService
from tenancy import Caller, Made, bearer, make

CONFIG = """
[tenants."*"]
batch = 50

[tenants.slow]
requests = 0.01
burst = 20

[tenants.paced]
requests = 200

[tenants.small]
experiments = 2
batch = 4
model_memory = 2000
"""


class Limited(NamedTuple):
    service: ThrowawayService
    root: Any
    made: dict[str, Made]

    def of(self, tenant: str) -> Any:
        return Caller(self.service, self.made[tenant])

    def fresh(self, tenant: str) -> Any:
        """Another key of the tenant."""
        answer = self.root.call("POST", "/v1/keys", {"scope": "admin", "tenant": tenant})
        assert answer.status == 201
        return Caller(self.service, Made(**answer.body))


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Limited]:
    folder = tmp_path_factory.mktemp("limits")
    (folder / "c.toml").write_text(CONFIG)
    first = make(folder / "d", "--scope", "admin")
    with ThrowawayService(folder / "d", "--config", str(folder / "c.toml"), workers=2) as service:
        root = Caller(service, first)
        made = {}
        for tenant in ("slow", "paced", "small", "free"):
            answer = root.call("POST", "/v1/keys", {"scope": "admin", "tenant": tenant})
            made[tenant] = Made(**answer.body)
        yield Limited(service, root, made)


def test_requests_over_the_rate_are_refused_everywhere_and_only_those(limited: Limited) -> None:
    """Its 20 requests are spent once for both workers, whichever key and route they are sent with."""
    slow, free = limited.of("slow"), limited.of("free")
    name = running(slow)
    running(free, id=name)
    others = [limited.fresh("slow"), slow]
    statuses = [others[i % 2].call("GET", "/v1/experiments").status for i in range(30)]
    assert statuses[:18] == [200] * 18
    assert statuses[18:] == [429] * 12
    for path, body in {
        f"/v1/experiments/{name}/decide": {"unit": "u"},
        "/v1/rewards": {"rewards": []},
        f"/ofrep/v1/evaluate/flags/{name}": {"context": {"targetingKey": "u"}},
        "/ofrep/v1/evaluate/flags": {"context": {"targetingKey": "u"}},
        f"/v2/models/{name}/infer": {"inputs": []},
        "/v1/experiments": experiment(),
    }.items():
        refused = slow.call("POST", path, body)
        said = check_refusal(path, refused, 429)
        assert 1 <= int(refused.headers["Retry-After"]) <= 100
        assert "0.01 requests a second" in said["detail"]
        assert "slow" not in str(refused.body)
    assert slow.call("GET", "/nowhere").status == 429
    assert decide(free, name)["arm"]
    assert limited.root.call("GET", "/v1/experiments").status == 200
    assert limited.service.call("GET", "/health/ready").status == 200
    series = limited.root.call("GET", "/metrics").body.decode().splitlines()
    (counted,) = [
        line
        for line in series
        if line.startswith('bandit_serve_limited_total{limit="requests",tenant="slow"}')
    ]
    assert float(counted.split()[-1]) == 12 + 7
    assert limited.root.call("GET", "/v1/stats").body["tenants"]["slow"]["limited"] == 19


def test_a_refused_body_is_not_read_into_anything(limited: Limited) -> None:
    """What is no JSON at all gets the same answer."""
    slow = limited.of("slow")
    while slow.call("GET", "/v1/experiments").status != 429:
        pass
    assert slow.call("POST", "/v1/rewards", b"{" * 1_000_000).status == 429
    assert slow.call("POST", "/v1/experiments", b"\xff" * 1_000).status == 429


def test_the_rate_is_kept_by_all_workers_together(limited: Limited) -> None:
    """As many get through as the rate and the burst allow in the time that it took, from many connections."""
    paced = limited.of("paced")
    name = running(paced)
    time.sleep(1.1)
    began_s = time.monotonic()

    def ask(_: int) -> tuple[int, float]:
        connection = http.client.HTTPConnection("127.0.0.1", limited.service.port, timeout=60)
        headers = {"Content-Type": "application/json", **bearer(paced.made.key)}
        passed = 0
        while time.monotonic() < began_s + 2.0:
            connection.request("POST", f"/v1/experiments/{name}/decide", json.dumps({"unit": "u"}), headers)
            answer = connection.getresponse()
            answer.read()
            assert answer.status in (200, 429)
            passed += answer.status == 200
        connection.close()
        return passed, time.monotonic()

    with ThreadPoolExecutor(8) as callers:
        outcomes = list(callers.map(ask, range(8)))
    passed, took_s = sum(n for n, _ in outcomes), max(at_s for _, at_s in outcomes) - began_s
    assert passed <= 200 * took_s + 200 + 8
    assert passed >= 200


def test_entries_of_a_batch_count_as_requests(limited: Limited) -> None:
    paced = limited.of("paced")
    name = running(paced)
    until_s = time.monotonic() + 60
    refused = None
    while refused is None and time.monotonic() < until_s:
        answer = paced.call("POST", f"/v1/experiments/{name}/decide/batch", {"units": ["u"] * 50})
        assert answer.status in (200, 429)
        refused = answer if answer.status == 429 else None
    assert refused is not None
    check_problem(refused, 429)


def test_a_batch_has_its_largest_size(limited: Limited) -> None:
    small = limited.of("small")
    name = draft(small)
    assert small.call("POST", f"/v1/experiments/{name}/start").status == 200
    for path, body in {
        f"/v1/experiments/{name}/decide/batch": {"requests": [{"unit": "u"}] * 5},
        f"/v1/experiments/{name}/predict/batch": {"requests": [{"user_id": "u", "item_id": "i"}] * 5},
        "/v1/rewards": {"rewards": [{"decision_id": "x", "value": 1}] * 5},
        "/v1/exposures": {"decision_ids": ["x"] * 5},
        f"/v2/models/{name}/infer": {
            "inputs": [{"name": "unit", "shape": [5], "datatype": "BYTES", "data": ["u"] * 5}]
        },
    }.items():
        assert "5 entries of 4" in check_refusal(path, small.call("POST", path, body), 413)["detail"], path
    columns = {"units": ["u"] * 4}
    assert small.call("POST", f"/v1/experiments/{name}/decide/batch", columns).status == 200
    free = limited.of("free")
    other = running(free)
    assert free.call("POST", f"/v1/experiments/{other}/decide/batch", {"units": ["u"] * 51}).status == 413
    root = running(limited.root)
    assert (
        limited.root.call("POST", f"/v1/experiments/{root}/decide/batch", {"units": ["u"] * 51}).status == 200
    )


def test_there_is_an_end_to_experiments(limited: Limited) -> None:
    small = limited.of("small")
    with ThreadPoolExecutor(8) as callers:
        list(callers.map(lambda _: small.call("POST", "/v1/experiments", experiment()), range(8)))
    names = [each["id"] for each in small.call("GET", "/v1/experiments").body["experiments"]]
    assert 2 <= len(names) <= 3, "each of two workers creates one at a time"
    refused = small.call("POST", "/v1/experiments", experiment())
    problem = check_problem(refused, 429)
    assert problem["type"] == "urn:bandit-serve:problem:limit-reached"
    assert int(refused.headers["Retry-After"]) >= 1
    drafts = [
        name for name in names if small.call("GET", f"/v1/experiments/{name}").body["status"] == "draft"
    ]
    for name in drafts:
        assert small.call("DELETE", f"/v1/experiments/{name}").status == 204
    left = len(names) - len(drafts)
    for _ in range(2 - left):
        assert draft(small)
    assert draft(limited.of("free"))


def test_models_that_do_not_fit_take_no_traffic(limited: Limited, tmp_path: Path) -> None:
    small = limited.of("small")
    fits = save_model(tmp_path / "fits").read_bytes()
    too_large = save_model(tmp_path / "large", tuple([4.0, 2.0] * 400)).read_bytes()
    assert len(fits) < 2_000 < len(too_large)
    for version, model in {"v1": fits, "v2": too_large}.items():
        assert upload(small, "m", model, {"version": version}).status == 201
    path = "/v1/models/m/versions"
    assert small.call("POST", f"{path}/v1/status", {"status": "production"}).status == 200
    refused = small.call("POST", f"{path}/v2/status", {"status": "production"})
    assert "models may take" in check_problem(refused, 429)["detail"]
    assert small.call("POST", f"{path}/v2/load").status == 429
    assert small.call("GET", "/v1/models/m").body["production"] == "v1"
    assert upload(limited.of("free"), "m", too_large, {"version": "v2"}).status == 201
    assert limited.of("free").call("POST", f"{path}/v2/status", {"status": "production"}).status == 200


def test_many_refusals_slow_down_who_asked_for_them(limited: Limited) -> None:
    """Its connections wait, those of others do not: 150 refusals at once take seconds, as 50 a second are quick."""
    slow = limited.of("slow")
    while slow.call("GET", "/v1/experiments").status != 429:
        pass
    began_s = time.monotonic()
    with ThreadPoolExecutor(32) as callers:
        statuses = list(
            callers.map(lambda _: slow.call("POST", "/v1/rewards", {"rewards": []}).status, range(400))
        )
    assert set(statuses) == {429}
    assert time.monotonic() - began_s > 1.0, "at 100 a second for two workers, with 100 at once"
    assert limited.of("free").call("GET", "/v1/experiments").status == 200

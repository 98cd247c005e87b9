"""Simulator page: what `bandit-serve simulate` reports, bounded first, for everybody who may read."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlencode

import pytest
from browsers import Watched, chromium
from commands import bandit_serve
from http_calls import decide_many, reward_many, running
from services import ThrowawayService
from tenancy import make

WORLD = {
    "environment": {"kind": "bernoulli", "arms": [0.1, 0.3]},
    "policies": ["thompson", "fixed_split"],
    "horizon": 400,
    "seeds": 4,
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as launched:
        yield launched


def ask(service: ThrowawayService, key: str = "", **query: str) -> tuple[int, str]:
    """Status and HTML of the page."""
    headers = {"Accept": "text/html", **({"Authorization": f"Bearer {key}"} if key else {})}
    request = urllib.request.Request(f"{service.url}/simulator?{urlencode(query)}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=120) as response:
            return response.status, response.read().decode()
    except HTTPError as error:
        return error.code, error.read().decode()


def test_a_reader_simulates_what_the_command_reports(
    browser: Any, service: ThrowawayService, tmp_path: Path
) -> None:
    seen = Watched(browser)
    seen.page.goto(service.url + "/simulator")
    seen.page.get_by_label("Means of the arms").fill("0.1, 0.3")
    seen.page.get_by_label("Policies").fill("thompson fixed_split")
    seen.page.get_by_label("Decisions").fill("400")
    seen.page.get_by_label("Runs of each").fill("4")
    seen.page.get_by_role("button", name="Simulate").click()
    seen.page.locator("svg.chart").wait_for()
    described = tmp_path / "world.json"
    described.write_text(json.dumps(WORLD))
    report = bandit_serve("simulate", described, "--json").document
    assert json.loads(seen.page.locator("#world").input_value()) == WORLD
    for policy in report["policies"]:
        cell = seen.page.locator("tr", has_text=policy["name"]).locator("td").nth(1).inner_text()
        assert abs(float(cell.split("±")[0]) - policy["regret"]["mean"]) <= 0.05
    assert seen.said == []
    seen.close()


@pytest.mark.parametrize(
    ("world", "said"),
    [
        ({**WORLD, "horizon": 10**9}, "s of a core"),
        (
            {**WORLD, "environment": {"kind": "supervised", "csv": "/etc/passwd", "label": "x"}},
            "environment.kind",
        ),
        ({**WORLD, "policies": ["<img src=x>"]}, "&lt;img src=x&gt;"),
        ([1], "an object in JSON"),
    ],
)
def test_what_can_not_be_simulated_is_said_in_the_page(
    service: ThrowawayService, world: Any, said: str
) -> None:
    status, page = ask(service, world=json.dumps(world))
    assert status == 400
    assert said in page
    assert "svg" not in page.partition("<main")[2]


@pytest.mark.parametrize("text", ["[" * 3_000, "{", "x" * 4_001])
def test_what_is_no_description_is_refused(service: ThrowawayService, text: str) -> None:
    assert ask(service, world=text)[0] == 400


def test_it_begins_with_the_means_of_an_experiment(service: ThrowawayService) -> None:
    name = running(service)
    decided = decide_many(service, name, [f"u{k}" for k in range(200)])
    reward_many(service, decided["decision_ids"], [float(k % 4 == 0) for k in range(200)])
    status, page = ask(service, like=name)
    assert status == 200
    found = re.search(r"<textarea[^>]*>(.*?)</textarea>", page, re.S)
    assert found is not None
    world = json.loads(found[1].replace("&#34;", '"'))
    means = service.call("GET", "/v1/stats").body["experiments"][name]["means"]
    assert world["environment"]["kind"] == "bernoulli"
    assert world["environment"]["arms"] == pytest.approx(list(means.values()), rel=0.01)
    assert ask(service, like="none")[0] == 404


def test_it_needs_a_key_that_reads_and_tenants_have_it_too(tmp_path: Path) -> None:
    data = tmp_path / "d"
    keys = {
        "read": make(data, "--scope", "read").key,
        "serve": make(data, "--scope", "serve").key,
        "tenant": make(data, "--scope", "read", "--tenant", "shop").key,
    }
    with ThrowawayService(data) as service:
        world = json.dumps({**WORLD, "horizon": 50, "seeds": 1})
        assert ask(service, world=world)[0] == 401
        assert ask(service, keys["serve"], world=world)[0] == 403
        for key in (keys["read"], keys["tenant"]):
            status, page = ask(service, key, world=world)
            assert status == 200
            assert 'class="chart linear"' in page

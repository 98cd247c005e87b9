"""Page of an experiment in a browser: every number is that of `/results`, before and after new rewards."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from browsers import Watched, chromium
from http_calls import decide, decide_many, new_name, reward_many, running
from services import Answer, ThrowawayService
from stores import wait_until

from bandit_serve.dashboard.numbers import leaves

GUARDED = [
    {"name": "click", "kind": "binary"},
    {
        "name": "seconds",
        "kind": "continuous",
        "goal": "minimize",
        "role": "guardrail",
        "margin": {"absolute": 0.5},
    },
    {"name": "money", "kind": "continuous", "role": "secondary"},
]
CONTEXT = [
    {"name": "hour", "kind": "numeric"},
    {"name": "device", "kind": "categorical", "values": ["ios", "web"]},
]
TWELVE = [{"name": f"arm.{k}"} for k in range(12)]
KINDS: dict[str, dict[str, Any]] = {
    "fixed split": {},
    "Thompson": {"policy": {"kind": "thompson", "min_share": 0.05, "refresh": "50ms"}},
    "users": {"unit": "user"},
    "zero": {"attribution": {"window": "2s", "missing": "zero"}},
    "guardrails": {"metrics": GUARDED},
    "twelve arms": {"arms": TWELVE, "policy": {"kind": "thompson", "min_share": 0.01}},
    "several metrics": {
        "metrics": GUARDED,
        "policy": {"kind": "thompson", "min_share": 0.05, "refresh": "50ms"},
        "constraints": [{"metric": "seconds", "at_most": 2.9}, {"metric": "money", "at_least": 1.0}],
        "weights": {"money": 0.1},
    },
    "contextual": {"policy": {"kind": "lin_ts", "min_share": 0.05}, "context": CONTEXT},
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as launched:
        yield launched


def feed(service: ThrowawayService, name: str, chance: random.Random, n: int = 300) -> None:
    """Decides and rewards n times."""
    definition = service.call("GET", f"/v1/experiments/{name}").body
    if definition["context"]:
        for _ in range(n // 10):
            context = {"hour": chance.random(), "device": chance.choice(["ios", "web"])}
            token = decide(service, name, context=context)["decision_id"]
            reward_many(service, [token], [float(chance.random() < 0.3)])
        return
    columns = decide_many(service, name, [f"u{chance.random()}" for _ in range(n)])
    some = [token for token in columns["decision_ids"] if chance.random() < 0.8]
    reward_many(service, some, [float(chance.random() < 0.3) for _ in some])
    for metric in ("seconds", "money"):
        if any(each["name"] == metric for each in definition["metrics"]):
            rewards = [
                {"decision_id": token, "value": chance.gauss(3.0, 1.0), "metric": metric} for token in some
            ]
            assert service.call("POST", "/v1/rewards", {"rewards": rewards}).status == 200


def results(service: ThrowawayService, name: str, query: str = "") -> dict[str, Any]:
    """Values of a result by their paths, when the store has time for it."""
    answers: list[Answer] = []

    def is_there() -> bool:
        answers[:] = [service.call("GET", f"/v1/experiments/{name}/results{query}")]
        return answers[0].status != 503

    wait_until(is_there)
    assert answers[0].status == 200, answers
    return dict(leaves(answers[0].body))


def differs(seen: Watched, expected: dict[str, Any]) -> list[str]:
    """What of a result is not on the page as it is, or not once."""
    shown = seen.numbers()
    wrong = [f"{name} is on the page, and in no result" for name in shown if name not in expected]
    for name, value in expected.items():
        if name in ("as_of", "experiment"):
            continue
        if len(shown.get(name, ())) != 1:
            wrong.append(f"{name}: {shown.get(name)}")
            continue
        [(data, text)] = shown[name]
        if json.loads(data) != value or not is_rounded(text, value):
            wrong.append(f"{name}: {data}, shown as {text!r}, is {value!r}")
    return wrong


def follows(seen: Watched, expected: Callable[[], dict[str, Any]]) -> None:
    """Waits until a page has every number as it is in what is expected then."""
    wrong: list[str] = []

    def agrees() -> bool:
        wrong[:] = differs(seen, expected())
        return not wrong

    try:
        wait_until(agrees)
    except AssertionError as error:
        raise AssertionError(wrong[:5]) from error


def is_rounded(text: str, value: Any) -> bool:
    """Whether a text is a number as exactly as its digits say, or says what is no number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return bool(text)
    decimals = len(text.partition(".")[2].partition("e")[0])
    power = int(text.partition("e")[2] or 0)
    return abs(float(text) - value) <= 0.5000001 * 10.0 ** (power - decimals)


@pytest.mark.parametrize("kind", KINDS)
def test_every_number_is_that_of_the_results_and_follows(
    browser: Any, service: ThrowawayService, kind: str
) -> None:
    chance = random.Random(kind)
    name = running(service, id=new_name("page"), **KINDS[kind])
    feed(service, name, chance)
    seen = Watched(browser)
    seen.page.goto(f"{service.url}/experiments/{name}")
    follows(seen, lambda: results(service, name))
    seen.page.evaluate("window.notReloaded = true")
    n_before = results(service, name)[f"arms.{first_arm(service, name)}.exposures"]
    for _ in range(2):
        feed(service, name, chance)
    wait_until(lambda: results(service, name)[f"arms.{first_arm(service, name)}.exposures"] > n_before)
    follows(seen, lambda: results(service, name))
    assert seen.page.evaluate("window.notReloaded")
    assert seen.said == []
    assert {url for url in seen.asked if not url.startswith(service.url)} == set()
    seen.close()


def first_arm(service: ThrowawayService, name: str) -> str:
    return str(service.call("GET", f"/v1/experiments/{name}").body["arms"][0]["name"])


def test_what_decides_who_gets_which_arm_is_shown_where_the_policy_goes_by_the_context(
    browser: Any, service: ThrowawayService
) -> None:
    name = running(
        service, arms=TWELVE[:2], context=CONTEXT, dimensions=["device"],
        policy={"kind": "lin_ucb", "min_share": 0.3, "refresh": "50ms"},
    )  # fmt: skip
    seen = Watched(browser)
    seen.page.goto(f"{service.url}/experiments/{name}")
    assert seen.page.locator("#effects").count() == 0, "nothing was learned yet"
    chance = random.Random(5)
    for _ in range(4):
        contexts = [{"hour": chance.random(), "device": chance.choice(["ios", "web"])} for _ in range(200)]
        batch = {"units": [f"u{chance.random()}" for _ in contexts], "contexts": contexts}
        columns = service.call("POST", f"/v1/experiments/{name}/decide/batch", batch).body
        # The second arm is good on one device, and the hour says nothing.
        good = [
            float(chance.random() < (0.8 if arm == 1 and context["device"] == "ios" else 0.2))
            for arm, context in zip(columns["arms"], contexts, strict=True)
        ]
        reward_many(service, columns["decision_ids"], good)
    wait_until(lambda: results(service, name)["arms.arm.1.metrics.click.n"] > 200)
    wait_until(
        lambda: (
            bool(seen.page.goto(f"{service.url}/experiments/{name}"))
            and seen.page.locator("#effects").count() == 1
        )
    )
    table = service.call("GET", f"/experiments/{name}/table?of=effect")
    head, first, *_ = csv.reader(table.body.decode().splitlines())
    assert head == ["feature", "arm.0", "arm.1"]
    assert first[0] == "device = ios"
    assert float(first[2]) > float(first[1]) + 0.2
    drawn = service.call("GET", f"/experiments/{name}/picture?of=effect")
    assert "device = ios" in drawn.body.decode()
    seen.close()


def test_declared_segments_are_shown_and_follow(browser: Any, service: ThrowawayService) -> None:
    name = running(service, context=CONTEXT, dimensions=["device"], policy={"kind": "fixed_split"})
    feed(service, name, random.Random(1))
    seen = Watched(browser)
    seen.page.goto(f"{service.url}/experiments/{name}?by=device")

    follows(seen, lambda: results(service, name, "?by=device"))
    feed(service, name, random.Random(2))
    follows(seen, lambda: results(service, name, "?by=device"))
    seen.close()


def test_reading_needs_no_script(browser: Any, service: ThrowawayService) -> None:
    name = running(service)
    feed(service, name, random.Random(3))
    seen = Watched(browser, java_script_enabled=False)
    seen.page.goto(f"{service.url}/")
    seen.page.get_by_role("link", name=name, exact=True).click()
    assert seen.page.locator("h1").inner_text() == name
    expected = results(service, name)
    [share] = seen.page.locator('[data-name="arms.control.share"]').all()
    assert json.loads(str(share.get_attribute("data-value"))) == expected["arms.control.share"]
    assert seen.page.locator(".verdict .sentence").inner_text() == expected["reason"]
    seen.close()


def test_what_others_wrote_is_text(browser: Any, service: ThrowawayService) -> None:
    hostile = '<img src=x onerror="window.harmed=1"></script><script>window.harmed=1</script>{{7*7}}'
    name = running(
        service,
        owner=hostile,
        description=hostile,
        hypothesis=hostile,
        tags=[hostile[:64]],
        arms=[{"name": "control", "payload": {hostile: hostile}}, {"name": "challenger"}],
    )
    service.call("POST", f"/v1/experiments/{name}/pause", {"reason": hostile})
    seen = Watched(browser)
    for path in ("/", f"/experiments/{name}"):
        seen.page.goto(service.url + path)
        seen.page.get_by_text("live", exact=True).wait_for()
        assert seen.page.evaluate("window.harmed") is None
        assert seen.page.locator("main img").count() == 0
        assert seen.page.locator("main script").count() == 0
        assert "{{7*7}}" in seen.page.content()
    assert seen.said == []
    assert hostile in seen.page.inner_text("main")
    seen.close()


@pytest.mark.parametrize("path", ["/", "/experiments/NAME", "/models", "/service", "/new", "/login"])
def test_a_phone_scrolls_no_page_sideways(browser: Any, service: ThrowawayService, path: str) -> None:
    name = running(service, arms=TWELVE)
    feed(service, name, random.Random(4))
    seen = Watched(browser, viewport={"width": 390, "height": 800})
    seen.page.goto(service.url + path.replace("NAME", name))
    assert seen.page.evaluate("document.documentElement.scrollWidth") <= 390
    assert seen.said == []
    seen.close()

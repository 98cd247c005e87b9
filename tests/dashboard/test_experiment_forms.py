"""Forms of an experiment's page in a browser: they do what the API does, and say on the page what was refused."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browsers import Watched, chromium
from commands import bandit_serve
from http_calls import decide_many, draft, new_name, reward_many, running
from services import ThrowawayService
from stores import ThrowawayStore, wait_until

HOSTILE = '<img src=x onerror="window.harmed=1"></script><script>window.harmed=1</script>{{7*7}}'
THREE = [{"name": "control"}, {"name": "b", "payload": {"x": 1}}, {"name": "c"}]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as launched:
        yield launched


@pytest.fixture
def seen(browser: Any) -> Iterator[Watched]:
    watched = Watched(browser)
    yield watched
    watched.close()


def known(service: ThrowawayService, name: str) -> dict[str, Any]:
    return dict(service.call("GET", f"/v1/experiments/{name}").body)


def last_change(service: ThrowawayService, name: str) -> tuple[str, str | None, str | None]:
    entry = service.call("GET", f"/v1/experiments/{name}/history").body["history"][-1]
    return entry["what"], entry["arm"], entry["reason"]


def send(seen: Watched, do: str, button: str, reason: str) -> None:
    """Opens the form of a change, gives a reason and sends it."""
    form = seen.page.locator(f"#change-{do}")
    if form.get_attribute("open") is None:
        form.locator("summary").click()
    form.get_by_label("Reason").fill(reason)
    with seen.page.expect_navigation():
        form.get_by_role("button", name=button, exact=True).click()


def test_forms_do_what_the_api_does(seen: Watched, service: ThrowawayService) -> None:
    name = draft(service, arms=THREE, policy={"kind": "thompson"})
    page = seen.page
    page.goto(f"{service.url}/experiments/{name}")
    send(seen, "start", "Start", "go")
    assert (known(service, name)["status"], last_change(service, name)) == ("running", ("start", None, "go"))
    assert page.url == f"{service.url}/experiments/{name}#content"
    send(seen, "pause", "Pause", "lunch")
    assert (known(service, name)["status"], last_change(service, name)) == (
        "paused",
        ("pause", None, "lunch"),
    )
    send(seen, "start", "Resume", "lunch is over")
    assert known(service, name)["status"] == "running"
    page.locator("#change-arm_status summary").click()
    page.get_by_label("Arm", exact=True).select_option("c")
    send(seen, "arm_status", "Change the arm", "too slow")
    assert known(service, name)["arm_status"]["c"] == "paused"
    assert last_change(service, name) == ("pause_arm", "c", "too slow")
    page.locator("#change-arm_status summary").click()
    page.get_by_label("Arm", exact=True).select_option("c")
    page.get_by_label("What", exact=True).select_option("remove")
    send(seen, "arm_status", "Change the arm", "for good")
    assert known(service, name)["arm_status"]["c"] == "removed"
    page.locator("#change-arm summary").click()
    fields = page.locator("#change-arm")
    fields.get_by_label("Name").fill("d")
    fields.get_by_label("Ramp from a share of").fill("0.05")
    fields.get_by_label("over", exact=True).fill("30m")
    assert json.loads(fields.get_by_label("Arm as JSON").input_value()) == {
        "name": "d",
        "ramp": {"from": 0.05, "over": "30m"},
    }
    send(seen, "arm", "Add the arm", "another idea")
    ramp = known(service, name)["ramps"]["d"]
    assert (ramp["from"], ramp["over"]) == (0.05, "30m")
    page.locator("#change-stop summary").click()
    page.get_by_label("Winner").select_option("b")
    send(seen, "stop", "Stop for good", "b it is")
    stopped = known(service, name)
    assert (stopped["status"], stopped["winner"]) == ("stopped", "b")
    assert last_change(service, name) == ("stop", None, "b it is")
    assert page.locator("#change form").count() == 0
    assert seen.said == []


def test_a_preview_is_what_the_shares_become(seen: Watched, service: ThrowawayService) -> None:
    name = running(service, policy={"kind": "fixed_split"})
    columns = decide_many(service, name, [f"u{i}" for i in range(400)])
    reward_many(
        service,
        columns["decision_ids"],
        [float(arm == 1 and i % 3 > 0) for i, arm in enumerate(columns["arms"])],
    )
    page = seen.page
    page.goto(f"{service.url}/experiments/{name}")
    page.locator("#change-policy summary").click()
    page.get_by_label("Policy as JSON").fill('{"kind": "thompson", "min_share": 0.1}')
    page.get_by_role("button", name="What do the shares become?").click()
    previewed = {
        str(each.get_attribute("data-preview")): float(str(each.get_attribute("data-value")))
        for each in page.locator("[data-preview]").all()
    }
    assert known(service, name)["policy"]["kind"] == "fixed_split", "nothing has changed yet"
    assert previewed["challenger"] > 0.85
    send(seen, "policy", "Change the policy", "it learns")
    assert known(service, name)["policy"] == {
        **known(service, name)["policy"],
        "kind": "thompson",
        "min_share": 0.1,
    }
    assert last_change(service, name)[2] == "it learns"

    def shares() -> dict[str, float]:
        body = service.call("GET", f"/v1/experiments/{name}/results").body
        return {arm["name"]: arm["share"] for arm in body["arms"]}

    wait_until(lambda: shares() == pytest.approx(previewed, abs=1e-6))


def test_a_form_writes_the_experiment_of_the_api(seen: Watched, service: ThrowawayService) -> None:
    page, name = seen.page, new_name("made")
    page.goto(f"{service.url}/new")
    page.get_by_label("Name", exact=True).fill(name)
    page.get_by_label("Arms, the first is control").fill("a, b, c")
    page.locator('[data-json="policy.kind"]').select_option("fixed_split")
    page.get_by_label("Objective").fill("sale")
    page.get_by_label("Window").fill("2h")
    written = json.loads(page.get_by_label("JSON").input_value())
    page.get_by_role("button", name="Make a draft").click()
    page.wait_for_url(f"{service.url}/experiments/{name}")
    made = known(service, name)
    assert (
        [arm["name"] for arm in made["arms"]] == ["a", "b", "c"] == [arm["name"] for arm in written["arms"]]
    )
    assert (made["status"], made["metrics"][0]["name"], made["attribution"]["window"]) == (
        "draft",
        "sale",
        "2h",
    )
    page.goto(f"{service.url}/new")
    page.get_by_label("JSON").fill(json.dumps({**written, "unit": "planet"}))
    page.get_by_role("button", name="Make a draft").click()
    assert "unit" in page.get_by_role("alert").inner_text()
    assert json.loads(page.get_by_label("JSON").input_value())["unit"] == "planet"


def test_what_is_refused_is_said_and_kept(seen: Watched, service: ThrowawayService) -> None:
    name = running(service, arms=THREE, policy={"kind": "thompson"})
    page = seen.page
    page.goto(f"{service.url}/experiments/{name}")
    page.locator("#change-policy summary").click()
    page.get_by_label("Policy as JSON").fill('{"kind": "thompson", "min_share": 0.9}')
    send(seen, "policy", "Change the policy", "more of it")
    assert "min_share" in page.get_by_role("alert").first.inner_text()
    assert page.get_by_label("Policy as JSON").input_value() == '{"kind": "thompson", "min_share": 0.9}'
    assert page.locator("#policy-reason").input_value() == "more of it"
    assert known(service, name)["revision"] == 2


def test_a_change_by_another_is_said_before_and_after_a_form_is_sent(
    seen: Watched, service: ThrowawayService
) -> None:
    name = running(service)
    page = seen.page
    page.goto(f"{service.url}/experiments/{name}")
    page.get_by_text("live", exact=True).wait_for()
    assert not page.locator("[data-stale]").is_visible()
    service.call("POST", f"/v1/experiments/{name}/arms/challenger/pause", {"reason": "by another"})
    page.locator("[data-stale]").wait_for(state="visible")
    send(seen, "pause", "Pause", "mine")
    assert known(service, name)["status"] == "running"
    assert "by another" in page.inner_text("main")
    alert = page.get_by_role("alert").first
    assert re.search("changed|revision", alert.inner_text())
    assert page.locator("#pause-reason").input_value() == "mine"
    send(seen, "pause", "Pause", "mine, again")
    assert known(service, name)["status"] == "paused"


def test_forms_of_a_second_experiment_of_a_name_work(seen: Watched, service: ThrowawayService) -> None:
    name = draft(service)
    assert service.call("DELETE", f"/v1/experiments/{name}").status == 204
    draft(service, id=name)
    seen.page.goto(f"{service.url}/experiments/{name}")
    send(seen, "start", "Start", "the second")
    assert known(service, name)["status"] == "running"


def test_hostile_reasons_and_forms_are_text(seen: Watched, service: ThrowawayService) -> None:
    name = running(service, arms=THREE, policy={"kind": "thompson"})
    page = seen.page
    page.goto(f"{service.url}/experiments/{name}")
    page.locator("#change-policy summary").click()
    page.get_by_label("Policy as JSON").fill(HOSTILE)
    send(seen, "policy", "Change the policy", HOSTILE)
    assert page.get_by_label("Policy as JSON").input_value() == HOSTILE
    assert page.locator("#policy-reason").input_value() == HOSTILE
    page.goto(f"{service.url}/experiments/{name}")
    send(seen, "pause", "Pause", HOSTILE)
    page.get_by_text("live", exact=True).wait_for()
    assert last_change(service, name)[2] == HOSTILE
    assert HOSTILE in page.locator(".history").inner_text()
    assert page.evaluate("window.harmed") is None
    assert page.locator("main img, main script").count() == 0


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ThrowawayService, dict[str, Any]]]:
    data = tmp_path_factory.mktemp("forms") / "d"
    keys = {
        name: bandit_serve("keys", "create", "--scope", scope, "--data", data, "--json").document
        for name, scope in (("admin", "admin"), ("passing", "admin"), ("read", "read"))
    }
    with ThrowawayService(data) as service:
        yield service, keys


def admin_call(
    service: ThrowawayService, keys: dict[str, Any], method: str, path: str, body: Any = None
) -> Any:
    answer = service.call(method, path, body, {"Authorization": f"Bearer {keys['admin']['key']}"})
    assert answer.status < 300, answer
    return answer.body


def sign_in(seen: Watched, service: ThrowawayService, key: str, path: str) -> None:
    seen.page.goto(service.url + path)
    seen.page.get_by_label("Key").fill(key)
    seen.page.get_by_role("button", name="Sign in").click()
    seen.page.wait_for_url(service.url + path)


def test_only_an_admin_has_forms_and_no_page_has_the_key(
    seen: Watched, keyed: tuple[ThrowawayService, dict[str, Any]]
) -> None:
    service, keys = keyed
    name = new_name("scoped")
    definition = {
        "id": name,
        "arms": [{"name": "a"}, {"name": "b"}],
        "metrics": [{"name": "m", "kind": "binary"}],
        "attribution": {"missing": "zero"},
    }
    admin_call(service, keys, "POST", "/v1/experiments", definition)
    path = f"/experiments/{name}"
    for holder, forms in (("read", False), ("admin", True)):
        seen.context.clear_cookies()
        sign_in(seen, service, keys[holder]["key"], path)
        assert (seen.page.locator("#change").count() > 0) is forms
        assert keys[holder]["key"] not in seen.page.content()
        stored = seen.page.evaluate(
            "JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie])"
        )
        assert stored == '[{},{},""]'


def test_a_session_that_ended_says_so_and_leads_back(
    seen: Watched, keyed: tuple[ThrowawayService, dict[str, Any]]
) -> None:
    service, keys = keyed
    name = new_name("ended")
    definition = {
        "id": name,
        "arms": [{"name": "a"}, {"name": "b"}],
        "metrics": [{"name": "m", "kind": "binary"}],
        "attribution": {"missing": "zero"},
    }
    admin_call(service, keys, "POST", "/v1/experiments", definition)
    path, page = f"/experiments/{name}", seen.page
    sign_in(seen, service, keys["passing"]["key"], path)
    page.get_by_text("live", exact=True).wait_for()
    admin_call(service, keys, "DELETE", f"/v1/keys/{keys['passing']['id']}")
    page.get_by_text("Signed out").wait_for()
    send(seen, "start", "Start", "too late")
    assert "Nothing was changed" in page.get_by_role("alert").inner_text()
    assert admin_call(service, keys, "GET", f"/v1{path}")["status"] == "draft"
    page.get_by_label("Key").fill(keys["admin"]["key"])
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(service.url + path)
    send(seen, "start", "Start", "in time")
    assert admin_call(service, keys, "GET", f"/v1{path}")["status"] == "running"


def test_a_store_that_is_away_is_said_on_the_page(seen: Watched) -> None:
    page = seen.page
    with (
        ThrowawayStore(tcp=True) as store,
        tempfile.TemporaryDirectory() as data,
        ThrowawayService(Path(data), store=store.url) as service,
    ):
        name = running(service)
        page.goto(f"{service.url}/experiments/{name}")
        page.get_by_text("live", exact=True).wait_for()
        store.kill()
        page.get_by_text("The store is not available now").first.wait_for()
        send(seen, "pause", "Pause", "meanwhile")
        assert "not available" in page.get_by_role("alert").first.inner_text()
        store.start()
        wait_until(lambda: service.call("GET", "/health/ready").body["status"] == "ready")
        page.get_by_role("link", name="Back to the page").click()
        page.get_by_text("live", exact=True).wait_for()
        send(seen, "pause", "Pause", "it is back")
        assert known(service, name)["status"] == "paused"

"""Registry at work: search, comparison, retention, shadows, and promotions under load."""

import contextlib
import json
import threading
import time
import urllib.request

import pytest
from commands import bandit_serve
from http_calls import check_problem, new_name, running, upload
from scale import scaled
from services import ThrowawayService
from stores import wait_until

from bandit_serve.models import Popularity


def popularity(tmp_path, likes):
    """A model in which item `i` has so many ratings."""
    path = tmp_path / "m.safetensors"
    Popularity().fit(["u"] * (likes + 1), ["i"] * likes + ["j"], [1.0] * (likes + 1)).save(path)
    return path.read_bytes()


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with ThrowawayService(tmp_path_factory.mktemp("data"), workers=2) as running_service:
        yield running_service


def registered(service, tmp_path, n, base=0):
    model = new_name("model")
    for number in range(1, n + 1):
        about = {"version": f"v{number}", "metrics": {"rmse": 1 / number}, "metadata": {"number": number}}
        assert upload(service, model, popularity(tmp_path, base + number), about).status == 201
    return model


def move(service, model, version, status):
    return service.call("POST", f"/v1/models/{model}/versions/{version}/status", {"status": status})


def test_versions_are_found_page_by_page(service, tmp_path):
    model = registered(service, tmp_path, 5)
    path = f"/v1/models/{model}/versions"
    body = service.call("GET", f"{path}?status=staged&metric=rmse%3C0.6&sort=rmse&limit=2").body
    assert [one["version"] for one in body["versions"]] == ["v5", "v4"]
    assert body["total"] == 4
    body = service.call("GET", f"{path}?metric=rmse%3C0.6&sort=rmse&limit=2&after={body['after']}").body
    assert [one["version"] for one in body["versions"]] == ["v3", "v2"]
    assert body["after"] is None
    for wrong in ("limit=x", "limit=0", "metric=rmse", "color=red", "limit=9999999"):
        check_problem(service.call("GET", f"{path}?{wrong}"), 400)
    check_problem(service.call("GET", "/v1/models/none/versions"), 404)


def test_two_versions_are_compared(service, tmp_path):
    model = registered(service, tmp_path, 2)
    body = service.call("GET", f"/v1/models/{model}/compare?a=v1&b=v2").body
    assert body["metrics"] == {"rmse": -0.5}
    assert body["size"] == 0
    assert body["age_s"] <= 0
    assert body["a"]["version"] == "v1"
    check_problem(service.call("GET", f"/v1/models/{model}/compare?a=v1"), 400)
    check_problem(service.call("GET", f"/v1/models/{model}/compare?a=v1&b=v9"), 404)
    ran = bandit_serve("models", "compare", model, "v1", "v2", "--data", service.data)
    assert "rmse" in ran.out
    assert "-0.5" in ran.out
    listed = bandit_serve("models", "versions", model, "--metric", "rmse<0.6", "--data", service.data)
    assert "v2" in listed.out
    assert "1 of 1" in listed.out


def test_workers_say_what_they_have_in_memory(service, tmp_path):
    model = registered(service, tmp_path, 1)
    path = f"/v1/models/{model}/versions/v1/load"
    assert service.call("GET", path).body == {"model": model, "version": "v1", "workers": []}
    assert move(service, model, "v1", "production").status == 200
    wait_until(lambda: len(service.call("GET", path).body["workers"]) == 2)


def test_retention_removes_only_what_nothing_needs(service, tmp_path):
    # Files that no other test's models share.
    model = registered(service, tmp_path, 6, base=100)
    name = running(
        service,
        arms=[{"name": "a", "model": model, "version": "v1"}, {"name": "b", "model": model, "version": "v6"}],
    )
    for number in (1, 2, 3, 4, 5):
        assert move(service, model, f"v{number}", "production").status == 200
    # v1 is an arm, v4 is where a rollback goes, v5 is in production, v6 is staged: v2 and v3 may go.
    args = ("models", "prune", "--keep", "0", "--data", service.data)
    document = bandit_serve(*args, "--dry-run", "--json").document
    assert {one["version"] for one in document if one["model"] == model} == {"v2", "v3"}
    assert "Removed" in bandit_serve(*args).out
    shown = {one["version"]: one for one in service.call("GET", f"/v1/models/{model}").body["versions"]}
    assert shown["v2"]["pruned"] is shown["v3"]["pruned"] is True
    assert "pruned" not in shown["v4"]
    ask = {"user_id": "u", "item_id": "i"}
    check_problem(service.call("POST", f"/v1/models/{model}/versions/v2/predict", ask), 409)
    check_problem(move(service, model, "v2", "staged"), 409)
    assert service.call("POST", f"/v1/models/{model}/rollback").body["production"] == "v4"
    assert service.call("POST", f"/v1/experiments/{name}/predict", ask).status == 200
    for version in ("v1", "v4", "v5", "v6"):
        assert service.call("POST", f"/v1/models/{model}/versions/{version}/predict", ask).status == 200
    examined = bandit_serve("doctor", "--json", "--data", service.data)
    artifacts = [check for check in examined.document["checks"] if check["name"] == "artifacts"]
    assert [check["verdict"] for check in artifacts] == ["ok"]


def test_shadows_score_beside_and_answer_nothing(service, tmp_path):
    model = registered(service, tmp_path, 3)
    assert move(service, model, "v1", "production").status == 200
    assert move(service, model, "v3", "shadow").status == 200
    name = running(
        service,
        arms=[{"name": "a", "model": model, "version": "v2"}, {"name": "b", "model": model, "version": "v2"}],
    )
    for _ in range(30):
        ask = {"user_id": "u", "item_id": "i"}
        assert service.call("POST", f"/v1/models/{model}/predict", ask).body["prediction"] == 1.0
        assert service.call("POST", f"/v1/experiments/{name}/predict", ask).body["prediction"] == 2.0
        ranked = service.call("POST", f"/v1/models/{model}/predict", {"user_id": "u", "k": 2}).body
        assert len(ranked["items"]) == 2
        many = {"user_id": "u", "item_ids": ["i", "j"]}
        assert service.call("POST", f"/v1/experiments/{name}/predict", many).body["predictions"] == [2.0, 1.0]
    path = f"/v1/models/{model}/versions/v3/agreement"
    wait_until(lambda: service.call("GET", path).body["requests"] == 120)
    body = service.call("GET", path).body
    assert (body["scores"], body["rankings"], body["dropped"], body["failed"]) == (120, 30, 0, 0)
    # i: 3 − 1 and 3 − 2 (twice), j: 1 − 1.
    assert body["mean_difference"] == pytest.approx((30 * 2 + 60 * 1 + 0) / 120)
    assert body["overlap"] == 1.0
    assert body["mean_latency_ms"] > 0
    assert "mean difference" in bandit_serve("models", "agreement", model, "v3", "--data", service.data).out
    check_problem(service.call("GET", f"/v1/models/{model}/versions/v9/agreement"), 404)


def test_promotions_and_rollbacks_under_load_fail_no_request(service, tmp_path):
    model = registered(service, tmp_path, 4)
    assert move(service, model, "v1", "production").status == 200
    ended, failures, answered = threading.Event(), [], []

    def ask_on():
        body = json.dumps({"user_id": "u", "item_id": "i"}).encode()
        url = f"{service.url}/v1/models/{model}/predict"
        while not ended.is_set():
            request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
            try:
                with urllib.request.urlopen(request, timeout=60) as response:
                    answered.append(json.load(response)["prediction"])
            except OSError as error:
                failures.append(repr(error))

    threads = [threading.Thread(target=ask_on) for _ in range(4)]
    for thread in threads:
        thread.start()
    now, former = 1, []
    try:
        for turn in range(scaled(6, 50)):
            if turn % 5 == 4 and former:
                wanted = former.pop()
                assert service.call("POST", f"/v1/models/{model}/rollback").body["production"] == f"v{wanted}"
            else:
                wanted = now % 4 + 1
                with contextlib.suppress(AssertionError):
                    assert move(service, model, f"v{wanted}", "staged").status == 200
                assert move(service, model, f"v{wanted}", "production").status == 200
                former = [one for one in former if one != wanted] + [now]
            now, since = wanted, time.monotonic()
            # Whatever worker answers, it is the new version; new connections meet either of the two.
            for _ in range(10):
                asked = service.call("POST", f"/v1/models/{model}/predict", {"user_id": "u", "item_id": "i"})
                assert asked.status == 200
                assert (asked.body["model_version"], asked.body["prediction"]) == (f"v{now}", float(now))
            assert time.monotonic() - since < 5
    finally:
        ended.set()
        for thread in threads:
            thread.join(20)
    assert failures == []
    assert len(answered) > 50
    assert set(answered) <= {1.0, 2.0, 3.0, 4.0}

"""Remote versions over HTTP: registered, asked, failing, hanging, refused, shadowed; and what the service measures."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from commands import bandit_serve
from graphs import arithmetic
from http_calls import check_problem, decide, new_name, running, upload
from services import Answer, ThrowawayService
from stores import wait_until
from upstreams import ThrowawayUpstream

from bandit_serve.errors import UpstreamFailed

LATENCY = {"name": "latency_ms", "kind": "continuous", "goal": "minimize", "source": "served"}
ERROR = {"name": "error", "kind": "binary", "goal": "minimize", "source": "served"}
CLICK = {"name": "click", "kind": "binary"}
TIMEOUT_S = 0.5
PATIENCE_S = 60.0
TOKEN = "t0ken-of-the-upstream"


Pair = tuple[ThrowawayUpstream, ThrowawayUpstream]


@pytest.fixture(scope="module")
def both() -> Iterator[Pair]:
    with ThrowawayUpstream(0.25) as a, ThrowawayUpstream(0.75) as b:
        yield a, b


@pytest.fixture(scope="module")
def service(both: Pair, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThrowawayService]:
    with serving(tmp_path_factory.mktemp("data"), *both) as service:
        yield service


@pytest.fixture
def pair(both: Pair) -> Pair:
    """Two upstreams that are well and were asked nothing."""
    for upstream in both:
        upstream.reset()
    return both


def serving(data: Path, *upstreams: ThrowawayUpstream, **options: Any) -> ThrowawayService:
    return ThrowawayService(data, "--upstreams", ",".join(each.base for each in upstreams), **options)


def register(
    service: ThrowawayService, model: str, upstream: ThrowawayUpstream, version: str = "v1", **remote: Any
) -> Answer:
    described = {"url": upstream.url, "protocol": "json", "timeout": f"{TIMEOUT_S * 1000:.0f}ms", **remote}
    return service.call("POST", f"/v1/models/{model}/versions", {"version": version, "remote": described})


def experiment_of(
    service: ThrowawayService, upstreams: Pair, timeout: str = f"{TIMEOUT_S * 1000:.0f}ms", **fields: Any
) -> str:
    """Running experiment whose arms a and b are asked at two upstreams."""
    model = new_name("m")
    for name, upstream in zip("ab", upstreams, strict=True):
        registered = register(service, model, upstream, name, timeout=timeout)
        assert registered.status == 201, registered
    arms = [{"name": name, "model": model, "version": name} for name in "ab"]
    about = {"metrics": [CLICK, LATENCY, ERROR], "attribution": {"missing": "ignore", "window": "1h"}}
    return running(service, arms=arms, **{**about, **fields})


def predict(service: ThrowawayService, name: str, i: int = 0, **body: Any) -> Answer:
    asked = body or {"user_id": f"u{i}", "item_id": "i"}
    return service.call("POST", f"/v1/experiments/{name}/predict", asked)


def test_outputs_by_name_are_refused_for_all_arms_or_left_out(service: ThrowawayService, pair: Pair) -> None:
    remote, graph = new_name("m"), new_name("m")
    assert register(service, remote, pair[0]).status == 201
    assert upload(service, graph, arithmetic("Sum", 1)).status == 201
    arms = [{"name": name, "model": name, "version": "v1"} for name in (remote, graph)]
    name = running(service, arms=arms, control=remote)

    def infer(n: int, *wanted: str) -> Answer:
        asked: dict[str, Any] = {
            "inputs": [{"name": "a", "shape": [n], "datatype": "FP64", "data": [1.5] * n}]
        }
        if wanted:
            asked["outputs"] = [{"name": each} for each in wanted]
        return service.call("POST", f"/v2/models/{name}/infer", asked)

    for wanted in ("label", "nothing"):
        assert [infer(1, wanted).status for _ in range(12)] == [400] * 12
    answers = [infer(1, "prediction") for _ in range(16)]
    assert {
        (answer.status, answer.body["parameters"]["arm"], *(each["name"] for each in answer.body["outputs"]))
        for answer in answers
    } == {(200, remote), (200, graph, "prediction")}
    many = infer(40)
    assert (many.status, many.body["outputs"]) == (200, [])
    assert set(many.body["parameters"]["arms"]) == {remote, graph}
    wait_until(lambda: exposures_of(service, name) == 56)


def exposures_of(service: ThrowawayService, name: str) -> int:
    results = service.call("GET", f"/v1/experiments/{name}/results").body
    return sum(arm["exposures"] for arm in results["arms"])


def metrics_of(service: ThrowawayService, name: str, n: int) -> dict[str, dict[str, Any]]:
    """Metrics of each arm, when n exposures are in the log."""
    wait_until(lambda: exposures_of(service, name) >= n)
    shown = service.call("GET", f"/v1/experiments/{name}/results").body
    return {arm["name"]: {**arm["metrics"], "exposures": arm["exposures"]} for arm in shown["arms"]}


@pytest.mark.parametrize("form", ["json", "multipart"])
@pytest.mark.parametrize("protocol", ["json", "open-inference"])
def test_a_remote_version_is_registered_shown_and_asked(
    pair: Pair, service: ThrowawayService, form: str, protocol: str
) -> None:
    upstream, model = pair[0], new_name("m")
    url = upstream.url if protocol == "json" else upstream.base + "/"
    remote = {"url": url, "protocol": protocol, "timeout": "2s"}
    metadata = {"version": "a", "remote": remote, "metrics": {"auc": 0.8}, "metadata": {"by": "team"}}
    if form == "json":
        made = service.call("POST", f"/v1/models/{model}/versions", metadata)
    else:
        made = upload(service, model, None, metadata)
    assert made.status == 201, made
    assert made.body["remote"] == {**remote, "model": None, "headers": {}}
    assert (made.body["family"], made.body["sha256"], made.body["size"]) == ("remote", "", 0)
    assert made.body["metrics"] == {"auc": 0.8}
    path = f"/v1/models/{model}/versions/a"
    assert service.call("GET", path).body == made.body
    listed = service.call("GET", f"/v1/models/{model}/versions?family=remote").body["versions"]
    assert listed == [made.body]
    assert service.call("POST", f"{path}/load").body == {"model": model, "version": "a", "loaded": True}
    assert upstream.readiness == (protocol == "open-inference")
    assert service.call("POST", f"{path}/status", {"status": "production"}).status == 200
    for asked, expected in (
        ({"user_id": "u", "item_id": "i"}, {"prediction": 0.25}),
        ({"user_id": "u", "item_ids": ["a", "b"]}, {"predictions": [0.25, 1.25]}),
        ({"user_id": "u", "k": 1, "exclude": ["i0"]}, {"items": [{"item_id": "i1"}]}),
        ({"features": {"x": 1.0}}, {"outputs": {"label": "yes", "probabilities": [0.25, 0.75]}}),
    ):
        answer = service.call("POST", f"/v1/models/{model}/predict", asked)
        assert answer.status == 200, answer
        for field, value in expected.items():
            got = answer.body[field]
            if field == "items":
                got = [{"item_id": item["item_id"]} for item in got]
            assert got == value
        assert answer.body["model_version"] == "a"


@pytest.mark.parametrize(
    ("remote", "at"),
    [
        ({"url": "http://127.0.0.1:1/", "protocol": "json"}, "remote.url"),
        ({"url": "http://169.254.169.254/latest", "protocol": "json"}, "remote.url"),
        ({"url": "BASE.evil.example/", "protocol": "json"}, "remote.url"),
        ({"url": "BASE/%2e%2e/x", "protocol": "json"}, "remote.url"),
        ({"url": "BASE", "protocol": "grpc"}, "remote.protocol"),
        ({"url": "BASE"}, "remote.protocol"),
        ({"protocol": "json"}, "remote.url"),
        ({"url": "BASE", "protocol": "json", "timeout": "soon"}, "remote.timeout"),
        ({"url": "BASE", "protocol": "json", "timeout": "2h"}, "remote.timeout"),
        ({"url": "BASE", "protocol": "json", "retry": 3}, "remote.retry"),
        ({"url": "BASE", "protocol": "json", "headers": {"A": TOKEN}}, "remote.headers.A"),
        ({"url": "BASE", "protocol": "json", "headers": {"Host": "env:A"}}, "remote.headers.Host"),
    ],
)
def test_a_remote_version_that_is_refused_says_where(
    service: ThrowawayService, pair: Pair, remote: dict[str, Any], at: str
) -> None:
    upstream = pair[0]
    described = {
        name: value.replace("BASE", upstream.base) if name == "url" else value
        for name, value in remote.items()
    }
    answer = service.call("POST", "/v1/models/refused/versions", {"remote": described})
    problem = check_problem(answer, 400, at)
    assert TOKEN not in str(problem)
    assert service.call("GET", "/v1/models/refused").status == 404


def test_a_version_is_a_file_or_remote(service: ThrowawayService, pair: Pair) -> None:
    upstream = pair[0]
    remote = {"remote": {"url": upstream.url, "protocol": "json"}}
    check_problem(upload(service, "both", b"x", remote), 400, "metadata.remote")
    check_problem(upload(service, "none", None, {"version": "v1"}), 400, "artifact")
    check_problem(service.call("POST", "/v1/models/none/versions", {"version": "v1"}), 415)


def test_one_hangs_and_then_fails_and_no_caller_sees_it(pair: Pair, service: ThrowawayService) -> None:
    """Both are asked by several clients at a time, through what each of the two modes brings."""
    failing, healthy = pair
    name = experiment_of(service, pair)
    seen: list[tuple[Answer, float]] = []

    def ask(i: int) -> tuple[Answer, float]:
        began_s = time.perf_counter()
        answer = predict(service, name, i)
        return answer, time.perf_counter() - began_s

    with ThreadPoolExecutor(4) as clients:
        seen += clients.map(ask, range(200))
        for mode in ("500", "hang"):
            failing.mode = mode
            before = failing.n_asked
            seen += clients.map(ask, range(200))
            # Those that were under way when the first failed, one a client, fail with it.
            assert failing.n_asked - before <= 4
            if mode != "hang":
                failing.mode = "good"
                wait_until(lambda: not stats_of(service, name)["ejected"])
    answers = [answer for answer, _ in seen]
    assert [answer.status for answer in answers if answer.status != 200] == []
    durations = sorted(seconds for _, seconds in seen)
    # One that hangs never answers. A busy machine takes its time, too.
    assert durations[math.ceil(0.99 * len(durations)) - 1] < TIMEOUT_S + PATIENCE_S
    assert durations[-1] < 2 * TIMEOUT_S + PATIENCE_S
    served = {arm: sum(answer.body["arm"] == arm for answer in answers) for arm in "ab"}
    metrics = metrics_of(service, name, failing.n_asked + healthy.n_asked)
    assert served == {"a": failing.answered, "b": healthy.answered}
    for arm, upstream in (("a", failing), ("b", healthy)):
        failures = upstream.n_asked - upstream.answered
        assert metrics[arm]["exposures"] == metrics[arm]["error"]["n"] == upstream.n_asked
        assert metrics[arm]["error"]["mean"] == pytest.approx(failures / upstream.n_asked)
        assert metrics[arm]["latency_ms"]["n"] == upstream.n_asked
    assert metrics["a"]["error"]["mean"] > 0.0 == metrics["b"]["error"]["mean"]
    # Of all decisions, those of failed attempts included: each was drawn with the probability that is logged.
    n_drawn, expected, variance = _drawn(answers, failing.n_asked - failing.answered)
    assert abs(n_drawn - expected) < 4.5 * math.sqrt(variance) + 1e-9


def stats_of(service: ThrowawayService, name: str) -> dict[str, Any]:
    """What one experiment's statistics say."""
    shown = service.call("GET", "/v1/stats").body["experiments"][name]
    return {"ejected": shown["ejected"]}


def _drawn(answers: list[Answer], n_failed: int) -> tuple[int, float, float]:
    """Number of times that b was drawn, and the mean and the variance of that by the logged propensities.

    A failed attempt at a was drawn with a propensity of one half; what is answered has its own.
    """
    chances = [
        answer.body["propensity"] if answer.body["arm"] == "b" else 1.0 - answer.body["propensity"]
        for answer in answers
    ]
    chances += [0.5] * n_failed
    n_drawn = sum(answer.body["arm"] == "b" for answer in answers)
    return n_drawn, sum(chances), sum(chance * (1.0 - chance) for chance in chances)


@pytest.mark.parametrize("mode", ["500", "hang"])
def test_a_failing_upstream_is_asked_once_and_then_left_out(
    pair: Pair, service: ThrowawayService, mode: str
) -> None:
    failing, _ = pair
    failing.mode = mode
    name = experiment_of(service, pair)
    answers = [predict(service, name, i) for i in range(30)]
    assert {answer.status for answer in answers} == {200}
    assert {answer.body["arm"] for answer in answers} == {"b"}
    assert failing.n_asked == 1
    assert answers[-1].body["propensity"] == 1.0
    metrics = metrics_of(service, name, 31)
    assert (metrics["a"]["exposures"], metrics["a"]["error"]["mean"]) == (1, 1.0)
    assert (metrics["b"]["exposures"], metrics["b"]["error"]["mean"]) == (30, 0.0)
    waited_ms = metrics["a"]["latency_ms"]["mean"]
    assert waited_ms > 1000 * TIMEOUT_S - 20 if mode == "hang" else waited_ms < 1000 * TIMEOUT_S


def test_without_served_metrics_only_what_was_served_is_logged(pair: Pair, service: ThrowawayService) -> None:
    failing, _ = pair
    failing.mode = "500"
    name = experiment_of(service, pair, metrics=[CLICK])
    assert {predict(service, name, i).body["arm"] for i in range(20)} == {"b"}
    metrics = metrics_of(service, name, 20)
    assert (metrics["a"]["exposures"], metrics["b"]["exposures"]) == (0, 20)


def test_where_all_fail_the_caller_gets_an_error_and_the_attempts_are_logged(
    pair: Pair, service: ThrowawayService
) -> None:
    for upstream in pair:
        upstream.mode = "500"
    name = experiment_of(service, pair)
    answer = predict(service, name)
    problem = check_problem(answer, 503)
    assert problem["detail"].startswith("The upstream of ")
    assert "Retry-After" in answer.headers
    metrics = metrics_of(service, name, 2)
    for arm in "ab":
        assert (metrics[arm]["exposures"], metrics[arm]["error"]["mean"]) == (1, 1.0)


@pytest.mark.parametrize("mode", ["hang", "drip", "reset", "closed", "huge", "redirect", "nan", "many"])
def test_the_only_arm_of_an_experiment_may_fail_in_every_way(
    service: ThrowawayService, pair: Pair, mode: str
) -> None:
    upstream = pair[0]
    model = new_name("m")
    upstream.mode = "good"
    assert register(service, model, upstream, timeout="100ms").status == 201
    name = running(service, arms=[{"name": "a", "model": model, "version": "v1"}], metrics=[CLICK, ERROR])
    upstream.mode = mode
    try:
        problem = check_problem(predict(service, name), 503)
        assert problem["detail"].startswith(f"The upstream of {model} v1 ")
        assert "secret" not in str(problem)
        assert str(upstream.port) not in str(problem)
    finally:
        upstream.mode = "good"
    assert predict(service, name).status == 200


@pytest.mark.parametrize("mode", ["400", "422"])
def test_content_that_one_upstream_refuses_is_asked_of_the_other(
    pair: Pair, service: ThrowawayService, mode: str
) -> None:
    """Whose content is wrong can not be known from one answer, and one caller must not take an arm from all."""
    refusing, healthy = pair
    name = experiment_of(service, pair)
    for i in range(40):
        refusing.mode = mode if i % 4 == 0 else "good"
        assert predict(service, name, i).status == 200
    assert stats_of(service, name)["ejected"] == []
    metrics = metrics_of(service, name, refusing.n_asked + healthy.n_asked)
    n_refused = refusing.n_asked - refusing.answered
    assert metrics["a"]["error"]["mean"] * metrics["a"]["error"]["n"] == pytest.approx(n_refused)
    assert healthy.answered + refusing.answered == 40
    refusing.mode = healthy.mode = mode
    check_problem(predict(service, name), 400)
    assert stats_of(service, name)["ejected"] == []
    model = service.call("GET", f"/v1/experiments/{name}").body["arms"][0]["model"]
    asked = {"user_id": "u", "item_id": "i"}
    healthy.mode = "good"
    assert service.call("POST", f"/v1/models/{model}/versions/b/predict", asked).status == 200
    healthy.mode = mode
    check_problem(service.call("POST", f"/v1/models/{model}/versions/b/predict", asked), 400)


def test_refusals_of_one_callers_content_take_the_arm_from_nobody(
    pair: Pair, service: ThrowawayService
) -> None:
    """They are counted, and said to the operator."""
    refusing, _ = pair
    name = experiment_of(service, pair)
    before = content_refusals(service)
    refusing.mode = "422"
    assert {predict(service, name, i).status for i in range(60)} == {200}
    assert refusing.n_asked > 10
    assert stats_of(service, name)["ejected"] == []
    assert content_refusals(service) - before == refusing.n_asked
    wait_until(lambda: any(f"the arm a of {name}" in line and "422" in line for line in service.output))
    refusing.mode = "good"
    assert "a" in {predict(service, name, i).body["arm"] for i in range(30)}


def content_refusals(service: ThrowawayService) -> float:
    name = "bandit_serve_content_refusals_total"
    text = service.call("GET", "/metrics").body.decode()
    return float(next(line.split()[1] for line in text.splitlines() if line.startswith(f"{name} ")))


def test_where_one_refuses_the_content_and_the_other_fails_the_caller_may_try_again(
    pair: Pair, service: ThrowawayService
) -> None:
    pair[0].mode, pair[1].mode = "422", "500"
    for _ in range(6):
        check_problem(predict(service, experiment_of(service, pair)), 503)


def test_a_full_queue_of_ours_is_no_failure_of_the_arm(pair: Pair, service: ThrowawayService) -> None:
    """Requests that find no place go to the other arm; nobody is left out, and no error is counted."""
    crowded, _ = pair
    shares = {"kind": "fixed_split", "shares": {"a": 0.99, "b": 0.01}}
    name = experiment_of(service, pair, timeout="20s", policy=shares)
    crowded.delay_s = 0.3
    n_batches, n_rows = 8, 64
    asked = {"requests": [{"unit": f"u{i}", "item_id": "i"} for i in range(n_rows)]}
    path = f"/v1/experiments/{name}/predict/batch"
    with ThreadPoolExecutor(n_batches) as threads:
        answers = list(threads.map(lambda _: service.call("POST", path, asked), range(n_batches)))
    arms = [each.get("arm") for answer in answers for each in answer.body["responses"]]
    assert set(arms) == {"a", "b"}
    assert 320 <= arms.count("a") < n_batches * n_rows - 64, "more than the other arm's own share went there"
    assert stats_of(service, name)["ejected"] == []
    metrics = metrics_of(service, name, len(arms))
    for arm in "ab":
        assert metrics[arm]["exposures"] == arms.count(arm)
        assert metrics[arm]["error"]["mean"] == 0.0


def test_rows_of_one_request_do_not_wait_for_each_other(pair: Pair, service: ThrowawayService) -> None:
    model, n = new_name("m"), 700
    register(service, model, pair[0], timeout="2s")
    pair[0].delay_s = 0.05
    service.call("POST", f"/v1/models/{model}/versions/v1/status", {"status": "production"})
    name = running(service, arms=[{"name": "a", "model": model, "version": "v1"}])
    tensor = {"name": "x", "datatype": "FP64", "shape": [n], "data": [1.0] * n}
    for asked in (model, name):
        answer = service.call("POST", f"/v2/models/{asked}/infer", {"inputs": [tensor]})
        assert answer.status == 200, answer
    rows = {"requests": [{"unit": f"u{i}", "features": {"x": 1.0}} for i in range(n)]}
    batch = service.call("POST", f"/v1/experiments/{name}/predict/batch", rows).body["responses"]
    assert {each.get("arm") for each in batch} == {"a"}
    assert pair[0].answered == 3 * n


def test_an_arm_that_did_not_get_its_time_has_no_error(pair: Pair, service: ThrowawayService) -> None:
    hanging, slow = pair
    hanging.mode, slow.delay_s = "hang", 0.4
    model = new_name("m")
    for version, upstream, timeout in (
        ("a", hanging, "500ms"),
        ("b", hanging, "300ms"),
        ("c", slow, "500ms"),
    ):
        register(service, model, upstream, version, timeout=timeout)
    for _ in range(5):
        name = running(
            service,
            arms=[{"name": each, "model": model, "version": each} for each in "abc"],
            policy={"kind": "fixed_split", "shares": {"a": 0.49, "b": 0.49, "c": 0.02}},
            metrics=[CLICK, LATENCY, ERROR],
            attribution={"missing": "ignore", "window": "1h"},
        )
        answer = predict(service, name)
        if answer.status == 503:
            break
    assert answer.body["detail"] == "No arm answered within the request's time."
    metrics = metrics_of(service, name, 2)
    assert [metrics[arm]["exposures"] for arm in "abc"] == [1, 1, 0]
    assert [metrics[arm]["error"]["n"] for arm in "abc"] == [1, 1, 0]
    assert "c" not in stats_of(service, name)["ejected"]


def test_a_question_of_too_many_values_is_refused_before_anything_is_drawn(
    pair: Pair, service: ThrowawayService
) -> None:
    model = new_name("m")
    register(service, model, pair[0], "a")
    register(service, model, pair[0], "b", url=pair[0].base, protocol="open-inference")
    name = running(service, arms=[{"name": each, "model": model, "version": each} for each in "ab"])
    asked = {"user_id": "u", "item_ids": [f"i{i}" for i in range(5_000)], "features": [0.5] * 5_000}
    for _ in range(10):
        problem = check_problem(predict(service, name, **asked), 413)
        assert "at most 100000 values in all rows, and 5000 x 5000 are more" in problem["detail"]
    batch = service.call("POST", f"/v1/experiments/{name}/predict/batch", {"requests": [asked] * 2})
    assert [each["status"] for each in batch.body["responses"]] == [413, 413]
    check_problem(service.call("POST", f"/v1/models/{model}/versions/b/predict", asked), 413)
    assert pair[0].n_asked == 0
    small = {**asked, "features": [0.5] * 19}
    assert predict(service, name, **small).status == 200
    logged = [metrics["exposures"] for metrics in metrics_of(service, name, 1).values()]
    assert sorted(logged) == [0, 1], "exposures are logged in their order: none came before"


@pytest.mark.parametrize("mode", ["deepest", "deep_aside", "beyond_float"])
def test_whatever_an_answer_holds_the_other_arm_answers(
    pair: Pair, service: ThrowawayService, mode: str
) -> None:
    strange, other = pair
    strange.mode = mode
    name = experiment_of(service, pair)
    asked = {"requests": [{"unit": f"u{i}", "item_id": "i"} for i in range(20)]}
    batch = service.call("POST", f"/v1/experiments/{name}/predict/batch", asked).body["responses"]
    assert {each.get("arm") for each in batch} == {"b"}
    other.mode = mode
    check_problem(predict(service, name), 503)


def test_a_version_behind_an_upstream_is_ready_when_that_says_so(
    pair: Pair, service: ThrowawayService
) -> None:
    model = new_name("m")
    register(service, model, pair[0], url=pair[0].base, protocol="open-inference")
    service.call("POST", f"/v1/models/{model}/versions/v1/status", {"status": "production"})
    name = running(service, arms=[{"name": "a", "model": model, "version": "v1"}])
    paths = [f"/v2/models/{each}/ready" for each in (model, f"{model}/versions/v1", name)]
    for mode, status in (("good", 200), ("unready", 503), ("unknown", 503), ("hang", 503), ("good", 200)):
        pair[0].mode = mode
        for path in paths:
            began_s = time.monotonic()
            assert service.call("GET", path).status == status, (mode, path)
            assert time.monotonic() - began_s < TIMEOUT_S + 2.0


def test_entries_of_a_batch_are_asked_at_once(pair: Pair, service: ThrowawayService) -> None:
    name = experiment_of(service, pair)
    for upstream in pair:
        upstream.delay_s = 0.1
    asked = [{"user_id": f"u{i}", "item_id": "i"} for i in range(50)] + [{"user_id": "", "item_id": "i"}]
    began_s = time.perf_counter()
    answer = service.call("POST", f"/v1/experiments/{name}/predict/batch", {"requests": asked})
    assert time.perf_counter() - began_s < 50 * 0.1
    responses = answer.body["responses"]
    values = {"a": 0.25, "b": 0.75}
    assert [each["prediction"] == values[each["arm"]] for each in responses[:50]] == [True] * 50
    assert responses[50]["status"] == 400
    metrics = metrics_of(service, name, 50)
    for arm in "ab":
        assert 100.0 <= metrics[arm]["latency_ms"]["mean"] < 2000.0


def test_shadows_mirror_to_upstreams_after_the_answer(pair: Pair, service: ThrowawayService) -> None:
    live, shadow = pair
    register(service, "s", live, "live")
    register(service, "s", shadow, "shadow")
    for version, status in (("live", "production"), ("shadow", "shadow")):
        path = f"/v1/models/s/versions/{version}/status"
        assert service.call("POST", path, {"status": status}).status == 200
    shadow.delay_s = 0.05
    for i in range(20):
        answer = service.call("POST", "/v1/models/s/predict", {"user_id": f"u{i}", "item_id": "i"})
        assert answer.body["prediction"] == 0.25
    path = "/v1/models/s/versions/shadow/agreement"
    wait_until(lambda: service.call("GET", path).body["requests"] == 20)
    agreement = service.call("GET", path).body
    assert (agreement["failed"], shadow.answered) == (0, 20)
    shadow.mode, shadow.delay_s = "hang", 0.0
    began_s = time.perf_counter()
    for i in range(20):
        assert (
            service.call("POST", "/v1/models/s/predict", {"user_id": f"u{i}", "item_id": "i"}).status == 200
        )
    assert time.perf_counter() - began_s < 20 * TIMEOUT_S, "nobody waits for a shadow"
    wait_until(lambda: service.call("GET", path).body["failed"] == 20)


def test_a_shadow_that_answers_anything_stops_no_other(pair: Pair, service: ThrowawayService) -> None:
    live, shadow = pair
    for model in ("odd", "even"):
        register(service, model, live, "live")
        service.call("POST", f"/v1/models/{model}/versions/live/status", {"status": "production"})
        register(service, model, shadow, "shadow")
        service.call("POST", f"/v1/models/{model}/versions/shadow/status", {"status": "shadow"})

    def ask(model: str) -> None:
        answer = service.call("POST", f"/v1/models/{model}/predict", {"user_id": "u", "item_id": "i"})
        assert answer.status == 200

    def agreement(model: str) -> Any:
        return service.call("GET", f"/v1/models/{model}/versions/shadow/agreement").body

    shadow.mode = "deepest"
    ask("odd")
    wait_until(lambda: agreement("odd")["failed"] == 1)
    shadow.mode = "good"
    ask("even")
    wait_until(lambda: agreement("even")["scores"] == 1)
    assert service.call("GET", "/v1/stats").body["workers"]
    assert not any("the shadows failed" in line for line in service.output)


def test_served_metrics_come_from_no_client(pair: Pair, service: ThrowawayService) -> None:
    name = experiment_of(service, pair, attribution={"missing": "zero", "window": "500ms"})
    tokens = [predict(service, name, i).body["decision_id"] for i in range(8)]
    tokens += [decide(service, name)["decision_id"] for _ in range(8)]
    for metric in ("latency_ms", "error"):
        reward = {"decision_id": tokens[0], "value": 1, "metric": metric}
        check_problem(service.call("POST", "/v1/rewards", reward), 400, "metric")
        many = service.call("POST", "/v1/rewards", {"rewards": [reward]})
        assert many.body["verdicts"] == ["invalid"]
    assert service.call("POST", "/v1/rewards", {"decision_id": tokens[0], "value": 1}).status == 200

    def counted() -> dict[str, int]:
        metrics = metrics_of(service, name, 16)
        return {m: sum(metrics[arm][m]["n"] for arm in "ab") for m in ("click", "latency_ms", "error")}

    wait_until(lambda: counted()["click"] == 16)
    assert counted() == {"click": 16, "latency_ms": 8, "error": 8}


def test_secrets_of_upstreams_are_shown_nowhere(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN_OF_MODELS", f"Bearer {TOKEN}")
    secret = tmp_path / "secret"
    secret.write_text(f"{TOKEN}-file\n")
    headers = {"Authorization": "env:TOKEN_OF_MODELS", "X-Key": f"file:{secret}"}
    with serving(tmp_path / "data", *pair) as service:
        assert register(service, "m", pair[0], headers=headers).body["remote"]["headers"] == headers
        assert register(service, "m", pair[1], "v2", headers={"X-A": "env:NOT_SET_ANYWHERE"}).status == 201
        path = "/v1/models/m/versions/v1"
        asked = {"user_id": "u", "item_id": "i"}
        answers = [service.call("POST", f"{path}/predict", asked)]
        assert answers[0].status == 200
        sent = pair[0].asked[-1].headers
        assert (sent["Authorization"], sent["X-Key"]) == (f"Bearer {TOKEN}", f"{TOKEN}-file")
        for mode in ("500", "401", "closed", "text", "redirect"):
            pair[0].mode = mode
            answers.append(service.call("POST", f"{path}/predict", asked))
        answers.append(service.call("POST", "/v1/models/m/versions/v2/predict", asked))
        assert {answer.status for answer in answers[1:]} == {503}
        pages = ("/v1/models", "/v1/models/m", path, "/v1/models/m/versions", "/openapi.json", "/v1/stats")
        answers += [service.call("GET", page) for page in (*pages, "/metrics", "/")]
        command = bandit_serve("models", "show", "m", "v1", "--data", service.data)
        assert "env:TOKEN_OF_MODELS" in command.out
        for text in (str(answers), "".join(service.output), command.out + command.err):
            assert TOKEN not in text
        log = [path.read_bytes() for path in (tmp_path / "data").rglob("*") if path.is_file()]
        assert not any(TOKEN.encode() in content for content in log)


def test_an_upstream_that_is_away_at_the_start_comes_back(pair: Pair, tmp_path: Path) -> None:
    absent, _ = pair
    with serving(tmp_path, *pair) as service:
        model = new_name("m")
        for name, upstream in zip("ab", pair, strict=True):
            remote = {"url": upstream.base, "protocol": "open-inference", "model": "there"}
            body = {"version": name, "remote": remote}
            assert service.call("POST", f"/v1/models/{model}/versions", body).status == 201
        arms = [{"name": name, "model": model, "version": name} for name in "ab"]
        name = running(service, arms=arms, metrics=[CLICK, ERROR])
        assert predict(service, name).status == 200
    absent.mode = "unready"
    with serving(tmp_path, *pair) as service:
        assert {predict(service, name, i).body["arm"] for i in range(20)} == {"b"}
        health = service.call("GET", "/health/ready").body
        assert health["status"] == "degraded"
        assert f"{model} a" in health["reasons"][0]["detail"]
        check_problem(service.call("POST", f"/v1/models/{model}/versions/a/load"), 503)
        absent.mode = "good"
        wait_until(lambda: service.call("GET", "/health/ready").body["status"] == "ready")
        wait_until(lambda: predict(service, name, 0).body["arm"] == "a")


def test_what_the_operator_no_longer_allows_is_not_called(pair: Pair, tmp_path: Path) -> None:
    with serving(tmp_path, *pair) as service:
        name = experiment_of(service, pair)
        assert predict(service, name).status == 200
    before = pair[0].n_asked
    with serving(tmp_path, pair[1]) as service:
        assert {predict(service, name, i).body["arm"] for i in range(20)} == {"b"}
        assert pair[0].n_asked == before
    with ThrowawayService(tmp_path) as service:
        problem = check_problem(predict(service, name), 409)
        assert "setting upstreams" in problem["detail"]


def test_the_command_line_registers_upstreams(pair: Pair, tmp_path: Path) -> None:
    data, upstream = tmp_path / "data", pair[0]
    flags = ["--data", data, "--upstreams", upstream.base]
    made = bandit_serve(
        "models", "register", "m", "--remote", upstream.base, "--remote-model", "there", "--timeout", "1s",
        "--header", "Authorization=env:TOKEN", "--json", *flags,
    )  # fmt: skip
    assert made.status == 0, made.err
    assert made.document["remote"] == {
        "url": upstream.base,
        "protocol": "open-inference",
        "model": "there",
        "timeout": "1s",
        "headers": {"Authorization": "env:TOKEN"},
    }
    shown = bandit_serve("models", "show", "m", "v1", "--data", data)
    for words in (upstream.base, "open-inference", "there", "Authorization from env:TOKEN"):
        assert words in shown.out
    for wrong, words in (
        (["--remote", "http://evil"], "setting upstreams"),
        (["--remote", upstream.base, "--timeout", "soon"], "remote.timeout"),
        ([], "--remote URL"),
    ):
        refused = bandit_serve("models", "register", "m", *wrong, *flags)
        assert refused.status != 0
        assert words in refused.err, refused.err
    assert upstream.asked == []


def test_failures_are_said_to_the_operator_but_not_for_each_request(pair: Pair, tmp_path: Path) -> None:
    for upstream in pair:
        upstream.mode = "500"
    with serving(tmp_path, *pair) as service:
        name = experiment_of(service, pair)
        for i in range(30):
            assert predict(service, name, i).status == 503
        wait_until(lambda: any("answered with the status 500" in line for line in service.output))
        lines = [line for line in service.output if "answered with the status 500" in line]
        assert 2 <= len(lines) <= 10
        assert not any("Traceback" in line for line in service.output)


def test_the_error_of_an_upstream_is_one_of_ours() -> None:
    assert UpstreamFailed("x").retry_after_s == 1.0


@pytest.mark.parametrize("protocol", ["json", "open-inference"])
def test_open_inference_hands_a_remote_version_its_own_tensors(tmp_path: Path, protocol: str) -> None:
    inputs = [{"name": "x", "datatype": "FP64", "shape": [-1]}]
    with ThrowawayUpstream(0.25, inputs) as upstream, serving(tmp_path / "data", upstream) as service:
        url = upstream.url if protocol == "json" else upstream.base
        assert register(service, "m", upstream, url=url, protocol=protocol, timeout="5s").status == 201
        service.call("POST", "/v1/models/m/versions/v1/status", {"status": "production"})
        experiment = running(service, arms=[{"name": "a", "model": "m", "version": "v1"}])
        told = protocol == "open-inference"
        for name in ("m", experiment):
            about = service.call("GET", f"/v2/models/{name}").body
            unit = {"name": "unit", "datatype": "BYTES", "shape": [-1]}
            assert about["inputs"] == (inputs if told else []) + ([unit] if name == experiment else [])
            assert [each["name"] for each in about["outputs"]] == (["probabilities", "label"] if told else [])
            asked = {"inputs": [{"name": "x", "datatype": "FP64", "shape": [3], "data": [1.0, 2.0, 3.0]}]}
            answer = service.call("POST", f"/v2/models/{name}/infer", asked)
            assert answer.status == 200, answer
            outputs = {each["name"]: each for each in answer.body["outputs"]}
            assert outputs["label"]["data"] == ["yes"] * 3
            assert outputs["probabilities"]["shape"] == [3, 2]
            drawn = answer.body.get("parameters", {}).get("decision_ids", [])
            assert len(set(drawn)) == (3 if name == experiment else 0)


X = {"name": "x", "datatype": "FP64", "shape": [-1]}


def tensor(name: str, datatype: str, shape: list[int], data: list[Any]) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, "data": data}


# Of one tensor: what the metadata declare, what an answer to one row has, and what two rows are answered here, asked by
# the version's own name and as an arm.
TENSORS = [
    (("FP32", [-1, 1]), ("FP32", [1, 1], [0.5]), ("FP32", [2, 1], 0.5), ("FP64", [2], 0.5)),
    (("FP32", [-1]), ("FP32", [1], [1]), ("FP32", [2], 1), ("FP64", [2], 1)),
    (("FP16", [-1]), ("FP16", [1, 1], [0.5]), ("FP16", [2], 0.5), ("FP64", [2], 0.5)),
    (("BF16", [-1]), ("BF16", [1], [0.5]), ("FP32", [2], 0.5), ("FP64", [2], 0.5)),
    (("INT32", [1, 1]), ("INT32", [1, 1], [7]), ("INT32", [2, 1], 7), ("INT64", [2], 7)),
    (("INT64", [-1]), ("INT64", [1], [7.0]), ("INT64", [2], 7), ("INT64", [2], 7)),
    (("UINT8", [1]), ("UINT8", [1], [7]), ("UINT8", [2], 7), ("INT64", [2], 7)),
    (("BOOL", [-1, 1]), ("BOOL", [1, 1], [True]), ("BOOL", [2, 1], True), ("BOOL", [2], True)),
    (("BYTES", [-1, 1]), ("BYTES", [1, 1], ["a"]), ("BYTES", [2, 1], "a"), ("BYTES", [2], "a")),
    # What does not fit is answered in the datatype that does.
    (("FP32", [-1]), ("FP64", [1], [1e39]), ("FP64", [2], 1e39), ("FP64", [2], 1e39)),
    (("INT8", [-1]), ("INT32", [1], [300]), ("INT64", [2], 300), ("INT64", [2], 300)),
    (("INT64", [-1]), ("FP64", [1], [0.5]), ("FP64", [2], 0.5), ("FP64", [2], 0.5)),
    (("FP32", [-1]), ("BYTES", [1], ["a"]), ("BYTES", [2], "a"), ("BYTES", [2], "a")),
    (("BOOL", [-1]), ("INT64", [1], [1]), ("INT64", [2], 1), ("INT64", [2], 1)),
]
PREDICTIONS = [
    (("FP32", [-1, 1]), ("FP32", [1, 1], [0.5]), ("FP32", [2, 1], 0.5), ("FP64", [2], 0.5)),
    (("INT64", [-1]), ("INT64", [1], [7]), ("INT64", [2], 7), ("FP64", [2], 7.0)),
    (("INT8", [-1]), ("INT32", [1], [300]), ("FP64", [2], 300.0), ("FP64", [2], 300.0)),
]


@pytest.mark.parametrize(
    ("output", "declared", "given", "answered", "as_arm"),
    [*(("y", *case) for case in TENSORS), *(("prediction", *case) for case in PREDICTIONS)],
)
def test_a_remote_version_answers_in_the_datatypes_that_it_declares(
    declared_upstream: tuple[ThrowawayUpstream, ThrowawayService],
    output: str,
    declared: Any,
    given: Any,
    answered: Any,
    as_arm: Any,
) -> None:
    upstream, service = declared_upstream
    upstream.outputs = [{"name": output, "datatype": declared[0], "shape": declared[1]}]
    upstream.tensors = [tensor(output, *given)]
    model = new_name("m")
    assert register(service, model, upstream, url=upstream.base, protocol="open-inference").status == 201
    service.call("POST", f"/v1/models/{model}/versions/v1/status", {"status": "production"})
    name = running(service, arms=[{"name": "a", "model": model, "version": "v1"}])
    fits = declared[0] == answered[0] or declared[0] == "BF16"
    for each, (datatype, shape, value) in ((model, answered), (name, as_arm)):
        asked = {"inputs": [{**X, "shape": [2], "data": [1.0, 2.0]}]}
        answer = service.call("POST", f"/v2/models/{each}/infer", asked)
        assert answer.status == 200, answer
        assert answer.body["outputs"] == [tensor(output, datatype, shape, [value] * 2)]
        assert type(answer.body["outputs"][0]["data"][0]) is type(value) or datatype.startswith("FP")
        about = service.call("GET", f"/v2/models/{each}").body["outputs"]
        if fits:
            assert about == [{"name": output, "datatype": datatype, "shape": [-1, *shape[1:]]}]
        binary = service.call(
            "POST", f"/v2/models/{each}/infer", {**asked, "parameters": {"binary_data_output": True}}
        )
        assert binary.status == 200
        length = int(binary.headers["Inference-Header-Content-Length"])
        (head,) = json.loads(binary.body[:length])["outputs"]
        assert (head["datatype"], head["shape"]) == (datatype, shape)


@pytest.fixture(scope="module")
def declared_upstream(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[ThrowawayUpstream, ThrowawayService]]:
    with (
        ThrowawayUpstream(inputs=[X]) as upstream,
        serving(tmp_path_factory.mktemp("data"), upstream) as service,
    ):
        upstream.mode = "given"
        yield upstream, service


def test_an_input_that_a_remote_version_lacks_is_named(
    declared_upstream: tuple[ThrowawayUpstream, ThrowawayService],
) -> None:
    upstream, service = declared_upstream
    upstream.inputs = [{**X, "shape": [-1, 3]}]
    upstream.outputs, upstream.tensors = [{**X, "name": "y"}], [tensor("y", "FP64", [1], [0.5])]
    model = new_name("m")
    assert register(service, model, upstream, url=upstream.base, protocol="open-inference").status == 201
    before = upstream.n_asked
    z = tensor("z", "FP64", [2, 3], [0.5] * 6)
    user = tensor("user_id", "BYTES", [2], ["u", "v"])
    for inputs in ([z], [z, user], [tensor("z", "FP64", [2], [0.5] * 2)], [user]):
        refused = service.call("POST", f"/v2/models/{model}/versions/v1/infer", {"inputs": inputs})
        assert refused.status == 400
        assert "'x'" in refused.body["error"]
        assert ("'z'" in refused.body["error"]) == (inputs != [user])
    assert upstream.n_asked == before
    given = {"inputs": [{**z, "name": "x"}, user]}
    answer = service.call("POST", f"/v2/models/{model}/versions/v1/infer", given)
    assert answer.body["outputs"] == [tensor("y", "FP64", [2], [0.5] * 2)]
    upstream.inputs = [X]


def test_inputs_of_several_columns_stand_beside_others(
    declared_upstream: tuple[ThrowawayUpstream, ThrowawayService],
) -> None:
    upstream, service = declared_upstream
    given = [
        tensor("x", "FP32", [1, 3], [0.5, 1.0, 1.5]),
        tensor("age", "INT32", [1, 1], [7]),
        tensor("tags", "BYTES", [1, 2], ["a", "b"]),
    ]
    upstream.inputs = [
        {"name": each["name"], "datatype": each["datatype"], "shape": [-1, *each["shape"][1:]]}
        for each in given
    ]
    upstream.outputs, upstream.tensors = [{**X, "name": "y"}], [tensor("y", "FP64", [1], [0.5])]
    model = new_name("m")
    assert register(service, model, upstream, url=upstream.base, protocol="open-inference").status == 201
    path = f"/v2/models/{model}/versions/v1/infer"
    answer = service.call("POST", path, {"inputs": given})
    assert answer.status == 200, answer
    assert upstream.asked[-1].body["inputs"] == given
    for i, each in enumerate(given):
        renamed = [*given[:i], {**each, "name": "z"}, *given[i + 1 :]]
        refused = service.call("POST", path, {"inputs": renamed})
        assert refused.status == 400
        assert repr(each["name"]) in refused.body["error"]
        assert "'z'" in refused.body["error"]
    upstream.inputs = [X]


def test_users_of_a_remote_version_may_be_numbers(
    declared_upstream: tuple[ThrowawayUpstream, ThrowawayService],
) -> None:
    upstream, service = declared_upstream
    upstream.inputs = [
        {"name": "user_id", "datatype": "INT64", "shape": [-1, 1]},
        {"name": "item_id", "datatype": "BYTES", "shape": [-1]},
        {"name": "unit", "datatype": "BYTES", "shape": [-1]},
    ]
    upstream.outputs, upstream.tensors = [{**X, "name": "y"}], [tensor("y", "FP64", [1], [0.5])]
    model = new_name("m")
    assert register(service, model, upstream, url=upstream.base, protocol="open-inference").status == 201
    item, unit = (tensor(name, "BYTES", [1], ["i"]) for name in ("item_id", "unit"))
    given = {"inputs": [tensor("user_id", "INT64", [1, 1], [7]), item, unit]}
    answer = service.call("POST", f"/v2/models/{model}/versions/v1/infer", given)
    assert answer.status == 200, answer
    sent = {each["name"]: each for each in upstream.asked[-1].body["inputs"]}
    assert sent == {each["name"]: each for each in given["inputs"]}
    upstream.inputs = [X]


def test_a_graph_behind_another_service_is_the_prediction_that_it_is_here(tmp_path: Path) -> None:
    """So it is where a deployment answers for a version: its arm stays what it was."""
    with ThrowawayService(tmp_path / "far") as far:
        assert upload(far, "sums", arithmetic()).status == 201
        far.call("POST", "/v1/models/sums/versions/v1/status", {"status": "production"})
        with ThrowawayService(tmp_path / "near", "--upstreams", far.url) as service:
            remote = {"url": far.url, "protocol": "open-inference", "model": "sums", "timeout": "5s"}
            body = {"version": "v1", "remote": remote}
            assert service.call("POST", "/v1/models/m/versions", body).status == 201
            asked = {"features": {"a": 1.5, "b": 2.0}}
            answer = service.call("POST", "/v1/models/m/versions/v1/predict", asked).body
            assert (answer["prediction"], "outputs" in answer) == (3.5, False)
            about = service.call("GET", "/v2/models/m/versions/v1").body
            assert about["outputs"] == [{"name": "score", "datatype": "FP32", "shape": [-1, 1]}]
            inputs = {"inputs": [tensor(name, "FP32", [1, 1], [1.5]) for name in "ab"]}
            (output,) = service.call("POST", "/v2/models/m/versions/v1/infer", inputs).body["outputs"]
            assert output == tensor("score", "FP32", [1, 1], [3.0])
            name = running(service, arms=[{"name": "a", "model": "m", "version": "v1"}])
            (output,) = service.call("POST", f"/v2/models/{name}/infer", inputs).body["outputs"]
            assert output == tensor("prediction", "FP64", [1], [3.0])

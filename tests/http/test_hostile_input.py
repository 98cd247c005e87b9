"""Bad input for all routes: it is refused, no worker fails or dies, and the log stays readable.

5,000 requests by default; 20,000 with BANDIT_SERVE_TEST_SCALE=full in the environment.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
from bad_requests import BadRequestGrammar, packed
from http_calls import decide_many, draft, experiment, running, upload
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from raw_http import RawAnswer, send_all
from services import ThrowawayService

from bandit_serve.models import MatrixFactorization
from bandit_serve.server.routes import ROUTES

N_REQUESTS = 20_000 if os.environ.get("BANDIT_SERVE_TEST_SCALE") == "full" else 5_000
WORDS = [
    "id", "arms", "name", "model", "version", "payload", "metrics", "kind", "goal", "role", "low", "high",
    "control", "unit", "policy", "shares", "min_share", "attribution", "window", "missing", "stopping",
    "alpha", "winner", "reason", "decision_id", "value", "metric", "rewards", "requests", "units",
    "user_id", "item_id", "item_ids", "k", "exclude", "status", "metadata", "binary", "bounded", "thompson",
    "fixed_split", "user", "request", "zero", "ignore", "production", "1h", "a",
]  # fmt: skip
KINDS = [
    {"name": "m", "kind": "binary"},
    {"name": "m", "kind": "bounded", "low": 0.1, "high": 0.3, "goal": "minimize"},
    {"name": "m", "kind": "continuous"},
    {"name": "m", "kind": "count"},
]
KINDS_DEFINED = [{field: value for field, value in kind.items() if field != "name"} for kind in KINDS]
POLICIES = [
    {"kind": "fixed_split", "shares": {"control": 1, "challenger": 3}},
    {"kind": "thompson"},
    {"kind": "ucb1"},
]

INFERENCE = {
    "inputs": [
        {"name": "user_id", "shape": [2], "datatype": "BYTES", "data": ["u1", "u2"]},
        {"name": "item_id", "shape": [2, 1], "datatype": "BYTES", "data": [["i1"], ["i2"]]},
        {"name": "hour", "shape": [2], "datatype": "FP32", "data": [1, 2.5]},
    ],
    "outputs": [{"name": "prediction", "parameters": {"binary_data": True}}],
}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThrowawayService]:
    flags = ("--body-timeout", "1s", "--max-body", "3000000")
    with ThrowawayService(tmp_path_factory.mktemp("data"), *flags, workers=2) as running:
        yield running


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("model") / "m.safetensors"
    users, items = [f"u{i % 9}" for i in range(99)], [f"i{i % 11}" for i in range(99)]
    MatrixFactorization(n_factors=2, seed=1, n_epochs=2).fit(
        users, items, [float(i % 5) for i in range(99)]
    ).save(path)
    return path.read_bytes()


@pytest.fixture(scope="module")
def grammar(service: ThrowawayService, artifact: bytes) -> BadRequestGrammar:
    model = "ranker"
    for _ in range(3):
        assert upload(service, model, artifact).status == 201
    arms = [
        {"name": "control", "model": model, "version": "v1"},
        {"name": "challenger", "model": model, "version": "v2"},
    ]
    names, tokens, experiments = [], [], []
    for metric in KINDS:
        for policy in POLICIES:
            for unit in ("user", "request"):
                for missing in ("ignore", "zero"):
                    body = experiment(
                        arms=arms,
                        metrics=[metric, {"name": "other", "kind": "continuous"}],
                        policy=policy,
                        unit=unit,
                        attribution={"missing": missing, "window": "2s"},
                        stopping={"min_samples": 10, "alpha": 0.05},
                    )
                    made = service.call("POST", "/v1/experiments", body)
                    assert made.status in (201, 400, 501)
                    if made.status == 201:
                        names.append(body["id"])
                        assert service.call("POST", f"/v1/experiments/{body['id']}/start").status == 200
                        tokens += decide_many(service, body["id"], [f"u{i}" for i in range(30)])[
                            "decision_ids"
                        ]
                    experiments.append(body)
    assert len(names) > 12
    names += [draft(service), running(service)]
    ask = {"user_id": "u1", "unit": "u2", "eligible": ["control"], "context": {}}
    ways: list[dict[str, Any]] = [{"item_id": "i1"}, {"item_ids": ["i1", "i2"]}, {"k": 3, "exclude": ["i1"]}]
    rewards = [
        {"decision_id": token, "value": value, "metric": "m"}
        for token, value in zip(tokens, [0, 1] * 9_999, strict=False)
    ]
    bodies: dict[str, list[Any]] = {
        "rewards.reward": [*rewards, {"rewards": rewards[:20]}, {"rewards": rewards[-20:]}],
        "decisions.decide": [{}, {"unit": "u", "eligible": ["control", "challenger"], "context": {}}],
        "decisions.predict": [{**ask, **way} for way in ways],
        "decisions.decide_batch": [{"requests": [{"unit": "a"}, {}]}, {"units": ["a", "b"]}],
        "decisions.predict_batch": [{"requests": [{**ask, **way} for way in ways]}],
        "decisions.score": [{"user_id": "u1", **way, "features": None} for way in ways],
        "rewards.expose": [{"decision_ids": tokens[:20]}],
        "flags.evaluate": [{"context": {"targetingKey": "u1", "n": 1, "deep": {"a": []}}}],
        "flags.evaluate_all": [{"context": {"targetingKey": "u1"}}],
        "inference.infer": [INFERENCE, {**INFERENCE, "parameters": {"k": 2}}, {"inputs": [], "id": "1"}],
        "inference.index": [{"ready": True}],
        "experiments.create": [
            {**body, "id": f"{body['id']}-{n}"} for n in range(40) for body in experiments
        ],
        "experiments.put": experiments,
        "experiments.delete": [{"reason": "x"}],
        "experiments.change_policy": [
            *POLICIES,
            {"kind": "thompson", "min_share": 0.1, "max_share": 0.9, "refresh": "1ms"},
        ],
        "experiments.start": [{"reason": "x"}],
        "experiments.pause": [{"reason": "x"}],
        "experiments.stop": [{"reason": "x", "winner": "control"}],
        "experiments.add_metric": [{"name": "clicks"}, {"name": "worth", "kind": "count", "cap": 3}],
        "definitions.define": [{"kind": "binary", "owner": "us"}, *KINDS_DEFINED],
        "models.rollback": [{"reason": "x"}],
        "models.patch": [{"metrics": {"rmse": 0.8}, "metadata": {"a": {"b": [1, 2]}}}],
        "promotions.begin": [
            {"version": version, "plan": {"offline": gate}}
            for version in ("v1", "v2", "v3")
            for gate in ("rmse < 1", "not worse than the current one", "off_policy.lower > 0", "rmse <")
        ],
        "promotions.cancel": [{"reason": "x"}],
        "models.set_status": [
            {"status": status, "reason": "x"} for status in ("staged", "shadow", "production", "retired")
        ],
    }
    known = {
        "experiment": names,
        "model": [model, "nobody"],
        "version": ["v1", "v2", "v3"],
        "arm": ["control"],
        "metric": ["clicks", "worth"],
        "key": ["nobody"],
        "deployment": ["nobody"],
        "promotion": ["p1", "p2"],
    }
    return BadRequestGrammar(ROUTES, bodies, known, artifact, seed=8)


@pytest.mark.timeout(300)
def test_bad_input_over_all_routes(service: ThrowawayService, grammar: BadRequestGrammar) -> None:
    workers = sorted(service.worker_pids())
    seen: Counter[int] = Counter()
    wrong: list[tuple[bytes, RawAnswer]] = []

    def check(request: bytes, answer: RawAnswer | None) -> None:
        seen[0 if answer is None else answer.status] += 1
        if answer is not None and (not explained(answer) or (answer.status >= 500 and answer.status != 501)):
            wrong.append((request, answer))

    requests = {}

    def make(number: int) -> bytes:
        requests[number] = grammar.request()
        return requests[number]

    asyncio.run(send_all(service.port, make, N_REQUESTS, check))
    assert not wrong, "\n".join(f"{request[:1500]!r}\n-> {answer}" for request, answer in wrong[:5])
    assert len(set(requests.values())) > 0.6 * N_REQUESTS, "the requests vary"
    assert {200, 201, 400, 404, 405, 409, 412, 415, 501} <= set(seen), seen
    assert seen[0] == 0, "every request was answered"
    assert seen[400] > N_REQUESTS / 10
    assert sorted(service.worker_pids()) == workers, "no worker died"
    assert "unexpected error" not in "".join(service.output)

    check_alive(service)
    service.stop()
    service.start()
    check_alive(service)
    assert len(service.worker_pids()) == 2


@pytest.fixture(scope="module")
def asked(service: ThrowawayService, artifact: bytes) -> str:
    """Experiment that the bad requests neither stop nor delete."""
    model = "asked"
    assert upload(service, model, artifact).status == 201
    arms = [{"name": name, "model": model, "version": "v1"} for name in ("control", "challenger")]
    return running(service, arms=arms)


documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(WORDS),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(WORDS) | st.text(), inner, max_size=4)
    ),
    max_leaves=12,
)


@settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(documents | st.binary(max_size=60), st.sampled_from(["application/json", "application/msgpack"]))
def test_any_document_for_every_route_that_takes_one(
    service: ThrowawayService, grammar: BadRequestGrammar, asked: str, document: Any, content_type: str
) -> None:
    if isinstance(document, bytes):
        body = document
    elif content_type == "application/json":
        body = json.dumps(document).encode()
    else:
        body = packed(document)
    routes = [route for route in ROUTES if route.takes is not None]
    # To be deleted: the others are still to be asked for theirs.
    extra = draft(service)
    paths = [
        grammar.known_path(route, experiment=extra if route.handler == "experiments.delete" else asked)
        for route in routes
    ]
    heads = [
        f"{route.method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
        for route, path in zip(routes, paths, strict=True)
    ]

    def check(request: bytes, answer: RawAnswer | None) -> None:
        assert answer is not None
        assert answer.status < 500 or answer.status == 501, (request, answer)
        assert explained(answer), (request, answer)

    asyncio.run(send_all(service.port, lambda i: heads[i].encode() + body, len(heads), check, in_flight=4))


def explained(answer: RawAnswer) -> bool:
    """A refusal is a problem; only an expectation that nobody can meet is refused before there is a route."""
    kind = answer.headers.get("content-type", "").partition(";")[0]
    if answer.status == 204:
        return kind == "" and answer.body == b""
    if answer.status < 400:
        return kind in ("application/json", "application/msgpack", "text/plain", "text/html")
    if kind == "application/json":  # of Open Inference v2
        return not answer.body or set(json.loads(answer.body)) == {"error"}
    return kind == "application/problem+json" or (answer.status == 417 and kind == "text/plain")


def check_alive(service: ThrowawayService) -> None:
    """Every experiment is there with its results, and new ones decide and learn."""
    listed = service.call("GET", "/v1/experiments")
    assert listed.status == 200
    for each in listed.body["experiments"]:
        assert service.call("GET", f"/v1/experiments/{each['id']}/results").status == 200, each
    name = running(service, policy={"kind": "thompson"})
    columns = decide_many(service, name, ["u1", "u2"])
    rewards = [{"decision_id": token, "value": 1} for token in columns["decision_ids"]]
    assert service.call("POST", "/v1/rewards", {"rewards": rewards}).body["accepted"] == 2
    assert service.call("GET", "/metrics").status == 200
    assert service.call("GET", "/v1/stats").status == 200

"""Schemas of the API description against the service: a body that fits is accepted, and one that does not is refused.

Bodies are examples that differ in one place, near each bound and of each type. Where a body fits and is refused, the
reason is one that no schema can say: `BEYOND` lists them, as the description does in words.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
from api_schemas import COMPONENTS, fits, near, schema_of
from http_calls import decide, draft, running
from metric_kinds import OBJECTIVES
from scale import scaled
from services import Answer, ThrowawayService

from bandit_serve.api.promotions import PromotionRequest
from bandit_serve.changes.experiments import servable
from bandit_serve.errors import InvalidInput
from bandit_serve.experiments.checks import require_payloads
from bandit_serve.experiments.definition import MetricDefinition, checked
from bandit_serve.experiments.named_metric import filled_experiment
from bandit_serve.experiments.spec import Experiment
from bandit_serve.metrics import METRIC_KINDS
from bandit_serve.policies import POLICIES
from bandit_serve.results.plan_request import PlanRequest
from bandit_serve.server.examples import EXAMPLES
from bandit_serve.server.handlers.experiments import LayerRequest
from bandit_serve.server.routes import ROUTES
from bandit_serve.server.rules import BEYOND as IN_WORDS
from bandit_serve.server.schemas import component_name
from bandit_serve.server.wire import JSON_FORM, Body

# By component. Each stands in words in the description: see `test_what_no_schema_can_say_is_said`.
OF_NAMES = [r"expected 1 to 256 bytes of UTF-8", r"expected names of arms"]
OF_COVARIATES = r"^covariates(\.\w+)?: (no metric has a covariate|expected one of)"
OF_A_FAMILY = [r"expected one of item_id, item_ids and k", r"expected a user_id"]
OF_POLICIES = [
    r"expected names of arms",
    r"must be a duration above 0",
    r"expected at most 1/\d+, as there are \d+ arms",
    r"must not exceed max_share",
    r"prior\.\w+ must be from",
    r"pseudo_history\.mean must be from",
    r"expected the mean of",
]
OF_DEPLOYMENTS = [
    r"Deployments are off here",
    r"expected model and version together",
    r"expected at most 10m",
]
BEYOND = {
    "DeploymentRequest": OF_DEPLOYMENTS,
    "BuildRequest": OF_DEPLOYMENTS,
    "StopDeploymentRequest": OF_DEPLOYMENTS,
    "CanaryRequest": [*OF_DEPLOYMENTS, r"guardrail: expected a metric and the loss that it allows"],
    "DecideRequest": [*OF_NAMES, OF_COVARIATES],
    "DecideBatch": [*OF_NAMES, OF_COVARIATES, r"expected as many as units"],
    "PredictRequest": [*OF_NAMES, *OF_A_FAMILY],
    "PredictBatch": [*OF_NAMES, *OF_A_FAMILY],
    "ScoreRequest": [*OF_NAMES, *OF_A_FAMILY],
    "RewardsRequest": [
        r"expected the decision_id of one of our decisions",
        r"click is binary: expected 0 or 1",
        r"expected 1 to 128 bytes of UTF-8",
        r"There is no experiment",
        r"expected a time that is at most 10 s in the future",
        r"expected an experiment with \"unit\": \"user\"",
        r"expected a number within",
        r"metric: expected one of click",
    ],
    "EvaluationRequest": [
        r"expected 1 to 256 bytes of UTF-8",
        r"context.targetingKey(: expected a text| is needed)",
        r"context.hour: expected a number",
    ],
    "InferenceRequest": [
        r"^(inputs|outputs|parameters)\b.*: expected",
        r"^The inputs (have|must have)",
        r"is not given here",
    ],
    "Policy": [*OF_POLICIES, r"learns from context", r"takes a .* objective", r"jumps between arms"],
    "MetricDefinition": [
        r"expected a number above (low|-?[\d.]+, the least value)",
        r"expected another metric than (itself|the numerator)",
        r'expected "client" of this metric',
    ],
    "MetricRequest": [
        r"kind: .*the catalogue has no metric",
        r"expected secondary: .* stays the objective",
        r"a metric with a companion can not be added",
        r"expected a number above (low|-?[\d.]+, the least value)",
    ],
    "ArmRequest": [r"There is no model", r"the name '.*' is taken"],
    "LayerRequest": [r"name: expected 'checkout'"],
    "PlanRequest": [
        r"expected an effect or days",
        r"expected a difference to control",
        r"expected an effect on",
        r"expected an effect that at most",
        r"expected more: ",
        r"expected observations a day",
        r"There is no experiment",
        r"metric: (did you mean \w+\? )?expected one of",
    ],
    "StopRequest": [r"winner: (did you mean \w+\? )?expected one of control"],
    "Experiment": [
        *OF_POLICIES,
        r"kind: .*the catalogue has no metric",
        r"expected a number above (low|-?[\d.]+, the least value)",
        r"expected (none|\"client\") of the objective",
        r'expected a duration from "10ms" to "90d"',
        r"expected a duration above 0",
        r"expected a time from 1971",
        r"expected a time after start_at",
        r"expected another field, once",
        r"expected even shares",
        r"expected another metric than the numerator",
        r"expected the name of a metric of this experiment",
        r"control: (did you mean \w+\? )?expected one of",
        r"expected a categorical context field with values",
        r"the name '.*' is taken",
        r"id: expected '.*', as in the path",
        r"expected rules within each other",
        r"expected at most \d+ (rules|values) in all",
        r"There is no model",
        r"attribution\.missing: expected",
        r"(weights\..*|metric): (did you mean \w+\? )?expected one of",
        r"expected a metric (once|whose mean|that has the value 0)",
        r"expected another metric (than|beside) the objective",
        r"expected a number (above|below) 0, as the goal",
        r"expected a number that is not within",
        r"at_(most|least): expected a number",
    ],
}
STEP = scaled(16, 1)


def some(bodies: Iterator[Any], start: int = 0) -> Iterator[Any]:
    return itertools.islice(bodies, start, None, STEP)


def check(name: str, body: Any, refusal: str | None) -> None:
    """That the component `name` says of `body` what became of it."""
    if fits(name, body):
        beyond = refusal is not None and any(re.search(each, refusal) for each in BEYOND.get(name, []))
        assert refusal is None or beyond, f"{body} fits {name} and is refused: {refusal}"
    else:
        assert refusal is not None, f"{body} does not fit {name} and is taken"


def check_answer(name: str, body: Any, answer: Answer) -> None:
    """As `check`; what fits may find that the state does not allow it, and what does not may be told that first."""
    refusal = refusal_of(answer)
    if refusal is None and not fits(name, body):
        problems = [answer.body, *answer.body.get("responses", [])]
        said = (problem.get("detail") or problem.get("error") for problem in problems)
        refusal = next((detail for detail in said if detail is not None), None)
    check(name, body, refusal)


CATALOGUE = {
    "paid": MetricDefinition("binary"),
    "revenue": MetricDefinition("continuous", cap=500.0),
    "errors": MetricDefinition("count", goal="minimize"),
}
EXPERIMENT_BODY = Body(Experiment, timeout_s=1.0)


def refusal_of_experiment(body: Any) -> str | None:
    """What the service says of an experiment before it looks at others and at models."""
    try:
        experiment = EXPERIMENT_BODY.decode(
            JSON_FORM,
            msgspec.json.encode(body),
            fill=lambda content: filled_experiment(content, CATALOGUE),
        )
        require_payloads(servable(experiment))
    except InvalidInput as error:
        return str(error)
    return None


@pytest.mark.parametrize("example", EXAMPLES[Experiment])
def test_experiments(example: str) -> None:
    counted = 0
    for body in some(near("Experiment", EXAMPLES[Experiment][example])):
        check("Experiment", body, refusal_of_experiment(body))
        counted += 1
    assert counted > 50


OWN: dict[str, dict[str, Any]] = {
    "fixed_split": {"shares": {"control": 1}},
    "epsilon_greedy": {
        "epsilon": 0.1,
        "pseudo_history": {"n": 3, "mean": {"control": 0.5, "challenger": 0.2}},
    },
    "softmax": {"temperature": 0.1},
    "ucb1": {"sigma": 2},
    "thompson": {"prior": {"alpha": 2, "beta": {"control": 3}, "mean": 0.5, "kappa": {"control": 1}}},
    "exp3": {"gamma": 0.5},
    "lin_ts": {"prior": {"precision": 2}, "scale": 1},
    "squarecb": {"gamma": 3, "optimism": 0},
}


@pytest.mark.parametrize("kind", POLICIES)
def test_policies(kind: str) -> None:
    objective = "continuous" if "continuous" in POLICIES[kind].objectives else "binary"
    whole = {
        "id": "e",
        "arms": [{"name": "control"}, {"name": "challenger"}],
        "metrics": [{"name": "m", "kind": objective}],
        "attribution": {"missing": "ignore"},
        "context": [{"name": "x", "kind": "numeric"}],
    }
    for policy in some(near("Policy", {"kind": kind, **OWN.get(kind, {})})):
        body = {**whole, "policy": policy}
        check("Experiment", body, refusal_of_experiment(body))
        assert fits("Policy", policy) or not fits("Experiment", body)


OTHER = {"name": "other", "kind": "continuous"}


@pytest.mark.parametrize("kind", POLICIES)
@pytest.mark.parametrize(
    "objective", OBJECTIVES, ids=lambda objective: "-".join(map(str, objective.values()))
)
def test_policies_units_and_missing_rewards_by_objective(kind: str, objective: dict[str, Any]) -> None:
    metric = {"name": "m", **objective}
    metrics = [
        [metric],
        [metric, OTHER],
        [OTHER, {**metric, "role": "objective"}],
        [{**OTHER, "role": "secondary"}, {**metric, "role": "objective"}],
        [{**metric, "role": "secondary"}],
        [{**metric, "role": "objective"}, {**OTHER, "role": "objective"}],
    ]
    of_arms = [[None, None], [[1.0], [2.0]], [[1.0], None]]
    cases = itertools.product(
        metrics,
        ("user", "request"),
        ("zero", "ignore", None),
        ([], [{"name": "x", "kind": "numeric"}]),
        of_arms,
    )
    for declared, unit, missing, context, features in itertools.islice(
        cases, POLICIES_LEAST[kind], None, STEP
    ):
        body = {
            "id": "e",
            "arms": [{"name": f"a{i}", "features": each} for i, each in enumerate(features)],
            "metrics": declared,
            "policy": {"kind": kind},
            "unit": unit,
            "attribution": {"missing": missing},
            "context": context,
        }
        check("Experiment", body, refusal_of_experiment(body))


# Where the cases of a kind begin, so that all are met over the kinds.
POLICIES_LEAST = {kind: i % STEP for i, kind in enumerate(POLICIES)}


def refusal_of(answer: Answer) -> str | None:
    """Why a request, or an entry of it, was refused as it is; None where it was not, or the state did not allow it."""
    if answer.status in (400, 413, 501):
        return str(answer.body.get("detail") or answer.body["error"])
    if answer.status == 200 and isinstance(answer.body, dict):
        for entry in answer.body.get("responses", []):
            if entry.get("status") == 400:
                return str(entry["detail"])
    return None


CONTEXT = [{"name": "hour", "kind": "numeric"}]
INPUT = {"name": "hour", "shape": [1], "datatype": "INT8", "data": [9]}


@pytest.fixture(scope="module")
def bodies(service: ThrowawayService) -> dict[tuple[str, str], list[Any]]:
    """For every route that takes JSON, bodies that it takes, and in its path what there is."""
    name, new, other, old = running(service, context=CONTEXT), *(draft(service) for _ in range(3))
    layered = draft(service, layer={"name": "checkout", "share": 0.5})
    token = decide(service, name)["decision_id"]
    context, arm = {"hour": 9, "more": "x"}, {"name": "another", "payload": {"a": [1]}, "features": [1.0]}
    whole = {"unit": "u", "context": context, "eligible": ["control"]}
    asked = [
        {"user_id": "7", "item_id": "50", "features": {"x": 1, "y": ["a"]}},
        {"user_id": "7", "item_ids": ["50", "51"], "features": [1.0]},
        {"user_id": "7", "k": 2, "exclude": ["1"]},
    ]
    of_arm = f"/v1/experiments/{new}/arms/challenger"
    reason = [{"reason": "because"}]
    assert service.call("PUT", "/v1/metrics/named", {"kind": "count"}).status == 201
    return {
        ("POST", "/v1/exposures"): [{"decision_ids": [token]}],
        ("POST", f"/ofrep/v1/evaluate/flags/{name}"): [{"context": {"targetingKey": "u", **context}}],
        ("POST", "/ofrep/v1/evaluate/flags"): [{"context": {"targetingKey": "u", **context}}],
        ("POST", f"/v2/models/{name}/infer"): [{"inputs": [INPUT], "id": "1", "outputs": [{"name": "arm"}]}],
        ("POST", "/v2/models/none/versions/v1/infer"): [{"inputs": [INPUT], "parameters": {"k": 1}}],
        ("POST", "/v2/repository/index"): [{"ready": True}],
        ("POST", "/v1/plan"): [
            *EXAMPLES[PlanRequest].values(),
            {"experiment": name, "metric": "click", "days": 3, "traffic": 1000},
        ],
        ("POST", "/v1/rewards"): [{"decision_id": token, "value": 1, "metric": "click"}],
        ("POST", f"/v1/experiments/{name}/decide"): [whole],
        ("POST", f"/v1/experiments/{name}/decide/batch"): [
            {"requests": [whole]},
            {"units": ["u", "v"], "contexts": [context, None]},
        ],
        ("POST", f"/v1/experiments/{name}/predict"): [{**each, **whole} for each in asked],
        ("POST", f"/v1/experiments/{name}/predict/batch"): [
            {"requests": [each, whole | each]} for each in asked[:1]
        ],
        ("POST", "/v1/models/none/predict"): asked,
        ("POST", "/v1/models/none/versions/v1/predict"): asked[:1],
        ("PUT", f"/v1/experiments/{other}"): [EXAMPLES[Experiment]["bandit"] | {"id": other}],
        ("DELETE", f"/v1/experiments/{old}"): reason,
        ("PUT", f"/v1/experiments/{new}/policy"): [{"kind": "thompson", "min_share": 0.1}],
        ("PUT", f"/v1/experiments/{layered}/layer"): [EXAMPLES[LayerRequest]["share"]],
        ("POST", f"/v1/experiments/{new}/arms"): [{**arm, "ramp": {"from": 0.1, "over": "1h"}}],
        ("POST", f"/v1/experiments/{new}/metrics"): [
            {"name": "worth", "kind": "continuous", "goal": "minimize", "quantile": 0.5, "reason": "because"},
            {"name": "stars", "kind": "bounded", "low": 1, "high": 5, "cap": 4, "role": "secondary"},
            {"name": "named", "role": "secondary", "reason": "because"},
        ],
        ("PUT", "/v1/metrics/revenue"): [*EXAMPLES[MetricDefinition].values()],
        ("DELETE", of_arm): reason,
        ("POST", f"{of_arm}/pause"): reason,
        ("POST", f"{of_arm}/resume"): reason,
        ("POST", f"/v1/experiments/{new}/pause"): reason,
        ("POST", f"/v1/experiments/{new}/stop"): [{"winner": "control", "reason": "because"}],
        ("POST", "/v1/models/none/rollback"): reason,
        ("POST", "/v1/models/none/promotions"): [*EXAMPLES[PromotionRequest].values()],
        ("POST", "/v1/models/none/promotions/p1/cancel"): reason,
        ("PATCH", "/v1/models/none/versions/v1"): [{"metrics": {"m": 1.0}, "metadata": {"a": 1}}],
        ("POST", "/v1/models/none/versions/v1/status"): [{"status": "staged", "reason": "because"}],
        ("POST", "/v1/deployments"): [
            {
                "name": "d1",
                "tag": "image:1",
                "port": 9000,
                "env": {"A": "b"},
                "memory": "512m",
                "cpus": 0.5,
                "serving": {"model": "none", "version": "v1"},
            }
        ],
        ("POST", "/v1/deployments/build"): [{"tag": "image:1", "model": "none", "version": "v1"}],
        ("POST", "/v1/deployments/canary"): [
            {"model": "none", "version": "v1", "experiment": "none", "ramp": {"from": 0.1, "over": "1h"}}
        ],
        ("POST", "/v1/deployments/d1/stop"): [{"timeout": "1s"}],
    }


# Of these the tests above, test_remote_versions.py, test_http_covariates.py and test_key_matrix.py look at the bodies.
# A draft is not to be started, and with a key all others would need one.
ELSEWHERE = {
    ("PUT", "/v1/experiments/{experiment}/covariates"),
    ("POST", "/v1/experiments"),
    ("POST", "/v1/models/{model}/versions"),
    ("POST", "/v1/keys"),
    ("POST", "/v1/experiments/{experiment}/start"),
}
TAKING = [
    (route.method, route.path)
    for route in ROUTES
    if schema_of(route.method, route.path) and (route.method, route.path) not in ELSEWHERE
]


@pytest.mark.parametrize(("method", "path"), TAKING, ids=lambda value: value)
def test_bodies_of_requests(
    service: ThrowawayService, bodies: dict[tuple[str, str], list[Any]], method: str, path: str
) -> None:
    pattern = re.compile(re.sub(r"\{\w+\}", "[^/]+", path))
    name = schema_of(method, path)
    assert name is not None
    [(place, valid)] = [
        (place, valid)
        for (verb, place), valid in bodies.items()
        if verb == method and pattern.fullmatch(place)
    ]
    for body in valid:
        check_answer(name, body, service.call(method, place, body))
        for other in some(near(name, body), start=len(place) % STEP):
            entries = {"RewardsRequest": "rewards", "ExposuresRequest": "decision_ids"}.get(name, "")
            if isinstance(other, dict) and isinstance(other.get(entries), list):
                continue
            check_answer(name, other, service.call(method, place, msgspec.json.encode(other)))


def test_entries_of_many_rewards(service: ThrowawayService) -> None:
    """One that does not fit is `invalid`, or the whole is refused; one that fits is judged by what it says."""
    token = decide(service, running(service))["decision_id"]
    for body in some(
        near("RewardsRequest", {"rewards": [{"decision_id": token, "value": 1, "metric": "click"}]})
    ):
        answer = service.call("POST", "/v1/rewards", msgspec.json.encode(body))
        if fits("RewardsRequest", body):
            assert answer.status == 200, (body, answer)
        else:
            assert answer.status == 400 or "invalid" in answer.body["verdicts"], (body, answer)


def test_a_metric_that_is_only_named() -> None:
    whole = EXAMPLES[Experiment]["catalogue"]

    def body(metric: Any) -> Any:
        return {**whole, "metrics": [metric, *whole["metrics"][1:]]}

    for metric in (
        {"name": "paid"},
        {"name": "paid", "role": "objective"},
        {"name": "paid", "kind": "binary"},
    ):
        assert fits("Experiment", body(metric))
        assert refusal_of_experiment(body(metric)) is None
    for metric in (
        {},
        {"name": "paid", "kind": None},
        {"name": "paid", "goal": "maximize"},
        {"name": "paid", "low": None},
        {"name": "paid", "role": "guardrail"},
        {"name": "paid", "margin": {"absolute": 1}},
        {"name": "paid", "description": "x"},
    ):
        assert not fits("Experiment", body(metric)), metric
        assert refusal_of_experiment(body(metric)) is not None, metric
    assert fits("Experiment", body({"name": "unheard-of"}))
    assert "the catalogue has no metric" in str(refusal_of_experiment(body({"name": "unheard-of"})))
    made = COMPONENTS["ExperimentView"]["properties"]["metrics"]["items"]
    assert made == {"$ref": "#/components/schemas/Metric"}, "answers have whole metrics"


BESIDE: list[dict[str, Any]] = [
    {"cap": 3.0},
    {"quantile": 0.5},
    {"covariate": "before"},
    {"numerator": "paid", "denominator": "revenue"},
    {"low": 1.0, "high": 5.0},
]


@pytest.mark.parametrize("kind", METRIC_KINDS)
def test_what_a_metric_has_together(kind: str) -> None:
    """All fields that stand beside a kind, in all combinations."""
    seen = set()
    for some_of in itertools.chain.from_iterable(itertools.combinations(BESIDE, n) for n in range(6)):
        body: dict[str, Any] = {"kind": kind}
        for fields in some_of:
            body |= fields
        try:
            refusal = None
            checked("made", msgspec.convert(body, MetricDefinition))
        except InvalidInput as error:
            refusal = str(error)
        assert fits("MetricDefinition", body) == (refusal is None), (body, refusal)
        seen.add(refusal is None)
    assert seen == {True, False}


def test_what_no_schema_can_say_is_said() -> None:
    for kind, words in IN_WORDS.items():
        assert words in COMPONENTS[component_name(kind)]["description"]


LIMITS = ["1", "1000", "0", "1001", "-1", "1.5", "x", "", "1e2", "+1", "\u0663"]


@pytest.mark.parametrize("path", ["/v1/experiments", "/v1/metrics", "/v1/models", "/v1/models/none/versions"])
@pytest.mark.parametrize("limit", LIMITS)
def test_a_limit(service: ThrowawayService, path: str, limit: str) -> None:
    is_whole = limit.isascii() and limit.isdecimal() and 1 <= int(limit) <= 1000
    assert (service.call("GET", f"{path}?limit={quote(limit)}").status == 400) == (not is_whole)


@pytest.mark.parametrize("change", ["pause", "resume", ""])
def test_an_arm_that_is_not_there_is_said_before_what_if_match_names(
    service: ThrowawayService, change: str
) -> None:
    path = f"/v1/experiments/{draft(service)}/arms/none/{change}".rstrip("/")
    method = "POST" if change else "DELETE"
    assert service.call(method, path, {}, {"If-Match": '"99"'}).status == 404


def test_a_policy_that_can_not_be_is_said_before_what_if_match_names(service: ThrowawayService) -> None:
    path = f"/v1/experiments/{draft(service)}/policy"
    assert service.call("PUT", path, {"kind": "lin_ts"}, {"If-Match": '"99"'}).status == 400
    assert service.call("PUT", path, {"kind": "thompson"}, {"If-Match": '"99"'}).status == 412


@pytest.mark.parametrize("state", ["draft", "paused", "stopped"])
def test_what_can_not_be_is_refused_where_nothing_is_drawn_too(service: ThrowawayService, state: str) -> None:
    name = draft(service) if state == "draft" else running(service)
    if state != "draft":
        move = {"paused": "pause", "stopped": "stop"}[state]
        assert service.call("POST", f"/v1/experiments/{name}/{move}").status == 200
    path = f"/v1/experiments/{name}/decide"
    for body in ({"unit": "a\u0007"}, {"unit": ""}, {"eligible": []}, {"eligible": ["none"]}):
        assert service.call("POST", path, body).status == 400, body
    assert service.call("POST", f"{path}/batch", {"units": ["u", "a\u0007"]}).status >= 400


def test_a_metric_beside_many_rewards_is_refused(service: ThrowawayService) -> None:
    assert service.call("POST", "/v1/rewards", {"rewards": [], "metric": None}).status == 400

"""Several mistakes in one experiment: each is reported, whichever check finds it, and no consequence of another."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from http_calls import check_problem
from hypothesis import example, given, settings
from hypothesis import strategies as st
from services import Answer, ThrowawayService

from bandit_serve.base.mistakes import mistakes
from bandit_serve.base.validation import field_error
from bandit_serve.changes.experiment_mistakes import every_mistake
from bandit_serve.changes.experiments import servable
from bandit_serve.errors import InvalidInput
from bandit_serve.experiments.checks import require_payloads
from bandit_serve.experiments.spec import Experiment
from bandit_serve.policies import POLICIES

Document = dict[str, Any]

CONTEXT_FREE: Document = {
    "id": "e",
    "arms": [{"name": name, "payload": {"n": 1}} for name in ("a", "b", "c.d")],
    "control": "a",
    "unit": "request",
    "policy": {
        "kind": "epsilon_greedy",
        "epsilon": 0.1,
        "decay": 0.5,
        "min_share": 0.05,
        "max_share": 0.9,
        "holdout": 0.1,
        "warmup": 10,
        "half_life": "1d",
        "refresh": "50ms",
        "pseudo_history": {"n": {"a": 10, "b": 1}, "mean": {"a": 0.1, "b": 0.2}},
    },
    "metrics": [
        {"name": "click", "kind": "binary", "role": "objective"},
        {"name": "stars", "kind": "bounded", "low": 1, "high": 5},
        {"name": "worth", "kind": "continuous", "goal": "maximize"},
    ],
    "attribution": {"window": "1h", "missing": "ignore"},
    "context": [
        {"name": "hour", "kind": "numeric", "mean": 12, "std": 6},
        {"name": "device", "kind": "categorical", "values": ["ios", "web"], "interactions": ["hour"]},
    ],
    "stopping": {
        "min_samples": 10,
        "alpha": 0.05,
        "expected_samples": 1000,
        "start_at": "2099-03-02T09:00:00Z",
        "end_at": "2099-03-30T09:00:00+01:00",
        "rule": {"precision": 0.01},
        "promote_winner": True,
    },
    "description": "a test",
    "owner": "us",
    "tags": ["a", "b"],
    "hypothesis": "b is better",
    "audience": {"all": [{"field": "hour", "ge": 9}, {"not": {"field": "country", "in": ["de", "at"]}}]},
    "layer": {"name": "page", "share": 0.5},
    "dimensions": ["device"],
}
CONTEXTUAL = CONTEXT_FREE | {
    "arms": [arm | {"features": [1.0, 2.0]} for arm in CONTEXT_FREE["arms"]],
    "policy": {
        "kind": "lin_ts",
        "scale": 1.0,
        "prior": {"precision": 1.0},
        "min_share": 0.05,
        "max_share": 0.9,
        "holdout": 0.1,
    },
}


def put(*path: str | int, value: Any) -> Callable[[Document], None]:
    def change(document: Document) -> None:
        for step in path[:-1]:
            document = document[step]
        document[path[-1]] = value

    return change


def drop(*path: str | int) -> Callable[[Document], None]:
    def change(document: Document) -> None:
        for step in path[:-1]:
            document = document[step]
        del document[path[-1]]

    return change


# By where each is told, which is no other's place: of types and names, of fields together, of the policy, of payloads.
OF_ALL: dict[str, Callable[[Document], None]] = {
    "id": put("id", value="no name!"),
    "unt": put("unt", value="user"),
    "unit": put("unit", value="users"),
    "control": put("control", value="nobody"),
    "arms[0].modl": put("arms", 0, "modl", value="m"),
    "arms[0].payload": put("arms", 0, "payload", value="x" * 70_000),
    "arms[1]": put("arms", 1, "model", value="m"),
    "arms[2].name": put("arms", 2, "name", value="b"),
    "metrics[0].goal": put("metrics", 0, "goal", value="maximise"),
    "metrics[0].cap": put("metrics", 0, "cap", value=0.5),
    "metrics[1].cap": put("metrics", 1, "cap", value=1),
    "metrics[1].quantile": put("metrics", 1, "quantile", value=0.5),
    "metrics[1].high": put("metrics", 1, "high", value=0),
    "metrics[2]": put("metrics", 2, "low", value=0.0),
    "metrics[2].numerator": put("metrics", 2, "numerator", value="worth"),
    "attribution.window": put("attribution", "window", value="100d"),
    "attribution.missing": drop("attribution", "missing"),
    "context[0].std": put("context", 0, "std", value=0),
    "context[1].interactions[0]": put("context", 1, "interactions", 0, value="nothing"),
    "context[1].values": put("context", 1, "values", value=["ios", "ios"]),
    "dimensions[0]": put("dimensions", 0, value="hour"),
    "stopping.alpha": put("stopping", "alpha", value=5),
    "stopping.min_samples": put("stopping", "min_samples", value="many"),
    "stopping.expected_samples": put("stopping", "expected_samples", value=3),
    "stopping.duration": put("stopping", "duration", value="0s"),
    "stopping.start_at": put("stopping", "start_at", value="2099-03-02"),
    "stopping.end_at": put("stopping", "end_at", value="1969-03-02T00:00:00Z"),
    "stopping.rule": put("stopping", "rule", "futility", value=0.1),
    "description": put("description", value="x" * 5_000),
    "owner": put("owner", value=3),
    "tags[1]": put("tags", 1, value="a"),
    "hypothesis": put("hypothesis", value=None),
    "audience.all[1].not.in[1]": put("audience", "all", 1, "not", "in", 1, value=None),
    "layer.share": put("layer", "share", value=0),
    "stopping.looks": put("stopping", "looks", value=4),
    "policy.min_share": put("policy", "min_share", value=0.5),
    "policy.holdout": put("policy", "holdout", value=1.5),
}
OF_CONTEXT_FREE = OF_ALL | {
    "metrics[2].margin": put("metrics", 2, "role", value="guardrail"),
    "metrics[2].on_harm": put("metrics", 2, "on_harm", value="pause"),
    "policy.warmup": put("policy", "warmup", value=1.5),
    "policy.half_life": put("policy", "half_life", value="0s"),
    "policy.refresh": put("policy", "refresh", value="soon"),
    "policy.epsilon": put("policy", "epsilon", value=1.5),
    "policy.decay": put("policy", "decay", value=-1),
    "policy.beta": put("policy", "beta", value=0.5),
    "policy.pseudo_history.mean": drop("policy", "pseudo_history", "mean", "b"),
    "policy.temperature": put("policy", "temperature", value="hot"),
}
OF_CONTEXTUAL = OF_ALL | {
    "policy.scale": put("policy", "scale", value=-1),
    "policy.prior.precision": put("policy", "prior", "precision", value=0),
    "policy.epsilon": put("policy", "epsilon", value=0.1),
    "policy.pseudo_history": put("policy", "pseudo_history", value={"n": 1, "mean": 0.5}),
    "arms": drop("arms", 1, "features"),
}
# What can not be said where another is wrong: nothing of the parameters of a kind that there is not.
OF_KIND = {"policy.kind": put("policy", "kind", value="thomson")}
STANDS_ALONE = ("policy.min_share", "policy.holdout", "policy.warmup", "policy.half_life", "policy.refresh")


MARGINS: list[tuple[Any, list[str]]] = [
    ({"absolute": 1e300}, ["margin.absolute"]),
    ({"relative": -1}, ["margin.relative"]),
    ({"absolute": "wide"}, ["margin.absolute"]),
    ({"absolute": None}, ["margin.absolute"]),
    ({"absolute": 1e300, "relative": -1}, ["margin.absolute", "margin.relative"]),
    ({"absolute": 1e300, "relative": 0.1}, ["margin.absolute"]),
    ({"absolu": 1}, ["margin.absolu"]),
    ({}, ["margin"]),
    ({"absolute": 1, "relative": 0.1}, ["margin"]),
    (5, ["margin"]),
    (None, ["margin"]),
    ({"absolute": 1}, []),
]


@pytest.mark.parametrize(("margin", "places"), MARGINS)
@pytest.mark.parametrize("role", ["guardrail", "secondary"])
def test_a_mistake_in_a_margin_is_said_once(margin: Any, places: list[str], role: str) -> None:
    guardrail = {"name": "g", "kind": "continuous", "role": role, "margin": margin}
    document = {
        "id": "e",
        "arms": [{"name": "a"}, {"name": "b"}],
        "metrics": [{"name": "m", "kind": "continuous"}, guardrail],
    }
    said = [mistake.at for mistake in every_mistake(document)]
    if role == "guardrail":
        assert said == [f"metrics[1].{place}" for place in places]
    else:
        assert said


def test_what_is_changed_is_right_before() -> None:
    for document in (CONTEXT_FREE, CONTEXTUAL):
        assert every_mistake(document) == []
        servable(msgspec.convert(document, Experiment))
    assert "thomson" not in POLICIES


def places_of(document: Document) -> list[str]:
    return [mistake.at for mistake in every_mistake(document, [require_payloads])]


def changed(document: Document, changes: list[Callable[[Document], None]]) -> Document:
    document = copy.deepcopy(document)
    for change in changes:
        change(document)
    return document


@pytest.mark.parametrize(
    ("document", "kinds"),
    [(CONTEXT_FREE, OF_CONTEXT_FREE), (CONTEXTUAL, OF_CONTEXTUAL)],
    ids=["context-free", "contextual"],
)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_every_one_is_told_and_nothing_else(document: Document, kinds: Any, data: st.DataObject) -> None:
    with_kind = data.draw(st.booleans())
    if with_kind:
        kinds = {at: of for at, of in kinds.items() if not at.startswith("policy.") or at in STANDS_ALONE}
        kinds = {at: of for at, of in kinds.items() if at != "arms"} | OF_KIND
    places = data.draw(st.lists(st.sampled_from(sorted(kinds)), min_size=2, max_size=6, unique=True))
    wrong = changed(document, [kinds[at] for at in places])
    assert sorted(places_of(wrong)) == sorted(places)
    check_refused(wrong, places)


def test_a_rule_is_told_beside_a_policy_that_is_none_and_a_field_of_a_wrong_type() -> None:
    places = ["arms[0].modl", "policy.kind", "stopping.rule"]
    wrong = changed(CONTEXT_FREE, [(OF_CONTEXT_FREE | OF_KIND)[at] for at in places])
    assert sorted(places_of(wrong)) == places


def check_refused(document: Document, places: list[str]) -> None:
    """Asserts that creating it reports the same mistakes, if its types are valid and it is not too large."""
    try:
        experiment = msgspec.convert(document, Experiment)
    except msgspec.ValidationError:
        return
    with pytest.raises(InvalidInput) as refusal:
        servable(experiment, (require_payloads,))
    if "arms[0].payload" not in places:
        assert sorted(each.at for each in refusal.value.errors) == sorted(places)


def is_refused(document: Document) -> bool:
    """Whether it is refused, by the first check that does."""
    try:
        servable(msgspec.convert(document, Experiment))
    except (msgspec.ValidationError, InvalidInput):
        return True
    return False


@given(
    at=st.sampled_from([*OF_CONTEXT_FREE, *OF_KIND]),
    value=st.sampled_from([None, 0, -1, "", "x", [], {}, [1], {"x": 1}, True, 1e300]),
    places=st.lists(
        st.sampled_from(["arms", "metrics", "context", "policy", "control", "attribution"]), unique=True
    ),
)
@example(at="context[0].std", value=[], places=["context"])
@settings(max_examples=80, deadline=None)
def test_anything_in_any_place_is_an_answer(at: str, value: Any, places: list[str]) -> None:
    document = changed(CONTEXT_FREE, [(OF_CONTEXT_FREE | OF_KIND)[at]])
    for place in places:
        document[place] = value
    refused_at = places_of(document)
    assert bool(refused_at) == is_refused(document)
    assert {mistake.at for mistake in mistakes(document, Experiment, field_error)} <= set(refused_at)
    assert len(refused_at) <= 40


def test_keeping_is_for_units_and_for_policies_without_context() -> None:
    keeping = put("keep_assigned", value=True)
    assert places_of(changed(CONTEXT_FREE, [keeping])) == ["keep_assigned"]
    assert places_of(changed(CONTEXT_FREE, [keeping, put("unit", value="user")])) == []
    assert places_of(changed(CONTEXTUAL, [keeping, put("unit", value="user")])) == ["keep_assigned"]
    for at, value in (("unit", "users"), ("policy", {"kind": "thomson"})):
        wrong = places_of(changed(CONTEXT_FREE, [put("unit", value="user"), keeping, put(at, value=value)]))
        assert "keep_assigned" not in wrong, "perhaps it is right once the other is"
    assert places_of(changed(CONTEXTUAL, [put("keep_assigned", value=False)])) == []


def test_what_is_not_there_is_told_once() -> None:
    wrong = changed(
        CONTEXT_FREE, [drop("attribution"), drop("policy", "kind"), drop("arms", 0, "name"), drop("id")]
    )
    assert sorted(places_of(wrong)) == ["arms[0].name", "attribution.missing", "id", "policy.kind"]
    assert sorted(places_of({"arms": [], "metrics": {}})) == ["arms", "id", "metrics"]


@pytest.mark.parametrize("part", ["n", "mean"])
def test_a_part_that_is_refused_is_not_told_of_the_whole(part: str) -> None:
    wrong = changed(CONTEXT_FREE, [put("policy", "pseudo_history", part, value=-1e81), drop("id")])
    assert sorted(places_of(wrong)) == ["id", f"policy.pseudo_history.{part}"]


def test_a_horizon_that_is_not_whole_hides_no_other_mistake() -> None:
    given = {"mode": "horizon", "looks": 7}
    wrong = changed(CONTEXT_FREE, [put("stopping", value=given), put("control", value="nobody")])
    assert sorted(places_of(wrong)) == ["control", "stopping.expected_samples", "stopping.mode"]
    wrong = changed(wrong, [put("policy", value={"kind": "fixed_split"})])
    assert sorted(places_of(wrong)) == ["control", "stopping.expected_samples"]
    wrong = changed(
        wrong, [put("stopping", "mode", value="horizn"), put("arms", 0, "payload", value="x" * 70_000)]
    )
    assert sorted(places_of(wrong)) == ["arms[0].payload", "control", "stopping.mode"]


def test_over_http_they_come_in_one_answer(service: ThrowawayService) -> None:
    places = ["control", "policy.kind", "stopping.alpha", "metrics[1].high", "unit"]
    body = changed(CONTEXT_FREE, [(OF_ALL | OF_KIND)[at] for at in places])
    refused_at = refused(service.call("POST", "/v1/experiments", body), *places)
    details = {error["at"]: error["detail"] for error in refused_at["errors"]}
    assert "did you mean thompson? expected one of" in details["policy.kind"]
    assert "did you mean" not in details["control"]
    assert "expected one of a, b, c.d" in details["control"]
    body["arms"][0] |= {"model": "nobody", "version": "v1"}
    made = service.call("POST", "/v1/experiments", CONTEXT_FREE | {"id": "draft"})
    assert made.status == 201
    refused(service.call("PUT", "/v1/experiments/draft", body), *places, "id", "arms[0].version")
    policy = {"kind": "thomson", "min_share": 2, "bet": 1}
    refused(service.call("PUT", "/v1/experiments/draft/policy", policy), "bet", "min_share", "kind")
    policy = {"kind": "ucb1", "sigma": -1, "min_share": 0.5}
    answer = service.call("PUT", "/v1/experiments/draft/policy", policy)
    refused(answer, "min_share", "sigma")


def refused(answer: Answer, *places: str) -> dict[str, Any]:
    problem = check_problem(answer, 400)
    assert sorted(error["at"] for error in problem["errors"]) == sorted(places)
    return problem


def test_a_cap_below_the_default_floor_hides_no_other_mistake() -> None:
    policy = {"kind": "thompson", "max_share": 0.001, "prior": {"alpha": 0}}
    described = {
        "id": "e",
        "arms": [{"name": "a"}, {"name": "b"}],
        "metrics": [{"name": "click", "kind": "binary"}],
        "attribution": {"missing": "ignore"},
        "policy": policy,
    }
    with pytest.raises(InvalidInput) as refused:
        servable(msgspec.convert(described, Experiment))
    assert {error.at for error in refused.value.errors} == {"policy.min_share", "policy.prior.alpha"}

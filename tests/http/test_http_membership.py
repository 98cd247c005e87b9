"""Audiences, layers, the service's holdout and kept arms over HTTP: every way in keeps the same rules."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import bandit_serve, save_model
from http_calls import call_msgpack, check_problem, decide, draft, experiment, new_name, reward_many, running
from services import ThrowawayService
from stores import wait_until

CLICK_AND_ERROR = [
    {"name": "click", "kind": "binary"},
    {"name": "error", "kind": "binary", "goal": "minimize", "source": "served"},
]
GERMANS = {"all": [{"field": "country", "in": ["de"]}, {"not": {"field": "age", "lt": 18}}]}
DE, FR, YOUNG = {"country": "de"}, {"country": "fr"}, {"country": "de", "age": 17}


def outside(answer: dict[str, Any], reason: str) -> bool:
    keys = ("arm", "decision_id", "propensity", "reason")
    return [answer.get(key) for key in keys] == ["control", None, 1.0, reason]


def infer(service: ThrowawayService, name: str, **columns: list[Any]) -> dict[str, Any]:
    inputs = [
        {"name": key, "shape": [len(column)], "datatype": "BYTES", "data": column}
        for key, column in columns.items()
    ]
    answer = service.call("POST", f"/v2/models/{name}/infer", {"inputs": inputs})
    assert answer.status == 200, answer
    parameters: dict[str, Any] = answer.body["parameters"]
    return parameters


def flag(service: ThrowawayService, name: str, **context: Any) -> dict[str, Any]:
    answer = service.call("POST", f"/ofrep/v1/evaluate/flags/{name}", {"context": context})
    assert answer.status == 200, answer
    body: dict[str, Any] = answer.body
    return body


def exposures(service: ThrowawayService, name: str) -> int:
    arms = service.call("GET", f"/v1/experiments/{name}/results").body["arms"]
    return sum(arm["exposures"] for arm in arms)


def test_every_way_in_asks_the_audience(service: ThrowawayService) -> None:
    name = running(service, audience=GERMANS, unit="user")
    path = f"/v1/experiments/{name}"
    assert decide(service, name, unit="u", context=DE)["decision_id"]
    assert "reason" not in decide(service, name, unit="u", context=DE)
    for context in (FR, YOUNG, {}, {"country": None}, {"more": 1}):
        assert outside(decide(service, name, unit="u", context=context), "audience")
    assert outside(decide(service, name, unit="u"), "audience")
    packed = call_msgpack(service, f"{path}/decide", {"unit": "u", "context": FR})
    assert outside(packed.body, "audience")

    entries = [{"unit": "u", "context": context} for context in (DE, FR, YOUNG)]
    responses = service.call("POST", f"{path}/decide/batch", {"requests": entries}).body["responses"]
    assert [response.get("reason") for response in responses] == [None, "audience", "audience"]
    columns = service.call(
        "POST", f"{path}/decide/batch", {"units": ["u", "v", "w"], "contexts": [FR, DE, None]}
    ).body
    assert columns["reasons"] == ["audience", None, "audience"]
    assert [bool(token) for token in columns["decision_ids"]] == [False, True, False]
    assert [columns["arms"][i] for i in (0, 2)] == [0, 0]
    assert [columns["propensities"][i] for i in (0, 2)] == [1.0, 1.0]
    assert reward_many(service, [columns["decision_ids"][1]], [1.0]) == ["accepted"]
    for number in (float("nan"), float("inf")):
        sent = {"units": ["u", "v"], "contexts": [DE, {**DE, "age": number}]}
        check_problem(call_msgpack(service, f"{path}/decide/batch", sent), 400, "context.age")
    whole = service.call("POST", f"{path}/decide/batch", {"units": ["u"], "contexts": [DE]}).body
    assert "reasons" not in whole

    within, without = flag(service, name, targetingKey="u", **DE), flag(service, name, targetingKey="u", **FR)
    assert within["reason"] == "SPLIT"
    assert within["metadata"]["decision_id"]
    assert (without["reason"], without["variant"], without["metadata"]["reason"]) == (
        "DEFAULT",
        "control",
        "audience",
    )
    assert "decision_id" not in without["metadata"]
    odd = service.call(
        "POST", f"/ofrep/v1/evaluate/flags/{name}", {"context": {"targetingKey": "u", "country": ["de"]}}
    )
    assert (odd.status, odd.body["errorCode"]) == (400, "INVALID_CONTEXT")

    parameters = infer(service, name, unit=["u", "v"], country=["de", "fr"])
    assert parameters["reasons"] == [None, "audience"]
    assert [token is not None for token in parameters["decision_ids"]] == [True, False]
    alone = infer(service, name, unit=["v"], country=["fr"])
    assert (alone["arm"], alone["reason"], alone["propensity"]) == ("control", "audience", 1.0)
    assert "decision_id" not in alone

    wait_until(lambda: exposures(service, name) == 7)


def test_all_flags_at_once_become_exposures_only_of_those_within(service: ThrowawayService) -> None:
    name = running(service, audience=GERMANS, unit="user")

    def of_all(**context: Any) -> tuple[dict[str, Any], str]:
        answer = service.call(
            "POST", "/ofrep/v1/evaluate/flags", {"context": {"targetingKey": "u", **context}}
        )
        assert answer.status == 200, answer
        [mine] = [each for each in answer.body["flags"] if each["key"] == name]
        return mine, answer.headers["ETag"]

    within, etag = of_all(**DE)
    without, other = of_all(**FR)
    assert etag != other
    assert without["reason"] == "DEFAULT"
    assert "decision_id" not in without["metadata"]
    token = within["metadata"]["decision_id"]
    exposed = service.call("POST", "/v1/exposures", {"decision_ids": [token]})
    assert exposed.body["verdicts"] == ["accepted"]


def test_rewards_by_unit_find_only_who_was_within(service: ThrowawayService) -> None:
    name = running(service, audience=GERMANS, unit="user")
    decide(service, name, unit="inside", context=DE)
    decide(service, name, unit="outside", context=FR)
    verdicts = []
    for unit in ("inside", "outside"):
        reward = {"experiment": name, "unit": unit, "value": 1, "event_id": f"of-{unit}"}
        verdicts.append(service.call("POST", "/v1/rewards", {"rewards": [reward]}).body["verdicts"][0])
    assert verdicts == ["accepted", "unmatched"]


def test_predictions_of_who_is_outside_are_of_control(service: ThrowawayService, tmp_path: Path) -> None:
    model = new_name("model")
    file = save_model(tmp_path / "m")
    assert bandit_serve("models", "register", model, file, "--data", service.data).status == 0
    arms = [{"name": name, "model": model, "version": "v1"} for name in ("control", "challenger")]
    name = running(service, arms=arms, audience=GERMANS, metrics=CLICK_AND_ERROR)
    path = f"/v1/experiments/{name}/predict"
    asked = {"user_id": "u1", "item_id": "i1"}
    within = service.call("POST", path, {**asked, "context": DE}).body
    without = service.call("POST", path, {**asked, "context": FR}).body
    assert within["decision_id"]
    assert outside(without, "audience")
    assert without["prediction"] == within["prediction"]
    many = [{**asked, "context": context} for context in (FR, DE)]
    responses = service.call("POST", f"{path}/batch", {"requests": many}).body["responses"]
    assert [response.get("reason") for response in responses] == ["audience", None]
    wait_until(lambda: exposures(service, name) == 2)
    results = service.call("GET", f"/v1/experiments/{name}/results").body
    served = sum(arm["metrics"]["error"]["n"] for arm in results["arms"])
    assert served == 2, "what becomes of predictions outside is not measured"


def test_what_is_wrong_is_refused_outside_too(service: ThrowawayService) -> None:
    name = running(service, audience=GERMANS, unit="user")
    for body, detail in (
        ({"context": FR}, "expected a unit"),
        ({"unit": "\n", "context": FR}, "control characters"),
        ({"unit": "u", "context": FR, "eligible": ["nobody"]}, "expected names of arms"),
    ):
        answer = service.call("POST", f"/v1/experiments/{name}/decide", body)
        check_problem(answer, 400)
        assert detail in answer.body["detail"]


def view(service: ThrowawayService, name: str) -> dict[str, Any]:
    body: dict[str, Any] = service.call("GET", f"/v1/experiments/{name}").body
    return body


def inside(service: ThrowawayService, name: str, n: int = 4_000) -> set[str]:
    units = [f"u{i}" for i in range(n)]
    answer = call_msgpack(service, f"/v1/experiments/{name}/decide/batch", {"units": units})
    assert answer.status == 200, answer
    tokens = answer.body["decision_ids"]
    reasons = answer.body.get("reasons", [None] * n)
    assert [token is None for token in tokens] == [reason == "layer" for reason in reasons]
    return {unit for unit, token in zip(units, tokens, strict=True) if token is not None}


def test_a_layer_from_drafts_to_its_end(service: ThrowawayService) -> None:
    layer = new_name("layer")

    def of_it(share: float) -> dict[str, Any]:
        return {"unit": "user", "layer": {"name": layer, "share": share}}

    first, second = running(service, **of_it(0.2)), running(service, **of_it(0.5))
    waiting = draft(service, **of_it(0.2))
    body = experiment(**of_it(0.3))
    refused = service.call("POST", "/v1/experiments", body)
    check_problem(refused, 409)
    assert "has 10 % of its units left, and 30 % are asked for" in refused.body["detail"]
    assert f"{second!r} has 50 %" in refused.body["detail"]
    assert service.call("GET", f"/v1/experiments/{body['id']}").status == 404

    before = {name: inside(service, name) for name in (first, second)}
    assert not before[first] & before[second]
    assert 0.15 < len(before[first]) / 4_000 < 0.25
    grown = service.call("PUT", f"/v1/experiments/{first}/layer", {"share": 0.3, "reason": "room"})
    assert grown.status == 200, grown
    assert grown.body["layer"] == {"name": layer, "share": 0.3}
    assert inside(service, first) > before[first]
    assert inside(service, second) == before[second]
    too_much = service.call("PUT", f"/v1/experiments/{first}/layer", {"share": 0.31})
    check_problem(too_much, 409)
    assert f"{waiting!r} has 20 %" in too_much.body["detail"]
    assert view(service, first)["layer"]["share"] == 0.3
    elsewhere = service.call("PUT", f"/v1/experiments/{first}/layer", {"name": "other", "share": 0.3})
    check_problem(elsewhere, 400)
    stale = service.call("PUT", f"/v1/experiments/{first}/layer", {"share": 0.1}, headers={"If-Match": '"1"'})
    check_problem(stale, 412)
    assert len(inside(service, first)) > len(before[first]), "what is refused changes nothing"
    history = service.call("GET", f"/v1/experiments/{first}/history").body["history"]
    assert (history[-1]["what"], history[-1]["reason"]) == ("layer", "room")

    # A draft that is replaced or deleted gives back what it had.
    smaller = experiment(**of_it(0.1)) | {"id": waiting}
    assert service.call("PUT", f"/v1/experiments/{waiting}", smaller).status == 200
    assert service.call("PUT", f"/v1/experiments/{first}/layer", {"share": 0.4}).status == 200
    too_large = service.call("PUT", f"/v1/experiments/{waiting}", experiment(**of_it(0.2)) | {"id": waiting})
    check_problem(too_large, 409)
    without = experiment() | {"id": waiting}
    assert service.call("PUT", f"/v1/experiments/{waiting}", without).status == 200
    again = draft(service, **of_it(0.1))
    assert service.call("DELETE", f"/v1/experiments/{again}").status == 204
    last = running(service, **of_it(0.1))
    check_problem(service.call("POST", "/v1/experiments", experiment(**of_it(0.01))), 409)

    # One that is stopped, too; and then everybody gets its winner.
    stopped = service.call("POST", f"/v1/experiments/{second}/stop", {"winner": "challenger"})
    assert stopped.status == 200
    assert "reason" not in decide(service, second, unit="anyone")
    taken = running(service, **of_it(0.5))
    sets = [inside(service, name) for name in (first, taken, last)]
    assert sum(map(len, sets)) == len(set().union(*sets)) == 4_000
    check_problem(service.call("PUT", f"/v1/experiments/{second}/layer", {"share": 0.1}), 409)
    assert service.call("DELETE", f"/v1/experiments/{second}").status == 204


def test_the_name_of_an_experiment_in_a_layer_is_taken_once(service: ThrowawayService) -> None:
    layer = new_name("layer")
    name = draft(service, layer={"name": layer, "share": 0.6})
    check_problem(
        service.call("POST", "/v1/experiments", experiment(id=name, layer={"name": layer, "share": 0.4})), 409
    )
    draft(service, layer={"name": layer, "share": 0.4})


def test_a_layer_asks_for_a_unit_whatever_the_unit_of_analysis_is(service: ThrowawayService) -> None:
    name = running(service, layer={"name": new_name("layer"), "share": 1.0})
    missing = service.call("POST", f"/v1/experiments/{name}/decide", {})
    check_problem(missing, 400)
    assert missing.body["errors"][0]["at"] == "unit"
    assert decide(service, name, unit="u")["decision_id"]
    key = service.call("POST", f"/ofrep/v1/evaluate/flags/{name}", {"context": {"a": 1}})
    assert key.body["errorCode"] == "TARGETING_KEY_MISSING"


def test_kept_arms(service: ThrowawayService) -> None:
    split = {"kind": "fixed_split", "shares": {"control": 1, "challenger": 9}}
    name = running(service, unit="user", keep_assigned=True, policy=split)
    units = [f"u{i}" for i in range(400)]
    path = f"/v1/experiments/{name}"
    first = call_msgpack(service, f"{path}/decide/batch", {"units": units}).body
    wait_until(
        lambda: sum(arm["exposures"] for arm in service.call("GET", f"{path}/results").body["arms"]) == 400
    )
    turned = {"kind": "fixed_split", "shares": {"control": 9, "challenger": 1}}
    assert service.call("PUT", f"{path}/policy", turned).status == 200
    more = [*units, *(f"v{i}" for i in range(400))]
    second = call_msgpack(service, f"{path}/decide/batch", {"units": more}).body
    assert second["arms"][:400] == first["arms"]
    assert second["propensities"][:400] == first["propensities"]
    assert sum(second["arms"][400:]) < 100
    assert [decide(service, name, unit=unit)["propensity"] for unit in units[:50]] == first["propensities"][
        :50
    ]
    assert reward_many(service, second["decision_ids"], [1.0] * 800) == ["accepted"] * 800
    results = service.call("GET", f"{path}/results").body
    assert results["crossovers"] == 0
    assert sum(arm["metrics"]["click"]["n"] for arm in results["arms"]) == 800
    assert results["srm"]["verdict"] == "ok"
    contextual = {"kind": "lin_ts"}
    check_problem(service.call("PUT", f"{path}/policy", contextual), 400)


COVARIATE = {"metrics": [{"name": "click", "kind": "binary", "covariate": "before"}]}
DIMENSION = {"context": [{"name": "c", "kind": "categorical", "values": ["x", "y"]}], "dimensions": ["c"]}


@pytest.mark.parametrize("logged", [COVARIATE, DIMENSION, {**COVARIATE, **DIMENSION}])
def test_what_is_logged_of_kept_units_is_as_wide_as_of_others(
    service: ThrowawayService, tmp_path: Path, logged: dict[str, Any]
) -> None:
    model = new_name("model")
    file = save_model(tmp_path / "m")
    assert bandit_serve("models", "register", model, file, "--data", service.data).status == 0
    arms = [{"name": name, "model": model, "version": "v1"} for name in ("control", "challenger")]
    name = running(service, arms=arms, unit="user", keep_assigned=True, **logged)
    path, context = f"/v1/experiments/{name}", {"c": "x"} if "context" in logged else {}
    before = {"covariates": {"before": 2.0}} if "metrics" in logged else {}
    given = {"context": context} if context else {}

    def every_way() -> list[str]:
        tokens = [decide(service, name, unit="kept", **given, **before)["decision_id"]]
        columns = {"units": ["kept", "kept"], **({"contexts": [context, context]} if context else {})}
        tokens += service.call("POST", f"{path}/decide/batch", columns).body["decision_ids"]
        asked = {"unit": "kept", "user_id": "u1", "item_id": "i1", **given}
        tokens.append(service.call("POST", f"{path}/predict", asked).body["decision_id"])
        tokens.append(flag(service, name, targetingKey="kept", **context)["metadata"]["decision_id"])
        flags = service.call(
            "POST", "/ofrep/v1/evaluate/flags", {"context": {"targetingKey": "kept", **context}}
        )
        [mine] = [each for each in flags.body["flags"] if each["key"] == name]
        demanded = mine["metadata"]["decision_id"]
        exposed = service.call("POST", "/v1/exposures", {"decision_ids": [demanded]})
        assert exposed.body["verdicts"] == ["accepted"]
        return [*tokens, demanded]

    first = decide(service, name, unit="kept", **given)["decision_id"]
    assert reward_many(service, [first], [1.0]) == ["accepted"]
    wait_until(lambda: exposures(service, name) == 1)
    alone = every_way()
    assert reward_many(service, alone, [1.0] * len(alone)) == ["accepted"] * len(alone)
    mixed = [*every_way(), decide(service, name, unit="new", **given)["decision_id"]]
    assert reward_many(service, mixed, [1.0] * len(mixed)) == ["accepted"] * len(mixed)
    wait_until(lambda: exposures(service, name) == 1 + len(alone) + len(mixed))
    results = service.call("GET", f"{path}/results").body
    assert sum(arm["metrics"]["click"]["n"] for arm in results["arms"]) == 2, "units"
    assert results["crossovers"] == 0


def test_texts(service: ThrowawayService) -> None:
    texts = {"description": "what", "owner": "who", "tags": ["a", "b"], "hypothesis": "why"}
    name = draft(service, **texts)
    assert texts.items() <= view(service, name).items()
    plain = view(service, draft(service))
    assert not {*texts, "audience", "layer", "keep_assigned"} & set(plain)


@pytest.fixture(scope="module")
def holding_out(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThrowawayService]:
    with ThrowawayService(
        tmp_path_factory.mktemp("held-out"), "--service-holdout", "0.2", workers=2
    ) as service:
        yield service


def test_the_holdout_of_the_service_is_of_all_experiments(holding_out: ThrowawayService) -> None:
    names = [running(holding_out), running(holding_out, unit="user")]
    units = [f"u{i}" for i in range(2_000)]
    held = []
    for name in names:
        answer = call_msgpack(holding_out, f"/v1/experiments/{name}/decide/batch", {"units": units}).body
        held.append([reason == "holdout" for reason in answer["reasons"]])
        assert [token is None for token in answer["decision_ids"]] == held[-1]
    assert held[0] == held[1]
    assert 0.15 < sum(held[0]) / 2_000 < 0.25
    one, other = units[held[0].index(True)], units[held[0].index(False)]
    for name in names:
        assert outside(decide(holding_out, name, unit=one), "holdout")
        assert decide(holding_out, name, unit=other)["decision_id"]

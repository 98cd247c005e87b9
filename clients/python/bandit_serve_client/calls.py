"""Calls of the service: for each its request, the reading of its answer, and whether it may be sent again."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar
from urllib.parse import quote, urlencode

from bandit_serve_client.attempts import Repeat
from bandit_serve_client.decisions import (
    Context,
    Decided,
    Decision,
    DecisionRequest,
    Features,
    Predicted,
    Prediction,
    PredictionRequest,
    Score,
)
from bandit_serve_client.errors import Problem, UnexpectedAnswer, Unsendable, problem_of
from bandit_serve_client.experiments import Experiment, HistoryEntry, Results
from bandit_serve_client.http import Answer, Request
from bandit_serve_client.models import Health, Model, ModelSummary, Promotion, Version
from bandit_serve_client.reading import expecting, read
from bandit_serve_client.rewards import AnyReward, RewardsReport, Verdict

T = TypeVar("T")
E = TypeVar("E")
JSON = ("Content-Type", "application/json")
PAGE = 500
"""Entries of a list that are asked for at once."""


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """Request, what its answer means, and when it may be sent again."""

    request: Request
    read: Callable[[Answer], T]
    repeat: Repeat

    def result(self, answer: Answer) -> T:
        """Reads an answer. Raises `Problem` where it is one, `UnexpectedAnswer` for all that is not of the contract."""
        with expecting("answer to this call"):
            if answer.status >= 400:
                raise problem_of(answer.status, answer.content, answer.headers.get("retry-after"))
            if not 200 <= answer.status < 300:
                raise UnexpectedAnswer(
                    f"The answer has the status {answer.status}, which is none of the contract's."
                )
            return self.read(answer)


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Part of a list, and what its next part is asked for with, None at the end."""

    entries: tuple[T, ...]
    after: str | None


def decide(
    experiment: str,
    unit: str | None,
    context: Context | None,
    eligible: Sequence[str] | None,
    covariates: Mapping[str, float] | None = None,
) -> Call[Decision]:
    body = given(unit=unit, context=context, eligible=eligible, covariates=covariates)
    return _post(f"{_experiment(experiment)}/decide", body, _reads(Decision), Repeat.NOT_BEGUN)


def decide_many(experiment: str, requests: Sequence[DecisionRequest]) -> Call[list[Decided]]:
    entries = [given(**_fields(request)) for request in requests]
    path = f"{_experiment(experiment)}/decide/batch"
    return _post(path, {"requests": entries}, _reads_batch(Decision), Repeat.NOT_BEGUN)


def predict(experiment: str, request: PredictionRequest) -> Call[Prediction]:
    path = f"{_experiment(experiment)}/predict"
    return _post(path, _prediction(request), _reads(Prediction), Repeat.NOT_BEGUN)


def predict_many(experiment: str, requests: Sequence[PredictionRequest]) -> Call[list[Predicted]]:
    entries = [_prediction(request) for request in requests]
    path = f"{_experiment(experiment)}/predict/batch"
    return _post(path, {"requests": entries}, _reads_batch(Prediction), Repeat.NOT_BEGUN)


def reward(given: AnyReward) -> Call[Verdict]:
    def verdict(answer: Answer) -> Verdict:
        (only,) = read(RewardsReport, answer.json()).verdicts
        return only

    return _post("/v1/rewards", _body(given), verdict, Repeat.ALWAYS)


def rewards(given: Sequence[AnyReward]) -> Call[RewardsReport]:
    def report(answer: Answer) -> RewardsReport:
        counted = read(RewardsReport, answer.json())
        if len(counted.verdicts) != len(given):
            raise UnexpectedAnswer(
                f"Expected {len(given)} verdicts from the service, not {len(counted.verdicts)}."
            )
        return counted

    body = {"rewards": [_body(each) for each in given]}
    return _post("/v1/rewards", body, report, Repeat.ALWAYS)


def _body(reward: AnyReward) -> dict[str, Any]:
    try:
        return reward.body()
    except Exception as error:
        raise Unsendable(f"The reward can not be written as JSON: {error!r}.") from None


def exposures(decision_ids: Sequence[str]) -> Call[RewardsReport]:
    body = {"decision_ids": list(decision_ids)}
    return _post("/v1/exposures", body, _reads(RewardsReport), Repeat.ALWAYS)


def score(
    model: str,
    version: str | None,
    user_id: str | None,
    item_id: str | None,
    item_ids: Sequence[str] | None,
    k: int | None,
    exclude: Sequence[str],
    features: Features | None,
) -> Call[Score]:
    body = given(
        user_id=user_id,
        item_id=item_id,
        item_ids=item_ids,
        k=k,
        exclude=list(exclude) or None,
        features=features,
    )
    path = _model(model) if version is None else _version(model, version)
    return _post(f"{path}/predict", body, _reads(Score), Repeat.ALWAYS)


def health() -> Call[Health]:
    return Call(Request("GET", "/health/ready"), _reads(Health), Repeat.NEVER)


def create(document: Mapping[str, Any]) -> Call[Experiment]:
    return _post("/v1/experiments", document, _experiment_of, Repeat.NOT_BEGUN)


def replace_draft(experiment: str, document: Mapping[str, Any], if_match: str | None) -> Call[Experiment]:
    return _change("PUT", _experiment(experiment), document, if_match)


def get(experiment: str) -> Call[Experiment]:
    return Call(Request("GET", _experiment(experiment)), _experiment_of, Repeat.ALWAYS)


def experiments(after: str | None) -> Call[Page[Experiment]]:
    return _list("/v1/experiments", "experiments", Experiment, after)


def delete(experiment: str, reason: str | None, if_match: str | None) -> Call[None]:
    request = _changing("DELETE", _experiment(experiment), given(reason=reason), if_match)
    return Call(request, lambda answer: None, Repeat.NOT_BEGUN)


def move(experiment: str, to: str, body: Mapping[str, Any], if_match: str | None) -> Call[Experiment]:
    return _change("POST", f"{_experiment(experiment)}/{to}", body, if_match)


def change_policy(experiment: str, policy: Mapping[str, Any], if_match: str | None) -> Call[Experiment]:
    return _change("PUT", f"{_experiment(experiment)}/policy", policy, if_match)


def add_arm(experiment: str, arm: Mapping[str, Any], if_match: str | None) -> Call[Experiment]:
    return _change("POST", f"{_experiment(experiment)}/arms", arm, if_match)


def change_layer(
    experiment: str, share: float, name: str | None, reason: str | None, if_match: str | None
) -> Call[Experiment]:
    body = given(share=share, name=name, reason=reason)
    return _change("PUT", f"{_experiment(experiment)}/layer", body, if_match)


def add_metric(experiment: str, metric: Mapping[str, Any], if_match: str | None) -> Call[Experiment]:
    return _change("POST", f"{_experiment(experiment)}/metrics", metric, if_match)


def remove_arm(experiment: str, arm: str, reason: str | None, if_match: str | None) -> Call[Experiment]:
    path = f"{_experiment(experiment)}/arms/{_quoted(arm)}"
    return _change("DELETE", path, given(reason=reason), if_match)


def move_arm(
    experiment: str, arm: str, to: str, reason: str | None, if_match: str | None
) -> Call[Experiment]:
    path = f"{_experiment(experiment)}/arms/{_quoted(arm)}/{to}"
    return _change("POST", path, given(reason=reason), if_match)


def results(experiment: str, by: str | None) -> Call[Results]:
    asked = "" if by is None else f"?{urlencode({'by': by})}"
    return Call(Request("GET", f"{_experiment(experiment)}/results{asked}"), _reads(Results), Repeat.ALWAYS)


def history(experiment: str) -> Call[list[HistoryEntry]]:
    request = Request("GET", f"{_experiment(experiment)}/history")
    return Call(request, lambda answer: _entries(answer.json(), "history", HistoryEntry), Repeat.ALWAYS)


def models(after: str | None) -> Call[Page[ModelSummary]]:
    return _list("/v1/models", "models", ModelSummary, after)


def model(name: str) -> Call[Model]:
    return Call(Request("GET", _model(name)), _reads(Model), Repeat.ALWAYS)


def version(name: str, version: str) -> Call[Version]:
    return Call(Request("GET", _version(name, version)), _reads(Version), Repeat.ALWAYS)


def versions(name: str, query: Mapping[str, Any], after: str | None) -> Call[Page[Version]]:
    return _list(f"{_model(name)}/versions", "versions", Version, after, query)


def register(name: str, metadata: Mapping[str, Any], artifact: bytes | None) -> Call[Version]:
    boundary = uuid.uuid4().hex
    parts = [("metadata", "", "application/json", _json(metadata))]
    if artifact is not None:
        parts.append(("artifact", '; filename="artifact"', "application/octet-stream", artifact))
    content = b"".join(
        f'--{boundary}\r\nContent-Disposition: form-data; name="{part}"{more}\r\n'
        f"Content-Type: {kind}\r\n\r\n".encode()
        + data
        + b"\r\n"
        for part, more, kind, data in parts
    )
    headers = (("Content-Type", f"multipart/form-data; boundary={boundary}"),)
    body = content + f"--{boundary}--\r\n".encode()
    request = Request("POST", f"{_model(name)}/versions", body, headers)
    return Call(request, _reads(Version), Repeat.NOT_BEGUN)


def set_status(name: str, version: str, status: str, reason: str | None) -> Call[Version]:
    body = given(status=status, reason=reason)
    return _post(f"{_version(name, version)}/status", body, _reads(Version), Repeat.NOT_BEGUN)


def describe(
    name: str, version: str, metrics: Mapping[str, float], metadata: Mapping[str, Any]
) -> Call[Version]:
    body = _json({"metrics": metrics, "metadata": metadata})
    return Call(Request("PATCH", _version(name, version), body, (JSON,)), _reads(Version), Repeat.ALWAYS)


def rollback(name: str, reason: str | None) -> Call[Model]:
    return _post(f"{_model(name)}/rollback", given(reason=reason), _reads(Model), Repeat.NOT_BEGUN)


def begin_promotion(name: str, version: str, plan: Mapping[str, Any]) -> Call[Promotion]:
    body = {"version": version, "plan": plan}
    return _post(_promotions(name), body, _reads(Promotion), Repeat.NOT_BEGUN)


def promotions(name: str) -> Call[Sequence[Promotion]]:
    def listed(answer: Answer) -> Sequence[Promotion]:
        return tuple(_entries(answer.json(), "promotions", Promotion))

    return Call(Request("GET", _promotions(name)), listed, Repeat.ALWAYS)


def promotion(name: str, id: str) -> Call[Promotion]:
    return Call(Request("GET", f"{_promotions(name)}/{_quoted(id)}"), _reads(Promotion), Repeat.ALWAYS)


def cancel_promotion(name: str, id: str, reason: str | None) -> Call[Promotion]:
    path = f"{_promotions(name)}/{_quoted(id)}/cancel"
    return _post(path, given(reason=reason), _reads(Promotion), Repeat.NOT_BEGUN)


def _promotions(name: str) -> str:
    return f"{_model(name)}/promotions"


def _post(path: str, body: Mapping[str, Any], reader: Callable[[Answer], T], repeat: Repeat) -> Call[T]:
    return Call(Request("POST", path, _json(body), (JSON,)), reader, repeat)


def _change(method: str, path: str, body: Mapping[str, Any], if_match: str | None) -> Call[Experiment]:
    return Call(_changing(method, path, body, if_match), _experiment_of, Repeat.NOT_BEGUN)


def _changing(method: str, path: str, body: Mapping[str, Any], if_match: str | None) -> Request:
    headers = (JSON,) if if_match is None else (JSON, ("If-Match", if_match))
    return Request(method, path, _json(body), headers)


def _list(
    path: str, name: str, kind: type[E], after: str | None, query: Mapping[str, Any] | None = None
) -> Call[Page[E]]:
    asked = {**(query or {}), "limit": PAGE, **given(after=after)}

    def page(answer: Answer) -> Page[E]:
        document = answer.json()
        entries = _entries(document, name, kind)
        return Page(tuple(entries), document.get("after"))

    return Call(Request("GET", f"{path}?{urlencode(asked, doseq=True)}"), page, Repeat.ALWAYS)


def _entries(document: Any, name: str, kind: type[E]) -> list[E]:
    listed = document.get(name) if isinstance(document, dict) else None
    if not isinstance(listed, list):
        raise UnexpectedAnswer(f"The answer has no list {name}.")
    return [read(kind, each) for each in listed]


def _reads(kind: type[E]) -> Callable[[Answer], E]:
    return lambda answer: read(kind, answer.json())


def _reads_batch(kind: type[E]) -> Callable[[Answer], list[E | Problem]]:
    def entry(document: Any) -> E | Problem:
        if isinstance(document, dict) and "detail" in document and "status" in document:
            return problem_of(read(int, document["status"]), _json(document))
        return read(kind, document)

    def batch(answer: Answer) -> list[E | Problem]:
        document = answer.json()
        listed = document.get("responses") if isinstance(document, dict) else None
        if not isinstance(listed, list):
            raise UnexpectedAnswer("The answer has no list responses.")
        return [entry(each) for each in listed]

    return batch


def _experiment_of(answer: Answer) -> Experiment:
    return replace(read(Experiment, answer.json()), etag=answer.headers.get("etag"))


def _prediction(request: PredictionRequest) -> dict[str, Any]:
    fields = given(**_fields(request))
    if not fields["exclude"]:
        del fields["exclude"]
    return fields


def _fields(request: Any) -> dict[str, Any]:
    return {name: getattr(request, name) for name in type(request).__dataclass_fields__}


def given(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _json(document: Any) -> bytes:
    try:
        return json.dumps(document, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise Unsendable(f"The call can not be written as JSON: {error}.") from None


def _quoted(name: str) -> str:
    try:
        return quote(name, safe="")
    except UnicodeEncodeError as error:
        raise Unsendable(f"The name can not be written in a URL: {error}.") from None


def _experiment(name: str) -> str:
    return f"/v1/experiments/{_quoted(name)}"


def _model(name: str) -> str:
    return f"/v1/models/{_quoted(name)}"


def _version(name: str, version: str) -> str:
    return f"{_model(name)}/versions/{_quoted(version)}"

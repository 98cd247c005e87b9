"""Questions and answers of the upstream protocol `json`: a request's ids and features as they came."""

from __future__ import annotations

from math import isfinite
from typing import Any

import msgspec
from msgspec import Struct

from bandit_serve.api.decisions import ScoredItem, ScoreRequest
from bandit_serve.base.names import check_all_outside
from bandit_serve.errors import InvalidInput
from bandit_serve.serving.servable import Scores

MAX_OUTPUTS = 256
MAX_OUTPUT_DEPTH = 8
MAX_OUTPUT_VALUES = 100_000
"""Numbers, texts and lists of an answer. Looking at each of them takes time that other requests wait for."""
MAX_OUTPUT_INTEGER = 2**63


class JsonQuestion(Struct, frozen=True, omit_defaults=True):
    """Body of a question; what the request does not have is not there."""

    user_id: str | None = None
    item_id: str | None = None
    item_ids: list[str] | None = None
    k: int | None = None
    exclude: list[str] = []
    features: Any = None


class JsonAnswer(Struct, frozen=True):
    """Part of an answer that is taken; further fields are passed over."""

    prediction: float | None = None
    predictions: list[float] | None = None
    items: list[ScoredItem] | None = None
    outputs: dict[str, Any] | None = None


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(JsonAnswer).decode


def json_question(request: ScoreRequest) -> bytes:
    """Body of the question that a request asks."""
    return _encode(
        JsonQuestion(
            request.user_id, request.item_id, request.item_ids, request.k, request.exclude, request.features
        )
    )


def json_scores(request: ScoreRequest, content: bytes) -> Scores:
    """Scores in an answer to `json_question`. Raises `ValueError`, which says what was expected.

    Numbers are finite: JSON has no others, and what is too large for float64 is refused.
    """
    answer = _decode(content)  # msgspec's errors are ValueErrors
    if answer.outputs is not None:
        return {"outputs": checked_outputs(answer.outputs)}
    if request.item_ids is not None:
        if answer.predictions is None or len(answer.predictions) != len(request.item_ids):
            raise ValueError(f"expected predictions of {len(request.item_ids)} items, or outputs")
        return {"predictions": answer.predictions}
    if request.k is not None:
        if answer.items is None:
            raise ValueError("expected items, or outputs")
        return {"items": checked_items(request, answer.items)}
    if answer.prediction is None:
        raise ValueError("expected a prediction, or outputs")
    return {"prediction": answer.prediction}


def checked_items(request: ScoreRequest, items: list[ScoredItem]) -> list[ScoredItem]:
    """Items of an answer to a request with `k`. Raises `ValueError` unless they are at most k, each once, and none of
    `exclude`.
    """
    names = [item.item_id for item in items]
    assert request.k is not None
    if len(names) > request.k or len(set(names)) != len(names):
        raise ValueError(f"expected at most {request.k} items, each once")
    if request.exclude and not set(request.exclude).isdisjoint(names):
        raise ValueError("expected none of the excluded items")
    try:
        check_all_outside(names, "items")
    except InvalidInput as error:
        raise ValueError(str(error)) from None
    return items


def checked_outputs(outputs: dict[str, Any]) -> dict[str, Any]:
    """Named values or lists of them. Raises `ValueError` for anything that an answer could not hold."""
    if not 0 < len(outputs) <= MAX_OUTPUTS:
        raise ValueError(f"expected 1 to {MAX_OUTPUTS} outputs")
    level: list[Any] = list(outputs.values())
    n_values = 0
    for _ in range(MAX_OUTPUT_DEPTH):
        n_values += len(level)
        if n_values > MAX_OUTPUT_VALUES:
            raise ValueError(f"expected at most {MAX_OUTPUT_VALUES} values as outputs")
        below: list[Any] = []
        for value in level:
            if isinstance(value, list):
                below += value
            elif not _is_plain(value):
                raise ValueError("expected numbers, texts, true or false, and lists of them, as outputs")
        if not below:
            return outputs
        level = below
    raise ValueError(f"expected lists of at most {MAX_OUTPUT_DEPTH} levels as outputs")


def _is_plain(value: Any) -> bool:
    if isinstance(value, str | bool):
        return True
    if isinstance(value, int):
        return -MAX_OUTPUT_INTEGER <= value < MAX_OUTPUT_INTEGER
    return isinstance(value, float) and isfinite(value)

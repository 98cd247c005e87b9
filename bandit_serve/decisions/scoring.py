"""Scores of a model for a request: one item's, several items', or the k best items."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any

from bandit_serve.api.decisions import ScoredItem, ScoreRequest
from bandit_serve.base.names import check_all_outside, check_outside
from bandit_serve.base.threads import in_scoring_thread
from bandit_serve.errors import FieldError, InvalidInput
from bandit_serve.models.model import Feature, Features, Model
from bandit_serve.registry.top_k_cache import TopKCache

MAX_ITEMS_IN_LOOP = 2_000
"""Number of items whose scoring takes about half a millisecond; more are scored in a thread."""

Scores = dict[str, Any]


class Scorer:
    """Scores requests. The k best items may come from a cache."""

    def __init__(self, top_k: TopKCache) -> None:
        self._top_k = top_k

    def score(
        self, model: Model, artifact: str, request: ScoreRequest, features: Features | None
    ) -> Scores | Awaitable[Scores]:
        """Returns the fields of the answer, or an awaitable of them if their computation would delay other requests.

        artifact: SHA-256 of the model's file. features: those of the request, if the model takes any.
        """
        if request.item_id is not None:
            return {"prediction": model.predict(request.user_id, request.item_id, features)}
        if request.item_ids is not None and len(request.item_ids) <= MAX_ITEMS_IN_LOOP:
            return {"predictions": model.predict_items(request.user_id, request.item_ids, features).tolist()}
        return self._score_later(model, artifact, request, features)

    async def _score_later(
        self, model: Model, artifact: str, request: ScoreRequest, features: Features | None
    ) -> Scores:
        if request.item_ids is not None:
            scores = await in_scoring_thread(model.predict_items, request.user_id, request.item_ids, features)
            return {"predictions": scores.tolist()}
        assert request.k is not None
        items, cached = await self._top_k.get(
            artifact, model, request.user_id, request.k, request.exclude, features
        )
        return {"items": [ScoredItem(item, score) for item, score in items], "cached": cached}


def request_features(request: ScoreRequest) -> Features | None:
    """Features of the request by name, x0, x1, … for a list of numbers; None if there are none."""
    if not request.features:
        return None
    if isinstance(request.features, dict):
        return request.features
    numbers: dict[str, Feature] = {f"x{i}": number for i, number in enumerate(request.features)}
    return numbers


def check_score_request(request: ScoreRequest) -> None:
    """Raises `InvalidInput` unless exactly one of `item_id`, `item_ids` and `k` is given and all names are valid."""
    asked = (request.item_id is not None) + (request.item_ids is not None) + (request.k is not None)
    if asked != 1:
        detail = "expected one of item_id, item_ids and k"
        raise InvalidInput(
            f"The request has {asked} of item_id, item_ids and k: {detail}.", [FieldError("", detail)]
        )
    check_outside(request.user_id, "user_id")
    if request.item_id is not None:
        check_outside(request.item_id, "item_id")
    elif request.item_ids is not None:
        check_all_outside(request.item_ids, "item_ids")
    if request.exclude:
        if request.k is None:
            raise InvalidInput(
                "exclude: expected only with k.", [FieldError("exclude", "expected only with k")]
            )
        check_all_outside(request.exclude, "exclude")

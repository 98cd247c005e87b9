"""Version whose model is of a family: it scores users and items, one, several, or the k best."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Sequence

from bandit_serve.api.decisions import ScoredItem, ScoreRequest
from bandit_serve.api.inference import TensorMetadata
from bandit_serve.base.threads import in_scoring_thread
from bandit_serve.models.model import Features, Model
from bandit_serve.serving.request_form import check_family_request, request_features
from bandit_serve.serving.servable import BackgroundScores, Scores
from bandit_serve.serving.top_k_cache import TopKCache

MAX_ITEMS_IN_LOOP = 2_000
"""Number of items whose scoring takes about half a millisecond; more are scored in a thread."""


class FamilyVersion:
    """Model in memory. `artifact` is the SHA-256 of its file; the k best items may come from the cache `top_k`.

    Features reach only a family that takes them: a request can not know which arm's model it will meet. Asked alone,
    the others refuse them.
    """

    inputs = (TensorMetadata("user_id", "BYTES", [-1]), TensorMetadata("item_id", "BYTES", [-1]))
    outputs = (TensorMetadata("prediction", "FP64", [-1]),)

    def __init__(self, model: Model, artifact: str, top_k: TopKCache) -> None:
        self.model = model
        self._artifact = artifact
        self._top_k = top_k
        self._predict = model.predict
        self._takes_features = model.takes_features

    @property
    def nbytes(self) -> int:
        return self.model.nbytes

    async def warm(self) -> None:
        """Nothing: the model is mapped, and its first request reads what it needs."""

    async def check_ready(self) -> None:
        """Nothing: one that is in memory scores."""

    async def close(self) -> None:
        """Nothing: the file is unmapped once nobody holds the model."""

    def score(self, request: ScoreRequest, alone: bool = False) -> Scores | Awaitable[Scores]:
        features = request_features(request) if alone or self._takes_features else None
        user, item = request.user_id, request.item_id
        assert user is not None
        if item is not None:
            prediction = self._predict(user, item, features)
            if not alone:
                return {"prediction": prediction}
            confidence = self.model.confidence(user, item, features)
            return {"prediction": prediction, "confidence": confidence}
        if request.item_ids is not None and len(request.item_ids) <= MAX_ITEMS_IN_LOOP:
            return {"predictions": self.model.predict_items(user, request.item_ids, features).tolist()}
        return self._score_later(request, user, features, alone)

    async def _score_later(
        self, request: ScoreRequest, user: str, features: Features | None, alone: bool
    ) -> Scores:
        if request.item_ids is not None:
            predictions = await in_scoring_thread(self.model.predict_items, user, request.item_ids, features)
            return {"predictions": predictions.tolist()}
        assert request.k is not None
        best, cached = await self._top_k.get(
            self._artifact, self.model, user, request.k, request.exclude, features
        )
        items = [ScoredItem(item, score) for item, score in best]
        return {"items": items, "cached": cached} if alone else {"items": items}

    async def score_all(self, requests: Sequence[ScoreRequest]) -> list[BackgroundScores]:
        return await asyncio.to_thread(lambda: [self._try(request) for request in requests])

    def _try(self, request: ScoreRequest) -> BackgroundScores:
        started_s = time.perf_counter()
        try:
            scores: Scores | Exception = self._score_here(request)
        except Exception as error:
            scores = error
        return BackgroundScores(scores, time.perf_counter() - started_s)

    def _score_here(self, request: ScoreRequest) -> Scores:
        check_family_request(request)
        features = request_features(request) if self._takes_features else None
        user = request.user_id
        assert user is not None
        if request.item_id is not None:
            return {"prediction": self._predict(user, request.item_id, features)}
        if request.item_ids is not None:
            return {"predictions": self.model.predict_items(user, request.item_ids, features).tolist()}
        assert request.k is not None
        items = self.model.top_k(user, request.k, request.exclude, features)
        return {"items": [ScoredItem(item, score) for item, score in items]}

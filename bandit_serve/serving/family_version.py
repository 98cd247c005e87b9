"""Version whose model is of a family: it scores users and items, one, several, or the k best."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Collection, Sequence

from bandit_serve.api.decisions import ScoredItem, ScoreRequest
from bandit_serve.api.inference import ITEM, PREDICTION, USER, TensorMetadata
from bandit_serve.base.threads import in_scoring_thread
from bandit_serve.models.model import Features, Model
from bandit_serve.serving.request_form import check_family_request, request_features
from bandit_serve.serving.servable import BackgroundScores, Scores
from bandit_serve.serving.top_k_cache import MAX_LOOP_ITEMS, TopKCache


class FamilyVersion:
    """Model in memory. `artifact` is the SHA-256 of its file; the k best items may come from the cache `top_k`.

    Features reach only a family that takes them: a request can not know which arm's model it will meet. Asked alone,
    the others refuse them.
    """

    inputs = (TensorMetadata(USER, "BYTES", [-1]), TensorMetadata(ITEM, "BYTES", [-1]))
    outputs = outputs_as_arm = (TensorMetadata(PREDICTION, "FP64", [-1]),)
    prediction = PREDICTION
    features: tuple[str, ...] = ()

    def __init__(self, model: Model, artifact: str, top_k: TopKCache) -> None:
        self.model = model
        self._artifact = artifact
        self._top_k = top_k
        self._predict = model.predict
        self._takes_features = model.takes_features

    @property
    def nbytes(self) -> int:
        return self.model.nbytes

    def lacks(self, names: Collection[str]) -> list[str]:
        """Nothing: its check says which of the names are missing, as that depends on `k`."""
        return []

    async def warm(self) -> None:
        """Nothing: the model is mapped, and its first request reads what it needs."""

    async def check_ready(self) -> None:
        """Nothing: one that is in memory scores."""

    async def close(self) -> None:
        """Nothing: the file is unmapped once nobody holds the model."""

    def score(self, request: ScoreRequest, alone: bool = False) -> Scores | Awaitable[Scores]:
        features = request_features(request) if alone or self._takes_features else None
        if request.k is not None:
            return self._rank(request, features, alone)
        if request.item_ids is not None and len(request.item_ids) > MAX_LOOP_ITEMS:
            return in_scoring_thread(self._scores, request, features, alone)
        return self._scores(request, features, alone)

    async def _rank(self, request: ScoreRequest, features: Features | None, alone: bool) -> Scores:
        assert request.user_id is not None
        assert request.k is not None
        best, cached = await self._top_k.get(
            self._artifact, self.model, request.user_id, request.k, request.exclude, features
        )
        return {"items": _items(best), "cached": cached} if alone else {"items": _items(best)}

    def _scores(self, request: ScoreRequest, features: Features | None, alone: bool) -> Scores:
        """Scores of the request's item or items."""
        user, item = request.user_id, request.item_id
        assert user is not None
        if item is None:
            assert request.item_ids is not None
            return {"predictions": self.model.predict_items(user, request.item_ids, features).tolist()}
        scores: Scores = {"prediction": self._predict(user, item, features)}
        if alone:
            scores["confidence"] = self.model.confidence(user, item, features)
        return scores

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
        if request.k is None:
            return self._scores(request, features, alone=False)
        assert request.user_id is not None
        return {"items": _items(self.model.top_k(request.user_id, request.k, request.exclude, features))}


def _items(best: Sequence[tuple[str, float]]) -> list[ScoredItem]:
    return [ScoredItem(item, score) for item, score in best]

"""Shadow versions: they score the requests for their model in the background, after the answer."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

from bandit_serve.api.decisions import ScoreRequest
from bandit_serve.base.repeated_warnings import RepeatedWarnings
from bandit_serve.errors import BanditServeError, StoreUnavailable, in_full
from bandit_serve.folds.replica import Replica
from bandit_serve.registry.agreement import Agreement
from bandit_serve.registry.registry import Version
from bandit_serve.serving.loaded import LoadedModels
from bandit_serve.serving.servable import Scores
from bandit_serve.store.store import Store

log = logging.getLogger(__name__)

MAX_WAITING = 10_000
MAX_BATCH_REQUESTS = 200
REPORT_S = 1.0


class Asked(NamedTuple):
    """Request, the answer that was given to it, and the version that gave it."""

    request: ScoreRequest
    answer: Mapping[str, Any]
    version: str


class Shadows:
    """Queue of requests for shadows. It is bounded: when shadows do not keep up, requests are dropped and counted."""

    def __init__(self, store: Store, replica: Replica, models: LoadedModels, incarnation: int) -> None:
        self._store = store
        self._replica = replica
        self._models = models
        self._incarnation = incarnation
        self._waiting: deque[tuple[str, Asked]] = deque()
        self._versions: dict[str, list[Version]] = {}
        self._seen_revision = -1
        self._sums: dict[tuple[str, str], Agreement] = {}
        self._changed: set[tuple[str, str]] = set()
        self._arrived = asyncio.Event()
        self._failures = RepeatedWarnings()

    def of(self, model: str) -> list[Version]:
        """Shadow versions of a model."""
        registry = self._replica.registry
        if registry.revision != self._seen_revision:
            self._seen_revision = registry.revision
            self._versions = {
                name: [version for version in registered.versions.values() if version.status == "shadow"]
                for name, registered in registry.models.items()
            }
        return self._versions.get(model, [])

    def ask(self, model: str, version: str, request: ScoreRequest, answer: Mapping[str, Any]) -> None:
        """Queues a request and the answer that `version` gave, for the shadows of its model."""
        shadows = self.of(model)
        if not shadows:
            return
        if len(self._waiting) >= MAX_WAITING:
            for shadow in shadows:
                self._sum(shadow).dropped += 1
            return
        self._waiting.append((model, Asked(request, answer, version)))
        self._arrived.set()

    async def run(self) -> None:
        """Scores queued requests, and writes to the store how they agree, until cancelled."""
        reported_s = time.monotonic()
        while True:
            self._arrived.clear()
            if not self._waiting:
                try:
                    async with asyncio.timeout(REPORT_S):
                        await self._arrived.wait()
                except TimeoutError:
                    pass
            batch = [self._waiting.popleft() for _ in range(min(MAX_BATCH_REQUESTS, len(self._waiting)))]
            for model in dict.fromkeys(name for name, _ in batch):
                for shadow in self.of(model):
                    asked = [each for name, each in batch if name == model]
                    await self._score(shadow, asked)
            if time.monotonic() - reported_s >= REPORT_S:
                reported_s = time.monotonic()
                await self._report()

    def _sum(self, shadow: Version) -> Agreement:
        key = shadow.model, shadow.version
        self._changed.add(key)
        return self._sums.setdefault(key, Agreement())

    async def _score(self, shadow: Version, asked: list[Asked]) -> None:
        """Adds how a shadow answers. Whatever it raises, the requests have failed and the other shadows go on."""
        sums = self._sum(shadow)
        try:
            loaded = self._models.get(shadow.model, shadow.version) or await self._models.load(shadow)
            trials = await loaded.score_all([each.request for each in asked])
        except Exception as error:
            what = f"the shadow {shadow.model} {shadow.version} gave no scores: {in_full(error)}"
            trace = None if isinstance(error, BanditServeError) else error
            self._failures.say(log, (shadow.model, shadow.version), what, exc_info=trace)
            sums.failed += len(asked)
            sums.requests += len(asked)
            return
        for (_, answer, _), tried in zip(asked, trials, strict=True):
            if isinstance(tried.scores, Exception):
                log.debug("a shadow failed", exc_info=tried.scores)
                sums.failed += 1
            else:
                try:
                    _compare(sums, answer, tried.scores)
                except Exception:
                    log.debug("scores of a shadow can not be compared", exc_info=True)
                    sums.failed += 1
            sums.requests += 1
            sums.seconds += tried.seconds

    async def _report(self) -> None:
        for key in list(self._changed):
            self._changed.discard(key)
            state = msgspec.msgpack.encode(self._sums[key])
            try:
                await self._store.write_agreement(*key, self._incarnation, state)
            except StoreUnavailable:
                self._changed.add(key)
                return


def _compare(sums: Agreement, answer: Mapping[str, Any], scores: Scores) -> None:
    """Adds how `scores` agree with `answer`, in what both have."""
    if "prediction" in answer and "prediction" in scores:
        sums.add_scores([answer["prediction"]], [scores["prediction"]])
    elif "predictions" in answer and "predictions" in scores:
        sums.add_scores(answer["predictions"], scores["predictions"])
    elif "items" in answer and "items" in scores:
        ranked = [[item.item_id for item in each["items"]] for each in (answer, scores)]
        sums.add_ranking(*ranked)
    elif "outputs" in answer and "outputs" in scores:
        for name in answer["outputs"].keys() & scores["outputs"].keys():
            live, shadow = (_numbers(each["outputs"][name]) for each in (answer, scores))
            if len(live) == len(shadow):
                sums.add_scores(live, shadow)


def _numbers(output: Any) -> list[float]:
    """Scores in an output: its floats, in order, those of a mapping by its keys. Whole numbers are labels."""
    if isinstance(output, float):
        return [output]
    if isinstance(output, Mapping):
        output = [output[key] for key in sorted(output, key=str)]
    return [number for each in output for number in _numbers(each)] if isinstance(output, list) else []

"""Top-k answers, by model version and inputs: in this process, then in the store, then computed."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b

import msgpack

from bandit_serve.base.threads import in_scoring_thread
from bandit_serve.errors import StoreUnavailable
from bandit_serve.models.model import Features, Model
from bandit_serve.store.store import Store

MAX_ANSWERS = 10_000
MAX_BYTES = 64 * 2**20
MAX_TENANT_BYTES = 4 * 2**20
# What an item of an answer takes in memory beyond the bytes of its id: a tuple, a float, the head of a str.
ITEM_BYTES = 160
STORE_TIMEOUT_S = 0.02
STORE_REST_S = 1.0
MAX_LOOP_ITEMS = 2_000
"""Number of items whose scoring takes about half a millisecond; more are scored or ranked in a thread."""

Items = list[tuple[str, float]]


class TopKCache:
    """Cache of top-k answers up to an age of `lifetime_s`. A slow store is left alone for `STORE_REST_S`."""

    def __init__(self, store: Store | None, *, lifetime_s: float, max_bytes: int = MAX_BYTES) -> None:
        self._store = store
        self._max_bytes = max_bytes
        self._lifetime_s = lifetime_s
        self._answers: OrderedDict[str, tuple[float, Items]] = OrderedDict()
        self._nbytes = 0
        self._avoid_store_until_s = 0.0
        self.hits = 0
        self.misses = 0

    async def get(
        self,
        artifact: str,
        model: Model,
        user: str,
        k: int,
        exclude: Sequence[str],
        features: Features | None = None,
    ) -> tuple[Items, bool]:
        """Ranking of the `k` best items of `user` without `exclude`, and whether they came from a cache.

        `artifact` is the SHA-256 of the model's file, so another version never answers.
        """
        question = [artifact, user, k, sorted(set(exclude)), sorted((features or {}).items())]
        digest = blake2b(msgpack.packb(question), digest_size=20).hexdigest()
        items = self._recall(digest)
        if items is None:
            items = await self._fetch(digest)
        if items is not None:
            self.hits += 1
            return items, True
        self.misses += 1
        if model.n_items > MAX_LOOP_ITEMS:
            items = await in_scoring_thread(model.top_k, user, k, exclude, features)
        else:
            items = model.top_k(user, k, exclude, features)
        self._remember(digest, items)
        await self._share(digest, items)
        return items, False

    def _recall(self, digest: str) -> Items | None:
        kept = self._answers.get(digest)
        if kept is None:
            return None
        if kept[0] < time.monotonic():
            self._forget(digest)
            return None
        self._answers.move_to_end(digest)
        return kept[1]

    def _remember(self, digest: str, items: Items) -> None:
        if digest in self._answers:
            self._forget(digest)
        self._answers[digest] = (time.monotonic() + self._lifetime_s, items)
        self._nbytes += _nbytes(items)
        while len(self._answers) > MAX_ANSWERS or self._nbytes > self._max_bytes:
            self._forget(next(iter(self._answers)))

    def _forget(self, digest: str) -> None:
        self._nbytes -= _nbytes(self._answers.pop(digest)[1])

    async def _fetch(self, digest: str) -> Items | None:
        if self._store is None or time.monotonic() < self._avoid_store_until_s:
            return None
        try:
            async with asyncio.timeout(STORE_TIMEOUT_S):
                content = await self._store.cached(digest)
        except (StoreUnavailable, TimeoutError):
            self._avoid_store_until_s = time.monotonic() + STORE_REST_S
            return None
        if content is None:
            return None
        items = [(item, score) for item, score in msgpack.unpackb(content)]
        self._remember(digest, items)
        return items

    async def _share(self, digest: str, items: Items) -> None:
        if self._store is None or time.monotonic() < self._avoid_store_until_s:
            return
        try:
            async with asyncio.timeout(STORE_TIMEOUT_S):
                await self._store.cache(digest, msgpack.packb(items), round(self._lifetime_s * 1000))
        except (StoreUnavailable, TimeoutError):
            self._avoid_store_until_s = time.monotonic() + STORE_REST_S


def _nbytes(items: Items) -> int:
    """About what an answer takes in memory."""
    return sum(ITEM_BYTES + len(item) for item, _ in items)

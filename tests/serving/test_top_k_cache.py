"""Top-k cache: answers come from this process, else from the store, else they are computed."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any

import pytest
from stores import ThrowawayStore

from bandit_serve.models.popularity import Popularity
from bandit_serve.serving import top_k_cache as module
from bandit_serve.serving.top_k_cache import TopKCache
from bandit_serve.store.store import Store

SHA, OTHER_SHA = "a" * 64, "b" * 64


class Counted(Popularity):
    """Model that counts its calls."""

    def __init__(self, offset: int = 0) -> None:
        super().__init__()
        self.asked = 0
        items = [str(i) for i in range(20) for _ in range(i + 1 + offset)]
        self.fit(["u"] * len(items), items, [1.0] * len(items))

    def top_k(self, *asked: Any, **more: Any) -> list[tuple[str, float]]:
        self.asked += 1
        return super().top_k(*asked, **more)


@pytest.fixture
def server() -> Iterator[ThrowawayStore]:
    with ThrowawayStore(appendfsync="no") as running:
        yield running


def on(server: ThrowawayStore, scenario: Callable[[Store, Counted], Awaitable[None]]) -> None:
    async def run() -> None:
        store = Store(server.url, timeout_s=30)
        try:
            await store.time_ms()
            await scenario(store, Counted())
        finally:
            await store.close()

    asyncio.run(run())


async def ask(
    cache: TopKCache, model: Counted, sha: str = SHA, user: str = "u", k: int = 3, exclude: Sequence[str] = ()
) -> bool:
    items, cached = await cache.get(sha, model, user, k, exclude)
    assert items == Popularity.top_k(model, user, k, exclude)
    assert all(isinstance(item, tuple) for item in items)
    return cached


def test_an_answer_is_computed_once_in_a_process_and_once_in_all(
    server: ThrowawayStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STORE_TIMEOUT_S", 5.0)

    async def scenario(store: Store, model: Counted) -> None:
        one, two = TopKCache(store, lifetime_s=60), TopKCache(store, lifetime_s=60)
        assert not await ask(one, model)
        assert await ask(one, model)
        assert await ask(two, model), "another process finds it in the store"
        assert model.asked == 1
        assert (one.hits, one.misses, two.hits, two.misses) == (1, 1, 1, 0)
        with server.client() as client:
            client.flushall()
        assert await ask(two, model), "and remembers it"

    on(server, scenario)


def test_other_inputs_and_other_versions_have_answers_of_their_own(
    server: ThrowawayStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STORE_TIMEOUT_S", 5.0)

    async def scenario(store: Store, model: Counted) -> None:
        cache = TopKCache(store, lifetime_s=60)
        other = Counted(offset=5)
        assert not await ask(cache, model)
        assert not await ask(cache, other, sha=OTHER_SHA)
        assert not await ask(cache, model, user="w")
        assert not await ask(cache, model, k=4)
        assert not await ask(cache, model, exclude=["19"])
        assert await ask(cache, model, exclude=["19", "19"]), "the same set is the same question"
        assert await ask(cache, model)
        assert await ask(cache, other, sha=OTHER_SHA)

    on(server, scenario)


def test_the_order_of_what_is_excluded_does_not_matter(server: ThrowawayStore) -> None:
    async def scenario(store: Store, model: Counted) -> None:
        cache = TopKCache(None, lifetime_s=60)
        assert not await ask(cache, model, exclude=["19", "18"])
        assert await ask(cache, model, exclude=["18", "19"])

    on(server, scenario)


def test_answers_live_as_long_as_they_are_said_to(
    server: ThrowawayStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STORE_TIMEOUT_S", 5.0)

    async def scenario(store: Store, model: Counted) -> None:
        cache = TopKCache(store, lifetime_s=60)
        await ask(cache, model)
        with server.client() as client:
            (key,) = client.keys("*top-k*")
            assert 0 < client.pttl(key) <= 60_000
            client.flushall()
        now_s = time.monotonic()
        monkeypatch.setattr(time, "monotonic", lambda: now_s + 61)
        assert not await ask(cache, model)

    on(server, scenario)


def test_memory_is_bounded_and_the_least_recently_asked_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ANSWERS", 3)

    async def scenario() -> None:
        cache, model = TopKCache(None, lifetime_s=60), Counted()
        for user in "abc":
            await ask(cache, model, user=user)
        assert await ask(cache, model, user="a")
        await ask(cache, model, user="d")
        assert await ask(cache, model, user="a")
        assert not await ask(cache, model, user="b")

    asyncio.run(scenario())


def test_memory_is_bounded_in_bytes_too() -> None:
    max_bytes = 3 * 5 * (module.ITEM_BYTES + 2)

    async def scenario() -> None:
        cache, model = TopKCache(None, lifetime_s=60, max_bytes=max_bytes), Counted()
        for user in "abcd":
            await ask(cache, model, user=user, k=5)
        assert not await ask(cache, model, user="a", k=5)
        assert await ask(cache, model, user="d", k=5)
        assert not await ask(cache, model, user="a", k=20), "too large to keep"
        assert not await ask(cache, model, user="a", k=20)
        assert len(cache._answers) == cache._nbytes == 0

    asyncio.run(scenario())


def test_a_store_that_is_slow_is_left_alone_for_a_while(
    server: ThrowawayStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario(store: Store, model: Counted) -> None:
        cache = TopKCache(store, lifetime_s=60)
        calls = []
        real = store.cached

        async def counted(digest: str) -> bytes | None:
            calls.append(digest)
            return await real(digest)

        monkeypatch.setattr(store, "cached", counted)
        server.pause()
        try:
            for user in "abcdef":
                assert not await ask(cache, model, user=user)
            assert len(calls) == 1
        finally:
            server.resume()
        cache._avoid_store_until_s = 0.0
        monkeypatch.setattr(module, "STORE_TIMEOUT_S", 5.0)
        await ask(cache, model, user="g")
        assert len(calls) == 2

    on(server, scenario)


def test_a_store_that_is_gone_costs_no_answer(server: ThrowawayStore) -> None:
    async def scenario(store: Store, model: Counted) -> None:
        server.kill()
        cache = TopKCache(store, lifetime_s=60)
        assert not await ask(cache, model)
        assert await ask(cache, model)

    on(server, scenario)


def test_large_catalogues_are_ranked_off_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_LOOP_ITEMS", 10)
    threads: list[str] = []

    class Noted(Counted):
        def top_k(self, *args: Any, **kwargs: Any) -> Any:
            threads.append(threading.current_thread().name)
            return super().top_k(*args, **kwargs)

    async def scenario() -> None:
        assert not await ask(TopKCache(None, lifetime_s=60), Noted())

    asyncio.run(scenario())
    assert len(threads) == 1
    assert threads[0].startswith("scoring")

"""Path of a reward through one worker, with a real store and without HTTP."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Iterator

import pytest
from builders import created, experiment
from stores import ThrowawayStore

from bandit_serve.api.rewards import Reward
from bandit_serve.changes.changes import Changes
from bandit_serve.errors import StoreUnavailable
from bandit_serve.folds.replica import Replica
from bandit_serve.log._token import Seal
from bandit_serve.log.token import new_key
from bandit_serve.replication.keyring import load_keyring
from bandit_serve.replication.tail import Tail
from bandit_serve.rewards import rewards as module
from bandit_serve.rewards.rewards import Rewards
from bandit_serve.server.ending import end
from bandit_serve.store.store import Store

UID = 7


@pytest.fixture
def server() -> Iterator[ThrowawayStore]:
    with ThrowawayStore(appendfsync="no") as running:
        yield running


def with_rewards(
    server: ThrowawayStore, scenario: Callable[[Store, Rewards, list[int]], Awaitable[None]]
) -> None:
    """Runs `scenario` with rewards of a real store, and a list of the number of token keys at each reading."""

    async def run() -> None:
        store = Store(server.url, timeout_s=30)
        replica = Replica()
        tail = Tail(store, replica)
        await tail.load()
        following = asyncio.create_task(tail.run())
        try:
            await Changes(store, replica, tail).create(created(experiment(), uid=UID))
            rewards = Rewards(store, replica, tail, await load_keyring(store))
            readings: list[int] = []
            real = store.token_keys

            async def counted() -> dict[int, bytes]:
                keys = await real()
                readings.append(len(keys))
                return keys

            store.token_keys = counted  # type: ignore[method-assign]
            await scenario(store, rewards, readings)
        finally:
            await end([following])
            await store.close()

    asyncio.run(run())


async def token(store: Store, key_id: int, key: bytes, counter: int = 0) -> str:
    return Seal(key_id, key).sign(UID, 1, counter, await store.time_ms(), 1, 0, 0.5, 0)


def test_a_key_that_came_since_is_asked_for(server: ThrowawayStore) -> None:
    async def scenario(store: Store, rewards: Rewards, readings: list[int]) -> None:
        made = new_key(await store.time_ms())
        assert await store.add_token_key(7, made)
        sent = [Reward(await token(store, 7, made[8:], i), 1.0) for i in range(3)]
        batches = await asyncio.gather(*(rewards.submit([reward]) for reward in sent))
        assert batches == [["accepted"]] * 3
        assert readings == [2], "those who ask together wait for one reading"

    with_rewards(server, scenario)


def test_forgers_do_not_make_us_read_the_keys_again_and_again(
    server: ThrowawayStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RENEW_S", 60.0)

    async def scenario(store: Store, rewards: Rewards, readings: list[int]) -> None:
        for key_id in range(1, 50):
            forged = await token(store, key_id, secrets.token_bytes(32))
            assert await rewards.submit([Reward(forged, 1.0)]) == ["invalid"]
        assert readings == [1]
        malformed = ["", "A", "é" * 92, "A" * 91, "!" * 92]
        assert await rewards.submit([Reward(text, 1.0) for text in malformed]) == ["invalid"] * 5

    with_rewards(server, scenario)


def test_forgeries_under_a_known_key_are_refused_without_a_look_up(server: ThrowawayStore) -> None:
    async def scenario(store: Store, rewards: Rewards, readings: list[int]) -> None:
        forged = await token(store, 0, secrets.token_bytes(32))
        assert await rewards.submit([Reward(forged, 1.0)]) == ["invalid"]
        assert readings == []

    with_rewards(server, scenario)


def test_while_the_keys_can_not_be_read_there_is_no_verdict(server: ThrowawayStore) -> None:
    async def scenario(store: Store, rewards: Rewards, readings: list[int]) -> None:
        unknown = Reward(await token(store, 9, secrets.token_bytes(32)), 1.0)
        server.kill()
        for _ in range(3):
            with pytest.raises(StoreUnavailable):
                await rewards.submit([unknown])

    with_rewards(server, scenario)

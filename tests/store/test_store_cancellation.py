"""Cancellation of a task that waits for the store: the task ends, at any point of the call."""

from __future__ import annotations

import asyncio

import pytest
from stores import ThrowawayStore

from bandit_serve.errors import StoreUnavailable
from bandit_serve.store.store import Store

STEPS = 60


async def _cancelled_after(url: str, steps: int) -> bool:
    """Whether a task that calls the store in a loop ends when it is cancelled after `steps` turns."""
    store, given_up = Store(url), False

    async def ask() -> None:
        while not given_up:
            try:
                await store.time_ms()
            except StoreUnavailable:
                await asyncio.sleep(0)

    task = asyncio.create_task(ask())
    for _ in range(steps):
        await asyncio.sleep(0)
    task.cancel()
    _, going_on = await asyncio.wait({task}, timeout=0.5)
    given_up = True
    await asyncio.wait({task})
    await store.close()
    return not going_on


def test_a_cancellation_is_never_swallowed(store: ThrowawayStore) -> None:
    async def ended() -> list[bool]:
        return [await _cancelled_after(store.url, steps) for steps in range(STEPS)]

    assert asyncio.run(ended()) == [True] * STEPS


def test_a_cancellation_is_not_swallowed_where_the_store_does_not_answer(store: ThrowawayStore) -> None:
    """Ctrl-C while a connection is made, with a handshake that is sent and not answered."""

    async def ended(steps: int) -> bool:
        client = Store(store.url, timeout_s=60.0)
        task = asyncio.create_task(client.check())
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        _, going_on = await asyncio.wait({task}, timeout=10.0)
        task.cancel()
        await asyncio.wait({task})
        await client.close()
        return not going_on

    async def all_ended() -> list[bool]:
        return [await ended(steps) for steps in range(STEPS)]

    store.pause()
    try:
        assert asyncio.run(all_ended()) == [True] * STEPS
    finally:
        store.resume()


def test_a_time_limit_around_a_call_is_a_time_out(store: ThrowawayStore) -> None:
    async def limited() -> None:
        client = Store(store.url, timeout_s=5.0)
        try:
            await client.time_ms()
            store.pause()
            async with asyncio.timeout(0.05):
                await client.time_ms()
        finally:
            store.resume()
            await client.close()

    with pytest.raises(TimeoutError):
        asyncio.run(limited())

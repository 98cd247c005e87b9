"""Calls over kept connections, with real servers that stop and die."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from redis import exceptions
from stores import ThrowawayStore

from bandit_serve.store.calls import MAX_IDLE_S, MAX_KEPT_CONNECTIONS, Calls
from bandit_serve.store.connection import MAX_CONNECTIONS


def used(url: str, use: Callable[[Calls], Awaitable[None]], timeout_s: float = 1.0) -> None:
    async def run() -> None:
        calls = Calls(url, timeout_s=timeout_s)
        try:
            await use(calls)
        finally:
            await calls.close()

    asyncio.run(run())


def test_calls_in_a_row_share_a_connection_also_after_a_reply_that_is_an_error(store: ThrowawayStore) -> None:
    async def use(calls: Calls) -> None:
        first = await calls.execute_command("CLIENT", "ID")
        with pytest.raises(exceptions.NoScriptError):
            await calls.execute_command("EVALSHA", "0" * 40, 0)
        assert await calls.execute_command("CLIENT", "ID") == first

    used(store.url, use)


def test_many_at_once_get_a_connection_each_and_give_it_back(store: ThrowawayStore) -> None:
    async def use(calls: Calls) -> None:
        for _ in range(3):
            asked = [calls.execute_command("CLIENT", "ID") for _ in range(4 * MAX_CONNECTIONS)]
            assert len(set(await asyncio.gather(*asked))) > MAX_KEPT_CONNECTIONS
        assert await calls.execute_command("ECHO", b"\xff\x00") == b"\xff\x00"

    used(store.url, use)


def test_a_connection_that_rested_while_the_store_came_back_is_made_anew() -> None:
    async def use(calls: Calls) -> None:
        await calls.execute_command("PING")
        store.kill()
        store.start()
        await asyncio.sleep(MAX_IDLE_S)
        assert await calls.execute_command("PING") == b"PONG"

    with ThrowawayStore() as store:
        used(store.url, use)


def test_a_call_into_a_store_that_has_just_died_fails_and_the_next_one_does_not() -> None:
    async def use(calls: Calls) -> None:
        await calls.execute_command("PING")
        store.pause()
        asked = asyncio.create_task(calls.execute_command("PING"))
        await asyncio.sleep(0)
        store.kill()
        with pytest.raises(exceptions.ConnectionError):
            await asked
        store.start()
        assert await calls.execute_command("PING") == b"PONG"

    with ThrowawayStore() as store:
        used(store.url, use)


def test_the_reply_to_a_call_that_was_given_up_reaches_no_other(store: ThrowawayStore) -> None:
    async def use(calls: Calls) -> None:
        await calls.execute_command("PING")
        for steps in range(20):
            given_up = asyncio.create_task(calls.execute_command("ECHO", "theirs"))
            for _ in range(steps):
                await asyncio.sleep(0)
            given_up.cancel()
            await asyncio.wait({given_up})
            assert await calls.execute_command("ECHO", "ours") == b"ours"

    used(store.url, use)


def test_a_store_that_stands_still_is_a_time_out_each_time(store: ThrowawayStore) -> None:
    async def use(calls: Calls) -> None:
        await calls.execute_command("PING")
        store.pause()
        try:
            for _ in range(2):
                with pytest.raises(TimeoutError):
                    await calls.execute_command("PING")
        finally:
            store.resume()
        assert await calls.execute_command("PING") == b"PONG"

    used(store.url, use, timeout_s=0.2)

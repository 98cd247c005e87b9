"""Replies to others that wait, through an outage of the store."""

from __future__ import annotations

import asyncio
import logging
from contextlib import aclosing

import pytest
from stores import ThrowawayStore

from bandit_serve.server import replies
from bandit_serve.store.store import Store


class Closing(Store):
    """Store that `aclosing` closes."""

    async def aclose(self) -> None:
        await self.close()


def test_a_reply_is_sent_again_when_the_store_is_back(store: ThrowawayStore) -> None:
    async def run() -> dict[int, bytes]:
        async with aclosing(Closing(store.url)) as connected:
            await connected.time_ms()
            store.kill()
            sending = asyncio.create_task(replies.send(lambda: connected.write_answer("k", 7, b"digest")))
            await asyncio.sleep(0.5)
            assert not sending.done()
            await asyncio.to_thread(store.start)
            await asyncio.wait_for(sending, 60)
            return await connected.answers("k")

    assert asyncio.run(run()) == {7: b"digest"}


def test_a_reply_is_given_up_in_the_end(
    store: ThrowawayStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(replies, "PATIENCE_S", 0.5)

    async def run() -> None:
        async with aclosing(Closing(store.url)) as connected:
            store.kill()
            await replies.send(lambda: connected.write_answer("k", 7, b"digest"))

    with caplog.at_level(logging.WARNING):
        asyncio.run(run())
    assert "was not sent" in caplog.text

"""Census of workers: those that answer, those that are silent, those that have ended."""

from __future__ import annotations

import asyncio

import msgspec
from stores import ThrowawayStore

from bandit_serve.log.events import CENSUS, Census, decode
from bandit_serve.log.offset import START
from bandit_serve.replication.census import WorkerCard, living, take
from bandit_serve.store.store import Store

CARDS = [WorkerCard(incarnation, 100 + incarnation, "here", 7 - incarnation) for incarnation in (1, 2, 3)]


def test_answers_silence_and_the_end_of_a_worker_are_told_apart(store: ThrowawayStore) -> None:
    async def ask() -> None:
        client = Store(store.url)
        for card in CARDS[:2]:
            await client.announce(msgspec.msgpack.encode(card), 60_000)
        assert [card.incarnation for card in await living(client)] == [2, 1]
        asked = asyncio.create_task(take(client, "e", CARDS, answer_s=1.0))
        while not (entries := await client.read("e", START, 10)):
            await asyncio.sleep(0)
        census = decode(entries[0].kind, entries[0].data)
        assert isinstance(census, Census)
        await client.write_answer(census.key, 1, b"digest")
        answers = await asked
        assert (answers.offset, entries[0].kind) == (entries[0].offset, CENSUS)
        assert (answers.digests, answers.silent, answers.ended) == ({1: "digest"}, (2,), (3,))
        await client.close()

    asyncio.run(ask())

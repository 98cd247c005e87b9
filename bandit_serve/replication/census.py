"""Census: every worker is asked for a digest of its state at one offset of a log."""

from __future__ import annotations

import asyncio
import secrets
import time

import msgspec
from msgspec import UNSET, Struct, UnsetType

from bandit_serve.log import events
from bandit_serve.log.offset import Offset
from bandit_serve.store.store import Store

# Longer than a worker counts as alive after its last sign of life: by then one that was killed is gone, and
# one that lives and does not answer stands out.
ANSWER_S = 20.0
POLL_S = 0.02


class WorkerCard(Struct, frozen=True):
    """Description of a worker, which it announces to the others. Builds of before did not name themselves."""

    incarnation: int
    pid: int
    host: str
    started_ms: int
    build: str | UnsetType = UNSET


class Answers(Struct, frozen=True):
    """Answers to a census. `digests` are by incarnation; `silent` workers live and did not answer, `ended` ones are
    gone.
    """

    offset: Offset
    digests: dict[int, str]
    silent: tuple[int, ...]
    ended: tuple[int, ...]


async def living(store: Store) -> list[WorkerCard]:
    """Live workers, oldest first."""
    cards = [msgspec.msgpack.decode(card, type=WorkerCard) for card in await store.workers()]
    return sorted(cards, key=lambda card: (card.started_ms, card.pid))


async def take(store: Store, name: str, workers: list[WorkerCard], *, answer_s: float = ANSWER_S) -> Answers:
    """Appends a census to an experiment's log and waits for the answers, at most `answer_s`."""
    asked = {worker.incarnation for worker in workers}
    key = store.keys.census(name, secrets.token_hex(8))
    offset = await store.append(name, events.CENSUS, events.encode(events.Census(key)))
    until_s = time.monotonic() + answer_s
    while True:
        reports = await store.answers(key)
        waiting = asked - reports.keys()
        if waiting:
            waiting &= {worker.incarnation for worker in await living(store)}
        if not waiting or time.monotonic() > until_s:
            break
        await asyncio.sleep(POLL_S)
    digests = {worker: reports[worker].decode() for worker in asked & reports.keys()}
    return Answers(offset, digests, tuple(sorted(waiting)), tuple(sorted(asked - reports.keys() - waiting)))

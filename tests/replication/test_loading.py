"""Loading of many experiments in one go: the same states as one by one, whatever is in the store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from stored_keys import restore, stored_files
from stores import ThrowawayStore

from bandit_serve.folds.replica import Replica
from bandit_serve.log.fold import POLICY_FOLD
from bandit_serve.log.offset import START
from bandit_serve.log.owner import name_of
from bandit_serve.replication.tail import Tail
from bandit_serve.store.keys import Keys
from bandit_serve.store.store import MAX_BEGINNING_ENTRIES, Store

KEYS = Keys()
FILES = {path.stem: path for path in stored_files()}
SAMPLE = FILES["2026-11-30-kinds"]


def newest(client: redis.Redis, owner: str) -> bytes:
    offsets = client.hkeys(KEYS.snapshots(owner, POLICY_FOLD))
    return max(offsets, key=lambda at: tuple(map(int, at.split(b"-"))))


def without_snapshots(client: redis.Redis, owner: str) -> None:
    client.delete(KEYS.snapshots(owner, POLICY_FOLD))


def with_a_damaged_one(client: redis.Redis, owner: str) -> None:
    client.hset(KEYS.snapshots(owner, POLICY_FOLD), newest(client, owner), b"\x80")


def trimmed_to_it(client: redis.Redis, owner: str) -> None:
    at = newest(client, owner)
    client.xtrim(KEYS.log(owner), minid=at)
    client.xdel(KEYS.log(owner), at)
    client.set(KEYS.trimmed(owner), at)


def trimmed_past_it(client: redis.Redis, owner: str) -> None:
    (last, _), *_ = client.xrevrange(KEYS.log(owner), count=1)
    client.delete(KEYS.log(owner))
    client.set(KEYS.trimmed(owner), last)
    client.delete(KEYS.snapshots(owner, POLICY_FOLD))


def with_many_entries(client: redis.Redis, owner: str) -> None:
    for _ in range(MAX_BEGINNING_ENTRIES + 1):
        client.xadd(KEYS.log(owner), {b"t": b""})


def with_a_bad_entry(client: redis.Redis, owner: str) -> None:
    client.xadd(KEYS.log(owner), {b"z": b"?"})


SPOILED: dict[str, Callable[[redis.Redis, str], None]] = {
    "won": without_snapshots,
    "moved": with_a_damaged_one,
    "lists": trimmed_to_it,
    "harmed": trimmed_past_it,
    "stopped": with_many_entries,
    "watched": with_a_bad_entry,
}


async def loaded(url: str, load: Callable[[Tail], object]) -> dict[str, bytes | str]:
    """States of the experiments, and why others are set aside, by name; each with its position."""
    store, replica = Store(url, timeout_s=30), Replica()
    tail = Tail(store, replica)
    try:
        await load(tail)  # type: ignore[misc]
        found: dict[str, bytes | str] = {name: live.state() for name, live in replica.experiments.items()}
        found |= {name: aside.reason for name, aside in replica.aside.items()}
        return found | {f"{owner} at": str(at) for owner, at in replica.positions.items()}
    finally:
        await store.close()


async def one_by_one(tail: Tail) -> None:
    await tail.load_registry()
    for owner in list(tail._replica.registry.experiments):
        await tail._take_up(owner)


@pytest.mark.parametrize("path", FILES.values(), ids=FILES)
def test_states_are_those_of_each_log_alone(path: Path) -> None:
    with ThrowawayStore(appendfsync="no") as store:
        with store.client() as client:
            restore(path, client)
        assert asyncio.run(loaded(store.url, Tail.load)) == asyncio.run(loaded(store.url, one_by_one))


def test_what_is_not_as_usual_is_read_as_each_log_alone() -> None:
    with ThrowawayStore(appendfsync="no") as store:
        with store.client() as client:
            restore(SAMPLE, client)
            for owner, spoil in SPOILED.items():
                spoil(client, owner)
        found = asyncio.run(loaded(store.url, Tail.load))
        assert found == asyncio.run(loaded(store.url, one_by_one))
        assert {name for name, state in found.items() if isinstance(state, str) and " at" not in name} == {
            "harmed",
            "watched",
        }


def test_only_what_is_small_is_read_at_once() -> None:
    async def scenario(url: str) -> None:
        reader = Store(url, timeout_s=30)
        try:
            owners = [*SPOILED, "described", "none"]
            found = await reader.read_beginnings(owners, POLICY_FOLD)
            assert set(found) == {*owners} - {"harmed", "stopped"}, "too much is read, or what is not there"
            assert found["won"].snapshot is None
            assert found["none"] == (START, None, [])
            for owner, begun in found.items():
                after = START if begun.snapshot is None else begun.snapshot.offset
                assert begun.entries == await reader.read(owner, after, 1_000), name_of(owner)
        finally:
            await reader.close()

    with ThrowawayStore(appendfsync="no") as store:
        with store.client() as client:
            restore(SAMPLE, client)
            for owner, spoil in SPOILED.items():
                spoil(client, owner)
        asyncio.run(scenario(store.url))

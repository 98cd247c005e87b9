"""Reading of a log on: with its entries come all marks that they left, as they are at that moment."""

from __future__ import annotations

import asyncio
import random
import struct
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
import pytest
from builders import INCARNATION, experiment, exposed, rewards
from stores import ThrowawayStore

from bandit_serve.experiments.spec import Experiment
from bandit_serve.log import events
from bandit_serve.log.offset import START, Offset
from bandit_serve.log.row_form import RowForm
from bandit_serve.rewards.appender import RewardAppender
from bandit_serve.store.store import Store
from bandit_serve.store.transfer import LogTransfer, Mark

METRICS = [
    {"name": "click", "kind": "binary", "role": "objective"},
    {"name": "visits", "kind": "count"},
    {"name": "spend", "kind": "continuous"},
]
VALUES = (1.0, 3.0, 0.25)


def with_store(server: ThrowawayStore, scenario: Callable[[Store], Awaitable[None]]) -> None:
    async def run() -> None:
        store = Store(server.url, timeout_s=10.0)
        try:
            await scenario(store)
        finally:
            await store.close()

    asyncio.run(run())


async def marks_of(transfer: LogTransfer) -> dict[str, Mark]:
    found: dict[str, Mark] = {}
    async for some in transfer.marks():
        for mark in some:
            assert mark.name not in found or mark.kind == "h"
            found[mark.name] = normal(mark)
    return found


def normal(mark: Mark) -> Mark:
    """Same mark with its fields in order."""
    if isinstance(mark.content, bytes):
        return mark
    pairs = sorted(zip(mark.content[::2], mark.content[1::2], strict=True))
    return mark._replace(content=[each for pair in pairs for each in pair])


async def reward(store: Store, made: Experiment, counters: list[int], unit: int, *, by_event: bool) -> None:
    """Appends a reward on each metric for each of these decisions of a unit."""
    now_ms = await store.time_ms()
    appender = RewardAppender(store, "e", made)
    for metric, value in enumerate(VALUES):
        rows = rewards(counters, values=value, times_ms=now_ms, metric=metric, incarnation=INCARNATION + unit)
        rows["unit"] = 2**63 + unit
        if by_event:
            ids = np.array([unit * 1_000_003 + counter + 1 for counter in counters], np.uint64)
            assert set(await appender.append_events(rows, ids)) <= {ord("a")}
        else:
            assert set(await appender.append(rows)) == {ord("a")}


@pytest.mark.parametrize("unit", ["request", "user"])
@pytest.mark.parametrize("by_event", [False, True])
def test_all_marks_of_the_entries_come_with_them(store: ThrowawayStore, unit: str, by_event: bool) -> None:
    made, chance = experiment(metrics=METRICS, unit=unit), random.Random(unit)
    counters = [0, 255, 256, 511, 512, 65_535, 65_536, 2**41 - 1]

    async def scenario(store: Store) -> None:
        transfer, position, known = LogTransfer(store, "e"), START, {}
        for number in range(12):
            some = chance.sample(counters, chance.randint(1, 3))
            await reward(
                store, made, [each - number for each in some if each >= number], number, by_event=by_event
            )
            await reward(store, made, [each + 3 + number for each in some], number, by_event=not by_event)
            first, now_ms = 70_000 * number, await store.time_ms()
            entry = events.encode(exposed(first, [0, 1], [now_ms] * 2))
            assert await store.append_exposures("e", INCARNATION, first, 2, entry)
            demanded = events.encode(exposed(events.ON_DEMAND + first, [0], [now_ms]))
            bitmap = store.keys.demanded("e", INCARNATION, (events.ON_DEMAND + first) >> 16)
            checks = struct.pack("<HHQ", 0, first % 65_536, now_ms + 60_000)
            assert await store.append_demanded("e", [bitmap], checks, [demanded]) == b"a"
            after = await marks_of(transfer)
            changed = {name for name, mark in after.items() if known.get(name) != mark}
            read = await transfer.read_on(position, RowForm.of(made), 2**30)
            assert read is not None
            assert read.end is not None
            got = {mark.name: normal(mark) for mark in read.marks}
            assert changed
            assert {name: after[name] for name in changed} == {name: got.get(name) for name in changed}
            assert read.end.last == read.entries[-1].offset == await store.last_offset("e")
            position, known = read.end.last, after
        assert {name.split(":")[0] for name in known} >= {"seen", "plain", "events", "exposed", "demanded"}

    with_store(store, scenario)


def test_a_row_of_a_metric_that_joined_is_noticed(store: ThrowawayStore) -> None:
    made, before = experiment(metrics=METRICS), experiment(metrics=METRICS[:2])

    async def scenario(store: Store) -> None:
        await reward(store, made, [1], 0, by_event=False)
        transfer = LogTransfer(store, "e")
        assert await transfer.read_on(START, RowForm.of(before)) is None
        assert await transfer.read_on(START, RowForm.of(made)) is not None

    with_store(store, scenario)


def test_many_marks_are_read_before_the_end_is(store: ThrowawayStore) -> None:
    """Where there are too many to be read in one moment, their names come, and no end."""
    made = experiment(metrics=METRICS)

    async def scenario(store: Store) -> None:
        await reward(store, made, list(range(0, 65_536 * 40, 65_536)), 0, by_event=False)
        transfer = LogTransfer(store, "e")
        read = await transfer.read_on(START, RowForm.of(made), 0)
        assert read is not None
        assert read.end is None
        assert len(read.names) > 100
        named = [mark.name async for some in transfer.named(read.names) for mark in some]
        assert sorted(named) == sorted(read.names)

    with_store(store, scenario)


def test_a_log_is_the_same_elsewhere(store: ThrowawayStore) -> None:
    made = experiment(metrics=METRICS)

    async def scenario(store: Store) -> None:
        await reward(store, made, [1, 2, 3], 0, by_event=False)
        await reward(store, made, [4, 5, 600], 0, by_event=True)
        await store.trim("e", (await store.read("e", START, 1))[0].offset)
        source, target = LogTransfer(store, "e"), LogTransfer(store, "copy")
        read = await source.read_on(START, RowForm.of(made), 2**30)
        assert read is not None
        assert read.end is not None
        for _ in range(2):  # what is written twice is there once
            await target.write_entries(read.entries)
            await target.write_marks(read.marks)
            await target.finish(read.end)
        assert await store.read("copy", START, 100) == await store.read("e", START, 100)
        assert await marks_of(target) == await marks_of(source)
        assert await store.trimmed("copy") == await store.trimmed("e") > START
        assert await store.last_offset("copy") == await store.last_offset("e")

    with_store(store, scenario)


def test_offsets_of_a_log_whose_last_entries_are_gone_are_not_given_again(store: ThrowawayStore) -> None:
    from bandit_serve.store.transfer import LogEnd

    async def scenario(store: Store) -> None:
        far = Offset(await store.time_ms() + 3_600_000, 7)
        await LogTransfer(store, "e").finish(LogEnd(far, START, "3"))
        assert await store.head("e") == "3"
        with store_client(store) as client:
            assert client.xlen(store.keys.log("e")) == 0
        assert await store.append("e", events.TICK, b"") > far

    with_store(store, scenario)


def store_client(store: Store) -> Any:
    import redis

    return redis.Redis(unix_socket_path=store.url.removeprefix("unix://"))

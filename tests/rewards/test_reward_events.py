"""Rewards by event, on a real store: verdicts, entries of the log, exact sums, bounds, lives of keys, and refusals."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
from builders import experiment, rewards
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from reward_ledger import Change, RewardLedger
from scale import scaled
from stores import ThrowawayStore

from bandit_serve.api.rewards import RewardVerdict
from bandit_serve.errors import StoreUnavailable, UnreadableEntry
from bandit_serve.experiments.spec import Experiment
from bandit_serve.log.events import FIRST, REVISED, REVISION, Revised, Rewarded, Shape, decode
from bandit_serve.log.offset import START
from bandit_serve.log.times import COUNTED_MS
from bandit_serve.metrics import MAX_COUNT, MAX_VALUE
from bandit_serve.rewards import appender as module
from bandit_serve.rewards.appender import VERDICTS, RewardAppender
from bandit_serve.rewards.event_ids import NO_EVENT, hash_event, is_event_id
from bandit_serve.store.store import Store

WINDOW_MS = 600_000
OWNER = "e"
CLICK, STARS, VISITS, SPEND = range(4)
METRICS = [
    {"name": "click", "kind": "binary", "role": "objective"},
    {"name": "stars", "kind": "bounded", "low": -3, "high": 9},
    {"name": "visits", "kind": "count"},
    {"name": "spend", "kind": "continuous"},
]


def taking(unit: str = "request", **more: Any) -> Experiment:
    attribution = {"window": f"{WINDOW_MS}ms", "missing": "ignore"}
    policy = {"kind": "fixed_split"}
    return experiment(
        **{"metrics": METRICS, "unit": unit, "attribution": attribution, "policy": policy, **more}
    )


KINDS = [metric.traits for metric in taking().metrics]


class Send(NamedTuple):
    """One reward: of decision number `decision`, whose unit is `unit`; None takes the event back."""

    decision: int
    metric: int
    value: float | None
    event: str | None = None
    unit: int = 0


@pytest.fixture(scope="module")
def server() -> Iterator[ThrowawayStore]:
    with ThrowawayStore(appendfsync="no") as running:
        yield running


@pytest.fixture(autouse=True)
def empty(server: ThrowawayStore) -> None:
    server.flush()


class Worker:
    """Appender with a store of its own, which sends as `Rewards` does."""

    def __init__(self, store: Store, appender: RewardAppender, now_ms: int) -> None:
        self.store = store
        self.appender = appender
        self.now_ms = now_ms

    def rows(self, sends: Sequence[Send], times_ms: Sequence[int] | int | None = None) -> NDArray[np.void]:
        values = [math.nan if send.value is None else send.value for send in sends]
        at = self.now_ms if times_ms is None else times_ms
        rows = rewards([send.decision for send in sends], values=values, times_ms=at)
        rows["metric"] = [send.metric for send in sends]
        rows["unit"] = [send.unit for send in sends]
        rows["arm"] = [send.decision % 3 for send in sends]
        return rows

    async def send(self, *sends: Send, times_ms: Sequence[int] | int | None = None) -> list[RewardVerdict]:
        """Sends those with an event, or those without, together."""
        rows = self.rows(sends, times_ms)
        if all(send.event is None for send in sends):
            letters = await self.appender.append(rows)
        else:
            events = [NO_EVENT if send.event is None else hash_event(send.event) for send in sends]
            letters = await self.appender.append_events(rows, np.array(events, np.uint64))
        return [VERDICTS[letter] for letter in letters]


def on(
    server: ThrowawayStore,
    scenario: Callable[..., Awaitable[None]],
    *,
    workers: int = 1,
    made: Experiment | None = None,
    timeout_s: float = 5.0,
) -> None:
    """Runs a scenario with so many workers of one store."""

    async def run() -> None:
        stores = [Store(server.url, timeout_s=timeout_s) for _ in range(workers)]
        try:
            now_ms = await stores[0].time_ms()
            of = made or taking()
            await scenario(*(Worker(store, RewardAppender(store, OWNER, of), now_ms) for store in stores))
        finally:
            for store in stores:
                await store.close()

    asyncio.run(run())


class Logged(NamedTuple):
    """The log: changes by events, and what every decision's value on a metric is by it; None is none any more."""

    changes: list[Change]
    values: dict[tuple[int, int], float]


async def logged(store: Store, made: Experiment | None = None) -> Logged:
    """Reads the log as folds do: each entry is checked, and each row has to begin where the one before ended."""
    changes: list[Change] = []
    values: dict[tuple[int, int], float] = {}
    began_ms: dict[tuple[int, int], int] = {}
    for entry in await store.read(OWNER, START, 10**6):
        event = decode(entry.kind, entry.data)
        Shape(made or taking(arms=[{"name": name} for name in "abc"]), 0).check(event)
        assert isinstance(event, Rewarded | Revised)
        assert len(event.rows) > 0
        for row in event.rows:
            key = (int(row["counter"]), int(row["metric"]))
            value = float(row["value"])
            if isinstance(event, Revised):
                former, since_ms = float(row["former"]), int(row["since_ms"])
                assert same(former, values.get(key, math.nan)), (key, row)
                assert not same(former, value), "a row changes something"
                changes.append(Change(*key, value, former, since_ms == FIRST))
                if since_ms == FIRST:
                    assert key not in began_ms
                else:
                    # By Redis 6.2 the entry's own time is later by as long as the script ran.
                    assert 0 <= began_ms[key] - since_ms < 1_000
                began_ms.setdefault(key, entry.offset.time_ms)
            else:
                assert key not in values
                # When a plain reward came is not kept; it was not before its decision.
                began_ms[key] = int(row["time_ms"])
            values[key] = value
    return Logged(changes, values)


def same(one: float, other: float) -> bool:
    return one == other or (math.isnan(one) and math.isnan(other))


def assert_as_ledger(found: Logged, ledger: RewardLedger) -> None:
    assert len(found.changes) == len(ledger.changes)
    for row, change in zip(found.changes, ledger.changes, strict=True):
        assert row[:2] == change[:2]
        assert same(row.value, change.value), (row, change)
        assert same(row.former, change.former), (row, change)
        assert row.is_first == change.is_first, (row, change)
    assert set(found.values) == ledger.places
    for place, value in found.values.items():
        assert same(value, ledger.value(*place)), place


# Sequences

NONE = math.nan
SEQUENCES: dict[str, list[tuple[Send, RewardVerdict, tuple[float, float] | None]]] = {
    # Each send, its verdict, and the row that it adds: the value, and what it was.
    "orders add up": [
        (Send(0, SPEND, 25.0, "a"), "accepted", (25.0, NONE)),
        (Send(0, SPEND, 10.5, "b"), "accepted", (35.5, 25.0)),
        (Send(0, SPEND, 10.5, "b"), "duplicate", None),
        (Send(1, SPEND, 7.0, "a"), "accepted", (7.0, NONE)),
        (Send(0, SPEND, 25.0, "a"), "duplicate", None),
    ],
    "a correction": [
        (Send(0, SPEND, 25.0, "a"), "accepted", (25.0, NONE)),
        (Send(0, SPEND, -1.0, "a"), "corrected", (-1.0, 25.0)),
        (Send(0, SPEND, 25.0, "a"), "corrected", (25.0, -1.0)),
        (Send(0, SPEND, 25.0, "a"), "duplicate", None),
    ],
    "all is taken back, and comes again": [
        (Send(0, VISITS, 3.0, "a"), "accepted", (3.0, NONE)),
        (Send(0, VISITS, None, "a"), "retracted", (NONE, 3.0)),
        (Send(0, VISITS, None, "a"), "duplicate", None),
        (Send(0, VISITS, 3.0, "a"), "corrected", (3.0, NONE)),
        (Send(0, VISITS, None, "a"), "retracted", (NONE, 3.0)),
        (Send(0, VISITS, 5.0, "b"), "accepted", (5.0, NONE)),
    ],
    "nothing to take back": [
        (Send(0, VISITS, None, "a"), "unmatched", None),
        (Send(0, VISITS, None, "a"), "unmatched", None),
        (Send(0, VISITS, 1.0, "b"), "accepted", (1.0, NONE)),
        (Send(0, VISITS, None, "a"), "unmatched", None),
        (Send(0, SPEND, None, "b"), "unmatched", None),
    ],
    "a maximum": [
        (Send(0, CLICK, 0.0, "a"), "accepted", (0.0, NONE)),
        (Send(0, CLICK, 1.0, "b"), "accepted", (1.0, 0.0)),
        (Send(0, CLICK, 1.0, "c"), "accepted", None),
        (Send(0, CLICK, None, "b"), "retracted", None),
        (Send(0, CLICK, 0.0, "c"), "corrected", (0.0, 1.0)),
        (Send(0, CLICK, None, "c"), "retracted", None),
        (Send(0, CLICK, None, "a"), "retracted", (NONE, 0.0)),
    ],
    "a plain reward, then events": [
        (Send(0, SPEND, 2.0), "accepted", (2.0, NONE)),
        (Send(0, SPEND, 3.0, "a"), "accepted", (5.0, 2.0)),
        (Send(0, SPEND, 2.0), "duplicate", None),
        (Send(0, SPEND, 3.0), "conflict", None),
        (Send(0, SPEND, None, "a"), "retracted", (2.0, 5.0)),
    ],
    "events, then a plain reward": [
        (Send(0, SPEND, 3.0, "a"), "accepted", (3.0, NONE)),
        (Send(0, SPEND, 2.0), "accepted", (5.0, 3.0)),
        (Send(0, SPEND, 2.0), "duplicate", None),
        (Send(0, SPEND, 5.0), "conflict", None),
        (Send(0, SPEND, None, "a"), "retracted", (2.0, 5.0)),
        (Send(0, SPEND, 1.0, "b"), "accepted", (3.0, 2.0)),
    ],
    "plain and binary": [
        (Send(0, CLICK, 0.0), "accepted", (0.0, NONE)),
        (Send(0, CLICK, 1.0), "conflict", None),
        (Send(0, CLICK, 0.0), "duplicate", None),
        (Send(1, CLICK, 1.0), "accepted", (1.0, NONE)),
        (Send(1, CLICK, 0.0), "conflict", None),
        (Send(1, CLICK, 1.0), "duplicate", None),
        (Send(0, CLICK, 1.0, "a"), "accepted", (1.0, 0.0)),
        (Send(1, CLICK, 0.0, "a"), "accepted", None),
        (Send(2, CLICK, 1.0, "a"), "accepted", (1.0, NONE)),
        (Send(2, CLICK, 0.0), "accepted", None),
        (Send(2, CLICK, 1.0), "conflict", None),
        (Send(2, CLICK, None, "a"), "retracted", (0.0, 1.0)),
    ],
    "plain and a conflict, for every kind": [
        (Send(0, STARS, 4.5), "accepted", (4.5, NONE)),
        (Send(0, STARS, 4.0), "conflict", None),
        (Send(0, VISITS, 4.0), "accepted", (4.0, NONE)),
        (Send(0, VISITS, 5.0), "conflict", None),
        (Send(0, VISITS, 4.0), "duplicate", None),
        (Send(0, SPEND, 0.0), "accepted", (0.0, NONE)),
        (Send(0, SPEND, -0.0), "duplicate", None),
        (Send(0, SPEND, math.ulp(0.0)), "conflict", None),
    ],
    "sums within bounds": [
        (Send(0, STARS, 6.0, "a"), "accepted", (6.0, NONE)),
        (Send(0, STARS, 3.0 + 1e-12, "b"), "invalid", None),
        (Send(0, STARS, 3.0, "b"), "accepted", (9.0, 6.0)),
        (Send(0, STARS, math.ulp(0.0), "c"), "accepted", None),
        (Send(0, STARS, -3.0, "d"), "accepted", (6.0, 9.0)),
        (Send(0, STARS, 9.0, "a"), "corrected", (9.0, 6.0)),
    ],
    "a retraction out of bounds": [
        (Send(0, STARS, -3.0, "a"), "accepted", (-3.0, NONE)),
        (Send(0, STARS, 9.0, "b"), "accepted", (6.0, -3.0)),
        (Send(0, STARS, 3.0, "c"), "accepted", (9.0, 6.0)),
        (Send(0, STARS, None, "a"), "invalid", None),
        (Send(0, STARS, None, "b"), "retracted", (0.0, 9.0)),
        (Send(0, STARS, None, "a"), "retracted", (3.0, 0.0)),
    ],
    "a count's largest": [
        (Send(0, VISITS, float(MAX_COUNT), "a"), "accepted", (float(MAX_COUNT), NONE)),
        (Send(0, VISITS, 1.0, "b"), "invalid", None),
        (Send(0, VISITS, 1.0), "invalid", None),
        (Send(0, VISITS, 0.0), "accepted", None),
        (Send(1, VISITS, 1.0), "accepted", (1.0, NONE)),
        (Send(1, VISITS, float(MAX_COUNT), "a"), "invalid", None),
        (Send(1, VISITS, None, "a"), "unmatched", None),
    ],
    "huge values": [
        (Send(0, SPEND, MAX_VALUE, "a"), "accepted", (MAX_VALUE, NONE)),
        (Send(0, SPEND, MAX_VALUE, "b"), "invalid", None),
        (Send(0, SPEND, 1e-300, "c"), "accepted", None),
        (Send(0, SPEND, -MAX_VALUE, "b"), "accepted", (1e-300, MAX_VALUE)),
        (Send(0, SPEND, None, "a"), "retracted", (-MAX_VALUE, 1e-300)),
        (Send(0, SPEND, -MAX_VALUE, "d"), "invalid", None),
        (Send(0, SPEND, None, "b"), "retracted", (1e-300, -MAX_VALUE)),
    ],
    "half a unit in the last place, and a little more": [
        (Send(0, SPEND, 1e16, "a"), "accepted", (1e16, NONE)),
        (Send(0, SPEND, 1.0, "b"), "accepted", None),
        (Send(0, SPEND, 1e-16, "c"), "accepted", (1e16 + 2, 1e16)),
        (Send(0, SPEND, -1e-16, "c"), "corrected", (1e16, 1e16 + 2)),
        (Send(0, SPEND, -1e16, "d"), "accepted", (1.0 - 2**-53, 1e16)),
    ],
    "one event id with every decision": [
        (Send(i, SPEND, float(i), "a"), "accepted", (float(i), NONE)) for i in range(1, 300)
    ],
    "cents": [
        (Send(0, SPEND, 0.1, "a"), "accepted", (0.1, NONE)),
        (Send(0, SPEND, 0.2, "b"), "accepted", (0.30000000000000004, 0.1)),
        (Send(0, SPEND, 0.3, "c"), "accepted", (0.6, 0.30000000000000004)),
        (Send(0, SPEND, None, "b"), "retracted", (0.4, 0.6)),
        (Send(0, SPEND, None, "c"), "retracted", (0.1, 0.4)),
    ],
}


@pytest.mark.parametrize("unit", ["request", "user"])
@pytest.mark.parametrize("together", [False, True], ids=["one by one", "together"])
@pytest.mark.parametrize("name", SEQUENCES)
def test_verdicts_and_rows_of_a_sequence(
    server: ThrowawayStore, name: str, together: bool, unit: str
) -> None:
    sequence = [
        (send._replace(unit=send.decision + 1), verdict, row) for send, verdict, row in SEQUENCES[name]
    ]

    async def scenario(worker: Worker) -> None:
        sends = [send for send, _, _ in sequence]
        if together:
            verdicts = await worker.send(*sends)
        else:
            verdicts = [verdict for send in sends for verdict in await worker.send(send)]
        assert verdicts == [verdict for _, verdict, _ in sequence]
        found: list[tuple[float, float]] = []
        for entry in await worker.store.read(OWNER, START, 1_000):
            event = decode(entry.kind, entry.data)
            assert isinstance(event, Rewarded | Revised)
            formers = event.rows["former"] if isinstance(event, Revised) else np.full(len(event.rows), NONE)
            found += zip(event.rows["value"].tolist(), formers.tolist(), strict=True)
        expected = [row for _, _, row in sequence if row is not None]
        assert repr(found) == repr(expected)
        # And the ledger, with which other tests compare, says the same.
        ledger = RewardLedger(KINDS)
        for send, verdict, _ in sequence:
            assert ledger.send(*send[:4], unit=send.unit if unit == "user" else None) == verdict

    on(server, scenario, made=taking(unit, arms=[{"name": name} for name in "abc"]))


# Any sends

DECISIONS = (0, 1, 128, 255, 256, 65_535, 65_536)
amounts = st.one_of(
    st.floats(-MAX_VALUE, MAX_VALUE),
    st.sampled_from(
        [0.1, 0.2, -0.3, 1e16, -1e16, 1.0, 2.0**53, -(2.0**53), math.ulp(0.0), 1e80, -1e80, -0.0]
    ),
    st.integers(-60, 60).map(lambda n: math.ldexp(1.0 + n / 64, n)),
)
VALUES = {
    CLICK: st.sampled_from([0.0, 1.0]),
    STARS: st.floats(-3.0, 9.0) | st.sampled_from([1.0, -1.0, 3.0]),
    VISITS: st.integers(0, 3).map(float) | st.integers(0, MAX_COUNT).map(float),
    SPEND: amounts,
}


@st.composite
def sends(draw: st.DrawFn) -> Send:
    metric = draw(st.sampled_from(list(VALUES)))
    event = draw(st.sampled_from([None, "a", "b", "c", "d"]))
    value = draw(st.none() if event is not None and draw(st.integers(0, 3)) == 0 else VALUES[metric])
    decision = draw(st.sampled_from(DECISIONS))
    return Send(decision, metric, value, event, unit=decision % 2 + 1)


@pytest.mark.parametrize("unit", ["request", "user"])
@settings(max_examples=scaled(40, 400), deadline=None)
@given(calls=st.lists(st.tuples(st.booleans(), st.lists(sends(), min_size=1, max_size=12)), max_size=12))
def test_any_sends_by_any_worker_are_what_the_ledger_says(
    server: ThrowawayStore, unit: str, calls: list[tuple[bool, list[Send]]]
) -> None:
    server.flush()

    async def scenario(*workers: Worker) -> None:
        ledger = RewardLedger(KINDS)
        for first, some in calls:
            worker = workers[first]
            for part in ([s for s in some if s.event is None], [s for s in some if s.event is not None]):
                if part:
                    expected = [ledger.send(*s[:4], unit=s.unit if unit == "user" else None) for s in part]
                    assert await worker.send(*part) == expected, part
        made = taking(unit, arms=[{"name": name} for name in "abc"])
        assert_as_ledger(await logged(workers[0].store, made), ledger)

    on(server, scenario, workers=2, made=taking(unit))


@pytest.mark.parametrize("unit", ["request", "user"])
def test_two_workers_at_once_count_each_event_once(server: ThrowawayStore, unit: str) -> None:
    """Every send goes to both workers at once; a client corrects and takes back only events of its own."""

    async def client(number: int, workers: Sequence[Worker], ledger: RewardLedger) -> None:
        chance = random.Random(number)
        for step in range(scaled(30, 200)):
            metric = chance.choice((VISITS, SPEND, CLICK))
            value = (
                float(chance.randrange(2))
                if metric != SPEND
                else chance.uniform(-1, 1) * 10 ** chance.randint(-9, 9)
            )
            decision = chance.randrange(5)
            event = None if chance.random() < 0.1 else f"{number} {chance.randrange(8)}"
            send = Send(decision, metric, value, event, unit=1 + decision % 2)
            if event is None:
                send = send._replace(decision=100 * number + step)
            elif chance.random() < 0.3:
                send = send._replace(value=None)
            expected = ledger.send(*send[:4], unit=send.unit if unit == "user" else None)
            answers = await asyncio.gather(*(worker.send(send) for worker in workers))
            again = expected if expected in ("unmatched", "duplicate", "conflict") else "duplicate"
            assert sorted(verdict for (verdict,) in answers) == sorted([expected, again]), send

    async def scenario(*workers: Worker) -> None:
        ledger = RewardLedger(KINDS)
        await asyncio.gather(*(client(number, workers, ledger) for number in range(1, 9)))
        found = await logged(workers[0].store, taking(unit, arms=[{"name": name} for name in "abc"]))
        assert set(found.values) == ledger.places
        for place, value in found.values.items():
            assert same(value, ledger.value(*place)), place

    on(server, scenario, workers=2, made=taking(unit))


# By unit


def test_an_event_of_a_unit_stays_with_the_decision_that_it_was_first_joined_to(
    server: ThrowawayStore,
) -> None:
    made = taking(
        "user",
        policy={"kind": "squarecb"},
        metrics=[{"name": "click", "kind": "binary"}],
        context=[{"name": "hour", "kind": "numeric"}, {"name": "day", "kind": "numeric"}],
        attribution={"window": f"{WINDOW_MS}ms", "missing": "ignore"},
    )

    async def scenario(worker: Worker) -> None:
        appender = RewardAppender(worker.store, OWNER, made, 3)
        rows = rewards(
            [3, 4, 4], values=[1.0, 0.0, 1.0], times_ms=[worker.now_ms - 5, worker.now_ms, worker.now_ms]
        )
        rows["unit"], rows["arm"], rows["propensity"] = 9, [1, 0, 0], [0.25, 0.5, 0.5]
        x = np.arange(9, dtype=np.float32).reshape(3, 3)
        order = np.array([hash_event("order"), hash_event("order"), hash_event("another")], np.uint64)
        assert await appender.append_events(rows[:1], order[:1], x[:1]) == b"a"
        assert await appender.append_events(rows[1:], order[1:], x[1:]) == b"ca"
        rows["value"] = math.nan
        assert await appender.append_events(rows, order, x) == b"rdr"
        with pytest.raises(UnreadableEntry):
            await appender.append_events(rows, order, x[:, :2])
        entries = [decode(entry.kind, entry.data, 3) for entry in await worker.store.read(OWNER, START, 10)]
        assert all(isinstance(entry, Revised) for entry in entries)
        changes = np.concatenate([entry.rows for entry in entries])  # type: ignore[union-attr]
        features = np.concatenate([entry.x for entry in entries])  # type: ignore[union-attr]
        assert changes["counter"].tolist() == [3, 3, 4, 3, 4]
        assert changes["arm"].tolist() == [1, 1, 0, 1, 0]
        assert changes["propensity"].tolist() == [0.25, 0.25, 0.5, 0.25, 0.5]
        assert changes["time_ms"].tolist() == [worker.now_ms - 5] * 2 + [
            worker.now_ms,
            worker.now_ms - 5,
            worker.now_ms,
        ]
        assert set(changes["unit"].tolist()) == {9}
        assert features.tolist() == x[[0, 0, 2, 0, 2]].tolist()

    on(server, scenario, made=made)


@pytest.mark.parametrize("apart_ms", [0, 1_000, WINDOW_MS - 5_000])
@pytest.mark.parametrize("newer_first", [False, True])
def test_an_event_is_known_by_unit_in_whichever_periods_the_decisions_are(
    server: ThrowawayStore, apart_ms: int, newer_first: bool
) -> None:
    async def scenario(worker: Worker) -> None:
        times = [worker.now_ms - apart_ms, worker.now_ms]
        first, second = (1, 0) if newer_first else (0, 1)
        # Somewhere between these units' periods there is a bound.
        for unit in range(1, 8):
            moved = [time_ms + 1_000 * (unit - 4) for time_ms in times]
            one = Send(2 * unit + first, SPEND, 1.5, "order", unit)
            other = one._replace(decision=2 * unit + second, value=2.5)
            assert await worker.send(one, times_ms=moved[first]) == ["accepted"]
            assert await worker.send(other, times_ms=moved[second]) == ["corrected"]
            assert await worker.send(one._replace(value=2.5), times_ms=moved[first]) == ["duplicate"]
            assert await worker.send(other._replace(unit=unit + 100), times_ms=moved[second]) == ["accepted"]
        values = (await logged(worker.store, taking("user", arms=[{"name": name} for name in "abc"]))).values
        assert values == {(2 * unit + i, SPEND): 2.5 for unit in range(1, 8) for i in (0, 1)}

    on(server, scenario, made=taking("user"))


def test_an_event_is_late_by_the_window_of_the_decision_that_it_is_with(server: ThrowawayStore) -> None:
    async def scenario(worker: Worker) -> None:
        old_ms, window_ms = worker.now_ms - WINDOW_MS + 700, WINDOW_MS
        assert await worker.send(Send(0, SPEND, 1.0, "a", 1), times_ms=old_ms) == ["accepted"]
        late = Send(1, SPEND, 1.0, "b", 1)
        assert await worker.send(late, times_ms=worker.now_ms - window_ms - 1_000) == ["late"]
        assert await worker.send(late._replace(value=None), times_ms=worker.now_ms - window_ms - 1_000) == [
            "late"
        ]
        async with asyncio.timeout(10):
            while await worker.store.time_ms() <= old_ms + window_ms:
                await asyncio.sleep(0.05)
        new = Send(2, SPEND, 5.0, "a", 1)
        assert await worker.send(new, new._replace(value=1.0), new._replace(value=None)) == ["late"] * 3
        assert await worker.send(new._replace(event="c")) == ["accepted"]

    on(server, scenario, made=taking("user"))


# Bounds


def test_ten_thousand_events_of_a_decision_and_no_more(server: ThrowawayStore) -> None:
    async def scenario(worker: Worker) -> None:
        chance = random.Random(1)
        amounts = [chance.uniform(-1, 1) * 10.0 ** chance.randint(-20, 20) for _ in range(module.MAX_EVENTS)]
        all_of = [Send(7, SPEND, amount, f"{i}") for i, amount in enumerate(amounts)]
        assert await worker.send(*all_of) == ["accepted"] * len(all_of)
        more = Send(7, SPEND, 1.0, "one more")
        assert await worker.send(more, all_of[0], more._replace(decision=8)) == [
            "invalid",
            "duplicate",
            "accepted",
        ]
        assert await worker.send(all_of[0]._replace(value=None), more) == ["retracted", "invalid"]
        values = (await logged(worker.store)).values
        assert values[7, SPEND] == math.fsum(amounts[1:])
        chance.shuffle(all_of)
        gone = [send._replace(value=None) for send in all_of if send.event not in ("0", "1")]
        assert await worker.send(*gone) == ["retracted"] * len(gone)
        values = (await logged(worker.store)).values
        assert values[7, SPEND] == amounts[1], "the very bits are back"

    on(server, scenario)


@pytest.mark.parametrize("unit", ["request", "user"])
def test_a_hash_of_events_has_a_bound(
    server: ThrowawayStore, monkeypatch: pytest.MonkeyPatch, unit: str
) -> None:
    monkeypatch.setattr(module, "MAX_HASH_FIELDS", 20)

    async def scenario(worker: Worker) -> None:
        verdicts = await worker.send(*(Send(0, SPEND, 1.0, f"{i}", 1) for i in range(40)))
        n = verdicts.count("accepted")
        assert verdicts == ["accepted"] * n + ["invalid"] * (40 - n)
        assert 15 <= n <= 19
        again = await worker.send(Send(0, SPEND, 2.0, "0", 1), Send(0, SPEND, None, "1", 1))
        assert again == ["corrected", "retracted"]
        with server.client() as client:
            (key,) = client.keys("*:events:*")
            assert client.hlen(key) <= 20
        assert await worker.send(Send(1_000, SPEND, 1.0, "0", 2)) == ["accepted"]

    on(server, scenario, made=taking(unit))


def test_many_events_are_several_entries(server: ThrowawayStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_GROUP_EVENTS", 25)

    async def scenario(worker: Worker) -> None:
        tries = [worker.send(*(Send(i, SPEND, 1.0, f"{j}") for j in range(10))) for i in range(6)]
        assert await asyncio.gather(*tries) == [["accepted"] * 10] * 6
        entries = await worker.store.read(OWNER, START, 10)
        assert [len(entry.data) // REVISION.itemsize for entry in entries] == [20, 20, 20]
        assert {entry.kind for entry in entries} == {REVISED}

    on(server, scenario)


@pytest.mark.parametrize("group", [1, 40, 1_050])
@pytest.mark.parametrize("metric", range(4))
def test_plain_values_are_known_again_in_groups_of_any_size(
    server: ThrowawayStore, metric: int, group: int
) -> None:
    """A large group reads hashes and bitmaps as wholes, a small one asks for each decision."""
    values = {CLICK: [0.0, 1.0], STARS: [-3.0, 0.1, 8.0], VISITS: [0.0, 12.0], SPEND: [0.0, -1e70, 7.0, 0.1]}[
        metric
    ]
    # Low bytes of these counters are those of fields of other lengths, digits and zeros.
    decisions = [*range(250, 1_300), 0x3030, 0x3131, 65_536, 65_536 + 250, 7 * 65_536 + 255]
    chance = random.Random(metric)

    async def scenario(worker: Worker) -> None:
        given = {decision: chance.choice(values) for decision in decisions}
        verdicts = await worker.send(*(Send(decision, metric, value) for decision, value in given.items()))
        assert verdicts == ["accepted"] * len(given)
        sends = [
            Send(decision, metric, chance.choice(values)) for decision in chance.sample(decisions, group)
        ]
        sends += sends[:20]
        expected = ["duplicate" if send.value == given[send.decision] else "conflict" for send in sends]
        assert await worker.send(*sends) == expected
        events = [
            send._replace(value=1.0, event="a")
            for send in {send.decision: send for send in sends[:60]}.values()
        ]
        assert await worker.send(*events) == ["accepted"] * len(events)
        both = max if metric == CLICK else math.fsum
        for event in events:
            given[event.decision] = both((given[event.decision], 1.0))
        assert {key[0]: value for key, value in (await logged(worker.store)).values.items()} == given

    on(server, scenario)


def test_a_full_block_of_plain_values_is_one_packed_list(server: ThrowawayStore) -> None:
    """Such a hash is small and quick to read; no hash grows beyond it."""

    async def scenario(worker: Worker) -> None:
        sends = [Send(decision, SPEND, 1e-3 * decision) for decision in range(2_048)]
        assert await worker.send(*sends) == ["accepted"] * len(sends)
        with server.client() as client:
            keys = client.keys("*:plain:*")
            assert [client.hlen(key) for key in keys] == [512] * 4
            assert {client.object("encoding", key) for key in keys} <= {b"listpack", b"ziplist"}

    on(server, scenario)


@pytest.mark.parametrize("unit", ["request", "user"])
@pytest.mark.parametrize("by_event", [False, True])
def test_rows_of_many_keys_are_several_entries_in_their_order(
    server: ThrowawayStore, monkeypatch: pytest.MonkeyPatch, unit: str, by_event: bool
) -> None:
    monkeypatch.setattr(module, "MAX_GROUP_KEYS", 10)

    async def scenario(worker: Worker) -> None:
        event = "a" if by_event else None
        sends = [Send(i << 16, SPEND, float(i), event, i + 1) for i in range(33)]
        assert await worker.send(*sends[::3]) == ["accepted"] * 11
        again = [send._replace(value=-1.0) if i % 2 else send for i, send in enumerate(sends)]
        other: RewardVerdict = "corrected" if by_event else "conflict"
        assert await worker.send(*again) == [
            "accepted" if i % 3 else other if i % 2 else "duplicate" for i in range(33)
        ]
        if by_event:
            events = np.full(len(sends), hash_event("a"))
            old = await worker.appender.append_events(worker.rows(sends), events, only_new=True)
            assert old == b"d" * len(sends)
        entries = [decode(entry.kind, entry.data) for entry in await worker.store.read(OWNER, START, 100)]
        assert max(len(entry.rows) for entry in entries) <= 5  # type: ignore[union-attr]
        counters = [int(row["counter"]) >> 16 for entry in entries for row in entry.rows]  # type: ignore[union-attr]
        assert counters == [*range(0, 33, 3), *(i for i in range(33) if i % 3 or (by_event and i % 2))]

    on(server, scenario, made=taking(unit))


def test_many_new_fields_in_one_call(server: ThrowawayStore) -> None:
    """Lua's unpack would fail near 8,000 arguments."""

    async def scenario(worker: Worker) -> None:
        n = module.MAX_GROUP_EVENTS
        all_of = [Send(i // 20, SPEND, 1.0, f"{i}") for i in range(n)]
        assert await worker.send(*all_of) == ["accepted"] * n
        assert await worker.send(*all_of) == ["duplicate"] * n

    on(server, scenario)


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("", False),
        ("a", True),
        ("a" * 128, True),
        ("a" * 129, False),
        ("ä" * 64, True),
        ("ä" * 64 + "a", False),
        ("😀" * 32, True),
        ("a\n", False),
        ("\x00", False),
        ("\x7f", False),
        ("a\u0085b", False),
        (" order 17 ", True),
        ("{}*:", True),
    ],
)
def test_ids_of_events(text: str, fits: bool) -> None:
    assert is_event_id(text) == fits


def test_hashes_of_events_are_the_same_in_every_build() -> None:
    assert hash_event("order-17") == 0xB05B448E0CAEE978
    assert len({hash_event(f"{i}") for i in range(10_000)}) == 10_000


# Lives of keys


def keys_of(server: ThrowawayStore) -> set[bytes]:
    with server.client() as client:
        kinds = ("seen", "plain", "events")
        return {key for kind in kinds for key in client.keys(f"*:{kind}:*")}


@pytest.mark.parametrize("unit", ["request", "user"])
def test_what_is_known_of_events_goes_when_nothing_can_ask_for_it_any_more(
    server: ThrowawayStore, unit: str
) -> None:
    async def scenario(worker: Worker) -> None:
        store, ages = worker.store, (0, 300_000, 500_000)
        for i, age_ms in enumerate(ages):
            sends = [
                Send(i << 16, metric, 1.0, event, i + 1) for metric in (CLICK, SPEND) for event in ("a", None)
            ]
            for send in sends:
                assert await worker.send(send, times_ms=worker.now_ms - age_ms) == ["accepted"]
        with server.client() as client:
            assert all(client.ttl(key) == -1 for key in keys_of(server))
            index = dict(client.zrange(store.keys.expiries(OWNER), 0, -1, withscores=True))
        assert set(index) == keys_of(server)
        ends = {worker.now_ms - age_ms + WINDOW_MS + COUNTED_MS for age_ms in ages}
        assert set(index.values()) == ends
        n = len(index)
        for end in sorted(ends):
            await sweep_at(store, int(end))
            assert len(keys_of(server)) == n, "a key is kept until its time is over"
            await sweep_at(store, int(end) + 1)
            n -= len(index) // 3
            assert len(keys_of(server)) == n
        assert n == 0

    on(server, scenario, made=taking(unit))


@pytest.mark.parametrize("n", [1, 3_000])
def test_keys_live_as_long_as_the_youngest_decision_of_a_group_whatever_its_order(
    server: ThrowawayStore, n: int
) -> None:
    async def scenario(worker: Worker) -> None:
        sends = [Send(i, SPEND, 1.0) for i in range(3 * n)]
        times = [worker.now_ms - age_ms for age_ms in (300, 100, 200)] * n
        with server.client() as client:
            bitmap = worker.store.keys.seen(OWNER, "spend", 0xFEED, 0)
            client.setbit(bitmap, 60_000, 1)
            client.expire(bitmap, 1_000)
            assert await worker.send(*sends, times_ms=times) == ["accepted"] * len(sends)
            assert client.ttl(bitmap) == -1, "a former build let the store's clock end it"
            index = dict(client.zrange(worker.store.keys.expiries(OWNER), 0, -1, withscores=True))
        assert set(index) == keys_of(server)
        assert set(index.values()) == {worker.now_ms - 100 + WINDOW_MS + COUNTED_MS}

    on(server, scenario)


async def sweep_at(store: Store, now_ms: int) -> None:
    async def time_ms() -> int:
        return now_ms

    store.time_ms = time_ms  # type: ignore[method-assign]
    await store.sweep(OWNER)
    del store.time_ms  # type: ignore[method-assign]


@pytest.mark.parametrize("unit", ["request", "user"])
def test_a_deleted_experiment_leaves_no_events(server: ThrowawayStore, unit: str) -> None:
    async def scenario(worker: Worker) -> None:
        sends = [Send(i << 16, SPEND, 1.0, event, i) for i in range(1, 5) for event in ("a", "b")]
        assert await worker.send(*sends) == ["accepted"] * len(sends)
        assert await worker.send(Send(9, SPEND, 1.0)) == ["accepted"]
        assert len(keys_of(server)) >= 10
        await worker.store.free(OWNER, [])
        assert keys_of(server) == set()
        with server.client() as client:
            assert set(client.keys("*")) <= {
                worker.store.keys.trimmed(OWNER).encode(),
                worker.store.keys.clock.encode(),
            }

    on(server, scenario, made=taking(unit))


def test_all_keys_of_an_experiment_are_in_one_slot() -> None:
    store = Store("redis://localhost")
    keys = store.keys
    for owner in ("e", "e~7"):
        tag = keys.log(owner).partition("{")[2].partition("}")[0]
        names = [keys.plain(owner, "m", 1, 2), keys.events(owner, "m", 1, 2), keys.unit_events(owner, 1, 2)]
        names.append(keys.seen(owner, "m", 1, 2))
        assert all(name.partition("{")[2].partition("}")[0] == tag for name in names)
        assert len(set(names)) == len(names)


# Rewards of former builds


def test_to_a_reward_of_a_former_build_nothing_is_added(server: ThrowawayStore) -> None:
    """It kept no value, so that another one may be the same, and a sum with it is not known."""

    async def scenario(worker: Worker) -> None:
        store = worker.store
        with server.client() as client:
            for metric in ("click", "stars", "visits", "spend"):
                client.setbit(store.keys.seen(OWNER, metric, 0xFEED, 0), 5, 1)
                plain = store.keys.plain(OWNER, metric, 0xFEED, 0)
                client.set(plain.replace(":plain:", ":values:"), bytes(10))
        for metric in range(4):
            for value in (0.0, 1.0):
                assert await worker.send(Send(5, metric, value)) == ["duplicate"]
                assert await worker.send(Send(5, metric, value, "a")) == ["duplicate"]
            assert await worker.send(Send(5, metric, None, "a")) == ["duplicate"]
            assert await worker.send(Send(6, metric, 1.0)) == ["accepted"]
            assert await worker.send(Send(6, metric, 0.0)) == ["conflict"]
        assert set((await logged(store)).values) == {(6, metric) for metric in range(4)}

    on(server, scenario)


# Refusals of the store


SENDS = [Send(0, SPEND, 1.0, "a", 1), Send(0, SPEND, 2.0, "b", 1), Send(1, CLICK, 1.0, "a", 1)]


@pytest.mark.parametrize("unit", ["request", "user"])
def test_a_full_store_refuses_events_and_keeps_nothing_of_them(unit: str) -> None:
    with ThrowawayStore(options={"maxmemory": "3mb"}, appendfsync="no") as full, full.client() as client:
        client.set("filler", b"x")
        while client.info("memory")["used_memory"] < 3 * 2**20:
            client.append("filler", b"x" * 100_000)

        async def scenario(worker: Worker) -> None:
            with pytest.raises(StoreUnavailable):
                await worker.send(*SENDS)
            assert set(client.keys("*")) <= {b"filler", worker.store.keys.clock.encode()}
            client.delete("filler")
            assert await worker.send(*SENDS) == ["accepted"] * 3, "the retry counts each of them"
            assert await worker.send(*SENDS) == ["duplicate"] * 3

        on(full, scenario, made=taking(unit))


def test_a_replica_refuses_events_and_keeps_nothing_of_them() -> None:
    with ThrowawayStore(appendfsync="no", tcp=True) as replica, replica.client() as client:

        async def scenario(worker: Worker) -> None:
            client.replicaof("127.0.0.1", "1")
            with pytest.raises(StoreUnavailable):
                await worker.send(*SENDS)
            client.replicaof("NO", "ONE")
            assert keys_of(replica) == set()
            assert await worker.send(*SENDS) == ["accepted"] * 3

        on(replica, scenario)


@pytest.mark.parametrize("unit", ["request", "user"])
def test_what_fails_at_a_check_has_written_nothing(server: ThrowawayStore, unit: str) -> None:
    async def scenario(worker: Worker) -> None:
        keys = worker.store.keys
        period = worker.now_ms // (WINDOW_MS + COUNTED_MS)
        wrong = (
            keys.unit_events(OWNER, 2, period) if unit == "user" else keys.events(OWNER, "click", 0xFEED, 0)
        )
        with server.client() as client:
            client.set(wrong, "not a hash")
            with pytest.raises(Exception, match="WRONGTYPE"):
                await worker.send(*SENDS[:2], SENDS[2]._replace(unit=2))
            assert keys_of(server) == {wrong.encode()}
        assert await worker.store.read(OWNER, START, 10) == []

    on(server, scenario, made=taking(unit))


def test_after_an_unknown_outcome_the_retry_counts_once() -> None:
    with ThrowawayStore(appendfsync="no") as server:

        async def scenario(worker: Worker) -> None:
            for send in (SENDS[0], SENDS[0]._replace(value=3.0), SENDS[0]._replace(value=None)):
                server.pause()
                try:
                    with pytest.raises(StoreUnavailable):
                        await worker.send(send)
                finally:
                    server.resume()
                assert set(await worker.send(send)) <= {"accepted", "corrected", "retracted", "duplicate"}
                assert await worker.send(send) == ["duplicate"]
            changes = (await logged(worker.store)).changes
            assert repr([change.value for change in changes]) == repr([1.0, 3.0, NONE])

        on(server, scenario, timeout_s=0.3)


def test_when_the_clocks_differ_log_time_is_read_before_anything_is_written(server: ThrowawayStore) -> None:
    async def scenario(worker: Worker) -> None:
        worker.store.clock._ahead_ns += 3_600 * 10**9
        asked = Send(0, SPEND, 1.0, "a")
        assert await worker.send(asked) == ["accepted"]
        assert await worker.send(asked) == ["duplicate"]
        (entry,) = await worker.store.read(OWNER, START, 10)
        assert abs(entry.offset.time_ms - worker.now_ms) < 60_000

    on(server, scenario)

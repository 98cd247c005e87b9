"""Exposure buffer: numbered without gaps, bounded, and flushed once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from stores import ThrowawayStore

from bandit_serve.decisions import exposures as module
from bandit_serve.decisions.exposures import ExposureBuffer
from bandit_serve.decisions.flush import Flusher
from bandit_serve.errors import StoreUnavailable
from bandit_serve.log import events
from bandit_serve.log.events import Exposed
from bandit_serve.log.offset import START
from bandit_serve.log.times import EXPOSED_MARK_MS, REPEATED_MS
from bandit_serve.store.store import Store

EVEN = np.array([0.5, 0.5])
TILTED = np.array([0.25, 0.75])
NO_UNITS = np.zeros(0, np.uint64)


class Rows:
    """One batch, row by row."""

    def __init__(self, batch: Exposed, n_arms: int = 2) -> None:
        self.arms = np.frombuffer(batch.arms, np.uint16).tolist()
        self.times_ms = (batch.time_ms + np.frombuffer(batch.ages_ms, np.uint32).astype(np.int64)).tolist()
        self.units = np.frombuffer(batch.units, np.uint64).tolist()
        runs = np.frombuffer(batch.runs, np.uint32)
        vectors = np.frombuffer(batch.vectors).reshape(-1, n_arms)
        assert len(runs) == len(vectors)
        assert runs.sum() == len(self.arms) == len(self.times_ms)
        assert len(self.units) in (0, len(self.arms))
        self.vectors = np.repeat(vectors, runs, axis=0).tolist()


def taken(buffer: ExposureBuffer) -> list[Exposed]:
    """Takes all waiting batches, as a flush does."""
    batches = []
    while (waiting := buffer.first_waiting()) is not None:
        assert buffer.first_waiting() is waiting, "the same one until it is done"
        batches.append(waiting[0])
        assert waiting[1] == len(Rows(waiting[0]).arms)
        buffer.done(waiting[0])
    return batches


def many(arms: list[int]) -> NDArray[np.uint16]:
    return np.array(arms, np.uint16)


def test_nothing_decided_is_nothing_to_flush() -> None:
    buffer = ExposureBuffer(1)
    assert buffer.first_waiting() is None
    buffer.add_many(many([]), NO_UNITS, EVEN, 1, 5)
    assert buffer.first_waiting() is None


def test_decisions_come_out_as_they_went_in() -> None:
    buffer = ExposureBuffer(9)
    buffer.add(1, 0, EVEN, 4, 1_000)
    buffer.add(0, 0, EVEN, 4, 1_007)
    (batch,) = taken(buffer)
    assert (batch.incarnation, batch.first, batch.revision, batch.time_ms) == (9, 0, 4, 1_000)
    rows = Rows(batch)
    assert rows.arms == [1, 0]
    assert rows.times_ms == [1_000, 1_007]
    assert rows.units == []
    assert np.frombuffer(batch.runs, np.uint32).tolist() == [2], "one vector for both"


def test_each_row_has_the_vector_that_it_was_drawn_from() -> None:
    buffer = ExposureBuffer(1)
    for vector, n in ((EVEN, 2), (TILTED, 1), (EVEN, 3)):
        for _ in range(n):
            buffer.add(0, 0, vector, 1, 5)
    buffer.add_many(many([1, 1]), NO_UNITS, TILTED, 1, 6)
    (batch,) = taken(buffer)
    assert np.frombuffer(batch.runs, np.uint32).tolist() == [2, 1, 3, 2]
    expected = [EVEN] * 2 + [TILTED] + [EVEN] * 3 + [TILTED] * 2
    assert Rows(batch).vectors == [vector.tolist() for vector in expected]


def test_units_go_with_their_decisions() -> None:
    buffer = ExposureBuffer(1)
    buffer.add(0, 2**64 - 1, EVEN, 1, 5)
    buffer.add_many(many([1, 0]), np.array([7, 8], np.uint64), EVEN, 1, 5)
    (batch,) = taken(buffer)
    assert Rows(batch).units == [2**64 - 1, 7, 8]


def test_a_new_revision_begins_a_new_batch() -> None:
    buffer = ExposureBuffer(1)
    buffer.add(0, 0, EVEN, 1, 5)
    buffer.add(1, 0, EVEN, 2, 6)
    buffer.add(1, 0, EVEN, 2, 7)
    assert [(batch.revision, batch.first, len(Rows(batch).arms)) for batch in taken(buffer)] == [
        (1, 0, 1),
        (2, 1, 2),
    ]


def test_a_clock_that_steps_back_begins_a_new_batch_and_keeps_its_times() -> None:
    buffer = ExposureBuffer(1)
    buffer.add(0, 0, EVEN, 1, 1_000)
    buffer.add(0, 0, EVEN, 1, 400)
    buffer.add_many(many([1]), NO_UNITS, EVEN, 1, 300)
    batches = taken(buffer)
    assert [Rows(batch).times_ms for batch in batches] == [[1_000], [400], [300]]
    assert [batch.first for batch in batches] == [0, 1, 2]


DAY_MS = 86_400_000


@pytest.mark.parametrize("step_ms", [2**32 - 1, 2**32, 50 * DAY_MS, 30_000 * DAY_MS])
@pytest.mark.parametrize("way", ["one", "many"])
def test_a_clock_that_steps_far_ahead_begins_a_new_batch_and_keeps_its_times(step_ms: int, way: str) -> None:
    buffer = ExposureBuffer(1)
    times_ms = [1_000, 1_000 + step_ms, 1_007 + step_ms, 1_008]
    for time_ms in times_ms:
        if way == "one":
            buffer.add(1, 7, EVEN, 1, time_ms)
        else:
            buffer.add_many(many([1]), np.array([7], np.uint64), EVEN, 1, time_ms)
    batches = [events.decode(events.EXPOSED, events.encode(batch)) for batch in taken(buffer)]
    times_of_batches = [Rows(batch).times_ms for batch in batches if isinstance(batch, Exposed)]
    assert [time_ms for times in times_of_batches for time_ms in times] == times_ms
    assert len(times_of_batches) == 3, "no more batches than are needed"


class NoArray:
    """Stands in for features, and raises."""

    def tobytes(self) -> bytes:
        raise MemoryError


class NoFlag:
    """Stands in for a flag, and raises."""

    def __bool__(self) -> bool:
        raise ValueError


BAD_ROWS: list[dict[str, Any]] = [
    {"arm": 2**16},
    {"arm": -1},
    {"arm": "a"},
    {"unit": 2**64},
    {"unit": -1},
    {"time_ms": "x"},
    {"time_ms": 2**64},
    {"held_out": NoFlag()},
    {"x": NoArray()},
    {"pair": ("user",)},
    {"pair": (1, "item", None)},
    {"revision": 2, "arm": 2**16},
    {"vector": "no vector"},
    {"vector": None},
    {"vector": TILTED, "unit": -1},
]


@pytest.mark.parametrize(
    "beside", [{}, {"x": np.ones(2, np.float32), "pair": ("user", "item", None)}], ids=["plain", "features"]
)
@given(rows=st.lists(st.one_of(st.none(), st.sampled_from(BAD_ROWS)), min_size=1, max_size=12))
@settings(max_examples=100, deadline=None)
def test_a_row_that_can_not_be_added_leaves_no_part_of_it(
    beside: dict[str, Any], rows: list[dict[str, Any] | None]
) -> None:
    buffer = ExposureBuffer(1)
    buffer.n_features = 2 if beside else 0
    added = 0
    for bad in rows:
        row = {
            "arm": 1,
            "unit": 7,
            "vector": EVEN,
            "revision": 1,
            "time_ms": 5,
            **beside,
            **(bad or {}),
        }
        if bad is None:
            buffer.add(**row)
            added += 1
        else:
            with pytest.raises((TypeError, ValueError, OverflowError, AttributeError, MemoryError)):
                buffer.add(**row)
        assert buffer.next == added
    batches = taken(buffer)
    assert buffer.lost == 0
    assert sum(len(Rows(batch).arms) for batch in batches) == added
    for batch in batches:
        decoded = events.decode(events.EXPOSED, events.encode(batch), 2 if beside else 0)
        assert isinstance(decoded, Exposed)
        assert [pair.place for pair in decoded.pairs] == list(range(len(decoded.arms) // 2 if beside else 0))


def test_a_batch_that_no_fold_could_read_is_not_logged_and_counted_as_lost(
    caplog: pytest.LogCaptureFixture,
) -> None:
    buffer = ExposureBuffer(1)
    buffer.add(2, 0, EVEN, 1, 5)
    buffer.add(1, 0, EVEN, 2, 5)
    (batch,) = taken(buffer)
    assert (batch.first, batch.revision) == (1, 2)
    assert buffer.lost == 1
    assert "1 decisions are not logged" in caplog.text


@pytest.mark.parametrize("x", [None, np.ones(1, np.float32), np.ones(3, np.float32)])
def test_decisions_without_their_features_are_not_logged(x: Any) -> None:
    """Such a batch in the log would set the whole experiment aside."""
    buffer = ExposureBuffer(1)
    buffer.n_features = 2
    buffer.add(0, 0, EVEN, 1, 5, x=x)
    assert taken(buffer) == []
    assert buffer.lost == 1
    buffer.add(0, 0, EVEN, 1, 5, x=np.ones(2, np.float32))
    assert [batch.first for batch in taken(buffer)] == [1]


def test_batches_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BATCH_ROWS", 10)
    buffer = ExposureBuffer(1)
    for _ in range(25):
        buffer.add(0, 0, EVEN, 1, 5)
    assert [len(Rows(batch).arms) for batch in taken(buffer)] == [10, 10, 5]


def test_what_can_not_be_logged_is_dropped_from_the_oldest_end_and_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_BATCH_ROWS", 10)
    monkeypatch.setattr(module, "MAX_WAITING_ROWS", 30)
    buffer = ExposureBuffer(1)
    for _ in range(65):
        buffer.add(0, 0, EVEN, 1, 5)
    assert buffer.next == 65, "decisions go on"
    assert buffer.lost == 30
    batches = taken(buffer)
    assert [batch.first for batch in batches] == [30, 40, 50, 60]
    assert buffer.lost + sum(len(Rows(batch).arms) for batch in batches) == buffer.next


def test_a_batch_that_was_dropped_while_it_was_flushed_is_not_done_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_BATCH_ROWS", 10)
    monkeypatch.setattr(module, "MAX_WAITING_ROWS", 20)
    buffer = ExposureBuffer(1)
    for _ in range(10):
        buffer.add(0, 0, EVEN, 1, 5)
    waiting = buffer.first_waiting()
    assert waiting is not None
    for _ in range(20):
        buffer.add(0, 0, EVEN, 1, 5)
    assert buffer.lost == 10
    buffer.done(waiting[0])
    assert [batch.first for batch in taken(buffer)] == [10, 20]


STEPS = st.one_of(
    st.tuples(st.just("one"), st.integers(0, 1), st.integers(1, 3), st.integers(0, 50)),
    st.tuples(st.just("many"), st.integers(0, 12), st.integers(1, 3), st.integers(0, 50)),
    st.tuples(st.just("flush"), st.just(0), st.just(0), st.just(0)),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(STEPS, max_size=40))
def test_every_decision_comes_out_once_and_in_order(steps: list[tuple[str, int, int, int]]) -> None:
    buffer = ExposureBuffer(1)
    batches: list[Exposed] = []
    expected: list[tuple[int, int, int]] = []
    for kind, n, revision, time_ms in steps:
        if kind == "flush":
            batches += taken(buffer)
        elif kind == "one":
            buffer.add(n, 0, EVEN, revision, time_ms)
            expected.append((n, revision, time_ms))
        else:
            buffer.add_many(many([1] * n), NO_UNITS, EVEN, revision, time_ms)
            expected += [(1, revision, time_ms)] * n
    batches += taken(buffer)
    rows_read, number = [], 0
    for batch in batches:
        rows = Rows(batch)
        assert batch.first == number
        number += len(rows.arms)
        rows_read += [(arm, batch.revision, at) for arm, at in zip(rows.arms, rows.times_ms, strict=True)]
    assert rows_read == expected
    assert buffer.next == number
    assert buffer.lost == 0


# The flush


@pytest.fixture
def server() -> Iterator[ThrowawayStore]:
    with ThrowawayStore(appendfsync="no") as running:
        yield running


def test_a_flush_that_never_got_its_answer_adds_nothing_when_repeated(server: ThrowawayStore) -> None:
    """The store appends the batch, but the reply is lost because the client closes before it."""

    async def scenario() -> None:
        store = Store(server.url, timeout_s=30)
        buffer = ExposureBuffer(1)
        flusher = Flusher(store, {"e": buffer}, 1)
        try:
            buffer.add(0, 0, EVEN, 1, 5)
            waiting = buffer.first_waiting()
            assert waiting is not None
            await store.append_exposures("e", 1, 0, 1, events.encode(waiting[0]))
            await flusher.flush()
            assert buffer.first_waiting() is None
            buffer.add(1, 0, EVEN, 1, 6)
            await flusher.flush()
            logged = [events.decode(entry.kind, entry.data) for entry in await store.read("e", START, 10)]
            assert [event.first for event in logged if isinstance(event, Exposed)] == [0, 1]
        finally:
            await store.close()

    asyncio.run(scenario())


class Unanswered(Store):
    """The next `n_lost` answers to a flush are lost on their way back."""

    n_lost = 1

    async def append_exposures(self, owner: str, *batch: Any) -> bool | None:
        answer = await super().append_exposures(owner, *batch)
        if self.n_lost:
            self.n_lost -= 1
            raise StoreUnavailable("The answer was lost.")
        return answer


@pytest.mark.parametrize("away_ms", [0, 3_600_000, 2 * 86_400_000, 6 * 86_400_000])
def test_exposures_are_in_the_log_once_however_long_the_answer_was_lost(
    server: ThrowawayStore, away_ms: int
) -> None:
    """The keeper sweeps all that it may by then."""

    async def scenario() -> None:
        store = Unanswered(server.url, timeout_s=5)
        buffer = ExposureBuffer(1)
        flusher = Flusher(store, {"e": buffer}, 1)
        try:
            buffer.add(0, 0, EVEN, 1, 5)
            with pytest.raises(StoreUnavailable):
                await flusher.flush()
            await passes(store, server, away_ms)
            buffer.add(1, 0, EVEN, 1, 6)
            await flusher.flush()
            logged = [events.decode(entry.kind, entry.data) for entry in await store.read("e", START, 10)]
            assert [event.first for event in logged if isinstance(event, Exposed)] == [0, 1]
            assert buffer.lost == 0
        finally:
            await store.close()

    asyncio.run(scenario())


def test_exposures_that_may_be_in_the_log_are_lost_rather_than_counted_twice(server: ThrowawayStore) -> None:
    """Because the mark was swept, or the worker slept for longer than the mark is kept."""

    async def scenario() -> None:
        store = Unanswered(server.url, timeout_s=5)
        buffer = ExposureBuffer(1)
        flusher = Flusher(store, {"e": buffer}, 1)
        try:
            buffer.add(0, 0, EVEN, 1, 5)
            with pytest.raises(StoreUnavailable):
                await flusher.flush()
            await passes(store, server, EXPOSED_MARK_MS + 60_000)
            buffer.add(1, 0, EVEN, 1, 6)
            await flusher.flush()
            logged = [events.decode(entry.kind, entry.data) for entry in await store.read("e", START, 10)]
            assert [event.first for event in logged if isinstance(event, Exposed)] == [0, 1]
            assert buffer.lost == 1
        finally:
            await store.close()

    asyncio.run(scenario())


def test_a_batch_that_was_tried_too_long_ago_is_refused_only_without_its_mark(server: ThrowawayStore) -> None:
    async def scenario() -> None:
        store = Store(server.url, timeout_s=30)
        try:
            now_ms = await store.time_ms()
            for tried_ms in (now_ms, now_ms - REPEATED_MS + 10_000):
                assert await store.append_exposures("e", tried_ms, 0, 1, b"x", tried_ms) is True
                assert await store.append_exposures("e", tried_ms, 0, 1, b"x", tried_ms) is False
            assert await store.append_exposures("e", 1, 0, 1, b"x", now_ms - REPEATED_MS - 10_000) is None
            assert await store.append_exposures("e", 1, 0, 1, b"x") is True
            assert await store.append_exposures("e", 1, 0, 1, b"x", now_ms - 10 * REPEATED_MS) is False
        finally:
            await store.close()

    asyncio.run(scenario())


async def passes(store: Store, server: ThrowawayStore, ms: int) -> None:
    """Lets time pass for all clients of the store: expired keys end, and all that may be swept is swept."""
    store.clock._ahead_ns += ms * 1_000_000
    with server.client() as client:
        fields = client.hgetall(store.keys.clock)
        shift_ms = int(fields.get(b"shift", 0)) + ms
        now_s, microseconds = client.time()
        mark_ms = now_s * 1000 + microseconds // 1000 + shift_ms
        client.hset(store.keys.clock, mapping={"shift": shift_ms, "mark": mark_ms})
        for key in client.keys("*"):
            if 0 <= client.pttl(key) <= ms:
                client.delete(key)
    await store.sweep("e")


def test_what_a_store_that_is_away_does_not_take_stays(server: ThrowawayStore) -> None:
    async def scenario() -> None:
        store = Store(server.url, timeout_s=30)
        buffers = {name: ExposureBuffer(1) for name in ("e", "f")}
        flusher = Flusher(store, buffers, 1)
        try:
            for buffer in buffers.values():
                for _ in range(3):
                    buffer.add(0, 0, EVEN, 1, 5)
            server.kill()
            with pytest.raises(StoreUnavailable):
                await flusher.flush()
            buffers["e"].add(1, 0, TILTED, 1, 9)
            server.start()
            await flusher.flush()
            for name, n in (("e", 4), ("f", 3)):
                logged = [
                    events.decode(entry.kind, entry.data) for entry in await store.read(name, START, 10)
                ]
                arms = [arm for event in logged if isinstance(event, Exposed) for arm in Rows(event).arms]
                assert len(arms) == n
        finally:
            await store.close()

    asyncio.run(scenario())


def test_a_busy_experiment_does_not_keep_the_others_from_being_flushed(server: ThrowawayStore) -> None:
    buffers = {name: ExposureBuffer(1) for name in ("busy", "calm")}

    class BusyStore(Store):
        """Store during whose appends the busy experiment makes more decisions."""

        async def append_exposures(self, owner: str, *batch: Any) -> bool | None:
            buffers["busy"].add(0, 0, EVEN, 1, 5)
            return await super().append_exposures(owner, *batch)

    async def scenario() -> None:
        store = BusyStore(server.url, timeout_s=5)
        try:
            for buffer in buffers.values():
                buffer.add(0, 0, EVEN, 1, 5)
            async with asyncio.timeout(5):
                await Flusher(store, buffers, 1).flush()
            assert buffers["calm"].first_waiting() is None
            assert buffers["busy"].first_waiting() is not None
        finally:
            await store.close()

    asyncio.run(scenario())


def test_batches_and_what_waits_are_bounded_in_bytes_too() -> None:
    """Each new set of eligible arms logs a vector of its own, and a vector of many arms is large."""
    buffer = ExposureBuffer(1)
    n_decisions = 3_000
    for i in range(n_decisions):
        buffer.add(i % 2, 0, np.full(4_096, 1 / 4_096), 1, 5)
    waiting = [each.exposed for each in buffer._waiting]
    assert len(waiting) > 5
    assert all(len(exposed.vectors) <= module.MAX_BATCH_VECTOR_BYTES + 4_096 * 8 for exposed in waiting)
    assert sum(len(exposed.vectors) for exposed in waiting) <= module.MAX_WAITING_BYTES
    n_waiting = sum(each.n_rows for each in buffer._waiting) + buffer.next - buffer.first
    assert buffer.lost > 0
    assert buffer.lost + n_waiting == n_decisions

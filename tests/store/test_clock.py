"""Log time: even and never back, for any jump of the store's or the callers' clocks."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from builders import experiment, rewards
from hypothesis import given, settings
from hypothesis import strategies as st
from stores import ThrowawayStore, server_binaries
from wall_clock import WallClock, needs_faketime

from bandit_serve.log.events import REWARD
from bandit_serve.log.offset import START
from bandit_serve.log.times import CLOCK_TOLERANCE_MS, EXPOSED_MARK_MS, REPEATED_MS
from bandit_serve.rewards.appender import RewardAppender
from bandit_serve.store import clock as module
from bandit_serve.store.clock import LogClock, even_ns
from bandit_serve.store.store import Store

DAY_S = 86_400
WINDOW_MS = 600_000
TAKING = experiment(attribution={"window": f"{WINDOW_MS}ms", "missing": "ignore"})
OWNER = "e"
MS = 1_000_000


class SteppableStore:
    """Real store whose clock a test sets."""

    def __init__(self, directory: Path) -> None:
        self.wall = WallClock(directory)
        self.server = ThrowawayStore(binary=self.wall.wrapped(server_binaries()[0]), appendfsync="no")


@pytest.fixture(scope="module")
def stepped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SteppableStore]:
    made = SteppableStore(tmp_path_factory.mktemp("clock"))
    with made.server:
        yield made


@pytest.fixture
def established(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients whose clocks are trusted at once."""
    monkeypatch.setattr(module, "ESTABLISHED_MS", 0)


def on(stepped: SteppableStore, scenario: Callable[[Store], Awaitable[None]]) -> None:
    async def run() -> None:
        stepped.wall.step(0)
        stepped.server.flush()
        store = Store(stepped.server.url, timeout_s=30)
        try:
            await store.time_ms()
            await store.time_ms()
            await scenario(store)
        finally:
            stepped.wall.step(0)
            await store.close()

    asyncio.run(run())


async def seen(store: Store, stepped: SteppableStore, step_s: int) -> None:
    """Sets the store's clock. A store reads it once for commands that arrive together: the next one is sent alone."""
    stepped.wall.step(step_s)
    await log_times(store)


def wall_ms() -> int:
    return time.time_ns() // MS


async def log_times(store: Store) -> list[int]:
    return [entry.offset.time_ms for entry in await store.read(OWNER, START, 10_000)]


# The clock of one process


def test_a_clock_that_heard_nothing_is_this_machines() -> None:
    clock = LogClock()
    assert not clock.known
    assert abs(clock.now_ms() - wall_ms()) < 5_000


@given(
    shift_ms=st.integers(-(10**11), 10**11),
    answers=st.lists(
        st.tuples(st.integers(-CLOCK_TOLERANCE_MS // 4, CLOCK_TOLERANCE_MS // 4), st.integers(0, 3_000)),
        max_size=30,
    ),
)
def test_time_never_goes_back_and_is_right_within_the_answer(
    shift_ms: int, answers: list[tuple[int, int]]
) -> None:
    """Each answer is off by up to a quarter of the tolerance, and takes up to 3 s."""
    clock, last_ms = LogClock(), 0
    for off_ms, took_ms in answers:
        received_ns = even_ns()
        sent_ns = received_ns - took_ms * MS
        store_ms = 1_700_000_000_000 + received_ns // MS + off_ms
        clock.adjust(store_ms, shift_ms, sent_ns, received_ns)
        now_ms, passed_ms = clock.now_ms(), (even_ns() - received_ns) // MS
        assert now_ms >= last_ms
        assert now_ms >= store_ms + shift_ms + passed_ms - 1
        if now_ms > last_ms + passed_ms + 1:
            assert now_ms <= store_ms + shift_ms + took_ms + passed_ms + 2
        last_ms = now_ms


def test_a_slow_answer_spoils_nothing() -> None:
    clock = LogClock()
    now_ns = even_ns()
    clock.adjust(10**12, 0, now_ns, now_ns)
    before_ms = clock.now_ms()
    clock.adjust(10**12 + 60_000, 0, now_ns, now_ns + 120_000 * MS)
    assert 0 <= clock.now_ms() - before_ms < 1_000


def test_more_than_the_tolerance_back_is_taken_over() -> None:
    clock = LogClock()
    now_ns = even_ns()
    clock.adjust(10**12, 0, now_ns, now_ns)
    clock.adjust(10**12 - CLOCK_TOLERANCE_MS - 5_000, 0, now_ns, now_ns)
    assert clock.now_ms() < 10**12


# A step of the store's clock


@needs_faketime
@pytest.mark.parametrize("step_s", [DAY_S, -DAY_S, 90 * DAY_S, -90 * DAY_S, 30, -30])
def test_rewards_count_once_and_time_runs_on_when_the_stores_clock_steps_and_comes_back(
    stepped: SteppableStore, established: None, step_s: int
) -> None:
    async def scenario(store: Store) -> None:
        appender = RewardAppender(store, OWNER, TAKING)
        n, began_ms = 0, wall_ms()
        for step in (0, step_s, 0, step_s, 0):
            stepped.wall.step(step)
            known = list(range(n))
            if known:
                again = await appender.append(rewards(known, times_ms=began_ms))
                assert again == b"d" * n
            new = rewards(range(n, n + 200), times_ms=store.clock.now_ms())
            assert await appender.append(new) == b"a" * 200
            n += 200
            await store.sweep(OWNER)
            assert abs(await store.time_ms() - wall_ms()) < CLOCK_TOLERANCE_MS
            late = rewards([10**6], times_ms=wall_ms() - WINDOW_MS - CLOCK_TOLERANCE_MS)
            assert await appender.append(late) == b"l"
        logged = b"".join(entry.data for entry in await store.read(OWNER, START, 10_000))
        assert len(logged) == n * REWARD.itemsize
        times = await log_times(store)
        assert times == sorted(times)
        assert began_ms - CLOCK_TOLERANCE_MS < times[0]
        assert times[-1] < wall_ms() + CLOCK_TOLERANCE_MS
        assert abs(store.clock.shift_ms) <= 1_000

    on(stepped, scenario)


@needs_faketime
def test_every_kind_of_entry_keeps_to_the_logs_time(stepped: SteppableStore, established: None) -> None:
    """Several in one millisecond too, whose numbers the store does not make while there is a shift."""

    async def scenario(store: Store) -> None:
        for step in (0, DAY_S, -DAY_S, 0):
            stepped.wall.step(step)
            revision = 0
            with stepped.server.client() as client:
                revision = int(client.get(store.keys.head(OWNER)) or 0)
            await asyncio.gather(*(store.append(OWNER, b"t", b"") for _ in range(50)))
            assert await store.append_change(OWNER, revision, b"c", b"x") is not None
            assert await store.append_change(OWNER, revision, b"c", b"x") is None
            assert await store.append_exposures(OWNER, 1, revision, 1, b"x")
            assert not await store.append_exposures(OWNER, 1, revision, 1, b"x")
        entries = await store.read(OWNER, START, 10_000)
        assert len(entries) == 4 * 52
        offsets = [entry.offset for entry in entries]
        assert offsets == sorted(set(offsets))
        assert offsets[-1].time_ms - offsets[0].time_ms < 60_000

    on(stepped, scenario)


@needs_faketime
@pytest.mark.parametrize("step_s", [DAY_S, -DAY_S])
def test_a_caller_that_comes_after_a_jump_waits_for_those_who_know(
    stepped: SteppableStore, monkeypatch: pytest.MonkeyPatch, step_s: int
) -> None:
    async def scenario(store: Store) -> None:
        await store.announce(b"a worker", 10_000)
        stepped.wall.step(step_s)
        newcomer = Store(stepped.server.url, timeout_s=30)
        try:
            asked = asyncio.create_task(newcomer.append(OWNER, b"t", b""))
            while newcomer.clock._first_adjusted_ns is None:
                await asyncio.sleep(0.005)
            assert await store.last_offset(OWNER) == START
            monkeypatch.setattr(module, "ESTABLISHED_MS", 0)
            assert abs(await store.time_ms() - wall_ms()) < CLOCK_TOLERANCE_MS
            monkeypatch.undo()
            offset = await asked
            assert abs(offset.time_ms - wall_ms()) < CLOCK_TOLERANCE_MS
            assert abs(newcomer.clock.now_ms() - wall_ms()) < CLOCK_TOLERANCE_MS
        finally:
            await newcomer.close()

    on(stepped, scenario)


@needs_faketime
def test_a_caller_that_comes_when_all_have_died_is_believed_in_the_end(
    stepped: SteppableStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ESTABLISHED_MS", 500)

    async def scenario(store: Store) -> None:
        await store.announce(b"a worker", 10_000)
        stepped.wall.step(DAY_S)
        heir = Store(stepped.server.url, timeout_s=30)
        try:
            offset = await heir.append(OWNER, b"t", b"")
            assert abs(offset.time_ms - wall_ms() - DAY_S * 1000) < CLOCK_TOLERANCE_MS
        finally:
            await heir.close()

    on(stepped, scenario)


@needs_faketime
@pytest.mark.parametrize("step_s", [DAY_S, -DAY_S])
def test_where_nobody_was_there_the_stores_clock_is_believed_but_never_back(
    stepped: SteppableStore, established: None, step_s: int
) -> None:
    async def scenario(store: Store) -> None:
        before = await store.append(OWNER, b"t", b"")
        await store.time_ms()
        stepped.wall.step(step_s)
        heir = Store(stepped.server.url, timeout_s=30)
        try:
            after = await heir.append(OWNER, b"t", b"")
            passed_s = (after.time_ms - before.time_ms) / 1000
            assert abs(passed_s - max(step_s, 0)) < 10
            await heir.time_ms()
            again = await heir.append(OWNER, b"t", b"")
            assert 0 <= again.time_ms - after.time_ms < 10_000
        finally:
            await heir.close()

    on(stepped, scenario)


@needs_faketime
def test_a_caller_whose_own_clock_is_wrong_corrects_itself_and_not_the_others(
    stepped: SteppableStore, established: None
) -> None:
    """As after a suspend of its machine: by its clock, less time has passed than really has."""

    async def scenario(store: Store) -> None:
        sleeper = Store(stepped.server.url, timeout_s=30)
        try:
            await sleeper.time_ms()
            await store.time_ms()
            sleeper.clock._ahead_ns -= 3_600_000 * MS
            offset = await sleeper.append(OWNER, b"t", b"")
            assert abs(offset.time_ms - wall_ms()) < CLOCK_TOLERANCE_MS
            assert sleeper.clock.shift_ms == store.clock.shift_ms == 0
        finally:
            await sleeper.close()

    on(stepped, scenario)


@needs_faketime
@settings(max_examples=25, deadline=None)
@given(steps=st.lists(st.sampled_from([0, 5, -5, 11, -11, 60, -60, DAY_S, -DAY_S, 400 * DAY_S]), max_size=8))
def test_no_walk_of_the_stores_clock_moves_the_logs_time(stepped: SteppableStore, steps: list[int]) -> None:
    """Small changes of the store's clock are followed, each by no more than the tolerance."""

    async def scenario(store: Store) -> None:
        module.ESTABLISHED_MS = 0
        await store.time_ms()
        last = START
        for step in steps:
            stepped.wall.step(step)
            offset = await store.append(OWNER, b"t", b"")
            assert offset > last
            last = offset
            assert abs(offset.time_ms - wall_ms()) <= (len(steps) + 1) * CLOCK_TOLERANCE_MS

    before = module.ESTABLISHED_MS
    try:
        on(stepped, scenario)
    finally:
        module.ESTABLISHED_MS = before


@needs_faketime
def test_a_lease_from_before_the_clock_was_set_back_does_not_last(stepped: SteppableStore) -> None:
    async def scenario(store: Store) -> None:
        await seen(store, stepped, DAY_S)
        assert await store.hold_lease("dead", 10_000)
        assert not await store.hold_lease("heir", 10_000)
        await seen(store, stepped, 0)
        # A lease that is waited out would take a day.
        async with asyncio.timeout(5):
            while not await store.hold_lease("heir", 10_000):
                await asyncio.sleep(0.01)
        assert not await store.hold_lease("another", 10_000)

    on(stepped, scenario)


@needs_faketime
def test_a_full_store_still_tells_the_time(tmp_path: Path, established: None) -> None:
    with ThrowawayStore(options={"maxmemory": "3mb"}, appendfsync="no") as full, full.client() as client:
        client.set("filler", b"x")
        while client.info("memory")["used_memory"] < 3 * 2**20:
            client.append("filler", b"x" * 100_000)

        async def run() -> None:
            store = Store(full.url, timeout_s=30)
            try:
                for _ in range(3):
                    assert abs(await store.time_ms() - wall_ms()) < CLOCK_TOLERANCE_MS
            finally:
                await store.close()

        asyncio.run(run())


@settings(max_examples=200, deadline=None)
@given(
    off_ms=st.sampled_from([0, 7_200_000, -7_200_000, 50 * DAY_S * 1000]),
    answers=st.lists(st.tuples(st.integers(0, 60_000), st.floats(0, 1)), min_size=1, max_size=8),
)
def test_a_slow_answer_does_not_set_this_machines_clock_apart(
    off_ms: int, answers: list[tuple[int, float]]
) -> None:
    """The offset is known to a millisecond from one quick answer on, wherever in a slow one the store was asked."""
    ns, ahead_ns = 0, 1_700_000_000_000 * MS
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "even_ns", lambda: ns)
        patch.setattr(module, "time", SimpleNamespace(time_ns=lambda: ns + ahead_ns))
        clock = LogClock()
        for took_ms, where in [(0, 0.0), *answers]:
            sent_ns, ns = ns, ns + took_ms * MS
            asked_ns = sent_ns + int(took_ms * MS * where)
            clock.adjust((asked_ns + ahead_ns) // MS - off_ms, 0, sent_ns, ns)
            assert abs(clock.offset_ms - off_ms) <= 1


# What is swept


def test_bitmaps_and_marks_go_when_nothing_can_ask_for_them_any_more() -> None:
    async def run(server: ThrowawayStore) -> None:
        store = Store(server.url, timeout_s=30)
        try:
            appender = RewardAppender(store, OWNER, TAKING)
            now_ms = await store.time_ms()
            for incarnation, age_ms in ((1, 0), (2, 300_000), (3, 500_000)):
                await appender.append(rewards([0], times_ms=now_ms - age_ms, incarnation=incarnation))
                await store.append_exposures(OWNER, incarnation, 0, 1, b"x")
            marks = [store.keys.exposed(OWNER, i).encode() for i in (1, 2, 3)]
            bitmaps = [store.keys.seen(OWNER, "click", i, 0).encode() for i in (1, 2, 3)]
            values = [store.keys.plain(OWNER, "click", i, 0).encode() for i in (1, 2, 3)]
            with server.client() as client:

                async def left_after(ms: int) -> set[bytes]:
                    store.time_ms = at(now_ms + ms)  # type: ignore[method-assign]
                    await store.sweep(OWNER)
                    kept = {key for kind in ("seen", "plain", "exposed") for key in client.keys(f"*{kind}*")}
                    assert kept == set(client.zrange(store.keys.expiries(OWNER), 0, -1))
                    return kept

                assert await left_after(0) == {*bitmaps, *values, *marks}
                assert await left_after(WINDOW_MS - 300_000) == {*bitmaps[:2], *values[:2], *marks}
                assert await left_after(2 * WINDOW_MS) == {*marks}
                assert await left_after(EXPOSED_MARK_MS - 60_000) == {*marks}
                assert await left_after(EXPOSED_MARK_MS + 60_000) == set()
        finally:
            await store.close()

    def at(ms: int) -> Callable[[], Awaitable[int]]:
        async def time_ms() -> int:
            return ms

        return time_ms

    with ThrowawayStore(appendfsync="no") as server:
        asyncio.run(run(server))


def test_what_an_earlier_version_let_the_stores_clock_end_is_kept() -> None:
    async def run(server: ThrowawayStore) -> None:
        store = Store(server.url, timeout_s=30)
        try:
            appender = RewardAppender(store, OWNER, TAKING)
            now_ms = await store.time_ms()
            bitmap, mark = store.keys.seen(OWNER, "click", 1, 0), store.keys.exposed(OWNER, 1)
            with server.client() as client:
                client.setbit(bitmap, 0, 1)
                client.set(mark, 1)
                for key in (bitmap, mark):
                    client.pexpire(key, 100_000)
                assert await appender.append(rewards([0, 1], times_ms=now_ms, incarnation=1)) == b"da"
                assert await store.append_exposures(OWNER, 1, 1, 1, b"x")
                assert client.ttl(bitmap) == client.ttl(mark) == -1
        finally:
            await store.close()

    with ThrowawayStore(appendfsync="no") as server:
        asyncio.run(run(server))


def test_a_try_may_be_repeated_for_less_long_than_its_mark_is_kept() -> None:
    assert REPEATED_MS + 2 * CLOCK_TOLERANCE_MS < EXPOSED_MARK_MS


@needs_faketime
@pytest.mark.parametrize("back_s", [1, 5, 9])
def test_a_clock_that_is_set_back_a_little_takes_no_lease_from_its_holder(
    stepped: SteppableStore, back_s: int
) -> None:
    async def scenario(store: Store) -> None:
        assert await store.hold_lease("first", 10_000)
        await seen(store, stepped, -back_s)
        assert not await store.hold_lease("second", 10_000)
        assert await store.hold_lease("first", 10_000)

    on(stepped, scenario)

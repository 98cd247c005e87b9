"""Gate of a tenant, its bucket, and the memory that workers share for both."""

from __future__ import annotations

import multiprocessing
import tempfile
import time
from multiprocessing.sharedctypes import Synchronized
from typing import Any

import pytest

from bandit_serve.errors import RateExceeded, TooLarge
from bandit_serve.server.gate import MAX_PAUSE_S, QUICK_REFUSALS, RequestGate
from bandit_serve.server.metrics import Counters
from bandit_serve.server.rate import SharedNumber, TokenBucket
from bandit_serve.server.tenant_slots import MAX_SLOTS, TenantSlots
from bandit_serve.settings import TenantLimits


def memory() -> SharedNumber:
    return SharedNumber(memoryview(bytearray(8)).cast("d"))


def test_a_bucket_has_its_burst_and_then_its_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 1_000.0
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    bucket = TokenBucket(memory(), rate=10.0, burst=5.0)
    assert [bucket.take() for _ in range(5)] == [0.0] * 5
    assert bucket.take() == pytest.approx(0.1)
    assert bucket.take() == pytest.approx(0.1), "a refused request costs nothing"
    now_s += 0.1001
    assert bucket.take() == 0.0
    assert bucket.take() > 0.0
    now_s += 1e6
    assert [bucket.take() > 0.0 for _ in range(6)] == [False] * 5 + [True], (
        "no more than the burst is saved up"
    )
    bucket.owe(20)
    now_s += 1.0
    assert bucket.take() > 0.0
    now_s += 1.2
    assert bucket.take() == 0.0


@pytest.mark.parametrize(("rate", "burst"), [(0.001, 1.0), (1 / 3, 1.0), (7.0, 3.0), (1e9, 1e9)])
def test_a_full_bucket_gives_its_whole_burst(
    rate: float, burst: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "monotonic", lambda: 123_456.789)
    bucket = TokenBucket(memory(), rate, burst)
    taken = sum(bucket.take() == 0.0 for _ in range(int(min(burst, 100))))
    assert taken == min(burst, 100)


def _take(fd: int, until_s: float, taken: Synchronized[int]) -> None:
    slot = TenantSlots(Counters(("r",), n_slots=4, slot=1, fd=fd)).claim("shop", {"shop"})
    bucket = TokenBucket(slot.bucket, rate=2_000.0, burst=100.0)
    n = 0
    while time.monotonic() < until_s:
        n += bucket.take() == 0.0
    with taken.get_lock():
        taken.value += n


@pytest.mark.server
def test_processes_share_a_bucket() -> None:
    """Two that do nothing but take get what the rate allows."""
    with tempfile.TemporaryFile() as file:
        fork = multiprocessing.get_context("fork")
        taken: Any = fork.Value("q", 0)
        began_s = time.monotonic()
        takers = [fork.Process(target=_take, args=(file.fileno(), began_s + 2.0, taken)) for _ in range(2)]
        for taker in takers:
            taker.start()
        for taker in takers:
            taker.join()
        took_s = time.monotonic() - began_s
    assert 1_000 < taken.value <= 2_000 * took_s + 100


def test_slots_keep_what_was_counted_and_are_apart() -> None:
    with tempfile.TemporaryFile() as file:
        first, second = (
            TenantSlots(Counters(("r",), n_slots=2, slot=slot, fd=file.fileno())) for slot in (0, 1)
        )
        a, b = (first.claim(tenant, {"a", "b"}) for tenant in ("a", "b"))
        a.counters.add("decisions", 3)
        b.counters.add("decisions", 5)
        again = second.claim("a", {"a", "b"})
        again.counters.add("decisions", 4)
        a.bucket.value = 7.0
        assert (again.bucket.value, b.bucket.value) == (7.0, 0.0)
        assert (a.counters.total("decisions"), b.counters.total("decisions")) == (7.0, 5.0)
        assert first.claim("a", {"a"}).counters.total("decisions") == 7.0
        assert Counters(("r",), n_slots=2, slot=0, fd=file.fileno()).total("decisions") == 0.0


def test_when_all_slots_are_taken_one_that_has_ended_goes() -> None:
    slots = TenantSlots(Counters(("r",)))
    with tempfile.TemporaryFile() as file:
        slots = TenantSlots(Counters(("r",), fd=file.fileno()))
        for i in range(MAX_SLOTS):
            slots.claim(f"t{i}", ())
        kept = slots.claim("t0", ())
        kept.counters.add("decisions", 3)
        slots.claim("t1", ()).counters.add("decisions", 9)
        new = slots.claim("new", {"t0", "new"})
        assert new.counters.total("decisions") == 0.0
        assert slots.claim("t0", {"t0", "new"}).counters.total("decisions") == 3.0
        assert slots.claim("t1", {"t0", "t1", "new"}).counters.total("decisions") == 0.0


def gate(**limits: Any) -> tuple[RequestGate, Counters]:
    counters = Counters(("r",))
    return RequestGate(TenantLimits(**limits), memory(), counters), counters


def test_a_gate_without_limits_lets_all_in() -> None:
    opened, _ = gate()
    for _ in range(1_000):
        opened.admit()
    opened.admit_batch(10_000)


def test_a_batch_is_admitted_by_its_size_and_owed() -> None:
    closed, counters = gate(requests=1.0, burst=10, batch=8)
    closed.admit()
    with pytest.raises(TooLarge, match="9 entries of 8"):
        closed.admit_batch(9)
    assert counters.total("limited_batch") == 1
    closed.admit_batch(8)
    closed.admit()
    closed.admit()
    with pytest.raises(RateExceeded):
        closed.admit()


def test_refusals_are_answered_later_the_more_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sent without end by callers that each wait for their answer, they settle at `QUICK_REFUSALS` a second."""
    now_s = 50.0
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    closed, _ = gate(requests=1.0)
    assert [closed.pause_s() for _ in range(QUICK_REFUSALS)] == [0.0] * QUICK_REFUSALS
    assert closed.pause_s() > 0.0
    due_s = [now_s] * 40
    refusals = []
    while now_s < 150.0:
        caller = min(range(40), key=lambda i: due_s[i])
        now_s = max(due_s[caller], now_s + 1e-6)
        refusals.append(now_s)
        due_s[caller] = now_s + closed.pause_s()
    late = sum(100.0 <= at_s < 150.0 for at_s in refusals) / 50.0
    assert late == pytest.approx(QUICK_REFUSALS, rel=0.1)
    for _ in range(100_000):
        assert closed.pause_s() <= MAX_PAUSE_S
    now_s += 1_000.0
    assert closed.pause_s() == 0.0

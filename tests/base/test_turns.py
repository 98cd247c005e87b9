"""Works in turns: those that run together, and one that can not be cut, whose error is raised where it is read."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from bandit_serve.base import turns
from bandit_serve.base.turns import MAX_REST_S, REST, TURN_S, HeavyWork, ThreadTurn, all_ended


def test_the_result_is_taken_where_the_work_was_asked_for() -> None:
    heavy = HeavyWork(threading.get_ident)
    worker = threading.Thread(target=heavy.do)
    worker.start()
    worker.join()
    assert heavy.result not in (None, threading.get_ident())


def test_what_the_work_raised_is_raised_by_its_result() -> None:
    heavy = HeavyWork(lambda: 1 / 0)
    heavy.do()
    with pytest.raises(ZeroDivisionError):
        assert heavy.result


@pytest.mark.parametrize("n", [0, 1, 5])
def test_results_of_works_that_run_together_are_in_their_order(n: int) -> None:
    async def work(i: int) -> int:
        for _ in range(n - i):
            await asyncio.sleep(0)
        return i

    async def scenario() -> list[int]:
        return await all_ended([work(i) for i in range(n)])

    assert asyncio.run(scenario()) == list(range(n))


def test_each_begins_in_an_iteration_of_its_own() -> None:
    began: list[int] = []

    async def scenario() -> list[int]:
        iteration = 0

        async def count() -> None:
            nonlocal iteration
            while True:
                await asyncio.sleep(0)
                iteration += 1

        async def work() -> None:
            began.append(iteration)
            await asyncio.sleep(0)

        counting = asyncio.create_task(count())
        await all_ended([work() for _ in range(6)])
        counting.cancel()
        return began

    assert len(set(asyncio.run(scenario()))) == 6


def test_a_failure_is_raised_when_all_have_ended() -> None:
    ended: list[int] = []

    async def work(i: int) -> None:
        if i == 1:
            raise ZeroDivisionError
        for _ in range(10):
            await asyncio.sleep(0)
        ended.append(i)

    async def scenario() -> None:
        with pytest.raises(ZeroDivisionError):
            await all_ended([work(i) for i in range(4)])

    asyncio.run(scenario())
    assert ended == [0, 2, 3]


@pytest.mark.parametrize("turns", [1, 3, 30])
def test_who_is_cancelled_leaves_no_work_behind(turns: int) -> None:
    """Also while works begin. A coroutine that is never awaited would be a warning, which fails a test."""
    left: list[int] = []

    async def work(i: int) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            left.append(i)

    async def scenario() -> None:
        waiting = asyncio.create_task(all_ended([work(i) for i in range(10)]))
        for _ in range(turns):
            await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(scenario())
    assert len(left) <= 10


class Clocks:
    """Clock of the wall and of a thread's own processor time, which go on as they are told."""

    def __init__(self) -> None:
        self.now_s = self.used_s = 0.0
        self.slept_s: list[float] = []

    def monotonic(self) -> float:
        return self.now_s

    def thread_time(self) -> float:
        return self.used_s

    def select(self, *files_and_seconds: Any) -> None:
        *files, seconds = files_and_seconds
        assert not any(files)
        self.slept_s.append(seconds)
        self.now_s += seconds

    def work(self, used_s: float, waited_s: float) -> None:
        self.used_s += used_s
        self.now_s += used_s + waited_s


@pytest.mark.parametrize(
    ("used_s", "waited_s", "rests"),
    [
        (2 * TURN_S, 0.0, False),
        (2 * TURN_S, 0.1 * TURN_S, False),
        (TURN_S, TURN_S, True),
        (0.9 * TURN_S, 0.2 * TURN_S, True),
        (0.5 * TURN_S, 0.4 * TURN_S, False),
    ],
    ids=["alone", "nearly alone", "half the time", "a tenth of it", "not long enough"],
)
def test_a_thread_rests_where_others_waited_with_it(
    monkeypatch: pytest.MonkeyPatch, used_s: float, waited_s: float, rests: bool
) -> None:
    clocks = Clocks()
    monkeypatch.setattr(turns, "time", clocks)
    monkeypatch.setattr(turns, "select", clocks)
    turn = ThreadTurn()
    for _ in range(3):
        clocks.work(used_s, waited_s)
        turn.give_way()
        if used_s + waited_s < TURN_S:
            turn = ThreadTurn()
    assert clocks.slept_s == pytest.approx([REST * used_s] * 3 if rests else [])


def test_pieces_add_up_to_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    clocks = Clocks()
    monkeypatch.setattr(turns, "time", clocks)
    monkeypatch.setattr(turns, "select", clocks)
    turn = ThreadTurn()
    for _ in range(20):
        clocks.work(0.1 * TURN_S, 0.1 * TURN_S)
        turn.give_way()
    assert len(clocks.slept_s) in (3, 4)
    assert sum(clocks.slept_s) == pytest.approx(REST * 0.5 * TURN_S * len(clocks.slept_s), rel=0.3)


@pytest.mark.parametrize("used_s", [-86_400.0, 86_400.0, 0.5, 0.0])
@pytest.mark.parametrize("waited_s", [-86_400.0, 86_400.0, 0.0])
def test_a_thread_never_rests_long_whatever_clocks_say(
    monkeypatch: pytest.MonkeyPatch, used_s: float, waited_s: float
) -> None:
    clocks = Clocks()
    monkeypatch.setattr(turns, "time", clocks)
    monkeypatch.setattr(turns, "select", clocks)
    turn = ThreadTurn()
    for _ in range(3):
        clocks.work(used_s, waited_s)
        turn.give_way()
    assert all(0.0 <= slept_s <= MAX_REST_S for slept_s in clocks.slept_s)
    for _ in range(2):
        clocks.slept_s.clear()
        clocks.work(TURN_S, TURN_S)
        turn.give_way()
    assert clocks.slept_s == pytest.approx([REST * TURN_S]), "it goes on as ever"

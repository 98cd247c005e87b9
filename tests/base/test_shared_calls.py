"""Calls that are shared by those who ask at once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from bandit_serve.base.shared_calls import SharedCalls


def test_questions_that_arrive_during_a_call_share_the_next() -> None:
    async def scenario() -> None:
        calls: list[list[int]] = []
        running = asyncio.Event()
        goes_on = asyncio.Event()

        async def call(questions: Sequence[int]) -> list[int]:
            calls.append(list(questions))
            running.set()
            await goes_on.wait()
            return [2 * question for question in questions]

        shared = SharedCalls(call, "test")
        first = asyncio.create_task(shared.ask("a", 1))
        await running.wait()
        others = [asyncio.create_task(shared.ask("a", i)) for i in range(2, 50)]
        elsewhere = asyncio.create_task(shared.ask("b", 7))
        await asyncio.sleep(0)
        others[3].cancel()
        goes_on.set()
        answers = await asyncio.gather(first, *others, elsewhere, return_exceptions=True)
        assert isinstance(answers.pop(4), asyncio.CancelledError)
        assert answers == [2, *(2 * i for i in range(2, 50) if i != 5), 14]
        assert sorted(calls) == [[1], list(range(2, 50)), [7]]
        assert (shared._asked, shared._running) == ({}, set())

    asyncio.run(scenario())


def test_a_call_that_fails_fails_all_its_questions_and_no_later_one() -> None:
    async def scenario() -> None:
        fails = True

        async def call(questions: Sequence[int]) -> Sequence[int]:
            if fails:
                raise ValueError("away")
            return questions

        shared = SharedCalls(call, "test")
        answers = await asyncio.gather(*(shared.ask(None, i) for i in range(3)), return_exceptions=True)
        assert [str(each) for each in answers] == ["away"] * 3
        fails = False
        assert await shared.ask(None, 4) == 4

    asyncio.run(scenario())


def test_those_who_wait_for_a_call_that_is_cancelled_end() -> None:
    async def scenario() -> None:
        async def call(questions: Sequence[int]) -> Sequence[int]:
            await asyncio.Event().wait()
            return questions

        shared = SharedCalls(call, "test")
        asking = asyncio.create_task(shared.ask(None, 1))
        await asyncio.sleep(0.01)
        for task in list(shared._running):
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking

    asyncio.run(scenario())

"""Calls that are shared: questions that arrive during one call share the next."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Generic, NamedTuple, TypeVar

Q = TypeVar("Q")
A = TypeVar("A")


class _Asked(NamedTuple, Generic[Q, A]):
    question: Q
    answer: asyncio.Future[A]


class SharedCalls(Generic[Q, A]):
    """Calls of `call`, one at a time for each key: it takes questions and returns an answer for each, in their order.

    name: that of the tasks.
    """

    def __init__(self, call: Callable[[Sequence[Q]], Awaitable[Sequence[A]]], name: str) -> None:
        self._call = call
        self._name = name
        self._asked: dict[Hashable, list[_Asked[Q, A]]] = {}
        self._running: set[asyncio.Task[None]] = set()

    async def ask(self, key: Hashable, question: Q) -> A:
        """Answer to a question; raises what its call raises. Who is cancelled takes no answer from the others."""
        loop = asyncio.get_running_loop()
        asked: _Asked[Q, A] = _Asked(question, loop.create_future())
        if key in self._asked:
            self._asked[key].append(asked)
        else:
            self._asked[key] = [asked]
            task = loop.create_task(self._run(key), name=self._name)
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        return await asked.answer

    async def _run(self, key: Hashable) -> None:
        group: list[_Asked[Q, A]] = []
        try:
            while self._asked[key]:
                # Requests that have arrived are included: a turn of the loop reads them.
                await asyncio.sleep(0)
                group, self._asked[key] = self._asked[key], []
                try:
                    answers = await self._call([asked.question for asked in group])
                except Exception as error:
                    for asked in group:
                        if not asked.answer.done():
                            asked.answer.set_exception(error)
                else:
                    for asked, answer in zip(group, answers, strict=True):
                        if not asked.answer.done():
                            asked.answer.set_result(answer)
        finally:
            for asked in (*group, *self._asked.pop(key)):
                asked.answer.cancel()

"""Poll of several servers: the answers of all that are quick, and of more than half in any case."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from bandit_serve.errors import BanditServeError

T = TypeVar("T")

GRACE_S = 0.1
"""How long the rest are waited for when more than half have answered: one alone may know of a failover first."""


async def ask_most(questions: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Returns the answers of all servers, or of more than half and those that answer within `GRACE_S` after these.

    With fewer it returns what there is when all have answered or failed. Raises one of the errors where all failed, a
    refusal rather than another.
    """
    asked = [asyncio.ensure_future(question) for question in questions]
    pending = set(asked)
    answers: list[T] = []
    errors: list[BaseException] = []
    try:
        while pending:
            enough = 2 * len(answers) > len(asked)
            done, pending = await asyncio.wait(
                pending, timeout=GRACE_S if enough else None, return_when=asyncio.FIRST_COMPLETED
            )
            if not done:
                break
            for task in done:
                error = task.exception()
                if error is None:
                    answers.append(task.result())
                else:
                    errors.append(error)
    finally:
        for task in pending:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
    if not answers:
        raise next((error for error in errors if isinstance(error, BanditServeError)), errors[0])
    return answers

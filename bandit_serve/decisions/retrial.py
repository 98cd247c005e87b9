"""Retrial: the rest of a request whose arm failed, among the other arms and within the request's time."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Sequence

from bandit_serve.errors import ContentRefused, Overloaded, UpstreamFailed
from bandit_serve.serving.servable import Scores


class RanOutOfTime(UpstreamFailed):
    """Request whose time was over before its last arm's was: that arm is not to blame."""


def is_blameless(error: Exception) -> bool:
    """Whether an arm did not get its time for a request, so that nothing is known of its prediction."""
    return isinstance(error, Overloaded | RanOutOfTime)


class Retrial:
    """`eligible` are the names of the arms that the request may still get; `until_s` is monotonic time.

    `failure` is the first error that was not a refusal of the content: with one, the request may do later.
    """

    __slots__ = ("eligible", "failure", "until_s")

    def __init__(self, eligible: Sequence[str], until_s: float) -> None:
        self.eligible = list(eligible)
        self.until_s = until_s
        self.failure: Exception | None = None

    @property
    def left_s(self) -> float:
        """Time that is left in seconds; infinity without a bound."""
        return self.until_s - time.monotonic()

    def go_on_without(self, arm: str, error: Exception) -> bool:
        """Leaves out an arm, for its error; returns whether there is another."""
        if self.failure is None and not isinstance(error, ContentRefused):
            self.failure = error
        self.eligible = [name for name in self.eligible if name != arm]
        return bool(self.eligible)

    async def within(self, coming: Awaitable[Scores]) -> Scores:
        """Awaits scores; `RanOutOfTime` once the request's time is over."""
        left_s = self.left_s
        bound = asyncio.timeout(None if math.isinf(left_s) else left_s)
        try:
            async with bound:
                return await coming
        except TimeoutError:
            if not bound.expired():
                raise
            raise RanOutOfTime("No arm answered within the request's time.") from None

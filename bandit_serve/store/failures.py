"""What the store's failures mean here: `with translate_errors():` around every use of a client.

A store that does not answer, or cannot take a write now, is StoreUnavailable: the caller may try again. One
that will not let us in is StoreRefused. Any other reply is a mistake in a script or a command of ours and
passes unchanged.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from types import TracebackType

from redis import exceptions as redis_errors

from bandit_serve.errors import BanditServeError, StoreRefused, StoreUnavailable

REFUSALS = (
    redis_errors.AuthenticationError,
    redis_errors.AuthenticationWrongNumberOfArgsError,
    redis_errors.AuthorizationError,
    redis_errors.NoPermissionError,
)
OUTAGES = (
    redis_errors.ConnectionError,
    redis_errors.TimeoutError,
    TimeoutError,
    redis_errors.ReadOnlyError,
    redis_errors.OutOfMemoryError,
    redis_errors.TryAgainError,
    redis_errors.ClusterDownError,
)
# Refusals that redis-py does not tell apart: no disk left (MISCONF), a script that hogs the store (BUSY), too
# few replicas. A pipeline quotes them, and Redis 6.2 wraps what a script's call met in an ERR of its own.
TEMPORARY = re.compile(
    r"(?:^|caused error: \('|^Error running script .*: -)(?:MISCONF|BUSY|NOREPLICAS|OOM|READONLY) ",
    re.DOTALL,
)


class translate_errors:
    """Turns what redis-py raises in the block into errors of ours; usable around `await`s.

    A cancellation of the task that comes meanwhile ends the block in any case. redis-py sends with
    `asyncio.wait_for`, which before Python 3.12 may swallow one, and then a task that was cancelled goes on.
    """

    __slots__ = ("_cancellations",)

    def __enter__(self) -> None:
        self._cancellations = _cancellations()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if (error is None or isinstance(error, Exception)) and _cancellations() > self._cancellations:
            raise asyncio.CancelledError from error
        if isinstance(error, Exception):
            translated = translate(error)
            if translated is not None:
                raise translated from error


def _cancellations() -> int:
    """How often the current task was told to end."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return 0
    return 0 if task is None else task.cancelling()


def translate(error: Exception) -> BanditServeError | None:
    """The error of ours that `error` means, or None where it means a bug."""
    # On a unix socket redis-py wraps whatever the handshake met in a ConnectionError.
    for met in _with_causes(error):
        if isinstance(met, REFUSALS):
            refused = StoreRefused("The store does not let us in; check the name and the password.")
            return refused.noted(_one_line(met))
    if isinstance(error, OUTAGES) or (
        isinstance(error, redis_errors.ResponseError) and TEMPORARY.search(str(error))
    ):
        return StoreUnavailable("The store is not available now.").noted(_one_line(error))
    return None


def _with_causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__

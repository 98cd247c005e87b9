"""Translation of redis-py's errors: every use of a client is wrapped in `with translate_errors():`.

A store that does not answer, or cannot take a write now, raises StoreUnavailable: the caller may try again, and `what`
names the outage. A store that rejects our login raises StoreRefused. Any other error is a bug in a script or a command
of ours and passes unchanged.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from types import TracebackType
from typing import NamedTuple

from redis import exceptions as redis_errors

from bandit_serve.errors import BanditServeError, StoreRefused, StoreUnavailable

REFUSALS = (
    redis_errors.AuthenticationError,
    redis_errors.AuthenticationWrongNumberOfArgsError,
    redis_errors.AuthorizationError,
)


class Outage(NamedTuple):
    """Kind of outage: `errors` are redis-py's classes for it, `codes` the first words of the store's own messages."""

    what: str
    says: str
    errors: tuple[type[Exception], ...] = ()
    codes: tuple[str, ...] = ()


AWAY = "store_away"
SLOW = "store_slow"
READ_ONLY = "store_read_only"
FULL = "store_full"
LOADING = "store_loading"
MOVED = "store_moved"
BUSY = "store_busy"
CANNOT_SAVE = "store_cannot_save"
LACKS_REPLICAS = "store_lacks_replicas"
CLOCK = "store_clock"

OF_WRITES = (READ_ONLY, FULL, CANNOT_SAVE, LACKS_REPLICAS, CLOCK)
"""Outages of writes only: reads still work."""

# Special kinds come first, because redis-py derives some of its errors from others.
OUTAGES = (
    Outage(
        LOADING,
        "The store loads its data and is not available now",
        (redis_errors.BusyLoadingError, redis_errors.MasterDownError),
        ("LOADING", "MASTERDOWN"),
    ),
    # A demoted primary answers UNBLOCKED to clients that wait in it.
    Outage(
        READ_ONLY,
        "The store is read-only and takes no writes now",
        (redis_errors.ReadOnlyError,),
        ("READONLY", "UNBLOCKED"),
    ),
    Outage(FULL, "The store is full and takes no writes now", (redis_errors.OutOfMemoryError,), ("OOM",)),
    Outage(
        MOVED,
        "The store is moving its data and is not available now",
        (redis_errors.AskError, redis_errors.TryAgainError, redis_errors.ClusterDownError),
        ("MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN"),
    ),
    Outage(BUSY, "The store is busy with a script and is not available now", codes=("BUSY",)),
    Outage(CANNOT_SAVE, "The store can not save and takes no writes now", codes=("MISCONF",)),
    Outage(LACKS_REPLICAS, "The store lacks replicas and takes no writes now", codes=("NOREPLICAS",)),
    Outage(SLOW, "The store does not answer in time now", (redis_errors.TimeoutError, TimeoutError)),
    Outage(AWAY, "The store is not available now", (redis_errors.ConnectionError,)),
)
# A pipeline quotes the error of a command, and Redis 6.2 wraps the error of a script's call in an ERR of its own.
_CODE = re.compile(
    r"(?:^|caused error: \('|^Error running script .*: -)("
    + "|".join(code for outage in OUTAGES for code in outage.codes)
    + ") ",
    re.DOTALL,
)
# What a login may not do inside a script has no code of its own; the second is Valkey's and later Redis's.
_DENIED = re.compile(
    r"The user executing the script can't (?:run this command|access at least one of the keys)|ACL failure in script"
)
_BY_CODE = {code: outage for outage in OUTAGES for code in outage.codes}


class translate_errors:
    """Turns redis-py's errors in the block into ours; usable around `await`.

    If the task is cancelled during the block, CancelledError is raised at its end. redis-py sends with
    `asyncio.wait_for`, which may swallow a cancellation before Python 3.12, and the task would go on.
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
    """Number of times that the current task was cancelled."""
    try:
        task = asyncio.current_task()
    except RuntimeError:
        return 0
    return 0 if task is None else task.cancelling()


def translate(error: Exception) -> BanditServeError | None:
    """Returns our error for one of redis-py's, or None where it means a bug."""
    # redis-py wraps what our own part of connecting raises in a ConnectionError, and on a unix socket any error of the
    # handshake.
    for each in _with_causes(error):
        if isinstance(each, StoreRefused):
            return each
        if isinstance(each, REFUSALS):
            refused = StoreRefused("The store rejects the login; check the user name and the password.")
            return refused.noted(_one_line(each))
        if _is_denied(each):
            refused = StoreRefused(
                "The store's login may not do what is needed; give it the documented commands."
            )
            return refused.noted(_one_line(each))
    outage = _outage(error)
    if outage is None:
        return None
    return StoreUnavailable(f"{outage.says}.", what=outage.what).noted(_one_line(error))


def _is_denied(error: BaseException) -> bool:
    """Whether the store knows our login, and does not let it do this."""
    if isinstance(error, redis_errors.NoPermissionError):
        return True
    return isinstance(error, redis_errors.ResponseError) and _DENIED.search(str(error)) is not None


def _outage(error: Exception) -> Outage | None:
    if not isinstance(error, redis_errors.RedisError | TimeoutError):
        return None
    if isinstance(error, redis_errors.ResponseError):
        code = _CODE.search(str(error))
        if code is not None:
            return _BY_CODE[code[1]]
    # With causes: redis-py raises one class for every failed connection, whatever the store answered.
    errors = tuple(_with_causes(error))
    return next(
        (outage for outage in OUTAGES if any(isinstance(each, outage.errors) for each in errors)), None
    )


def _with_causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__

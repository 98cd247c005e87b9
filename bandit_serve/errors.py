"""Errors, as one tree; `server/problems.py` maps them to HTTP and `cli` to exit statuses.

BanditServeError
├── InvalidInput          the caller sent something that the contract does not allow
│   ├── UsageError        a setting, flag or variable is wrong (exit status 2)
│   │   └── NotInstalled  an optional library is missing
│   ├── InvalidToken      a decision id that we did not sign
│   ├── InvalidArtifact   a file that is no model, or none that can be served
│   ├── Diverged          a fit whose parameters grew without end
│   ├── TooLarge          over a size limit
│   ├── ContentRefused    an upstream that is well refuses the content of a request
│   ├── Unparsable        no JSON where it was expected (OFREP)
│   ├── NoTargetingKey    an evaluation context without the unit that it needs (OFREP)
│   └── UnsupportedMedia  a content type that the route does not take
├── Unauthenticated       a request without a valid key where one is needed
├── Forbidden             a page of another site, a host name that is not ours, or a key of another scope
├── NotFound              no such experiment, model or version
├── TooSlow               a request that did not arrive in time
├── Late                  a reward after its attribution window
├── Conflict              the present state does not allow it
│   ├── RewardConflict    another reward of the decision was counted for this metric
│   ├── EngineRefused     a container engine does not do what it was asked for
│   └── DeploymentFailed  a container that did not become ready
├── PreconditionFailed    If-Match named another revision
├── LimitReached          a limit of the caller's tenant, named `limit`, is reached
│   └── RateExceeded      more requests than the tenant may send
├── SwitchedOff           a part that a setting of this service turns on
├── StateFault            stored state can not be read: the service's fault, not the caller's
│   └── Unfoldable        a log and its snapshots that no state can be made from
│       └── UnreadableEntry  an entry of a log, or a state, that this build can not fold
├── LogLost               the store has lost entries that it once returned
└── Unavailable           try again later; nothing was counted, or the retry will be a duplicate
    ├── SetAside          an experiment whose log can not be folded: see `bandit-serve repair`
    ├── StoreUnavailable  the store can not be read or written now: `what` names the outage
    │   └── StoreRefused  it answers, but rejects our login or must not be used (it may evict)
    ├── UpstreamFailed    an upstream that did not answer, not in time, or not as agreed
    ├── ModelLost         a registered model whose file is missing or damaged here
    ├── ModelFailed       a version in memory that gave no scores
    ├── EngineAway        no container engine answers
    ├── FilesUnavailable  the storage of model files does not answer, or is full
    │   └── DiskFull      there is no room for the write
    ├── Overloaded        a queue or buffer has reached its bound
    └── NotBegun          a worker that is not ready, or has no room: it refuses before a request's work begins
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class FieldError:
    """One mistake in one field: `at` is its path (`arms[1].weight`), `detail` says what was expected."""

    at: str
    detail: str


MAX_FIELD_ERRORS = 20
"""How many an `InvalidInput` keeps: whoever has more corrects these first."""


class BanditServeError(Exception):
    """Root of the tree. `str(error)` is one sentence for the person who has to act on it.

    Callers over HTTP receive that sentence, so it names no path and no address of ours. Details for the operator alone
    are notes (`add_note`), which the log and the command line show: see `in_full`.
    """

    def noted(self, note: str) -> Self:
        """Adds a note and returns the error."""
        self.add_note(note)
        return self


def in_full(error: BaseException) -> str:
    """The error's sentence and its notes, for the operator."""
    return " ".join([str(error), *(f"({note})" for note in getattr(error, "__notes__", ()))])


class InvalidInput(BanditServeError):
    """`errors` keeps the first `MAX_FIELD_ERRORS`, and one more that counts the rest."""

    def __init__(self, detail: str, errors: Sequence[FieldError] = ()) -> None:
        super().__init__(detail)
        self.errors = tuple(errors[:MAX_FIELD_ERRORS])
        if len(errors) > MAX_FIELD_ERRORS:
            self.errors += (FieldError("", f"and {len(errors) - MAX_FIELD_ERRORS} more"),)


class UsageError(InvalidInput):
    pass


class NotInstalled(UsageError):
    pass


class InvalidToken(InvalidInput):
    pass


class InvalidArtifact(InvalidInput):
    pass


class Diverged(InvalidInput):
    pass


class TooLarge(InvalidInput):
    pass


class ContentRefused(InvalidInput):
    pass


class UnsupportedMedia(InvalidInput):
    pass


class Unparsable(InvalidInput):
    pass


class NoTargetingKey(InvalidInput):
    pass


class Unauthenticated(BanditServeError):
    pass


class Forbidden(BanditServeError):
    pass


class NotFound(BanditServeError):
    pass


class TooSlow(BanditServeError):
    pass


class Late(BanditServeError):
    pass


class Conflict(BanditServeError):
    pass


class RewardConflict(Conflict):
    pass


class EngineRefused(Conflict):
    pass


class DeploymentFailed(Conflict):
    pass


class PreconditionFailed(BanditServeError):
    pass


class LimitReached(BanditServeError):
    """`limit` is one of those of a tenant, such as `experiments`; after `retry_after_s` it may be free again."""

    def __init__(self, detail: str, limit: str = "requests", retry_after_s: float = 60.0) -> None:
        super().__init__(detail)
        self.limit = limit
        self.retry_after_s = retry_after_s


class RateExceeded(LimitReached):
    pass


class SwitchedOff(BanditServeError):
    pass


class StateFault(BanditServeError):
    pass


class LogLost(BanditServeError):
    pass


class Unfoldable(StateFault):
    pass


class UnreadableEntry(Unfoldable):
    pass


class Unavailable(BanditServeError):
    def __init__(self, detail: str, retry_after_s: float = 1.0) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


class SetAside(Unavailable):
    pass


class StoreUnavailable(Unavailable):
    """`what` is the outage's name in health and statistics, such as `store_away` or `store_full`."""

    what = "store_away"

    def __init__(self, detail: str, retry_after_s: float = 1.0, *, what: str | None = None) -> None:
        super().__init__(detail, retry_after_s)
        if what is not None:
            self.what = what


class StoreRefused(StoreUnavailable):
    what = "store_refused"


class UpstreamFailed(Unavailable):
    pass


class ModelLost(Unavailable):
    pass


class ModelFailed(Unavailable):
    pass


class EngineAway(Unavailable):
    pass


class FilesUnavailable(Unavailable):
    pass


class DiskFull(FilesUnavailable):
    pass


class Overloaded(Unavailable):
    pass


class NotBegun(Unavailable):
    pass


@contextmanager
def of_our_state(what: str) -> Iterator[None]:
    """Wraps the reading of stored state: a refusal in the block becomes a `StateFault`, as no caller caused it.

    `what` names the state in the sentence. `Unavailable` and `LogLost` pass unchanged.
    """
    try:
        yield
    except (Unavailable, LogLost, StateFault):
        raise
    except BanditServeError as error:
        raise StateFault(f"{what} can not be read; the service's log says why.") from error

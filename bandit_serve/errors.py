"""Everything that can go wrong, as one tree; `server/problems.py` maps it to HTTP and `cli` to exit codes.

BanditServeError
├── InvalidInput          the caller sent what the contract does not allow
│   ├── UsageError        a setting, flag or variable is wrong (exit status 2)
│   ├── InvalidToken      a decision id that we did not sign
│   ├── InvalidArtifact   a file that is not a model we can serve
│   ├── Diverged          a fit whose parameters grew without end
│   ├── TooLarge          over a size limit
│   └── UnsupportedMedia  a content type that the route does not take
├── Forbidden             a page of another site asks, or by a name that is not ours
├── NotFound              no such experiment, model or version
├── TooSlow               a request that did not arrive in time
├── Late                  a reward after its attribution window
├── Conflict              the state does not allow it now
├── PreconditionFailed    If-Match named another revision
├── NotBuilt              named by the contract, not built yet
├── StateFault            what we keep ourselves can not be read: our fault, whoever asks
│   └── Unfoldable        a log and its snapshots of which no state can be made
│       └── UnreadableEntry  an entry of a log, or a state, that this build can not fold
├── LogLost               the store has lost entries that were read from it
└── Unavailable           try again later; nothing was counted, or the retry will be a duplicate
    ├── SetAside          an experiment whose log can not be folded: see `bandit-serve repair`
    ├── StoreUnavailable  the store can not be read or written now: `what` says which outage it is
    │   └── StoreRefused  it answers, but does not let us in or must not be used (it may evict)
    ├── ModelLost         a registered model whose file is missing or damaged here
    ├── FilesUnavailable  the place where model files are kept does not answer, or takes nothing more
    │   └── DiskFull      there is no room for what was to be written
    └── Overloaded        a bound was reached
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class FieldError:
    """One thing wrong with one field: `at` is its path (`arms[1].weight`), `detail` says what was expected."""

    at: str
    detail: str


# So many are named; a caller with more mends these first.
MAX_FIELD_ERRORS = 20


class BanditServeError(Exception):
    """The root. `str(error)` is one sentence for the person who has to act on it.

    Callers over HTTP are told that sentence, so it names no path and no address of ours. What only the operator is to
    know is in its notes (`add_note`), which the log and the command line show: see `in_full`.
    """

    def noted(self, note: str) -> Self:
        """Itself, with one more note."""
        self.add_note(note)
        return self


def in_full(error: BaseException) -> str:
    """The sentence and its notes, for the operator."""
    return " ".join([str(error), *(f"({note})" for note in getattr(error, "__notes__", ()))])


class InvalidInput(BanditServeError):
    """`errors` are the first `MAX_FIELD_ERRORS` of those given, and one that says how many more there are."""

    def __init__(self, detail: str, errors: Sequence[FieldError] = ()) -> None:
        super().__init__(detail)
        self.errors = tuple(errors[:MAX_FIELD_ERRORS])
        if len(errors) > MAX_FIELD_ERRORS:
            self.errors += (FieldError("", f"and {len(errors) - MAX_FIELD_ERRORS} more"),)


class UsageError(InvalidInput):
    pass


class InvalidToken(InvalidInput):
    pass


class InvalidArtifact(InvalidInput):
    pass


class Diverged(InvalidInput):
    pass


class TooLarge(InvalidInput):
    pass


class UnsupportedMedia(InvalidInput):
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


class PreconditionFailed(BanditServeError):
    pass


class NotBuilt(BanditServeError):
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


class ModelLost(Unavailable):
    pass


class FilesUnavailable(Unavailable):
    pass


class DiskFull(FilesUnavailable):
    pass


class Overloaded(Unavailable):
    pass


@contextmanager
def of_our_state(what: str) -> Iterator[None]:
    """Around the reading of what we keep: what is refused there is no caller's fault, but a `StateFault` of `what`.

    To try again later stays what it is.
    """
    try:
        yield
    except (Unavailable, LogLost, StateFault):
        raise
    except BanditServeError as error:
        raise StateFault(f"{what} can not be read; the service's log says why.") from error

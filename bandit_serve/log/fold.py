"""Fold: a state that is made of a log, entry by entry."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

from bandit_serve.log.offset import Offset

POLICY_FOLD, RESULTS_FOLD, EXPOSURES_FOLD, REGISTRY_FOLD = "policy", "results", "exposures", "registry"
"""Under these names the store keeps snapshots."""


class Fold(Protocol):
    """State that a log makes, up to its last applied entry, the one at `offset`.

    The same entries make the same state, bit for bit, wherever they are folded and wherever the log is cut. `state` is
    the whole state; the fold that `Restore` makes of it goes on identically. `apply` raises `UnreadableEntry` for an
    entry that does not fit, and then has changed nothing.
    """

    offset: Offset

    def apply(self, offset: Offset, event: Any, /) -> object: ...

    def state(self) -> bytes: ...


F_co = TypeVar("F_co", bound=Fold, covariant=True)


class Restore(Protocol[F_co]):
    """Makes the fold that had these bytes as its `state` at an offset.

    Raises `UnreadableEntry`, with a sentence, for a state of an unknown build and for any other bytes.
    """

    def __call__(self, offset: Offset, state: bytes, /) -> F_co: ...


def readable(restore: Restore[Fold], offset: Offset, state: bytes) -> bytes:
    """Returns the fold's state after reading it back; raises if its reader would refuse it."""
    restore(offset, state)
    return state

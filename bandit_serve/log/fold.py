"""Fold: a state that is made of a log, entry by entry."""

from __future__ import annotations

from typing import Any, Protocol, TypeVar

from bandit_serve.log.offset import Offset

POLICY_FOLD, RESULTS_FOLD, REGISTRY_FOLD = "policy", "results", "registry"
"""Under these names the store keeps snapshots."""


class Fold(Protocol):
    """All that a log says up to `offset`, its last entry that was applied.

    The same entries make the same state, bit for bit, wherever they are folded and wherever the log is cut: `state` is
    all of it, and what `Restore` makes of that goes on identically. `apply` raises `UnreadableEntry` for an entry that
    does not fit, and then nothing has changed.
    """

    offset: Offset

    def apply(self, offset: Offset, event: Any, /) -> object: ...

    def state(self) -> bytes: ...


F_co = TypeVar("F_co", bound=Fold, covariant=True)


class Restore(Protocol[F_co]):
    """Makes the fold whose `state` at an offset these bytes are.

    `UnreadableEntry`, with a sentence, for a state of a build that this one does not know, and for anything else.
    """

    def __call__(self, offset: Offset, state: bytes, /) -> F_co: ...


def readable(restore: Restore[Fold], offset: Offset, state: bytes) -> bytes:
    """State, once it has been read back: a state that its reader would refuse is not to be kept."""
    restore(offset, state)
    return state

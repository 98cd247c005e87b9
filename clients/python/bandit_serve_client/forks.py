"""Forks: a child forgets the connections, locks and queues that its parent goes on with."""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Forgetting(Protocol):
    """Protocol of what has something of its process."""

    def forget(self) -> None: ...


_living: weakref.WeakSet[Forgetting] = weakref.WeakSet()


def forget_in_children(owner: Forgetting) -> None:
    """Calls `owner.forget()` in every process that is forked from this one, before anything else uses it there."""
    _living.add(owner)


def _forget_all() -> None:
    for owner in list(_living):
        owner.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)

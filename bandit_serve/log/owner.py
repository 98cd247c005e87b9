"""Owner of a log: the registry, or an experiment, by its name and by how many of that name were deleted before it.

The first experiment of a name owns its log by that name, the next by `name@2`, and so on. So they share nothing in the
store, also where a worker that has not heard of the deletion yet goes on writing for the one that is gone.
"""

from __future__ import annotations

MARK = "@"
"""No name has it in it."""


def name_of(owner: str) -> str:
    return owner.partition(MARK)[0]


def generation_of(owner: str) -> int:
    """1 for the first experiment of a name."""
    return int(owner.partition(MARK)[2] or 1)


def successor(owner: str) -> str:
    """Who comes after `owner` is deleted."""
    return f"{name_of(owner)}{MARK}{generation_of(owner) + 1}"

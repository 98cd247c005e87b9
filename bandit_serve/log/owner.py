"""Owners of logs: the registry, or an experiment.

The first experiment of a name owns its log by that name. After it is deleted, the next of that name is `name@2`, and so
on. They share no key in the store, so a worker that does not know of the deletion yet can not write into the new log.
"""

from __future__ import annotations

MARK = "@"
"""No name has it in it."""


def name_of(owner: str) -> str:
    return owner.partition(MARK)[0]


def generation_of(owner: str) -> int:
    """Number of an experiment among those of its name; 1 for the first."""
    return int(owner.partition(MARK)[2] or 1)


def successor(owner: str) -> str:
    """Owner that follows after `owner` is deleted."""
    return f"{name_of(owner)}{MARK}{generation_of(owner) + 1}"

"""Repairs of experiments whose log could not be folded: a fold of the common log, kept by the registry."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

from msgspec import Struct

from bandit_serve.log.offset import START, Offset

Way = Literal["try_again", "leave_out", "stop"]


class Omission(Struct, frozen=True, forbid_unknown_fields=True):
    """Entries of one log that every fold of it leaves out: those at the offsets from `first` through `last`."""

    first: str
    last: str
    at_ms: int
    who: str
    reason: str | None = None

    def has(self, offset: Offset) -> bool:
        return Offset.parse(self.first) <= offset <= Offset.parse(self.last)


class LeftOut(NamedTuple):
    """Placeholder for an entry that a repair leaves out. `met`: omissions that a fold has met, with this one."""

    omission: Omission
    met: int


class Repaired(Struct, frozen=True, forbid_unknown_fields=True):
    """Event: an experiment is to be loaded again, without the entries in the ranges (first, last) of `omitted`.

    With `stop` it is given up: everyone gets control for good. If everything is left out, too, from before its first
    entry, it is deleted; builds that do not know deletion then take it for given up. `experiment` is the owner of the
    log.
    """

    experiment: str
    way: Way
    who: str
    reason: str | None = None
    omitted: tuple[tuple[str, str], ...] = ()


ALL = str(START)
"""Where an omission begins that leaves nothing."""


def deletion(owner: str, who: str, reason: str | None) -> Repaired:
    """Makes the event that deletes an experiment for good."""
    return Repaired(owner, "stop", who, reason, ((ALL, ALL),))


class Repairs(Struct):
    """Repairs of all experiments.

    `omissions` are by owner, in the order of their decision; `given_up` has the time, Unix milliseconds, by owner.
    """

    omissions: dict[str, list[Omission]] = {}
    given_up: dict[str, int] = {}

    def apply(self, offset: Offset, event: Repaired) -> None:
        for first, last in event.omitted:
            omission = Omission(first, last, offset.time_ms, event.who, event.reason)
            self.omissions.setdefault(event.experiment, []).append(omission)
        if event.way == "stop":
            self.given_up[event.experiment] = offset.time_ms
        else:
            self.given_up.pop(event.experiment, None)

    def is_deleted(self, owner: str) -> bool:
        return any(each.first == ALL for each in self.omissions.get(owner, ()))

    def deleted(self) -> Iterator[tuple[str, int]]:
        """Owners that were deleted, each with the Unix time in milliseconds."""
        for owner, omissions in self.omissions.items():
            for each in omissions:
                if each.first == ALL:
                    yield owner, each.at_ms
                    break

    def leaving_out(self, experiment: str, omitted: tuple[tuple[str, str], ...]) -> Repairs:
        """Copy in which further entries are left out, to try the effect."""
        trial = Repairs(
            {name: list(omissions) for name, omissions in self.omissions.items()}, dict(self.given_up)
        )
        trial.apply(START, Repaired(experiment, "leave_out", "trial", None, omitted))
        return trial

    def omission(self, experiment: str, offset: Offset) -> Omission | None:
        """Omission that leaves out the entry at an offset; None if the entry counts."""
        # Asked for every entry, of which hardly any log has one.
        for each in self.omissions.get(experiment, ()):
            if each.has(offset):
                return each
        return None

    def omitted_through(self, experiment: str, offset: Offset) -> int:
        """Number of omissions whose entries all are at or before `offset`."""
        return sum(Offset.parse(each.last) <= offset for each in self.omissions.get(experiment, ()))

    def omitted_before(self, experiment: str, offset: Offset) -> int:
        """Number of omissions that a fold at `offset` has met, at least in part."""
        return sum(Offset.parse(each.first) <= offset for each in self.omissions.get(experiment, ()))

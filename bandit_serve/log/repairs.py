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
    """In place of an entry that is left out. `met`: how many omissions a fold has met with it."""

    omission: Omission
    met: int


class Repaired(Struct, frozen=True, forbid_unknown_fields=True):
    """An experiment is to be loaded anew, without the entries at the offsets that `omitted` names by first and last.

    Or it is given up (`stop`): everyone gets control for good. One that is given up and of which all is left out from
    before its first entry on is deleted: builds that do not know of that heed what it is made of. `experiment` is the
    owner of the log.
    """

    experiment: str
    way: Way
    who: str
    reason: str | None = None
    omitted: tuple[tuple[str, str], ...] = ()


ALL = str(START)
"""Where an omission begins that leaves nothing."""


def deletion(owner: str, who: str, reason: str | None) -> Repaired:
    """Event that deletes an experiment, for good."""
    return Repaired(owner, "stop", who, reason, ((ALL, ALL),))


class Repairs(Struct):
    """`omissions` by owner, in the order in which they were decided; `given_up`, and since when (Unix time)."""

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
        """Owners that were deleted, and when (Unix time)."""
        for owner, omissions in self.omissions.items():
            for each in omissions:
                if each.first == ALL:
                    yield owner, each.at_ms
                    break

    def leaving_out(self, experiment: str, omitted: tuple[tuple[str, str], ...]) -> Repairs:
        """A copy in which entries are left out, too: to see what that would do."""
        trial = Repairs(
            {name: list(omissions) for name, omissions in self.omissions.items()}, dict(self.given_up)
        )
        trial.apply(START, Repaired(experiment, "leave_out", "trial", None, omitted))
        return trial

    def omission(self, experiment: str, offset: Offset) -> Omission | None:
        """Why the entry at an offset is left out; None where it is not."""
        # Asked for every entry, of which hardly any log has one.
        for each in self.omissions.get(experiment, ()):
            if each.has(offset):
                return each
        return None

    def omitted_through(self, experiment: str, offset: Offset) -> int:
        """Number of omissions that lie behind `offset` with all their entries."""
        return sum(Offset.parse(each.last) <= offset for each in self.omissions.get(experiment, ()))

    def omitted_before(self, experiment: str, offset: Offset) -> int:
        """Number of omissions that a fold at `offset` must have met."""
        return sum(Offset.parse(each.first) <= offset for each in self.omissions.get(experiment, ()))

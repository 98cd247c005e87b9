"""What is wrong now in one process: said in its log once, and in health, statistics and metrics while it lasts."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from msgspec import UNSET, Struct, UnsetType

log = logging.getLogger(__name__)


class Trouble(Struct, frozen=True):
    """`what` is a word for programs, such as `store_away` or `set_aside`; `detail` is a sentence for people."""

    what: str
    experiment: str | UnsetType = UNSET
    detail: str = ""


class Troubles:
    """Each is known by `what` it is and, where it is of one, by its experiment."""

    def __init__(self) -> None:
        self._now: dict[tuple[str, str | None], Trouble] = {}

    def __bool__(self) -> bool:
        return bool(self._now)

    def __iter__(self) -> Iterator[Trouble]:
        return iter(list(self._now.values()))

    def begin(
        self, what: str, detail: str, experiment: str | None = None, *, error: BaseException | None = None
    ) -> None:
        """Nothing new is logged where it has begun already, also where the detail is another now.

        `error` is what caused it, for the log.
        """
        if (what, experiment) not in self._now:
            where = "" if experiment is None else f" {experiment}:"
            log.error("degraded (%s):%s %s", what, where, detail, exc_info=error)
        self._now[what, experiment] = Trouble(what, experiment or UNSET, detail)

    def forget(self, experiment: str) -> None:
        """Ends all of an experiment that is no more."""
        for what, of in list(self._now):
            if of == experiment:
                self.end(what, of)

    def end(self, what: str, experiment: str | None = None) -> None:
        if self._now.pop((what, experiment), None) is not None:
            log.warning("no longer degraded (%s)%s", what, f": {experiment}" if experiment else "")

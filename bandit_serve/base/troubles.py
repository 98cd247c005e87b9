"""Troubles of one process: logged once when they begin, and shown in health, statistics and metrics while they last."""

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
    """The troubles of now, by their `what` and their experiment, if they have one."""

    def __init__(self) -> None:
        self._now: dict[tuple[str, str | None], Trouble] = {}

    def __bool__(self) -> bool:
        return bool(self._now)

    def __iter__(self) -> Iterator[Trouble]:
        return iter(list(self._now.values()))

    def begin(
        self, what: str, detail: str, experiment: str | None = None, *, error: BaseException | None = None
    ) -> None:
        """Begins a trouble, or updates its `detail`. Only the beginning is logged, with its cause `error`."""
        if (what, experiment) not in self._now:
            where = "" if experiment is None else f" {experiment}:"
            log.error("degraded (%s):%s %s", what, where, detail, exc_info=error)
        self._now[what, experiment] = Trouble(what, experiment or UNSET, detail)

    def forget(self, experiment: str) -> None:
        """Ends all troubles of an experiment that was deleted."""
        for what, of in list(self._now):
            if of == experiment:
                self.end(what, of)

    def end(self, what: str, experiment: str | None = None) -> None:
        """Ends a trouble and logs it; does nothing where there is none."""
        if self._now.pop((what, experiment), None) is not None:
            log.warning("no longer degraded (%s)%s", what, f": {experiment}" if experiment else "")

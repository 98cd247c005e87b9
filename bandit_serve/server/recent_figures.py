"""Recent figures of experiments: drawing takes longer than all else of a page, so it is done less often."""

from __future__ import annotations

import time
from collections.abc import Hashable
from typing import NamedTuple

from bandit_serve.dashboard.experiment_figures import ExperimentFigures
from bandit_serve.log.offset import Offset
from bandit_serve.results import ResultsHistory

FRESH_S = 3.0
"""For so long figures stand beside numbers that are newer."""
MAX_KEPT = 256


class DrawnFigures(NamedTuple):
    """Figures of an experiment with its results over time, at an offset of its log."""

    uid: int
    offset: Offset
    drawn_s: float
    history: ResultsHistory
    figures: ExperimentFigures


class RecentFigures:
    """Figures by the page that they are of, at most `MAX_KEPT`."""

    def __init__(self) -> None:
        self._kept: dict[Hashable, DrawnFigures] = {}

    def recent(self, page: Hashable, uid: int, offset: Offset) -> DrawnFigures | None:
        """Figures of the experiment `uid` that are of this offset, or at most `FRESH_S` old."""
        kept = self._kept.get(page)
        return None if kept is None or kept.uid != uid or _is_due(kept, offset) else kept

    def keep(
        self, page: Hashable, uid: int, offset: Offset, history: ResultsHistory, figures: ExperimentFigures
    ) -> None:
        self._kept.pop(page, None)
        self._kept[page] = DrawnFigures(uid, offset, time.monotonic(), history, figures)
        if len(self._kept) > MAX_KEPT:
            del self._kept[next(iter(self._kept))]

    def are_due(self, page: Hashable, offset: Offset) -> bool:
        """Whether figures that there are have to be drawn anew."""
        kept = self._kept.get(page)
        return kept is not None and _is_due(kept, offset)


def _is_due(kept: DrawnFigures, offset: Offset) -> bool:
    return kept.offset != offset and time.monotonic() - kept.drawn_s > FRESH_S

"""Results of each experiment from its log, up to the entries that the log has when somebody asks."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from msgspec import UNSET

from bandit_serve.base.clock import rfc3339
from bandit_serve.folds.experiment import LiveExperiment
from bandit_serve.folds.replica import Replica
from bandit_serve.log import events
from bandit_serve.log.fold import RESULTS_FOLD
from bandit_serve.log.offset import Offset
from bandit_serve.replication.second_folds import SecondFolds
from bandit_serve.results import ResultsFold, TimelineChange
from bandit_serve.store.store import Store

T = TypeVar("T")


class ResultsLog(SecondFolds[ResultsFold]):
    """Results folds of experiments."""

    def __init__(self, store: Store, replica: Replica) -> None:
        super().__init__(store, replica, "results", RESULTS_FOLD, ResultsFold, ResultsFold.from_state)

    async def up_to_now(self, live: LiveExperiment, read: Callable[[ResultsFold], T]) -> T:
        """Returns `read(fold)` when all entries that the log has now are folded, as `read` does.

        If a window has closed since the last entry, a tick is appended first, so that it counts.
        """
        return await self.read(live, await self.end_of(live), read)

    async def end_of(self, live: LiveExperiment) -> Offset:
        """Offset of the log's last entry, after a tick where a window has closed since."""
        end = await self._store.last_offset(live.owner)
        due_ms = live.next_close_ms()
        if due_ms is not None and max(due_ms, end.time_ms + 1) <= await self._store.time_ms():
            end = await self._store.append(live.owner, events.TICK, b"")
        return end


def changes_of(live: LiveExperiment) -> list[TimelineChange]:
    """All changes of an experiment, for what is shown of it over time."""
    return [
        TimelineChange(rfc3339(each.at_ms), each.what, each.who, each.arm or UNSET, each.reason or UNSET)
        for each in live.history
    ]

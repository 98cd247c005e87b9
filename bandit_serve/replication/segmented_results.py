"""Results by segment: of declared dimensions as they are kept, of other fields from the whole log, once when asked."""

from __future__ import annotations

import asyncio

import msgspec

from bandit_serve.base.turns import ThreadTurn
from bandit_serve.errors import Conflict, FieldError, InvalidInput, Overloaded, of_our_state
from bandit_serve.experiments.dimensions import dimension_fault, too_many_cells
from bandit_serve.experiments.spec import Experiment
from bandit_serve.folds.experiment import LiveExperiment
from bandit_serve.folds.replica import Replica
from bandit_serve.log import events
from bandit_serve.log.entry import Entry
from bandit_serve.log.events import Changed
from bandit_serve.log.offset import START, Offset
from bandit_serve.log.reader import event_of, pages
from bandit_serve.replication.current_tradeoff import current_tradeoff
from bandit_serve.replication.results_log import ResultsLog
from bandit_serve.results import Report, ResultsFold, report
from bandit_serve.results.segment_report import SegmentReport
from bandit_serve.store.store import Store

MAX_LOOKED_UP = 10_000_000
"""Decisions and rewards of a log that is folded again for one question."""
BUSY_S = 5.0


class SegmentedResults:
    """Reports with the results by a field. A field that was not declared is looked up by a fold of the log that is
    dropped again; one look-up at a time in a process.
    """

    def __init__(self, store: Store, replica: Replica, results: ResultsLog) -> None:
        self._store = store
        self._replica = replica
        self._results = results
        self._looking_up = asyncio.Lock()

    async def report(
        self, live: LiveExperiment, shares: dict[str, float], as_of_ms: int, field: str | None
    ) -> Report:
        """Report on all that the log has, by the segments of `field` where that is given.

        Raises `InvalidInput` for a field by which results can not be split; for one that was not declared `Conflict`
        where the log is not whole any more or too long, and `Overloaded` while there is another look-up.
        """
        made = await self._report(live, shares, as_of_ms, field)
        return msgspec.structs.replace(made, tradeoff=current_tradeoff(live, shares))

    async def _report(
        self, live: LiveExperiment, shares: dict[str, float], as_of_ms: int, field: str | None
    ) -> Report:
        record = live.record
        if field is None or field in (record.experiment.dimensions or ()):
            return await self._results.up_to_now(
                live, lambda fold: report(fold, record, shares, as_of_ms, by=field)
            )
        _require_field(record.experiment, field)
        if self._looking_up.locked():
            raise Overloaded(
                "Results are being looked up by another field; ask again when that is done.", BUSY_S
            )
        async with self._looking_up:
            await self._require_whole(live, field)
            whole, end = await self._results.up_to_now(
                live, lambda fold: (report(fold, record, shares, as_of_ms), fold.offset)
            )
            return msgspec.structs.replace(whole, segments=await self._look_up(live, field, end))

    async def _require_whole(self, live: LiveExperiment, field: str) -> None:
        if await self._store.trimmed(live.owner) > START:
            raise _trimmed(field)
        if int(live.exposures.sum() + live.rewards.sum()) > MAX_LOOKED_UP:
            raise Conflict(
                f"Results can not be looked up by {field}: there are more than {MAX_LOOKED_UP} decisions and rewards. "
                "Name it in dimensions before an experiment is started."
            )

    async def _look_up(self, live: LiveExperiment, field: str, end: Offset) -> SegmentReport:
        fold: ResultsFold | None = None
        with of_our_state(f"The log of {live.experiment.id}"):
            async for page in pages(self._store, live.owner, START, end):
                if page.gap is not None:
                    break
                fold = await asyncio.to_thread(self._apply, live, fold, page.entries, field)
            else:
                assert fold is not None
                looked_up = await asyncio.to_thread(report, fold, live.record, {}, end.time_ms, by=field)
                assert isinstance(looked_up.segments, SegmentReport)
                return looked_up.segments
        raise _trimmed(field)

    def _apply(
        self, live: LiveExperiment, fold: ResultsFold | None, entries: list[Entry], field: str
    ) -> ResultsFold:
        owner, repairs = live.owner, self._replica.registry.repairs
        if fold is None:
            first = events.decode(entries[0].kind, entries[0].data)
            assert isinstance(first, Changed)
            fold = ResultsFold(first.record, look_up=(field,))
        turn = ThreadTurn()
        for entry in entries:
            turn.give_way()
            fold.apply(entry.offset, event_of(entry, owner, repairs, fold.n_features))
        return fold


def _require_field(experiment: Experiment, field: str) -> None:
    fault = dimension_fault(experiment.context, field) or too_many_cells(
        experiment.context, [field], len(experiment.metrics), len(experiment.arms)
    )
    if fault is not None:
        raise InvalidInput(f"by: {fault}.", [FieldError("by", fault)])


def _trimmed(field: str) -> Conflict:
    return Conflict(
        f"Results can not be looked up by {field}: the first part of the experiment's log was trimmed. "
        "Name it in dimensions before an experiment is started."
    )

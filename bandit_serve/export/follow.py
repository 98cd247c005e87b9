"""Export that goes on: each decision is written once, when its window has closed, through crashes and restarts.

What is written is decided by the log alone. A *cut* is a log time T; behind it is every decision of whose window
T knows the end. The state of the last cut is a file, `_follow.json`, beside the parts:

1. the parts of the next cut are written under `_pending/`;
2. the state is replaced: from here on the cut is done, and names its pending parts;
3. they are given their names.

Whoever ends between 2 and 3 is followed by one that does 3 again. One that ends before 2 leaves files that nobody
names; they are removed, and the cut is made anew from the log, which is read behind the state's `resume`.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
from msgspec import Struct, structs
from numpy.typing import NDArray

from bandit_serve.errors import Conflict, UsageError
from bandit_serve.export.formats import Format
from bandit_serve.export.layout import Records
from bandit_serve.export.parts import ExportPart, Parts
from bandit_serve.export.places import Place
from bandit_serve.export.reading import LogReading, TimeSpan
from bandit_serve.export.rows import ExportRows
from bandit_serve.folds.experiment import LiveExperiment
from bandit_serve.log import events
from bandit_serve.log.offset import LAST_SEQUENCE, START, Offset
from bandit_serve.log.times import EARLY_REWARD_MS, LINGER_MS
from bandit_serve.node import Node

STATE, PENDING, LOCK = "_follow.json", "_pending", "_follow.lock"
MAX_ORPHANS = 100_000
"""Decisions that were written without their exposures and are remembered, in case those come."""
ALL = TimeSpan()


class FollowState(Struct, frozen=True, forbid_unknown_fields=True):
    """State of an export that goes on, as of its last cut.

    through_ms: T of that cut, in log time. resume: the log is read behind it. next: number of the next part.
    orphans: (time, worker, number) of decisions that were written without their exposures. pending: parts that have
    not got their names yet, each with that name.
    """

    uid: int
    experiment: str
    form: Format
    through_ms: int = 0
    resume: str = str(START)
    next: int = 0
    rows: int = 0
    orphans: list[tuple[int, str, int]] = []
    pending: list[tuple[str, str]] = []


class FollowingExport:
    """Export of one experiment to a folder, cut by cut."""

    def __init__(
        self, node: Node, live: LiveExperiment, place: Place, form: Format, span: TimeSpan = ALL
    ) -> None:
        self._node = node
        self._live = live
        self._place = place
        self._span = span
        self._scratch = Path()
        self._wait_ms = live.experiment.attribution.window_ms + EARLY_REWARD_MS
        self.state = FollowState(live.record.uid, live.experiment.id, form)

    async def start(self, *, overwrite: bool = False) -> None:
        """Takes up where the folder is, or begins one.

        Raises `UsageError` where there is something else, and `Conflict` where it is of another experiment or format,
        or another process follows there.
        """
        content = None if overwrite else self._place.read(STATE)
        if content is None and self._place.exists() and not overwrite:
            raise UsageError(
                "There is something at --out that no --follow has begun: name another, or add --overwrite."
            )
        if content is not None:
            self._place.claim(LOCK)
            self._take_up(content)
        self._scratch = self._place.scratch("following")
        if content is None:
            state = self._folder("begun") / STATE
            state.write_bytes(msgspec.json.encode(self.state))
            self._place.replace(state.parent, {STATE: state})
            self._place.claim(LOCK)
        self._reading = LogReading(self._live, self._folder("spool"), Offset.parse(self.state.resume))
        if self.state.through_ms:
            await self._reading.read(self._node, Offset(self.state.through_ms, LAST_SEQUENCE))
            for _ in self._reading.rows(self._horizon_ms(self.state.through_ms) + 1, ALL):
                pass  # They are in the parts that there are.

    def _take_up(self, content: bytes) -> None:
        try:
            found = msgspec.json.decode(content, type=FollowState)
        except msgspec.MsgspecError as error:
            raise Conflict(f"The file {STATE} at --out is not one of this build: {error}.") from None
        mine = (self.state.uid, self.state.form)
        if (found.uid, found.form) != mine:
            raise Conflict(
                f"The folder at --out follows {found.experiment!r} as {found.form}, and another experiment or format "
                "can not go on there."
            )
        self.state = found
        self._name_parts()
        self._place.remove(PENDING)

    def _folder(self, name: str) -> Path:
        folder = self._scratch / name
        folder.mkdir()
        return folder

    def _name_parts(self) -> None:
        for name, to in self.state.pending:
            self._place.move(name, to)

    def _horizon_ms(self, through_ms: int) -> int:
        """Latest time of decisions whose windows a log time knows the end of."""
        return through_ms - self._wait_ms

    async def cut(self) -> list[ExportPart]:
        """Writes what has closed by now; returns its parts, none where nothing has."""
        end = await self._end()
        through = Offset(end.time_ms - 1, LAST_SEQUENCE)
        # Entries of the last millisecond may still come.
        await self._reading.read(self._node, through)
        horizon_ms = self._horizon_ms(through.time_ms)
        first_ms = self._reading.spool.first_ms
        if through.time_ms <= self.state.through_ms or first_ms is None or first_ms > horizon_ms:
            return []
        parts = await asyncio.to_thread(self._write, horizon_ms)
        for part in parts:
            await asyncio.to_thread(self._place.put, part.path, f"{PENDING}/{part.path.name}")
        self._commit(through.time_ms, horizon_ms, parts)
        return parts

    async def _end(self) -> Offset:
        """Offset of the log's last entry. A tick is appended where time alone has closed a window."""
        store, owner = self._node.store, self._live.owner
        end = await store.last_offset(owner)
        await self._reading.read(self._node, Offset(end.time_ms - 1, LAST_SEQUENCE))
        first_ms = self._reading.spool.first_ms
        due_ms = None if first_ms is None else first_ms + self._wait_ms + 2
        if due_ms is not None and end.time_ms < due_ms <= await store.time_ms():
            end = await store.append(owner, events.TICK, b"")
        return end

    def _write(self, horizon_ms: int) -> list[ExportPart]:
        done: list[ExportPart] = []
        files = self._folder(f"files-{self.state.next}")
        experiment = self._reading.record.experiment
        parts = Parts(files, experiment, self.state.form, done.append, first=self.state.next)
        self._new_orphans: list[tuple[int, str, int]] = []
        for rows in self._unwritten(horizon_ms):
            parts.write(rows, experiment, 2**62)
        parts.close()
        return done

    def _unwritten(self, horizon_ms: int) -> Iterator[ExportRows]:
        """Rows of a cut: not those whose decision is in an earlier part, without its exposure."""
        former_ms = self._horizon_ms(self.state.through_ms) if self.state.through_ms else None
        known = {(worker, number) for _, worker, number in self.state.orphans}
        for rows in self._reading.rows(horizon_ms + 1, self._span):
            kept = np.ones(len(rows.decisions), np.bool_)
            if former_ms is not None:
                late = rows.decisions["time_ms"] <= former_ms
                kept &= ~late | (rows.exposed & ~_among(rows.decisions, known, late))
            chosen = rows if kept.all() else rows.those(kept)
            orphans = chosen.decisions[~chosen.exposed]
            self._new_orphans += zip(
                orphans["time_ms"].tolist(),
                [f"{worker:016x}" for worker in orphans["incarnation"].tolist()],
                orphans["counter"].tolist(),
                strict=True,
            )
            if len(chosen.decisions):
                yield chosen

    def _commit(self, through_ms: int, horizon_ms: int, parts: list[ExportPart]) -> None:
        remembered = [each for each in self.state.orphans if each[0] > horizon_ms - LINGER_MS]
        self.state = structs.replace(
            self.state,
            through_ms=through_ms,
            resume=str(self._reading.open_from(horizon_ms).former),
            next=self.state.next + len(parts),
            rows=self.state.rows + sum(part.rows for part in parts),
            orphans=[*remembered, *self._new_orphans][-MAX_ORPHANS:],
            pending=[(f"{PENDING}/{part.path.name}", part.name) for part in parts],
        )
        self._place.write(STATE, msgspec.json.encode(self.state))
        self._name_parts()

    @property
    def trimmed_ms(self) -> int | None:
        """Log time through which entries were gone before they were read; None where none were."""
        return self._reading.trimmed_ms

    @property
    def ended(self) -> bool:
        """Whether the experiment is gone, and with it its log."""
        return self._live.record.uid not in self._node.replica.by_uid

    def close(self) -> None:
        """Removes what was kept on this machine, and lets others follow."""
        self._place.release()
        if self._scratch != Path():
            shutil.rmtree(self._scratch, ignore_errors=True)


def _among(decisions: Records, known: set[tuple[str, int]], where: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Mask, bool (n,), of the decisions that are known, as far as `where` asks."""
    found = np.zeros(len(decisions), np.bool_)
    for i in np.flatnonzero(where).tolist() if known else ():
        found[i] = (f"{int(decisions['incarnation'][i]):016x}", int(decisions["counter"][i])) in known
    return found

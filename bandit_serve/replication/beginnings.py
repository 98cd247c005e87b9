"""Where the fold of an experiment's log begins, and what is known of one that can not be folded."""

from __future__ import annotations

import logging

from bandit_serve.base.known_fields import decode_known
from bandit_serve.errors import Unfoldable
from bandit_serve.experiments.spec import Record
from bandit_serve.folds.experiment import LiveExperiment
from bandit_serve.log import events
from bandit_serve.log.events import Changed
from bandit_serve.log.offset import START
from bandit_serve.log.repairs import Repairs
from bandit_serve.store.store import Store

log = logging.getLogger(__name__)

POLICY_FOLD = "policy"
READ_COUNT = 500


async def newest_state(store: Store, name: str, repairs: Repairs) -> LiveExperiment | None:
    """The state of the newest snapshot that can be used; None where the log is to be read from its first entry.

    `Unfoldable` where no snapshot can be used and the log has been trimmed.
    """
    trimmed = await store.trimmed(name)
    unusable: Exception | None = None
    for offset in reversed(await store.snapshot_offsets(name, POLICY_FOLD)):
        snapshot = await store.read_snapshot(name, POLICY_FOLD, offset) if offset >= trimmed else None
        if snapshot is None:
            continue
        if await store.find_lost([(name, offset)]):
            log.warning("the log of %s has lost what came before the snapshot at %s", name, offset)
            continue
        try:
            live = LiveExperiment.from_state(offset, snapshot.state)
        except Exception as error:  # whatever bytes that another build wrote, or somebody changed, can cause
            log.warning("the snapshot of %s at %s can not be used: %s", name, offset, error)
            unusable = unusable or error
            continue
        # One that was written before an entry was left out still has that entry in it.
        if live.omitted == repairs.omitted_before(name, offset):
            return live
    if trimmed > START:
        raise Unfoldable(
            f"The log of {name} is trimmed through {trimmed}, and no snapshot after that can be used."
        ) from unusable
    return None


async def newest_record(store: Store, name: str) -> Record | None:
    """The record of the last change in the log, or in a snapshot, that this build can read; None where it can none."""
    record, position = None, START
    for offset in reversed(await store.snapshot_offsets(name, POLICY_FOLD)):
        snapshot = await store.read_snapshot(name, POLICY_FOLD, offset)
        try:
            record = None if snapshot is None else LiveExperiment.record_in(snapshot.state)
        except Exception:  # whatever bytes can cause
            continue
        if record is not None:
            position = offset
            break
    while entries := await store.read(name, position, READ_COUNT):
        for entry in entries:
            if entry.kind == events.CHANGED:
                try:
                    record = decode_known(entry.data, Changed).whole(record).record
                except Exception:
                    continue
        position = entries[-1].offset
    return record

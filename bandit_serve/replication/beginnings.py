"""Beginnings of folds: the newest usable snapshot of an experiment, and the newest record of one that can not be
folded.
"""

from __future__ import annotations

import logging

from bandit_serve.base.known_fields import decode_known
from bandit_serve.errors import Unfoldable
from bandit_serve.experiments.spec import Record
from bandit_serve.folds.experiment import LiveExperiment
from bandit_serve.log import events
from bandit_serve.log.events import Changed
from bandit_serve.log.fold import POLICY_FOLD
from bandit_serve.log.offset import START
from bandit_serve.log.reader import pages
from bandit_serve.log.repairs import Repairs
from bandit_serve.store.store import Store

log = logging.getLogger(__name__)


async def newest_state(store: Store, owner: str, repairs: Repairs) -> LiveExperiment | None:
    """Loads the newest usable snapshot; None where the log has to be read from its first entry.

    Raises `Unfoldable` where no snapshot is usable and the log was trimmed.
    """
    trimmed = await store.trimmed(owner)
    unusable: Exception | None = None
    async for offset, state in store.newest_snapshots(owner, POLICY_FOLD, trimmed):
        if await store.find_lost([(owner, offset)]):
            log.warning("the log of %s has lost what came before the snapshot at %s", owner, offset)
            continue
        try:
            live = LiveExperiment.from_state(offset, state)
        except Exception as error:  # whatever bytes that another build wrote, or somebody changed, can cause
            log.warning("the snapshot of %s at %s can not be used: %s", owner, offset, error)
            unusable = unusable or error
            continue
        # One that was written before an entry was left out still has that entry in it.
        if live.omitted == repairs.omitted_before(owner, offset):
            return live
    if trimmed > START:
        raise Unfoldable(
            f"The log of {owner} is trimmed through {trimmed}, and no snapshot after that can be used."
        ) from unusable
    return None


async def newest_record(store: Store, owner: str) -> Record | None:
    """Finds the record of the last change that this build can read, in the log or a snapshot; None without one."""
    record, position = None, START
    async for offset, state in store.newest_snapshots(owner, POLICY_FOLD):
        try:
            record, position = LiveExperiment.record_in(state), offset
        except Exception:  # whatever bytes can cause
            continue
        break
    async for page in pages(store, owner, position):
        for entry in page.entries:
            if entry.kind == events.CHANGED:
                try:
                    record = decode_known(entry.data, Changed).whole(record).record
                except Exception:
                    continue
    return record

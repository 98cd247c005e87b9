"""Background writer of the newest snapshots into files of this host."""

from __future__ import annotations

import asyncio
import logging
import time

from bandit_serve.base.troubles import Troubles
from bandit_serve.errors import StoreUnavailable
from bandit_serve.folds.experiment import LiveExperiment
from bandit_serve.folds.replica import Replica
from bandit_serve.log.offset import Offset
from bandit_serve.replication.local_snapshots import LocalSnapshots
from bandit_serve.replication.tail import Tail
from bandit_serve.store.keys import COMMON
from bandit_serve.store.store import Store

log = logging.getLogger(__name__)

ROUND_S = 1.0
RETRY_AFTER_ERROR_S = 10.0
TROUBLE = "snapshot_files"


class LocalKeeper:
    """Runs in every worker, but only one on each host writes.

    Configuration reaches the files within seconds, evidence within `snapshot_every_s`.
    """

    def __init__(
        self,
        files: LocalSnapshots,
        store: Store,
        replica: Replica,
        tail: Tail,
        troubles: Troubles,
        *,
        snapshot_every_s: float,
    ) -> None:
        self._files = files
        self._store = store
        self._replica = replica
        self._tail = tail
        self._troubles = troubles
        self._snapshot_every_s = snapshot_every_s
        self._identity = b""
        self._token_keys: dict[int, bytes] = {}
        self._written: dict[str, tuple[int, Offset]] = {}
        self._next_s = 0.0
        self._moved: set[str] = set()
        replica.on_change(self._moved.add)

    async def run(self) -> None:
        """Writes until cancelled."""
        while True:
            await asyncio.sleep(ROUND_S)
            try:
                if self._tail.available and (
                    self._files.locked or await asyncio.to_thread(self._files.is_mine)
                ):
                    await self.keep()
                    self._troubles.end(TROUBLE)
            except StoreUnavailable:
                continue
            except OSError as error:
                self._troubles.begin(TROUBLE, f"The newest snapshots can not be written to files: {error}.")
                await asyncio.sleep(RETRY_AFTER_ERROR_S)

    async def keep(self) -> None:
        """Writes what is due. A worker that has not reached the store has nothing newer than the files."""
        identity = self._tail.identity
        if identity is None:
            return
        if identity != self._identity:
            self._identity, self._token_keys, self._written, self._next_s = identity, {}, {}, 0.0
        now_s = time.monotonic()
        all_due = now_s >= self._next_s
        if all_due:
            await self._keep_token_keys()
        await self._keep_registry()
        # Evidence alone is due with all others.
        due = list(self._replica.experiments if all_due else self._moved)
        for name in due:
            self._moved.discard(name)
            live = self._replica.experiments.get(name)
            if live is None:
                continue
            revision, offset = self._written.get(live.owner, (-1, None))
            if revision != live.record.revision or (all_due and offset != live.offset):
                try:
                    await self._keep_experiment(await self._replica.at_rest(name))
                except OSError:
                    self._moved.add(name)
                    raise
                except Exception:
                    # Logged once a revision; for its snapshot in the store, health reports that it is overdue.
                    self._written[live.owner] = live.record.revision, live.offset
                    log.exception("no file can be written of %s", name)
        if all_due:
            await asyncio.to_thread(self._files.sweep, list(self._replica.registry.experiments))
            # Only now: after an outage or a full disk, all is due again in the next round.
            self._next_s = now_s + self._snapshot_every_s

    async def _keep_token_keys(self) -> None:
        keys = await self._store.token_keys()
        if keys != self._token_keys:
            await asyncio.to_thread(self._files.write_token_keys, self._identity, keys)
            self._token_keys = keys

    async def _keep_registry(self) -> None:
        registry = self._replica.registry
        at = 0, registry.offset
        if self._written.get(COMMON) != at:
            await asyncio.to_thread(self._files.write, self._identity, COMMON, at[1], registry.state())
            self._written[COMMON] = at

    async def _keep_experiment(self, live: LiveExperiment) -> None:
        owner, at, pack = live.owner, (live.record.revision, live.offset), live.capture()
        await asyncio.to_thread(lambda: self._files.write(self._identity, owner, at[1], pack()))
        self._written[owner] = at

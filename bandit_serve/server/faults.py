"""Faults of the store, of logs that can not be folded, and of the disk, as the worker's troubles."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

from bandit_serve.base.troubles import Troubles
from bandit_serve.errors import StoreUnavailable
from bandit_serve.folds.replica import Replica
from bandit_serve.store.keys import COMMON
from bandit_serve.store.outages import Outages

log = logging.getLogger(__name__)

MIN_FREE_BYTES = 64 * 2**20
LOOK_EVERY_S = 1.0


class Faults:
    """Listeners that begin and end troubles: of the store, of experiments that are set aside, and of the disk."""

    def __init__(self, troubles: Troubles, replica: Replica, outages: Outages) -> None:
        self._troubles = troubles
        self._replica = replica
        self._outages: set[str] = set()
        outages.on_change(self._say_outages)

    @property
    def store_is_away(self) -> bool:
        return bool(self._outages)

    def listen(self) -> None:
        """Registers the listeners, and begins troubles for experiments that are set aside already."""
        self._replica.on_change(self._folded)
        self._replica.on_set_aside(self._set_aside)
        self._replica.on_deleted(lambda experiment, uid: self._troubles.forget(experiment))
        for name in self._replica.aside:
            self._set_aside(name)

    async def look_at_disk(self, directory: Path) -> None:
        """Checks regularly whether the disk has room for uploads."""
        while True:
            self._say_how_full(directory)
            await asyncio.sleep(LOOK_EVERY_S)

    def _say_outages(self, now: Sequence[StoreUnavailable]) -> None:
        begun = {error.what: str(error) for error in now}
        for what in self._outages - begun.keys():
            self._troubles.end(what)
        for what, detail in begun.items():
            self._troubles.begin(what, detail)
        if self._outages and not begun:
            log.warning("the store is back")
        self._outages = set(begun)

    def _folded(self, owner: str) -> None:
        if owner != COMMON:
            self._troubles.end("set_aside", owner)
            self._say_how_many_are_kept(owner)
        elif COMMON not in self._replica.aside:
            self._troubles.end("registry")

    def _say_how_many_are_kept(self, experiment: str) -> None:
        live = self._replica.experiments[experiment]
        if live.kept is None or not live.kept.missed:
            return
        if live.record.status == "stopped":
            self._troubles.end("kept_units_full", experiment)
            return
        detail = (
            f"{len(live.kept)} units keep their arms, and there is room for no more: "
            "those of others follow the shares."
        )
        self._troubles.begin("kept_units_full", detail, experiment)

    def _set_aside(self, owner: str, error: Exception | None = None) -> None:
        aside = self._replica.aside[owner]
        at = "" if aside.offset is None else f" at {aside.offset}"
        detail = f"{aside.reason}{at}; see bandit-serve repair {owner}."
        if aside.given_up:
            self._troubles.end("set_aside", owner)
        elif owner == COMMON:
            self._troubles.begin("registry", detail, error=error)
        else:
            self._troubles.begin("set_aside", detail, owner, error=error)

    def _say_how_full(self, directory: Path) -> None:
        try:
            free = shutil.disk_usage(directory).free
        except OSError:  # the directory has gone: uploads will say so
            return
        if free < MIN_FREE_BYTES:
            detail = f"The disk of the data directory has {free >> 20} MiB left: uploads may find no room."
            self._troubles.begin("disk_full", detail)
        else:
            self._troubles.end("disk_full")

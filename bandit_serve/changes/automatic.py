"""Changes that the service makes by itself: starts and ends by time or rule, and pauses of arms that do harm."""

from __future__ import annotations

import contextlib

import msgspec

from bandit_serve.base.clock import rfc3339
from bandit_serve.changes import layers
from bandit_serve.changes.changes import Changes
from bandit_serve.changes.experiments import ExperimentChanges, require_winner, with_status
from bandit_serve.errors import BanditServeError, Conflict, InvalidInput, NotFound
from bandit_serve.experiments.spec import Record
from bandit_serve.folds.experiment import LiveExperiment
from bandit_serve.folds.replica import Replica
from bandit_serve.log.events import Change, Changed
from bandit_serve.results.ending import Ending
from bandit_serve.store.store import Store


class AutomaticChanges:
    """Changes that were decided on a record, and are made only while that is the present one.

    So each is made once, whoever decides it at the same time, and none against what a person has just done. Methods
    return False where nothing was done, because the experiment has changed since.
    """

    def __init__(
        self, store: Store, replica: Replica, changes: Changes, experiments: ExperimentChanges
    ) -> None:
        self._store = store
        self._replica = replica
        self._changes = changes
        self._experiments = experiments

    async def start(self, record: Record) -> bool:
        """Starts a draft at its `start_at`. The arms' models are loaded first.

        Raises as a start by a person where one can not be loaded, and `Conflict` where the time to end has come, too.
        """
        starts_ms = record.experiment.stopping.starts_ms
        assert starts_ms is not None
        with_status(record, "start", "running", await self._store.time_ms())
        await self._experiments.load_all(record)
        change = Change(
            "start", "schedule", "The time to start had come.", evidence={"due": rfc3339(starts_ms)}
        )
        started = with_status(record, "start", "running", await self._store.time_ms())
        return await self._append(record, started, change)

    async def carry_out(self, record: Record, ending: Ending) -> bool:
        """Makes the change that was decided on `record`. A winner that is to be promoted, the lease holder promotes."""
        if ending.revision != record.revision:
            return False
        now_ms = await self._store.time_ms()
        change = Change(ending.what, ending.who, ending.reason, ending.arm, ending.evidence)
        if ending.arm is not None:
            return await self._append(record, _paused(record, ending.arm, ending.metrics, now_ms), change)
        winner = ending.winner
        if winner is not None:
            try:
                require_winner(record, winner, self._replica.registry)
            except (Conflict, InvalidInput, NotFound) as error:
                reason = f"{ending.reason} {winner} can not serve, so the experiment has no winner: {error}"
                winner, change = None, msgspec.structs.replace(change, reason=reason)
        stopped = with_status(record, "stop", "stopped", now_ms, winner)
        if winner is not None and not record.experiment.stopping.promote_winner:
            stopped = msgspec.structs.replace(stopped, unpromoted=True)
        if not await self._append(record, stopped, change):
            return False
        # It is stopped, whatever becomes of its layer. What it still has there is given back later.
        with contextlib.suppress(BanditServeError):
            await layers.leave_others(self._changes, self._replica, None, record.uid, change.who)
        return True

    async def _append(self, record: Record, changed: Record, change: Change) -> bool:
        name = record.experiment.id

        def decide(live: LiveExperiment) -> Changed:
            if live.record != record:
                raise _Outdated(f"The experiment {name!r} has changed since.")
            return Changed(changed, change)

        try:
            await self._changes.change_experiment(name, decide)
        except (_Outdated, NotFound):
            return False
        return True


class _Outdated(Conflict):
    """A change was decided on a record that is not the present one."""


def _paused(record: Record, arm: str, metrics: tuple[str, ...], now_ms: int) -> Record:
    k = record.experiment.arm_names.index(arm)
    standing = msgspec.structs.replace(record.standing(k), status="paused", harmed=metrics)
    return msgspec.structs.replace(
        record.with_standing(k, standing), revision=record.revision + 1, updated_ms=now_ms
    )

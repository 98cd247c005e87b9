"""What may be done to experiments, whoever asks: made, started, paused, stopped, given another policy."""

from __future__ import annotations

import secrets

import msgspec

from bandit_serve.errors import Conflict, FieldError, InvalidInput, NotFound
from bandit_serve.events import Change, Changed
from bandit_serve.experiment import Experiment, Policy, Record, Status, may, validated
from bandit_serve.live import LiveExperiment
from bandit_serve.log.changes import Changes
from bandit_serve.log.keeper import promote_winner
from bandit_serve.log.tail import Tail
from bandit_serve.models.loaded import LoadedModels
from bandit_serve.models.registry import SERVABLE, Registry
from bandit_serve.policies.serving import from_experiment
from bandit_serve.replica import Replica
from bandit_serve.store.store import Store


class ExperimentChanges:
    """Each returns the experiment as it is from then on.

    `who` and `reason` are for the history, `if_match` is the revision that the caller knows. `NotFound`,
    `Conflict` where the present state does not allow it, `PreconditionFailed`, `InvalidInput`.
    """

    def __init__(
        self, store: Store, replica: Replica, tail: Tail, changes: Changes, models: LoadedModels
    ) -> None:
        self._store = store
        self._replica = replica
        self._tail = tail
        self._changes = changes
        self._models = models

    async def known(self, name: str) -> LiveExperiment:
        """The experiment, as far as its log goes now; `NotFound`."""
        await self._tail.hear_news(name)
        return self._replica.experiment(name)

    async def create(self, experiment: Experiment, who: str) -> LiveExperiment:
        experiment = servable(experiment)
        await self._tail.hear_news(experiment.id)
        require_versions(experiment, self._replica.registry)
        now_ms = await self._store.time_ms()
        record = Record(
            experiment=experiment,
            uid=secrets.randbits(63) + 1,
            status="draft",
            revision=1,
            created_ms=now_ms,
            updated_ms=now_ms,
        )
        return await self._changes.create(Changed(record, Change("create", who)))

    async def start(
        self, name: str, who: str, *, reason: str | None = None, if_match: int | None = None
    ) -> LiveExperiment:
        """Loads the arms' models first: that one can not serve is better known before the first request."""
        live = await self.known(name)
        for arm in live.experiment.arms:
            if arm.model is not None and arm.version is not None:
                await self._models.load(self._replica.registry.version(arm.model, arm.version))
        return await self._move(name, "start", "running", who, reason, if_match)

    async def pause(
        self, name: str, who: str, *, reason: str | None = None, if_match: int | None = None
    ) -> LiveExperiment:
        await self.known(name)
        return await self._move(name, "pause", "paused", who, reason, if_match)

    async def stop(
        self,
        name: str,
        who: str,
        *,
        winner: str | None = None,
        reason: str | None = None,
        if_match: int | None = None,
    ) -> LiveExperiment:
        """For good. A winner with a model is promoted."""
        live = await self.known(name)
        if winner is not None:
            require_winner(live.experiment, winner, self._replica.registry)
        live = await self._move(name, "stop", "stopped", who, reason, if_match, winner)
        await promote_winner(self._changes, live.record)
        return live

    async def change_policy(
        self, name: str, policy: Policy, who: str, *, if_match: int | None = None
    ) -> LiveExperiment:
        await self.known(name)
        now_ms = await self._store.time_ms()

        def decide(live: LiveExperiment) -> Changed:
            record = live.record
            if record.status == "stopped":
                raise Conflict(f"The experiment {name!r} is stopped; its policy is final.")
            experiment = record.experiment.with_policy(policy)
            from_experiment(experiment)
            changed = msgspec.structs.replace(
                record, experiment=experiment, revision=record.revision + 1, updated_ms=now_ms
            )
            return Changed(changed, Change("policy", who))

        return await self._changes.experiment(name, decide, if_match)

    async def _move(
        self,
        name: str,
        move: str,
        to: Status,
        who: str,
        reason: str | None,
        if_match: int | None,
        winner: str | None = None,
    ) -> LiveExperiment:
        now_ms = await self._store.time_ms()

        def decide(live: LiveExperiment) -> Changed:
            record = live.record
            if not may(move, record.status):
                raise Conflict(f"The experiment {name!r} is {record.status}; it can not {move}.")
            changed = msgspec.structs.replace(
                record,
                status=to,
                revision=record.revision + 1,
                updated_ms=now_ms,
                started_ms=now_ms if move == "start" and record.started_ms is None else record.started_ms,
                stopped_ms=now_ms if move == "stop" else None,
                winner=winner,
            )
            return Changed(changed, Change(move, who, reason))

        return await self._changes.experiment(name, decide, if_match)


def servable(experiment: Experiment) -> Experiment:
    """The experiment with its defaults; `InvalidInput` or `NotBuilt` where no policy can serve it."""
    experiment = validated(experiment)
    from_experiment(experiment)
    return experiment


def require_versions(experiment: Experiment, registry: Registry) -> None:
    """`InvalidInput` that names every arm whose model or version is not registered."""
    errors = []
    for i, arm in enumerate(experiment.arms):
        if arm.model is not None and arm.version is not None:
            try:
                registry.version(arm.model, arm.version)
            except NotFound as error:
                errors.append(FieldError(f"arms[{i}].version", str(error).rstrip(".")))
    if errors:
        raise InvalidInput(f"{errors[0].at}: {errors[0].detail}.", errors)


def require_winner(experiment: Experiment, winner: str, registry: Registry) -> None:
    """`InvalidInput` unless `winner` is an arm, `Conflict` when its version can not be promoted."""
    if winner not in experiment.arm_names:
        detail = f"expected the name of an arm, not {winner!r}"
        raise InvalidInput(f"winner: {detail}.", [FieldError("winner", detail)])
    arm = experiment.arms[experiment.arm_names.index(winner)]
    if arm.model is not None and arm.version is not None:
        version = registry.version(arm.model, arm.version)
        if version.status not in SERVABLE:
            raise Conflict(
                f"The winner's version {arm.version!r} is {version.status} and can not be promoted."
            )

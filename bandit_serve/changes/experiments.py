"""Changes of experiments: creating, starting, pausing, stopping, deleting, and new policies, arms or shares of a layer.

A draft can also be replaced as a whole.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from bandit_serve.base.clock import rfc3339
from bandit_serve.base.mistakes import expected_one_of
from bandit_serve.base.validation import of_part
from bandit_serve.changes import layers
from bandit_serve.changes.changes import Changes, require_etag
from bandit_serve.changes.experiment_mistakes import ExperimentCheck, every_mistake, with_all
from bandit_serve.changes.promotion import promote_winner
from bandit_serve.errors import Conflict, FieldError, InvalidInput, LimitReached, NotFound
from bandit_serve.experiments.checks import (
    require_future,
    require_payloads,
    validated,
    with_arm,
    with_metric,
    with_policy,
)
from bandit_serve.experiments.layer import N_SLOTS, Layer
from bandit_serve.experiments.metric import Metric
from bandit_serve.experiments.policy import from_experiment, require_pseudo_means
from bandit_serve.experiments.policy_spec import PolicySpec
from bandit_serve.experiments.spec import (
    MAX_METRICS,
    Arm,
    ArmStatus,
    Experiment,
    Joined,
    Ramp,
    Record,
    Standing,
    Status,
    may,
)
from bandit_serve.folds.experiment import LiveExperiment
from bandit_serve.folds.replica import Replica
from bandit_serve.log.events import Change, Changed
from bandit_serve.log.offset import Offset
from bandit_serve.log.owner import name_of
from bandit_serve.registry.registry import SERVABLE, Registry
from bandit_serve.replication.tail import Tail
from bandit_serve.serving.loaded import LoadedModels
from bandit_serve.store.store import Store


class ExperimentChanges:
    """Changes of experiments. Each returns the experiment as it is after the change.

    `who` and `reason` go into the history; `if_match` is the ETag that the caller knows. Methods raise `NotFound`,
    `InvalidInput`, `PreconditionFailed`, and `Conflict` where the present state does not allow the change.
    """

    def __init__(
        self,
        store: Store,
        replica: Replica,
        tail: Tail,
        changes: Changes,
        models: LoadedModels,
        *,
        max_experiments: int | None = None,
    ) -> None:
        self._store = store
        self._replica = replica
        self._tail = tail
        self._changes = changes
        self._models = models
        self._max_experiments = max_experiments
        # Of many that come at once, each must count those before it.
        self._creating = contextlib.nullcontext() if max_experiments is None else asyncio.Lock()

    async def known(self, name: str) -> LiveExperiment:
        """Returns the experiment, up to date with its log; raises `NotFound`."""
        await self._tail.refresh(name)
        return self._replica.experiment(name)

    async def create(self, experiment: Experiment, who: str) -> LiveExperiment:
        """Creates an experiment as a draft. Raises `LimitReached` where there are as many as there may be."""
        async with self._creating:
            return await self._create(experiment, who)

    async def _create(self, experiment: Experiment, who: str) -> LiveExperiment:
        await self._tail.refresh(experiment.id)
        self._require_room()
        # Checking many payloads takes long, so it is done in a thread.
        now_ms = await self._store.time_ms()
        experiment = await asyncio.to_thread(servable, experiment, self._further(now_ms))
        self._changes.require_free(experiment.id)
        record = Record(
            experiment=experiment,
            uid=secrets.randbits(63) + 1,
            status="draft",
            revision=1,
            created_ms=now_ms,
            updated_ms=now_ms,
        )
        owner = self._replica.registry.owner(experiment.id)
        await layers.take(self._changes, layers.layer_of(record), owner, record.uid, who)
        async with layers.or_as_before(self._changes, self._replica, owner, record.uid, who):
            return await self._changes.create(Changed(record, Change("create", who)))

    def _require_room(self) -> None:
        most, n_experiments = self._max_experiments, len(self._replica.registry.experiments)
        if most is not None and n_experiments >= most:
            raise LimitReached(
                f"There are {n_experiments} experiments of {most} that there may be; delete one first.",
                "experiments",
            )

    def mistakes(self, name: str | None = None) -> Callable[[Any], list[FieldError]]:
        """Returns a function that lists the mistakes of a document. `name`: the id that the document must have."""
        return partial(every_mistake, further=self._further(self._store.clock.now_ms(), name))

    def _further(self, now_ms: int, name: str | None = None) -> tuple[ExperimentCheck, ...]:
        versions = partial(require_versions, registry=self._replica.registry)
        named = () if name is None else (partial(require_id, name),)
        return (require_payloads, versions, partial(require_future, now_ms), *named)

    async def put(
        self, name: str, experiment: Experiment, who: str, *, if_match: int | None = None
    ) -> LiveExperiment:
        """Replaces a draft by `experiment`, of the same name. Pauses and ramps of the old arms are gone.

        In another layer, or with another share, it has other slots.
        """
        live = await self.known(name)
        now_ms = await self._store.time_ms()
        experiment = await asyncio.to_thread(servable, experiment, self._further(now_ms, name))

        def decide(live: LiveExperiment) -> Changed:
            record = live.record
            if record.status != "draft":
                raise Conflict(f"The experiment {name!r} is {record.status}; only a draft can be replaced.")
            changed = msgspec.structs.replace(
                record,
                experiment=experiment,
                revision=record.revision + 1,
                updated_ms=now_ms,
                standings=(),
            )
            return Changed(changed, Change("put", who))

        return await self._change_layer(live, decide, who, if_match)

    async def change_layer(
        self,
        name: str,
        share: float,
        who: str,
        *,
        layer: str | None = None,
        reason: str | None = None,
        if_match: int | None = None,
    ) -> LiveExperiment:
        """Gives the experiment another share of its layer. Units that are in it stay as far as they have room.

        layer: the name of the layer, if the caller names it. A layer is left, or another one entered, only by a draft
        that is replaced.
        """
        require_share(share)
        live = await self.known(name)
        now_ms = await self._store.time_ms()

        def decide(live: LiveExperiment) -> Changed:
            record = live.record
            require_changeable(record, "its layer is left")
            present = record.experiment.layer
            if present is UNSET:
                raise Conflict(f"The experiment {name!r} is in no layer.")
            if layer is not None and layer != present.name:
                detail = f"expected {present.name!r}: an experiment stays in its layer"
                raise InvalidInput(f"name: {detail}.", [FieldError("name", detail)])
            experiment = msgspec.structs.replace(record.experiment, layer=Layer(present.name, share))
            changed = msgspec.structs.replace(
                record, experiment=experiment, revision=record.revision + 1, updated_ms=now_ms
            )
            return Changed(changed, Change("layer", who, reason))

        return await self._change_layer(live, decide, who, if_match)

    async def _change_layer(
        self,
        live: LiveExperiment,
        decide: Callable[[LiveExperiment], Changed],
        who: str,
        if_match: int | None,
    ) -> LiveExperiment:
        """Changes an experiment whose layer may be another one afterwards: what it needs of that is taken first."""
        require_etag(live, if_match)
        owner, uid = live.owner, live.record.uid
        before, after = layers.layer_of(live.record), layers.layer_of(decide(live).record)
        if before is None and after is None:
            return await self._changes.change_experiment(live.experiment.id, decide, if_match)
        await layers.take(self._changes, layers.taken_first(before, after), owner, uid, who)
        async with layers.or_as_before(self._changes, self._replica, owner, uid, who):
            live = await self._changes.change_experiment(live.experiment.id, decide, if_match)
        await layers.keep_only(self._changes, self._replica, layers.layer_of(live.record), owner, uid, who)
        return live

    async def delete(
        self, name: str, who: str, *, reason: str | None = None, if_match: int | None = None
    ) -> None:
        """Deletes for good an experiment that is a draft, stopped or given up. Its name is free again.

        A draft is stopped first, so that nobody can start it meanwhile.
        """
        await self._tail.refresh(name)
        # Delete this experiment, not one that is created under its name meanwhile.
        owner = self._replica.registry.owner(name)
        aside = self._replica.aside.get(name)
        if aside is None or not aside.given_up:
            live = self._replica.experiment(name)
            require_etag(live, if_match)
            if live.record.status != "stopped":
                live = await self._end_draft(owner, who, reason, if_match)
            # A pending promotion of its winner is not lost.
            with contextlib.suppress(NotFound, Conflict):
                await promote_winner(self._changes, live.record)
        await self._changes.delete(owner, who, reason)

    async def _end_draft(
        self, owner: str, who: str, reason: str | None, if_match: int | None
    ) -> LiveExperiment:
        name, now_ms = name_of(owner), await self._store.time_ms()

        def decide(live: LiveExperiment) -> Changed:
            record = live.record
            if live.owner != owner:
                raise NotFound(f"The experiment {name!r} was deleted and created again meanwhile.")
            if record.status not in ("draft", "stopped"):
                raise Conflict(f"The experiment {name!r} is {record.status}; stop it before it is deleted.")
            ended = msgspec.structs.replace(
                record,
                status="stopped",
                revision=record.revision + 1,
                updated_ms=now_ms,
                stopped_ms=record.stopped_ms or now_ms,
            )
            return Changed(ended, Change("delete", who, reason))

        return await self._changes.change_experiment(name, decide, if_match)

    async def start(
        self, name: str, who: str, *, reason: str | None = None, if_match: int | None = None
    ) -> LiveExperiment:
        """Starts the experiment. The arms' models are loaded first, so a broken one fails here and not in a request."""
        live = await self.known(name)
        await self.load_all(live.record)
        return await self._set_status(name, "start", "running", who, reason, if_match)

    async def pause(
        self, name: str, who: str, *, reason: str | None = None, if_match: int | None = None
    ) -> LiveExperiment:
        """Pauses the experiment: everyone gets control, and nothing is logged."""
        await self.known(name)
        return await self._set_status(name, "pause", "paused", who, reason, if_match)

    async def stop(
        self,
        name: str,
        who: str,
        *,
        winner: str | None = None,
        reason: str | None = None,
        if_match: int | None = None,
    ) -> LiveExperiment:
        """Stops the experiment for good. If a `winner` is named and has a model, that version is promoted."""
        live = await self.known(name)
        if winner is not None:
            require_winner(live.record, winner, self._replica.registry)
        live = await self._set_status(name, "stop", "stopped", who, reason, if_match, winner)
        await promote_winner(self._changes, live.record)
        await layers.leave_others(self._changes, self._replica, None, live.record.uid, who)
        return live

    async def change_policy(
        self,
        name: str,
        policy: PolicySpec,
        who: str,
        *,
        reason: str | None = None,
        if_match: int | None = None,
    ) -> LiveExperiment:
        """Gives the experiment another policy, which takes over what was learned as far as it can."""
        decide = await self._with_policy(name, policy, who, reason)
        return await self._changes.change_experiment(name, decide, if_match)

    async def shares_with(self, name: str, policy: PolicySpec) -> dict[str, float]:
        """Shares by arm that another policy would begin with, by what was learned; nothing is changed.

        Raises what `change_policy` would.
        """
        decide = await self._with_policy(name, policy, "preview", None)
        live, now_ms = self._replica.experiment(name), await self._store.time_ms()
        changed = msgspec.structs.replace(decide(live).record, status="running")
        event, offset, state = Changed(changed, Change("policy", "preview")), live.offset, live.capture()

        def shares() -> list[float]:
            copy = LiveExperiment.from_state(offset, state())
            copy.apply(Offset(max(now_ms, offset.time_ms + 1), 0), event)
            return [float(share) for share in copy.current_shares(copy.offset.time_ms)]

        return dict(zip(changed.experiment.arm_names, await asyncio.to_thread(shares), strict=True))

    async def _with_policy(
        self, name: str, policy: PolicySpec, who: str, reason: str | None
    ) -> Callable[[LiveExperiment], Changed]:
        """Makes the change to another policy. Errors that do not depend on the revision are raised at once."""
        with of_part("policy"):
            servable(msgspec.structs.replace((await self.known(name)).experiment, policy=policy))
        now_ms = await self._store.time_ms()

        def decide(live: LiveExperiment) -> Changed:
            record = live.record
            if record.status == "stopped":
                raise Conflict(f"The experiment {name!r} is stopped; its policy is final.")
            with of_part("policy"):
                experiment = with_policy(record.experiment, policy)
                servable(experiment)
            changed = msgspec.structs.replace(
                record, experiment=experiment, revision=record.revision + 1, updated_ms=now_ms
            )
            return Changed(changed, Change("policy", who, reason))

        return decide

    async def add_arm(
        self,
        name: str,
        arm: Arm,
        who: str,
        *,
        ramp: Ramp | None = None,
        held: float | UnsetType = UNSET,
        guardrails: Sequence[Metric] = (),
        reason: str | None = None,
        if_match: int | None = None,
    ) -> LiveExperiment:
        """Adds an arm after the others. Its model is loaded first; with a `ramp` its share rises from now on.

        held: most that its share may be until `hold_arm`. `guardrails` are metrics that are added with it, in the same
        change.
        """
        await self.known(name)
        now_ms = await self._store.time_ms()

        def added(record: Record) -> Record:
            require_changeable(record)
            require_no_horizon(record)
            if arm.name in record.experiment.arm_names:
                raise Conflict(
                    f"The experiment {name!r} has or had an arm {arm.name!r}; names of arms are not reused."
                )
            with of_part(f"arms[{len(record.experiment.arms)}]"):
                experiment = with_arm(record.experiment, arm)
                if arm.payload is not None:
                    require_payloads(experiment)
                from_experiment(experiment)
            require_version(arm, "version", self._replica.registry)
            since_ms = None if record.status == "draft" or ramp is None else now_ms
            standing = Standing(ramp=ramp, ramp_since_ms=since_ms, held=held)
            record = msgspec.structs.replace(record, experiment=experiment)
            record = record.with_standing(len(experiment.arms) - 1, standing)
            for guardrail in guardrails:
                record = _with_metric(record, guardrail, now_ms)
            return record

        added(self._replica.experiment(name).record)
        await self._load(arm)
        return await self._change_record(
            name, added, Change("add_arm", who, reason, arm.name), now_ms, if_match
        )

    async def add_metric(
        self, name: str, metric: Metric, who: str, *, reason: str | None = None, if_match: int | None = None
    ) -> LiveExperiment:
        """Adds a metric after the others. Once the experiment has started, decisions from now on are analysed on it."""
        await self.known(name)
        now_ms = await self._store.time_ms()

        def added(record: Record) -> Record:
            return _with_metric(record, metric, now_ms)

        added(self._replica.experiment(name).record)
        change = Change("add_metric", who, reason, metric=metric.name)
        return await self._change_record(name, added, change, now_ms, if_match)

    async def remove_arm(
        self, name: str, arm: str, who: str, *, reason: str | None = None, if_match: int | None = None
    ) -> LiveExperiment:
        """Removes an arm: it is never drawn again, but rewards of its decisions still count."""
        return await self._set_arm_status(
            name, arm, "removed", Change("remove_arm", who, reason, arm), if_match
        )

    async def pause_arm(
        self, name: str, arm: str, who: str, *, reason: str | None = None, if_match: int | None = None
    ) -> LiveExperiment:
        """Pauses an arm: it is not drawn until it is resumed."""
        return await self._set_arm_status(
            name, arm, "paused", Change("pause_arm", who, reason, arm), if_match
        )

    async def resume_arm(
        self, name: str, arm: str, who: str, *, reason: str | None = None, if_match: int | None = None
    ) -> LiveExperiment:
        """Resumes a paused arm. Its model is loaded first.

        Where guardrails have paused it, that needs a reason, and they do not pause it again.
        """
        live = await self.known(name)
        paused = live.experiment.arms[_index(live.record, arm)]
        if live.record.arm_statuses[arm] == "paused":
            await self._load(paused)
        return await self._set_arm_status(
            name, arm, "active", Change("resume_arm", who, reason, arm), if_match
        )

    async def hold_arm(
        self, name: str, arm: str, share: float | UnsetType, who: str, *, reason: str | None = None
    ) -> LiveExperiment:
        """Bounds an arm's share until it is held otherwise; UNSET takes the bound away."""
        _index((await self.known(name)).record, arm)
        now_ms = await self._store.time_ms()

        def held(record: Record) -> Record:
            require_changeable(record)
            k = _index(record, arm)
            standing = record.standing(k)
            if standing.status == "removed" or standing.held == share:
                raise Conflict(f"The arm {arm!r} of {name!r} is removed, or held there already.")
            return record.with_standing(k, msgspec.structs.replace(standing, held=share))

        return await self._change_record(name, held, Change("hold_arm", who, reason, arm), now_ms, None)

    async def _set_arm_status(
        self, name: str, arm: str, to: ArmStatus, change: Change, if_match: int | None
    ) -> LiveExperiment:
        _index((await self.known(name)).record, arm)
        now_ms = await self._store.time_ms()

        def changed(record: Record) -> Record:
            require_changeable(record)
            k = _index(record, arm)
            standing = record.standing(k)
            if to != "active" and k == record.experiment.control_arm:
                raise Conflict(
                    f"The arm {arm!r} is control, which the others are compared with; it has to stay."
                )
            if standing.status == "removed" or standing.status == to:
                raise Conflict(f"The arm {arm!r} of {name!r} is {standing.status} already.")
            if to == "active" and standing.harmed is not UNSET:
                standing = _overridden(standing, arm, change.reason)
            return record.with_standing(k, msgspec.structs.replace(standing, status=to))

        return await self._change_record(name, changed, change, now_ms, if_match)

    async def _change_record(
        self,
        name: str,
        changed: Callable[[Record], Record],
        change: Change,
        now_ms: int,
        if_match: int | None,
    ) -> LiveExperiment:
        def decide(live: LiveExperiment) -> Changed:
            record = changed(live.record)
            return Changed(
                msgspec.structs.replace(record, revision=record.revision + 1, updated_ms=now_ms), change
            )

        return await self._changes.change_experiment(name, decide, if_match)

    async def load_all(self, record: Record) -> None:
        """Loads the models of the arms that were not removed."""
        statuses = record.arm_statuses
        for arm in record.experiment.arms:
            if statuses[arm.name] != "removed":
                await self._load(arm)

    async def _load(self, arm: Arm) -> None:
        if arm.model is not None and arm.version is not None:
            await self._models.load(self._replica.registry.version(arm.model, arm.version))

    async def _set_status(
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
            return Changed(with_status(record, move, to, now_ms, winner), Change(move, who, reason))

        return await self._changes.change_experiment(name, decide, if_match)


def _with_metric(record: Record, metric: Metric, now_ms: int) -> Record:
    """Record with one more metric, which joins at `now_ms` where the experiment has started."""
    experiment = record.experiment
    name = experiment.id
    if record.status == "stopped":
        raise Conflict(f"The experiment {name!r} is stopped; its metrics are final.")
    if any(known.name == metric.name for known in experiment.metrics):
        raise Conflict(f"The experiment {name!r} has a metric {metric.name!r} already.")
    if len(experiment.metrics) == MAX_METRICS:
        raise Conflict(f"The experiment {name!r} has {MAX_METRICS} metrics already, and no room for more.")
    changed = msgspec.structs.replace(record, experiment=with_metric(experiment, metric))
    if record.started_ms is None:
        return changed
    _require_room_for_metrics(experiment)
    former = () if record.joined is UNSET else record.joined
    return msgspec.structs.replace(changed, joined=(*former, Joined(metric.name, now_ms)))


def _require_room_for_metrics(experiment: Experiment) -> None:
    """Raises `Conflict` where what is kept of the metrics was laid out at the start."""
    laid_out = {
        "commits to its looks": experiment.stopping.horizon,
        "interleaves": experiment.interleaves,
    }
    for why, holds in laid_out.items():
        if holds:
            raise Conflict(
                f"The experiment {experiment.id!r} {why}; its metrics are final once it has started."
            )


def servable(experiment: Experiment, further: Sequence[ExperimentCheck] = ()) -> Experiment:
    """Returns the experiment with its defaults filled in.

    Raises `InvalidInput` with every mistake for which it can not be served, `further` checks included.
    """
    try:
        checked = validated(experiment)
        for check in (from_experiment, require_pseudo_means, *further):
            check(checked)
    except InvalidInput as error:
        raise with_all(error, experiment, further) from None
    return checked


def require_id(name: str, experiment: Experiment) -> None:
    """Raises `InvalidInput` unless the experiment's id is `name`."""
    if experiment.id != name:
        detail = f"expected {name!r}, as in the path: an experiment keeps its name"
        raise InvalidInput(f"id: {detail}.", [FieldError("id", detail)])


def require_versions(experiment: Experiment, registry: Registry) -> None:
    """Raises `InvalidInput` that names every arm whose model or version is not registered."""
    errors: list[FieldError] = []
    for i, arm in enumerate(experiment.arms):
        try:
            require_version(arm, f"arms[{i}].version", registry)
        except InvalidInput as error:
            errors += error.errors
    if errors:
        raise InvalidInput(f"{errors[0].at}: {errors[0].detail}.", errors)


def require_version(arm: Arm, at: str, registry: Registry) -> None:
    """Raises `InvalidInput` that names the field `at` when the arm's model or version is not registered."""
    if arm.model is not None and arm.version is not None:
        try:
            registry.version(arm.model, arm.version)
        except NotFound as error:
            detail = str(error).rstrip(".")
            raise InvalidInput(f"{at}: {detail}.", [FieldError(at, detail)]) from None


def require_changeable(record: Record, why: str = "its arms are final") -> None:
    """Raises `Conflict` where the experiment is stopped; `why` ends its sentence."""
    if record.status == "stopped":
        raise Conflict(f"The experiment {record.experiment.id!r} is stopped; {why}.")


def require_no_horizon(record: Record) -> None:
    """Raises `Conflict` where the experiment is on its way to an end that its arms were planned for."""
    if record.experiment.stopping.horizon and record.status != "draft":
        raise Conflict(
            f"The experiment {record.experiment.id!r} is on its way to a fixed end, for the arms that it has: "
            "another one needs an experiment of its own."
        )


def require_share(share: float) -> None:
    """Raises `InvalidInput` for what is no share of a layer, NaN included, which types let pass."""
    if not 1.0 / N_SLOTS <= share <= 1.0:
        detail = f"expected a number from {1.0 / N_SLOTS:g} to 1"
        raise InvalidInput(f"share: {detail}.", [FieldError("share", detail)])


def require_winner(record: Record, winner: str, registry: Registry) -> None:
    """Raises `InvalidInput` unless `winner` is an arm that was not removed, `Conflict` if it can not be promoted."""
    experiment = record.experiment
    status = record.arm_statuses.get(winner, "removed")
    if status == "removed":
        there = [arm for arm, status in record.arm_statuses.items() if status != "removed"]
        detail = f"{expected_one_of(winner, there)}, not {winner!r}"
        if winner in experiment.arm_names:
            detail = f"expected an arm that was not removed, and {winner!r} was removed"
        raise InvalidInput(f"winner: {detail}.", [FieldError("winner", detail)])
    arm = experiment.arms[experiment.arm_names.index(winner)]
    if arm.model is not None and arm.version is not None:
        version = registry.version(arm.model, arm.version)
        if version.status not in SERVABLE:
            raise Conflict(
                f"The winner's version {arm.version!r} is {version.status} and can not be promoted."
            )


def _index(record: Record, arm: str) -> int:
    try:
        return record.experiment.arm_names.index(arm)
    except ValueError:
        raise NotFound(f"The experiment {record.experiment.id!r} has no arm {arm[:128]!r}.") from None


def with_status(record: Record, move: str, to: Status, now_ms: int, winner: str | None = None) -> Record:
    """Record after a move (`may`) at `now_ms`, Unix time. Raises `Conflict` for a start after the time of its end."""
    started_ms = now_ms if move == "start" and record.started_ms is None else record.started_ms
    ends_ms = record.experiment.stopping.ends_ms(started_ms)
    if move == "start" and ends_ms is not None and ends_ms <= now_ms:
        raise Conflict(f"The experiment {record.experiment.id!r} was to end at {rfc3339(ends_ms)}.")
    changed = msgspec.structs.replace(
        record,
        status=to,
        revision=record.revision + 1,
        updated_ms=now_ms,
        started_ms=started_ms,
        stopped_ms=now_ms if move == "stop" else None,
        winner=winner,
    )
    return _ramps_begin(changed, now_ms) if move == "start" and record.started_ms is None else changed


def _overridden(standing: Standing, arm: str, reason: str | None) -> Standing:
    """Standing of an arm that is resumed in spite of the guardrails that paused it, for a reason."""
    harmed = () if standing.harmed is UNSET else standing.harmed
    if not reason or not reason.strip():
        detail = f"a reason is needed, as {' and '.join(harmed)} paused the arm {arm!r}"
        raise InvalidInput(f"reason: {detail}.", [FieldError("reason", detail)])
    former = () if standing.overridden is UNSET else standing.overridden
    overridden = tuple(dict.fromkeys((*former, *harmed)))
    return msgspec.structs.replace(standing, harmed=UNSET, overridden=overridden)


def _ramps_begin(record: Record, now_ms: int) -> Record:
    """Begins the ramps of arms that were added to the draft, now that it starts."""
    standings = tuple(
        standing if standing.ramp is None else msgspec.structs.replace(standing, ramp_since_ms=now_ms)
        for standing in record.standings
    )
    return msgspec.structs.replace(record, standings=standings)

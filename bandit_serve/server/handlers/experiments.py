"""Experiments: made, changed, read."""

from __future__ import annotations

import secrets
from typing import Annotated

import msgspec
from aiohttp import web
from msgspec import Meta, Struct

from bandit_serve.errors import Conflict, FieldError, InvalidInput, NotBuilt, NotFound
from bandit_serve.events import Change, Changed
from bandit_serve.experiment import Experiment, Policy, Record, Status, may, validated
from bandit_serve.live import HistoryEntry, LiveExperiment
from bandit_serve.log.keeper import promote_winner
from bandit_serve.models.registry import SERVABLE, Registry
from bandit_serve.names import Name
from bandit_serve.policies.serving import from_experiment
from bandit_serve.results import report
from bandit_serve.server.service import Service
from bandit_serve.server.times import rfc3339
from bandit_serve.server.wire import Body, actor, answer, revision

Reason = Annotated[str, Meta(max_length=1_000)]


class ReasonRequest(Struct, frozen=True, forbid_unknown_fields=True):
    reason: Reason | None = None


class StopRequest(Struct, frozen=True, forbid_unknown_fields=True):
    winner: Name | None = None
    reason: Reason | None = None


class ExperimentView(Experiment, frozen=True, kw_only=True):
    """The experiment and where it stands."""

    status: Status
    revision: int
    created_at: str
    updated_at: str
    started_at: str | None
    stopped_at: str | None
    winner: str | None


class ExperimentList(Struct, frozen=True):
    experiments: list[ExperimentView]


class HistoryView(Struct, frozen=True):
    revision: int
    at: str
    who: str
    what: str
    status: str
    policy: str
    reason: str | None


class History(Struct, frozen=True):
    history: list[HistoryView]


def view(record: Record) -> ExperimentView:
    experiment = record.experiment
    fields = {name: getattr(experiment, name) for name in Experiment.__struct_fields__}
    return ExperimentView(
        **fields,
        status=record.status,
        revision=record.revision,
        created_at=rfc3339(record.created_ms),
        updated_at=rfc3339(record.updated_ms),
        started_at=None if record.started_ms is None else rfc3339(record.started_ms),
        stopped_at=None if record.stopped_ms is None else rfc3339(record.stopped_ms),
        winner=record.winner,
    )


def _history(entry: HistoryEntry) -> HistoryView:
    return HistoryView(
        entry.revision, rfc3339(entry.at_ms), entry.who, entry.what, entry.status, entry.policy, entry.reason
    )


class ExperimentHandlers:
    def __init__(self, service: Service) -> None:
        timeout_s = service.settings.seconds("body_timeout")
        self._service = service
        self._experiment = Body(Experiment, timeout_s=timeout_s)
        self._policy = Body(Policy, timeout_s=timeout_s)
        self._reason = Body(ReasonRequest, timeout_s=timeout_s, optional=True)
        self._stop = Body(StopRequest, timeout_s=timeout_s, optional=True)

    async def create(self, request: web.Request) -> web.Response:
        experiment = validated(await self._experiment.read(request))
        from_experiment(experiment)
        await self._service.tail.hear_news(experiment.id)
        _require_versions(experiment, self._service.replica.registry)
        now_ms = await self._service.store.time_ms()
        record = Record(
            experiment=experiment,
            uid=secrets.randbits(63) + 1,
            status="draft",
            revision=1,
            created_ms=now_ms,
            updated_ms=now_ms,
        )
        live = await self._service.changes.create(Changed(record, Change("create", actor(request))))
        return self._answer(request, live, status=201)

    async def list_all(self, request: web.Request) -> web.Response:
        await self._service.tail.hear_all_news()
        experiments = self._service.replica.experiments
        return answer(
            request, ExperimentList([view(experiments[name].record) for name in sorted(experiments)])
        )

    async def show(self, request: web.Request) -> web.Response:
        return self._answer(request, await self._known(request))

    async def history(self, request: web.Request) -> web.Response:
        live = await self._known(request)
        return answer(request, History([_history(entry) for entry in live.history]))

    async def results(self, request: web.Request) -> web.Response:
        live = await self._known(request)
        service = self._service
        fold = await service.results.up_to_now(live)
        decider = service.decisions.decider(live.experiment.id)
        shares = dict(zip(decider.arm_names, decider.draw.propensities, strict=True))
        return answer(request, report(fold, live.record, shares, await service.store.time_ms()))

    async def start(self, request: web.Request) -> web.Response:
        wish = await self._reason.read(request)
        live = await self._known(request)
        await self._load_models(live.experiment)
        return await self._move(request, "start", "running", wish.reason)

    async def pause(self, request: web.Request) -> web.Response:
        wish = await self._reason.read(request)
        return await self._move(request, "pause", "paused", wish.reason)

    async def stop(self, request: web.Request) -> web.Response:
        wish = await self._stop.read(request)
        live = await self._known(request)
        if wish.winner is not None:
            self._require_winner(live.experiment, wish.winner)
        answered = await self._move(request, "stop", "stopped", wish.reason, winner=wish.winner)
        await promote_winner(self._service.changes, live.record)
        return answered

    async def change_policy(self, request: web.Request) -> web.Response:
        policy = await self._policy.read(request)
        name = request.match_info["experiment"]
        await self._known(request)
        now_ms = await self._service.store.time_ms()

        def decide(live: LiveExperiment) -> Changed:
            record = live.record
            if record.status == "stopped":
                raise Conflict(f"The experiment {name!r} is stopped; its policy is final.")
            experiment = record.experiment.with_policy(policy)
            from_experiment(experiment)
            changed = msgspec.structs.replace(
                record, experiment=experiment, revision=record.revision + 1, updated_ms=now_ms
            )
            return Changed(changed, Change("policy", actor(request)))

        live = await self._service.changes.experiment(name, decide, revision(request))
        return self._answer(request, live)

    async def not_built(self, request: web.Request) -> web.Response:
        raise NotBuilt(f"{request.method} {request.path} is part of the contract but not built yet.")

    async def _move(
        self, request: web.Request, move: str, to: Status, reason: str | None, winner: str | None = None
    ) -> web.Response:
        name = request.match_info["experiment"]
        await self._known(request)
        now_ms = await self._service.store.time_ms()

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
            return Changed(changed, Change(move, actor(request), reason))

        live = await self._service.changes.experiment(name, decide, revision(request))
        return self._answer(request, live)

    async def _known(self, request: web.Request) -> LiveExperiment:
        name = request.match_info["experiment"]
        await self._service.tail.hear_news(name)
        return self._service.replica.experiment(name)

    async def _load_models(self, experiment: Experiment) -> None:
        """`Conflict` where an arm's model can not serve: better now than with the first request."""
        registry = self._service.replica.registry
        for arm in experiment.arms:
            if arm.model is not None and arm.version is not None:
                await self._service.models.load(registry.version(arm.model, arm.version))

    def _require_winner(self, experiment: Experiment, winner: str) -> None:
        if winner not in experiment.arm_names:
            detail = f"expected the name of an arm, not {winner!r}"
            raise InvalidInput(f"winner: {detail}.", [FieldError("winner", detail)])
        arm = experiment.arms[experiment.arm_names.index(winner)]
        if arm.model is not None and arm.version is not None:
            version = self._service.replica.registry.version(arm.model, arm.version)
            if version.status not in SERVABLE:
                raise Conflict(
                    f"The winner's version {arm.version!r} is {version.status} and can not be promoted."
                )

    def _answer(self, request: web.Request, live: LiveExperiment, status: int = 200) -> web.Response:
        return answer(request, view(live.record), status, live.record.revision)


def _require_versions(experiment: Experiment, registry: Registry) -> None:
    errors = []
    for i, arm in enumerate(experiment.arms):
        if arm.model is not None and arm.version is not None:
            try:
                registry.version(arm.model, arm.version)
            except NotFound as error:
                errors.append(FieldError(f"arms[{i}].version", str(error).rstrip(".")))
    if errors:
        raise InvalidInput(f"{errors[0].at}: {errors[0].detail}.", errors)

"""Routes of experiments: creation, changes, views and results."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated

from aiohttp import web
from msgspec import Meta, Struct

from bandit_serve.api.views import experiment_view, history_view, known_experiments, view_of
from bandit_serve.base.filled import Filled
from bandit_serve.base.names import Name
from bandit_serve.changes.experiment_mistakes import mistakes_of_policy
from bandit_serve.experiments.layer import LayerShare
from bandit_serve.experiments.metric import Metric
from bandit_serve.experiments.named_metric import filled_experiment, filled_metric
from bandit_serve.experiments.policy_spec import PolicySpec
from bandit_serve.experiments.spec import Arm, Experiment, Ramp
from bandit_serve.folds.experiment import LiveExperiment
from bandit_serve.replication.results_log import changes_of
from bandit_serve.results import ResultsHistory, Timeline, results_history, timeline
from bandit_serve.results.history import MAX_POINTS
from bandit_serve.results.over_time import TIMELINE_POINTS
from bandit_serve.server.page import count_of, page
from bandit_serve.server.service import Service
from bandit_serve.server.wire import Body, Pairs, actor, answer, answer_in_turns, revision

Reason = Annotated[str, Meta(max_length=1_000)]
Points = Annotated[int, Meta(ge=1, le=MAX_POINTS)]


class ReasonRequest(Struct, frozen=True, forbid_unknown_fields=True):
    reason: Reason | None = None


class StopRequest(Struct, frozen=True, forbid_unknown_fields=True):
    winner: Name | None = None
    reason: Reason | None = None


class LayerRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """Another share of the layer that the experiment is in; `name` is that layer's, if it is given."""

    share: LayerShare
    name: Name | None = None
    reason: Reason | None = None


class ArmRequest(Arm, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An arm to be added. With `ramp` its share is capped at first."""

    ramp: Ramp | None = None
    reason: Reason | None = None

    @property
    def arm(self) -> Arm:
        return Arm(**{name: getattr(self, name) for name in Arm.__struct_fields__})


class MetricRequest(Metric, frozen=True, forbid_unknown_fields=True, kw_only=True, dict=True):
    """A metric to be added."""

    reason: Reason | None = None

    @property
    def metric(self) -> Metric:
        return Metric(**{name: getattr(self, name) for name in Metric.__struct_fields__})


class ExperimentHandlers:
    def __init__(self, service: Service) -> None:
        timeout_s = service.settings.seconds("body_timeout")
        self._service = service
        self._changes = service.node.experiment_changes
        self._definitions = service.node.definition_changes.definitions
        self._experiment = Body(Experiment, timeout_s=timeout_s)
        self._policy = Body(PolicySpec, timeout_s=timeout_s)
        self._reason = Body(ReasonRequest, timeout_s=timeout_s, optional=True)
        self._arm = Body(ArmRequest, timeout_s=timeout_s)
        self._layer = Body(LayerRequest, timeout_s=timeout_s)
        self._metric = Body(MetricRequest, timeout_s=timeout_s)
        self._stop = Body(StopRequest, timeout_s=timeout_s, optional=True)

    async def create(self, request: web.Request) -> web.Response:
        experiment = await self._experiment.read(request, self._changes.mistakes(), self._with_catalogue)
        return _answer(request, await self._changes.create(experiment, actor(request)), status=201)

    async def list_all(self, request: web.Request) -> web.Response:
        await self._service.node.tail.refresh_all()
        replica = self._service.node.replica
        names, after = page(request, known_experiments(replica))
        fields = {"experiments": (view_of(replica, name) for name in names), **after}
        return await answer_in_turns(request, fields, "ask for fewer with ?limit=")

    async def show(self, request: web.Request) -> web.Response:
        await self._service.node.tail.refresh(_name(request))
        replica = self._service.node.replica
        view = view_of(replica, _name(request))
        live = replica.experiments.get(view.id)
        return answer(request, view, etag=view.revision if live is None else live.etag)

    async def history(self, request: web.Request) -> web.Response:
        live = await self._changes.known(_name(request))
        return await answer_in_turns(
            request, {"history": map(history_view, list(live.history))}, "it is too long"
        )

    async def results(self, request: web.Request) -> web.Response:
        live = await self._changes.known(_name(request))
        service = self._service
        decider = service.decisions.decider(live.experiment.id)
        shares = dict(zip(decider.arm_names, decider.shares.tolist(), strict=True))
        as_of_ms, by = await service.node.store.time_ms(), request.query.get("by")
        results = await service.node.segmented_results.report(live, shares, as_of_ms, by)
        return answer(request, results)

    async def results_history(self, request: web.Request) -> web.Response:
        points = count_of(request, "points", MAX_POINTS) or MAX_POINTS
        live = await self._changes.known(_name(request))
        history = await self._service.node.results.up_to_now(live, lambda fold: results_history(fold, points))
        return await _by_arm(request, history)

    async def timeline(self, request: web.Request) -> web.Response:
        points = count_of(request, "points", MAX_POINTS) or TIMELINE_POINTS
        live = await self._changes.known(_name(request))
        changes = changes_of(live)
        line = await self._service.node.results.up_to_now(live, lambda fold: timeline(fold, changes, points))
        return await _by_arm(request, line)

    async def start(self, request: web.Request) -> web.Response:
        asked = await self._reason.read(request)
        live = await self._changes.start(
            _name(request), actor(request), reason=asked.reason, if_match=revision(request)
        )
        return _answer(request, live)

    async def pause(self, request: web.Request) -> web.Response:
        asked = await self._reason.read(request)
        live = await self._changes.pause(
            _name(request), actor(request), reason=asked.reason, if_match=revision(request)
        )
        return _answer(request, live)

    async def stop(self, request: web.Request) -> web.Response:
        asked = await self._stop.read(request)
        live = await self._changes.stop(
            _name(request),
            actor(request),
            winner=asked.winner,
            reason=asked.reason,
            if_match=revision(request),
        )
        return _answer(request, live)

    async def put(self, request: web.Request) -> web.Response:
        name, if_match = _name(request), revision(request)
        experiment = await self._experiment.read(request, self._changes.mistakes(name), self._with_catalogue)
        return _answer(request, await self._changes.put(name, experiment, actor(request), if_match=if_match))

    async def delete(self, request: web.Request) -> web.Response:
        asked = await self._reason.read(request)
        await self._changes.delete(
            _name(request), actor(request), reason=asked.reason, if_match=revision(request)
        )
        return web.Response(status=204)

    async def change_policy(self, request: web.Request) -> web.Response:
        policy = await self._policy.read(request, mistakes_of_policy)
        live = await self._changes.change_policy(
            _name(request), policy, actor(request), if_match=revision(request)
        )
        return _answer(request, live)

    async def change_layer(self, request: web.Request) -> web.Response:
        asked = await self._layer.read(request)
        live = await self._changes.change_layer(
            _name(request),
            asked.share,
            actor(request),
            layer=asked.name,
            reason=asked.reason,
            if_match=revision(request),
        )
        return _answer(request, live)

    async def add_arm(self, request: web.Request) -> web.Response:
        asked = await self._arm.read(request)
        live = await self._changes.add_arm(
            _name(request),
            asked.arm,
            actor(request),
            ramp=asked.ramp,
            reason=asked.reason,
            if_match=revision(request),
        )
        return _answer(request, live)

    async def add_metric(self, request: web.Request) -> web.Response:
        asked = await self._metric.read(request, fill=self._with_definition)
        live = await self._changes.add_metric(
            _name(request), asked.metric, actor(request), reason=asked.reason, if_match=revision(request)
        )
        return _answer(request, live)

    def _with_catalogue(self, body: bytes) -> Filled:
        return filled_experiment(body, self._definitions())

    def _with_definition(self, body: bytes) -> Filled:
        return filled_metric(body, self._definitions())

    async def remove_arm(self, request: web.Request) -> web.Response:
        return await self._change_arm(request, self._changes.remove_arm)

    async def pause_arm(self, request: web.Request) -> web.Response:
        return await self._change_arm(request, self._changes.pause_arm)

    async def resume_arm(self, request: web.Request) -> web.Response:
        return await self._change_arm(request, self._changes.resume_arm)

    async def _change_arm(
        self, request: web.Request, change: Callable[..., Awaitable[LiveExperiment]]
    ) -> web.Response:
        asked = await self._reason.read(request)
        arm, if_match = request.match_info["arm"], revision(request)
        live = await change(_name(request), arm, actor(request), reason=asked.reason, if_match=if_match)
        return _answer(request, live)


async def _by_arm(request: web.Request, over_time: ResultsHistory | Timeline) -> web.Response:
    """Answer with what is known over time, encoded arm by arm."""
    fields = {name: getattr(over_time, name) for name in over_time.__struct_fields__}
    fields["arms"] = Pairs(iter(over_time.arms.items()))
    return await answer_in_turns(request, fields, "ask for fewer with ?points=")


def _name(request: web.Request) -> str:
    return request.match_info["experiment"]


def _answer(request: web.Request, live: LiveExperiment, status: int = 200) -> web.Response:
    return answer(request, experiment_view(live.record), status, live.etag)
